"""The learner's parts are put together as the recipe says."""

import pytest
import torch

from harveyseg.data.cache import CachedPart
from harveyseg.training.learner import Learner, at_output_stride
from helpers.training import SPEC, train_params


@pytest.mark.parametrize("scheme", ["report", "enet", "sqrt"])
def test_classes_without_a_pixel_weigh_nothing_and_are_warned_of(
    tiny_part: CachedPart, caplog: pytest.LogCaptureFixture, scheme: str
) -> None:
    learner = Learner(SPEC, train_params(class_weights=scheme), tiny_part.photos, steps=1)
    (warning,) = caplog.messages
    assert "3 Swimming Pool" in warning
    assert "5 Grass" not in warning
    assert learner.loss.pixel_weights is not None
    assert learner.loss.pixel_weights.nonzero().flatten().tolist() == [5, 23]


@pytest.mark.parametrize("stride", [2, 4])
def test_the_target_is_the_pixel_right_below_the_centre_of_each_block(stride: int) -> None:
    target = torch.arange(64).reshape(1, 8, 8)
    taken = at_output_stride(target, torch.zeros(1, 25, 8 // stride, 8 // stride))
    expected = {
        2: [[9, 11, 13, 15], [25, 27, 29, 31], [41, 43, 45, 47], [57, 59, 61, 63]],
        4: [[18, 22], [50, 54]],
    }
    assert taken.tolist() == [expected[stride]]
    assert torch.equal(at_output_stride(target, torch.zeros(1, 25, 8, 8)), target)


def test_the_average_is_what_is_written(tiny_part: CachedPart) -> None:
    learner = Learner(SPEC, train_params(optimiser={"ema": 0.9}), tiny_part.photos, steps=1)
    before = learner.weights()
    with torch.no_grad():
        for parameter in learner.network.parameters():
            parameter.add_(1)
    assert all(torch.equal(value, before[name]) for name, value in learner.weights().items())
    plain = Learner(SPEC, train_params(), tiny_part.photos, steps=1)
    assert plain.averaged is plain.network
