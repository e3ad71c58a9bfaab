"""What `harveyseg doctor` finds, on real repositories, folders, databases and processes."""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections import namedtuple
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harveyseg import doctor
from harveyseg.config.settings import load
from harveyseg.data.augmentation import Augmentation, AugmentationParams
from harveyseg.training.dataset import Samples, UnlabelledViews
from helpers.paths import ROOT
from helpers.ports import free_port

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def workspace(project: Path) -> Path:
    """A project that nothing is wrong with."""
    shutil.copy(ROOT / "params.yaml", project)
    for folder in (".dvc", "data"):
        (project / folder).mkdir()
    (project / ".dvc" / "config").touch()
    (project / "data" / "README.md").touch()
    subprocess.run(["git", "init", "-q", project], check=True)
    subprocess.run(["git", "-C", project, "add", "data"], check=True)
    return project


def with_data(workspace: Path, **values: Any) -> dict[str, Any]:
    params = load(workspace / "params.yaml")
    return params | {"data": params["data"] | values}


def with_train(workspace: Path, **values: Any) -> dict[str, Any]:
    params = load(workspace / "params.yaml")
    return params | {"train": params["train"] | values}


def test_a_sound_workspace_will_not_fail(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    for name in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        monkeypatch.delenv(name, raising=False)
    assert [finding for finding in doctor.examine(workspace) if finding.fails] == []
    assert not (workspace / "mlflow.db").exists()  # it only looks


def test_programs_of_another_environment(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = Path(sys.executable).parent
    assert doctor.check_programs(workspace, {"PATH": str(here)}) == []
    (no_dvc,) = doctor.check_programs(workspace, {"PATH": ""})  # by its path, it runs the stages with its own Python
    assert str(no_dvc) == f"note: `dvc` is not on the PATH. Activate the environment, or call {here / 'dvc'}."
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", str(tmp_path / "python"))
        assert doctor.check_programs(workspace, {"PATH": ""})[0].fails  # nor is it there
    other = tmp_path / "bin"
    other.mkdir()
    for name in ("dvc", "python"):
        (other / name).write_text("#!/bin/sh\nexit 1\n")  # as a Python without the packages answers
        (other / name).chmod(0o755)
    dvc, python = doctor.check_programs(workspace, {"PATH": str(other)})
    assert (dvc.fails, python.fails) == (False, True)
    assert python.text == f"stages run with {other / 'python'}, which lacks the project's packages"
    (other / "harveyseg").symlink_to(other / "dvc")
    (chosen,) = doctor.check_programs(workspace, {"PATH": str(here), "VIRTUAL_ENV": str(tmp_path)})
    assert chosen.text == python.text  # as stages/run chooses


def test_git(workspace: Path, tmp_path: Path) -> None:
    assert doctor.check_git(workspace) == []
    (workspace / "inner" / ".dvc").mkdir(parents=True)
    (workspace / "inner" / ".dvc" / "config").touch()
    (inner,) = doctor.check_git(workspace / "inner")
    assert not inner.fails
    assert str(workspace) in inner.text
    shutil.rmtree(workspace / ".git")
    (none,) = doctor.check_git(workspace)
    assert none.fails
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "status"], cwd=workspace, capture_output=True, text=True, check=False
    )
    assert "is not a git repository" in done.stderr  # DVC does refuse
    subprocess.run([sys.executable, "-m", "dvc", "config", "core.no_scm", "true"], cwd=workspace, check=True)
    assert "dvc config core.no_scm true" in none.remedy
    assert doctor.check_git(workspace) == []
    subprocess.run([sys.executable, "-m", "dvc", "status"], cwd=workspace, check=True)  # DVC does without it
    subprocess.run(["git", "init", "-q", workspace], check=True)
    (told,) = doctor.check_git(workspace)
    assert told.text == "DVC is told to do without git, and `dvc exp` needs it"
    shutil.rmtree(workspace / ".git")
    assert next(finding.remedy for finding in doctor.check_git(tmp_path)) == "Run `dvc init` there"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder to another user")
