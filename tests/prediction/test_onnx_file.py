"""ONNX files, read by the programs that they are for."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from harveyseg.classes import HARVEY25
from harveyseg.errors import HarveysegError
from harveyseg.inference.network_file import TrainedNetwork, save_network
from harveyseg.models.network import build
from harveyseg.prediction import onnx_file
from harveyseg.prediction.find_model import find_model
from harveyseg.prediction.onnx_file import OnnxFile, tile_layout, write_onnx
from harveyseg.prediction.scale import Training
from harveyseg.prediction.trained_ensemble import TrainedEnsemble
from helpers import deepness
from helpers.commands import run_command
from helpers.predicting import FLOODED, sure
from helpers.rasters import RGBA, grid, red_half, write_tiff

MISSING = [name for name in ("onnx", "onnxruntime", "onnxscript") if importlib.util.find_spec(name) is None]
needs_extra = pytest.mark.skipif(bool(MISSING), reason=f"the extra `onnx` is not installed: {', '.join(MISSING)}")
GROUND = (48.0, 64.0)
READERS = Path(sys.prefix) / "readers"
needs_readers = pytest.mark.skipif(
    not (READERS / ".made").exists(), reason="`make readers` did not install GeoDeep and the onnxruntime of Deepness"
)
GEODEEP = """
import sys
import geodeep, numpy
mosaic, model, out = sys.argv[1:]
numpy.save(out, geodeep.segment(mosaic, model))
print(geodeep.segment(mosaic, model, output_type="geojson"))
"""
UNET = {"network": "unet", "width": 2, "dropout": 0.1, "batch_norm": "both", "stem_stride": 2}


class Exported(NamedTuple):
    ensemble: TrainedEnsemble
    file: OnnxFile
    tiles: npt.NDArray[np.uint8]
    """(B, S, S, 3)"""


def random_network(spec: dict[str, Any], size: tuple[int, int], seed: int) -> TrainedNetwork:
    torch.manual_seed(seed)
    network = build(spec, 25, None)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):  # as after a training
            nn.init.uniform_(module.running_mean, -0.1, 0.1)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    return TrainedNetwork(network.eval(), spec, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3), size, HARVEY25)


def noise(side: int, count: int = 3) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Networks of all kinds but the largest, trained on photos of three sizes; one returns maps of half the size."""
    networks = (
        random_network(UNET, (128, 128), 0),
        random_network({"network": "attention_unet", "width": 2, "dropout": 0.0, "batch_norm": "none"}, (96, 128), 1),
        random_network({"network": "unetplusplus", "width": 2, "dropout": 0.0, "batch_norm": "none"}, (64, 64), 2),
        random_network({"network": "segnet", "width": 1}, (128, 128), 3),
        random_network({"network": "smp", "architecture": "Unet", "encoder": "mobilenet_v2"}, (128, 128), 4),
    )
    ensemble = TrainedEnsemble(
        networks, (0.3, 0.2, 0.1, 0.1, 0.3), name="ensemble", identity="0123", training=Training(GROUND)
    )
    file = write_onnx(ensemble, tmp_path_factory.mktemp("onnx") / "flood.onnx")
    return Exported(ensemble, file, noise(file.layout.side))


def test_a_network_whose_computation_depends_on_the_photo_is_refused(tmp_path: Path) -> None:
    network = random_network({"network": "mask_rcnn", "objects": ["Vehicle"], "channels": 8}, (64, 64), 0)
    ensemble = TrainedEnsemble((network,), (1.0,), name="detector", identity="0123", training=Training(GROUND))
    with pytest.raises(
        HarveysegError, match=r"^detector: has a network of the kind mask_rcnn, which finds objects one"
    ):
        write_onnx(ensemble, tmp_path / "flood.onnx")


def expected_probabilities(
    ensemble: TrainedEnsemble, sizes: Sequence[tuple[int, int]], tiles: npt.NDArray[np.uint8]
) -> npt.NDArray[np.float64]:
    """What the networks say of tiles, by OpenCV and torch, one network and tile after another: (B, C, S, S)."""
    side = tiles.shape[1]
    total = np.zeros((len(tiles), 25, side, side))
    for network, weight, (height, width) in zip(ensemble.networks, ensemble.weights, sizes, strict=True):
        for tile, summed in zip(tiles, total, strict=True):
            photo = cv2.resize(tile.astype(np.float32) / 255, (width, height), interpolation=cv2.INTER_AREA)
            photo = (photo - np.array(network.mean, np.float32)) / np.array(network.std, np.float32)
            with torch.inference_mode():
                maps = network.network(torch.from_numpy(photo.transpose(2, 0, 1)[None])).softmax(1)[0].numpy()
            for channel, enlarged in zip(maps, summed, strict=True):
                enlarged += weight * cv2.resize(channel, (side, side), interpolation=cv2.INTER_LINEAR)
    return total


