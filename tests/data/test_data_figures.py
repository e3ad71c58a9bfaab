"""Shares and sizes counted by hand, the samples of training itself, and figures that show them."""

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from ruamel.yaml import YAML

from harveyseg.classes import HARVEY25
from harveyseg.config.settings import parse, section
from harveyseg.data.augmentation import AugmentationParams
from harveyseg.data.cache import CachedPart
from harveyseg.data.figures import (
    SampleParams,
    augmented_figure,
    class_figure,
    class_shares,
    largest_classes,
    photo_sizes,
    size_figure,
    training_samples,
    write_data_figures,
)
from harveyseg.data.split import OVERLAPS_FILE, write_overlaps
from harveyseg.errors import HarveysegError
from harveyseg.files import write_json
from harveyseg.training.checkpoint import Checkpoint
from harveyseg.training.dataset import SampleKey, Samples
from harveyseg.training.params import TrainParams
from harveyseg.training.trainer import Training
from helpers.paths import ROOT

COUNTS = [f"count_{class_id}" for class_id in range(25)]

GRASS, TREES, FLOODED, BOAT = 5, 6, 23, 24
NOTHING = {"flip": 0, "rotate": 0, "sharpen": 0, "brightness": 0}


def photos_with(*counts: dict[int, int]) -> pd.DataFrame:
    """A photos.csv with these pixels of each class in each photo."""
    table = pd.DataFrame(0, index=range(len(counts)), columns=COUNTS)
    for row, held in enumerate(counts):
        for class_id, pixels in held.items():
            table.loc[row, COUNTS[class_id]] = pixels
    return table


def sizes_of(*sizes: tuple[int, int]) -> pd.DataFrame:
    return pd.DataFrame(sizes, columns=["width", "height"])


def sample_params(seed: int = 0, **augmentation: Any) -> SampleParams:
    return parse(SampleParams, {"augmentation": {**NOTHING, **augmentation}, "seed": seed}, "train")


def rgb(path: Path) -> Any:
    with Image.open(path) as opened:
        return np.array(opened.convert("RGB")).astype(int)


def pixels_of(path: Path, class_id: int) -> int:
    return int((np.abs(rgb(path) - HARVEY25.palette[class_id]).max(2) <= 1).sum())


def test_shares_are_of_all_pixels_and_photos_count_who_holds_a_class() -> None:
    # 16 and 48 pixels: a photo counts by its size.
    shares = class_shares(photos_with({0: 4, GRASS: 12}, {0: 8, GRASS: 36, FLOODED: 4}), HARVEY25)
    assert list(shares.columns) == ["class_id", "name", "pixel_share", "photos"]
    assert shares["class_id"].tolist() == list(range(25))
    assert shares["name"].tolist() == list(HARVEY25.names)
    held = shares[shares["photos"] > 0].set_index("name")
    assert held["pixel_share"].to_dict() == {"Background": 12 / 64, "Grass": 48 / 64, "Flooded": 4 / 64}
    assert held["photos"].to_dict() == {"Background": 2, "Grass": 2, "Flooded": 1}
    assert shares["pixel_share"].sum() == 1


def test_the_three_largest_leave_the_background_out() -> None:
    shares = class_shares(photos_with({0: 50, GRASS: 20, TREES: 15, FLOODED: 10, BOAT: 5}), HARVEY25)
    names, total = largest_classes(shares, 1)
    assert names == ["Grass", "Trees / Shrubs", "Flooded"]
    assert total == pytest.approx(0.45)


def test_the_reports_claim_holds_for_the_real_masks(real_data: Path) -> None:
    """'Grass', 'Trees / Shrubs' and 'Flooded' labels take up more than 50%"."""
    counts = np.zeros(25, np.int64)
    for path in (real_data / "train_masks").rglob("*.png"):
        with Image.open(path) as opened:
            counts += np.bincount(np.array(opened).ravel(), minlength=25)
    names, total = largest_classes(class_shares(pd.DataFrame([counts], columns=COUNTS), HARVEY25), 1)
    assert set(names) == {"Grass", "Trees / Shrubs", "Flooded"}
    assert total > 0.5


