"""From probabilities and true masks to ``metrics.json``, tables and figures of one run."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from harveyseg.arrays import Confusions
from harveyseg.classes import CLASS_NAMES, N_CLASSES
from harveyseg.data.cache import CachedPart, load_score_masks
from harveyseg.errors import HarveysegError
from harveyseg.evaluation.figures import Sheet, confusion_figure
from harveyseg.files import write_json, write_text
from harveyseg.inference.probabilities import argmax_map
from harveyseg.record import RunRecord
from harveyseg.score import confusion, image_dice, image_scores, metrics


def true_masks(folder: Path) -> dict[str, npt.NDArray[np.uint8]]:
    """The masks at the scoring size, uint8 (N, 1024, 1024).

    Args:
        folder: ``data/cache/score``.

    Returns:
        ``val``: of all training photos; ``test``: of the test photos, only where they are known.

    Raises:
        HarveysegError: when those of the training photos are absent or damaged.
    """
    val, test = load_score_masks(folder, "train"), load_score_masks(folder, "test")
    if val is None:
        raise HarveysegError(f"{folder}: holds no masks of the training photos. Run `dvc repro resize-cache`.")
    return {"val": val} if test is None else {"val": val, "test": test}


def metrics_record(record: RunRecord, confusions: Mapping[str, Confusions]) -> dict[str, float | int | str | None]:
    """The content of ``metrics.json``.

    Args:
        record: the run that is evaluated.
        confusions: per part, ``val`` and, where test masks are known, ``test``.

    Returns:
        run_id, uid, model and fold, then ``<part>/<metric>``, see :func:`harveyseg.score.metrics` and
        :func:`claims`.
    """
    identity = {"run_id": record.run_id, "uid": record.uid, "model": record.model, "fold": record.fold}
    return identity | {
        f"{part}/{name}": value
        for part, counts in confusions.items()
        for name, value in (metrics(counts) | claims(counts)).items()
    }


def claims(confusions: Confusions) -> dict[str, float]:
    """How often presence is wrong, which costs a whole (image, class) each time.

    Returns:
        ``false_positive_classes``: classes 1..24 that a photo lacks and the prediction has, mean number per photo;
        ``missed_classes``: classes that a photo holds and of which the prediction has nothing.
    """
    present, claimed = (confusions.sum(axis)[:, 1:] > 0 for axis in (2, 1))
    return {
        "false_positive_classes": float((claimed & ~present).sum(1).mean()),
        "missed_classes": float((present & ~claimed).sum(1).mean()),
    }


def scores_of(found: Mapping[str, float | int | str | None]) -> dict[str, float]:
    """The metrics alone, as they are logged: the entries of ``metrics.json`` named ``<part>/<metric>``."""
    return {name: float(value) for name, value in found.items() if "/" in name and isinstance(value, float)}


def per_class(confusions: Mapping[str, Confusions]) -> pd.DataFrame:
    """What each class contributes to the score.

    Returns:
        One row per part and class 1..24, with the columns
        ``photos``, ``predicted``: photos that hold the class, in truth and in the prediction;
        ``score``, ``all_empty_score``: mean Dice over all photos, and what leaving the class empty would give;
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
                "all_empty_score": 1 - present.mean(0),
                "dice": np.where(present, dice, 0).sum(0) / present.sum(0),
                "iou": both / (true + said - both),
                "precision": both / said,
                "recall": both / true,
            }
        tables.append(pd.DataFrame(columns).iloc[1:])
    return pd.concat(tables, ignore_index=True)


def confusion_table(confusions: Confusions) -> pd.DataFrame:
    """The confusion of the summed pixels as DVC's plot template ``confusion`` takes it: it counts rows.

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


def nested_entry(confusions: Confusions | None) -> dict[str, float | int | str | None]:
    """The entry of ``metrics.json`` for an estimate whose weights had no say of the scored photos.

    Args:
        confusions: of the photos, each with the weights chosen without its fold; None when there is only one fold.
    """
    if confusions is None:
        return {"note": "val/nested_argmax_score is not available: with one fold, weights cannot be chosen without it."}
    return {"val/nested_argmax_score": float(image_scores(confusions).mean())}


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
    title = f"{record.name}: validation, score {found['val/argmax_score']:.3f}"
    confusion_figure(confusions["val"].sum(0), folder / "confusion.png", title)
    write_json(folder / "metrics.json", found)
    return scores_of(found), [folder / name for name in ("metrics.json", *tables, "confusion.png")]


def sheet_of(
    part: CachedPart,
    rows: Sequence[int],
    truth: npt.NDArray[np.uint8],
    columns: Mapping[str, Callable[[int], npt.NDArray[np.uint8]]],
    photos: int,
) -> Sheet:
    """Some photos, evenly spaced, with truth and predictions: the same ones for every model of a fold.

    Args:
        part: the cached photos.
        rows: the photos to choose from, as rows of ``part``.
        truth: masks at the scoring size, uint8 (N, 1024, 1024), rows as in ``part``.
        columns: per column, from a position in ``rows`` to the photo's probabilities, uint8 (25, H, W).
        photos: at most so many.
    """
    chosen = np.unique(np.linspace(0, len(rows) - 1, photos).round().astype(int)).tolist()
    masks = [np.array(truth[rows[position]]) for position in chosen]
    maps = {name: [argmax_map(column(position)) for position in chosen] for name, column in columns.items()}
    table = part.photos.iloc[[rows[position] for position in chosen]]
    return Sheet(
        names=list(table["id"]),
        photos=[np.array(part.images[rows[position]]) for position in chosen],
        shapes=list(zip(table["width"], table["height"], strict=True)),
        # Scored at full size; a panel shows no more than every second pixel.
        columns={name: [labels[::2, ::2] for labels in drawn] for name, drawn in {"truth": masks, **maps}.items()},
        notes={
            name: [
                f"score {image_scores(confusion(mask, labels)):.3f}" for mask, labels in zip(masks, drawn, strict=True)
            ]
            for name, drawn in maps.items()
        },
    )
