"""Reading runs back from MLflow: by id, by uid and evaluation, or by tag; their curves and their weights."""

import json
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from harveyseg.errors import HarveysegError
from harveyseg.files import atomic, sha256
from harveyseg.progress import format_duration
from harveyseg.record import MODEL_NAME, WEIGHTS_FILE, RunRecord
from harveyseg.tracking.client import Tracker
from harveyseg.tracking.outputs import MODEL_FOLDER, SETTINGS, RunOutputs
from harveyseg.tracking.values import unpack_values

if TYPE_CHECKING:
    from mlflow.entities import Run as MlflowRun
    from mlflow.tracking import MlflowClient

UID = "harveyseg.uid"
KIND = "harveyseg.kind"
STAGE_KEY = "harveyseg.stage_key"
UNKNOWN = "unknown"
"""The tag ``harveyseg.git_dirty`` where git could not tell."""
EXPERIMENT = "harveyseg.experiment"
EVALUATION_TAG = "harveyseg.evaluation"
"""Which evaluation a run's scores are of. Another evaluation of the same training has a run of its own."""
SENT = "harveyseg.artifacts"
"""A tag with the start of each sent file's SHA-256, so that a changed file is found without a download."""
SENT_LENGTH = 16
ENVIRONMENT_PREFIX = "environment."
PIPELINE = "harveyseg.pipeline"
"""The tag to group runs by: the same for all runs of one ``dvc repro`` or ``dvc exp run``."""
EPOCH_PREFIX = "epoch/"
"""Curves have a name space of their own: ``seconds`` of one epoch must not hide ``seconds`` of the whole run."""


@dataclass(frozen=True)
class TrackedRun:
    """A run in MLflow, in plain types."""

    run_id: str | None
    status: str
    """RUNNING, FINISHED, FAILED or KILLED."""
    started_ms: int
    parameters: dict[str, str]
    metrics: dict[str, float]
    """The last value of each, and the values that MLflow keeps in tags."""
    tags: dict[str, str]

    @property
    def environment(self) -> dict[str, str]:
        """Versions and hardware that the run was computed with."""
        return {
            name.removeprefix(ENVIRONMENT_PREFIX): value
            for name, value in self.tags.items()
            if name.startswith(ENVIRONMENT_PREFIX)
        }


def find_runs(tracker: Tracker, outputs: Sequence[RunOutputs]) -> list[TrackedRun | None]:
    """The MLflow run of each evaluation, or None. Never simply the latest run.

    Raises:
        HarveysegError: when MLflow cannot be read, or a file of the outputs is damaged.
    """
    wanted = [(output.record, output.evaluation) for output in outputs]

    def find(client: "MlflowClient") -> list[TrackedRun | None]:
        runs = [
            select_run(runs_of_training(tracker, client, record), record.run_id, evaluation)
            for record, evaluation in wanted
        ]
        return [None if run is None else _tracked(run) for run in runs]

    return tracker.demand(find)


def find_all_runs(tracker: Tracker) -> list[TrackedRun]:
    """All training and ensemble runs of the experiment, oldest first.

    Raises:
        HarveysegError: when MLflow cannot be read.
    """
    # Older versions grouped runs under one of the kind "pipeline".
    condition = f"tags.`{KIND}` != 'pipeline' AND tags.`{KIND}` != 'baseline'"
    return [*map(_tracked, tracker.demand(lambda client: tracker.search(client, condition)))]


def find_tagged_runs(tracker: Tracker, tag: str) -> list[TrackedRun]:
    """The runs that have a tag of this name, oldest first.

    Raises:
        HarveysegError: when MLflow cannot be read.
    """
    return [*map(_tracked, tracker.demand(lambda client: tracker.search(client, f"tags.`{tag}` LIKE '%'")))]


def get_runs(tracker: Tracker, run_ids: Sequence[str]) -> list[TrackedRun | None]:
    """The runs with these MLflow ids, of whatever experiment; None for one that is unknown or was deleted.

    Raises:
        HarveysegError: when MLflow cannot be read.
    """
    runs = tracker.demand(lambda client: [_get(client, run_id) for run_id in run_ids])
    return [None if run is None else _tracked(run) for run in runs]


def tag_runs(tracker: Tracker, outputs: Sequence[RunOutputs], tags: Mapping[str, str]) -> None:
    """Set tags of runs that MLflow knows.

    Raises:
        HarveysegError: when MLflow cannot be used, or lacks one of the runs.
    """
    for output, run in zip(outputs, find_runs(tracker, outputs), strict=True):
        if run is None or run.run_id is None:
            raise HarveysegError(f"{output.record.name}: not in MLflow. Run `harveyseg sync`.")
        _set_tags(tracker, run.run_id, tags)


