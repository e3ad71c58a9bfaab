"""Class maps of photos whose classes are known, from networks whose answer is known."""

import json
import subprocess
import sys
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
from harveyseg.files import write_json
from harveyseg.inference.network_file import TrainedNetwork, save_network
from harveyseg.inference.params import InferenceParams
from harveyseg.inference.probabilities import argmax_map, upsample
from harveyseg.models import build
from harveyseg.postprocess.files import FittedRule
from harveyseg.postprocess.rules import ExpectedDiceRule
from harveyseg.prediction.photos import (
    area_percentages,
    argmax_map_in_stripes,
    class_map_in_tiles,
    draw_overlay,
    parse_photo_size,
    predict_photo,
    predict_photos,
    read_bgr,
)
from harveyseg.prediction.trained_ensemble import TrainedEnsemble, load_trained_ensemble
from harveyseg.record import write_run
from helpers.paths import ROOT
from helpers.records import make_record

PARAMS = InferenceParams(threads=1, device="cpu", precision="fp32")
FLOODED, GRASS = 23, 5
SPEC = {"network": "unet", "width": 1, "dropout": 0.0, "batch_norm": "none"}


def sure(
    class_id: int, red: float = 0.0, confidence: float = 50.0, size: tuple[int, int] = (64, 64), stride: int = 1
) -> TrainedNetwork:
    """A network that answers ``class_id`` where the photo is redder than ``red`` (0..1), and background elsewhere."""
    layer = nn.Conv2d(3, 25, 1)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    assert layer.bias is not None
    with torch.no_grad():
        layer.weight[class_id, 0], layer.bias[class_id] = confidence, -confidence * red
        layer.bias[1:] -= 1e-3  # background wins where nothing speaks for another class
    network = nn.Sequential(nn.AvgPool2d(stride), layer)
    return TrainedNetwork(network, {}, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), size)


def single(network: TrainedNetwork) -> TrainedEnsemble:
    return TrainedEnsemble((network,), (1.0,))


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
    labels = predict_photo(read_bgr(tmp_path / "photo.png"), single(sure(FLOODED, 0.5)), PARAMS)
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
    labels = predict_photo(read_bgr(tmp_path / "photo.jpg"), single(sure(FLOODED, 0.5)), PARAMS)
    assert labels.shape == (96, 160)
    assert (labels[:, 90:] == FLOODED).all()
    assert (labels[:, :70] == 0).all()


def test_the_mean_of_probabilities_decides(tmp_path: Path) -> None:
    half_red(tmp_path / "photo.png")
    flooded, grass = sure(FLOODED, -1.0), sure(GRASS, -1.0)  # each sure of its class, everywhere
    for shares, winner in [((0.6, 0.4), FLOODED), ((0.4, 0.6), GRASS)]:
        assert (
            predict_photo(read_bgr(tmp_path / "photo.png"), TrainedEnsemble((flooded, grass), shares), PARAMS) == winner
        ).all()
    # Two that hesitate (p = 0.36) lose against one that is sure, though they are more.
    hesitant = sure(FLOODED, -1.0, confidence=2.6)
    ensemble = TrainedEnsemble((hesitant, hesitant, grass), (1 / 3, 1 / 3, 1 / 3))
    assert (predict_photo(np.zeros((8, 8, 3), np.uint8), ensemble, PARAMS) == GRASS).all()


def test_networks_of_different_sizes_and_strides_are_averaged(tmp_path: Path) -> None:
    half_red(tmp_path / "photo.png", 128, 160)
    photo = read_bgr(tmp_path / "photo.png")
    for stride in (1, 2, 4):
        members = (sure(FLOODED, 0.5), sure(FLOODED, 0.5, size=(96, 128), stride=stride), sure(GRASS, 2.0))
        labels = predict_photo(photo, TrainedEnsemble(members, (0.5, 0.3, 0.2)), PARAMS)
        assert (labels[:, :70] == 0).all()
        assert (labels[:, 90:] == FLOODED).all()
    # 0.4 + 0.2 for grass against 0.4, though in another order of sizes.
    flooded, grass, small = sure(FLOODED, -1.0), sure(GRASS, -1.0, size=(96, 128)), sure(GRASS, -1.0)
    assert (predict_photo(photo, TrainedEnsemble((flooded, grass, small), (0.4, 0.4, 0.2)), PARAMS) == GRASS).all()


