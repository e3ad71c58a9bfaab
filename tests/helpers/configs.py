"""Checked settings of a model."""

from typing import Any

from harveyseg.config.settings import load, parse
from harveyseg.pipeline.check import ModelConfig
from harveyseg.training.trainer import TrainParams
from helpers.paths import ROOT


def unet_config(**train: Any) -> ModelConfig:
    values = {**load(ROOT / "params.yaml")["train"], **train}
    spec = {"network": "unet", "width": 4}
    return ModelConfig(
        "unet", spec, parse(TrainParams, values, "train"), {"harveyseg/models/unet.py": "ab" * 32}, files={}
    )
