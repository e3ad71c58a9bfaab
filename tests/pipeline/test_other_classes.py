"""Whole pipelines with other classes than the competition's, on data sets that look like what people have."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from PIL import Image
from ruamel.yaml import YAML

from harveyseg.classes import HARVEY26, ClassList
from harveyseg.data.class_lists import read_classes, write_classes
from helpers.class_lists import make_classes
from helpers.paths import ROOT
from helpers.project import TINY, Project, lay_over

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


def jpeg_once(path: Path, ids: npt.NDArray[np.uint8], number: int) -> None:
    """Black and white with the grey noise that JPEG leaves where an edge crosses one of its blocks of 8 x 8."""
    buffer = io.BytesIO()
    shifted = np.pad(np.where(ids > 0, 255, 0).astype(np.uint8), ((3, 0), (3, 0)), mode="edge")
    Image.fromarray(shifted).save(buffer, "JPEG", quality=92)
    noisy = np.asarray(Image.open(buffer))[3:, 3:]
    assert len(np.unique(noisy)) > 10
    Image.fromarray(noisy).save(path)


def threshold(folder: Path) -> None:
    """The remedy that `inspect` names for such masks."""
    for path in folder.glob("*_masks/*"):
        Image.fromarray((np.asarray(Image.open(path)) >= 128).astype(np.uint8)).save(path)


@dataclass(frozen=True)
class DataSet:
    """What the photos of a data set hold, and how its masks are stored."""

    classes: ClassList
    size: tuple[int, int] = (48, 64)
    save: Save = grey
    named: str | None = None
    """A built-in list; else `inspect` writes the list."""
    remedy: Callable[[Path], None] | None = None
    """What the user does to the masks after `inspect`."""
    held_out: Sequence[int] = ()
    """A fixed validation list."""

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
            if number == 0:  # all classes
                coarse.flat[2 : 2 + len(values)] = values[: coarse.size - 2]
            ids = np.kron(coarse, np.ones((16, 16), np.uint8))
            colours = np.array([colour_of[int(value)] for value in ids.ravel()]).reshape(*ids.shape, 3)
            noisy = np.clip(colours + rng.normal(0, 6, colours.shape), 0, 255).astype(np.uint8)
            for kind in ("images", "masks"):
                (folder / f"{part}_{kind}").mkdir(parents=True, exist_ok=True)
            Image.fromarray(noisy).save(folder / f"{part}_images" / f"{100 + 20 * number}.png")
            self.save(folder / f"{part}_masks" / f"{100 + 20 * number}.png", ids, number)


DATA_SETS = {
    "two classes in masks that were JPEG once": DataSet(
        own_list([0, 1], unscored=[]), save=jpeg_once, remedy=threshold
    ),
    "six classes in colours and palettes": DataSet(SIX, save=colours_or_palette),
    "eleven classes, pixels without a label, a fixed validation list": DataSet(
        own_list(range(11), unscored=[], ignore=255), size=(96, 128), held_out=(100, 160, 220)
    ),
    "the 27 classes of the edition of 2022-23": DataSet(HARVEY26, size=(64, 128), named="harvey26"),
    "150 classes": DataSet(own_list(range(5, 155), unscored=[]), size=(192, 224)),
}


@pytest.mark.parametrize(
    "data_set",
    [
        pytest.param(data_set, id=name, marks=[pytest.mark.long] if name == "150 classes" else [])
        for name, data_set in DATA_SETS.items()
    ],
)
def test_from_inspect_and_init_to_table_submission_and_maps(data_set: DataSet, tmp_path: Path) -> None:
    """As a user would: a new repository, a look at the folder, the settings that it suggests, the pipeline."""
    data_set.write(tmp_path / "photos")
    project = Project(tmp_path / "project")
    project.environment["PYTHONPATH"] = str(ROOT / "src")
    project.folder.mkdir()
    project.run("harveyseg", "init", ".")
    lists = project.folder / "lists"
    printed = project.run("harveyseg", "inspect", "../photos", "--out", "lists")
    assert ("threshold them at 128" in printed) == (data_set.remedy is threshold)
    if data_set.remedy:
        data_set.remedy(tmp_path / "photos")
    (lists / "val.txt").write_text("".join(f"{number}.png\n" for number in data_set.held_out))
    yaml = YAML()
    params = yaml.load(project.folder / "params.yaml")
    suggested = yaml.load(lists / "data.yaml")
    assert suggested["data"]["score_size"] is None  # the masks' own
    lay_over(params, suggested)
    lay_over(params, {"data": {"inputs": "lists", "classes": data_set.named or "lists/classes.yaml"}})
    train = {"epochs": 4, "lr": 0.02, "batch_size": 4, "threads": 1, "class_weights": "sqrt", "loss": {"dice": 0.3}}
    lay_over(params, {**TINY, "train": train, "postprocess": {"method": "auto"}})
    if data_set.held_out:
        lay_over(params, {"split": {"held_out": "lists/val.txt"}, "folds": [0]})
    yaml.dump(params, project.folder / "params.yaml")
    project.commit("start")
    project.run("dvc", "repro")
    assert "up to date" in project.run("dvc", "status")
    if data_set.held_out:
        held_out = pd.read_csv(project.folder / "data" / "predictions" / "unet-0" / "val_ids.csv")
        assert sorted(held_out.iloc[:, 0].astype(int)) == sorted(data_set.held_out)
    classes = data_set.classes if data_set.named else read_classes(lists / "classes.yaml")
    assert len(classes) == len(data_set.classes)
    check_submission(project, classes)
    check_maps(project, classes)


def test_another_list_of_classes_reads_the_masks_again(tmp_path: Path) -> None:
    """The file is edited, the setting stays: masks in colours then hold other ids."""
    project = Project(tmp_path / "project")
    project.environment["PYTHONPATH"] = str(ROOT / "src")
    project.folder.mkdir()
    project.run("harveyseg", "init", ".")
    DataSet(SIX, save=colours_or_palette).write(tmp_path / "photos")
    lists = project.folder / "lists"
    lists.mkdir()
    write_classes(lists / "classes.yaml", SIX)
    yaml = YAML()
    params = yaml.load(project.folder / "params.yaml")
    own = {"source": "directory", "path": "../photos", "inputs": "lists", "classes": "lists/classes.yaml"}
    lay_over(params, {**TINY, "data": {**own, "score_size": None}})
    yaml.dump(params, project.folder / "params.yaml")

    def stored() -> dict[str, list[int]]:
        masks = sorted((project.folder / "data" / "raw" / "train_masks").iterdir())
        return {path.name: np.asarray(Image.open(path)).ravel().tolist() for path in masks}

    project.run("dvc", "repro", "download")
    before = stored()
    first, second, *rest = SIX.classes
    swapped = [first.model_copy(update={"color": second.color}), second.model_copy(update={"color": first.color})]
    write_classes(lists / "classes.yaml", SIX.model_copy(update={"classes": (*swapped, *rest)}))
    assert "download: lists/classes.yaml edited" in project.run("harveyseg", "status")
    assert project.stages("dvc", "repro", "download") == {"code", "download"}
    other = {first.id: second.id, second.id: first.id}
    assert stored() == {name: [other.get(value, value) for value in values] for name, values in before.items()}
    assert project.stages("dvc", "repro", "download") == set()


def check_submission(project: Project, classes: ClassList) -> None:
    """Rows of the scored ids alone; scored against the masks' files they give the table's score."""
    path = project.folder / "data" / "submission" / "submission.csv"
    rows = pd.read_csv(path)["ImageClassId"].str.rsplit("_", n=1)
    scored = sorted(entry.id for entry in classes.classes if entry.scored)
    assert [int(row[1]) for row in rows] == scored * 2
    printed = project.run("harveyseg", "score", str(path), "--masks", "../photos/test_masks")
    score = float(printed.split("score: ")[1].split()[0])
    table = project.table()
    assert score == pytest.approx(float(table.loc[table["model"] == "ensemble", "test_score"].iloc[0]), abs=2e-5)
    assert table["test_score"].iloc[0] >= 0


def check_maps(project: Project, classes: ClassList) -> None:
    """The maps of `predict` hold ids of the list, and `areas.csv` has each id's share of the pixels under its name."""
    project.run("harveyseg", "predict", "../photos/test_images", "--out", "maps", "--argmax")
    areas = pd.read_csv(project.folder / "maps" / "areas.csv").set_index("image")
    assert len(areas) == 2
    for image, row in areas.iterrows():
        class_map = np.asarray(Image.open(project.folder / "maps" / str(image)))  # photos are PNG files, too
        shares = {entry.name: 100 * np.mean(class_map == entry.id) for entry in classes.classes}
        assert sum(shares.values()) == pytest.approx(100)
        assert {name: float(row[name]) for name in shares} == pytest.approx(shares, abs=6e-4)
