"""What a cluster of two Ray nodes makes of a matrix of 2 models and 3 folds, beside the same trainings in a row.

    PYTHONPATH=src:tests .venv/bin/python benchmarks/cluster.py PART... [--work FOLDER] [--again]

Parts, each of which runs by itself and is kept, so that a call that was stopped goes on where it was:

    speed           one-thread trainings of at least two minutes: `dvc repro`, then `harveyseg cluster run`
    overheads       seconds of start, item and restored stage, on short trainings, as those below
    worker-killed   SIGKILL to the process that runs DVC for one item
    ray-killed      SIGKILL to Ray on one node, whose training runs on
    node-killed     SIGKILL to everything on one node
    interrupted     Ctrl-C to the command, which is then given again
    remote          two clones with caches of their own work for the project over a remote
    remote-nodes    the same by `harveyseg cluster run --pull`
    report          all that is known so far, as Markdown

Every part but `overheads` ends in a comparison with a serial run by benchmarks/same_results.py, and looks for items
that were trained twice, runs that MLflow calls running, and processes. `speed` needs two idle cores. Both nodes are on
this machine, with one core each. As root on Linux they are in a network namespace with nothing but 127.0.0.1.
"""

import argparse
import json
import os
import platform
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from harveyseg.progress import format_duration
from harveyseg.project import library_versions
from harveyseg.record import read_run
from harveyseg.scaling.copies import interrupted_by_signals
from helpers.processes import processes_in
from helpers.project import Project, stages_run, start_project
from helpers.waiting import wait_until
from same_results import Comparison

MODELS, FOLDS = ("unet", "attention_unet"), (0, 1, 2)
ITEMS = [f"{model}-{fold}" for model in MODELS for fold in FOLDS]
_INSIDE = "HARVEYSEG_BENCHMARK_NAMESPACE"
_ADDRESS = "127.0.0.1"
_PORT = 6379
_MINUTES = 90
"""After which a command is given up."""


@dataclass(frozen=True)
class Size:
    """How much a training computes."""

    name: str
    pixels: int
    width: int
    epochs: int


SHORT = Size("short", pixels=64, width=4, epochs=40)
LONG = Size("long", pixels=128, width=16, epochs=80)


class Bench:
    """The projects of one size of trainings.

    Args:
        work: where they are.
        size: of their trainings.
    """

    def __init__(self, work: Path, size: Size) -> None:
        self.folder = work / size.name
        self.size = size

    def base(self) -> Project:
        """A project whose stages before the trainings have run, with a cache next to it."""
        project = Project(self.folder / "base" / "project", preloaded=False)
        if not (self.folder / "base" / "made").exists():
            shutil.rmtree(self.folder / "base", ignore_errors=True)
            size = self.size
            threads = {"threads": 1, "device": "cpu", "precision": "fp32"}
            changes: dict[str, object] = {
                "data": {"score_size": 8 * size.pixels},
                "resize-cache": {"size": size.pixels},
                "models": {model: {"network": model, "width": size.width} for model in MODELS},
                "folds": list(FOLDS),
                "train": {"epochs": size.epochs, **threads},
                "inference": threads,
            }
            start_project(project.folder, changes, preloaded=False)
            project.run("dvc", "cache", "dir", "--local", "../cache")
            project.run("dvc", "repro", "split")
            project.commit("split")
            (self.folder / "base" / "made").touch()
        return project

    def copy(self, name: str) -> Project:
        """The same with a cache of its own, as if nothing had been trained."""
        self.base()
        shutil.rmtree(self.folder / name, ignore_errors=True)
        shutil.copytree(self.folder / "base", self.folder / name, symlinks=True)
        return Project(self.folder / name / "project", preloaded=False)

    def serial(self) -> Project:
        """The project that `dvc repro` alone has finished."""
        kept = self.folder / "serial.json"
        if not kept.exists():
            seconds = run(self.copy("serial"), "dvc", "repro")
            kept.write_text(json.dumps({"seconds": seconds}))
        return Project(self.folder / "serial" / "project", preloaded=False)

    @property
    def serial_seconds(self) -> float:
        """How long that took."""
        return float(json.loads((self.folder / "serial.json").read_text())["seconds"])


