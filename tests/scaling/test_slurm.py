"""The Slurm scripts of the documentation, in a real Slurm with two nodes on this machine."""

import getpass
import importlib.util
import os
import re
from collections.abc import Iterator

import psutil  # type: ignore[import-untyped]
import pytest

from helpers.paths import ROOT
from helpers.processes import processes_in
from helpers.project import stages_run
from helpers.slurm import NODES, Slurm, missing_programs
from helpers.toy_pipeline import Toy
from helpers.waiting import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing_programs()), reason="needs Slurm and munge (Debian: slurm-wlm, munge)"),
]

DOCUMENT = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", DOCUMENT, re.DOTALL)
SCRIPT, RAY_SCRIPT = (block for block in BLOCKS if "#SBATCH" in block)
[SUBMIT] = [block for block in BLOCKS if "sbatch --parsable" in block]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    slurm = Slurm(tmp_path_factory.mktemp("slurm"))
    try:
        slurm.start()
        yield slurm
    finally:
        slurm.stop()


@pytest.fixture
def project(toy: Toy, slurm: Slurm) -> Toy:
    toy.environment |= slurm.environment
    (toy.folder / "work.sh").write_text(SCRIPT)
    return toy


def states(slurm: Slurm) -> list[str]:
    """Of the jobs that wait or run: state and node."""
    return sorted(slurm.ask("squeue", "-h", "-r", "-o", "%t %N"))


def ray_of_jobs() -> list[str]:
    """The command lines of Ray's processes that a job has started."""
    lines = (" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"]))
    return [line for line in lines if re.search(r"/tmp/ray-\d+/", line)]


def logs(project: Toy) -> str:
    return "\n".join(path.read_text() for path in sorted(project.folder.glob("slurm-*.out")))


def test_an_array_trains_each_item_on_a_node_and_the_project_takes_all_over(project: Toy, slurm: Slurm) -> None:
    project.run("sh", "-c", SUBMIT.replace("dvc repro split", "dvc repro prepare").replace("0-9%4", "0-1"))
    wait_until(lambda: project.begun == ["a", "b"])
    running = states(slurm)
    assert [state for state in running if state.startswith("R")] == [f"R {node}" for node in NODES]
    assert len(running) == 3  # and `dvc repro`, which waits for both
    project.let_trainings_end()
    wait_until(lambda: not states(slurm))
    assert (project.folder / "data" / "table.txt").exists(), logs(project)
    assert project.begun == ["a", "b"]
    [last] = [path.read_text() for path in project.folder.glob("slurm-*.out") if "_" not in path.name]
    assert stages_run(last) == {"table"}
    assert "up to date" in project.run("dvc", "status")


def test_a_cancelled_job_leaves_nothing_running_and_the_next_one_does_its_item(project: Toy, slurm: Slurm) -> None:
    project.run("sbatch", "--array=0", "work.sh")
    wait_until(lambda: project.begun == ["a"])
    slurm.ask("scancel", "--user", getpass.getuser())
    wait_until(lambda: not states(slurm))
    assert processes_in(project.folder) == []
    assert not list((project.folder / ".dvc" / "tmp" / "work").glob("*/*"))
    project.let_trainings_end()
    project.run("sbatch", "--array=0-1", "--wait", "work.sh")
    assert project.begun == ["a", "a", "b"], logs(project)
    assert stages_run(project.run("dvc", "repro")) == {"table"}


def test_an_item_that_fails_keeps_the_project_from_training_it(project: Toy, slurm: Slurm) -> None:
    project.let_trainings_end()
    (project.folder / "fails.txt").write_text("b")
    project.run("sh", "-c", SUBMIT.replace("dvc repro split", "dvc repro prepare").replace("0-9%4", "0-1"))
    wait_until(lambda: len(states(slurm)) == 1)
    wait_until(lambda: slurm.ask("squeue", "-h", "-o", "%r") in (["DependencyNeverSatisfied"], []))
    assert "train@b: failed to run: sh train.sh b, exited with 3" in logs(project)
    assert project.begun == ["a", "b"]
    assert not (project.folder / "data" / "table.txt").exists()
    slurm.ask("scancel", "--user", getpass.getuser())


def submit_ray(project: Toy) -> None:
    (project.folder / "ray.sh").write_text(RAY_SCRIPT)
    project.run("sbatch", "ray.sh")


def require_finished(project: Toy, slurm: Slurm, trainings: int) -> None:
    """When the job has ended, all items are done, with so many trainings, and the project has taken them over."""
    wait_until(lambda: not states(slurm))
    assert (project.folder / "data" / "table.txt").exists(), logs(project)
    assert len(project.begun) == trainings
    assert "up to date" in project.run("dvc", "status")


with_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra `ray`")


@with_ray
@pytest.mark.long
def test_ray_in_a_job_of_two_nodes_trains_all_items_and_ends_with_the_job(project: Toy, slurm: Slurm) -> None:
    project.run("dvc", "repro", "prepare")
    submit_ray(project)
    wait_until(lambda: sorted(project.begun) == ["a", "b"])
    assert states(slurm) == [f"R {','.join(NODES)}"]
    project.let_trainings_end()
    require_finished(project, slurm, trainings=2)
    assert processes_in(project.folder) == []


@with_ray
@pytest.mark.long
def test_a_cancelled_job_with_ray_leaves_nothing_running_and_the_next_one_goes_on(project: Toy, slurm: Slurm) -> None:
    project.run("dvc", "repro", "prepare")
    submit_ray(project)
    wait_until(lambda: len(project.begun) == 2)
    slurm.ask("scancel", "--user", getpass.getuser())
    wait_until(lambda: not states(slurm))
    # Ray's idle workers end themselves when their node has ended.
    wait_until(lambda: processes_in(project.folder) == [] and ray_of_jobs() == [], seconds=60)
    project.let_trainings_end()
    submit_ray(project)
    require_finished(project, slurm, trainings=4)


@with_ray
@pytest.mark.long
def test_a_job_whose_ray_does_not_start_ends(project: Toy, slurm: Slurm) -> None:
    taken = project.folder / "bin"
    taken.mkdir()
    (taken / "ray").write_text("#!/bin/sh\necho ray does not start >&2\nexit 3\n")
    (taken / "ray").chmod(0o755)
    project.environment["PATH"] = f"{taken}{os.pathsep}{project.environment['PATH']}"
    submit_ray(project)
    wait_until(lambda: not states(slurm), seconds=120)
    assert "ray does not start" in logs(project)
    assert project.begun == []
