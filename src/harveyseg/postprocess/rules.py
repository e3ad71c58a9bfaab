"""The rules of post-processing: from histograms of a photo's probabilities to a threshold, or no mask, for each class.

``argmax`` submits for each class the pixels whose most probable class it is. ``expected`` is made for the score, the
mean Dice over (photo, class) with 1 where both masks are empty. For each class it takes the set of pixels S with the
highest expected Dice, ``D(S) = 2 sum_S r / (|S| + sum r)`` for calibrated probabilities r, that is, all pixels
with r > D / 2. It submits S where that is expected to score more than an empty mask, which a logistic regression on D
predicts. ``docs/post-processing.md`` derives both steps and names the sources.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from harveyseg.arrays import FloatArray, IntArray
from harveyseg.postprocess.regression import clipped_log_odds, fit_logistic, sigmoid
from harveyseg.postprocess.statistics import (
    N_LEVELS,
    PixelCounts,
    SpecialMask,
    Thresholds,
    ThresholdStatistics,
    photo_slices,
    tail_sums,
)

_LEVEL_LOG_ODDS = clipped_log_odds((np.arange(N_LEVELS) + 0.25) / (N_LEVELS - 0.5))
"""(256,): finite and symmetric at both ends."""
_CALIBRATION_PIXELS = 100
"""A photo's pixels are not independent observations; together they weigh as much as this many."""
_MIN_CALIBRATION_SLOPE = 0.05
"""Above 0, so that a fit on few photos cannot reverse the order of the pixels."""


PerClass = dict[str, float]
"""A number for each scored class, by its slug, which begins with the id."""


def _in_order(values: PerClass) -> FloatArray:
    """(S,): by index, and so by id, whatever the order in the file."""
    return np.array([values[slug] for slug in sorted(values, key=lambda slug: int(slug.split("_")[0]))])


class ArgmaxRule(BaseModel):
    """Submit the argmax map: each pixel for its most probable class."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Literal["argmax"] = "argmax"

    def thresholds(self, level_counts: IntArray) -> Thresholds:
        """Choose masks from the histograms of n photos, int64 (n, S, 256)."""
        return np.full(level_counts.shape[:2], SpecialMask.ARGMAX)


class ExpectedDiceRule(BaseModel):
    """Submit the set of pixels with the highest expected Dice, where that is expected to beat an empty mask."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Literal["expected"] = "expected"
    calibration_slope: float
    calibration_intercept: PerClass
    presence_slope: float
    presence_intercept: PerClass

    @classmethod
    def fit(cls, statistics: ThresholdStatistics, groups: Sequence[str]) -> "ExpectedDiceRule":
        """Calibrate on the photos that hold the class, then fit the presence model on all.

        Args:
            statistics: of n photos.
            groups: the photos' groups, n.
        """
        slugs = statistics.classes.scored_slugs
        # Photos may have different numbers of labelled pixels.
        labelled = np.maximum(statistics.histograms[:, 0].sum((1, 2), dtype=np.int64), 1)
        weight = _photo_weights(groups) * (labelled[0] / labelled)[:, None]
        share = _CALIBRATION_PIXELS / labelled[0]
        pixels = share * _weighted_sum(statistics.histograms, weight * statistics.present)
        slope, intercept = fit_logistic(np.tile(_LEVEL_LOG_ODDS, (len(pixels), 1)), pixels[:, 1], pixels[:, 0])
        calibrated = cls(
            calibration_slope=max(slope, _MIN_CALIBRATION_SLOPE),
            calibration_intercept=dict(zip(slugs, intercept.tolist(), strict=True)),
            presence_slope=1.0,
            presence_intercept=dict.fromkeys(slugs, 0.0),
        )
        thresholds, dice = calibrated.optimal_thresholds(statistics.level_counts)
        slope, intercept = fit_presence_model(statistics, groups, thresholds, clipped_log_odds(dice))
        presence_intercept = dict(zip(slugs, intercept.tolist(), strict=True))
        return calibrated.model_copy(update={"presence_slope": slope, "presence_intercept": presence_intercept})

    def optimal_thresholds(self, level_counts: IntArray) -> tuple[Thresholds, FloatArray]:
        """Find the sets with the highest expected Dice, given that the class is present.

        Args:
            level_counts: histograms of n photos, int64 (n, S, 256).

        Returns:
            The thresholds and the expected Dice, both (n, S); an empty mask and 0 where no pixel reaches level 1.
        """
        intercept = _in_order(self.calibration_intercept)[:, None]
        probability = sigmoid(self.calibration_slope * _LEVEL_LOG_ODDS + intercept)
        thresholds = np.empty(level_counts.shape[:2], np.int64)
        expected = np.empty(level_counts.shape[:2])
        for photos in photo_slices(len(level_counts)):
            mass = tail_sums(level_counts[photos] * probability)
            dice = 2 * mass / (tail_sums(level_counts[photos]) + mass[..., :1])
            dice[..., 0] = 0  # the set of all pixels, however improbable, is not a candidate
            best = dice.argmax(-1)
            thresholds[photos] = np.where(best == 0, SpecialMask.EMPTY, best)
            expected[photos] = dice.max(-1)
        return thresholds, expected

    def thresholds(self, level_counts: IntArray) -> Thresholds:
        """Choose masks from the histograms of n photos, int64 (n, S, 256)."""
        thresholds, dice = self.optimal_thresholds(level_counts)
        odds = self.presence_slope * clipped_log_odds(dice) + _in_order(self.presence_intercept)
        return np.where(odds > 0, thresholds, SpecialMask.EMPTY)


Rule = ArgmaxRule | ExpectedDiceRule


def fit_presence_model(
    statistics: ThresholdStatistics, groups: Sequence[str], thresholds: Thresholds, feature: FloatArray
) -> tuple[float, FloatArray]:
    """Fit a model that predicts, from one feature, whether a mask scores more than an empty one.

    A mask gains its Dice where the class is present and loses 1 where it is absent.

    Args:
        statistics: of n photos.
        groups: the photos' groups, n.
        thresholds: the masks, (n, S).
        feature: (n, S), on the scale of log odds; the larger, the more promising the mask.

    Returns:
        Slope, and intercept of each class (S,): a mask is submitted where ``slope * feature + intercept > 0``.
    """
    weight = np.where(thresholds == SpecialMask.EMPTY, 0, _photo_weights(groups))  # empty masks carry no information
    gain = weight * statistics.present * statistics.dice(thresholds)
    loss = weight * ~statistics.present
    return fit_logistic(feature.T, gain.T, loss.T)


def _weighted_sum(histograms: PixelCounts, weights: FloatArray) -> FloatArray:
    """Sum over photos of histograms, int32 (n, S, 2, 256), by weights (n, S): float64 (S, 2, 256).

    Photo by photo, as NumPy adds along the first axis, without the product of all in memory.
    """
    total = np.zeros(histograms.shape[1:])
    for photo, weight in zip(histograms, weights, strict=True):
        total += photo * weight[:, None, None]
    return total


def _photo_weights(groups: Sequence[str]) -> FloatArray:
    """(n, 1): a group of m photos weighs as much as sqrt(m) photos."""
    _, group_of, sizes = np.unique(np.array(groups), return_inverse=True, return_counts=True)
    weights: FloatArray = 1 / np.sqrt(sizes[group_of])[:, None]
    return weights
