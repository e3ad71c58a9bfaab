"""Building blocks of the U-Nets and their settings; initialisation and errors that other networks share."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from harveyseg.config.settings import Section
from harveyseg.errors import HarveysegError

LEVELS = 5
"""Number of resolutions, each half the one before: 5 double convolutions, 4 max-pools."""


class UnetParams(Section):
    """Settings of the U-Nets written here; the defaults are the report's best network."""

    width: Annotated[int, Field(strict=True, ge=1, le=512)] = 16
    """Channels of the first level; each level below has twice as many. 64 in the U-Net paper."""
    dropout: Annotated[float, Field(strict=True, ge=0, lt=1)] = 0.1
    """Probability of zeroing an element after every max-pool."""
    batch_norm: Literal["none", "encoder", "both"] = "encoder"
    """Where every 3x3 convolution is followed by batch normalisation: nowhere, contracting path, everywhere."""
    initialisation: Literal["he", "pytorch"] = "he"
    """How convolutions start: as in the U-Net paper (He et al. 2015), or as PyTorch's layers start themselves, uniform
    within 1 / sqrt(inputs of one output) and with random biases, as in code that says nothing about it."""
    stem_stride: Literal[1, 2, 4] = 1
    """k: blocks of k x k pixels become channels before the first convolution (space to depth, the inverse of the
    sub-pixel shuffle of Shi et al. 2016). All levels and the logits are k times coarser, so that a photo with k times
    as many rows and columns costs the same."""


def reject_encoder_weights(encoder_weights: str | None) -> None:
    """Refuse pretrained weights for a network that is trained from scratch.

    Raises:
        HarveysegError: when weights are asked for; ignoring them would record a pretraining that did not happen.
    """
    if encoder_weights is not None:
        raise HarveysegError(
            f"encoder_weights = {encoder_weights!r}: this network is trained from scratch, no weights are published "
            "for it. Set `encoder_weights: null` under its `train`, or choose `network: smp`."
        )


def double_conv(inputs: int, outputs: int, batch_norm: bool) -> nn.Sequential:
    """Two 3x3 convolutions, each followed by optional batch norm and ReLU: (B, inputs, H, W) -> (B, outputs, H, W).

    Ronneberger et al. 2015 use unpadded convolutions; padding by 1 keeps the size, so that every pixel gets a class.
    """
    layers: list[nn.Module] = []
    for before, after in pairwise((inputs, outputs, outputs)):
        # Batch norm subtracts the mean of each channel and has an offset of its own, so a bias would do nothing.
        layers.append(nn.Conv2d(before, after, kernel_size=3, padding=1, bias=not batch_norm))
        if batch_norm:
            layers.append(nn.BatchNorm2d(after))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


class ContractingPath(nn.Module):
    """The left half of the U: double convolutions on five levels, with 2x2 max-pool and dropout between them."""

    def __init__(self, width: int, dropout: float, batch_norm: bool, stem_stride: int = 1) -> None:
        """Make the path for photos of 3 channels.

        Args:
            width: channels of the first level.
            dropout: probability of zeroing an element after every max-pool.
            batch_norm: whether batch norm follows every convolution.
            stem_stride: side of the blocks of pixels that become channels, see :class:`UnetParams`.
        """
        super().__init__()
        self.stem_stride = stem_stride
        self.channels = tuple(width * 2**level for level in range(LEVELS))
        self.levels = nn.ModuleList(
            double_conv(before, after, batch_norm) for before, after in pairwise((3 * stem_stride**2, *self.channels))
        )
        self.pool = nn.Sequential(nn.MaxPool2d(2), nn.Dropout(dropout))

    def forward(self, photos: Tensor) -> list[Tensor]:
        """Features of all levels, finest first: level i is (B, width * 2**i, H / k / 2**i, W / k / 2**i).

        Args:
            photos: (B, 3, H, W) float.

        Raises:
            HarveysegError: when H or W is not divisible by 16 k, where k is the stem's stride.
        """
        height, width = photos.shape[-2:]
        multiple = self.stem_stride * 2 ** (LEVELS - 1)
        if height % multiple or width % multiple:
            after = f" after the stem's stride of {self.stem_stride}" if self.stem_stride > 1 else ""
            raise HarveysegError(
                f"photos of {height}x{width} pixels: height and width must be divisible by {multiple}, as the network "
                f"halves them {LEVELS - 1} times{after}."
            )
        if self.stem_stride > 1:
            photos = F.pixel_unshuffle(photos, self.stem_stride)
        features = [self.levels[0](photos)]
        for level in self.levels[1:]:
            features.append(level(self.pool(features[-1])))
        return features


class StepUp(nn.Module):
    """One step of an expansive path: 2x2 up-convolution, concatenation with the skips, double convolution."""

    def __init__(self, channels: int, skips: int, batch_norm: bool) -> None:
        """Make the step that leads from a level of ``2 * channels`` channels up to one of ``channels``.

        Args:
            channels: channels of the level that is reached, of each skip, and of the result.
            skips: number of skips.
            batch_norm: whether batch norm follows every 3x3 convolution.
        """
        super().__init__()
        self.up = nn.ConvTranspose2d(2 * channels, channels, kernel_size=2, stride=2)
        self.convs = double_conv((skips + 1) * channels, channels, batch_norm)

    def forward(self, skips: Sequence[Tensor], below: Tensor) -> Tensor:
        """Combine a coarse level with the skips of the finer one.

        Args:
            skips: each (B, channels, H, W).
            below: (B, 2 * channels, H / 2, W / 2).

        Returns:
            (B, channels, H, W).
        """
        features: Tensor = self.convs(torch.cat([*skips, self.up(below)], dim=1))
        return features


def he_initialise(network: nn.Module) -> None:
    """Draw all convolution weights from N(0, sqrt(2 / N)) and set all biases to 0 (He et al. 2015).

    N is the number of inputs of one output, as in Ronneberger et al. 2015, section 3. For a 2x2 up-convolution with
    stride 2 that is its number of input channels, since each output depends on one pixel only.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            taps = 1 if isinstance(module, nn.ConvTranspose2d) else math.prod(module.kernel_size)
            nn.init.normal_(module.weight, std=math.sqrt(2 / (module.in_channels * taps)))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
