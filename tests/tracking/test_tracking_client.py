"""Tracking with real components: MLflow on SQLite, ``mlflow server`` over loopback HTTP, killed processes, DVC."""

import contextlib
import json
import math
import os
import pwd
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Run as MlflowRun
from mlflow.tracking import MlflowClient

from harveyseg.errors import HarveysegError
from harveyseg.files import write_json
from harveyseg.record import RunRecord
from harveyseg.tracking.client import RunOutputs, Tracker, TrackingParams, open_tracker, record_of, sync, tracking_uri
from harveyseg.tracking.table import comparison, write_table
from helpers.paths import ROOT
from helpers.ports import free_port
from helpers.records import SCORES, START_MS, make_history, make_record, make_results, write_outputs


def connect(uri: str) -> MlflowClient:
    return MlflowClient(tracking_uri=uri)


def all_mlflow_runs(tracker: Tracker, experiment: str = "harveyseg") -> list[MlflowRun]:
    """Children only, read with a client of the test's own."""
    client = connect(tracker.uri)
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    runs = client.search_runs([found.experiment_id])
    return [run for run in runs if run.data.tags["harveyseg.kind"] != "pipeline"]


def steps(tracker: Tracker, run_id: str | None, name: str = "epoch/train_loss") -> list[int]:
    assert run_id is not None
    return [metric.step for metric in connect(tracker.uri).get_metric_history(run_id, name)]


