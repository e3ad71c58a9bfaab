"""FittedRules against brute force over all sets and truths, slow loops, and photos that must have no say."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from harveyseg.errors import HarveysegError
from harveyseg.files import read_json, write_json
from harveyseg.inference.probabilities import argmax_map, upsample
from harveyseg.postprocess.files import FittedRule, postprocess_metrics, read_rule, write_rule
from harveyseg.postprocess.regression import clipped_log_odds, fit_logistic
from harveyseg.postprocess.rules import ArgmaxRule, ExpectedDiceRule
from harveyseg.postprocess.select import SelectedRule, group_folds, select_rule
from harveyseg.postprocess.statistics import SpecialMask, ThresholdStatistics, collect_statistics
from harveyseg.record import RunRecord
from harveyseg.score import confusion, image_dice, pair_dice, pair_metrics
from helpers.records import make_record

CLASSES = (0, 1, 5, 6, 23)
PHOTOS = 12
GROUPS = [str(photo // 2) for photo in range(PHOTOS)]


def photos(noise: float, seed: int = 0, count: int = PHOTOS) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Truth (count, 1024, 1024) of blocks of two or three classes a photo, and probabilities (count, 25, 16, 16)."""
    rng = np.random.default_rng(seed)
    chosen = np.stack([rng.permutation(CLASSES)[rng.integers(0, rng.integers(2, 4), (4, 4))] for _ in range(count)])
    coarse = chosen.repeat(4, 1).repeat(4, 2)
    logits = np.full((count, 25, 16, 16), -12.0)
    logits[:, CLASSES] = noise * rng.normal(size=(count, len(CLASSES), 16, 16))
    np.put_along_axis(logits, coarse[:, None], np.take_along_axis(logits, coarse[:, None], 1) + 3, 1)
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return coarse.repeat(64, 1).repeat(64, 2).astype(np.uint8), np.rint(255 * shares).astype(np.uint8)


@pytest.fixture(scope="module")
def noisy() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], ThresholdStatistics]:
    truth, maps = photos(noise=2.5)
    return truth, maps, collect_statistics(maps, truth, range(PHOTOS), threads=2)


# What every decision is worth


def test_statistics_is_that_of_slow_loops(noisy: Any) -> None:
    truth, maps, _ = noisy
    rows = [7, 2]
    statistics = collect_statistics((maps[row] for row in rows), truth, rows, threads=2)
    for position, row in enumerate(rows):
        levels = np.rint(upsample(maps[row])).astype(int)
        for level in (1, 128):
            assert np.allclose(
                statistics.dice_by_threshold[position, :, level], pair_dice(truth[row], levels[1:] >= level)
            )
        argmax = image_dice(confusion(truth[row], argmax_map(maps[row])))
        assert np.array_equal(statistics.dice_by_threshold[position, :, SpecialMask.ARGMAX], argmax[1:])
        assert np.array_equal(
            statistics.dice_by_threshold[position, :, SpecialMask.EMPTY],
            [(truth[row] != c).all() for c in range(1, 25)],
        )
        for class_id in (1, 5, 24):
            inside = np.bincount(levels[class_id][truth[row] == class_id], minlength=256)
            assert np.array_equal(statistics.histograms[position, class_id - 1, 1], inside)
            everything = np.bincount(levels[class_id].ravel(), minlength=256)
            assert np.array_equal(statistics.level_counts[position, class_id - 1], everything)
    assert np.array_equal(statistics.present, [[(truth[row] == c).any() for c in range(1, 25)] for row in rows])


def test_statistics_needs_a_map_for_each_row(noisy: Any) -> None:
    truth, maps, _ = noisy
    with pytest.raises(ValueError, match="longer"):
        collect_statistics(maps[:1], truth, [0, 1], threads=1)


# The set and whether to hand it in


def calibrated(**changes: Any) -> ExpectedDiceRule:
    """Takes the stored probabilities as they are, and every set that is expected to score more than 0.5."""
    fields: dict[str, Any] = {
        "calibration_slope": 1.0,
        "calibration_intercept": (0.0,) * 24,
        "presence_slope": 1.0,
        "presence_intercept": (0.0,) * 24,
    }
    return ExpectedDiceRule(**(fields | changes))


