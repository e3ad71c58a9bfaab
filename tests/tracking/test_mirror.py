"""Runs in MLflow are equal to the files, whatever was killed or away: SQLite, a real server, real processes."""

import contextlib
import json
import math
import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from harveyseg.errors import HarveysegError
from harveyseg.files import write_json
from harveyseg.record import RunRecord
from harveyseg.tracking.client import Tracker, TrackingParams, open_tracker
from harveyseg.tracking.mirror import close_abandoned, mirror, mirror_all, show_running
from harveyseg.tracking.outputs import Artifact, RunOutputs, RunState
from harveyseg.tracking.table import comparison_table, write_comparison
from harveyseg.tracking.values import unpack_values
from helpers.mlflow_server import Server
from helpers.paths import ROOT
from helpers.records import SCORES, START_MS, make_history, make_record, make_results, write_outputs
from helpers.tracking import all_mlflow_runs, artifact_names, connect, logged_steps, start_script


def train(tracker: Tracker, record: RunRecord, epochs: int = 3) -> RunRecord:
    """A training as its stage tracks it; the finished record."""
    with show_running(tracker, record) as run_id:
        record = record.model_copy(update={"run_id": run_id})
        for count in range(1, epochs + 1):
            mirror(tracker, RunState(record, "RUNNING", make_history(epochs)[:count]))
        results = make_results(make_history(epochs))
        record = record.model_copy(update={"results": results, "ended_ms": START_MS + 9000})
        mirror(tracker, RunState(record, history=make_history(epochs)))
    return record


# A training


def test_run_holds_identity_parameters_curves_and_files(tracker: Tracker, project: Path) -> None:
    record = train(tracker, make_record(experiment="ocher-pope", fold=1), epochs=5)
    assert record.run_id is not None
    client = connect(tracker.uri)
    stored = client.get_run(record.run_id)
    assert stored.info.run_name == "unet-f1@ocher-pope"
    assert (stored.info.status, stored.info.start_time, stored.info.end_time) == ("FINISHED", START_MS, START_MS + 9000)
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
    assert {"restored", "mlflow.parentRunId", "harveyseg.evaluation"}.isdisjoint(stored.data.tags)
    assert stored.data.tags["harveyseg.pipeline"].startswith("ocher-pope ")
    assert stored.data.params == {
        "train.lr": "0.001",
        "train.batch_size": "4",
        "resize-cache.size": "128 x 128",
        "train.ema": "null",
    }
    curve = client.get_metric_history(record.run_id, "epoch/val_argmax_score")
    assert [(m.step, m.value, m.timestamp) for m in curve] == [
        (row["epoch"], row["val_argmax_score"], row["time_ms"]) for row in make_history(5)
    ]
    # MLflow's "latest" is the last epoch; best and written have names of their own, and so has a whole run's duration.
    assert stored.data.metrics["epoch/val_argmax_score"] == 0.55
    assert unpack_values(stored.data.tags)["best/val_argmax_score"] == 0.65
    assert stored.data.metrics["epoch/seconds"] == 1.0
    assert stored.data.metrics["seconds"] == 44.0
    assert stored.inputs is not None
    (data,) = stored.inputs.dataset_inputs
    assert data.dataset.name == "demo, fold 1 held out"
    assert ("d" * 64).startswith(data.dataset.digest)


