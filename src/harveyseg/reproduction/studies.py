"""The report's experiments: which variants of a recipe each study compares, and the trials they require.

A trial is one variant with one seed: the recipe in params.yaml, one model of it, and the variant's change. Its name is
a digest of all its settings, so studies share trials; the recipe itself is a variant of nearly every study.
"""

import copy
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from harveyseg.config.settings import Section, load, parse
from harveyseg.errors import HarveysegError
from harveyseg.files import digest
from harveyseg.record import format_value

TABLE_1 = (
    "unet", "attention_unet", "unetplusplus", "mobilenet_v2", "efficientnet_b1", "efficientnet_b2", "efficientnet_b3"
)  # fmt: skip
"""The report's U-Net and the networks that it compares with it."""

SECTIONS = ("data", "resize-cache", "split", "folds", "models", "train", "ensemble", "postprocess", "inference")
"""What decides a trial's scores."""

_DEFINITIONS = files("harveyseg.reproduction") / "studies.yaml"
_MODEL = "unet"
"""The model of params.yaml whose recipe the studies vary."""
_MULTIPLE = re.compile(r"(\d+)x")


class Reported(Section):
    """What the report states of a variant."""

    val_loss: float | None = None
    """Cross-entropy on the validation set."""
    score: float | None = None
    """Kaggle's public score."""


class Study(Section):
    """One entry of studies.yaml."""

    title: str
    says: str
    """The report's claim, in its words as far as possible."""
    vary: dict[str, list[Any] | dict[str, Any]] = Field(default_factory=dict)
    """Path of a setting -> its values, or label -> value; of several settings every combination."""
    models: dict[str, dict[str, Any] | None] = Field(default_factory=dict)
    """Name -> entry of ``models``; None for the entry in params.yaml."""
    together: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Label -> path of a setting -> value: what is changed at once."""
    reported: dict[str, Reported] = Field(default_factory=dict)
    curves: bool = False
    """Whether the losses of each epoch belong to the result."""

    @model_validator(mode="after")
    def _one_of_both(self) -> "Study":
        if sum(map(bool, (self.vary, self.models, self.together))) != 1:
            raise ValueError("a study has one of `vary`, `models` and `together`")
        return self


@dataclass(frozen=True)
class Trial:
    """One variant with one seed."""

    variant: str
    seed: int
    model: str
    options: tuple[str, ...]
    """As ``dvc exp run -S`` takes them."""
    name: str
    """The DVC experiment's name."""


@dataclass(frozen=True)
class StudyRecipe:
    """The recipe that studies vary: the settings in params.yaml.

    Raises:
        HarveysegError: when a section that a study needs is absent.
    """

    params: Mapping[str, Any]

    def __post_init__(self) -> None:
        """Check that every section is there."""
        missing = [name for name in SECTIONS if name not in self.params]
        if missing:
            raise HarveysegError(f"the section {missing[0]!r} is missing")

    @cached_property
    def key(self) -> str:
        """Short digest of the recipe, which keeps its runs apart from those of another recipe or data source."""
        return _digest(self.params)

    @property
    def folds(self) -> list[int]:
        """The folds on which each trial is trained."""
        return sorted(self.params["folds"])


def read_recipe(params: Path) -> StudyRecipe:
    """Read the recipe from params.yaml.

    Raises:
        HarveysegError: when the file or a section is absent.
    """
    values = load(params)
    try:
        return StudyRecipe(values)
    except HarveysegError as error:
        raise HarveysegError(f"{params}: {error}. `harveyseg preset report` writes a complete file.") from None


@cache
def read_studies() -> Mapping[str, Study]:
    """All studies, in the order of studies.yaml."""
    with as_file(_DEFINITIONS) as path:
        return {name: parse(Study, values, name) for name, values in load(path).items()}


def find_study(name: str) -> Study:
    """The study with this name.

    Raises:
        HarveysegError: when there is none.
    """
    studies = read_studies()
    if name not in studies:
        raise HarveysegError(f"study {name!r}: unknown. Known are: {', '.join(studies)}")
    return studies[name]


def study_variants(study: Study, recipe: StudyRecipe) -> dict[str, tuple[str, dict[str, Any]]]:
    """What a study changes.

    Returns:
        Label of the variant -> (name of its model, path of a setting -> value).

    Raises:
        HarveysegError: when params.yaml lacks what the study varies.
    """
    if study.models:
        for name, entry in study.models.items():
            if entry is None and name not in recipe.params["models"]:
                raise _missing_setting(f"models.{name}")
        return {
            name: (name, {} if entry is None else {f"models.{name}": entry}) for name, entry in study.models.items()
        }
    if _MODEL not in recipe.params["models"]:
        raise _missing_setting(f"models.{_MODEL}")
    if study.together:
        return {
            label: (_MODEL, {key: _multiplied(value, _present(key, recipe)) for key, value in changes.items()})
            for label, changes in study.together.items()
        }
    choices = [
        [(key, label, value) for label, value in _labelled_values(key, values, recipe)]
        for key, values in study.vary.items()
    ]
    variants = {}
    for combination in itertools.product(*choices):
        labels = [label for _, label, _ in combination]
        if len(combination) > 1:
            labels = [f"{key.rpartition('.')[2]} {label}" for key, label, _ in combination]
        variants[", ".join(labels)] = (_MODEL, {key: value for key, _, value in combination})
    return variants