def start_script(code: str, project: Path, *arguments: str) -> subprocess.Popen[str]:
    """Another process that runs ``code`` in the project's folder."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT / 'tests'}"}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(
        command, cwd=project, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


# Where


def test_default_is_an_absolute_database_in_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tracking_uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///runs/team.db")
    assert tracking_uri(tmp_path) == f"sqlite:///{tmp_path}/runs/team.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////srv/team.db")
    assert tracking_uri(tmp_path) == "sqlite:////srv/team.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert tracking_uri(tmp_path) == "http://127.0.0.1:5000"


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


# A run


def test_run_holds_identity_parameters_epochs_and_files(tracker: Tracker, project: Path, tmp_path: Path) -> None:
    record = make_record(experiment="ocher-pope", fold=1)
    figure = tmp_path / "learning_curve.png"
    figure.write_bytes(b"png")
    history = make_history(5)
    with tracker.run(record) as run:
        for row in history:
            run.log_epoch(row)
        run.log_metrics(make_results(history))
        run.log_artifacts([figure])
        run.log_dataset("fold 1", "demo", "d" * 64, "training", {"photos": 12})
    assert run.id is not None
    client = connect(tracker.uri)
    stored = client.get_run(run.id)
    assert stored.info.run_name == "unet-f1@ocher-pope"
    assert stored.info.status == "FINISHED"
    assert stored.info.start_time == START_MS
    expected = {
        "harveyseg.uid": record.uid,
        "harveyseg.kind": "train",
        "harveyseg.stage_key": "a1" * 32,
        "harveyseg.model": "unet",
        "harveyseg.fold": "1",
        "harveyseg.experiment": "ocher-pope",
        "harveyseg.data_source": "demo",
        "harveyseg.data_hash": "d" * 64,
        "harveyseg.split_hash": "e" * 64,
        "harveyseg.git_commit": "c0ffee",
        "harveyseg.git_dirty": "false",
        "harveyseg.device": "cpu",
        "mlflow.source.git.commit": "c0ffee",
        "mlflow.user": pwd.getpwuid(os.getuid()).pw_name,
        "environment.torch": "2.15.0",
    }
    assert expected.items() <= stored.data.tags.items()
    assert stored.data.params == {
        "train.lr": "0.001",
        "train.batch_size": "4",
        "resize-cache.size": "128 x 128",
        "train.ema": "null",
    }
    curve = client.get_metric_history(run.id, "epoch/val_argmax_score")
    assert [(m.step, m.value, m.timestamp) for m in curve] == [
        (row["epoch"], row["val_argmax_score"], row["time_ms"]) for row in history
    ]
    # MLflow's "latest" is the last epoch; best and final have names of their own, and so has a whole run's duration.
    assert stored.data.metrics["epoch/val_argmax_score"] == 0.55
    assert stored.data.metrics["best/val_argmax_score"] == 0.65
    assert stored.data.metrics["best/epoch"] == 2
    assert stored.data.metrics["epoch/seconds"] == 1.0
    assert stored.data.metrics["seconds"] == 44.0
    assert stored.inputs is not None
    (dataset,) = stored.inputs.dataset_inputs
    assert dataset.dataset.name == "fold 1"
    assert ("d" * 64).startswith(dataset.dataset.digest)
    (stored_figure,) = (project / "mlflow-artifacts").rglob("learning_curve.png")
    assert stored_figure.read_bytes() == b"png"


def test_experiment_tag_is_absent_outside_experiments(tracker: Tracker) -> None:
    with tracker.run(make_record()):
        pass
    (run,) = all_mlflow_runs(tracker)
    assert "harveyseg.experiment" not in run.data.tags
    assert run.info.run_name == "unet-f0"


def test_an_epoch_is_one_request(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    original = MlflowClient.log_batch

    def counted(self: MlflowClient, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return original(self, *args, **kwargs)

    with tracker.run(make_record()) as run:
        monkeypatch.setattr(MlflowClient, "log_batch", counted)
        run.log_epoch(make_history(1)[0])
    assert len(calls) == 1


def test_one_parent_groups_the_runs_of_an_invocation(tracker: Tracker) -> None:
    with tracker.run(make_record(fold=0)) as first:
        pass
    client = connect(tracker.uri)
    assert first.id is not None
    parent = client.get_run(first.id).data.tags["mlflow.parentRunId"]
    assert client.get_run(parent).info.status == "FINISHED"
    with contextlib.suppress(RuntimeError), tracker.run(make_record(fold=1)) as second:
        assert client.get_run(parent).info.status == "RUNNING"
        raise RuntimeError
    assert second.id is not None
    assert client.get_run(second.id).data.tags["mlflow.parentRunId"] == parent
    assert client.get_run(parent).info.status == "FAILED"
    assert client.get_run(parent).info.end_time == client.get_run(second.id).info.end_time
    with tracker.run(make_record(experiment="bob's")) as other:
        pass
    assert other.id is not None
    assert client.get_run(other.id).data.tags["mlflow.parentRunId"] != parent


@pytest.mark.slow
def test_stages_of_one_dvc_repro_share_an_invocation(project: Path) -> None:
    code = "from harveyseg.tracking.client import _invocation; print(*_invocation(None), file=open('{}', 'w'))"
    stages = {
        name: {"cmd": f'{sys.executable} -c "{code.format(name)}"', "outs": [name], "always_changed": True}
        for name in ("one", "two")
    }
    (project / "dvc.yaml").write_text(json.dumps({"stages": stages}))
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "DVC_NO_ANALYTICS": "1"}

    def dvc(*arguments: str) -> None:
        subprocess.run([sys.executable, "-m", "dvc", "-q", *arguments], cwd=project, env=environment, check=True)

    dvc("init", "--no-scm")
    dvc("repro")
    first = (project / "one").read_text()
    assert (project / "two").read_text() == first
    dvc("repro")
    assert (project / "one").read_text() != first


# How it ends


@pytest.mark.parametrize(
    ("error", "status"), [(RuntimeError, "FAILED"), (KeyboardInterrupt, "KILLED"), (SystemExit, "KILLED")]
)
def test_status_says_how_it_ended(tracker: Tracker, error: type[BaseException], status: str) -> None:
    with contextlib.suppress(error), tracker.run(make_record()) as run:
        run.log_history(make_history(2))
        raise error
    (stored,) = all_mlflow_runs(tracker)
    assert stored.info.status == status
    assert steps(tracker, run.id) == [0, 1]


TRAINING = """
import time
from harveyseg.tracking.client import TrackingParams, open_tracker
from helpers.records import make_history, make_record
from harveyseg.pipeline.stage import run as run_stage

def main(uid: str) -> None:
    tracker = open_tracker(TrackingParams())
    with tracker.run(make_record(uid=uid)) as run:
        run.log_history(make_history(3))
        print(run.id, flush=True)
        time.sleep(60)