@pytest.mark.parametrize("size", [(1024, 1024), (700, 300), (257, 1), (20, 33), (1, 1)])
def test_a_map_in_stripes_is_that_of_the_enlarged_probabilities(size: tuple[int, int]) -> None:
    probabilities = np.random.default_rng(0).integers(0, 256, (25, 33, 20)).astype(np.uint8)
    labels = argmax_map_in_stripes(probabilities, size)
    enlarged = upsample(probabilities, size)
    differ = labels != argmax_map(probabilities, size)
    chosen = np.take_along_axis(enlarged, labels[None].astype(np.intp), 0)[0]
    assert differ.mean() < 1e-3  # only where two classes are equal but for rounding
    assert (enlarged.max(0) - chosen).max() < 1e-3
    assert (argmax_map_in_stripes(np.full((25, 4, 4), 10, np.uint8), size) == 0).all()  # of equal ones, the first


def two_photos() -> npt.NDArray[np.uint8]:
    """A mosaic of 64 x 64 squares, BGR: red where row plus column is odd."""
    odd = np.indices((3, 5)).sum(0) % 2
    mosaic = np.zeros((192, 320, 3), np.uint8)
    mosaic[..., 2] = 250 * np.kron(odd, np.ones((64, 64))).astype(np.uint8)
    return mosaic


@pytest.mark.parametrize("photo_size", [(64, 64), (32, 32), (100, 80), (192, 320), (400, 400), (150, 16)])
def test_a_mosaic_is_seen_at_the_scale_of_the_training(photo_size: tuple[int, int]) -> None:
    mosaic, sizes = two_photos(), []
    trained = sure(FLOODED, 0.5)
    trained.network.register_forward_pre_hook(lambda _, given: sizes.append(tuple(given[0].shape[2:])))
    labels = predict_photo(mosaic, single(trained), PARAMS, photo_size)
    assert set(sizes) == {(64, 64)}  # windows of the training's size, whatever the photo's
    assert labels.shape == mosaic.shape[:2]
    inner = np.zeros_like(labels, bool)  # away from the squares' borders, which resizing blurs
    for top in range(0, 192, 64):
        for left in range(0, 320, 64):
            inner[top + 12 : top + 52, left + 12 : left + 52] = True
    assert (labels[inner] == np.where(mosaic[..., 2] > 0, FLOODED, 0)[inner]).all()


