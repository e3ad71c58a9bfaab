"""The competition's submission file: run-length rows, which are read back and checked as soon as they are written.

A row is one class of one image: ``ImageClassId,rle_mask``. The mask has the score's size; its pixels are numbered from
1 row by row (as in the competition's own script, though its page describes columns), and written as "start length"
pairs. Every scored class has a row; it is empty where the class does not occur.
"""

import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from PIL import Image, UnidentifiedImageError

from harveyseg.arrays import BinaryMask, BinaryMasks, ClassMap
from harveyseg.classes import ClassList, describe_ids
from harveyseg.config.settings import Section
from harveyseg.data.masks import read_mask_file
from harveyseg.data.naming import matching_rules, stem_of
from harveyseg.data.sidecars import is_sidecar
from harveyseg.errors import HarveysegError, raise_problems
from harveyseg.files import atomic
from harveyseg.score import pair_dice, pair_metrics

HEADER = ("ImageClassId", "rle_mask")
_OTHER_HEADER = ("img_class", "rle_mask")  # the competition page's example


class SubmitParams(Section):
    """The section ``submit`` of params.yaml."""

    row_id: Literal["{id}.png_{class}", "{id}_{class}"] = "{id}.png_{class}"
    """The ids of the rows. The competition's own script writes the first, its page shows the second."""


def encode_mask(mask: BinaryMask) -> str:
    """The run-length row of one binary mask, bool (H, W).

    >>> encode_mask(np.array([[False, True, True], [True, False, True]]))
    '2 3 6 1'
    """
    pixels = mask.reshape(-1)
    edges = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    if pixels[:1].any():
        edges = np.insert(edges, 0, 0)
    if pixels[-1:].any():
        edges = np.append(edges, len(pixels))
    starts = edges[::2]
    ends = edges[1::2]
    pairs = np.stack((starts + 1, ends - starts), axis=1)
    return " ".join(map(str, pairs.reshape(-1).tolist()))


def decode_mask(row: str, size: tuple[int, int]) -> BinaryMask:
    """The mask of a run-length row.

    >>> decode_mask("2 2", size=(2, 2)).tolist()
    [[False, True], [True, False]]

    Args:
        row: "start length" pairs.
        size: (height, width) of the mask in pixels.

    Returns:
        bool (height, width).

    Raises:
        ValueError: when the row holds anything but whole numbers, an odd number of them, a pixel out of range, an empty
            run, or runs that overlap or are not in order.
    """
    try:
        if not row.isascii() or "_" in row:  # Python's numbers may have both
            raise ValueError
        values = np.array(row.split(), dtype=np.int64)
    except (ValueError, OverflowError):
        raise ValueError("contains something that is not a whole number") from None
    if values.size % 2:
        raise ValueError(f"contains {values.size} numbers, an odd count: a length is missing")
    starts = values[::2] - 1
    lengths = values[1::2]
    if (lengths < 1).any():
        raise ValueError(f"a run has the length {lengths.min()}")
    pixels = size[0] * size[1]
    if starts.size and (starts.min() < 0 or (starts + lengths).max() > pixels):
        raise ValueError(f"a run is outside the pixels 1..{pixels} of a mask of {size[0]} x {size[1]}")
    ends = starts + lengths
    if (starts[1:] < ends[:-1]).any():
        raise ValueError("runs overlap or are not in order")
    # Gap and run alternate: gap, run, gap, run, ..., last gap.
    edges = np.concatenate(([0], np.stack((starts, ends), axis=1).reshape(-1), [pixels]))
    inside = np.arange(edges.size - 1) % 2 == 1
    return np.repeat(inside, np.diff(edges)).reshape(size)


def write_submission(
    path: Path,
    ids: Sequence[str],
    predictions: Iterable[BinaryMasks],
    classes: ClassList,
    size: tuple[int, int],
    params: SubmitParams,
) -> None:
    """Write a submission, atomically, and check it: every row is decoded again, and the whole file is read back.

    Args:
        path: the CSV file.
        ids: the test photos, in the order of the rows.
        predictions: for each photo one mask for each scored class, bool (S, height, width), which may overlap.
        classes: the list of classes.
        size: (height, width) of the masks in pixels.
        params: how rows are named.

    Raises:
        ValueError: when there are more or fewer predictions than ids, or one has another shape.
        HarveysegError: when an id occurs twice.
        RuntimeError: when a row does not decode to its mask (a bug in this module).
    """
    rows: list[tuple[str, str]] = []
    for photo, masks in zip(ids, predictions, strict=True):
        for class_id, row in zip(_scored_ids(classes), _encode_photo(photo, masks, classes, size), strict=True):
            rows.append((params.row_id.replace("{id}", photo).replace("{class}", str(class_id)), row))
    with atomic(path) as temporary:
        pd.DataFrame(rows, columns=list(HEADER)).to_csv(temporary, index=False, lineterminator="\n")
        if list(read_submission(temporary, ids, classes, size)) != list(ids):
            raise RuntimeError(f"{path}: the photos are not in the order of the test set")


