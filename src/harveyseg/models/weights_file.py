"""A user's file of encoder weights: reading it safely, and saying why its tensors do not fit."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from harveyseg.errors import HarveysegError


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a ``.safetensors`` file or one that ``torch.save`` wrote; nothing in it is executed.

    Raises:
        HarveysegError: when the file holds anything else or cannot be read.
    """
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


def load_state(module: nn.Module, state: dict[str, Tensor], path: Path, encoder: str, contents: str) -> None:
    """Load all tensors of an encoder.

    Args:
        module: the encoder; it may remove tensors that it does not need from ``state``.
        state: see :func:`read_state`.
        path: the file, for messages.
        encoder: its name in messages, e.g. ``"the encoder resnet34"``.
        contents: whose state dict the file must hold.

    Raises:
        HarveysegError: naming tensors that are missing, unexpected, or of another shape.
    """
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        misfit = describe_misfit(module.state_dict(), state)
        raise HarveysegError(
            f"encoder_weights: {path} does not fit {encoder}: {misfit}. It must hold the state dict of "
            f"{contents}. Give another file, or set `encoder_weights: null`."
        ) from error


def describe_misfit(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """How the tensors of a file differ from those of a network: missing, unexpected, or of another shape."""
    misshaped = [
        f"{key} is {tuple(state[key].shape)}, not {tuple(expected[key].shape)}"
        for key in expected
        if key in state and state[key].shape != expected[key].shape
    ]
    problems = {
        "missing": [key for key in expected if key not in state],
        "unexpected": [key for key in state if key not in expected],
        "of another shape": misshaped,
    }
    return "; ".join(f"{len(keys)} tensors {problem}: {_first_few(keys)}" for problem, keys in problems.items() if keys)


def _first_few(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")
