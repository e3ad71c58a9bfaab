"""Making a run in MLflow equal to the files that the stages write.

The files are the truth, MLflow is a copy to look at and to make tables from. One function, :func:`mirror`, sends what
the copy lacks: after each epoch, after each stage, and by ``harveyseg sync`` where a tracker missed something. Doing it
twice sends nothing more.
"""

import json
import socket
import sys
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil  # type: ignore[import-untyped]

from harveyseg.errors import counted, raise_problems
from harveyseg.files import sha256
from harveyseg.palette import model_colour
from harveyseg.progress import track
from harveyseg.record import WEIGHTS_FILE, RunRecord, format_value
from harveyseg.tracking.appearance import COLOUR, description_tags
from harveyseg.tracking.client import Tracker
from harveyseg.tracking.outputs import MAX_NAME, MODEL_FOLDER, Artifact, RunState, check_metrics
from harveyseg.tracking.processes import is_dead, pipeline_name, this_process
from harveyseg.tracking.query import (
    ENVIRONMENT_PREFIX,
    EPOCH_PREFIX,
    EVALUATION_TAG,
    EXPERIMENT,
    KIND,
    PIPELINE,
    SENT,
    SENT_LENGTH,
    STAGE_KEY,
    UID,
    UNKNOWN,
    deleted_runs_of_training,
    list_artifacts,
    runs_of_training,
    select_run,
    sent_digests,
)
from harveyseg.tracking.values import pack_values, shown_metrics, unpack_values

if TYPE_CHECKING:
    from mlflow.entities import Metric
    from mlflow.entities import Run as MlflowRun
    from mlflow.tracking import MlflowClient

RESTORED = "restored"
"""The tag of a run that was made from files, not while it was computed."""
_PROCESS = "harveyseg.process"

_EPOCH_MARK = EPOCH_PREFIX + "train_loss"
"""Every epoch has it, and it is sent last of an epoch: its steps tell which epochs are complete."""

_MAX_PARAMETER = 6000
_MAX_TAG = 8000
_MAX_DATASET_DIGEST = 32
_SILENT_EPOCHS = 10
"""A training elsewhere is taken for dead after a silence of this many times its longest epoch, ..."""
_SILENT_MS = 3_600_000
"""... and at least an hour; ..."""
_SILENT_START_MS = 24 * 3_600_000
"""... if it has not finished its first epoch, after a day."""


@dataclass
class _MirroredRun:
    """A run as MLflow holds it."""

    run: "MlflowRun"
    changes: list[str] = field(default_factory=list)
    """Why :func:`mirror` had to create the run; empty if the training did."""
    epochs: set[int] = field(default_factory=set)
    others: list[str] = field(default_factory=list)
    """The ids of the training's runs for other evaluations."""
    tags: dict[str, str] = field(default_factory=dict)
    """What it lacks and shall hold, whatever the record says."""


def mirror(tracker: Tracker, state: RunState) -> str | None:
    """Make a run in MLflow equal to ``state``: parameters, tags, metrics, curves, artifacts, data set and status.

    A run that is unknown by id and by uid is imported with its own times and the tag ``restored``. A run that holds
    another evaluation is left as it is, and this evaluation gets a run of its own. Metrics that differ are logged
    again; files that are absent or have changed are sent.

    Args:
        tracker: where to.
        state: all that the run shall hold. What it does not name is left as it is.

    Returns:
        One line that says what was sent; None when nothing was, or when the tracker has failed.

    Raises:
        HarveysegError: before anything is sent, for NaN, infinity and what MLflow would cut; and when a required
            tracker fails.
        FileNotFoundError: when an artifact is absent.
    """
    record = state.record
    _check_lengths(state)
    values = check_metrics({**record.results, **state.metrics}, f"the results of {record.name}")
    metrics = shown_metrics(values, state.hidden)
    epochs = _epoch_values(state.history)
    digests = {artifact: sha256(artifact.path)[:SENT_LENGTH] for artifact in state.artifacts}

    def send(client: "MlflowClient") -> str | None:
        copy = tracker.running.get(record.uid) if state.status == "RUNNING" else None
        if copy is None:
            copy = _claim(tracker, client, state)
        changes = list(copy.changes)
        missing = {step: values for step, values in epochs.items() if step not in copy.epochs}
        changed = _changed_metrics(client, copy.run, metrics, record.ended_ms or record.started_ms)
        kept = unpack_values(copy.run.data.tags)
        differing = {name: value for name, value in values.items() if kept.get(name) != value}
        renewed = differing.keys() | {metric.key for metric in changed}
        tags = {**copy.tags, **description_tags(copy.run, state)}
        tags |= pack_values({**kept, **differing}, copy.run.data.tags) if differing else {}
        curves = [value for epoch in missing.values() for value in epoch]
        _send_batch(client, copy.run, state, [*changed, *curves], tags)
        changes += [counted(len(missing), "epoch")] if missing else []
        changes += [counted(len(renewed), "value")] if renewed else []
        _send_dataset(client, copy.run, record)
        changes += _send_artifacts(tracker, client, copy, digests)
        changes += _send_status(client, copy, state)
        if state.status == "RUNNING":
            run = copy.run if record.uid in tracker.running else client.get_run(copy.run.info.run_id)
            tracker.running[record.uid] = _MirroredRun(run, epochs=copy.epochs | missing.keys())
        return f"{record.name}: {', '.join(changes)}" if changes else None

    return tracker.attempt(send, sum(artifact.path.stat().st_size for artifact in state.artifacts))


