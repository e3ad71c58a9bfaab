"""Finding and verifying the photos and masks of a data set once, so that no later stage meets a bad file."""

import hashlib
import io
import logging
import os
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, UnidentifiedImageError
from rich.console import Console
from rich.progress import track

from harveyseg.classes import N_CLASSES
from harveyseg.errors import HarveysegError, raise_problems
from harveyseg.files import atomic

PHOTO_ENDINGS = (".jpg", ".jpeg")
MASK_ENDINGS = (".png",)
COLUMNS = ("part", "id", "image", "mask", "width", "height", "image_sha256", "mask_sha256")

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
class _Checked:
    width: int
    height: int
    image_sha256: str
    mask_sha256: str
    problems: list[str]


def verify(folder: Path) -> tuple[list[Pair], pd.DataFrame]:
    """Check every photo and mask of a folder in the Kaggle layout.

    The layout is ``train_images``, ``train_masks``, ``test_images`` and optionally ``test_masks``, each perhaps nested
    once under its own name. Checked are: pairs complete, ids unique, files decode to their end, photo and mask of one
    size, masks 8-bit with one channel and values 0..24, no photo in both parts (by the hash of its bytes). The same
    photo twice within the training part is only warned about: it can leak between folds, but spoils no test score.

    Args:
        folder: where the layout lies; it is only read.

    Returns:
        The pairs, sorted by part then id, and the manifest with one row for each of them (see ``COLUMNS``), whose
        ``image`` and ``mask`` are the paths that the files get in ``data/raw``.

    Raises:
        HarveysegError: lists all problems of all files at once.
    """
    pairs, problems = _find(folder)
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        results = pool.map(lambda pair: _check(folder, pair), pairs)
        checked = list(track(results, "Verifying photos", total=len(pairs), console=Console(stderr=True)))
    for result in checked:
        problems += result.problems
    problems += _same_content(folder, pairs, checked)
    raise_problems(
        problems,
        f"the photos in {folder}",
        "Mend or remove these files (or fetch them again), then run `dvc repro download`.",
    )
    rows = [
        (
            pair.part,
            pair.id,
            f"{pair.part}_images/{pair.id}.jpg",
            "" if pair.mask is None else f"{pair.part}_masks/{pair.id}.png",
            result.width,
            result.height,
            result.image_sha256,
            result.mask_sha256,
        )
        for pair, result in zip(pairs, checked, strict=True)
    ]
    return pairs, pd.DataFrame(rows, columns=list(COLUMNS))


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


def _find(folder: Path) -> tuple[list[Pair], list[str]]:
    """Pair photos with masks by their ids, without opening any file."""
    pairs: list[Pair] = []
    problems: list[str] = []
    parts_of_id: dict[str, list[Path]] = defaultdict(list)
    for part in ("train", "test"):
        photos = _files_by_id(folder, f"{part}_images", PHOTO_ENDINGS, problems)
        if photos is not None and not photos:
            problems.append(f"{part}_images: holds no photo ({' or '.join(PHOTO_ENDINGS)})")
        masks = None
        if part == "train" or (folder / "test_masks").exists():
            masks = _files_by_id(folder, f"{part}_masks", MASK_ENDINGS, problems)
        if photos is None:
            continue
        for photo_id, photo in sorted(photos.items()):
            parts_of_id[photo_id].append(photo)
            if masks is not None and photo_id not in masks:
                problems.append(f"{photo.relative_to(folder)}: has no mask {part}_masks/{photo_id}.png")
            pairs.append(Pair(part, photo_id, photo, None if masks is None else masks.get(photo_id)))
        for mask_id, mask in sorted((masks or {}).items()):
            if mask_id not in photos:
                problems.append(f"{mask.relative_to(folder)}: has no photo {part}_images/{mask_id}.jpg")
    for photo_id, files in sorted(parts_of_id.items()):
        if len(files) > 1:
            names = " and ".join(str(file.relative_to(folder)) for file in files)
            problems.append(f"{names}: the id {photo_id!r} occurs in both parts; ids must be unique")
    return sorted(pairs, key=lambda pair: (pair.part != "train", pair.id)), problems


def _files_by_id(folder: Path, name: str, endings: tuple[str, ...], problems: list[str]) -> dict[str, Path] | None:
    """The files of ``folder/name`` (or ``folder/name/name``) by their stems; None when the folder is missing."""
    outer = folder / name
    if not outer.is_dir():
        problems.append(f"{name}: the folder is missing")
        return None
    found: dict[str, Path] = {}
    for path in _visible(outer, nested=name):
        relative = path.relative_to(folder)
        if path.is_dir():
            problems.append(f"{relative}: a folder; files must lie in {name} or {name}/{name}")
        elif path.suffix.lower() not in endings:
            problems.append(f"{relative}: must end in {' or '.join(endings)}")
        elif path.stem in found:
            other = found[path.stem].relative_to(folder)
            problems.append(f"{other} and {relative}: the id {path.stem!r} occurs twice; ids must be unique")
        else:
            found[path.stem] = path
    return found


