"""The studies' training runs in plain types: read from MLflow, written to a file that can be committed, read back.

The file is JSON Lines: the first line holds the recipe and the statistics of the data, each further line one run.
"""

import json
import lzma
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from harveyseg.config.settings import flat_settings
from harveyseg.errors import HarveysegError
from harveyseg.files import atomic, refuse_foreign
from harveyseg.reproduction.studies import SECTIONS, StudyRecipe, read_studies, study_tag
from harveyseg.tracking.client import Tracker
from harveyseg.tracking.query import KIND, UID, TrackedRun, find_all_runs, find_tagged_runs, read_curves

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_SPLIT = "harveyseg.split_hash"
_MARK = '"recipe": {"'
"""In the first line of each export."""
_COMPRESSED = ".xz"
_ABSENT = object()
_PHOTO_SIZE = "resize-cache.size"
_PATHS = frozenset({"path", "groups", "held_out", "classes", "encoder_weights", "init"})
"""Settings that may be a file or folder, in any section."""
_ADDRESSES = frozenset({"inputs", "url"})
"""Settings that say nothing but where something lies."""
LATENCY_EXPERIMENT = "latency"
"""MLflow's experiment of measured latencies, apart from the trainings."""


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
    data_hash: str
    split_hash: str
    git_commit: str | None
    """Of the project whose code trained; None where git could not tell."""
    device: str
    parameters: dict[str, str]
    metrics: dict[str, float]
    """The last value of each, named as in MLflow."""
    curves: dict[str, dict[int, float]]
    """Name as in history.csv -> epoch (from 1) -> value."""
    environment: dict[str, str]
    """Versions and hardware."""

    @property
    def computed_with(self) -> str:
        """Device and precision, e.g. ``cpu bf16``."""
        return f"{self.device} {self.environment.get('precision', 'of unknown precision')}"

    @property
    def photos(self) -> tuple[str, str]:
        """Digests of the photos, masks and classes, and of how the photos were split."""
        return self.data_hash, self.split_hash


class Latency(BaseModel):
    """How long one photo takes in a network, beside how long it takes in the report's U-Net."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    milliseconds: float
    """Median."""
    ratio: float
    """Median of the ratios to the U-Net's time in the same round."""
    low: float
    """Lower end of the 95% interval of that median."""
    high: float


class _Header(BaseModel):
    model_config = ConfigDict(extra="forbid")

    recipe: dict[str, Any]
    data: dict[str, float]
    latency: dict[str, Latency]
    runs: int
    """How many lines follow."""


@dataclass(frozen=True)
class StudyRuns:
    """All finished training runs of a recipe's studies, oldest first, and what else their results need."""

    recipe: StudyRecipe
    data: Mapping[str, float]
    """``data/pixel_share/<class>`` and ``data/photos/<class>`` of the training photos; empty where no run has them."""
    runs: tuple[StudyRun, ...]
    latency: Mapping[str, Latency] = field(default_factory=dict)
    """Network -> what `benchmarks/latency.py --log` has logged last; empty where it has not run."""


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
    data = _data_metrics({run.split_hash for run in runs}, tracker)
    return StudyRuns(recipe, data, tuple(ordered), _latency(tracker))


def export_study_runs(studies: StudyRuns, path: Path) -> None:
    """Write the training runs to a file, without addresses; of paths only the last part is kept.

    A name that ends in ``.xz`` makes a compressed file, a tenth of the size.

    Raises:
        HarveysegError: when ``path`` is a file of someone else.
    """
    if not _is_export(path):
        refuse_foreign(path, _MARK)
    recipe = _portable(studies.recipe)
    header = _Header(recipe=recipe, data=dict(studies.data), latency=dict(studies.latency), runs=len(studies.runs))
    lines = [json.dumps(item.model_dump(), sort_keys=True, allow_nan=False) for item in (header, *studies.runs)]
    text = "".join(f"{line}\n" for line in lines)
    with atomic(path) as temporary:
        temporary.write_bytes(lzma.compress(text.encode()) if path.suffix == _COMPRESSED else text.encode())


