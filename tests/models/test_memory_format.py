"""Photos, rows and columns first, channels last in memory: kept through every network of the report and of `best`."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harveyseg.config import preset
from harveyseg.config.settings import load
from harveyseg.data.normalisation import normalise
from harveyseg.models.network import build

_PRESETS = Path(preset.__file__).with_name("presets")
_SPECS: dict[str, dict[str, Any]] = {
    name: {key: value for key, value in spec.items() if key != "train"}
    for preset in ("report", "best")
    for name, spec in load(_PRESETS / f"{preset}.yaml")["models"].items()
}


@pytest.mark.parametrize("name", _SPECS)
def test_no_layer_loses_channels_last(name: str) -> None:
    """A layer that returned (B, C, H, W) in memory would have it copied by the next convolution."""
    network = build(_SPECS[name], 25, None).to(memory_format=torch.channels_last)
    lost: list[str] = []

    def watch(layer: str, output: Tensor) -> None:
        _check(f"{layer}, forward", output, lost)
        output.register_hook(lambda gradient: _check(f"{layer}, backward", gradient, lost))  # type: ignore[no-untyped-call]

    for layer, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Upsample | nn.MaxPool2d):
            module.register_forward_hook(lambda _module, _inputs, output, layer=layer: watch(layer, output))
    photos = torch.randint(0, 256, (2, 64, 96, 3), dtype=torch.uint8)
    inputs = normalise(photos, (0.5,) * 3, (0.25,) * 3)
    assert inputs.is_contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(inputs)
    logits.float().permute(0, 2, 3, 1).flatten(0, 2).square().mean().backward()
    assert not lost


def _check(layer: str, values: Tensor, lost: list[str]) -> None:
    """The channels of a pixel are neighbours; a slice of a concatenation's gradient is so without being contiguous."""
    if values.shape[1] > 1 and values.stride(1) != 1 and values.shape[2:].numel() > 1:
        lost.append(layer)