def _visible(outer: Path, nested: str) -> Iterator[Path]:
    """All that lies in a folder and in the folder of that name inside it, hidden files left out."""
    for path in sorted(outer.iterdir()):
        if path.name == nested and path.is_dir():
            yield from _visible(path, nested="")
        elif not path.name.startswith("."):
            yield path


def _check(folder: Path, pair: Pair) -> _Checked:
    """Decode one photo and its mask."""
    problems: list[str] = []
    photo = pair.image.read_bytes()
    size = _check_photo(photo, str(pair.image.relative_to(folder)), problems)
    mask_sha256 = ""
    if pair.mask is not None:
        mask = pair.mask.read_bytes()
        mask_sha256 = hashlib.sha256(mask).hexdigest()
        name = str(pair.mask.relative_to(folder))
        mask_size = _check_mask(mask, name, problems)
        if size and mask_size and mask_size != size:
            problems.append(f"{name}: is {_by(mask_size)} pixels, its photo {_by(size)}")
    width, height = size or (0, 0)
    return _Checked(width, height, hashlib.sha256(photo).hexdigest(), mask_sha256, problems)


def _check_photo(data: bytes, name: str, problems: list[str]) -> tuple[int, int] | None:
    """The photo's (width, height), or None when it cannot be decoded."""
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            size, mode = image.size, image.mode
            orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
            # The scaled decode still reads every coefficient of the file, at a third of the time of a full one.
            image.draft("RGB", (max(1, size[0] // 8), max(1, size[1] // 8)))
            image.load()
    except Exception as error:  # decoders raise many types on broken bytes; each means the same to the user
        problems.append(f"{name}: cannot be decoded as a JPEG photo ({_cause(error)})")
        return None
    # A download that broke off in a preallocated file ends in zeros, which libjpeg decodes to grey without an error.
    # The end marker cannot occur inside the scan, so it must follow the last start of one.
    if data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):
        problems.append(f"{name}: is truncated (a JPEG without its end marker)")
        return None
    if mode != "RGB":
        problems.append(f"{name}: is a JPEG of mode {mode}; a colour photo (RGB) is needed")
    if orientation != 1:
        problems.append(
            f"{name}: its EXIF orientation tag ({orientation}) turns it against its mask; "
            "turn the pixels themselves and remove the tag"
        )
    return size


def _check_mask(data: bytes, name: str, problems: list[str]) -> tuple[int, int] | None:
    """The mask's (width, height), or None when it cannot be decoded."""
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            image.load()
            size, histogram = image.size, image.histogram()
    except Exception as error:  # decoders raise many types on broken bytes; each means the same to the user
        problems.append(f"{name}: cannot be decoded as a PNG mask ({_cause(error)})")
        return None
    if _PNG_END not in data:
        problems.append(f"{name}: is truncated (a PNG without its end chunk)")
        return None
    # Bytes 24 and 25 are the header's bit depth and colour type (PNG specification, 11.2.2). Pillow's mode would not
    # do: it reads 4-bit grey as mode L, with every value times 17.
    bits, colour = data[24], data[25]
    if (bits, colour) != (8, 0):
        kinds = {0: "grey", 2: "colour", 3: "palette", 4: "grey with alpha", 6: "colour with alpha"}
        problems.append(f"{name}: is {bits}-bit {kinds[colour]}; a mask must be 8-bit grey, its value the class id")
        return size
    for value in np.flatnonzero(histogram[N_CLASSES:]) + N_CLASSES:
        problems.append(f"{name}: holds the value {value} in {histogram[value]} pixels; classes are 0..{N_CLASSES - 1}")
    return size


def _same_content(folder: Path, pairs: list[Pair], checked: list[_Checked]) -> list[str]:
    """Photos that are in both parts; those that are twice in one are logged as a warning."""
    by_hash: dict[str, list[Pair]] = defaultdict(list)
    for pair, result in zip(pairs, checked, strict=True):
        by_hash[result.image_sha256].append(pair)
    problems = []
    for same in by_hash.values():
        names = " and ".join(str(pair.image.relative_to(folder)) for pair in same)
        if len({pair.part for pair in same}) > 1:
            problems.append(f"{names}: the same photo in train and test; a test score would be worthless")
        elif len(same) > 1:
            logger.warning("warning: %s: the same photo under several ids", names)
    return problems


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _cause(error: Exception) -> str:
    return "unknown format" if isinstance(error, UnidentifiedImageError) else str(error)
