import math

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from harveyseg.training.optimiser import make_optimiser, parameter_groups
from harveyseg.training.params import ScheduleName
from harveyseg.training.schedule import make_schedule


def _optimiser(lr: float = 1.0) -> torch.optim.Optimizer:
    return make_optimiser("adam", parameter_groups([[nn.Parameter(torch.zeros(1))]], lr, 1.0), 0.0)


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