def test_a_repository_of_another_owner(workspace: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # no safe.directory of this machine's
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)
    for path in (workspace, workspace / ".git"):
        os.chown(path, 12345, 12345)
    (finding,) = doctor.check_git(workspace)
    command = finding.remedy.split("`")[1]
    subprocess.run(command, shell=True, check=True)
    assert doctor.check_git(workspace) == []


@pytest.mark.parametrize(
    ("path", "remedy"),
    [
        ("~/photos", "Write data.path: {home}/photos"),
        ("$HOME/photos", "Write data.path: {home}/photos"),
        ("photos ", "Write data.path: photos"),
        ("absent", "Bring it there"),
        ("empty", "Correct data.path"),
    ],
)
def test_data_path(workspace: Path, path: str, remedy: str) -> None:
    (workspace / "empty").mkdir()
    (finding,) = doctor.check_data_path(workspace, with_data(workspace, source="directory", path=path))
    assert finding.fails
    assert remedy.format(home=Path.home()) in finding.remedy


def test_photos_that_are_there(workspace: Path) -> None:
    photos = workspace / "photos" / "train_images"
    photos.mkdir(parents=True)
    (photos / "1.JPG").touch()
    (untracked,) = doctor.check_data_path(workspace, with_data(workspace, source="directory", path="photos"))
    assert not untracked.fails
    assert untracked.remedy.startswith("Run `dvc add photos")
    subprocess.run(["git", "-C", workspace, "add", "photos"], check=True)
    assert doctor.check_data_path(workspace, with_data(workspace, source="directory", path="photos")) == []
    assert doctor.check_data_path(workspace, load(workspace / "params.yaml")) == []


def test_an_absent_input(workspace: Path) -> None:
    (finding,) = doctor.check_data_path(workspace, with_data(workspace, inputs="../overlap_groups.csv"))
    assert finding.fails
    assert finding.text.startswith("data.inputs = '../overlap_groups.csv': not on this machine")


def test_leftovers(workspace: Path) -> None:
    assert doctor.check_leftovers(workspace) == []
    for name in ("models/unet-0", "models/gone-0", "predictions/unet-2", "cache/.train-x7"):
        (workspace / "data" / name).mkdir(parents=True)
    (workspace / ".checkpoints" / "a1").mkdir(parents=True)
    (workspace / ".checkpoints" / "a1" / "state.pt").write_bytes(bytes(3 * 2**20))
    copies = workspace / ".dvc" / "cache" / "files" / "md5" / "a1"
    copies.mkdir(parents=True)
    (copies / ".b2.x7.tmp").write_bytes(bytes(2 * 2**20))
    (copies / "b2").write_bytes(b"whole")
    hidden, models, predictions, unfinished, checkpoints = doctor.check_leftovers(workspace)
    assert "DVC left 1 unfinished copies in its cache, 2 MiB" in unfinished.text
    assert "data/models holds gone-0, which" in models.text
    assert "data/predictions holds unet-2, which" in predictions.text
    assert "take 3 MiB" in checkpoints.text
    for finding in (hidden, models, predictions, unfinished):
        assert not finding.fails
        subprocess.run(finding.remedy.split("`")[1], shell=True, check=True)
    assert doctor.check_leftovers(workspace) == [checkpoints]
    assert (workspace / "data" / "models" / "unet-0").exists()
    assert [path.name for path in copies.iterdir()] == ["b2"]


@pytest.mark.parametrize(("free", "expected"), [(100, [True]), (1000, [False]), (100_000, [])])
def test_disk(workspace: Path, monkeypatch: pytest.MonkeyPatch, free: int, expected: list[bool]) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, free * 2**20))
    assert [finding.fails for finding in doctor.check_disk(workspace)] == expected


