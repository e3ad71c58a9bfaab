"""The source ``directory`` from end to end: the real stages on folders as people have them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch
from PIL import Image
from ruamel.yaml import YAML

from harveyseg.config.settings import parse
from harveyseg.data.cache import load_part, load_score_masks
from harveyseg.data.class_lists import write_classes
from harveyseg.data.manifest import read_manifest
from harveyseg.data.sources import DataParams, download_source
from harveyseg.data.split import read_overlaps
from harveyseg.errors import HarveysegError
from harveyseg.pipeline.identity import new_record
from harveyseg.tracking.client import Tracker
from harveyseg.tracking.mirror import mirror
from harveyseg.tracking.outputs import RunOutputs, RunState
from harveyseg.tracking.query import find_all_runs
from harveyseg.tracking.table import comparison_table, write_comparison
from helpers.class_lists import make_classes
from helpers.configs import unet_config
from helpers.paths import ROOT
from helpers.photos import made_ground

COLOURS = {0: "#000000", 5: "#00ff00", 14: "#808080", 23: "#0000FF"}
OWN = make_classes(COLOURS, unscored=[0])
IDS = np.random.default_rng(0).choice(list(COLOURS), (2, 2)).repeat(32, axis=0).repeat(32, axis=1).astype(np.uint8)


def save(image: Image.Image, path: Path, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


def photo(seed: int) -> npt.NDArray[np.uint8]:
    """Four flat squares, which JPEG keeps but for rounding."""
    squares = np.random.default_rng(seed).integers(0, 256, (2, 2, 3)).astype(np.uint8)
    return squares.repeat(32, axis=0).repeat(32, axis=1)


def rgb(ids: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    table = np.zeros((25, 3), np.uint8)
    for class_id, colour in COLOURS.items():
        table[class_id] = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return table[ids]


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Photos of all formats, nested; masks in grey, as a palette and in colours."""
    write_classes(tmp_path / "classes.yaml", OWN)
    folder = tmp_path / "photos"
    train = folder / "archive/Train_Images/train_images"
    save(Image.fromarray(photo(1)), train / "1.JPG", format="JPEG", quality=95, subsampling=0)
    save(Image.fromarray(photo(2)), train / "2.png")
    save(Image.fromarray(photo(3)), train / "3.TIFF", compression="tiff_lzw")
    save(Image.fromarray(photo(4)), folder / "test_images/4.tif")
    save(Image.fromarray(IDS), folder / "archive/train_masks/1.PNG")
    save(Image.fromarray(rgb(IDS)).quantize(4), folder / "archive/train_masks/2.png")
    save(Image.fromarray(rgb(IDS)), folder / "archive/train_masks/3.png")
    return folder


def settings(folder: Path, **data: Any) -> None:
    params = {"data": {"source": "directory", "path": "photos", **data}, "resize-cache": {"size": 64}}
    YAML().dump(params, folder / "params.yaml")


def stage(name: str, folder: Path) -> str:
    """Run a stage; what it printed on stderr."""
    command = [sys.executable, str(ROOT / "stages" / f"{name}.py")]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_mixed_files_reach_the_cache(mixed: Path, tmp_path: Path) -> None:
    settings(tmp_path, classes="classes.yaml")
    stage("download", tmp_path)
    raw = tmp_path / "data/raw"
    assert sorted(path.relative_to(raw).as_posix() for path in raw.rglob("*.*")) == [
        "classes.json", "manifest.csv", "source.json", "test_images/4.tif", "train_images/1.jpg", "train_images/2.png",
        "train_images/3.tif", "train_masks/1.png", "train_masks/2.png", "train_masks/3.png",
    ]  # fmt: skip
    for name, original in (("1.jpg", "1.JPG"), ("3.tif", "3.TIFF")):
        copy = (raw / "train_images" / name).read_bytes()
        assert copy == (mixed / "archive/Train_Images/train_images" / original).read_bytes()
    stage("resize_cache", tmp_path)
    train, test = load_part(tmp_path / "data/cache/train"), load_part(tmp_path / "data/cache/test")
    assert (train.ids, test.ids, train.skipped) == (("1", "2", "3"), ("4",), 0)
    assert train.masks is not None
    indices = np.searchsorted(list(COLOURS), IDS)  # by position in the list
    assert np.array_equal(train.masks, np.stack([indices] * 3))
    assert train.classes == OWN
    scored = load_score_masks(tmp_path / "data/cache/score", "train")
    assert scored is not None
    assert np.array_equal(scored[2], indices.repeat(16, axis=0).repeat(16, axis=1))
    assert np.abs(train.images[0].astype(int) - photo(1)).max() <= 3
    assert np.array_equal(train.images[1:], np.stack([photo(2), photo(3)]))
    assert np.array_equal(test.images, photo(4)[None])


