"""One line for each item that runs: how far its training is, or the last line that it printed."""

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from harveyseg.progress import format_duration

_SECONDS_BETWEEN_QUESTIONS = 5.0
_TAIL = 4096
"""Bytes from the end of a log in which its last line is looked for."""


class ItemsView:
    """A table on a terminal, drawn again and again; elsewhere one line where an item begins or ends.

    Args:
        logs: the file that each item's output goes to, by item; it need not exist yet, or may be on another machine.
        progress: asked now and then how far the trainings are, by item; where it does not know an item, the last line
            of its log is shown.
    """

    def __init__(self, logs: Mapping[str, Path], progress: Callable[[], Mapping[str, object]] = dict) -> None:
        self._logs = logs
        self._progress = progress
        self._asked = -_SECONDS_BETWEEN_QUESTIONS
        self._known: Mapping[str, object] = {}
        self._began: dict[str, float] = {}
        self._ended: dict[str, str] = {}
        self._console = Console(stderr=True)
        self._live = Live(console=self._console, auto_refresh=False) if self._console.is_terminal else None

    def __enter__(self) -> Self:
        """Begin to draw."""
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Draw the last state, and leave it there."""
        if self._live is not None:
            self.refresh()
            self._live.stop()

    def finish(self, item: str, reason: str) -> None:
        """Note that an item has ended.

        Args:
            item: its name.
            reason: why it failed; empty if it did not.
        """
        took = f" in {format_duration(time.monotonic() - self._began[item])}" if item in self._began else ""
        self._ended[item] = f"failed: {reason}" if reason else f"done{took}"
        self._say(item, self._ended[item])

    def refresh(self) -> None:
        """Look at the logs, and draw."""
        for item, log in self._logs.items():
            if item not in self._began and log.exists():
                self._began[item] = time.monotonic()
                self._say(item, last_line(log))
        if self._live is not None:
            if time.monotonic() - self._asked >= _SECONDS_BETWEEN_QUESTIONS:
                self._known = self._progress()
                self._asked = time.monotonic()
            self._live.update(self._table(), refresh=True)

    def _say(self, item: str, text: str) -> None:
        if self._live is None:
            print(f"{item}: {text}", file=sys.stderr, flush=True)

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for item, log in self._logs.items():
            if item in self._ended:
                table.add_row(item, self._ended[item])
            elif item in self._known:
                table.add_row(item, str(self._known[item]))
            elif item in self._began:
                table.add_row(item, last_line(log))
            else:
                table.add_row(item, "waits for a free machine")
        return table


def last_line(log: Path) -> str:
    r"""The last line of a file that says something; empty if there is none.

    >>> import tempfile
    >>> log = Path(tempfile.mkdtemp()) / "log"
    >>> _ = log.write_text("epoch 1/3\nepoch 2/3\n\n")
    >>> last_line(log)
    'epoch 2/3'
    """
    with log.open("rb") as opened:
        opened.seek(max(0, log.stat().st_size - _TAIL))
        lines = [line.strip() for line in opened.read().decode("utf-8", errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), "")