def expected_dice(shares: npt.NDArray[np.floating[Any]], taken: npt.NDArray[np.bool_]) -> float:
    """Over all truths of independent pixels, none of which is empty: absence is a case of its own."""
    total = weight = 0.0
    for truth in itertools.product((False, True), repeat=len(shares)):
        if any(truth):
            probability = float(np.prod(np.where(truth, shares, 1 - shares)))
            total += probability * 2 * (taken & np.array(truth)).sum() / (taken.sum() + sum(truth))
            weight += probability
    return total / weight


@pytest.mark.parametrize("seed", range(6))
def test_set_is_nearly_the_best_of_all_sets(seed: int) -> None:
    rng = np.random.default_rng(seed)
    levels = np.unique(rng.integers(15, 250, 7))
    shares = (levels + 0.25) / 255.5
    sets = [np.array(taken) for taken in itertools.product((False, True), repeat=len(levels)) if any(taken)]
    values = np.array([expected_dice(shares, taken) for taken in sets])
    # Of each size the most probable pixels are the best, so no set beats all threshold sets.
    for size in range(1, len(levels) + 1):
        best = max((value, index) for index, value in enumerate(values) if sets[index].sum() == size)[1]
        assert np.array_equal(np.flatnonzero(sets[best]), np.arange(len(levels) - size, len(levels)))
    counts = np.zeros((1, 24, 256), np.int64)
    counts[:, :, levels] = 1
    found, dice = calibrated().optimal_thresholds(counts)
    taken = levels >= found[0, 0]
    # The ratio of means is an approximation: with 7 pixels the truth's size is far from sure, and yet it errs little.
    assert expected_dice(shares, taken) > values.max() - 0.01
    # Exactly: the best ratio, and its set is what lies above half of it (Lipton et al. 2014).
    ratios = [2 * shares[one].sum() / (one.sum() + shares.sum()) for one in sets]
    assert dice[0, 0] == pytest.approx(max(ratios))
    assert np.array_equal(taken, shares > dice[0, 0] / 2)


def test_the_approximation_is_exact_for_many_pixels() -> None:
    rng = np.random.default_rng(0)
    levels = rng.integers(1, 255, 4000)
    shares = (levels + 0.25) / 255.5
    counts = np.zeros((1, 24, 256), np.int64)
    counts[0, :, 0] = 4000
    counts[0, 3] = np.bincount(levels, minlength=256)
    found, dice = calibrated().optimal_thresholds(counts)
    truths = rng.random((400, 4000)) < shares
    taken = levels >= found[0, 3]
    drawn = 2 * (truths & taken).sum(1) / (truths.sum(1) + taken.sum())
    assert dice[0, 3] == pytest.approx(drawn.mean(), abs=0.002)
    assert (found[0, [2, 4]] == SpecialMask.EMPTY).all()  # no pixel reaches level 1


def test_set_is_handed_in_where_that_is_worth_more() -> None:
    """Pairs of two kinds: the class is present with probability 0.2 or 0.6, then the set scores 0.5 or 0.9."""
    x, presence, dice = np.array([-1.0, 1.0]), np.array([0.2, 0.6]), np.array([0.5, 0.9])
    many = 1e6
    slope, intercept = fit_logistic(
        np.tile(x, (24, 1)), np.tile(many * presence * dice, (24, 1)), np.tile(many * (1 - presence), (24, 1))
    )
    odds = np.exp(slope * x + intercept[0])
    assert odds == pytest.approx(presence * dice / (1 - presence), rel=1e-3)
    assert (odds > 1).tolist() == (presence * dice > 1 - presence).tolist() == [False, True]


def test_regression_is_at_its_minimum() -> None:
    rng = np.random.default_rng(3)
    x, won, lost = rng.normal(size=(24, 9)), rng.random((24, 9)), rng.random((24, 9)) * (rng.random((24, 9)) < 0.5)

    def objective(slope: float, common: float, own: npt.NDArray[np.float64]) -> float:
        share = 1 / (1 + np.exp(-(slope * x + common + own[:, None])))
        penalty = 0.1 * (slope - 1) ** 2 + 0.01 * common**2 + 0.5 * (own**2).sum()
        return float(-(won * np.log(share) + lost * np.log(1 - share)).sum() + penalty / 2)

    slope, intercept = fit_logistic(x, won, lost)
    # 0.01 common = 0.5 sum(own) at the minimum, which tells the two parts of the intercepts apart.
    common = intercept.sum() / (24 + 0.01 / 0.5)
    best = objective(slope, common, intercept - common)
    for _ in range(200):
        step = rng.normal(size=26) * 1e-3
        assert objective(slope + step[0], common + step[1], intercept - common + step[2:]) > best


