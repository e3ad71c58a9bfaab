"""The competition's submission file: run-length rows, which are read back and checked as soon as they are written.

A row is one class of one image: ``ImageClassId,rle_mask``. The mask is 1024 x 1024 pixels, numbered from 1 row by row
(as in the competition's own script, though its page describes columns), and written as "start length" pairs. Every
class 1..24 has a row; it is empty where the class does not occur.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from PIL import Image, UnidentifiedImageError

from harveyseg.arrays import BinaryMask, BinaryMasks, ClassMap
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


def encode_mask(mask: BinaryMask) -> str:
    """The run-length row of one binary mask, bool (H, W).

    >>> encode_mask(np.array([[False, True, True], [True, False, True]]))
    '2 3 6 1'
    """
    edges = np.flatnonzero(np.diff(mask.reshape(-1).view(np.int8), prepend=0, append=0))
    starts = edges[::2]
    ends = edges[1::2]
    pairs = np.stack((starts + 1, ends - starts), axis=1)
    return " ".join(map(str, pairs.reshape(-1).tolist()))


def decode_mask(row: str, size: int = SCORE_SIZE) -> BinaryMask:
    """The mask of a run-length row.

    >>> decode_mask("2 2", size=2).tolist()
    [[False, True], [True, False]]

    Args:
        row: "start length" pairs.
        size: height and width of the mask in pixels.

    Returns:
        bool (size, size).

    Raises:
        ValueError: when the row holds anything but whole numbers, an odd number of them, a pixel out of range, an empty
            run, or runs that overlap or are not in order.
    """
    try:
        values = np.array(row.split(), dtype=np.int64)
    except (ValueError, OverflowError):
        raise ValueError("contains something that is not a whole number") from None
    if values.size % 2:
        raise ValueError(f"contains {values.size} numbers, an odd count: a length is missing")
    starts = values[::2] - 1
    lengths = values[1::2]
    if (lengths < 1).any():
        raise ValueError(f"a run has the length {lengths.min()}")
    pixels = size * size
    if starts.size and (starts.min() < 0 or (starts + lengths).max() > pixels):
        raise ValueError(f"a run is outside the pixels 1..{pixels} of a {size} x {size} mask")
    ends = starts + lengths
    if (starts[1:] < ends[:-1]).any():
        raise ValueError("runs overlap or are not in order")
    # Gap and run alternate: gap, run, gap, run, ..., last gap.
    edges = np.concatenate(([0], np.stack((starts, ends), axis=1).reshape(-1), [pixels]))
    inside = np.arange(edges.size - 1) % 2 == 1
    return np.repeat(inside, np.diff(edges)).reshape(size, size)


def write_submission(path: Path, ids: Sequence[str], predictions: Iterable[BinaryMasks], params: SubmitParams) -> None:
    """Write a submission, atomically, and check it: every row is decoded again, and the whole file is read back.

    Args:
        path: the CSV file.
        ids: the test photos, in the order of the rows.
        predictions: for each photo one mask for each class 1..24, bool (24, 1024, 1024), which may overlap.
        params: how rows are named.

    Raises:
        ValueError: when there are more or fewer predictions than ids, or one has another shape.
        HarveysegError: when an id occurs twice.
        RuntimeError: when a row does not decode to its mask (a bug in this module).
    """
    rows: list[tuple[str, str]] = []
    for photo, masks in zip(ids, predictions, strict=True):
        for class_id, row in enumerate(_encode_photo(photo, masks), start=1):
            rows.append((params.row_id.replace("{id}", photo).replace("{class}", str(class_id)), row))
    with atomic(path) as temporary:
        pd.DataFrame(rows, columns=list(HEADER)).to_csv(temporary, index=False, lineterminator="\n")
        if list(read_submission(temporary, ids)) != list(ids):
            raise RuntimeError(f"{path}: the photos are not in the order of the test set")


def _encode_photo(photo: str, masks: BinaryMasks) -> list[str]:
    """The 24 rows of a photo, decoded again to check them."""
    if masks.dtype != np.bool_ or masks.shape != (N_SCORED, SCORE_SIZE, SCORE_SIZE):
        raise ValueError(f"{photo}: {masks.dtype} {masks.shape}: expected 24 masks, bool (24, 1024, 1024)")
    rows = [encode_mask(mask) for mask in masks]
    if not all(np.array_equal(decode_mask(row), mask) for row, mask in zip(rows, masks, strict=True)):
        raise RuntimeError(f"{photo}: its rows do not decode to its masks")
    return rows


def read_submission(path: Path, ids: Iterable[str]) -> dict[str, list[str]]:
    """Read a submission and check it completely.

    Args:
        path: the CSV file, with the header ``ImageClassId,rle_mask`` or ``img_class,rle_mask`` and ids like
            ``10170.png_1`` or ``10170_1``.
        ids: the photos that it must cover.

    Returns:
        For each photo, in the file's order, the rows of the classes 1..24.

    Raises:
        HarveysegError: when the file is not such a table; or listing every row that is unknown, missing, duplicate, or
            not the row of a 1024 x 1024 mask, with its line number.
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
            f"expected {','.join(HEADER)!r} or {','.join(_OTHER_HEADER)!r}."
        )
    expected_photos = set(ids)
    rows_of: dict[str, list[str | None]] = {}
    problems: list[str] = []
    for line, (name, row) in enumerate(table.itertuples(index=False, name=None), start=2):
        photo, class_id = _photo_and_class(name, expected_photos)
        if photo is None or class_id is None:
            problems.append(f"line {line}, {name!r}: {'no class 1..24 after _' if photo else 'unknown image'}")
            continue
        rows = rows_of.setdefault(photo, [None] * N_SCORED)
        if rows[class_id - 1] is not None:
            problems.append(f"line {line}, {name!r}: duplicate row")
        rows[class_id - 1] = row
        try:
            decode_mask(row)
        except ValueError as error:
            problems.append(f"line {line}, {name!r}: {error}")
    for photo in sorted(expected_photos):
        missing = [str(index + 1) for index, row in enumerate(rows_of.get(photo, [None] * N_SCORED)) if row is None]
        if missing:
            problems.append(f"image {photo!r}: no row for class {', '.join(missing)}")
    if len(problems) > _MAX_PROBLEMS:
        problems[_MAX_PROBLEMS:] = [f"... and {len(problems) - _MAX_PROBLEMS} more"]
    raise_problems(problems, str(path), f"Expected: one row for each class 1..24 of {len(expected_photos)} images.")
    return {photo: [row or "" for row in rows] for photo, rows in rows_of.items()}


