"""Flood maps from drone photographs: a DVC pipeline whose every training is an MLflow run.

>>> from harveyseg import Predictor, Workspace

Nothing is imported here before it is asked for, so ``import harveyseg`` takes no time. An ``import`` statement in this
file would also make every stage depend on that module (see ``harveyseg.pipeline.code``), and rerun with its every edit.
Type checkers read ``__init__.pyi``.
"""

import importlib
from typing import Any

_PUBLIC = {
    "Data": "harveyseg.workspace",
    "Evaluation": "harveyseg.workspace",
    "Prediction": "harveyseg.prediction.api",
    "Predictor": "harveyseg.prediction.api",
    "Workspace": "harveyseg.workspace",
}
"""Where each public name is defined."""


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)
