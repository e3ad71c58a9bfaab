"""How a stage ends after a mistake of the user, a defect, or a signal, in a process of its own."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harveyseg.project import project_root

SCRIPT = """
import sys
import time
from pathlib import Path
from typing import Annotated
import typer
from harveyseg.errors import HarveysegError
from harveyseg.pipeline.stage import Made, run

def main(fold: Annotated[int, typer.Option(help="The fold that is held out.")]) -> Made:
    '''Train one model.'''
    if fold == 1:
        raise HarveysegError("a.jpg: empty. Replace it.")
    if fold == 2:
        raise ValueError("a defect")
    if fold == 4:
        open(".", "w")
    if fold == 5:
        raise PermissionError(13, "Permission denied", "data/x.json")
    if fold == 3:
        try:
            print("training", flush=True)
            time.sleep(60)
        except KeyboardInterrupt as error:
            print(f"cleaned up after {error}", flush=True)
            raise
    return Made("weights of 2 models", Path("data/models"))

if __name__ == "__main__":
    sys.argv[0] = "stages/resize_cache.py"
    run(main)
"""


def stage(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", SCRIPT, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})


def test_a_stage_ends_with_what_it_made_where_and_how_long() -> None:
    started = time.monotonic()
    done = stage("--fold", "0")
    lasted = time.monotonic() - started
    assert (done.returncode, done.stderr) == (0, "")
    closing = re.fullmatch(r"resize-cache: weights of 2 models in data/models \((\d+\.\d) s\)\n", done.stdout)
    assert closing
    assert 0 < float(closing[1]) < lasted + 0.1


def test_a_mistake_of_the_user_comes_without_a_traceback() -> None:
    done = stage("--fold", "1")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "error: a.jpg: empty. Replace it.\n")


def test_a_defect_comes_with_its_traceback() -> None:
    done = stage("--fold", "2")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "ValueError: a defect" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("This is a defect of harveyseg, or something that it did not expect")


@pytest.mark.parametrize(("value", "shown"), [("1", True), ("0", False), ("", False)])
def test_debug_shows_the_traceback_of_a_mistake(value: str, shown: bool) -> None:
    done = stage("--fold", "1", HARVEYSEG_DEBUG=value)
    assert (done.returncode, done.stdout) == (1, "")
    assert ("in main\n" in done.stderr and "Traceback" in done.stderr) == shown
    assert done.stderr.splitlines()[-1] == "error: a.jpg: empty. Replace it."


def test_what_the_system_forbids_comes_without_a_traceback() -> None:
    done = stage("--fold", "5")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: data/x.json: Permission denied. Make the file and its folder readable")
    assert stage("--fold", "4").stderr == "error: .: Is a directory. Name another file or folder.\n"


@pytest.mark.parametrize("arguments", [[], ["--fold", "one"], ["--unknown", "1"]])
def test_wrong_options_are_refused(arguments: list[str]) -> None:
    done = stage(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_help_lists_the_options() -> None:
    done = stage("--help")
    assert done.returncode == 0
    assert "Train one model." in done.stdout
    assert "The fold that is held out." in done.stdout


def test_a_stage_that_is_told_to_stop_can_clean_up() -> None:
    command = [sys.executable, "-c", SCRIPT, "--fold", "3"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "training\n"
        running.send_signal(signal.SIGTERM)
        out, err = running.communicate(timeout=30)
    assert out == "cleaned up after signal SIGTERM\n"
    assert running.returncode not in (0, -signal.SIGTERM)
    assert "weights" not in out + err


def test_the_project_is_here_or_where_dvc_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    assert project_root() == tmp_path.resolve()
    (tmp_path / "real").mkdir()
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "real"))
    assert project_root() == (tmp_path / "real").resolve()
