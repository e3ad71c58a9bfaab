"""Reading ``params.yaml``: one section per component, each checked by the model defined next to it."""

import re
from collections.abc import Mapping
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError
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
        HarveysegError: when the file is absent, no valid YAML in UTF-8 (with the line), or not a mapping.
    """
    try:
        values = deepcopy(_parse_yaml(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise HarveysegError(
            f"{path}: no such file. Run this in the project's root folder, which holds params.yaml."
        ) from None
    except IsADirectoryError:
        raise HarveysegError(f"{path}: is a folder, not a file. {_restore(path)}") from None
    except UnicodeDecodeError:
        raise HarveysegError(
            f"{path}: is not UTF-8 text; Notepad and PowerShell may have saved it as UTF-16 or ANSI. Save it as UTF-8."
        ) from None
    except YAMLError as error:
        raise HarveysegError(f"{path}: not valid YAML: {_describe(error)}") from None
    if not isinstance(values, dict):
        found = "is empty" if values is None else f"holds a {type(values).__name__}"
        raise HarveysegError(f"{path}: {found}; a mapping of keys to values is needed. {_restore(path)}")
    return values


def _restore(path: Path) -> str:
    new = ", or take the one that `harveyseg init` writes into a new folder" if path.name == "params.yaml" else ""
    return f"Restore it, e.g. with `git checkout -- {path}`{new}."


def _describe(error: YAMLError) -> str:
    """One sentence with the line; ruamel's own words are a page."""
    mark = getattr(error, "problem_mark", None)
    where = "" if mark is None else f"line {mark.line + 1}: "
    problem = str(getattr(error, "problem", None) or error).strip().splitlines()[0]
    if isinstance(error, DuplicateKeyError):
        problem = re.sub(r" with value .*", " a second time", problem)
        return f"{where}{problem}. Delete one of the two."
    if "\\t" in problem:
        return f"{where}a tab, which YAML does not allow there. Use blanks."
    return f"{where}{problem}. Correct {'this line' if where else 'that'}."


@lru_cache(maxsize=16)
def _parse_yaml(text: str) -> Any:
    """Parsed once: a command reads ``params.yaml`` and ``dvc.lock`` many times, and the latter takes a second."""
    try:
        return YAML(typ="safe", pure=True).load(text)
    except YAMLError:
        raise
    except Exception as error:  # ruamel lets some through: a date that does not exist, a number of 5000 digits, ...
        raise YAMLError(str(error)) from error


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


def merge(defaults: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """``defaults`` updated with ``overrides``, mappings merged key by key.

    >>> merge({"lr": 0.001, "loss": {"dice": 0.0, "presence": 0.0}}, {"loss": {"dice": 0.5}})
    {'lr': 0.001, 'loss': {'dice': 0.5, 'presence': 0.0}}
    """
    merged = dict(defaults)
    for key, value in overrides.items():
        inner = merged.get(key)
        merged[key] = merge(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return merged


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