def import_study_runs(path: Path) -> StudyRuns:
    """Read what :func:`export_study_runs` wrote.

    Raises:
        HarveysegError: when the file is absent or no such export.
    """
    remedy = "`harveyseg results --export FILE` writes such a file."
    header: _Header | None = None
    runs: list[StudyRun] = []
    try:
        first_line, *lines = _read_text(path).splitlines() or [""]
        header = _Header.model_validate_json(first_line)
        for line in lines:
            runs.append(StudyRun.model_validate_json(line))
        if len(runs) != header.runs:
            raise ValueError(f"it has {len(runs)} runs, its first line says {header.runs}")
        return StudyRuns(StudyRecipe(header.recipe), header.data, tuple(runs), header.latency)
    except FileNotFoundError:
        raise HarveysegError(f"{path}: no such file. {remedy}") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        number = 1 if header is None else len(runs) + 2
        why = f"line {number}: {f'{place}: ' if place else ''}{first['msg']}"
        raise HarveysegError(f"{path}: not an export of study runs ({why}). {remedy}") from None
    except (EOFError, lzma.LZMAError, ValueError, HarveysegError) as error:
        raise HarveysegError(f"{path}: not an export of study runs ({error}). {remedy}") from None


def import_runs_of(recipe: StudyRecipe, path: Path) -> StudyRuns:
    """Read an export of runs of this recipe.

    Raises:
        HarveysegError: when the file is absent, no export, or has runs of another recipe.
    """
    runs = import_study_runs(path)
    if differing := differing_settings(recipe, runs.recipe):
        raise HarveysegError(
            f"{path}: its runs are of another recipe than params.yaml, which differs in {_first_of(differing)}. "
            "Use the recipe of these runs, or leave the file out."
        )
    return runs


def differing_settings(first: StudyRecipe, second: StudyRecipe) -> list[str]:
    """The full names of the settings in which two recipes differ; where the photos and other files lie is none."""
    ours, theirs = (flat_settings(_portable(recipe)) for recipe in (first, second))
    return [name for name in ours | theirs if ours.get(name, _ABSENT) != theirs.get(name, _ABSENT)]


def merge_study_runs(parts: Mapping[str, StudyRuns]) -> list[StudyRuns]:
    """Make one of all runs of a recipe, wherever they ran.

    Args:
        parts: runs by where they were read, a file or MLflow. Of each recipe the first one's locations stay.

    Returns:
        One for each recipe, of photos of different sizes; runs oldest first, each once.

    Raises:
        HarveysegError: when two recipes have photos of one size, a study of a recipe ran on other photos or another
            split of them in two parts, or two runs have one id.
    """
    recipes: list[dict[str, StudyRuns]] = []
    for origin, part in parts.items():
        for others in recipes:
            first, like = next(iter(others.items()))
            differing = differing_settings(like.recipe, part.recipe)
            if not differing:
                others[origin] = part
                break
            if _PHOTO_SIZE not in differing:
                raise HarveysegError(
                    f"{origin}: its recipe differs from that of {first} in {_first_of(differing)}, but not in the size "
                    "of the photos, which tells the columns apart. Leave one of both out."
                )
        else:
            recipes.append({origin: part})
    return [_merge_recipe(others) for others in recipes]


def _first_of(settings: Sequence[str]) -> str:
    return settings[0] if len(settings) == 1 else f"{settings[0]} and {len(settings) - 1} more"


