"""A tiny project, the bytes that an undisturbed run of it ends in, and what differs from them."""

import hashlib
import itertools
import json
import re
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Collection, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from harveyseg.files import digest, sha256
from harveyseg.record import read_run
from helpers.paths import ROOT
from helpers.project import FEW_PHOTOS, TINY, Project, start_project

MODEL = "unet-0"
TRAIN = f"train@{MODEL}"
EPOCHS = 12
SETTINGS: dict[str, object] = {
    **TINY,
    "data": FEW_PHOTOS,
    "train": {"epochs": EPOCHS, "batch_size": 4, "threads": 1},
}
RUNNING = re.compile(r"Running stage '(.+)':")
_IDS_AND_TIMES = (
    (re.compile(rb'"run_id": null'), b'"run_id": <id>'),  # MLflow was away when the run began
    (re.compile(rb'"[0-9a-f]{32}"'), b"<id>"),
    (re.compile(rb'"[0-9a-f]{16}(-[0-9a-f]{16})?"'), b"<evaluation>"),
    (re.compile(rb'"(started_ms|ended_ms|seconds|images_per_second)": [\d.e+-]+'), rb'"\1": <time>'),
)
_TIME_COLUMNS = ["time_ms", "images_per_second", "seconds"]
_NOT_RESULTS = {"data/README.md", "data/reports/costs.csv"}
"""Files that no stage writes, or that hold nothing but times and ids."""


@dataclass(frozen=True)
class Reference:
    """A project before and after an undisturbed run."""

    before: Project
    finished: Project
    seconds: dict[str, float]
    """How long each stage takes, by its name."""
    digests: dict[str, str]
    """Of the results, times and ids aside."""

    @staticmethod
    def make(folder: Path) -> "Reference":
        """Run the pipeline in a folder, unless that has been done there with this code."""
        before, finished = (Project(folder / name, preloaded=False) for name in ("before", "finished"))
        description = folder / f"{_code_digest()}.json"
        if not description.exists():
            shutil.rmtree(folder, ignore_errors=True)
            start_project(before.folder, SETTINGS, preloaded=False)
            shutil.copytree(before.folder, finished.folder, symlinks=True)
            seconds = _time_stages(finished)
            description.write_text(json.dumps({"seconds": seconds, "digests": digests(finished.folder)}))
        return Reference(before, finished, **json.loads(description.read_text()))

    def start(self, folder: Path) -> Project:
        """A copy of the project that has not run."""
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.before.folder, folder, symlinks=True)
        return Project(folder, preloaded=False)

    def copy(self, folder: Path) -> Project:
        """A copy of the finished project."""
        shutil.rmtree(folder, ignore_errors=True)
        return Project(self.finished.copy(folder).folder, preloaded=False)

    def differences(self, folder: Path, *, partial: bool = False) -> list[str]:
        """What differs from an undisturbed run, times and ids aside; a ``partial`` workspace may lack files."""
        found = digests(folder)
        changed = [name for name in found if name in self.digests and found[name] != self.digests[name]]
        problems = [
            f"{name} differs{_first_difference(self.finished.folder / name, folder / name)}" for name in changed
        ]
        problems += [f"{name} is no result" for name in found if name not in self.digests]
        return problems if partial else problems + [f"{name} is missing" for name in self.digests if name not in found]


def digests(folder: Path) -> dict[str, str]:
    """The digest of each result in ``data``, times and ids aside. What a killed writer left has a hidden name."""
    return {name: _digest(path) for name, path in _results(folder)}


def leftovers(folder: Path) -> list[str]:
    """Temporary files that are still among the results."""
    return [f"{path.relative_to(folder)} was left" for path in (folder / "data").rglob(".*")]


def tracking_problems(project: Project, earlier: Collection[str] = ()) -> list[str]:
    """What is wrong with MLflow's runs: each training must have one, finished, with each epoch once.

    Args:
        project: the project.
        earlier: the uids of runs that it had before.
    """
    record = project.record(MODEL)
    ensemble = read_run(project.folder / "data" / "ensemble" / "run.json")
    trainings = [run for run in _runs(project, "train") if run[0] not in earlier]
    problems = []
    if trainings != [(record.uid, "FINISHED")]:
        problems.append(f"runs of the training {record.uid}: {trainings}")
    if _runs(project, "ensemble").count((ensemble.uid, "FINISHED")) != 1:
        problems.append(f"runs of the ensemble {ensemble.uid}: {_runs(project, 'ensemble')}")
    if project.query("select count(*) from runs where status = 'RUNNING'"):
        problems.append("a run is RUNNING for ever")
    query = """select step from metrics join tags on tags.run_uuid = metrics.run_uuid and tags.value = ?
               where metrics.key = 'epoch/train_loss' order by step"""
    with closing(sqlite3.connect(project.folder / "mlflow.db")) as database:
        steps = [step for (step,) in database.execute(query, (record.uid,))]
    if steps != list(range(1, round(record.results["epochs"]) + 1)):
        problems.append(f"logged epochs: {steps}")
    return problems


