"""Scores, learning curves and Dice of each class of all models, collected from the files of the stages before.

DVC shows every number of a metrics file in a column of its own, so there is one small file for the whole pipeline, and
tables for its charts. Nothing is computed here: all numbers are those of the other files.
"""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from harveyseg.classes import slug
from harveyseg.errors import HarveysegError
from harveyseg.files import read_json, read_table, write_table, write_text
from harveyseg.palette import model_colours
from harveyseg.record import ALL_EMPTY, ENSEMBLE, POOLED, read_run
from harveyseg.training.history import read_history

PARTS = {"val": "held-out photos", "test": "test photos"}
CURVES = {
    "train_loss": "training loss",
    "val_loss": "validation loss",
    "val_argmax_score": "argmax score of the held-out photos",
}
"""Columns of ``history.csv`` that are drawn, and their titles."""

_LONG = 10
"""Names of models that have more characters are cut in the file of scores."""
_REMEDY = "Run `dvc repro`."


@dataclass(frozen=True)
class PipelineFiles:
    """Which files the pipeline's stages have written."""

    models: Sequence[str]
    """In the order of ``params.yaml``."""
    folds: Sequence[int]
    trained: Path
    """Holds ``<model>-<fold>/run.json`` and ``history.csv``."""
    ensemble: Path
    """Holds ``run.json``, ``metrics.json`` and ``per_class.csv``."""
    scores: Path
    """Holds ``<model>.json`` and ``ensemble.json``, written by the stage ``postprocess``."""

    def postprocessed(self, source: str) -> dict[str, Any]:
        """The metrics of a model over the photos of all its folds, or of the ensemble.

        Raises:
            HarveysegError: when the file is absent, damaged, or of other runs than those that are there.
        """
        path = self.scores / f"{source}.json"
        content = read_json(path, _REMEDY)
        folders = [self.ensemble]
        if source != ENSEMBLE:
            folders = [self.trained / f"{source}-{fold}" for fold in self.folds]
        expected = {read_run(folder / "run.json").uid for folder in folders}
        runs = content.get("runs", [])
        if {run.get("uid") for run in runs} != expected or "val/score" not in content:
            raise HarveysegError(f"{path}: is not of the runs in {', '.join(map(str, folders))}. {_REMEDY}")
        return content


def collect_scores(files: PipelineFiles) -> pd.DataFrame:
    """The scores of what is submitted, of each model and of the ensemble.

    Args:
        files: of the stages before.

    Returns:
        The columns ``model``, ``part`` (see :data:`PARTS`), ``score`` and ``all_empty``, the score of submitting
        nothing for the same photos. A part without known masks has no rows.

    Raises:
        HarveysegError: when a file is absent, damaged or of another run.
    """
    evaluated = read_json(files.ensemble / "metrics.json", _REMEDY)
    rows = []
    for source in (*files.models, ENSEMBLE):
        content = files.postprocessed(source)
        for part, title in PARTS.items():
            if f"{part}/score" not in content:
                continue
            # Over the photos of all folds, as the score is. The ensemble's own metrics are of all of them.
            pooled = evaluated if source == ENSEMBLE else content["runs"][0]
            name = f"{part}/all_empty_score"
            baseline = pooled[name if source == ENSEMBLE else f"{POOLED}{name}"]
            rows.append({"model": source, "part": title, "score": content[f"{part}/score"], "all_empty": baseline})
    return pd.DataFrame(rows, columns=["model", "part", "score", "all_empty"])


def collect_curves(files: PipelineFiles) -> pd.DataFrame:
    """The learning curves of all fold models.

    Args:
        files: of the stages before.

    Returns:
        The columns ``model``, ``fold``, ``epoch``, ``curve`` (see :data:`CURVES`) and ``value``; epochs that were not
        validated have no rows of the validation.

    Raises:
        HarveysegError: when a history is absent or damaged.
    """
    tables = []
    for model in files.models:
        for fold in files.folds:
            history = read_history(files.trained / f"{model}-{fold}" / "history.csv").rename(columns=CURVES)
            long = history.melt("epoch", list(CURVES.values()), var_name="curve").dropna()
            tables.append(long.assign(model=model, fold=fold))
    return pd.concat(tables)[["model", "fold", "epoch", "curve", "value"]]


