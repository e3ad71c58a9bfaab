"""An MLflow that is away, fails, answers slowly, has no room or is locked, while a training runs."""

import json
import os
import re
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from breaking.trials import Outcome, Trial, judge
from breaking.workspace import EPOCHS, MODEL, Reference, untidy
from harveyseg.record import read_run
from helpers.http_server import QuietHandler, serve
from helpers.mlflow_server import Server
from helpers.small_disk import small_disk
from helpers.tracking import connect

SERVER_PART = "MLflow's server away, failing or slow"
FULL_PART = "MLflow's server with a full disk"
DATABASE_PART = "MLflow's database locked"
SLOW_SECONDS = 3.0
LOCKED_SECONDS = 60.0
WRITERS = 6
EPOCH = re.compile(r", epoch (\d+)/")
"""At the end of a line of progress."""
_WRITER = """
import sys, time
from pathlib import Path
from harveyseg.tracking.client import TrackingParams, open_tracker
from harveyseg.tracking.mirror import mirror, show_running
from harveyseg.tracking.outputs import RunState
from helpers.records import make_history, make_record
epochs = int(sys.argv[1])
tracker = open_tracker(TrackingParams(), Path.cwd())
print("ready", flush=True)
sys.stdin.readline()
started = time.monotonic()
record = make_record(uid=sys.argv[2])
with show_running(tracker, record) as run_id:
    for epoch in range(1, epochs + 1):
        time.sleep(0.2)
        mirror(tracker, RunState(record, "RUNNING", make_history(epochs)[:epoch]))
    mirror(tracker, RunState(record, history=make_history(epochs)))
print(time.monotonic() - started - 0.2 * epochs, flush=True)
"""
"""A training without the computing; prints how long MLflow kept it waiting."""


@dataclass
class Proxy:
    """What stands between a training and the server, and how it behaves from its n-th request on."""

    uri: str = ""
    after: int = 0
    delay: float = 0.0
    status: int = 0
    """What it answers; 0: what the server does."""
    requests: int = field(default=0)


@contextmanager
def proxy(server: Server) -> Iterator[Proxy]:
    """Pass requests to the server, or fail as the yielded :class:`Proxy` says."""
    state = Proxy()

    class Handler(QuietHandler):
        def _pass(self) -> None:
            state.requests += 1
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, answer = 200, b""
            if state.requests > state.after:
                time.sleep(state.delay)
                status = state.status or 200
            if status == 200:
                headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
                request = urllib.request.Request(
                    server.uri + self.path, data=body or None, headers=headers, method=self.command
                )
                try:
                    with urllib.request.urlopen(request, timeout=120) as answered:
                        status, answer = answered.status, answered.read()
                except urllib.error.HTTPError as error:
                    status, answer = error.code, error.read()
                except OSError:
                    status = 502
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _pass  # noqa: N815 - as the base class calls them

    with serve(Handler) as state.uri:
        yield state


