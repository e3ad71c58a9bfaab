"""FCN (Long, Shelhamer & Darrell 2015, "Fully Convolutional Networks for Semantic Segmentation"), that of torchvision.

``fcn_resnet50``: a ResNet-50 whose last two stages are dilated instead of strided, so that its features are 8 times
coarser than the photo; a 3x3 convolution to 512 channels with dropout 0.1; a 1x1 convolution to the classes; bilinear
enlargement. (The paper's own networks are VGG16 with learnt enlargement and summed skips.)
"""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn
from torchvision.models import ResNet50_Weights
from torchvision.models.segmentation import fcn_resnet50

from harveyseg.config.settings import Section
from harveyseg.errors import HarveysegError
from harveyseg.models.network import Network
from harveyseg.models.weights_file import load_state, read_state
from harveyseg.progress import is_terminal

TAKES_ENCODER_WEIGHTS = True

_IMAGENET = ResNet50_Weights.IMAGENET1K_V1
"""The weights that torchvision's own FCN starts from."""


class Params(Section):
    """The FCN has no settings."""


class Fcn(Network):
    """(B, 3, H, W) -> logits (B, classes, H, W), for any H and W."""

    def __init__(self, classes: int) -> None:
        """Make the network with fresh weights."""
        super().__init__()
        self.model = fcn_resnet50(weights=None, weights_backbone=None, num_classes=classes)

    def forward(self, photos: Tensor) -> Tensor:
        """See :meth:`harveyseg.models.network.Network.forward`."""
        logits: Tensor = self.model(photos)["out"]
        return logits

    @property
    def pretrained_part(self) -> nn.Module:
        """See :attr:`harveyseg.models.network.Network.pretrained_part`."""
        backbone: nn.Module = self.model.backbone
        return backbone

    def depth_groups(self) -> list[list[nn.Parameter]]:
        """ResNet's first convolution, its four stages, the head."""
        backbone = self.model.backbone
        layers = [[backbone.conv1, backbone.bn1], [backbone.layer1], [backbone.layer2], [backbone.layer3]]
        layers += [[backbone.layer4], [self.model.classifier]]
        return [[parameter for layer in group for parameter in layer.parameters()] for group in layers]


def build(params: Params, classes: int, encoder_weights: str | None) -> Fcn:
    """Make an FCN.

    >>> import torch
    >>> network = build(Params(), classes=25, encoder_weights=None).eval()
    >>> network(torch.zeros(1, 3, 60, 90)).shape
    torch.Size([1, 25, 60, 90])

    Args:
        params: empty.
        classes: channels of the logits.
        encoder_weights: ``None`` (fresh weights), ``"imagenet"`` (torchvision's, from its cache on this machine or
            downloaded from download.pytorch.org), or the path to a file with the state dict of torchvision's
            ``resnet50`` (``.safetensors``, or a file that ``torch.load(weights_only=True)`` reads), with or without its
            classifier ``fc``.

    Raises:
        HarveysegError: when the weights cannot be found or do not fit.
    """
    network = Fcn(classes)
    if encoder_weights == "imagenet":
        try:
            state = _IMAGENET.get_state_dict(progress=is_terminal(), check_hash=True)
        except Exception as error:  # URLError, a wrong hash, a full disk
            raise HarveysegError(
                f"encoder_weights = 'imagenet': {_IMAGENET.url} is not in torchvision's cache on this machine and "
                f"cannot be downloaded ({error}). Run once with a network, give a path to a local weights file, or set "
                "`encoder_weights: null`."
            ) from error
        network.model.backbone.load_state_dict(_without_classifier(state))
    elif encoder_weights is not None:
        path = Path(encoder_weights)
        if not path.is_file():
            raise HarveysegError(
                f"encoder_weights = {encoder_weights!r}: no such file, and no name of weights published for the FCN "
                "(there is: `imagenet`). Give a path to a local weights file, or set `encoder_weights: null`."
            )
        state = _without_classifier(read_state(path))
        load_state(network.model.backbone, state, path, "the FCN's ResNet-50", "torchvision's resnet50")
    return network


def _without_classifier(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if not name.startswith("fc.")}
