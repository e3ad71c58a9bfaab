"""SegNet (Badrinarayanan, Kendall & Cipolla 2017, "SegNet: A Deep Convolutional Encoder-Decoder Architecture [...]").

As in the paper: the 13 convolutions of VGG16 in five stages, each of which ends in a 2x2 max-pool that remembers where
each maximum was; a mirrored decoder that puts the values back to these positions, leaves 0 elsewhere, and makes the
sparse maps dense by convolutions. All convolutions are 3x3 and followed by batch norm and ReLU, except the last one,
which returns the logits. Only the positions pass from the encoder to the decoder. Like the report's own networks,
SegNet is trained from scratch.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from harveyseg.config.settings import Section
from harveyseg.errors import HarveysegError
from harveyseg.models.blocks import he_initialise, reject_encoder_weights
from harveyseg.models.network import Network

TAKES_ENCODER_WEIGHTS = False


class Params(Section):
    """Settings of SegNet."""

    width: Annotated[int, Field(strict=True, ge=1, le=512)] = 64
    """Channels of the first stage, the paper's by default; the stages have 1, 2, 4, 8 and 8 times as many."""


class SegNet(Network):
    """(B, 3, H, W) -> logits (B, classes, H, W), for H and W divisible by 32."""

    def __init__(self, params: Params, classes: int) -> None:
        """Make the network with He-initialised weights, as in the paper."""
        super().__init__()
        w = params.width
        self.encoder = nn.ModuleList(
            [
                _convolutions(3, w, w),
                _convolutions(w, 2 * w, 2 * w),
                _convolutions(2 * w, 4 * w, 4 * w, 4 * w),
                _convolutions(4 * w, 8 * w, 8 * w, 8 * w),
                _convolutions(8 * w, 8 * w, 8 * w, 8 * w),
            ]
        )
        # Deepest first, as they run.
        self.decoder = nn.ModuleList(
            [
                _convolutions(8 * w, 8 * w, 8 * w, 8 * w),
                _convolutions(8 * w, 8 * w, 8 * w, 4 * w),
                _convolutions(4 * w, 4 * w, 4 * w, 2 * w),
                _convolutions(2 * w, 2 * w, w),
                _convolutions(w, w),
            ]
        )
        self.head = nn.Conv2d(w, classes, kernel_size=3, padding=1)
        he_initialise(self)

    def forward(self, photos: Tensor) -> Tensor:
        """See :meth:`harveyseg.models.network.Network.forward`."""
        height, width = photos.shape[-2:]
        multiple = 2 ** len(self.encoder)
        if height % multiple or width % multiple:
            raise HarveysegError(
                f"photos of {height}x{width} pixels: height and width must be divisible by {multiple}, as the network "
                f"halves them {len(self.encoder)} times."
            )
        features = photos
        positions = []
        for stage in self.encoder:
            features, indices = F.max_pool2d(stage(features), kernel_size=2, return_indices=True)
            positions.append(indices)
        for stage, indices in zip(self.decoder, reversed(positions), strict=True):
            features = stage(unpool(features, indices))
        logits: Tensor = self.head(features)
        return logits

    def depth_groups(self) -> list[list[nn.Parameter]]:
        """Five stages down, five up, the head."""
        return [list(layer.parameters()) for layer in (*self.encoder, *self.decoder, self.head)]


def unpool(values: Tensor, indices: Tensor) -> Tensor:
    """Undo a 2x2 max-pool: each value goes back to where it was the maximum, 0 fills the other three pixels.

    The same as ``F.max_unpool2d``, which torch calls nondeterministic, since a position could occur twice. In 2x2
    windows that do not overlap none does, and a scatter is deterministic. It also keeps bfloat16, unlike autocast.

    >>> import torch
    >>> values, indices = F.max_pool2d(torch.tensor([[[[1.0, 2.0], [4.0, 3.0]]]]), 2, return_indices=True)
    >>> unpool(values, indices).tolist()
    [[[[0.0, 0.0], [4.0, 0.0]]]]

    Args:
        values: (B, C, H, W).
        indices: int64 (B, C, H, W), as ``F.max_pool2d(..., return_indices=True)`` returns them: positions in the
            flattened plane of the result.

    Returns:
        (B, C, 2 H, 2 W).
    """
    batch, channels, height, width = values.shape
    sparse = values.new_zeros(batch, channels, 4 * height * width)
    sparse = sparse.scatter(2, indices.flatten(2), values.flatten(2))
    return sparse.view(batch, channels, 2 * height, 2 * width)


def _convolutions(*channels: int) -> nn.Sequential:
    """3x3 convolutions from each number of channels to the next, each followed by batch norm and ReLU."""
    return nn.Sequential(*(layer for pair in pairwise(channels) for layer in _convolution(*pair)))


def _convolution(inputs: int, outputs: int) -> Sequence[nn.Module]:
    # Batch norm subtracts the mean of each channel and has an offset of its own, so a bias would do nothing.
    convolution = nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False)
    return convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)


def build(params: Params, classes: int, encoder_weights: str | None) -> SegNet:
    """Make a SegNet from scratch.

    >>> import torch
    >>> network = build(Params(width=16), classes=25, encoder_weights=None)
    >>> network(torch.zeros(1, 3, 64, 96)).shape
    torch.Size([1, 25, 64, 96])

    Raises:
        HarveysegError: when ``encoder_weights`` is not ``None``.
    """
    reject_encoder_weights(encoder_weights)
    return SegNet(params, classes)