class Trainings:
    """Trainings of one project that speak to a server."""

    def __init__(self, reference: Reference, folder: Path) -> None:
        self.reference = reference
        self.project = reference.copy(folder)
        (self.project.folder / "dvc.lock").unlink()  # DVC does not run these trainings
        self.usual = min(self.train(None)[1] for _ in range(2))
        """Seconds of a training without MLflow's server: tracked in the project's own database."""

    def train(self, uri: str | None, on_epoch: Callable[[int], None] = lambda _: None) -> tuple[str, float]:
        """Train from the start; what it printed, and its seconds."""
        self._forget()
        started = time.monotonic()
        with subprocess.Popen(
            ["stages/run", "train", "--model", "unet", "--fold", "0"], cwd=self.project.folder,
            env=self._environment(uri) | {"HARVEYSEG_PROGRESS_SECONDS": "0"}, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        ) as process:  # fmt: skip
            assert process.stdout is not None
            lines = []
            last = ""
            for line in process.stdout:
                lines.append(line)
                if (epoch := EPOCH.search(line)) and epoch[1] != last:
                    last = epoch[1]
                    on_epoch(int(last))
        printed = "".join(lines)
        return (
            printed if process.returncode == 0 else f"{printed}\nexit {process.returncode}",
            time.monotonic() - started,
        )

    def problems(self, printed: str, server: Server) -> list[str]:
        """What is wrong after a training that met a fault, and after ``harveyseg sync`` with the server back."""
        problems = untidy(printed)
        if "\nexit " in printed:
            problems.append(f"the training failed: {printed[-300:]}")
            return problems
        problems += self.reference.differences(self.project.folder, partial=True)
        synced = subprocess.run(
            ["harveyseg", "sync"], cwd=self.project.folder, env=self._environment(server.uri), stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, check=False, timeout=600,
        )  # fmt: skip
        if synced.returncode:
            return [*problems, f"sync: {synced.stdout[-400:]}"]
        record = read_run(self.project.folder / "data" / "models" / MODEL / "run.json")
        client = connect(server.uri)
        experiment = client.get_experiment_by_name("harveyseg")
        assert experiment is not None
        runs = client.search_runs([experiment.experiment_id], f"tags.`harveyseg.uid` = '{record.uid}'")
        if len({run.info.status for run in runs} | {"FINISHED"}) > 1:
            problems.append(f"runs of the training: {[run.info.status for run in runs]}")
        curves = [
            sorted(metric.step for metric in client.get_metric_history(run.info.run_id, "epoch/train_loss"))
            for run in runs
        ]
        if [steps for steps in curves if steps] != [list(range(1, EPOCHS + 1))]:
            problems.append(f"logged epochs: {curves}")
        return problems

    def _forget(self) -> None:
        """Delete what the last training wrote, and all that was made of it, which is no result of the next one."""
        folder = self.project.folder
        for name in ("run.json", "history.csv", "weights.safetensors"):
            (folder / "data" / "models" / MODEL / name).unlink(missing_ok=True)
        made = ("predictions", "ensemble", "postprocess", "metrics", "reports", "submission")
        subprocess.run(["rm", "-rf", *(f"data/{name}" for name in made), ".checkpoints"], cwd=folder, check=True)

    def _environment(self, uri: str | None) -> dict[str, str]:
        return self.project.environment | ({} if uri is None else {"MLFLOW_TRACKING_URI": uri})


def break_server(reference: Reference, work: Path) -> Iterator[Trial]:
    """Every fault of a server in turn."""
    trainings = Trainings(reference, work / "tracked")
    folder = work / "server"
    subprocess.run(["rm", "-rf", str(folder)], check=True)
    folder.mkdir()
    server = Server(folder)
    try:
        yield _trial(trainings, server, "server that is healthy (for comparison)", *trainings.train(server.uri))
        server.kill()
        printed, seconds = trainings.train(server.uri)
        server.start()
        yield _trial(trainings, server, "server down at the start, back later", printed, seconds)
        stopped: list[float] = []

        def kill(epoch: int) -> None:
            if epoch == EPOCHS // 2:
                started = time.monotonic()
                server.kill()
                stopped.append(time.monotonic() - started)

        printed, seconds = trainings.train(server.uri, kill)
        server.start()
        yield _trial(trainings, server, "server killed in the middle, back later", printed, seconds)

        def restart(epoch: int) -> None:
            if epoch == EPOCHS // 2:
                server.kill()
                threading.Thread(target=server.start).start()

        printed, seconds = trainings.train(server.uri, restart)
        time.sleep(20)
        yield _trial(trainings, server, "server killed in the middle, back at once", printed, seconds)
        for fault, settings in _ANSWERS.items():
            with proxy(server) as between:
                for name, value in settings.items():
                    setattr(between, name, value)
                printed, seconds = trainings.train(between.uri)
            yield _trial(trainings, server, fault, printed, seconds)
    finally:
        server.kill()


_ANSWERS: dict[str, dict[str, float]] = {
    "server that answers 500 from the start": {"status": 500},
    "server that answers 500 in the middle": {"status": 500, "after": 12},
    f"server that takes {SLOW_SECONDS:.0f} s for each answer": {"delay": SLOW_SECONDS},
    f"server that takes {SLOW_SECONDS:.0f} s for each answer in the middle": {"delay": SLOW_SECONDS, "after": 12},
    "server that never answers": {"delay": 100.0},
    "server that never answers in the middle": {"delay": 100.0, "after": 12},
}


