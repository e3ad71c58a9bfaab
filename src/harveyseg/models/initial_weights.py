"""``train.init``: the weights of a trained network as the start of another training."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from harveyseg.classes import ClassList
from harveyseg.errors import HarveysegError
from harveyseg.models.network import Network, build
from harveyseg.models.packaged import packaged_models
from harveyseg.models.weights_file import describe_misfit
from harveyseg.project import input_path, project_root


def locate_initial_weights(name: str) -> Path:
    """The file of weights that ``train.init`` means.

    Args:
        name: a packaged model, a model folder, or a ``weights.safetensors``; paths are relative to the project's root.

    Raises:
        HarveysegError: when there is none, or a folder holds several networks.
    """
    path = packaged_models().get(name) or input_path(name, project_root())
    if path.is_dir():
        networks = sorted(path.glob("*.safetensors"))
        if len(networks) != 1:
            files = ", ".join(file.name for file in networks) or "none"
            raise HarveysegError(
                f"train.init = {name}: must hold one network, but holds {len(networks)} ({files}). Name one of its "
                "files."
            )
        return networks[0]
    if not path.is_file():
        raise HarveysegError(
            f"train.init = {name}: no such file. Name a weights.safetensors, a model folder, a packaged model "
            f"({', '.join(packaged_models())}), or null."
        )
    return path


def load_initial_weights(network: Network, spec: Mapping[str, Any], classes: ClassList, name: str) -> list[str]:
    """Copy a trained network's weights into a network of the same kind, which may have other classes.

    The layers that make logits are copied class by class, by name; a class that the trained network did not know keeps
    its fresh weights.

    Args:
        network: as :func:`harveyseg.models.network.build` made it from ``spec``; it is changed.
        spec: the network's settings.
        classes: what its logits stand for.
        name: ``train.init``.

    Returns:
        The names of the classes whose weights were copied.

    Raises:
        HarveysegError: when the file cannot be read or is of another network.
    """
    path = locate_initial_weights(name)
    state, trained_classes, trained_spec = _read(path)
    expected = network.state_dict()
    of_classes = _tensors_of_classes(spec, len(classes), expected)
    rows = {entry.casefold(): row for row, entry in enumerate(trained_classes.names)}
    kept = [(row, rows[entry.casefold()]) for row, entry in enumerate(classes.names) if entry.casefold() in rows]
    own_rows, trained_rows = (list(part) for part in zip(*kept, strict=True)) if kept else ([], [])
    for key in of_classes & state.keys():
        if state[key].shape[1:] != expected[key].shape[1:] or len(state[key]) != len(trained_classes):
            continue  # of another network: reported below
        mixed = expected[key].clone()
        mixed[own_rows] = state[key][trained_rows].to(mixed.dtype)
        state[key] = mixed
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        misfit = describe_misfit(expected, state)
        raise HarveysegError(
            f"train.init: {path} is of another network than {dict(spec)}: {misfit}. Set `init` to null for this model "
            f"(`models.<name>.train.init`), or use the network that the file was trained with: {trained_spec}."
        ) from error
    return [classes.names[row] for row in own_rows]


def _read(path: Path) -> tuple[dict[str, Tensor], ClassList, Any]:
    """The tensors, the classes and the settings of the network in a file."""
    try:
        with safe_open(path, framework="pt") as opened:
            header = (opened.metadata() or {}).get("harveyseg")
            state = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 - no mapping
        description = json.loads(header or "{}")
        classes = ClassList.model_validate(description.get("classes"))
    except (SafetensorError, ValidationError, ValueError) as error:
        reason = str(error).split("\n", 1)[0]
        raise HarveysegError(
            f"train.init: {path} is no network that this version of harveyseg wrote ({reason}). Name a "
            "weights.safetensors of a training, a model folder, or null."
        ) from None
    return state, classes, description.get("spec")


def _tensors_of_classes(spec: Mapping[str, Any], classes: int, expected: Mapping[str, Tensor]) -> set[str]:
    """The tensors whose first dimension is the classes: those that have another shape with one class more."""
    with torch.random.fork_rng(devices=[]):
        larger = build(spec, classes + 1, encoder_weights=None).state_dict()
    return {key for key, value in expected.items() if larger[key].shape != value.shape}