def collect_class_dice(files: PipelineFiles) -> pd.DataFrame:
    """Dice of what is submitted for each class that the held-out photos show, of each model and of the ensemble.

    Args:
        files: of the stages before.

    Returns:
        The columns ``model``, ``class`` (e.g. "05 Grass", as in ``confusion.csv``) and ``dice``, the mean over the
        photos that hold the class.

    Raises:
        HarveysegError: when a file is absent, damaged or of another run.
    """
    prefix = "val/dice/"
    classes = read_table(files.ensemble / "per_class.csv", {"class": int, "name": str}, _REMEDY)
    labels = {
        slug(number, name): f"{number:02d} {name}"
        for number, name in zip(classes["class"].tolist(), classes["name"].tolist(), strict=True)
    }
    rows = [
        {"model": source, "class": labels[name.removeprefix(prefix)], "dice": dice}
        for source in (*files.models, ENSEMBLE)
        for name, dice in files.postprocessed(source).items()
        if name.startswith(prefix)
    ]
    return pd.DataFrame(rows, columns=["model", "class", "dice"])


def pipeline_metrics(scores: pd.DataFrame) -> dict[str, float]:
    """The scores of the held-out photos by :func:`short_names`: the ensemble's, the baseline's, each model's.

    Args:
        scores: from :func:`collect_scores`.
    """
    held_out = scores[scores["part"] == PARTS["val"]]
    of_model = dict(zip(held_out["model"].astype(str), held_out["score"].tolist(), strict=True))
    names = short_names([model for model in of_model if model != ENSEMBLE])
    return {
        ENSEMBLE: of_model[ENSEMBLE],
        ALL_EMPTY: held_out["all_empty"].tolist()[-1],
        **{name: of_model[model] for model, name in names.items()},
    }


def short_names(models: Sequence[str]) -> dict[str, str]:
    """Names that fit the columns of ``dvc exp show``.

    Long names keep four letters of each word, or eight if they are one word. If two models would then share a name,
    all keep their own.

    Example:
        >>> short_names(["unet", "unetplusplus", "efficientnet_b1"])
        {'unet': 'unet', 'unetplusplus': 'unetplus', 'efficientnet_b1': 'effi_b1'}
        >>> short_names(["efficientnet_b1", "efficientlite_b1"])
        {'efficientnet_b1': 'efficientnet_b1', 'efficientlite_b1': 'efficientlite_b1'}
    """
    names = {}
    for model in models:
        short = model[:8] if model.isalpha() else re.sub(r"([A-Za-z]{4})[A-Za-z]+", r"\1", model)
        names[model] = short if len(model) > _LONG else model
    repeated = Counter([*names.values(), ENSEMBLE, ALL_EMPTY]).most_common(1)[0][1] > 1
    return {model: model for model in models} if repeated else names


def write_overview(folder: Path, files: PipelineFiles) -> dict[str, float]:
    """Write ``scores.json``, ``scores.csv``, ``learning_curves.csv`` and ``class_dice.csv``.

    Args:
        folder: e.g. ``data/metrics``.
        files: of the stages before.

    Returns:
        What ``scores.json`` holds.

    Raises:
        HarveysegError: when a file is absent, damaged or of another run.
    """
    scores = collect_scores(files)
    metrics = pipeline_metrics(scores)
    colours = model_colours([*files.models, ENSEMBLE])
    for name, table in (("scores", scores), ("learning_curves", collect_curves(files))):
        write_table(folder / f"{name}.csv", table.assign(colour=table["model"].map(colours)))
    write_table(folder / "class_dice.csv", collect_class_dice(files))
    # Not sorted by name: DVC shows columns in this order.
    write_text(folder / "scores.json", json.dumps(metrics, indent=2, allow_nan=False) + "\n")
    return metrics
