"""A checkout of this project in a git repository of its own, run as a user runs it."""

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


class Project:
    """A checkout of this project that is run as a user runs it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        bin_folder = Path(sys.executable).parent
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("DVC", "MLFLOW", "GIT"))},
            "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
            "VIRTUAL_ENV": sys.prefix,
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
        return set(re.findall(r"Running stage '(.+)':", self.run(*command)))

    def commit(self, message: str) -> None:
        self.run("git", "add", "-A")
        self.run("git", "commit", "-qm", message)

    def record(self, name: str) -> RunRecord:
        return read_run(self.folder / "data" / "models" / name / "run.json")

    def table(self) -> pd.DataFrame:
        return pd.read_csv(self.folder / "data" / "reports" / "comparison.csv")

    def runs(self, condition: str = "1") -> int:
        """How many training runs MLflow's database holds."""
        query = f"""select count(*) from runs join tags on tags.run_uuid = runs.run_uuid
                    where tags.key = 'harveyseg.kind' and tags.value = 'train' and {condition}"""
        with sqlite3.connect(self.folder / "mlflow.db") as database:
            return int(database.execute(query).fetchone()[0])


def _lay_over(target: dict[str, object], changes: dict[str, object]) -> None:
    for key, value in changes.items():
        inner = target.get(key)
        if isinstance(value, dict) and isinstance(inner, dict) and key != "models":
            _lay_over(inner, value)
        else:
            target[key] = value


def start_project(folder: Path, changes: dict[str, object]) -> Project:
    """A new git repository with this project's files as they are now, and these changes of params.yaml."""
    ignored = shutil.ignore_patterns("__pycache__", "tmp", "cache", "*.egg-info")
    for name in ("src", "stages", ".dvc"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    (folder / "data").mkdir()
    for name in ("dvc.yaml", "params.yaml", ".gitignore", ".dvcignore", "data/README.md"):
        shutil.copy(ROOT / name, folder / name)
    yaml = YAML()
    params = yaml.load(folder / "params.yaml")
    _lay_over(params, changes)
    yaml.dump(params, folder / "params.yaml")
    made = Project(folder)
    made.run("git", "init", "-q")
    made.commit("start")
    return made
