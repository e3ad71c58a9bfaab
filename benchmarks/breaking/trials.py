"""The outcome of each trial, kept as JSON lines so that the campaign can run in pieces, and the page made from them."""

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from enum import StrEnum
from pathlib import Path

from harveyseg.files import write_text


class Outcome(StrEnum):
    """How a trial ended."""

    SURVIVED = "survived"
    """In the bytes of an undisturbed run, or in a sentence that names cause and remedy."""
    LOST = "lost"
    """Work, a run or a result cannot be had back."""
    WRONG = "silently wrong"
    """Without a word in other results."""
    UNCLEAR = "unclear"
    """Nothing is lost, but what was said does not help: a traceback, or no sentence."""


@dataclass(frozen=True)
class Trial:
    """One fault and what came of it."""

    part: str
    """The heading on the page."""
    fault: str
    """The row of the table; trials of one fault are counted together."""
    outcome: Outcome
    detail: str = ""
    """What went wrong, or a measurement."""
    slowed: float | None = None
    """Seconds by which the fault delayed a training; None where that was not measured."""
    day: str = field(default_factory=lambda: str(date.today()))
    at: float = field(default_factory=time.time)


def judge(problems: Sequence[str], otherwise: Outcome = Outcome.WRONG) -> tuple[Outcome, str]:
    """The outcome and the detail: survived where there are no problems."""
    return (otherwise, "; ".join(problems)[:500]) if problems else (Outcome.SURVIVED, "")


def append(path: Path, trials: Iterable[Trial]) -> None:
    """Add trials to the file, each a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as opened:
        opened.writelines(json.dumps(asdict(trial)) + "\n" for trial in trials)


def read(path: Path) -> list[Trial]:
    """All trials of the file; none where it is absent."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    return [Trial(**{**(values := json.loads(line)), "outcome": Outcome(values["outcome"])}) for line in lines]


def drop(path: Path, part: str) -> None:
    """Forget the trials of a part, which were made with code that has changed since."""
    kept = [trial for trial in read(path) if trial.part != part]
    write_text(path, "".join(json.dumps(asdict(trial)) + "\n" for trial in kept))


def tables(trials: Sequence[Trial]) -> str:
    """A Markdown table for each part."""
    sections = []
    for part in dict.fromkeys(trial.part for trial in trials):
        rows = [trial for trial in trials if trial.part == part]
        slowed = any(trial.slowed is not None for trial in rows)
        head = ["fault", "tried", "survived", "lost", "silently wrong", *(["slowed by at most"] if slowed else [])]
        lines = [f"## {part}\n", f"| {' | '.join(head)} |", f"|:---|{'---:|' * (len(head) - 1)}"]
        lines += [
            _row(fault, [trial for trial in rows if trial.fault == fault], slowed)
            for fault in dict.fromkeys(trial.fault for trial in rows)
        ]
        sections.append("\n".join(lines) + "\n")
    return "\n".join(sections)


def total(trials: Sequence[Trial]) -> str:
    """One line with all counts."""
    counts = {outcome: sum(trial.outcome == outcome for trial in trials) for outcome in Outcome}
    days = sorted({trial.day for trial in trials})
    return (
        f"**{len(trials)} faults tried, {counts[Outcome.SURVIVED]} survived, {counts[Outcome.LOST]} lost, "
        f"{counts[Outcome.WRONG]} silently wrong** ({' to '.join(dict.fromkeys((days[0], days[-1])))})."
    )


def _row(fault: str, trials: Sequence[Trial], slowed: bool) -> str:
    counts = [sum(trial.outcome == outcome for trial in trials) for outcome in Outcome if outcome != Outcome.UNCLEAR]
    cells = [fault, str(len(trials)), *map(str, counts)]
    if slowed:
        seconds = [trial.slowed for trial in trials if trial.slowed is not None]
        cells.append(f"{max(seconds):.1f} s" if seconds else "")
    return f"| {' | '.join(cells)} |"
