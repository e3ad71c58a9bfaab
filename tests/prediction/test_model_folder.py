"""Model folders: the same maps as the workspace that they were written from, and which model a user means."""

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from harveyseg.classes import HARVEY25
from harveyseg.errors import HarveysegError
from harveyseg.files import write_json
from harveyseg.inference.network_file import save_network
from harveyseg.inference.params import InferenceParams
from harveyseg.models.network import build
from harveyseg.models.packaged import packaged_models
from harveyseg.prediction.find_model import find_model
from harveyseg.prediction.model_folder import read_model_folder, write_model_folder
from harveyseg.prediction.trained_ensemble import TrainedEnsemble, load_trained_ensemble
from harveyseg.record import write_run
from helpers.predicting import ArrayPicture, classify, fitted_rule
from helpers.records import make_record

SPEC = {"network": "unet", "width": 2, "dropout": 0.0, "batch_norm": "none"}
OTHER_SPEC = SPEC | {"width": 3}


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A model of two folds with a rule, which predicts with flips."""
    (tmp_path / "params.yaml").write_text(
        "data: {source: kaggle}\nmodels: {unet: {network: unet}}\nfolds: [0, 1]\n"
        "inference: {tta: flips, batch_size: 3, threads: 1, device: cpu, precision: fp32}\n"
    )
    data = tmp_path / "data"
    records = [make_record("unet", fold) for fold in (0, 1)]
    for fold, record in enumerate(records):
        torch.manual_seed(fold)
        folder = data / "models" / f"unet-{fold}"
        state = build(SPEC, 25, None).state_dict()
        save_network(folder / "weights.safetensors", state, SPEC, (0.4, 0.4, 0.4), (0.2,) * 3, (64, 96), HARVEY25)
        write_run(folder / "run.json", record)
    rule = fitted_rule({record.name: record.uid for record in records})
    write_json(data / "postprocess" / "rules" / "unet.json", rule.model_dump())
    (data / "predictions" / "unet-0").mkdir(parents=True)
    (data / "predictions" / "unet-0" / "per_class.csv").write_text(
        "part,name,iou,precision,recall\nval,Flooded,0.5,0.75,0.625\nval,Boat,,,\n"
    )
    return tmp_path


@pytest.fixture
def loaded(workspace: Path) -> TrainedEnsemble:
    return load_trained_ensemble(workspace / "params.yaml", workspace / "data", "unet")


def picture() -> ArrayPicture:
    return ArrayPicture(np.random.default_rng(0).integers(0, 256, (128, 192, 3), np.uint8))


def test_a_folder_predicts_as_the_workspace_does(tmp_path: Path, loaded: TrainedEnsemble) -> None:
    write_model_folder(tmp_path / "exported", loaded, "CC BY 4.0", "# card")
    shutil.move(tmp_path / "exported", tmp_path / "elsewhere")
    shutil.rmtree(tmp_path / "data")
    found = read_model_folder(tmp_path / "elsewhere")
    assert np.array_equal(classify(picture(), found), classify(picture(), loaded))
    assert len(np.unique(classify(picture(), found))) > 1
    assert found.identity == loaded.identity  # so what one predicted is done for the other
    assert found.measured == {"Flooded": {"iou": 0.5, "precision": 0.75, "recall": 0.625}, "Boat": {}}
    assert found.training == loaded.training
    assert found.training.ground == (80, 60)
    assert found.inference.tta == "flips"
    assert (tmp_path / "elsewhere" / "README.md").read_text() == "# card"
    assert read_model_folder(tmp_path / "elsewhere", argmax=True).rule is None
    assert read_model_folder(tmp_path / "elsewhere", ground=(3, 4)).training.ground == (3, 4)


def test_half_precision(tmp_path: Path, loaded: TrainedEnsemble) -> None:
    write_model_folder(tmp_path / "exported", loaded, "", "", half=True)
    stored = load_file(tmp_path / "exported" / "network-1.safetensors")
    assert {value.dtype for value in stored.values() if value.dim() > 1} == {torch.float16}
    assert {value.dtype for value in stored.values() if value.dim() == 1} == {torch.float32}
    found = read_model_folder(tmp_path / "exported")
    assert {value.dtype for value in found.networks[0].network.state_dict().values()} == {torch.float32}
    assert found.identity != loaded.identity
    agreement = classify(picture(), replace(found, rule=None)) == classify(picture(), replace(loaded, rule=None))
    assert agreement.mean() > 0.95


def test_damaged_folders(tmp_path: Path, loaded: TrainedEnsemble) -> None:
    folder = tmp_path / "exported"
    write_model_folder(folder, loaded, "", "")
    description = json.loads((folder / "model.json").read_text())

    def refused(**changes: object) -> str:
        (folder / "model.json").write_text(json.dumps(description | changes))
        with pytest.raises(HarveysegError) as caught:
            read_model_folder(folder)
        return str(caught.value)

    networks = description["networks"]
    outside = refused(networks=[networks[0] | {"file": "../data/models/unet-0/weights.safetensors"}])
    assert "model.json: not a model of this version (wrong or missing: networks.0.file" in outside
    assert "version" in refused(version=2)
    assert "networks" in refused(networks=[])
    rule = description["rule"]
    assert "its rule is for other classes than network-0" in refused(rule=rule | {"unscored": 2})
    (folder / "network-1.safetensors").unlink()
    assert "network-1.safetensors: no such file" in refused()
    shutil.copyfile(folder / "network-0.safetensors", folder / "network-1.safetensors")
    message = refused()
    assert "network-1.safetensors: is damaged or of another model" in message
    assert "Copy the model's folder again" in message
    (folder / "model.json").write_text('{"kind": ')
    with pytest.raises(HarveysegError, match=r"model\.json"):
        read_model_folder(folder)


def test_a_model_of_the_workspace_comes_first(
    workspace: Path, loaded: TrainedEnsemble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace)
    other = replace(loaded, name="other", weights=(0.25, 0.75))
    for name in ("unet", "other"):
        write_model_folder(workspace / name, other, "", "")
    params, data = workspace / "params.yaml", workspace / "data"
    assert find_model(params, data, "unet").weights == (0.5, 0.5)
    assert find_model(params, data, "other").weights == (0.25, 0.75)
    assert find_model(params, data, str(workspace / "unet")).weights == (0.25, 0.75)
    with pytest.raises(
        HarveysegError, match=r"--model net: no model that was trained here, .*Known are: unet, harvey25\."
    ):
        find_model(params, data, "net")


def test_a_folder_brings_its_settings_but_not_those_of_the_machine(workspace: Path, loaded: TrainedEnsemble) -> None:
    written = InferenceParams(tta="d4", scales=(1.0, 1.5), batch_size=16, threads=8, precision="bf16")
    write_model_folder(workspace / "exported", replace(loaded, inference=written), "", "")
    found = find_model(workspace / "params.yaml", workspace / "data", str(workspace / "exported"))
    assert found.inference == InferenceParams(
        tta="d4", scales=(1.0, 1.5), batch_size=3, threads=1, device="cpu", precision="fp32"
    )
    outside = find_model(workspace / "none.yaml", workspace / "none", str(workspace / "exported"))
    assert outside.inference == InferenceParams(tta="d4", scales=(1.0, 1.5))


def test_where_nothing_was_trained_the_packaged_model_predicts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "harveyseg"):
        found = find_model(tmp_path / "params.yaml", tmp_path / "data")
    assert found.name == "harvey25"
    assert found.classes == HARVEY25
    assert "nothing was trained here, so the packaged model harvey25 predicts" in caplog.text
    assert "CC BY 4.0" in caplog.text


def test_a_packaged_model_needs_no_project(tmp_path: Path) -> None:
    """Another program's files of the same names are in the way of nothing."""
    (tmp_path / "params.yaml").write_text("train: {lr: 0.1}\n")
    (tmp_path / "dvc.lock").write_text("stages: {train@0: {cmd: a}}\n")
    assert find_model(tmp_path / "params.yaml", tmp_path / "data", "harvey25").inference.tta == "d4"
    (tmp_path / "dvc.lock").unlink()
    (tmp_path / "data" / "models").mkdir(parents=True)
    (tmp_path / "data" / "models" / ".DS_Store").touch()
    assert find_model(tmp_path / "params.yaml", tmp_path / "data").name == "harvey25"


