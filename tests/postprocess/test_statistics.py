"""Threshold statistics against slow loops over pixels."""

import numpy as np
import pytest

from harveyseg.classes import HARVEY25
from harveyseg.inference.probabilities import argmax_map, upsample
from harveyseg.postprocess.rules import ArgmaxRule, ExpectedDiceRule
from harveyseg.postprocess.statistics import SpecialMask, collect_statistics
from harveyseg.score import confusion, image_dice, pair_dice
from helpers.class_lists import make_classes
from helpers.postprocessing import NoisyPhotos, make_fitted_rule

SIZE = (1024, 1024)


def test_statistics_are_those_of_slow_loops(noisy: NoisyPhotos) -> None:
    truth, maps, _ = noisy
    rows = [7, 2]
    statistics = collect_statistics((maps[row] for row in rows), truth, rows, HARVEY25, threads=2)
    for position, row in enumerate(rows):
        levels = np.rint(upsample(maps[row], SIZE)).astype(int)
        for level in (1, 128):
            assert np.allclose(
                statistics.dice_by_threshold[position, :, level], pair_dice(truth[row], levels[1:] >= level, 1)
            )
        argmax = image_dice(confusion(truth[row], argmax_map(maps[row], SIZE), 25))
        assert np.array_equal(statistics.dice_by_threshold[position, :, SpecialMask.ARGMAX], argmax[1:])
        assert np.array_equal(
            statistics.dice_by_threshold[position, :, SpecialMask.EMPTY],
            [(truth[row] != c).all() for c in range(1, 25)],
        )
        for class_id in (1, 5, 24):
            inside = np.bincount(levels[class_id][truth[row] == class_id], minlength=256)
            assert np.array_equal(statistics.histograms[position, class_id - 1, 1], inside)
            all_pixels = np.bincount(levels[class_id].ravel(), minlength=256)
            assert np.array_equal(statistics.level_counts[position, class_id - 1], all_pixels)
    assert np.array_equal(statistics.present, [[(truth[row] == c).any() for c in range(1, 25)] for row in rows])


def test_statistics_need_a_map_for_each_row(noisy: NoisyPhotos) -> None:
    truth, maps, _ = noisy
    with pytest.raises(ValueError, match="longer"):
        collect_statistics(maps[:1], truth, [0, 1], HARVEY25, threads=1)


def test_pixels_without_a_label_are_submitted_but_not_scored() -> None:
    """Thresholds know of no labels; the Dice is that of the submitted masks where there are labels."""
    classes = make_classes({index: f"#00000{index}" for index in range(4)}, unscored=[0], ignore=255)
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 4, (5, 24, 32)).astype(np.uint8)
    maps = rng.dirichlet(np.full(4, 0.3), (5, 12, 16)).transpose(0, 3, 1, 2)
    levels = np.rint(255 * maps).astype(np.uint8)
    truth[rng.random(truth.shape) < 0.4] = 255
    statistics = collect_statistics(levels, truth, range(5), classes, threads=2)
    rule = ExpectedDiceRule.fit(statistics, list("aabcd"))
    fitted = make_fitted_rule(rule).model_copy(update={"score_size": (24, 32)})
    for kind in (rule, ArgmaxRule()):
        thresholds = kind.thresholds(statistics.level_counts)
        for photo in range(5):
            masks = fitted.model_copy(update={"rule": kind}).submitted_masks(levels[photo])
            assert statistics.dice(thresholds)[photo] == pytest.approx(pair_dice(truth[photo], masks, 1))
            assert statistics.not_empty(thresholds)[photo].tolist() == masks.any((1, 2)).tolist()
    part = statistics.subset(np.array([4, 0]))
    assert np.array_equal(part.level_counts, statistics.level_counts[[4, 0]])
