"""How good a label map is where two classes meet, at which a score of whole areas hardly looks."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import numpy.typing as npt

from harveyseg.probabilities import label_map

REACH = 16
"""Pixels of the scoring size (1.6% of its side) that a border reaches to each side."""


def border_band(mask: npt.NDArray[np.uint8], reach: int = REACH) -> npt.NDArray[np.bool_]:
    """The labelled pixels near a border.

    A trimap as in Kohli, Ladický & Torr 2009, "Robust Higher Order Potentials for Enforcing Label Consistency". A
    border lies between two pixels that share a side and belong to different classes. The background is no class but
    what nobody labelled: its edges are no borders, and its pixels do not count.

    Args:
        mask: class ids, uint8 (H, W).
        reach: in pixels; 1 takes the two pixels that share the side and their neighbours, diagonal ones too.

    Returns:
        bool (H, W).
    """
    touches = np.zeros(mask.shape, np.uint8)
    for one, other, here, there in (
        (mask[1:], mask[:-1], touches[1:], touches[:-1]),
        (mask[:, 1:], mask[:, :-1], touches[:, 1:], touches[:, :-1]),
    ):
        meet = (one != other) & (one > 0) & (other > 0)
        here[meet] = there[meet] = 1
    square = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    near: npt.NDArray[np.bool_] = (cv2.dilate(touches, square) > 0) & (mask > 0)
    return near


def border_accuracy(
    probabilities: Callable[[int], npt.NDArray[np.uint8]],
    truth: npt.NDArray[np.uint8],
    rows: Sequence[int],
    threads: int,
) -> float | None:
    """Share of the pixels near true borders whose class is right, of all photos together.

    Args:
        probabilities: from a position in ``rows`` to the photo's probabilities, uint8 (25, H, W).
        truth: masks at the scoring size, uint8 (N, 1024, 1024).
        rows: the photos' rows in ``truth``.
        threads: photos counted side by side; does not change the result.

    Returns:
        In 0..1; None when no photo has a border.
    """

    def count(position: int) -> tuple[int, int]:
        mask = truth[rows[position]]
        band = border_band(mask)
        right = label_map(probabilities(position))[band] == mask[band]
        return int(right.sum()), right.size

    with ThreadPoolExecutor(threads) as pool:  # OpenCV and NumPy release the lock
        right, of = np.sum(list(pool.map(count, range(len(rows)))), axis=0)
    return float(right / of) if of else None
