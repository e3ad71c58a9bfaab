"""Attention U-Net (Oktay et al. 2018, "Attention U-Net: Learning Where to Look for the Pancreas").

The U-Net of :mod:`harveyseg.models.networks.unet`, whose skips pass through additive grid attention gates. As in the
paper, the gating signal is the next coarser level of the expansive path (at the deepest gate: the bottom of the U), and
the first skip, at full resolution, has no gate, since its features do not yet represent the photo in a high-dimensional
space.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harveyseg.models.blocks import ContractingPath, StepUp, UnetParams, he_initialise, reject_encoder_weights
from harveyseg.models.network import Network

TAKES_ENCODER_WEIGHTS = False


class Params(UnetParams):
    """Settings of the Attention U-Net."""


class AttentionGate(nn.Module):
    """Additive grid attention gate (Oktay et al. 2018, equations 1 and 2).

    For features x (C channels) and a gating signal g (2C channels) on a grid half as fine::

        q     = psi^T relu(W_x x + W_g g + b_g) + b_psi        one value per cell of the grid
        alpha = sigmoid(q), bilinearly resampled to the grid of x
        x_hat = alpha * x                                      the same alpha for all channels

    W_g and psi are 1x1 convolutions. W_x also brings x to the grid of g: as in the authors' code, it is a 2x2
    convolution with stride 2 and without bias, so that each cell sees all its four pixels. The intermediate space has C
    dimensions.
    """

    def __init__(self, channels: int) -> None:
        """Make the gate for a skip of ``channels`` channels."""
        super().__init__()
        self.w_x = nn.Conv2d(channels, channels, kernel_size=2, stride=2, bias=False)
        self.w_g = nn.Conv2d(2 * channels, channels, kernel_size=1)
        self.psi = nn.Conv2d(channels, 1, kernel_size=1)

    def forward(self, skip: Tensor, gating: Tensor) -> Tensor:
        """Weaken the parts of a skip that the coarser level does not need.

        Args:
            skip: x, (B, C, H, W).
            gating: g, (B, 2C, H / 2, W / 2).

        Returns:
            x_hat, (B, C, H, W).
        """
        attention = torch.sigmoid(self.psi(F.relu(self.w_x(skip) + self.w_g(gating))))
        return skip * F.interpolate(attention, size=skip.shape[-2:], mode="bilinear", align_corners=False)


class AttentionUnet(Network):
    """(B, 3, H, W) -> logits (B, classes, H / k, W / k), for H and W divisible by 16 k, where k is ``stem_stride``."""

    def __init__(self, params: Params, classes: int) -> None:
        """Make the network with random weights."""
        super().__init__()
        self.encoder = ContractingPath(params.width, params.dropout, params.batch_norm != "none", params.stem_stride)
        *finer, _ = self.encoder.channels
        # Deepest first, as they run; the last step up has no gate.
        self.gates = nn.ModuleList(AttentionGate(channels) for channels in reversed(finer[1:]))
        self.decoder = nn.ModuleList(StepUp(channels, 1, params.batch_norm == "both") for channels in reversed(finer))
        self.head = nn.Conv2d(params.width, classes, kernel_size=1)
        if params.initialisation == "he":
            he_initialise(self)

    def forward(self, photos: Tensor) -> Tensor:
        """See :meth:`harveyseg.models.network.Network.forward`."""
        first, *skips, features = self.encoder(photos)
        *steps, last = self.decoder
        for gate, step, skip in zip(self.gates, steps, reversed(skips), strict=True):
            features = step([gate(skip, features)], features)
        logits: Tensor = self.head(last([first], features))
        return logits

    def depth_groups(self) -> list[list[nn.Parameter]]:
        """Five levels down, four steps up, each with its gate, the head."""
        *steps, last = self.decoder
        groups = [list(level.parameters()) for level in self.encoder.levels]
        for gate, step in zip(self.gates, steps, strict=True):
            groups.append([*gate.parameters(), *step.parameters()])
        return [*groups, list(last.parameters()), list(self.head.parameters())]


def build(params: Params, classes: int, encoder_weights: str | None) -> AttentionUnet:
    """Make an Attention U-Net from scratch.

    >>> network = build(Params(stem_stride=2), classes=25, encoder_weights=None)
    >>> network(torch.zeros(1, 3, 64, 96)).shape
    torch.Size([1, 25, 32, 48])

    Raises:
        HarveysegError: when ``encoder_weights`` is not ``None``.
    """
    reject_encoder_weights(encoder_weights)
    return AttentionUnet(params, classes)
