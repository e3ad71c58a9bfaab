"""Compare recipes out of fold, on the same folds of the same photos, in a fresh clone.

    .venv/bin/python benchmarks/score.py FOLDER_OF_PHOTOS [--groups FILE.csv:COLUMN] [--recipes report,best]
        [--seeds 1] [--folds 3] [--jobs 1] [--weights FILE] [--keep FOLDER] [-S KEY=VALUE ...]

A recipe is a preset with changes, see RECIPES. Its line covers all photos, each predicted by the networks that were not
trained on its fold:

* argmax score: of the argmax maps of the (weighted) mean of its networks, each photo with the weights that were chosen
  without its fold;
* score: of what is submitted, each photo post-processed by a rule that was fitted without its group; for the recipes
  of others, who submitted argmax maps, the argmax score;
* gain over empty: score minus the all-empty baseline, and as a multiple of that of the report's recipe;
* macro Dice and the Dice of two small classes, of what is submitted; mIoU of the argmax maps.

With --seeds N each recipe runs N times; the spread is the sample standard deviation of its scores. Minutes are counted
from the start of the first training to the end of the last one. With --keep an interrupted run continues: DVC restores
the trainings that are done. On a CPU, as many trainings of one thread each as it has cores (--jobs 2
-S train.threads=1) take less time than one training after another that uses all of them.
"""

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ruamel.yaml import YAML

from harveyseg.classes import HARVEY25
from harveyseg.project import library_versions
from harveyseg.record import read_run
from harveyseg.reproduction.studies import TABLE_1

ROOT = Path(__file__).resolve().parents[1]
UPDATES = 435
"""The recipes of others get as many updates as 25 epochs of the report's 261 photos in batches of 15."""


@dataclass(frozen=True)
class Recipe:
    """A preset and changes of it."""

    preset: str
    changes: tuple[str, ...] = ()
    postprocessed: bool = True
    """Whether it submits post-processed masks; else argmax maps."""
    batch_size: int | None = None
    """If set, the number of epochs is that of ``UPDATES`` updates in batches of this size."""


def _only(*kept: str) -> tuple[str, ...]:
    """Remove all other networks of Table 1 from the preset."""
    return tuple(f"~models.{name}" for name in TABLE_1 if name not in kept)


_PLAIN = ("train.schedule.name=cosine", "train.loss.presence=0.0")
"""``best`` without the two steps that the ablation found; all lines of the ablation start from it."""


def _short(*changes: str) -> Recipe:
    """``best: plain`` with a third of the updates, changed."""
    return Recipe("best", (*_PLAIN, "train.epochs=10", *changes))


_REPORT = ("train.encoder_weights=null", *_only("unet"))
_FIRST_PLACE = (
    *_only(),
    "+models.deeplabv3plus={network: smp, architecture: DeepLabV3Plus, encoder: resnet101}",
    "resize-cache.size=384",
    "train.batch_size=10",
    "train.loss.softmax_before_loss=false",
    "train.optimiser.depth_factor=1.0",
    "train.optimiser.weight_decay=0.0",
    "train.augmentation.rotate=0.3",
    "train.augmentation.rotate_limit=180.0",
    "train.augmentation.sharpen=0.0",
)
"""The competition's winner as far as it is known, without its crops of rare classes and its rates set by hand."""

