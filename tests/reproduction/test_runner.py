"""Running studies: a real queue that is really killed."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
from mlflow.tracking import MlflowClient

from harveyseg.errors import HarveysegError
from harveyseg.reproduction.runner import KEPT_PARAMS, _Queue, restore_params
from harveyseg.reproduction.studies import find_study, read_recipe, study_trials
from helpers.project import Project, start_project


def test_params_yaml_outlives_a_kill_while_it_is_changed(params: Path) -> None:
    text = params.read_text()
    kept = params.parent / KEPT_PARAMS
    kept.parent.mkdir()
    kept.write_text(text)
    params.write_text("")  # as DVC leaves it when it is killed
    assert restore_params(params)
    assert params.read_text() == text
    assert not kept.exists()
    assert not restore_params(params)


@pytest.mark.slow
def test_what_dvc_had_staged_when_it_was_killed_does_not_hinder_the_next_study(tmp_path: Path) -> None:
    project = start_project(tmp_path / "harveyseg", CHANGES)
    params, kept = project.folder / "params.yaml", project.folder / KEPT_PARAMS
    text = params.read_text()
    kept.parent.mkdir(exist_ok=True)
    kept.write_text(text)
    # What DVC stages between its two stashes: its options on params.yaml, and its arguments, which git ignores.
    params.write_text(text.replace("softmax_before_loss: false", "softmax_before_loss: true"))
    arguments = project.folder / ".dvc" / "tmp" / "repro.dat"
    arguments.parent.mkdir(exist_ok=True)
    arguments.write_bytes(b"")
    project.run("git", "add", "--force", "params.yaml", str(arguments))
    assert set(project.run("git", "diff", "--cached", "--name-only").split()) == {"params.yaml", ".dvc/tmp/repro.dat"}
    (project.folder / "stages" / "train.py").open("a").write("# an edit of the user's\n")
    edited = project.run("git", "diff", "--", "stages")

    assert restore_params(params)
    recipe, queue = read_recipe(params), _Queue(project.folder)
    locked = project.folder / ".git" / "index.lock"
    locked.touch()
    with pytest.raises(HarveysegError, match=r"index\.lock: git's index is locked"), queue.kept_params(recipe):
        pass
    locked.unlink()
    for trial in study_trials(find_study("softmax"), recipe, 1):
        with queue.kept_params(recipe):
            queue.put(trial)
    assert study_states(project) == ["Queued", "Queued"]
    assert params.read_text() == text
    assert project.run("git", "diff", "--cached", "--name-only") == ""
    assert project.run("git", "diff", "--", "stages") == edited != ""


CHANGES: dict[str, object] = {
    "data": {"demo": {"train": 8, "test": 2, "seed": 0, "width": 96}},
    "resize-cache": {"size": 64},
    "split": {"folds": 2, "groups": "none"},
    "models": {
        "unet": {"network": "unet", "width": 4, "dropout": 0.1, "batch_norm": "encoder"},
        "attention_unet": {"network": "attention_unet", "width": 4},
    },
    "train": {"epochs": 2, "batch_size": 4, "lr": 0.01, "schedule": {"name": "plateau"}, "threads": 1},
    "inference": {"threads": 1},
    "postprocess": {"method": "argmax"},
}


def kill_all_in(folder: Path) -> None:
    """SIGKILL to every process that works in a folder: the command, DVC's worker, the experiment, its stage."""
    for process in psutil.process_iter():
        try:
            inside = Path(process.cwd()).is_relative_to(folder)
        except (psutil.Error, OSError):
            continue
        if inside:
            process.kill()


