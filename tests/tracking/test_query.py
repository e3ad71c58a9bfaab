"""Reading runs back: the right one of several, and nothing that would be unsafe to use."""

import errno
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from harveyseg.errors import HarveysegError
from harveyseg.tracking.client import Tracker, TrackingParams, open_tracker
from harveyseg.tracking.mirror import mirror, show_running
from harveyseg.tracking.outputs import RunOutputs, RunState
from harveyseg.tracking.query import (
    PIPELINE,
    download_weights,
    find_all_runs,
    find_runs,
    find_tagged_runs,
    get_runs,
    has_weights,
    read_curves,
    record_of,
    running_trainings,
    select_run,
    tag_runs,
)
from helpers.records import SCORES, START_MS, make_history, make_record, write_outputs
from helpers.tracking import all_mlflow_runs, connect


def test_runs_are_found_by_id_and_read_back(tracker: Tracker, project: Path) -> None:
    settings = {"inference.tta": "flips", "postprocess.method": "auto"}
    records = [make_record(experiment="ocher-pope"), make_record(fold=1, git_commit=None, git_dirty=None)]
    for record in records:
        mirror(tracker, RunState(record, settings=settings))
    ids = {run.data.tags["harveyseg.uid"]: run.info.run_id for run in all_mlflow_runs(tracker)}
    gone, kept = (ids[record.uid] for record in records)
    connect(tracker.uri).delete_run(gone)
    elsewhere = open_tracker(TrackingParams(experiment="another"), project)  # ids hold in all experiments
    nothing, deleted, malformed, run = get_runs(elsewhere, ["0" * 32, gone, "not an id", kept])
    assert nothing is deleted is malformed is None
    assert run is not None
    texts = {"train.lr": "0.001", "train.batch_size": "4", "resize-cache.size": "128 x 128", "train.ema": "null"}
    assert record_of(run) == records[1].model_copy(update={"parameters": texts, "run_id": kept})
    assert run.parameters == texts | settings
    connect(tracker.uri).delete_tag(kept, "harveyseg.data_hash")
    (damaged,) = get_runs(tracker, [kept])
    assert damaged is not None
    with pytest.raises(HarveysegError, match=r"missing in MLflow: harveyseg\.data_hash"):
        record_of(damaged)


@pytest.mark.parametrize("name", ["../../elsewhere", "/etc", "a b", "", "unet@1f"])
def test_a_name_that_is_no_models_is_refused(tracker: Tracker, name: str) -> None:
    """It comes from a server that others write to, and would become a path."""
    mirror(tracker, RunState(make_record(name)))
    (run,) = find_all_runs(tracker)
    with pytest.raises(HarveysegError, match=r"harveyseg\.model"):
        record_of(run)


def test_the_run_of_an_evaluation_is_chosen_never_the_latest() -> None:
    def run(run_id: str, evaluation: str = "") -> Any:
        tags = {"harveyseg.evaluation": evaluation} if evaluation else {}
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id), data=SimpleNamespace(tags=tags))

    def chosen(runs: list[Any], evaluation: str, run_id: str = "b") -> str | None:
        selected = select_run(runs, run_id, evaluation)
        return None if selected is None else selected.info.run_id

    assert chosen([], "e1") is chosen([], "") is None
    runs = [run("a", "e1-p1"), run("b", "e2"), run("c", "e1-p2"), run("d", "e3-p1")]
    assert {wanted: chosen(runs, wanted) for wanted in ("e1-p1", "e1-p2", "e1", "e2-p9", "e1-p3", "e4", "")} == {
        "e1-p1": "a",
        "e1-p2": "c",
        "e1": "a",  # as before post-processing
        "e2-p9": "b",  # not post-processed yet
        "e1-p3": None,
        "e4": None,
        "": "b",
    }
    assert chosen([*runs, run("e")], "e4") == "e"  # not evaluated yet
    assert chosen(runs, "", run_id="x") == "a"


def test_weights_are_fetched_whichever_evaluation_is_named(tracker: Tracker, tmp_path: Path) -> None:
    output = write_outputs(tmp_path / "one", make_record(), SCORES | {"evaluation": "e1"})
    mirror(tracker, output.state())  # as of a training that was logged before weights were
    (run,) = find_all_runs(tracker)
    assert run.run_id is not None
    assert not has_weights(tracker, run.run_id)
    (output.folder / "weights.safetensors").write_bytes(b"weights")
    assert mirror(tracker, output.state()) == "unet-f0: 1 file"
    mirror(tracker, write_outputs(tmp_path / "two", output.record, SCORES | {"evaluation": "e2"}).state())
    ids = [run.run_id for run in find_all_runs(tracker)]
    assert len(ids) == 2
    for number, run_id in enumerate(map(str, ids)):
        assert has_weights(tracker, run_id)
        fetched = download_weights(tracker, run_id, tmp_path / "new" / str(number))
        assert fetched == tmp_path / "new" / str(number) / "weights.safetensors"
        assert fetched.read_bytes() == b"weights"


