"""Prediction from Python: the same as the command, and arrays as photos."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch
from PIL import Image

import harveyseg
from harveyseg import Predictor
from harveyseg.classes import HARVEY25, ClassList, SegmentationClass
from harveyseg.errors import HarveysegError
from harveyseg.inference.network_file import TrainedNetwork, save_network
from harveyseg.models.network import build
from harveyseg.prediction.find_model import find_model
from harveyseg.prediction.model_folder import write_model_folder
from harveyseg.prediction.scale import Training
from harveyseg.prediction.trained_ensemble import TrainedEnsemble
from helpers.commands import run_command
from helpers.predicting import FLOODED, PARAMS, half_red, sure
from helpers.rasters import RGBA, write_tiff

SPEC = {"network": "unet", "width": 4, "dropout": 0.0, "batch_norm": "none"}
GROUND = "ground: [6, 8]"


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """Two trained models of two folds, and an ensemble of both."""
    folder = tmp_path / "workspace"
    folder.mkdir()
    (folder / "params.yaml").write_text(
        f"data: {{source: directory, {GROUND}}}\nmodels: {{a: {{network: unet}}}}\nfolds: [0, 2]\n"
        "inference: {threads: 1, device: cpu, precision: fp32, tta: flips}\n"
    )
    for number, name in enumerate(("a-0", "a-2", "b-0", "b-2")):
        torch.manual_seed(number)
        path = folder / "data" / "models" / name / "weights.safetensors"
        state = build(SPEC, 25, None).state_dict()
        save_network(path, state, SPEC, (0.5, 0.4, 0.3), (0.2, 0.2, 0.2), (64, 96), HARVEY25)
    (folder / "data" / "ensemble").mkdir()
    (folder / "data" / "ensemble" / "weights.json").write_text(json.dumps({"weights": {"a": 0.75, "b": 0.25}}))
    return folder


def noise(height: int, width: int, channels: int = 3) -> npt.NDArray[np.uint8]:
    small = np.random.default_rng(0).integers(0, 256, (height // 8 + 1, width // 8 + 1, channels)).astype(np.uint8)
    return np.kron(small, np.ones((8, 8, 1), np.uint8))[:height, :width]


def test_importing_the_package_takes_no_time() -> None:
    code = "import sys, harveyseg; print([name for name in sys.modules if name.split('.')[0] in ('torch', 'numpy')])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"
    with pytest.raises(AttributeError, match="no attribute 'Predicter'"):
        harveyseg.Predicter  # type: ignore[attr-defined]  # noqa: B018


def test_the_files_are_those_of_the_command(
    tmp_path: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    alpha = np.full((300, 500, 1), 255, np.uint8)
    alpha[:40] = 0
    mosaic = write_tiff(
        tmp_path / "mosaic.tif", np.concatenate([noise(300, 500), alpha], axis=2).transpose(2, 0, 1), colours=RGBA
    )
    photo = tmp_path / "photo.png"
    Image.fromarray(noise(120, 160)).save(photo)
    ways: list[tuple[Path, list[str], dict[str, Any], dict[str, Any]]] = [
        (mosaic, ["--geojson", "--probabilities", "flooded"], {"geojson": True, "probabilities": "flooded"}, {}),
        (photo, ["--gsd", "6"], {"gsd": 6.0}, {}),
        (photo, ["--model", "b", "--argmax", "--ground", "5x7"], {}, {"model": "b", "argmax": True, "ground": (5, 7)}),
    ]
    for number, (path, arguments, options, choice) in enumerate(ways):
        monkeypatch.chdir(workspace)
        command_out, out = tmp_path / f"command{number}", tmp_path / f"api{number}"
        status, _, _ = run_command(monkeypatch, capsys, "predict", str(path), "--out", str(command_out), *arguments)
        assert status == 0
        monkeypatch.chdir(tmp_path)
        prediction = Predictor.load(workspace, **choice).predict(path, out, **options)
        assert len(np.unique(prediction.read_class_map())) > 2  # so that equal bytes mean something
        written = {file.name: file.read_bytes() for file in command_out.iterdir()}
        assert {file.name for file in prediction.files} == written.keys() - {"areas.csv", f"{path.stem}.json"}
        assert {file.name for file in out.iterdir()} == written.keys()
        for name in written:
            assert (out / name).read_bytes() == written[name], name
        if prediction.vector_file is not None:
            for layer in ("classes", "buildings", "summary"):
                expected = geopandas.read_file(command_out / "mosaic.gpkg", layer=layer)
                pd.testing.assert_frame_equal(prediction.read_layer(layer), expected)


def test_what_a_prediction_holds(tmp_path: Path, workspace: Path) -> None:
    predictor = Predictor.load(str(workspace))
    assert predictor.classes == HARVEY25
    mosaic = write_tiff(tmp_path / "mosaic.tif", noise(200, 300).transpose(2, 0, 1))
    prediction = predictor.predict(mosaic, tmp_path / "out")
    class_map = prediction.read_class_map()
    assert class_map.shape == (200, 300)
    assert prediction.class_map_file == tmp_path / "out" / "mosaic.tif"
    assert prediction.areas.seen_m2 == pytest.approx(10 * 15, rel=2e-3)
    shares = {name: 100 * np.mean(class_map == index) for index, name in enumerate(HARVEY25.names)}
    assert prediction.areas.percent == pytest.approx(shares)
    assert prediction.vector_file == tmp_path / "out" / "mosaic.gpkg"
    assert prediction.read_layer()["area_m2"].sum() == pytest.approx(150, rel=5e-3)
    assert len(prediction.read_layer("summary")) == 1
    Image.fromarray(noise(64, 96)).save(tmp_path / "photo.png")
    photo = predictor.predict(tmp_path / "photo.png", tmp_path / "out")
    assert photo.class_map_file == tmp_path / "out" / "photo.png"
    assert (photo.read_class_map() == np.asarray(Image.open(photo.class_map_file))).all()
    assert photo.vector_file is None
    with pytest.raises(HarveysegError, match=r"photo\.png: has no place on the ground"):
        photo.read_layer()
    before = {file: file.stat().st_mtime_ns for file in photo.files}
    assert predictor.predict(tmp_path / "photo.png", tmp_path / "out") == photo  # it is not predicted again
    assert {file: file.stat().st_mtime_ns for file in photo.files} == before


def test_an_array_is_classified_as_the_photo_that_holds_it(tmp_path: Path, workspace: Path) -> None:
    predictor = Predictor.load(workspace)
    alpha = np.full((150, 200, 1), 255, np.uint8)
    alpha[30:70, 50:] = 0
    framed = noise(150, 200)
    framed[:30] = 0
    cases = (
        ("rgb", noise(150, 200), np.zeros((150, 200), bool)),
        ("rgba", np.concatenate([noise(150, 200), alpha], axis=2), alpha[..., 0] == 0),
        ("framed", framed, np.arange(150)[:, None] < np.full(200, 30)),
    )
    for name, array, unseen in cases:
        path = tmp_path / f"{name}.png"
        Image.fromarray(array).save(path)
        for gsd in (None, 3.0, 6.0):
            expected = predictor.predict(path, tmp_path / f"{name}{gsd}", gsd=gsd).read_class_map()
            class_map = predictor.classify(array, gsd)
            assert class_map.dtype == np.uint8
            np.testing.assert_array_equal(class_map, expected)
            assert ((class_map == 255) == unseen).all()
    flipped = noise(150, 200)[::-1, ::-1]  # neither contiguous nor writeable in place
    np.testing.assert_array_equal(predictor.classify(flipped, 6), predictor.classify(flipped.copy(), 6))


def test_models_without_a_workspace(tmp_path: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = find_model(workspace / "params.yaml", workspace / "data", "b")
    write_model_folder(tmp_path / "exported", own, "notice", "card")
    photo = noise(128, 160)
    monkeypatch.chdir(tmp_path)
    params = workspace / "params.yaml"
    fp32 = params.read_text()
    params.write_text(fp32.replace("precision: fp32", "precision: auto"))  # as for a model folder: the machine's choice
    expected = Predictor.load(workspace, "b").classify(photo)
    params.write_text(fp32)
    np.testing.assert_array_equal(Predictor.load("exported").classify(photo), expected)
    without = Predictor.load("exported", tta="none").classify(photo)
    assert (without != expected).any()
    packaged = Predictor.load("harvey25", tta="none").classify(photo)
    nothing_trained = Predictor.load(tta="none").classify(photo)  # in this folder
    np.testing.assert_array_equal(nothing_trained, packaged)
    own_precision = Predictor.load(workspace, "harvey25", tta="none").classify(photo)
    assert (own_precision == packaged).mean() > 0.8
    assert (packaged == expected).mean() < 0.5


def test_a_class_map_holds_ids() -> None:
    colours = iter(range(25))
    classes = ClassList(
        name="made",
        classes=tuple(
            SegmentationClass(id=number, name=f"Class {number}", color=f"#0000{next(colours):02x}")
            for number in range(100, 150, 2)
        ),
    )
    network = sure(FLOODED, 0.5)
    renamed = TrainedNetwork(network.network, {}, network.mean, network.std, network.size, classes)
    ensemble = TrainedEnsemble((renamed,), (1.0,), training=Training((6.0, 8.0)))
    class_map = Predictor(ensemble, PARAMS).classify(half_red())
    assert set(np.unique(class_map)) == {100, 100 + 2 * FLOODED}


def test_what_cannot_be_predicted(tmp_path: Path, workspace: Path) -> None:
    predictor = Predictor.load(workspace)
    for array in (
        np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((3, 4, 5), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
    ):  # fmt: skip
        with pytest.raises(HarveysegError, match=r"array: is .*uint8 \(height, width, 3 or 4\) is needed"):
            predictor.classify(array)  # type: ignore[arg-type]
    with pytest.raises(HarveysegError, match=r"array: is a list, not a NumPy array"):
        predictor.classify([[0, 0, 0]])  # type: ignore[arg-type]
    with pytest.raises(HarveysegError, match=r"array: shows .* more than 4 times is not predicted"):
        predictor.classify(half_red(), gsd=0.1)
    with pytest.raises(HarveysegError, match=r"workspace: no such file.*harveyseg predict"):
        predictor.predict(workspace, tmp_path / "out")
    photo = tmp_path / "photo.png"
    photo.write_bytes(b"\x89PNG")
    with pytest.raises(HarveysegError, match=r"files to predict: 1 problem\n.*photo\.png"):
        predictor.predict(photo, tmp_path / "out")
    with pytest.raises(HarveysegError, match=r"^model c: no model that was trained here"):
        Predictor.load(workspace, "c")
    with pytest.raises(HarveysegError, match=r"nowhere: no model that was trained here, no packaged one, no folder"):
        Predictor.load(tmp_path / "nowhere")


def test_messages_name_parameters_instead_of_options(tmp_path: Path, workspace: Path) -> None:
    predictor = Predictor.load(workspace)
    photo = tmp_path / "photo.png"
    Image.fromarray(half_red()).save(photo)
    out = tmp_path / "out"
    predictor.predict(photo, out)
    deep = write_tiff(tmp_path / "deep.tif", np.full((3, 64, 64), 300, np.uint16))
    calls: list[tuple[Any, str]] = [
        (lambda: Predictor.load(workspace, tta="d5"), "tta d5: must be none, flips, d4."),
        (lambda: predictor.predict(photo, out, nodata="1"), "nodata 1: must be 0, 255 or none."),
        (lambda: predictor.predict(photo, out, value_range="9,1"), "value_range 9,1: must be LOW,HIGH"),
        (lambda: predictor.predict(photo, out, probabilities="lava"), "probabilities lava: no class 'lava'"),
        (lambda: predictor.predict(photo, out, gsd=9), "Replace them with overwrite=True, or choose another out."),
        (lambda: predictor.predict(deep, out), "value_range 0,4095, or value_range auto for the 2nd"),
        (lambda: predictor.classify(half_red(), gsd=0.1), "If its scale is wrong, give it with gsd."),
    ]
    for call, expected in calls:
        with pytest.raises(HarveysegError, match=re.escape(expected)) as caught:
            call()
        assert not any("--" in text for text in (str(caught.value), *caught.value.problems))


def test_a_fault_while_predicting_is_raised(tmp_path: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo = tmp_path / "photo.png"
    Image.fromarray(half_red()).save(photo)

    def fail(*_: object) -> None:
        raise RuntimeError("a fault of a library")

    monkeypatch.setattr("harveyseg.prediction.predict.open_picture", fail)
    with pytest.raises(RuntimeError, match="a fault of a library"):
        Predictor.load(workspace).predict(photo, tmp_path / "out")
