"""The competition's score and the usual segmentation metrics, from one 25 x 25 confusion count for each photo.

Rows of a confusion are the truth, columns the prediction; the classes are those of :mod:`harveyseg.classes`. The
score is computed at 1024 x 1024 pixels, the size at which the competition's own script encodes masks.
"""

import cv2
import numpy as np

from harveyseg.arrays import BinaryMasks, BoolArray, ClassMap, Confusion, Confusions, FloatArray
from harveyseg.classes import N_CLASSES, N_SCORED, slug

_BLOCK = 2**24
"""The largest number of pixels that a float32 histogram bin of OpenCV counts exactly."""


def confusion(truth: ClassMap, predicted: ClassMap) -> Confusion:
    """Count the pixels of one image by true and predicted class.

    >>> counts = confusion(np.array([[1, 1, 0]], np.uint8), np.array([[1, 2, 0]], np.uint8))
    >>> int(counts[1, 1]), int(counts[1, 2]), int(counts[0, 0])
    (1, 1, 1)

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
    rows = np.ascontiguousarray(truth).reshape(-1)
    columns = np.ascontiguousarray(predicted).reshape(-1)
    counts = np.zeros((N_CLASSES, N_CLASSES), np.int64)
    for start in range(0, rows.size, _BLOCK):  # OpenCV counts in float32, 10 times faster than np.bincount
        block = [rows[start : start + _BLOCK, None], columns[start : start + _BLOCK, None]]
        counts += cv2.calcHist(block, [0, 1], None, [N_CLASSES] * 2, [0, N_CLASSES] * 2).astype(np.int64)
    if counts.sum() != rows.size:
        raise ValueError(
            f"a class id is above {N_CLASSES - 1}: largest {rows.max()} (truth), {columns.max()} (prediction)"
        )
    return counts


def image_dice(confusions: Confusions) -> FloatArray:
    """Dice of every (photo, class): ``2 |X and Y| / (|X| + |Y|)``, and 1 where both are empty.

    Args:
        confusions: int64 (..., 25, 25), one per image.

    Returns:
        float64 (..., 25), the background first.
    """
    both = np.diagonal(confusions, axis1=-2, axis2=-1)
    total = confusions.sum(-1) + confusions.sum(-2)
    return np.where(total == 0, 1.0, 2 * both / np.maximum(total, 1))


def image_scores(confusions: Confusions) -> FloatArray:
    """The score of each image: the mean of its Dice over the classes 1..24.

    The score of a set of images is the mean of their scores, since every image has 24 pairs.

    Args:
        confusions: int64 (..., 25, 25), one per image.

    Returns:
        float64 (...).
    """
    scores: FloatArray = image_dice(confusions)[..., 1:].mean(-1)
    return scores


def pair_dice(truth: ClassMap, masks: BinaryMasks) -> FloatArray:
    """Dice of one image's classes 1..24 from one binary mask for each class; masks may overlap.

    Args:
        truth: class ids, uint8 (H, W).
        masks: bool (24, H, W): the submitted masks of the classes 1..24.

    Returns:
        float64 (24,): as :func:`image_dice`.

    Raises:
        ValueError: when the shapes do not match.
    """
    if masks.shape != (N_SCORED, *truth.shape):
        raise ValueError(f"masks have the shape {masks.shape}, expected {(N_SCORED, *truth.shape)}")
    dice = np.ones(N_SCORED)
    for index, mask in enumerate(masks):
        class_mask = truth == index + 1
        total = np.count_nonzero(class_mask) + np.count_nonzero(mask)
        if total:
            dice[index] = 2 * np.count_nonzero(class_mask & mask) / total
    return dice


def pair_metrics(dice: FloatArray, present: BoolArray) -> dict[str, float]:
    """Metrics that need only the Dice of each (photo, class).

    >>> dice, present = np.ones((2, 24)), np.zeros((2, 24), bool)
    >>> dice[0, 4], present[0, 4] = 0.5, True  # one image holds grass
    >>> {name: round(value, 3) for name, value in pair_metrics(dice, present).items()}
    {'score': 0.99, 'all_empty_score': 0.979, 'macro_dice': 0.5, 'dice/05_grass': 0.5}

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
    metrics = {"score": float(dice.mean()), "all_empty_score": float(1 - present.mean())}
    classes = {
        f"dice/{slug(index + 1)}": float(dice[holds, index].mean())
        for index, holds in enumerate(present.T)
        if holds.any()
    }
    if classes:
        metrics["macro_dice"] = float(np.mean(list(classes.values())))
    return metrics | classes


def argmax_metrics(confusions: Confusions) -> dict[str, float]:
    """All metrics of the argmax maps of a set of images.

    Args:
        confusions: int64 (n, 25, 25), one per image.

    Returns:
        ``argmax_score``, ``argmax_macro_dice``, ``argmax_dice/<slug>`` and ``all_empty_score``, see
        :func:`pair_metrics`, whose names without ``argmax_`` are used for the submitted masks.
        ``miou``: intersection over union of pixels summed over the images, mean over the classes 0..24 (the
        background included) that occur in the truth;
        ``pixel_accuracy``: share of all pixels, background included, whose class is right. Both are metrics of the
        argmax maps as well, and so are false_positive_classes, missed_classes and boundary_accuracy of
        :mod:`harveyseg.evaluation`, although their names do not begin with ``argmax_``.

    Raises:
        ValueError: when there is no image.
    """
    pairs = pair_metrics(image_dice(confusions)[:, 1:], confusions.sum(2)[:, 1:] > 0)
    metrics = {name if name == "all_empty_score" else f"argmax_{name}": value for name, value in pairs.items()}
    summed = confusions.sum(0)
    intersection = np.diagonal(summed)
    true = summed.sum(1)
    union = true + summed.sum(0) - intersection
    metrics["miou"] = float((intersection[true > 0] / union[true > 0]).mean())
    metrics["pixel_accuracy"] = float(intersection.sum() / summed.sum())
    return metrics
