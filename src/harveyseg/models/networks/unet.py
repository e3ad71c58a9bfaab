"""U-Net (Ronneberger, Fischer & Brox 2015, "U-Net: Convolutional Networks for Biomedical Image Segmentation").

As in the paper: five double 3x3 convolutions with max-pools between them, 2x2 up-convolutions, concatenated skips, a
1x1 convolution to the classes. As in the report: 16 instead of 64 channels on the first level, batch norm after every
convolution of the contracting path, dropout 0.1 after every max-pool. Unlike the paper, convolutions are padded.
"""

from torch import Tensor, nn

from harveyseg.models.blocks import ContractingPath, StepUp, UnetParams, he_initialise, reject_encoder_weights
from harveyseg.models.network import Network

TAKES_ENCODER_WEIGHTS = False


class Params(UnetParams):
    """Settings of the U-Net."""


class Unet(Network):
    """(B, 3, H, W) -> logits (B, classes, H / k, W / k), for H and W divisible by 16 k, where k is ``stem_stride``."""

    def __init__(self, params: Params, classes: int) -> None:
        """Make the network with random weights."""
        super().__init__()
        self.encoder = ContractingPath(params.width, params.dropout, params.batch_norm != "none", params.stem_stride)
        *finer, _ = self.encoder.channels
        # Deepest step first, as they run.
        self.decoder = nn.ModuleList(StepUp(channels, 1, params.batch_norm == "both") for channels in reversed(finer))
        self.head = nn.Conv2d(params.width, classes, kernel_size=1)
        if params.initialisation == "he":
            he_initialise(self)

    def forward(self, photos: Tensor) -> Tensor:
        """See :meth:`harveyseg.models.network.Network.forward`."""
        *skips, features = self.encoder(photos)
        for step, skip in zip(self.decoder, reversed(skips), strict=True):
            features = step([skip], features)
        logits: Tensor = self.head(features)
        return logits

    def depth_groups(self) -> list[list[nn.Parameter]]:
        """Five levels down, four steps up, the head."""
        layers = [*self.encoder.levels, *self.decoder, self.head]
        return [list(layer.parameters()) for layer in layers]


def build(params: Params, classes: int, encoder_weights: str | None) -> Unet:
    """Make a U-Net from scratch.

    >>> import torch
    >>> network = build(Params(stem_stride=2), classes=25, encoder_weights=None)
    >>> network(torch.zeros(1, 3, 64, 96)).shape
    torch.Size([1, 25, 32, 48])

    Raises:
        HarveysegError: when ``encoder_weights`` is not ``None``.
    """
    reject_encoder_weights(encoder_weights)
    return Unet(params, classes)
