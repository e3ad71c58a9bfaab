"""The optimiser, learning rates by depth, and the moving average of the weights."""

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import nn

from harveyseg.training.params import OptimiserName

if TYPE_CHECKING:
    from timm.utils.model_ema import ModelEmaV3

Optimiser = TypeVar("Optimiser", bound=torch.optim.Optimizer)


def parameter_groups(
    depth_groups: Sequence[Sequence[nn.Parameter]], lr: float, depth_factor: float
) -> list[dict[str, object]]:
    """Discriminative learning rates: each shallower group's rate is multiplied by ``depth_factor``.

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
    optimiser = _without_compiler(torch.optim.Adam if name == "adam" else torch.optim.AdamW)
    # One kernel for all tensors: EfficientNets have hundreds, and a loop over them takes longer than their arithmetic.
    return optimiser(groups, weight_decay=weight_decay, fused=True)


def _without_compiler(optimiser: type[Optimiser]) -> type[Optimiser]:
    """The same optimiser, whose methods do not import torch's compiler.

    torch wraps them for ``torch.compile``, which is not used here, and each wrapper first imports ``torch._dynamo``
    with sympy and triton, which takes a second and a half. Unwrapped, the very same code runs.
    """
    wrapped = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")
    methods = {name: inspect.unwrap(getattr(optimiser, name)) for name in wrapped}
    methods["step"] = torch.no_grad()(inspect.unwrap(optimiser.step))
    return type(optimiser.__name__, (optimiser,), methods)


def make_moving_average(network: nn.Module, decay: float) -> "ModelEmaV3":
    """Exponential moving average of the weights over the steps (Polyak and Juditsky 1992).

    Floating-point buffers (the statistics of batch norm) are averaged too; counters are copied. Early in training
    a slow average would mostly reflect the random initial weights: before step n of the training the decay is at most
    n / (9 + n). timm counts that n from one less than the ``step`` that its ``update`` is given.

    Returns:
        The average, whose ``module`` is a copy of the network with the averaged weights, in evaluation mode.
    """
    # Imported here: timm takes two seconds to import, and most training runs have no moving average.
    from timm.utils.model_ema import ModelEmaV3

    return ModelEmaV3(network, decay=decay, use_warmup=True, warmup_gamma=9.0, warmup_power=1.0)
