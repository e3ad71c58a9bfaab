"""Does Faster R-CNN with a mask head find objects that the U-Net misses? Both on the same folds, in a fresh clone.

    .venv/bin/python benchmarks/objects.py FOLDER_OF_PHOTOS [--groups FILE.csv:COLUMN] [--folds 3] [--held-out 0,1,2]
        [--epochs 4] [--keep FOLDER] [-S KEY=VALUE ...]

The recipe is the preset `best` with fewer epochs and without test-time augmentation: the same crops, batches, steps and
encoder with ImageNet weights for both networks. Each photo is predicted by networks that were not trained on its fold.

* Dice: of the argmax maps, and of what is submitted (each photo post-processed by a rule fitted without its group),
  mean over the photos that hold the class or in which it is predicted or submitted;
* objects found: connected regions of a class in the masks of the cache, of at least 4 pixels, half of whose pixels the
  argmax map gives to the class;
* of the missed: of the objects that the U-Net does not find, those that Mask R-CNN finds;
* wrong: regions of a class in the argmax map without a pixel of that class in the mask.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harveyseg.arrays import BoolArray, ClassMap
from harveyseg.data.cache import load_part
from harveyseg.inference.probabilities import argmax_map
from harveyseg.models.networks.mask_rcnn import instances
from harveyseg.project import library_versions
from harveyseg.record import read_run
from harveyseg.reproduction.studies import find_study

ROOT = Path(__file__).resolve().parents[1]
UNET = "unet_efficientnet_lite0"
DETECTOR = "mask_rcnn"
NAMES = {UNET: "U-Net", DETECTOR: "Mask R-CNN"}


def main() -> None:
    """Clone, train, evaluate, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="folder in the Kaggle layout")
    parser.add_argument("--groups", default="overlap", help="split.groups, e.g. overlap_groups.csv:group_strict")
    parser.add_argument("--folds", type=int, default=3, help="split.folds")
    parser.add_argument("--held-out", default="0,1,2", help="the folds that are held out in turn")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--keep", type=Path, help="clone to this folder, or continue in it, and leave it there")
    parser.add_argument("-S", dest="changes", action="append", default=[], help="further changes of params.yaml")
    arguments = parser.parse_args()
    file, _, column = arguments.groups.partition(":")
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.keep or Path(temporary) / "clone").resolve()
        groups, inputs = arguments.groups, []
        if file not in ("ids", "overlap", "none"):
            watched = folder.with_name(f"{folder.name}-inputs")
            watched.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, watched)
            groups, inputs = f"{watched / Path(file).name}:{column}", [f"data.inputs={watched}"]
        changes = [
            "data.source=directory",
            f"data.path={arguments.photos.resolve()}",
            *inputs,
            f"split.groups={groups}",
            f"split.folds={arguments.folds}",
            f"folds=[{arguments.held_out}]",
            f"train.epochs={arguments.epochs}",
            "inference.tta=none",
            f"+models.{DETECTOR}={_detector()}",
            *arguments.changes,
        ]
        _run(folder, changes)
        commit = _call(folder, "git", "rev-parse", "--short", "HEAD").strip()
        versions = ", ".join(f"{name} {version}" for name, version in library_versions().items())
        print(f"{date.today()}, commit {commit}; {versions}")
        print(f"folds {arguments.held_out} of {arguments.folds}, {arguments.epochs} epochs; {arguments.changes}\n")
        print(_scores(folder))
        print(_classes(folder, [int(fold) for fold in arguments.held_out.split(",")]))


def _detector() -> str:
    """The study's network, as an option of DVC."""
    return "{" + f"network: {DETECTOR}, objects: {json.dumps(_objects())}" + "}"


def _objects() -> list[str]:
    """The classes whose objects can be counted, as the study has them."""
    entry = find_study("related_work").models[DETECTOR]
    assert entry is not None
    return list(entry["objects"])


def _run(folder: Path, changes: list[str]) -> None:
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["git", "clone", "-q", str(ROOT), str(folder)], check=True)
    _call(folder, "harveyseg", "preset", "best")
    _call(folder, "dvc", "exp", "run", *(part for change in changes for part in ("-S", change)), "postprocess")


def _call(folder: Path, *command: str) -> str:
    environment = {
        **os.environ,
        "VIRTUAL_ENV": sys.prefix,
        "PATH": f"{sys.prefix}/bin{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(folder / "src"),
    }
    done = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    print(done.stdout, file=sys.stderr)
    return done.stdout