def test_sizes_are_counted_commonest_first() -> None:
    tall, wide, only_test = (3000, 4000), (4592, 3072), (10, 20)
    sizes = photo_sizes(sizes_of(wide, tall, tall), sizes_of(tall, only_test))
    assert sizes.to_dict("list") == {
        "width": [3000, 10, 4592], "height": [4000, 20, 3072], "train": [2, 0, 1], "test": [1, 1, 0]
    }  # fmt: skip


def test_samples_are_transformed_as_the_settings_say(tiny_part: CachedPart) -> None:
    assert tiny_part.masks is not None
    for photo in training_samples(tiny_part, sample_params(flip=1)):
        image, mask = (np.array(values[int(photo.name)]) for values in (tiny_part.images, tiny_part.masks))
        assert [len(photo.images), len(photo.masks)] == [6, 6]
        assert np.array_equal(photo.images[0], image)
        assert np.array_equal(photo.masks[0], mask)
        for turned, labels in zip(photo.images[1:], photo.masks[1:], strict=True):
            assert np.array_equal(turned, image[::-1, ::-1])
            assert np.array_equal(labels, mask[::-1, ::-1])


def test_samples_are_the_ones_that_training_sees(
    tiny_part: CachedPart, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    augmentation = AugmentationParams(crop=32, zoom=0.3, colour=0.2)
    values = YAML(typ="safe").load(ROOT / "params.yaml")["train"]
    values |= {"augmentation": augmentation.model_dump(), "seed": 7, "epochs": 1}
    seen: dict[SampleKey, Any] = {}
    original = Samples.__getitem__

    def recording(self: Samples, key: SampleKey) -> Any:
        sample = original(self, key)
        seen[key] = [value.numpy() for value in sample]
        return sample

    monkeypatch.setattr(Samples, "__getitem__", recording)
    spec = {"network": "unet", "width": 1}
    train = parse(TrainParams, values, "train")
    list(Training(spec, train, tiny_part, np.arange(11), np.arange(11, 12), Checkpoint(tmp_path, "k")).run())
    for photo in training_samples(tiny_part, parse(SampleParams, values, "train")):
        image, mask = seen[0, int(photo.name), 0]
        assert np.array_equal(photo.images[1], image)
        assert np.array_equal(photo.masks[1], mask)


def test_photos_come_from_each_third_and_are_the_richest_of_it(tiny_part: CachedPart) -> None:
    for row in (1, 6, 11):  # thirds 0..3, 4..7, 8..11
        tiny_part.photos.loc[row, [COUNTS[1], COUNTS[2]]] = 1
    assert [photo.name for photo in training_samples(tiny_part, sample_params())] == ["1", "6", "11"]


def test_a_part_without_masks_is_refused(tiny_part: CachedPart) -> None:
    with pytest.raises(HarveysegError, match="no masks"):
        training_samples(dataclasses.replace(tiny_part, masks=None), sample_params())


def test_class_figure_has_a_dot_and_a_bar_for_each_class_that_occurs(tmp_path: Path) -> None:
    class_figure(
        class_shares(photos_with({GRASS: 99, BOAT: 1}, {GRASS: 100}), HARVEY25), HARVEY25, 2, tmp_path / "few.png"
    )
    class_figure(
        class_shares(photos_with({GRASS: 99, BOAT: 1}, {GRASS: 99, BOAT: 1}), HARVEY25),
        HARVEY25,
        2,
        tmp_path / "more.png",
    )
    assert pixels_of(tmp_path / "few.png", TREES) == 0
    assert pixels_of(tmp_path / "few.png", GRASS) > 1000
    # The boat's bar is of two photos instead of one.
    boat = [pixels_of(tmp_path / f"{name}.png", BOAT) for name in ("few", "more")]
    assert boat[1] > 1.5 * boat[0]


@pytest.mark.parametrize("count", [1, 2, 30])
def test_size_figure_shows_each_size_or_the_commonest(tmp_path: Path, count: int) -> None:
    table = photo_sizes(sizes_of(*((100 + 10 * index, 200) for index in range(count))), sizes_of((100, 200)))
    size_figure(table, (64, 64), tmp_path / "sizes.png")
    image = rgb(tmp_path / "sizes.png")
    # The first colours of matplotlib's Dark2, as published by ColorBrewer.
    visible = [(np.abs(image - colour).max(2) <= 1).sum() > 300 for colour in ((27, 158, 119), (217, 95, 2))]
    assert visible == [True, count > 1]


def test_augmented_figure_shows_photo_and_mask_of_every_sample(tiny_part: CachedPart, tmp_path: Path) -> None:
    params = sample_params()
    samples = training_samples(tiny_part, params)
    augmented_figure(samples, HARVEY25, params.augmentation, tmp_path / "all.png")
    augmented_figure(samples[:1], HARVEY25, params.augmentation, tmp_path / "one.png")
    assert rgb(tmp_path / "all.png").shape[0] > 2.5 * rgb(tmp_path / "one.png").shape[0]
    # A third of the masks' six panels of 1.7 inches at 130 dots is grass at the least, and the rest is flooded.
    for class_id in (GRASS, FLOODED):
        assert pixels_of(tmp_path / "one.png", class_id) > 6 * (1.5 * 130) ** 2 / 3


def test_all_files_are_written_and_the_same_each_time(tiny_part: CachedPart, tmp_path: Path) -> None:
    for name in ("one", "other"):
        write_data_figures(tmp_path / name, tiny_part, sizes_of((32, 32)), sample_params(rotate=1))
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == ["augmented.png", "class_shares.csv", "class_shares.png", "photo_sizes.csv", "photo_sizes.png"]
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes() for name in files)
    shares = pd.read_csv(tmp_path / "one" / "class_shares.csv", float_precision="round_trip")
    pd.testing.assert_frame_equal(shares, class_shares(tiny_part.photos, HARVEY25), check_dtype=False, check_exact=True)


