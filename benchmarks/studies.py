"""The report's studies on a folder of photos, at 128 and 256 pixels, for hours and in any number of sittings.

    .venv/bin/python benchmarks/studies.py FOLDER_OF_PHOTOS --groups FILE.csv:COLUMN --keep FOLDER [--jobs 2]
        [--done FILE ...] [--commit COMMIT] [--dry-run]

What decides most comes first, see PLAN. Each photo size has a clone of this repository in FOLDER, with the preset
`report-small` on these photos: three folds, each held out in turn, and 435 updates or a few more. The clones keep the
commit from which they were made, HEAD or --commit: other code would train everything again.

After each finished trial (a variant with a seed, on all folds) all runs so far are written to
FOLDER/studies-<size>.jsonl.xz. `harveyseg results --runs` makes RESULTS.md of these files, also of a part of the plan.
However it is stopped, also by SIGKILL, the same command goes on: what is finished is kept, and a training continues
after its last finished epoch. On another machine, --done names the files that earlier ones wrote; what these have does
not run again.

One thread for each training and as many trainings as cores take less time than one that uses all cores.
--dry-run runs nothing: it times a few batches of each network alone on one core, and prints how long the plan takes.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from dvc.utils.hydra import apply_overrides
from filelock import Timeout

from harveyseg.classes import HARVEY25
from harveyseg.device import autocast, resolve_precision
from harveyseg.files import locked
from harveyseg.models.network import build
from harveyseg.reproduction.export import import_study_runs
from harveyseg.reproduction.studies import StudyRecipe, find_study, read_recipe, study_trials, study_variants
from harveyseg.scaling.copies import end_processes_in, interrupted_by_signals, process_group

ROOT = Path(__file__).resolve().parents[1]
TIMED_BATCHES = 3
"""Of each network in a dry run, after one that does not count."""
TRAINING_PHOTOS = 30
"""Two of the three folds of 45 photos."""
BESIDE_BATCHES = 150.0
"""Seconds that a trial of three folds takes beside its batches, on one core."""


@dataclass(frozen=True)
class Part:
    """Studies that run with one command: its trials are in the order of the names, then of seeds and variants."""

    size: int
    """Height and width of the photos, in pixels."""
    studies: tuple[str, ...]
    seeds: int
    only: tuple[str, ...] = ()
    """The variants of its only study; all if empty."""


PLAN = (
    Part(128, ("softmax",), 6),
    Part(128, ("class_weights", "batch_norm", "adaptive_lr", "discriminative_lr", "dropout"), 3),
    Part(128, ("epochs", "size"), 3),
    Part(256, ("softmax",), 6),
    Part(256, ("class_weights",), 3),
    Part(256, ("architecture",), 3, ("attention_unet", "efficientnet_lite1", "efficientnet_lite2")),
    Part(256, ("architecture",), 3, ("mobilenet_v2", "unetplusplus", "efficientnet_lite0")),
    # Networks of width 64 take twelve times as long. All trials undone are such a network on photos of 256 pixels.
    Part(128, ("channels",), 3),
    Part(128, ("all_trials",), 3),
    # From random weights, which the report did not train: no claim rests on them where the Lites stand in.
    Part(256, ("architecture",), 3),
)
"""Everything, what decides most for its time first."""


def main() -> None:
    """Run the plan, or print how long it takes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="folder in the Kaggle layout")
    parser.add_argument("--groups", required=True, help="which photos overlap, e.g. overlap_groups.csv:group_strict")
    parser.add_argument("--keep", type=Path, required=True, help="folder of the clones and of the exported runs")
    parser.add_argument("--jobs", type=int, default=2, help="trials at a time, each with one thread")
    parser.add_argument("--done", type=Path, nargs="+", default=[], help="studies-<size>.jsonl.xz of other machines")
    parser.add_argument("--commit", default="HEAD", help="whose code trains: that of --done, so that it is one code")
    parser.add_argument("--dry-run", action="store_true", help="only print the plan, and how long it takes here")
    parser.add_argument("-S", dest="changes", action="append", default=[], help="further changes of params.yaml")
    arguments = parser.parse_args()
    if not (arguments.photos / "train_masks").is_dir():
        parser.error(f"{arguments.photos / 'train_masks'}: no such folder")
    groups, _, column = arguments.groups.partition(":")
    if not Path(groups).is_file():
        parser.error(f"--groups {groups}: no such file")
    keep = arguments.keep.resolve()
    inputs = keep / "inputs"
    inputs.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        held.enter_context(interrupted_by_signals())
        try:
            held.enter_context(locked(keep / "lock", timeout=0))
        except Timeout:
            parser.error(f"--keep {keep}: another call works there")
        shutil.copy(groups, inputs)
        changes = [
            "data.source=directory",
            f"data.path={arguments.photos.resolve()}",
            f"data.inputs={inputs}",
            f"split.groups={inputs / Path(groups).name}:{column}".rstrip(":"),
            "inference.threads=1",
            *arguments.changes,
        ]
        sizes = {part.size for part in PLAN}
        clones = {size: _clone(keep / str(size), arguments.commit, size, changes) for size in sizes}
        done: dict[int, list[Path]] = {size: [] for size in sizes}
        for file in arguments.done:
            size = import_study_runs(file).recipe.params["resize-cache"]["size"]
            if size not in sizes:
                parser.error(f"--done {file}: its photos have {size} pixels, and the plan has none of that size")
            done[size].append(file.resolve())
        if arguments.dry_run:
            _print_times({size: read_recipe(clone / "params.yaml") for size, clone in clones.items()}, arguments.jobs)
            return
        failed = [part for part in PLAN if not _run(part, clones[part.size], keep, arguments.jobs, done[part.size])]
    if failed:
        raise SystemExit(f"failed: {', '.join(f'{part.studies} at {part.size}' for part in failed)}; see the logs")


