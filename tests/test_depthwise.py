"""Gradients of depthwise convolutions against float64, and that nothing else is touched."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harveyseg.depthwise import DepthwiseGradients
from harveyseg.device import autocast

BF16 = torch.bfloat16
SHAPES = [(3, 1, 1, 1), (5, 1, 2, 1), (3, 2, 0, 1), (5, 2, (2, 1), 1), (3, 1, 2, 2)]
"""Side of the kernel, stride, padding, dilation."""


def _gradients(convolve: Callable[[Tensor, Tensor], Tensor], side: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Output and gradients of bfloat16 numbers, computed in another type."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(2, 24, 19, 22, generator=generator).to(BF16).to(memory_format=torch.channels_last)
    weight = torch.randn(24, 1, side, side, generator=generator).to(BF16)
    leaves = [values.to(dtype).requires_grad_() for values in (inputs, weight)]
    output = convolve(*leaves)
    towards = torch.randn(output.shape, generator=generator).to(BF16).to(output.dtype)
    return output.detach(), *torch.autograd.grad(output, leaves, towards)


@pytest.mark.parametrize(("side", "stride", "padding", "dilation"), SHAPES)
def test_gradients_are_the_exact_ones_rounded(side: int, stride: int, padding: Any, dilation: int) -> None:
    def convolve(inputs: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(inputs, weight, None, stride, padding, dilation, 24)

    _, *exact = _gradients(convolve, side, torch.float64)
    with torch.autocast("cpu", BF16):
        plain_output, *_ = _gradients(convolve, side, torch.float32)
    with autocast(torch.device("cpu"), "bf16"):
        output, *fast = _gradients(convolve, side, torch.float32)
    assert output.dtype == BF16
    assert torch.equal(output, plain_output)
    for gradient, truth in zip(fast, exact, strict=True):
        # Rounding to 8 bits of mantissa is off by at most 1 / 256 of the value; float32 sums add next to nothing.
        torch.testing.assert_close(gradient.double(), truth, rtol=1 / 256, atol=1e-4)
        assert (gradient.to(BF16) == truth.to(BF16)).double().mean() > 0.998


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(8, 8, 3),
        nn.Conv2d(8, 8, 3, groups=2),
        nn.Conv2d(8, 16, 3, groups=8),  # two outputs for each input
        nn.Conv2d(8, 8, 3, groups=8),  # with a bias
        nn.Conv2d(8, 8, 3, groups=8, padding="same", bias=False),
    ],
)
def test_other_convolutions_are_left_as_they_are(layer: nn.Conv2d) -> None:
    photos = torch.zeros(1, 8, 16, 16)
    with torch.autocast("cpu", BF16), DepthwiseGradients():
        assert type(layer(photos).grad_fn).__name__ == "ConvolutionBackward0"


def test_nothing_is_recorded_where_no_gradient_is_wanted() -> None:
    layer = nn.Conv2d(8, 8, 3, groups=8, bias=False)
    photos = torch.zeros(1, 8, 16, 16)
    with torch.inference_mode(), autocast(torch.device("cpu"), "bf16"):
        assert layer(photos).grad_fn is None
    with autocast(torch.device("cpu"), "fp32"):
        assert type(layer(photos).grad_fn).__name__ == "ConvolutionBackward0"
        assert layer(photos).dtype == torch.float32


@pytest.mark.parametrize("encoder", ["mobilenet_v2", "tu-tf_efficientnet_lite0", "efficientnet-b0"])
def test_a_network_gets_the_gradients_of_plain_autocast(encoder: str) -> None:
    """Over a whole network bfloat16 sums differ by chance, so the direction of the step is compared."""
    from harveyseg.models.network import build

    torch.manual_seed(0)
    network = build({"network": "smp", "encoder": encoder}, 25, None).eval().to(memory_format=torch.channels_last)
    photos = torch.randn(2, 3, 64, 64).to(memory_format=torch.channels_last)
    found = []
    for context in (torch.autocast("cpu", BF16), autocast(torch.device("cpu"), "bf16")):
        network.zero_grad()
        with context:
            logits = network(photos)
        logits.float().square().mean().backward()
        gradients = [parameter.grad for parameter in network.parameters()]
        found.append(torch.cat([values.flatten() for values in gradients if values is not None]))
    plain, fast = found
    assert F.cosine_similarity(plain, fast, dim=0) > 0.9999
