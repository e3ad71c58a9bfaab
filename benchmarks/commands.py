"""Seconds that commands which only look take, with the code of two checkouts: `harveyseg status` and `table`.

    .venv/bin/python benchmarks/commands.py OTHER_CHECKOUT --project FINISHED_PROJECT [--rounds 5]

In every round each command runs once with the other checkout's code and once with this one's, in turns, so that a busy
machine slows both alike. A first round that is not counted compiles and reads all files.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from harveyseg.project import library_versions

COMMANDS = ("status", "table")
HERE = Path(__file__).resolve().parents[1]
RUN = "from harveyseg.cli import app; app()"


@dataclass(frozen=True)
class Seconds:
    """What a command took."""

    wall: float
    cpu: float
    """Of all its processes."""


def main() -> None:
    """Alternate both checkouts, print medians and the median of the ratios of pairs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path)
    parser.add_argument("--project", type=Path, default=Path())
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    codes = {"other": arguments.other.resolve(), "this": HERE}
    taken: dict[tuple[str, str], list[Seconds]] = {(command, code): [] for command in COMMANDS for code in codes}
    for number in range(arguments.rounds + 1):
        for command in COMMANDS:
            for code, checkout in codes.items():
                seconds = _run(command, checkout, arguments.project)
                if number:
                    taken[command, code].append(seconds)
    print(f"{date.today()}, {os.cpu_count()} CPUs, {arguments.rounds} pairs of each command")
    print(", ".join(f"{name} {version}" for name, version in library_versions().items()), end="\n\n")
    print("| | other: wall, CPU | this: wall, CPU | CPU, each pair: other / this | wall | CPU |")
    print("|---|---:|---:|---|---:|---:|")
    for command in COMMANDS:
        pairs = list(zip(taken[command, "other"], taken[command, "this"], strict=True))
        ratios = [other.cpu / this.cpu for other, this in pairs]
        wall = statistics.median(other.wall / this.wall for other, this in pairs)
        cells = [_medians(taken[command, code]) for code in codes]
        each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        print(f"| {command} | {' | '.join(cells)} | {each} | {wall:.2f} | {statistics.median(ratios):.2f} |")


def _run(command: str, checkout: Path, project: Path) -> Seconds:
    environment = {**os.environ, "PYTHONPATH": str(checkout / "src")}
    before, started = os.times(), time.perf_counter()
    subprocess.run([sys.executable, "-c", RUN, command], cwd=project, env=environment, capture_output=True, check=True)
    wall, after = time.perf_counter() - started, os.times()
    return Seconds(wall, after.children_user + after.children_system - before.children_user - before.children_system)


def _medians(values: list[Seconds]) -> str:
    return ", ".join(f"{statistics.median(getattr(value, name) for value in values):.1f} s" for name in ("wall", "cpu"))


if __name__ == "__main__":
    main()
