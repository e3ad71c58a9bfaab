"""A project with a pipeline of this one's shape, whose trainings last until the test says so."""

import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from helpers.processes import processes_in

COMMAND = (sys.executable, "-c", "from harveyseg.cli import app; app()")
# The parameter must not be called `size`: DVC leaves that out of the key of its run cache.
PIPELINE = """\
stages:
  code:
    cmd: mkdir -p data && cp settings.txt data/code.txt
    deps: [settings.txt]
    outs:
      - data/code.txt:
          persist: true
  prepare:
    cmd: cat data/code.txt params.yaml > data/prepared.txt
    params: [width]
    deps: [data/code.txt]
    outs: [data/prepared.txt]
  train:
    matrix:
      model: [a, b]
    cmd: sh train.sh ${item.model}
    deps: [data/prepared.txt]
    outs: ["data/model-${item.model}.txt", "data/photos-${item.model}.txt"]
  evaluate:
    matrix:
      model: [a, b]
    cmd: cp data/model-${item.model}.txt data/score-${item.model}.txt
    deps: ["data/model-${item.model}.txt"]
    outs: ["data/score-${item.model}.txt"]
  table:
    cmd: cat data/score-a.txt data/score-b.txt > data/table.txt && echo "$HARVEYSEG_PIPELINE" > table-pipeline.txt
    deps: [data/score-a.txt, data/score-b.txt]
    outs: [data/table.txt]
"""
# One line for each training that begins, where all copies find it, then waiting for the test.
TRAINING = """\
echo "$HARVEYSEG_PIPELINE" >> "$HARVEYSEG_ROOT/pipelines.txt"
echo "$CUDA_VISIBLE_DEVICES" >> "$HARVEYSEG_ROOT/gpus.txt"
echo "$1" >> "$HARVEYSEG_ROOT/begun.txt"
until [ -e "$HARVEYSEG_ROOT/go.txt" ]; do sleep 0.05; done
[ "$1" = "$(cat "$HARVEYSEG_ROOT/fails.txt" 2>/dev/null)" ] && exit 3
sed "s/^/$1 /" data/prepared.txt > "data/model-$1.txt"
echo photos > "data/photos-$1.txt"
"""


class Toy:
    """A project whose stages before the training have run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("DVC", "GIT", "HARVEYSEG"))},
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "DVC_NO_ANALYTICS": "true",
            "GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@example.org",
            "GIT_COMMITTER_NAME": "t", "GIT_COMMITTER_EMAIL": "t@example.org",
        }  # fmt: skip
        self._started: list[subprocess.Popen[bytes]] = []

    def copy(self, folder: Path) -> "Toy":
        """The same project elsewhere, with a cache of its own."""
        shutil.copytree(self.folder, folder, symlinks=True)
        return Toy(folder)

    def run(self, *command: str, code: int = 0) -> str:
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment | {"HARVEYSEG_ROOT": str(self.folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=600,
        )
        assert done.returncode == code, done.stdout
        return done.stdout

    def work(self, *arguments: str, code: int = 0) -> str:
        return self.run(*COMMAND, "work", *arguments, code=code)

    def cluster(self, *arguments: str, code: int = 0) -> str:
        return self.run(*COMMAND, "cluster", "run", *arguments, code=code)

    def start(self, log: Path, *arguments: str) -> subprocess.Popen[bytes]:
        command = [*COMMAND, *arguments]
        with log.open("w") as opened:
            started = subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stdout=opened, stderr=opened, start_new_session=True
            )
        self._started.append(started)
        return started

    def stop(self) -> None:
        """End what a failed test left."""
        for process in processes_in(self.folder):
            with suppress(psutil.NoSuchProcess):  # it has just ended
                process.kill()
        for started in self._started:
            started.wait()

    def commit(self) -> None:
        self.run("git", "add", "-A")
        self.run("git", "commit", "-qm", "all")

    def let_trainings_end(self) -> None:
        (self.folder / "go.txt").touch()

    @property
    def begun(self) -> list[str]:
        """The trainings that have begun so far."""
        path = self.folder / "begun.txt"
        return sorted(path.read_text().split()) if path.exists() else []
