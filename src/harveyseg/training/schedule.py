"""The learning rate over time."""

import math

import torch
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    LambdaLR,
    LinearLR,
    LRScheduler,
    ReduceLROnPlateau,
    SequentialLR,
)

from harveyseg.training.params import ScheduleName


def make_schedule(
    name: ScheduleName, optimiser: torch.optim.Optimizer, total_steps: int, patience: int
) -> LRScheduler | ReduceLROnPlateau:
    """Learning rate over time, from each group's own rate.

    * ``constant`` never changes.
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