def test_weights_that_are_not_those_that_were_sent_are_refused(tracker: Tracker, project: Path, tmp_path: Path) -> None:
    output = write_outputs(tmp_path / "one", make_record(), SCORES)
    (output.folder / "weights.safetensors").write_bytes(b"weights")
    mirror(tracker, output.state())
    (run,) = find_all_runs(tracker)
    stored = project / "mlflow-artifacts" / str(run.run_id) / "artifacts" / "model" / "weights.safetensors"
    assert stored.read_bytes() == b"weights"
    stored.write_bytes(b"Weights")
    with pytest.raises(
        HarveysegError, match=rf"^MLflow's run {run.run_id}: .* is not the file that was sent"
    ) as caught:
        download_weights(tracker, str(run.run_id), tmp_path / "new")
    assert not list((tmp_path / "new").glob("*"))
    # What it says to do.
    assert "Delete it there, then run `harveyseg sync`" in str(caught.value)
    stored.unlink()
    assert mirror(tracker, output.state()) == "unet-f0: 1 file"
    assert download_weights(tracker, str(run.run_id), tmp_path / "new").read_bytes() == b"weights"


def test_weights_are_fetched_to_a_disk_without_modes(
    tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As to an SD card, which is another disk than that of temporary files."""
    output = write_outputs(tmp_path / "one", make_record(), SCORES)
    (output.folder / "weights.safetensors").write_bytes(b"weights")
    mirror(tracker, output.state())
    (run,) = find_all_runs(tracker)
    card = tmp_path / "card"
    chmod = os.chmod

    def refuse_on_card(path: Path | str, *arguments: Any, **options: Any) -> None:
        if Path(path).is_relative_to(card):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        chmod(path, *arguments, **options)

    monkeypatch.setattr(os, "chmod", refuse_on_card)
    monkeypatch.setattr(os, "rename", Mock(side_effect=OSError(errno.EXDEV, os.strerror(errno.EXDEV))))
    assert download_weights(tracker, str(run.run_id), card).read_bytes() == b"weights"


def test_tags_and_curves_belong_to_one_evaluation(tracker: Tracker, tmp_path: Path) -> None:
    record = make_record()
    ann, bob = (write_outputs(tmp_path / name, record, SCORES | {"evaluation": name}) for name in ("ann", "bob"))
    for output in (ann, bob):
        mirror(tracker, output.state())
    tag_runs(tracker, [bob], {"study.softmax": "on"})
    (tagged,) = find_tagged_runs(tracker, "study.softmax")
    assert tagged.tags["harveyseg.evaluation"] == "bob"
    assert [tagged] == find_runs(tracker, [bob]) != find_runs(tracker, [ann])
    curves = read_curves(tracker, str(tagged.run_id))
    assert curves["val_loss"] == {row["epoch"]: row["val_loss"] for row in make_history(3)}
    with pytest.raises(HarveysegError, match="unet-f1: not in MLflow"):
        tag_runs(tracker, [RunOutputs(make_record(fold=1), tmp_path)], {"study.softmax": "on"})


def test_how_far_the_trainings_of_a_pipeline_are(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARVEYSEG_PIPELINE", "another")
    other = make_record(fold=1)
    monkeypatch.setattr("time.time", lambda: START_MS / 1000 + 2.5)  # half a second after the second epoch
    with show_running(tracker, other):
        mirror(tracker, RunState(other, "RUNNING", make_history(1)))
        monkeypatch.setenv("HARVEYSEG_PIPELINE", "work 1234567")
        record = make_record(parameters={"train.epochs": 5})
        assert running_trainings(tracker, PIPELINE, "work 1234567") == {}
        with show_running(tracker, record):
            assert running_trainings(tracker, PIPELINE, "work 1234567") == {}  # no epoch has ended
            mirror(tracker, RunState(record, "RUNNING", make_history(2)))
            (progress,) = running_trainings(tracker, PIPELINE, "work 1234567").items()
            mirror(tracker, RunState(record, history=make_history(2)))
            assert running_trainings(tracker, PIPELINE, "work 1234567") == {}
        mirror(tracker, RunState(other))
    name, training = progress
    assert name == "unet-0"
    assert str(training) == "epoch 2/5, argmax score 0.6500, 7.5 images/s, 2.5 s left"
