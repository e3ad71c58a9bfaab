"""The project on which workers are tried."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.toy_pipeline import PIPELINE, TRAINING, Toy


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy") / "project"
    folder.mkdir()
    files = {
        "dvc.yaml": PIPELINE,
        "train.sh": TRAINING,
        "params.yaml": "width: 1\n",
        "settings.txt": "settings\n",
        ".gitignore": "/data/\n/*.txt\n!/settings.txt\n/.locks/\n",
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    toy = Toy(folder)
    toy.run("git", "init", "-q")
    toy.run("dvc", "init", "-q")
    toy.run("dvc", "repro", "prepare")
    toy.commit()
    return folder


@pytest.fixture
def toy(made: Path, tmp_path: Path) -> Iterator[Toy]:
    toy = Toy(tmp_path / "project")
    shutil.copytree(made, toy.folder, symlinks=True)
    yield toy
    toy.stop()
