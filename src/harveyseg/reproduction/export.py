"""The studies' training runs in plain types: read from MLflow, written to a file that can be committed, read back.

The file is JSON Lines: the first line holds the recipe and the statistics of the data, each further line one run.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from harveyseg.errors import HarveysegError
from harveyseg.files import refuse_foreign, write_text
from harveyseg.reproduction.studies import StudyRecipe, read_studies, study_tag
from harveyseg.tracking.client import Tracker
from harveyseg.tracking.query import KIND, UID, TrackedRun, find_all_runs, find_tagged_runs, read_curves

_SPLIT = "harveyseg.split_hash"


class StudyRun(BaseModel):
    """One finished training of a trial: one variant, one seed, one fold."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    uid: str
    studies: dict[str, str]
    """Study -> variant; several where studies share the trial."""
    seed: int
    fold: int
    started_ms: int
    """Unix time in milliseconds."""
    data_source: str
    split_hash: str
    device: str
    parameters: dict[str, str]
    metrics: dict[str, float]
    """The last value of each, named as in MLflow."""
    curves: dict[str, dict[int, float]]
    """Name as in history.csv -> epoch (from 1) -> value."""
    environment: dict[str, str]
    """Versions and hardware."""


class _Header(BaseModel):
    model_config = ConfigDict(extra="forbid")

    recipe: dict[str, Any]
    data: dict[str, float]


@dataclass(frozen=True)
class StudyRuns:
    """All finished training runs of a recipe's studies, oldest first, and what else their results need."""

    recipe: StudyRecipe
    data: Mapping[str, float]
    """``data/pixel_share/<class>`` and ``data/photos/<class>`` of the training photos; empty where no run has them."""
    runs: tuple[StudyRun, ...]


def load_study_runs(recipe: StudyRecipe, tracker: Tracker, names: Sequence[str] | None = None) -> StudyRuns:
    """Read the finished training runs from MLflow.

    Args:
        recipe: the recipe that was varied.
        tracker: where to read.
        names: the studies; all if None. Of named ones only those whose curves are drawn get curves: each costs a
            request to MLflow.

    Raises:
        HarveysegError: when MLflow cannot be read.
    """
    tracked: dict[str, TrackedRun] = {}
    studies: dict[str, dict[str, str]] = {}
    definitions = read_studies()
    for name in definitions if names is None else names:
        tag = study_tag(name, recipe)
        for run in find_tagged_runs(tracker, tag):
            if run.status == "FINISHED" and run.run_id is not None:
                tracked[run.run_id] = run
                studies.setdefault(run.run_id, {})[name] = run.tags[tag]
    runs = []
    for run_id, run in tracked.items():
        drawn = names is None or any(definitions[name].curves for name in studies[run_id])
        runs.append(_study_run(run, studies[run_id], read_curves(tracker, run_id) if drawn else {}))
    ordered = sorted(runs, key=lambda run: (run.started_ms, run.uid))
    return StudyRuns(recipe, _data_metrics({run.split_hash for run in runs}, tracker), tuple(ordered))


def export_study_runs(studies: StudyRuns, path: Path) -> None:
    """Write the training runs to a file. The photos' location is omitted: only the last part of that path is kept.

    Raises:
        HarveysegError: when ``path`` is a file of someone else.
    """
    refuse_foreign(path, '"recipe": {"')  # the first line
    header = _Header(recipe=_without_locations(studies.recipe.params), data=dict(studies.data))
    lines = [json.dumps(item.model_dump(), sort_keys=True, allow_nan=False) for item in (header, *studies.runs)]
    write_text(path, "".join(f"{line}\n" for line in lines))


def import_study_runs(path: Path) -> StudyRuns:
    """Read what :func:`export_study_runs` wrote.

    Raises:
        HarveysegError: when the file is absent or no such export.
    """
    remedy = "`harveyseg results --export FILE` writes such a file."
    try:
        header, *runs = path.read_text(encoding="utf-8").splitlines()
        content = _Header.model_validate_json(header)
        recipe = StudyRecipe(content.recipe)
        return StudyRuns(recipe, content.data, tuple(StudyRun.model_validate_json(line) for line in runs))
    except FileNotFoundError:
        raise HarveysegError(f"{path}: no such file. {remedy}") from None
    except (ValidationError, ValueError) as error:
        raise HarveysegError(f"{path}: not an export of study runs ({error}). {remedy}") from None


def _study_run(run: TrackedRun, studies: dict[str, str], curves: dict[str, dict[int, float]]) -> StudyRun:
    return StudyRun(
        uid=run.tags[UID],
        studies=studies,
        seed=int(run.parameters["train.seed"]),
        fold=int(run.tags["harveyseg.fold"]),
        started_ms=run.started_ms,
        data_source=run.tags["harveyseg.data_source"],
        split_hash=run.tags[_SPLIT],
        device=run.tags["harveyseg.device"],
        parameters=run.parameters,
        metrics=run.metrics,
        curves=curves,
        environment=run.environment,
    )


def _data_metrics(splits: set[str], tracker: Tracker) -> dict[str, float]:
    """``data/*`` as the newest ensemble on the same photos and split has logged them."""
    for run in reversed(find_all_runs(tracker)):
        if run.tags.get(KIND) == "ensemble" and run.tags.get(_SPLIT) in splits:
            metrics = {name: value for name, value in run.metrics.items() if name.startswith("data/")}
            if metrics:
                return metrics
    return {}


def _without_locations(params: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe with the names, not the paths and addresses, of the photos and their groups."""
    data = params["data"]
    split = params["split"]
    return {
        **params,
        "data": {"source": data["source"], "path": PurePath(data["path"]).name},
        "split": {**split, "groups": PurePath(str(split["groups"])).name},
    }
