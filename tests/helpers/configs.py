"""Checked settings of a model."""

from typing import Any

from harveyseg.config.settings import load, merge, parse
from harveyseg.pipeline.check import ModelConfig
from harveyseg.training.params import TrainParams
from helpers.paths import ROOT


def unet_config(**train: Any) -> ModelConfig:
    """The committed recipe, changed key by key, on a small U-Net."""
    values = merge(load(ROOT / "params.yaml")["train"], train)
    spec = {"network": "unet", "width": 4}
    return ModelConfig("unet", spec, parse(TrainParams, values, "train"), {"harveyseg/models/unet.py": "ab" * 32}, {})
