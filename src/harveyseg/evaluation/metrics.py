"""From confusions of argmax maps to the metrics and tables of one run."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from harveyseg.arrays import ClassMaps, Confusions
from harveyseg.classes import ClassList
from harveyseg.data.cache import load_score_masks
from harveyseg.errors import HarveysegError
from harveyseg.record import RunRecord
from harveyseg.score import argmax_metrics, image_dice, image_scores

MetricsFile = Mapping[str, float | int | str | None]
"""The content of ``metrics.json``."""


def true_masks(folder: Path) -> dict[str, ClassMaps]:
    """The masks at the score's size, uint8 (N, H, W).

    Args:
        folder: ``data/cache/score``.

    Returns:
        ``val``: of all training photos; ``test``: of the test photos, only where they are known.

    Raises:
        HarveysegError: when those of the training photos are absent or damaged.
    """
    val = load_score_masks(folder, "train")
    test = load_score_masks(folder, "test")
    if val is None:
        raise HarveysegError(f"{folder}: holds no masks of the training photos. Run `dvc repro resize-cache`.")
    return {"val": val} if test is None else {"val": val, "test": test}


def evaluation_record(record: RunRecord, confusions: Mapping[str, Confusions], classes: ClassList) -> MetricsFile:
    """The content of ``metrics.json``.

    Args:
        record: the run that is evaluated.
        confusions: of the argmax maps of each part, ``val`` and, where test masks are known, ``test``.
        classes: what they are.

    Returns:
        run_id, uid, model and fold, then ``<part>/<metric>``, see :func:`class_map_metrics`.
    """
    identity = {"run_id": record.run_id, "uid": record.uid, "model": record.model, "fold": record.fold}
    return identity | {
        f"{part}/{name}": value
        for part, counts in confusions.items()
        for name, value in class_map_metrics(counts, classes).items()
    }


def class_map_metrics(confusions: Confusions, classes: ClassList) -> dict[str, float]:
    """All metrics of the class maps of some photos.

    Args:
        confusions: int64 (n, C, C), one for each photo.
        classes: what they are.

    Returns:
        See :func:`harveyseg.score.argmax_metrics` and :func:`presence_errors`.
    """
    return argmax_metrics(confusions, classes) | presence_errors(confusions, classes.unscored)


def presence_errors(confusions: Confusions, unscored: int) -> dict[str, float]:
    """Count the classes whose presence is wrong. A false-positive class costs its whole (photo, class).

    Returns:
        ``false_positive_classes``: scored classes that are predicted but absent, mean number per photo;
        ``missed_classes``: scored classes that are present but not predicted at all, mean number per photo;
        ``predicted_classes``: scored classes that are predicted, mean number per photo.
    """
    present = confusions.sum(2)[:, unscored:] > 0
    predicted = confusions.sum(1)[:, unscored:] > 0
    return {
        "false_positive_classes": float((predicted & ~present).sum(1).mean()),
        "missed_classes": float((present & ~predicted).sum(1).mean()),
        "predicted_classes": float(predicted.sum(1).mean()),
    }


def logged_metrics(entries: MetricsFile) -> dict[str, float]:
    """The metrics alone: the entries of ``metrics.json`` named ``<part>/<metric>``, without the ids and notes."""
    return {name: float(value) for name, value in entries.items() if "/" in name and isinstance(value, float)}


def per_class_table(confusions: Mapping[str, Confusions], classes: ClassList) -> pd.DataFrame:
    """What the argmax maps of each class contribute to the argmax score.

    Returns:
        One row per part and scored class, with the columns
        ``photos``, ``predicted``: photos that hold the class, in the truth and in the argmax map;
        ``argmax_score``, ``all_empty_score``: mean Dice over all photos, and that of leaving the class empty;
        ``argmax_dice``: mean Dice over the photos that hold the class;
        ``iou``, ``precision``, ``recall``: of the argmax maps' pixels, summed over the photos. Empty where undefined.
    """
    tables = []
    for part, counts in confusions.items():
        dice = image_dice(counts)
        present = counts.sum(2) > 0
        predicted = counts.sum(1) > 0
        summed = counts.sum(0).astype(np.float64)
        both = np.diagonal(summed)
        true_pixels = summed.sum(1)
        predicted_pixels = summed.sum(0)
        with np.errstate(invalid="ignore"):  # 0 / 0 is NaN: undefined
            columns = {
                "part": part,
                "class": classes.ids[: len(classes)],
                "name": classes.names,
                "photos": present.sum(0),
                "predicted": predicted.sum(0),
                "argmax_score": dice.mean(0),
                "all_empty_score": 1 - present.mean(0),
                "argmax_dice": np.where(present, dice, 0).sum(0) / present.sum(0),
                "iou": both / (true_pixels + predicted_pixels - both),
                "precision": both / predicted_pixels,
                "recall": both / true_pixels,
            }
        tables.append(pd.DataFrame(columns).iloc[classes.unscored :])
    return pd.concat(tables, ignore_index=True)


def confusion_table(confusions: Confusions, classes: ClassList) -> pd.DataFrame:
    """The confusion of all pixels in the form of DVC's plot template ``confusion``, which counts rows.

    Returns:
        The columns actual and predicted, e.g. "05 Grass"; 100 rows for each class that occurs in the truth, so that
        a row is one percent of its pixels (rounded by largest remainder).
    """
    summed = confusions.sum(0)
    names = np.array([f"{entry.id:02d} {entry.name}" for entry in classes.classes])
    rows: list[npt.NDArray[np.str_]] = []
    for actual in np.flatnonzero(summed.sum(1)):
        percent = 100 * summed[actual] / summed[actual].sum()
        counts = np.floor(percent).astype(int)
        counts[np.argsort(counts - percent, kind="stable")[: 100 - counts.sum()]] += 1
        rows.append(np.stack((np.repeat(names[actual], 100), np.repeat(names, counts)), axis=1))
    return pd.DataFrame(np.concatenate(rows), columns=["actual", "predicted"])


def nested_entry(confusions: Confusions | None, unscored: int) -> MetricsFile:
    """The entry of ``metrics.json`` for the nested estimate of the ensemble's argmax score.

    Args:
        confusions: of the photos, each with the weights chosen without its fold; None when there is only one fold.
        unscored: number of classes that are not scored.
    """
    if confusions is None:
        return {"note": "val/nested_argmax_score is not available: with one fold, weights cannot be chosen without it."}
    return {"val/nested_argmax_score": float(image_scores(confusions, unscored).mean())}
