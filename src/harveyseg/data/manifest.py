"""Finding and verifying the photos and masks of a data set once, so that no later stage meets a bad file."""

import hashlib
import io
import logging
import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile
from rich.console import Console
from rich.progress import track

from harveyseg.data.masks import decoding_cause, read_mask
from harveyseg.errors import HarveysegError, raise_problems
from harveyseg.files import atomic

FOLDERS = ("train_images", "train_masks", "test_images", "test_masks")
"""What the folders of a data set are called, in upper or lower case."""
PHOTO_KINDS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".tif": "TIFF", ".tiff": "TIFF"}
"""Endings of photos, in upper or lower case, and what has to be in such a file."""
MASK_ENDINGS = (".png",)
COLUMNS = ("part", "id", "image", "mask", "width", "height", "image_sha256", "mask_sha256")

_RAW_ENDINGS = {"JPEG": ".jpg", "PNG": ".png", "TIFF": ".tif"}
_IGNORED = {"__MACOSX", "Thumbs.db", "desktop.ini"}
"""What macOS and Windows leave in folders and archives."""
_BITS_PER_SAMPLE = 258  # TIFF's tag
_EXIF_ORIENTATION = 0x0112
_PNG_END = b"IEND\xaeB`\x82"  # the last chunk's type and checksum, the same in every file
_MAKE_ANEW = "Make it anew with `dvc repro download`."

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pair:
    """A photo and, where it is known, its mask. ``id`` is the stem of the photo's file name."""

    part: str
    """``"train"`` or ``"test"``."""
    id: str
    image: Path
    mask: Path | None


@dataclass(frozen=True)
class Problem:
    """What is wrong with a file or folder of a data set."""

    file: str
    """Below the data set's folder."""
    cause: str
    pair: tuple[str, str] | None = None
    """Part and id of the photo that cannot be used."""
    structural: bool = False
    """Whether the data set as a whole cannot be used: it does not help to leave this file out."""

    def __str__(self) -> str:
        """One line for a list of problems."""
        return f"{self.file}: {self.cause}"


@dataclass(frozen=True)
class Verified:
    """A data set in which all is well, but for what was left out of it."""

    pairs: list[Pair]
    """Sorted by part, training first, then id."""
    manifest: pd.DataFrame
    """A row for each pair (see ``COLUMNS``); ``image`` and ``mask`` are the files' paths in ``data/raw``."""
    skipped: list[Problem]
    """Why files were left out; a file can have several problems."""


@dataclass(frozen=True)
class _Checked:
    width: int
    height: int
    image_sha256: str
    mask_sha256: str
    problems: list[Problem]


def verify(
    folder: Path, *, colours: Mapping[int, str] | None = None, skip: bool = False, name: str | None = None
) -> Verified:
    """Check every photo and mask of a folder in the Kaggle layout.

    The layout is ``train_images``, ``train_masks``, ``test_images`` and optionally ``test_masks``, in upper or lower
    case, at any depth and with folders of any name inside, as long as there is only one of each. Checked are: pairs
    complete, ids unique (also where case is ignored), files decode to their end, photo and mask of one size, masks as
    :func:`harveyseg.data.masks.read_mask` understands them, no photo in both parts (by the hash of its bytes). The same
    photo twice within the training part is only warned about: it can leak between folds, but spoils no test score.

    Args:
        folder: where the layout lies; it is only read.
        colours: ``data.classes``: class id -> colour in the masks, or None.
        skip: leave bad photos and masks out instead of stopping. Of a photo that is in both parts the one of the
            training part is left out.
        name: what messages call the folder; its path when None.

    Raises:
        HarveysegError: lists all problems of all files at once; with ``skip``, those that leave no data set.
    """
    pairs, problems = _find(folder)
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        results = pool.map(lambda pair: _check(folder, pair, colours), pairs)
        checked = list(track(results, "Verifying photos", total=len(pairs), console=Console(stderr=True)))
    for result in checked:
        problems += result.problems
    problems += _same_content(folder, pairs, checked)
    bad = {problem.pair for problem in problems}
    good = [(pair, result) for pair, result in zip(pairs, checked, strict=True) if (pair.part, pair.id) not in bad]
    structural = any(problem.structural for problem in problems)
    stops = problems
    if skip and not structural:
        lost = [part for part in ("train", "test") if all(pair.part != part for pair, _ in good)]
        nothing = [Problem(f"{part}_images", "nothing is left, since every photo is bad") for part in lost]
        stops = [*problems, *nothing] if nothing else []
    remedy = "Mend or remove these files (or fetch them again), then run `dvc repro download`."
    if not skip and not structural:
        remedy += " To go on without them: data.on_bad = skip."
    raise_problems([str(problem) for problem in stops], f"the photos in {name or folder}", remedy)
    return Verified([pair for pair, _ in good], _manifest(good), problems)


