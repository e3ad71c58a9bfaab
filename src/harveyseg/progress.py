"""Progress of long steps: one bar with rate and time left on a terminal, at most a line in ten seconds elsewhere.

tqdm draws the bar, as it does for DVC. Where stderr is no terminal, but a file or a pipe, the same numbers are logged
in lines without control characters. Both appear where the package's messages of level INFO do: in commands and stages,
not in programs that import the package.
"""

import logging
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from harveyseg.errors import HarveysegError

if TYPE_CHECKING:
    from tqdm import tqdm

T = TypeVar("T")

BYTES = "B"
"""The unit of which 1,000 are a kB."""
SECONDS = "s"
"""The unit of a step that only waits, which has no rate."""

_BETWEEN_LINES = 10.0
"""Seconds, unless the environment variable ``HARVEYSEG_PROGRESS_SECONDS`` is set."""
_BAR = "{desc}: {percentage:3.0f}%|{bar}| {figures}{postfix}"

logger = logging.getLogger(__name__)


class Progress:
    """A long step, in a ``with`` block.

    A step that begins inside another one stays silent, so that there is one bar at a time.

    Example:
        >>> with Progress("resizing photos", total=2) as progress:
        ...     progress.add()
        ...     progress.add(note="the last one")
        >>> progress.describe(seconds=4)
        'resizing photos: 2/2 photos, 0.5 photos/s, 00:00 left, the last one'

    Args:
        title: what is done.
        total: how many units there are; None if unknown.
        unit: in the plural; :data:`BYTES` and :data:`SECONDS` are special.
        done: units that an earlier process did, which say nothing of this one's rate.
    """

    _shown: ClassVar["Progress | None"] = None
    _last_line: ClassVar[float] = 0.0

    def __init__(self, title: str, total: float | None, unit: str = "photos", done: float = 0) -> None:
        self._title = title
        self._total = total
        self._unit = unit
        self._initial = self._done = done
        self._note = ""
        self._started = time.monotonic()
        self._bar: tqdm[Any] | None = None

    def __enter__(self) -> Self:
        """Show it, unless another step is shown."""
        if Progress._shown is None and logger.isEnabledFor(logging.INFO):
            Progress._shown = self
            self._started = time.monotonic()
            if is_terminal():
                self._bar = _draw_bar(self._title, self._total, self._unit, self._initial)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Take the bar off the screen."""
        if Progress._shown is self:
            Progress._shown = None
            if self._bar is not None:
                self._bar.close()

    def add(self, amount: float = 1, note: str = "") -> None:
        """Count what has been done; ``note`` stays at the end until there is another one."""
        self.reach(self._done + amount, self._total, note)

    def reach(self, done: float, total: float | None, note: str = "") -> None:
        """Say how many units are done, of how many: what is known of a download changes while it runs."""
        amount = done - self._done
        self._done, self._total = done, total
        self._note = note or self._note
        if self._bar is not None:
            self._bar.total = total
            self._bar.set_postfix_str(self._note, refresh=False)
            self._bar.update(amount)
        elif Progress._shown is self:
            now = time.monotonic()
            if now - max(self._started, Progress._last_line) >= _between_lines():
                Progress._last_line = now
                logger.info("%s", self.describe(now - self._started))

    def each(self, items: Iterable[T]) -> Iterator[T]:
        """Count each item as done when the next one is asked for."""
        for item in items:
            yield item
            self.add()

    def describe(self, seconds: float) -> str:
        """One line after so many seconds."""
        figures = _figures(self._done, self._total, self._unit, self._initial, seconds)
        return f"{self._title}: {figures}" + (f", {self._note}" if self._note else "")


def track(items: Iterable[T], title: str, total: int | None = None, unit: str = "photos") -> Iterator[T]:
    """Go through items and show how many are done.

    Args:
        items: what to go through.
        title: what is done with them.
        total: how many there are; ``len(items)`` if None, where there is one.
        unit: what an item is, in the plural.
    """
    with Progress(title, len(items) if total is None and isinstance(items, Sized) else total, unit) as progress:
        yield from progress.each(items)


def cleared() -> AbstractContextManager[None]:
    """In this ``with`` block the bar is off the screen, so that a message gets a line of its own."""
    shown = Progress._shown
    return nullcontext() if shown is None or shown._bar is None else shown._bar.external_write_mode(file=sys.stderr)


def format_duration(seconds: float) -> str:
    """A time that has passed, for people.

    >>> [format_duration(seconds) for seconds in (0.04, 9.96, 75.2, 3_720)]
    ['0.0 s', '10 s', '1 min 15 s', '1 h 02 min']
    """
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def is_terminal() -> bool:
    """Whether stderr is a screen whose present line can be written again."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def _between_lines() -> float:
    text = os.environ.get("HARVEYSEG_PROGRESS_SECONDS", "")
    try:
        return float(text) if text else _BETWEEN_LINES
    except ValueError:
        raise HarveysegError(f"HARVEYSEG_PROGRESS_SECONDS = {text!r}: not a number of seconds. Correct it.") from None


def _draw_bar(title: str, total: float | None, unit: str, done: float) -> "tqdm[Any]":
    from tqdm import tqdm

    class Bar(tqdm):  # type: ignore[misc]
        monitor_interval = 0  # no thread of its own, which a worker process that is forked could meet in the middle

        @property
        def format_dict(self) -> dict[str, Any]:
            values: dict[str, Any] = super().format_dict
            return values | {"figures": _figures(self.n, self.total, unit, self.initial, values["elapsed"])}

    Bar.set_lock(threading.RLock())  # of processes by default, which cannot share a bar anyway
    return Bar(
        total=total,
        initial=done,
        desc=title,
        file=sys.stderr,
        leave=False,
        dynamic_ncols=True,
        miniters=1,
        bar_format=_BAR,
    )


def _figures(done: float, total: float | None, unit: str, initial: float, seconds: float) -> str:
    """What is done of how much, how fast, and the time left.

    The rate is the mean of all: a training's steps and its validations take turns.
    """
    from tqdm import tqdm

    rate = (done - initial) / seconds if seconds > 0 else 0
    left = "?" if total is None or not rate else tqdm.format_interval(max(0, total - done) / rate)
    if unit == BYTES:
        amounts = [tqdm.format_sizeof(value, BYTES) for value in (done, total, rate) if value is not None]
        return f"{'/'.join(amounts[:-1])}, {amounts[-1]}/s, {left} left"
    amount = "/".join(_count(value) for value in (done, total) if value is not None) + f" {unit}"
    if unit == SECONDS:
        return f"{amount}, {left} left"
    speed = f"{format_duration(1 / rate)} each" if 0 < rate < 0.1 else f"{rate:.3g} {unit}/s"
    return f"{amount}, {speed}, {left} left"


def _count(value: float) -> str:
    """A number of units, with decimals where parts of few ones matter."""
    return f"{value:.0f}" if value >= 10 or value == int(value) else f"{value:.2g}"
