"""The manifest: all photos and masks of a data set, verified once, so that no later stage meets a bad file."""

import hashlib
import logging
import os
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from harveyseg.classes import ClassList
from harveyseg.data.masks import MaskFile, read_mask_file, turn_back
from harveyseg.data.pairs import Pair, Problem, find_pairs
from harveyseg.data.photo_files import EXCHANGE_SIDES, PHOTO_KINDS, RAW_ENDINGS, check_photo_file, read_orientation
from harveyseg.errors import raise_problems
from harveyseg.files import read_table, write_table
from harveyseg.progress import track

MANIFEST_COLUMNS: dict[str, type] = {
    "part": str,
    "id": str,
    "image": str,
    "mask": str,
    "width": int,
    "height": int,
    "image_sha256": str,
    "mask_sha256": str,
}
"""Columns of ``manifest.csv`` and their types."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class VerifiedPhotos:
    """The good photos of a data set."""

    pairs: list[Pair]
    """Sorted by part, training first, then by id."""
    manifest: pd.DataFrame
    """A row for each pair (see ``MANIFEST_COLUMNS``); ``image`` and ``mask`` are the files' paths in ``data/raw``."""
    skipped: list[Problem]
    """Why files were left out; a file can have several problems."""
    ids: frozenset[int]
    """The class ids in the masks."""


@dataclass(frozen=True)
class _Checked:
    width: int
    height: int
    image_sha256: str
    mask_sha256: str
    ids: frozenset[int]
    problems: list[Problem]


def verify_photos(
    folder: Path, classes: ClassList, *, skip: bool = False, name: str | None = None, needs_test: bool = True
) -> VerifiedPhotos:
    """Check every photo and mask of a folder in the Kaggle layout.

    The layout is ``train_images``, ``train_masks``, ``test_images`` and optionally ``test_masks``, in upper or lower
    case, at any depth and with any subfolders, as long as there is only one of each. Checked are: pairs are complete,
    ids unique (also where case is ignored), files decode to their end, photo and mask have one size, masks are as
    :func:`harveyseg.data.masks.read_mask_file` reads them, no photo is in both parts (by the hash of its bytes). The
    same photo twice within the training part only causes a warning: it can leak between folds, but does not affect
    the test score.

    Args:
        folder: contains the layout; it is only read.
        classes: what the masks may hold.
        skip: leave bad photos and masks out instead of stopping. Of a photo that is in both parts, the training one is
            left out.
        name: of the folder, for messages; its path when None.
        needs_test: whether a folder without ``test_images`` is a problem; else it has no test part.

    Raises:
        HarveysegError: lists all problems of all files at once; with ``skip``, only if no data set is left.
    """
    pairs, problems = find_pairs(folder, needs_test)
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        results = pool.map(lambda pair: _check_pair(folder, pair, classes), pairs)
        checked = list(track(results, "verifying photos", len(pairs)))
    for result in checked:
        problems += result.problems
    problems += _duplicates(folder, pairs, checked)
    bad = {problem.pair for problem in problems}
    good = [(pair, result) for pair, result in zip(pairs, checked, strict=True) if (pair.part, pair.id) not in bad]
    structural = any(problem.structural for problem in problems)
    fatal = problems
    if skip and not structural:
        left = {pair.part for pair, _ in good}
        empty_parts = sorted({pair.part for pair in pairs} - left, reverse=True)
        empty = [Problem(f"{part}_images", "nothing is left, since every photo is bad") for part in empty_parts]
        fatal = [*problems, *empty] if empty else []
    remedy = "Fix or remove these files (or fetch them again), then run `dvc repro download`."
    if not skip and not structural:
        remedy += " To continue without them: data.on_bad = skip."
    fatal = sorted(fatal, key=lambda problem: not problem.structural)  # these first, since a message is shortened
    raise_problems([str(problem) for problem in fatal], f"the photos in {name or folder}", remedy)
    ids = frozenset[int]().union(*(result.ids for _, result in good))
    return VerifiedPhotos([pair for pair, _ in good], _manifest(good), problems, ids)


def write_manifest(path: Path, manifest: pd.DataFrame) -> None:
    """Write ``manifest.csv``, atomically."""
    write_table(path, manifest)


def read_manifest(path: Path) -> pd.DataFrame:
    """Read ``manifest.csv``; ids and paths are strings, an unknown mask is ``""``.

    Raises:
        HarveysegError: when the file is absent or not a manifest.
    """
    return read_table(path, MANIFEST_COLUMNS, "Run `dvc repro download` to write it again.")


def write_skipped(path: Path, skipped: Sequence[Problem]) -> None:
    """Write ``skipped.csv``, atomically: file and cause of each problem."""
    rows = [(problem.file, problem.cause) for problem in skipped]
    write_table(path, pd.DataFrame(rows, columns=["file", "cause"]))


