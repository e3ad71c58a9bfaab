"""Probability maps from a trained network."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import nn

from harveyseg.device import DeviceName, PrecisionName, autocast, resolve_device, resolve_precision, use_threads
from harveyseg.normalisation import normalise
from harveyseg.settings import Section


class InferenceParams(Section):
    """The section ``inference`` of params.yaml."""

    batch_size: int = Field(default=8, ge=1)
    """Photos that go through the network together."""
    threads: int = Field(default=2, ge=1)
    """CPU threads of the network, and photos scored side by side."""
    device: DeviceName = "auto"
    precision: PrecisionName = "auto"
    """``auto``: bfloat16 where the chip computes with it, else float32."""


def predict(
    network: nn.Module,
    images: npt.NDArray[np.uint8],
    rows: Sequence[int],
    mean: Sequence[float],
    std: Sequence[float],
    params: InferenceParams,
) -> Iterator[npt.NDArray[np.uint8]]:
    """Class probabilities of photos, batch by batch, so that memory stays bounded for any number of them.

    A probability is the softmax of the logits, also for a network trained through a second softmax.

    Args:
        network: (B, 3, H, W) float, normalised -> logits (B, 25, H, W). It is moved to the device, in eval mode.
        images: uint8 RGB (N, H, W, 3), may be a memory map.
        rows: which of ``images``, in which order.
        mean: of each channel of the training photos, on the scale 0..1.
        std: standard deviation of each channel, on the scale 0..1.
        params: batch size, device and precision.

    Yields:
        uint8 (b, 25, H, W): ``round(255 * p)``.

    Raises:
        HarveysegError: when the device is not there.
    """
    use_threads(params.threads)
    device = resolve_device(params.device)
    precision = resolve_precision(params.precision, device)
    network = network.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    for start in range(0, len(rows), params.batch_size):
        batch = torch.from_numpy(images[rows[start : start + params.batch_size]]).to(device)
        inputs = normalise(batch, mean, std)
        with torch.inference_mode(), autocast(device, precision):
            logits = network(inputs)
        with torch.inference_mode():
            scaled = logits.float().softmax(1).mul_(255).round_().to(torch.uint8)
        yield scaled.contiguous().cpu().numpy()
