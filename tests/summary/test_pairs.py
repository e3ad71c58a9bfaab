"""Pairs of the summary: wrong pixels and Dice agree with masks made one by one; every kind of error has its name."""

import numpy as np
import pytest

from harveyseg.errors import HarveysegError
from harveyseg.inference.probabilities import argmax_map
from harveyseg.postprocess.select import PostprocessParams
from harveyseg.postprocess.statistics import SpecialMask, collect_statistics, upsample_levels
from harveyseg.score import pair_dice
from harveyseg.summary.finished import FinishedPipeline
from harveyseg.summary.pairs import Pairs, compute_pairs, name_error, worst_pairs
from helpers.small_ensemble import IDS, SIZE


def masks_of(
    workspace: FinishedPipeline, pairs: Pairs, position: int
) -> "np.ndarray[tuple[int, ...], np.dtype[np.bool_]]":
    """The submitted masks of a photo, one class after another."""
    probabilities = workspace.predictor(pairs.source)(position)
    masks = np.zeros((24, *SIZE), np.bool_)
    for place, threshold in enumerate(pairs.thresholds[position]):
        if threshold == SpecialMask.ARGMAX:
            masks[place] = argmax_map(probabilities, SIZE) == place + 1
        elif threshold != SpecialMask.EMPTY:
            masks[place] = upsample_levels(probabilities[place + 1], SIZE) >= threshold
    return masks


@pytest.fixture
def pairs(workspace: FinishedPipeline) -> Pairs:
    """Thresholds of all kinds, at random."""
    rows = workspace.fold_models.rows(IDS)
    statistics = collect_statistics(
        map(workspace.predictor("a"), range(5)), workspace.truth["val"], rows, workspace.classes, 1
    )
    thresholds = np.random.default_rng(1).choice([SpecialMask.ARGMAX, SpecialMask.EMPTY, 40, 80], (5, 24))
    return Pairs("a", statistics, thresholds)


def test_numbers_are_those_of_the_masks(workspace: FinishedPipeline, pairs: Pairs) -> None:
    rows = workspace.fold_models.rows(IDS)
    missing, extra = pairs.wrong_pixels()
    for position, row in enumerate(rows):
        truth = np.asarray(workspace.truth["val"][row])
        masks = masks_of(workspace, pairs, position)
        true = np.stack([truth == index for index in range(1, 25)])
        assert pairs.dice[position].tolist() == pytest.approx(pair_dice(truth, masks, 1).tolist())
        assert missing[position].tolist() == (true & ~masks).sum((1, 2)).tolist()
        assert extra[position].tolist() == (masks & ~true).sum((1, 2)).tolist()
        assert pairs.submitted[position].tolist() == masks.any((1, 2)).tolist()


def test_the_worst_come_first_and_right_pairs_never(workspace: FinishedPipeline, pairs: Pairs) -> None:
    worst = worst_pairs(workspace, pairs, 1000)
    assert len(worst) == np.count_nonzero(pairs.dice < 1)
    assert [(pair.dice, -pair.missing - pair.extra) for pair in worst] == sorted(
        (pair.dice, -pair.missing - pair.extra) for pair in worst
    )
    assert worst_pairs(workspace, pairs, 3) == worst[:3]
    for pair in worst:
        submitted = bool(pairs.submitted[pair.position, pair.index - 1])
        present = bool(pairs.statistics.present[pair.position, pair.index - 1])
        # A photo of 6 x 5 pixels is all border.
        assert pair.reason == ("missed" if not submitted else "border" if present else "false")


def test_errors_have_names() -> None:
    true = np.zeros((400, 400), np.bool_)
    true[20:180, 20:180] = True
    nothing = np.zeros_like(true)
    shifted = np.roll(true, 10, axis=1)
    half = true.copy()
    half[:, :120] = False  # a third of these pixels are near an edge
    assert name_error(true, nothing) == "missed"
    assert name_error(nothing, true) == "false"
    assert name_error(true, shifted) == "border"
    assert name_error(true, half) == "missed in part"
    assert name_error(true, np.ones_like(true)) == "false in part"


def test_another_score_than_the_files_is_an_error(workspace: FinishedPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    class Fitted:
        nested_score = 0.25

    monkeypatch.setattr(FinishedPipeline, "rule", lambda self, source: Fitted())
    with pytest.raises(HarveysegError, match=r"a scores 0\.250000 there and 0\.\d+ .* `dvc repro -f postprocess`"):
        compute_pairs(workspace, "a", PostprocessParams(method="argmax"))
