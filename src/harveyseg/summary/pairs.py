"""The winner's (photo, class) pairs: what is submitted for each, what it scores, and where it goes most wrong."""

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from harveyseg.arrays import BinaryMask, BoolArray, FloatArray, IntArray, ProbabilityMaps
from harveyseg.classes import IGNORED
from harveyseg.errors import HarveysegError
from harveyseg.evaluation.boundary import REACH
from harveyseg.inference.probabilities import argmax_map
from harveyseg.postprocess.select import PostprocessParams, select_rule
from harveyseg.postprocess.statistics import (
    SpecialMask,
    Thresholds,
    ThresholdStatistics,
    collect_statistics,
    tail_sums,
    upsample_levels,
)
from harveyseg.summary.finished import FinishedPipeline

Reason = Literal["missed", "false", "border", "missed in part", "false in part"]

_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Pairs:
    """A source's out-of-fold photos x scored classes, at the score's size."""

    source: str
    statistics: ThresholdStatistics
    thresholds: Thresholds
    """(n, S): the masks that are scored; each photo's by a rule that never saw its group."""

    @property
    def dice(self) -> FloatArray:
        """(n, S)."""
        return self.statistics.dice(self.thresholds)

    @property
    def submitted(self) -> BoolArray:
        """(n, S): whether a mask holds a pixel."""
        return self.statistics.not_empty(self.thresholds)

    def wrong_pixels(self) -> tuple[IntArray, IntArray]:
        """Labelled pixels of the true mask that are not submitted, and submitted ones outside it: (n, S) each."""
        statistics = self.statistics
        unscored = statistics.classes.unscored
        true = statistics.confusions.sum(2)[:, unscored:]
        hit, extra = (_at(statistics, self.thresholds, place) for place in (1, 0))
        both = np.diagonal(statistics.confusions, axis1=1, axis2=2)[:, unscored:]
        predicted = statistics.confusions.sum(1)[:, unscored:]
        argmax = self.thresholds == SpecialMask.ARGMAX
        hit = np.where(argmax, both, hit)
        extra = np.where(argmax, predicted - both, extra)
        return true - hit, extra


def _at(statistics: ThresholdStatistics, thresholds: Thresholds, place: int) -> IntArray:
    """Pixels of at least the threshold's level outside (0) or inside (1) the true masks, (n, S)."""
    sums = np.zeros((*thresholds.shape, SpecialMask.EMPTY + 1), np.int64)
    sums[..., : SpecialMask.EMPTY] = tail_sums(statistics.histograms[:, :, place])
    pixels: IntArray = np.take_along_axis(sums, thresholds[..., None], -1)[..., 0]
    return pixels


@dataclass(frozen=True)
class WorstPair:
    """A pair that scores badly."""

    position: int
    """Of the photo among the out-of-fold photos."""
    index: int
    """Of the class."""
    dice: float
    missing: int
    """Pixels of the true mask that are not submitted."""
    extra: int
    """Submitted pixels outside the true mask."""
    reason: Reason


def compute_pairs(workspace: FinishedPipeline, source: str, postprocess: PostprocessParams) -> Pairs:
    """Post-process a source's out-of-fold photos as the stage ``postprocess`` does.

    Args:
        workspace: the finished pipeline.
        source: a model, or the ensemble.
        postprocess: its settings.

    Raises:
        HarveysegError: when the score is another one than the table's.
    """
    positions = range(len(workspace.fold_models.ids))
    rows = workspace.fold_models.rows(workspace.train.ids)
    maps = map(workspace.predictor(source), positions)
    statistics = collect_statistics(maps, workspace.truth["val"], rows, workspace.classes, workspace.threads)
    selected = select_rule(statistics, workspace.held_out["group"].tolist(), postprocess.method)
    pairs = Pairs(source, statistics, selected.nested_thresholds)
    score, tabled = float(pairs.dice.mean()), workspace.rule(source).nested_score
    if abs(score - tabled) > _TOLERANCE:
        raise HarveysegError(
            f"data/postprocess: {source} scores {tabled:.6f} there and {score:.6f} with the settings in params.yaml "
            "and the present files. Run `dvc repro`, or `dvc repro -f postprocess` if nothing is stale."
        )
    return pairs


def worst_pairs(workspace: FinishedPipeline, pairs: Pairs, count: int) -> list[WorstPair]:
    """The pairs with the lowest Dice; of equal ones first that with the most wrong pixels.

    Args:
        workspace: the finished pipeline.
        pairs: of its winner.
        count: how many at most; pairs without a wrong pixel are never among them.
    """
    missing, extra = pairs.wrong_pixels()
    dice = pairs.dice
    wrong = missing + extra
    order = np.lexsort((-wrong.ravel(), dice.ravel()))
    unscored = workspace.classes.unscored
    worst = []
    for flat in order[:count]:
        position, place = (int(number) for number in np.unravel_index(flat, dice.shape))
        if not wrong[position, place]:
            break
        reason = _reason(workspace, pairs, position, place)
        numbers = float(dice[position, place]), int(missing[position, place]), int(extra[position, place])
        worst.append(WorstPair(position, place + unscored, *numbers, reason))
    return worst


def _reason(workspace: FinishedPipeline, pairs: Pairs, position: int, place: int) -> Reason:
    truth = np.asarray(workspace.truth["val"][workspace.fold_models.rows(workspace.train.ids)[position]])
    index = place + workspace.classes.unscored
    probabilities = workspace.predictor(pairs.source)(position)
    submitted = _submitted_mask(probabilities, index, int(pairs.thresholds[position, place]), truth.shape)
    return name_error(truth == index, submitted & (truth != IGNORED))


def name_error(true: BinaryMask, submitted: BinaryMask) -> Reason:
    """Why a pair is wrong.

    ``missed``: no pixel is submitted of a class that is there; ``false``: the class is not there; ``border``: at least
    half of the wrong pixels are at most 16 pixels from the edge of the true mask; else whichever kind of wrong pixel is
    more frequent.

    >>> nothing, left = np.zeros((2, 4, 100), bool)
    >>> left[:, :50] = True
    >>> name_error(left, nothing), name_error(nothing, left), name_error(left, ~nothing)
    ('missed', 'false', 'false in part')

    Args:
        true: the true mask at the score's size, bool (H, W).
        submitted: the labelled pixels that are submitted, bool (H, W).
    """
    if not submitted.any():
        return "missed"
    if not true.any():
        return "false"
    wrong = submitted != true
    square = np.ones((2 * REACH + 1, 2 * REACH + 1), np.uint8)
    mask = true.astype(np.uint8)
    near = cv2.dilate(mask, square) != cv2.erode(mask, square)
    if np.count_nonzero(wrong & near) >= np.count_nonzero(wrong) / 2:
        return "border"
    return "missed in part" if np.count_nonzero(wrong & true) >= np.count_nonzero(wrong & ~true) else "false in part"


def _submitted_mask(probabilities: ProbabilityMaps, index: int, threshold: int, shape: tuple[int, ...]) -> BinaryMask:
    """The mask that a threshold stands for, bool (H, W)."""
    size = (shape[0], shape[1])
    if threshold == SpecialMask.EMPTY:
        return np.zeros(size, np.bool_)
    if threshold == SpecialMask.ARGMAX:
        return np.asarray(argmax_map(probabilities, size) == index)
    return np.asarray(upsample_levels(probabilities[index], size) >= threshold)
