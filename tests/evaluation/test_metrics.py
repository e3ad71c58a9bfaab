"""What an evaluation writes, from masks so simple that every number is known."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harveyseg.data.cache import CachedPart
from harveyseg.errors import HarveysegError
from harveyseg.evaluation.metrics import (
    claims,
    confusion_table,
    metrics_record,
    nested_entry,
    per_class,
    scores_of,
    sheet_of,
    true_masks,
    write_evaluation,
)
from harveyseg.record import RunRecord
from harveyseg.score import confusion, metrics

TRUTH = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 5, 5], [0, 0, 5, 5]], np.uint8)
PREDICTED = np.array([[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 6, 5], [0, 0, 5, 5]], np.uint8)
EMPTY = np.zeros((4, 4), np.uint8)
COUNTS = np.stack([confusion(TRUTH, PREDICTED), confusion(EMPTY, EMPTY)])


def a_record() -> RunRecord:
    return RunRecord(
        uid="u1",
        run_id="r1",
        kind="train",
        model="unet",
        fold=2,
        stage_key="k",
        parameters={},
        git_commit=None,
        git_dirty=False,
        data_source="demo",
        data_hash="d",
        split_hash="s",
        device="cpu",
        environment={},
        started_ms=0,
    )


def test_metrics_record_names_its_run() -> None:
    found = metrics_record(a_record(), {"val": COUNTS, "test": COUNTS[:1]})
    assert {key: found[key] for key in ("run_id", "uid", "model", "fold")} == {
        "run_id": "r1",
        "uid": "u1",
        "model": "unet",
        "fold": 2,
    }
    assert scores_of(found) == {
        f"{part}/{name}": value
        for part, counts in (("val", COUNTS), ("test", COUNTS[:1]))
        for name, value in (metrics(counts) | claims(counts)).items()
    }


def test_claims_by_hand() -> None:
    # Of two photos one is claimed to hold class 6, which it lacks; class 5 goes unseen once, class 1 never.
    unseen = np.where(TRUTH == 5, 0, TRUTH).astype(np.uint8)
    assert claims(COUNTS) == {"false_positive_classes": 0.5, "missed_classes": 0.0}
    assert claims(np.stack([confusion(TRUTH, unseen)])) == {"false_positive_classes": 0.0, "missed_classes": 1.0}


def test_a_false_claim_costs_what_a_perfect_class_brings() -> None:
    """The identity that RESULTS.md rests on: 24 (score - empty) = Dice summed over present classes - false claims."""
    rng = np.random.default_rng(0)
    masks = [rng.choice(25, (2, 8, 8), p=rng.dirichlet(np.full(25, 0.1))).astype(np.uint8) for _ in range(40)]
    counts = np.stack([confusion(truth, predicted) for truth, predicted in masks])
    summed = 0.0
    for truth, predicted in masks:
        for class_id in range(1, 25):
            true, said = truth == class_id, predicted == class_id
            if true.any():
                summed += 2 * (true & said).sum() / (true.sum() + said.sum())
    found = metrics(counts)
    assert 24 * (found["score"] - found["all_empty_score"]) == pytest.approx(
        summed / len(masks) - claims(counts)["false_positive_classes"]
    )


def test_per_class_by_hand() -> None:
    table = per_class({"val": COUNTS}).set_index("class")
    assert list(table.index) == list(range(1, 25))
    assert dict(table.loc[1].items()) == pytest.approx(
        {
            "part": "val",
            "name": "Property Roof",
            "photos": 1,
            "predicted": 1,
            "score": (0.75 + 1) / 2,
            "all_empty_score": 0.5,
            "dice": 0.75,
            "iou": 3 / 5,
            "precision": 3 / 4,
            "recall": 3 / 4,
        }
    )
    only_predicted = {
        column: table.at[6, column] for column in ("photos", "predicted", "score", "all_empty_score", "iou")
    }
    assert only_predicted == {"photos": 0, "predicted": 1, "score": 0.5, "all_empty_score": 1, "iou": 0}
    assert np.isnan(table[["dice", "recall"]].to_numpy(float)[5]).all()
    assert np.isnan(table[["dice", "iou", "precision", "recall"]].to_numpy(float)[23]).all()
    assert table["score"].mean() == pytest.approx(metrics(COUNTS)["score"])
    assert table["all_empty_score"].mean() == pytest.approx(metrics(COUNTS)["all_empty_score"])
    assert table["dice"].mean() == pytest.approx(metrics(COUNTS)["macro_dice"])


def test_a_row_of_the_confusion_table_is_one_percent() -> None:
    table = confusion_table(COUNTS)
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


def test_written_files(tmp_path: Path) -> None:
    results, files = write_evaluation(
        tmp_path, a_record(), {"val": COUNTS}, {"note": "text", "val/nested_argmax_score": 0.5}
    )
    assert sorted(path.name for path in files) == sorted(path.name for path in tmp_path.iterdir())
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert found["uid"] == "u1"
    assert found["note"] == "text"
    assert "note" not in results
    assert results["val/nested_argmax_score"] == 0.5
    assert not [name for name in found if name.startswith("test/")]
    assert len(pd.read_csv(tmp_path / "per_class.csv")) == 24
    assert len(pd.read_csv(tmp_path / "confusion.csv")) == 300


def test_nested_entry() -> None:
    assert nested_entry(COUNTS) == {"val/nested_argmax_score": pytest.approx(metrics(COUNTS)["score"])}
    assert "not available" in str(nested_entry(None)["note"])


def test_true_masks(tmp_path: Path) -> None:
    with pytest.raises(HarveysegError, match="train_masks"):
        true_masks(tmp_path)
    np.save(tmp_path / "train_masks.npy", np.zeros((1, 1024, 1024), np.uint8))
    assert list(true_masks(tmp_path)) == ["val"]
    np.save(tmp_path / "test_masks.npy", np.zeros((2, 1024, 1024), np.uint8))
    assert {name: len(masks) for name, masks in true_masks(tmp_path).items()} == {"val": 1, "test": 2}


@pytest.mark.parametrize(("photos", "expected"), [(1, ["b"]), (2, ["b", "d"]), (9, ["b", "c", "d"])])
def test_sheet_takes_each_photos_own_mask_and_map(photos: int, expected: list[str]) -> None:
    images = np.arange(4, dtype=np.uint8)[:, None, None, None].repeat(3, 3)
    table = pd.DataFrame({"id": list("abcd"), "width": [10, 20, 30, 40], "height": [1, 2, 3, 4]})
    part = CachedPart(tuple("abcd"), images, None, table, (1, 1), "demo", "d")
    truth = np.arange(4, dtype=np.uint8)[:, None, None] * np.ones((1, 1024, 1024), np.uint8)

    def right(position: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        maps = np.zeros((25, 1, 1), np.uint8)
        maps[position + 1] = 255
        return maps

    sheet = sheet_of(part, [1, 2, 3], truth, {"prediction": right}, photos)
    assert list(sheet.names) == expected
    assert [int(photo.max()) for photo in sheet.photos] == ["abcd".index(name) for name in expected]
    assert sheet.shapes[0] == (20, 2)
    assert list(sheet.notes["prediction"]) == ["score 1.000"] * len(expected)
    for true, predicted in zip(sheet.columns["truth"], sheet.columns["prediction"], strict=True):
        assert np.array_equal(true, predicted)
