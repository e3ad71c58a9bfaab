"""The contract of all networks, and one that is built from its settings."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from harveyseg.classes import ClassList
from harveyseg.config.settings import Section, parse
from harveyseg.errors import HarveysegError
from harveyseg.models import available, network_module


class Network(nn.Module, ABC):
    """A network for semantic segmentation."""

    exportable: ClassVar[bool] = True
    """Whether it computes the same for all photos, so that an ONNX file can hold it."""

    @abstractmethod
    def forward(self, photos: Tensor) -> Tensor:
        """Classify every pixel.

        Args:
            photos: (B, 3, H, W) float, normalised RGB.

        Returns:
            Logits, (B, classes, H / k, W / k). k is the network's output stride, a power of two and mostly 1; a caller
            that needs the photo's size enlarges the logits bilinearly.

        Raises:
            HarveysegError: when the network cannot take photos of this height and width.
        """

    @property
    def pretrained_part(self) -> nn.Module:
        """What ``encoder_weights`` fill, in a network that takes such weights; all of it unless a network says."""
        return self

    @abstractmethod
    def depth_groups(self) -> list[list[nn.Parameter]]:
        """Every parameter exactly once, in groups from the shallowest layers (near the photo) to the deepest."""


@runtime_checkable
class BringsLoss(Protocol):
    """A network that is trained by a loss of its own, in place of ``train.loss``.

    For one that learns something else than the class of each pixel, such as boxes. All else is as for other networks,
    and its ``forward`` returns logits, too; it is called in evaluation mode only.
    """

    def make_loss(self, classes: ClassList) -> Callable[[Tensor, Tensor], Tensor]:
        """The loss of this network for a list of classes.

        Args:
            classes: what the masks hold.

        Returns:
            A function of photos, (B, 3, H, W) float, normalised, and masks, (B, H, W) uint8, the index of each pixel's
            class, 255 where there is no label. It is called in training mode, under autocast if the training has it,
            and returns a float32 scalar, the mean over the photos. It may draw from torch's global random state.

        Raises:
            HarveysegError: when the network's settings do not suit the classes.
        """


def takes_encoder_weights(spec: Mapping[str, Any], where: str) -> bool:
    """Whether a network can start from pretrained weights; one that cannot must be built with ``None``.

    A default of ``train.encoder_weights`` for all models is ignored for the networks that cannot, so that no record
    claims a pretraining that did not happen.

    >>> takes_encoder_weights({"network": "unet"}, "models.unet")
    False

    Args:
        spec: as for :func:`build`.
        where: the spec's key in params.yaml, for messages, e.g. ``"models.unet"``.

    Raises:
        HarveysegError: when the network or one of its settings is wrong.
    """
    module, _ = _resolve(spec, where)
    return bool(module.TAKES_ENCODER_WEIGHTS)


def build(spec: Mapping[str, Any], classes: int, encoder_weights: str | None) -> Network:
    """Make a network with fresh weights, drawn from torch's global random state.

    >>> unet = build({"network": "unet", "width": 16}, classes=25, encoder_weights=None)
    >>> unet(torch.zeros(1, 3, 64, 96)).shape
    torch.Size([1, 25, 64, 96])

    Args:
        spec: ``{"network": <one of available()>, **its settings}``.
        classes: how many channels its logits have.
        encoder_weights: name of published weights (``"imagenet"``), path to a local weights file, or ``None``.

    Raises:
        HarveysegError: when the network, a setting or the weights cannot be used.
    """
    return _build(spec, classes, encoder_weights, "models")


def encoder_weights_digest(spec: Mapping[str, Any], encoder_weights: str) -> str:
    """SHA-256 of the pretrained tensors that a network starts from, whichever file or server they are loaded from.

    It tells whether a name such as ``imagenet`` still means the same weights: they may come with a package, and a
    server may have published others. Torch's random state does not change.

    Args:
        spec: as for :func:`build`.
        encoder_weights: as for :func:`build`.

    Raises:
        HarveysegError: as :func:`build`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # for layers that are not pretrained
        part = build(spec, 1, encoder_weights).pretrained_part
    hashed = hashlib.sha256()
    for name, value in sorted(part.state_dict().items()):
        hashed.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        hashed.update(value.contiguous().numpy().tobytes())
    return hashed.hexdigest()


