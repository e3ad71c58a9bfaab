"""The project's own SQLite database: made whole, of this MLflow's version, with its artifacts next to it."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import parse_qsl

from harveyseg.tracking.faults import SQLITE, TrackingError, known_revisions, other_version

ARTIFACTS = "mlflow-artifacts"
"""The folder next to the database that holds the runs' files."""

_PATIENCE_SECONDS = 6.0
"""How long to wait for a locked database whose address does not say so."""
_PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""The columns in which MLflow keeps absolute addresses of files."""


def database_path(uri: str) -> Path | None:
    """The file of a SQLite address; None for other addresses.

    >>> database_path("sqlite:////srv/team.db?timeout=60")
    PosixPath('/srv/team.db')
    """
    return Path(uri.removeprefix(SQLITE).partition("?")[0]) if uri.startswith(SQLITE) else None


def prepare_database(path: Path, uri: str) -> None:
    """Create the database if it is absent, and bring the addresses in it to where it is now.

    Only one process at a time may do this: several that create one database break it.

    Args:
        path: its file.
        uri: its address.

    Raises:
        TrackingError: when it is a folder, or another version of MLflow made its tables.
    """
    check_database(path, uri)
    if not path.exists():
        _create(path)
        return
    with closing(_open(path, uri)) as connection:
        if read_revision(connection) is not None:
            _relocate(connection, path)


def is_prepared(path: Path, uri: str) -> bool:
    """Whether there is nothing to do for :func:`prepare_database`; errors are those of :func:`check_database`."""
    check_database(path, uri)
    if not path.exists():
        return False
    with closing(_open(path, uri)) as connection:
        return read_revision(connection) is not None and _old_place(connection, path) is None


def check_database(path: Path, uri: str) -> None:
    """Look whether this MLflow can use the database, if there is one.

    Args:
        path: its file.
        uri: its address.

    Raises:
        TrackingError: when it is a folder, or another version of MLflow made its tables.
        sqlite3.Error: when it is not a database, or cannot be read.
    """
    if path.is_dir():
        raise TrackingError("that is a folder", f"Set MLFLOW_TRACKING_URI to a file in it: {SQLITE}{path}/mlflow.db")
    if not path.exists():
        return
    with closing(_open(path, uri)) as connection:
        revision = read_revision(connection)
    if revision is not None and not known_revisions().get(revision, False):  # None: MLflow makes the tables
        raise other_version(revision, uri)


def read_revision(connection: sqlite3.Connection) -> str | None:
    """The revision of the tables; None when MLflow has made none yet.

    Raises:
        sqlite3.DatabaseError: when the file is not a database.
    """
    if "alembic_version" not in _tables(connection):
        return None
    row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return None if row is None else str(row[0])


def _open(path: Path, uri: str) -> sqlite3.Connection:
    query = dict(parse_qsl(uri.partition("?")[2]))
    return sqlite3.connect(path, timeout=float(query.get("timeout", _PATIENCE_SECONDS)))


def _create(path: Path) -> None:
    """Create an empty database in a folder of its own, then move it: half a migration breaks a database for good."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    folder = path.with_name(f"{path.name}-new")
    shutil.rmtree(folder, ignore_errors=True)  # left by a killed process, perhaps with a journal
    folder.mkdir(parents=True)
    artifacts = (path.parent / ARTIFACTS).as_uri()
    store = SqlAlchemyStore(f"{SQLITE}{folder / path.name}", artifacts)  # type: ignore[no-untyped-call]
    store.engine.dispose()
    (folder / path.name).replace(path)
    folder.rmdir()


def _old_place(connection: sqlite3.Connection, path: Path) -> str | None:
    """Where the artifacts were before the project was moved or copied; None if they are where the database says.

    That is where the first experiment, which was made with the database, keeps its files.
    """
    row = connection.execute("SELECT artifact_location FROM experiments WHERE experiment_id = 0").fetchone()
    before, _, number = str("" if row is None else row[0]).rpartition("/")
    here = (path.parent / ARTIFACTS).as_uri()
    return None if before == here or number != "0" or not before.endswith(f"/{ARTIFACTS}") else before


def _relocate(connection: sqlite3.Connection, path: Path) -> None:
    """Bring addresses below the old place under the new one. Those that somebody chose, such as a bucket, are not."""
    before = _old_place(connection, path)
    if before is None:
        return
    here = (path.parent / ARTIFACTS).as_uri()
    tables = _tables(connection)
    with connection:
        for table, column in _PLACES:
            if column in tables.get(table, ()):
                connection.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                    f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                    (here, len(before) + 1, before, len(before) + 1, f"{before}/"),
                )


def _tables(connection: sqlite3.Connection) -> dict[str, set[str]]:
    """The names of the tables, and of each one's columns."""
    names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    return {name: {row[1] for row in connection.execute(f"PRAGMA table_info({name})")} for name in names}
