"""From probabilities and true masks to ``metrics.json``, tables and figures of one run."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from harveyseg.cache import CachedPart
from harveyseg.classes import CLASS_NAMES, N_CLASSES
from harveyseg.figures import Sheet, confusion_figure
from harveyseg.files import write_json, write_text
from harveyseg.probabilities import label_map
from harveyseg.runs import RunRecord
from harveyseg.score import SCORE_SIZE, confusion, image_dice, image_scores, metrics

Confusions = npt.NDArray[np.int64]
"""int64 (n, 25, 25): one confusion count per photo, rows the truth."""

_SHEET_PHOTOS = 4


def count_confusions(
    probabilities: Callable[[int], npt.NDArray[np.uint8]],
    truth: npt.NDArray[np.uint8],
    rows: Sequence[int],
    threads: int,
) -> Confusions:
    """Confusion of each photo at the scoring size.

    Args:
        probabilities: from a position in ``rows`` to the photo's probabilities, uint8 (25, H, W).
        truth: masks at the scoring size, uint8 (N, 1024, 1024).
        rows: the photos' rows in ``truth``.
        threads: photos counted side by side; does not change the result.

    Returns:
        int64 (len(rows), 25, 25).
    """

    def count(position: int) -> npt.NDArray[np.int64]:
        return confusion(truth[rows[position]], label_map(probabilities(position), SCORE_SIZE))

    with ThreadPoolExecutor(threads) as pool:  # OpenCV and NumPy release the lock
        return np.stack(list(pool.map(count, range(len(rows)))))


def metrics_record(record: RunRecord, confusions: Mapping[str, Confusions]) -> dict[str, float | int | str | None]:
    """The content of ``metrics.json``.

    Args:
        record: the run that is evaluated.
        confusions: per part, ``val`` and, where test masks are known, ``test``.

    Returns:
        run_id, uid, model and fold, then ``<part>/<metric>``, see :func:`harveyseg.score.metrics`.
    """
    identity = {"run_id": record.run_id, "uid": record.uid, "model": record.model, "fold": record.fold}
    return identity | {f"{part}/{name}": value for part, counts in confusions.items() for name, value in metrics(counts).items()}


def scores_of(found: Mapping[str, float | int | str | None]) -> dict[str, float]:
    """The metrics alone, as they are logged: the entries of ``metrics.json`` named ``<part>/<metric>``."""
    return {name: float(value) for name, value in found.items() if "/" in name and isinstance(value, float)}


def per_class(confusions: Mapping[str, Confusions]) -> pd.DataFrame:
    """What each class contributes to the score.

    Returns:
        One row per part and class 1..24, with the columns
        ``photos``, ``predicted``: photos that hold the class, in truth and in the prediction;
        ``score``, ``empty_score``: mean Dice over all photos, and what leaving the class empty would give;
        ``dice``: mean Dice over the photos that hold the class;
        ``iou``, ``precision``, ``recall``: of the pixels summed over the photos. Empty where undefined.
    """
    tables = []
    for part, counts in confusions.items():
        dice, present, claimed = image_dice(counts), counts.sum(2) > 0, counts.sum(1) > 0
        summed = counts.sum(0)
        both, true, said = (values.astype(np.float64) for values in (np.diagonal(summed), summed.sum(1), summed.sum(0)))
        with np.errstate(invalid="ignore"):  # 0 / 0 is NaN: undefined
            columns = {
                "part": part,
                "class": np.arange(N_CLASSES),
                "name": CLASS_NAMES,
                "photos": present.sum(0),
                "predicted": claimed.sum(0),
                "score": dice.mean(0),
                "empty_score": 1 - present.mean(0),
                "dice": np.where(present, dice, 0).sum(0) / present.sum(0),
                "iou": both / (true + said - both),
                "precision": both / said,
                "recall": both / true,
            }
        tables.append(pd.DataFrame(columns).iloc[1:])
    return pd.concat(tables, ignore_index=True)


def confusion_table(confusions: Confusions) -> pd.DataFrame:
    """The summed confusion in long form: actual, predicted, pixels, share (of the actual class; 0 where it is absent)."""
    summed = confusions.sum(0)
    shares = summed / np.maximum(summed.sum(1, keepdims=True), 1)
    return pd.DataFrame(
        {
            "actual": np.repeat(CLASS_NAMES, N_CLASSES),
            "predicted": np.tile(CLASS_NAMES, N_CLASSES),
            "pixels": summed.reshape(-1),
            "share": shares.reshape(-1),
        }
    )


def write_evaluation(
    folder: Path,
    record: RunRecord,
    confusions: Mapping[str, Confusions],
    more: Mapping[str, float | int | str | None],
) -> tuple[dict[str, float], list[Path]]:
    """Write metrics.json, per_class.csv, confusion.csv and confusion.png.

    Args:
        folder: where to.
        record: the run that is evaluated.
        confusions: per part; the confusion matrix is that of ``val``.
        more: further entries of metrics.json.

    Returns:
        The metrics to log, and the files to keep beside them.
    """
    found = metrics_record(record, confusions) | dict(more)
    tables = {"per_class.csv": per_class(confusions), "confusion.csv": confusion_table(confusions["val"])}
    for name, table in tables.items():
        write_text(folder / name, table.to_csv(index=False, float_format="%.6f", lineterminator="\n"))
    title = f"{record.name}: validation, score {found['val/score']:.3f}"
    confusion_figure(confusions["val"].sum(0), folder / "confusion.png", title)
    write_json(folder / "metrics.json", found)
    return scores_of(found), [folder / name for name in ("metrics.json", *tables, "confusion.png")]


def sheet_of(
    part: CachedPart,
    rows: Sequence[int],
    truth: npt.NDArray[np.uint8],
    columns: Mapping[str, Callable[[int], npt.NDArray[np.uint8]]],
) -> Sheet:
    """Up to four photos, evenly spaced, with truth and predictions: the same ones for every model of a fold.

    Args:
        part: the cached photos.
        rows: the photos to choose from, as rows of ``part``.
        truth: masks at the scoring size, uint8 (N, 1024, 1024), rows as in ``part``.
        columns: per column, from a position in ``rows`` to the photo's probabilities, uint8 (25, H, W).
    """
    chosen = np.unique(np.linspace(0, len(rows) - 1, _SHEET_PHOTOS).round().astype(int)).tolist()
    masks = [np.array(truth[rows[position]]) for position in chosen]
    maps = {name: [label_map(column(position)) for position in chosen] for name, column in columns.items()}
    table = part.photos.iloc[[rows[position] for position in chosen]]
    return Sheet(
        names=list(table["id"]),
        photos=[np.array(part.images[rows[position]]) for position in chosen],
        shapes=list(zip(table["width"], table["height"], strict=True)),
        columns={"truth": masks, **maps},
        notes={
            name: [f"score {image_scores(confusion(mask, labels)):.3f}" for mask, labels in zip(masks, drawn, strict=True)]
            for name, drawn in maps.items()
        },
    )
