"""`harveyseg cluster run` with a real Ray on this machine, and what it does without one."""

import importlib.util
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from helpers.processes import listening, processes_in
from helpers.project import stages_run
from helpers.ray_cluster import RayCluster
from helpers.toy_pipeline import TRAINING, Toy
from helpers.waiting import wait_until

with_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None or (os.cpu_count() or 1) < 2, reason="needs the extra ray and two cores"
)


# Says which processor a machine has; those with the flag avx512_bf16 compute with bfloat16.
PROCESSOR = """\
import builtins, io
opened = builtins.open
def other(path, *arguments, **options):
    if path == "/proc/cpuinfo":
        return io.StringIO("model name : NAME\\nflags : FLAGS\\n")
    return opened(path, *arguments, **options)
builtins.open = other
"""


@pytest.fixture
def nodes(clustered: Toy) -> Iterator[RayCluster]:
    cluster = RayCluster(clustered.environment)
    yield cluster
    cluster.stop()


@pytest.fixture
def clustered(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Toy:
    """The toy project, with a home of its own for Ray's token. It takes as many items at a time as there are cores."""
    toy.environment["HOME"] = str(tmp_path_factory.mktemp("home"))
    toy.environment.pop("RAY_ADDRESS", None)
    return toy


@pytest.mark.slow
def test_a_dry_run_says_what_would_run_and_starts_nothing(toy: Toy) -> None:
    a, b, machine, count = toy.cluster("--dry-run").splitlines()
    assert (a, b) == ("a: train@a, evaluate@a (1 core)", "b: train@b, evaluate@b (1 core)")
    assert machine.startswith("this machine: ")
    assert machine.endswith(f"; {len(os.sched_getaffinity(0))} at a time of 1 core")
    assert count.startswith("2 items.")
    assert toy.begun == []
    (toy.folder / "params.yaml").write_text("width: 2\n")
    assert "prepare must run before train@" in toy.cluster("--dry-run", code=1)


@pytest.mark.slow
def test_without_the_extra_it_says_how_to_install_it(toy: Toy, tmp_path: Path) -> None:
    (tmp_path / "ray.py").write_text("raise ImportError('not installed')\n")
    toy.environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    assert "Run `pip install 'harveyseg[ray]'`." in toy.cluster(code=1)
    assert toy.begun == []


@with_ray
@pytest.mark.slow
def test_the_matrix_is_trained_at_once_and_the_project_takes_it_over(clustered: Toy) -> None:
    clustered.let_trainings_end()
    printed = clustered.cluster()
    assert clustered.begun == ["a", "b"]
    assert "a: done in" in printed
    assert "b: done in" in printed
    assert stages_run(printed) == {"table"}  # what workers print goes to their logs
    # Trainings and what comes after them are one pipeline.
    [pipeline] = set((clustered.folder / "pipelines.txt").read_text().splitlines())
    assert (clustered.folder / "table-pipeline.txt").read_text().splitlines() == [pipeline]
    assert clustered.cluster("--dry-run").splitlines()[-1].startswith("0 items.")


@with_ray
@pytest.mark.slow
def test_after_a_failed_item_the_others_are_done_and_nothing_trains_in_the_project(clustered: Toy) -> None:
    clustered.let_trainings_end()
    (clustered.folder / "fails.txt").write_text("b")
    printed = clustered.cluster(code=1)
    assert "error: 1 of 2 items failed:" in printed
    log = clustered.folder / ".dvc" / "tmp" / "cluster" / "b.log"
    assert f"  b: exit status 1 ({socket.gethostname()}:{log})" in printed
    assert "train@b: failed to run: sh train.sh b, exited with 3" in log.read_text()
    assert clustered.begun == ["a", "b"]  # a wrong setting is not tried again
    (clustered.folder / "fails.txt").unlink()
    clustered.cluster()
    assert clustered.begun == ["a", "b", "b"]


def ray_processes(started: "subprocess.Popen[bytes]") -> list[psutil.Process]:
    return [
        process
        for process in psutil.Process(started.pid).children(recursive=True)
        if any("ray" in part for part in process.cmdline())
    ]


def begin(clustered: Toy, log: Path, *options: str) -> "subprocess.Popen[bytes]":
    """The command, when both trainings run; they wait until the test lets them end."""
    started = clustered.start(log, "cluster", "run", *options)
    wait_until(lambda: clustered.begun == ["a", "b"], started)
    return started


@with_ray
@pytest.mark.slow
@pytest.mark.long
def test_an_item_whose_process_was_killed_begins_again(clustered: Toy, tmp_path: Path) -> None:
    log = tmp_path / "log"
    started = begin(clustered, log)
    assert {address for process in ray_processes(started) for address in listening(process)} == {"127.0.0.1"}
    workers = [process for process in processes_in(clustered.folder) if "harveyseg.scaling.worker" in process.cmdline()]
    assert len(workers) >= 2
    os.kill(workers[0].pid, signal.SIGKILL)
    wait_until(lambda: len(clustered.begun) == 3, started)
    clustered.let_trainings_end()
    assert started.wait(600) == 0, log.read_text()
    assert stages_run(clustered.run("dvc", "repro")) == set()


@with_ray
@pytest.mark.slow
def test_ctrl_c_leaves_nothing_running(clustered: Toy, tmp_path: Path) -> None:
    log = tmp_path / "log"
    started = begin(clustered, log)
    # Where a worker has written its title over its environment, nothing can be read.
    reports = {process.environ().get("RAY_USAGE_STATS_ENABLED") for process in ray_processes(started)}
    assert reports - {None} == {"0"}
    started.send_signal(signal.SIGINT)
    assert started.wait(300) == 130, log.read_text()
    assert "The same command continues with what is missing." in log.read_text()
    assert processes_in(clustered.folder) == []
    clustered.let_trainings_end()
    clustered.cluster()
    assert stages_run(clustered.run("dvc", "repro")) == set()


@with_ray
@pytest.mark.slow
def test_each_item_sees_a_gpu_of_its_own_and_nobody_connects_without_the_token(
    clustered: Toy, nodes: RayCluster, tmp_path: Path
) -> None:
    nodes.add(cores=2, gpus=2)
    at = ("--address", nodes.address, "--gpus", "1")
    clustered.environment["RAY_AUTH_TOKEN"] = "0" * 64
    assert f"{nodes.address}: no Ray cluster answers" in clustered.cluster(*at, code=1)
    del clustered.environment["RAY_AUTH_TOKEN"]
    log = tmp_path / "log"
    started = begin(clustered, log, *at)
    assert sorted((clustered.folder / "gpus.txt").read_text().split()) == ["0", "1"]
    assert "Ray listens on all addresses of its machines (" in log.read_text()
    assert ") and asks for its token." in log.read_text()
    clustered.let_trainings_end()
    assert started.wait(300) == 0, log.read_text()


@with_ray
@pytest.mark.slow
def test_machines_that_would_compute_differently_are_refused_unless_told(
    clustered: Toy, nodes: RayCluster, tmp_path: Path
) -> None:
    for name, flags in (("First", "avx2"), ("Other", "avx2 avx512_bf16")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "sitecustomize.py").write_text(PROCESSOR.replace("NAME", name).replace("FLAGS", flags))
        nodes.add(python_path=tmp_path / name)
    settings = "width: 1\ntrain: {device: cpu, precision: auto, threads: 1}\n"
    (clustered.folder / "params.yaml").write_text(settings)
    at = ("--address", nodes.address)
    refused = clustered.cluster(*at, code=1)
    assert "train: device cpu, precision auto: " in refused
    assert "has cpu bf16" in refused
    assert clustered.begun == []
    printed = clustered.cluster(*at, "--dry-run", "--mixed-devices")
    assert "(Other); 1 at a time of 1 core (train on cpu in bf16)" in printed
    assert "different processors" in printed
    (clustered.folder / "params.yaml").write_text(settings.replace("auto", "fp32"))
    assert printed.count("at a time of 1 core") == clustered.cluster(*at, "--dry-run").count("(train on cpu in fp32)")


@with_ray
@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("with_its_trainings", [True, False])
def test_the_item_of_a_killed_node_is_done_by_another_one(
    clustered: Toy, nodes: RayCluster, tmp_path: Path, with_its_trainings: bool
) -> None:
    nodes.add()
    nodes.add()
    log = tmp_path / "log"
    started = begin(clustered, log, "--address", nodes.address)
    nodes.kill(1, with_its_trainings)
    clustered.let_trainings_end()
    assert started.wait(600) == 0, log.read_text()
    # A training that outlived its node is waited for.
    assert len(clustered.begun) == (3 if with_its_trainings else 2)
    expected = "".join(f"{model} {line}\n" for model in "ab" for line in ("settings", "width: 1"))
    assert (clustered.folder / "data" / "table.txt").read_text() == expected
    assert stages_run(clustered.run("dvc", "repro")) == set()
    assert len(set((clustered.folder / "pipelines.txt").read_text().splitlines())) == 1
    assert processes_in(clustered.folder) == []


@with_ray
@pytest.mark.slow
@pytest.mark.long
def test_machines_that_share_no_disk_work_over_a_remote(clustered: Toy, nodes: RayCluster, tmp_path: Path) -> None:
    assert "--pull needs a remote of DVC that all machines reach." in clustered.cluster("--pull", code=1)
    assert "--queue and --pull" in clustered.cluster("--pull", "--queue", code=1)
    store = tmp_path / "store"
    clustered.run("dvc", "remote", "add", "--local", "--default", "store", str(store))
    (clustered.folder / "train.sh").write_text(TRAINING.replace("sed ", 'touch "$HARVEYSEG_ROOT/edited.txt"; sed '))
    for name in ("first", "second"):  # each machine has a cache of its own
        nodes.add(cache_home=tmp_path / name)
    log = tmp_path / "log"
    started = clustered.start(log, "cluster", "run", "--pull", "--address", nodes.address)

    def begun() -> list[Path]:
        return list(tmp_path.glob("*/harveyseg/project-*/repository/begun.txt"))

    wait_until(lambda: len(begun()) == 2, started)
    assert sorted(path.read_text() for path in begun()) == ["a\n", "b\n"]
    for path in begun():
        path.with_name("go.txt").touch()
    assert started.wait(600) == 0, log.read_text()
    # The project has taken all over, and the remote has the runs of the items only.
    assert stages_run(log.read_text()) == {"table"}
    assert clustered.begun == []
    assert all(path.with_name("edited.txt").exists() for path in begun())
    expected = "".join(f"{model} {line}\n" for model in "ab" for line in ("settings", "width: 1"))
    assert (clustered.folder / "data" / "table.txt").read_text() == expected
    assert len(list(store.glob("**/runs/*/*/*"))) == 4
    assert not any(list((path.parent / ".dvc" / "tmp" / "work").glob("*/*")) for path in begun())