run_stage(main)
"""


@pytest.mark.slow
def test_processes_that_start_at_once_and_die(project: Path) -> None:
    """All begin on an absent database; SIGTERM closes a run, SIGKILL leaves it RUNNING: adopted, or found abandoned.

    Without the lock and the explicit id this gives broken migrations, and runs that land in "Default".
    """
    processes = [start_script(TRAINING, project, uid) for uid in ("uid0", "uid1", "uid2", "uid3")]
    try:
        ids = []
        for process in processes:
            assert process.stdout is not None
            ids.append(process.stdout.readline().strip())
        terminated, adopted, abandoned, living = ids
        processes[0].send_signal(signal.SIGTERM)
        processes[1].kill()
        processes[2].kill()
        for process in processes[:3]:
            _, err = process.communicate(timeout=30)
            assert "WARNING" not in err
        tracker = open_tracker(TrackingParams(), project)
        assert connect(tracker.uri).search_runs(["0"]) == []
        status = {run.info.run_id: run.info.status for run in all_mlflow_runs(tracker)}
        assert status == {terminated: "KILLED", adopted: "RUNNING", abandoned: "RUNNING", living: "RUNNING"}

        with tracker.run(make_record(uid="uid1"), resume=adopted) as run:
            assert run.id == adopted
            run.log_epoch(make_history(6)[2])  # logged before the kill, and trained again after it
            run.log_history(make_history(6))
        assert steps(tracker, adopted) == [0, 1, 2, 3, 4, 5]

        assert tracker.close_abandoned("b2" * 32) == []
        assert tracker.close_abandoned("a1" * 32) == [abandoned]
        stored = {run.info.run_id: run.info for run in all_mlflow_runs(tracker)}
        assert {run_id: info.status for run_id, info in stored.items()} == {
            terminated: "KILLED",
            adopted: "FINISHED",
            abandoned: "KILLED",
            living: "RUNNING",
        }
        assert stored[abandoned].end_time == START_MS + 3000  # its last sign of life
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_resume_of_a_run_this_tracker_does_not_know(tracker: Tracker) -> None:
    record = make_record()
    with tracker.run(record, resume="0" * 32) as run:
        run.log_history(make_history(2))
    (stored,) = all_mlflow_runs(tracker)
    assert stored.info.run_id == run.id != "0" * 32
    assert stored.data.tags["harveyseg.uid"] == record.uid


# What MLflow would store wrongly


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_not_finite_is_rejected_by_name_before_anything_is_logged(tracker: Tracker, value: float) -> None:
    record = make_record()
    with tracker.run(record) as run:
        with pytest.raises(HarveysegError, match="best/val_loss"):
            run.log_metrics({"best/val_argmax_score": 0.5, "best/val_loss": value})
        with pytest.raises(HarveysegError, match="epoch/val_loss"):
            run.log_epoch(make_history(1)[0] | {"val_loss": value})
    with pytest.raises(HarveysegError, match="val/miou"):
        tracker.add_results(record, {"val/argmax_score": 0.5, "val/miou": value})
    (stored,) = all_mlflow_runs(tracker)
    assert stored.data.metrics == {}


def test_too_long_or_misnamed_is_an_error_not_a_cut(tracker: Tracker) -> None:
    with pytest.raises(HarveysegError, match=r"train\.note: 6001 characters"):
        tracker.run(make_record(parameters={"train.note": "x" * 6001})).__enter__()
    with pytest.raises(HarveysegError, match=r"environment\.cpu: 8001 characters"):
        tracker.run(make_record(environment={"cpu": "x" * 8001})).__enter__()
    assert all_mlflow_runs(tracker) == []
    with tracker.run(make_record(parameters={"train.note": "x" * 6000})) as run:
        for name in ("val/dice,pool", "", "x" * 251):
            with pytest.raises(HarveysegError, match="not a metric name"):
                run.log_metrics({name: 0.5})
    (stored,) = all_mlflow_runs(tracker)
    assert stored.data.params["train.note"] == "x" * 6000


def test_a_missing_artifact_is_no_dead_tracker(tracker: Tracker, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), tracker.run(make_record()) as run:
        run.log_artifacts([tmp_path / "absent.png"])
    assert tracker.alive


def test_system_metrics_on_request(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    tracker = open_tracker(TrackingParams(system_metrics=True), project)
    with tracker.run(make_record()):
        time.sleep(0.5)
    (stored,) = all_mlflow_runs(tracker)
    assert any(name.startswith("system/") for name in stored.data.metrics)
    assert stored.info.status == "FINISHED"


# Results of later stages, and what MLflow missed


def test_evaluation_is_added_without_reopening(tracker: Tracker, tmp_path: Path) -> None:
    record = make_record()
    with tracker.run(record) as run:
        run.log_history(make_history(1))
    record = record.model_copy(update={"run_id": run.id})
    (before,) = all_mlflow_runs(tracker)
    sheet = tmp_path / "sheet.png"
    sheet.write_bytes(b"sheet")
    tracker.add_results(record, {"val/argmax_score": 0.5}, [sheet])
    tracker.add_results(
        record, {"val/argmax_score": 0.25}
    )  # evaluated anew: the later value holds, although it is lower
    (after,) = all_mlflow_runs(tracker)
    assert after.data.metrics["val/argmax_score"] == 0.25
    assert (after.info.status, after.info.end_time) == (before.info.status, before.info.end_time)
    assert [item.path for item in connect(tracker.uri).list_artifacts(after.info.run_id, "evaluation")] == [
        "evaluation/sheet.png"
    ]


def test_import_restores_times_values_and_curves_once(tracker: Tracker, tmp_path: Path) -> None:
    outputs = [
        write_outputs(tmp_path, make_record(fold=fold, run_id="f" * 31 + str(fold), experiment="old-one"), SCORES)
        for fold in (0, 1)
    ]
    assert sync(tracker, outputs) == [
        "unet-f0@old-one: imported, 3 epochs, 6 values",
        "unet-f1@old-one: imported, 3 epochs, 6 values",
    ]
    assert sync(tracker, outputs) == []
    runs = all_mlflow_runs(tracker)
    assert len(runs) == 2
    for run in runs:
        assert run.data.tags["restored"] == "true"
        assert "mlflow.user" not in run.data.tags  # who trained it is not who imports it
        assert (run.info.start_time, run.info.end_time, run.info.status) == (START_MS, START_MS + 9000, "FINISHED")
        assert {name: run.data.metrics[name] for name in SCORES} == SCORES  # exactly
        assert run.data.params["train.lr"] == "0.001"
        curve = connect(tracker.uri).get_metric_history(run.info.run_id, "epoch/val_loss")
        assert [(m.step, m.timestamp, m.value) for m in curve] == [
            (row["epoch"], row["time_ms"], row["val_loss"]) for row in make_history(3)
        ]
        artifacts = connect(tracker.uri).list_artifacts(run.info.run_id, "training")
        assert [item.path for item in artifacts] == ["training/learning_curve.png"]


def test_evaluation_of_an_unknown_run_imports_it(tracker: Tracker, tmp_path: Path) -> None:
    output = write_outputs(tmp_path, make_record(), SCORES)
    tracker.add_results(output.record, SCORES)
    assert sync(tracker, [output]) == ["unet-f0: 3 epochs"]
    (run,) = all_mlflow_runs(tracker)
    assert run.data.metrics["val/argmax_score"] == 2 / 3


def test_sync_mends_missing_and_differing_values(tracker: Tracker, tmp_path: Path) -> None:
    output = write_outputs(tmp_path, make_record(), SCORES)
    sync(tracker, [output])
    (run,) = all_mlflow_runs(tracker)
    connect(tracker.uri).log_metric(run.info.run_id, "val/argmax_score", 0.99)  # someone's slip, later than all else
    write_outputs(tmp_path, output.record, SCORES | {"test/argmax_score": 0.5})
    assert sync(tracker, [output]) == ["unet-f0: 2 values"]
    assert sync(tracker, [output]) == []
    (run,) = all_mlflow_runs(tracker)
    assert run.data.metrics["val/argmax_score"] == 2 / 3
    assert run.data.metrics["test/argmax_score"] == 0.5


def test_decisions_are_added_to_their_runs(tracker: Tracker, tmp_path: Path) -> None:
    outputs = [write_outputs(tmp_path, make_record(fold=fold), SCORES) for fold in (0, 1)]
    outputs = [RunOutputs(one.record, one.folder, one.predictions, tmp_path / "postprocess") for one in outputs]
    sync(tracker, outputs)
    assert [output.scores() for output in outputs] == [SCORES, SCORES]
    runs = [{"uid": one.record.uid, "val/gain": gain} for one, gain in zip(outputs, (0.25, -0.5), strict=True)]
    write_json(tmp_path / "postprocess" / "metrics" / "unet.json", {"val/gain": 9.0, "runs": runs})
    (tmp_path / "postprocess" / "figures").mkdir()
    (tmp_path / "postprocess" / "figures" / "unet.png").write_bytes(b"decision")
    assert sync(tracker, outputs) == ["unet-f0: 1 values", "unet-f1: 1 values"]
    stored = {run.data.tags["harveyseg.fold"]: run for run in all_mlflow_runs(tracker)}
    assert {fold: run.data.metrics["val/gain"] for fold, run in stored.items()} == {"0": 0.25, "1": -0.5}
    artifacts = connect(tracker.uri).list_artifacts(stored["1"].info.run_id, "decision")
    assert [artifact.path for artifact in artifacts] == ["decision/unet.png"]
    write_json(tmp_path / "postprocess" / "metrics" / "unet.json", {"runs": runs[:1]})
    with pytest.raises(HarveysegError, match="evaluates another run"):
        outputs[1].scores()


def test_the_data_are_shown_in_the_ensembles_run(tracker: Tracker, tmp_path: Path) -> None:
    own = make_record().model_dump(exclude={"uid"})
    ensemble = RunRecord.model_validate(own | {"kind": "ensemble", "model": "ensemble", "fold": None})
    outputs = [write_outputs(tmp_path, record, SCORES) for record in (make_record(), ensemble)]
    sync(tracker, outputs)
    figures = tmp_path / "figures"
    figures.mkdir()
    for name in ("class_shares.png", "augmented.png"):
        (figures / name).write_bytes(b"figure")
    rows = ["class_id,name,pixel_share,photos", "0,Background,0.25,3", "6,Trees / Shrubs,0.75,2", "24,Boat,0.0,0"]
    (figures / "class_shares.csv").write_text("\n".join(rows))
    assert sync(tracker, outputs) == ["ensemble: 6 values"]
    assert sync(tracker, outputs) == []
    stored = {run.data.tags["harveyseg.kind"]: run for run in all_mlflow_runs(tracker)}
    found = {name: value for name, value in stored["ensemble"].data.metrics.items() if name.startswith("data/")}
    assert found == {
        "data/pixel_share/00_background": 0.25, "data/photos/00_background": 3,
        "data/pixel_share/06_trees_shrubs": 0.75, "data/photos/06_trees_shrubs": 2,
        "data/pixel_share/24_boat": 0, "data/photos/24_boat": 0,
    }  # fmt: skip
    assert not any(name.startswith("data/") for name in stored["train"].data.metrics)
    folders = {kind: connect(tracker.uri).list_artifacts(run.info.run_id, "data") for kind, run in stored.items()}
    names = ["data/augmented.png", "data/class_shares.csv", "data/class_shares.png"]
    assert [artifact.path for artifact in folders["ensemble"]] == names
    assert folders["train"] == []
    for damage in (
        "class_id,name\n0,Background\n",
        "class_id,name,pixel_share,photos\n99,X,0,0\n",
        rows[0] + "\n1,A,b,0\n",
    ):
        (figures / "class_shares.csv").write_text(damage)
        with pytest.raises(HarveysegError, match=r"class_shares\.csv: not a table of class shares .*dvc checkout"):
            sync(tracker, outputs)


def test_weights_are_kept_restored_and_fetched(tracker: Tracker, tmp_path: Path) -> None:
    output = write_outputs(tmp_path, make_record(), SCORES)
    sync(tracker, [output])  # as of a training that was logged before weights were
    (run,) = all_mlflow_runs(tracker)
    assert not tracker.has_weights(run.info.run_id)
    (output.folder / "weights.safetensors").write_bytes(b"weights")
    assert sync(tracker, [output]) == ["unet-f0: weights"]
    assert sync(tracker, [output]) == []
    assert tracker.has_weights(run.info.run_id)
    fetched = tracker.download_weights(run.info.run_id, tmp_path / "new" / "folder")
    assert fetched == tmp_path / "new" / "folder" / "weights.safetensors"
    assert fetched.read_bytes() == b"weights"


def test_runs_are_found_by_id_and_read_back(tracker: Tracker, project: Path) -> None:
    records = []
    for record in (make_record(experiment="ocher-pope"), make_record(fold=1, git_commit=None, git_dirty=True)):
        with tracker.run(record) as run:
            pass
        records.append(record.model_copy(update={"run_id": run.id}))
    gone, *ids = [str(record.run_id) for record in records]
    connect(tracker.uri).delete_run(gone)
    elsewhere = open_tracker(TrackingParams(experiment="another"), project)  # ids hold in all experiments
    nothing, deleted, malformed, found = elsewhere.get(["0" * 32, gone, "not an id", *ids])
    assert nothing is deleted is malformed is None
    assert found is not None
    back = record_of(found)
    texts = {"train.lr": "0.001", "train.batch_size": "4", "resize-cache.size": "128 x 128", "train.ema": "null"}
    assert back == records[1].model_copy(update={"parameters": texts})
    connect(tracker.uri).delete_tag(ids[0], "harveyseg.data_hash")
    (damaged,) = tracker.get(ids)
    assert damaged is not None
    with pytest.raises(HarveysegError, match=r"missing in MLflow: harveyseg\.data_hash"):
        record_of(damaged)


def test_sync_refuses_an_evaluation_of_another_run(tracker: Tracker, tmp_path: Path) -> None:
    output = write_outputs(tmp_path, make_record(), SCORES)
    retrained = RunOutputs(make_record(), output.folder, output.predictions)
    with pytest.raises(HarveysegError, match="evaluates another run"):
        sync(tracker, [retrained])


def test_sync_names_a_damaged_history(tracker: Tracker, tmp_path: Path) -> None:
    output = write_outputs(tmp_path, make_record(), SCORES)
    for damage in (
        "epoch,time_ms\n0,1\n",
        "epoch,time_ms,train_loss\n0,1,abc\n",
        "epoch,time_ms,train_loss\n0,1,2,3\n",
    ):
        (output.folder / "history.csv").write_text(damage)
        with pytest.raises(HarveysegError, match=r"history\.csv: not a training history"):
            sync(tracker, [output])


# A tracker that is away


def test_dead_tracker_warns_once_and_training_goes_on(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    started = time.monotonic()
    tracker = open_tracker(TrackingParams(), project)
    assert not tracker.alive
    trained = []
    with tracker.run(make_record()) as run:
        for row in make_history(3):
            trained.append(row)
            run.log_epoch(row)
        with pytest.raises(HarveysegError, match="best/val_argmax_score"):  # a wrong value is one, tracked or not
            run.log_metrics({"best/val_argmax_score": math.nan})
    tracker.add_results(make_record(), SCORES)
    assert tracker.close_abandoned("a1" * 32) == []
    assert time.monotonic() - started < 15
    assert run.id is None
    assert len(trained) == 3
    warning = capsys.readouterr().err
    assert warning.count("WITHOUT tracking") == 1
    assert re.search(r"MLflow at http://127.0.0.1:\d+ cannot be used: \[Errno \d+\] Connection refused\n", warning)
    assert "harveyseg sync" in warning
    with pytest.raises(HarveysegError, match="MLFLOW_TRACKING_URI"):
        sync(tracker, [])


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


class Refusal(BaseHTTPRequestHandler):
    """Answers like a server that wants a password."""

    def do_GET(self) -> None:
        self.send_response(401)
        self.end_headers()
        self.wfile.write(b"You are not authenticated.")

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_a_wrong_password_is_named_and_never_shown(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusal) as refusing:
        threading.Thread(target=refusing.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ann:geheim@127.0.0.1:{refusing.server_port}")
        with pytest.raises(HarveysegError, match="401") as caught:
            open_tracker(TrackingParams(), project, required=True)
        refusing.shutdown()
    assert f"MLflow at http://127.0.0.1:{refusing.server_port} cannot be used" in str(caught.value)
    assert "MLFLOW_TRACKING_PASSWORD" in str(caught.value)
    assert "geheim" not in str(caught.value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ann:geheim@127.0.0.1:{free_port()}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(HarveysegError, match=r"MLflow at http://127\.0\.0\.1:\d+ .* refused") as caught:
        open_tracker(TrackingParams(), project, required=True)
    assert "geheim" not in str(caught.value)


def test_damaged_database_does_not_stop_a_training(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "mlflow.db").write_bytes(b"no database at all" * 100)
    tracker = open_tracker(TrackingParams(), project)
    with tracker.run(make_record()) as run:
        run.log_history(make_history(1))
    assert not tracker.alive
    assert "WITHOUT tracking" in capsys.readouterr().err


def test_deleted_experiment_is_an_error_with_its_remedy(tracker: Tracker, project: Path) -> None:
    client = connect(tracker.uri)
    experiment = client.get_experiment_by_name("harveyseg")
    assert experiment is not None
    client.delete_experiment(experiment.experiment_id)
    with pytest.raises(HarveysegError, match="was deleted"):
        open_tracker(TrackingParams(), project)


class Server:
    """A real ``mlflow server`` on a free loopback port; it can be killed and started again on the same data."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self.folder}/server.db"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with (self.folder / "log").open("a") as log:
            self._process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=1).close()
                return
            except (urllib.error.URLError, TimeoutError, ConnectionError):
                time.sleep(0.2)
        raise AssertionError((self.folder / "log").read_text())

    def kill(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("server"))
    yield running
    running.kill()