@needs_extra
@pytest.mark.slow
def test_onnxruntime_finds_what_the_networks_say(exported: Exported) -> None:
    found = deepness.Segmentor(exported.file.path).probabilities(exported.tiles)
    expected = expected_probabilities(exported.ensemble, exported.file.layout.sizes, exported.tiles)
    assert expected.max() > 0.06  # not all alike
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)
    assert exported.file.difference < 1e-5


def read(*arguments: object) -> str:
    """What the Python with the readers prints."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(READERS / "bin" / "python"), *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout


@needs_extra
@needs_readers
def test_the_onnxruntime_of_deepness_finds_the_same(exported: Exported, tmp_path: Path) -> None:
    np.save(tmp_path / "tiles.npy", exported.tiles)
    printed = read(deepness.__file__, exported.file.path, tmp_path / "tiles.npy", tmp_path / "o.npz")
    assert printed == "1.17.0\n"
    found = np.load(tmp_path / "o.npz")
    expected = expected_probabilities(exported.ensemble, exported.file.layout.sizes, exported.tiles)
    np.testing.assert_allclose(found["probabilities"], expected, atol=1e-5, rtol=0)
    best = np.sort(expected, axis=1)
    clear = best[:, -1] - best[:, -2] > 1e-4
    assert clear.mean() > 0.9
    assert (found["classes"] == expected.argmax(1))[clear].all()


@needs_extra
def test_what_the_file_says_to_deepness(exported: Exported) -> None:
    model = deepness.Segmentor(exported.file.path)
    assert model.model_type == "Segmentor"
    assert model.class_names == list(HARVEY25.names)
    assert (model.channels, model.classes) == (3, 25)
    side = exported.file.layout.side
    assert (model.side, model.tile_size, model.metadata["tiles_size"]) == (side, side, side)
    assert model.input_shape == ["batch", 3, side, side]
    assert model.output_shape == ["batch", 25, side, side]
    # 64 m are 128 pixels, or 48 m; the finest network has 48 m in 128 pixels.
    assert model.resolution == 37.5
    assert (model.overlap, model.threshold, model.small_segment) == (25, 0, 0)
    assert "standardization_mean" not in model.metadata  # it is in the graph
    assert (model.metadata["model"], model.metadata["networks"]) == ("ensemble", "0123")


@pytest.mark.parametrize(
    ("sizes", "ground", "side", "pixel", "inputs"),
    [
        ([(384, 512)], (60.0, 80.0), 384, 0.15625, [(384, 384)]),  # square pixels already
        ([(128, 128)], (48.0, 64.0), 128, 0.375, [(128, 96)]),
        ([(96, 96)], (60.0, 80.0), 128, 0.625, [(128, 96)]),  # 96 x 72 would have to be rounded to 96 x 64
        ([(64, 64), (128, 128)], (64.0, 64.0), 128, 0.5, [(64, 64), (128, 128)]),
        ([(300, 400)], (60.0, 80.0), 288, 0.2, [(288, 288)]),  # no multiple of 32
    ],
)
def test_tiles_show_things_as_large_as_in_training(
    sizes: list[tuple[int, int]],
    ground: tuple[float, float],
    side: int,
    pixel: float,
    inputs: list[tuple[int, int]],
) -> None:
    layout = tile_layout(sizes, ground)
    assert (layout.side, layout.sizes) == (side, tuple(inputs))
    assert layout.pixel == pytest.approx(pixel)
    for size, own in zip(sizes, layout.sizes, strict=True):
        for axis in (0, 1):
            assert layout.side * layout.pixel / own[axis] == pytest.approx(ground[axis] / size[axis], rel=0.01)


@pytest.fixture(scope="module")
def red_is_flooded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file whose network answers Flooded where it is red, at 10 cm a pixel."""
    ensemble = TrainedEnsemble((sure(FLOODED, 0.5),), (1.0,), training=Training((6.4, 6.4)))
    path = tmp_path_factory.mktemp("red") / "red.onnx"
    write_onnx(ensemble, path)  # its own file is replaced
    assert write_onnx(ensemble, path).layout.pixel == pytest.approx(0.1)
    return path


@needs_extra
@needs_readers
def test_geodeep_segments_a_mosaic(red_is_flooded: Path, tmp_path: Path) -> None:
    alpha = np.full((1, 400, 600), 255, np.uint8)
    mosaic = write_tiff(
        tmp_path / "mosaic.tif", np.concatenate([red_half(400, 600), alpha]), transform=grid(0.05), colours=RGBA
    )
    collection = json.loads(read("-c", GEODEEP, mosaic, red_is_flooded, tmp_path / "map.npy"))
    class_map = np.load(tmp_path / "map.npy")
    assert class_map.shape == (200, 300)  # at the networks' scale
    assert (class_map[:, :147] == 0).all()
    assert (class_map[:, 153:] == FLOODED).all()
    assert {feature["properties"]["class"] for feature in collection["features"]} == {"Background", "Flooded"}


