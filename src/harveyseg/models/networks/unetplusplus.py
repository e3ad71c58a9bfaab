"""U-Net++ (Zhou et al. 2018, "UNet++: A Nested U-Net Architecture for Medical Image Segmentation").

Nested skip pathways on five levels (equation 1): with level i and position j along its pathway,

    X[i, 0] = H(X[i-1, 0])                                        the contracting path, with pooling
    X[i, j] = H([X[i, 0], ..., X[i, j-1], U(X[i+1, j-1])])        for j >= 1 and i + j <= 4

where [] concatenates channels, U is a 2x2 up-convolution and H a double 3x3 convolution, as in the authors' code. The
logits come from X[0, 4]. The paper's optional deep supervision (further losses at X[0, 1], X[0, 2], X[0, 3]) is not
used: the report does not mention it.
"""

from torch import Tensor, nn

from harveyseg.models.blocks import LEVELS, ContractingPath, StepUp, UnetParams, he_initialise, reject_encoder_weights
from harveyseg.models.network import Network

TAKES_ENCODER_WEIGHTS = False


class Params(UnetParams):
    """Settings of U-Net++; batch norm in ``encoder`` is that of the nodes X[i, 0]."""


class UnetPlusPlus(Network):
    """(B, 3, H, W) -> logits (B, classes, H / k, W / k), for H and W divisible by 16 k, where k is ``stem_stride``."""

    def __init__(self, params: Params, classes: int) -> None:
        """Make the network with random weights."""
        super().__init__()
        self.encoder = ContractingPath(params.width, params.dropout, params.batch_norm != "none", params.stem_stride)
        # columns[j - 1][i] is the node X[i, j].
        self.columns = nn.ModuleList(
            nn.ModuleList(
                StepUp(channels, column, params.batch_norm == "both") for channels in self.encoder.channels[:-column]
            )
            for column in range(1, LEVELS)
        )
        self.head = nn.Conv2d(params.width, classes, kernel_size=1)
        if params.initialisation == "he":
            he_initialise(self)

    def forward(self, photos: Tensor) -> Tensor:
        """See :meth:`harveyseg.models.network.Network.forward`."""
        pathways: list[list[Tensor]] = [[features] for features in self.encoder(photos)]  # pathways[i][j] is X[i, j]
        for column in self.columns:
            assert isinstance(column, nn.ModuleList)
            # Finest level first: the level below then still ends with the column before.
            for level, node in enumerate(column):
                pathways[level].append(node(pathways[level], pathways[level + 1][-1]))
        logits: Tensor = self.head(pathways[0][-1])
        return logits

    def depth_groups(self) -> list[list[nn.Parameter]]:
        """Five levels of the contracting path, four columns of nodes, the head."""
        layers = [*self.encoder.levels, *self.columns, self.head]
        return [list(layer.parameters()) for layer in layers]


def build(params: Params, classes: int, encoder_weights: str | None) -> UnetPlusPlus:
    """Make a U-Net++ from scratch.

    >>> import torch
    >>> network = build(Params(stem_stride=2), classes=25, encoder_weights=None)
    >>> network(torch.zeros(1, 3, 64, 96)).shape
    torch.Size([1, 25, 32, 48])

    Raises:
        HarveysegError: when ``encoder_weights`` is not ``None``.
    """
    reject_encoder_weights(encoder_weights)
    return UnetPlusPlus(params, classes)
