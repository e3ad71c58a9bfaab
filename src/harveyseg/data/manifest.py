"""The manifest: all photos and masks of a data set, verified once, so that no later stage meets a bad file."""

import hashlib
import logging
import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.progress import track

from harveyseg.classes import ClassList
from harveyseg.data.masks import read_mask_file
from harveyseg.data.photo_files import PHOTO_KINDS, RAW_ENDINGS, check_photo_file
from harveyseg.errors import raise_problems
from harveyseg.files import read_table, write_table

FOLDERS = ("train_images", "train_masks", "test_images", "test_masks")
"""Names of the folders of a data set, in upper or lower case."""
MASK_ENDINGS = (".png",)
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

_IGNORED = {"__MACOSX", "Thumbs.db", "desktop.ini"}
"""Files that macOS and Windows leave in folders and archives."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pair:
    """A photo and, if it is known, its mask. ``id`` is the stem of the photo's file name."""

    part: str
    """``"train"`` or ``"test"``."""
    id: str
    image: Path
    mask: Path | None


@dataclass(frozen=True)
class Problem:
    """What is wrong with a file or folder of a data set."""

    file: str
    """Relative to the data set's folder."""
    cause: str
    pair: tuple[str, str] | None = None
    """Part and id of the photo that cannot be used."""
    structural: bool = False
    """Whether the data set as a whole cannot be used, so that leaving this file out does not help."""

    def __str__(self) -> str:
        """One line for a list of problems."""
        return f"{self.file}: {self.cause}"


@dataclass(frozen=True)
class VerifiedPhotos:
    """The good photos of a data set."""

    pairs: list[Pair]
    """Sorted by part, training first, then by id."""
    manifest: pd.DataFrame
    """A row for each pair (see ``MANIFEST_COLUMNS``); ``image`` and ``mask`` are the files' paths in ``data/raw``."""
    skipped: list[Problem]
    """Why files were left out; a file can have several problems."""


@dataclass(frozen=True)
class _Checked:
    width: int
    height: int
    image_sha256: str
    mask_sha256: str
    problems: list[Problem]


def verify_photos(folder: Path, classes: ClassList, *, skip: bool = False, name: str | None = None) -> VerifiedPhotos:
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

    Raises:
        HarveysegError: lists all problems of all files at once; with ``skip``, only if no data set is left.
    """
    pairs, problems = _find_pairs(folder)
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        results = pool.map(lambda pair: _check_pair(folder, pair, classes), pairs)
        checked = list(track(results, "Verifying photos", total=len(pairs), console=Console(stderr=True)))
    for result in checked:
        problems += result.problems
    problems += _duplicates(folder, pairs, checked)
    bad = {problem.pair for problem in problems}
    good = [(pair, result) for pair, result in zip(pairs, checked, strict=True) if (pair.part, pair.id) not in bad]
    structural = any(problem.structural for problem in problems)
    fatal = problems
    if skip and not structural:
        empty_parts = [part for part in ("train", "test") if all(pair.part != part for pair, _ in good)]
        empty = [Problem(f"{part}_images", "nothing is left, since every photo is bad") for part in empty_parts]
        fatal = [*problems, *empty] if empty else []
    remedy = "Fix or remove these files (or fetch them again), then run `dvc repro download`."
    if not skip and not structural:
        remedy += " To continue without them: data.on_bad = skip."
    raise_problems([str(problem) for problem in fatal], f"the photos in {name or folder}", remedy)
    return VerifiedPhotos([pair for pair, _ in good], _manifest(good), problems)


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


def layout_folders(folder: Path) -> dict[str, list[Path]]:
    """For each of ``FOLDERS``, the folders of that name at any depth, in upper or lower case.

    Folders inside one of them are not listed, and hidden folders are not searched.
    """
    places: dict[str, list[Path]] = {name: [] for name in FOLDERS}
    for top, names, _ in os.walk(folder):
        visible = sorted(name for name in names if not _is_hidden(name))
        for name in visible:
            if name.lower() in places:
                places[name.lower()].append(Path(top) / name)
        names[:] = [name for name in visible if name.lower() not in places]
    return places


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


def _find_pairs(folder: Path) -> tuple[list[Pair], list[Problem]]:
    """Pair photos with masks by their ids, without opening any file."""
    pairs: list[Pair] = []
    problems: list[Problem] = []
    places = layout_folders(folder)
    for part in ("train", "test"):
        pairs += _find_part(folder, part, places, problems)
    tests = {_folded(pair.id): pair.image for pair in pairs if pair.part == "test"}
    for pair in pairs:
        if pair.part == "train" and (test := tests.get(_folded(pair.id))):
            problems.append(_same_id(folder, pair.image, test, ("train", pair.id)))
    return pairs, problems


def _find_part(folder: Path, part: str, places: Mapping[str, Sequence[Path]], problems: list[Problem]) -> list[Pair]:
    """The pairs of one part, sorted by id; appends to ``problems``."""
    images = f"{part}_images"
    masks = f"{part}_masks"
    photo_of = _files_by_id(folder, images, places[images], tuple(PHOTO_KINDS), problems)
    if photo_of is not None and not photo_of:
        problems.append(Problem(images, f"holds no photo ({' or '.join(PHOTO_KINDS)})", structural=True))
    mask_of = None
    if part == "train" or places[masks]:
        mask_of = _files_by_id(folder, masks, places[masks], MASK_ENDINGS, problems)
    if photo_of is None:
        return []
    pairs = []
    for photo_id, photo in sorted(photo_of.items()):
        mask = None if mask_of is None else mask_of.get(photo_id)
        if mask_of is not None and mask is None:
            name = str(photo.relative_to(folder))
            problems.append(Problem(name, f"has no mask {masks}/{photo_id}.png", (part, photo_id)))
        pairs.append(Pair(part, photo_id, photo, mask))
    for mask_id, mask in sorted((mask_of or {}).items()):
        if mask_id not in photo_of:
            problems.append(Problem(str(mask.relative_to(folder)), f"has no photo {mask_id} in {images}"))
    return pairs


def _files_by_id(
    folder: Path, name: str, places: Sequence[Path], endings: tuple[str, ...], problems: list[Problem]
) -> dict[str, Path] | None:
    """The files of the folder ``name`` by their stems; None when there is no such folder or several."""
    if len(places) != 1:
        several = ", ".join(str(place.relative_to(folder)) for place in places)
        cause = f"{len(places)} folders have this name: {several}; keep one" if places else "the folder is missing"
        problems.append(Problem(name, cause, structural=True))
        return None
    file_of: dict[str, Path] = {}
    first_of: dict[str, Path] = {}
    for path, cause in _walk_folder(places[0], name):
        relative = str(path.relative_to(folder))
        if cause:
            problems.append(Problem(relative, cause, structural=True))
        elif path.suffix.lower() not in endings:
            problems.append(Problem(relative, f"must end in {' or '.join(endings)}"))
        elif path.exists() and not path.is_file():  # reading a pipe would block
            problems.append(Problem(relative, "is not a regular file (a pipe, a socket or a device); remove it"))
        elif not path.name.isprintable():  # such an id would break the lines of CSV files
            cause = "its name has control characters or is not UTF-8; rename it"
            problems.append(Problem(ascii(relative)[1:-1], cause))
        else:
            first = first_of.setdefault(_folded(path.stem), path)
            if first != path:
                part = name.partition("_")[0]
                problems.append(_same_id(folder, first, path, (part, first.stem)))
                problems.append(_same_id(folder, path, first, (part, path.stem)))
            file_of.setdefault(path.stem, path)
    return file_of


def _folded(photo_id: str) -> str:
    """An id as file systems compare names that ignore case and the encoding of accents, such as macOS's."""
    return unicodedata.normalize("NFC", photo_id).casefold()