def _scored_ids(classes: ClassList) -> list[int]:
    return [entry.id for entry in classes.classes[classes.unscored :]]


def _encode_photo(photo: str, masks: BinaryMasks, classes: ClassList, size: tuple[int, int]) -> list[str]:
    """The rows of a photo, decoded again to check them."""
    expected = (classes.scored, *size)
    if masks.dtype != np.bool_ or masks.shape != expected:
        raise ValueError(
            f"{photo}: {masks.dtype} {masks.shape}: expected a mask for each scored class, bool {expected}"
        )
    rows = [encode_mask(mask) for mask in masks]
    if not all(np.array_equal(decode_mask(row, size), mask) for row, mask in zip(rows, masks, strict=True)):
        raise RuntimeError(f"{photo}: its rows do not decode to its masks")
    return rows


def read_submission(path: Path, ids: Iterable[str], classes: ClassList, size: tuple[int, int]) -> dict[str, list[str]]:
    """Read a submission and check it completely.

    Args:
        path: the CSV file, with the header ``ImageClassId,rle_mask`` or ``img_class,rle_mask`` and ids like
            ``10170.png_1`` or ``10170_1``.
        ids: the photos that it must cover.
        classes: the list of classes.
        size: (height, width) of the masks in pixels.

    Returns:
        For each photo, in the file's order, the rows of the scored classes, in the order of the list.

    Raises:
        HarveysegError: when the file is not such a table; or listing every row that is unknown, missing, duplicate, or
            not the row of a mask of that size, with its line number.
    """
    return _check_rows(path, read_rows(path), ids, classes, size)


