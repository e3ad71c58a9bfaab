"""The connection: the right database, a tracker that is away, and addresses without secrets."""

import time
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from harveyseg.errors import HarveysegError
from harveyseg.tracking.client import Tracker, TrackingParams, open_tracker, public_address, tracking_uri
from harveyseg.tracking.mirror import close_abandoned, mirror, mirror_all, show_running
from harveyseg.tracking.outputs import Artifact, RunState
from harveyseg.tracking.query import find_all_runs
from helpers.http_server import QuietHandler, serve
from helpers.ports import free_port
from helpers.records import SCORES, make_history, make_record
from helpers.tracking import connect


def test_default_is_an_absolute_database_in_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tracking_uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    for given, expected in {
        "sqlite:///runs/team.db": f"sqlite:///{tmp_path}/runs/team.db",
        "sqlite:////srv/team.db": "sqlite:////srv/team.db",
        "http://127.0.0.1:5000": "http://127.0.0.1:5000",
    }.items():
        monkeypatch.setenv("MLFLOW_TRACKING_URI", given)
        assert tracking_uri(tmp_path) == expected


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
    assert close_abandoned(tracker, "a1" * 32) == []
    assert time.monotonic() - started < 15
    assert run_id == "0" * 32  # the identity stays
    (warning,) = [record.getMessage() for record in caplog.records if record.name.startswith("harveyseg")]
    assert "WITHOUT tracking" in warning
    assert "harveyseg sync" in warning
    assert f"MLflow at {tracker.uri} cannot be used: [Errno" in warning
    assert "Connection refused\n" in warning
    with pytest.raises(HarveysegError, match="MLFLOW_TRACKING_URI"):
        find_all_runs(tracker)


def test_dead_tracker_is_fatal_where_required(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(HarveysegError, match="cannot be used"):
        open_tracker(TrackingParams(required=True), project)
    with pytest.raises(HarveysegError, match="cannot be used"):
        open_tracker(TrackingParams(), project, required=True)
    monkeypatch.setenv("HARVEYSEG_REQUIRE_TRACKING", "1")
    with pytest.raises(HarveysegError, match="cannot be used"):
        open_tracker(TrackingParams(), project)


class Refusal(QuietHandler):
    """Answers like a server that wants a password."""

    def do_GET(self) -> None:
        self.send_response(401)
        self.end_headers()
        self.wfile.write(b"You are not authenticated.")


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
    with pytest.raises(HarveysegError, match="cannot be used"):
        open_tracker(TrackingParams(), project, required=True)


def test_deleted_experiment_is_an_error_with_its_remedy(tracker: Tracker, project: Path) -> None:
    client = connect(tracker.uri)
    experiment = client.get_experiment_by_name("harveyseg")
    assert experiment is not None
    client.delete_experiment(experiment.experiment_id)
    with pytest.raises(HarveysegError, match="was deleted"):
        open_tracker(TrackingParams(), project)


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
    assert line == "unet-f0: imported, 1 files"
    assert {run.tags["harveyseg.fold"]: run.status for run in find_all_runs(tracker)} == {
        "0": "FINISHED",
        "1": "RUNNING",
    }