def study_trials(study: Study, recipe: StudyRecipe, seeds: int, only: Sequence[str] = ()) -> list[Trial]:
    """All variants with the seed ``train.seed``, then all with ``train.seed + 1``, ...

    A study that is stopped early can thus already compare its variants.

    Args:
        study: one of :func:`read_studies`.
        recipe: the settings in params.yaml.
        seeds: how many of each variant.
        only: the variants; all if empty.

    Raises:
        HarveysegError: when params.yaml lacks what the study varies, or the study has no such variant.
    """
    variants = study_variants(study, recipe)
    if unknown := [variant for variant in only if variant not in variants]:
        raise HarveysegError(f"--only {unknown[0]!r}: no variant of this study. It has: {', '.join(variants)}")
    return [
        _make_trial(recipe, variant, model, changes, recipe.params["train"]["seed"] + offset)
        for offset in range(seeds)
        for variant, (model, changes) in variants.items()
        if not only or variant in only
    ]


def study_tags(name: str, recipe: StudyRecipe, variant: str) -> dict[str, str]:
    """The tags of a run that is part of a study: one to read in MLflow's UI, and one that also names the recipe."""
    return {f"study.{name}": variant, study_tag(name, recipe): variant}


def study_tag(name: str, recipe: StudyRecipe) -> str:
    """The tag that all runs of a study of this recipe have; its value is the variant."""
    return f"harveyseg.study.{name}.{recipe.key}"


def _make_trial(recipe: StudyRecipe, variant: str, model: str, changes: Mapping[str, Any], seed: int) -> Trial:
    settings = copy.deepcopy(dict(recipe.params))
    # An entry that the study replaces is removed first: an option would only update the mapping that is there.
    removed = [name for name in recipe.params["models"] if name != model or f"models.{name}" in changes]
    settings["models"] = {name: entry for name, entry in settings["models"].items() if name not in removed}
    options = [f"~models.{name}" for name in removed]
    changes = {**changes, "train.seed": seed}
    # What the study varies for all models must not be overridden by the model's own `train`.
    model_settings = settings["models"].get(model, {})
    for path in changes:
        *groups, key = path.split(".")
        holder = model_settings
        for group in groups:
            holder = holder.get(group, {})
        if key in holder:
            del holder[key]
            options.append(f"~models.{model}.{path}")
    for path, value in changes.items():
        is_new = _set_value(settings, path, value)
        options.append(f"{'+' if is_new else ''}{path}={_hydra(value)}")
    return Trial(variant, seed, model, tuple(options), f"study-{_digest(settings)}")


def _labelled_values(key: str, values: list[Any] | dict[str, Any], recipe: StudyRecipe) -> list[tuple[str, Any]]:
    """(label, value) of each value of a setting; ``2x`` is twice the value in params.yaml."""
    present = _present(key, recipe)
    if isinstance(values, dict):
        return list(values.items())
    resolved = [_multiplied(value, present) for value in values]
    return [(format_value(value), value) for value in resolved]


def _present(key: str, recipe: StudyRecipe) -> Any:
    """The value of a setting in params.yaml."""
    present: Any = recipe.params
    for name in key.split("."):
        if not isinstance(present, Mapping) or name not in present:
            raise _missing_setting(key)
        present = present[name]
    return present


def _multiplied(value: Any, present: Any) -> Any:
    """The value; where it is text such as ``2x``, that multiple of the present one."""
    multiple = _MULTIPLE.fullmatch(value) if isinstance(value, str) else None
    if multiple is None:
        return value
    factor = int(multiple[1])
    return [factor * side for side in present] if isinstance(present, list) else factor * present


def _set_value(settings: dict[str, Any], path: str, value: Any) -> bool:
    """Set the value at a path; returns whether its last key is new."""
    *parents, last = path.split(".")
    for name in parents:
        settings = settings[name]
    is_new = last not in settings
    settings[last] = value
    return is_new


def _hydra(value: Any) -> str:
    """A value in the grammar of ``dvc exp run -S``, which is Hydra's."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_hydra(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_hydra, value)) + "]"
    return format_value(value)


def _missing_setting(key: str) -> HarveysegError:
    return HarveysegError(
        f"params.yaml: {key} is missing, which the study varies. `harveyseg preset report` writes the report's recipe, "
        "`harveyseg preset report-small` one for a laptop."
    )


def _digest(settings: Mapping[str, Any]) -> str:
    return digest({name: settings[name] for name in SECTIONS})[:12]
