"""The report's recipe on a folder of real photos, in a fresh clone: U-Net, U-Net++ and MobileNetV2, then the table.

    .venv/bin/python benchmarks/photos.py FOLDER_OF_PHOTOS [--keep FOLDER] [-S KEY=VALUE ...]

Encoders start from random weights (`encoder_weights: null`): no network is needed. Any -S goes to `dvc exp run`.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import pandas as pd

from harveyseg.project import library_versions

ROOT = Path(__file__).resolve().parents[1]
LEFT_OUT = ("attention_unet", "efficientnet_b1", "efficientnet_b2", "efficientnet_b3")


def main() -> None:
    """Clone, apply the preset, run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path, help="folder in the Kaggle layout")
    parser.add_argument("--keep", type=Path, help="clone to this folder and keep it")
    parser.add_argument("-S", dest="changes", action="append", default=[], help="further changes of params.yaml")
    arguments = parser.parse_args()
    environment = {**os.environ, "VIRTUAL_ENV": sys.prefix, "PATH": f"{sys.prefix}/bin{os.pathsep}{os.environ['PATH']}"}
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary) / "clone"

        def call(*command: str) -> None:
            subprocess.run(command, cwd=folder, env=environment, stdout=sys.stderr, check=True)

        folder.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["git", "clone", "-q", str(ROOT), str(folder)], check=True)
        call("harveyseg", "preset", "report")
        changes = [
            "data.source=directory",
            f"data.path={arguments.photos.resolve()}",
            "train.encoder_weights=null",
            *(f"~models.{model}" for model in LEFT_OUT),
            *arguments.changes,
        ]
        started = time.perf_counter()
        call("dvc", "exp", "run", *(part for change in changes for part in ("-S", change)))
        minutes = (time.perf_counter() - started) / 60
        rows = len(pd.read_csv(folder / "data" / "submission" / "submission.csv"))
        versions = ", ".join(f"{name} {version}" for name, version in library_versions().items())
        print(f"{date.today()}, {minutes:.1f} minutes, submission.csv has {rows} rows; {versions}\n")
        print((folder / "data" / "reports" / "comparison.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
