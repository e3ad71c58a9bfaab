"""Networks whose probabilities are known in closed form, and the maps that they predict."""

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from harveyseg.inference.params import InferenceParams
from harveyseg.inference.predictor import predict_maps

MEAN = (0.2, 0.4, 0.6)
STD = (0.5, 0.25, 0.1)
FP32 = InferenceParams(threads=1, device="cpu", precision="fp32")


class FirstChannels(nn.Module):
    """Logit of class c: the normalised channel c for c < 3, else 0. Dropout and batch norm only act in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3, eps=1e-30)  # nothing in float32; some PyTorch releases refuse 0
        self.dropout = nn.Dropout(0.9)
        self.sizes: list[tuple[int, ...]] = []

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.sizes.append((len(inputs), *inputs.shape[2:]))
        channels = self.dropout(self.norm(inputs))
        return torch.cat((channels, channels.new_zeros(len(inputs), 22, *inputs.shape[2:])), 1)


class Places(nn.Module):
    """Logits that depend on the place and on nothing else: class 1 grows downwards, class 2 to the right."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        height, width = inputs.shape[2:]
        logits = inputs.new_zeros(len(inputs), 25, height, width)
        logits[:, 1] = torch.linspace(0, 5, height)[:, None]
        logits[:, 2] = torch.linspace(0, 4, width)
        return logits


class Coarse(nn.Module):
    """Logits at a fraction of the photo's size: class c < 3 is the mean of channel c over a block of pixels."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        small = functional.avg_pool2d(inputs, self.stride)
        return torch.cat((small, small.new_zeros(len(small), 22, *small.shape[2:])), 1)


def images(height: int = 4, width: int = 6, count: int = 7) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3)).astype(np.uint8)


def maps_of(network: nn.Module, photos: npt.NDArray[np.uint8], params: InferenceParams = FP32) -> npt.NDArray[np.uint8]:
    maps = predict_maps(network, photos, range(len(photos)), MEAN, STD, params)
    whole = np.concatenate(list(maps.batches))
    assert maps.size == whole.shape[2:]
    return whole


def difference(first: npt.NDArray[np.uint8], second: npt.NDArray[np.uint8]) -> int:
    """The largest absolute difference, in levels."""
    assert first.shape == second.shape
    return int(np.abs(first.astype(int) - second.astype(int)).max())