def test_shared_memory(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """4 workers keep 2 batches of 8 crops of 512 each: 64 samples of 1 MiB, and as many pairs of views of 1.5 MiB."""
    unchanged = Augmentation(AugmentationParams(), seed=0)
    samples = Samples(np.zeros((1, 512, 512, 3), np.uint8), np.zeros((1, 512, 512), np.uint8), unchanged, None)
    assert sum(tensor.nbytes for tensor in samples[0, 0, 0]) == 2**20
    views = UnlabelledViews(np.zeros((1, 512, 512, 3), np.uint8), unchanged)
    assert sum(tensor.nbytes for tensor in views[0, 0, 0]) == 1.5 * 2**20
    settings = {"workers": 4, "batch_size": 8, "augmentation": {"crop": 512}}
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, 64 * 2**20))  # Docker's default
    assert doctor.check_shared_memory(with_train(workspace, **settings)) == []
    (finding,) = doctor.check_shared_memory(with_train(workspace, **settings, self_training={"weight": 1.0}))
    assert finding.fails
    assert "has 64 MiB, and the batches of 4 workers take 160 MiB" in finding.text
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, 63 * 2**20))
    (finding,) = doctor.check_shared_memory(with_train(workspace, **settings))
    assert "has 63 MiB, and the batches of 4 workers take 64 MiB" in finding.text
    assert doctor.check_shared_memory(with_train(workspace, workers=0, batch_size=8)) == []
    rectangular = with_train(workspace, workers=1, batch_size=1, augmentation={"crop": None})
    assert doctor.check_shared_memory(rectangular | {"resize-cache": {"size": [384, 512]}}) == []


