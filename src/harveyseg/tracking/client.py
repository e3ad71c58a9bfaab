"""The connection to MLflow: where it is, how long it may take, and what happens when it fails.

If MLflow is unreachable or too slow, training continues: the tracker warns once and then does nothing. Importing mlflow
takes about 3 s, and 1.5 s more for SQLite, so it is imported only inside functions.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from harveyseg.config.settings import Section
from harveyseg.errors import HarveysegError
from harveyseg.files import locked
from harveyseg.project import project_root
from harveyseg.tracking.database import ARTIFACTS, check_database, database_path, is_prepared, prepare_database
from harveyseg.tracking.faults import SQLITE, TrackingError, explain, public_address
from harveyseg.tracking.views import VIEWS, View, outdated_views

if TYPE_CHECKING:
    from mlflow.entities import Run as MlflowRun
    from mlflow.tracking import MlflowClient

T = TypeVar("T")

logger = logging.getLogger(__name__)

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
_LOCK_SECONDS = 300
"""How long to wait for other processes of the project, where nothing else limits it."""
_SETUP_SECONDS = 30
"""How long a training waits while others create the project's database, which six need 13 s for on two cores."""
_PATIENCE_SECONDS = 6.0
"""How long MLflow may keep a process waiting in all, unless it is required, ..."""
_PATIENCE_SHARE = 0.05
"""... with this share of the time that the process has run, ..."""
_BYTES_PER_SECOND = 1e6
"""... and what files take at this rate."""
_NO = ("", "0", "false", "no", "off")


class TrackingParams(Section):
    """Section ``tracking``."""

    experiment: str = "harveyseg"
    """MLflow's experiment; it is created when absent."""
    required: bool = False
    """Stop when the tracker cannot be reached; ``HARVEYSEG_REQUIRE_TRACKING=1`` does the same."""
    system_metrics: bool = False
    """Log CPU, memory, disk and GPU use while training."""


