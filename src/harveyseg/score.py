"""The competition's score and the usual segmentation metrics, all from one 25 x 25 confusion count per image.

Rows of a confusion are the truth, columns the prediction; the classes are those of :mod:`harveyseg.classes`. The
score is taken at 1024 x 1024 pixels, the size at which the competition's own script encodes masks.
"""

import cv2
import numpy as np
import numpy.typing as npt

from harveyseg.classes import N_CLASSES, N_SCORED, slug

_BLOCK = 2**24
"""Most pixels that one float32 histogram bin of OpenCV counts exactly."""


def confusion(truth: npt.NDArray[np.uint8], predicted: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Count the pixels of one image by true and predicted class.

    Args:
        truth: class ids, uint8, any shape.
        predicted: class ids, uint8, of the same shape.

    Returns:
        int64 (25, 25): pixels whose true class is the row and whose predicted class is the column.

    Raises:
        ValueError: when the shapes differ or a class id is above 24.
    """
    if truth.shape != predicted.shape:
        raise ValueError(f"truth has the shape {truth.shape}, the prediction {predicted.shape}")
    rows, columns = np.ascontiguousarray(truth).reshape(-1), np.ascontiguousarray(predicted).reshape(-1)
    counts = np.zeros((N_CLASSES, N_CLASSES), np.int64)
    for start in range(0, rows.size, _BLOCK):  # OpenCV counts in float32, 10 times faster than np.bincount
        block = [rows[start : start + _BLOCK, None], columns[start : start + _BLOCK, None]]
        counts += cv2.calcHist(block, [0, 1], None, [N_CLASSES] * 2, [0, N_CLASSES] * 2).astype(np.int64)
    if counts.sum() != rows.size:
        raise ValueError(
            f"a class id is above {N_CLASSES - 1}: largest {rows.max()} (truth), {columns.max()} (prediction)"
        )
    return counts


def image_dice(confusions: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Dice of every (image, class): ``2 |X and Y| / (|X| + |Y|)``, and 1 where both are empty.

    Args:
        confusions: int64 (..., 25, 25), one per image.

    Returns:
        float64 (..., 25), the background first.
    """
    both = np.diagonal(confusions, axis1=-2, axis2=-1)
    total = confusions.sum(-1) + confusions.sum(-2)
    return np.where(total == 0, 1.0, 2 * both / np.maximum(total, 1))


def image_scores(confusions: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """The score of each image: the mean of its Dice over the classes 1..24.

    The score of a set of images is the mean of theirs, since every image has 24 pairs.

    Args:
        confusions: int64 (..., 25, 25), one per image.

    Returns:
        float64 (...).
    """
    scores: npt.NDArray[np.float64] = image_dice(confusions)[..., 1:].mean(-1)
    return scores


def pair_dice(truth: npt.NDArray[np.uint8], masks: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Dice of one image's classes 1..24 from one binary mask per class, which need not be disjoint.

    Args:
        truth: class ids, uint8 (H, W).
        masks: bool (24, H, W): what is handed in for the classes 1..24.

    Returns:
        float64 (24,): as :func:`image_dice`.

    Raises:
        ValueError: when the shapes do not fit.
    """
    if masks.shape != (N_SCORED, *truth.shape):
        raise ValueError(f"masks have the shape {masks.shape}, expected {(N_SCORED, *truth.shape)}")
    dice = np.ones(N_SCORED)
    for index, mask in enumerate(masks):
        true = truth == index + 1
        total = np.count_nonzero(true) + np.count_nonzero(mask)
        if total:
            dice[index] = 2 * np.count_nonzero(true & mask) / total
    return dice


def pair_metrics(dice: npt.NDArray[np.float64], present: npt.NDArray[np.bool_]) -> dict[str, float]:
    """Metrics that need only the Dice of each (image, class).

    Args:
        dice: float64 (n, 24), see :func:`pair_dice`.
        present: bool (n, 24): whether the class occurs in the image's truth.

    Returns:
        ``score``: mean of ``dice`` over all n * 24 pairs, the competition's metric.
        ``all_empty_score``: what submitting nothing would score, the share of pairs that are absent from the truth.
        ``dice/<slug>``: mean over the images that hold the class; no such key for a class that none holds.
        ``macro_dice``: mean of the ``dice/<slug>``; absent when no image holds any class.

    Raises:
        ValueError: when there is no image.
    """
    if not len(dice):
        raise ValueError("there is no image to score")
    found = {"score": float(dice.mean()), "all_empty_score": float(1 - present.mean())}
    classes = {
        f"dice/{slug(index + 1)}": float(dice[holds, index].mean())
        for index, holds in enumerate(present.T)
        if holds.any()
    }
    if classes:
        found["macro_dice"] = float(np.mean(list(classes.values())))
    return found | classes


def metrics(confusions: npt.NDArray[np.int64]) -> dict[str, float]:
    """All metrics of the plain most-probable-class maps of a set of images.

    Args:
        confusions: int64 (n, 25, 25), one per image.

    Returns:
        ``argmax_score``, ``argmax_macro_dice``, ``argmax_dice/<slug>`` and ``all_empty_score``, see
        :func:`pair_metrics`; what post-processing makes of the probabilities has the names without ``argmax_``.
        ``miou``: intersection over union of pixels summed over the images, mean over the classes 0..24 (the
        background included) that occur in the truth;
        ``pixel_accuracy``: share of all pixels, background included, whose class is right.

    Raises:
        ValueError: when there is no image.
    """
    pairs = pair_metrics(image_dice(confusions)[:, 1:], confusions.sum(2)[:, 1:] > 0)
    found = {name if name == "all_empty_score" else f"argmax_{name}": value for name, value in pairs.items()}
    summed = confusions.sum(0)
    both, true = np.diagonal(summed), summed.sum(1)
    union = true + summed.sum(0) - both
    found["miou"] = float((both[true > 0] / union[true > 0]).mean())
    found["pixel_accuracy"] = float(both.sum() / summed.sum())
    return found
