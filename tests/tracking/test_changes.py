"""What an experiment changed, as git and params.yaml say."""

import subprocess
from pathlib import Path

import pytest

from harveyseg.tracking.changes import changes_of_experiment

BEFORE = """
train:
  lr: 0.001
  loss: {dice: 0.0}
models:
  unet: {network: unet, width: 16}
  wide: {network: unet, width: 64}
inference: {tta: none}
tracking: {experiment: harveyseg}
"""


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """params.yaml in a folder of a git repository, committed."""
    monkeypatch.delenv("DVC_EXP_BASELINE_REV", raising=False)
    path = tmp_path / "project" / "params.yaml"
    path.parent.mkdir()
    path.write_text(BEFORE)
    author = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    for command in (["init", "-q"], ["add", "-A"], [*author, "commit", "-qm", "start"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    return path


def test_only_what_concerns_a_run_is_named(params: Path) -> None:
    assert changes_of_experiment(params) == {}
    text = BEFORE.replace("lr: 0.001", "lr: 1e-05").replace("width: 64", "width: 32").replace("tta: none", "tta: flips")
    params.write_text(text.replace("experiment: harveyseg", "experiment: other"))
    assert changes_of_experiment(params, "unet") == {"train.lr": 1e-05}
    assert changes_of_experiment(params, "wide") == {"train.lr": 1e-05, "width": 32}
    assert changes_of_experiment(params) == {"inference.tta": "flips", "models.wide.width": 32, "train.lr": 1e-05}


def test_new_and_removed_settings(params: Path) -> None:
    params.write_text(BEFORE.replace("  loss: {dice: 0.0}\n", "  epochs: 5\n").replace("width: 16", "width: [8, 16]"))
    assert changes_of_experiment(params, "unet") == {"train.epochs": 5, "train.loss.dice": None, "width": "[8, 16]"}
    assert changes_of_experiment(params, "new") == {"train.epochs": 5, "train.loss.dice": None}


def test_an_experiment_is_compared_with_the_commit_that_it_started_from(
    params: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = subprocess.run(
        ["git", "-C", str(params.parent), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    params.write_text(BEFORE.replace("lr: 0.001", "lr: 0.01"))
    author = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", "-C", str(params.parent), *author, "commit", "-qam", "what DVC does"], check=True)
    assert changes_of_experiment(params) == {}
    monkeypatch.setenv("DVC_EXP_BASELINE_REV", start)
    assert changes_of_experiment(params) == {"train.lr": 0.01}


def test_without_git_nothing_is_known_to_be_changed(tmp_path: Path, params: Path) -> None:
    alone = tmp_path / "other.yaml"  # in no commit
    alone.write_text(BEFORE)
    assert changes_of_experiment(alone) == {}
