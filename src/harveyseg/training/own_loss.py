"""The loss of a network that brings its own."""

from collections.abc import Callable

from torch import Tensor, nn

from harveyseg.classes import ClassList
from harveyseg.errors import HarveysegError
from harveyseg.models.network import BringsLoss
from harveyseg.training.params import TrainParams


def own_loss(network: nn.Module, classes: ClassList, params: TrainParams) -> Callable[[Tensor, Tensor], Tensor] | None:
    """What a network is trained by in place of ``train.loss``; ``None`` for most networks.

    Args:
        network: which may be a :class:`harveyseg.models.network.BringsLoss`.
        classes: what the masks hold.
        params: the recipe.

    Raises:
        HarveysegError: when the network's settings do not suit the classes, or the recipe does not suit the network.
    """
    if not isinstance(network, BringsLoss):
        return None
    if params.self_training is not None:
        raise HarveysegError(
            "train.self_training: pseudo-labels are classes of pixels, and this network has a loss of its own, which "
            "takes none. Set `self_training: null` under its `train`, or take another network."
        )
    return network.make_loss(classes)