class Middle(nn.Module):
    """Answers ``FLOODED`` in the middle of what it is shown, and background elsewhere."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        logits = inputs.new_zeros(len(inputs), 25, *inputs.shape[2:])
        logits[:, FLOODED] = -9
        logits[:, FLOODED, 16:48, 16:48] = 9
        return logits


def test_without_a_photo_size_the_photo_is_like_a_training_photo() -> None:
    trained = TrainedNetwork(Middle(), {}, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (64, 64))
    mosaic = two_photos()
    expected = np.zeros((192, 320), np.uint8)
    expected[48:144, 80:240] = FLOODED
    for photo_size in (None, (192, 320)):
        assert (predict_photo(mosaic, single(trained), PARAMS, photo_size) == expected).mean() > 0.98
    # Five photographs side by side: the middle of each is flooded (their windows overlap, so there are more middles).
    labels = predict_photo(mosaic, single(trained), PARAMS, (192, 64))
    assert (labels[90:100].reshape(10, 5, 64)[:, :, 28:36] == FLOODED).all()
    assert (labels[:40] == 0).all()


def fitted_rule(uids: dict[str, str], flooded: float = -100.0) -> FittedRule:
    """Every class is claimed, but flooded only if ``flooded``, its intercept, is high."""
    presence = [100.0] * 24
    presence[FLOODED - 1] = flooded
    rule = ExpectedDiceRule(
        calibration_slope=1.0,
        calibration_intercept=(0.0,) * 24,
        presence_slope=1.0,
        presence_intercept=tuple(presence),
    )
    return FittedRule(
        source="unet", uids=uids, photos=9, groups=3, argmax_score=0.6, nested_score=0.7, in_sample_score=0.7,
        cross_validated_scores={"expected": 0.7}, nested_rules=["expected"], rule=rule,
    )  # fmt: skip


def test_post_processing_is_for_one_photo(tmp_path: Path) -> None:
    half_red(tmp_path / "photo.png", 64, 128)
    photo = read_bgr(tmp_path / "photo.png")
    trained = sure(FLOODED, 0.5)
    refused, claimed = (TrainedEnsemble((trained,), (1.0,), fitted_rule({}, flooded)) for flooded in (-100.0, 100.0))
    assert (predict_photo(photo, single(trained), PARAMS) == FLOODED).mean() == pytest.approx(0.5, abs=0.02)
    assert (predict_photo(photo, claimed, PARAMS) == FLOODED).mean() == pytest.approx(0.5, abs=0.02)
    assert (predict_photo(photo, refused, PARAMS) != FLOODED).all()


@pytest.mark.parametrize(("size", "photo_size"), [((40, 60), (20, 20)), ((200, 330), (90, 110)), ((7, 9), (50, 9))])
def test_a_mosaic_is_post_processed_in_tiles(size: tuple[int, int], photo_size: tuple[int, int]) -> None:
    """Flooded is claimed in the tile that is sure of it, and not in the others, which are not."""
    rows, columns = (max(1, round(own / ground)) for own, ground in zip(size, photo_size, strict=True))
    probabilities = np.zeros((25, 12 * rows, 8 * columns), np.uint8)
    probabilities[0], probabilities[FLOODED] = 95, 160
    probabilities[:, -12:, -8:] = 0
    probabilities[FLOODED, -12:, -8:] = 255
    rule = fitted_rule({}, -3.0)  # so that only the sure tile is worth claiming
    labels = class_map_in_tiles(rule, probabilities, size, photo_size)
    sure_tile = np.zeros(size, bool)
    sure_tile[size[0] - size[0] // rows :, size[1] - size[1] // columns :] = True
    assert np.array_equal(labels == FLOODED, sure_tile)
    if rows * columns > 1:  # as one photograph the whole mosaic is flooded, or nothing
        assert not np.array_equal(rule.class_map(probabilities, size), labels)


def test_a_mosaic_of_photos_is_post_processed_as_they_are() -> None:
    probabilities = np.random.default_rng(0).integers(0, 256, (25, 24, 40)).astype(np.uint8)
    rule, photographs = fitted_rule({}, 100.0), np.empty((96, 160), np.uint8)
    for row, column in np.ndindex(2, 5):
        part = probabilities[:, 12 * row : 12 * row + 12, 8 * column : 8 * column + 8]
        photographs[48 * row : 48 * row + 48, 32 * column : 32 * column + 32] = rule.class_map(part, (48, 32))
    assert np.array_equal(class_map_in_tiles(rule, probabilities, (96, 160), (48, 32)), photographs)


def test_post_processing_goes_with_a_photo_size() -> None:
    trained = sure(FLOODED, 0.5)
    for flooded in (-100.0, 100.0):
        ensemble = TrainedEnsemble((trained,), (1.0,), fitted_rule({}, flooded))
        found = (predict_photo(two_photos(), ensemble, PARAMS, (64, 64)) == FLOODED).mean()
        assert found == (pytest.approx(7 / 15, abs=0.05) if flooded > 0 else 0)


def test_a_photo_size_that_makes_no_sense() -> None:
    with pytest.raises(HarveysegError, match=r"--photo-size 15x64: .* more than fourfold, to 64x64"):
        predict_photo(two_photos(), single(sure(FLOODED)), PARAMS, (15, 64))
    assert parse_photo_size("3000x4000") == (3000, 4000)
    for text in ("3000", "3000x", "0x4000", "3000x4000x3", "-3x4", "3e3x4e3", "3000 x 4000", "", "3000X4000"):
        with pytest.raises(HarveysegError, match=f"--photo-size {text}: must be HEIGHTxWIDTH in pixels"):
            parse_photo_size(text)


CHILD = """
import resource, sys
import numpy as np, torch
from torch import nn
from harveyseg.postprocess.files import FittedRule
from harveyseg.postprocess.rules import ExpectedDiceRule
from harveyseg.inference.params import InferenceParams
from harveyseg.prediction.photos import area_percentages, draw_overlay, predict_photo
from harveyseg.prediction.trained_ensemble import TrainedEnsemble
from harveyseg.inference.network_file import TrainedNetwork
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
trained = TrainedNetwork(nn.Conv2d(3, 25, 1), {}, (0.5,) * 3, (0.2,) * 3, (64, 64))
params = InferenceParams(threads=1, device="cpu", batch_size=4)
photo_size = (512, 512)
rule = None
if sys.argv[1] == "photograph":
    everything = ExpectedDiceRule(
        calibration_slope=1, calibration_intercept=[0] * 24, presence_slope=1, presence_intercept=[100] * 24
    )
    photo_size = None
    rule = FittedRule(
        source="unet", uids={}, photos=9, groups=3, argmax_score=0, nested_score=0, in_sample_score=0,
        cross_validated_scores={}, nested_rules=[], rule=everything,
    )