def read_curves(tracker: Tracker, run_id: str) -> dict[str, dict[int, float]]:
    """The values that a training logged after each epoch: name as in history.csv -> epoch (from 1) -> value.

    Raises:
        HarveysegError: when MLflow cannot be read.
    """

    def read(client: "MlflowClient") -> dict[str, dict[int, float]]:
        names = [name for name in client.get_run(run_id).data.metrics if name.startswith(EPOCH_PREFIX)]
        return {
            name.removeprefix(EPOCH_PREFIX): {
                metric.step: metric.value for metric in client.get_metric_history(run_id, name)
            }
            for name in names
        }

    return tracker.demand(read)


def sent_digests(run: "MlflowRun") -> dict[str, str]:
    """The start of the SHA-256 of each file that was sent to a run, by its name among the artifacts."""
    try:
        return dict(json.loads(run.data.tags.get(SENT, "{}")))
    except ValueError:  # cut or edited
        return {}


def has_weights(tracker: Tracker, run_id: str) -> bool:
    """Whether MLflow holds the weights of a run's training.

    Raises:
        HarveysegError: when MLflow cannot be read.
    """
    return tracker.demand(lambda client: _run_with_weights(tracker, client, run_id)) is not None


def download_weights(tracker: Tracker, run_id: str, folder: Path) -> Path:
    """Fetch the weights of a run's training.

    Args:
        tracker: where they are.
        run_id: MLflow's id of a run that :func:`has_weights`.
        folder: where to; it is created if absent.

    Returns:
        The file, ``folder / "weights.safetensors"``.

    Raises:
        HarveysegError: when MLflow or its artifacts cannot be read, or the file is not the one that was sent there.
    """
    target = folder / WEIGHTS_FILE
    name = f"{MODEL_FOLDER}/{WEIGHTS_FILE}"

    def download(client: "MlflowClient") -> None:
        source = _run_with_weights(tracker, client, run_id) or run_id
        sent = sent_digests(client.get_run(source)).get(name)
        with tempfile.TemporaryDirectory() as temporary, atomic(target) as written:
            fetched = client.download_artifacts(source, name, temporary)
            if sent is not None and sha256(Path(fetched))[:SENT_LENGTH] != sent:
                raise HarveysegError(
                    f"MLflow's run {source}: {name} is not the file that was sent there; it is damaged, or somebody "
                    "replaced it. Delete it there, then run `harveyseg sync` in the workspace that trained it."
                )
            shutil.copyfile(fetched, written)  # without its mode, which some disks refuse

    tracker.demand(download)
    return target


@dataclass(frozen=True)
class TrainingProgress:
    """How far a training is that runs."""

    epoch: int
    """The last finished one, from 1."""
    epochs: int
    """The most that it can have."""
    score: float | None
    """The argmax score of the last validation; None before the first one."""
    images_per_second: float
    seconds: float
    """Of all its epochs, at the last one's speed."""
    seconds_left: float

    def __str__(self) -> str:
        """In words, e.g. ``epoch 3/20, argmax score 0.6120, 12.5 images/s, 1 min 20 s left``."""
        score = "" if self.score is None else f", argmax score {self.score:.4f}"
        left = format_duration(self.seconds_left)
        return f"epoch {self.epoch}/{self.epochs}{score}, {self.images_per_second:.3g} images/s, {left} left"


def running_trainings(tracker: Tracker, tag: str, value: str) -> dict[str, TrainingProgress]:
    """How far the trainings with a tag are that have finished an epoch; empty when MLflow cannot be read.

    Args:
        tracker: where to look.
        tag: ``PIPELINE`` or ``EXPERIMENT``.
        value: of the tag.

    Returns:
        ``<model>-<fold>`` -> its progress.
    """

    def find(client: "MlflowClient") -> dict[str, TrainingProgress]:
        found = {}
        name = f"{EPOCH_PREFIX}train_loss"
        for run in tracker.search(client, f"attributes.status = 'RUNNING' AND tags.`{tag}` = '{value}'"):
            values, tags = run.data.metrics, run.data.tags
            if name not in values or "train.epochs" not in run.data.params:
                continue
            last = max(client.get_metric_history(run.info.run_id, name), key=lambda metric: metric.step)
            epochs = int(run.data.params["train.epochs"])
            seconds = values[f"{EPOCH_PREFIX}seconds"]
            left = (epochs - last.step) * seconds - (time.time() - last.timestamp / 1000)
            found[f"{tags['harveyseg.model']}-{tags['harveyseg.fold']}"] = TrainingProgress(
                epoch=last.step,
                epochs=epochs,
                score=values.get(f"{EPOCH_PREFIX}val_argmax_score"),
                images_per_second=values[f"{EPOCH_PREFIX}images_per_second"],
                seconds=epochs * seconds,
                seconds_left=max(0.0, left),
            )
        return found

    return tracker.attempt(find) or {}