def _same_id(folder: Path, path: Path, twin: Path, pair: tuple[str, str]) -> Problem:
    """Two files cannot have one id, nor ids that some file systems do not distinguish."""
    name = twin.relative_to(folder)
    if path.stem == twin.stem:
        cause = f"has the same id {path.stem!r} as {name}; ids must be unique"
    else:
        cause = f"its id {path.stem!r} differs from {name} only in case or accents; some file systems keep only one"
    return Problem(str(path.relative_to(folder)), cause, pair)


def _walk_folder(folder: Path, name: str, above: tuple[Path, ...] = ()) -> Iterator[tuple[Path, str]]:
    """All files in the folder ``name`` at any depth, apart from hidden ones, and problems with its subfolders."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        yield folder, f"cannot be listed ({error.strerror})"
        return
    above = (*above, folder.resolve())
    for path in entries:
        lower = path.name.lower()
        if _is_hidden(path.name):
            continue
        if not path.is_dir():
            yield path, ""
        elif lower in FOLDERS and lower != name:
            yield path, f"a folder inside {name}; move it next to {name}, or rename it if it belongs there"
        elif path.resolve() in above:
            yield path, "a link to a folder that contains it; remove it"
        else:
            yield from _walk_folder(path, name, above)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in _IGNORED


def _kind(photo: Path) -> str:
    return PHOTO_KINDS[photo.suffix.lower()]


def _check_pair(folder: Path, pair: Pair, classes: ClassList) -> _Checked:
    """Decode one photo and its mask."""
    causes: list[tuple[Path, str]] = []
    size: tuple[int, int] | None = None
    image_sha256 = ""
    mask_sha256 = ""
    try:
        data = pair.image.read_bytes()
        image_sha256 = hashlib.sha256(data).hexdigest()
        photo = check_photo_file(data, _kind(pair.image))
        size = photo.size
        causes += [(pair.image, cause) for cause in photo.problems]
    except OSError as error:
        causes.append((pair.image, f"cannot be read ({error.strerror})"))
    if pair.mask is not None:
        try:
            mask = read_mask_file(pair.mask.read_bytes(), classes)
            mask_sha256 = hashlib.sha256(mask.stored).hexdigest()
            causes += [(pair.mask, cause) for cause in mask.problems]
            if size and mask.size and mask.size != size:
                causes.append((pair.mask, f"is {_format_size(mask.size)} pixels, its photo {_format_size(size)}"))
        except OSError as error:
            causes.append((pair.mask, f"cannot be read ({error.strerror})"))
    problems = [Problem(str(path.relative_to(folder)), cause, (pair.part, pair.id)) for path, cause in causes]
    width, height = size or (0, 0)
    return _Checked(width, height, image_sha256, mask_sha256, problems)


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


def _format_size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