def _scores(folder: Path) -> str:
    """The score of each network and of the ensemble, and what they took."""
    weights = json.loads((folder / "data" / "ensemble" / "weights.json").read_text())
    rows = []
    for model in (UNET, DETECTOR, "ensemble"):
        metrics = _submitted(folder, model)
        trainings = [read_run(path) for path in sorted((folder / "data" / "models").glob(f"{model}-*/run.json"))]
        rows.append(
            {
                "": NAMES.get(model, model),
                "score": metrics["val/score"],
                "argmax score": metrics["val/score"] - metrics["val/postprocess_gain"],
                "minutes of training": sum(run.results["seconds"] for run in trainings) / 60,
                "images per second": np.mean([run.results["images_per_second"] for run in trainings] or [np.nan]),
            }
        )
    table = pd.DataFrame(rows).to_markdown(index=False, floatfmt=(".0f", ".4f", ".4f", ".1f", ".2f"))
    return f"{table}\n\nWeights of the ensemble: {json.dumps(weights)}\n"


def _submitted(folder: Path, model: str) -> dict[str, Any]:
    path = folder / "data" / "postprocess" / "metrics" / f"{model}.json"
    metrics: dict[str, Any] = json.loads(path.read_text())
    return metrics


def _classes(folder: Path, folds: list[int]) -> str:
    """A row for each class of the detector: Dice and objects found."""
    part = load_part(folder / "data" / "cache" / "train")
    assert part.masks is not None
    rows_of = {name: row for row, name in enumerate(part.ids)}
    indices = [part.classes.names.index(name) for name in _objects()]
    found: dict[int, list[dict[str, bool]]] = {index: [] for index in indices}
    dice: dict[tuple[str, int], list[float]] = {}
    wrong: Counter[tuple[str, int]] = Counter()
    for fold in folds:
        predictions = {model: folder / "data" / "predictions" / f"{model}-{fold}" for model in NAMES}
        ids = [str(name) for name in pd.read_csv(predictions[UNET] / "val_ids.csv", dtype=str)["id"]]
        stacks = {model: np.load(path / "val.npy", mmap_mode="r") for model, path in predictions.items()}
        for position, name in enumerate(ids):
            truth = np.array(part.masks[rows_of[name]])
            maps = {model: argmax_map(np.array(stack[position]), part.size) for model, stack in stacks.items()}
            objects = instances(truth, indices)
            for label, mask in zip(objects["labels"].tolist(), objects["masks"].numpy().astype(bool), strict=True):
                found[label].append({model: _covers(class_map == label, mask) for model, class_map in maps.items()})
            for model, class_map in maps.items():
                wrong.update({(model, index): _wrong(class_map, truth, index) for index in indices})
                for index in indices:
                    true, predicted = truth == index, class_map == index
                    if true.any() or predicted.any():
                        value = 2 * (true & predicted).sum() / (true.sum() + predicted.sum())
                        dice.setdefault((model, index), []).append(float(value))
    submitted = {model: _submitted(folder, model) for model in (*NAMES, "ensemble")}
    rows = []
    for index in indices:
        objects_found = pd.DataFrame(found[index], columns=list(NAMES), dtype=bool)
        missed = objects_found[~objects_found[UNET]]
        key = f"val/dice/{part.classes.slugs[index]}"
        rows.append(
            {
                "class": part.classes.names[index],
                "objects": len(objects_found),
                **{f"argmax Dice, {NAMES[model]}": np.mean(dice.get((model, index), [np.nan])) for model in NAMES},
                **{f"Dice, {NAMES.get(m, m)}": values.get(key, np.nan) for m, values in submitted.items()},
                **{f"found, {NAMES[model]}": int(objects_found[model].sum()) for model in NAMES},
                "of the missed": f"{int(missed[DETECTOR].sum())} of {len(missed)}",
                **{f"wrong, {NAMES[model]}": wrong[model, index] for model in NAMES},
            }
        )
    return pd.DataFrame(rows).to_markdown(index=False, floatfmt=".3f")


def _covers(predicted: BoolArray, mask: BoolArray) -> bool:
    """Whether half of an object's pixels are predicted."""
    return bool(2 * (predicted & mask).sum() >= mask.sum())


def _wrong(class_map: ClassMap, truth: ClassMap, index: int) -> int:
    """Predicted regions of a class without a pixel of it in the mask."""
    regions = instances(class_map, [index])["masks"].numpy().astype(bool)
    return sum(not bool((region & (truth == index)).any()) for region in regions)


if __name__ == "__main__":
    main()