def tracking_uri(root: Path) -> str:
    """``MLFLOW_TRACKING_URI``, else a SQLite file in the project's root; a SQLite path is always absolute.

    DVC runs queued and temporary experiments in a folder that it deletes: a relative database would go with it.
    Blanks and quotes around the address, as an ``.env`` file may leave them, and slashes at its end are dropped.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI", "").strip().strip("\"'").strip().rstrip("/") or f"{SQLITE}mlflow.db"
    if uri.startswith(SQLITE):
        path, mark, query = uri.removeprefix(SQLITE).partition("?")
        return f"{SQLITE}{root.resolve() / Path(path).expanduser()}{mark}{query}"
    return uri


def open_tracker(
    params: TrackingParams, root: Path | None = None, *, required: bool = False, restore: bool = False
) -> "Tracker":
    """Connect to MLflow.

    Args:
        params: section ``tracking``.
        root: folder of the default database, its artifacts and the lock; the project's root when None.
        required: whether the caller can do nothing without MLflow, whatever ``params`` says.
        restore: bring the experiment back if it was deleted in MLflow.

    Returns:
        The tracker; when MLflow cannot be used, one that has warned and does nothing more.

    Raises:
        HarveysegError: when MLflow cannot be used and is required.
    """
    if required:
        params = params.model_copy(update={"required": True})
    return Tracker(params, project_root() if root is None else root, restore)


def inspect_tracker(root: Path) -> tuple[str, str] | None:
    """Look whether MLflow can be used, without making or changing anything.

    Args:
        root: the project's root.

    Returns:
        What is wrong and what to do, both without a full stop; None when nothing is.
    """
    uri = tracking_uri(root)
    try:
        require_address(uri)
        database = database_path(uri)
        if database is not None:
            check_database(database, uri)
        elif uri.startswith(("http://", "https://")):
            _ask_server(uri)
    except Exception as error:
        fault = explain(error, uri)
        return f"MLflow at {public_address(uri)} cannot be used: {fault}", fault.remedy
    return None


class Tracker:
    """A connection to MLflow, or, after its first failure, an object that does nothing (see :func:`open_tracker`)."""

    def __init__(self, params: TrackingParams, root: Path, restore: bool = False) -> None:
        """Connect; see :func:`open_tracker`."""
        configure_mlflow()
        self.params = params
        self.uri = tracking_uri(root)
        self.root = root
        self.experiment_id = ""
        self.experiment_tags: dict[str, str] = {}
        self.running: dict[str, Any] = {}
        """By uid, the copies of the runs that this process computes; kept by :mod:`harveyseg.tracking.mirror`."""
        self.artifacts_lost = False
        """Whether the store of artifacts has failed, so that no more are sent."""
        wanted = os.environ.get("HARVEYSEG_REQUIRE_TRACKING", "").strip().lower()
        self._required = params.required or wanted not in _NO
        self._failure = TrackingError("it has not answered", "Try again")
        self._opened = time.monotonic()
        self._waited = 0.0
        self._one_call = threading.Lock()
        self._client: MlflowClient | None = None
        try:
            self._client = self._connect(restore)
        except Exception as error:
            self._fail(error)

    @property
    def alive(self) -> bool:
        """Whether MLflow can be used."""
        return self._client is not None

    def attempt(self, call: Callable[["MlflowClient"], T], size: int = 0) -> T | None:
        """Run an optional MLflow call.

        The first failure warns; from then on nothing is done and the answer is None. A tracker that has kept this
        process waiting for more than some seconds in all has failed, too.

        Args:
            call: what to do.
            size: bytes of files that it may send, which need not be fast.

        Raises:
            HarveysegError: when a required tracker fails.
        """
        client = self._client
        if client is None:
            return None
        try:
            return self._in_time(lambda: call(client), size)
        except HarveysegError:
            raise
        except Exception as error:  # whatever goes wrong in the tracker must not cost a training
            self._fail(error)
            return None

    def demand(self, call: Callable[["MlflowClient"], T]) -> T:
        """Run an MLflow call that the caller needs.

        Raises:
            HarveysegError: when MLflow cannot be used.
        """
        if self._client is None:
            raise HarveysegError(unusable(self.uri, self._failure))
        try:
            return call(self._client)
        except HarveysegError:
            raise
        except Exception as error:
            raise HarveysegError(unusable(self.uri, explain(error, self.uri))) from error

    def lose_artifacts(self, store: str, error: Exception) -> None:
        """Warn that the store of artifacts cannot be used, and send it nothing more: scores do not need it."""
        self.artifacts_lost = True
        fault = explain(error, self.uri)
        logger.warning(
            "MLflow's artifact store %s cannot be used: %s\n"
            "Scores and curves are logged, files are not. %s; then `harveyseg sync` sends them.",
            public_address(store),
            fault,
            fault.remedy,
        )

    def locked(self) -> AbstractContextManager[None]:
        """Keep other processes of this project from creating a database, an experiment or a run.

        Do not upload while holding the lock.
        """
        return _locked(self.root, _LOCK_SECONDS)

    def prepare_views(self, views: Iterable[View]) -> None:
        """Write views into the experiment, where it lacks them or holds them in an older form."""
        self.attempt(lambda client: self._write_views(client, views))

    def search(self, client: "MlflowClient", condition: str, *, deleted: bool = False) -> list["MlflowRun"]:
        """All runs of the experiment that meet a condition in MLflow's filter language, oldest first.

        Args:
            client: MLflow's client.
            condition: the filter.
            deleted: those that were deleted, instead of those that were not.
        """
        from mlflow.entities import ViewType

        view = ViewType.DELETED_ONLY if deleted else ViewType.ACTIVE_ONLY
        runs: list[MlflowRun] = []
        token: str | None = None
        while True:
            page = client.search_runs([self.experiment_id], condition, view, page_token=token)
            runs.extend(page)
            token = page.token
            if not token:
                return sorted(runs, key=lambda run: (run.info.start_time, run.info.run_id))

    def _in_time(self, call: Callable[[], T], size: int = 0) -> T:
        """Wait for a call as long as MLflow may still keep this process waiting; then it goes on alone, unheard.

        Raises:
            TrackingError: when the time is up.
            Exception: what the call raises.
        """
        if self._required:
            return call()
        answer: Future[T] = Future()

        def work() -> None:
            with self._one_call:  # after a signal, the next call may come before this one has ended
                try:
                    answer.set_result(call())
                except BaseException as error:
                    answer.set_exception(error)

        started = time.monotonic()
        self._waited -= size / _BYTES_PER_SECOND
        patience = _PATIENCE_SECONDS + _PATIENCE_SHARE * (started - self._opened) - self._waited
        threading.Thread(target=work, daemon=True).start()
        try:
            return answer.result(max(0.0, patience))
        except TimeoutError:
            if answer.done():  # the call's own
                raise
            waited = self._waited + time.monotonic() - started
            raise TrackingError(
                f"it has kept this command waiting for {waited:.0f} seconds", "See what makes it so slow"
            ) from None
        finally:
            self._waited += time.monotonic() - started

    def _fail(self, error: Exception) -> None:
        self._client = None
        self._failure = explain(error, self.uri)
        if self._required:
            raise HarveysegError(unusable(self.uri, self._failure)) from error
        logger.warning(
            "MLflow at %s cannot be used: %s\n%s.\n"
            "Continuing WITHOUT tracking. Nothing is lost: `harveyseg sync` adds this run when MLflow is back.",
            public_address(self.uri),
            self._failure,
            self._failure.remedy,
        )

    def _connect(self, restore: bool) -> "MlflowClient":
        require_address(self.uri)
        database = database_path(self.uri)

        from mlflow.tracking import MlflowClient

        if database is None:
            client = MlflowClient(tracking_uri=self.uri)
            self._in_time(lambda: self._open_experiment(client, None, restore))
            return client

        import mlflow.store.tracking.sqlalchemy_store  # noqa: F401  (a slow import that must not happen in the lock)

        def connect() -> "MlflowClient":
            prepare_database(database, self.uri)
            client = MlflowClient(tracking_uri=self.uri)
            artifacts = (database.parent / ARTIFACTS).as_uri()
            self._open_experiment(client, artifacts, restore)
            return client

        if self._in_time(lambda: is_prepared(database, self.uri)):
            return self._in_time(connect)
        # Several processes that migrate one database break it, and even opening one asks whether to migrate.
        with _locked(self.root, _LOCK_SECONDS if self._required else _SETUP_SECONDS):
            return connect()

    def _open_experiment(self, client: "MlflowClient", artifacts: str | None, restore: bool) -> None:
        name = self.params.experiment
        self.experiment_id, self.experiment_tags = _get_or_create_experiment(client, name, artifacts, restore)
        self._write_views(client, VIEWS)

    def _write_views(self, client: "MlflowClient", views: Iterable[View]) -> None:
        from mlflow.exceptions import MlflowException

        try:
            for name, value in outdated_views(self.experiment_tags, views).items():
                client.set_experiment_tag(self.experiment_id, name, value)
                self.experiment_tags[name] = value
        except MlflowException as error:  # e.g. the server lets this user only read
            logger.info("MLflow's prepared views are not written: %s", explain(error, self.uri))


def _locked(root: Path, seconds: float) -> AbstractContextManager[None]:
    return locked(root / ".locks" / "tracking.lock", timeout=seconds)


def configure_mlflow() -> None:
    """Set what MLflow reads from the environment, before it is imported; what the user has set stays."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # It prints the traceback of each error of a database that it also raises, and we say in one sentence.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