def run(project: Project, *command: str, **environment: str) -> float:
    """Run a command to its end, and return how many seconds it took; what it prints goes to ``<name>.log``."""
    log = project.folder.parent / f"{command[0]}-{command[1]}.log"
    began = time.monotonic()
    with log.open("a") as opened:
        done = subprocess.run(
            command,
            cwd=project.folder,
            env=project.environment | environment,
            stdout=opened,
            stderr=opened,
            check=False,
            timeout=_MINUTES * 60,
        )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} in {project.folder}: exit status {done.returncode}, see {log}")
    return time.monotonic() - began


class Cluster:
    """Two Ray nodes with one core each, for one project."""

    def __init__(self, project: Project, apart: bool = False) -> None:
        self.project = project
        self.apart = apart
        """Whether the nodes share no folder with the project, and none with each other."""
        self.nodes: list[subprocess.Popen[bytes]] = []
        self.seconds: list[float] = []
        """Until each node was there."""
        self.environment = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(16),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",
            "RAY_ADDRESS": f"{_ADDRESS}:{_PORT}",
            "HARVEYSEG_PROGRESS_SECONDS": "0",
        }
        self.temporary = tempfile.mkdtemp(prefix="ray-")  # Ray's sockets allow no long paths

    def start(self) -> None:
        """Start both nodes, one after the other."""
        address = ["--node-ip-address", _ADDRESS]
        head = ["--head", "--port", str(_PORT), "--include-dashboard=false", "--temp-dir", self.temporary, *address]
        for place in (head, ["--address", f"{_ADDRESS}:{_PORT}", *address]):
            began = time.monotonic()
            home = self.project.folder.parent / f"node-{len(self.nodes)}"
            of_its_own = {"XDG_CACHE_HOME": str(home)} if self.apart else {}
            with (self.project.folder.parent / "ray.log").open("a") as log:
                node = subprocess.Popen(
                    ["ray", "start", *place, "--num-cpus", "1", "--block"],
                    cwd=self.temporary,
                    env={
                        name: value
                        for name, value in (self.project.environment | self.environment | of_its_own).items()
                        if name != "RAY_ADDRESS" or "--head" not in place
                    },
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            self.nodes.append(node)
            wait_until(lambda: self._alive() == len(self.nodes), node, seconds=120)
            self.seconds.append(time.monotonic() - began)

    def _alive(self) -> int:
        """How many nodes the cluster has."""
        program = (
            f"import ray; ray.init('{_ADDRESS}:{_PORT}', logging_level='ERROR', log_to_driver=False);"
            "print(sum(node['Alive'] for node in ray.nodes()))"
        )
        asked = subprocess.run(
            [sys.executable, "-c", program],
            env=self.project.environment | self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        return int(asked.stdout or 0) if asked.returncode == 0 else 0

    def processes(self, node: int) -> list[psutil.Process]:
        """All that runs on a node, its trainings too."""
        return list(psutil.Process(self.nodes[node].pid).children(recursive=True))

    def stop(self) -> None:
        """End what is left of both nodes."""
        processes = []
        for node in self.nodes:
            with suppress(psutil.Error):
                processes += [psutil.Process(node.pid), *psutil.Process(node.pid).children(recursive=True)]
        for process in processes:
            with suppress(psutil.Error):
                process.kill()
        for node in self.nodes:
            node.wait()
        shutil.rmtree(self.temporary, ignore_errors=True)


@contextmanager
def cluster(project: Project, apart: bool = False) -> Iterator[Cluster]:
    """Two nodes in this ``with`` block, and no process of the project after it."""
    nodes = Cluster(project, apart)
    try:
        nodes.start()
        yield nodes
    finally:
        nodes.stop()
        for process in processes_in(project.folder.parent):
            process.kill()


def begin(project: Project, nodes: Cluster) -> "subprocess.Popen[bytes]":
    """Give `harveyseg cluster run`, and wait until two items have ended their second epoch."""
    started = _give(project, nodes)
    wait_until(lambda: len(_running(project)) == 2, started, seconds=600)
    return started


def _give(project: Project, nodes: Cluster) -> "subprocess.Popen[bytes]":
    with (project.folder.parent / "cluster.log").open("a") as log:
        return subprocess.Popen(
            ["harveyseg", "cluster", "run"],
            cwd=project.folder,
            env=project.environment | nodes.environment,
            stdout=log,
            stderr=log,
        )


def _running(project: Project) -> list[str]:
    """The items that train, and have ended two epochs."""
    logs = project.folder.glob(".dvc/tmp/cluster/*.log")
    return [log.stem for log in logs if "epoch 2/" in (text := log.read_text()) and "exit status" not in text]


def finish(project: Project, started: "subprocess.Popen[bytes]") -> None:
    """Wait for the command's end, and stop where it failed."""
    if started.wait(_MINUTES * 60):
        raise SystemExit(f"exit status {started.returncode}, see {project.folder.parent / 'cluster.log'}")


def check(project: Project, serial: Project) -> dict[str, Any]:
    """Compare with the serial run, and look for traces; raises where a result differs."""
    left = [" ".join(process.cmdline()[:4]) for process in processes_in(project.folder)]
    compared = Comparison(serial.folder, project.folder)
    entries = [path.read_text() for path in project.folder.parent.glob("cache/runs/*/*/*")]
    doubled = """select count(*) from (select 1 from metrics where key = 'epoch/train_loss'
                 group by run_uuid, step having count(*) > 1)"""
    found = {
        "files with the same bytes": len(compared.equal),
        "files that differ in ids and times only": len(compared.equal_but_ids),
        "differences": compared.differences,
        "training runs": project.runs(),
        "training runs that are finished": project.runs("status = 'FINISHED'"),
        "runs that are running": project.query("select count(*) from runs where status = 'RUNNING'"),
        "results of trainings in the cache": sum("cmd: stages/run train " in entry for entry in entries),
        "epochs logged twice": project.query(doubled),
        "checkpoints left": len(list((project.folder / ".checkpoints").glob("*"))),
        "processes left": left,
    }
    expected = {
        "differences": [],
        "training runs": 6,
        "training runs that are finished": 6,
        "runs that are running": 0,
        "epochs logged twice": 0,
    }
    expected |= {"results of trainings in the cache": 6, "checkpoints left": 0, "processes left": []}
    found["as expected"] = all(found[name] == value for name, value in expected.items())
    return found


def speed(work: Path) -> dict[str, Any]:
    """The same matrix by `dvc repro` and by a cluster."""
    bench = Bench(work, LONG)
    serial = bench.serial()
    project = bench.copy("speed")
    with cluster(project) as nodes:
        seconds = run(project, "harveyseg", "cluster", "run", **nodes.environment)
        found = check(project, serial)
    matrix, clustered_matrix = (_matrix_seconds(made) for made in (serial, project))
    times = [serial.record(item).results["seconds"] for item in ITEMS]
    clustered = [project.record(item).results["seconds"] for item in ITEMS]
    return {
        "serial seconds": bench.serial_seconds,
        "cluster seconds": seconds,
        "speed-up": bench.serial_seconds / seconds,
        "serial seconds, first training to ensemble": matrix,
        "cluster seconds, first training to ensemble": clustered_matrix,
        "speed-up, first training to ensemble": matrix / clustered_matrix,
        "shortest training, serial": min(times),
        "longest training, serial": max(times),
        "mean training, cluster": sum(clustered) / len(clustered),
        "mean training, serial": sum(times) / len(times),
        **found,
    }


def _matrix_seconds(project: Project) -> float:
    """From the begin of the first training until all are evaluated, and taken over."""
    ensemble = read_run(project.folder / "data" / "ensemble" / "run.json")
    return (ensemble.started_ms - min(project.record(item).started_ms for item in ITEMS)) / 1000


def overheads(work: Path) -> dict[str, Any]:
    """Seconds of what comes on top of the trainings."""
    bench = Bench(work, SHORT)
    serial = bench.serial()
    project = bench.copy("overheads")
    shutil.rmtree(project.folder.parent / "cache")
    shutil.copytree(serial.folder.parent / "cache", project.folder.parent / "cache")
    restored = 2 * len(ITEMS)
    with cluster(project) as nodes:
        began = time.monotonic()
        started = _give(project, nodes)
        logs = project.folder / ".dvc" / "tmp" / "cluster"
        wait_until(lambda: list(logs.glob("*.log")), started)
        start = time.monotonic() - began
        finish(project, started)
        all_known = time.monotonic() - began
    again = bench.copy("overheads-restored")
    shutil.rmtree(again.folder.parent / "cache")
    shutil.copytree(serial.folder.parent / "cache", again.folder.parent / "cache")
    item = run(again, "harveyseg", "work", f"train@{ITEMS[0]}", f"evaluate@{ITEMS[0]}")
    first = run(again, "dvc", "repro", "evaluate")
    nothing = run(again, "dvc", "repro", "evaluate")
    return {
        "first node": nodes.seconds[0],
        "second node": nodes.seconds[1],
        "from the command to the first item": start,
        "one item whose results are in the cache (`harveyseg work`)": item,
        "six such items on two nodes, then `dvc repro`": all_known,
        f"`dvc repro` that restores {restored} stages": first,
        "`dvc repro` that has nothing to do": nothing,
        "each restored stage": (first - nothing) / restored,
    }


def disturbed(
    name: str, disturb: Callable[[Project, Cluster, "subprocess.Popen[bytes]"], str]
) -> Callable[[Path], dict[str, Any]]:
    """A part that disturbs a run on the cluster and compares what it ends in."""

    def part(work: Path) -> dict[str, Any]:
        bench = Bench(work, SHORT)
        serial = bench.serial()
        project = bench.copy(name)
        with cluster(project) as nodes:
            started = begin(project, nodes)
            done = disturb(project, nodes, started)
            if started.poll() is None or started.returncode == 0:
                finish(project, started)
            return {"what happened": done, **check(project, serial)}

    return part


def _kill_worker(project: Project, nodes: Cluster, started: "subprocess.Popen[bytes]") -> str:
    workers = [process for process in processes_in(project.folder.parent) if _is_worker(process)]
    workers[0].kill()
    return f"SIGKILL to one of {len(workers)} processes that run DVC for an item"


def _is_worker(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return "harveyseg.scaling.worker" in process.cmdline()
    return False


def _kill_ray(project: Project, nodes: Cluster, started: "subprocess.Popen[bytes]") -> str:
    [raylet] = [process for process in nodes.processes(1) if process.name() == "raylet"]
    raylet.kill()
    return "SIGKILL to the raylet of the second node; its training went on"


def _kill_node(project: Project, nodes: Cluster, started: "subprocess.Popen[bytes]") -> str:
    processes = [*nodes.processes(1), psutil.Process(nodes.nodes[1].pid)]
    for process in processes:
        with suppress(psutil.Error):
            process.kill()
    return f"SIGKILL to all {len(processes)} processes of the second node"


def _interrupt(project: Project, nodes: Cluster, started: "subprocess.Popen[bytes]") -> str:
    started.send_signal(signal.SIGINT)
    status = started.wait(600)
    left = processes_in(project.folder)
    finish(project, _give(project, nodes))
    return f"Ctrl-C: exit status {status}, {len(left)} processes left; then the same command"


def _trained(log: Path) -> int:
    """How many trainings `dvc repro` ran itself."""
    return len(stages_run(log.read_text()) & {f"train@{item}" for item in ITEMS})


def remote(work: Path) -> dict[str, Any]:
    """Two clones, each with a cache of its own, work for the project over a remote."""
    bench = Bench(work, SHORT)
    serial = bench.serial()
    project = bench.copy("remote")
    folder = project.folder.parent
    # Of this clone only, as the comparison is with projects that have no remote.
    project.run("dvc", "remote", "add", "--local", "--default", "store", str(folder / "store"))
    project.run("dvc", "push")
    machines = []
    for number in range(2):
        clone = Project(folder / f"machine-{number}", preloaded=False)
        project.run("git", "clone", "-q", ".", str(clone.folder))
        clone.run("dvc", "remote", "add", "--local", "--default", "store", str(folder / "store"))
        items = [f"{stage}@{item}" for item in ITEMS[number::2] for stage in ("train", "evaluate")]
        with (folder / f"machine-{number}.log").open("a") as log:
            machines.append(
                subprocess.Popen(
                    ["harveyseg", "work", "--pull", *items],
                    cwd=clone.folder,
                    env=clone.environment,
                    stdout=log,
                    stderr=log,
                )
            )
    try:
        statuses = [machine.wait(_MINUTES * 60) for machine in machines]
    finally:
        for machine in machines:
            machine.terminate()  # ends its training, too
    if any(statuses):
        raise SystemExit(f"a machine failed, see {folder}/machine-*.log")
    run(project, "dvc", "repro", "--pull")
    repeated = _trained(folder / "dvc-repro.log")
    return {"what happened": f"{repeated} trainings by `dvc repro --pull`", **check(project, serial)}


def remote_nodes(work: Path) -> dict[str, Any]:
    """Two Ray nodes, each with a cache of its own, work for the project over a remote."""
    bench = Bench(work, SHORT)
    serial = bench.serial()
    project = bench.copy("remote-nodes")
    folder = project.folder.parent
    project.run("dvc", "remote", "add", "--local", "--default", "store", str(folder / "store"))
    with cluster(project, apart=True) as nodes:
        run(project, "harveyseg", "cluster", "run", "--pull", **nodes.environment)
        repeated = _trained(folder / "harveyseg-cluster.log")
        worked = [str(len(list(folder.glob(f"node-{node}/harveyseg/*/*/.dvc/tmp/cluster/*")))) for node in range(2)]
        done = f"{' and '.join(worked)} items on the nodes, {repeated} trainings by `dvc repro --pull`"
        return {"what happened": done, **check(project, serial)}


PARTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "speed": speed,
    "overheads": overheads,
    "worker-killed": disturbed("worker-killed", _kill_worker),
    "ray-killed": disturbed("ray-killed", _kill_ray),
    "node-killed": disturbed("node-killed", _kill_node),
    "interrupted": disturbed("interrupted", _interrupt),
    "remote": remote,
    "remote-nodes": remote_nodes,
}


def report(work: Path) -> str:
    """All results as Markdown."""
    results = {name: json.loads(path.read_text()) for name in PARTS if (path := work / f"{name}.json").exists()}
    versions = ", ".join(f"{name} {version}" for name, version in library_versions().items())
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    lines = [f"{date.today()}, {os.cpu_count()} cores ({model[1] if model else platform.machine()}); {versions}", ""]
    for name, result in results.items():
        lines += [f"## {name}", "", f"Two nodes {result.pop('nodes')}.", "", "| | |", "|:---|---:|"]
        lines += [f"| {key} | {_shown(value)} |" for key, value in result.items()]
        lines.append("")
    return "\n".join(lines)


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, list):
        return "; ".join(value) or "none"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def enter_namespace(arguments: Sequence[str]) -> str:
    """Start this program again in a network namespace of its own; says where it is where that is done or impossible."""
    if os.environ.get(_INSIDE):
        return "in a network namespace"
    inside = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    tried = subprocess.run([*inside, "true"], check=False) if shutil.which("unshare") else None
    if tried is None or tried.returncode:
        return "without a network namespace"
    os.environ[_INSIDE] = "1"
    os.execvp(inside[0], [*inside, sys.executable, __file__, *arguments])


def main() -> None:
    """Run the parts of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=[*PARTS, "report"], metavar="PART")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "harveyseg-cluster")
    parser.add_argument("--again", action="store_true", help="also what is known")
    arguments = parser.parse_args()
    where = enter_namespace(sys.argv[1:])
    work = arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    for part in arguments.parts:
        kept = work / f"{part}.json"
        if part == "report":
            print(report(work))
        elif arguments.again or not kept.exists():
            began = time.monotonic()
            with interrupted_by_signals():  # also then, no node of Ray is left
                result = {"nodes": where, **PARTS[part](work)}
            kept.write_text(json.dumps(result, indent=2))
            print(f"{part}: {format_duration(time.monotonic() - began)}; {json.dumps(result)}", flush=True)


if __name__ == "__main__":
    main()