RECIPES = {
    "report": Recipe("report", _REPORT, postprocessed=False, batch_size=15),
    # ": post-processed" has the same networks: run after the one without it, it trains nothing.
    "report: post-processed": Recipe("report", (*_REPORT, "postprocess.method=auto"), batch_size=15),
    "first-place": Recipe("report", _FIRST_PLACE, postprocessed=False, batch_size=10),
    "first-place: post-processed": Recipe("report", (*_FIRST_PLACE, "postprocess.method=auto"), batch_size=10),
    "best": Recipe("best"),
    "best: plain": Recipe("best", _PLAIN),
    # The best network that was found without ImageNet, with the updates and the learning rate that it needs.
    "random weights": Recipe(
        "best",
        (
            *_PLAIN,
            "~models.unet_efficientnet_lite0",
            "+models.unet_fine={network: unet, width: 24, dropout: 0.1, batch_norm: both, stem_stride: 2}",
            "train.encoder_weights=null",
            "train.epochs=40",
            "train.lr=0.003",
            "train.optimiser.depth_factor=1.0",
        ),
    ),
    # From here on each one changes one thing in `short`.
    "short": _short(),
    "short: no ImageNet": _short("train.encoder_weights=null"),
    # Dice takes the logits, so this one is to be compared with "short: no Dice".
    "short: double softmax": _short("train.loss.softmax_before_loss=true", "train.loss.dice=0.0"),
    "short: no class weights": _short("train.class_weights=none"),
    "short: no focus": _short("train.sampling.rare_class_probability=0.0"),
    "short: no Dice": _short("train.loss.dice=0.0"),
    "short: no zoom": _short("train.augmentation.zoom=0.0"),
    "short: flips": _short("train.augmentation.d4=0.0", "train.augmentation.flip=0.5"),
    "short: no colour": _short("train.augmentation.contrast=0.0", "train.augmentation.colour=0.0"),
    "short: no moving average": _short("train.optimiser.ema=null"),
    "short: no test-time augmentation": _short("inference.tta=none"),
    "short: EfficientNet-Lite1": _short("models.unet_efficientnet_lite0.encoder=tu-tf_efficientnet_lite1"),
    "short: EfficientNet-Lite2": _short("models.unet_efficientnet_lite0.encoder=tu-tf_efficientnet_lite2"),
    "short: two scales": _short("inference.scales=[1.0,1.5]"),
    "short: 256 px": _short("resize-cache.size=256", "train.augmentation.crop=128"),
    "short: 768 px": _short("resize-cache.size=768"),
    "short: crops of 384": _short("train.augmentation.crop=384"),
    "short: one rate for all layers": _short("train.optimiser.depth_factor=1.0"),
    "short: Adam": _short("train.optimiser.name=adam"),
    "short: one-cycle": _short("train.schedule.name=one_cycle"),
    "short: smoothing": _short("train.loss.label_smoothing=0.1"),
    "short: presence": _short("train.loss.presence=0.2"),
    "short: background unlabelled": _short("train.loss.background_weight=0.2"),
    "short: self-training": _short("train.self_training={weight: 0.5, start: 0.5, confidence: 0.9}"),
}


