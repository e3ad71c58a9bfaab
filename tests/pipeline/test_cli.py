"""The command `harveyseg` as a user meets it: what it prints, what it writes, how it ends."""

import re
import shutil
import subprocess
import sys
from hashlib import md5
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

from harveyseg.classes import HARVEY25
from harveyseg.config.settings import load
from harveyseg.evaluation.submission import SubmitParams, write_submission
from harveyseg.inference.network_file import save_network
from harveyseg.models.network import build
from harveyseg.pipeline.check import check_params
from harveyseg.training.params import flat_parameters
from helpers.commands import run_command
from helpers.paths import ROOT
from helpers.records import make_record, write_outputs
from helpers.submissions import blobs, masks_of

SIZE = (1024, 1024)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with params.yaml, in which the command runs."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def test_help_lists_every_command(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = run_command(monkeypatch, capsys, "--help")
    assert status == 0
    groups: dict[str, list[str]] = {}
    for line in out.splitlines():
        if title := re.match(r"╭─ (.+?) ─+╮", line):
            commands = groups.setdefault(title[1], [])
        elif command := re.match(r"│ (\w+) ", line):
            commands.append(command[1])
    assert groups == {
        "Options": [],
        "Start": ["init", "inspect", "preset", "doctor"],
        "Results and comparison": ["status", "summary", "table", "ui", "champion", "check", "sync"],
        "Maps of new photos": ["predict", "assess", "export", "example"],
        "Many trainings at a time": ["work", "cluster"],
        "The competition and the report": ["score", "upload", "study", "results"],
    }


