"""Reading a hand-made cache, its statistics against numpy, and damaged files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from harveyseg.classes import HARVEY25
from harveyseg.data.cache import (
    channel_statistics,
    class_frequencies,
    load_part,
    load_score_masks,
    read_part_classes,
)
from harveyseg.errors import HarveysegError
from harveyseg.files import write_json

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 32, 64, 3)).astype(np.uint8)
MASKS = np.random.default_rng(1).integers(0, 25, (3, 32, 64)).astype(np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    np.save(tmp_path / "images.npy", IMAGES)
    np.save(tmp_path / "masks.npy", MASKS)
    pixels = IMAGES.reshape(3, -1, 3).astype(np.int64)
    table = {"id": ["0041", "NA", "7"], "width": [64] * 3, "height": [32] * 3, "pixels": [32 * 64] * 3}
    photos = pd.DataFrame(table)
    for index, channel in enumerate("rgb"):
        photos[f"sum_{channel}"] = pixels[:, :, index].sum(axis=1)
        photos[f"sumsq_{channel}"] = (pixels[:, :, index] ** 2).sum(axis=1)
    for class_id in range(25):
        photos[f"count_{class_id}"] = np.equal(MASKS, class_id).sum(axis=(1, 2))
    photos.to_csv(tmp_path / "photos.csv", index=False)
    info = {"size": [32, 64], "source": "demo", "hash": "abc", "classes": HARVEY25.model_dump(), "score_size": [16, 24]}
    write_json(tmp_path / "info.json", info)
    return tmp_path


def test_load_part(folder: Path) -> None:
    part = load_part(folder)
    assert part.ids == ("0041", "NA", "7")
    assert isinstance(part.images, np.memmap)
    assert np.array_equal(part.images, IMAGES)
    assert part.masks is not None
    assert np.array_equal(part.masks, MASKS)
    assert (part.size, part.source, part.data_hash) == ((32, 64), "demo", "abc")
    assert (part.classes, part.score_size) == (HARVEY25, (16, 24))


def test_channel_statistics_are_numpys(folder: Path) -> None:
    photos = load_part(folder).photos
    mean, deviation = channel_statistics(photos.iloc[[0, 2]])
    pixels = IMAGES[[0, 2]].reshape(-1, 3) / 255
    assert np.allclose(mean, pixels.mean(axis=0), rtol=1e-12)
    assert np.allclose(deviation, pixels.std(axis=0), rtol=1e-9)


def test_deviation_of_one_colour_can_be_divided_by(folder: Path) -> None:
    photos = load_part(folder).photos.iloc[:1].copy()
    for channel in "rgb":
        photos[f"sum_{channel}"] = 100 * photos["pixels"]
        photos[f"sumsq_{channel}"] = 100**2 * photos["pixels"]
    mean, deviation = channel_statistics(photos)
    assert np.allclose(mean, 100 / 255)
    assert np.allclose(deviation, 1 / 255)


def test_class_frequencies_are_shares_of_pixels(folder: Path) -> None:
    frequencies = class_frequencies(load_part(folder).photos.iloc[1:])
    assert np.allclose(frequencies, np.bincount(MASKS[1:].ravel(), minlength=25) / MASKS[1:].size)
    assert frequencies.sum() == pytest.approx(1)


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def replace(name: str, text: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).write_text(text)

    return damage


def cut(folder: Path) -> None:
    (folder / "images.npy").write_bytes((folder / "images.npy").read_bytes()[:500])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove("info.json"), r"info\.json: no such file"),
        (replace("info.json", "{"), r"info\.json: not valid JSON"),
        (replace("info.json", "{}"), r"info\.json: lacks classes, hash, score_size, size, source"),
        (remove("photos.csv"), r"photos\.csv: no such file"),
        (replace("photos.csv", ""), r"photos\.csv: not a table of the expected kind"),
        (replace("photos.csv", "id,width\n1,2\n"), r"photos\.csv: lacks the columns height"),
        (remove("images.npy"), r"images\.npy: no such file"),
        (cut, r"images\.npy: not a NumPy array, or cut off"),
        (replace("images.npy", ""), r"images\.npy: not a NumPy array, or cut off"),
        (remove("masks.npy"), r"masks\.npy: no such file"),
        (lambda folder: np.save(folder / "masks.npy", MASKS[:2]), r"masks\.npy: holds uint8 \(2, 32, 64\)"),
        (lambda folder: np.save(folder / "masks.npy", MASKS.astype(float)), r"masks\.npy: holds float64"),
    ],
)
def test_damage_names_the_stage_to_rerun(folder: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(folder)
    with pytest.raises(HarveysegError, match=rf"{message}.*dvc repro resize-cache"):
        load_part(folder)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (None, "the list: "),
        ({**HARVEY25.model_dump(), "ignore": 3}, "ignore: "),
        ({"name": "own", "classes": [{"id": 300, "name": "Roof", "color": "red"}]}, r"classes\[0\] \(Roof\), id: "),
    ],
)
def test_a_damaged_list_of_classes_names_the_stage_to_rerun(folder: Path, classes: Any, message: str) -> None:
    write_json(folder / "info.json", {**json.loads((folder / "info.json").read_text()), "classes": classes})
    for read in (load_part, read_part_classes):
        with pytest.raises(HarveysegError, match=rf"(?s)info\.json.*{message}.*dvc repro resize-cache"):
            read(folder)


def test_score_masks(tmp_path: Path) -> None:
    np.save(tmp_path / "train_masks.npy", MASKS)
    assert np.array_equal(np.asarray(load_score_masks(tmp_path, "train")), MASKS)
    assert load_score_masks(tmp_path, "test") is None
    (tmp_path / "train_masks.npy").unlink()
    with pytest.raises(HarveysegError, match="resize-cache"):
        load_score_masks(tmp_path, "train")
    with pytest.raises(HarveysegError, match="resize-cache"):
        load_score_masks(tmp_path / "absent", "test")
