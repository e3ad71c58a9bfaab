"""Class maps of photos whose classes are known, from networks whose answer is known."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from harveyseg.classes import CLASS_NAMES, PALETTE
from harveyseg.errors import HarveysegError
from harveyseg.inference import InferenceParams
from harveyseg.models import build
from harveyseg.prediction import (
    Predictor,
    area_shares,
    load_predictor,
    overlay,
    predict_photo,
    predict_photos,
)
from harveyseg.weights import TrainedNetwork, save_weights

PARAMS = InferenceParams(threads=1, device="cpu", precision="fp32")
FLOODED, GRASS = 23, 5
SPEC = {"network": "unet", "width": 1, "dropout": 0.0, "batch_norm": "none"}


def sure(class_id: int, red: float = 0.0, confidence: float = 50.0) -> TrainedNetwork:
    """A network that answers ``class_id`` where the photo is redder than ``red`` (0..1), and background elsewhere."""
    layer = nn.Conv2d(3, 25, 1)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    assert layer.bias is not None
    with torch.no_grad():
        layer.weight[class_id, 0], layer.bias[class_id] = confidence, -confidence * red
        layer.bias[1:] -= 1e-3  # background wins where nothing speaks for another class
    return TrainedNetwork(layer, {}, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (64, 64))


def one(network: TrainedNetwork) -> Predictor:
    return Predictor((network,), (1.0,))


def half_red(path: Path, height: int = 96, width: int = 160, **options: Any) -> npt.NDArray[np.uint8]:
    """A photo, black on the left and red on the right; returned as RGB."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, width // 2 :, 0] = 250
    Image.fromarray(pixels).save(path, quality=100, **options) if path.suffix == ".jpg" else Image.fromarray(
        pixels
    ).save(path)
    return pixels


