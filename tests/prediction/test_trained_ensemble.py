"""Which trained networks predict, with which weights and rule."""

import json
from pathlib import Path

import pytest

from harveyseg.errors import HarveysegError
from harveyseg.files import write_json
from harveyseg.inference.network_file import save_network
from harveyseg.models import build
from harveyseg.prediction.trained_ensemble import load_trained_ensemble
from harveyseg.record import write_run
from helpers.predicting import fitted_rule
from helpers.records import make_record

SPEC = {"network": "unet", "width": 1, "dropout": 0.0, "batch_norm": "none"}


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """Three trained models with two folds each, told apart by their means, and an ensemble of two."""
    (tmp_path / "params.yaml").write_text("data: {source: demo}\nmodels: {unet: {network: unet}}\nfolds: [0, 2]\n")
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