def fill_servers_disk(reference: Reference, work: Path) -> Iterator[Trial]:
    """A server whose database and artifacts have no room."""
    trainings = Trainings(reference, work / "tracked")
    folder = work / "full"
    subprocess.run(["rm", "-rf", str(folder)], check=True)
    with small_disk(folder, "8m"):
        server = Server(folder)
        ballast = folder / "ballast"
        try:
            room = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
            ballast.write_bytes(bytes(max(0, room - 40_960)))
            printed, seconds = trainings.train(server.uri)
            ballast.unlink()
            yield _trial(trainings, server, "server with a full disk", printed, seconds, FULL_PART)
        finally:
            server.kill()


def lock_database(reference: Reference, work: Path) -> Iterator[Trial]:
    """Six processes write into one SQLite database, which is locked for a minute."""
    folder = work / "locked"
    for moment in ("before the first run", "in the middle"):
        subprocess.run(["rm", "-rf", str(folder)], check=True)
        folder.mkdir()
        yield from _lock(folder, moment)


def _lock(folder: Path, moment: str) -> Iterator[Trial]:
    epochs = 20
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(epochs), f"uid{number}"], cwd=folder, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for number in range(WRITERS)
    ]  # fmt: skip
    for writer in writers:
        assert writer.stdout is not None
        writer.stdout.readline()
    with closing(sqlite3.connect(folder / "mlflow.db", isolation_level=None, timeout=60)) as database:
        if moment == "in the middle":
            _go(writers)
            time.sleep(2)
        database.execute("BEGIN EXCLUSIVE")
        if moment != "in the middle":
            _go(writers)
        until = time.monotonic() + LOCKED_SECONDS
        printed = [writer.communicate(timeout=300) for writer in writers]
        time.sleep(max(0.0, until - time.monotonic()))
        database.execute("ROLLBACK")
    fault = f"SQLite locked for a minute {moment}, {WRITERS} writers"
    for number, (writer, (out, error)) in enumerate(zip(writers, printed, strict=True)):
        problems = untidy(error)
        if writer.returncode:
            problems.append(f"exit {writer.returncode}: {error[-300:]}")
            yield Trial(DATABASE_PART, fault, Outcome.LOST, problems[-1])
            continue
        problems += _sync(folder, number, epochs)
        slowed = float(out.split()[-1])
        yield Trial(DATABASE_PART, fault, *judge(problems), slowed=slowed)


def _go(writers: list[subprocess.Popen[str]]) -> None:
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()


_SYNC = """
import sys
from pathlib import Path
from harveyseg.tracking.client import TrackingParams, open_tracker
from harveyseg.tracking.mirror import mirror
from harveyseg.tracking.outputs import RunState
from helpers.records import make_history, make_record
tracker = open_tracker(TrackingParams(), Path.cwd(), required=True)
mirror(tracker, RunState(make_record(uid=sys.argv[2]), history=make_history(int(sys.argv[1]))))
"""


def _sync(folder: Path, number: int, epochs: int) -> list[str]:
    """Bring a writer's run up to date, and compare it with what was written."""
    subprocess.run(
        [sys.executable, "-c", _SYNC, str(epochs), f"uid{number}"], cwd=folder, check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    with closing(sqlite3.connect(folder / "mlflow.db")) as database:
        rows = database.execute(
            """select runs.status, group_concat(metrics.step) from runs
               join tags on tags.run_uuid = runs.run_uuid and tags.key = 'harveyseg.uid' and tags.value = ?
               left join metrics on metrics.run_uuid = runs.run_uuid and metrics.key = 'epoch/train_loss'
               group by runs.run_uuid""",
            (f"uid{number}",),
        ).fetchall()
    found = [(status, sorted(json.loads(f"[{steps or ''}]"))) for status, steps in rows]
    return [] if found == [("FINISHED", list(range(1, epochs + 1)))] else [f"run uid{number}: {found}"]


def _trial(
    trainings: Trainings, server: Server, fault: str, printed: str, seconds: float, part: str = SERVER_PART
) -> Trial:
    return Trial(part, fault, *judge(trainings.problems(printed, server)), slowed=max(0.0, seconds - trainings.usual))