def _photo_and_class(name: str, photos: set[str]) -> tuple[str | None, int | None]:
    """``10170.png_1`` or ``10170_1`` -> ("10170", 1); None for an unknown photo or class."""
    stem, _, number = name.rpartition("_")
    photo = stem if stem in photos else stem.removesuffix(".png")
    class_id = int(number) if number.isascii() and number.isdigit() else 0
    return photo if photo in photos else None, class_id if 1 <= class_id <= N_SCORED else None


def score_submission(path: Path, masks_dir: Path) -> dict[str, float]:
    """Score a submission against a folder of masks, as the competition does.

    Args:
        path: the submission, see :func:`read_submission`; its classes may overlap.
        masks_dir: ``<id>.png``, single-channel, values 0..24, of any size: resized to 1024 x 1024 by Pillow's nearest
            pixel, as in the competition's own script.

    Returns:
        The metrics of :func:`harveyseg.score.pair_metrics`.

    Raises:
        HarveysegError: when the folder has no masks, a mask cannot be used, or the submission does not match them.
    """
    masks = {file.stem: file for file in sorted(masks_dir.glob("*.png"))}
    if not masks:
        raise HarveysegError(f"{masks_dir}: contains no masks (<id>.png). Name the folder with the true masks.")
    rows = read_submission(path, masks)
    dice = np.empty((len(masks), N_SCORED))
    present = np.empty((len(masks), N_SCORED), np.bool_)
    for index, (photo, file) in enumerate(masks.items()):
        truth = _score_mask(file)
        dice[index] = pair_dice(truth, np.stack([decode_mask(row) for row in rows[photo]]))
        present[index] = np.isin(np.arange(1, N_CLASSES), truth)
    return pair_metrics(dice, present)


def _score_mask(path: Path) -> ClassMap:
    try:
        with Image.open(path) as opened:
            mode = opened.mode
            classes = np.array(opened.resize((SCORE_SIZE, SCORE_SIZE), Image.Resampling.NEAREST))
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError) as error:
        raise HarveysegError(f"{path}: cannot be read as an image ({error}). Replace the mask.") from None
    if classes.ndim != 2 or classes.max() >= N_CLASSES:
        raise HarveysegError(
            f"{path}: mode {mode}, largest value {classes.max()}; expected one channel with 0..{N_CLASSES - 1}."
        )
    return classes.astype(np.uint8)