def _clone(folder: Path, commit: str, size: int, changes: Sequence[str]) -> Path:
    """The clone for a photo size, with its settings; what an earlier call left running in it ends."""
    if folder.exists():
        end_processes_in(folder)
    else:
        unfinished = folder.with_name(f"{folder.name}-unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        subprocess.run(["git", "clone", "-q", str(ROOT), str(unfinished)], check=True)
        subprocess.run(["git", "-C", str(unfinished), "checkout", "-q", "-B", "studies", commit], check=True)
        unfinished.rename(folder)
    subprocess.run(["git", "-C", str(folder), "checkout", "-q", "--", "params.yaml"], check=True)
    subprocess.run(_harveyseg("preset", "report-small"), cwd=folder, env=_environment(folder), check=True)
    apply_overrides(folder / "params.yaml", [f"resize-cache.size={size}", *changes])
    return folder


def _harveyseg(*arguments: str) -> list[str]:
    return [f"{sys.prefix}/bin/harveyseg", *arguments]


def _environment(folder: Path) -> dict[str, str]:
    path = f"{sys.prefix}/bin{os.pathsep}{os.environ['PATH']}"
    # The clone's code, whatever the environment has installed.
    return {**os.environ, "PATH": path, "PYTHONPATH": str(folder / "src"), "OMP_NUM_THREADS": "1"}


def _run(part: Part, clone: Path, keep: Path, jobs: int, done: Sequence[Path]) -> bool:
    """Run a part, and export the runs after each trial; returns whether all went well."""
    log = keep / f"log-{part.size}.txt"
    command = _harveyseg("study", *part.studies, "--seeds", str(part.seeds), "--jobs", str(jobs))
    command += [argument for variant in part.only for argument in ("--only", variant)]
    command += [argument for file in done for argument in ("--done", str(file))]
    with log.open("a", encoding="utf-8") as opened:
        start = opened.tell()
        exported = 0
        with process_group(command, clone, _environment(clone), opened) as study:
            while study.poll() is None:
                time.sleep(5)
                if (finished := _count_finished(log, start)) > exported:
                    _export(clone, keep, part.size)
                    exported = finished
    _export(clone, keep, part.size)
    return study.returncode == 0


def _count_finished(log: Path, start: int) -> int:
    """How many trials have ended since a place in the log."""
    with log.open("rb") as opened:
        opened.seek(start)
        return len(re.findall(rb": argmax score \d", opened.read()))


def _export(clone: Path, keep: Path, size: int) -> None:
    command = _harveyseg(
        "results", "--out", str(keep / f"RESULTS-{size}.md"), "--export", str(keep / f"studies-{size}.jsonl.xz")
    )
    done = subprocess.run(command, cwd=clone, env=_environment(clone), capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{size} pixels: nothing exported: {done.stderr.strip()}", file=sys.stderr, flush=True)


def _print_times(recipes: Mapping[int, StudyRecipe], jobs: int) -> None:
    """The plan with the hours that each part adds."""
    torch.set_num_threads(1)
    seen: set[tuple[int, str]] = set()
    total = 0.0
    print("| pixels | what | seeds | new trials | core hours | hours, in all |\n|---:|---|---:|---:|---:|---:|")
    for part in PLAN:
        recipe = recipes[part.size]
        trials, seconds = 0, 0.0
        for name in part.studies:
            variants = study_variants(find_study(name), recipe)
            for trial in study_trials(find_study(name), recipe, part.seeds, part.only):
                if (part.size, trial.name) not in seen:
                    seen.add((part.size, trial.name))
                    trials += 1
                    seconds += _trial_seconds(recipe, *variants[trial.variant])
        total += seconds
        what = ", ".join(part.only or part.studies)
        hours, in_all = seconds / 3600, total / jobs / 3600
        print(f"| {part.size} | {what} | {part.seeds} | {trials} | {hours:.1f} | {in_all:.1f} |", flush=True)


def _trial_seconds(recipe: StudyRecipe, model: str, changes: Mapping[str, Any]) -> float:
    """Of one core, on all folds."""
    params = recipe.params
    spec = dict(params["models"].get(model) or changes[f"models.{model}"])
    own_training = spec.pop("train", {})
    for path, value in changes.items():
        if path.startswith(f"models.{model}."):
            spec[path.rpartition(".")[2]] = value
    size = changes.get("resize-cache.size", params["resize-cache"]["size"])
    epochs = changes.get("train.epochs", own_training.get("epochs", params["train"]["epochs"]))
    batch_size = params["train"]["batch_size"]
    photos = TRAINING_PHOTOS * params["train"]["sampling"]["crops_per_photo"]
    batches: int = len(recipe.folds) * epochs * -(-photos // batch_size)
    return BESIDE_BATCHES + batches * _batch_seconds(json.dumps(spec, sort_keys=True), size, batch_size)


@cache
def _batch_seconds(spec: str, size: int, batch_size: int) -> float:
    """Forward, backward and a step, on one core."""
    cpu = torch.device("cpu")
    network = build(json.loads(spec), len(HARVEY25), None).to(memory_format=torch.channels_last).train()
    optimiser = torch.optim.Adam(network.parameters())
    photos = torch.rand(batch_size, 3, size, size).to(memory_format=torch.channels_last)
    truth = torch.randint(0, len(HARVEY25), (batch_size, size, size))
    started = 0.0
    for batch in range(TIMED_BATCHES + 1):
        if batch == 1:
            started = time.process_time()
        optimiser.zero_grad(set_to_none=True)
        with autocast(cpu, resolve_precision("auto", cpu)):
            logits = network(photos)
        F.cross_entropy(logits.float().softmax(1), truth).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return (time.process_time() - started) / TIMED_BATCHES


if __name__ == "__main__":
    main()
