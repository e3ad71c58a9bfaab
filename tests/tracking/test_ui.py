"""The command `harveyseg ui`: its server, its addresses, and what a browser shows at them without a click."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harveyseg.tracking.client import TrackingParams, open_tracker
from harveyseg.tracking.mirror import mirror_all
from harveyseg.tracking.outputs import RunOutputs
from helpers.browser import find_chromium, open_page
from helpers.commands import run_command
from helpers.mlflow_server import Server
from helpers.paths import ROOT
from helpers.ports import free_port
from helpers.records import SCORES, make_record, write_outputs
from helpers.tracking import remedies_of_other_versions, set_revision
from helpers.waiting import answers, wait_until

MODELS = ("unet", "attention_unet", "mobilenet_v2")
CHART = ".js-plotly-plot"


def write_workspace(folder: Path) -> list[RunOutputs]:
    """The results of three models and of their ensemble."""
    outputs = []
    for number, model in enumerate((*MODELS, "ensemble")):
        kind = "ensemble" if model == "ensemble" else "train"
        record = make_record(model, None if kind == "ensemble" else 0, kind=kind)
        scores = {"val/score": 0.7123 + number / 100, "test/score": 0.65, "val/dice/05_grass": 0.5}
        outputs.append(write_outputs(folder / "data", record, {**SCORES, **scores, "evaluation": f"e{number}"}))
    return outputs


def environment(**changes: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW", "DISPLAY", "WAYLAND"))}
    return {**kept, "PYTHONPATH": str(ROOT / "src"), **changes}


@contextmanager
def serving_ui(project: Path, *options: str, **variables: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command, until it ends; what it printed up to its last line."""
    command = [sys.executable, "-c", "from harveyseg.cli import app; app()", "ui", *options]
    with subprocess.Popen(
        command, cwd=project, env=environment(**variables), stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            lines = []
            for line in process.stdout:
                lines.append(line)
                if line.startswith("Ctrl-C"):
                    break
            yield process, "".join(lines)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Path:
    project = tmp_path_factory.mktemp("workspace")
    shutil.copy(ROOT / "params.yaml", project)
    shutil.copy(migrated, project)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        tracker = open_tracker(TrackingParams(), project, required=True)
        mirror_all(tracker, [output.state() for output in write_workspace(project)])
    return project


@pytest.mark.slow
def test_the_browser_shows_scores_and_charts_without_a_click(workspace: Path) -> None:
    """In a real browser that was never there before: every model's score, and at least four charts with data."""
    if find_chromium() is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    opened = workspace / "opened"
    browser = workspace / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > "{opened}"\n')
    browser.chmod(0o755)
    port = free_port()
    with serving_ui(workspace, "--port", str(port), BROWSER=str(browser)) as (process, printed):
        addresses = dict(re.findall(r"^  (\w+): (http\S+)$", printed, re.MULTILINE))
        assert list(addresses) == ["Scores", "Charts", "Folds"]
        wait_until(opened.exists, process)
        assert opened.read_text().strip() == addresses["Scores"]
        with open_page(width=3000) as page:  # the table draws only the columns that are in sight
            page.goto(addresses["Scores"])
            page.get_by_text("matching runs").wait_for()
            page.get_by_text("0.7423").wait_for()  # the ensemble's, the best
            shown = page.locator("body").inner_text()
            rows = [shown.index(text) for text in ("0.7423", "0.7323", "0.7223", "0.7123")]
            assert rows == sorted(rows), "the best run is not the first"
            for name in (*(f"{model}-f0" for model in MODELS), "ensemble"):
                assert name in shown
            for column in ("val/score", "val/gain_over_empty", "test/score", "train.lr", "harveyseg.model"):
                assert column in shown
            page.set_viewport_size({"width": 1600, "height": 900})
            page.get_by_text("train.batch_size").wait_for(state="detached")  # what is out of sight is not drawn
            shown = page.locator("body").inner_text()
            # MLflow's panel of the first visit needs some of the width.
            assert [name for name in ("val/score", "val/gain_over_empty", "test/score") if name not in shown] == []
            assert not re.search(r"\d\.\d{6}", shown), "numbers with more digits than anyone reads"
        with open_page(height=2400) as page:  # charts out of sight are not drawn
            page.goto(addresses["Charts"])
            page.locator(CHART).nth(6).wait_for()
            marks = "'.bars .point, .lines path, .points path'"  # what Plotly draws of data
            drawn = f"charts => charts.filter(chart => chart.querySelector({marks})).length"
            count = page.locator(CHART).count()
            assert count >= 7  # two bars, a scatter plot, three curves, one class
            assert page.locator(CHART).evaluate_all(drawn) == count
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert not answers(f"http://127.0.0.1:{port}/health"), "the server outlives the command"


def test_a_port_in_use_is_an_error(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workspace)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, out, err = run_command(monkeypatch, capsys, "ui", "--port", str(port))
    assert (status, out) == (1, "")
    assert f"127.0.0.1:{port} cannot be used for MLflow's server: Address already in use" in err
    assert f"harveyseg ui --port {port + 1}" in err
    status, _, err = run_command(monkeypatch, capsys, "ui", "--host", "no.such.host.invalid")
    assert status == 1
    assert "no.such.host.invalid:5000 cannot be used" in err


def test_a_database_of_another_mlflow_is_said_and_left_alone(
    tmp_path: Path, migrated: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project = tmp_path / "a project"
    project.mkdir()
    shutil.copy(ROOT / "params.yaml", project)
    database = project / "mlflow.db"
    shutil.copy(migrated, database)
    monkeypatch.chdir(project)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for revision, remedy in remedies_of_other_versions(database).items():
        set_revision(database, revision)
        before = database.read_bytes()
        status, out, err = run_command(monkeypatch, capsys, "ui", "--port", str(free_port()))
        assert (status, out) == (1, "")
        assert f"made its tables (revision {revision})" in err
        assert remedy in err
        assert database.read_bytes() == before


@pytest.mark.slow
def test_a_teams_server_gets_the_views_and_its_address_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "server").mkdir()
    server = Server(tmp_path / "server")
    try:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri.replace("://", "://ann:secret@"))
        status, out, err = run_command(monkeypatch, capsys, "ui", "--no-open")
    finally:
        server.kill()
    assert (status, err) == (0, "")
    assert "secret" not in out
    assert f"  Scores: {server.uri}/#/experiments/1/runs?" in out
    assert not (tmp_path / "mlflow.db").exists()
