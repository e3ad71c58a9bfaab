"""The connection: the right database, a tracker that is away, and addresses without secrets."""

import errno
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from unittest.mock import Mock

import pytest
from mlflow.tracking import MlflowClient

from harveyseg.errors import HarveysegError
from harveyseg.files import locked
from harveyseg.tracking.client import Tracker, TrackingParams, open_tracker, tracking_uri
from harveyseg.tracking.faults import known_revisions, public_address
from harveyseg.tracking.mirror import close_abandoned, mirror, mirror_all, show_running
from harveyseg.tracking.outputs import Artifact, RunState
from harveyseg.tracking.query import find_all_runs
from helpers.http_server import QuietHandler, serve
from helpers.ports import free_port
from helpers.records import SCORES, make_history, make_record
from helpers.small_disk import small_disk
from helpers.tracking import connect, remedies_of_other_versions, set_revision


def test_default_is_an_absolute_database_in_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tracking_uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    for given, expected in {
        "sqlite:///runs/team.db": f"sqlite:///{tmp_path}/runs/team.db",
        "sqlite:////srv/team.db": "sqlite:////srv/team.db",
        "http://127.0.0.1:5000": "http://127.0.0.1:5000",
        "https://example.org/mlflow/": "https://example.org/mlflow",
        '"http://127.0.0.1:5000/" ': "http://127.0.0.1:5000",
        "'sqlite:///team.db'": f"sqlite:///{tmp_path}/team.db",
        "sqlite:///team.db?timeout=60": f"sqlite:///{tmp_path}/team.db?timeout=60",
        "sqlite:///~/team.db": f"sqlite:///{Path.home()}/team.db",
        " ": f"sqlite:///{tmp_path}/mlflow.db",
    }.items():
        monkeypatch.setenv("MLFLOW_TRACKING_URI", given)
        assert tracking_uri(tmp_path) == expected


