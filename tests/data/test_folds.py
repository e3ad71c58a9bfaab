"""Reading folds.csv."""

from pathlib import Path

import pytest

from harveyseg.data.split import fold_rows, read_folds, split_hash
from harveyseg.errors import HarveysegError

TABLE = "id,group,fold\n0041,a,1\nNA,a,1\n7,b,0\n8,c,2\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "folds.csv").write_text(TABLE)
    return tmp_path / "folds.csv"


def test_indices_follow_the_order_of_the_ids(path: Path) -> None:
    train, held_out = fold_rows(read_folds(path), ["8", "NA", "7", "0041"], 1)
    assert train.tolist() == [0, 2]
    assert held_out.tolist() == [1, 3]


def test_every_photo_is_held_out_once(path: Path) -> None:
    folds, ids = read_folds(path), ["0041", "NA", "7", "8"]
    held_out = [index for fold in range(3) for index in fold_rows(folds, ids, fold)[1]]
    assert sorted(held_out) == [0, 1, 2, 3]


def test_unknown_fold_names_the_allowed_ones(path: Path) -> None:
    with pytest.raises(HarveysegError, match=r"fold 3: .*Allowed in `folds` are: 0, 1, 2"):
        fold_rows(read_folds(path), ["0041", "NA", "7", "8"], 3)


@pytest.mark.parametrize("ids", [["0041", "NA", "7"], ["0041", "NA", "7", "8", "9"]])
def test_folds_of_other_photos(path: Path, ids: list[str]) -> None:
    with pytest.raises(HarveysegError, match=r"other photos.*dvc repro split"):
        fold_rows(read_folds(path), ids, 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a table of the expected kind"),
        ("id,group,fold\n1,a,x\n", "not a table of the expected kind"),
        ("id,fold\n1,0\n", "lacks the columns group"),
        ("id,group,fold\n1,a,0\n1,a,1\n", "lists photos twice: 1"),
    ],
)
def test_damaged_file(path: Path, text: str, message: str) -> None:
    path.write_text(text)
    with pytest.raises(HarveysegError, match=rf"{message}.*dvc repro split"):
        read_folds(path)


def test_absent_file(tmp_path: Path) -> None:
    with pytest.raises(HarveysegError, match=r"no such file.*dvc repro split"):
        read_folds(tmp_path / "folds.csv")


def test_split_hash_changes_with_the_file(path: Path) -> None:
    before = split_hash(path)
    assert before == split_hash(path)
    path.write_text(TABLE.replace("8,c,2", "8,c,0"))
    assert split_hash(path) != before
