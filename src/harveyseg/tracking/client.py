"""MLflow: one run per model and fold, one for the ensemble, grouped by pipeline invocation.

The files that stages write (``run.json``, ``history.csv``, ``metrics.json``) are the truth, MLflow is a copy to look at
and to make the table from. A tracker that cannot be reached thus costs no training: it warns once, goes quiet, and
:func:`sync` repairs it later.

Importing mlflow takes about 3 s, and 1.5 s more for SQLite, so it is imported only in functions.
"""

import csv
import math
import os
import re
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import psutil  # type: ignore[import-untyped]
from filelock import FileLock
from pydantic import ValidationError

from harveyseg.classes import slug
from harveyseg.config.settings import Section
from harveyseg.errors import HarveysegError, raise_problems
from harveyseg.files import atomic, read_json
from harveyseg.project import project_root
from harveyseg.record import RunRecord, Value

if TYPE_CHECKING:
    from mlflow.entities import Metric
    from mlflow.entities import Run as MlflowRun
    from mlflow.tracking import MlflowClient

T = TypeVar("T")

UID = "harveyseg.uid"
KIND = "harveyseg.kind"
STAGE_KEY = "harveyseg.stage_key"
EXPERIMENT = "harveyseg.experiment"
RESTORED = "restored"
MODEL_FOLDER = "model"
"""Where among a training's artifacts its :data:`WEIGHTS_FILE` lies."""
WEIGHTS_FILE = "weights.safetensors"
_PROCESS = "harveyseg.process"
_INVOCATION = "harveyseg.invocation"
_INVOCATION_STARTED = "harveyseg.invocation_started"
_PARENT = "mlflow.parentRunId"
_USER = "mlflow.user"
"""Who trained it, for a team's server; an import does not know."""

_EPOCH_PREFIX = "epoch/"
"""Curves have a name space of their own: ``seconds`` of one epoch must not hide ``seconds`` of the whole run."""
_EPOCH_MARK = _EPOCH_PREFIX + "train_loss"
"""Every epoch has it, and an epoch is one transaction: its steps tell which epochs are logged."""

_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # MLflow's own 7 retries of 120 s each would stop a training for many minutes when the server is away.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}
_MAX_PARAMETER = 6000
_MAX_TAG = 8000
_MAX_NAME = 250
_MAX_DIGEST = 36
_LOCK_SECONDS = 300
_METRIC_NAME = re.compile(r"[A-Za-z0-9_\-. :/]+")
_CLOCK_TOLERANCE_SECONDS = 5.0
"""A process's start time is computed from the boot time, which a clock adjustment moves."""


class TrackingParams(Section):
    """Section ``tracking``."""

    experiment: str = "harveyseg"
    """MLflow's experiment; made when absent."""
    required: bool = False
    """Stop when the tracker cannot be reached; ``HARVEYSEG_REQUIRE_TRACKING=1`` does the same."""
    system_metrics: bool = False
    """Log CPU, memory, disk and GPU use while training."""


@dataclass(frozen=True)
class RunOutputs:
    """A finished run's files in the workspace."""

    record: RunRecord
    folder: Path
    """Holds run.json, for a training also history.csv and weights.safetensors, and figures."""
    predictions: Path
    """Holds metrics.json, once evaluated, and figures; for the ensemble the same folder."""
    decisions: Path | None = None
    """Holds, once decided what is handed in, ``metrics/<model>.json`` and ``figures/<model>.png``."""

    def scores(self) -> dict[str, float]:
        """The ``val/*`` and ``test/*`` values of the evaluation and, once decided, of the decision.

        Raises:
            HarveysegError: see :func:`read_scores`.
        """
        values = read_scores(self.predictions / "metrics.json", self.record)
        decided = None if self.decisions is None else self.decisions / "metrics" / f"{self.record.model}.json"
        if decided is not None and decided.exists():
            values |= read_scores(decided, self.record)
        return values

    def shares(self) -> dict[str, float]:
        """For the ensemble, ``data/pixel_share/<class>`` and ``data/photos/<class>`` of all training photos; else none.

        Raises:
            HarveysegError: when the table of them is damaged.
        """
        path = self._data_figures / "class_shares.csv"
        if self.record.kind != "ensemble" or not path.exists():
            return {}
        try:
            with path.open(encoding="utf-8", newline="") as opened:
                values = {
                    f"data/{column}/{slug(int(row['class_id']))}": float(row[column])
                    for row in csv.DictReader(opened)
                    for column in ("pixel_share", "photos")
                }
        except (ValueError, TypeError, LookupError) as error:
            raise HarveysegError(
                f"{path}: not a table of class shares ({error}). `dvc checkout {path.parent} --force` restores it."
            ) from None
        return _checked(values, str(path))

    @property
    def _data_figures(self) -> Path:
        """Where the stage ``split`` draws the data, which all trainings share: they are kept with the ensemble."""
        return self.folder.parent / "figures"

    def figures(self) -> list[tuple[Path, str]]:
        """The figures that exist, and where among the run's artifacts each belongs."""
        found = [(figure, "training") for figure in sorted(self.folder.glob("*.png"))]
        found += [(figure, "evaluation") for figure in sorted(self.predictions.glob("*.png"))]
        decided = None if self.decisions is None else self.decisions / "figures" / f"{self.record.model}.png"
        if decided is not None and decided.exists():
            found.append((decided, "decision"))
        if self.record.kind == "ensemble":
            found += [(file, "data") for file in sorted(self._data_figures.glob("*"))]
        return found