def test_the_stage_draws_them_beside_the_folds(tiny_part: CachedPart, tmp_path: Path) -> None:
    for part in ("train", "test"):
        folder = tmp_path / "data" / "cache" / part
        folder.mkdir(parents=True)
        np.save(folder / "images.npy", tiny_part.images)
        tiny_part.photos.to_csv(folder / "photos.csv", index=False)
        info = {"size": [32, 32], "source": "demo", "hash": "0", "score_size": [32, 32]}
        write_json(folder / "info.json", {**info, "classes": HARVEY25.model_dump()})
    assert tiny_part.masks is not None
    np.save(tmp_path / "data" / "cache" / "train" / "masks.npy", tiny_part.masks)
    (tmp_path / "data" / "raw").mkdir()
    write_overlaps(tmp_path / "data" / "raw" / OVERLAPS_FILE, [])
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text().replace("groups: ids", "groups: none"))
    subprocess.run([sys.executable, str(ROOT / "stages" / "split.py")], cwd=tmp_path, check=True, timeout=600)
    assert len(pd.read_csv(tmp_path / "data" / "splits" / "folds.csv")) == 12
    sizes = pd.read_csv(tmp_path / "data" / "figures" / "photo_sizes.csv")
    assert sizes.to_dict("list") == {"width": [32], "height": [32], "train": [12], "test": [12]}
    params = section(tmp_path / "params.yaml", "train", SampleParams)
    augmented_figure(training_samples(tiny_part, params), HARVEY25, params.augmentation, tmp_path / "expected.png")
    assert (tmp_path / "data" / "figures" / "augmented.png").read_bytes() == (tmp_path / "expected.png").read_bytes()
