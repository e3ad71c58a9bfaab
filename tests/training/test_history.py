"""The learning curve comes back with every bit."""

import math
from pathlib import Path

import numpy as np
import pytest

from harveyseg.errors import HarveysegError
from harveyseg.training.history import HISTORY_COLUMNS, read_history, write_history


def rows(count: int) -> list[dict[str, float]]:
    rng = np.random.default_rng(0)
    made = []
    for epoch in range(count):
        row = dict(zip(HISTORY_COLUMNS, rng.random(len(HISTORY_COLUMNS)).tolist(), strict=True))
        # Losses of any size, and the smallest number there is.
        row |= {"epoch": epoch, "time_ms": 1_790_000_000_123 + epoch, "train_loss": math.pi * 10.0 ** (40 - epoch)}
        made.append(row | {"lr": 5e-324, "val_loss": 0.1 + 0.2})
    return made


def test_round_trip_keeps_every_bit(tmp_path: Path) -> None:
    original = rows(80)
    write_history(tmp_path / "history.csv", original)
    frame = read_history(tmp_path / "history.csv")
    assert frame.to_dict("records") == original
    assert tuple(frame.columns) == HISTORY_COLUMNS
    assert frame["epoch"].dtype == frame["time_ms"].dtype == np.int64


def test_an_epoch_without_validation_has_empty_cells(tmp_path: Path) -> None:
    first, second = rows(2)
    del first["val_loss"], first["val_argmax_score"], first["val_predicted_classes"]
    write_history(tmp_path / "history.csv", [first, second])
    frame = read_history(tmp_path / "history.csv")
    assert frame["val_loss"].isna().tolist() == frame["val_argmax_score"].isna().tolist() == [True, False]
    assert frame.to_dict("records")[1] == second
    assert ",," in (tmp_path / "history.csv").read_text().splitlines()[1]


def test_it_is_a_plain_table_in_which_dvc_finds_its_axes(tmp_path: Path) -> None:
    write_history(tmp_path / "history.csv", rows(2))
    lines = (tmp_path / "history.csv").read_text().splitlines()
    assert (
        lines[0]
        == "epoch,time_ms,train_loss,val_loss,val_argmax_score,val_predicted_classes,lr,images_per_second,seconds"
    )
    assert lines[2].startswith("1,1790000000124,")
    assert len(lines) == 3


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (None, "no such file"),
        (b"", "not a table"),
        (b"a,b\n1,2,3\n1,2,3,4\n", "not a table"),
        (b"\xff\xfe\x00", "not a table"),
        (
            b"epoch,time_ms,train_loss,val_argmax_score,val_predicted_classes,lr,seconds\n",
            "lacks the columns val_loss, images_per_second",
        ),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes | None, cause: str) -> None:
    path = tmp_path / "history.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(HarveysegError) as caught:
        read_history(path)
    assert str(caught.value).startswith(f"{path}: {cause}")
    assert "dvc" in str(caught.value)
