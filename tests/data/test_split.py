"""Folds of hand-made and random photo tables, groups of neighbouring frames, and folds.csv."""

import random
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from harveyseg.classes import HARVEY25
from harveyseg.config.settings import parse
from harveyseg.data.split import (
    SplitParams,
    count_overlapping_photos,
    fold_imbalance,
    fold_rows,
    group_labels,
    make_folds,
    neighbour_groups,
    read_folds,
    read_overlaps,
    split_hash,
    summarise_folds,
    without_number,
    write_overlaps,
)
from harveyseg.errors import HarveysegError

COUNTS = [f"count_{class_id}" for class_id in range(25)]

ROOT = Path("absent")


def table(ids: list[str], classes: list[list[int]]) -> pd.DataFrame:
    """A photos.csv in which each photo holds the given classes, ten pixels each."""
    photos = pd.DataFrame(0, index=range(len(ids)), columns=COUNTS)
    for row, held in enumerate(classes):
        photos.loc[row, [COUNTS[class_id] for class_id in held]] = 10
    photos.insert(0, "id", ids)
    return photos


def random_table(count: int, seed: int) -> pd.DataFrame:
    """Photos in runs of close ids, with classes as rare as in the real set."""
    rng = np.random.default_rng(seed)
    ids = np.cumsum(rng.choice([1, 2, 3, 40], size=count, p=[0.4, 0.2, 0.1, 0.3])) + 6411
    rates = np.geomspace(0.95, 0.02, 24)
    return table([str(i) for i in ids], [[c + 1 for c in range(24) if rng.random() < rates[c]] for _ in ids])


def split(photos: pd.DataFrame, root: Path = ROOT, **values: Any) -> pd.DataFrame:
    return make_folds(photos, 1, parse(SplitParams, {"folds": 5, **values}, "split"), root)


@pytest.mark.parametrize("method", ["stratified", "random"])
@pytest.mark.parametrize("seed", range(5))
def test_groups_never_straddle_folds(method: str, seed: int) -> None:
    photos = random_table(120, seed)
    folds = split(photos, method=method, groups="ids", id_distance=3, seed=seed)
    assert folds["id"].tolist() == photos["id"].tolist()
    assert (folds.groupby("group")["fold"].nunique() == 1).all()
    assert sorted(folds["fold"].unique()) == [0, 1, 2, 3, 4]
    fold_of = dict(zip(map(int, photos["id"]), folds["fold"], strict=True))
    for first in fold_of:  # the slow obvious form of the same
        for second in fold_of:
            assert abs(first - second) > 3 or fold_of[first] == fold_of[second]


def test_same_seed_same_folds_and_another_seed_others() -> None:
    photos = random_table(80, 0)
    for method in ("stratified", "random"):
        first = split(photos, method=method, seed=1)
        assert first.equals(split(photos, method=method, seed=1))
        assert not first["fold"].equals(split(photos, method=method, seed=2)["fold"])


def test_links_are_transitive_and_by_number() -> None:
    params = SplitParams(folds=2, groups="ids", id_distance=2)
    assert group_labels(["9", "105", "11", "13", "0107", "16"], params, ROOT) == ["0", "2", "0", "0", "2", "1"]


def test_classes_are_spread_evenly_where_they_can_be() -> None:
    photos = table([str(i * 100) for i in range(40)], [[1 + i % 4] for i in range(40)])
    folds = split(photos, groups="none")
    assert folds["fold"].value_counts().tolist() == [8] * 5
    for kind in range(4):
        assert folds["fold"][kind::4].value_counts().tolist() == [2] * 5


def test_stratified_is_more_even_than_random() -> None:
    photos = random_table(150, 7)
    presence = photos[COUNTS[1:]].to_numpy() > 0
    scores = {
        method: fold_imbalance(split(photos, method=method)["fold"].to_numpy(), presence, 5)
        for method in ("stratified", "random")
    }
    assert scores["stratified"] < 0.8 * scores["random"]


def test_imbalance_in_closed_form() -> None:
    presence = np.array([[1, 1], [1, 0], [1, 0], [1, 0]], bool)
    assert fold_imbalance(np.array([0, 0, 1, 1]), presence, 2) == pytest.approx(0 + (0 + 1) / 2)
    assert fold_imbalance(np.array([0, 0, 0, 1]), presence[:, :1], 2) == pytest.approx(0.5 + 0.5)


