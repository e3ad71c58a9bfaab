"""What DVC watches is there, as DVC reads it, before DVC looks: in the project and in the copies of experiments."""

import logging
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from harveyseg.config.settings import parse
from harveyseg.data.sources import DataParams
from harveyseg.errors import HarveysegError
from harveyseg.pipeline.inputs import copying_problem, prepare_inputs


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A git repository with a page in ``data``."""
    folder = tmp_path / "project"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "README.md").touch()
    git(folder, "init", "-q")
    git(folder, "add", ".")
    return folder


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", "-C", str(folder), *arguments], check=True)


def directory(path: str) -> DataParams:
    return parse(DataParams, {"source": "directory", "path": path}, "data")


@pytest.mark.parametrize(
    ("path", "meant"), [("~/photos", "{home}/photos"), ("$HOME/photos", "{home}/photos"), (" photos ", "photos")]
)
def test_a_path_that_dvc_would_take_literally_is_refused(root: Path, path: str, meant: str) -> None:
    (root / "photos").mkdir()
    with pytest.raises(HarveysegError) as caught:
        prepare_inputs(directory(path), root, root)
    home = os.environ["HOME"]
    assert str(caught.value) == (
        f"data.path = {path!r}: DVC takes it literally. Write data.path: {meant.format(home=home)}."
    )
    prepare_inputs(directory("photos"), root, root)


def test_photos_may_be_absent_where_data_raw_was_made_from_them(root: Path) -> None:
    photos = directory("../photos")
    with pytest.raises(HarveysegError, match=r"'../photos': not on this machine.* `dvc repro --allow-missing`"):
        prepare_inputs(photos, root, root)
    (root / "data" / "raw").mkdir()
    lock = {"stages": {"download": {"params": {"params.yaml": {"data": photos.model_dump()}}}}}
    YAML().dump(lock, root / "dvc.lock")
    prepare_inputs(photos, root, root)
    with pytest.raises(HarveysegError, match=r"'../other': not on this machine"):
        prepare_inputs(directory("../other"), root, root)


@pytest.mark.parametrize("path", ["photos", "nested/photos", "../photos"])
def test_the_copy_of_an_experiment_gets_links(root: Path, path: str) -> None:
    (root / path / "train_images").mkdir(parents=True)
    copy = root / ".dvc" / "tmp" / "exps" / "standalone" / "tmpx"
    (copy / "data").mkdir(parents=True)
    (copy / "data" / "README.md").touch()  # git brought it
    prepare_inputs(directory(path), root, copy)
    assert (copy / path).resolve() == (root / path).resolve()
    assert not (copy / "data" / "README.md").is_symlink()


@pytest.mark.parametrize("ignored", [True, False])
def test_what_neither_git_nor_dvc_tracks_is_said_with_the_commands(
    root: Path, ignored: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = root / "nested" / "photos"
    photos.mkdir(parents=True)
    (photos / "1.jpg").write_bytes(b"a photo")
    if ignored:
        (root / ".gitignore").write_text("photos/\n")
    monkeypatch.setattr("harveyseg.pipeline.inputs.logger", logging.getLogger("visible"))
    prepare_inputs(directory("nested/photos"), root, root)
    (message,) = caplog.messages
    assert "'nested/photos': neither git nor DVC tracks it" in message
    # The remedy is what DVC and git take, and ends it.
    (root / ".dvc").mkdir()
    (root / ".dvc" / "config").write_text("[core]\n    analytics = false\n")
    add, _, stage = message.split("`")[1].partition(" && ")
    subprocess.run([sys.executable, "-m", *shlex.split(add)], cwd=root, check=True, capture_output=True)
    subprocess.run(shlex.split(stage), cwd=root, check=True)
    assert copying_problem("path", "nested/photos", root) is None


def test_what_git_tracks_or_is_elsewhere_is_nobodys_problem(root: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for path in ("data/README.md", "../photos", str(tmp_path / "photos"), "absent", ""):
        assert copying_problem("inputs", path, root) is None
    (root / "groups.csv").touch()
    assert copying_problem("inputs", "groups.csv", root) is not None
    git(root, "add", "groups.csv")
    assert copying_problem("inputs", "groups.csv", root) is None
