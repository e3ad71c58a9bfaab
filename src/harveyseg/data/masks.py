"""Mask files: PNGs whose grey value or palette index is the class id, or whose colours stand for classes."""

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from harveyseg.arrays import ClassMap, Photo
from harveyseg.classes import N_CLASSES

PNG_END = b"IEND\xaeB`\x82"
"""Type and checksum of the last chunk, the same in every PNG file."""

_NO_CLASS = 255
_MAX_COLOURS = 5  # in messages: a mask that was resized smoothly or saved as JPEG holds thousands of wrong colours


class _ColourType(IntEnum):
    """PNG specification, 11.2.2."""

    GREY = 0
    COLOUR = 2
    PALETTE = 3
    GREY_WITH_ALPHA = 4
    COLOUR_WITH_ALPHA = 6

    def __str__(self) -> str:
        return self.name.lower().replace("_", " ")


@dataclass(frozen=True)
class MaskFile:
    """A mask file that was read and checked."""

    size: tuple[int, int] | None
    """(width, height) in pixels; None when it cannot be decoded."""
    stored: bytes
    """The file for ``data/raw``: an 8-bit grey PNG of class ids. If the file is one, these are its own bytes."""
    problems: tuple[str, ...] = ()
    """If there are any, ``stored`` is meaningless."""


def parse_colours(value: Any) -> dict[int, str]:
    """Check the setting ``data.classes``.

    Args:
        value: as read from params.yaml: class id -> ``"#rrggbb"``.

    Returns:
        The same, in lower case.

    Raises:
        ValueError: listing everything that is wrong with it.

    Example:
        >>> parse_colours({0: "#000000", 23: "#1F77B4"})
        {0: '#000000', 23: '#1f77b4'}
    """
    if not isinstance(value, dict) or not value:
        raise ValueError('must map class ids to colours, e.g. {0: "#000000", 23: "#1f77b4"}, or be null')
    problems: list[str] = []
    ids_of: dict[str, list[str]] = {}
    for class_id, colour in value.items():
        if type(class_id) is not int or not 0 <= class_id < N_CLASSES:
            problems.append(f"{class_id!r} is not a class id; those are 0..{N_CLASSES - 1}")
        if not isinstance(colour, str) or not re.fullmatch("#[0-9a-fA-F]{6}", colour):
            problems.append(
                f'{colour!r} (class {class_id}) is not a colour; write "#rrggbb", in quotes: a bare # begins a comment'
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


def read_mask_file(data: bytes, colours: Mapping[int, str] | None) -> MaskFile:
    """Decode a mask and translate it to class ids.

    In an 8-bit grey file, the value is the class id, with and without ``colours``. In a palette file without
    ``colours``, the index is the class id. In palette and RGB files with ``colours``, each pixel gets the class of its
    colour; transparency is ignored.

    Args:
        data: the bytes of a PNG file.
        colours: class id -> ``"#rrggbb"`` in lower case (:func:`parse_colours`), or None.
    """
    if not data:
        return MaskFile(None, data, ("the file is empty",))
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "TIFF")) as image:
            if image.format != "PNG":
                return MaskFile(None, data, (f"is {image.format} data; a mask must be a PNG, whose values are exact",))
            image.load()
            size = image.size
            # From the header, since Pillow's mode hides it: 4-bit grey becomes mode L, with every value times 17, and
            # 16 bits of colour become 8.
            bits = data[24]
            kind = _ColourType(data[25])
            has_colours = kind == _ColourType.PALETTE or (bits == 8 and _is_colour(kind))
            by_colour = colours is not None and has_colours
            values = np.asarray(image.convert("RGB") if by_colour else image)
    except Exception as error:  # decoders raise many types on broken bytes; each means the same to the user
        return MaskFile(None, data, (f"cannot be decoded as a PNG mask ({decoding_cause(error)})",))
    if PNG_END not in data:
        return MaskFile(None, data, ("is truncated (a PNG without its end chunk)",))
    if by_colour and colours is not None:
        class_map, problems = _translate(values, colours)
        return MaskFile(size, _encode(class_map), problems)
    if (bits, kind) != (8, _ColourType.GREY) and kind != _ColourType.PALETTE:
        return MaskFile(size, data, (f"is {bits}-bit {kind}; {_remedy(bits, kind)}",))
    what = "palette index" if kind == _ColourType.PALETTE else "value"
    counts = np.bincount(values.ravel(), minlength=N_CLASSES)
    problems = tuple(
        f"holds the {what} {value} in {counts[value]} pixels; classes are 0..{N_CLASSES - 1}"
        for value in np.flatnonzero(counts[N_CLASSES:]) + N_CLASSES
    )
    return MaskFile(size, _encode(values) if kind == _ColourType.PALETTE else data, problems)


def decoding_cause(error: Exception) -> str:
    """The message of a decoder's exception."""
    if isinstance(error, Image.DecompressionBombError):  # beyond twice Pillow's limit
        return f"{str(error).rstrip('.')}; cut photo and mask into parts, or shrink both"
    return "unknown format" if isinstance(error, UnidentifiedImageError) else str(error)


def _is_colour(kind: _ColourType) -> bool:
    return kind in (_ColourType.COLOUR, _ColourType.COLOUR_WITH_ALPHA)


def _remedy(bits: int, kind: _ColourType) -> str:
    if bits == 8 and _is_colour(kind):
        return "data.classes must say which colour is which class"
    return "a mask must be 8-bit grey, its value the class id, or have a palette or colours"


def _translate(pixels: Photo, colours: Mapping[int, str]) -> tuple[ClassMap, tuple[str, ...]]:
    """The class map of RGB pixels, and problems with colours that belong to no class."""
    codes = pixels.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    class_of = np.full(1 << 24, _NO_CLASS, np.uint8)
    for class_id, colour in colours.items():
        class_of[int(colour[1:], 16)] = class_id
    class_map = class_of[codes]
    unknown, counts = np.unique(codes[class_map == _NO_CLASS], return_counts=True)
    order = np.argsort(-counts, kind="stable")
    problems = [
        f"holds the colour #{unknown[index]:06x} in {counts[index]} pixels; data.classes has no such colour"
        for index in order[:_MAX_COLOURS]
    ]
    if len(rest := order[_MAX_COLOURS:]):
        problems.append(f"holds {len(rest)} more colours that data.classes lacks, in {counts[rest].sum()} pixels")
    return class_map, tuple(problems)


def _encode(class_map: ClassMap) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(class_map).save(buffer, "PNG")
    return buffer.getvalue()
