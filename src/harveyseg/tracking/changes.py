"""What an experiment changed: how params.yaml differs from the one of the commit that it started from."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from harveyseg.config.settings import flat_values, load
from harveyseg.project import git_output
from harveyseg.record import Value

_TRAINING = ("data", "folds", "resize-cache", "split", "train")
"""Sections that decide every training."""
_NOT_RESULTS = ("tracking", "submit")


def changes_of_experiment(params: Path, model: str | None = None) -> dict[str, Value]:
    """The settings that differ from those of the commit.

    Args:
        params: params.yaml.
        model: leave out what does not concern the training of this model; None for an ensemble, which all concerns.

    Returns:
        By name, without ``models.<model>``, the present values; None for a setting that is gone. Empty where git
        holds no such file, e.g. in a ZIP download.

    Raises:
        HarveysegError: when params.yaml is absent or not a mapping.
    """
    revision = os.environ.get("DVC_EXP_BASELINE_REV") or "HEAD"
    text = git_output(params.absolute().parent, "show", f"{revision}:./{params.name}")
    try:
        before = YAML(typ="safe", pure=True).load(text or "")
    except YAMLError:
        return {}
    if not isinstance(before, dict):
        return {}
    old, new = _flat(before, model), _flat(load(params), model)
    return {name: new.get(name) for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)}


def _flat(settings: Mapping[str, Any], model: str | None) -> dict[str, Value]:
    """The settings of a run by their paths, e.g. ``train.lr`` or, of the model's own, ``width``."""
    if model is None:
        return flat_values({name: value for name, value in settings.items() if name not in _NOT_RESULTS})
    own = settings.get("models", {}).get(model)
    return flat_values({name: settings[name] for name in _TRAINING if name in settings}) | flat_values(
        own if isinstance(own, dict) else {}
    )
