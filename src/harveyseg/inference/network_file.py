"""``weights.safetensors``: a trained network in one file, with all that is needed to use it on new photos."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from harveyseg.classes import ClassList
from harveyseg.data.class_lists import parse_classes
from harveyseg.errors import HarveysegError
from harveyseg.files import atomic
from harveyseg.models.network import build


@dataclass(frozen=True)
class TrainedNetwork:
    """A network with its weights, in eval mode on the CPU."""

    network: nn.Module
    """(B, 3, H, W) float, normalised -> logits (B, C, H / stride, W / stride)."""
    spec: dict[str, Any]
    """The settings that :func:`harveyseg.models.network.build` made it from."""
    mean: tuple[float, float, float]
    """Mean of each RGB channel of the training photos, on the scale 0..1."""
    std: tuple[float, float, float]
    """Standard deviation, on the scale 0..1."""
    size: tuple[int, int]
    """(height, width) in pixels of the photos that it was trained on."""
    classes: ClassList
    """What its logits stand for."""


def save_network(
    path: Path,
    state: Mapping[str, torch.Tensor],
    spec: Mapping[str, Any],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    size: tuple[int, int],
    classes: ClassList,
) -> None:
    """Write a state dict and its description, atomically.

    Args:
        path: the file.
        state: the network's state dict.
        spec: as for :func:`harveyseg.models.network.build`.
        mean: of each RGB channel of the training photos, on the scale 0..1.
        std: standard deviation of each channel, on the scale 0..1.
        size: (height, width) in pixels of the photos that it was trained on.
        classes: what its logits stand for.
    """
    description = {"spec": dict(spec), "mean": mean, "std": std, "size": size, "classes": classes.model_dump()}
    header = {"harveyseg": json.dumps(description, sort_keys=True)}
    with atomic(path) as temporary:
        save_file({name: value.detach().cpu().contiguous() for name, value in state.items()}, temporary, header)


def load_network(path: Path) -> TrainedNetwork:
    """Rebuild the network that a file describes and load its weights.

    Raises:
        HarveysegError: when the file is absent, damaged, or does not fit this version's network.
    """
    remedy = "Train the model again (`dvc repro`), or restore the file with `dvc checkout`."
    try:
        with safe_open(path, framework="pt") as opened:
            header = (opened.metadata() or {}).get("harveyseg")
            state = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
    except FileNotFoundError:
        raise HarveysegError(f"{path}: no such file. {remedy}") from None
    except SafetensorError as error:
        raise HarveysegError(f"{path}: not a safetensors file ({error}). {remedy}") from None
    if header is None:
        raise HarveysegError(f"{path}: was not written by harveyseg: it does not say which network it is for. {remedy}")
    description = json.loads(header)
    if "classes" not in description:
        raise HarveysegError(f"{path}: is of an earlier version: it does not say what its classes are. {remedy}")
    classes = parse_classes(description["classes"], path, remedy)
    try:
        network = build(description["spec"], len(classes), encoder_weights=None)
        network.load_state_dict(state)
    except (HarveysegError, RuntimeError) as error:  # another version may lack the network, or one of its settings
        raise HarveysegError(f"{path}: does not fit the network {description['spec']}: {error}. {remedy}") from None
    return TrainedNetwork(
        network.eval(),
        description["spec"],
        mean=tuple(description["mean"]),
        std=tuple(description["std"]),
        size=tuple(description["size"]),
        classes=classes,
    )
