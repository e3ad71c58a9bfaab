"""Photos and mosaics as prediction sees them: rows of colours at any size, and which pixels show something."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from harveyseg.arrays import BoolArray, ByteArray, IntArray, Photo
from harveyseg.data.resize import resize_photo
from harveyseg.errors import HarveysegError
from harveyseg.geo.frame import FRAME_WARNING, FrameColour, find_frame
from harveyseg.geo.mosaic import MosaicOptions, open_mosaic
from harveyseg.prediction.inputs import Input

logger = logging.getLogger(__name__)

ColouredRows = ByteArray
"""uint8 (n, W, 4): red, green, blue, and 255 where the pixel shows something, else 0."""


class Picture(Protocol):
    """An image whose rows are read when they are needed."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""

    def colours(self, rows: slice, size: tuple[int, int]) -> Photo:
        """Some rows of the image resized to ``size``: uint8 (n, W, 3), RGB."""

    def seen(self, rows: slice, size: tuple[int, int]) -> BoolArray:
        """Which pixels of these rows show something: bool (n, W)."""


@dataclass(frozen=True)
class ResizedRows:
    """An image at a network's scale, in the form of an array of which only the rows that are asked for are made."""

    picture: Picture
    size: tuple[int, int]
    fill: tuple[int, int, int]
    """The colour, RGB, of pixels that show nothing. Black would look like water or shadow."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, 4)."""
        return (*self.size, 4)

    def __getitem__(self, rows: slice | IntArray) -> ColouredRows:
        """Make some rows: a slice, or row numbers in any order."""
        if isinstance(rows, slice):
            return self._make(rows)
        top = int(rows.min())
        return self._make(slice(top, int(rows.max()) + 1))[rows - top]

    def _make(self, rows: slice) -> ColouredRows:
        seen = self.picture.seen(rows, self.size)
        made = np.zeros((*seen.shape, 4), np.uint8)
        if seen.any():
            made[..., :3] = np.where(
                seen[..., None], self.picture.colours(rows, self.size), np.array(self.fill, np.uint8)
            )
            made[..., 3] = np.where(seen, 255, 0)
        return made


class PictureInMemory:
    """A photo that is held as a whole.

    Args:
        photo: uint8 (H, W, 3) in OpenCV's order of channels, BGR.
        opaque: uint8 (H, W), 0 where a pixel shows nothing; None where all show something.
    """

    def __init__(self, photo: Photo, opaque: ByteArray | None = None) -> None:
        self._photo = np.ascontiguousarray(photo)
        self._opaque = opaque
        self._resized = lru_cache(maxsize=1)(self._resize)
        self._resized_seen = lru_cache(maxsize=1)(self._resize_seen)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self._photo.shape[0], self._photo.shape[1]

    def colours(self, rows: slice, size: tuple[int, int]) -> Photo:
        """See :class:`Picture`."""
        if size == self.size:
            return np.ascontiguousarray(self._photo[rows, :, ::-1])
        return self._resized(size)[rows]

    def seen(self, rows: slice, size: tuple[int, int]) -> BoolArray:
        """See :class:`Picture`."""
        if self._opaque is None:
            return np.ones((rows.stop - rows.start, size[1]), np.bool_)
        if size == self.size:
            return self._opaque[rows] > 0
        return self._resized_seen(size)[rows]

    def _resize(self, size: tuple[int, int]) -> Photo:
        return resize_photo(self._photo, size)

    def _resize_seen(self, size: tuple[int, int]) -> BoolArray:
        assert self._opaque is not None
        opaque = (self._opaque > 0).astype(np.float32)
        return np.asarray(cv2.resize(opaque, size[::-1], interpolation=cv2.INTER_AREA) > 0)


def find_shown(photo: Photo, opaque: ByteArray | None, frame: FrameColour | None, name: str) -> ByteArray | None:
    """Where a photo shows something: not in an undeclared frame.

    A white frame is only looked for if asked: a quarter of the competition's photos have overexposed ground at their
    border, and none has a black region there.

    Args:
        photo: uint8 (H, W, 3).
        opaque: its alpha channel, uint8 (H, W), which declares what was not seen; None if it has none.
        frame: the colour of the frame; black if None.
        name: of the photo, for the warning about a frame.

    Returns:
        uint8 (H, W), 0 where nothing is shown; None if everything shows something.
    """
    if opaque is not None or frame == "none":
        return opaque
    found = find_frame(photo, (frame or "0",))
    if not found.any():
        return None
    logger.warning(FRAME_WARNING, name, 100 * found.mean())
    return 1 - found


def decode_picture(path: Path, frame: FrameColour | None = None) -> PictureInMemory:
    """Decode a JPEG or PNG file, with the pixels as they are stored: an EXIF orientation is ignored.

    OpenCV decodes it, as for training: other decoders give other colours for the same JPEG.

    Args:
        path: the file.
        frame: the colour of a frame that was not seen, see :func:`find_shown`.

    Raises:
        HarveysegError: when the file is none, or cannot be decoded.
    """
    try:
        pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise HarveysegError(f"{path}: cannot be read ({error.err}).") from None
    if pixels is None or pixels.ndim != 3 or pixels.dtype != np.uint8:
        raise HarveysegError(f"{path}: not a colour photo that can be read. JPEG, PNG and TIFF can.")
    photo = np.asarray(pixels, np.uint8)
    colours, opaque = photo[..., :3], photo[..., 3] if photo.shape[2] == 4 else None
    return PictureInMemory(colours, find_shown(colours, opaque, frame, str(path)))


@contextmanager
def open_picture(item: Input, options: MosaicOptions) -> Iterator[Picture]:
    """Open a file that was checked.

    Raises:
        HarveysegError: when it has changed since.
    """
    if item.is_tiff:
        with open_mosaic(item.path, options) as mosaic:
            yield mosaic
    else:
        yield decode_picture(item.path, options.frame)
