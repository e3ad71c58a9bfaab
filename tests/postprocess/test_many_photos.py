"""Statistics of many photos: some at a time, with the results of all at once, bit for bit."""

import tracemalloc

import numpy as np
import pytest

from harveyseg.classes import HARVEY25
from harveyseg.postprocess import statistics as module
from harveyseg.postprocess.regression import sigmoid
from harveyseg.postprocess.rules import _LEVEL_LOG_ODDS, ExpectedDiceRule, _weighted_sum
from harveyseg.postprocess.statistics import N_LEVELS, PhotoStatistics, SpecialMask, StatisticsStack, tail_sums

PHOTOS, SCORED = 11, 24


def random_photo(seed: int) -> PhotoStatistics:
    random = np.random.default_rng(seed)
    histograms = random.integers(0, 2000, (SCORED, 2, N_LEVELS))
    histograms[random.random(SCORED) < 0.4, 1] = 0  # these classes are absent
    return PhotoStatistics(histograms.astype(np.int32), random.integers(0, 999, (25, 25)), None, None)


@pytest.fixture
def photos() -> list[PhotoStatistics]:
    return [random_photo(seed) for seed in range(PHOTOS)]


def test_some_at_a_time_is_all_at_once(photos: list[PhotoStatistics], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PHOTOS_AT_A_TIME", 4)
    stack = StatisticsStack(PHOTOS, HARVEY25)
    for photo in photos:
        stack.add(photo)
    statistics = stack.finish()
    histograms = np.stack([photo.histograms for photo in photos]).astype(np.int64)
    inside, outside = (histograms[:, :, place, ::-1].cumsum(-1)[..., ::-1] for place in (1, 0))
    total = inside + outside + inside[..., :1]
    dice = np.where(total == 0, 1, 2 * inside / np.maximum(total, 1))
    np.testing.assert_array_equal(statistics.dice_by_threshold[..., 1:256], dice[..., 1:])
    np.testing.assert_array_equal(statistics.dice_by_threshold[..., SpecialMask.EMPTY], inside[..., 0] == 0)
    assert statistics.level_counts.dtype == np.int64

    weights = np.random.default_rng(1).random((PHOTOS, SCORED))
    at_once = (histograms * weights[..., None, None]).sum(0)
    np.testing.assert_array_equal(_weighted_sum(statistics.histograms, weights), at_once)

    rule = ExpectedDiceRule.fit(statistics, [str(number // 2) for number in range(PHOTOS)])
    thresholds, expected = rule.optimal_thresholds(statistics.level_counts)
    intercept = np.array([rule.calibration_intercept[slug] for slug in HARVEY25.scored_slugs])[:, None]
    counts = statistics.level_counts
    mass = tail_sums(counts * sigmoid(rule.calibration_slope * _LEVEL_LOG_ODDS + intercept))
    wanted = 2 * mass / (tail_sums(counts) + mass[..., :1])
    wanted[..., 0] = 0
    best = wanted.argmax(-1)
    assert np.isfinite(expected).all()
    np.testing.assert_array_equal(expected, wanted.max(-1))
    np.testing.assert_array_equal(thresholds, np.where(best == 0, SpecialMask.EMPTY, best))


def test_a_photo_takes_so_much_memory_however_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """In arrays that stay 103 kB; the fit holds in addition pixels of each level (49 kB) and of each Dice."""
    monkeypatch.setattr(module, "_PHOTOS_AT_A_TIME", 8)
    photo = random_photo(0)

    def peak(count: int) -> int:
        tracemalloc.start()
        stack = StatisticsStack(count, HARVEY25)
        for _ in range(count):
            stack.add(photo)
        statistics = stack.finish()
        ExpectedDiceRule.fit(statistics, [str(number) for number in range(count)])
        _, highest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return highest

    assert (peak(200) - peak(100)) / 100 < 200_000
