"""Completion in a real bash: the script that `harveyseg --show-completion` prints, and what TAB then offers."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harveyseg import completion
from harveyseg.config.preset import preset_names
from harveyseg.config.settings import load
from harveyseg.reproduction.studies import read_studies
from helpers.paths import ROOT

# Bash calls the function with the program's name, and the words so far in COMP_WORDS.
TAB = """
source <(harveyseg --show-completion bash)
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
_harveyseg_completion harveyseg
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with settings, an experiment of DVC's, and its own references."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", "init", "-q", "-b", "main"], check=True)
    subprocess.run(["git", *identity, "commit", "-q", "--allow-empty", "-m", "start"], check=True)
    for name in ("refs/exps/1f/2e3d/tight-foal", "refs/exps/exec/EXEC_HEAD", "refs/exps/stash", "refs/heads/team/wide"):
        subprocess.run(["git", "update-ref", name, "HEAD"], check=True)
    return tmp_path


def offered(*words: str) -> list[str]:
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "--norc", "-c", TAB, "bash", "harveyseg", *words],
        capture_output=True, text=True, check=True, env={**os.environ, "PATH": programs},
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_completes_commands_and_values(workspace: Path) -> None:
    assert offered("pre") == ["preset", "predict"]
    assert "--overwrite" in offered("predict", "--o")
    assert offered("predict", "--model", "efficientnet_") == ["efficientnet_b1", "efficientnet_b2", "efficientnet_b3"]
    assert offered("preset", "best") == ["best", "best-imagenet"]
    assert offered("summary", "--compare", "t") == ["team/wide", "tight-foal"]


def test_values_are_those_that_commands_take(workspace: Path) -> None:
    models = list(load(workspace / "params.yaml")["models"])
    assert completion.complete_model("") == sorted([*models, "harvey25"])
    assert completion.complete_submission("e") == [name for name in sorted([*models, "ensemble"]) if name[0] == "e"]
    assert completion.complete_preset("") == preset_names()
    assert completion.complete_study("") == sorted(read_studies())
    assert completion.complete_experiment("") == ["main", "team/wide", "tight-foal"]
    assert completion.complete_tta("f") == ["flips"]


def test_nothing_is_offered_where_nothing_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert completion.complete_model("") == ["harvey25"]
    assert completion.complete_experiment("") == []
    for text in ("a: [", "- a", "models: 1", "\x00"):
        (tmp_path / "params.yaml").write_text(text)
        assert completion.complete_model("") == ["harvey25"]


def test_completion_and_help_import_no_large_library() -> None:
    code = """
import sys
from harveyseg import cli, completion
completion.complete_model(""), completion.complete_study(""), completion.complete_experiment("")
sys.argv = ["harveyseg", "--help"]
try:
    cli.app()
except SystemExit:
    print(sorted({"torch", "numpy", "pandas", "pydantic", "dvc", "mlflow"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "[]"


def test_commands_that_only_look_import_no_torch() -> None:
    """It takes longer than what they do. These modules are what `status`, `table`, `check` and `sync` consist of."""
    code = """
import sys
from pathlib import Path
from harveyseg.overview import status
from harveyseg.pipeline import contradictions, recorded
from harveyseg.tracking import mirror, table
contradictions.find_contradictions(Path("params.yaml"), [], Path("folds.csv"))
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "False\n"
