"""The worst class is one that could have been learned."""

from pathlib import Path

import numpy as np
import pytest

from harveyseg.postprocess.statistics import SpecialMask, collect_statistics
from harveyseg.summary.content import worst_class
from harveyseg.summary.finished import FinishedPipeline
from harveyseg.summary.pairs import Pairs
from helpers.small_ensemble import IDS, SIZE, Truth, finished_pipeline

NAMES = {1: "Property Roof", 2: "Secondary Structure", 3: "Swimming Pool"}


def masks(**classes: tuple[int, ...]) -> Truth:
    """A mask for each photo, in which each of these classes fills a row of its own; the rest is background."""
    truth = {photo: np.zeros(SIZE, np.uint8) for photo in IDS}
    for photo, indices in classes.items():
        for row, index in enumerate(indices):
            truth[photo][row] = index
    return truth


def pairs_of(workspace: FinishedPipeline, found: dict[str, tuple[int, ...]]) -> Pairs:
    """The argmax masks of these classes, and no other masks, of predictions that are nearly the truth."""
    rows = workspace.fold_models.rows(IDS)
    maps = map(workspace.predictor("a"), range(5))
    statistics = collect_statistics(maps, workspace.truth["val"], rows, workspace.classes, 1)
    thresholds = np.full((5, 24), int(SpecialMask.EMPTY))
    for photo, indices in found.items():
        thresholds[workspace.fold_models.ids.index(photo), [index - 1 for index in indices]] = SpecialMask.ARGMAX
    return Pairs("a", statistics, thresholds)


def test_a_class_that_no_training_photo_holds_is_not_called_the_worst(tmp_path: Path) -> None:
    # p0 and p3 are one fold, the others another one. Class 1 is in the first fold only, so its networks never saw it.
    truth = masks(p0=(1, 2), p3=(1, 1, 1), p1=(2, 3), p2=(3,), p4=())
    workspace = finished_pipeline(tmp_path, truth)
    worst = worst_class(workspace, pairs_of(workspace, {"p1": (2,)}))
    assert worst is not None
    # Class 3 is in the second fold only as well. Class 2 is in both: found in one of its two photos.
    assert (worst["name"], worst["photos"]) == (NAMES[2], 2)
    assert 0 < worst["dice"] < 1
    assert (worst["occurring"], worst["unlearnable"], worst["not_found"]) == (3, 2, 0)


def test_of_classes_that_are_not_found_the_commonest_is_named(tmp_path: Path) -> None:
    truth = masks(p0=(1, 2, 2), p3=(), p1=(2, 1), p2=(2,), p4=(3,))
    workspace = finished_pipeline(tmp_path, truth)
    worst = worst_class(workspace, pairs_of(workspace, {}))
    assert worst is not None
    assert worst == {
        "name": NAMES[2], "dice": 0.0, "photos": 3, "share": worst["share"],
        "not_found": 2, "unlearnable": 1, "occurring": 3,
    }  # fmt: skip
    # Four rows of five pixels of class 2 in five photos of 30.
    assert float(worst["share"].rstrip("%")) == pytest.approx(100 * 20 / 150, abs=0.1)


def test_no_class_that_could_be_learned(tmp_path: Path) -> None:
    workspace = finished_pipeline(tmp_path, masks(p0=(1,), p3=(1,)))
    assert worst_class(workspace, pairs_of(workspace, {})) is None