@dataclass(frozen=True)
class TrackedRun:
    """What MLflow knows of a run, in plain types."""

    run_id: str | None
    status: str
    """RUNNING, FINISHED, FAILED or KILLED."""
    started_ms: int
    parameters: dict[str, str]
    metrics: dict[str, float]
    """The last value of each."""
    tags: dict[str, str]


def tracking_uri(root: Path) -> str:
    """``MLFLOW_TRACKING_URI``, else a SQLite file in the project's root; a SQLite path is always absolute.

    DVC runs queued and temporary experiments in a folder that it deletes: a relative database would go with it.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    if uri.startswith("sqlite:///"):
        return f"sqlite:///{root.resolve() / uri.removeprefix('sqlite:///')}"
    return uri


def without_password(shown: str) -> str:
    """A text to be shown: addresses such as ``https://name:password@host`` without name and password."""
    return re.sub(r"(?<=://)[^/\s@]+@", "", shown)


def text(value: Value) -> str:
    """A parameter as MLflow holds it, spelt as in YAML."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)


def read_scores(path: Path, record: RunRecord) -> dict[str, float]:
    """The ``val/*`` and ``test/*`` values of a ``metrics.json``, which is of one run or lists ``runs``.

    Raises:
        HarveysegError: when it is absent, damaged, holds NaN or infinity, or belongs to another run than ``record``.
    """
    remedy = f"Run `dvc repro` to evaluate {path.parent.name} again."
    content = read_json(path, remedy)
    found = {run.get("uid"): run for run in content.get("runs", [content])}
    if record.uid not in found:
        uids = ", ".join(map(str, found))
        raise HarveysegError(f"{path}: evaluates another run (uid {uids}) than {record.name}. {remedy}")
    content = found[record.uid]
    values = {key: value for key, value in content.items() if key.startswith(("val/", "test/")) and value is not None}
    return _checked(values, str(path))


def record_of(run: TrackedRun) -> RunRecord:
    """The record of a run, read back from MLflow; its parameters stay text, its results are left out.

    Raises:
        HarveysegError: when the run lacks what every training and ensemble has, as one of another version may.
    """
    names = {"uid", "kind", "stage_key", "model", "fold", "experiment", "device", "git_commit", "git_dirty"}
    names |= {"data_source", "data_hash", "split_hash"}
    prefix = "environment."
    values = {
        **{name: run.tags.get(f"harveyseg.{name}") for name in names},
        "run_id": run.run_id,
        "parameters": run.parameters,
        "environment": {
            name.removeprefix(prefix): value for name, value in run.tags.items() if name.startswith(prefix)
        },
        "started_ms": run.started_ms,
    }
    try:
        return RunRecord.model_validate(values)
    except ValidationError as error:
        lacking = ", ".join(f"harveyseg.{item['loc'][0]}" for item in error.errors())
        raise HarveysegError(
            f"{run.run_id}: tags that every run has are wrong or missing in MLflow: {lacking}"
        ) from None


def open_tracker(params: TrackingParams, root: Path | None = None, *, required: bool = False) -> "Tracker":
    """Connect to MLflow.

    Args:
        params: section ``tracking``.
        root: folder of the default database, its artifacts and the lock; the project's root when None.
        required: whether the caller can do nothing without MLflow, whatever ``params`` says.

    Returns:
        The tracker; when MLflow cannot be reached, one that has warned and does nothing more.

    Raises:
        HarveysegError: when MLflow cannot be reached and is required, or the experiment was deleted in MLflow.
    """
    if required:
        params = params.model_copy(update={"required": True})
    return Tracker(params, project_root() if root is None else root)


class Tracker:
    """A connection to MLflow, or, after its first failure, an object that does nothing (see :func:`open_tracker`)."""

    def __init__(self, params: TrackingParams, root: Path) -> None:
        """Connect; see :func:`open_tracker`."""
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        self.uri = tracking_uri(root)
        self._params = params
        self._required = params.required or os.environ.get("HARVEYSEG_REQUIRE_TRACKING", "") not in ("", "0", "false")
        self._lock = root / ".locks" / "tracking.lock"
        self._experiment_id = ""
        self._failure = ""
        self._client: MlflowClient | None = None
        try:
            self._client = self._connect()
        except HarveysegError:
            raise
        except Exception as error:
            self._fail(error)

    @property
    def alive(self) -> bool:
        """Whether what is logged still reaches MLflow."""
        return self._client is not None

    @contextmanager
    def run(self, record: RunRecord, resume: str | None = None) -> Iterator["Run"]:
        """Track a training or an ensemble while the ``with`` block runs; how the block ends is the run's status.

        FINISHED when it ends, KILLED on Ctrl-C, SIGTERM or ``SystemExit``, FAILED on any other exception.

        Args:
            record: who runs; all but ``run_id``, ``ended_ms`` and ``results`` must be known.
            resume: MLflow's id of the killed run that goes on, or None to begin a new one. When this tracker does not
                know it, a new run with the same uid begins.

        Raises:
            HarveysegError: for a parameter or tag too long to be stored whole, and when a required tracker fails.
        """
        _check_lengths(record)
        opened = self.attempt(lambda client: self._open(client, record, resume))
        run_id, last_epoch = (resume, -1) if opened is None else opened
        run = Run(self, run_id, last_epoch)
        monitor = self._start_monitor(run_id) if self._params.system_metrics and self.alive else None
        status = "FINISHED"
        try:
            yield run
        except (KeyboardInterrupt, SystemExit):
            status = "KILLED"
            raise
        except BaseException:
            status = "FAILED"
            raise
        finally:
            if monitor is not None:
                self.attempt(lambda _: monitor.finish())
            if run_id is not None:
                self.attempt(lambda client: self._close(client, run_id, status, _now_ms()))

    def add_results(
        self,
        record: RunRecord,
        metrics: Mapping[str, float],
        artifacts: Sequence[Path] = (),
        folder: str = "evaluation",
    ) -> None:
        """Log an evaluation to its finished run, whose status and end stay as they are.

        A run that this tracker does not know is imported first (without its curves, which :func:`sync` adds).

        Args:
            record: the training or ensemble that was evaluated.
            metrics: ``val/*`` and ``test/*``.
            artifacts: figures and tables.
            folder: where among the run's artifacts.

        Raises:
            HarveysegError: for NaN, infinity or a name MLflow does not take, before anything is logged; and when a
                required tracker fails.
        """
        values = _checked(metrics, f"the evaluation of {record.name}")

        def add(client: "MlflowClient") -> None:
            run = self._find(client, record) or self._import(client, record)
            _log_values(client, run, values, _now_ms())
            for path in artifacts:
                client.log_artifact(run.info.run_id, str(path), folder)

        self.attempt(add)

    def close_abandoned(self, stage_key: str) -> list[str]:
        """Close, as KILLED, the runs of this stage key whose process died without closing them.

        For a training that starts anew: one that goes on from a checkpoint adopts its run instead. Only processes of
        this machine can be known dead.

        Returns:
            The closed runs' ids.
        """

        def close(client: "MlflowClient") -> list[str]:
            found = self._search(client, f"tags.`{STAGE_KEY}` = '{stage_key}' AND attributes.status = 'RUNNING'")
            dead = [run for run in found if _is_dead(run.data.tags.get(_PROCESS, ""))]
            for run in dead:
                epochs = client.get_metric_history(run.info.run_id, _EPOCH_MARK)
                last_sign = max((epoch.timestamp for epoch in epochs), default=run.info.start_time)
                self._close(client, run.info.run_id, "KILLED", last_sign)
            return [run.info.run_id for run in dead]

        return self.attempt(close) or []

    def find(self, records: Sequence[RunRecord]) -> list[TrackedRun | None]:
        """What MLflow knows of each run, None where it knows nothing.

        Raises:
            HarveysegError: when MLflow cannot be read.
        """
        return self._strict(
            lambda client: [
                None if (run := self._find(client, record)) is None else _tracked(run) for record in records
            ]
        )

    def find_all(self) -> list[TrackedRun]:
        """All trainings and ensembles of the experiment, oldest first.

        Raises:
            HarveysegError: when MLflow cannot be read.
        """
        runs = self._strict(lambda client: self._search(client, f"tags.`{KIND}` != 'pipeline'"))
        return sorted(map(_tracked, runs), key=lambda run: (run.started_ms, run.run_id or ""))

    def find_tagged(self, name: str) -> list[TrackedRun]:
        """The runs that have a tag of this name, oldest first.

        Raises:
            HarveysegError: when MLflow cannot be read.
        """
        runs = self._strict(lambda client: self._search(client, f"tags.`{name}` LIKE '%'"))
        return sorted(map(_tracked, runs), key=lambda run: (run.started_ms, run.run_id or ""))

    def tag(self, records: Sequence[RunRecord], tags: Mapping[str, str]) -> None:
        """Set tags of runs that MLflow knows.

        Raises:
            HarveysegError: when MLflow cannot be used, or knows nothing of a run.
        """

        def add(client: "MlflowClient") -> None:
            for record in records:
                run = self._find(client, record)
                if run is None:
                    raise HarveysegError(f"{record.name}: not in MLflow. Run `harveyseg sync`.")
                for name, value in tags.items():
                    client.set_tag(run.info.run_id, name, value)

        self._strict(add)

    def curves(self, run_id: str) -> dict[str, dict[int, float]]:
        """What a training logged after each epoch: name as in history.csv -> epoch (from 0) -> value.

        Raises:
            HarveysegError: when MLflow cannot be read.
        """

        def read(client: "MlflowClient") -> dict[str, dict[int, float]]:
            names = [name for name in client.get_run(run_id).data.metrics if name.startswith(_EPOCH_PREFIX)]
            return {
                name.removeprefix(_EPOCH_PREFIX): {
                    metric.step: metric.value for metric in client.get_metric_history(run_id, name)
                }
                for name in names
            }

        return self._strict(read)

    def get(self, run_ids: Sequence[str]) -> list[TrackedRun | None]:
        """The runs with these MLflow ids, of whatever experiment; None for one that is unknown or was deleted.

        Raises:
            HarveysegError: when MLflow cannot be read.
        """
        return self._strict(lambda client: [_tracked(run) if (run := _get(client, one)) else None for one in run_ids])

    def has_weights(self, run_id: str) -> bool:
        """Whether the weights of a training are among its artifacts.

        Raises:
            HarveysegError: when MLflow cannot be read.
        """
        return self._strict(lambda client: _has_weights(client, run_id))

    def download_weights(self, run_id: str, folder: Path) -> Path:
        """Fetch the weights of a training.

        Args:
            run_id: MLflow's id of a run that :meth:`has_weights`.
            folder: where to; it is made if absent.

        Returns:
            The file, ``folder / "weights.safetensors"``.

        Raises:
            HarveysegError: when MLflow or its artifacts cannot be read.
        """
        with tempfile.TemporaryDirectory() as temporary, atomic(folder / WEIGHTS_FILE) as target:
            artifact = f"{MODEL_FOLDER}/{WEIGHTS_FILE}"
            fetched = self._strict(lambda client: client.download_artifacts(run_id, artifact, temporary))
            shutil.move(fetched, target)
        return folder / WEIGHTS_FILE

    def synchronise(self, outputs: Sequence[RunOutputs]) -> list[str]:
        """See :func:`sync`."""
        return self._strict(lambda client: self._synchronise(client, outputs))

    def attempt(self, call: Callable[["MlflowClient"], T]) -> T | None:
        """Do something in MLflow; its first failure warns (or raises, if required), then nothing is done any more."""
        if self._client is None:
            return None
        try:
            return call(self._client)
        except HarveysegError:
            raise
        except Exception as error:  # whatever goes wrong in the tracker must not cost a training
            self._fail(error)
            return None

    def _strict(self, call: Callable[["MlflowClient"], T]) -> T:
        """Do something in MLflow that has no meaning without it."""
        if self._client is None:
            raise HarveysegError(self._unreachable(self._failure))
        try:
            return call(self._client)
        except HarveysegError:
            raise
        except Exception as error:
            raise HarveysegError(self._unreachable(_cause(error))) from error

    def _fail(self, error: Exception) -> None:
        self._client = None
        self._failure = _cause(error)
        if self._required:
            raise HarveysegError(self._unreachable(self._failure)) from error
        print(
            f"WARNING: MLflow at {without_password(self.uri)} cannot be used: {self._failure}\n"
            "WARNING: going on WITHOUT tracking. Nothing is lost: `harveyseg sync` adds this run when MLflow is back.",
            file=sys.stderr,
            flush=True,
        )

    def _unreachable(self, cause: str) -> str:
        remedy = "Start that server, set MLFLOW_TRACKING_URI to one that runs"
        if "error code 401" in cause:
            remedy = "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to an account of that server"
        return (
            f"MLflow at {without_password(self.uri)} cannot be used: {cause}\n{remedy}, or unset MLFLOW_TRACKING_URI "
            "to use the project's own mlflow.db; then repeat the command. (More: docs/team.md)"
        )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self._lock, timeout=_LOCK_SECONDS):
            yield

    def _connect(self) -> "MlflowClient":
        from mlflow.tracking import MlflowClient

        if not self.uri.startswith("sqlite:///"):
            client = MlflowClient(tracking_uri=self.uri)
            self._experiment_id = _experiment(client, self._params.experiment, None)
            return client

        import mlflow.store.tracking.sqlalchemy_store  # noqa: F401  (a slow import that must not happen in the lock)

        database = Path(self.uri.removeprefix("sqlite:///"))
        artifacts = database.parent / "mlflow-artifacts"
        # Several processes that migrate one database break it, and even opening one asks whether to migrate.
        with self._locked():
            if not database.exists():
                _create_database(database, artifacts)
            client = MlflowClient(tracking_uri=self.uri)
            self._experiment_id = _experiment(client, self._params.experiment, artifacts.as_uri())
        return client

    def _open(self, client: "MlflowClient", record: RunRecord, resume: str | None) -> tuple[str, int]:
        """Create or re-open; returns the id and the last logged epoch, -1 when there is none."""
        if resume is not None:
            killed = self._find(client, record.model_copy(update={"run_id": resume}))
            if killed is not None:
                run_id: str = killed.info.run_id
                client.update_run(run_id, status="RUNNING")
                client.set_tag(run_id, _PROCESS, _this_process())
                if record.experiment is not None:  # the one that resumes it is the one that `dvc exp show` lists
                    client.set_tag(run_id, EXPERIMENT, record.experiment)
                _log_missing_parameters(client, killed, record)
                epochs = client.get_metric_history(run_id, _EPOCH_MARK)
                return run_id, max((epoch.step for epoch in epochs), default=-1)
        here = {_PROCESS: _this_process(), _USER: psutil.Process().username()}
        tags = _tags(record) | here | {_PARENT: self._parent(client, record)}
        created = self._create(client, record, tags)
        return created.info.run_id, -1

    def _create(self, client: "MlflowClient", record: RunRecord, tags: dict[str, str]) -> "MlflowRun":
        run = client.create_run(
            self._experiment_id, start_time=record.started_ms, tags=tags, run_name=record.name
        )  # explicit id: the "active experiment" of MLflow's fluent API may silently be "Default"
        _log_missing_parameters(client, run, record)
        return run

    def _parent(self, client: "MlflowClient", record: RunRecord) -> str:
        """The id of the run that groups what one ``dvc repro`` or ``dvc exp run`` trains; made by the first of them."""
        name, started = _invocation(record.experiment)
        with self._locked():
            for run in self._search(client, f"tags.`{_INVOCATION}` = '{name}'"):
                if abs(float(run.data.tags[_INVOCATION_STARTED]) - started) <= _CLOCK_TOLERANCE_SECONDS:
                    client.update_run(run.info.run_id, status="RUNNING")
                    return str(run.info.run_id)
            tags = {_INVOCATION: name, _INVOCATION_STARTED: str(started), KIND: "pipeline"}
            if record.experiment is not None:
                tags[EXPERIMENT] = record.experiment
            run = client.create_run(self._experiment_id, tags=tags, run_name=record.experiment or "pipeline")
            return str(run.info.run_id)

    def _close(self, client: "MlflowClient", run_id: str, status: str, end_ms: int) -> None:
        """End a run; its parent ends with its last child, and is as bad as the worst of them."""
        client.set_terminated(run_id, status, end_ms)
        parent = client.get_run(run_id).data.tags.get(_PARENT)
        if parent is None:
            return
        children = {run.info.status for run in self._search(client, f"tags.`{_PARENT}` = '{parent}'")}
        if "RUNNING" not in children:
            worst = next(status for status in ("FAILED", "KILLED", "FINISHED") if status in children)
            client.set_terminated(parent, worst, end_ms)

    def _search(self, client: "MlflowClient", condition: str) -> list["MlflowRun"]:
        found: list[MlflowRun] = []
        token: str | None = None
        while True:
            page = client.search_runs([self._experiment_id], condition, page_token=token)
            found.extend(page)
            token = page.token
            if not token:
                return found

    def _find(self, client: "MlflowClient", record: RunRecord) -> "MlflowRun | None":
        """The run by its id, else by its uid (it was imported, or the id was never known); never the latest one."""
        run = None if record.run_id is None else _get(client, record.run_id)
        if run is not None and run.data.tags.get(UID) == record.uid:
            return run
        found = self._search(client, f"tags.`{UID}` = '{record.uid}'")
        return min(found, key=lambda run: (run.info.start_time, run.info.run_id), default=None)

    def _import(self, client: "MlflowClient", record: RunRecord) -> "MlflowRun":
        """Make the run anew as it was, with its own times."""
        _check_lengths(record)
        run = self._create(client, record, _tags(record) | {RESTORED: "true"})
        _log_values(client, run, _checked(record.results, f"run.json of {record.name}"), _end_ms(record))
        client.set_terminated(run.info.run_id, "FINISHED", _end_ms(record))
        return client.get_run(run.info.run_id)

    def _synchronise(self, client: "MlflowClient", outputs: Sequence[RunOutputs]) -> list[str]:
        with self._locked():
            return [line for output in outputs if (line := self._synchronise_one(client, output))]

    def _synchronise_one(self, client: "MlflowClient", output: RunOutputs) -> str | None:
        record = output.record
        done = []
        run = self._find(client, record)
        if run is None:
            run = self._import(client, record)
            done.append("imported")
        run_id = run.info.run_id
        if run.info.status != "FINISHED":
            # run.json is written when the training has ended well: the tracker missed that.
            done.append(f"{run.info.status} -> FINISHED")
            self._close(client, run_id, "FINISHED", _end_ms(record))
        _log_missing_parameters(client, run, record)
        if epochs := _log_missing_epochs(client, run_id, output.folder / "history.csv"):
            done.append(f"{epochs} epochs")
        values = _checked(record.results, str(output.folder / "run.json")) | output.shares()
        if (output.predictions / "metrics.json").exists():
            values |= output.scores()
        if added := _log_values(client, run, values, _end_ms(record)):
            done.append(f"{added} values")
        weights = output.folder / WEIGHTS_FILE
        if weights.exists() and not _has_weights(client, run_id):
            client.log_artifact(run_id, str(weights), MODEL_FOLDER)
            done.append("weights")
        if done:
            for figure, folder in output.figures():
                client.log_artifact(run_id, str(figure), folder)
        return f"{record.name}: {', '.join(done)}" if done else None

    def _start_monitor(self, run_id: str | None) -> Any:
        def start(_: "MlflowClient") -> Any:
            from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
            from mlflow.tracking import set_tracking_uri

            set_tracking_uri(self.uri)  # the monitor makes a client of its own
            monitor = SystemMetricsMonitor(run_id, resume_logging=True)  # type: ignore[no-untyped-call]
            monitor.start()  # type: ignore[no-untyped-call]
            return monitor

        return self.attempt(start)


class Run:
    """One run that is being tracked; every call does nothing once the tracker has failed."""

    def __init__(self, tracker: Tracker, run_id: str | None, last_epoch: int) -> None:
        """Made by :meth:`Tracker.run`; ``last_epoch`` is the last one logged, -1 when there is none."""
        self._tracker = tracker
        self._last_epoch = last_epoch
        self.id = run_id
        """MLflow's id; None when the tracker could not be reached at the start."""

    def log_epoch(self, row: Mapping[str, float]) -> None:
        """Log one epoch in one request. See :meth:`log_history`."""
        self.log_history([row])

    def log_history(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Log those epochs that come after the last one logged, as ``epoch/<name>``, in one request.

        Args:
            rows: as in ``history.csv``: ``epoch`` (from 0, the step), ``time_ms`` (the timestamp), ``train_loss``, ...

        Raises:
            HarveysegError: for NaN or infinity, before anything is logged; and when a required tracker fails.
        """
        new = [row for row in rows if row["epoch"] > self._last_epoch]
        metrics = _epoch_values(new)
        if new:
            self._last_epoch = round(max(row["epoch"] for row in new))
            self._attempt(lambda client, run_id: client.log_batch(run_id, metrics=_metrics(metrics)))

    def log_metrics(self, values: Mapping[str, float]) -> None:
        """Log results such as ``best/val_argmax_score``.

        Raises:
            HarveysegError: for NaN, infinity or a name MLflow does not take, before anything is logged; and when a
                required tracker fails.
        """
        checked = _checked(values, "the results")
        self._attempt(lambda client, run_id: _log_values(client, client.get_run(run_id), checked, _now_ms()))

    def log_artifacts(self, paths: Sequence[Path], folder: str = "training") -> None:
        """Store files with the run.

        Args:
            paths: existing files.
            folder: where among the run's artifacts.

        Raises:
            FileNotFoundError: when one is absent.
            HarveysegError: when a required tracker fails.
        """
        for path in paths:
            if not path.is_file():
                raise FileNotFoundError(path)

        def log(client: "MlflowClient", run_id: str) -> None:
            for path in paths:
                client.log_artifact(run_id, str(path), folder)

        self._attempt(log)

    def log_dataset(
        self, name: str, source: str, digest: str, context: str, profile: Mapping[str, Value] | None = None
    ) -> None:
        """Log which data the run used, as an MLflow dataset.

        Args:
            name: e.g. ``"fold 0"``.
            source: where the data comes from, e.g. the value of ``data.source``.
            digest: hash of the data; MLflow keeps its first 36 characters.
            context: what for, e.g. ``"training"``.
            profile: numbers that describe it, e.g. the count of photos.

        Raises:
            HarveysegError: when a required tracker fails.
        """

        def log(client: "MlflowClient", run_id: str) -> None:
            import json

            from mlflow.entities import Dataset, DatasetInput, InputTag

            dataset = Dataset(
                name=name,
                digest=digest[:_MAX_DIGEST],
                source_type="harveyseg",
                source=json.dumps({"source": source}),
                profile=None if profile is None else json.dumps(profile, sort_keys=True),
            )
            tag = InputTag("mlflow.data.context", context)
            client.log_inputs(run_id, [DatasetInput(dataset, [tag])])

        self._attempt(log)

    def _attempt(self, call: Callable[["MlflowClient", str], object]) -> None:
        run_id = self.id
        if run_id is not None:
            self._tracker.attempt(lambda client: call(client, run_id))


def sync(tracker: Tracker, outputs: Sequence[RunOutputs]) -> list[str]:
    """Bring MLflow up to the workspace's files; doing it twice changes nothing more.

    A run that is unknown by id and by uid is imported with its original times and the tag ``restored``; missing epochs,
    parameters, results and scores are added, differing values are logged anew, a run whose end the tracker missed is
    finished.

    Returns:
        One line for each run that lacked something; empty when nothing did.

    Raises:
        HarveysegError: when MLflow cannot be used, or a file is damaged or belongs to another run.
    """
    return tracker.synchronise(outputs)


def _experiment(client: "MlflowClient", name: str, artifacts: str | None) -> str:
    """The experiment's id; it is made when absent."""
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            return str(client.create_experiment(name, artifact_location=artifacts))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        experiment = client.get_experiment_by_name(name)  # another process was faster
    if experiment is None or experiment.lifecycle_stage != "active":
        raise HarveysegError(
            f"MLflow's experiment {name!r} was deleted. Restore it (`mlflow experiments restore`), or name another one "
            "in tracking.experiment."
        )
    return str(experiment.experiment_id)


def _create_database(path: Path, artifacts: Path) -> None:
    """Make an empty database in a folder of its own, then move it to ``path``: half a migration breaks it for good."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    folder = path.with_name(f"{path.name}-new")
    shutil.rmtree(folder, ignore_errors=True)  # left by a killed process, perhaps with a journal
    folder.mkdir(parents=True)
    store = SqlAlchemyStore(f"sqlite:///{folder / path.name}", artifacts.as_uri())  # type: ignore[no-untyped-call]
    store.engine.dispose()
    (folder / path.name).replace(path)
    folder.rmdir()


def _get(client: "MlflowClient", run_id: str) -> "MlflowRun | None":
    """The run with this id; None when there is none, or it was deleted."""
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):  # the latter: no id at all
            raise
        return None
    return run if run.info.lifecycle_stage == "active" else None


def _has_weights(client: "MlflowClient", run_id: str) -> bool:
    wanted = f"{MODEL_FOLDER}/{WEIGHTS_FILE}"
    return any(artifact.path == wanted for artifact in client.list_artifacts(run_id, MODEL_FOLDER))


def _tags(record: RunRecord) -> dict[str, str]:
    tags = {
        UID: record.uid,
        KIND: record.kind,
        STAGE_KEY: record.stage_key,
        "harveyseg.model": record.model,
        "harveyseg.fold": record.fold,
        EXPERIMENT: record.experiment,
        "harveyseg.data_source": record.data_source,
        "harveyseg.data_hash": record.data_hash,
        "harveyseg.split_hash": record.split_hash,
        "harveyseg.git_commit": record.git_commit,
        "harveyseg.git_dirty": record.git_dirty,
        "harveyseg.device": record.device,
        "mlflow.source.git.commit": record.git_commit,
        "mlflow.source.name": Path(sys.argv[0]).name,
        **{f"environment.{name}": value for name, value in record.environment.items()},
    }
    return {name: text(value) for name, value in tags.items() if value is not None}


def _check_lengths(record: RunRecord) -> None:
    """MLflow cuts a long parameter or tag silently."""
    problems = [
        f"parameter {name}: {len(text(value))} characters, MLflow keeps {_MAX_PARAMETER}"
        for name, value in record.parameters.items()
        if len(text(value)) > _MAX_PARAMETER
    ]
    problems += [
        f"tag {name}: {len(value)} characters, MLflow keeps {_MAX_TAG}"
        for name, value in _tags(record).items()
        if len(value) > _MAX_TAG
    ]
    problems += [
        f"{name[:40]}...: a name of {len(name)} characters, MLflow takes {_MAX_NAME}"
        for name in (*record.parameters, *_tags(record))
        if len(name) > _MAX_NAME
    ]
    raise_problems(problems, f"the run {record.name}", "Shorten what params.yaml holds there.")


def _checked(values: Mapping[str, float], where: str) -> dict[str, float]:
    """The values, which MLflow can store as they are: it turns infinity into 1.8e308, and NaN compares as equal."""
    problems = []
    for name, value in values.items():
        if not _METRIC_NAME.fullmatch(name) or len(name) > _MAX_NAME:
            problems.append(f"{name!r}: not a metric name: letters, digits, `_-. :/`, at most {_MAX_NAME} of them")
        if isinstance(value, bool) or not isinstance(value, int | float):
            problems.append(f"{name}: {value!r} is no number")
        elif not math.isfinite(value):
            problems.append(f"{name} is {value}")
    raise_problems(problems, where, "Only finite numbers can be compared: find out where this one comes from.")
    return {name: float(value) for name, value in values.items()}


def _epoch_values(rows: Sequence[Mapping[str, float]]) -> list[tuple[str, float, int, int]]:
    """(name, value, timestamp in ms, step) of each value in the rows."""
    values = []
    for row in rows:
        epoch, time_ms = round(row["epoch"]), round(row["time_ms"])
        curves = {f"{_EPOCH_PREFIX}{name}": value for name, value in row.items() if name not in ("epoch", "time_ms")}
        checked = _checked(curves, f"epoch {epoch}")
        values += [(name, value, time_ms, epoch) for name, value in checked.items()]
    return values


def _metrics(values: Sequence[tuple[str, float, int, int]]) -> list["Metric"]:
    from mlflow.entities import Metric

    return [Metric(name, value, time_ms, step) for name, value, time_ms, step in values]


def _log_values(client: "MlflowClient", run: "MlflowRun", values: Mapping[str, float], at_ms: int) -> int:
    """Log the values that the run lacks or has otherwise; returns how many."""
    stored = run.data.metrics
    changed = []
    for name, value in values.items():
        if stored.get(name) == value:
            continue
        time_ms = at_ms
        if name in stored:
            # Of several values at one step MLflow shows the one with the latest time.
            history = client.get_metric_history(run.info.run_id, name)
            time_ms = max(at_ms, *(metric.timestamp + 1 for metric in history))
        changed.append((name, value, time_ms, 0))
    if changed:
        client.log_batch(run.info.run_id, metrics=_metrics(changed))
    return len(changed)


def _log_missing_parameters(client: "MlflowClient", run: "MlflowRun", record: RunRecord) -> None:
    from mlflow.entities import Param

    missing = [Param(name, text(value)) for name, value in record.parameters.items() if name not in run.data.params]
    if missing:
        client.log_batch(run.info.run_id, params=missing)


def _log_missing_epochs(client: "MlflowClient", run_id: str, history: Path) -> int:
    """Log those rows of a ``history.csv`` whose step is absent; returns how many. An ensemble has no such file."""
    if not history.exists():
        return 0
    logged = {metric.step for metric in client.get_metric_history(run_id, _EPOCH_MARK)}
    missing = [row for row in _read_history(history) if round(row["epoch"]) not in logged]
    if missing:
        client.log_batch(run_id, metrics=_metrics(_epoch_values(missing)))
    return len(missing)


def _read_history(path: Path) -> list[dict[str, float]]:
    try:
        with path.open(encoding="utf-8", newline="") as opened:
            rows = [{name: float(cell) for name, cell in row.items() if cell} for row in csv.DictReader(opened)]
        if all({"epoch", "time_ms", "train_loss"} <= row.keys() for row in rows):
            return rows
        cause = "a row lacks epoch, time_ms or train_loss"
    except (ValueError, TypeError, AttributeError) as error:
        cause = str(error)
    raise HarveysegError(f"{path}: not a training history ({cause}). `dvc checkout {path} --force` restores it.")


def _tracked(run: "MlflowRun") -> TrackedRun:
    return TrackedRun(
        run_id=run.info.run_id,
        status=run.info.status,
        started_ms=run.info.start_time,
        parameters=dict(run.data.params),
        metrics=dict(run.data.metrics),
        tags=dict(run.data.tags),
    )


def _invocation(experiment: str | None) -> tuple[str, float]:
    """Name and start (seconds) of the pipeline invocation: the ``dvc`` process above this one, else this process.

    A queue's worker runs several experiments, hence the experiment's name in it.
    """
    own = psutil.Process()
    process = next((ancestor for ancestor in own.parents() if _is_dvc(ancestor)), own)
    label = re.sub(r"[^\w.-]", "_", experiment or "")  # a quote would end the search's string
    return f"{socket.gethostname()} {process.pid} {label}".strip(), process.create_time()


def _is_dvc(process: psutil.Process) -> bool:
    try:
        command = process.cmdline()
    except psutil.Error:  # another user's process, or one that has just ended
        return False
    return any(Path(part).name in ("dvc", "dvc.exe") for part in command[:2]) or command[1:3] == ["-m", "dvc"]


def _this_process() -> str:
    process = psutil.Process()
    return f"{socket.gethostname()} {process.pid} {process.create_time()}"


def _is_dead(process: str) -> bool:
    """Whether a process, named as by :func:`_this_process`, is known to have ended."""
    try:
        host, pid, started = process.split(" ")
        if host != socket.gethostname():
            return False
        return bool(abs(psutil.Process(int(pid)).create_time() - float(started)) > _CLOCK_TOLERANCE_SECONDS)
    except psutil.NoSuchProcess:
        return True
    except ValueError:  # a run without the tag was not made here
        return False


def _cause(error: Exception) -> str:
    """One line: of a broken connection or a file what the system says, not what libraries say around it."""
    chain: list[BaseException] = [error]
    while (inner := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(inner)
    innermost = next((one for one in reversed(chain) if isinstance(one, OSError)), error)
    return without_password((str(innermost).strip().splitlines() or [type(innermost).__name__])[0])


def _end_ms(record: RunRecord) -> int:
    return record.started_ms if record.ended_ms is None else record.ended_ms


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
