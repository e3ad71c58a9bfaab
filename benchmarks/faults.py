"""Break things on purpose, count what survives, and write docs/reliability.md.

    PYTHONPATH=tests .venv/bin/python benchmarks/faults.py PART [--trials N] [--stage STAGE] [--again] [--work FOLDER]
    PYTHONPATH=tests .venv/bin/python benchmarks/faults.py page

Each call adds its trials to benchmarks/results/faults.jsonl, so the campaign can run in pieces; `--again` drops the
part's earlier ones. Run it as root on Linux: full disks and read-only folders are real mounts.
"""

import argparse
import itertools
import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import oldest
from breaking import disks, inputs, kills, tampering, trackers, trials
from breaking.trials import Trial
from breaking.workspace import Reference
from harveyseg.files import write_text

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "faults.jsonl"
PAGE = ROOT / "docs" / "reliability.md"

_Part = tuple[str, Callable[[Reference, Path], Iterator[Trial]]]


def _kill(reference: Reference, work: Path) -> Iterator[Trial]:
    while True:
        project = reference.start(work / "killed")
        yield from kills.run_chain(reference, project, kills.plan(reference, random.randrange(2**32)))


def _kill_in_stage(reference: Reference, work: Path, stage: str) -> Iterator[Trial]:
    while True:
        yield from kills.run_chain_in_stage(reference, work / "killed", stage)


def _twice(reference: Reference, work: Path) -> Iterator[Trial]:
    while True:
        yield kills.run_twice_at_once(reference, work / "twice")


def _inputs(reference: Reference, work: Path) -> Iterator[Trial]:
    return inputs.make(start=random.randrange(2**31))


PARTS: dict[str, _Part] = {
    "kills": (kills.PART, _kill),
    "twice": (kills.TWO_PART, _twice),
    "server": (trackers.SERVER_PART, trackers.break_server),
    "server-disk": (trackers.FULL_PART, trackers.fill_servers_disk),
    "database": (trackers.DATABASE_PART, trackers.lock_database),
    "disk": (disks.FULL_PART, disks.fill),
    "disk-stages": (disks.FULL_STAGE_PART, disks.fill_each_stage),
    "read-only": (disks.READ_ONLY_PART, disks.forbid),
    "tampering": (tampering.PART, tampering.tamper),
    "inputs": (inputs.PART, _inputs),
}
"""For each PART of the command line its heading on the page, and its trials without end."""


STAGE_PARTS: dict[str, Callable[[Reference, Path, str], Iterator[Trial]]] = {
    "kills": _kill_in_stage,
    "read-only": disks.forbid,
}
"""The parts that can be made of one stage alone, as for a new one."""


def main() -> None:
    """Run a part, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=(*PARTS, "page"))
    parser.add_argument("--trials", type=int, default=10, help="how many to make")
    parser.add_argument("--stage", help=f"make trials of this stage alone ({', '.join(STAGE_PARTS)})")
    parser.add_argument("--again", action="store_true", help="drop the part's earlier trials")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "harveyseg-faults")
    arguments = parser.parse_args()
    if arguments.part != "page":
        heading, make = PARTS[arguments.part]
        if arguments.again:
            trials.drop(RESULTS, heading)
        reference, work, stage = Reference.make(arguments.work / "reference"), arguments.work, arguments.stage
        made = STAGE_PARTS[arguments.part](reference, work, stage) if stage else make(reference, work)
        for trial in itertools.islice(made, arguments.trials):
            trials.append(RESULTS, [trial])
            print(trial.fault, trial.outcome, trial.detail, flush=True)
    write_page()


def write_page() -> None:
    """Write docs/reliability.md from all trials so far."""
    results = trials.read(RESULTS)
    write_text(
        PAGE, f"{_INTRODUCTION}\n{trials.total(results)}\n\n{trials.tables(results)}\n{_VERSIONS}\n{oldest.table()}"
    )


_INTRODUCTION = """\
# Reliability

What happens when something breaks. `benchmarks/faults.py` breaks it on purpose, in a project of ten photos and one
small network on Linux, and counts:

- **survived**: the next `dvc repro` (or `harveyseg sync`, where MLflow was at fault) ends in the bytes of an
  undisturbed run, times and ids aside; or the command stops in a sentence that names the cause. DVC that is killed, or
  finds the disk full, while it writes its list of locks (`.dvc/tmp/rwlock`) runs again when the command that
  `harveyseg doctor` names has removed it.
- **lost**: work, a run or a result cannot be had back.
- **silently wrong**: other results, without a word.

The rest of what was tried stopped with an unhelpful message. A short form of the campaign runs with the tests
(`tests/pipeline/test_faults.py`; `tests/test_properties.py` has hypothesis make up the input).
"""

_VERSIONS = """\
## Python versions and the oldest dependencies

`lowest-direct` is the oldest version of each dependency that `pyproject.toml` allowed that day, `lock` is
`requirements.lock` (`make oldest`). A row that counts test files is of a part of the fast tests.
"""

if __name__ == "__main__":
    main()
