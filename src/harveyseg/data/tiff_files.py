"""TIFF photos, read through GDAL, as prediction reads mosaics: all compressions, whatever OpenCV and Pillow lack."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from harveyseg.arrays import Photo

TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""First bytes of TIFF and BigTIFF, in either order of bytes."""

_COLOURS = ("red", "green", "blue")
_CHOOSE_BANDS = "write these with `gdal_translate -b {} -b {} -b {} -colorinterp red,green,blue`"


@dataclass(frozen=True)
class TiffContent:
    """What a TIFF file holds, found by decoding it to its end."""

    size: tuple[int, int]
    """(width, height) in pixels."""
    problem: str
    """Why it is no colour photo with 8 bits per channel; empty if it is one."""
    transparent: bool
    """Whether there are pixels that are not opaque."""


def examine_tiff(data: bytes, most_pixels: int) -> TiffContent | None:
    """Decode a file to its end.

    Args:
        data: its bytes.
        most_pixels: a larger one is not decoded.

    Returns:
        None if it is larger.

    Raises:
        ValueError: when it cannot be decoded.
    """
    with _opened(data) as file:
        width, height, compression = file.width, file.height, str(file.profile.get("compress", "")).upper()
        if width * height > most_pixels:
            return None
        names = [colour.name for colour in file.colorinterp]
        try:
            values = file.read()
        except Exception as error:  # GDAL's own classes, by cause
            cause = str(error.__cause__ or error)
            raise ValueError(f"compressed with {compression}: {cause}" if compression else cause) from None
    problem = _band_problem(names) or _value_problem(values[:3])
    alpha = names.index("alpha") if "alpha" in names else None
    transparent = alpha is not None and int(values[alpha].min()) < np.iinfo(values.dtype).max if not problem else False
    return TiffContent((width, height), problem, transparent)


def describe_tiff(path: Path) -> TiffContent:
    """What the header of a file says. Where pixels are not opaque is not looked at.

    Raises:
        ValueError: when it cannot be opened.
    """
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning, RasterioError

    with warnings.catch_warnings(action="ignore", category=NotGeoreferencedWarning):
        try:
            with rasterio.open(path, driver="GTiff") as file:
                names = [colour.name for colour in file.colorinterp]
                size, kind = (file.width, file.height), file.dtypes[0]
        except RasterioError as error:
            raise ValueError(str(error)) from None
    values = "" if kind == "uint8" else f"its values are {kind}; 8 bits are needed"
    return TiffContent(size, _band_problem(names) or values, transparent=False)


def read_tiff(data: bytes) -> Photo:
    """Decode a photo that :func:`examine_tiff` found good: uint8 (H, W, 3), RGB.

    Raises:
        ValueError: when it cannot be decoded, or has fewer bands or other values, as one that nobody examined.
    """
    from rasterio.errors import RasterioError

    with _opened(data) as file:
        if file.count < 3 or not {"uint8", "uint16"}.issuperset(file.dtypes):
            raise ValueError(f"{file.count} bands of {file.dtypes[0]} are no colour photo")
        try:
            values = file.read([1, 2, 3])
        except RasterioError as error:
            raise ValueError(str(error)) from None
    if values.dtype == np.uint16:
        values = values // 257
    return np.ascontiguousarray(values.astype(np.uint8).transpose(1, 2, 0))


def _band_problem(names: list[str]) -> str:
    """Why the first three bands are no colours; the words are those of prediction, which can choose bands."""
    count = len(names)
    if count < 3:
        kind = "1 band" if count == 1 else f"{count} bands"
        return f"has {kind}, as an elevation model, an index or a grey photo; a colour photo is needed"
    if all(colour in names for colour in _COLOURS):
        places = [names.index(colour) + 1 for colour in _COLOURS]
        problem = f"its bands are {', '.join(names)}"
        return "" if places == [1, 2, 3] else f"{problem}; {_CHOOSE_BANDS.format(*places)}"
    problem = f"has {count} bands and does not say which are red, green and blue"
    return f"{problem}; {_CHOOSE_BANDS.format('R', 'G', 'B')}" if count > 4 else ""


def _value_problem(values: npt.NDArray[Any]) -> str:
    """Why the values (3, H, W) are no levels of 8 bits; multiples of 257 in 16 bits are."""
    if values.dtype == np.uint8:
        return ""
    if values.dtype == np.uint16 and (values % 257 == 0).all() and values.max(initial=0) > 257:
        return ""
    return (
        f"its values are {values.dtype}; 8 bits are needed. Say which values become black and white, the same for all "
        "photos: `gdal_translate -ot Byte -scale LOW HIGH 0 255`"
    )


@contextmanager
def _opened(data: bytes) -> Iterator[Any]:
    # Imported here: every stage reads photo files' endings, and GDAL takes a fifth of a second.
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning, RasterioError

    with (
        warnings.catch_warnings(action="ignore", category=NotGeoreferencedWarning),
        rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"),
        rasterio.MemoryFile(data) as memory,
    ):
        try:
            file = memory.open(driver="GTiff")
        except RasterioError as error:
            raise ValueError(str(error).removeprefix(memory.name).strip("' :")) from None
        with file:
            yield file
