"""The report's studies on a folder of photos, at 128 and 256 pixels, for hours and in any number of sittings.

    .venv/bin/python benchmarks/studies.py FOLDER_OF_PHOTOS --groups FILE.csv:COLUMN --keep FOLDER [--jobs 2] [--dry-run]

What decides most comes first, see PLAN. Each photo size has a clone of this repository in FOLDER, with the preset
`report-small` on these photos: three folds, each held out in turn, and 435 updates or a few more. The clones keep the
commit from which they were made: other code would train everything again.

After each finished trial (a variant with a seed, on all folds) all runs so far are written to
FOLDER/studies-<size>.jsonl. `harveyseg results --runs` makes RESULTS.md of these files, also of a part of the plan.
However it is stopped, also by SIGKILL, the same command goes on: what is finished is kept, and a training continues
after its last finished epoch.

One thread for each training and as many trainings as cores take less time than one that uses all cores.
--dry-run runs nothing: it times a few batches of each network alone on one core, and prints how long the plan takes.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ruamel.yaml import YAML

from harveyseg.classes import HARVEY25
from harveyseg.data.normalisation import normalise
from harveyseg.device import autocast, resolve_precision
from harveyseg.models.network import build
from harveyseg.reproduction.studies import StudyRecipe, Trial, find_study, study_trials, study_variants

ROOT = Path(__file__).resolve().parents[1]
UPDATES = 435
"""As many as 25 epochs of the report's 261 photos in batches of 15."""
FOLDS = 3
BATCH = 15
EPOCHS = 25
BESIDE_TRAINING = 150
"""Seconds that a trial of three folds takes beside its batches: see LOG.md."""
TIMED_BATCHES = 3


@dataclass(frozen=True)
class Part:
    """Studies that run with one command: its trials are in the order of the names, then of variants and seeds."""

    size: int
    """Height and width of the photos, in pixels."""
    studies: tuple[str, ...]
    seeds: int


PLAN = (
    Part(128, ("softmax",), 6),
    Part(128, ("class_weights", "batch_norm", "adaptive_lr", "discriminative_lr", "dropout"), 3),
    Part(128, ("epochs", "size"), 3),
    Part(256, ("softmax",), 6),
    Part(256, ("class_weights",), 3),
    Part(256, ("architecture",), 3),
    # Networks of width 64 take fifteen times as long. All trials undone are such a network on photos of 256 pixels.
    Part(128, ("channels",), 3),
    Part(128, ("all_trials",), 3),
)
"""Everything, what decides most for its time first."""


def main() -> None:
    """Run the plan, or print how long it takes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="folder in the Kaggle layout")
    parser.add_argument("--groups", required=True, help="which photos overlap, e.g. overlap_groups.csv:group_strict")
    parser.add_argument("--keep", type=Path, required=True, help="folder of the clones and of the exported runs")
    parser.add_argument("--jobs", type=int, default=2, help="trials at a time, each with one thread")
    parser.add_argument("--dry-run", action="store_true", help="only print the plan, and how long it takes here")
    parser.add_argument("-S", dest="changes", action="append", default=[], help="change params.yaml, for a short trial")
    arguments = parser.parse_args()
    training_photos = len(list((arguments.photos / "train_masks").rglob("*.png")))
    if not training_photos:
        parser.error(f"{arguments.photos / 'train_masks'}: no masks (*.png)")
    file, _, column = arguments.groups.partition(":")
    if not Path(file).is_file():
        parser.error(f"--groups {file}: no such file")