def test_a_sub_folder_of_a_project(workspace: Path) -> None:
    """Its own networks are not found there; the packaged model does not silently replace them."""
    (workspace / "dvc.yaml").write_text("stages: {}\n")
    folder = workspace / "photos" / "today"
    folder.mkdir(parents=True)
    with pytest.raises(HarveysegError, match=rf"{workspace} is a project\. Run this there.*--model harvey25"):
        find_model(folder / "params.yaml", folder / "data")
    assert find_model(folder / "params.yaml", folder / "data", "harvey25").name == "harvey25"


@pytest.mark.parametrize("ground", [(0.0, -1.0), (60.0, float("nan")), (float("inf"), 80.0)])
def test_impossible_grounds(tmp_path: Path, ground: tuple[float, float]) -> None:
    with pytest.raises(HarveysegError, match="must be metres above 0"):
        find_model(tmp_path / "params.yaml", tmp_path / "data", "harvey25", ground=ground)


@pytest.mark.parametrize("model", [None, "unet"])
def test_results_that_are_on_another_machine(workspace: Path, model: str | None) -> None:
    """A clone with dvc.lock, before `dvc pull`: the packaged model must not stand in for the trained one."""
    shutil.rmtree(workspace / "data")
    (workspace / "dvc.lock").write_text("schema: '2.0'\nstages:\n  train@unet-0: {cmd: a}\n")
    with pytest.raises(HarveysegError) as caught:
        find_model(workspace / "params.yaml", workspace / "data", model)
    assert "run `dvc pull`" in str(caught.value)
    assert "--model harvey25" in str(caught.value)


def test_a_missing_fold_is_named(workspace: Path) -> None:
    (workspace / "data" / "models" / "unet-1" / "weights.safetensors").unlink()
    with pytest.raises(HarveysegError, match=r"(?s)unet-1/weights\.safetensors: no such file.*dvc pull.*harvey25"):
        find_model(workspace / "params.yaml", workspace / "data", "unet")


def test_the_packaged_model() -> None:
    """At most 12 MB, of safe files, with a card that says what must be said."""
    folder = packaged_models()["harvey25"]
    assert {path.suffix for path in folder.iterdir()} == {".json", ".md", ".safetensors"}
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 12e6
    card = (folder / "README.md").read_text(encoding="utf-8")
    for said in ("CC BY 4.0", "FloodNet", "No photo is held out from it", "nested score", "Limits"):
        assert said in card
    found = read_model_folder(folder)
    assert found.rule is not None
    assert f"**{found.rule.nested_score:.3f}**" in card
    assert found.training.ground == (80, 60)
    for height, width in found.training.sizes:  # in metres as in pixels, which are square
        assert height / width == pytest.approx(80 / 60, rel=0.15)
    assert found.inference.tta == "d4"