def predict(height):
    photo = np.full((height, 4096, 3), 90, np.uint8)
    labels = predict_photo(photo, TrainedEnsemble((trained,), (1.0,), rule), params, photo_size)
    draw_overlay(photo, labels)
    assert sum(area_percentages(labels).values()) > 99.9
predict(256)
before = peak()
predict(12288)
print(peak() - before)
"""


@pytest.mark.parametrize("kind", ["mosaic", "photograph"])
def test_memory_is_little_more_than_the_photo_and_its_labels(kind: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHILD, kind], cwd=ROOT / "src", capture_output=True, text=True, check=True
    )
    # 144 MiB for the photo, 48 for its labels, 19 for its probabilities; the same enlarged would take 4800.
    assert int(done.stdout) < 144 + 48 + 19 + 60


def test_area_percentages() -> None:
    labels = np.array([[0, 0, 0, 5], [23, 23, 5, 5]], np.uint8)
    shares = area_percentages(labels)
    assert list(shares) == list(CLASS_NAMES)
    assert {name: share for name, share in shares.items() if share} == {
        "Background": 37.5,
        "Grass": 37.5,
        "Flooded": 25.0,
    }
    random = np.random.default_rng(0).integers(0, 25, (700, 41)).astype(np.uint8)
    counts = [100 * float(np.mean(random == class_id)) for class_id in range(25)]
    assert list(area_percentages(random).values()) == pytest.approx(counts)


@pytest.mark.parametrize("height", [8, 700])
def test_the_overlay_leaves_the_background_clear(height: int) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (height, 12, 3)).astype(np.uint8)
    labels = np.zeros((height, 12), np.uint8)
    labels[2:-3, 3:9] = FLOODED
    blended = photo.copy()
    draw_overlay(blended, labels)
    assert (blended[labels == 0] == photo[labels == 0]).all()
    expected = (photo[labels == FLOODED].astype(int) + PALETTE[FLOODED, ::-1].astype(int)) / 2  # BGR
    assert np.abs(blended[labels == FLOODED] - expected).max() <= 0.5


def test_what_is_written(tmp_path: Path) -> None:
    half_red(tmp_path / "left.png", 64, 64)
    half_red(tmp_path / "right.jpg", 64, 128)
    out = tmp_path / "new" / "maps"
    areas = predict_photos([tmp_path / "left.png", tmp_path / "right.jpg"], single(sure(FLOODED, 0.5)), PARAMS, out)
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
        predict_photos(photos, single(sure(FLOODED)), PARAMS, tmp_path / "out")
    assert caught.value.problems == (
        f"{tmp_path / 'absent.jpg'}: no such file", f"{tmp_path}: no such file", "a: two photos have this name",
    )  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_a_photo_is_never_overwritten(tmp_path: Path) -> None:
    half_red(tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    with pytest.raises(HarveysegError, match=r"a\.png: would be overwritten"):
        predict_photos([tmp_path / "a.png"], single(sure(FLOODED)), PARAMS, tmp_path / "." / "")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("a.png", before)]
    half_red(tmp_path / "b.jpg")
    predict_photos([tmp_path / "b.jpg"], single(sure(FLOODED)), PARAMS, tmp_path)  # b.png is another file


def test_a_file_that_is_no_photo(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_text("no photo")
    with pytest.raises(HarveysegError, match=r"photo\.jpg: not an image that can be read\. JPEG, PNG and TIFF can"):
        predict_photos([tmp_path / "photo.jpg"], single(sure(FLOODED)), PARAMS, tmp_path / "out")


def test_more_pixels_than_a_format_holds(tmp_path: Path) -> None:
    half_red(tmp_path / "long.png", 1, 65536)
    with pytest.raises(HarveysegError, match=r"long_overlay\.jpg: 1x65536 pixels are more than this format holds"):
        predict_photos([tmp_path / "long.png"], single(sure(FLOODED)), PARAMS, tmp_path / "out")


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """Three trained models with two folds each, told apart by their means, and an ensemble of two."""
    (tmp_path / "params.yaml").write_text("models: {unet: {network: unet}}\nfolds: [0, 2]\n")
    for number, model in enumerate(("unet", "unet_b", "unet-c")):
        for fold in (0, 2):
            path = tmp_path / "data" / "models" / f"{model}-{fold}" / "weights.safetensors"
            mean = (float(number), float(fold), 0.0)
            save_network(path, build(SPEC, None).state_dict(), SPEC, mean, (1.0, 1.0, 1.0), (64, 64))
    (tmp_path / "data" / "ensemble").mkdir()
    (tmp_path / "data" / "ensemble" / "weights.json").write_text(
        json.dumps({"weights": {"unet": 0.75, "unet_b": 0.25, "unet-c": 0}})
    )
    return tmp_path


def loaded(workspace: Path, model: str | None) -> tuple[list[tuple[float, ...]], tuple[float, ...]]:
    ensemble = load_trained_ensemble(workspace / "params.yaml", workspace / "data", model)
    return [network.mean[:2] for network in ensemble.networks], ensemble.weights


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
        load_trained_ensemble(workspace / "params.yaml", workspace / "nothing", "unet")


def test_without_an_ensemble_the_remedy_is_named(workspace: Path) -> None:
    (workspace / "data" / "ensemble" / "weights.json").unlink()
    with pytest.raises(HarveysegError, match=r"weights\.json: no such file.*dvc repro.*--model"):
        loaded(workspace, None)


def test_a_missing_fold_is_named(workspace: Path) -> None:
    (workspace / "data" / "models" / "unet-2" / "weights.safetensors").unlink()
    with pytest.raises(HarveysegError, match=r"unet-2/weights\.safetensors: no such file"):
        loaded(workspace, "unet")


def test_runs_that_were_added_to_the_ensemble(workspace: Path) -> None:
    data = workspace / "data"
    (data / "ensemble" / "weights.json").write_text(json.dumps({"weights": {"unet": 0.5, "unet@0123abcd": 0.5}}))
    for fold in (0, 2):
        path = data / "ensemble" / "added" / f"unet@0123abcd-{fold}" / "weights.safetensors"
        save_network(path, build(SPEC, None).state_dict(), SPEC, (7.0, fold, 0.0), (1.0, 1.0, 1.0), (96, 64))
    means, shares = loaded(workspace, None)
    assert means == [(0, 0), (0, 2), (7, 0), (7, 2)]
    assert shares == (0.25,) * 4


@pytest.mark.parametrize("model", ["unet", None])
def test_the_rule_of_the_same_runs_is_used(workspace: Path, model: str | None) -> None:
    data, source = workspace / "data", model or "ensemble"
    folders = [data / "ensemble"] if model is None else [data / "models" / f"unet-{fold}" for fold in (0, 2)]
    kind = "ensemble" if model is None else "train"
    records = [make_record(source, fold, kind=kind) for fold in ([None] if model is None else [0, 2])]
    for folder, record in zip(folders, records, strict=True):
        write_run(folder / "run.json", record)
    path = data / "postprocess" / "rules" / f"{source}.json"
    assert load_trained_ensemble(workspace / "params.yaml", data, model).rule is None  # no rule was fitted yet
    written = fitted_rule({record.name: record.uid for record in records})
    write_json(path, written.model_dump())
    assert load_trained_ensemble(workspace / "params.yaml", data, model).rule == written
    assert load_trained_ensemble(workspace / "params.yaml", data, model, argmax=True).rule is None
    write_json(path, fitted_rule({"unet-f0": "another"}).model_dump())
    with pytest.raises(HarveysegError, match=r"\.json: was fitted on other runs \(unet-f0\)\. .*dvc repro"):
        load_trained_ensemble(workspace / "params.yaml", data, model)


def test_params_without_folds(workspace: Path) -> None:
    (workspace / "params.yaml").write_text("models: {}\n")
    with pytest.raises(HarveysegError, match=r"params\.yaml: `models` and `folds` must each name at least one"):
        loaded(workspace, "unet")