@needs_extra
def test_deepness_segments_tiles(red_is_flooded: Path) -> None:
    tile = red_half(64, 64).transpose(1, 2, 0)
    classes = deepness.Segmentor(red_is_flooded).classify(np.stack([tile, tile[:, ::-1]]))
    assert (classes[0, :, :31] == 0).all()
    assert (classes[0, :, 33:] == FLOODED).all()
    assert (classes[1] == classes[0, :, ::-1]).all()


@needs_extra
def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "params.yaml").write_text(
        "data: {source: directory}\nmodels: {a: {network: unet}}\nfolds: [0, 1]\ninference: {overlap: 0.5}\n"
    )
    for fold in (0, 1):
        network = random_network(UNET, (64, 64), fold)
        path = tmp_path / "data" / "models" / f"a-{fold}" / "weights.safetensors"
        state = network.network.state_dict()
        save_network(path, state, UNET, network.mean, network.std, network.size, HARVEY25)
    monkeypatch.chdir(tmp_path)
    status, _, error = run_command(monkeypatch, capsys, "export", "--onnx", "a.onnx", "--model", "a")
    assert status == 1
    assert "the ground that a training photo shows is not known" in error
    status, out, _ = run_command(monkeypatch, capsys, "export", "--onnx", "a.onnx", "--model", "a", "--ground", "48x48")
    assert status == 0
    assert out.startswith("a.onnx: 2 networks, ")
    assert "tiles of 64 x 64 pixels of 75 cm, 48 x 48 m" in out
    assert out.count("\n") == 1
    model = deepness.Segmentor(tmp_path / "a.onnx")
    assert (model.resolution, model.overlap, model.metadata["model"]) == (75, 50, "a")


@needs_extra
def test_the_packaged_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its photos, 80 m high and 60 m wide, were resized to 512 x 512 pixels."""
    monkeypatch.chdir(tmp_path)
    status, out, _ = run_command(monkeypatch, capsys, "export", "--onnx", "box.onnx")
    assert status == 0
    assert out.startswith("box.onnx: 1 network, ")
    model = deepness.Segmentor(tmp_path / "box.onnx")
    ensemble = find_model(Path("params.yaml"), Path("data"), "harvey25")
    tiles = noise(model.side, 1)
    expected = expected_probabilities(ensemble, tile_layout([(512, 512)], (80, 60)).sizes, tiles)
    np.testing.assert_allclose(model.probabilities(tiles), expected, atol=1e-5, rtol=0)


def failing(path: Path, ensemble: TrainedEnsemble, text: str) -> None:
    with pytest.raises(HarveysegError, match=text):
        write_onnx(ensemble, path)
    assert not path.exists()


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("onnx", "onnxruntime", "onnxscript"):
        monkeypatch.setitem(sys.modules, name, None)
    ensemble = TrainedEnsemble((sure(FLOODED),), (1.0,), training=Training((6.4, 6.4)))
    text = r"not installed: onnx, onnxruntime, onnxscript\. Install the extra: pip install -e '\.\[onnx\]'"
    failing(tmp_path / "a.onnx", ensemble, text)


@needs_extra
def test_what_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.onnx"
    network = sure(FLOODED)
    ensemble = TrainedEnsemble((network,), (1.0,), training=Training((6.4, 6.4)))
    failing(path, TrainedEnsemble((network,), (1.0,)), r"not known here.*--ground.*data\.ground")
    with pytest.raises(HarveysegError, match=r"--onnx .*flood: name a file that ends in \.onnx"):
        write_onnx(ensemble, tmp_path / "flood")
    own = tmp_path / "own.onnx"
    own.write_bytes(b"a network of mine")
    with pytest.raises(HarveysegError, match=r"own\.onnx: exists already, and harveyseg did not write it"):
        write_onnx(ensemble, own)
    assert own.read_bytes() == b"a network of mine"
    with monkeypatch.context() as patch:
        patch.setattr(onnx_file, "_MOST_BYTES", 100)
        failing(path, ensemble, r"an ONNX file holds at most 2 GB\. Choose one model with --model")
    with monkeypatch.context() as patch:
        patch.setattr(onnx_file, "_run", lambda content, tile: np.full((1, 25, 64, 64), np.nan))
        failing(path, ensemble, r"a\.onnx: not written: onnxruntime finds other probabilities")

    class OneSize(nn.Module):
        def forward(self, photos: torch.Tensor) -> torch.Tensor:
            raise AssertionError("Input height (64) doesn't match model (224).")

    odd = TrainedNetwork(OneSize(), {}, network.mean, network.std, network.size, HARVEY25)
    ensemble = TrainedEnsemble((odd,), (1.0,), name="vit", training=Training((6.4, 6.4)))
    failing(path, ensemble, r"vit: cannot take tiles of 64x64 pixels.*doesn't match model \(224\)\. Choose")