def test_a_class_that_is_seldom_there_is_drawn_to_the_others() -> None:
    x = np.zeros((24, 50))
    won, lost = np.full((24, 50), 0.8), np.full((24, 50), 0.2)
    won[5], lost[5] = 0, 0
    won[6, 1:], lost[6, 1:], won[6, 0], lost[6, 0] = 0, 0, 0, 1
    _, intercept = fit_logistic(x, won, lost)
    assert intercept[0] == pytest.approx(np.log(4), abs=0.05)
    assert intercept[5] == pytest.approx(intercept[0], abs=0.1)  # nothing known: as the others
    assert 0 < intercept[6] < intercept[5]  # one loss


# The choice and its estimate


def test_expected_beats_the_label_map_of_a_noisy_network_on_new_photos(noisy: Any) -> None:
    _, _, statistics = noisy
    choice = select_rule(statistics, GROUPS, "auto")
    assert isinstance(choice.rule, ExpectedDiceRule)
    truth, maps = photos(noise=2.5, seed=1)
    metrics = postprocess_metrics(statistics, choice, collect_statistics(maps, truth, range(PHOTOS), threads=2))
    assert metrics["val/postprocess_gain"] > 0.03
    assert metrics["test/postprocess_gain"] > 0.03


def test_a_perfect_label_map_stays() -> None:
    truth, maps = photos(noise=0, count=6)
    statistics = collect_statistics(maps, truth, range(6), threads=2)
    statistics.dice_by_threshold[..., SpecialMask.ARGMAX] = 1
    choice = select_rule(statistics, GROUPS[:6], "auto")
    assert isinstance(choice.rule, ArgmaxRule)
    assert (choice.nested_thresholds == SpecialMask.ARGMAX).all()
    assert choice.cross_validated_scores["argmax"] == 1


def test_a_label_map_that_chance_puts_ahead_does_not_stay(noisy: Any) -> None:
    truth, maps, statistics = noisy
    expected = select_rule(statistics, GROUPS, "auto").cross_validated_scores["expected"]
    chance = collect_statistics(maps, truth, range(PHOTOS), threads=2)
    alternating = 0.1 * (-1.0) ** np.array([int(group) for group in GROUPS])
    chance.dice_by_threshold[..., SpecialMask.ARGMAX] = (expected + 0.005 + alternating)[:, None]
    choice = select_rule(chance, GROUPS, "auto")
    assert choice.cross_validated_scores["argmax"] > choice.cross_validated_scores["expected"] == expected
    assert isinstance(choice.rule, ExpectedDiceRule)


def test_no_photo_of_a_group_has_a_say_in_its_decisions(noisy: Any) -> None:
    truth, maps, statistics = noisy
    before = select_rule(statistics, GROUPS, "auto")
    changed = False
    for group in ("0", "3"):
        own = np.array([one == group for one in GROUPS])
        other = truth.copy()
        other[own] = np.roll(truth[own], (300, 200), (1, 2))
        after = select_rule(collect_statistics(maps, other, range(PHOTOS), threads=2), GROUPS, "auto")
        assert np.array_equal(after.nested_thresholds[own], before.nested_thresholds[own])
        changed |= after.rule != before.rule
    assert changed


def test_argmax_or_a_single_photo_give_the_label_map(noisy: Any) -> None:
    _, _, statistics = noisy
    for choice, count in (
        (select_rule(statistics, GROUPS, "argmax"), PHOTOS),
        (select_rule(statistics.subset(np.arange(1)), GROUPS[:1], "auto"), 1),
    ):
        assert isinstance(choice.rule, ArgmaxRule)
        assert choice.nested_thresholds.shape == (count, 24)
        metrics = postprocess_metrics(statistics.subset(np.arange(count)), choice, None)
        assert metrics["val/postprocess_gain"] == 0


def test_two_photos_are_enough_to_select_rule(noisy: Any) -> None:
    _, _, statistics = noisy
    choice = select_rule(statistics.subset(np.arange(2)), ["a", "a"], "auto")
    assert choice.nested_rules == ["argmax", "argmax"]  # each was left with one photo


