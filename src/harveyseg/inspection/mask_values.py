"""The kinds of mask files, and the values or colours that they hold."""

import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from harveyseg.classes import MAX_CLASSES
from harveyseg.data.masks import MASK_FORMS, NOT_PNG, decoding_cause, hidden_pixels_problem

Colour = tuple[int, int, int]

_COLOUR_LIMIT = 1 << 16
"""Colours of one mask that are counted; more are a photo's."""


@dataclass(frozen=True)
class MaskContent:
    """One mask file."""

    kind: str
    """Such as ``"8-bit grey"``; empty when the file cannot be read."""
    size: tuple[int, int] | None = None
    """(width, height) in pixels."""
    values: Counter[int] = field(default_factory=Counter)
    """Pixels by value: of a grey mask, or of a colour mask in which red, green and blue are alike."""
    indices: Counter[int] = field(default_factory=Counter)
    """Pixels by palette index."""
    colours: Counter[Colour] = field(default_factory=Counter)
    """Pixels by colour; empty for a grey mask."""
    palette: frozenset[tuple[int, Colour]] = frozenset()
    """The palette indices that occur, with their colours."""
    problem: str = ""
    """Why ``download`` will refuse the file whatever the list of classes is."""


def read_mask_content(path: Path) -> MaskContent:
    """Read a mask of any kind. A file that cannot be read has a problem; nothing is raised."""
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path) as image:
            image.load()
            return _content(image, path)
    except Exception as error:  # decoders raise many types on broken bytes; each means the same to the user
        return MaskContent("", problem=f"cannot be decoded ({decoding_cause(error)})")


def _content(image: Image.Image, path: Path) -> MaskContent:
    problem = "" if image.format == "PNG" else f"is {image.format} data; {NOT_PNG}"
    if image.format == "PNG" and path.suffix.lower() != ".png":
        problem = "is PNG data; rename it to .png"
    label = "" if image.format == "PNG" else f" {image.format}"
    bits = _png_depth(path) if image.format == "PNG" else 8
    if image.mode == "P":
        palette = image.getpalette("RGB") or []
        found = {index: count for count, index in _counted(image, 256) or []}
        colour_of = {index: _rgb(palette[3 * index : 3 * index + 3]) for index in found}
        colours: Counter[Colour] = Counter()
        for index, count in found.items():
            colours[colour_of[index]] += count
        entries = frozenset(colour_of.items())
        return MaskContent(f"palette{label}", image.size, Counter(), Counter(found), colours, entries, problem)
    if bits != 8 or image.mode not in ("L", "RGB", "RGBA", "CMYK"):
        grey = "grey with alpha" if image.mode == "LA" else "grey"
        unit = f"{bits}-bit {grey if image.mode[0] in '1LIF' else image.mode}"
        return MaskContent(f"{unit}{label}", image.size, problem=problem or f"is {unit}; {MASK_FORMS}")
    if image.mode == "L":
        values = Counter({value: count for count, value in _counted(image, 256) or []})
        return MaskContent(f"8-bit grey{label}", image.size, values, problem=problem)
    if hidden := hidden_pixels_problem(image):
        return MaskContent(f"colour with alpha{label}", image.size, problem=problem or hidden)
    counted = _counted(image.convert("RGB"), _COLOUR_LIMIT)
    if counted is None:
        return MaskContent(f"colour{label}", image.size, problem=problem or "holds more colours than classes can have")
    if all(len(set(colour)) == 1 for _, colour in counted):
        values = Counter({colour[0]: count for count, colour in counted})
        kind = f"colour, red = green = blue{label}"
        return MaskContent(kind, image.size, values, colours=_by_colour(counted), problem=problem)
    return MaskContent(f"colour{label}", image.size, colours=_by_colour(counted), problem=problem)


def looks_resampled(kinds: Iterable[object]) -> bool:
    """Whether there are more values or colours than classes can be."""
    return len(set(kinds)) > MAX_CLASSES + 1


def _counted(image: Image.Image, limit: int) -> list[tuple[int, Any]] | None:
    """Number of pixels and value, an int or a tuple by the image's mode, which types cannot say."""
    return image.getcolors(limit)


def _by_colour(counted: Iterable[tuple[int, Iterable[int]]]) -> Counter[Colour]:
    return Counter({_rgb(colour): count for count, colour in counted})


def _rgb(values: Iterable[int]) -> Colour:
    red, green, blue = values
    return red, green, blue


def _png_depth(path: Path) -> int:
    """Bits per channel from the header (PNG specification, 11.2.2): Pillow's mode hides them."""
    with path.open("rb") as opened:
        return opened.read(25)[24]
