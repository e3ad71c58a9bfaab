"""Which trained networks predict, with which weights and rule."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harveyseg.classes import HARVEY25
from harveyseg.errors import HarveysegError
from harveyseg.files import write_json
from harveyseg.inference.network_file import save_network
from harveyseg.models.network import build
from harveyseg.prediction.trained_ensemble import load_trained_ensemble
from harveyseg.record import write_run
from helpers.predicting import fitted_rule
from helpers.rasters import write_dji
from helpers.records import make_record

SPEC = {"network": "unet", "width": 1, "dropout": 0.0, "batch_norm": "none"}


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """Three trained models with two folds each, told apart by their means, and an ensemble of two."""
    (tmp_path / "params.yaml").write_text(
        "data: {source: demo}\nmodels: {unet: {network: unet}}\nfolds: [0, 2]\ninference: {tta: flips}\n"
    )
    for number, model in enumerate(("unet", "unet_b", "unet-c")):
        for fold in (0, 2):
            path = tmp_path / "data" / "models" / f"{model}-{fold}" / "weights.safetensors"
            mean = (float(number), float(fold), 0.0)
            save_network(path, build(SPEC, 25, None).state_dict(), SPEC, mean, (1.0, 1.0, 1.0), (64, 64), HARVEY25)
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
        save_network(
            path, build(SPEC, 25, None).state_dict(), SPEC, (7.0, fold, 0.0), (1.0, 1.0, 1.0), (96, 64), HARVEY25
        )
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


def test_the_ground_of_a_training_photo(workspace: Path) -> None:
    params, data = workspace / "params.yaml", workspace / "data"
    rest = params.read_text().partition("\n")[2]

    def ground(settings: str) -> tuple[float, float] | None:
        params.write_text(f"data: {{{settings}}}\n{rest}")
        return load_trained_ensemble(params, data, "unet").training.ground

    assert ground("source: directory") is None
    assert ground("source: kaggle") == (80, 60)
    photos = data / "raw" / "train_images"
    photos.mkdir(parents=True)
    for number, height in enumerate(("+20.00", "+60.00", "+300.00")):
        write_dji(photos / f"{number}.jpg", np.zeros((30, 40, 3), np.uint8), height=height)
    Image.new("RGB", (40, 30)).save(photos / "3.png")  # which says nothing
    assert ground("source: directory") == pytest.approx((60 * 27 / 26, 60 * 36 / 26))  # the median
    assert ground("source: directory, ground: [50, 70.5]") == (50, 70.5)
    assert load_trained_ensemble(params, data, "unet", ground=(5, 7)).training.ground == (5, 7)
    with pytest.raises(HarveysegError, match=r"data\.ground\.1 = 0: "):
        ground("source: directory, ground: [50, 0]")


def test_what_else_is_known_of_the_training(workspace: Path) -> None:
    params, data = workspace / "params.yaml", workspace / "data"
    plain = load_trained_ensemble(params, data, "unet")
    assert (plain.training.sizes, plain.measured) == (frozenset(), {})
    (data / "cache" / "train").mkdir(parents=True)
    (data / "cache" / "train" / "photos.csv").write_text("id,width,height\na,4000,3000\nb,4592,3072\nc,4000,3000\n")
    for fold, iou in ((0, "0.2"), (2, "0.6")):
        folder = data / "predictions" / f"unet-{fold}"
        folder.mkdir(parents=True)
        rows = [f"val,Flooded,{iou},0.5,0.5", "val,Boat,,,", "test,Flooded,0.9,0.9,0.9"]
        (folder / "per_class.csv").write_text("\n".join(["part,name,iou,precision,recall", *rows]) + "\n")
    known = load_trained_ensemble(params, data, "unet")
    assert known.training.sizes == {(3000, 4000), (3072, 4592)}
    assert known.measured["Flooded"] == pytest.approx({"iou": 0.4, "precision": 0.5, "recall": 0.5})
    assert known.measured["Boat"] == {}


def test_other_weights_or_another_rule_are_another_identity(workspace: Path) -> None:
    params, data = workspace / "params.yaml", workspace / "data"
    identities = [load_trained_ensemble(params, data, model).identity for model in ("unet", "unet", "unet_b", None)]
    assert identities[0] == identities[1]
    assert len(set(identities)) == 3
    path = data / "models" / "unet-0" / "weights.safetensors"
    save_network(path, build(SPEC, 25, None).state_dict(), SPEC, (0.5, 0.5, 0.5), (1.0, 1.0, 1.0), (64, 64), HARVEY25)
    assert load_trained_ensemble(params, data, "unet").identity != identities[0]
