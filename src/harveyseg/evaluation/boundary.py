"""How good a label map is where two classes meet, at which a score of whole areas hardly looks."""

from collections.abc import Callable, Sequence

import cv2
import numpy as np
import numpy.typing as npt

from harveyseg.inference.probabilities import apply_to_argmax_maps

REACH = 16
"""Pixels of the scoring size (1.6% of its side) that a border reaches beyond the two that touch."""


def boundary_band(mask: npt.NDArray[np.uint8], reach: int = REACH) -> npt.NDArray[np.bool_]:
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


def accuracies(
    probabilities: Callable[[int], npt.NDArray[np.uint8]],
    truth: npt.NDArray[np.uint8],
    rows: Sequence[int],
    threads: int,
) -> dict[str, float | None]:
    """How many labelled pixels are right, near borders and elsewhere.

    What is better everywhere is better at borders, too. It helps borders if it gains more there than elsewhere.

    Args: see :func:`harveyseg.inference.probabilities.apply_to_argmax_maps`.

    Returns:
        ``boundary_accuracy`` and ``interior_accuracy``: shares of the labelled pixels in :func:`boundary_band` and outside
        it whose class is right, in 0..1, of all photos together; None where there are no such pixels.
    """

    def count(mask: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8]) -> list[tuple[int, int]]:
        right, band = labels == mask, boundary_band(mask)
        return [(int(right[part].sum()), int(part.sum())) for part in (band, ~band & (mask > 0))]

    counts = np.sum(apply_to_argmax_maps(count, probabilities, truth, rows, threads), axis=0)
    names = ("boundary_accuracy", "interior_accuracy")
    return {name: float(right / of) if of else None for name, (right, of) in zip(names, counts, strict=True)}
