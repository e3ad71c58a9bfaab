"""A model's settings come back as they were written; what is damaged is named."""

import json
from pathlib import Path
from typing import Any

import pytest

from harveyseg.config.settings import load, merge, parse
from harveyseg.errors import HarveysegError
from harveyseg.pipeline.check import ModelConfig, read_config, write_config
from harveyseg.training.params import TrainParams, flat_parameters
from helpers.paths import ROOT


def config(**train: Any) -> ModelConfig:
    values = merge(load(ROOT / "params.yaml")["train"], train)
    spec = {"network": "unet", "width": 4, "dropout": 0.1}
    return ModelConfig("unet", spec, parse(TrainParams, values, "train"), {"models/unet.py": "ab" * 32}, {})


def test_round_trip(tmp_path: Path) -> None:
    original = config(lr=1e-05, loss={"dice": 0.1 + 0.2})
    write_config(tmp_path / "configs", original)
    assert read_config(tmp_path / "configs" / "unet.json") == original


def test_flat_parameters() -> None:
    settings = config(lr=1e-05)
    flat = flat_parameters(settings.spec, settings.train)
    assert flat["model.network"] == "unet"
    assert flat["model.width"] == 4
    assert flat["train.lr"] == 1e-5
    assert flat["train.optimiser.ema"] is None
    assert flat["train.loss.softmax_before_loss"] is False
    assert flat["train.augmentation.flip"] == 0.5
    train = load(ROOT / "params.yaml")["train"]
    groups = [value for value in train.values() if isinstance(value, dict)]
    assert len(groups) == 6
    count = len(train) - len(groups) + sum(len(group) for group in groups)
    assert len(flat) == 3 + count  # the network's three, too


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (None, "no such file"),
        ("damaged", "not valid JSON"),
        ({"code": None}, "lacks 'code'"),
        ({"train": None}, "lacks 'train'"),
        ({"train": {"lr": 1}}, "train.epochs: missing"),
    ],
)
def test_a_damaged_file_is_named_with_the_remedy(tmp_path: Path, change: Any, cause: str) -> None:
    path = tmp_path / "unet.json"
    if change is not None:
        write_config(tmp_path, config())
        content = json.loads(path.read_text())
        if change == "damaged":
            path.write_text(path.read_text()[:-20])
        else:
            kept = {key: change.get(key, value) for key, value in content.items()}
            path.write_text(json.dumps({key: value for key, value in kept.items() if value is not None}))
    with pytest.raises(HarveysegError) as caught:
        read_config(path)
    assert str(path) in str(caught.value)
    assert cause in str(caught.value)
    assert "dvc repro code" in str(caught.value)
