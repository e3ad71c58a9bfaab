"""Frames of one colour that software leaves around what was seen, without declaring it."""

from typing import Literal

import cv2
import numpy as np

from harveyseg.arrays import BoolArray, ByteArray, Photo

FrameColour = Literal["0", "255", "none"]
FRAME_WARNING = (
    "%s: a frame of one colour (%.0f%% of the file) is taken as not seen, although the file does not declare it. "
    "`--nodata none` keeps it."
)
"""For the file and the percentage of its pixels."""

_TOLERANCE = 4
"""Levels that a frame may differ from black or white, since JPEG blurs it."""
_PIXELS = 64
"""A smaller region that touches the border is a dark or bright object."""
_SIDE = 2048
"""Longest side in pixels for which that number is meant."""


def find_frame(photo: Photo, colours: tuple[str, ...]) -> ByteArray:
    """Regions of black or white that touch the border of a photo; dark or bright objects inside stay.

    Args:
        photo: uint8 (H, W, 3).
        colours: which of ``"0"`` and ``"255"`` a frame may have.

    Returns:
        uint8 (H, W), 1 inside a frame.
    """
    smallest = _PIXELS * max(1.0, max(photo.shape[:2]) / _SIDE) ** 2
    frame = np.zeros(photo.shape[:2], np.uint8)
    for colour in colours:
        plain = np.asarray(plain_pixels(photo, colour), np.uint8)
        _, regions, statistics, _ = cv2.connectedComponentsWithStats(plain, connectivity=4)
        borders = np.concatenate([regions[0], regions[-1], regions[:, 0], regions[:, -1]])
        touching = np.unique(borders[borders > 0])
        large = touching[statistics[touching, cv2.CC_STAT_AREA] >= smallest]
        frame |= np.isin(regions, large).astype(np.uint8)
    return frame


def plain_pixels(photo: Photo, colour: str) -> BoolArray:
    """Which pixels are black, for ``"0"``, or white, for ``"255"``: bool (H, W)."""
    like = photo <= _TOLERANCE if colour == "0" else photo >= 255 - _TOLERANCE
    return np.asarray(like.all(2))
