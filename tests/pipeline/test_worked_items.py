"""`harveyseg work` on the real pipeline: the results of a serial run, also where DVC and the command were killed."""

import re
import shutil
import subprocess
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from helpers.processes import processes_in
from helpers.project import Project
from helpers.waiting import wait_until
from same_results import Comparison

pytestmark = pytest.mark.slow


def start(project: Project, log: Path, *items: str) -> subprocess.Popen[bytes]:
    with log.open("w") as opened:
        return subprocess.Popen(
            [str(project.programs / "harveyseg"), "work", *items],
            cwd=project.folder,
            env=project.environment | {"HARVEYSEG_PROGRESS_SECONDS": "0"},
            stdout=opened,
            stderr=opened,
        )


def test_a_training_that_outlived_dvc_is_waited_for_and_ends_in_the_bytes_of_a_serial_run(
    prepared: Project, tmp_path: Path
) -> None:
    serial = prepared.copy(tmp_path / "serial")
    serial.run("dvc", "repro")
    # Real programs: signals and deaths are what this is about.
    project = Project(shutil.copytree(prepared.folder, tmp_path / "worked", symlinks=True), preloaded=False)
    first, second = tmp_path / "1.log", tmp_path / "2.log"
    killed = start(project, first, "train@unet-0", "evaluate@unet-0")
    try:
        locks = project.folder / ".locks"
        wait_until(lambda: list(locks.glob("training-*.lock")), killed)
        # The command and the process that runs DVC die; the training, which a shell runs, stays.
        [worker] = psutil.Process(killed.pid).children()
        killed.kill()
        worker.kill()
        killed.wait()
        again = start(project, second, "evaluate@unet-0", "train@unet-0")
        assert again.wait(600) == 0, first.read_text() + second.read_text()
    finally:
        for process in processes_in(project.folder):
            process.kill()
    epochs = re.findall(r"epoch 1/1", first.read_text() + second.read_text())
    assert len(epochs) == 1, first.read_text() + second.read_text()
    assert project.runs() == project.runs("status = 'FINISHED'") == 1
    assert Project(project.folder).stages("dvc", "repro").isdisjoint({"train@unet-0", "evaluate@unet-0"})
    compared = Comparison(serial.folder, project.folder)
    assert compared.differences == []
    weights, table = "data/models/unet-0/weights.safetensors", "data/reports/comparison.csv"
    assert compared.equal > {weights, table, "data/predictions/unet-0/test.npy", "data/submission/submission.csv"}
    assert not list((project.folder / ".checkpoints").iterdir())