def test_bad_files_that_are_left_out_are_told_down_to_the_table(mixed: Path, tmp_path: Path, tracker: Tracker) -> None:
    (mixed / "archive/Train_Images/train_images/1.JPG").write_bytes(b"\xff\xd8\xff")
    save(Image.fromarray(IDS), mixed / "archive/train_masks/9.png")
    settings(tmp_path, classes="classes.yaml", on_bad="skip")
    stderr = stage("download", tmp_path)
    assert "warning: left out: archive/train_masks/9.png: has no photo 9 in train_images" in stderr
    assert "warning: 2 bad files left out (data.on_bad = skip), see skipped.csv in data/raw" in stderr
    skipped = pd.read_csv(tmp_path / "data/raw/skipped.csv")
    assert skipped["file"].tolist() == ["archive/train_masks/9.png", "archive/Train_Images/train_images/1.JPG"]
    stage("resize_cache", tmp_path)
    part = load_part(tmp_path / "data/cache/train")
    assert (part.ids, part.skipped) == (("2", "3"), 2)
    outputs = []
    for fold in (0, 1):
        record = new_record(unet_config(), fold, part, "5" * 64, "key", torch.device("cpu"), "fp32", tmp_path)
        mirror(tracker, RunState(record))
        outputs.append(RunOutputs(record, tmp_path))
    assert [run.parameters["data.skipped"] for run in find_all_runs(tracker)] == ["2", "2"]
    write_comparison(comparison_table(tracker, outputs), tmp_path)
    notes = (tmp_path / "comparison.md").read_text().partition("\n\n")[2].splitlines()
    told = "- all: 2 bad files were left out of the data (data.on_bad: skip)"
    assert any(note.startswith(told) for note in notes)


def test_a_set_without_bad_files_is_the_same_with_skip(mixed: Path, tmp_path: Path) -> None:
    for on_bad in ("error", "skip"):
        values = {"source": "directory", "path": "photos", "classes": "classes.yaml", "on_bad": on_bad}
        download_source(parse(DataParams, values, "data"), tmp_path, tmp_path / on_bad)
    for path in (tmp_path / "error").rglob("*.*"):
        assert (tmp_path / "skip" / path.relative_to(tmp_path / "error")).read_bytes() == path.read_bytes()
    assert len(list((tmp_path / "skip").rglob("*.*"))) == 10


def test_a_folder_in_cloud_storage_is_the_same_as_one_on_a_disk(mixed: Path, tmp_path: Path) -> None:
    storage = fsspec.filesystem("memory")
    storage.put(str(mixed), "/bucket/mixed", recursive=True)
    (tmp_path / "file.py").write_text("")
    for name, place in (("disk", {"path": "photos"}), ("cloud", {"path": "file.py", "url": "memory://bucket/mixed"})):
        values = {"source": "directory", "classes": "classes.yaml", **place}
        download_source(parse(DataParams, values, "data"), tmp_path, tmp_path / name)
    assert (tmp_path / "cloud/manifest.csv").read_bytes() == (tmp_path / "disk/manifest.csv").read_bytes()
    assert (tmp_path / "cloud/train_images/3.tif").is_file()
    assert not (tmp_path / "cloud/train_images/3.tif").is_symlink()
    source = json.loads((tmp_path / "cloud/source.json").read_text())
    assert source["detail"] == {"url": "memory://bucket/mixed"}
    storage.rm("/bucket/mixed/archive/train_masks/3.png")
    with pytest.raises(
        HarveysegError, match=r"^the photos in memory://bucket/mixed: 1 problem\n  - archive/\S+/3\.TIFF: has no mask"
    ):
        download_source(parse(DataParams, values, "data"), tmp_path, tmp_path / "cloud")
    storage.rm("/bucket", recursive=True)


@pytest.mark.parametrize("path", ["photos", "absent"])
def test_two_folders_are_one_too_many(mixed: Path, tmp_path: Path, path: str) -> None:
    values = {"source": "directory", "path": path, "url": "s3://key:secret@bucket/photos"}
    with pytest.raises(
        HarveysegError,
        match=rf"^data\.url = s3://bucket/photos and data\.path = {path}: set only one of the two. Empty data\.url",
    ):
        download_source(parse(DataParams, values, "data"), tmp_path, tmp_path / "raw")


