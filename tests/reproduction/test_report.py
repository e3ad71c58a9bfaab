"""The preset `report` does what the report says, from params.yaml through the checked settings to the optimiser."""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from ruamel.yaml import YAML

import harveyseg.training.trainer
from harveyseg.classes import HARVEY25
from harveyseg.config.preset import apply_preset
from harveyseg.data.augmentation import Augmentation
from harveyseg.data.cache import CachedPart
from harveyseg.pipeline.check import ModelConfig, check_params, read_config, write_config
from harveyseg.training.checkpoint import Checkpoint
from harveyseg.training.learner import Learner
from harveyseg.training.losses import SegmentationLoss
from harveyseg.training.trainer import Training
from helpers.paths import ROOT

MODELS = (
    "unet", "attention_unet", "unetplusplus", "mobilenet_v2", "efficientnet_b1", "efficientnet_b2", "efficientnet_b3"
)  # fmt: skip
Image = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelConfig]:
    """What the stage `code` writes and `train` reads."""
    folder = tmp_path_factory.mktemp("report")
    params = folder / "params.yaml"
    params.write_text((ROOT / "params.yaml").read_text())
    apply_preset("report", params)
    # Published weights need a network, which a test must not.
    params.write_text(params.read_text().replace("encoder_weights: imagenet", "encoder_weights: null"))
    for config in check_params(params):
        write_config(folder, config)
    return {model: read_config(folder / f"{model}.json") for model in MODELS}


@pytest.mark.parametrize(("model", "passes"), [("unet", 25), ("mobilenet_v2", 15)])
def test_every_photo_is_seen_exactly_once_in_each_of_15_or_25_passes(
    configs: dict[str, ModelConfig],
    tiny_part: CachedPart,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    model: str,
    passes: int,
) -> None:
    seen: list[tuple[int, int]] = []

    class Recording(Augmentation):
        def __call__(self, image: Image, mask: Image, epoch: int, index: int, *more: Any) -> tuple[Image, Image]:
            seen.append((epoch, index))
            return super().__call__(image, mask, epoch, index, *more)

    monkeypatch.setattr(harveyseg.training.trainer, "Augmentation", Recording)
    spec = {"network": "unet", "width": 1}
    checkpoint = Checkpoint(tmp_path, "key")
    list(Training(spec, configs[model].train, tiny_part, np.arange(8), np.arange(8, 12), checkpoint).run())
    assert sorted(seen) == [(epoch, row) for epoch in range(passes) for row in range(8)]


def test_only_mobilenet_differs_in_its_training(configs: dict[str, ModelConfig]) -> None:
    own = configs["mobilenet_v2"].train
    for model in MODELS:
        expected = own if model == "mobilenet_v2" else own.model_copy(update={"epochs": 25})
        assert configs[model].train == expected, model


RATES = [1.34217728e-4, 1.6777216e-4, 2.097152e-4, 2.62144e-4, 3.2768e-4, 4.096e-4, 5.12e-4, 6.4e-4, 8e-4, 1e-3]
"""0.001 times the powers of 0.8, by hand: the photo's side first, the logits' last."""

# The first block behind each of an encoder's stages, which end where the resolution halves. MobileNet-V2 (Sandler et
# al. 2018, table 2): the stem and a block of stride 1, then 2, 3, 4 + 3, 3 + 1 blocks and the last convolution.
# EfficientNets (Tan & Le 2019, table 1): 1, 2, 2, 3, 3, 4, 1 blocks times a depth of 1.1 (B1), 1.2 (B2) or 1.4 (B3),
# rounded up: 2, 3, 3, 4, 4, 5, 2, for B3 2, 3, 3, 5, 5, 6, 2. They halve behind the stem, 2 + 3, 3 and 4 + 4 (5 + 5).
ENDS = {
    "mobilenet_v2": (2, 4, 7, 14, 19),
    "efficientnet_b1": (0, 5, 8, 16, 23),
    "efficientnet_b2": (0, 5, 8, 16, 23),
    "efficientnet_b3": (0, 5, 8, 18, 26),
}


def rate_of(model: str, name: str) -> float:
    """The learning rate of a parameter, by its name."""
    if model not in ENDS:  # five levels down, four steps up (with their gates, or columns of nodes), the head
        place = re.match(r"(encoder\.levels|decoder|gates|columns)\.(\d)", name)
        if place is None:
            assert name.startswith("head.")
            return RATES[-1]
        return RATES[int(place[2]) + (0 if place[1] == "encoder.levels" else 5)]
    if not name.startswith("model.encoder."):
        return RATES[-1] if name.startswith("model.segmentation_head.") else RATES[-2]
    stages = RATES[-7:-2]
    block = re.match(r"model\.encoder\.(features|_blocks)\.(\d+)", name)
    if block is not None:
        return next(rate for end, rate in zip(ENDS[model], stages, strict=True) if int(block[2]) < end)
    # An EfficientNet's stem; its last convolution serves the classifier only.
    return stages[0] if name.startswith(("model.encoder._conv_stem", "model.encoder._bn0")) else stages[-1]


@pytest.mark.parametrize("model", MODELS)
def test_every_parameter_learns_at_the_rate_of_its_depth(
    configs: dict[str, ModelConfig], tiny_part: CachedPart, model: str
) -> None:
    learner = Learner(configs[model].spec, configs[model].train, HARVEY25, tiny_part.photos, steps=1)
    # A subclass that computes the same (tests/training/test_optimiser.py). AdamW is a subclass of Adam, too.
    assert type(learner.optimiser).__bases__ == (torch.optim.Adam,)
    groups = learner.optimiser.param_groups
    assert {group["weight_decay"] for group in groups} == {1e-4}
    assert len(groups) == (7 if model in ENDS else 10)
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    found = {name: rates[id(parameter)] for name, parameter in learner.network.named_parameters()}
    assert found == pytest.approx({name: rate_of(model, name) for name in found})


def flat(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def test_the_page_on_the_report_states_every_setting_of_its_training_and_its_photos() -> None:
    yaml = YAML(typ="safe", pure=True)
    preset = yaml.load(ROOT / "src" / "harveyseg" / "config" / "presets" / "report.yaml")
    page = (ROOT / "docs" / "report.md").read_text(encoding="utf-8")
    stated = {key: yaml.load(value) for key, value in re.findall(r"`([\w.-]+): ([^`{]+)`", page) if key != "network"}
    settings = dict(flat(preset))
    assert {key: settings.get(key, "absent") for key in stated} == stated
    assert not {key for key in settings if key.startswith(("resize-cache.", "split.", "train."))} - stated.keys()


def test_the_loss_of_a_perfect_network_is_the_double_softmax_s_floor(configs: dict[str, ModelConfig]) -> None:
    target = torch.randint(0, 25, (2, 8, 8))
    perfect = 1000 * F.one_hot(target, 25).permute(0, 3, 1, 2).float()
    loss = SegmentationLoss(configs["unet"].train.loss, HARVEY25)(perfect, target)
    assert float(loss) == pytest.approx(math.log(math.e + 24) - 1, abs=1e-5)
