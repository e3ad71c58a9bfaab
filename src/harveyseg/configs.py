"""``data/configs/<model>.json``: all that decides a model's training apart from the data.

One file a model, so that a training depends on its own settings and its own network's code, and on no other's.
``harveyseg.configure`` writes them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harveyseg.errors import HarveysegError
from harveyseg.files import read_json, write_json
from harveyseg.settings import parse
from harveyseg.training import TrainParams


@dataclass(frozen=True)
class ModelConfig:
    """The checked settings of one model."""

    model: str
    spec: dict[str, Any]
    """The network, as :func:`harveyseg.models.build` takes it."""
    train: TrainParams
    """Section ``train`` with the model's own overrides."""
    code: dict[str, str]
    """SHA-256 of each source file of the network."""


def write_config(folder: Path, config: ModelConfig) -> None:
    """Write ``<model>.json``, atomically."""
    content = {"model": config.model, "spec": config.spec, "train": config.train.model_dump(), "code": config.code}
    write_json(folder / f"{config.model}.json", content)


def read_config(path: Path) -> ModelConfig:
    """Read ``<model>.json``.

    Raises:
        HarveysegError: when it is absent, damaged, or from another version.
    """
    remedy = "Run `dvc repro configure` to write it anew."
    content = read_json(path, remedy)
    try:
        model, spec, train, code = (content[key] for key in ("model", "spec", "train", "code"))
    except KeyError as error:
        raise HarveysegError(f"{path}: lacks {error}. {remedy}") from None
    try:
        return ModelConfig(model, spec, parse(TrainParams, train, "train"), code)
    except HarveysegError as error:
        raise HarveysegError(f"{path}: {'; '.join(error.problems)}. {remedy}") from None


def flat_parameters(config: ModelConfig) -> dict[str, str | int | float | bool | None]:
    """The settings as a flat mapping, e.g. ``train.lr`` -> 0.001 and ``model.network`` -> "unet"."""
    flat: dict[str, str | int | float | bool | None] = {}

    def walk(prefix: str, value: object) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(f"{prefix}.{key}", inner)
        elif isinstance(value, str | int | float | bool) or value is None:
            flat[prefix] = value
        else:
            flat[prefix] = str(value)

    walk("model", config.spec)
    walk("train", config.train.model_dump())
    return flat
