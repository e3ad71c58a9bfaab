"""Seconds that stages and commands spend beside their work, with the code of this commit and of another one.

    .venv/bin/python benchmarks/overhead.py --against COMMIT [--rounds 3] [--work FOLDER]

Both commits are cloned, and in each clone the whole pipeline runs, stage by stage, on the demo's photos with a network
of our own and one of smp, which train for two epochs. In every round each stage answers `--help` and runs once with
either commit, in turns, so that a busy machine slows both alike. CPU seconds are those of all processes and threads,
and hardly change with what else the machine does.

What a training takes beside its epochs is all of its seconds but those in history.csv. `benchmarks/demo.py` measures
the demo as a whole, and what DVC takes of it; `benchmarks/archive.py` how the cost of each stage grows with the photos.
"""

import argparse
import csv
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from datetime import date
from pathlib import Path

from ruamel.yaml import YAML

from harveyseg.project import library_versions

ROOT = Path(__file__).resolve().parents[1]
MODELS = ("unet", "mobilenet_v2")
"""A network of our own, and one of smp."""
EPOCHS = 2
OF_EACH_MODEL = ("train", "evaluate")
STAGES = (
    *("code", "download", "resize_cache", "split"),
    *OF_EACH_MODEL,
    *("ensemble", "postprocess", "metrics", "compare", "submit"),
)

Seconds = tuple[float, ...]
"""Of the wall clock and, where they are known, of the processor, in all processes and threads."""


def main() -> None:
    """Run both commits in turns, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", metavar="COMMIT", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path, help="folder for the clones, which stay there")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = (arguments.work or Path(temporary)).resolve()
        clones = {name: work / name for name in ("other", "this")}
        for clone, commit in zip(clones.values(), (arguments.against, "HEAD"), strict=True):
            prepare(clone, commit)
        taken: dict[tuple[str, str], list[Seconds]] = defaultdict(list)
        for number in range(arguments.rounds + 1):
            for steps in zip(*(measure(clone) for clone in clones.values()), strict=True):
                for name, (what, seconds) in zip(clones, steps, strict=True):
                    if number:  # the first round compiles and reads all files
                        taken[what, name].append(seconds)
            print(f"round {number} of {arguments.rounds}", file=sys.stderr, flush=True)
    versions = ", ".join(f"{name} {version}" for name, version in library_versions().items())
    print(f"{date.today()}, {platform.machine()}, {os.cpu_count()} cores, {arguments.rounds} rounds, {versions}")
    print(f"other: {arguments.against}; medians, and the median of each round's ratio\n")
    print("| | other: wall, CPU | this: wall, CPU | other / this: wall, CPU |\n|---|---:|---:|---:|")
    for what in dict.fromkeys(what for what, _ in taken):
        other, this = (taken[what, name] for name in clones)
        ratios = [tuple(a / b for a, b in zip(*both, strict=True)) for both in zip(other, this, strict=True)]
        print(f"| {what} | {medians(other, ' s')} | {medians(this, ' s')} | {medians(ratios, '')} |")


def medians(rounds: list[Seconds], unit: str) -> str:
    """The median of each column, as text."""
    return ", ".join(f"{statistics.median(column):.2f}{unit}" for column in zip(*rounds, strict=True))


def prepare(clone: Path, commit: str) -> None:
    """Clone a commit, with settings for two short trainings."""
    shutil.rmtree(clone, ignore_errors=True)
    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
    subprocess.run(["git", "checkout", "-q", "--detach", commit_of(commit)], cwd=clone, check=True)
    yaml = YAML()
    path = clone / "params.yaml"
    settings = yaml.load(path.read_text(encoding="utf-8"))
    settings["models"] = {name: settings["models"][name] for name in MODELS}
    settings["train"]["epochs"] = EPOCHS
    with path.open("w", encoding="utf-8") as opened:
        yaml.dump(settings, opened)


def commit_of(name: str) -> str:
    """The hash of a commit of this repository, which a clone may know by no name."""
    done = subprocess.run(["git", "rev-parse", name], cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def measure(clone: Path) -> Iterator[tuple[str, Seconds]]:
    """Run everything once; the name and the seconds of each step, so that another clone can take its turn."""
    for folder in (clone / ".checkpoints", *(path for path in (clone / "data").iterdir() if path.is_dir())):
        shutil.rmtree(folder, ignore_errors=True)  # else a training that has finished is not repeated
    program = [sys.executable, "-c", "from harveyseg.cli import app; app()", "--help"]
    yield "harveyseg --help", run(clone, program)
    for stage in STAGES:
        yield f"{stage} --help", run(clone, ["stages/run", stage, "--help"])
    for stage in STAGES:
        for model in MODELS if stage in OF_EACH_MODEL else [""]:
            item = ["--model", model, "--fold", "0"] if model else []
            seconds = run(clone, ["stages/run", stage, *item])
            yield f"{stage} {model}".strip(), seconds
            if stage == "train":
                with (clone / "data" / "models" / f"{model}-0" / "history.csv").open(encoding="utf-8") as history:
                    epochs = sum(float(row["seconds"]) for row in csv.DictReader(history))
                yield f"{stage} {model}, beside its epochs", (seconds[0] - epochs,)


def run(clone: Path, command: list[str]) -> Seconds:
    """Run a command with a clone's code."""
    environment = {**os.environ, "VIRTUAL_ENV": sys.prefix, "PYTHONPATH": str(clone / "src")}
    with tempfile.TemporaryFile("w+") as log:
        started = time.perf_counter()
        process = subprocess.Popen(command, cwd=clone, env=environment, stdout=log, stderr=log)
        _, status, used = os.wait4(process.pid, 0)
        seconds = (time.perf_counter() - started, used.ru_utime + used.ru_stime)
        log.seek(0)
        if os.waitstatus_to_exitcode(status):
            raise SystemExit(f"{' '.join(command)}: {log.read()}")
    return seconds


if __name__ == "__main__":
    main()