@pytest.mark.parametrize(("height", "width"), [(96, 160), (160, 96), (64, 64), (37, 50), (1, 2)])
def test_a_class_map_has_the_photos_own_size(tmp_path: Path, height: int, width: int) -> None:
    half_red(tmp_path / "photo.png", height, width)
    labels = predict_photo(tmp_path / "photo.png", one(sure(FLOODED, 0.5)), PARAMS)
    assert labels.dtype == np.uint8
    expected = np.zeros((height, width), np.uint8)
    expected[:, width // 2 :] = FLOODED
    border = np.abs(np.arange(width) - width / 2 + 0.5) <= max(1, width / 64)  # where a network's pixel is half red
    assert (labels == expected)[:, ~border].all()
    if width in (64, 160, 96, 2):
        assert (labels == expected).mean() > 0.95


def test_the_map_fits_the_pixels_as_they_are_stored(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate by 90 degrees", as cameras write it; masks know nothing of it
    half_red(tmp_path / "photo.jpg", 96, 160, exif=exif)
    labels = predict_photo(tmp_path / "photo.jpg", one(sure(FLOODED, 0.5)), PARAMS)
    assert labels.shape == (96, 160)
    assert (labels[:, 90:] == FLOODED).all()
    assert (labels[:, :70] == 0).all()
    assert overlay(tmp_path / "photo.jpg", labels).shape == (96, 160, 3)


def test_the_mean_of_probabilities_decides(tmp_path: Path) -> None:
    half_red(tmp_path / "photo.png")
    flooded, grass = sure(FLOODED, -1.0), sure(GRASS, -1.0)  # each sure of its class, everywhere
    for shares, winner in [((0.6, 0.4), FLOODED), ((0.4, 0.6), GRASS)]:
        assert (predict_photo(tmp_path / "photo.png", Predictor((flooded, grass), shares), PARAMS) == winner).all()
    # Two that hesitate (p = 0.36) lose against one that is sure, though they are more.
    hesitant = sure(FLOODED, -1.0, confidence=2.6)
    black = np.zeros((8, 8, 3), np.uint8)
    Image.fromarray(black).save(tmp_path / "black.png")
    predictor = Predictor((hesitant, hesitant, grass), (1 / 3, 1 / 3, 1 / 3))
    assert (predict_photo(tmp_path / "black.png", predictor, PARAMS) == GRASS).all()


def test_area_shares() -> None:
    labels = np.array([[0, 0, 0, 5], [23, 23, 5, 5]], np.uint8)
    shares = area_shares(labels)
    assert list(shares) == list(CLASS_NAMES)
    assert {name: share for name, share in shares.items() if share} == {
        "Background": 37.5,
        "Grass": 37.5,
        "Flooded": 25.0,
    }
    random = np.random.default_rng(0).integers(0, 25, (37, 41)).astype(np.uint8)
    assert sum(area_shares(random).values()) == pytest.approx(100)


def test_the_overlay_leaves_the_background_clear(tmp_path: Path) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (8, 12, 3)).astype(np.uint8)
    Image.fromarray(photo).save(tmp_path / "photo.png")
    labels = np.zeros((8, 12), np.uint8)
    labels[2:5, 3:9] = FLOODED
    blended = overlay(tmp_path / "photo.png", labels)[..., ::-1].astype(int)  # RGB
    assert (blended[labels == 0] == photo[labels == 0]).all()
    expected = (photo[labels == FLOODED].astype(int) + PALETTE[FLOODED].astype(int)) / 2
    assert np.abs(blended[labels == FLOODED] - expected).max() <= 0.5


def test_what_is_written(tmp_path: Path) -> None:
    half_red(tmp_path / "left.png", 64, 64)
    half_red(tmp_path / "right.jpg", 64, 128)
    out = tmp_path / "new" / "maps"
    areas = predict_photos([tmp_path / "left.png", tmp_path / "right.jpg"], one(sure(FLOODED, 0.5)), PARAMS, out)
    names = {"left.png", "left_overlay.jpg", "right.png", "right_overlay.jpg", "areas.csv"}
    assert {file.name for file in out.iterdir()} == names
    with Image.open(out / "left.png") as opened:
        labels = np.array(opened)
        assert opened.mode == "L"
    assert set(np.unique(labels)) == {0, FLOODED}
    with Image.open(out / "right_overlay.jpg") as opened:
        assert opened.size == (128, 64)
    table = pd.read_csv(out / "areas.csv")
    assert list(table.columns) == ["photo", *CLASS_NAMES]
    assert list(table["photo"]) == ["left.png", "right.jpg"]
    np.testing.assert_allclose(table.drop(columns="photo").sum(axis=1), 100, atol=0.01)
    np.testing.assert_allclose(table["Flooded"], 100 * np.mean(labels == FLOODED), atol=2)
    np.testing.assert_allclose(table["Flooded"], areas["Flooded"], atol=0.001)


def test_absent_photos_and_equal_names_come_before_anything_is_written(tmp_path: Path) -> None:
    half_red(tmp_path / "a.png")
    (tmp_path / "other").mkdir()
    half_red(tmp_path / "other" / "a.jpg")
    photos = [tmp_path / "a.png", tmp_path / "absent.jpg", tmp_path / "other" / "a.jpg", tmp_path]
    with pytest.raises(HarveysegError) as caught:
        predict_photos(photos, one(sure(FLOODED)), PARAMS, tmp_path / "out")
    assert caught.value.problems == (
        f"{tmp_path / 'absent.jpg'}: no such file", f"{tmp_path}: no such file", "a: two photos have this name",
    )  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_a_photo_is_never_overwritten(tmp_path: Path) -> None:
    half_red(tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    with pytest.raises(HarveysegError, match=r"a\.png: would be overwritten"):
        predict_photos([tmp_path / "a.png"], one(sure(FLOODED)), PARAMS, tmp_path / "." / "")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("a.png", before)]
    half_red(tmp_path / "b.jpg")
    predict_photos([tmp_path / "b.jpg"], one(sure(FLOODED)), PARAMS, tmp_path)  # b.png is another file


def test_a_file_that_is_no_photo(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_text("no photo")
    with pytest.raises(HarveysegError, match=r"photo\.jpg: not an image that can be read\. JPEG, PNG and TIFF can"):
        predict_photos([tmp_path / "photo.jpg"], one(sure(FLOODED)), PARAMS, tmp_path / "out")


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """Three trained models with two folds each, told apart by their means, and an ensemble of two."""
    (tmp_path / "params.yaml").write_text("folds: [0, 2]\n")
    for number, model in enumerate(("unet", "unet_b", "unet-c")):
        for fold in (0, 2):
            path = tmp_path / "data" / "models" / f"{model}-{fold}" / "weights.safetensors"
            mean = (float(number), float(fold), 0.0)
            save_weights(path, build(SPEC, None).state_dict(), SPEC, mean, (1.0, 1.0, 1.0), (64, 64))
    (tmp_path / "data" / "ensemble").mkdir()
    (tmp_path / "data" / "ensemble" / "weights.json").write_text(
        json.dumps({"weights": {"unet": 0.75, "unet_b": 0.25, "unet-c": 0}})
    )
    return tmp_path


def loaded(workspace: Path, model: str | None) -> tuple[list[tuple[float, ...]], tuple[float, ...]]:
    predictor = load_predictor(workspace / "params.yaml", workspace / "data", model)
    return [network.mean[:2] for network in predictor.networks], predictor.shares


def test_the_ensemble_shares_a_models_weight_among_its_folds(workspace: Path) -> None:
    means, shares = loaded(workspace, None)
    assert means == [(0, 0), (0, 2), (1, 0), (1, 2)]  # what has no weight is not even loaded
    assert shares == (0.375, 0.375, 0.125, 0.125)


@pytest.mark.parametrize(("model", "number"), [("unet", 0), ("unet_b", 1), ("unet-c", 2)])
def test_one_model_is_the_mean_of_its_folds(workspace: Path, model: str, number: int) -> None:
    assert loaded(workspace, model) == ([(number, 0), (number, 2)], (0.5, 0.5))


def test_an_unknown_model_lists_the_trained_ones(workspace: Path) -> None:
    with pytest.raises(HarveysegError, match=r"--model net: not trained here\. Trained are: unet, unet-c, unet_b"):
        loaded(workspace, "net")
    with pytest.raises(HarveysegError, match="Trained are: none"):
        load_predictor(workspace / "params.yaml", workspace / "nothing", "unet")


def test_without_an_ensemble_the_remedy_is_named(workspace: Path) -> None:
    (workspace / "data" / "ensemble" / "weights.json").unlink()
    with pytest.raises(HarveysegError, match=r"weights\.json: no such file.*dvc repro.*--model"):
        loaded(workspace, None)


def test_a_missing_fold_is_named(workspace: Path) -> None:
    (workspace / "data" / "models" / "unet-2" / "weights.safetensors").unlink()
    with pytest.raises(HarveysegError, match=r"unet-2/weights\.safetensors: no such file"):
        loaded(workspace, "unet")


def test_params_without_folds(workspace: Path) -> None:
    (workspace / "params.yaml").write_text("models: {}\n")
    with pytest.raises(HarveysegError, match=r"params\.yaml: needs a list `folds`"):
        loaded(workspace, "unet")