def test_random_without_groups_is_the_reports_single_split() -> None:
    folds = split(table([f"photo {i}" for i in range(23)], [[] for _ in range(23)]), method="random", groups="none")
    assert sorted(folds["fold"].value_counts()) == [4, 4, 5, 5, 5]


def test_class_of_one_group_is_absent_elsewhere_and_that_is_normal() -> None:
    photos = table([str(i * 100) for i in range(10)], [[1, 24] if i == 3 else [1] for i in range(10)])
    folds = split(photos, folds=2)
    rows = summarise_folds(folds, photos, HARVEY25)
    assert rows["photos"].tolist() == [5, 5]
    assert rows["groups"].tolist() == [5, 5]
    home = folds["fold"].tolist()[3]
    assert rows["classes"].tolist() == ([2, 1] if home == 0 else [1, 2])
    assert rows["absent"].tolist() == (["", "Boat"] if home == 0 else ["Boat", ""])


def test_as_many_groups_as_folds_leaves_no_fold_empty() -> None:
    for seed in range(5):
        photos = random_table(12, seed).assign(id=[str(i * 100) for i in range(12)])
        assert split(photos, folds=12, seed=seed)["fold"].nunique() == 12


def test_all_background_photos_can_be_split() -> None:
    assert split(table([str(i * 100) for i in range(10)], [[]] * 10))["fold"].nunique() == 5


@pytest.mark.parametrize(
    ("setting", "expected"),
    [("groups.csv:strict", ["a", "b", "a"]), ("groups.csv:loose", ["x", "x", "x"]), ("single.csv", ["p", "q", "p"])],
)
def test_groups_from_a_file(tmp_path: Path, setting: str, expected: list[str]) -> None:
    (tmp_path / "groups.csv").write_text("id,loose,strict\n1,x,a\n02,x,b\n3,x,a\n99,y,c\n")
    (tmp_path / "single.csv").write_text("id,group\n1,p\n02,q\n3,p\n")
    assert group_labels(["1", "02", "3"], SplitParams(folds=2, groups=setting), tmp_path) == expected


@pytest.mark.parametrize(
    ("ids", "values", "message"),
    [
        (["1"], {}, r"split\.folds = 5: the 1 training photos form only 1 group "),
        (["1", "2", "300"], {"folds": 3}, r"form only 2 groups \(split\.groups = ids\).*split\.id_distance"),
        (["1", "a7", "x"], {}, r"no numeric id: a7, x\. Set split\.groups to overlap, to none"),
        (["1", "5", "6"], {"groups": "groups.csv:strict"}, r"no group for the photos 5, 6"),
        (["1"], {"groups": "groups.csv"}, r"the file has id, loose, strict\. Name the group column"),
        (["1"], {"groups": "groups.csv:other"}, r"the file has id, loose, strict"),
        (["1"], {"groups": "absent.csv"}, r"absent\.csv: no such file"),
        (["1"], {"groups": "empty.csv"}, r"not a CSV file"),
        (["1"], {"groups": "twice.csv"}, r"several groups for 1"),
        (["1"], {"groups": "id"}, r"allowed are ids, overlap, none, path\.csv and path\.csv:column"),
        (["1"], {"folds": 1}, r"split\.folds = 1: Input should be greater than or equal to 2"),
        (["1"], {"method": "best"}, r"split\.method = 'best': Input should be 'stratified' or 'random'"),
        (["1"], {"id_distance": -1}, r"split\.id_distance = -1"),
    ],
)
def test_what_cannot_be_split(tmp_path: Path, ids: list[str], values: dict[str, Any], message: str) -> None:
    (tmp_path / "groups.csv").write_text("id,loose,strict\n1,x,a\n2,x,b\n")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "twice.csv").write_text("id,group\n1,p\n1,q\n")
    with pytest.raises(HarveysegError, match=message):
        split(table(ids, [[1]] * len(ids)), root=tmp_path, **values)


