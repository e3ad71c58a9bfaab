"""What an evaluation writes, from masks so simple that every number is known."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harveyseg.classes import HARVEY25
from harveyseg.data.cache import CachedPart
from harveyseg.evaluation.documents import prediction_grid, write_evaluation
from harveyseg.score import confusion
from helpers.records import make_record

TRUTH = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 5, 5], [0, 0, 5, 5]], np.uint8)
PREDICTED = np.array([[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 6, 5], [0, 0, 5, 5]], np.uint8)
EMPTY = np.zeros((4, 4), np.uint8)
COUNTS = np.stack([confusion(TRUTH, PREDICTED, 25), confusion(EMPTY, EMPTY, 25)])


def test_written_files(tmp_path: Path) -> None:
    results = write_evaluation(
        tmp_path,
        make_record(fold=2, uid="u1", run_id="r1"),
        {"val": COUNTS},
        HARVEY25,
        {"note": "text", "val/nested_argmax_score": 0.5},
    )
    names = ["confusion.csv", "confusion.png", "metrics.json", "per_class.csv"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    entries = json.loads((tmp_path / "metrics.json").read_text())
    assert entries["uid"] == "u1"
    assert entries["note"] == "text"
    assert "note" not in results
    assert results["val/nested_argmax_score"] == 0.5
    assert not [name for name in entries if name.startswith("test/")]
    assert len(pd.read_csv(tmp_path / "per_class.csv")) == 24
    assert len(pd.read_csv(tmp_path / "confusion.csv")) == 300


@pytest.mark.parametrize(("photos", "expected"), [(1, ["b"]), (2, ["b", "d"]), (9, ["b", "c", "d"])])
def test_sheet_takes_each_photos_own_mask_and_map(photos: int, expected: list[str]) -> None:
    images = np.arange(4, dtype=np.uint8)[:, None, None, None].repeat(3, 3)
    table = pd.DataFrame({"id": list("abcd"), "width": [10, 20, 30, 40], "height": [1, 2, 3, 4]})
    part = CachedPart(tuple("abcd"), images, None, table, (1, 1), "demo", "d", HARVEY25, (1024, 1024))
    truth = np.arange(4, dtype=np.uint8)[:, None, None] * np.ones((1, 1024, 1024), np.uint8)

    def right(position: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        maps = np.zeros((25, 1, 1), np.uint8)
        maps[position + 1] = 255
        return maps

    sheet = prediction_grid(part, [1, 2, 3], truth, {"prediction": right}, photos)
    assert list(sheet.names) == expected
    assert [int(photo.max()) for photo in sheet.photos] == ["abcd".index(name) for name in expected]
    assert sheet.shapes[0] == (20, 2)
    assert list(sheet.notes["prediction"]) == ["argmax score 1.000"] * len(expected)
    for true, predicted in zip(sheet.columns["truth"], sheet.columns["prediction"], strict=True):
        assert np.array_equal(true, predicted)
