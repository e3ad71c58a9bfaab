"""A checkout of this project in a git repository of its own, run as a user runs it, and small settings for it."""

import os
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pandas as pd
from ruamel.yaml import YAML

from harveyseg.record import RunRecord, read_run
from helpers.paths import ROOT
from helpers.preloaded import preloaded_environment

FEW_PHOTOS: dict[str, object] = {"demo": {"train": 8, "test": 2, "seed": 0, "width": 96}}
"""Section ``data``: the fewest drawn photos that two folds and a test part need."""

SMALL: dict[str, object] = {
    "data": {"demo": {"train": 10, "test": 3, "seed": 0, "width": 96}},
    "resize-cache": {"size": 64},
    "split": {"folds": 2, "groups": "none"},
    "models": {
        "unet": {"network": "unet", "width": 4},
        "attention_unet": {"network": "attention_unet", "width": 4},
    },
    "train": {"epochs": 2, "batch_size": 4, "lr": 0.01, "threads": 1},
    "inference": {"threads": 1},
}
"""Two models that train in seconds."""

TINY: dict[str, object] = {
    "resize-cache": {"size": 64},
    "split": {"folds": 2, "groups": "none"},
    "models": {"unet": {"network": "unet", "width": 4}},
    "train": {"epochs": 1, "batch_size": 4, "threads": 1},
    "postprocess": {"method": "argmax"},
    "inference": {"threads": 1},
}
"""One model and the shortest way to a submission; the data is up to the test."""


OWN = ("DVC", "MLFLOW", "GIT", "PYTHONDONTWRITEBYTECODE")
"""Beginnings of variables that a project's programs do not inherit; without the last, Python compiles a file once."""


class Project:
    """A checkout of this project that is run as a user runs it.

    Args:
        folder: of the checkout.
        preloaded: whether its programs find the libraries imported (:mod:`helpers.preloaded`).
    """

    def __init__(self, folder: Path, preloaded: bool = True) -> None:
        self.folder = folder
        real = Path(sys.executable).parent
        active = preloaded_environment() if preloaded else real.parent
        self.programs = active / "bin"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(OWN)},
            "PATH": os.pathsep.join([str(self.programs), str(real), os.environ["PATH"]]),
            "VIRTUAL_ENV": str(active),
            "PYTHONPATH": str(folder / "src"),  # the checkout's own code, wherever the package is installed from
            "DVC_NO_ANALYTICS": "true",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "passive",
            "GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@example.org",
            "GIT_COMMITTER_NAME": "t", "GIT_COMMITTER_EMAIL": "t@example.org",
        }  # fmt: skip

    def run(self, *command: str, ok: bool = True, **environment: str) -> str:
        """Run a command and return what it printed."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=600,
        )
        assert (done.returncode == 0) == ok, done.stdout
        return done.stdout

    def stages(self, *command: str) -> set[str]:
        """Run a DVC command; the names of the stages that really ran (not skipped, not from the run cache)."""
        return stages_run(self.run(*command))

    def commit(self, message: str) -> None:
        self.run("git", "add", "-A")
        self.run("git", "commit", "-qm", message)

    def use_photos(self, path: str) -> Path:
        """Make copies of the photos in ``data/raw`` the user's own, at a path to which ``data.path`` leads."""
        photos = Path(os.path.normpath(self.folder / path))
        photos.parent.mkdir(exist_ok=True)
        shutil.copytree(self.folder / "data" / "raw", photos, ignore=shutil.ignore_patterns("*.csv", "*.json"))
        params = self.folder / "params.yaml"
        changed = params.read_text().replace("source: demo", "source: directory")
        params.write_text(re.sub(r"^  path: .*$", f"  path: {path}", changed, flags=re.MULTILINE))
        return photos

    def record(self, name: str) -> RunRecord:
        return read_run(self.folder / "data" / "models" / name / "run.json")

    def table(self) -> pd.DataFrame:
        return pd.read_csv(self.folder / "data" / "reports" / "comparison.csv")

    def runs(self, condition: str = "1") -> int:
        """How many training runs MLflow's database holds."""
        query = f"""select count(*) from runs join tags on tags.run_uuid = runs.run_uuid
                    where tags.key = 'harveyseg.kind' and tags.value = 'train' and {condition}"""
        return self.query(query)

    def query(self, query: str) -> int:
        """The one number that a query of MLflow's database gives."""
        with sqlite3.connect(self.folder / "mlflow.db") as database:
            return int(database.execute(query).fetchone()[0])

    def copy(self, folder: Path) -> "Project":
        """The same checkout elsewhere, with all results and MLflow's runs, if there are any."""
        shutil.copytree(self.folder, folder, symlinks=True)
        if not (folder / "mlflow.db").exists():
            return Project(folder)
        with sqlite3.connect(folder / "mlflow.db") as database:
            for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
                database.execute(
                    f"update {table} set {column} = replace({column}, ?, ?)", (str(self.folder), str(folder))
                )
        return Project(folder)


def stages_run(printed: str) -> set[str]:
    """The stages that ran, from what DVC printed."""
    return set(re.findall(r"Running stage '(.+)':", printed))


def lay_over(target: dict[str, object], changes: dict[str, object]) -> None:
    """Merge changes into settings, section by section; ``models`` are replaced."""
    for key, value in changes.items():
        inner = target.get(key)
        if isinstance(value, dict) and isinstance(inner, dict) and key != "models":
            lay_over(inner, value)
        else:
            target[key] = value


def start_project(folder: Path, changes: dict[str, object], preloaded: bool = True) -> Project:
    """A new git repository with this project's files as they are now, and these changes of params.yaml."""
    ignored = shutil.ignore_patterns("__pycache__", "tmp", "cache", "*.egg-info")
    for name in ("src", "stages", ".dvc"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    (folder / "data").mkdir()
    for name in ("dvc.yaml", "params.yaml", ".gitignore", ".dvcignore", "data/README.md"):
        shutil.copy(ROOT / name, folder / name)
    yaml = YAML()
    params = yaml.load(folder / "params.yaml")
    lay_over(params, changes)
    yaml.dump(params, folder / "params.yaml")
    project = Project(folder, preloaded)
    project.run("git", "init", "-q")
    project.commit("start")
    return project