@pytest.mark.slow
def test_team_server_gives_the_same_table(
    project: Path, tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tracked over HTTP on one machine, imported into SQLite on another: same bytes."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    remote = open_tracker(TrackingParams(experiment="table"), project)
    outputs = []
    for fold in (0, 1):
        record = make_record(fold=fold)
        history = make_history(3)
        with remote.run(record) as run:
            for row in history:
                run.log_epoch(row)
            run.log_metrics(make_results(history))
        scores = SCORES | {"val/argmax_score": 0.1 * (fold + 1) / 3}
        output = write_outputs(tmp_path, record.model_copy(update={"run_id": run.id}), scores)
        remote.add_results(output.record, scores, [output.folder / "learning_curve.png"])
        outputs.append(output)
    assert sync(remote, outputs) == []  # nothing was missing
    client = connect(server.uri)
    assert [item.path for item in client.list_artifacts(str(outputs[0].record.run_id), "evaluation")] == [
        "evaluation/learning_curve.png"
    ]
    (outputs[0].folder / "weights.safetensors").write_bytes(b"weights")
    assert sync(remote, outputs) == ["unet-f0: weights"]
    assert remote.download_weights(str(outputs[0].record.run_id), tmp_path / "fetched").read_bytes() == b"weights"
    parent = client.get_run(str(run.id)).data.tags["mlflow.parentRunId"]
    assert client.get_run(parent).info.status == "FINISHED"
    records = [output.record for output in outputs]
    write_table(comparison(remote, records), tmp_path / "remote")

    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    local = open_tracker(TrackingParams(), project)
    assert len(sync(local, outputs)) == 2
    write_table(comparison(local, records), tmp_path / "local")

    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    imported = open_tracker(TrackingParams(experiment="imported"), project)
    strangers = [
        write_outputs(tmp_path / "other", make_record(fold=o.record.fold or 0), json_scores(o)) for o in outputs
    ]
    assert len(sync(imported, strangers)) == 2
    write_table(comparison(imported, [stranger.record for stranger in strangers]), tmp_path / "imported")
    for name in ("comparison.csv", "comparison.md"):
        expected = (tmp_path / "remote" / name).read_bytes()
        assert (tmp_path / "local" / name).read_bytes() == expected
        assert (tmp_path / "imported" / name).read_bytes() == expected


def json_scores(output: RunOutputs) -> dict[str, float]:
    content = json.loads((output.predictions / "metrics.json").read_text())
    return {key: value for key, value in content.items() if "/" in key}


@pytest.mark.slow
def test_server_killed_in_mid_training(
    project: Path,
    tmp_path: Path,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    tracker = open_tracker(TrackingParams(experiment="killed"), project)
    record = make_record()
    history = make_history(4)
    with tracker.run(record) as run:
        run.log_epoch(history[0])
        server.kill()
        started = time.monotonic()
        for row in history[1:]:
            run.log_epoch(row)
        run.log_metrics(make_results(history))
    assert time.monotonic() - started < 15
    assert capsys.readouterr().err.count("WITHOUT tracking") == 1
    assert run.id is not None  # the identity stays

    server.start()
    output = write_outputs(tmp_path, record.model_copy(update={"run_id": run.id}), SCORES, epochs=4)
    back = open_tracker(TrackingParams(experiment="killed"), project)
    assert sync(back, [output]) == ["unet-f0: RUNNING -> FINISHED, 3 epochs, 14 values"]
    assert sync(back, [output]) == []
    (stored,) = all_mlflow_runs(back, "killed")
    assert (stored.info.status, stored.info.end_time) == ("FINISHED", START_MS + 9000)
    assert sorted(steps(back, run.id)) == [0, 1, 2, 3]
    assert "restored" not in stored.data.tags
