"""The photos and masks in a folder of any layout."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harveyseg.data.folders import walk_visible
from harveyseg.data.naming import LAST_WORD
from harveyseg.data.photo_files import IMAGE_ENDINGS
from harveyseg.errors import HarveysegError

_MASK_WORDS = re.compile(r"mask|(?<!un)label(?!l?ed)|annotation|ground_?truth", re.IGNORECASE)
"""In the names of folders that hold masks."""
_PHOTO_WORDS = re.compile(r"image|img|photo", re.IGNORECASE)
"""In the names of folders that hold photos, unless they also have one of the words above."""


@dataclass(frozen=True)
class ImageFiles:
    """The files of a folder, sorted by path."""

    photos: tuple[Path, ...]
    masks: tuple[Path, ...]
    others: Mapping[str, int]
    """Number of other files by ending, or by name where there is no ending."""


def find_images(folder: Path) -> ImageFiles:
    """Tell photos from masks.

    Masks are the images in folders that are called so (``masks``, ``labels``, ...). Where there is no such folder, they
    are the PNG files among photos of other kinds, or the files whose names are those of others with a suffix.

    Args:
        folder: is searched at any depth, through links to folders; hidden files and folders are left out.

    Raises:
        HarveysegError: when it is no folder or holds no image.
    """
    if not folder.is_dir():
        raise HarveysegError(f"{folder}: is not a folder. Name the folder with your photos and masks.")
    others: Counter[str] = Counter()
    images = []
    for path in sorted(_visible_files(folder)):
        if path.suffix.lower() in IMAGE_ENDINGS:
            images.append(path)
        else:
            others[path.suffix.lower() or path.name] += 1
    if not images:
        raise HarveysegError(
            f"{folder}: holds no image ({', '.join(IMAGE_ENDINGS)}). Name the folder with your photos and masks."
        )
    masks = {path for path in images if _in_mask_folder(path.relative_to(folder))}
    if not masks:
        masks = _masks_by_name(folder, images)
    photos = tuple(path for path in images if path not in masks)
    return ImageFiles(photos, tuple(path for path in images if path in masks), others)


def _in_mask_folder(path: Path) -> bool:
    """Whether the innermost folder whose name says so is one of masks."""
    for part in reversed(path.parent.parts):
        if _MASK_WORDS.search(part):
            return True
        if _PHOTO_WORDS.search(part):
            return False
    return False


def _masks_by_name(folder: Path, images: Sequence[Path]) -> set[Path]:
    pngs = {path for path in images if path.suffix.lower() == ".png"}
    if len(pngs) < len(images) or _MASK_WORDS.search(folder.resolve().name):
        return pngs
    stems = {path.stem for path in images}
    return {path for path in images if (word := LAST_WORD.search(path.stem)) and path.stem[: word.start()] in stems}


def _visible_files(folder: Path) -> Iterator[Path]:
    for directory, _, names in walk_visible(folder):
        yield from (directory / name for name in names if not name.startswith(".") and (directory / name).is_file())