def _manifest(checked: Sequence[tuple[Pair, _Checked]]) -> pd.DataFrame:
    rows = [
        (
            pair.part,
            pair.id,
            f"{pair.part}_images/{pair.id}{_RAW_ENDINGS[_kind(pair.image)]}",
            "" if pair.mask is None else f"{pair.part}_masks/{pair.id}.png",
            result.width,
            result.height,
            result.image_sha256,
            result.mask_sha256,
        )
        for pair, result in checked
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def write_manifest(path: Path, manifest: pd.DataFrame) -> None:
    """Write ``manifest.csv``, atomically."""
    with atomic(path) as temporary:
        manifest.to_csv(temporary, index=False, lineterminator="\n")


def read_manifest(path: Path) -> pd.DataFrame:
    """Read ``manifest.csv``; ids and paths are strings, an unknown mask is ``""``.

    Raises:
        HarveysegError: when the file is absent or no manifest.
    """
    texts = {column: str for column in COLUMNS if column not in ("width", "height")}
    try:
        # Without keep_default_na a photo with the id "NA" would lose its name.
        manifest = pd.read_csv(path, dtype={**texts, "width": int, "height": int}, keep_default_na=False)
    except FileNotFoundError:
        raise HarveysegError(f"{path}: no such file. {_MAKE_ANEW}") from None
    except ValueError as error:
        raise HarveysegError(f"{path}: not a manifest ({error}). {_MAKE_ANEW}") from None
    if tuple(manifest.columns) != COLUMNS:
        raise HarveysegError(f"{path}: not a manifest (columns {', '.join(manifest.columns)}). {_MAKE_ANEW}")
    return manifest


def write_skipped(path: Path, skipped: Sequence[Problem]) -> None:
    """Write ``skipped.csv``, atomically: file and cause of each problem."""
    with atomic(path) as temporary:
        rows = [(problem.file, problem.cause) for problem in skipped]
        pd.DataFrame(rows, columns=["file", "cause"]).to_csv(temporary, index=False, lineterminator="\n")


def layout_folders(folder: Path) -> dict[str, list[Path]]:
    """The folders that are called like one of ``FOLDERS``, in upper or lower case, at any depth, by that name.

    What lies inside of one is not listed; hidden folders are not looked into.
    """
    found: dict[str, list[Path]] = {name: [] for name in FOLDERS}
    for top, names, _ in os.walk(folder):
        visible = sorted(name for name in names if not _is_hidden(name))
        for name in visible:
            if name.lower() in found:
                found[name.lower()].append(Path(top) / name)
        names[:] = [name for name in visible if name.lower() not in found]
    return found


def _find(folder: Path) -> tuple[list[Pair], list[Problem]]:
    """Pair photos with masks by their ids, without opening any file."""
    pairs: list[Pair] = []
    problems: list[Problem] = []
    places = layout_folders(folder)
    ids: dict[str, dict[str, Path]] = {}
    for part in ("train", "test"):
        images, masks = f"{part}_images", f"{part}_masks"
        photos = _files_by_id(folder, images, places[images], tuple(PHOTO_KINDS), problems)
        if photos is not None and not photos:
            endings = " or ".join(PHOTO_KINDS)
            problems.append(Problem(images, f"holds no photo ({endings})", structural=True))
        by_id = None
        if part == "train" or places[masks]:
            by_id = _files_by_id(folder, masks, places[masks], MASK_ENDINGS, problems)
        ids[part] = photos or {}
        if photos is None:
            continue
        for photo_id, photo in sorted(photos.items()):
            if by_id is not None and photo_id not in by_id:
                name = str(photo.relative_to(folder))
                problems.append(Problem(name, f"has no mask {masks}/{photo_id}.png", (part, photo_id)))
            pairs.append(Pair(part, photo_id, photo, None if by_id is None else by_id.get(photo_id)))
        for mask_id, mask in sorted((by_id or {}).items()):
            if mask_id not in photos:
                problems.append(Problem(str(mask.relative_to(folder)), f"has no photo {mask_id} in {images}"))
    tests = {_folded(photo_id): photo for photo_id, photo in ids["test"].items()}
    for photo_id, photo in sorted(ids["train"].items()):
        if other := tests.get(_folded(photo_id)):
            problems.append(_same_id(folder, photo, other, ("train", photo_id)))
    return sorted(pairs, key=lambda pair: (pair.part != "train", pair.id)), problems


def _files_by_id(
    folder: Path, name: str, places: Sequence[Path], endings: tuple[str, ...], problems: list[Problem]
) -> dict[str, Path] | None:
    """The files of the folder ``name`` by their stems; None when it is missing or there are several."""
    if len(places) != 1:
        several = ", ".join(str(place.relative_to(folder)) for place in places)
        cause = f"{len(places)} folders have this name: {several}; keep one" if places else "the folder is missing"
        problems.append(Problem(name, cause, structural=True))
        return None
    found: dict[str, Path] = {}
    first: dict[str, Path] = {}
    for path, cause in _inside(places[0], name):
        relative = str(path.relative_to(folder))
        if cause:
            problems.append(Problem(relative, cause, structural=True))
        elif path.suffix.lower() not in endings:
            problems.append(Problem(relative, f"must end in {' or '.join(endings)}"))
        elif path.exists() and not path.is_file():  # reading a pipe would wait for ever
            problems.append(Problem(relative, "is no regular file (a pipe, a socket or a device); remove it"))
        elif not path.name.isprintable():
            # Such an id would break the lines of the CSV files that hold it, or could not be written into them at all.
            cause = "its name has control characters or is not UTF-8; rename it"
            problems.append(Problem(ascii(relative)[1:-1], cause))
        else:
            other = first.setdefault(_folded(path.stem), path)
            if other != path:
                part = name.partition("_")[0]
                problems.append(_same_id(folder, other, path, (part, other.stem)))
                problems.append(_same_id(folder, path, other, (part, path.stem)))
            found.setdefault(path.stem, path)
    return found


def _folded(photo_id: str) -> str:
    """An id as file systems compare names that ignore case and how accents are encoded, such as macOS's."""
    return unicodedata.normalize("NFC", photo_id).casefold()


def _same_id(folder: Path, path: Path, other: Path, pair: tuple[str, str]) -> Problem:
    """Two files cannot have one id, also where some file systems alone would take them for one file."""
    shown = other.relative_to(folder)
    if path.stem == other.stem:
        cause = f"its id {path.stem!r} is that of {shown}, too; ids must be unique"
    else:
        cause = f"its id {path.stem!r} is that of {shown} but for case (or accents); some file systems keep only one"
    return Problem(str(path.relative_to(folder)), cause, pair)


def _inside(folder: Path, name: str, above: tuple[Path, ...] = ()) -> Iterator[tuple[Path, str]]:
    """All files in the folder ``name`` at any depth but hidden ones, and what is wrong with a folder in it."""
    try:
        listed = sorted(folder.iterdir())
    except OSError as error:
        yield folder, f"cannot be listed ({error.strerror})"
        return
    above = (*above, folder.resolve())
    for path in listed:
        lower = path.name.lower()
        if _is_hidden(path.name):
            continue
        if not path.is_dir():
            yield path, ""
        elif lower in FOLDERS and lower != name:
            yield path, f"a folder inside {name}; put it beside {name}, or rename it if it belongs there"
        elif path.resolve() in above:
            yield path, "a link to a folder that it lies in; remove it"
        else:
            yield from _inside(path, name, above)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in _IGNORED


def _kind(photo: Path) -> str:
    return PHOTO_KINDS[photo.suffix.lower()]


def _check(folder: Path, pair: Pair, colours: Mapping[int, str] | None) -> _Checked:
    """Decode one photo and its mask."""
    found: list[tuple[Path, str]] = []
    size, photo, mask_sha256 = None, b"", ""
    try:
        photo = pair.image.read_bytes()
        size, causes = _check_photo(photo, _kind(pair.image))
        found += [(pair.image, cause) for cause in causes]
    except OSError as error:
        found.append((pair.image, f"cannot be read ({error.strerror})"))
    if pair.mask is not None:
        try:
            mask = read_mask(pair.mask.read_bytes(), colours)
            mask_sha256 = hashlib.sha256(mask.stored).hexdigest()
            found += [(pair.mask, cause) for cause in mask.problems]
            if size and mask.size and mask.size != size:
                found.append((pair.mask, f"is {_by(mask.size)} pixels, its photo {_by(size)}"))
        except OSError as error:
            found.append((pair.mask, f"cannot be read ({error.strerror})"))
    problems = [Problem(str(path.relative_to(folder)), cause, (pair.part, pair.id)) for path, cause in found]
    width, height = size or (0, 0)
    return _Checked(width, height, hashlib.sha256(photo).hexdigest(), mask_sha256, problems)


def _check_photo(data: bytes, kind: str) -> tuple[tuple[int, int] | None, list[str]]:
    """The photo's (width, height), None when it cannot be decoded, and what is wrong with it."""
    if not data:
        return None, ["the file is empty"]
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "TIFF")) as image:
            # A JPEG that carries a preview, as drones write them, counts as MPO.
            found = "JPEG" if image.format == "MPO" else str(image.format)
            if found != kind:
                return None, [f"is {found} data; rename it to {_RAW_ENDINGS[found]}"]
            size, mode = image.size, image.mode
            orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
            depths = _depths(image, data)
            # The scaled decode still reads every coefficient of the file, at a third of the time of a full one.
            image.draft("RGB", (max(1, size[0] // 8), max(1, size[1] // 8)))
            image.load()
            transparent = mode == "RGBA" and image.getchannel("A").getextrema() != (255, 255)
    except Exception as error:  # decoders raise many types on broken bytes; each means the same to the user
        return None, [f"cannot be decoded as a {kind} photo ({decoding_cause(error)})"]
    # A download that broke off in a preallocated file ends in zeros, which libjpeg decodes to grey without an error.
    # The end marker cannot occur inside the scan, so it must follow the last start of one.
    if kind == "JPEG" and data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):
        return None, ["is truncated (a JPEG without its end marker)"]
    if kind == "PNG" and _PNG_END not in data:
        return None, ["is truncated (a PNG without its end chunk)"]
    problems = []
    if mode != "RGB" and (mode != "RGBA" or kind == "JPEG"):
        problems.append(f"is a {kind} of mode {mode}; a colour photo (RGB) is needed")
    elif depths != {8}:
        problems.append(f"has {max(depths)} bits per channel; 8 are needed")
    if transparent:
        problems.append("is transparent in places; a photo without an alpha channel is needed")
    if orientation != 1:
        problems.append(
            f"its EXIF orientation tag ({orientation}) turns it against its mask; "
            "turn the pixels themselves and remove the tag"
        )
    return size, problems


def _depths(image: Image.Image, data: bytes) -> set[int]:
    """Bits per channel in the file, which Pillow's mode does not tell: it reads 16 bits of colour as 8."""
    if image.format == "PNG":
        return {data[24]}  # of the header (PNG specification, 11.2.2)
    if isinstance(image, TiffImageFile):
        return set(image.tag_v2.get(_BITS_PER_SAMPLE, (1,)))
    return {8}


def _same_content(folder: Path, pairs: list[Pair], checked: list[_Checked]) -> list[Problem]:
    """Photos that are in both parts; those that are twice in one are logged as a warning."""
    by_hash: dict[str, list[Pair]] = defaultdict(list)
    for pair, result in zip(pairs, checked, strict=True):
        if result.width:  # broken files, empty ones say, are no photos that could be the same
            by_hash[result.image_sha256].append(pair)
    problems = []
    for same in by_hash.values():
        names = [str(pair.image.relative_to(folder)) for pair in same]
        tests = [name for pair, name in zip(same, names, strict=True) if pair.part == "test"]
        if 0 < len(tests) < len(same):
            cause = f"the same photo as {tests[0]}; a test score would be worthless"
            problems += [
                Problem(name, cause, (pair.part, pair.id))
                for pair, name in zip(same, names, strict=True)
                if pair.part == "train"
            ]
        elif len(same) > 1:
            logger.warning("warning: %s: the same photo under several ids", " and ".join(names))
    return problems


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