def test_an_epoch_is_one_request(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    record = make_record()
    with show_running(tracker, record):
        mirror(tracker, RunState(record, "RUNNING", make_history(1)))
        for name in [name for name in vars(MlflowClient) if not name.startswith("_")]:
            original = getattr(MlflowClient, name)

            def counted(*args: Any, original: Any = original, name: str = name, **kwargs: Any) -> Any:
                calls.append(name)
                return original(*args, **kwargs)

            monkeypatch.setattr(MlflowClient, name, counted)
        mirror(tracker, RunState(record, "RUNNING", make_history(2)))
        mirror(tracker, RunState(record, "RUNNING", make_history(2)))
    assert calls == ["log_batch"]


@pytest.mark.slow
def test_stages_of_one_dvc_repro_share_a_pipeline(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "from harveyseg.tracking.processes import pipeline_name; print(pipeline_name(None), file=open('{}', 'w'))"
    stages = {
        name: {"cmd": f'{sys.executable} -c "{code.format(name)}"', "outs": [name], "always_changed": True}
        for name in ("one", "two")
    }
    (project / "dvc.yaml").write_text(json.dumps({"stages": stages}))
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "DVC_NO_ANALYTICS": "1"}

    def dvc(*arguments: str, **variables: str) -> str:
        command = [sys.executable, "-m", "dvc", "-q", *arguments]
        subprocess.run(command, cwd=project, env=environment | variables, check=True)
        pipelines = {(project / name).read_text() for name in ("one", "two") if (project / name).exists()}
        assert len(pipelines) < 2
        return "".join(pipelines)

    dvc("init", "--no-scm")
    first = dvc("repro")
    assert first.startswith("repro ")
    assert dvc("repro") != first
    assert dvc("repro", HARVEYSEG_PIPELINE="cluster 7") == "cluster 7\n"


@pytest.mark.parametrize(
    ("error", "status"), [(RuntimeError, "FAILED"), (KeyboardInterrupt, "KILLED"), (SystemExit, "KILLED")]
)
def test_status_says_how_it_ended(tracker: Tracker, error: type[BaseException], status: str) -> None:
    record = make_record()
    with contextlib.suppress(error), show_running(tracker, record) as run_id:
        mirror(tracker, RunState(record, "RUNNING", make_history(2)))
        raise error
    (stored,) = all_mlflow_runs(tracker)
    assert stored.info.status == status
    assert stored.info.end_time is not None
    assert logged_steps(tracker, run_id) == [1, 2]


TRAINING = """
import time
from harveyseg.pipeline.stage import run
from harveyseg.tracking.client import TrackingParams, open_tracker
from harveyseg.tracking.mirror import mirror, show_running
from harveyseg.tracking.outputs import RunState
from helpers.records import make_history, make_record

def main(uid: str) -> None:
    tracker = open_tracker(TrackingParams())
    record = make_record(uid=uid)
    with show_running(tracker, record) as run_id:
        mirror(tracker, RunState(record, "RUNNING", make_history(3)))
        print(run_id, flush=True)
        time.sleep(60)

run(main)
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
            assert "WITHOUT" not in err
        tracker = open_tracker(TrackingParams(), project)
        assert connect(tracker.uri).search_runs(["0"]) == []
        status = {run.info.run_id: run.info.status for run in all_mlflow_runs(tracker)}
        assert status == {terminated: "KILLED", adopted: "RUNNING", abandoned: "RUNNING", living: "RUNNING"}

        resumed = make_record(uid="uid1", run_id=adopted, experiment="resumed")
        assert train(tracker, resumed, epochs=6).run_id == adopted
        assert logged_steps(tracker, adopted) == [1, 2, 3, 4, 5, 6]  # 1 to 3 once, although they are in all histories

        assert close_abandoned(tracker, {"b2" * 32}) == ["unet-f0: RUNNING -> KILLED"]  # whatever starts next
        stored = {run.info.run_id: run for run in all_mlflow_runs(tracker)}
        assert {run_id: run.info.status for run_id, run in stored.items()} == {
            terminated: "KILLED",
            adopted: "FINISHED",
            abandoned: "KILLED",
            living: "RUNNING",
        }
        assert stored[abandoned].info.end_time == START_MS + 3000  # its last sign of life
        assert stored[adopted].data.tags["harveyseg.experiment"] == "resumed"  # the name that `dvc exp show` lists
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_an_abandoned_run_is_closed_by_sync_and_taken_up_by_its_training(tracker: Tracker) -> None:
    """As after a forced rerun that was killed, and whose result then came from DVC's cache."""
    record = make_record()
    with contextlib.suppress(RuntimeError), show_running(tracker, record) as run_id:
        raise RuntimeError
    assert run_id is not None
    client = connect(tracker.uri)
    client.update_run(run_id, status="RUNNING")
    client.set_tag(run_id, "harveyseg.process", client.get_run(run_id).data.tags["harveyseg.process"][:-3] + "000")
    client.set_tag(run_id, "harveyseg.process", f"{os.uname().nodename} 99999999 1.0")
    assert mirror_all(tracker, []) == ["unet-f0: RUNNING -> KILLED"]
    assert mirror_all(tracker, []) == []
    assert train(tracker, record.model_copy(update={"run_id": run_id})).run_id == run_id
    (stored,) = all_mlflow_runs(tracker)
    assert stored.info.status == "FINISHED"


def leave_running(tracker: Tracker, record: RunRecord, host: str, epoch_ms: Sequence[int] = ()) -> str:
    """A run as a killed process leaves it; its epochs end at these times."""
    with contextlib.suppress(RuntimeError), show_running(tracker, record) as run_id:
        raise RuntimeError
    client = connect(tracker.uri)
    assert run_id is not None
    client.update_run(run_id, status="RUNNING")
    client.set_tag(run_id, "harveyseg.process", f"{host} 17 1.0")
    for step, time_ms in enumerate(epoch_ms):
        client.log_metric(run_id, "epoch/train_loss", 1.0, time_ms, step)
    return run_id


def test_runs_of_lost_machines_are_closed_with_their_pipeline(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARVEYSEG_PIPELINE", "work 1234567")
    now = round(time.time() * 1000)
    lost = leave_running(tracker, make_record("lost", stage_key="a", started_ms=now), "node-2")
    monkeypatch.setenv("HARVEYSEG_PIPELINE", "another")
    leave_running(tracker, make_record("other", stage_key="b", started_ms=now), "node-2")
    assert close_abandoned(tracker) == []  # neither has been silent for long
    assert close_abandoned(tracker, ended_pipelines=["work 1234567"]) == ["lost-f0: RUNNING -> KILLED"]
    assert connect(tracker.uri).get_run(lost).info.status == "KILLED"


def test_runs_of_another_host_name_are_closed_by_silence_or_by_the_same_stage_key(
    tracker: Tracker, project: Path
) -> None:
    """A container has another host name each time, and nothing can be asked about its processes."""
    now = round(time.time() * 1000)
    minute = 60_000
    epochs_of_ten_minutes = [now - 200 * minute + count * 10 * minute for count in range(8)]  # silent for 130 minutes
    runs = {
        "silent": leave_running(
            tracker, make_record("silent", stage_key="a", started_ms=now - 210 * minute), "pod-1", epochs_of_ten_minutes
        ),
        "slow": leave_running(  # one epoch takes an hour
            tracker, make_record("slow", stage_key="b", started_ms=now - 210 * minute), "pod-1", [now - 130 * minute]
        ),
        "starting": leave_running(
            tracker, make_record("starting", stage_key="c", started_ms=now - 300 * minute), "pod-1"
        ),
        "old": leave_running(tracker, make_record("old", stage_key="d", started_ms=now - 1500 * minute), "pod-1"),
    }
    for key in "ab":
        (project / ".checkpoints" / key).mkdir(parents=True)
    old, silent = close_abandoned(tracker)  # the oldest first
    assert silent.startswith("silent-f0: RUNNING -> KILLED (the same settings resume it; if it is not needed, delete ")
    assert silent.endswith(f"{project}/.checkpoints/a)")
    assert old == "old-f0: RUNNING -> KILLED"
    assert close_abandoned(tracker) == []
    assert mirror_all(tracker, [RunState(make_record("slow", stage_key="b"))])[0] == "slow-f0: RUNNING -> KILLED"
    client = connect(tracker.uri)
    status = {name: client.get_run(run_id).info for name, run_id in runs.items()}
    assert {name: info.status for name, info in status.items()} == {
        "silent": "KILLED",
        "slow": "KILLED",
        "starting": "RUNNING",
        "old": "KILLED",
    }
    assert status["silent"].end_time == epochs_of_ten_minutes[-1]


def test_whatever_is_deleted_or_renamed_in_the_ui_comes_back_or_is_said(
    tracker: Tracker, project: Path, tmp_path: Path
) -> None:
    outputs = []
    for fold in (0, 1, 2):
        record = train(tracker, make_record(fold=fold, stage_key=f"{fold}" * 64))
        outputs.append(write_outputs(tmp_path, record, SCORES))
    states = [output.state() for output in outputs]
    mirror_all(tracker, states)
    client = connect(tracker.uri)
    ids = [str(output.record.run_id) for output in outputs]

    client.delete_run(ids[0])
    assert mirror_all(tracker, states) == ["unet-f0: was deleted in MLflow, restored"]
    assert mirror_all(tracker, states) == []

    for order in (["run", "experiment"], ["experiment"]):
        for what in order:
            if what == "run":
                client.delete_run(ids[1])
            else:
                client.delete_experiment(tracker.experiment_id)
        restored = open_tracker(TrackingParams(), project, required=True, restore=True)
        assert mirror_all(restored, states) == []
        assert sorted(run.info.run_id for run in all_mlflow_runs(restored)) == sorted(ids)

    client.rename_experiment(tracker.experiment_id, "renamed")
    (line,) = mirror_all(open_tracker(TrackingParams(), project, required=True), states)
    assert line.startswith("3 runs are in MLflow's experiment 'renamed', not in 'harveyseg': was it renamed?")
    renamed = open_tracker(TrackingParams(experiment="renamed"), project, required=True)
    assert mirror_all(renamed, states) == []
    for run_id in ids:  # the other way that the line names
        client.delete_run(run_id)
    assert len(mirror_all(open_tracker(TrackingParams(), project, required=True), states)) == 3
    again = open_tracker(TrackingParams(), project, required=True)
    assert mirror_all(again, states) == []
    assert len(all_mlflow_runs(again)) == 3


def test_resume_of_a_run_this_tracker_does_not_know(tracker: Tracker) -> None:
    record = train(tracker, make_record(run_id="0" * 32))
    (stored,) = all_mlflow_runs(tracker)
    assert stored.info.run_id == record.run_id != "0" * 32
    assert stored.data.tags["harveyseg.uid"] == record.uid
    assert "restored" not in stored.data.tags


def test_system_metrics_on_request(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    tracker = open_tracker(TrackingParams(system_metrics=True), project)
    record = make_record()
    with show_running(tracker, record):
        time.sleep(0.5)
        mirror(tracker, RunState(record))
    (stored,) = all_mlflow_runs(tracker)
    assert any(name.startswith("system/") for name in stored.data.metrics)
    assert stored.info.status == "FINISHED"


# What MLflow would store wrongly


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_not_finite_is_rejected_by_name_before_anything_is_sent(tracker: Tracker, value: float) -> None:
    record = make_record()
    row = make_history(1)[0] | {"val_loss": value}
    for state, name in {
        "best/val_loss": RunState(record.model_copy(update={"results": {"best/val_loss": value, "epochs": 1.0}})),
        "epoch/val_loss": RunState(record, "RUNNING", [row]),
        "val/miou": RunState(record, metrics={"val/argmax_score": 0.5, "val/miou": value}),
    }.items():
        with pytest.raises(HarveysegError, match=state):
            mirror(tracker, name)
    assert all_mlflow_runs(tracker) == []


def test_too_long_or_misnamed_is_an_error_not_a_cut(tracker: Tracker, tmp_path: Path) -> None:
    with pytest.raises(HarveysegError, match=r"train\.note: 6001 characters"):
        mirror(tracker, RunState(make_record(parameters={"train.note": "x" * 6001})))
    with pytest.raises(HarveysegError, match=r"environment\.cpu: 8001 characters"):
        mirror(tracker, RunState(make_record(environment={"cpu": "x" * 8001})))
    for name in ("val/dice,pool", "", "x" * 251):
        with pytest.raises(HarveysegError, match="not a metric name"):
            mirror(tracker, RunState(make_record(), metrics={name: 0.5}))
    with pytest.raises(FileNotFoundError):
        mirror(tracker, RunState(make_record(), artifacts=[Artifact(tmp_path / "absent.png", "training")]))
    assert all_mlflow_runs(tracker) == []
    assert tracker.alive
    mirror(tracker, RunState(make_record(parameters={"train.note": "x" * 6000})))
    (stored,) = all_mlflow_runs(tracker)
    assert stored.data.params["train.note"] == "x" * 6000


# Finished runs


def test_import_restores_times_values_curves_and_files_once(tracker: Tracker, tmp_path: Path) -> None:
    records = [make_record(fold=fold, run_id="f" * 31 + str(fold), experiment="old-one") for fold in (0, 1)]
    states = [write_outputs(tmp_path, record, SCORES).state() for record in records]
    assert mirror_all(tracker, states) == [
        "unet-f0@old-one: imported, 3 epochs, 15 values, 2 files",
        "unet-f1@old-one: imported, 3 epochs, 15 values, 2 files",
    ]
    assert mirror_all(tracker, states) == []
    runs = all_mlflow_runs(tracker)
    assert len(runs) == 2
    for run in runs:
        assert run.data.tags["restored"] == "true"
        assert {"mlflow.user", "harveyseg.pipeline"}.isdisjoint(run.data.tags)  # who trained it is not who imports it
        assert (run.info.start_time, run.info.end_time, run.info.status) == (START_MS, START_MS + 9000, "FINISHED")
        values = {**run.data.metrics, **unpack_values(run.data.tags)}
        assert {name: values[name] for name in SCORES} == SCORES  # exactly
        assert run.data.params["train.lr"] == "0.001"
        curve = connect(tracker.uri).get_metric_history(run.info.run_id, "epoch/val_loss")
        assert [(m.step, m.timestamp, m.value) for m in curve] == [
            (row["epoch"], row["time_ms"], row["val_loss"]) for row in make_history(3)
        ]
        assert artifact_names(tracker, run.info.run_id) == ["evaluation/metrics.json", "evaluation/sheet.png"]


def test_missing_and_differing_values_are_logged_again(tracker: Tracker, tmp_path: Path) -> None:
    output = write_outputs(tmp_path, make_record(), SCORES)
    mirror(tracker, output.state())
    (run,) = all_mlflow_runs(tracker)
    connect(tracker.uri).log_metric(run.info.run_id, "val/argmax_score", 0.99)  # someone's slip, later than all else
    connect(tracker.uri).set_tag(run.info.run_id, "harveyseg.model", "slip")
    write_outputs(tmp_path, output.record, SCORES | {"test/argmax_score": 0.5})
    assert mirror(tracker, output.state()) == "unet-f0: 2 values, 1 file"
    assert mirror(tracker, output.state()) is None
    (run,) = all_mlflow_runs(tracker)
    assert run.data.metrics["val/argmax_score"] == 0.66667
    assert run.data.metrics["test/argmax_score"] == 0.5
    assert run.data.tags["harveyseg.model"] == "unet"


def test_an_evaluation_leaves_status_and_end_of_its_training(tracker: Tracker, tmp_path: Path) -> None:
    record = train(tracker, make_record())
    (before,) = all_mlflow_runs(tracker)
    mirror(tracker, write_outputs(tmp_path, record, SCORES).state())
    (after,) = all_mlflow_runs(tracker)
    assert after.data.metrics["val/argmax_score"] == 0.66667
    assert (after.info.status, after.info.end_time) == (before.info.status, before.info.end_time)


def test_absent_and_changed_files_are_sent_and_no_others(
    tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    output = write_outputs(tmp_path, make_record(), SCORES)
    original = MlflowClient.log_artifact

    def full_disk(self: MlflowClient, run_id: str, path: str, folder: str) -> None:
        if path.endswith("sheet.png"):
            raise OSError(28, "No space left on device")
        original(self, run_id, path, folder)

    with monkeypatch.context() as patched:
        patched.setattr(MlflowClient, "log_artifact", full_disk)
        full = open_tracker(TrackingParams(), tmp_path / "a project")
        assert mirror(full, output.state()) == "unet-f0: imported, 3 epochs, 15 values, 1 file, 1 file NOT stored"
        assert mirror(full, output.state()) == "unet-f0: 1 file NOT stored"  # never "MLflow has everything"
    (stored,) = all_mlflow_runs(tracker)
    assert stored.info.status == "FINISHED"
    assert stored.data.metrics["val/miou"] == 0.25
    (warning,) = [message for message in caplog.messages if "artifact store" in message]
    assert f"{tmp_path.as_uri()}/a%20project/mlflow-artifacts cannot be used: [Errno 28]" in warning
    assert "Make room on that disk; then `harveyseg sync` sends them." in warning
    assert "WITHOUT tracking" not in caplog.text
    assert mirror(tracker, output.state()) == "unet-f0: 1 file"
    assert mirror(tracker, output.state()) is None
    (output.predictions or tmp_path).joinpath("sheet.png").write_bytes(b"drawn again")
    (output.predictions or tmp_path).joinpath(".sheet-x7.png").write_bytes(b"left by a killed process")
    assert mirror(tracker, output.state()) == "unet-f0: 1 file"
    (run,) = all_mlflow_runs(tracker)
    (sheet,) = (tmp_path / "a project" / "mlflow-artifacts").rglob("sheet.png")
    assert sheet.read_bytes() == b"drawn again"
    sheet.unlink()
    assert mirror(tracker, output.state()) == "unet-f0: 1 file"
    connect(tracker.uri).delete_tag(run.info.run_id, "harveyseg.artifacts")
    assert mirror(tracker, output.state()) == "unet-f0: 2 files"


# Evaluations


def evaluated(folder: Path, record: RunRecord, evaluation: str, score: float) -> RunOutputs:
    values: dict[str, float | str] = {"evaluation": evaluation, "inference.tta": evaluation, "val/argmax_score": score}
    output = write_outputs(folder, record, values)
    (output.folder / "weights.safetensors").write_bytes(b"weights")
    return replace(output, postprocess=folder / "postprocess")


def postprocessed(output: RunOutputs, evaluation: str, score: float) -> RunOutputs:
    assert output.postprocess is not None
    entry = {"uid": output.record.uid, "evaluation": evaluation, "postprocess.method": "auto", "val/score": score}
    write_json(output.postprocess / "metrics" / "unet.json", {"val/score": 9.0, "runs": [entry]})
    return output


def test_another_evaluation_never_overwrites_the_first(tracker: Tracker, tmp_path: Path) -> None:
    """Two members, one server, one training: one of them changes inference.tta."""
    record = train(tracker, make_record())
    ann = evaluated(tmp_path / "ann", record, "e1", 0.5)
    assert mirror(tracker, ann.state()) == "unet-f0: 1 value, 3 files"
    assert mirror(tracker, postprocessed(ann, "e1-p1", 0.6).state()) == "unet-f0: 1 value"
    bob = evaluated(tmp_path / "bob", record, "e2", 0.4)
    assert mirror(tracker, bob.state()) == "unet-f0: a run of its own for this evaluation, 3 epochs, 10 values, 2 files"
    assert mirror(tracker, postprocessed(bob, "e2-p1", 0.7).state()) == "unet-f0: 1 value"
    again = postprocessed(evaluated(tmp_path / "again", record, "e1", 0.5), "e1-p2", 0.8)
    assert "a run of its own" in str(mirror(tracker, again.state()))
    for output in (ann, bob, again):
        assert mirror(tracker, output.state()) is None
    runs = {run.data.tags["harveyseg.evaluation"]: run for run in all_mlflow_runs(tracker)}
    assert {name: run.data.metrics["val/score"] for name, run in runs.items()} == {
        "e1-p1": 0.6,
        "e2-p1": 0.7,
        "e1-p2": 0.8,
    }
    assert runs["e1-p1"].info.run_id == record.run_id
    for run in runs.values():
        assert run.data.tags["harveyseg.uid"] == record.uid
        assert run.data.params["inference.tta"] == run.data.tags["harveyseg.evaluation"][:2]
        assert run.data.params["train.lr"] == "0.001"
        assert sorted(logged_steps(tracker, run.info.run_id)) == [1, 2, 3]
        assert {"mlflow.parentRunId", "restored"}.isdisjoint(run.data.tags)
    stored = {
        name: "model/weights.safetensors" in artifact_names(tracker, run.info.run_id) for name, run in runs.items()
    }
    assert stored == {"e1-p1": True, "e2-p1": False, "e1-p2": False}  # large files are stored once
    frames = [comparison_table(tracker, [output]).set_index("fold") for output in (ann, bob, again)]
    assert [frame["val_score"]["0"] for frame in frames] == [0.6, 0.7, 0.8]
    assert [frame["tta"]["0"] for frame in frames] == ["e1", "e2", "e1"]


def test_the_data_are_shown_in_the_ensembles_run(tracker: Tracker, tmp_path: Path) -> None:
    figures = tmp_path / "figures"
    figures.mkdir()
    for name in ("class_shares.png", "augmented.png"):
        (figures / name).write_bytes(b"figure")
    rows = ["class_id,name,pixel_share,photos", "0,Background,0.25,3", "6,Trees / Shrubs,0.75,2", "24,Boat,0.0,0"]
    (figures / "class_shares.csv").write_text("\n".join(rows))
    ensemble = write_outputs(tmp_path, make_record("ensemble", None, kind="ensemble"), SCORES)
    (ensemble.folder / "overview.png").write_bytes(b"overview")
    (ensemble.folder / "test_ids.csv").write_bytes(b"for machines")
    assert mirror(tracker, replace(ensemble, data_figures=figures).state()) == "ensemble: imported, 12 values, 6 files"
    (run,) = all_mlflow_runs(tracker)
    values = unpack_values(run.data.tags)
    assert {name: value for name, value in values.items() if name.startswith("data/")} == {
        "data/pixel_share/00_background": 0.25, "data/photos/00_background": 3,
        "data/pixel_share/06_trees_shrubs": 0.75, "data/photos/06_trees_shrubs": 2,
        "data/pixel_share/24_boat": 0, "data/photos/24_boat": 0,
    }  # fmt: skip
    assert artifact_names(tracker, run.info.run_id) == [
        "data/augmented.png",
        "data/class_shares.csv",
        "data/class_shares.png",
        "evaluation/metrics.json",
        "evaluation/overview.png",
        "evaluation/sheet.png",
    ]


# A server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("server"))
    yield running
    running.kill()


@pytest.mark.slow
def test_team_server_gives_the_same_table(
    project: Path, tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tracked over HTTP on one machine, imported into SQLite on another, and into another experiment: same bytes."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    remote = open_tracker(TrackingParams(experiment="table"), project)
    outputs = []
    for fold in (0, 1):
        scores = SCORES | {"val/argmax_score": 0.1 * (fold + 1) / 3}
        outputs.append(write_outputs(tmp_path, train(remote, make_record(fold=fold)), scores))
        (outputs[fold].folder / "weights.safetensors").write_bytes(b"weights")
        assert mirror(remote, outputs[fold].state()) == f"unet-f{fold}: 6 values, 3 files"
    states = [output.state() for output in outputs]
    assert mirror_all(remote, states) == []
    assert artifact_names(remote, str(outputs[0].record.run_id)) == [
        "evaluation/metrics.json",
        "evaluation/sheet.png",
        "model/weights.safetensors",
    ]
    write_comparison(comparison_table(remote, outputs), tmp_path / "remote")

    imported = open_tracker(TrackingParams(experiment="imported"), project)
    strangers = [replace(output, record=output.record.model_copy(update={"run_id": None})) for output in outputs]
    assert len(mirror_all(imported, [stranger.state() for stranger in strangers])) == 2
    write_comparison(comparison_table(imported, strangers), tmp_path / "imported")

    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    local = open_tracker(TrackingParams(), project)
    assert len(mirror_all(local, states)) == 2
    write_comparison(comparison_table(local, outputs), tmp_path / "local")
    for name in ("comparison.csv", "comparison.md"):
        expected = (tmp_path / "remote" / name).read_bytes()
        assert (tmp_path / "local" / name).read_bytes() == expected
        assert (tmp_path / "imported" / name).read_bytes() == expected


@pytest.mark.slow
def test_server_killed_in_mid_training(
    project: Path, tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    tracker = open_tracker(TrackingParams(experiment="killed"), project)
    record = make_record()
    with show_running(tracker, record) as run_id:
        mirror(tracker, RunState(record, "RUNNING", make_history(1)))
        server.kill()
        started = time.monotonic()
        for count in (2, 3, 4):
            mirror(tracker, RunState(record, "RUNNING", make_history(count)))
        mirror(tracker, RunState(record, history=make_history(4)))
    assert time.monotonic() - started < 15
    assert caplog.text.count("WITHOUT tracking") == 1
    assert run_id is not None  # the identity stays

    server.start()
    output = write_outputs(tmp_path, record.model_copy(update={"run_id": run_id}), SCORES, epochs=4)
    back = open_tracker(TrackingParams(experiment="killed"), project)
    assert mirror(back, output.state()) == "unet-f0: 3 epochs, 15 values, 2 files, RUNNING -> FINISHED"
    assert mirror(back, output.state()) is None
    (stored,) = all_mlflow_runs(back, "killed")
    assert (stored.info.status, stored.info.end_time) == ("FINISHED", START_MS + 9000)
    assert sorted(logged_steps(back, run_id)) == [1, 2, 3, 4]
    assert "restored" not in stored.data.tags
