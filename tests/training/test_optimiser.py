import subprocess
import sys

import pytest
import torch
from torch import nn

from harveyseg.training.optimiser import make_moving_average, make_optimiser, parameter_groups
from harveyseg.training.params import OptimiserName


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


@pytest.mark.parametrize(("name", "torchs"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
def test_the_optimiser_is_torchs_to_the_bit_also_when_it_is_resumed(
    name: OptimiserName, torchs: type[torch.optim.Adam]
) -> None:
    generator = torch.Generator().manual_seed(0)
    start, gradients = torch.randn(50, generator=generator), torch.randn(4, 50, generator=generator)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    mine = make_optimiser(name, parameter_groups([[ours]], 0.1, 1.0), 0.3)
    other = torchs([theirs], lr=0.1, weight_decay=0.3, fused=True)
    for step, gradient in enumerate(gradients):
        if step == 2:
            state = mine.state_dict()
            mine = make_optimiser(name, parameter_groups([[ours]], 0.1, 1.0), 0.3)
            mine.load_state_dict(state)
        for optimiser, parameter in ((mine, ours), (other, theirs)):
            optimiser.zero_grad(set_to_none=True)
            assert parameter.grad is None
            parameter.grad = gradient.clone()
            optimiser.step()
    assert ours.requires_grad
    assert torch.equal(ours, theirs)
    assert str(mine.state_dict()) == str(other.state_dict())


_STEPS = """
import sys
import torch
from torch import nn
from harveyseg.device import seed_everything
from harveyseg.training.optimiser import make_optimiser, parameter_groups
from harveyseg.training.schedule import make_schedule

seed_everything(0)
assert torch.are_deterministic_algorithms_enabled() and torch.is_deterministic_algorithms_warn_only_enabled()
layer = nn.Linear(2, 1)
optimiser = make_optimiser("adamw", parameter_groups([list(layer.parameters())], 0.1, 1.0), 0.01)
schedule = make_schedule("one_cycle", optimiser, 2, patience=3)
for _ in range(2):
    optimiser.zero_grad(set_to_none=True)
    layer(torch.ones(1, 2)).sum().backward()
    optimiser.step()
    schedule.step()
optimiser.load_state_dict(optimiser.state_dict())
print(*(name for name in ("sympy", "torch._dynamo", "torch._inductor", "triton") if name in sys.modules))
"""


def test_a_training_does_not_import_torchs_compiler() -> None:
    ran = subprocess.run([sys.executable, "-c", _STEPS], capture_output=True, text=True, timeout=300, check=True)
    assert ran.stdout.split() == []


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
