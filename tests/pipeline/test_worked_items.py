"""`harveyseg work` on the real pipeline: the results of a serial run, also where DVC and the command were killed."""

import re
import shutil
import subprocess
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
from ruamel.yaml import YAML

from helpers.processes import processes_in
from helpers.project import Project
from helpers.waiting import wait_until

pytestmark = pytest.mark.slow

OF_A_RUN = ("run.json", "metrics.json", "history.csv", "learning_curve.png")
"""Files that hold ids or seconds, or are drawn from such."""


def recorded(project: Project, stage: str) -> dict[str, str]:
    """The MD5 of each output in ``dvc.lock`` that holds no ids and no times."""
    lock = YAML(typ="safe", pure=True).load(project.folder / "dvc.lock")
    outs = {out["path"]: out["md5"] for out in lock["stages"][stage]["outs"]}
    return {path: md5 for path, md5 in outs.items() if Path(path).name not in OF_A_RUN}


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
    serial.run("dvc", "repro", "evaluate")
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
    assert project.stages("dvc", "repro", "evaluate@unet-0") == set()
    for stage in ("train@unet-0", "evaluate@unet-0"):
        assert recorded(project, stage) == recorded(serial, stage)
    assert not list((project.folder / ".checkpoints").iterdir())
