"""Gradients of depthwise convolutions in bfloat16 on a CPU: computed in float32, which is many times faster.

oneDNN, which computes torch's convolutions, has no fast kernel for these gradients in bfloat16, and falls back to a
plain loop: 40% of a step of an EfficientNet-Lite0 (``benchmarks/speed.py --part steps``).
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode


class DepthwiseGradients(TorchFunctionMode):
    """A context beside autocast to bfloat16 on the CPU, in which depthwise convolutions have fast gradients.

    Forward passes do not change by a bit. The gradients are those of the same bfloat16 numbers, rounded to bfloat16 as
    torch's own are. A sum is taken in another order, which changes the last place of about one gradient in a million,
    and of one in fifty thousand of those of weights.

    >>> conv = torch.nn.Conv2d(8, 8, kernel_size=3, groups=8, bias=False)
    >>> with torch.autocast("cpu", torch.bfloat16), DepthwiseGradients():
    ...     type(conv(torch.zeros(1, 8, 5, 5)).grad_fn).__name__
    '_DepthwiseConvolutionBackward'
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Collection[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Take the convolutions that are meant, and leave everything else as it is."""
        arguments = kwargs or {}
        if func is torch.conv2d and torch.is_grad_enabled():
            depthwise = _depthwise(*args, **arguments)
            if depthwise is not None:
                return depthwise
        return func(*args, **arguments)


def _depthwise(
    input: Tensor,  # torch's own name, which callers may use
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor | None:
    """The convolution of ``torch.conv2d`` if it is a depthwise one without bias, else None."""
    if groups == 1 or not groups == input.shape[1] == weight.shape[0] or bias is not None or isinstance(padding, str):
        return None
    dtype = torch.get_autocast_dtype("cpu")
    steps = (_pair(stride), _pair(padding), _pair(dilation))
    convolved: Tensor = _DepthwiseConvolution.apply(input.to(dtype), weight.to(dtype), *steps)
    return convolved


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    return value[0], value[-1]


class _DepthwiseConvolution(torch.autograd.Function):
    """A depthwise convolution of bfloat16 numbers whose gradients are computed in float32."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        weight: Tensor,
        stride: tuple[int, int],
        padding: tuple[int, int],
        dilation: tuple[int, int],
    ) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        ctx.steps = (stride, padding, dilation)
        return torch.conv2d(inputs, weight, None, stride, padding, dilation, len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight = ctx.saved_tensors
        of_inputs, of_weight, _ = torch.ops.aten.convolution_backward(
            gradient.float(),
            inputs.float(),
            weight.float(),
            None,
            *ctx.steps,
            False,  # not transposed
            (0, 0),
            len(weight),
            (ctx.needs_input_grad[0], ctx.needs_input_grad[1], False),
        )
        rounded = (values if values is None else values.to(inputs.dtype) for values in (of_inputs, of_weight))
        return *rounded, None, None, None
