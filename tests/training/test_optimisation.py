import math

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from harveyseg.training.optimisation import (
    ScheduleName,
    make_moving_average,
    make_optimiser,
    make_schedule,
    parameter_groups,
)


def _optimiser(lr: float = 1.0) -> torch.optim.Optimizer:
    return make_optimiser("adam", parameter_groups([[nn.Parameter(torch.zeros(1))]], lr, 1.0), 0.0)


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


def _rates(name: ScheduleName, steps: int) -> list[float]:
    optimiser = _optimiser()
    schedule = make_schedule(name, optimiser, steps, 0)
    rates = []
    for _ in range(steps):
        rates.append(float(optimiser.param_groups[0]["lr"]))
        optimiser.step()
        assert not isinstance(schedule, ReduceLROnPlateau)
        schedule.step()
    return rates


def test_constant_stays() -> None:
    assert _rates("constant", 5) == [1.0] * 5


def test_cosine_follows_its_closed_form() -> None:
    rates = _rates("cosine", 100)
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[50] == pytest.approx((1 + math.cos(math.pi * 45 / 95)) / 2)
    assert rates[-1] < 0.001


def test_one_cycle_rises_for_three_tenths_then_falls() -> None:
    rates = _rates("one_cycle", 100)
    assert rates[0] == pytest.approx(0.04, abs=0.01)
    assert max(rates) == pytest.approx(1.0)
    assert rates.index(max(rates)) in {29, 30}
    assert rates[:30] == sorted(rates[:30])
    assert rates[30:] == sorted(rates[30:], reverse=True)


def test_plateau_lowers_the_rate_only_when_the_loss_stops_falling() -> None:
    optimiser = _optimiser()
    schedule = make_schedule("plateau", optimiser, 1, 1)
    assert isinstance(schedule, ReduceLROnPlateau)
    for loss in (3.0, 2.0, 1.0):
        schedule.step(loss)
    assert optimiser.param_groups[0]["lr"] == 1.0
    for loss in (1.0, 1.0):
        schedule.step(loss)
    assert optimiser.param_groups[0]["lr"] == pytest.approx(0.1)


def test_the_moving_average_equals_the_recursion_by_hand() -> None:
    layer = nn.BatchNorm1d(1)
    average = make_moving_average(layer, 0.5)
    expected = 1.0  # the initial weight
    for step, value in enumerate([4.0, 8.0, 2.0], start=1):
        with torch.no_grad():
            layer.weight.fill_(value)
            layer.get_buffer("running_mean").fill_(value)
            layer.get_buffer("num_batches_tracked").fill_(step)
        average.update(layer, step=step + 2)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    assert average.module.weight.item() == pytest.approx(expected)
    assert int(average.module.get_buffer("num_batches_tracked")) == 3
    assert not average.module.training
