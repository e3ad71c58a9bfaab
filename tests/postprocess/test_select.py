"""Choosing a rule, and its nested estimate: photos of a group must not influence each other."""

import numpy as np
import pytest

from harveyseg.classes import HARVEY25
from harveyseg.postprocess.files import postprocess_metrics
from harveyseg.postprocess.rules import ArgmaxRule, ExpectedDiceRule
from harveyseg.postprocess.select import group_folds, select_rule, warn_of_single_group
from harveyseg.postprocess.statistics import SpecialMask, collect_statistics
from helpers.postprocessing import GROUPS, PHOTOS, NoisyPhotos, noisy_photos


def test_expected_beats_the_argmax_maps_of_a_noisy_network_on_new_photos(noisy: NoisyPhotos) -> None:
    _, _, statistics = noisy
    selected = select_rule(statistics, GROUPS, "auto")
    assert isinstance(selected.rule, ExpectedDiceRule)
    truth, maps = noisy_photos(noise=2.5, seed=1)
    metrics = postprocess_metrics(
        statistics, selected, collect_statistics(maps, truth, range(PHOTOS), HARVEY25, threads=2)
    )
    assert metrics["val/postprocess_gain"] > 0.03
    assert metrics["test/postprocess_gain"] > 0.03


def test_perfect_argmax_maps_are_submitted() -> None:
    truth, maps = noisy_photos(noise=0, count=6)
    statistics = collect_statistics(maps, truth, range(6), HARVEY25, threads=2)
    statistics.dice_by_threshold[..., SpecialMask.ARGMAX] = 1
    selected = select_rule(statistics, GROUPS[:6], "auto")
    assert isinstance(selected.rule, ArgmaxRule)
    assert (selected.nested_thresholds == SpecialMask.ARGMAX).all()
    assert selected.cross_validated_scores["argmax"] == 1


def test_argmax_maps_that_are_ahead_by_chance_are_not_submitted(noisy: NoisyPhotos) -> None:
    truth, maps, statistics = noisy
    expected = select_rule(statistics, GROUPS, "auto").cross_validated_scores["expected"]
    chance = collect_statistics(maps, truth, range(PHOTOS), HARVEY25, threads=2)
    alternating = 0.1 * (-1.0) ** np.array([int(group) for group in GROUPS])
    chance.dice_by_threshold[..., SpecialMask.ARGMAX] = (expected + 0.005 + alternating)[:, None]
    selected = select_rule(chance, GROUPS, "auto")
    assert selected.cross_validated_scores["argmax"] > selected.cross_validated_scores["expected"] == expected
    assert isinstance(selected.rule, ExpectedDiceRule)


def test_no_photo_of_a_group_influences_its_masks(noisy: NoisyPhotos) -> None:
    truth, maps, statistics = noisy
    before = select_rule(statistics, GROUPS, "auto")
    changed = False
    for group in ("0", "3"):
        in_group = np.array([photo_group == group for photo_group in GROUPS])
        other_truth = truth.copy()
        other_truth[in_group] = np.roll(truth[in_group], (300, 200), (1, 2))
        after = select_rule(collect_statistics(maps, other_truth, range(PHOTOS), HARVEY25, threads=2), GROUPS, "auto")
        assert np.array_equal(after.nested_thresholds[in_group], before.nested_thresholds[in_group])
        changed |= after.rule != before.rule
    assert changed


def test_argmax_or_a_single_photo_give_argmax_maps(noisy: NoisyPhotos) -> None:
    _, _, statistics = noisy
    for selected, count in (
        (select_rule(statistics, GROUPS, "argmax"), PHOTOS),
        (select_rule(statistics.subset(np.arange(1)), GROUPS[:1], "auto"), 1),
    ):
        assert isinstance(selected.rule, ArgmaxRule)
        assert selected.nested_thresholds.shape == (count, 24)
        metrics = postprocess_metrics(statistics.subset(np.arange(count)), selected, None)
        assert metrics["val/postprocess_gain"] == 0


def test_two_photos_are_enough_to_select_a_rule(noisy: NoisyPhotos) -> None:
    _, _, statistics = noisy
    selected = select_rule(statistics.subset(np.arange(2)), ["a", "a"], "auto")
    assert selected.nested_rules == ["argmax", "argmax"]  # each fold is left with one photo


def test_groups_stay_whole() -> None:
    groups = ["a"] * 5 + ["b", "c", "c", "d", "e", "f"]
    folds = group_folds(groups, max_folds=3, min_groups=2)
    assert len(set(zip(groups, folds.tolist(), strict=True))) == len(set(groups))
    assert sorted(np.bincount(folds).tolist()) == [3, 3, 5]
    assert sorted(group_folds(groups, max_folds=10, min_groups=6).tolist()) == [0, 0, 0, 0, 0, 1, 1, 2, 3, 4, 5]
    assert np.bincount(group_folds(groups, max_folds=5, min_groups=7)).tolist() == [3, 2, 2, 2, 2]
    assert group_folds(["a"] * 3, max_folds=5, min_groups=2).tolist() == [0, 1, 2]


def test_a_single_group_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    warn_of_single_group(["a", "b"], "auto")
    warn_of_single_group(["a", "a"], "argmax")
    warn_of_single_group(["a"], "auto")
    assert not caplog.records
    warn_of_single_group(["a", "a"], "auto")
    assert "all photos belong to one group" in caplog.text
