"""Boundary accuracy: pixel accuracy of argmax maps near class boundaries and away from them."""

import cv2
import numpy as np

from harveyseg.arrays import BinaryMask, ClassMap, IntArray
from harveyseg.classes import IGNORED

REACH = 16
"""Pixels of the scoring size (1.6% of its side) around the pixels that touch a boundary."""


def boundary_band(mask: ClassMap, unscored: int, reach: int = REACH) -> BinaryMask:
    """Select the labelled pixels near a boundary between two classes.

    This is the trimap of Kohli, Ladický and Torr 2009, "Robust Higher Order Potentials for Enforcing Label
    Consistency". A boundary lies between two pixels that share a side and belong to different classes. What is
    not scored, such as the background, is the unlabelled part of the photo: its edges are not boundaries, and its
    pixels do not count. Neither do those without a label.

    >>> boundary_band(np.array([[1, 1, 1, 5], [1, 1, 1, 5]], np.uint8), unscored=1, reach=1).astype(int).tolist()
    [[0, 1, 1, 1], [0, 1, 1, 1]]

    Args:
        mask: uint8 (H, W).
        unscored: number of classes that are not scored; they come first.
        reach: in pixels; 1 takes the two pixels that share the side and their neighbours, diagonal ones included.

    Returns:
        bool (H, W).
    """
    touches = np.zeros(mask.shape, np.uint8)
    scored = _scored(mask, unscored)
    above = mask[:-1]
    below = mask[1:]
    meet = (above != below) & scored[:-1] & scored[1:]
    touches[:-1][meet] = 1
    touches[1:][meet] = 1
    left = mask[:, :-1]
    right = mask[:, 1:]
    meet = (left != right) & scored[:, :-1] & scored[:, 1:]
    touches[:, :-1][meet] = 1
    touches[:, 1:][meet] = 1
    square = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    band: BinaryMask = (cv2.dilate(touches, square) > 0) & scored
    return band


def _scored(mask: ClassMap, unscored: int) -> BinaryMask:
    scored: BinaryMask = (mask >= unscored) & (mask != IGNORED)
    return scored


def count_boundary_pixels(mask: ClassMap, predicted: ClassMap, unscored: int) -> IntArray:
    """Labelled pixels of one photo near boundaries and elsewhere.

    Args:
        mask: the true class map, uint8 (H, W).
        predicted: the predicted one, uint8 (H, W).
        unscored: number of classes that are not scored.

    Returns:
        int64 (2, 2): near boundaries (:func:`boundary_band`) and elsewhere, pixels whose class is right and all pixels.
    """
    right = predicted == mask
    band = boundary_band(mask, unscored)
    interior = ~band & _scored(mask, unscored)
    return np.array([[right[pixels].sum(), pixels.sum()] for pixels in (band, interior)], np.int64)


def boundary_accuracies(counts: IntArray) -> dict[str, float | None]:
    """Pixel accuracy near boundaries and elsewhere, of all photos together.

    A model that is better everywhere is better at boundaries too. One that is better at boundaries in particular gains
    more there than elsewhere.

    Args:
        counts: from :func:`count_boundary_pixels`, int64 (photos, 2, 2).

    Returns:
        ``boundary_accuracy`` and ``interior_accuracy``, shares in 0..1; None where there are no such pixels.
    """
    names = ("boundary_accuracy", "interior_accuracy")
    totals = counts.sum(0).tolist()
    return {name: right / total if total else None for name, (right, total) in zip(names, totals, strict=True)}
