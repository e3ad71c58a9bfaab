"""Runs that were made with other settings than params.yaml has are found, and no others."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from harveyseg.config.settings import load
from harveyseg.pipeline.check import check_params
from harveyseg.pipeline.contradictions import find_contradictions
from harveyseg.record import RunRecord, Value
from harveyseg.training.params import flat_parameters
from helpers.paths import ROOT
from helpers.project import lay_over
from helpers.records import make_record

MODELS: dict[str, object] = {
    "unet": {"network": "unet", "width": 4},
    "small": {"network": "unet", "width": 4, "train": {"lr": 0.1}},
}
EVALUATED: dict[str, Value] = {
    "inference.tta": "none", "inference.scales": "1.0", "inference.device": "cuda", "postprocess.method": "auto"
}  # fmt: skip

Runs = list[tuple[RunRecord, dict[str, Value]]]


def write_params(path: Path, **changes: object) -> Path:
    params: dict[str, Any] = load(ROOT / "params.yaml")
    lay_over(params, {"models": MODELS, **changes})
    YAML().dump(params, path)
    return path


@pytest.fixture
def params(tmp_path: Path) -> Path:
    return tmp_path / "params.yaml"


@pytest.fixture
def runs(params: Path) -> Runs:
    """Two training runs and their ensemble, as the stages record them; params.yaml is what made them."""
    made: Runs = []
    for config in check_params(write_params(params), ROOT / "stages"):
        parameters = {**flat_parameters(config.spec, config.train), "resize-cache.size": "128x128", "data.skipped": 2}
        record = make_record(config.model, parameters=parameters)
        made.append((record, {**parameters, **EVALUATED}))
    members: dict[str, Value] = {f"member.{record.model}-0": record.uid for record, _ in made}
    parameters = {"ensemble.steps": 12, "weight.unet": 1.0, "member.other-1.ocher-pope": "77", **members}
    ensemble = make_record("ensemble", None, kind="ensemble", parameters=parameters)
    return [*made, (ensemble, {**parameters, **EVALUATED})]


def contradictions(params: Path, runs: Runs) -> dict[str, str]:
    names = {record.uid: record.model for record, _ in runs}
    found = find_contradictions(params, runs, params.with_name("folds.csv"))
    return {names[uid]: text for uid, text in found.items()}


def test_settings_that_are_the_same(params: Path, runs: Runs) -> None:
    assert contradictions(params, runs) == {}
    write_params(params, inference={"batch_size": 3, "precision": "auto"}, split={"seed": 0})
    assert contradictions(params, runs) == {}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"train": {"lr": 0.5}}, {"unet": "train.lr is 0.5 in params.yaml and 0.003 in this run"}),
        ({"train": {"encoder_weights": "imagenet"}}, {}),  # these networks have no encoder
        (
            {"models": {"unet": MODELS["unet"], "small": {"network": "unet", "dropout": 0.2}}},
            {
                "small": "model.dropout is 0.2 in params.yaml and absent in this run; "
                "model.width is absent in params.yaml and 4 in this run; "
                "train.lr is 0.003 in params.yaml and 0.1 in this run"
            },
        ),
        (
            {"inference": {"tta": "d4"}},
            dict.fromkeys(("unet", "small", "ensemble"), "inference.tta is d4 in params.yaml and none in this run"),
        ),
        ({"ensemble": {"steps": 8}}, {"ensemble": "ensemble.steps is 8 in params.yaml and 12 in this run"}),
        (
            {"data": {"source": "kaggle"}, "resize-cache": {"size": [64, 96]}, "train": {"epochs": 9, "seed": 1}},
            {
                "unet": "data.source is kaggle in params.yaml and demo in this run; "
                "resize-cache.size is 64x96 in params.yaml and 128x128 in this run; "
                "train.epochs is 9 in params.yaml and 20 in this run and 1 more",
                "small": "data.source is kaggle in params.yaml and demo in this run; "
                "resize-cache.size is 64x96 in params.yaml and 128x128 in this run; "
                "train.epochs is 9 in params.yaml and 20 in this run and 1 more",
            },
        ),
    ],
)
def test_settings_that_differ(params: Path, runs: Runs, changes: dict[str, object], expected: dict[str, str]) -> None:
    write_params(params, **changes)
    assert contradictions(params, runs) == expected


def test_an_ensemble_of_other_runs(params: Path, runs: Runs) -> None:
    unet, small, ensemble = runs
    text = {"ensemble": "this run averages other training runs than data/models holds"}
    assert contradictions(params, [unet, ensemble]) == text  # a model was removed
    again = unet[0].model_copy(update={"uid": "0" * 32})
    assert contradictions(params, [(again, unet[1]), small, ensemble]) == text  # a model was trained again


def test_photos_of_other_settings(params: Path, runs: Runs) -> None:
    data = load(params)["data"]
    lock = {
        "stages": {
            "download": {"params": {"params.yaml": {"data": data}}},
            "resize-cache": {
                "params": {"params.yaml": {"resize-cache.mask_method": "nearest", "resize-cache.size": 128}}
            },
        }
    }
    YAML().dump(lock, params.with_name("dvc.lock"))
    assert contradictions(params, runs) == {}
    # The same photos at another place, read by more threads.
    write_params(params, data={"path": "../photos", "inputs": "lists"}, **{"resize-cache": {"threads": 7}})
    assert contradictions(params, runs) == {}
    write_params(params, data={"url": "s3://ann:secret@bucket"})
    text = "data.url is another one in params.yaml than in this run"
    assert contradictions(params, runs) == {"unet": text, "small": text}
    write_params(params, data={"score_size": 512, "demo": {"seed": 9}}, **{"resize-cache": {"mask_method": "majority"}})
    text = (
        f"data.demo.seed is 9 in params.yaml and {data['demo']['seed']} in this run; data.score_size is 512 in "
        f"params.yaml and {data['score_size']} in this run; resize-cache.mask_method is majority in params.yaml and "
        "nearest in this run"
    )
    assert contradictions(params, runs) == {"unet": text, "small": text}


def test_folds_of_other_settings(params: Path, runs: Runs) -> None:
    recorded = {"folds": 3, "method": "stratified", "groups": "ids", "id_distance": 10, "seed": 0}
    lock = {"stages": {"split": {"params": {"params.yaml": {"split": recorded}}}}}
    YAML().dump(lock, params.with_name("dvc.lock"))
    assert contradictions(params, runs) == {}
    write_params(params, split={"folds": 4, "groups": "overlap"})
    text = (
        "split.folds is 4 in params.yaml and 3 in this run; split.groups is overlap in params.yaml and ids in this run"
    )
    assert contradictions(params, runs) == {"unet": text, "small": text}
    recorded.update(folds=4, groups="overlap")  # `dvc repro split` has run, the trainings not yet
    YAML().dump(lock, params.with_name("dvc.lock"))
    assert contradictions(params, runs) == {}  # nothing is known without the folds
    params.with_name("folds.csv").write_text("id,group,fold\n6411,6411,0\n")
    text = "this run was made with other folds than folds.csv holds"
    assert contradictions(params, runs) == dict.fromkeys(("unet", "small", "ensemble"), text)
    sha256 = hashlib.sha256(params.with_name("folds.csv").read_bytes()).hexdigest()
    again = [(record.model_copy(update={"split_hash": sha256}), parameters) for record, parameters in runs]
    assert contradictions(params, again) == {}
