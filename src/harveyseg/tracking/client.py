"""The connection to MLflow: where it is, how long it may take, and what happens when it fails.

A tracker that cannot be reached costs no training: it warns once and then does nothing. Importing mlflow takes about
3 s, and 1.5 s more for SQLite, so it is imported only inside functions.
"""

import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from filelock import FileLock

from harveyseg.config.settings import Section
from harveyseg.errors import HarveysegError
from harveyseg.project import project_root

if TYPE_CHECKING:
    from mlflow.entities import Run as MlflowRun
    from mlflow.tracking import MlflowClient

T = TypeVar("T")

_logger = logging.getLogger(__name__)

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
_SQLITE = "sqlite:///"


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
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"{_SQLITE}mlflow.db"
    if uri.startswith(_SQLITE):
        return f"{_SQLITE}{root.resolve() / uri.removeprefix(_SQLITE)}"
    return uri


def public_address(uri: str) -> str:
    """Scheme, host, port and path of an address, without user, password and query.

    >>> public_address("https://ann:secret@mlflow.example.org:5000/team?token=abc")
    'https://mlflow.example.org:5000/team'
    """
    scheme, separator, rest = uri.partition("://")
    address, *query = re.split("[?#]", rest, maxsplit=1)
    if not address.startswith("/"):  # a file has no user, and its name may hold an @
        if "@" in "".join(query):  # of a query, or after a password that holds a question mark: nobody can tell
            address = "..."
        address = address.rpartition("@")[2]  # the last one: a password may hold an @ or a slash
    return scheme + separator + address


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
        self.params = params
        self.uri = tracking_uri(root)
        self.experiment_id = ""
        self.running: dict[str, Any] = {}
        """By uid, the copies of the runs that this process computes; kept by :mod:`harveyseg.tracking.mirror`."""
        self._required = params.required or os.environ.get("HARVEYSEG_REQUIRE_TRACKING", "") not in ("", "0", "false")
        self._lock = root / ".locks" / "tracking.lock"
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
        """Whether MLflow can be used."""
        return self._client is not None

    def attempt(self, call: Callable[["MlflowClient"], T]) -> T | None:
        """Do something in MLflow that may be left out.

        The first failure warns; from then on nothing is done and the answer is None.

        Raises:
            HarveysegError: when a required tracker fails.
        """
        if self._client is None:
            return None
        try:
            return call(self._client)
        except HarveysegError:
            raise
        except Exception as error:  # whatever goes wrong in the tracker must not cost a training
            self._fail(error)
            return None

    def demand(self, call: Callable[["MlflowClient"], T]) -> T:
        """Do something in MLflow that the caller cannot do without.

        Raises:
            HarveysegError: when MLflow cannot be used.
        """
        if self._client is None:
            raise HarveysegError(self._unreachable(self._failure))
        try:
            return call(self._client)
        except HarveysegError:
            raise
        except Exception as error:
            raise HarveysegError(self._unreachable(_cause(error))) from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes of this project from creating a database, an experiment or a run. Never upload in it."""
        self._lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self._lock, timeout=_LOCK_SECONDS):
            yield

    def search(self, client: "MlflowClient", condition: str) -> list["MlflowRun"]:
        """All runs of the experiment that meet a condition in MLflow's filter language, oldest first."""
        runs: list[MlflowRun] = []
        token: str | None = None
        while True:
            page = client.search_runs([self.experiment_id], condition, page_token=token)
            runs.extend(page)
            token = page.token
            if not token:
                return sorted(runs, key=lambda run: (run.info.start_time, run.info.run_id))

    def _fail(self, error: Exception) -> None:
        self._client = None
        self._failure = _cause(error)
        if self._required:
            raise HarveysegError(self._unreachable(self._failure)) from error
        _logger.warning(
            "MLflow at %s cannot be used: %s\n"
            "Continuing WITHOUT tracking. Nothing is lost: `harveyseg sync` adds this run when MLflow is back.",
            public_address(self.uri),
            self._failure,
        )

    def _unreachable(self, cause: str) -> str:
        remedy = "Start that server, set MLFLOW_TRACKING_URI to one that runs"
        if "error code 401" in cause:
            remedy = "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to an account of that server"
        return (
            f"MLflow at {public_address(self.uri)} cannot be used: {cause}\n{remedy}, or unset MLFLOW_TRACKING_URI "
            "to use the project's own mlflow.db; then repeat the command. (More: docs/team.md)"
        )

    def _connect(self) -> "MlflowClient":
        from mlflow.tracking import MlflowClient

        if not self.uri.startswith(_SQLITE):
            client = MlflowClient(tracking_uri=self.uri)
            self.experiment_id = _get_or_create_experiment(client, self.params.experiment, None)
            return client

        import mlflow.store.tracking.sqlalchemy_store  # noqa: F401  (a slow import that must not happen in the lock)

        database = Path(self.uri.removeprefix(_SQLITE))
        artifacts = database.parent / "mlflow-artifacts"
        # Several processes that migrate one database break it, and even opening one asks whether to migrate.
        with self.locked():
            if not database.exists():
                _create_database(database, artifacts)
            client = MlflowClient(tracking_uri=self.uri)
            self.experiment_id = _get_or_create_experiment(client, self.params.experiment, artifacts.as_uri())
        return client


def _get_or_create_experiment(client: "MlflowClient", name: str, artifacts: str | None) -> str:
    """The experiment's id. It is passed with every run: MLflow's "active experiment" may silently be "Default"."""
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
    """Create an empty database in a folder of its own, then move it: half a migration breaks a database for good."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    folder = path.with_name(f"{path.name}-new")
    shutil.rmtree(folder, ignore_errors=True)  # left by a killed process, perhaps with a journal
    folder.mkdir(parents=True)
    store = SqlAlchemyStore(f"{_SQLITE}{folder / path.name}", artifacts.as_uri())  # type: ignore[no-untyped-call]
    store.engine.dispose()
    (folder / path.name).replace(path)
    folder.rmdir()


def _cause(error: Exception) -> str:
    """One line: for a broken connection or a file, the system's message rather than the libraries' around it."""
    chain: list[BaseException] = [error]
    while (inner := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(inner)
    innermost = next((link for link in reversed(chain) if isinstance(link, OSError)), error)
    line = (str(innermost).strip().splitlines() or [type(innermost).__name__])[0]
    return re.sub(r"[\w+.-]+://\S+", lambda address: public_address(address[0]), line)
