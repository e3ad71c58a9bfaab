"""The photos and masks in a folder of any layout, and the rule that their names follow."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harveyseg.data.photo_files import IMAGE_ENDINGS
from harveyseg.errors import HarveysegError

_MASK_WORDS = re.compile(r"mask|(?<!un)label(?!l?ed)|annotation|ground_?truth", re.IGNORECASE)
"""In the names of folders that hold masks."""
_PHOTO_WORDS = re.compile(r"image|img|photo", re.IGNORECASE)
"""In the names of folders that hold photos, unless they also have one of the words above."""
_LAST_WORD = re.compile(r"[_-][A-Za-z]+$")


@dataclass(frozen=True)
class NamingRule:
    """How a mask is called: the photo's stem without ``photo_suffix``, between ``prefix`` and ``suffix``."""

    prefix: str = ""
    suffix: str = ""
    photo_suffix: str = ""

    def mask_stem(self, photo_stem: str) -> str | None:
        """The stem of a photo's mask; None for a photo that the rule is not about."""
        if not photo_stem.endswith(self.photo_suffix):
            return None
        return f"{self.prefix}{photo_stem.removesuffix(self.photo_suffix)}{self.suffix}"

    def describe(self) -> str:
        """The rule with ``<id>`` for what photo and mask share.

        >>> NamingRule(suffix="_lab").describe()
        'photo <id>, mask <id>_lab'
        """
        return f"photo <id>{self.photo_suffix}, mask {self.prefix}<id>{self.suffix}"


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
        folder: is searched at any depth; hidden files and folders are left out.

    Raises:
        HarveysegError: when it is no folder or holds no image.
    """
    if not folder.is_dir():
        raise HarveysegError(f"{folder}: is not a folder. Name the folder with your photos and masks.")
    others: Counter[str] = Counter()
    images = []
    for path in _visible_files(folder):
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


def find_rule(photos: Sequence[str], masks: Sequence[str]) -> tuple[NamingRule, int]:
    """The rule that explains the names of most masks, and how many.

    Args:
        photos: stems.
        masks: stems.

    >>> find_rule(["1", "12", "30"], ["1_lab", "12_lab"])
    (NamingRule(prefix='', suffix='_lab', photo_suffix=''), 2)
    >>> find_rule(["a_sat", "b_sat"], ["a_mask", "b_mask"])
    (NamingRule(prefix='', suffix='_mask', photo_suffix='_sat'), 2)
    """
    suffixes = {""}
    words = {word.group() if (word := _LAST_WORD.search(photo)) else "" for photo in photos}
    if len(words) == 1:
        suffixes |= words
    rules: Counter[NamingRule] = Counter()
    for mask in masks[:3]:  # a rule that explains most masks explains one of the first ones
        for photo in photos:
            for suffix in suffixes:
                name = photo.removesuffix(suffix)
                before, found, after = mask.partition(name)
                if found and name:
                    rules[NamingRule(before, after, suffix)] += 1
    stems = set(masks)
    explained = {rule: len(stems & {rule.mask_stem(photo) for photo in photos}) for rule in {NamingRule(), *rules}}
    best = max(explained, key=lambda rule: (explained[rule], -len(rule.prefix + rule.suffix), -len(rule.photo_suffix)))
    return best, explained[best]


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
    return {path for path in images if (word := _LAST_WORD.search(path.stem)) and path.stem[: word.start()] in stems}


def _visible_files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith((".", "@")) or part == "__MACOSX" for part in path.relative_to(folder).parts)
        if path.is_file() and not hidden:
            yield path