def mirror_all(tracker: Tracker, states: Sequence[RunState]) -> list[str]:
    """Mirror finished runs, and close runs whose process died.

    Returns:
        One line for each run that lacked something, and for each other experiment that holds some of them.

    Raises:
        HarveysegError: see :func:`mirror`.
    """
    closed = close_abandoned(tracker, {state.record.stage_key for state in states})
    lines = [mirror(tracker, state) for state in track(states, "sending to MLflow", unit="runs")]
    return [*closed, *(line for line in lines if line), *_other_experiments(tracker, states)]


@contextmanager
def show_running(tracker: Tracker, record: RunRecord) -> Iterator[str | None]:
    """Show a run as RUNNING in MLflow while the ``with`` block computes it.

    The block's last :func:`mirror` makes it FINISHED. A block that is left early makes it KILLED (Ctrl-C, SIGTERM,
    ``SystemExit``) or FAILED (any other exception).

    Args:
        tracker: where to.
        record: the run; a training that continues has the ``run_id`` of before, which is used again where it is known.

    Yields:
        MLflow's id of the run; the record's ``run_id`` when the tracker cannot be reached.

    Raises:
        HarveysegError: see :func:`mirror`.
    """
    mirror(tracker, RunState(record, "RUNNING"))
    copy = tracker.running.get(record.uid)
    run_id = record.run_id if copy is None else str(copy.run.info.run_id)
    monitor = _start_monitor(tracker, run_id) if tracker.params.system_metrics and tracker.alive else None
    status: Any = None
    try:
        yield run_id
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    except BaseException:
        status = "FAILED"
        raise
    finally:
        tracker.running.pop(record.uid, None)
        if monitor is not None:
            tracker.attempt(lambda _: monitor.finish())
        if status is not None:
            mirror(tracker, RunState(record.model_copy(update={"run_id": run_id, "results": {}}), status))


def close_abandoned(
    tracker: Tracker, stage_keys: Collection[str] = (), ended_pipelines: Collection[str] = ()
) -> list[str]:
    """Close, as KILLED, the runs whose process died without closing them.

    On this machine it is known which processes are dead. A run of another machine, or of a container that had another
    host name, counts as abandoned when it has long been silent, has one of ``stage_keys``, or is part of one of
    ``ended_pipelines``. Nothing is lost by a mistake: a training that continues, or ends, takes its run up again.

    Args:
        tracker: where to.
        stage_keys: of what this process is about to compute, or finds finished.
        ended_pipelines: names of pipelines all of whose processes have ended, or were lost with their machine.

    Returns:
        One line for each closed run; it names the checkpoint, where one was left.

    Raises:
        HarveysegError: when a required tracker fails.
    """

    def close(client: "MlflowClient") -> list[str]:
        lines = []
        for run in tracker.search(client, "attributes.status = 'RUNNING'"):
            signs = [run.info.start_time]
            signs += [epoch.timestamp for epoch in client.get_metric_history(run.info.run_id, _EPOCH_MARK)]
            if not _is_abandoned(run, signs, stage_keys, ended_pipelines):
                continue
            client.set_terminated(run.info.run_id, "KILLED", max(signs))
            stage_key = run.data.tags.get(STAGE_KEY, "")
            checkpoint = tracker.root / ".checkpoints" / stage_key
            left = bool(stage_key) and stage_key not in stage_keys and checkpoint.is_dir()
            hint = f" (the same settings resume it; if it is not needed, delete {checkpoint})" if left else ""
            lines.append(f"{run.info.run_name}: RUNNING -> KILLED{hint}")
        return lines

    return tracker.attempt(close) or []


