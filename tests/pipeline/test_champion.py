"""The champion: the best model of a finished pipeline, registered in a real MLflow, predicts the same in every way."""

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import mlflow
import pytest
from mlflow.entities.model_registry import ModelVersion

from harveyseg import Predictor
from harveyseg.champion.publish import publish
from harveyseg.errors import HarveysegError
from harveyseg.tracking.registry import CHAMPION
from helpers.commands import run_command
from helpers.paths import ROOT
from helpers.ports import free_port
from helpers.project import Project
from helpers.tracking import connect
from helpers.waiting import answers, wait_until

pytestmark = pytest.mark.slow

PARAMS, DATA = Path("params.yaml"), Path("data")


def publish_in(project: Path, model: str | None = None, licence: str | None = None) -> list[str]:
    """Run the command in a project, with drawn photos allowed."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(project)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # taken back, since MLflow sets it
        monkeypatch.delenv("MLFLOW_TRACKING_URI")
        return publish(PARAMS, DATA, model, licence, allow_dirty=False, allow_demo=True)


@dataclass(frozen=True)
class Registry:
    """A registry whose project has lost its data, and a photo."""

    folder: Path
    uri: str
    printed: list[str]
    winner: str
    photo: Path
    expected: bytes
    """The class map of the photo that the workspace's own model made."""

    def version(self) -> ModelVersion:
        return connect(self.uri).get_model_version_by_alias("harveyseg", "champion")

    def logged_files(self) -> list[Path]:
        return sorted(path for path in (self.folder / "mlflow-artifacts" / "models").rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def registry(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Registry:
    base = tmp_path_factory.mktemp("champion")
    folder = finished.copy(base / "project").folder
    table = finished.table()
    scores = dict(zip(table["model"].tolist(), table["val_score"].tolist(), strict=True))  # of the only fold
    winner = max(scores, key=scores.__getitem__)
    printed = publish_in(folder)
    photo = base / "photo.jpg"
    shutil.copy(next(iter(sorted((folder / "data" / "raw" / "test_images").iterdir()))), photo)
    own = Predictor.load(folder, None if winner == "ensemble" else winner).predict(photo, base / "own")
    shutil.rmtree(folder / "data")
    return Registry(folder, f"sqlite:///{folder}/mlflow.db", printed, winner, photo, own.class_map_file.read_bytes())


@pytest.fixture
def elsewhere(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is no project, where only the registry's address is known."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registry.uri)
    mlflow.set_tracking_uri(registry.uri)  # MLflow itself keeps what an earlier test set
    return tmp_path


def predict_class_map(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> bytes:
    status, _, err = run_command(
        monkeypatch, capsys, "predict", str(registry.photo), "--out", "maps", "--overwrite", *arguments
    )
    assert status == 0, err
    return Path("maps", "photo.png").read_bytes()


def test_the_input_example_gives_no_warning(
    registry: Registry, elsewhere: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """MLflow predicts it while the model is registered, and a user would read of a file that is not theirs."""
    (file,) = [file for file in registry.logged_files() if file.name == "serving_input_example.json"]
    (row,) = json.loads(file.read_text())["dataframe_split"]["data"]
    photo = elsewhere / "example.png"
    photo.write_bytes(base64.b64decode(row[0]))
    Predictor.load(CHAMPION).predict(photo, elsewhere / "maps")
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == []


def test_the_command_the_python_function_and_predictor_give_one_map(
    registry: Registry, elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = registry.photo.read_bytes()
    assert predict_class_map(registry, monkeypatch, capsys, "--model", CHAMPION) == registry.expected
    model = mlflow.pyfunc.load_model(CHAMPION)
    assert model.predict({"photo": [photo, photo]})["class_map"].tolist() == [registry.expected] * 2
    predicted = Predictor.load(CHAMPION).predict(registry.photo, elsewhere / "api")
    assert predicted.class_map_file.read_bytes() == registry.expected
    version = f"models:/harveyseg/{registry.version().version}"
    assert predict_class_map(registry, monkeypatch, capsys, "--model", version) == registry.expected
    scaled = predict_class_map(registry, monkeypatch, capsys, "--model", CHAMPION, "--gsd", "40")
    assert model.predict({"photo": [photo], "gsd": [40.0]})["class_map"][0] == scaled
    assert not (elsewhere / "mlflow.db").exists()


def test_predict_runs_none_of_the_logged_code(
    registry: Registry, elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = next(path for path in registry.logged_files() if path.name == "logged_model.py")
    trusted = code.read_text()
    code.write_text("raise SystemExit('the logged code was run')")
    try:
        assert predict_class_map(registry, monkeypatch, capsys, "--model", CHAMPION) == registry.expected
        with pytest.raises(SystemExit, match="the logged code was run"):
            mlflow.pyfunc.load_model(CHAMPION)
    finally:
        code.write_text(trusted)


def test_what_is_logged(registry: Registry) -> None:
    files = registry.logged_files()
    assert {path.suffix for path in files} <= {"", ".json", ".md", ".py", ".safetensors", ".txt", ".yaml"}  # no pickle
    assert {"MLmodel", "model.json", "README.md", "logged_model.py", "input_example.json"} <= {p.name for p in files}
    (requirements,) = [path.read_text() for path in files if path.name == "requirements.txt"]
    assert re.search(r"^harveyseg==", requirements, re.MULTILINE)
    assert re.search(r"^torch==[\d.]+$", requirements, re.MULTILINE)
    info = mlflow.models.get_model_info(str(next(path.parent for path in files if path.name == "MLmodel")))
    assert info.signature.inputs.input_names() == ["photo", "gsd"]
    version = registry.version()
    assert registry.printed[0].startswith(f"{CHAMPION}: {registry.winner}, score ")
    assert version.tags["harveyseg.model"] == registry.winner
    assert version.tags["harveyseg.score"] in registry.printed[0]
    run = connect(registry.uri).get_run(str(version.run_id))
    assert run.data.tags["harveyseg.uid"] == version.tags["harveyseg.uids"]
    assert run.info.status == "FINISHED"


def test_the_registry_shows_the_card(registry: Registry) -> None:
    card = connect(registry.uri).get_registered_model("harveyseg").description
    assert card == registry.version().description
    assert len(card) <= 5000
    for title in ("Use", "Score", "Classes", "Limits", "Data and licence", "Origin"):
        assert f"\n## {title}\n" in card
    score = float(registry.version().tags["harveyseg.score"])
    assert f"| score | {score:.3f} |" in card
    assert "It was trained on drawn photos" in card
    assert "Spread: not known, since one fold was trained." in card
    (readme,) = [path for path in registry.logged_files() if path.name == "README.md"]
    assert readme.read_text() == card


def test_the_same_model_is_registered_once_and_another_takes_the_alias(finished: Project, tmp_path: Path) -> None:
    folder = finished.copy(tmp_path / "project").folder
    client = connect(f"sqlite:///{folder}/mlflow.db")

    def champion() -> ModelVersion:
        return client.get_model_version_by_alias("harveyseg", "champion")

    publish_in(folder, "unet")
    (first, *_) = publish_in(folder, "unet", licence="CC BY 4.0, by Ann.")
    assert first.startswith(f"{CHAMPION} is this model already: unet")
    assert champion().version in (1, "1")
    assert "CC BY 4.0, by Ann." in str(champion().description)
    (first, *_) = publish_in(folder, "attention_unet")
    assert first.endswith("; version 1 was the champion before")
    assert champion().version in (2, "2")
    assert champion().tags["harveyseg.model"] == "attention_unet"


@pytest.fixture
def server(registry: Registry, elsewhere: Path) -> Iterator[str]:
    """The address of ``mlflow models serve``."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", CHAMPION, "--env-manager", "local"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # MLflow starts uvicorn by name
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT / "src"), "MLFLOW_TRACKING_URI": registry.uri}
    process = subprocess.Popen([*command, "--port", str(port)], cwd=elsewhere, env=environment, start_new_session=True)
    try:
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/ping"), process, seconds=300)
        yield f"http://127.0.0.1:{port}"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_served_model_gives_the_same_map(registry: Registry, server: str) -> None:
    photo = base64.b64encode(registry.photo.read_bytes()).decode()
    body = json.dumps({"dataframe_split": {"columns": ["photo"], "data": [[photo]]}}).encode()
    request = urllib.request.Request(f"{server}/invocations", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=300) as answer:
        (row,) = json.load(answer)["predictions"]
    assert base64.b64decode(row["class_map"]) == registry.expected


def test_a_project_that_must_not_be_published(
    finished: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = finished.copy(tmp_path / "project")
    monkeypatch.chdir(project.folder)

    def refused(model: str | None = None, allow_demo: bool = False) -> str:
        with pytest.raises(HarveysegError) as caught:
            publish(PARAMS, DATA, model, None, allow_dirty=False, allow_demo=allow_demo)
        return str(caught.value)

    assert "data.source is demo" in (message := refused())
    assert "--allow-demo" in message
    assert "--model net: not in the table. It holds: unet, attention_unet, ensemble." in refused("net")
    file = project.folder / "src" / "harveyseg" / "cli.py"
    file.write_text(file.read_text() + "\n")
    assert "src/harveyseg/cli.py: has changes that are in no commit" in (message := refused(allow_demo=True))
    assert "--allow-dirty" in message
    project.run("git", "checkout", "-q", "--", ".")
    project.run("git", "rm", "-q", "--cached", "dvc.lock")
    assert "dvc.lock: is in no commit, so no clone can fetch these results" in refused(allow_demo=True)
    shutil.rmtree(project.folder / "data" / "models" / "unet-0")
    assert "unet-0/run.json: no such file" in refused()
    assert project.query("select count(*) from registered_models") == 0


def test_models_that_cannot_be_fetched(registry: Registry, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(address: str) -> str:
        with pytest.raises(HarveysegError) as caught:
            Predictor.load(address)
        return str(caught.value)

    assert "has no such model, alias or version. `harveyseg champion`" in refused("models:/harveyseg@best")
    assert "has no such model, alias or version" in refused("models:/harveyseg/99")
    assert "has no such model, alias or version" in refused("models:/another@champion")
    assert "must be models:/NAME@ALIAS or models:/NAME/VERSION" in refused("models:/harveyseg")
    client = connect(registry.uri)
    client.create_registered_model("foreign")
    (elsewhere / "foreign").mkdir()
    client.create_model_version("foreign", (elsewhere / "foreign").as_uri())
    assert "models:/foreign/1: is no model of harveyseg" in refused("models:/foreign/1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert "Start that server, or set MLFLOW_TRACKING_URI" in refused(CHAMPION)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert f"{elsewhere}/mlflow.db: no such file. Set MLFLOW_TRACKING_URI" in refused(CHAMPION)
    assert not (elsewhere / "mlflow.db").exists()
