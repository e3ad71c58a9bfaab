"""The competition's score and the usual segmentation metrics, from one confusion count for each photo.

Rows of a confusion are the truth, columns the prediction. Pixels whose truth is 255 have no label and count
nowhere. The score is computed at the size ``data.score_size``, at which the competition's own script encodes masks.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from harveyseg.arrays import BinaryMasks, BoolArray, ClassMap, Confusion, Confusions, FloatArray
from harveyseg.classes import IGNORED, ClassList

_BLOCK = 2**24
"""The largest number of pixels that a float32 histogram bin of OpenCV counts exactly."""


def confusion(truth: ClassMap, predicted: ClassMap, classes: int) -> Confusion:
    """Count the pixels of one image by true and predicted class.

    >>> counts = confusion(np.array([[1, 1, 0]], np.uint8), np.array([[1, 2, 0]], np.uint8), classes=3)
    >>> int(counts[1, 1]), int(counts[1, 2]), int(counts[0, 0])
    (1, 1, 1)

    Args:
        truth: uint8, any shape; 255 where there is no label.
        predicted: uint8, of the same shape.
        classes: how many there are.

    Returns:
        int64 (C, C): labelled pixels whose true class is the row and whose predicted class is the column.

    Raises:
        ValueError: when the shapes differ or a value is no class.
    """
    if truth.shape != predicted.shape:
        raise ValueError(f"truth has the shape {truth.shape}, the prediction {predicted.shape}")
    rows = np.ascontiguousarray(truth).reshape(-1)
    columns = np.ascontiguousarray(predicted).reshape(-1)
    counts = np.zeros((classes, classes), np.int64)
    for start in range(0, rows.size, _BLOCK):  # OpenCV counts in float32, 10 times faster than np.bincount
        block = [rows[start : start + _BLOCK, None], columns[start : start + _BLOCK, None]]
        counts += cv2.calcHist(block, [0, 1], None, [classes] * 2, [0, classes] * 2).astype(np.int64)
    if counts.sum() != rows.size:  # values that are no class are in no bin
        labelled = rows != IGNORED
        if counts.sum() != np.count_nonzero(labelled):
            raise ValueError(
                f"a class is above {classes - 1}: largest {rows[labelled].max()} (truth), {columns.max()} (prediction)"
            )
    return counts


def image_dice(confusions: Confusions) -> FloatArray:
    """Dice of every (photo, class): ``2 |X and Y| / (|X| + |Y|)``, and 1 where both are empty.

    Args:
        confusions: int64 (..., C, C), one per image.

    Returns:
        float64 (..., C).
    """
    both = np.diagonal(confusions, axis1=-2, axis2=-1)
    total = confusions.sum(-1) + confusions.sum(-2)
    return np.where(total == 0, 1.0, 2 * both / np.maximum(total, 1))


def image_scores(confusions: Confusions, unscored: int) -> FloatArray:
    """The score of each image: the mean of its Dice over the scored classes.

    The score of a set of images is the mean of their scores, since every image has the same number of pairs.

    Args:
        confusions: int64 (..., C, C), one per image.
        unscored: number of classes that are not scored; they come first.

    Returns:
        float64 (...).
    """
    scores: FloatArray = image_dice(confusions)[..., unscored:].mean(-1)
    return scores


def pair_dice(truth: ClassMap, masks: BinaryMasks, unscored: int) -> FloatArray:
    """Dice of one image's scored classes from one binary mask for each; masks may overlap.

    Args:
        truth: uint8 (H, W); 255 where there is no label.
        masks: bool (S, H, W): the submitted masks.
        unscored: number of classes that are not scored; they come first.

    Returns:
        float64 (S,): as :func:`image_dice`.

    Raises:
        ValueError: when the shapes do not match.
    """
    if masks.shape[1:] != truth.shape:
        raise ValueError(f"masks have the shape {masks.shape}, the truth {truth.shape}")
    labelled = truth != IGNORED
    all_labelled = bool(labelled.all())
    dice = np.ones(len(masks))
    for index, submitted in enumerate(masks):
        mask = submitted if all_labelled else submitted & labelled
        class_mask = truth == index + unscored
        total = np.count_nonzero(class_mask) + np.count_nonzero(mask)
        if total:
            dice[index] = 2 * np.count_nonzero(class_mask & mask) / total
    return dice


def pair_metrics(dice: FloatArray, present: BoolArray, slugs: Sequence[str]) -> dict[str, float]:
    """Metrics that need only the Dice of each (photo, class).

    >>> dice, present = np.ones((2, 3)), np.zeros((2, 3), bool)
    >>> dice[0, 1], present[0, 1] = 0.4, True  # one image holds grass
    >>> {name: round(value, 3) for name, value in pair_metrics(dice, present, ["1_roof", "2_grass", "3_pool"]).items()}
    {'score': 0.9, 'all_empty_score': 0.833, 'macro_dice': 0.4, 'dice/2_grass': 0.4}

    Args:
        dice: float64 (n, S), see :func:`pair_dice`.
        present: bool (n, S): whether the class occurs in the image's truth.
        slugs: of the S scored classes.

    Returns:
        ``score``: mean of ``dice`` over all n * S pairs, the competition's metric.
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
        f"dice/{slugs[index]}": float(dice[holds, index].mean()) for index, holds in enumerate(present.T) if holds.any()
    }
    if classes:
        metrics["macro_dice"] = float(np.mean(list(classes.values())))
    return metrics | classes


def argmax_metrics(confusions: Confusions, classes: ClassList) -> dict[str, float]:
    """All metrics of the argmax maps of a set of images.

    Args:
        confusions: int64 (n, C, C), one per image.
        classes: what they are.

    Returns:
        ``argmax_score``, ``argmax_macro_dice``, ``argmax_dice/<slug>`` and ``all_empty_score``, see
        :func:`pair_metrics`, whose names without ``argmax_`` are used for the submitted masks.
        ``miou``: intersection over union of pixels summed over the images, mean over the classes that occur in
        the truth, whether or not they are scored;
        ``pixel_accuracy``: share of all labelled pixels whose class is right. Both are metrics of the
        argmax maps as well, and so are false_positive_classes, missed_classes and boundary_accuracy of
        :mod:`harveyseg.evaluation`, although their names do not begin with ``argmax_``.

    Raises:
        ValueError: when there is no image.
    """
    scored = slice(classes.unscored, None)
    present = confusions.sum(2)[:, scored] > 0
    pairs = pair_metrics(image_dice(confusions)[:, scored], present, classes.scored_slugs)
    metrics = {name if name == "all_empty_score" else f"argmax_{name}": value for name, value in pairs.items()}
    summed = confusions.sum(0)
    intersection = np.diagonal(summed)
    true = summed.sum(1)
    union = true + summed.sum(0) - intersection
    metrics["miou"] = float((intersection[true > 0] / union[true > 0]).mean())
    metrics["pixel_accuracy"] = float(intersection.sum() / summed.sum())
    return metrics
