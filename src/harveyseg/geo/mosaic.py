"""TIFF files of any size, read row by row: the colours, and which pixels show something.

Pixels that are transparent, masked or declared as nodata were not seen. Software that declares nothing leaves a black
or white frame, which is found from the border.
"""

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioIOError
from rasterio.windows import Window

from harveyseg.arrays import BoolArray, ByteArray, Photo
from harveyseg.errors import HarveysegError
from harveyseg.geo.frame import FRAME_WARNING, FrameColour, find_frame, plain_pixels
from harveyseg.geo.ground import Georeference, is_same_crs, parse_crs

_CACHE_MEGABYTES = 256
"""Of GDAL's decoded blocks; by default it takes 5% of the machine's memory."""
_FRAME_SIDE = 2048
"""Longest side in pixels at which a frame is looked for."""
_BRIGHTEST = 255
"""The highest value of 8 bits."""
_SAMPLE_SIDE = 1024
"""Longest side in pixels of the sample from which ``--range auto`` is computed."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MosaicOptions:
    """What a user says about files that do not say it themselves; all but ``frame`` is about TIFF."""

    bands: tuple[int, int, int] | None = None
    """Numbers of the red, green and blue band, from 1."""
    value_range: tuple[float, float] | Literal["auto"] | None = None
    """The values that become black and white; ``auto``: the 2nd and 98th percentile."""
    frame: FrameColour | None = None
    """The colour of an undeclared frame; ``none``: there is no frame. If not given, black and white are looked for, in
    photos only black."""
    crs: str | None = None
    """The coordinate reference system of files that lack one."""


class Mosaic:
    """A TIFF file whose rows are read when they are needed; opened once for each thread.

    Overviews in the file are never used: the classes would depend on how someone built them.

    Args:
        path: the file.
        options: for what the file does not say.

    Attributes:
        transform: from (column, row) to coordinates, whether or not these have a reference system.

    Raises:
        HarveysegError: when it is no complete TIFF of a colour photo.
    """

    def __init__(self, path: Path, options: MosaicOptions) -> None:
        self.path = path
        self._options = options
        try:
            with ignoring_missing_places():
                with rasterio.open(path) as plain:  # without overviews, GDAL makes up a place where there is none
                    self.transform = plain.transform
                    self._crs = plain.crs
                    self._has_control_points = bool(plain.gcps[0])
                self._file = rasterio.open(path, OVERVIEW_LEVEL="NONE")
        except RasterioIOError as error:
            raise HarveysegError(f"{path}: {_opening_cause(str(error))}") from None
        with _closing_on_error(self):
            self.bands = self._colour_bands()
            self._alpha = _alpha_band(self._file)
            self._check_complete()
            self._check_values()

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self._file.height, self._file.width

    @property
    def georeference(self) -> Georeference | None:
        """Where the mosaic is; None when the file does not say so, see :meth:`place_warning`.

        Raises:
            HarveysegError: when the file has ground control points only, or ``crs`` of the options cannot be its own.
        """
        return self._place[0]

    def place_warning(self) -> str | None:
        """What the user should know about the place: why the file's grid is not used, or why ``--crs`` is not."""
        return self._place[1] and f"{self.path}: {self._place[1]}"

    @cached_property
    def _place(self) -> tuple[Georeference | None, str | None]:
        if self._has_control_points and self._crs is None:
            raise HarveysegError(
                f"{self.path}: has ground control points but no grid. Make one with `gdalwarp -t_srs EPSG:<number>`."
            )
        chosen = self._options.crs
        if self.transform.is_identity:
            return None, None if chosen is None else "has no grid, so --crs says nothing about its place"
        if self._crs is not None:
            own = Georeference(self._crs.to_wkt(), self.transform)
            if own.is_invented():
                return None, (
                    "its place and scale are invented (UTM zone 30N from 0, 0: OpenDroneMap had photos without "
                    "positions), so they are not used"
                )
            if (problem := own.problem(self.size)) is None:
                same = chosen is None or is_same_crs(own.crs, parse_crs(chosen))
                return own, None if same else "names its coordinate reference system itself, so --crs is not used"
            if chosen is None:
                return None, f"{problem}, so its place and scale are not known; name its right system with --crs"
        if chosen is None:
            return None, (
                "has a grid but no coordinate reference system (a .prj file is not read), so its place and scale are "
                "not known; name the system with --crs, e.g. --crs EPSG:32615"
            )
        return self._place_by_option(chosen)

    def _place_by_option(self, chosen: str) -> tuple[Georeference, str | None]:
        given = Georeference(parse_crs(chosen), self.transform)
        if problem := given.problem(self.size):
            raise HarveysegError(f"{self.path}: --crs {chosen}: {problem}. Name the system of these coordinates.")
        far = given.is_far_from_area_of_use(self.size)
        return given, f"lies far outside the area that --crs {chosen} is meant for" if far else None

    def colours(self, rows: slice, size: tuple[int, int]) -> Photo:
        """Some rows, resized by area average; pixels that were not seen do not count.

        Args:
            rows: of an image of ``size``, start and stop given.
            size: (height, width) in pixels to which the whole mosaic is resized.

        Returns:
            uint8 (rows, width, 3), RGB.
        """
        return np.ascontiguousarray(self._to_levels(self._values(rows, size)).transpose(1, 2, 0))

    def seen(self, rows: slice, size: tuple[int, int]) -> BoolArray:
        """Which pixels of some rows show something: bool (rows, width); see :meth:`colours` for the arguments.

        A pixel that covers several of the file's was seen if one of these was.
        """
        seen = self._declared(rows, size)
        if self._frame is not None:
            seen &= ~self._frame_rows(rows, size)
        return seen

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @cached_property
    def _frame(self) -> tuple[BoolArray, BoolArray] | None:
        """An undeclared frame at reduced size: pixels surely inside, and those perhaps inside, at its edge.

        None where there is no frame, or where the file itself declares what was not seen.
        """
        declared = any(flags != [MaskFlags.all_valid] for flags in self._file.mask_flag_enums)
        if declared or self._alpha is not None or self._options.frame == "none":
            return None
        height, width = self.size
        shrink = max(1.0, max(height, width) / _FRAME_SIDE)
        size = (max(1, round(height / shrink)), max(1, round(width / shrink)))
        photo = self._unstretched(slice(0, size[0]), size)
        frame = find_frame(photo, ("0", "255") if self._options.frame is None else (self._options.frame,))
        if not frame.any():
            return None
        logger.warning(FRAME_WARNING, self.path, 100 * frame.mean())
        kernel = np.ones((3, 3), np.uint8)
        return cv2.erode(frame, kernel, borderType=cv2.BORDER_REPLICATE) > 0, cv2.dilate(frame, kernel) > 0

    def _frame_rows(self, rows: slice, size: tuple[int, int]) -> BoolArray:
        """Which pixels of some rows belong to the frame; its edge is found at the file's own resolution."""
        assert self._frame is not None
        inner, outer = self._frame
        own_rows = (2 * np.arange(rows.start, rows.stop) + 1) * len(inner) // (2 * size[0])
        own_columns = (2 * np.arange(size[1]) + 1) * inner.shape[1] // (2 * size[1])
        surely, perhaps = inner[np.ix_(own_rows, own_columns)], outer[np.ix_(own_rows, own_columns)]
        if (surely == perhaps).all():
            return np.asarray(surely)
        photo = self._unstretched(rows, size)
        result: BoolArray = surely | (perhaps & (plain_pixels(photo, "0") | plain_pixels(photo, "255")))
        return result

    def _unstretched(self, rows: slice, size: tuple[int, int]) -> Photo:
        """Colours in which a frame is black or white whatever ``--range`` says, which makes all dark things black.

        Of values that are not of 8 bits, a frame has exactly 0, or an end of the range or of the type.
        """
        values = self._values(rows, size)
        if values.dtype == np.uint8:
            levels = values
        elif self._options.value_range is None:
            levels = self._to_levels(values)
        else:
            ends = self._options.value_range
            highest = np.iinfo(values.dtype).max if np.issubdtype(values.dtype, np.integer) else np.inf
            low, high = (0.0, highest) if isinstance(ends, str) else ends
            levels = np.select([(values == 0) | (values == low), (values == high) | (values == highest)], [0, 255], 128)
        return np.ascontiguousarray(np.asarray(levels, np.uint8).transpose(1, 2, 0))

    def _values(self, rows: slice, size: tuple[int, int]) -> npt.NDArray[Any]:
        """The file's own values (3, n, W) of some rows, see :meth:`colours`."""
        shape = (3, rows.stop - rows.start, size[1])
        shrinks = size[0] <= self._file.height and size[1] <= self._file.width
        resampling = Resampling.average if shrinks else Resampling.bilinear
        window = self._window(rows, size)
        return self._read(list(self.bands), window=window, out_shape=shape, resampling=resampling)

    def _declared(self, rows: slice, size: tuple[int, int]) -> BoolArray:
        """Which pixels the file itself declares as seen."""
        shape = (rows.stop - rows.start, size[1])
        window = self._window(rows, size)
        if self._alpha is None:
            with _explain_reading(self.path):
                mask = self._file.dataset_mask(window=window, out_shape=shape, resampling=Resampling.average)
        else:  # of more than four bands, and of floats, rasterio's mask ignores it
            mask = self._read(self._alpha, window=window, out_shape=shape, resampling=Resampling.average, masked=False)
        shown = np.asarray(mask > 0)
        if np.issubdtype(self._file.dtypes[self.bands[0] - 1], np.floating):  # no number, whether or not it is declared
            shown &= ~np.isnan(self._values(rows, size)).any(axis=0)
        return shown

    def _window(self, rows: slice, size: tuple[int, int]) -> Window:
        """The part of the file that some rows of the resized image cover; its borders may be between pixels."""
        step = self._file.height / size[0]
        return Window(0, rows.start * step, self._file.width, (rows.stop - rows.start) * step)

    def _read(self, *arguments: Any, **options: Any) -> npt.NDArray[Any]:
        with _explain_reading(self.path):
            return np.asarray(self._file.read(*arguments, **options))

    def _to_levels(self, values: npt.NDArray[Any]) -> ByteArray:
        if values.dtype == np.uint8 and self._options.value_range is None:
            return np.asarray(values, np.uint8)
        low, high = self._range
        scaled = (values.astype(np.float32) - low) * (255 / (high - low))
        return np.asarray(np.rint(np.clip(np.nan_to_num(scaled), 0, 255)), np.uint8)

    @cached_property
    def _range(self) -> tuple[float, float]:
        """The values that become 0 and 255."""
        if isinstance(self._options.value_range, tuple):
            return self._options.value_range
        if self._options.value_range is None:  # 8 bits stored as 16
            return 0.0, 65535.0
        values = self._sample()
        seen = self._declared(slice(0, values.shape[1]), (values.shape[1], values.shape[2]))
        shown = values[:, seen]
        if not shown.size:
            return 0.0, 1.0
        low, high = np.nanpercentile(shown, [2, 98])
        return float(low), float(max(high, np.nextafter(low, np.inf)))

    def _sample(self) -> npt.NDArray[Any]:
        """Every n-th pixel of the colours, unchanged: (3, h, w)."""
        height, width = self.size
        shrink = max(1.0, max(height, width) / _SAMPLE_SIDE)
        shape = (3, max(1, round(height / shrink)), max(1, round(width / shrink)))
        return self._read(list(self.bands), out_shape=shape, resampling=Resampling.nearest)

    def _colour_bands(self) -> tuple[int, int, int]:
        count = self._file.count
        if self._options.bands is not None:
            if max(self._options.bands) > count:
                raise HarveysegError(f"{self.path}: has {count} bands, but --bands names {max(self._options.bands)}.")
            return self._options.bands
        if count < 3:
            kind = "1 band" if count == 1 else f"{count} bands"
            raise HarveysegError(
                f"{self.path}: has {kind}, as an elevation model, an index or a grey photo; a colour photo is needed."
            )
        places = {colour: index + 1 for index, colour in enumerate(self._file.colorinterp)}
        if {ColorInterp.red, ColorInterp.green, ColorInterp.blue} <= places.keys():
            return places[ColorInterp.red], places[ColorInterp.green], places[ColorInterp.blue]
        if count > 4:
            raise HarveysegError(
                f"{self.path}: has {count} bands and does not say which are red, green and blue; name them, "
                "e.g. --bands 3,2,1."
            )
        return 1, 2, 3

    def _check_complete(self) -> None:
        """Every block of pixels that the file lists must lie inside it."""
        if self._file.driver != "GTiff":
            raise HarveysegError(f"{self.path}: is a {self._file.driver} file; a TIFF is needed.")
        length = self.path.stat().st_size
        for band in self.bands if self._file.interleaving.name == "band" else self.bands[:1]:
            for (row, column), _ in self._file.block_windows(band):
                offset, size = (
                    self._file.get_tag_item(f"BLOCK_{what}_{column}_{row}", "TIFF", bidx=band)
                    for what in ("OFFSET", "SIZE")
                )
                if offset is not None and int(offset) + int(size) > length:  # no offset: an empty block
                    raise HarveysegError(f"{self.path}: is truncated: pixels are missing. Copy it again.")

    def _check_values(self) -> None:
        dtype = self._file.dtypes[self.bands[0] - 1]
        chosen = self._options.value_range
        if dtype == "uint8" and isinstance(chosen, tuple) and chosen[1] > _BRIGHTEST:
            raise HarveysegError(
                f"{self.path}: has 8 bits, of which --range {chosen[0]:g},{chosen[1]:g} would make a dark photo. "
                "Predict it without --range."
            )
        if dtype == "uint8" or self._options.value_range is not None:
            return
        if dtype == "uint16":
            sample = self._sample()
            if (sample % 257 == 0).all() and sample.max() > 257:
                return
        raise HarveysegError(
            f"{self.path}: its values are {dtype}; 8 bits are needed. Say which values are black and white, e.g. "
            "--range 0,4095, or --range auto for the 2nd and 98th percentile."
        )


