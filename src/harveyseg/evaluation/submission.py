"""The competition's submission file: run-length rows, read back and checked before anyone uploads them.

A row is one class of one image: ``ImageClassId,rle_mask``. The mask is 1024 x 1024 pixels, numbered from 1 row by row
(as the competition's own script does it, though its page describes columns), and written as "start length" pairs.
Every class 1..24 has a row; it is empty where the class does not occur.
"""

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image, UnidentifiedImageError

from harveyseg.classes import N_CLASSES, N_SCORED, SCORE_SIZE
from harveyseg.config.settings import Section
from harveyseg.errors import HarveysegError, raise_problems
from harveyseg.files import atomic
from harveyseg.score import pair_dice, pair_metrics

HEADER = ("ImageClassId", "rle_mask")
_OTHER_HEADER = ("img_class", "rle_mask")  # the competition page's example
_MAX_PROBLEMS = 20


class SubmitParams(Section):
    """The section ``submit`` of params.yaml."""

    row_id: Literal["{id}.png_{class}", "{id}_{class}"] = "{id}.png_{class}"
    """The ids of the rows. The competition's own script writes the first, its page shows the second."""


def encode_labels(labels: npt.NDArray[np.uint8]) -> list[str]:
    """Run-length rows of the classes 1..24 of a label map, in one pass over its pixels.

    Args:
        labels: class ids, uint8 (H, W).

    Returns:
        24 strings, "" where the class does not occur.
    """
    flat = labels.reshape(-1)
    starts = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1))
    lengths = np.diff(starts, append=flat.size)
    classes = flat[starts]
    # One stable sort puts the runs of each class side by side, still from first to last.
    order = np.argsort(classes, kind="stable")
    bounds = np.searchsorted(classes[order], np.arange(1, N_CLASSES + 1))
    pairs = np.stack((starts[order] + 1, lengths[order]), axis=1)
    return [_text(pairs[first:last]) for first, last in itertools.pairwise(bounds.tolist())]


def encode_mask(mask: npt.NDArray[np.bool_]) -> str:
    """The run-length row of one binary mask, bool (H, W)."""
    edges = np.flatnonzero(np.diff(mask.reshape(-1).view(np.int8), prepend=0, append=0))
    starts, ends = edges[::2], edges[1::2]
    return _text(np.stack((starts + 1, ends - starts), axis=1))


def _text(pairs: npt.NDArray[np.int64]) -> str:
    return " ".join(map(str, pairs.reshape(-1).tolist()))


def decode(row: str, size: int = SCORE_SIZE) -> npt.NDArray[np.bool_]:
    """The mask of a run-length row.

    Args:
        row: "start length" pairs.
        size: height and width of the mask in pixels.

    Returns:
        bool (size, size).

    Raises:
        ValueError: saying what is wrong: no whole numbers, an odd count, a pixel out of range, a run without a pixel,
            runs that overlap or are not in order.
    """
    try:
        values = np.array(row.split(), dtype=np.int64)
    except (ValueError, OverflowError):
        raise ValueError("holds something that is no whole number") from None
    if values.size % 2:
        raise ValueError(f"holds {values.size} numbers, an odd count: a length is missing")
    starts, lengths = values[::2] - 1, values[1::2]
    if (lengths < 1).any():
        raise ValueError(f"a run has the length {lengths.min()}")
    pixels = size * size
    if starts.size and (starts.min() < 0 or (starts + lengths).max() > pixels):
        raise ValueError(f"a run leaves the pixels 1..{pixels} of a {size} x {size} mask")
    ends = starts + lengths
    if (starts[1:] < ends[:-1]).any():
        raise ValueError("runs overlap or are not in order")
    # Gap and run alternate: gap, run, gap, run, ..., last gap.
    borders = np.concatenate(([0], np.stack((starts, ends), axis=1).reshape(-1), [pixels]))
    inside = np.arange(borders.size - 1) % 2 == 1
    return np.repeat(inside, np.diff(borders)).reshape(size, size)


def write_submission(
    path: Path, ids: Sequence[str], predictions: Iterable[npt.NDArray[Any]], params: SubmitParams
) -> None:
    """Write a submission, atomically; every row is decoded again and the whole file is read back.

    Args:
        path: the CSV file.
        ids: the test photos, in the order of the rows.
        predictions: for each photo a label map, uint8 (1024, 1024), or one mask per class 1..24 that may overlap,
            bool (24, 1024, 1024).
        params: how rows are named.

    Raises:
        ValueError: when there are more or fewer predictions than ids, or one has another shape.
        HarveysegError: when an id occurs twice.
        RuntimeError: when a row does not decode to its mask (a defect of this module).
    """
    rows: list[tuple[str, str]] = []
    for photo, prediction in zip(ids, predictions, strict=True):
        for class_id, row in enumerate(_encode(photo, prediction), start=1):
            rows.append((params.row_id.replace("{id}", photo).replace("{class}", str(class_id)), row))
    with atomic(path) as temporary:
        pd.DataFrame(rows, columns=list(HEADER)).to_csv(temporary, index=False, lineterminator="\n")
        if list(read_submission(temporary, ids)) != list(ids):
            raise RuntimeError(f"{path}: the photos are not in the order of the test set")


