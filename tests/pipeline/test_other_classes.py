"""Whole pipelines with other classes than the competition's, on data sets that look like what people have."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from PIL import Image

from harveyseg.classes import HARVEY26, ClassList
from harveyseg.data.class_lists import write_classes
from helpers.class_lists import make_classes
from helpers.project import TINY, Project, start_project

pytestmark = pytest.mark.slow

Save = Callable[[Path, npt.NDArray[np.uint8], int], None]
"""Write a mask of class ids, the n-th of its data set, to a file."""


def grey(path: Path, ids: npt.NDArray[np.uint8], number: int) -> None:
    Image.fromarray(ids).save(path)


def own_list(ids: Sequence[int], unscored: Sequence[int], ignore: int | str | None = None) -> ClassList:
    """Classes with these ids, whose colours tell them apart."""
    return make_classes({value: f"#{value:02x}{255 - value:02x}80" for value in ids}, unscored, ignore)


SIX = own_list([0, 40, 80, 120, 160, 200], unscored=[0])


def colours_or_palette(path: Path, ids: npt.NDArray[np.uint8], number: int) -> None:
    """Two thirds of the masks in RGB, one third with a palette whose indices are no ids."""
    entries = sorted(SIX.classes, key=lambda entry: entry.id)
    table = np.array([list(bytes.fromhex(entry.color[1:])) for entry in entries], np.uint8)
    index = np.searchsorted([entry.id for entry in entries], ids).astype(np.uint8)
    if number % 3:
        Image.fromarray(table[index]).save(path)
    else:
        image = Image.frombytes("P", ids.shape[::-1], (index + np.uint8(1)).tobytes())
        image.putpalette(bytes(3) + table.tobytes())
        image.save(path)


@dataclass(frozen=True)
class DataSet:
    """What the photos of a data set hold, and how its masks are stored."""

    classes: ClassList
    size: tuple[int, int] = (48, 64)
    save: Save = grey
    score_size: int | None = 64
    named: str | None = None
    """A built-in list; else the list is written next to the photos."""

    def write(self, folder: Path) -> None:
        """Eight training and two test photos of squares whose colour depends on the class, with masks."""
        rng = np.random.default_rng(0)
        values = [entry.id for entry in self.classes.classes]
        colour_of = dict(zip(values, rng.integers(0, 256, (len(values), 3)), strict=True))
        if self.classes.ignored_value is not None:
            colour_of[self.classes.ignored_value] = np.array([128, 128, 128])
        for number in range(10):
            part = "train" if number < 8 else "test"
            height, width = self.size
            coarse = rng.choice(list(colour_of), (height // 16, width // 16)).astype(np.uint8)
            coarse[0, :2] = values[:2]
            ids = np.kron(coarse, np.ones((16, 16), np.uint8))
            colours = np.array([colour_of[int(value)] for value in ids.ravel()]).reshape(*ids.shape, 3)
            noisy = np.clip(colours + rng.normal(0, 6, colours.shape), 0, 255).astype(np.uint8)
            for kind in ("images", "masks"):
                (folder / f"{part}_{kind}").mkdir(parents=True, exist_ok=True)
            Image.fromarray(noisy).save(folder / f"{part}_images" / f"{100 + 20 * number}.png")
            self.save(folder / f"{part}_masks" / f"{100 + 20 * number}.png", ids, number)


DATA_SETS = {
    "two classes, ids with a gap": DataSet(own_list([3, 254], unscored=[])),
    "six classes in colours and palettes": DataSet(SIX, save=colours_or_palette),
    "eleven classes and pixels without a label": DataSet(
        own_list(range(11), unscored=[], ignore=255), size=(96, 128), score_size=None
    ),
    "the edition of 2022-23": DataSet(HARVEY26, named="harvey26"),
    "150 classes": DataSet(own_list(range(5, 155), unscored=[5, 6]), size=(96, 160)),
}


@pytest.mark.parametrize("data_set", DATA_SETS.values(), ids=DATA_SETS)
def test_from_masks_to_table_submission_and_maps(data_set: DataSet, tmp_path: Path) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    data_set.write(tmp_path / "photos")
    write_classes(folder / "classes.yaml", data_set.classes)
    data = {
        "source": "directory",
        "path": "../photos",
        "inputs": "classes.yaml",
        "classes": data_set.named or "classes.yaml",
        "score_size": data_set.score_size,
    }
    train = {"epochs": 4, "lr": 0.02, "batch_size": 4, "threads": 1, "class_weights": "sqrt", "loss": {"dice": 0.3}}
    project = start_project(folder, {**TINY, "data": data, "train": train, "postprocess": {"method": "auto"}})
    project.run("dvc", "repro")
    assert "up to date" in project.run("dvc", "status")
    check_submission(project, data_set)
    check_maps(project, data_set)


def check_submission(project: Project, data_set: DataSet) -> None:
    """Rows of the scored ids alone; scored against the masks' files they give the table's score."""
    path = project.folder / "data" / "submission" / "submission.csv"
    rows = pd.read_csv(path)["ImageClassId"].str.rsplit("_", n=1)
    scored = sorted(entry.id for entry in data_set.classes.classes if entry.scored)
    assert [int(row[1]) for row in rows] == scored * 2
    printed = project.run("harveyseg", "score", str(path), "--masks", "../photos/test_masks")
    score = float(printed.split("score: ")[1].split()[0])
    table = project.table()
    assert score == pytest.approx(float(table.loc[table["model"] == "ensemble", "test_score"].iloc[0]), abs=2e-5)
    assert table["test_score"].iloc[0] >= 0


def check_maps(project: Project, data_set: DataSet) -> None:
    """The maps of `predict` hold ids of the list, and their areas its names."""
    project.run("harveyseg", "predict", "../photos/test_images", "--out", "maps", "--argmax")
    found: set[int] = set()
    for path in (project.folder / "maps").glob("[0-9]*.png"):
        found |= set(np.unique(np.asarray(Image.open(path))).tolist())
    assert found <= {entry.id for entry in data_set.classes.classes}
    assert set(data_set.classes.names) <= set(pd.read_csv(project.folder / "maps" / "areas.csv").columns)