def record_of(run: TrackedRun) -> RunRecord:
    """The record of a run, read back from MLflow; its parameters stay text, its results are left out.

    Raises:
        HarveysegError: when a tag that every run has is missing or wrong, as in a run of another version. The model's
            name becomes part of a path, so it must be one that params.yaml could hold.
    """
    names = {"uid", "kind", "stage_key", "model", "fold", "experiment", "device", "git_commit", "git_dirty"}
    names |= {"data_source", "data_hash", "split_hash"}
    parameters = {name: value for name, value in run.parameters.items() if not name.startswith(SETTINGS)}
    values: dict[str, object] = {name: run.tags.get(f"harveyseg.{name}") for name in names}
    if values["git_dirty"] == UNKNOWN:
        values["git_dirty"] = None
    values |= {
        "run_id": run.run_id,
        "parameters": parameters,
        "environment": run.environment,
        "started_ms": run.started_ms,
    }
    try:
        record = RunRecord.model_validate(values)
    except ValidationError as error:
        tags = ", ".join(f"harveyseg.{item['loc'][0]}" for item in error.errors())
        raise HarveysegError(f"{run.run_id}: tags that every run has are wrong or missing in MLflow: {tags}") from None
    if not MODEL_NAME.fullmatch(record.model):
        raise HarveysegError(f"{run.run_id}: the tag harveyseg.model is {record.model!r}, which is not a model's name")
    return record


def runs_of_training(tracker: Tracker, client: "MlflowClient", record: RunRecord) -> list["MlflowRun"]:
    """All runs of one training or ensemble: the one with its id, then those with its uid, oldest first."""
    run = None if record.run_id is None else _get(client, record.run_id)
    first = [run] if run is not None and run.data.tags.get(UID) == record.uid else []
    return first + [
        run
        for run in tracker.search(client, f"tags.`{UID}` = '{record.uid}'")
        if not first or run.info.run_id != record.run_id
    ]


def deleted_runs_of_training(tracker: Tracker, client: "MlflowClient", record: RunRecord) -> list["MlflowRun"]:
    """The runs of one training or ensemble that were deleted but can be restored, oldest first."""
    return tracker.search(client, f"tags.`{UID}` = '{record.uid}'", deleted=True)


def select_run(runs: Sequence["MlflowRun"], run_id: str | None, evaluation: str) -> "MlflowRun | None":
    """The run that holds an evaluation, or may: one that is not evaluated yet, or not post-processed yet.

    Args:
        runs: of one training, see :func:`runs_of_training`; among equals the first is taken.
        run_id: preferred where no evaluation is asked for.
        evaluation: its id; empty for any.
    """

    def agreement(run: "MlflowRun") -> int:
        """Length of the common part of both ids, an exact match first; -1 where they contradict one another."""
        tag = run.data.tags.get(EVALUATION_TAG, "")
        if tag == evaluation:
            return len(evaluation) + 1
        shorter, longer = sorted((tag, evaluation), key=len)
        return len(shorter) if longer.startswith(shorter) else -1

    if not evaluation:
        return next((run for run in runs if run.info.run_id == run_id), runs[0] if runs else None)
    best = max(runs, key=agreement, default=None)
    return None if best is None or agreement(best) < 0 else best


def list_artifacts(client: "MlflowClient", run_id: str, folders: set[str]) -> set[str]:
    """The paths of a run's artifacts in these folders."""
    return {artifact.path for folder in sorted(folders) for artifact in client.list_artifacts(run_id, folder)}


def _run_with_weights(tracker: Tracker, client: "MlflowClient", run_id: str) -> str | None:
    """The run, or another evaluation of the same training, that holds the weights: they are stored once."""
    uid = client.get_run(run_id).data.tags.get(UID)
    others = [] if uid is None else tracker.search(client, f"tags.`{UID}` = '{uid}'")
    for candidate in dict.fromkeys([run_id, *(run.info.run_id for run in others)]):
        if f"{MODEL_FOLDER}/{WEIGHTS_FILE}" in list_artifacts(client, candidate, {MODEL_FOLDER}):
            return str(candidate)
    return None


def _get(client: "MlflowClient", run_id: str) -> "MlflowRun | None":
    """The run with this id; None when there is none, or it was deleted."""
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):  # the latter: not an id
            raise
        return None
    return run if run.info.lifecycle_stage == "active" else None


def _set_tags(tracker: Tracker, run_id: str, tags: Mapping[str, str]) -> None:
    from mlflow.entities import RunTag

    tracker.demand(lambda client: client.log_batch(run_id, tags=[RunTag(*tag) for tag in tags.items()]))


def _tracked(run: "MlflowRun") -> TrackedRun:
    return TrackedRun(
        run_id=run.info.run_id,
        status=run.info.status,
        started_ms=run.info.start_time,
        parameters=dict(run.data.params),
        metrics={**run.data.metrics, **unpack_values(run.data.tags)},
        tags=dict(run.data.tags),
    )
