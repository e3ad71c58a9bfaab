"""Runs of the workspace that were made with other settings than ``params.yaml`` has now.

That is so after an edit of ``params.yaml`` or a ``git checkout`` without ``dvc checkout``: the files are whole, and a
table of them is right, but not of what ``params.yaml`` says.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harveyseg.config.lock import differing_settings, recorded_params
from harveyseg.config.settings import load, merge, parse
from harveyseg.data.cache import ResizeParams
from harveyseg.data.split import SplitParams, split_hash
from harveyseg.inference.params import InferenceParams
from harveyseg.models import is_pretrainable
from harveyseg.record import RunRecord, Value, format_value
from harveyseg.training.params import TrainParams, flat_parameters, for_network

_SHOWN = 3
_NO_CONTENT = ("data.ground", "data.inputs", "data.path", "data.source", "resize-cache.size")
"""Settings that runs record themselves, or that say where the photos are and not which."""


def find_contradictions(
    params: Path, runs: Sequence[tuple[RunRecord, Mapping[str, Value]]], folds: Path
) -> dict[str, str]:
    """Compare what made the workspace's runs with ``params.yaml``; neither photos nor weights are needed.

    A run records the hash of its folds, and ``dvc.lock`` the settings that made the workspace's data and folds.

    Args:
        params: ``params.yaml``, next to which ``dvc.lock`` is.
        runs: each run that it lists, with its parameters and the settings of its evaluation.
        folds: ``folds.csv`` of the workspace, which may be absent.

    Returns:
        By the run's uid, what differs, e.g. ``"train.lr is 0.5 in params.yaml and 0.01 in this run"``.

    Raises:
        HarveysegError: when a section of ``params.yaml`` is wrong.
    """
    values = load(params)
    evaluation = _evaluation_settings(values)
    lock = params.with_name("dvc.lock")
    made = _data_differences(values, lock) + _split_differences(values, lock)
    present = split_hash(folds) if folds.exists() else None
    members = {f"member.{record.model}-{record.fold}": record.uid for record, _ in runs if record.kind == "train"}
    found = {}
    for record, parameters in runs:
        # A run that has not been evaluated yet has no settings of it.
        expected = {name: value for name, value in evaluation.items() if name in parameters}
        if record.kind == "train":
            recorded = {**parameters, "data.source": record.data_source}
            differences = made + _differences(expected | _training_settings(values, record.model), recorded)
        else:
            differences = _differences(expected | _named(values, "ensemble", "steps"), parameters)
            # Those that `ensemble.runs` adds have a dot in their names.
            averaged = {name: uid for name, uid in parameters.items() if re.fullmatch(r"member\.[^.]+", name)}
            differences += (
                [] if averaged == members else ["this run averages other training runs than data/models holds"]
            )
        if present is not None and record.split_hash != present:
            differences.append(f"this run was made with other folds than {folds.name} holds")
        if differences:
            more = f" and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
            found[record.uid] = "; ".join(differences[:_SHOWN]) + more
    return found


def training_differences(params: Path, records: Sequence[RunRecord]) -> dict[str, list[str]]:
    """How the settings of training runs differ from those for which ``params.yaml`` would train now.

    Args:
        params: ``params.yaml``.
        records: training runs of models that it lists.

    Returns:
        By the run's uid, what differs; nothing for a run in which nothing does.

    Raises:
        HarveysegError: when a section of ``params.yaml`` is wrong.
    """
    values = load(params)
    found = {}
    for record in records:
        recorded = {**record.parameters, "data.source": record.data_source}
        if differences := _differences(_training_settings(values, record.model), recorded):
            found[record.uid] = differences
    return found


def _differences(expected: Mapping[str, Value], recorded: Mapping[str, Value]) -> list[str]:
    known = {
        name: value for name, value in recorded.items() if name in expected or name.startswith(("train.", "model."))
    }
    differences = []
    for name in sorted(expected.keys() | known.keys()):
        here, there = (format_value(values[name]) if name in values else "absent" for values in (expected, known))
        if here != there:
            differences.append(f"{name} is {here} in params.yaml and {there} in this run")
    return differences


def _data_differences(values: Mapping[str, Any], lock: Path) -> list[str]:
    """How the settings of the photos differ from those that DVC recorded when it prepared them."""
    found: dict[str, str] = {}
    for stage in ("download", "resize-cache"):
        found |= differing_settings(values, lock, stage, "this run")
    return [text for name, text in sorted(found.items()) if name not in _NO_CONTENT]


def _split_differences(values: Mapping[str, Any], lock: Path) -> list[str]:
    """How the section ``split`` differs from what DVC recorded when it split the photos."""
    recorded = recorded_params(lock, "split").get("split")
    if recorded is None:
        return []
    known = {name: field.default for name, field in SplitParams.model_fields.items()} | recorded
    return [
        f"split.{name} is {value} in params.yaml and {known[name]} in this run"
        for name, value in parse(SplitParams, _section(values, "split"), "split")
        if value != known[name]
    ]


def _named(values: Mapping[str, Any], section: str, key: str) -> dict[str, Value]:
    """A setting under its full name, if the section has it."""
    return {f"{section}.{name}": value for name, value in _section(values, section).items() if name == key}


def _section(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    section = values.get(name)
    return dict(section) if isinstance(section, dict) else {}


def _training_settings(values: Mapping[str, Any], model: str) -> dict[str, Value]:
    """What the record of a training with these settings holds."""
    entry = dict(values["models"][model])
    overrides = entry.pop("train", {})
    train = parse(TrainParams, merge(_section(values, "train"), overrides), f"models.{model}.train")
    train = for_network(train, overrides, is_pretrainable(str(entry.get("network")), f"models.{model}"))
    height, width = parse(ResizeParams, _section(values, "resize-cache"), "resize-cache").shape
    data = {"resize-cache.size": f"{height}x{width}", **_named(values, "data", "source")}
    return flat_parameters(entry, train) | data


def _evaluation_settings(values: Mapping[str, Any]) -> dict[str, Value]:
    """Of prediction and post-processing, without those that are ``auto``: machines resolve them differently."""
    inference = parse(InferenceParams, _section(values, "inference"), "inference").settings()
    resolved: dict[str, Value] = {name: value for name, value in inference.items() if value != "auto"}
    return resolved | _named(values, "postprocess", "method")
