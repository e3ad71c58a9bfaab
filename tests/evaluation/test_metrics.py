"""The metrics of an evaluation, from masks so simple that every number is known."""

from pathlib import Path

import numpy as np
import pytest

from harveyseg.classes import HARVEY25
from harveyseg.errors import HarveysegError
from harveyseg.evaluation.metrics import (
    confusion_table,
    evaluation_record,
    logged_metrics,
    nested_entry,
    per_class_table,
    presence_errors,
    true_masks,
)
from harveyseg.score import argmax_metrics, confusion
from helpers.records import make_record

TRUTH = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 5, 5], [0, 0, 5, 5]], np.uint8)
PREDICTED = np.array([[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 6, 5], [0, 0, 5, 5]], np.uint8)
EMPTY = np.zeros((4, 4), np.uint8)
COUNTS = np.stack([confusion(TRUTH, PREDICTED, 25), confusion(EMPTY, EMPTY, 25)])


def test_metrics_record_names_its_run() -> None:
    entries = evaluation_record(
        make_record(fold=2, uid="u1", run_id="r1"), {"val": COUNTS, "test": COUNTS[:1]}, HARVEY25
    )
    assert {key: entries[key] for key in ("run_id", "uid", "model", "fold")} == {
        "run_id": "r1",
        "uid": "u1",
        "model": "unet",
        "fold": 2,
    }
    assert logged_metrics(entries) == {
        f"{part}/{name}": value
        for part, counts in (("val", COUNTS), ("test", COUNTS[:1]))
        for name, value in (argmax_metrics(counts, HARVEY25) | presence_errors(counts, 1)).items()
    }


def test_presence_errors_by_hand() -> None:
    # One of two photos has a false-positive class 6; class 5 is missed once, class 1 never.
    without_grass = np.where(TRUTH == 5, 0, TRUTH).astype(np.uint8)
    assert presence_errors(COUNTS, 1) == {
        "false_positive_classes": 0.5,
        "missed_classes": 0.0,
        "predicted_classes": 1.5,
    }
    assert presence_errors(np.stack([confusion(TRUTH, without_grass, 25)]), 1) == {
        "false_positive_classes": 0.0,
        "missed_classes": 1.0,
        "predicted_classes": 1.0,
    }


def test_a_false_positive_class_costs_what_a_perfect_class_gains() -> None:
    """24 (score - all-empty baseline) = Dice summed over present classes - false-positive classes, per photo."""
    rng = np.random.default_rng(0)
    masks = [rng.choice(25, (2, 8, 8), p=rng.dirichlet(np.full(25, 0.1))).astype(np.uint8) for _ in range(40)]
    counts = np.stack([confusion(truth, predicted, 25) for truth, predicted in masks])
    summed = 0.0
    for truth, predicted in masks:
        for class_id in range(1, 25):
            true_mask = truth == class_id
            predicted_mask = predicted == class_id
            if true_mask.any():
                summed += 2 * (true_mask & predicted_mask).sum() / (true_mask.sum() + predicted_mask.sum())
    metrics = argmax_metrics(counts, HARVEY25)
    assert 24 * (metrics["argmax_score"] - metrics["all_empty_score"]) == pytest.approx(
        summed / len(masks) - presence_errors(counts, 1)["false_positive_classes"]
    )


def test_per_class_by_hand() -> None:
    table = per_class_table({"val": COUNTS}, HARVEY25).set_index("class")
    assert list(table.index) == list(range(1, 25))
    assert dict(table.loc[1].items()) == pytest.approx(
        {
            "part": "val",
            "name": "Property Roof",
            "photos": 1,
            "predicted": 1,
            "argmax_score": (0.75 + 1) / 2,
            "all_empty_score": 0.5,
            "argmax_dice": 0.75,
            "iou": 3 / 5,
            "precision": 3 / 4,
            "recall": 3 / 4,
        }
    )
    only_predicted = {
        column: table.at[6, column] for column in ("photos", "predicted", "argmax_score", "all_empty_score", "iou")
    }
    assert only_predicted == {"photos": 0, "predicted": 1, "argmax_score": 0.5, "all_empty_score": 1, "iou": 0}
    assert np.isnan(table[["argmax_dice", "recall"]].to_numpy(float)[5]).all()
    assert np.isnan(table[["argmax_dice", "iou", "precision", "recall"]].to_numpy(float)[23]).all()
    assert table["argmax_score"].mean() == pytest.approx(argmax_metrics(COUNTS, HARVEY25)["argmax_score"])
    assert table["all_empty_score"].mean() == pytest.approx(argmax_metrics(COUNTS, HARVEY25)["all_empty_score"])
    assert table["argmax_dice"].mean() == pytest.approx(argmax_metrics(COUNTS, HARVEY25)["argmax_macro_dice"])


def test_a_row_of_the_confusion_table_is_one_percent() -> None:
    table = confusion_table(COUNTS, HARVEY25)
    counts = {pair: int(count) for pair, count in table.value_counts(["actual", "predicted"]).items()}
    # Background: 8 + 16 pixels, 23 of them right, 1 taken for roof (95.8 and 4.2 percent).
    assert counts == {
        ("00 Background", "00 Background"): 96,
        ("00 Background", "01 Property Roof"): 4,
        ("01 Property Roof", "01 Property Roof"): 75,
        ("01 Property Roof", "00 Background"): 25,
        ("05 Grass", "05 Grass"): 75,
        ("05 Grass", "06 Trees / Shrubs"): 25,
    }


def test_nested_entry() -> None:
    assert nested_entry(COUNTS, 1) == {
        "val/nested_argmax_score": pytest.approx(argmax_metrics(COUNTS, HARVEY25)["argmax_score"])
    }
    assert "not available" in str(nested_entry(None, 1)["note"])


def test_true_masks(tmp_path: Path) -> None:
    with pytest.raises(HarveysegError, match="train_masks"):
        true_masks(tmp_path)
    np.save(tmp_path / "train_masks.npy", np.zeros((1, 1024, 1024), np.uint8))
    assert list(true_masks(tmp_path)) == ["val"]
    np.save(tmp_path / "test_masks.npy", np.zeros((2, 1024, 1024), np.uint8))
    assert {name: len(masks) for name, masks in true_masks(tmp_path).items()} == {"val": 1, "test": 2}
