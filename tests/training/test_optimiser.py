import pytest
import torch
from torch import nn

from harveyseg.training.optimiser import make_moving_average, make_optimiser, parameter_groups


def test_each_shallower_group_learns_slower_by_the_factor() -> None:
    layers = [[nn.Parameter(torch.zeros(1))] for _ in range(4)]
    groups = parameter_groups(layers, 0.8, 0.5)
    assert [group["lr"] for group in groups] == pytest.approx([0.1, 0.2, 0.4, 0.8])
    assert [group["params"] for group in groups] == layers


def test_adam_adds_weight_decay_to_the_gradient_and_adamw_does_not() -> None:
    for name, expected in (("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)):
        ours, theirs = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
        mine = make_optimiser(name, parameter_groups([[ours]], 0.1, 1.0), 0.3)  # type: ignore[arg-type]
        other = expected([theirs], lr=0.1, weight_decay=0.3)
        for _ in range(3):
            ours.grad = theirs.grad = torch.full((3,), 0.5)
            mine.step()
            other.step()
        torch.testing.assert_close(ours, theirs)


def test_the_moving_average_equals_the_recursion_by_hand() -> None:
    layer = nn.BatchNorm1d(1)
    average = make_moving_average(layer, 0.2)  # reached at the second step
    expected = 1.0  # the initial weight
    for step, value in enumerate([4.0, 8.0, 2.0], start=1):
        with torch.no_grad():
            layer.weight.fill_(value)
            layer.get_buffer("running_mean").fill_(value)
            layer.get_buffer("num_batches_tracked").fill_(step)
        average.update(layer, step=step + 2)
        decay = min(0.2, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    assert average.module.weight.item() == pytest.approx(expected)
    assert int(average.module.get_buffer("num_batches_tracked")) == 3
    assert not average.module.training
