"""What each DVC experiment changed, and by how much that moved the ensemble's score."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harveyseg.config.settings import flat_settings, load
from harveyseg.errors import counted
from harveyseg.record import ENSEMBLE, format_value

_SHOWN = 4
"""Changed settings that an experiment's line names."""
_MODELS_SHOWN = 3
"""Models whose own score moved that an experiment's line names."""
_VISIBLE = 0.00005
"""The smallest change of a score that four decimals show."""


@dataclass(frozen=True)
class Experiment:
    """An experiment, next to the commit that it started from."""

    name: str
    state: str
    """``queued``, ``running``, ``failed``, or empty: finished."""
    changes: dict[str, tuple[str, str]]
    """By the setting's full name, its value in the commit and in the experiment."""
    score: float | None
    """The ensemble's on the held-out photos; None before the stage ``metrics`` has run."""
    gain: float | None
    """The score minus that of the commit; None where either is missing."""
    model_gains: dict[str, float]
    """How far each model's own score moved; models that only one side has are left out."""

    def describe(self) -> str:
        """The changes in one line, e.g. ``train.lr 0.003 -> 0.001; unet +0.0120``."""
        changes = [f"{name} {old} -> {new}" for name, (old, new) in self.changes.items()]
        more = f" and {len(changes) - _SHOWN} more" if len(changes) > _SHOWN else ""
        return (", ".join(changes[:_SHOWN]) + more or "no setting") + self._moved()

    def _moved(self) -> str:
        """The models whose own score moved, which the ensemble may not use; those that moved furthest first."""
        moved = [(model, gain) for model, gain in self.model_gains.items() if abs(gain) >= _VISIBLE]
        moved.sort(key=lambda item: -abs(item[1]))
        texts = [f"{model} {gain:+.4f}" for model, gain in moved[:_MODELS_SHOWN]]
        more = f" and {counted(len(moved) - _MODELS_SHOWN, 'more model')}" if len(moved) > _MODELS_SHOWN else ""
        return f"; {', '.join(texts)}{more}" if texts else ""


@dataclass(frozen=True)
class Experiments:
    """The current commit and the experiments that started from it."""

    commit: str
    """Its branch or tag, or the beginning of its hash."""
    score: float | None
    """The ensemble's, as committed; None where the commit holds no results."""
    experiments: Sequence[Experiment]
    """Finished ones first, the best on top."""
    applied: str | None = None
    """The experiment whose settings and scores the workspace has; None where these are the commit's or no one's."""

    @property
    def best(self) -> Experiment | None:
        """The experiment with the highest score; None if none beats the commit."""
        best = next(iter(self.experiments), None)
        return best if best is not None and best.gain is not None and best.gain > 0 else None

    def lines(self) -> Iterator[str]:
        """A table as text: score, gain, state or name, and what was changed."""
        names = [self.commit, *(experiment.name for experiment in self.experiments)]
        width = max(map(len, names))
        yield f"  {self.commit:{width}}  {_number(self.score, '.4f'):>7}  {'':>7}  as committed"
        for experiment in self.experiments:
            score = _number(experiment.score, ".4f") or experiment.state or "-"
            gain = _number(experiment.gain, "+.4f")
            here = " (in the workspace)" if experiment.name == self.applied else ""
            yield f"  {experiment.name:{width}}  {score:>7}  {gain:>7}  {experiment.describe()}{here}"


def list_experiments(root: Path) -> Experiments:
    """Read the experiments that started from the current commit, queued ones too, as ``dvc exp show`` does.

    Args:
        root: the project's root.

    Raises:
        dvc.exceptions.DvcException: when DVC cannot read the project.
    """
    from dvc.api import exp_show

    return compare_rows(exp_show(str(root)), flat_settings(load(root / "params.yaml")))


def compare_rows(rows: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> Experiments:
    """Compare the rows of ``dvc exp show``.

    Args:
        rows: the workspace, then the commit, then its experiments. Columns that are no settings are left out.
        settings: those that may differ, by their full names.
    """
    commit = next(row for row in rows if row["typ"] == "baseline" and row["rev"] != "workspace")
    names = dict.fromkeys([*settings, *(name for row in rows for name in row if _is_setting(name, settings))])
    models = dict.fromkeys(name.split(".")[1] for name in names if name.startswith("models."))
    base = _score(commit)
    workspace = next(row for row in rows if row["rev"] == "workspace")
    alike = [*names, *models, ENSEMBLE]
    applied = None
    experiments = []
    for row in rows:
        if row["typ"] == "baseline":
            continue
        changes = {
            name: (_setting(commit, name), _setting(row, name)) for name in names if _differ(commit, row, [name])
        }
        score = _score(row)
        gain = None if score is None or base is None else score - base
        state = str(row.get("State") or "").lower()
        name = str(row.get("Experiment") or row["rev"])
        moved = {
            model: row[model] - commit[model]
            for model in models
            if isinstance(row.get(model), float) and isinstance(commit.get(model), float)
        }
        if score is not None and applied is None and not _differ(workspace, row, alike):
            applied = name
        experiments.append(Experiment(name, "" if state == "success" else state, changes, score, gain, moved))
    experiments.sort(key=lambda experiment: -math.inf if experiment.score is None else experiment.score, reverse=True)
    changed = _differ(workspace, commit, alike)
    return Experiments(str(commit["rev"]), base, experiments, applied if changed else None)


def _is_setting(column: str, settings: Mapping[str, Any]) -> bool:
    """Whether a column is a setting that only other experiments have, e.g. of a model of theirs."""
    section, _, name = column.partition(".")
    return bool(name) and "/" not in section and any(known.startswith(f"{section}.") for known in settings)


def _setting(row: Mapping[str, Any], name: str) -> str:
    """A setting's value; one that a model does not override is that of the section ``train``."""
    section, _, rest = name.partition(".train.")
    if row.get(name) is None and section.startswith("models.") and rest:
        return _text(row.get(f"train.{rest}"))
    return _text(row.get(name))


def _text(value: object) -> str:
    """A setting as ``dvc exp show`` gives it: numbers as floats, all else as text."""
    if value is None or value == "None":
        return "null"
    if isinstance(value, float):
        return format_value(int(value) if value.is_integer() else value)
    return str(value)


def _differ(first: Mapping[str, Any], second: Mapping[str, Any], columns: Iterable[str]) -> bool:
    return any(_text(first.get(column)) != _text(second.get(column)) for column in columns)


def _score(row: Mapping[str, Any]) -> float | None:
    score = row.get(ENSEMBLE)
    return score if isinstance(score, float) else None


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