def test_groups_stay_whole() -> None:
    groups = ["a"] * 5 + ["b", "c", "c", "d", "e", "f"]
    parts = group_folds(groups, max_folds=3, min_groups=2)
    assert all(len({part for part, group in zip(parts, groups, strict=True) if group == one}) == 1 for one in groups)
    assert sorted(np.bincount(parts).tolist()) == [3, 3, 5]
    assert sorted(group_folds(groups, max_folds=10, min_groups=6).tolist()) == [0, 0, 0, 0, 0, 1, 1, 2, 3, 4, 5]
    assert np.bincount(group_folds(groups, max_folds=5, min_groups=7)).tolist() == [3, 2, 2, 2, 2]
    assert group_folds(["a"] * 3, max_folds=5, min_groups=2).tolist() == [0, 1, 2]


# What is handed in


def a_fitted_rule(rule: ArgmaxRule | ExpectedDiceRule) -> FittedRule:
    return FittedRule(
        source="a",
        uids={"a-f0": "u0"},
        photos=12,
        groups=6,
        argmax_score=0.5,
        nested_score=0.6,
        in_sample_score=0.7,
        cross_validated_scores={"argmax": 0.5, "expected": 0.6},
        nested_rules=["expected"],
        rule=rule,
    )


def test_masks_are_worth_what_the_statistics_says(noisy: Any) -> None:
    truth, maps, statistics = noisy
    rule = ExpectedDiceRule.fit(statistics, GROUPS)
    for decided in (rule, ArgmaxRule()):
        dice = statistics.dice(decided.thresholds(statistics.level_counts))
        for photo in (0, 5):
            masks = a_fitted_rule(decided).submitted_masks(maps[photo])
            assert pair_dice(truth[photo], masks) == pytest.approx(dice[photo])
    assert not np.array_equal(
        rule.thresholds(statistics.level_counts), ArgmaxRule().thresholds(statistics.level_counts)
    )


def test_label_map_agrees_with_what_is_submitted_masks(noisy: Any) -> None:
    _, maps, statistics = noisy
    decision = a_fitted_rule(ExpectedDiceRule.fit(statistics, GROUPS))
    overlaps = 0
    for photo in range(4):
        masks, labels = decision.submitted_masks(maps[photo]), decision.class_map(maps[photo])
        covered = masks.sum(0)
        single = covered == 1
        assert np.array_equal(labels[single], masks.argmax(0)[single] + 1)
        rows, columns = np.nonzero(covered > 1)
        assert masks[labels[rows, columns] - 1, rows, columns].all()
        assert set(np.unique(labels)) <= {0, *(np.flatnonzero(masks.any((1, 2))) + 1)}
        overlaps += len(rows)
    assert overlaps
    assert decision.class_map(maps[0], (60, 80)).shape == (60, 80)


def test_label_map_weighs_overlapping_classes_by_their_thresholds() -> None:
    maps = np.zeros((25, 4, 4), np.uint8)
    maps[0], maps[1], maps[2] = 50, 250, 40
    # Class 1 is sure elsewhere, so its threshold is near 125; class 2 is nowhere more probable than here.
    maps[1, :2, :2], maps[2, :2, :2] = 160, 130
    maps[1, 3, 3], maps[3, 3, 3] = 0, 255
    decision = a_fitted_rule(calibrated(presence_intercept=(9.0, 9.0, *(-9.0,) * 22)))  # class 3 is not handed in
    masks, labels = decision.submitted_masks(maps), decision.class_map(maps, (4, 4))
    assert masks.any((1, 2)).tolist() == [True, True] + [False] * 22
    assert masks[:2, 0, 0].all()
    assert [argmax_map(maps, (4, 4))[place] for place in ((0, 0), (3, 0), (3, 3))] == [1, 1, 3]
    assert [labels[place] for place in ((0, 0), (3, 0), (3, 3))] == [2, 1, 0]


def test_label_map_of_argmax_is_the_label_map(noisy: Any) -> None:
    _, maps, _ = noisy
    assert np.array_equal(a_fitted_rule(ArgmaxRule()).class_map(maps[1]), argmax_map(maps[1]))
    labels = argmax_map(maps[1])
    masks = a_fitted_rule(ArgmaxRule()).submitted_masks(maps[1])
    assert all(np.array_equal(masks[class_id - 1], labels == class_id) for class_id in range(1, 25))


