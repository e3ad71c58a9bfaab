"""All architectures and encoders of segmentation_models_pytorch (smp), among them the report's MobileNet-V2.

An encoder is one of smp's own (``mobilenet_v2``, ``efficientnet-b3``, ``resnet101``, ``mit_b2``, ...) or any of timm's
with the prefix ``tu-`` (``tu-convnext_tiny``). ImageNet weights are downloaded, except those of
``tu-tf_efficientnet_lite0`` to ``2``, which come with Python packages.
"""

import copy
import difflib
from typing import Any, Literal

import segmentation_models_pytorch as smp
import timm
import torch
from pydantic import field_validator, model_validator
from torch import Tensor, nn

from harveyseg.config.settings import Section
from harveyseg.errors import HarveysegError
from harveyseg.models.network import Network
from harveyseg.models.pretrained import TIMM_PREFIX, find_encoder_weights, load_encoder_weights

TAKES_ENCODER_WEIGHTS = True


class Params(Section):
    """Settings of a network from smp."""

    architecture: Literal[
        "Unet",
        "UnetPlusPlus",
        "MAnet",
        "Linknet",
        "FPN",
        "PSPNet",
        "DeepLabV3",
        "DeepLabV3Plus",
        "PAN",
        "UPerNet",
        "Segformer",
        "DPT",
    ] = "Unet"
    """The decoder and how it is joined to the encoder."""
    encoder: str
    """The classification network whose features are decoded."""
    decoder_channels: tuple[int, ...] | None = None
    """For ``Unet``: channels of each decoder block, from the deepest; null takes smp's (256, 128, 64, 32, 16)."""
    output_stride: Literal[1, 2, 4] = 1
    """For ``Unet``: how many times coarser than the photo the logits are. The decoder's last blocks, which cost most,
    are left out."""

    @field_validator("encoder")
    @classmethod
    def _check_encoder(cls, name: str) -> str:
        smp_names = sorted(smp.encoders.encoders)
        timm_names = [TIMM_PREFIX + model for model in timm.list_models()]
        model, _, tag = name.partition(".")
        if name in smp_names or (model in timm_names and not tag):
            return name
        if model in timm_names:
            published = timm.list_pretrained(f"{model.removeprefix(TIMM_PREFIX)}.*")
            tagged = [TIMM_PREFIX + timm_name for timm_name in published]
            if name in tagged:
                return name
            raise ValueError(f"unknown weights {tag!r}; allowed: {', '.join([model, *tagged])}")
        closest = difflib.get_close_matches(name, [*smp_names, *timm_names], n=5)
        hint = f"closest: {', '.join(closest)}; " if closest else ""
        raise ValueError(
            f"unknown encoder; {hint}allowed: {', '.join(smp_names)}, and any of the {len(timm_names)} models of "
            f"timm.list_models() with the prefix {TIMM_PREFIX}"
        )

    @model_validator(mode="after")
    def _check_decoder(self) -> "Params":
        if self.architecture != "Unet" and (self.decoder_channels is not None or self.output_stride != 1):
            raise ValueError(f"decoder_channels and output_stride are settings of Unet, not of {self.architecture}")
        blocks = 5 - _blocks_left_out(self.output_stride)
        if self.decoder_channels is not None and len(self.decoder_channels) != blocks:
            raise ValueError(
                f"decoder_channels has {len(self.decoder_channels)} numbers; with output_stride {self.output_stride} "
                f"the decoder has {blocks} blocks"
            )
        return self