def read_rows(path: Path) -> pd.DataFrame:
    """The rows of a submission as they are: two columns of text.

    Raises:
        HarveysegError: when the file is not such a table.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise HarveysegError(f"{path}: no such file. Name a submission, e.g. data/submission/submission.csv.") from None
    except IsADirectoryError:
        raise HarveysegError(f"{path}: is a folder. Name the submission in it, e.g. submission.csv.") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise HarveysegError(f"{path}: not a CSV file ({error}).") from None
    if tuple(table.columns) not in (HEADER, _OTHER_HEADER):
        raise HarveysegError(
            f"{path}: the header is {','.join(table.columns)!r}; "
            f"expected {','.join(HEADER)!r} or {','.join(_OTHER_HEADER)!r}."
        )
    return table


def _check_rows(
    path: Path, table: pd.DataFrame, ids: Iterable[str], classes: ClassList, size: tuple[int, int]
) -> dict[str, list[str]]:
    """See :func:`read_submission`."""
    position_of = {str(class_id): position for position, class_id in enumerate(_scored_ids(classes))}
    allowed = describe_ids(_scored_ids(classes))
    expected_photos = set(ids)
    rows_of: dict[str, list[str | None]] = {}
    problems: list[str] = []
    for line, (name, row) in enumerate(table.itertuples(index=False, name=None), start=2):
        photo, class_id = _photo_and_class(name, expected_photos)
        position = position_of.get(class_id)
        if photo is None or position is None:
            problems.append(f"line {line}, {name!r}: {f'no class {allowed} after _' if photo else 'unknown image'}")
            continue
        rows = rows_of.setdefault(photo, [None] * len(position_of))
        if rows[position] is not None:
            problems.append(f"line {line}, {name!r}: duplicate row")
        rows[position] = row
        try:
            decode_mask(row, size)
        except ValueError as error:
            problems.append(f"line {line}, {name!r}: {error}")
    for photo in sorted(expected_photos):
        rows = rows_of.get(photo, [None] * len(position_of))
        missing = [class_id for class_id, row in zip(position_of, rows, strict=True) if row is None]
        if missing:
            problems.append(f"image {photo!r}: no row for class {', '.join(missing)}")
    raise_problems(problems, str(path), f"Expected: one row for each class {allowed} of {len(expected_photos)} images.")
    return {photo: [row or "" for row in rows] for photo, rows in rows_of.items()}


def _photo_and_class(name: str, photos: set[str]) -> tuple[str | None, str]:
    """``10170.png_1`` or ``10170_1`` -> ("10170", "1"); None for an unknown photo."""
    stem, _, number = name.rpartition("_")
    photo = stem if stem in photos else stem.removesuffix(".png")
    return photo if photo in photos else None, number


def score_submission(path: Path, masks_dir: Path, classes: ClassList, size: tuple[int, int]) -> dict[str, float]:
    """Score a submission against a folder of masks, as the competition does.

    Args:
        path: the submission, see :func:`read_submission`; its classes may overlap.
        masks_dir: ``<id>.png``, or all named by one other rule, as ``<id>_lab.png`` (see
            :func:`harveyseg.data.naming.matching_rules`). :func:`harveyseg.data.masks.read_mask_file` reads them, of
            any size: they are resized by Pillow's nearest pixel, as in the competition's own script.
        classes: the list of classes.
        size: (height, width) of the submitted masks.

    Returns:
        The metrics of :func:`harveyseg.score.pair_metrics`.

    Raises:
        HarveysegError: when the folder has no masks, a mask cannot be used, or the submission does not match them.
    """
    files = mask_files(masks_dir)
    table = read_rows(path)
    table[table.columns[0]] = table[table.columns[0]].str.normalize("NFC")  # as the masks' names
    masks = _by_photo(masks_dir, files, table.iloc[:, 0].tolist())
    rows = _check_rows(path, table, masks, classes, size)
    dice = np.empty((len(masks), classes.scored))
    present = np.empty((len(masks), classes.scored), np.bool_)
    for index, (photo, file) in enumerate(masks.items()):
        truth = _score_mask(file, classes, size)
        submitted = np.stack([decode_mask(row, size) for row in rows[photo]])
        dice[index] = pair_dice(truth, submitted, classes.unscored)
        present[index] = np.isin(np.arange(classes.unscored, len(classes)), truth)
    return pair_metrics(dice, present, classes.scored_slugs)


def mask_files(folder: Path) -> list[Path]:
    """The masks of a folder, sorted.

    Raises:
        HarveysegError: when it has none.
    """
    files = sorted(file for file in folder.glob("*") if file.suffix.lower() == ".png")
    files = [file for file in files if not is_sidecar(file.name)]
    if not files:
        raise HarveysegError(f"{folder}: contains no masks (<id>.png). Name the folder with the true masks.")
    return files


def _by_photo(folder: Path, files: Sequence[Path], row_ids: Sequence[str]) -> dict[str, Path]:
    """The masks by the ids of their photos; where no rule explains a name, that is the id."""
    photos = sorted({row_id.rpartition("_")[0].removesuffix(".png") for row_id in row_ids} - {""})
    rules = matching_rules(photos, [stem_of(file) for file in files])
    if len(rules) > 1:
        several = " or ".join(f"'{rule.describe()}'" for rule in rules)
        raise HarveysegError(f"{folder}: the masks' names could follow {several}. Give each the name of its photo.")
    photo_of = {rules[0].mask_stem(photo): photo for photo in photos}
    return {photo_of.get(stem_of(file), stem_of(file)): file for file in files}


def masks_size(masks_dir: Path) -> tuple[int, int]:
    """(height, width) of all masks of a folder.

    Raises:
        HarveysegError: when they have several sizes, or one cannot be read.
    """
    sizes = {}
    for path in mask_files(masks_dir):
        with _clear_errors(path), Image.open(path) as opened:
            sizes[opened.size] = path
    if len(sizes) > 1:
        (first, path), (second, other), *_ = sizes.items()
        raise HarveysegError(
            f"{path} has {first[0]}x{first[1]} pixels, {other} {second[0]}x{second[1]}: where the score's size is the "
            "masks' own (data.score_size: null), the masks must have one size."
        )
    ((width, height),) = sizes
    return height, width


def _score_mask(path: Path, classes: ClassList, size: tuple[int, int]) -> ClassMap:
    with _clear_errors(path):
        mask = read_mask_file(path.read_bytes(), classes)
    if mask.problems:
        raise HarveysegError(f"{path}: {'; '.join(mask.problems)}. Replace the mask.")
    with Image.open(io.BytesIO(mask.stored)) as opened:
        ids = np.asarray(opened.resize((size[1], size[0]), Image.Resampling.NEAREST))
    return np.asarray(classes.indices[ids], np.uint8)


@contextmanager
def _clear_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError) as error:
        raise HarveysegError(f"{path}: cannot be read as an image ({error}). Replace the mask.") from None
