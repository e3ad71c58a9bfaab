"""Reading ``params.yaml``: one section per component, each checked by the model defined next to it."""

from collections.abc import Mapping
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from harveyseg.errors import HarveysegError, raise_problems
from harveyseg.record import Value

SectionT = TypeVar("SectionT", bound="Section")


class Section(BaseModel):
    """Base of every section's model: immutable, and strict about unknown keys, NaN and infinity."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


def load(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    ruamel reads YAML 1.2, in which ``1e-05`` is a float; PyYAML reads YAML 1.1, in which it is a string, and
    ``dvc exp run -S train.lr=0.00001`` writes just that.

    Raises:
        HarveysegError: when the file is absent or not a mapping.
    """
    try:
        values = deepcopy(_parse_yaml(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise HarveysegError(
            f"{path}: no such file. Run this in the project's root folder, which holds params.yaml."
        ) from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise HarveysegError(f"{path}: not valid YAML: {error}. Correct the line it names.") from None
    if not isinstance(values, dict):
        raise HarveysegError(f"{path}: expected a mapping of sections. `harveyseg preset demo` writes one.")
    return values


@lru_cache(maxsize=16)
def _parse_yaml(text: str) -> Any:
    """Parsed once: a command reads ``params.yaml`` and ``dvc.lock`` many times, and the latter takes a second."""
    return YAML(typ="safe", pure=True).load(text)


def parse(model: type[SectionT], values: Mapping[str, Any], where: str) -> SectionT:
    """Check ``values`` against a section's model.

    Args:
        model: the section's model.
        values: the raw values.
        where: the section's name, which precedes each key in messages, e.g. ``"train"``.

    Returns:
        The checked section.

    Raises:
        HarveysegError: with one line for each wrong key, which says what is allowed.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = []
        for item in error.errors():
            key = ".".join(str(part) for part in (where, *item["loc"]))
            if item["type"] == "extra_forbidden":
                problems.append(f"{key}: unknown key. Known are: {', '.join(_known_keys(model, item['loc'][:-1]))}")
            elif item["type"] == "missing":
                problems.append(f"{key}: missing")
            else:
                message = item["msg"].removeprefix("Value error, ")
                problems.append(f"{key} = {item['input']!r}: {message}")
        raise_problems(problems, "params.yaml", "Correct params.yaml, or the -S option that set it.")
        raise  # unreachable: a ValidationError always has at least one problem


def _known_keys(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """The keys of a section, or of the section inside it to which ``path`` leads."""
    for name in path:
        annotation = model.model_fields[str(name)].annotation
        # A section that may be null is a union with None. Nothing but a model has keys.
        model = next(
            inner
            for inner in (annotation, *get_args(annotation))
            if isinstance(inner, type) and issubclass(inner, BaseModel)
        )
    return sorted(model.model_fields)


def flat_settings(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their full names; a list is one value, and so is a section without settings.

    >>> flat_settings({"train": {"lr": 0.1, "loss": {"dice": 0}}, "folds": [0, 1]})
    {'train.lr': 0.1, 'train.loss.dice': 0, 'folds': [0, 1]}
    """
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= flat_settings(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def flat_values(values: Mapping[str, Any]) -> dict[str, Value]:
    """:func:`flat_settings`, with all that is no scalar as text, as records and MLflow hold it.

    >>> flat_values({"train": {"lr": 0.1}, "folds": [0, 1]})
    {'train.lr': 0.1, 'folds': '[0, 1]'}
    """
    return {
        name: value if isinstance(value, str | int | float | bool) or value is None else str(value)
        for name, value in flat_settings(values).items()
    }


def section(path: Path, name: str, model: type[SectionT]) -> SectionT:
    """Read and check one section of ``params.yaml``.

    Raises:
        HarveysegError: when the file or the section is absent or wrong.
    """
    values = load(path)
    if name not in values:
        raise HarveysegError(
            f"{path}: the section {name!r} is missing. `harveyseg preset demo` writes a complete file."
        )
    if not isinstance(values[name], dict):
        raise HarveysegError(f"{path}: the section {name!r} must be a mapping of keys to values.")
    return parse(model, values[name], name)


def listed_models(params: Path) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Read which models and folds belong to the pipeline.

    Args:
        params: ``params.yaml``, with the mapping ``models`` and the list ``folds``.

    Returns:
        The models' names and the folds, both in the file's order.

    Raises:
        HarveysegError: when either is absent or empty.
    """
    values = load(params)
    models = values.get("models")
    folds = values.get("folds")
    if not isinstance(models, dict) or not models or not isinstance(folds, list) or not folds:
        raise HarveysegError(
            f"{params}: `models` and `folds` must each name at least one. `harveyseg preset demo` writes both."
        )
    return tuple(map(str, models)), tuple(map(int, folds))