# Files


def test_written_decisions_come_back(noisy: Any, tmp_path: Path) -> None:
    _, _, statistics = noisy
    records: dict[int | None, RunRecord] = {
        0: make_record(model="a", fold=0, uid="u0"),
        2: make_record(model="a", fold=2, uid="u2"),
    }
    table = pd.DataFrame({"group": GROUPS, "fold": [0] * 4 + [2] * 8})
    choice = select_rule(statistics, GROUPS, "auto")
    evaluations: dict[int | None, str] = {0: "e0", 2: "e2"}
    settings = {"postprocess.method": "auto"}
    write_rule(tmp_path, "a", records, statistics, table, choice, None, evaluations, settings)
    decision = read_rule(tmp_path / "rules" / "a.json", list(records.values()))
    assert decision.rule == choice.rule
    assert (decision.photos, decision.groups, decision.uids) == (12, 6, {"a-f0": "u0", "a-f2": "u2"})
    dice = statistics.dice(choice.nested_thresholds)
    assert decision.nested_score == pytest.approx(dice.mean())
    assert decision.in_sample_score == pytest.approx(
        statistics.dice(choice.rule.thresholds(statistics.level_counts)).mean()
    )
    found = read_json(tmp_path / "metrics" / "a.json", "")
    assert found["val/score"] == pytest.approx(dice.mean())
    assert found["val/postprocess_gain"] == pytest.approx(
        dice.mean() - statistics.dice_by_threshold[..., SpecialMask.ARGMAX].mean()
    )
    slow = pair_metrics(dice, statistics.present)
    assert found["val/macro_dice"] == slow["macro_dice"]
    assert found["val/dice/05_grass"] == slow["dice/05_grass"]
    assert [(run["uid"], run["val/score"]) for run in found["runs"]] == [
        ("u0", pytest.approx(dice[:4].mean())),
        ("u2", pytest.approx(dice[4:].mean())),
    ]
    assert [run["evaluation"].partition("-")[0] for run in found["runs"]] == ["e0", "e2"]
    assert [run["postprocess.method"] for run in found["runs"]] == ["auto", "auto"]


def test_an_ensemble_has_one_run_for_all_photos(noisy: Any, tmp_path: Path) -> None:
    _, _, statistics = noisy
    table = pd.DataFrame({"group": GROUPS, "fold": [0] * 4 + [2] * 8})
    choice = SelectedRule(ArgmaxRule(), {"argmax": 0.5}, ["argmax"], np.full((PHOTOS, 24), SpecialMask.ARGMAX))
    record = make_record(kind="ensemble", model="ensemble", fold=None, uid="e")
    write_rule(tmp_path, "ensemble", {None: record}, statistics, table, choice, statistics, {None: "e1"}, {})
    (metrics,) = read_json(tmp_path / "metrics" / "ensemble.json", "")["runs"]
    assert metrics["val/score"] == metrics["test/score"] == statistics.dice_by_threshold[..., SpecialMask.ARGMAX].mean()


def test_decisions_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(HarveysegError, match=r"a\.json: no such file.*dvc repro postprocess"):
        read_rule(path, [])
    content = a_fitted_rule(calibrated()).model_dump()
    write_json(path, content)
    assert read_rule(path, [make_record(model="a", uid="u0")]).rule == calibrated()
    with pytest.raises(HarveysegError, match=r"fitted on other runs \(a-f0\)"):
        read_rule(path, [make_record(model="a", uid="newer")])
    write_json(path, content | {"version": 1})
    with pytest.raises(HarveysegError, match="wrong or missing: version"):
        read_rule(path, [make_record(model="a", uid="u0")])
    del content["rule"]["presence_intercept"]["01_property_roof"]
    write_json(path, content)
    with pytest.raises(HarveysegError, match=r"wrong or missing: rule\.expected"):
        read_rule(path, [make_record(model="a", uid="u0")])


def test_classes_stand_by_name_in_the_file() -> None:
    content = a_fitted_rule(calibrated(presence_intercept=tuple(map(float, range(24))))).model_dump()
    assert content["rule"]["presence_intercept"]["24_boat"] == 23
    assert clipped_log_odds(np.array([0.5]))[0] == 0
