"""A network that brings its own loss goes through the same training as all others."""

from pathlib import Path
from typing import Any

import pytest
import torch

from harveyseg.classes import HARVEY25
from harveyseg.data.cache import CachedPart
from harveyseg.errors import HarveysegError
from harveyseg.inference.network_file import load_network, save_network
from harveyseg.training.learner import Learner
from helpers.training import make_training, train, train_params

SPEC: dict[str, Any] = {"network": "mask_rcnn", "objects": ["Flooded"], "channels": 8, "encoder": "resnet18"}
RECIPE: dict[str, Any] = {"precision": "bf16", "optimiser": {"ema": 0.9}, "accumulate": 2, "epochs": 2, "lr": 0.001}


def test_a_training_that_stopped_after_an_epoch_ends_in_the_same_weights(tiny_part: CachedPart, tmp_path: Path) -> None:
    whole = train(tiny_part, tmp_path / "whole", SPEC, **RECIPE)
    events = make_training(tiny_part, tmp_path / "stopped", SPEC, **RECIPE).run()
    next(events)
    events.close()
    torch.manual_seed(99)  # a new process starts elsewhere
    resumed = train(tiny_part, tmp_path / "stopped", SPEC, **RECIPE)
    assert all(torch.equal(value, resumed.state[name]) for name, value in whole.state.items())
    figures = ("train_loss", "val_loss", "val_argmax_score")
    assert [[row[key] for key in figures] for row in whole.history] == [
        [row[key] for key in figures] for row in resumed.history
    ]
    assert whole.history[1]["train_loss"] < whole.history[0]["train_loss"]


def test_its_own_loss_trains_and_the_settings_loss_validates(
    tiny_part: CachedPart, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = Learner(SPEC, train_params(accumulate=2), HARVEY25, tiny_part.photos, steps=1)
    losses = iter([torch.tensor(3.0, requires_grad=True), torch.tensor(9.0, requires_grad=True)])
    monkeypatch.setattr(learner, "_own_loss", lambda photos, masks: next(losses))
    images, masks = torch.from_numpy(tiny_part.images[:3]), torch.from_numpy(tiny_part.masks[:3])  # type: ignore[index]
    # Parts of two photos and of one: the mean over the three.
    assert learner.train_epoch([((images, masks), None)]) == pytest.approx((2 * 3 + 9) / 3)
    monkeypatch.undo()
    assert tiny_part.masks is not None
    found = learner.validate(tiny_part.images, tiny_part.masks, range(2), 2)
    assert 0 < found["val_loss"] < 14  # -ln 1e-6 is 13.8: cross-entropy of the painted maps


def test_its_weights_are_read_back(tiny_part: CachedPart, tmp_path: Path) -> None:
    learner = Learner(SPEC, train_params(), HARVEY25, tiny_part.photos, steps=1)
    path = tmp_path / "weights.safetensors"
    save_network(path, learner.weights(), SPEC, learner.mean, learner.std, (32, 32), HARVEY25)
    read = load_network(path).network.state_dict()
    assert all(torch.equal(value, read[name]) for name, value in learner.weights().items())


def test_pseudo_labels_are_refused(tiny_part: CachedPart) -> None:
    params = train_params(optimiser={"ema": 0.9}, self_training={"weight": 1.0, "start": 0.0, "confidence": 0.5})
    with pytest.raises(HarveysegError, match=r"^train\.self_training: .* Set `self_training: null` under its `train`"):
        Learner(SPEC, params, HARVEY25, tiny_part.photos, steps=1)