def test_a_fixed_list_of_held_out_photos(tmp_path: Path) -> None:
    """Whatever the groups say; the lines may be file names, as such lists often are."""
    ids = ["a1", "a2", "a3", "a4"]
    photos = table(ids, [[1], [1], [2], [2]])
    (tmp_path / "val.txt").write_text("a3\r\n\nimages/a1.png\n")
    folds = split(photos, tmp_path, folds=2, groups="none", held_out="val.txt")
    assert folds["fold"].tolist() == [0, 1, 0, 1]
    for text, message in (
        ("a1\nb7.jpg\n", r"split\.held_out = val\.txt: 1 problem\n  - b7\.jpg: no training photo has this id"),
        ("", "lists none of the 4 training photos"),
        ("\n".join(ids), "lists all of the 4 training photos"),
    ):
        (tmp_path / "val.txt").write_text(text)
        with pytest.raises(HarveysegError, match=message):
            split(photos, tmp_path, folds=2, groups="none", held_out="val.txt")
    (tmp_path / "val.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(HarveysegError, match="not a text file"):
        split(photos, tmp_path, folds=2, groups="none", held_out="val.txt")
    with pytest.raises(HarveysegError, match="no such file"):
        split(photos, tmp_path, folds=2, groups="none", held_out="absent.txt")
    with pytest.raises(HarveysegError, match=r"held_out.*set `split\.folds` to 2"):
        parse(SplitParams, {"folds": 3, "held_out": "val.txt"}, "split")


def test_neighbours_are_the_connected_components_of_the_links() -> None:
    generator = random.Random(0)
    ids = [str(number) for number in generator.sample(range(6000, 7000), 120)]
    component = {photo_id: photo_id for photo_id in ids}
    for _ in ids:  # the smallest name spreads along the links
        for first in ids:
            linked = [component[second] for second in ids if abs(int(first) - int(second)) <= 4]
            component[first] = min(linked)
    groups = neighbour_groups(ids, 4)
    pairs = {(component[photo_id], group) for photo_id, group in zip(ids, groups, strict=True)}
    assert len(pairs) == len(set(component.values())) == len(set(groups)) > 20
    smallest = min(ids, key=int)
    assert groups[ids.index(smallest)] == "0"


def test_ids_that_are_no_numbers() -> None:
    assert without_number(["12", "a1", "0012", "1.5", "", "-3", "²"]) == ["a1", "1.5", "", "-3", "²"]


FOLDS = "id,group,fold\n0041,a,1\nNA,a,1\n7,b,0\n8,c,2\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "folds.csv").write_text(FOLDS)
    return tmp_path / "folds.csv"


def test_rows_follow_the_order_of_the_ids(path: Path) -> None:
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


def test_counts_of_overlapping_photos_are_those_of_a_slow_loop() -> None:
    random = np.random.default_rng(0)
    for _ in range(30):
        train = [f"a{index}" for index in range(12)]
        test = [f"t{index}" for index in range(5)]
        fold_of = {photo_id: int(random.integers(4)) for photo_id in train}
        held_out = sorted(random.choice(4, size=int(random.integers(1, 5)), replace=False).tolist())
        pairs = [pair for pair in combinations([*train, *test], 2) if random.random() < 0.05]
        seen = {frozenset(pair) for pair in pairs}
        val, tested = set(), set()
        for fold in held_out:  # one network for each
            trained = [photo_id for photo_id in train if fold_of[photo_id] != fold]
            for photo_id in trained:
                val |= {other for other in train if fold_of[other] == fold and frozenset((photo_id, other)) in seen}
                tested |= {other for other in test if frozenset((photo_id, other)) in seen}
        assert count_overlapping_photos(pairs, fold_of, held_out) == {"val": len(val), "test": len(tested)}


def test_overlaps_come_back_and_an_absent_file_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / "overlaps.csv"
    assert read_overlaps(path) is None
    for pairs in ([], [("007", "8"), ("8", "x")]):
        write_overlaps(path, pairs)
        assert read_overlaps(path) == pairs


def test_split_hash_changes_with_the_file(path: Path) -> None:
    before = split_hash(path)
    assert before == split_hash(path)
    path.write_text(FOLDS.replace("8,c,2", "8,c,0"))
    assert split_hash(path) != before