@pytest.fixture(scope="module")
def flight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three grounds, two overlapping photos of each, in drone folders that do not say so; one photo is there twice."""
    folder = tmp_path_factory.mktemp("flight") / "photos"
    for place in (1, 2, 3):
        ground = made_ground(place)
        for frame, left in enumerate((0, 200)):
            path = f"10{frame}MEDIA/DJI_{place:04}"
            save(Image.fromarray(ground[0:480, left : left + 640]), folder / f"train_images/{path}.JPG", format="JPEG")
            save(Image.fromarray(np.full((480, 640), place, np.uint8)), folder / f"train_masks/{path}.png")
    for kind, ending in (("images", "JPG"), ("masks", "png")):
        first = folder / f"train_{kind}/100MEDIA/DJI_0001.{ending}"
        (folder / f"train_{kind}/101MEDIA/DJI_0011.{ending}").write_bytes(first.read_bytes())
    return folder


def parts_of(flight: Path, root: Path, **directory: Any) -> dict[str, list[str]]:
    """The ids of each part; masks and names are checked on the way."""
    values = {"source": "directory", "path": str(flight), "directory": directory}
    download_source(parse(DataParams, values, "data"), root, root / "raw")
    manifest = read_manifest(root / "raw/manifest.csv")
    for row in manifest.to_dict("records"):
        assert (np.asarray(Image.open(root / "raw" / row["mask"])) == int(row["id"][-1])).all()
        assert row["image"] == f"{row['part']}_images/{row['id']}.jpg"
    return {part: manifest.loc[manifest["part"] == part, "id"].tolist() for part in ("train", "test")}


def test_a_held_out_part_shows_other_ground_than_the_training_part(flight: Path, tmp_path: Path) -> None:
    divisions = set()
    for seed in (0, 1):
        parts = parts_of(flight, tmp_path, test_share=0.45, seed=seed)
        assert [len(ids) for ids in parts.values()] in ([4, 3], [5, 2])
        assert not {photo_id[-1] for photo_id in parts["train"]} & {photo_id[-1] for photo_id in parts["test"]}
        divisions.add(tuple(parts["test"]))
        source = json.loads((tmp_path / "raw/source.json").read_text())
        assert source["detail"] == {"path": str(flight), "test_share": 0.45, "seed": seed}
        overlaps = read_overlaps(tmp_path / "raw/overlaps.csv")
        assert overlaps is not None
        assert {frozenset(pair) for pair in overlaps} == {
            *(frozenset({f"100MEDIA_DJI_000{place}", f"101MEDIA_DJI_000{place}"}) for place in (1, 2, 3)),
            *(frozenset({f"10{frame}MEDIA_DJI_0001", "101MEDIA_DJI_0011"}) for frame in (0, 1)),
        }
    assert len(divisions) == 2


def test_a_folder_without_a_test_part(flight: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING", "harveyseg"):
        assert [len(ids) for ids in parts_of(flight, tmp_path).values()] == [7, 0]
    assert "has no folder test_images, so there will be no submission and no test score" in caplog.text
    assert not (tmp_path / "raw/overlaps.csv").exists()


@pytest.mark.parametrize(
    ("classes", "values", "said"),
    [
        ("rescuenet", [0, 1, 10], "calls 1 Debris instead of Water"),
        ("rescuenet12", [0, 1, 10], "calls 1 Water instead of Debris"),
        ("rescuenet12", [0, 1, 11], ""),
        ("harvey25", [0, 16, 5], ""),
        ("harvey25", [23, 0, 5], "calls 23 Water Body instead of Flooded"),
    ],
)
def test_masks_that_may_be_of_another_edition(
    classes: str, values: list[int], said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Ids cannot tell, so the user is told, in one line."""
    for number, value in enumerate(values):  # each mask holds one of them
        save(Image.fromarray(photo(number)), tmp_path / "own" / "train_images" / f"{number}.png")
        mask = Image.fromarray(np.full((64, 64), value, np.uint8))
        save(mask, tmp_path / "own" / "train_masks" / f"{number}.png")
    settings = {"source": "directory", "path": "own", "inputs": "own", "classes": classes}
    with caplog.at_level("INFO", "harveyseg"):
        download_source(parse(DataParams, settings, "data"), tmp_path, tmp_path / "data" / "raw")
    lines = [message for message in caplog.messages if "fits the masks, too" in message]
    assert len(lines) == bool(said)
    assert all(said in line and "docs/classes.md" in line for line in lines)


def test_a_test_part_is_not_held_out_from_a_folder_that_has_one(mixed: Path, tmp_path: Path) -> None:
    values = {"source": "directory", "path": "photos", "classes": "classes.yaml", "directory": {"test_share": 0.2}}
    with pytest.raises(HarveysegError, match=r"test_share = 0\.2: \S+photos has a folder test_images.*to null"):
        download_source(parse(DataParams, values, "data"), tmp_path, tmp_path / "raw")
    (mixed / "test_images").rename(mixed / "test_masks")
    del values["directory"]
    with pytest.raises(HarveysegError, match="test_images: the folder is missing"):
        download_source(parse(DataParams, values, "data"), tmp_path, tmp_path / "raw")