def unusable(uri: str, fault: TrackingError) -> str:
    """The message of an error that says where MLflow cannot be used, why, and what to do."""
    remedy = fault.remedy
    if os.environ.get("MLFLOW_TRACKING_URI"):
        remedy += ", or unset MLFLOW_TRACKING_URI to use the project's own mlflow.db"
    return (
        f"MLflow at {public_address(uri)} cannot be used: {fault}\n"
        f"{remedy}; then repeat the command. (More: docs/team.md)"
    )


def require_address(uri: str) -> None:
    """Refuse a folder, in which MLflow no longer keeps runs.

    Raises:
        TrackingError: for a path.
    """
    if "://" not in uri or uri.startswith("file:"):
        raise TrackingError(
            "that is a folder or a file, and MLflow keeps runs in a database or on a server",
            f"Set MLFLOW_TRACKING_URI to {SQLITE}<file>.db or http://<server>; `mlflow migrate-filestore` takes over "
            "the runs of a folder",
        )


def _ask_server(uri: str) -> None:
    """One question that every MLflow server answers to those who may use it.

    Raises:
        Exception: whatever went wrong.
    """
    configure_mlflow()
    from mlflow.tracking import MlflowClient

    MlflowClient(tracking_uri=uri).search_experiments(max_results=1)


def _get_or_create_experiment(
    client: "MlflowClient", name: str, artifacts: str | None, restore: bool
) -> tuple[str, dict[str, str]]:
    """The experiment's id and tags. The id is passed with every run: the "active experiment" may be "Default"."""
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            tags = outdated_views({}, VIEWS)
            return str(client.create_experiment(name, artifact_location=artifacts, tags=tags)), tags
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        experiment = client.get_experiment_by_name(name)  # another process was faster
    if experiment is None or experiment.lifecycle_stage != "active":
        if experiment is None or not restore:
            raise TrackingError(
                f"its experiment {name!r} was deleted",
                "`harveyseg sync` restores it with its runs; or name another one in tracking.experiment",
            )
        client.restore_experiment(experiment.experiment_id)
        logger.info("MLflow's experiment %r was deleted; it and its runs are restored.", name)
    return str(experiment.experiment_id), dict(experiment.tags)
