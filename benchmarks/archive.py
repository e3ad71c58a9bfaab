"""Seconds for each photo and peak memory of the pipeline's stages, with more and more photos.

    .venv/bin/python benchmarks/archive.py [--times 1 4 16] [--work FOLDER]

In a clone, the stages run one after the other with so many times the demo's photos (36 for training, 12 for the test),
two U-Nets of width 16 that train for one epoch at 64 x 64 pixels, scores at 512 x 512, and post-processing that fits
rules. What a stage took is kept in the folder: a call that was stopped goes on with the stage where it was, each size
can be measured by a call of its own, and the tables have all that is known.

CPU seconds are those of all threads; other programs on the machine hardly change them. What a stage takes for each
further photo is the difference of two sizes; so the start of Python and its libraries is not in it. Peak memory is the
largest resident set, which counts mapped files, whose pages the system takes back when it needs memory; the part that
it cannot take back (anonymous memory) is sampled.
"""

import argparse
import itertools
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import NamedTuple

from ruamel.yaml import YAML

from harveyseg.files import write_text
from harveyseg.project import library_versions

ROOT = Path(__file__).resolve().parents[1]
TRAIN, TEST = 36, 12
"""Photos of the demo."""
CACHED, SCORED = 64, 512
"""Pixels of a side, in the cache and of the score."""
MODELS = ("unet", "attention_unet")
STAGES = ("code", "download", "resize_cache", "split", "train", "evaluate", "ensemble", "postprocess")
OF_EACH_MODEL = ("train", "evaluate")
MEASURED = ("download", "resize_cache", "evaluate", "ensemble", "postprocess")
_SECONDS_BETWEEN_SAMPLES = 0.05


class Usage(NamedTuple):
    """What a stage took."""

    seconds: float
    cpu: float
    """Seconds of the processor, in all threads."""
    peak: float
    """Largest resident set in MB."""
    anonymous: float
    """Largest part of it in MB that belongs to no file."""


def main() -> None:
    """Measure what is not known yet, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument(
        "--work",
        type=Path,
        default=Path(tempfile.gettempdir()) / "harveyseg-archive",
        help="folder with room for a clone, 4 GB for 16 times",
    )
    arguments = parser.parse_args()
    for times in arguments.times:
        measure(arguments.work.resolve(), times)
    versions = ", ".join(f"{name} {version}" for name, version in library_versions().items())
    print(f"{date.today()}, {platform.machine()}, {os.cpu_count()} cores, {versions}\n", flush=True)
    print("| stage | photos | seconds | CPU seconds | peak memory, MB | anonymous, MB |", flush=True)
    print("|---|---:|---:|---:|---:|---:|", flush=True)
    usages = {}
    for times in sorted(int(kept.stem) for kept in arguments.work.glob("*.json")):
        photos = times * (TRAIN + TEST)
        usages[photos] = read_kept(arguments.work / f"{times}.json")
        for stage, usage in usages[photos].items():
            numbers = " | ".join(f"{value:.0f}" for value in usage)
            print(f"| {stage} | {photos} | {numbers} |", flush=True)
    print_growth({photos: known for photos, known in usages.items() if known.keys() >= set(MEASURED)})


def read_kept(path: Path) -> dict[str, Usage]:
    """What the stages took that have been measured with so many photos."""
    return {stage: Usage(*values) for stage, values in json.loads(path.read_text()).items()} if path.exists() else {}


def measure(work: Path, times: int) -> None:
    """Run those stages of the pipeline, up to post-processing, whose usage is not known, and keep it."""
    kept, clone = work / f"{times}.json", work / f"clone-{times}"
    known = read_kept(kept)
    if not known:
        shutil.rmtree(clone, ignore_errors=True)
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
        write_settings(clone / "params.yaml", times)
    for stage in STAGES:
        if stage not in known:
            items = [["--model", model, "--fold", "0"] for model in MODELS] if stage in OF_EACH_MODEL else [[]]
            known[stage] = [run_stage(clone, stage, *item) for item in items][-1]
            write_text(kept, json.dumps(known, indent=2))
            print(f"{times} times, {stage}: {known[stage].seconds:.0f} s", file=sys.stderr, flush=True)
    shutil.rmtree(clone, ignore_errors=True)


def write_settings(path: Path, times: int) -> None:
    """Change the demo's settings."""
    yaml = YAML()
    settings = yaml.load(path.read_text(encoding="utf-8"))
    settings["data"]["demo"] |= {"train": TRAIN * times, "test": TEST * times}
    settings["models"] = {name: settings["models"][name] for name in MODELS}
    settings["train"]["epochs"] = 1
    settings["resize-cache"]["size"] = CACHED
    settings["data"]["score_size"] = SCORED
    with path.open("w", encoding="utf-8") as opened:
        yaml.dump(settings, opened)


def run_stage(clone: Path, stage: str, *arguments: str) -> Usage:
    """Run one stage and measure it."""
    environment = {**os.environ, "VIRTUAL_ENV": sys.prefix}
    environment.pop("PYTHONPATH", None)
    started = time.perf_counter()
    with (clone / f"{stage}.log").open("w") as log:
        process = subprocess.Popen(
            ["sh", "stages/run", stage, *arguments], cwd=clone, env=environment, stdout=log, stderr=log
        )
    anonymous, status, used = 0.0, 0, None
    while used is None:
        anonymous = max(anonymous, anonymous_memory(process.pid))
        time.sleep(_SECONDS_BETWEEN_SAMPLES)
        ended, status, rusage = os.wait4(process.pid, os.WNOHANG)
        used = rusage if ended else None
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"{stage}: {(clone / f'{stage}.log').read_text()}")
    seconds = time.perf_counter() - started
    return Usage(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, anonymous)


def anonymous_memory(pid: int) -> float:
    """In MB."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon")), 0)


def print_growth(usages: Mapping[int, Mapping[str, Usage]]) -> None:
    """What each further photo takes, from each size to the next."""
    steps = list(itertools.pairwise(usages))
    if not steps:
        return
    heads = [f"{few} to {many} photos: CPU seconds, anonymous kB" for few, many in steps]
    print(f"\n| each further photo | {' | '.join(heads)} |")
    print(f"|---|{'---:|' * len(steps)}")
    for stage in MEASURED:
        cells = []
        for few, many in steps:
            before, after = usages[few][stage], usages[many][stage]
            cpu = (after.cpu - before.cpu) / (many - few)
            kilobytes = 1024 * (after.anonymous - before.anonymous) / (many - few)
            cells.append(f"{cpu:.3f}, {kilobytes:.0f}")
        print(f"| {stage} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