def _manifest(checked: Sequence[tuple[Pair, _Checked]]) -> pd.DataFrame:
    rows = [
        (
            pair.part,
            pair.id,
            f"{pair.part}_images/{pair.id}{RAW_ENDINGS[_kind(pair.image)]}",
            "" if pair.mask is None else f"{pair.part}_masks/{pair.id}.png",
            result.width,
            result.height,
            result.image_sha256,
            result.mask_sha256,
        )
        for pair, result in checked
    ]
    return pd.DataFrame(rows, columns=list(MANIFEST_COLUMNS))


def _kind(photo: Path) -> str:
    return PHOTO_KINDS[photo.suffix.lower()]


def _check_pair(folder: Path, pair: Pair, classes: ClassList) -> _Checked:
    """Decode one photo and its mask."""
    causes: list[tuple[Path, str]] = []
    size: tuple[int, int] | None = None
    image_sha256 = ""
    mask_sha256 = ""
    ids = frozenset[int]()
    try:
        data = pair.image.read_bytes()
        image_sha256 = hashlib.sha256(data).hexdigest()
        photo = check_photo_file(data, _kind(pair.image))
        size = photo.size
        causes += [(pair.image, cause) for cause in photo.problems]
        if size and (cause := _turning_problem(size, photo.orientation, pair.mask is not None)):
            causes.append((pair.image, cause))
    except OSError as error:
        causes.append((pair.image, f"cannot be read ({error.strerror})"))
    if pair.mask is not None:
        try:
            mask = read_mask_of(pair.image, pair.mask, classes, size)
            mask_sha256, ids = hashlib.sha256(mask.stored).hexdigest(), mask.ids
            causes += [(pair.mask, cause) for cause in mask.problems]
            if size and mask.size and mask.size != size:
                causes.append((pair.mask, _other_size(mask.size, size)))
        except OSError as error:
            causes.append((pair.mask, f"cannot be read ({error.strerror})"))
    problems = [Problem(str(path.relative_to(folder)), cause, (pair.part, pair.id)) for path, cause in causes]
    width, height = size or (0, 0)
    return _Checked(width, height, image_sha256, mask_sha256, ids, problems)


def read_mask_of(photo: Path, path: Path, classes: ClassList, size: tuple[int, int] | None) -> MaskFile:
    """Read a mask; where it was drawn on the photo as it is shown, it is turned to fit the pixels as they are stored.

    Args:
        photo: a file that was checked.
        path: its mask.
        classes: what it may hold.
        size: (width, height) of the photo as it is stored; None where that is not known.
    """
    mask = read_mask_file(path.read_bytes(), classes)
    if size is None or mask.problems or mask.size != size[::-1] or mask.size == size:
        return mask
    orientation = read_orientation(photo.read_bytes())
    return turn_back(mask, orientation) if orientation >= EXCHANGE_SIDES else mask


def _turning_problem(size: tuple[int, int], orientation: int, has_mask: bool) -> str:
    """Why a photo with an EXIF orientation cannot be used; empty if its mask's size says which way the mask lies."""
    if orientation == 1 or (has_mask and orientation >= EXCHANGE_SIDES and size[0] != size[1]):
        return ""
    unknown = "no mask says whether results" if not has_mask else "its size does not say whether the mask"
    verb = "are" if not has_mask else "is"
    return (
        f"has the EXIF orientation {orientation}, and {unknown} {verb} of the photo as it is stored or as it is shown; "
        "turn the pixels themselves and remove the tag"
    )


def _duplicates(folder: Path, pairs: list[Pair], checked: list[_Checked]) -> list[Problem]:
    """Photos that are in both parts; those that are twice in one part are logged as a warning."""
    by_hash: dict[str, list[Pair]] = defaultdict(list)
    for pair, result in zip(pairs, checked, strict=True):
        if result.width:  # two files that cannot be decoded, such as empty ones, are not the same photo
            by_hash[result.image_sha256].append(pair)
    problems = []
    for copies in by_hash.values():
        names = [str(pair.image.relative_to(folder)) for pair in copies]
        tests = [name for pair, name in zip(copies, names, strict=True) if pair.part == "test"]
        if 0 < len(tests) < len(copies):
            cause = f"the same photo as {tests[0]}; a test score would be worthless"
            problems += [
                Problem(name, cause, (pair.part, pair.id))
                for pair, name in zip(copies, names, strict=True)
                if pair.part == "train"
            ]
        elif len(copies) > 1:
            logger.warning("%s: the same photo under several ids", " and ".join(names))
    return problems


def _other_size(mask: tuple[int, int], photo: tuple[int, int]) -> str:
    """What a mask of another size than its photo's is, both (width, height), and what helps."""
    cause = f"is {_format_size(mask)} pixels, its photo {_format_size(photo)}"
    if mask == photo[::-1]:
        return f"{cause}; one of the two was turned, perhaps by an EXIF orientation: turn it back"
    if abs(mask[0] * photo[1] - mask[1] * photo[0]) <= max(photo):  # one shape up to a pixel
        return f"{cause}; resize the photo to its mask's size, or the mask by its nearest pixels"
    return f"{cause}; is it the mask of another photo, or was one of the two cut?"


def _format_size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