def test_options_and_absent_folders_of_a_database(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///runs/of/the team.db?timeout=60")
    assert mirror(open_tracker(TrackingParams(), project), RunState(make_record())) == "unet-f0: imported"
    assert [path.name for path in (project / "runs" / "of").iterdir()] == ["the team.db"]
    with closing(sqlite3.connect(project / "runs" / "of" / "the team.db")) as connection:
        (uri,) = connection.execute("SELECT artifact_uri FROM runs").fetchone()
    assert uri.startswith(f"{project.as_uri()}/runs/of/mlflow-artifacts/")


@pytest.mark.parametrize(
    ("uri", "cause", "remedy"),
    [
        ("./mlruns", "is a folder", "mlflow migrate-filestore"),
        ("file:///srv/mlruns", "is a folder", "sqlite:///<file>.db"),
        ("sqlite:///folder/", "is a folder", "folder/mlflow.db"),
        ("htp://server", "unsupported URI", "no address of MLflow's: correct MLFLOW_TRACKING_URI"),
    ],
)
def test_wrong_addresses_are_named(
    project: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, uri: str, cause: str, remedy: str
) -> None:
    (project / "folder").mkdir()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert not open_tracker(TrackingParams(), project).alive
    assert "WITHOUT tracking" in caplog.text
    with pytest.raises(HarveysegError, match=cause) as caught:
        open_tracker(TrackingParams(), project, required=True)
    for text in (caplog.text, str(caught.value)):
        assert remedy in text
        assert "Start that server" not in text


def test_temporary_experiment_writes_into_the_real_project(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DVC runs it in a folder that it deletes, and names the real one."""
    copy = tmp_path / "copy"
    copy.mkdir()
    half_made = project / "mlflow.db-new"  # left by a process that was killed while it made the database
    half_made.mkdir()
    (half_made / "mlflow.db").write_bytes(b"half a migration")
    (half_made / "mlflow.db-journal").write_bytes(b"what to roll back")
    monkeypatch.chdir(copy)
    monkeypatch.setenv("DVC_ROOT", str(project))
    assert open_tracker(TrackingParams()).alive
    assert (project / "mlflow.db").exists()
    assert not half_made.exists()
    assert not list(copy.iterdir())


def test_a_disk_without_modes_takes_no_files_and_says_so(
    project: Path, migrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As on an SD card: MLflow copies a file with its mode."""
    shutil.copy(migrated, project)
    figure = tmp_path / "sheet.png"
    figure.write_bytes(b"figure")
    state = RunState(make_record(), artifacts=[Artifact(figure, "evaluation")])
    with monkeypatch.context() as patched:
        patched.setattr(os, "chmod", Mock(side_effect=PermissionError(errno.EPERM, os.strerror(errno.EPERM))))
        assert mirror(open_tracker(TrackingParams(), project), state) == "unet-f0: imported, 1 file NOT stored"
    assert "MLflow copies the modes of files, which that disk refuses" in caplog.text
    assert mirror(open_tracker(TrackingParams(), project), state) == "unet-f0: 1 file"


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("https://mlflow.example.org", "https://mlflow.example.org"),
        ("http://127.0.0.1:5000/team", "http://127.0.0.1:5000/team"),
        ("http://ann:p@SECRET@host:5000", "http://host:5000"),
        ("postgresql+psycopg2://mlflow:SEC/RET@db.example.org/mlflow", "postgresql+psycopg2://db.example.org/mlflow"),
        ("http://ann:SEC?RET#@host", "http://..."),
        ("https://host/path?token=SECRET#SECRET", "https://host/path"),
        ("https://host?token=SECRET@SECRET", "https://..."),
        ("sqlite:////home/ann@work/mlflow.db", "sqlite:////home/ann@work/mlflow.db"),
        # Without the scheme, which MLflow takes for a folder.
        ("ann:SECRET@host:5000", "host:5000"),
        ("//ann:SECRET@host/team", "host/team"),
        ("ann:SEC?RET@host", "..."),
        ("host:5000?token=SECRET", "host:5000"),
        ("/home/ann@work/mlruns", "/home/ann@work/mlruns"),
        ("file:/home/a:b@work/mlruns", "file:/home/a:b@work/mlruns"),
    ],
)
def test_addresses_are_shown_without_secrets(uri: str, shown: str) -> None:
    assert public_address(uri) == shown


