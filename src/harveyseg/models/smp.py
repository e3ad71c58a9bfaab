"""All architectures and encoders of segmentation_models_pytorch (smp), among them the report's MobileNet-V2.

An encoder is one of smp's own (``mobilenet_v2``, ``efficientnet-b3``, ``resnet101``, ``mit_b2``, ...) or any of timm's
with the prefix ``tu-`` (``tu-convnext_tiny``).
"""

import copy
import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import segmentation_models_pytorch as smp
import timm
import torch
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError
from pydantic import field_validator
from safetensors.torch import load_file
from torch import Tensor, nn

from harveyseg.errors import HarveysegError
from harveyseg.models import Network
from harveyseg.settings import Section

TAKES_ENCODER_WEIGHTS = True

_TIMM = "tu-"
"""Prefix by which smp knows timm's encoders."""

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
            (``"imagenet"``, loaded from the Hugging Face hub or its cache on this machine), or the path to a file with
            the encoder's state dict (``.safetensors``, or whatever ``torch.load(weights_only=True)`` reads).

    Raises:
        HarveysegError: when smp cannot combine the two, or when the weights cannot be had or do not fit.
    """
    published = encoder_weights in _published(params.encoder)
    if encoder_weights is not None:
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
        )
    except Exception as error:  # smp and timm raise whatever they like when the two do not go together
        raise HarveysegError(
            f"architecture {params.architecture} with the encoder {params.encoder} cannot be built: "
            f"{str(error).rstrip('.')}. Choose another encoder or another architecture (`Unet` takes most encoders)."
        ) from error
    if encoder_weights is not None and not published:
        _load_encoder(model.encoder, params.encoder, Path(encoder_weights))
    return SmpNetwork(model, _encoder_input(params.encoder))


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
