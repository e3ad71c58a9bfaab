"""``data/configs/<model>.json``: all that decides a model's training apart from the data, checked before any is read.

One file a model, so that a training depends on its own settings and its own network's code, and on no other's. (DVC's
matrix cannot look a model's entry up by its name in ``deps``, which is why this is a stage of its own.)
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harveyseg.errors import HarveysegError, raise_problems
from harveyseg.files import read_json, write_json
from harveyseg.imports import code_digests, module_closure
from harveyseg.models import validate
from harveyseg.settings import load, parse
from harveyseg.training import TrainParams

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_RESERVED = {"ensemble", "mean", "everything_empty", "submission"}


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


def merge(defaults: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """``defaults`` with the keys of ``overrides`` laid over them, mappings merged key by key."""
    merged = dict(defaults)
    for key, value in overrides.items():
        inner = merged.get(key)
        merged[key] = merge(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return merged


def check_params(params: Path) -> list[ModelConfig]:
    """Check ``models``, ``folds`` and ``train`` of a params file, all at once.

    Raises:
        HarveysegError: with one line for each thing that cannot work, naming the allowed values.
    """
    values = load(params)
    models, train, folds = values.get("models"), values.get("train"), values.get("folds")
    if not isinstance(models, dict) or not models:
        raise HarveysegError(f"{params}: models must be a mapping with at least one model, e.g. `unet: {{network: unet}}`.")
    if not isinstance(train, dict):
        raise HarveysegError(f"{params}: the section 'train' is missing. `harveyseg preset demo` writes a complete file.")
    problems = _fold_problems(folds, (values.get("split") or {}).get("folds"))
    configs = []
    for name, entry in models.items():
        try:
            configs.append(_check_model(str(name), entry, train))
        except HarveysegError as error:
            problems.append(str(error))
    # A mistake in the defaults is every model's, but one mistake to the user.
    raise_problems(list(dict.fromkeys(problems)), str(params), "Correct params.yaml, or the -S option that set it.")
    return configs


def _fold_problems(folds: object, count: object) -> list[str]:
    if not isinstance(folds, list) or not folds or not all(isinstance(fold, int) for fold in folds):
        return [f"folds = {folds!r}: a list of fold numbers is needed, e.g. `- 0`"]
    problems = [f"folds: {fold} stands there twice" for fold in sorted({f for f in folds if folds.count(f) > 1})]
    if isinstance(count, int):
        problems += [f"folds: {f} is not in 0..{count - 1} (split.folds = {count})" for f in folds if not 0 <= f < count]
    return problems


def _check_model(name: str, entry: object, train: Mapping[str, Any]) -> ModelConfig:
    where = f"models.{name}"
    if not _NAME.fullmatch(name) or name in _RESERVED:
        raise HarveysegError(
            f"{where}: not a usable name: letters, digits and underscores, a letter first, and none of "
            f"{', '.join(sorted(_RESERVED))}"
        )
    if not isinstance(entry, dict) or not isinstance(entry.get("train", {}), dict):
        raise HarveysegError(f"{where}: must be a mapping like `network: unet`, its `train` one, too")
    spec = {key: value for key, value in entry.items() if key != "train"}
    overrides = entry.get("train", {})
    parse(TrainParams, train, "train")
    merged = parse(TrainParams, merge(train, overrides), f"{where}.train")
    validate(spec, merged.encoder_weights, where)
    code = code_digests(module_closure(f"harveyseg.models.{spec['network']}"))
    return ModelConfig(name, spec, merged, code)


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
    return ModelConfig(model, spec, parse(TrainParams, train, f"{path}: train"), code)


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