class SmpNetwork(Network):
    """A network of smp: (B, 3, H, W) -> logits (B, classes, H, W)."""

    def __init__(self, model: Any, encoder_input: tuple[int, int]) -> None:
        """Wrap a model of smp.

        Args:
            model: an ``smp.base.SegmentationModel``.
            encoder_input: a (height, width) in pixels that its encoder takes.
        """
        super().__init__()
        self.model = model
        self._encoder_input = encoder_input

    def forward(self, photos: Tensor) -> Tensor:
        """See :meth:`harveyseg.models.network.Network.forward`."""
        try:
            self.model.check_input_shape(photos)
        except RuntimeError as error:
            raise HarveysegError(str(error)) from error
        logits: Tensor = self.model(photos)
        return logits

    @property
    def pretrained_part(self) -> nn.Module:
        """See :attr:`harveyseg.models.network.Network.pretrained_part`."""
        encoder: nn.Module = self.model.encoder
        return encoder

    def depth_groups(self) -> list[list[nn.Parameter]]:
        """The encoder's stages, one per resolution, then the decoder, then the head.

        A parameter belongs to the first feature map of the encoder that depends on it, according to autograd. (Modules
        are not always registered in that order: some encoders register all their stems before any later block.)
        Parameters that no feature map uses, a classifier's last layers, belong to the last stage.
        """
        # On the device "meta" only shapes are computed, so this costs milliseconds and leaves batch norm untouched.
        probe = copy.deepcopy(self.model.encoder).to("meta").eval()
        features = probe(torch.empty(1, 3, *self._encoder_input, device="meta"))
        if isinstance(features, tuple):  # vision transformers: (feature maps, prefix tokens)
            features = features[0]
        unassigned = dict(probe.named_parameters())
        stages: list[list[str]] = []
        for feature in features:
            # The photo itself is one of the features, and VGG's last one is only a max-pool of the one before.
            if feature.requires_grad and unassigned:
                gradients = torch.autograd.grad(
                    feature, list(unassigned.values()), torch.empty_like(feature), retain_graph=True, allow_unused=True
                )
                stages.append(
                    [name for name, gradient in zip(unassigned, gradients, strict=True) if gradient is not None]
                )
                unassigned = {name: value for name, value in unassigned.items() if name not in stages[-1]}
        stages[-1].extend(unassigned)
        parameters = dict(self.model.encoder.named_parameters())
        groups = [[parameters[name] for name in stage] for stage in stages if stage]
        return [*groups, list(self.model.decoder.parameters()), list(self.model.segmentation_head.parameters())]


def build(params: Params, classes: int, encoder_weights: str | None) -> SmpNetwork:
    """Make a network of smp.

    >>> network = build(Params(architecture="FPN", encoder="resnet18"), 25, None)
    >>> network(torch.zeros(2, 3, 64, 96)).shape
    torch.Size([2, 25, 64, 96])

    Args:
        params: architecture and encoder.
        classes: channels of the logits.
        encoder_weights: ``None`` (random weights), the name of weights that are published for this encoder
            (``"imagenet"``, loaded from an installed package if it has them, else from the Hugging Face hub or its
            cache on this machine), or the path to a file with the encoder's state dict (``.safetensors``, or a file
            that ``torch.load(weights_only=True)`` reads).

    Raises:
        HarveysegError: when smp cannot combine the two, or when the weights cannot be found or do not fit.
    """
    weights = find_encoder_weights(params.encoder, encoder_weights)
    decoder = _decoder_arguments(params)
    try:
        model = smp.create_model(
            params.architecture,
            encoder_name=params.encoder,
            encoder_weights=weights.published,
            classes=classes,
            **decoder,
        )
    except Exception as error:  # smp and timm raise all kinds of errors when the two do not go together
        raise HarveysegError(
            f"architecture {params.architecture} with the encoder {params.encoder} cannot be built: "
            f"{str(error).rstrip('.')}. Choose another encoder or another architecture (`Unet` takes most encoders)."
        ) from error
    if params.output_stride > 1:
        _leave_out_blocks(model, _blocks_left_out(params.output_stride), classes)
    load_encoder_weights(model.encoder, params.encoder, weights)
    return SmpNetwork(model, _encoder_input(params.encoder))


def _blocks_left_out(output_stride: int) -> int:
    """How many blocks of a U-Net's decoder, each of which doubles the size, are left out for an output stride."""
    return output_stride.bit_length() - 1


def _decoder_arguments(params: Params) -> dict[str, tuple[int, ...]]:
    """Arguments of smp's ``Unet`` for its decoder; smp needs channels also for the blocks that are then left out."""
    channels = params.decoder_channels
    if channels is None:
        return {}
    return {"decoder_channels": channels + channels[-1:] * _blocks_left_out(params.output_stride)}


def _leave_out_blocks(model: Any, count: int, classes: int) -> None:
    """Remove the last blocks from the decoder of smp's ``Unet``; a new head follows the block that is then the last."""
    model.decoder.blocks = model.decoder.blocks[:-count]
    channels = model.decoder.blocks[-1].conv2[0].out_channels
    model.segmentation_head = smp.base.SegmentationHead(channels, classes, kernel_size=3)
    smp.base.initialization.initialize_head(model.segmentation_head)


def _encoder_input(encoder: str) -> tuple[int, int]:
    """(height, width) in pixels that an encoder was designed for; some of timm's take no other."""
    if encoder.startswith(TIMM_PREFIX):
        config = timm.get_pretrained_cfg(encoder.removeprefix(TIMM_PREFIX))
        if config is not None:
            _, height, width = config.input_size
            return height, width
    return 224, 224