def main() -> None:
    """Clone, run each recipe, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="folder in the Kaggle layout")
    parser.add_argument("--groups", default="overlap", help="split.groups, e.g. overlap_groups.csv:group_strict")
    parser.add_argument("--recipes", default=",".join(RECIPES), help="some of: " + ", ".join(RECIPES))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    parser.add_argument("--weights", type=Path, help="ImageNet weights of ResNet-101 for first-place")
    parser.add_argument("--keep", type=Path, help="clone to this folder, or continue in it, and leave it there")
    parser.add_argument("-S", dest="changes", action="append", default=[], help="further changes of params.yaml")
    arguments = parser.parse_args()
    names = arguments.recipes.split(",")
    if unknown := [name for name in names if name not in RECIPES]:
        parser.error(f"unknown recipes: {', '.join(unknown)}")
    file, _, column = arguments.groups.partition(":")
    named_groups = file in ("ids", "overlap", "none")
    common = [
        "data.source=directory",
        f"data.path={arguments.photos.resolve()}",
        f"split.folds={arguments.folds}",
        "split.method=stratified",
        f"folds={list(range(arguments.folds))}",
    ]
    training_photos = len(list((arguments.photos / "train_masks").rglob("*.png")))
    if not training_photos:
        parser.error(f"{arguments.photos / 'train_masks'}: no masks (*.png)")
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary) / "clone"
        if not folder.exists():
            subprocess.run(["git", "clone", "-q", str(ROOT), str(folder)], check=True)
        # DVC watches one folder: the file of groups and the weights are copied into it.
        inputs = folder.with_name(f"{folder.name}-inputs").resolve()
        inputs.mkdir(exist_ok=True)
        for path in (None if named_groups else Path(file), arguments.weights):
            if path is not None:
                shutil.copy(path, inputs)
        groups = file if named_groups else f"{inputs / Path(file).name}:{column}".rstrip(":")
        common += [f"data.inputs={inputs}", f"split.groups={groups}"]
        lines = []
        for name in names:
            recipe = RECIPES[name]
            changes = [*common, *recipe.changes, *arguments.changes]
            if recipe.batch_size is not None:
                in_fold = training_photos * (arguments.folds - 1) // arguments.folds
                epochs = -(-UPDATES // -(-in_fold // recipe.batch_size))
                # The patience is the report's share of all epochs.
                changes += [f"train.epochs={epochs}", f"train.schedule.plateau_patience={round(3 / 25 * epochs)}"]
            if name.startswith("first-place"):
                weights = "null" if arguments.weights is None else str(inputs / arguments.weights.name)
                changes.append(f"train.encoder_weights={weights}")
            runs = [
                _run(folder, recipe, [*changes, f"train.seed={seed}"], arguments.jobs)
                for seed in range(arguments.seeds)
            ]
            lines.append({"recipe": name, **_summary(runs, recipe.postprocessed)})
            print(json.dumps(lines[-1]), file=sys.stderr, flush=True)
        describe = ["git", "-C", str(folder), "rev-parse", "--short", "HEAD"]
        commit = subprocess.run(describe, check=True, capture_output=True, text=True).stdout.strip()
    versions = ", ".join(f"{name} {version}" for name, version in library_versions().items())
    print(f"{date.today()}, commit {commit}; {versions}")
    print(f"{training_photos} photos, {arguments.folds} folds, {arguments.seeds} seed(s), {arguments.jobs} at a time\n")
    print(_table(lines))


def _run(folder: Path, recipe: Recipe, changes: Sequence[str], jobs: int) -> dict[str, Any]:
    """Run one recipe with one seed; its metrics and minutes."""
    environment = {
        **os.environ,
        "VIRTUAL_ENV": sys.prefix,
        "PATH": f"{sys.prefix}/bin{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(folder / "src"),  # the clone's presets, whatever the environment has installed
    }

    def call(*command: str) -> None:
        subprocess.run(command, cwd=folder, env=environment, stdout=sys.stderr, check=True)

    call("harveyseg", "preset", recipe.preset)
    settings = [part for change in changes for part in ("-S", change)]
    call("dvc", "exp", "run", *settings, "code", "resize-cache", "split")
    params = YAML(typ="safe", pure=True).load(folder / "params.yaml")
    trainings = [f"{model}-{fold}" for model, fold in itertools.product(params["models"], params["folds"])]
    # DVC runs the stages of one call one after another, but several calls at a time lock what they read and write. With
    # -s none of them touches the stages before, whose outputs the others read.
    with ThreadPool(jobs) as pool:
        pool.map(
            lambda training: call("dvc", "--wait-for-lock", "repro", "-s", f"train@{training}"), trainings, chunksize=1
        )
    call("dvc", "repro")
    of_argmax_maps = json.loads((folder / "data" / "ensemble" / "metrics.json").read_text())
    of_submitted = json.loads((folder / "data" / "postprocess" / "metrics" / "ensemble.json").read_text())
    runs = [read_run(folder / "data" / "models" / training / "run.json") for training in trainings]
    busy = [0.0] * jobs
    for run in runs:  # each was started by the first job that was free
        busy[busy.index(min(busy))] += run.results["seconds"]
    return {**of_argmax_maps, **of_submitted, "minutes": max(busy) / 60}


def _summary(runs: Sequence[dict[str, Any]], postprocessed: bool) -> dict[str, float]:
    # postprocess_gain is relative to the argmax maps of the same (nested) predictions.
    argmax_scores = [run["val/score"] - run["val/postprocess_gain"] for run in runs]
    scores = [run["val/score"] for run in runs] if postprocessed else argmax_scores
    prefix = "val/" if postprocessed else "val/argmax_"

    def mean(key: str) -> float:
        return float(np.mean([run.get(key, np.nan) for run in runs]))

    small = {HARVEY25.names[index]: f"{prefix}dice/{HARVEY25.slugs[index]}" for index in (3, 4)}
    return {
        "all empty": mean("val/all_empty_score"),
        "argmax score": float(np.mean(argmax_scores)),
        "score": float(np.mean(scores)),
        "spread": float(np.std(scores, ddof=1)) if len(scores) > 1 else np.nan,
        "macro Dice": mean(f"{prefix}macro_dice"),
        **{name: mean(key) for name, key in small.items()},
        "mIoU": mean("val/miou"),
        "minutes": mean("minutes"),
    }


def _table(lines: Sequence[dict[str, Any]]) -> str:
    table = pd.DataFrame(lines)
    gain = table["score"] - table["all empty"]
    report_gain = gain[table["recipe"] == "report"]
    table.insert(4, "gain over empty", gain)
    table.insert(5, "times the report's", gain / report_gain.iloc[0] if len(report_gain) else np.nan)
    texts: dict[str, list[str]] = {"recipe": table["recipe"].tolist()}
    for column in table.columns[1:]:
        digits = 1 if column in ("minutes", "times the report's") else 4
        texts[column] = [f"{value:.{digits}f}" for value in table[column]]
    return (
        pd.DataFrame(texts)
        .replace("nan", "")
        .to_markdown(index=False, disable_numparse=True, colalign=["left", *["right"] * (len(texts) - 1)])
    )


if __name__ == "__main__":
    main()