@pytest.mark.parametrize(("native", "expected"), [("flags : avx2", 1), ("flags : avx2 amx_bf16", 0)])
def test_precision(workspace: Path, monkeypatch: pytest.MonkeyPatch, native: str, expected: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("harveyseg.device._read_cpuinfo", lambda key: native.partition(":")[2])
    for precision in ("auto", "bf16"):
        findings = doctor.check_precision(with_train(workspace, precision=precision))
        assert [finding.fails for finding in findings] == [False] * expected
    assert doctor.check_precision(with_train(workspace, precision="fp32")) == []
    assert [finding.fails for finding in doctor.check_precision(with_train(workspace, precision="tf32"))] == [True]
    (finding,) = doctor.check_precision(with_train(workspace, precision="auto", device="cuda"))
    assert str(finding) == (
        "fails: train.device = 'cuda': this machine has no usable CUDA device. Set it to auto or cpu."
    )


@pytest.mark.parametrize("half", ["", '{"half a fi'])
def test_locks(workspace: Path, half: str) -> None:
    index = workspace / ".git" / "index.lock"
    index.touch()
    assert doctor.check_locks(workspace) == []  # a git that runs now
    os.utime(index, (0, 0))
    (workspace / ".dvc" / "tmp").mkdir()
    (workspace / ".dvc" / "tmp" / "rwlock").write_text(half)
    findings = doctor.check_locks(workspace)
    assert [finding.fails for finding in findings] == [True, True]
    for finding in findings:
        subprocess.run(finding.remedy.split("`")[1], shell=True, check=True)
    assert doctor.check_locks(workspace) == []


def test_mlflow(workspace: Path, migrated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.check_mlflow(workspace) == []
    shutil.copy(migrated, workspace / "mlflow.db")
    assert doctor.check_mlflow(workspace) == []
    with closing(sqlite3.connect(workspace / "mlflow.db")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
    (newer,) = doctor.check_mlflow(workspace)
    assert "revision ffffffffffff" in newer.text
    assert newer.remedy == "Use the newer MLflow: `pip install --upgrade mlflow`"
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ann:secret@127.0.0.1:{free_port()}")
    (away,) = doctor.check_mlflow(workspace)
    assert away.fails
    assert "Connection refused" in away.text
    assert "secret" not in str(away)
    assert away.remedy.startswith("Start that server")


def test_the_machine_and_the_programs_are_described(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:secret@127.0.0.1:5000")
    programs, server, machine, disk = doctor.describe(workspace)
    git = subprocess.run(["git", "--version"], capture_output=True, text=True, check=True).stdout.split()[2]
    dvc = subprocess.run([sys.executable, "-m", "dvc", "--version"], capture_output=True, text=True, check=True).stdout
    assert f"git {git}, DVC {dvc.strip()}, MLflow " in programs
    assert "127.0.0.1:5000" in server
    assert "secret" not in server
    cores = subprocess.run(["nproc"], capture_output=True, text=True, check=True).stdout.strip()
    total = int(Path("/proc/meminfo").read_text().split()[1]) / 2**20
    assert f"{cores} cores, {total:.1f} GiB of memory" in machine
    assert f"free at {workspace}" in disk


def test_memory(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = workspace / "data" / "cache" / "train"
    cache.mkdir(parents=True)
    (cache / "images.npy").write_bytes(b"")
    os.truncate(cache / "images.npy", 5 * 2**30)  # a sparse file
    monkeypatch.setattr(doctor, "free_memory", lambda: 6 * 2**30)
    assert doctor.check_memory(workspace) == []
    monkeypatch.setattr(doctor, "free_memory", lambda: 4 * 2**30)
    (finding,) = doctor.check_memory(workspace)
    assert str(finding).startswith("slow: data/cache has 5,120 MiB and 4,096 MiB of memory are free, so each epoch")
    monkeypatch.setattr(doctor, "free_memory", lambda: 2**30)
    (finding,) = doctor.check_memory(workspace)
    assert str(finding).startswith("note: 1,024 MiB of memory are free")


@pytest.mark.parametrize(("limit", "free"), [(str(3 * 2**20), 2 * 2**20), ("max", None), (None, None)])
def test_the_memory_of_a_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str | None, free: int | None
) -> None:
    if limit is not None:
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        (tmp_path / "memory.current").write_text(f"{2**20}\n")
    monkeypatch.setattr(doctor, "_CGROUP", tmp_path)
    assert doctor.free_memory() == free or (free is None and doctor.free_memory() > 64 * 2**20)


def test_pixels_of_all_trainings() -> None:
    params: dict[str, Any] = {
        "resize-cache": {"size": [64, 96]},
        "split": {"folds": 3},
        "folds": [0, 2],
        "train": {"epochs": 5, "augmentation": {"crop": None}, "sampling": {"crops_per_photo": 1}},
        "models": {
            "whole": {"network": "unet"},
            "cropped": {
                "network": "unet",
                "train": {"epochs": 7, "augmentation": {"crop": 32}, "sampling": {"crops_per_photo": 4}},
            },
        },
    }
    # Two trainings each, on 12 of 18 photos: 5 epochs of whole photos, and 7 epochs of four crops.
    assert doctor.training_pixels(params, 18) == pytest.approx(2 * 12 * (5 * 64 * 96 + 7 * 4 * 32 * 32))


def test_what_will_be_slow(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(doctor, "_cores", lambda: 2)
    assert doctor.check_speed(workspace, load(workspace / "params.yaml")) == []  # the demo's settings
    for threads, expected in ((1, True), (2, False), (3, True)):
        findings = doctor.check_speed(workspace, with_train(workspace, threads=threads))
        assert [str(finding)[:24] for finding in findings] == [f"slow: train.threads = {threads} "[:24]] * expected
    large = load(workspace / "params.yaml") | {"resize-cache": {"size": 1024}}
    (finding,) = doctor.check_speed(workspace, large)
    assert finding.slow
    assert "go through 64 times as many pixels as the demo's" in finding.text  # 8 x 8 times the pixels of a photo
    assert doctor.check_speed(workspace, large | {"data": {"source": "kaggle"}}) == []  # nobody knows how many photos
    assert doctor.check_speed(workspace, large | {"models": None}) == []  # the stage `code` says what is wrong
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert doctor.check_speed(workspace, large) == []
