"""The rule `expected` against brute force over all sets of pixels and all true masks."""

import itertools

import numpy as np
import pytest

from harveyseg.arrays import BoolArray, FloatArray
from harveyseg.postprocess.statistics import SpecialMask
from helpers.postprocessing import make_calibrated_rule


def expected_dice(probabilities: FloatArray, submitted: BoolArray) -> float:
    """The mean over all true masks of independent pixels that are not empty."""
    total = weight = 0.0
    for truth in itertools.product((False, True), repeat=len(probabilities)):
        if any(truth):
            probability = float(np.prod(np.where(truth, probabilities, 1 - probabilities)))
            total += probability * 2 * (submitted & np.array(truth)).sum() / (submitted.sum() + sum(truth))
            weight += probability
    return total / weight


@pytest.mark.parametrize("seed", range(6))
def test_set_is_nearly_the_best_of_all_sets(seed: int) -> None:
    rng = np.random.default_rng(seed)
    levels = np.unique(rng.integers(15, 250, 7))
    probabilities = np.asarray((levels + 0.25) / 255.5, np.float64)
    sets = [np.array(chosen) for chosen in itertools.product((False, True), repeat=len(levels)) if any(chosen)]
    values = np.array([expected_dice(probabilities, candidate) for candidate in sets])
    # Of each size the most probable pixels are the best, so no set beats all thresholds.
    for size in range(1, len(levels) + 1):
        best = max((value, index) for index, value in enumerate(values) if sets[index].sum() == size)[1]
        assert np.array_equal(np.flatnonzero(sets[best]), np.arange(len(levels) - size, len(levels)))
    counts = np.zeros((1, 24, 256), np.int64)
    counts[:, :, levels] = 1
    thresholds, dice = make_calibrated_rule().optimal_thresholds(counts)
    submitted = levels >= thresholds[0, 0]
    # The ratio of means is an approximation, and a good one even though the size of 7 uncertain pixels varies much.
    assert expected_dice(probabilities, submitted) > values.max() - 0.01
    # The ratio itself is the best one, and its set is that of the pixels above half of it (Lipton et al. 2014).
    ratios = [2 * probabilities[pixels].sum() / (pixels.sum() + probabilities.sum()) for pixels in sets]
    assert dice[0, 0] == pytest.approx(max(ratios))
    assert np.array_equal(submitted, probabilities > dice[0, 0] / 2)


def test_the_approximation_is_exact_for_many_pixels() -> None:
    rng = np.random.default_rng(0)
    levels = rng.integers(1, 255, 4000)
    probabilities = np.asarray((levels + 0.25) / 255.5, np.float64)
    counts = np.zeros((1, 24, 256), np.int64)
    counts[0, :, 0] = 4000
    counts[0, 3] = np.bincount(levels, minlength=256)
    thresholds, dice = make_calibrated_rule().optimal_thresholds(counts)
    truths = rng.random((400, 4000)) < probabilities
    submitted = levels >= thresholds[0, 3]
    drawn = 2 * (truths & submitted).sum(1) / (truths.sum(1) + submitted.sum())
    assert dice[0, 3] == pytest.approx(drawn.mean(), abs=0.002)
    assert (thresholds[0, [2, 4]] == SpecialMask.EMPTY).all()  # no pixel reaches level 1