def _is_abandoned(
    run: "MlflowRun", signs_ms: Sequence[int], stage_keys: Collection[str], ended_pipelines: Collection[str]
) -> bool:
    """Whether the process of a run has ended, or must have.

    Args:
        run: one that is RUNNING.
        signs_ms: when it started, and when its epochs ended.
        stage_keys: see :func:`close_abandoned`.
        ended_pipelines: see there.
    """
    host, _, process = run.data.tags.get(_PROCESS, "").partition(" ")
    if not process:  # a run without the tag was not made here
        return False
    if host == socket.gethostname():
        return is_dead(process)
    if run.data.tags.get(STAGE_KEY) in stage_keys:
        return True
    if run.data.tags.get(PIPELINE) in ended_pipelines:
        return True
    times = sorted(signs_ms)
    longest = max((later - earlier for earlier, later in pairwise(times)), default=0)
    patience = max(_SILENT_EPOCHS * longest, _SILENT_MS if len(times) > 1 else _SILENT_START_MS)
    return time.time() * 1000 - times[-1] > patience


def _other_experiments(tracker: Tracker, states: Sequence[RunState]) -> list[str]:
    """One line for each other experiment that holds runs of ``states``: it was renamed, or the setting was changed."""

    def find(client: "MlflowClient") -> list[str]:
        runs = [_find(tracker, client, state)[1] for state in states]
        counts = Counter(run.info.experiment_id for run in runs if run is not None)
        counts.pop(tracker.experiment_id, None)
        names = {number: client.get_experiment(number).name for number in counts}
        return [
            f"{counted(count, 'run')} {'is' if count == 1 else 'are'} in MLflow's experiment {names[number]!r}, not in "
            f"{tracker.params.experiment!r}: was it renamed? Set tracking.experiment to {names[number]!r}, or delete "
            "these runs in MLflow and sync again."
            for number, count in sorted(counts.items())
        ]

    return tracker.attempt(find) or []


def _find(tracker: Tracker, client: "MlflowClient", state: RunState) -> tuple[list["MlflowRun"], "MlflowRun | None"]:
    """All runs of the training, and the one that holds this evaluation or may get it."""
    runs = runs_of_training(tracker, client, state.record)
    return runs, select_run(runs, state.record.run_id, state.evaluation)


def _claim(tracker: Tracker, client: "MlflowClient", state: RunState) -> _MirroredRun:
    """Find the run of this record and evaluation, or create it. The only part that needs the lock."""
    with tracker.locked():
        runs, run = _find(tracker, client, state)
        restored = run is None and _restore(tracker, client, state)
        run = client.get_run(restored) if restored else run
        copy = _MirroredRun(_create(tracker, client, state, runs) if run is None else run)
        copy.tags = {} if COLOUR in copy.run.data.tags else {COLOUR: model_colour(state.record.model)}
        if run is not None and len(state.evaluation) > len(run.data.tags.get(EVALUATION_TAG, "")):
            client.set_tag(run.info.run_id, EVALUATION_TAG, state.evaluation)
    copy.others = [other.info.run_id for other in runs if other is not run]
    if run is not None:
        copy.epochs = {metric.step for metric in client.get_metric_history(run.info.run_id, _EPOCH_MARK)}
    if restored:
        copy.changes = ["was deleted in MLflow, restored"]
    elif run is None and state.status != "RUNNING":
        copy.changes = ["a run of its own for this evaluation" if runs else "imported"]
    return copy


def _restore(tracker: Tracker, client: "MlflowClient", state: RunState) -> str | None:
    """Restore the run of this evaluation if it was deleted: a second one would be there twice after an undo."""
    deleted = deleted_runs_of_training(tracker, client, state.record)
    run = select_run(deleted, state.record.run_id, state.evaluation)
    if run is None:
        return None
    client.restore_run(run.info.run_id)
    return str(run.info.run_id)