def untidy(printed: str) -> list[str]:
    """What a user should not see: a traceback, or an end without any word of error."""
    if "Traceback (most recent call last)" in printed:
        last = [line for line in printed.splitlines() if line.strip()][-1]
        return [f"traceback: ... {last}"]
    return []


def repair_dvc(project: Project) -> list[str]:
    """Remove DVC's list of locks where DVC was stopped while it wrote it, if ``harveyseg doctor`` says so."""
    listed = project.folder / ".dvc" / "tmp" / "rwlock"
    try:
        json.loads(listed.read_text())
    except FileNotFoundError:
        return []
    except ValueError:
        said = subprocess.run(
            ["harveyseg", "doctor"], cwd=project.folder, env=project.environment, stdout=subprocess.PIPE, text=True,
            check=False,
        ).stdout  # fmt: skip
        listed.unlink()
        return [] if f"`rm {listed}`" in said else [f"harveyseg doctor does not see that {listed} is damaged"]
    return []


def _runs(project: Project, kind: str) -> list[tuple[str, str]]:
    query = """select uids.value, runs.status from runs
               join tags as uids on uids.run_uuid = runs.run_uuid and uids.key = 'harveyseg.uid'
               join tags as kinds on kinds.run_uuid = runs.run_uuid and kinds.key = 'harveyseg.kind'
               where kinds.value = ?"""
    with closing(sqlite3.connect(project.folder / "mlflow.db")) as database:
        return [(str(uid), str(status)) for uid, status in database.execute(query, (kind,))]


def _results(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted((folder / "data").rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and str(name) not in _NOT_RESULTS and not any(part.startswith(".") for part in name.parts):
            yield str(name), path


def _digest(path: Path) -> str:
    return hashlib.sha256(_content(path)).hexdigest()


def _content(path: Path) -> bytes:
    """What a file holds, times and ids aside."""
    content = path.read_bytes()
    if path.name == "history.csv" and content.endswith(b"\n"):
        content = pd.read_csv(path, dtype=str).drop(columns=_TIME_COLUMNS, errors="ignore").to_csv().encode()
    if path.suffix == ".json":
        for pattern, name in _IDS_AND_TIMES:
            content = pattern.sub(name, content)
        if path.parent.name == "ensemble":  # its stage key is made of the members' ids
            content = re.sub(rb'"stage_key": "\w+"', b'"stage_key": <id>', content)
    return content


def _first_difference(right: Path, found: Path) -> str:
    """The first line of a text that differs."""
    if right.suffix not in (".json", ".csv", ".md", ".txt"):
        return ""
    lines = itertools.zip_longest(_content(right).splitlines(), _content(found).splitlines(), fillvalue=b"")
    one, other = next(((one, other) for one, other in lines if one != other), (b"", b""))
    return f": {one.decode(errors='replace')[:100]} became {other.decode(errors='replace')[:100]}"


def _code_digest() -> str:
    """Of all that a new project is made of."""
    files = [ROOT / "dvc.yaml", ROOT / "params.yaml"]
    files += [path for folder in ("src", "stages") for path in (ROOT / folder).rglob("*") if path.suffix != ".pyc"]
    return digest({str(path.relative_to(ROOT)): sha256(path) for path in files if path.is_file()})[:16]


def _time_stages(project: Project) -> dict[str, float]:
    seconds: dict[str, float] = {}
    stage = ""
    started = time.monotonic()
    with subprocess.Popen(
        ["dvc", "repro"], cwd=project.folder, env=project.environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if match := RUNNING.match(line):
                seconds[stage] = time.monotonic() - started
                stage, started = match[1], time.monotonic()
    if process.returncode:
        raise SystemExit(f"the undisturbed run ended with {process.returncode}")
    return {**seconds, stage: time.monotonic() - started}
