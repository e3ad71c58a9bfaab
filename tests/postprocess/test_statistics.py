"""Threshold statistics against slow loops over pixels."""

import numpy as np
import pytest

from harveyseg.classes import HARVEY25
from harveyseg.inference.probabilities import argmax_map, upsample
from harveyseg.postprocess.statistics import SpecialMask, collect_statistics
from harveyseg.score import confusion, image_dice, pair_dice
from helpers.postprocessing import NoisyPhotos

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