def _create(tracker: Tracker, client: "MlflowClient", state: RunState, others: Sequence["MlflowRun"]) -> "MlflowRun":
    tags = _tags(state) | {"mlflow.source.name": Path(sys.argv[0]).name, COLOUR: model_colour(state.record.model)}
    if state.status == "RUNNING":
        tags["mlflow.user"] = psutil.Process().username()  # for a team's server; an import does not know it
    elif not others:
        tags[RESTORED] = "true"
    earlier = others[0].data.params if others else {}
    changed = {
        name: value for name, value in state.settings.items() if earlier.get(name) not in (None, format_value(value))
    }
    record = state.record
    return client.create_run(
        tracker.experiment_id, start_time=record.started_ms, tags=tags, run_name=record.title(changed)
    )


def _tags(state: RunState) -> dict[str, str]:
    record = state.record
    tags = {
        UID: record.uid,
        KIND: record.kind,
        STAGE_KEY: record.stage_key,
        EVALUATION_TAG: state.evaluation or None,
        EXPERIMENT: record.experiment,
        "harveyseg.model": record.model,
        "harveyseg.fold": record.fold,
        "harveyseg.data_source": record.data_source,
        "harveyseg.data_hash": record.data_hash,
        "harveyseg.split_hash": record.split_hash,
        "harveyseg.git_commit": record.git_commit,
        "harveyseg.git_dirty": UNKNOWN if record.git_dirty is None else record.git_dirty,
        "harveyseg.device": record.device,
        "mlflow.source.git.commit": record.git_commit,
        **{f"{ENVIRONMENT_PREFIX}{name}": value for name, value in record.environment.items()},
    }
    if state.status == "RUNNING":
        tags |= {_PROCESS: this_process(), PIPELINE: pipeline_name(record.experiment)}
    return {name: format_value(value) for name, value in tags.items() if value is not None}


def _parameters(state: RunState) -> dict[str, str]:
    return {name: format_value(value) for name, value in {**state.record.parameters, **state.settings}.items()}


def _send_batch(
    client: "MlflowClient",
    run: "MlflowRun",
    state: RunState,
    metrics: Sequence["Metric"],
    further_tags: Mapping[str, str],
) -> None:
    """Send metrics, missing parameters and differing tags in one request (MLflow splits it above 1000 values).

    Args:
        client: MLflow's client.
        run: as MLflow holds it.
        state: what it shall hold.
        metrics: those that it lacks.
        further_tags: besides those that identify the run: of all other values, of its look.
    """
    from mlflow.entities import Param, RunTag

    tags = {name: value for name, value in _tags(state).items() if run.data.tags.get(name) != value}
    if state.evaluation != "" and len(state.evaluation) <= len(run.data.tags.get(EVALUATION_TAG, "")):
        tags.pop(EVALUATION_TAG, None)  # an evaluation whose post-processing MLflow already has
    tags |= further_tags
    parameters = {name: value for name, value in _parameters(state).items() if name not in run.data.params}
    if metrics or tags or parameters:
        client.log_batch(
            run.info.run_id,
            metrics=metrics,
            params=[Param(*item) for item in parameters.items()],
            tags=[RunTag(*item) for item in tags.items()],
        )


def _changed_metrics(
    client: "MlflowClient", run: "MlflowRun", metrics: Mapping[str, float], at_ms: int
) -> list["Metric"]:
    """The metrics that the run lacks or holds otherwise."""
    from mlflow.entities import Metric

    stored = run.data.metrics
    changed = []
    for name, value in metrics.items():
        if stored.get(name) == value:
            continue
        time_ms = at_ms
        if name in stored:
            # Of several values at one step MLflow shows the one with the latest time.
            history = client.get_metric_history(run.info.run_id, name)
            time_ms = max(at_ms, *(metric.timestamp + 1 for metric in history))
        changed.append(Metric(name, value, time_ms, 0))
    return changed


def _epoch_values(rows: Sequence[Mapping[str, float]]) -> dict[int, list["Metric"]]:
    """The curves' values of each epoch.

    Raises:
        HarveysegError: for NaN and infinity.
    """
    from mlflow.entities import Metric

    epochs = {}
    for row in rows:
        epoch = round(row["epoch"])
        curves = {f"{EPOCH_PREFIX}{name}": value for name, value in row.items() if name not in ("epoch", "time_ms")}
        values = check_metrics(curves, f"epoch {epoch}")
        values[_EPOCH_MARK] = values.pop(_EPOCH_MARK)  # to the end
        epochs[epoch] = [Metric(name, value, round(row["time_ms"]), epoch) for name, value in values.items()]
    return epochs


