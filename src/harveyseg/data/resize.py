"""Resizing photos: the same for the cache that networks are trained on and for new photos."""

import cv2
import numpy as np

from harveyseg.arrays import Photo


def resize_photo(photo: Photo, size: tuple[int, int]) -> Photo:
    """Shrink a decoded photo by area average; a side that grows is interpolated linearly.

    >>> resize_photo(np.full((6, 8, 3), (1, 2, 3), np.uint8), (3, 4))[0, 0].tolist()
    [3, 2, 1]

    Args:
        photo: uint8 (H, W, 3) in OpenCV's order of channels, BGR.
        size: (height, width) in pixels.

    Returns:
        uint8 (height, width, 3), RGB.
    """
    height, width = photo.shape[:2]
    # INTER_AREA averages only where both sides shrink, hence the two steps.
    shrunk = cv2.resize(photo, (min(size[1], width), min(size[0], height)), interpolation=cv2.INTER_AREA)
    resized = cv2.resize(shrunk, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    return np.asarray(cv2.cvtColor(resized, cv2.COLOR_BGR2RGB), np.uint8)
