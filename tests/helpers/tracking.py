"""MLflow's view of the tests' runs, read with clients of their own, and processes that track."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from mlflow.entities import Run as MlflowRun
from mlflow.tracking import MlflowClient

from harveyseg.tracking.client import Tracker
from helpers.paths import ROOT


def connect(uri: str) -> MlflowClient:
    return MlflowClient(tracking_uri=uri)


def remedies_of_other_versions(database: Path) -> dict[str, str]:
    """By the revision of an older and of a newer MLflow's tables, what the user is told to do."""
    return {
        "f5a4f2784254": f"`cp '{database}' '{database}.backup'`, then `mlflow db upgrade 'sqlite:///{database}'`",
        "ffffffffffff": "Use the newer MLflow: `pip install --upgrade mlflow`",
    }


def set_revision(database: Path, revision: str) -> None:
    """Make MLflow's database look like that of another version."""
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))


def all_mlflow_runs(tracker: Tracker, experiment: str = "harveyseg") -> list[MlflowRun]:
    client = connect(tracker.uri)
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    return list(client.search_runs([found.experiment_id]))


def logged_steps(tracker: Tracker, run_id: str | None, name: str = "epoch/train_loss") -> list[int]:
    assert run_id is not None
    return [metric.step for metric in connect(tracker.uri).get_metric_history(run_id, name)]


def artifact_names(tracker: Tracker, run_id: str) -> list[str]:
    client = connect(tracker.uri)
    folders = [item.path for item in client.list_artifacts(run_id)]
    return [item.path for folder in folders for item in client.list_artifacts(run_id, folder)]


def start_script(code: str, project: Path, *arguments: str) -> subprocess.Popen[str]:
    """Another process that runs ``code`` in the project's folder."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT / 'tests'}"}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(
        command, cwd=project, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