def test_dead_tracker_warns_once_and_training_continues(
    project: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    record = make_record(run_id="0" * 32)
    started = time.monotonic()
    tracker = open_tracker(TrackingParams(), project)
    assert not tracker.alive
    with show_running(tracker, record) as run_id:
        for count in range(1, 4):
            assert mirror(tracker, RunState(record, "RUNNING", make_history(count))) is None
        with pytest.raises(HarveysegError, match="best/val_argmax_score"):  # a wrong value is one, tracked or not
            mirror(tracker, RunState(record, metrics={"best/val_argmax_score": float("nan")}))
    assert mirror(tracker, RunState(record, metrics=SCORES)) is None
    assert close_abandoned(tracker, {"a1" * 32}) == []
    assert time.monotonic() - started < 15
    assert run_id == "0" * 32  # the identity stays
    (warning,) = [record.getMessage() for record in caplog.records if record.name.startswith("harveyseg")]
    assert "WITHOUT tracking" in warning
    assert "harveyseg sync" in warning
    assert f"MLflow at {tracker.uri} cannot be used: [Errno" in warning
    assert "Connection refused\n" in warning
    with pytest.raises(HarveysegError, match="MLFLOW_TRACKING_URI"):
        find_all_runs(tracker)


class Slow(QuietHandler):
    """Answers each question after a while, as a server that has no such experiment and makes it."""

    seconds = 0.0

    def do_GET(self) -> None:
        time.sleep(self.seconds)
        self._answer(404, b'{"error_code": "RESOURCE_DOES_NOT_EXIST"}')

    def do_POST(self) -> None:
        time.sleep(self.seconds)
        self._answer(200, b'{"experiment_id": "1"}')

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.mark.parametrize(("seconds", "alive"), [(0.0, True), (0.4, True), (0.9, False), (5.0, False)])
def test_a_slow_tracker_costs_a_training_so_many_seconds_and_no_more(
    project: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, seconds: float, alive: bool
) -> None:
    monkeypatch.setattr("harveyseg.tracking.client._PATIENCE_SECONDS", 1.5)
    with serve(type("Answer", (Slow,), {"seconds": seconds})) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        started = time.monotonic()
        tracker = open_tracker(TrackingParams(), project)
        assert tracker.alive == alive
        for _ in range(3):  # each would wait as long
            tracker.attempt(lambda _: time.sleep(seconds))
        assert time.monotonic() - started < 2.5
    assert tracker.alive == (seconds == 0)
    assert caplog.text.count("it has kept this command waiting for ") == (seconds > 0)


def test_a_required_tracker_is_waited_for(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harveyseg.tracking.client._PATIENCE_SECONDS", 0.0)
    with serve(type("Answer", (Slow,), {"seconds": 0.2})) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        assert open_tracker(TrackingParams(), project, required=True).alive


def test_a_process_that_keeps_the_lock_delays_no_training_of_a_project_with_a_database(
    project: Path, migrated: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("harveyseg.tracking.client._SETUP_SECONDS", 0.2)
    with locked(project / ".locks" / "tracking.lock"):
        assert not open_tracker(TrackingParams(), project).alive  # which would have to create the database
    assert caplog.text.count("Continuing WITHOUT tracking") == 1
    shutil.copy(migrated, project)
    assert open_tracker(TrackingParams(), project).alive  # which brings the addresses in it to this folder
    with locked(project / ".locks" / "tracking.lock"):
        assert open_tracker(TrackingParams(), project).alive


@pytest.mark.parametrize(("options", "alive"), [("?timeout=0.1", False), ("?timeout=30", True)])
def test_a_locked_database_is_waited_for_as_its_address_says(
    project: Path, migrated: Path, monkeypatch: pytest.MonkeyPatch, options: str, alive: bool
) -> None:
    shutil.copy(migrated, project)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///mlflow.db{options}")
    database = sqlite3.connect(project / "mlflow.db", isolation_level=None, check_same_thread=False)
    with closing(database):
        database.execute("BEGIN EXCLUSIVE")
        threading.Timer(2.0, database.execute, ["ROLLBACK"]).start()
        assert open_tracker(TrackingParams(), project).alive == alive
        time.sleep(2.5)


def test_large_files_are_given_the_time_they_need(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harveyseg.tracking.client._PATIENCE_SECONDS", 0.0)
    sent: list[str] = []

    def send(_: MlflowClient) -> None:
        time.sleep(0.3)
        sent.append("file")

    tracker.attempt(send, 1_000_000)
    assert sent == ["file"]
    tracker.attempt(lambda _: time.sleep(30))
    assert not tracker.alive


def test_dead_tracker_is_fatal_where_required(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(HarveysegError, match="cannot be used"):
        open_tracker(TrackingParams(required=True), project)
    with pytest.raises(HarveysegError, match="cannot be used"):
        open_tracker(TrackingParams(), project, required=True)
    for value in ("1", "true", "Yes"):
        monkeypatch.setenv("HARVEYSEG_REQUIRE_TRACKING", value)
        with pytest.raises(HarveysegError, match="cannot be used"):
            open_tracker(TrackingParams(), project)
    for value in ("", "0", "False", "FALSE", "no", " off "):
        monkeypatch.setenv("HARVEYSEG_REQUIRE_TRACKING", value)
        assert not open_tracker(TrackingParams(), project).alive


class Refusal(QuietHandler):
    """Answers like a server that wants a password."""

    status = 401

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(b"Refused.")


@pytest.mark.parametrize(
    ("status", "remedy"),
    [
        (403, "Ask whoever runs that server"),
        (404, "not the address of an MLflow server"),
        (500, "its own log says why"),
        (503, "its own log says why"),
    ],
)
def test_each_refusal_has_its_remedy(project: Path, monkeypatch: pytest.MonkeyPatch, status: int, remedy: str) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with serve(type("Answer", (Refusal,), {"status": status})) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        with pytest.raises(HarveysegError, match=remedy) as caught:
            open_tracker(TrackingParams(), project, required=True)
    assert "Start that server" not in str(caught.value)


def test_a_wrong_password_is_named_and_never_shown(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(Refusal) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address.replace("//", "//ann:geheim@"))
        with pytest.raises(HarveysegError, match="401") as caught:
            open_tracker(TrackingParams(), project, required=True)
    assert f"MLflow at {address} cannot be used" in str(caught.value)
    assert "MLFLOW_TRACKING_PASSWORD" in str(caught.value)
    assert "geheim" not in str(caught.value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ann:geheim@127.0.0.1:{free_port()}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(HarveysegError, match=r"MLflow at http://127\.0\.0\.1:\d+ .* refused") as caught:
        open_tracker(TrackingParams(), project, required=True)
    assert "geheim" not in str(caught.value)


def test_damaged_database_does_not_stop_a_training(project: Path, caplog: pytest.LogCaptureFixture) -> None:
    (project / "mlflow.db").write_bytes(b"no database at all" * 100)
    tracker = open_tracker(TrackingParams(), project)
    assert not tracker.alive
    assert "WITHOUT tracking" in caplog.text
    with pytest.raises(
        HarveysegError, match=r"cannot be used: .*not a database\nMove that file away: `harveyseg sync`"
    ):
        open_tracker(TrackingParams(), project, required=True)


def test_a_full_disk_is_said_in_one_sentence(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with small_disk(tmp_path / "disk", "8m") as disk:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{disk}/team.db")
        open_tracker(TrackingParams(), project)
        subprocess.run(["mount", "-o", f"remount,size={shutil.disk_usage(disk).used}", str(disk)], check=True)
        assert mirror(open_tracker(TrackingParams(), project), RunState(make_record())) is None
    assert "cannot be used: database or disk is full\nMake room on that disk" in caplog.text
    assert not any(message.exc_info for message in caplog.records)  # no traceback of MLflow's


def test_a_database_of_another_version_is_said_and_left_alone(
    project: Path, migrated: Path, caplog: pytest.LogCaptureFixture
) -> None:
    database = project / "mlflow.db"
    shutil.copy(migrated, database)
    with closing(sqlite3.connect(database)) as connection:
        (latest,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    assert [revision for revision, is_latest in known_revisions().items() if is_latest] == [latest]  # as MLflow says
    for revision, remedy in remedies_of_other_versions(database).items():
        set_revision(database, revision)
        before = database.read_bytes()
        caplog.clear()
        assert not open_tracker(TrackingParams(), project).alive
        assert remedy in caplog.text
        with pytest.raises(HarveysegError, match=f"made its tables .revision {revision}.") as caught:
            open_tracker(TrackingParams(), project, required=True)
        assert remedy in str(caught.value)
        assert "Start that server" not in str(caught.value)
        assert database.read_bytes() == before


@pytest.mark.slow
def test_the_named_upgrade_works(project: Path) -> None:
    """A database as an older MLflow left it: made by MLflow's own migrations up to that revision."""
    database = project / "mlflow.db"
    code = (
        "import sys, alembic.command, sqlalchemy\n"
        "from mlflow.store.db.utils import _get_alembic_config\n"
        "from mlflow.store.tracking.dbmodels.initial_models import Base\n"
        "Base.metadata.create_all(sqlalchemy.create_engine(sys.argv[1]))\n"
        "alembic.command.upgrade(_get_alembic_config(sys.argv[1]), 'f5a4f2784254')\n"
    )
    subprocess.run([sys.executable, "-c", code, f"sqlite:///{database}"], check=True, capture_output=True)
    with pytest.raises(HarveysegError, match="mlflow db upgrade") as caught:
        open_tracker(TrackingParams(), project, required=True)
    copying, upgrading = str(caught.value).split("`")[1:4:2]
    for command in (copying, upgrading.replace("mlflow ", f"{sys.executable} -m mlflow ", 1)):
        subprocess.run(command, shell=True, check=True, capture_output=True)
    assert open_tracker(TrackingParams(), project, required=True).alive
    assert (project / "mlflow.db.backup").exists()


def test_deleted_experiment_stops_no_training_and_is_restored_by_sync(
    tracker: Tracker, project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mirror(tracker, RunState(make_record()))
    client = connect(tracker.uri)
    client.delete_experiment(tracker.experiment_id)
    assert not open_tracker(TrackingParams(), project).alive
    assert "'harveyseg' was deleted\n`harveyseg sync` restores it" in caplog.text
    with pytest.raises(HarveysegError, match=r"was deleted\n`harveyseg sync` restores it"):
        open_tracker(TrackingParams(), project, required=True)
    restored = open_tracker(TrackingParams(), project, required=True, restore=True)
    assert len(find_all_runs(restored)) == 1
    assert restored.experiment_id == tracker.experiment_id


def test_a_moved_or_copied_project_keeps_its_files_with_it(tracker: Tracker, project: Path, tmp_path: Path) -> None:
    figure = tmp_path / "sheet.png"
    figure.write_bytes(b"figure")
    state = RunState(make_record(), artifacts=[Artifact(figure, "evaluation")])
    mirror(tracker, state)
    client = connect(tracker.uri)
    bucket = client.create_experiment("in a bucket", "s3://bucket/mlflow-artifacts")
    copy = tmp_path / "a copy"
    shutil.copytree(project, copy)
    before = {path: path.read_bytes() for path in project.rglob("*") if path.is_file() and ".locks" not in path.parts}

    copied = open_tracker(TrackingParams(), copy)
    assert mirror(copied, state) is None  # it has the figure
    other = RunState(make_record(fold=1), artifacts=[Artifact(figure, "evaluation")])
    mirror(copied, other)
    client = connect(copied.uri)
    runs = client.search_runs([copied.experiment_id])
    assert len(runs) == 2
    for run in runs:
        assert run.info.artifact_uri.startswith(f"{copy.as_uri()}/mlflow-artifacts/")
        fetched = client.download_artifacts(run.info.run_id, "evaluation/sheet.png")
        assert Path(fetched).read_bytes() == b"figure"
    assert len([*(copy / "mlflow-artifacts").rglob("sheet.png")]) == 2
    assert client.get_experiment(bucket).artifact_location == "s3://bucket/mlflow-artifacts"
    after = {path: path.read_bytes() for path in project.rglob("*") if path.is_file() and ".locks" not in path.parts}
    assert after == before

    moved = tmp_path / "moved"
    shutil.move(copy, moved)
    mirror(open_tracker(TrackingParams(), moved), RunState(make_record(fold=2), artifacts=other.artifacts))
    assert not copy.exists()
    assert len([*(moved / "mlflow-artifacts").rglob("sheet.png")]) == 3


def test_the_lock_is_free_while_files_are_sent(
    tracker: Tracker, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training that starts must not wait until a colleague's `harveyseg sync` has sent all weights."""
    other = open_tracker(TrackingParams(), project)
    weights = project / "weights.safetensors"
    weights.write_bytes(b"weights")
    original = MlflowClient.log_artifact

    def while_sending(self: MlflowClient, *arguments: str) -> None:
        assert mirror(other, RunState(make_record(fold=1), "RUNNING")) is None
        original(self, *arguments)

    monkeypatch.setattr("harveyseg.tracking.client._LOCK_SECONDS", 1)
    monkeypatch.setattr(MlflowClient, "log_artifact", while_sending)
    (line,) = mirror_all(tracker, [RunState(make_record(), artifacts=[Artifact(weights, "model")])])
    assert line == "unet-f0: imported, 1 file"
    assert {run.tags["harveyseg.fold"]: run.status for run in find_all_runs(tracker)} == {
        "0": "FINISHED",
        "1": "RUNNING",
    }
