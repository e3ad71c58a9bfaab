"""Resizing photos and class maps: the same for the cache that networks are trained on and for new photos."""

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from harveyseg.arrays import ClassMap, IntArray, Photo


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


def nearest_classes(mask: ClassMap, size: tuple[int, int]) -> ClassMap:
    """Resize a class map: each pixel gets the class at its centre.

    ``cv2.INTER_NEAREST`` takes the class at the corner instead, half a target pixel off the photo. Pillow's NEAREST,
    which the competition's own script uses, takes the same pixel as this function, which needs no rounding.

    Args:
        mask: (H, W).
        size: (height, width) wanted.

    Example:
        >>> nearest_classes(np.array([[0, 1, 2], [3, 4, 5], [6, 7, 8]], np.uint8), (1, 3)).tolist()
        [[3, 4, 5]]
    """
    rows, columns = (
        (2 * np.arange(target) + 1) * side // (2 * target) for side, target in zip(mask.shape, size, strict=True)
    )
    return mask[np.ix_(rows, columns)]


def majority_classes(mask: ClassMap, size: tuple[int, int]) -> ClassMap:
    """Resize a class map: each pixel gets the class with the largest area in it, the first of several.

    Source pixels that cross a border count on each side with their share, in exact integers.

    Args:
        mask: (H, W).
        size: (height, width) wanted.

    Example:
        >>> majority_classes(np.array([[7, 7, 2, 1], [7, 0, 1, 2]], np.uint8), (1, 2)).tolist()
        [[7, 1]]
    """
    winner = np.zeros(size, np.uint8)
    largest = np.zeros(size, np.int64)
    for class_id in np.flatnonzero(np.bincount(mask.ravel(), minlength=256)):
        rows = _overlap_sums((mask == class_id).view(np.uint8), size[0])
        area = _overlap_sums(rows.T, size[1]).T
        better = area > largest
        winner[better] = class_id
        largest[better] = area[better]
    return winner


def _overlap_sums(values: npt.NDArray[Any], target: int) -> IntArray:
    """Divide the first axis, of n pixels, into ``target`` equal intervals and sum the values over each.

    Returns:
        Shape (target, ...), in units of 1/target of a pixel, so that every share is a whole number.
    """
    # Border i is at i * n / target: in pixel first[i], rest[i] / target after its start.
    first, rest = np.divmod(np.arange(target + 1) * len(values), target)
    whole = np.add.reduceat(values, first[:-1], axis=0, dtype=np.int64)
    whole[first[:-1] == first[1:]] = 0  # reduceat yields the element itself for an empty range
    behind = np.zeros((target + 1, *values.shape[1:]), np.int64)
    behind[:-1] = values[first[:-1]]
    behind *= rest.reshape(-1, *(1,) * (values.ndim - 1))
    return target * whole - behind[:-1] + behind[1:]