def _encode(photo: str, prediction: npt.NDArray[Any]) -> list[str]:
    """The 24 rows of a label map or of 24 masks, each decoded again for comparison."""
    if prediction.dtype == np.uint8 and prediction.shape == (SCORE_SIZE, SCORE_SIZE):
        rows = encode_labels(prediction)
        decoded = np.zeros((SCORE_SIZE, SCORE_SIZE), np.uint8)
        for class_id, row in enumerate(rows, start=1):
            if row:
                decoded[decode(row)] = class_id
    elif prediction.dtype == np.bool_ and prediction.shape == (N_SCORED, SCORE_SIZE, SCORE_SIZE):
        rows = [encode_mask(mask) for mask in prediction]
        decoded = np.stack([decode(row) for row in rows])
    else:
        raise ValueError(f"{photo}: {prediction.dtype} {prediction.shape}: a label map or 24 masks were expected")
    if not np.array_equal(decoded, prediction):
        raise RuntimeError(f"{photo}: its rows do not decode to what was encoded")
    return rows


def read_submission(path: Path, ids: Iterable[str]) -> dict[str, list[str]]:
    """Read a submission and check it completely.

    Args:
        path: the CSV file, with the header ``ImageClassId,rle_mask`` or ``img_class,rle_mask`` and ids like
            ``10170.png_1`` or ``10170_1``.
        ids: the photos it must be about.

    Returns:
        For each photo, in the file's order, the rows of the classes 1..24.

    Raises:
        HarveysegError: when the file is no such table; or listing every row that is unknown, missing, there twice, or
            not decodable to a mask of 1024 x 1024, with its line number.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise HarveysegError(f"{path}: no such file. Name a submission, e.g. data/submission/submission.csv.") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise HarveysegError(f"{path}: not a CSV file ({error}).") from None
    if tuple(table.columns) not in (HEADER, _OTHER_HEADER):
        raise HarveysegError(
            f"{path}: the header is {','.join(table.columns)!r}; "
            f"{','.join(HEADER)!r} or {','.join(_OTHER_HEADER)!r} was expected."
        )
    known = set(ids)
    found: dict[str, list[str | None]] = {}
    problems: list[str] = []
    for line, (name, row) in enumerate(table.itertuples(index=False, name=None), start=2):
        photo, class_id = _photo_and_class(name, known)
        if photo is None or class_id is None:
            problems.append(f"line {line}, {name!r}: {'no class 1..24 after _' if photo else 'unknown image'}")
            continue
        rows = found.setdefault(photo, [None] * N_SCORED)
        if rows[class_id - 1] is not None:
            problems.append(f"line {line}, {name!r}: the row is there twice")
        rows[class_id - 1] = row
        try:
            decode(row)
        except ValueError as error:
            problems.append(f"line {line}, {name!r}: {error}")
    for photo in sorted(known):
        missing = [str(index + 1) for index, row in enumerate(found.get(photo, [None] * N_SCORED)) if row is None]
        if missing:
            problems.append(f"image {photo!r}: no row for class {', '.join(missing)}")
    if len(problems) > _MAX_PROBLEMS:
        problems[_MAX_PROBLEMS:] = [f"... and {len(problems) - _MAX_PROBLEMS} more"]
    raise_problems(problems, str(path), f"Expected: one row for each of {len(known)} images and the classes 1..24.")
    return {photo: [row or "" for row in rows] for photo, rows in found.items()}


def _photo_and_class(name: str, known: set[str]) -> tuple[str | None, int | None]:
    """``10170.png_1`` or ``10170_1`` -> ("10170", 1); None for what is not known or out of range."""
    stem, _, number = name.rpartition("_")
    photo = stem if stem in known else stem.removesuffix(".png")
    class_id = int(number) if number.isascii() and number.isdigit() else 0
    return photo if photo in known else None, class_id if 1 <= class_id <= N_SCORED else None


def score_submission(path: Path, masks_dir: Path) -> dict[str, float]:
    """Score a submission against a folder of masks, as the competition does.

    Args:
        path: the submission, see :func:`read_submission`; its classes may overlap.
        masks_dir: ``<id>.png``, single-channel, values 0..24, of any size: brought to 1024 x 1024 by Pillow's nearest
            pixel, as the competition's own script does it.

    Returns:
        What :func:`harveyseg.score.pair_metrics` returns.

    Raises:
        HarveysegError: when the folder has no masks, a mask cannot be used, or the submission is not valid for them.
    """
    masks = {file.stem: file for file in sorted(masks_dir.glob("*.png"))}
    if not masks:
        raise HarveysegError(f"{masks_dir}: holds no masks (<id>.png). Name the folder with the true masks.")
    rows = read_submission(path, masks)
    dice = np.empty((len(masks), N_SCORED))
    present = np.empty((len(masks), N_SCORED), np.bool_)
    for index, (photo, file) in enumerate(masks.items()):
        truth = _score_mask(file)
        dice[index] = pair_dice(truth, np.stack([decode(row) for row in rows[photo]]))
        present[index] = np.isin(np.arange(1, N_CLASSES), truth)
    return pair_metrics(dice, present)


def _score_mask(path: Path) -> npt.NDArray[np.uint8]:
    try:
        with Image.open(path) as opened:
            mode, labels = opened.mode, np.array(opened.resize((SCORE_SIZE, SCORE_SIZE), Image.Resampling.NEAREST))
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError) as error:
        raise HarveysegError(f"{path}: cannot be read as an image ({error}). Replace the mask.") from None
    if labels.ndim != 2 or labels.max() >= N_CLASSES:
        raise HarveysegError(
            f"{path}: mode {mode}, largest value {labels.max()}: one channel with 0..{N_CLASSES - 1} was expected."
        )
    return labels.astype(np.uint8)