@pytest.mark.slow
def test_a_study_that_is_killed_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    project = start_project(tmp_path / "harveyseg", CHANGES)
    script = str(Path(sys.executable).with_name("harveyseg"))
    # The environment is not active: its commands are not on the path.
    path = project.environment["PATH"].removeprefix(f"{Path(sys.executable).parent}{os.pathsep}")
    environment = {**project.environment, "PYTHONPATH": str(project.folder / "src"), "PATH": path}
    log, command = tmp_path / "log", [script, "study", "softmax", "adaptive_lr"]
    text = (project.folder / "params.yaml").read_text()

    def start() -> subprocess.Popen[bytes]:
        with log.open("w") as opened:
            return subprocess.Popen(command, cwd=project.folder, env=environment, stdout=opened, stderr=opened)

    # First while it queues, when DVC has changed params.yaml.
    started, deadline = start(), time.monotonic() + 200
    while (project.folder / "params.yaml").read_text() == text:
        assert started.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)
    kill_all_in(project.folder)
    assert started.wait() == -signal.SIGKILL
    assert (project.folder / "params.yaml").read_text() != text

    # What holds git's index when it is killed leaves it locked, which only the user can know to be stale.
    locked = project.folder / ".git" / "index.lock"
    locked.touch()
    refused = project.run(*command, ok=False, PATH=path, PYTHONPATH=environment["PYTHONPATH"])
    assert "params.yaml: set back to the text" in refused
    assert f"{locked}: git's index is locked" in refused
    assert (project.folder / "params.yaml").read_text() == text
    locked.unlink()

    # Then while it trains.
    started, deadline = start(), time.monotonic() + 500
    while len(re.findall(r": runs \(", log.read_text())) < 2:
        assert started.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.5)
    kill_all_in(project.folder)
    assert started.wait() == -signal.SIGKILL
    assert (project.folder / "params.yaml").read_text() == text
    # Three trials: the text itself is in both studies. One is done, one was killed, one had not begun.
    assert "softmax, adaptive_lr: 3 trials, 0 done before" in log.read_text()
    assert study_states(project) == ["Queued", "Running", "Success"]

    printed = project.run(script, *command[1:], PYTHONPATH=environment["PYTHONPATH"])
    assert "softmax, adaptive_lr: 3 trials, 1 done before" in printed
    assert project.runs() == 3 + project.runs("status != 'FINISHED'")
    client = MlflowClient(tracking_uri=f"sqlite:///{project.folder / 'mlflow.db'}")
    found = client.search_runs(["1"], "tags.`harveyseg.kind` = 'train' AND attributes.status = 'FINISHED'")
    tagged = sorted(
        (run.data.tags.get("study.softmax", ""), run.data.tags.get("study.adaptive_lr", "")) for run in found
    )
    # The text learns with a plateau and one softmax: one run is a variant of both studies.
    assert tagged == [("", "off"), ("off", "on"), ("on", "")]
    table = (project.folder / "data" / "reports" / "study-softmax.md").read_text()
    assert re.findall(r"^\| (on|off) \| 1 \| 0\.\d{4}", table, re.MULTILINE) == ["off", "on"]

    # The data's class shares came along with the ensembles.
    ensembles = client.search_runs(["1"], "tags.`harveyseg.kind` = 'ensemble'")
    assert len(ensembles) == 3
    for run in ensembles:
        shares = [value for name, value in run.data.metrics.items() if name.startswith("data/pixel_share/")]
        assert sum(shares) == pytest.approx(1)

    # Done is done.
    again = project.run(script, *command[1:], PYTHONPATH=environment["PYTHONPATH"])
    assert "3 trials, 3 done before" in again
    # After a commit that changes no code, DVC restores the trial from its run cache: its run stays the one that it was.
    runs = project.runs()
    project.run("git", "commit", "-q", "--allow-empty", "-m", "later")
    restored = project.run(script, "study", "adaptive_lr", PYTHONPATH=environment["PYTHONPATH"])
    assert "adaptive_lr: 2 trials, 0 done before" in restored
    assert project.runs() == runs
    # The table comes from MLflow alone.
    os.remove(project.folder / "data" / "reports" / "study-softmax.md")
    project.run(script, "table", "--study", "softmax", PYTHONPATH=environment["PYTHONPATH"])
    assert (project.folder / "data" / "reports" / "study-softmax.md").read_text() == table


def study_states(project: Project) -> list[str]:
    """The states of the queue's tasks, sorted."""
    return sorted(re.findall(r"study-\w+ .*(Queued|Running|Failed|Success)", project.run("dvc", "queue", "status")))