@contextmanager
def open_mosaic(path: Path, options: MosaicOptions) -> Iterator[Mosaic]:
    """Open a :class:`Mosaic`, with a bounded cache, and close it.

    Raises:
        HarveysegError: see :class:`Mosaic`.
    """
    with rasterio.Env(GDAL_CACHEMAX=_CACHE_MEGABYTES):
        mosaic = Mosaic(path, options)
        try:
            yield mosaic
        finally:
            mosaic.close()


def _alpha_band(file: Any) -> int | None:
    colours = list(file.colorinterp)
    return colours.index(ColorInterp.alpha) + 1 if ColorInterp.alpha in colours else None


def _opening_cause(message: str) -> str:
    """Why a file cannot be opened, and the remedy, from GDAL's message."""
    if match := re.search(r"missing codec (?:of|for) (?:code )?(\w+)", message):
        return f"is compressed by a method that is not known here ({match[1]}). Save it with DEFLATE or LZW."
    return "not a TIFF that can be read. Copy it again, or save it as GeoTIFF."


@contextmanager
def _explain_reading(path: Path) -> Iterator[None]:
    try:
        yield
    except RasterioIOError as error:
        raise HarveysegError(f"{path}: its pixels cannot be decoded ({error}). Copy the file again.") from None


@contextmanager
def _closing_on_error(mosaic: Mosaic) -> Iterator[None]:
    try:
        yield
    except BaseException:
        mosaic.close()
        raise


@contextmanager
def ignoring_missing_places() -> Iterator[None]:
    """A file without a place on the ground is no reason for rasterio's warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield
