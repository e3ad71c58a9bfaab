"""Does the packaged model help on other photos with other classes? Fine-tuning against random weights, equal updates.

    .venv/bin/python benchmarks/fine_tuning.py [--seeds 3] [--epochs 4] [--keep FOLDER]

The data set is drawn: photos as of the demo, whose masks hold six classes, in colours, a third of them palette images.
Three of the names are those of the packaged model's classes. A new pipeline repository (`harveyseg init`) trains the
network of the preset `best` on it with `train.init: harvey25`, with ImageNet weights and with random weights; nothing
else differs. Scores are those of argmax maps of the held-out fold, without post-processing.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from ruamel.yaml import YAML

from harveyseg.classes import ClassList, SegmentationClass
from harveyseg.data.class_lists import write_classes
from harveyseg.data.demo import DemoParams, write_demo
from harveyseg.project import library_versions

CLASSES = ClassList(
    name="six",
    classes=(
        SegmentationClass(id=0, name="Other", color="#000000", scored=False),
        SegmentationClass(id=1, name="Building", color="#c02020"),
        SegmentationClass(id=2, name="Road / Highway", color="#808080"),
        SegmentationClass(id=3, name="Plants", color="#20a020"),
        SegmentationClass(id=4, name="Water Body", color="#2040d0"),
        SegmentationClass(id=5, name="Vehicle", color="#f0e020"),
    ),
)
FROM_DEMO = {1: 1, 2: 1, 7: 1, 8: 1, 14: 2, 5: 3, 6: 3, 21: 3, 3: 4, 22: 4, 23: 4, 4: 5}
"""The demo's class ids: the ids here. All others are `Other`."""
VARIANTS = {
    "random weights": ("train.init=null", "train.encoder_weights=null"),
    "ImageNet": ("train.init=null", "train.encoder_weights=imagenet"),
    "harvey25": ("train.init=harvey25", "train.encoder_weights=null"),
}


def main() -> None:
    """Draw the photos, train every variant with every seed, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--keep", type=Path, help="work in this folder, and leave it there")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.keep or Path(temporary)).resolve()
        project = folder / "project"
        if not project.exists():
            _draw(folder / "photos")
            _start(project, arguments.epochs)
        rows = []
        for variant, changes in VARIANTS.items():
            results = [_train(project, [*changes, f"train.seed={seed}"]) for seed in range(arguments.seeds)]
            rows.append({"start": variant, **_summary(results)})
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    versions = ", ".join(f"{name} {version}" for name, version in library_versions().items())
    print(f"{date.today()}; {versions}")
    print(f"{arguments.seeds} seeds, {arguments.epochs} epochs\n")
    print(pd.DataFrame(rows).to_markdown(index=False, floatfmt=".4f"))


def _draw(folder: Path) -> None:
    drawn = folder.with_name("drawn")
    write_demo(drawn, DemoParams(train=30, test=8, width=400))
    table = np.zeros(256, np.uint8)
    table[list(FROM_DEMO)] = list(FROM_DEMO.values())
    palette = np.array([list(bytes.fromhex(entry.color[1:])) for entry in CLASSES.classes], np.uint8)
    for part in ("train", "test"):
        shutil.copytree(drawn / f"{part}_images", folder / f"{part}_images")
        (folder / f"{part}_masks").mkdir()
        for number, path in enumerate(sorted((drawn / f"{part}_masks").iterdir())):
            ids = table[np.asarray(Image.open(path))]
            if number % 3:
                image = Image.fromarray(palette[ids])
            else:
                image = Image.fromarray(ids, mode="P")
                image.putpalette(palette.tobytes())
            image.save(folder / f"{part}_masks" / path.name)


def _start(project: Path, epochs: int) -> None:
    _call(project.parent, "harveyseg", "init", str(project))
    _call(project, "harveyseg", "preset", "best")
    write_classes(project / "classes.yaml", CLASSES)
    path = project / "params.yaml"
    yaml = YAML()
    params = yaml.load(path)
    params["data"] |= {"source": "directory", "path": "../photos", "inputs": "classes.yaml", "classes": "classes.yaml"}
    params["data"]["score_size"] = 256
    params["resize-cache"]["size"] = 256
    params["split"] |= {"folds": 3, "groups": "ids"}
    params["folds"] = [0]
    params["train"] |= {"epochs": epochs, "init": None}
    params["train"]["augmentation"]["crop"] = 128
    params["train"]["sampling"]["crops_per_photo"] = 4
    params["inference"]["tta"] = "none"
    yaml.dump(params, path)
    for command in (["add", "-A"], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "start"]):
        subprocess.run(["git", *command], cwd=project, check=True)


def _train(project: Path, changes: list[str]) -> dict[str, float]:
    settings = [part for change in changes for part in ("-S", change)]
    _call(project, "dvc", "exp", "run", *settings, "evaluate")
    (metrics,) = project.glob("data/predictions/*/metrics.json")
    values: dict[str, float] = json.loads(metrics.read_text())
    return values


def _summary(results: list[dict[str, float]]) -> dict[str, float]:
    table = pd.DataFrame(results)
    keys = {"argmax score": "val/argmax_score", "macro Dice": "val/argmax_macro_dice", "mIoU": "val/miou"}
    summary = {name: float(table[key].mean()) for name, key in keys.items()}
    return {**summary, "least mIoU": float(table["val/miou"].min()), "greatest mIoU": float(table["val/miou"].max())}


def _call(folder: Path, *command: str) -> None:
    environment = {**os.environ, "PATH": f"{sys.prefix}/bin{os.pathsep}{os.environ['PATH']}"}
    subprocess.run(command, cwd=folder, env=environment, stdout=sys.stderr, check=True)


if __name__ == "__main__":
    main()