def validate(
    spec: Mapping[str, Any],
    classes: int,
    encoder_weights: str | None,
    where: str,
    size: tuple[int, int] | None = None,
    crop: int | None = None,
    samples: int | None = None,
) -> None:
    """Check that a network can be made, its pretrained weights included, and that it takes photos of a size.

    The network is really built, so that what passes here cannot fail after the data has been read. Published weights
    that this machine lacks are downloaded. Torch's random state does not change.

    Args:
        spec: as for :func:`build`.
        classes: as for :func:`build`.
        encoder_weights: as for :func:`build`.
        where: the spec's key in params.yaml, for messages, e.g. ``"models.unet"``.
        size: (height, width) of the photos in pixels; ``None`` leaves the size unchecked.
        crop: side in pixels of the crops that the network is trained on; ``None`` for whole photos.
        samples: photos or crops in the smallest batch of the training; ``None`` leaves it unchecked.

    Raises:
        HarveysegError: naming the setting, what is wrong with it, and what is allowed.
    """
    with torch.random.fork_rng(devices=[]):
        network = _build(spec, classes, encoder_weights, where)
    if size is not None:
        _check_size(network, where, size, "resize-cache.size")
    if crop is not None:
        _check_size(network, where, (crop, crop), "train.augmentation.crop")
    trained = size if crop is None else (crop, crop)
    if samples == 1 and trained is not None:
        _check_single_sample(network, where, trained)


def _build(spec: Mapping[str, Any], classes: int, encoder_weights: str | None, where: str) -> Network:
    module, params = _resolve(spec, where)
    try:
        network = module.build(params, classes, encoder_weights)
    except HarveysegError as error:
        raise HarveysegError(f"{where}: {error}") from error
    assert isinstance(network, Network)
    return network


def _resolve(spec: Mapping[str, Any], where: str) -> tuple[ModuleType, Section]:
    """The network's module and its checked settings."""
    if "network" not in spec:
        raise HarveysegError(f"{where}.network: missing. Allowed: {', '.join(available())}")
    module = network_module(spec["network"], where)
    return module, parse(module.Params, {key: value for key, value in spec.items() if key != "network"}, where)


def _check_size(network: Network, where: str, size: tuple[int, int], setting: str) -> None:
    """Run the network on empty photos: the device ``meta`` computes shapes only, in milliseconds."""
    height, width = size
    remedy = "Sizes divisible by 32 suit almost every network; a few encoders take only the size in their name."
    problem = f"{where}: cannot take photos of {height}x{width} pixels ({setting})"
    try:
        # Two photos: batch norm refuses to train on a single value per channel.
        logits = network.to("meta")(torch.empty(2, 3, height, width, device="meta"))
    except Exception as error:  # libraries raise all kinds of errors for a size that they cannot take
        raise HarveysegError(f"{problem}: {str(error).rstrip('.')}. {remedy}") from error
    stride = height // logits.shape[-2]
    if stride not in (1, 2, 4) or (stride * logits.shape[-2], stride * logits.shape[-1]) != size:
        raise HarveysegError(f"{problem}: its logits would have {'x'.join(map(str, logits.shape[-2:]))}. {remedy}")


def _check_single_sample(network: Network, where: str, size: tuple[int, int]) -> None:
    """Train the network on one empty photo of a size that it takes, computing shapes only."""
    try:
        network.to("meta").train()(torch.empty(1, 3, *size, device="meta"))
    except ValueError as error:
        raise HarveysegError(
            f"{where}: cannot be trained on one sample of {size[0]}x{size[1]} pixels at a time: it pools them to a "
            "single pixel, and batch norm needs two values per channel. Set train.batch_size to 2 or more and at "
            "least to twice train.accumulate, and have at least two training photos, or two crops of one "
            "(train.sampling.crops_per_photo)."
        ) from error