def test_an_error_of_the_user_comes_without_a_traceback(project: Path) -> None:
    script = Path(sys.executable).with_name("harveyseg")
    assert script.exists(), "install the package: pip install -e ."
    done = subprocess.run([script, "preset", "demos"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    message = "error: preset 'demos': unknown. Known are: best, best-imagenet, demo, report, report-small\n"
    assert done.stderr == message
    done = subprocess.run([script, "--debug", "preset", "demos"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "in apply_preset\n" in done.stderr
    assert done.stderr.endswith(f"\n{message}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check"], "data/models/unet-0/run.json: no such file"),
        (["score", "absent.csv", "--masks", "masks"], "masks: contains no masks"),
        (["predict", "absent.jpg", "--out", "maps", "--model", "unet"], "--model unet: no model that was trained here"),
        (["predict", "absent.jpg", "--out", "maps", "--ground", "3000"], "--ground 3000: must be HEIGHTxWIDTH"),
        (["predict", "absent.jpg", "--out", "maps", "--shard", "5/4"], "--shard 5/4: must be K/N, part K of N"),
    ],
)
def test_errors(
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    status, out, err = run_command(monkeypatch, capsys, *arguments)
    assert (status, out) == (1, "")
    assert err.startswith("error: ")
    assert message in err
    assert [file.name for file in project.iterdir()] == ["params.yaml"]


def test_outside_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments in (["preset", "demo"], ["check"], ["sync"]):
        status, _, err = run_command(monkeypatch, capsys, *arguments)
        assert status == 1
        assert err.startswith("error: params.yaml: no such file. Run this in the project's root folder")


def test_preset(project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run_command(monkeypatch, capsys, "preset", "report")
    assert (status, err) == (0, "")
    assert "dvc repro" in out
    assert "epochs: 25" in (project / "params.yaml").read_text()


def test_score(project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    masks = {"10": blobs(1), "11": blobs(2)}
    (project / "masks").mkdir()
    for name, mask in masks.items():
        Image.fromarray(mask).save(project / "masks" / f"{name}.png")
    scores = {}
    for name, maps in {"perfect": list(masks.values()), "empty": [np.zeros((1024, 1024), np.uint8)] * 2}.items():
        write_submission(project / f"{name}.csv", list(masks), map(masks_of, maps), HARVEY25, SIZE, SubmitParams())
        status, out, err = run_command(monkeypatch, capsys, "score", f"{name}.csv", "--masks", "masks")
        assert (status, err) == (0, "")
        scores[name] = dict(line.split(": ") for line in out.splitlines())
    assert scores["perfect"]["score"] == scores["perfect"]["macro_dice"] == "1.00000"
    # Nothing predicted is right, with a Dice of 1, just where the class is absent.
    absent = np.mean([class_id not in mask for mask in masks.values() for class_id in range(1, 25)])
    assert scores["empty"]["score"] == scores["empty"]["all_empty_score"] == f"{absent:.5f}"
    assert scores["empty"]["macro_dice"] == "0.00000"


def test_sync_table_and_check(
    project: Path, migrated: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(migrated, project)
    params = load(project / "params.yaml") | {"models": {"unet": {"network": "unet"}}}
    YAML().dump(params, project / "params.yaml")
    (config,) = check_params(project / "params.yaml", ROOT / "stages")
    settings = {**flat_parameters(config.spec, config.train), "resize-cache.size": "128x128"}
    data = project / "data"
    scores = {"val/argmax_score": 0.612345678, "val/score": 0.7, "val/all_empty_score": 0.5}
    scores |= {f"pooled/{name}": value for name, value in scores.items()}  # of one fold, so the same
    trained = write_outputs(data, make_record(parameters=settings), scores)
    mixture = {"ensemble.steps": 12, "member.unet-0": trained.record.uid}
    write_outputs(data, make_record("ensemble", None, kind="ensemble", parameters=mixture), scores)
    status, out, _ = run_command(monkeypatch, capsys, "sync")
    assert status == 0
    assert f"{trained.record.name}: imported, 3 epochs" in out
    status, out, _ = run_command(monkeypatch, capsys, "table", "--wide")
    assert status == 0
    assert "0.61235" in out
    status, out, _ = run_command(monkeypatch, capsys, "table")
    assert status == 0
    header, _, *rows = out.partition("\n\n")[0].splitlines()
    assert header.split() == ["model", "score", "gain", "seconds"]
    assert [row.split()[:3] for row in rows] == [
        ["unet", "0.70000", "0.20000"], ["ensemble", "0.70000", "0.20000"], ["all_empty", "0.50000", "0.00000"]
    ]  # fmt: skip
    assert run_command(monkeypatch, capsys, "check") == (0, "The table and the stages' files agree.\n", "")
    table = data / "reports" / "comparison.csv"
    table.write_text(table.read_text().replace("0.61235", "0.61236", 1))
    status, out, err = run_command(monkeypatch, capsys, "check")
    assert (status, out) == (1, "")
    assert "unet 0: val_argmax_score is 0.61236, the stages' files say 0.61235" in err
    assert run_command(monkeypatch, capsys, "table")[0] == 0  # writes it again: nothing is tracked by DVC here
    params["train"]["lr"] = 0.5
    YAML().dump(params, project / "params.yaml")
    assert run_command(monkeypatch, capsys, "check") == (
        1,
        "",
        "unet-f0: train.lr is 0.5 in params.yaml and 0.003 in this run\n"
        "These results are not of the settings in params.yaml: run `dvc repro`.\n",
    )


def test_sync_sends_nothing_that_was_changed_by_hand(
    project: Path, migrated: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(migrated, project)
    YAML().dump(load(project / "params.yaml") | {"models": {"unet": {"network": "unet"}}}, project / "params.yaml")
    trained = write_outputs(project / "data", make_record(), {})
    outs = [
        {"path": f"data/models/unet-0/{name}", "md5": md5((trained.folder / name).read_bytes()).hexdigest()}
        for name in ("run.json", "history.csv")
    ]
    YAML().dump({"schema": "2.0", "stages": {"train@unet-0": {"cmd": "", "outs": outs}}}, project / "dvc.lock")
    not_yet = "Not there yet: data/ensemble. `dvc repro` makes what is missing.\n"
    status, out, err = run_command(monkeypatch, capsys, "sync")
    assert (status, err) == (0, not_yet)
    assert out.startswith("unet-f0: imported, 3 epochs")
    for name in ("run.json", "history.csv"):
        path = trained.folder / name
        right = path.read_bytes()
        path.write_bytes(right.replace(b"0", b"1", 1))
        status, out, err = run_command(monkeypatch, capsys, "sync")
        assert (status, out) == (1, "")
        assert f"data/models/unet-0/{name}: is not what the pipeline wrote" in err
        path.write_bytes(right)
    assert run_command(monkeypatch, capsys, "sync") == (0, "MLflow has everything.\n", not_yet)


def test_predict(project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    spec = {"network": "unet", "width": 1, "dropout": 0.0, "batch_norm": "none"}
    state = {name: value * 0 for name, value in build(spec, 25, None).state_dict().items()}
    state["head.bias"][23] = 9  # flooded everywhere
    path = project / "data" / "models" / "unet-0" / "weights.safetensors"
    save_network(path, state, spec, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), (64, 64), HARVEY25)
    Image.fromarray(np.full((30, 50, 3), 90, np.uint8)).save(project / "photo.jpg")
    status, out, err = run_command(monkeypatch, capsys, "predict", "photo.jpg", "--out", "maps", "--model", "unet")
    assert (status, err) == (
        0,
        "1 of 1 images have no known scale: each is taken to show as much ground as a training photo\n",
    )
    assert out.splitlines() == [
        "photo.jpg: Flooded 100.0%", "maps: 1 predicted, 0 were done before, 0 failed",
    ]  # fmt: skip
    with Image.open(project / "maps" / "photo.png") as opened:
        assert opened.size == (50, 30)
        assert (np.array(opened) == 23).all()
    header, row = (project / "maps" / "areas.csv").read_text().splitlines()
    assert header.count(",") == row.count(",") == 3 + 2 * len(HARVEY25.names)
    arguments = ["photo.jpg", "--out", "mosaic", "--model", "unet", "--gsd", "100", "--ground", "20x25", "--argmax"]
    assert run_command(monkeypatch, capsys, "predict", *arguments)[0] == 0
    with Image.open(project / "mosaic" / "photo.png") as opened:
        assert opened.size == (50, 30)
        assert (np.array(opened) == 23).all()