def _merge_recipe(parts: Mapping[str, StudyRuns]) -> StudyRuns:
    photos: dict[str, tuple[str, tuple[str, str]]] = {}
    runs: dict[str, StudyRun] = {}
    for origin, part in parts.items():
        newest = {study: run.photos for run in part.runs for study in run.studies}
        for study, digests in newest.items():
            first, others = photos.setdefault(study, (origin, digests))
            if digests != others:
                raise HarveysegError(
                    f"{origin}: its study {study} ran on other photos, or another split of them, than that of {first}. "
                    "They cannot be compared: leave one of both out."
                )
        for run in part.runs:
            known = runs.get(run.uid, run)
            if (known.seed, known.fold, known.started_ms) != (run.seed, run.fold, run.started_ms):
                raise HarveysegError(
                    f"{origin}: two runs have the id {run.uid}, one with seed {known.seed} and fold {known.fold}, one "
                    f"with seed {run.seed} and fold {run.fold}. Export the runs again."
                )
            runs[run.uid] = run.model_copy(update={"studies": {**known.studies, **run.studies}})
    return StudyRuns(
        next(iter(parts.values())).recipe,
        {name: value for part in parts.values() for name, value in part.data.items()},
        tuple(sorted(runs.values(), key=lambda run: (run.started_ms, run.uid))),
        {network: latency for part in parts.values() for network, latency in part.latency.items()},
    )


def _read_text(path: Path) -> str:
    content = path.read_bytes()
    return (lzma.decompress(content) if path.suffix == _COMPRESSED else content).decode()


def _is_export(path: Path) -> bool:
    try:
        return _MARK in _read_text(path)
    except (OSError, lzma.LZMAError, ValueError):
        return False


def _study_run(run: TrackedRun, studies: dict[str, str], curves: dict[str, dict[int, float]]) -> StudyRun:
    return StudyRun(
        uid=run.tags[UID],
        studies=studies,
        seed=int(run.parameters["train.seed"]),
        fold=int(run.tags["harveyseg.fold"]),
        started_ms=run.started_ms,
        data_source=run.tags["harveyseg.data_source"],
        data_hash=run.tags["harveyseg.data_hash"],
        split_hash=run.tags[_SPLIT],
        git_commit=run.tags.get("harveyseg.git_commit"),
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


def log_latency(tracker: Tracker, networks: Mapping[str, Latency], parameters: Mapping[str, object]) -> None:
    """Log a measurement as a finished run, from which :func:`load_study_runs` takes it.

    Args:
        tracker: where to; in the experiment :data:`LATENCY_EXPERIMENT`.
        networks: what was measured.
        parameters: how and on what.

    Raises:
        HarveysegError: when MLflow cannot be used.
    """

    def log(client: "MlflowClient") -> None:
        run_id = client.create_run(tracker.experiment_id, run_name="latency").info.run_id
        for name, value in parameters.items():
            client.log_param(run_id, name, value)
        for network, latency in networks.items():
            for name, number in latency.model_dump().items():
                client.log_metric(run_id, f"{name}/{network}", number)
        client.set_terminated(run_id)

    tracker.demand(log)


def _latency(tracker: Tracker) -> dict[str, Latency]:
    """The newest measurement; empty without one."""

    def read(client: "MlflowClient") -> dict[str, float]:
        experiment = client.get_experiment_by_name(LATENCY_EXPERIMENT)
        if experiment is None:
            return {}
        runs = client.search_runs(
            [experiment.experiment_id], "attributes.status = 'FINISHED'", order_by=["attributes.start_time DESC"]
        )
        return dict(runs[0].data.metrics) if runs else {}

    networks: dict[str, dict[str, float]] = {}
    for metric, value in tracker.demand(read).items():
        name, _, network = metric.partition("/")
        networks.setdefault(network, {})[name] = value
    return {network: Latency.model_validate(values) for network, values in networks.items()}


def _portable(recipe: StudyRecipe) -> dict[str, Any]:
    """What decides the scores of a recipe's trials, without where the photos and other files lie."""
    sections = {name: recipe.params[name] for name in SECTIONS}
    portable: dict[str, Any] = _without_locations(sections)
    return portable


def _without_locations(value: Any, name: str = "") -> Any:
    """The value of a setting, with the names, not the folders, of files."""
    if isinstance(value, Mapping):
        return {key: _without_locations(inner, key) for key, inner in value.items() if key not in _ADDRESSES}
    return PurePath(value).name if name in _PATHS and isinstance(value, str) else value
