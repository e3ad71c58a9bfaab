"""Mask files: PNGs whose values are class ids, or whose colours stand for classes."""

import io
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from harveyseg.arrays import BoolArray, ClassMap, IntArray, Photo
from harveyseg.classes import IGNORED, ClassList, describe_ids

PNG_END = b"IEND\xaeB`\x82"
"""Type and checksum of the last chunk, the same in every PNG file."""

MASK_FORMS = "a mask must be 8-bit grey, its value the class id, or have a palette or 8-bit colours"
"""What is said of a mask of another form."""
NOT_PNG = "a mask must be a PNG, whose values are exact"
"""What is said of a mask in another format."""
_TURNED_BACK = {
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""What undoes each of EXIF's orientations (Exif 2.32, 4.6.4) that exchange width and height."""
_NEAR = 16
"""JPEG moves black and white by less than this many levels, but for a few pixels."""
_LEAST_NOISE = 6
"""Values next to black and white that JPEG leaves; fewer are more likely to be classes."""
_SHOWN = 5
"""Values or colours in messages: a mask that was resized smoothly or saved as JPEG holds thousands of wrong ones."""


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
    """If there are any, ``stored`` and ``ids`` are meaningless."""
    ids: frozenset[int] = frozenset()
    """The class ids in it."""


def read_mask_file(data: bytes, classes: ClassList) -> MaskFile:
    """Decode a mask and translate it to class ids.

    In an 8-bit grey file, the value is the class id. In an RGB file, each pixel gets the class of its colour, or, where
    red, green and blue are equal and no colour of the list occurs, the class whose id they are. In a palette file the
    colours decide if they all are in the list, else the indices; where both would do and differ, the file is refused.
    So is one whose alpha channel hides pixels: what lies below is often not what was labelled.

    Args:
        data: the bytes of a PNG file.
        classes: what it may hold.
    """
    if not data:
        return MaskFile(None, data, ("the file is empty",))
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF")) as image:
            if image.format != "PNG":
                return MaskFile(None, data, (f"is {image.format} data; {NOT_PNG}",))
            image.load()
            size = image.size
            # From the header, since Pillow's mode hides it: 4-bit grey becomes mode L, with every value times 17, and
            # 16 bits of colour become 8.
            bits = data[24]
            kind = _ColourType(data[25])
            hidden = hidden_pixels_problem(image)
            values = np.asarray(image.convert("RGB") if bits == 8 and _is_colour(kind) else image)
            palette = np.array(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
    except Exception as error:  # decoders raise many types on broken bytes; each means the same to the user
        return MaskFile(None, data, (f"cannot be decoded as a PNG mask ({decoding_cause(error)})",))
    if PNG_END not in data:
        return MaskFile(None, data, ("is truncated (a PNG without its end chunk)",))
    if kind == _ColourType.PALETTE:
        class_map, problems = _read_palette(values, palette, classes)
        return _finish(size, class_map, problems, classes)
    if bits == 8 and hidden:
        return MaskFile(size, data, (hidden,))
    if bits == 8 and _is_colour(kind):
        class_map, problems = _read_colours(values, classes)
        return _finish(size, class_map, problems, classes)
    if (bits, kind) != (8, _ColourType.GREY):
        return MaskFile(size, data, (f"is {bits}-bit {kind}; {MASK_FORMS}",))
    return _finish(size, values, _value_problems(values, classes, "value"), classes, data)


def turn_back(mask: MaskFile, orientation: int) -> MaskFile:
    """The mask of a photo's pixels as they are stored, from one of the photo as it is shown.

    Args:
        mask: without problems.
        orientation: EXIF's, 5 to 8: those that exchange width and height.
    """
    with Image.open(io.BytesIO(mask.stored)) as shown:
        turned = np.asarray(shown.transpose(_TURNED_BACK[orientation]))
    return MaskFile((turned.shape[1], turned.shape[0]), _encode(turned), ids=mask.ids)


def hidden_pixels_problem(image: Image.Image) -> str:
    """What is wrong with a colour mask that is not opaque; empty where nothing is.

    >>> hidden_pixels_problem(Image.new("RGBA", (3, 2), (255, 0, 0, 0)))
    'is transparent in 6 pixels, whose class nobody can see; fill them with the colour of a class, or of `ignore`'
    """
    hidden = 0 if image.mode != "RGBA" else sum(image.getchannel("A").histogram()[:-1])
    if not hidden:
        return ""
    return (
        f"is transparent in {hidden} pixels, whose class nobody can see; fill them with the colour of a class, or of "
        "`ignore`"
    )


def decoding_cause(error: Exception) -> str:
    """The message of a decoder's exception."""
    if isinstance(error, Image.DecompressionBombError):  # beyond twice Pillow's limit
        return f"{str(error).rstrip('.')}; cut photo and mask into parts, or shrink both"
    return "unknown format" if isinstance(error, UnidentifiedImageError) else str(error)


def _is_colour(kind: _ColourType) -> bool:
    return kind in (_ColourType.COLOUR, _ColourType.COLOUR_WITH_ALPHA)


def _finish(
    size: tuple[int, int],
    class_map: ClassMap,
    problems: tuple[str, ...],
    classes: ClassList,
    stored: bytes | None = None,
) -> MaskFile:
    if not problems and classes.ignored_value is not None and (class_map == classes.ignored_value).all():
        problems = ("has no label in any pixel; leave photo and mask out",)
    ids = frozenset(np.flatnonzero(np.bincount(class_map.ravel())).tolist()) - {classes.ignored_value}
    return MaskFile(size, _encode(class_map) if stored is None else stored, problems, ids)


def _value_problems(values: ClassMap, classes: ClassList, what: str) -> tuple[str, ...]:
    """Values that are neither an id nor ignored, the most frequent first."""
    counts = np.bincount(values.ravel(), minlength=256)
    known = classes.indices != IGNORED
    if classes.ignored_value is not None:
        known[classes.ignored_value] = True
    unknown = np.flatnonzero((counts > 0) & ~known)
    order = unknown[np.argsort(-counts[unknown], kind="stable")]
    allowed = describe_ids([entry.id for entry in classes.classes])
    problems = [
        f"holds the {what} {value} in {counts[value]} pixels; classes are {allowed}" for value in order[:_SHOWN]
    ]
    if len(rest := order[_SHOWN:]):
        problems.append(f"holds {len(rest)} more values that are no class, in {counts[rest].sum()} pixels")
    if problems:
        problems[-1] += _advice(counts, unknown, classes)
    return tuple(problems)


def looks_like_jpeg_of_two(counts: IntArray) -> bool:
    """Whether grey values are black and white with the noise that JPEG leaves around edges.

    >>> counts = np.zeros(256, np.int64)
    >>> counts[[0, 1, 2, 3, 252, 253, 254, 255]] = [500, 9, 6, 2, 3, 4, 8, 400]
    >>> looks_like_jpeg_of_two(counts)
    True
    >>> counts[240:255] = 0  # ids of classes, and 255 where there is no label
    >>> looks_like_jpeg_of_two(counts)
    False

    Args:
        counts: (256,) pixels of each value.
    """
    near_black = counts[:_NEAR]
    near_white = counts[-_NEAR:]
    noise = np.count_nonzero(near_black[1:]) + np.count_nonzero(near_white[:-1])
    both = min(near_black.sum(), near_white.sum()) > 0 and near_white[:-1].any()
    return bool(both and noise >= _LEAST_NOISE and near_black.sum() + near_white.sum() > 0.9 * counts.sum())


def _advice(counts: IntArray, unknown: IntArray, classes: ClassList) -> str:
    if unknown.tolist() == [IGNORED] and classes.ignored_value is None:
        return "; if 255 means that there is no label, set `ignore: 255` in the list of classes"
    if looks_like_jpeg_of_two(counts):
        return "; it looks like black and white that was saved as JPEG once: threshold it at 128 and save it as PNG"
    if len(unknown) > 2 * len(classes):
        return "; it looks like a mask that was resized smoothly or saved as JPEG: export it again, with exact values"
    return ""


def _read_palette(values: ClassMap, palette: Photo, classes: ClassList) -> tuple[ClassMap, tuple[str, ...]]:
    """Indices (H, W) into colours (n, 3): by the colours where all are in the list, else by the indices."""
    used = np.unique(values)
    entries = np.zeros((256, 3), np.uint8)  # decoders show an index beyond the palette as black
    entries[: len(palette)] = palette
    ids, known, _ = _translate(entries, classes)
    by_index = _value_problems(values, classes, "palette index")
    if known[used].all():
        if used[-1] >= len(palette):
            return values, (
                f"holds the palette index {used[-1]}, but its palette ends at {len(palette) - 1}; export it again",
            )
        if not by_index and (ids[used] != used).any():
            return values, ("its palette's indices and its colours both stand for classes, but for other ones",)
        return ids[values], ()
    greys = entries[used]
    if (greys == greys[:, :1]).all() and not by_index and (greys[:, 0] != used).any():
        return values, (
            "is a palette of greys whose values differ from the indices, so either could be the class ids; save it as "
            "8-bit grey, its value the class id",
        )
    return values, by_index


def _read_colours(pixels: Photo, classes: ClassList) -> tuple[ClassMap, tuple[str, ...]]:
    """An RGB file: by its colours, or by ids that stand in red, green and blue alike."""
    ids, known, codes = _translate(pixels, classes)
    if known.all():
        return ids, ()
    if not known.any() and (pixels == pixels[..., :1]).all():
        values = np.ascontiguousarray(pixels[..., 0])
        return values, _value_problems(values, classes, "value (red, green and blue alike)")
    found, counts = np.unique(codes[~known], return_counts=True)
    order = np.argsort(-counts, kind="stable")
    problems = [
        f"holds the colour #{found[index]:06x} in {counts[index]} pixels; the list of classes has no such colour"
        for index in order[:_SHOWN]
    ]
    if len(rest := order[_SHOWN:]):
        problems.append(f"holds {len(rest)} more colours that the list lacks, in {counts[rest].sum()} pixels")
    problems[-1] += "; give the classes the colours of your masks (data.classes)"
    return ids, tuple(problems)


def _translate(colours: Photo, classes: ClassList) -> tuple[ClassMap, BoolArray, npt.NDArray[np.uint32]]:
    """From colours (..., 3): the class id of each, whether the list has it, and the colours as numbers."""
    codes = colours.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    value_of = {entry.color: entry.id for entry in classes.classes}
    if isinstance(classes.ignore, str):
        value_of[classes.ignore] = IGNORED
    ids = np.zeros(1 << 24, np.uint8)
    known = np.zeros(1 << 24, np.bool_)
    for colour, value in value_of.items():
        ids[int(colour[1:], 16)] = value
        known[int(colour[1:], 16)] = True
    return ids[codes], known[codes], codes


def _encode(class_map: ClassMap) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(class_map).save(buffer, "PNG")
    return buffer.getvalue()
