"""What an evaluation writes of one run: ``metrics.json``, tables and figures. All are of argmax maps.

The metrics themselves are in :mod:`harveyseg.evaluation.metrics`, which needs no matplotlib.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from harveyseg.arrays import ClassMaps, Confusions, ProbabilityMaps
from harveyseg.classes import ClassList
from harveyseg.data.cache import CachedPart
from harveyseg.evaluation.figures import PredictionGrid, confusion_figure
from harveyseg.evaluation.metrics import (
    MetricsFile,
    confusion_table,
    evaluation_record,
    logged_metrics,
    per_class_table,
)
from harveyseg.files import write_json, write_table
from harveyseg.inference.probabilities import argmax_map
from harveyseg.record import RunRecord
from harveyseg.score import confusion, image_scores


def write_evaluation(
    folder: Path, record: RunRecord, confusions: Mapping[str, Confusions], classes: ClassList, more: MetricsFile
) -> dict[str, float]:
    """Write metrics.json, per_class.csv, confusion.csv and confusion.png.

    Args:
        folder: where to write.
        record: the run that is evaluated.
        confusions: of the argmax maps of each part; the confusion matrix is that of ``val``.
        classes: what they are.
        more: further entries of metrics.json.

    Returns:
        The metrics, named ``<part>/<metric>``.
    """
    entries = {**evaluation_record(record, confusions, classes), **more}
    tables = {
        "per_class.csv": per_class_table(confusions, classes),
        "confusion.csv": confusion_table(confusions["val"], classes),
    }
    for name, table in tables.items():
        write_table(folder / name, table, float_format="%.6f")
    title = f"{record.name}: argmax maps of the held-out photos, argmax score {entries['val/argmax_score']:.3f}"
    confusion_figure(confusions["val"].sum(0), classes, folder / "confusion.png", title)
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
        truth: masks at the score's size, uint8 (N, H, W), rows as in ``part``.
        columns: per column, from a position in ``rows`` to the photo's probabilities, uint8 (C, H, W).
        photos: the largest number of photos.
    """
    positions = np.unique(np.linspace(0, len(rows) - 1, photos).round().astype(int)).tolist()
    masks = [np.array(truth[rows[position]]) for position in positions]
    size = (truth.shape[1], truth.shape[2])
    predictions = {
        name: [argmax_map(column(position), size) for position in positions] for name, column in columns.items()
    }
    classes = part.classes
    table = part.photos.iloc[[rows[position] for position in positions]]
    return PredictionGrid(
        names=list(table["id"]),
        photos=[np.array(part.images[rows[position]]) for position in positions],
        shapes=list(zip(table["width"], table["height"], strict=True)),
        # Scored at full size; a panel shows no more than every second pixel.
        columns={name: [own[::2, ::2] for own in maps] for name, maps in {"truth": masks, **predictions}.items()},
        classes=classes,
        notes={
            name: [
                f"argmax score {image_scores(confusion(mask, predicted, len(classes)), classes.unscored):.3f}"
                for mask, predicted in zip(masks, maps, strict=True)
            ]
            for name, maps in predictions.items()
        },
    )
