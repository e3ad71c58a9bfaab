"""Optimiser, learning rate by depth, and learning rate over time."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from timm.utils.model_ema import ModelEmaV3
from torch import nn
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    LambdaLR,
    LinearLR,
    LRScheduler,
    ReduceLROnPlateau,
    SequentialLR,
)

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
    """Learning rate over time, from each group's own rate.

    * ``constant``.
    * ``plateau``: a tenth after more than ``patience`` epochs without a lower validation loss. This is the report's
      "adaptive learning rate", although its sentence lowers the rate when validation *improves*, which would stop
      learning.
    * ``cosine``: 5% linear warm-up, then half a cosine to 0.
    * ``one_cycle``: see :func:`one_cycle_factor`.

    ``plateau`` is stepped once an epoch with the validation loss, the others once a batch.
    """
    if name == "plateau":
        return ReduceLROnPlateau(optimiser, mode="min", factor=0.1, patience=patience)
    if name == "one_cycle":
        return LambdaLR(optimiser, lambda step: one_cycle_factor(step, total_steps))
    if name == "cosine":
        warmup = max(1, round(0.05 * total_steps))
        rise = LinearLR(optimiser, start_factor=1 / warmup, total_iters=warmup - 1)
        fall = CosineAnnealingLR(optimiser, T_max=max(1, total_steps - warmup))
        return SequentialLR(optimiser, [rise, fall], milestones=[warmup])
    return ConstantLR(optimiser, factor=1.0)


def one_cycle_factor(step: int, total_steps: int) -> float:
    """The rate of a step from 0, as a share of the highest: 30% of the steps up from a 25th, then down to 0.

    Both ways are half cosines (Smith and Topin 2018). torch's ``OneCycleLR`` starts one step later, so that a training
    of a few steps hardly learns; here the rate has risen before the first step.

    Example:
        >>> [round(one_cycle_factor(step, 10), 2) for step in range(10)]
        [0.28, 0.76, 1.0, 1.0, 0.95, 0.81, 0.61, 0.39, 0.19, 0.05]
    """
    rising = max(1, round(0.3 * total_steps))
    if step < rising:
        return 0.04 + 0.96 * (1 - math.cos(math.pi * (step + 1) / rising)) / 2
    fallen = (step - rising) / max(1, total_steps - rising)
    return (1 + math.cos(math.pi * min(1.0, fallen))) / 2


def make_moving_average(network: nn.Module, decay: float) -> ModelEmaV3:
    """Exponential moving average of the weights over the steps (Polyak and Juditsky 1992).

    Floating-point buffers (the statistics of batch norm) are averaged too; counters are copied. Early on a long memory
    would hold mostly the random start: before step n of the training the decay is at most n / (9 + n). timm counts that
    n from one less than the ``step`` that its ``update`` is given.

    Returns:
        The average, whose ``module`` is a copy of the network with the averaged weights, in evaluation mode.
    """
    return ModelEmaV3(network, decay=decay, use_warmup=True, warmup_gamma=9.0, warmup_power=1.0)