def _send_dataset(client: "MlflowClient", run: "MlflowRun", record: RunRecord) -> None:
    """Name the data of a training, as an MLflow dataset."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    if record.kind != "train" or (run.inputs is not None and run.inputs.dataset_inputs):
        return
    dataset = Dataset(
        name=f"{record.data_source}, fold {record.fold} held out",
        digest=record.data_hash[:_MAX_DATASET_DIGEST],
        source_type="harveyseg",
        source=json.dumps({"source": "data/cache/train"}),
    )
    client.log_inputs(run.info.run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])


def _send_artifacts(
    tracker: Tracker, client: "MlflowClient", copy: _MirroredRun, digests: Mapping[Artifact, str]
) -> list[str]:
    """Send the files that are absent or have changed; returns what was sent and what could not be.

    Weights are stored once per training. A store that fails is left alone from then on.
    """
    run_id = copy.run.info.run_id
    sent = sent_digests(copy.run)
    outdated = {artifact: digest for artifact, digest in digests.items() if sent.get(artifact.name) != digest}
    count = 0
    try:
        if not tracker.artifacts_lost:
            for artifact in _absent_artifacts(client, copy, digests, outdated):
                client.log_artifact(run_id, str(artifact.path), artifact.folder)
                sent[artifact.name] = digests[artifact]
                client.set_tag(run_id, SENT, json.dumps(sent, sort_keys=True))  # each time: the next may fail
                outdated.pop(artifact, None)
                count += 1
    except Exception as error:
        client.get_run(run_id)  # fails where the tracker is away altogether
        store = str(copy.run.info.artifact_uri).removesuffix(f"/{run_id}/artifacts")
        tracker.lose_artifacts(store, error)
    changes = [counted(count, "file")] if count else []
    if tracker.artifacts_lost and outdated:
        changes.append(f"{counted(len(outdated), 'file')} NOT stored")
    return changes


def _absent_artifacts(
    client: "MlflowClient", copy: _MirroredRun, digests: Mapping[Artifact, str], outdated: Collection[Artifact]
) -> list[Artifact]:
    """The files that the run lacks or holds otherwise; not the weights, where the training's other runs have them."""
    present = list_artifacts(client, copy.run.info.run_id, {artifact.folder for artifact in digests})
    absent = [artifact for artifact in digests if artifact.name not in present or artifact in outdated]
    weights = f"{MODEL_FOLDER}/{WEIGHTS_FILE}"
    elsewhere = any(artifact.name == weights for artifact in absent) and any(
        weights in list_artifacts(client, run_id, {MODEL_FOLDER}) for run_id in copy.others
    )
    return [artifact for artifact in absent if not (elsewhere and artifact.name == weights)]


def _send_status(client: "MlflowClient", copy: _MirroredRun, state: RunState) -> list[str]:
    """Set the status, last of all, so that a run that is FINISHED is complete."""
    run_id = copy.run.info.run_id
    before = copy.run.info.status
    if before == state.status:
        return []
    if state.status == "RUNNING":
        client.update_run(run_id, status="RUNNING")
    elif state.status == "FINISHED":
        client.set_terminated(run_id, "FINISHED", state.record.ended_ms or state.record.started_ms)
    else:
        client.set_terminated(run_id, state.status, time.time_ns() // 1_000_000)
    return [] if copy.changes else [f"{before} -> {state.status}"]


def _check_lengths(state: RunState) -> None:
    """MLflow cuts a long parameter or tag silently."""
    parameters = _parameters(state)
    tags = _tags(state)
    problems = [
        f"{kind} {name}: {len(value)} characters, MLflow keeps {limit}"
        for kind, limit, values in (("parameter", _MAX_PARAMETER, parameters), ("tag", _MAX_TAG, tags))
        for name, value in values.items()
        if len(value) > limit
    ]
    problems += [
        f"{name[:40]}...: a name of {len(name)} characters, MLflow takes {MAX_NAME}"
        for name in (*parameters, *tags)
        if len(name) > MAX_NAME
    ]
    raise_problems(problems, f"the run {state.record.name}", "Shorten that setting in params.yaml.")


def _start_monitor(tracker: Tracker, run_id: str | None) -> Any:
    def start(_: "MlflowClient") -> Any:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
        from mlflow.tracking import set_tracking_uri

        set_tracking_uri(tracker.uri)  # the monitor makes a client of its own
        monitor = SystemMetricsMonitor(run_id, resume_logging=True)  # type: ignore[no-untyped-call]
        monitor.start()  # type: ignore[no-untyped-call]
        return monitor

    return tracker.attempt(start)
