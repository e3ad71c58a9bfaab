"""Masks as people have them: PNGs whose grey value or palette index is the class id, or whose colours stand for it."""

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from harveyseg.classes import N_CLASSES

_PNG_END = b"IEND\xaeB`\x82"  # the last chunk's type and checksum, the same in every file
_GREY, _COLOUR, _PALETTE, _COLOUR_ALPHA = 0, 2, 3, 6  # colour types (PNG specification, 11.2.2)
_KINDS = {
    _GREY: "grey",
    _COLOUR: "colour",
    _PALETTE: "palette",
    4: "grey with alpha",
    _COLOUR_ALPHA: "colour with alpha",
}
_NO_CLASS = 255
_SHOWN_COLOURS = 5
"""A mask that was resized smoothly or saved as JPEG holds thousands of wrong colours; so many are listed."""


@dataclass(frozen=True)
class Mask:
    """A mask file that was read and checked."""

    size: tuple[int, int] | None
    """(width, height) in pixels; None when it cannot be decoded."""
    stored: bytes
    """The file that ``data/raw`` gets: these very bytes where they are an 8-bit grey PNG of class ids, else one."""
    problems: tuple[str, ...] = ()
    """What is wrong with it; ``stored`` then means nothing."""


def parse_colours(value: Any) -> dict[int, str]:
    """Check the setting ``data.classes``.

    Args:
        value: as read from params.yaml: class id -> ``"#rrggbb"``.

    Returns:
        The same, in lower case.

    Raises:
        ValueError: listing everything that is wrong with it.
    """
    if not isinstance(value, dict) or not value:
        raise ValueError('must map class ids to colours, e.g. {0: "#000000", 23: "#1f77b4"}, or be null')
    problems: list[str] = []
    ids_of: dict[str, list[str]] = {}
    for class_id, colour in value.items():
        if type(class_id) is not int or not 0 <= class_id < N_CLASSES:
            problems.append(f"{class_id!r} is no class id; they are 0..{N_CLASSES - 1}")
        if not isinstance(colour, str) or not re.fullmatch("#[0-9a-fA-F]{6}", colour):
            problems.append(
                f'{colour!r} (class {class_id}) is no colour; write "#rrggbb", in quotes: a bare # begins a comment'
            )
        else:
            ids_of.setdefault(colour.lower(), []).append(str(class_id))
    problems += [
        f"the colour {colour} belongs to several classes: {', '.join(ids)}"
        for colour, ids in ids_of.items()
        if len(ids) > 1
    ]
    if problems:
        raise ValueError("; ".join(problems))
    return {class_id: colour.lower() for class_id, colour in value.items()}


def read_mask(data: bytes, colours: Mapping[int, str] | None) -> Mask:
    """Decode a mask and translate it to class ids.

    8-bit grey: the value is the class id, with and without ``colours``. Palette: without ``colours`` the index is the
    class id. Palette and RGB with ``colours``: each pixel gets the class of its colour; transparency is ignored.

    Args:
        data: the bytes of a PNG file.
        colours: class id -> ``"#rrggbb"`` in lower case (:func:`parse_colours`), or None.
    """
    if not data:
        return Mask(None, data, ("the file is empty",))
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "TIFF")) as image:
            if image.format != "PNG":
                return Mask(None, data, (f"is {image.format} data; a mask must be a PNG, whose values are exact",))
            image.load()
            size = image.size
            # The header's bit depth and colour type. Pillow's mode would not do: it reads 4-bit grey as mode L, with
            # every value times 17, and 16 bits of colour as 8.
            bits, kind = data[24], data[25]
            by_colour = colours is not None and (kind == _PALETTE or (bits == 8 and kind in (_COLOUR, _COLOUR_ALPHA)))
            values = np.asarray(image.convert("RGB") if by_colour else image)
    except Exception as error:  # decoders raise many types on broken bytes; each means the same to the user
        return Mask(None, data, (f"cannot be decoded as a PNG mask ({decoding_cause(error)})",))
    if _PNG_END not in data:
        return Mask(None, data, ("is truncated (a PNG without its end chunk)",))
    if by_colour and colours is not None:
        ids, problems = _translate(values, colours)
        return Mask(size, _encode(ids), problems)
    if (bits, kind) != (8, _GREY) and kind != _PALETTE:
        return Mask(size, data, (f"is {bits}-bit {_KINDS[kind]}; {_remedy(bits, kind)}",))
    what = "palette index" if kind == _PALETTE else "value"
    counts = np.bincount(values.ravel(), minlength=N_CLASSES)
    problems = tuple(
        f"holds the {what} {value} in {counts[value]} pixels; classes are 0..{N_CLASSES - 1}"
        for value in np.flatnonzero(counts[N_CLASSES:]) + N_CLASSES
    )
    return Mask(size, _encode(values) if kind == _PALETTE else data, problems)


def decoding_cause(error: Exception) -> str:
    """What a decoder's exception says, in words."""
    if isinstance(error, Image.DecompressionBombError):  # twice Pillow's limit; up to there it only warns
        return f"{str(error).rstrip('.')}; cut photo and mask into parts, or shrink both"
    return "unknown format" if isinstance(error, UnidentifiedImageError) else str(error)


def _remedy(bits: int, kind: int) -> str:
    if bits == 8 and kind in (_COLOUR, _COLOUR_ALPHA):
        return "data.classes must say which colour is which class"
    return "a mask must be 8-bit grey, its value the class id, or have a palette or colours"


def _translate(
    pixels: npt.NDArray[np.uint8], colours: Mapping[int, str]
) -> tuple[npt.NDArray[np.uint8], tuple[str, ...]]:
    """Class ids (H, W) of RGB pixels (H, W, 3), and the colours that belong to no class."""
    codes = pixels.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    class_of = np.full(1 << 24, _NO_CLASS, np.uint8)
    for class_id, colour in colours.items():
        class_of[int(colour[1:], 16)] = class_id
    ids = class_of[codes]
    unknown, counts = np.unique(codes[ids == _NO_CLASS], return_counts=True)
    order = np.argsort(-counts, kind="stable")
    problems = [
        f"holds the colour #{unknown[index]:06x} in {counts[index]} pixels; data.classes has no such colour"
        for index in order[:_SHOWN_COLOURS]
    ]
    if len(rest := order[_SHOWN_COLOURS:]):
        problems.append(f"holds {len(rest)} more colours that data.classes lacks, in {counts[rest].sum()} pixels")
    return ids, tuple(problems)


def _encode(ids: npt.NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(ids).save(buffer, "PNG")
    return buffer.getvalue()
