"""A small recipe, and trainings with it."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from harveyseg.config.settings import merge, parse
from harveyseg.data.cache import CachedPart
from harveyseg.training.checkpoint import Checkpoint
from harveyseg.training.params import TrainParams
from harveyseg.training.trainer import Result, Training

SPEC: dict[str, Any] = {"network": "unet", "width": 4, "dropout": 0.2}
RECIPE: dict[str, Any] = {
    "epochs": 3, "batch_size": 4, "lr": 0.01, "seed": 0, "device": "cpu", "precision": "fp32", "threads": 1,
    "workers": 0, "encoder_weights": None, "class_weights": "none", "loss": {},
    "optimiser": {"name": "adam", "weight_decay": 0.0001},
    "schedule": {"name": "constant", "plateau_patience": 1},
    "validation": {"monitor": "argmax_score", "keep": "best", "early_stopping": None},
    "augmentation": {},
}  # fmt: skip


def train_params(**changes: Any) -> TrainParams:
    """The recipe, changed key by key."""
    return parse(TrainParams, merge(RECIPE, changes), "train")


def make_training(part: CachedPart, folder: Path, spec: dict[str, Any] = SPEC, **changes: Any) -> Training:
    """A training on eight of twelve photos, with the same photos as test part."""
    unlabelled = dataclasses.replace(part, masks=None)
    rows, held_out = np.arange(8), np.arange(8, 12)
    return Training(spec, train_params(**changes), part, rows, held_out, Checkpoint(folder, "key"), unlabelled)


def train(part: CachedPart, folder: Path, spec: dict[str, Any] = SPEC, **changes: Any) -> Result:
    training = make_training(part, folder, spec, **changes)
    list(training.run())
    return training.result()
