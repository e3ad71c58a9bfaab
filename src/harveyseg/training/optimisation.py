"""Optimiser, learning rate by depth, and learning rate over time."""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from harveyseg.config.settings import Section

OptimiserName = Literal["adam", "adamw"]
ScheduleName = Literal["constant", "plateau", "cosine", "one_cycle"]


class OptimiserParams(Section):
    """Group ``train.optimiser``: how the weights move."""

    name: OptimiserName
    """Adam with an L2 penalty, or AdamW with decoupled weight decay."""
    weight_decay: float = Field(ge=0)
    """Strength of that penalty or decay."""
    depth_factor: float = Field(default=1.0, gt=0, le=1)
    """Discriminative learning rate: each shallower group's rate is this times the next deeper one's; 1 is off."""
    ema: float | None = Field(default=None, gt=0, lt=1)
    """Decay of the exponential moving average of the weights; null is off."""


class ScheduleParams(Section):
    """Group ``train.schedule``: the learning rate over time, see :func:`make_schedule`."""

    name: ScheduleName
    """How the learning rate changes: never, by the validation loss, or over all steps."""
    plateau_patience: int = Field(ge=0)
    """Epochs without a lower validation loss after which ``plateau`` divides the rate by ten."""


def parameter_groups(
    depth_groups: Sequence[Sequence[nn.Parameter]], lr: float, depth_factor: float
) -> list[dict[str, object]]:
    """Discriminative learning rates: the deepest group gets ``lr``, each shallower one ``depth_factor`` times less.

    Report, "Optimization strategy": "make the shallow layer of the model have a smaller learning rate, and the deeper
    layer [...] a higher". It gives no numbers. The method is ULMFiT's (Howard and Ruder 2018), who divide by 2.6.

    Args:
        depth_groups: parameters of the network, shallow to deep.
        lr: learning rate of the deepest group.
        depth_factor: 1 switches the method off.

    >>> shallow, deep = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    >>> [group["lr"] for group in parameter_groups([[shallow], [deep]], lr=0.001, depth_factor=0.5)]
    [0.0005, 0.001]
    """
    last = len(depth_groups) - 1
    return [
        {"params": list(group), "lr": lr * depth_factor ** (last - depth)} for depth, group in enumerate(depth_groups)
    ]


def make_optimiser(name: OptimiserName, groups: list[dict[str, object]], weight_decay: float) -> torch.optim.Optimizer:
    """Adam (L2 penalty in the gradient, as the report used it) or AdamW (decoupled; Loshchilov and Hutter 2019)."""
    optimiser = torch.optim.Adam if name == "adam" else torch.optim.AdamW
    # One kernel for all tensors: EfficientNets have hundreds, and a loop over them takes longer than their arithmetic.
    return optimiser(groups, weight_decay=weight_decay, fused=True)


def make_schedule(
    name: ScheduleName, optimiser: torch.optim.Optimizer, total_steps: int, patience: int
) -> LRScheduler | ReduceLROnPlateau:
    """Learning rate over time, as a factor on each group's own rate.

    * ``constant``.
    * ``plateau``: a tenth after more than ``patience`` epochs without a lower validation loss. This is the report's
      "adaptive learning rate", although its sentence lowers the rate when validation *improves*, which would stop
      learning.
    * ``cosine``: 5% linear warm-up, then half a cosine to 0.
    * ``one_cycle``: 30% rising from a 25th, then down to 0, both as half cosines (Smith and Topin 2018).

    ``plateau`` is stepped once an epoch with the validation loss, the others once a batch.
    """
    if name == "plateau":
        return ReduceLROnPlateau(optimiser, mode="min", factor=0.1, patience=patience)

    def factor(step: int) -> float:
        if name == "constant":
            return 1.0
        warmup = max(1, round((0.05 if name == "cosine" else 0.3) * total_steps))
        if step < warmup:
            rise = (step + 1) / warmup
            return rise if name == "cosine" else 0.04 + 0.96 * (1 - math.cos(math.pi * rise)) / 2
        fall = (step - warmup) / max(1, total_steps - warmup)
        return (1 + math.cos(math.pi * min(1.0, fall))) / 2

    return LambdaLR(optimiser, factor)


class ExponentialMovingAverage:
    """Average of the weights over the steps (Polyak and Juditsky 1992), with the usual warm-up of the decay.

    Floating-point buffers (the statistics of batch norm) are averaged too; counters are copied.

    Args:
        network: the trained network, as it starts.
        decay: share of the average that stays at each step, once warmed up.

    Attributes:
        network: a copy of the network with the averaged weights, in evaluation mode.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self._decay = decay
        self._steps = 0

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Add the weights after one more step."""
        self._steps += 1
        # Early on a long memory would hold mostly the random start.
        decay = min(self._decay, (1 + self._steps) / (10 + self._steps))
        averages = self.network.state_dict()
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                averages[name].lerp_(value, 1 - decay)
            else:
                averages[name].copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed training needs."""
        return {"steps": self._steps, "network": self.network.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        self._steps = state["steps"]
        self.network.load_state_dict(state["network"])
