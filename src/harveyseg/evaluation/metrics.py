"""From probabilities and true masks to ``metrics.json``, tables and figures of one run, all of its argmax maps."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from harveyseg.arrays import ClassMaps, Confusions, ProbabilityMaps
from harveyseg.classes import CLASS_NAMES, N_CLASSES
from harveyseg.data.cache import CachedPart, load_score_masks
from harveyseg.errors import HarveysegError
from harveyseg.evaluation.figures import PredictionGrid, confusion_figure
from harveyseg.files import write_json, write_table
from harveyseg.inference.probabilities import argmax_map
from harveyseg.record import RunRecord
from harveyseg.score import argmax_metrics, confusion, image_dice, image_scores

MetricsFile = Mapping[str, float | int | str | None]
"""The content of ``metrics.json``."""


def true_masks(folder: Path) -> dict[str, ClassMaps]:
    """The masks at the scoring size, uint8 (N, 1024, 1024).

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


def evaluation_record(record: RunRecord, confusions: Mapping[str, Confusions]) -> MetricsFile:
    """The content of ``metrics.json``.

    Args:
        record: the run that is evaluated.
        confusions: of the argmax maps of each part, ``val`` and, where test masks are known, ``test``.

    Returns:
        run_id, uid, model and fold, then ``<part>/<metric>``, see :func:`harveyseg.score.argmax_metrics` and
        :func:`presence_errors`.
    """
    identity = {"run_id": record.run_id, "uid": record.uid, "model": record.model, "fold": record.fold}
    return identity | {
        f"{part}/{name}": value
        for part, counts in confusions.items()
        for name, value in (argmax_metrics(counts) | presence_errors(counts)).items()
    }


def presence_errors(confusions: Confusions) -> dict[str, float]:
    """Count the classes whose presence is wrong. A false-positive class costs its whole (photo, class).

    Returns:
        ``false_positive_classes``: classes 1..24 that are predicted but absent, mean number per photo;
        ``missed_classes``: classes 1..24 that are present but not predicted at all, mean number per photo;
        ``predicted_classes``: classes 1..24 that are predicted, mean number per photo.
    """
    present = confusions.sum(2)[:, 1:] > 0
    predicted = confusions.sum(1)[:, 1:] > 0
    return {
        "false_positive_classes": float((predicted & ~present).sum(1).mean()),
        "missed_classes": float((present & ~predicted).sum(1).mean()),
        "predicted_classes": float(predicted.sum(1).mean()),
    }


def logged_metrics(entries: MetricsFile) -> dict[str, float]:
    """The metrics alone: the entries of ``metrics.json`` named ``<part>/<metric>``, without the ids and notes."""
    return {name: float(value) for name, value in entries.items() if "/" in name and isinstance(value, float)}


def per_class_table(confusions: Mapping[str, Confusions]) -> pd.DataFrame:
    """What the argmax maps of each class contribute to the argmax score.

    Returns:
        One row per part and class 1..24, with the columns
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
                "class": np.arange(N_CLASSES),
                "name": CLASS_NAMES,
                "photos": present.sum(0),
                "predicted": predicted.sum(0),
                "argmax_score": dice.mean(0),
                "all_empty_score": 1 - present.mean(0),
                "argmax_dice": np.where(present, dice, 0).sum(0) / present.sum(0),
                "iou": both / (true_pixels + predicted_pixels - both),
                "precision": both / predicted_pixels,
                "recall": both / true_pixels,
            }
        tables.append(pd.DataFrame(columns).iloc[1:])
    return pd.concat(tables, ignore_index=True)


def confusion_table(confusions: Confusions) -> pd.DataFrame:
    """The confusion of all pixels in the form of DVC's plot template ``confusion``, which counts rows.

    Returns:
        The columns actual and predicted, e.g. "05 Grass"; 100 rows for each class that occurs in the truth, so that
        a row is one percent of its pixels (rounded by largest remainder).
    """
    summed = confusions.sum(0)
    names = np.array([f"{class_id:02d} {name}" for class_id, name in enumerate(CLASS_NAMES)])
    rows: list[npt.NDArray[np.str_]] = []
    for actual in np.flatnonzero(summed.sum(1)):
        percent = 100 * summed[actual] / summed[actual].sum()
        counts = np.floor(percent).astype(int)
        counts[np.argsort(counts - percent, kind="stable")[: 100 - counts.sum()]] += 1
        rows.append(np.stack((np.repeat(names[actual], 100), np.repeat(names, counts)), axis=1))
    return pd.DataFrame(np.concatenate(rows), columns=["actual", "predicted"])


def nested_entry(confusions: Confusions | None) -> MetricsFile:
    """The entry of ``metrics.json`` for the nested estimate of the ensemble's argmax score.

    Args:
        confusions: of the photos, each with the weights chosen without its fold; None when there is only one fold.
    """
    if confusions is None:
        return {"note": "val/nested_argmax_score is not available: with one fold, weights cannot be chosen without it."}
    return {"val/nested_argmax_score": float(image_scores(confusions).mean())}


def write_evaluation(
    folder: Path, record: RunRecord, confusions: Mapping[str, Confusions], more: MetricsFile
) -> dict[str, float]:
    """Write metrics.json, per_class.csv, confusion.csv and confusion.png.

    Args:
        folder: where to write.
        record: the run that is evaluated.
        confusions: of the argmax maps of each part; the confusion matrix is that of ``val``.
        more: further entries of metrics.json.

    Returns:
        The metrics, named ``<part>/<metric>``.
    """
    entries = {**evaluation_record(record, confusions), **more}
    tables = {"per_class.csv": per_class_table(confusions), "confusion.csv": confusion_table(confusions["val"])}
    for name, table in tables.items():
        write_table(folder / name, table, float_format="%.6f")
    title = f"{record.name}: argmax maps of the held-out photos, argmax score {entries['val/argmax_score']:.3f}"
    confusion_figure(confusions["val"].sum(0), folder / "confusion.png", title)
    write_json(folder / "metrics.json", entries)
    return logged_metrics(entries)


def prediction_grid(
    part: CachedPart,
    rows: Sequence[int],
    truth: ClassMaps,
    columns: Mapping[str, Callable[[int], ProbabilityMaps]],
    photos: int,
) -> PredictionGrid:
    """Some photos, evenly spaced, with true and argmax maps: the same ones for every model of a fold.

    Args:
        part: the cached photos.
        rows: the photos to choose from, as rows of ``part``.
        truth: masks at the scoring size, uint8 (N, 1024, 1024), rows as in ``part``.
        columns: per column, from a position in ``rows`` to the photo's probabilities, uint8 (25, H, W).
        photos: the largest number of photos.
    """
    positions = np.unique(np.linspace(0, len(rows) - 1, photos).round().astype(int)).tolist()
    masks = [np.array(truth[rows[position]]) for position in positions]
    predictions = {name: [argmax_map(column(position)) for position in positions] for name, column in columns.items()}
    table = part.photos.iloc[[rows[position] for position in positions]]
    return PredictionGrid(
        names=list(table["id"]),
        photos=[np.array(part.images[rows[position]]) for position in positions],
        shapes=list(zip(table["width"], table["height"], strict=True)),
        # Scored at full size; a panel shows no more than every second pixel.
        columns={
            name: [classes[::2, ::2] for classes in maps] for name, maps in {"truth": masks, **predictions}.items()
        },
        notes={
            name: [
                f"argmax score {image_scores(confusion(mask, classes)):.3f}"
                for mask, classes in zip(masks, maps, strict=True)
            ]
            for name, maps in predictions.items()
        },
    )
