"""Checking ``params.yaml`` before any data is read: the networks, their training, the folds, the size.

(DVC's matrix cannot look a model's entry up by its name in ``deps``, so what a training depends on is written to a
file of its own for each model, and this is a stage.)
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from harveyseg.configs import ModelConfig
from harveyseg.errors import HarveysegError, raise_problems
from harveyseg.files import sha256
from harveyseg.imports import code_digests, module_closure
from harveyseg.models import takes_encoder_weights, validate
from harveyseg.resize import ResizeParams
from harveyseg.settings import load, parse
from harveyseg.split import SplitParams
from harveyseg.training import TrainParams
from harveyseg.weights import locate_encoder_weights

P = ParamSpec("P")
T = TypeVar("T")

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_RESERVED = {"ensemble", "everything_empty", "mean", "submission"}


def merge(defaults: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """``defaults`` with the keys of ``overrides`` laid over them, mappings merged key by key."""
    merged = dict(defaults)
    for key, value in overrides.items():
        inner = merged.get(key)
        merged[key] = merge(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return merged


def check_params(params: Path) -> list[ModelConfig]:
    """Check a params file's ``models``, ``train``, ``folds``, ``split`` and ``resize-cache``, all at once.

    Raises:
        HarveysegError: with one line for each thing that cannot work, naming the allowed values.
    """
    values = load(params)
    for name in ("models", "train", "split", "resize-cache"):
        if not isinstance(values.get(name), dict) or not values[name]:
            raise HarveysegError(
                f"{params}: {name} must be a mapping that is not empty. `harveyseg preset demo` writes a complete file."
            )
    problems: list[str] = []
    resize = _gather(problems, parse, ResizeParams, values["resize-cache"], "resize-cache")
    split = _gather(problems, parse, SplitParams, values["split"], "split")
    problems += _fold_problems(values.get("folds"), split.folds if split else None)
    train = _gather(problems, parse, TrainParams, values["train"], "train")
    if train is not None and resize is not None:
        problems += _sample_problems(train, resize.shape, "train")
    configs = []
    for name, entry in values["models"].items():
        own: list[str] = []
        config = _gather(own, _check_model, str(name), entry, values["train"], resize.shape if resize else None)
        # A mistake in the defaults is every model's, but one mistake to the user.
        problems += [line for line in own if line.replace(f"models.{name}.train.", "train.", 1) not in problems]
        if config is not None:
            configs.append(config)
    raise_problems(problems, str(params), "Correct params.yaml, or the -S option that set it.")
    return configs


def _gather(problems: list[str], check: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
    """The result of a check; None if it fails, its problems appended."""
    try:
        return check(*args, **kwargs)
    except HarveysegError as error:
        problems += error.problems
        return None


def _fold_problems(folds: object, count: int | None) -> list[str]:
    if not isinstance(folds, list) or not folds or not all(type(fold) is int for fold in folds):
        return [f"folds = {folds!r}: a list of fold numbers is needed, e.g. `- 0`"]
    problems = [f"folds: {fold} stands there twice" for fold in sorted({f for f in folds if folds.count(f) > 1})]
    if count is not None:
        outside = [fold for fold in folds if not 0 <= fold < count]
        problems += [
            f"folds: {fold} is not in 0..{count - 1} (split.folds = {count})" for fold in dict.fromkeys(outside)
        ]
    return problems


def _sample_problems(train: TrainParams, size: tuple[int, int], where: str) -> list[str]:
    """What cannot be cut out of photos of this size (height, width), or not be turned."""
    augmentation, shape = train.augmentation, f"{size[0]}x{size[1]}"
    key = f"{where}.augmentation"
    problems = []
    if augmentation.crop is not None and augmentation.crop > min(size):
        problems.append(
            f"{key}.crop = {augmentation.crop}: larger than the photos, {shape} pixels (resize-cache.size); take at "
            f"most {min(size) // 32 * 32}, or null"
        )
    if augmentation.d4 and augmentation.crop is None and size[0] != size[1]:
        problems.append(
            f"{key}.d4 = {augmentation.d4}: samples of {shape} pixels (resize-cache.size) cannot be turned by 90 "
            "degrees; set `crop`, which is square, or d4 to 0"
        )
    return problems


def _check_model(name: str, entry: object, train: Mapping[str, Any], size: tuple[int, int] | None) -> ModelConfig:
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
    problems: list[str] = []
    merged = _gather(problems, parse, TrainParams, merge(train, overrides), f"{where}.train")
    pretrainable = _gather(problems, takes_encoder_weights, spec, where)
    if merged is None or pretrainable is None:
        raise HarveysegError("\n".join(problems), problems)
    if "encoder_weights" not in overrides and not pretrainable:
        # The section train speaks for all models; a network from scratch must not record a pretraining.
        merged = merged.model_copy(update={"encoder_weights": None})
    weights = locate_encoder_weights(merged.encoder_weights)
    if size is not None and (problems := _sample_problems(merged, size, f"{where}.train")):
        raise HarveysegError("\n".join(problems), problems)
    validate(spec, weights, where, size, merged.augmentation.crop)
    code = code_digests(module_closure(f"harveyseg.models.{spec['network']}"))
    if weights is not None and Path(weights).is_file():
        code["encoder_weights"] = sha256(Path(weights))  # other content under the same name is another training
    return ModelConfig(name, spec, merged, code)
