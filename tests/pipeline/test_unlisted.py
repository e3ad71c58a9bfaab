"""What no stage writes any more is deleted if DVC can restore it; a real DVC says whether it can."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from dvc.repo import Repo

from harveyseg.errors import HarveysegError
from harveyseg.pipeline.unlisted import delete_unlisted

MODELS = Path("data/models")
FOLDERS = [MODELS, Path("data/predictions")]
PIPELINE = """
stages:
  train:
    matrix:
      model: ${models}
    cmd: mkdir -p data/models/${item.model}-0 && echo ${item.model} > data/models/${item.model}-0/weights
    deps: [params.yaml]
    outs:
      - data/models/${item.model}-0/weights
"""


WITH_ENSEMBLE = """
stages:
  train:
    matrix:
      fold: ${folds}
    cmd: mkdir -p data/models/unet-${item.fold} && echo ${item.fold} > data/models/unet-${item.fold}/weights
    outs:
      - data/models/unet-${item.fold}/weights
  ensemble:
    cmd: cat data/models/*/weights > data/ensemble && date +%s%N >> data/ensemble
    deps: [data/models]
    outs: [data/ensemble]
"""
"""The time makes each ensemble that really runs another one, as its uid does in the pipeline."""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Repo]:
    """A pipeline that has trained unet and segnet; then segnet was removed from the list."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_NO_ANALYTICS", "true")
    Path("dvc.yaml").write_text(PIPELINE)
    Path(".dvcignore").write_text("/data/**/.*\n")
    Path("params.yaml").write_text("models: [unet, segnet]\n")
    with Repo.init(no_scm=True) as repo:
        repo.reproduce()
        Path("params.yaml").write_text("models: [unet]\n")
        yield repo


def trained() -> set[str]:
    return {str(path.relative_to(MODELS)) for path in MODELS.rglob("*") if path.is_file()}


def restore() -> None:
    Path("params.yaml").write_text("models: [unet, segnet]\n")
    with Repo() as repo:
        repo.reproduce()


@pytest.mark.parametrize("lock", [True, False])
def test_what_dvc_can_restore_is_deleted(project: Repo, lock: bool) -> None:
    if not lock:  # the model was added and removed without a commit: `git checkout dvc.lock`
        Path("dvc.lock").unlink()
    assert delete_unlisted(FOLDERS) == [MODELS / "segnet-0"]
    assert trained() == {"unet-0/weights"}
    assert not (MODELS / "segnet-0").exists()
    restore()
    assert (MODELS / "segnet-0" / "weights").read_text() == "segnet\n"
    assert delete_unlisted(FOLDERS) == []


def test_a_fold_that_is_removed_and_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_NO_ANALYTICS", "true")
    Path("dvc.yaml").write_text(WITH_ENSEMBLE)
    Path("params.yaml").write_text("folds: [0, 2]\n")
    ensemble = Path("data/ensemble")
    with Repo.init(no_scm=True) as repo:
        repo.reproduce()

    def reproduce(folds: str, deleted: list[Path]) -> str:
        Path("params.yaml").write_text(f"folds: {folds}\n")
        assert delete_unlisted([MODELS]) == deleted
        with Repo() as repo:
            repo.reproduce()
        return ensemble.read_text()

    of_both = ensemble.read_text()
    of_one = reproduce("[0]", [MODELS / "unet-2"])
    assert (of_both.split()[:-1], of_one.split()[:-1]) == (["0", "2"], ["0"])
    assert trained() == {"unet-0/weights"}
    # There and back: each time the ensemble of before, not a new one.
    assert reproduce("[0, 2]", []) == of_both
    assert trained() == {"unet-0/weights", "unet-2/weights"}
    assert reproduce("[0]", [MODELS / "unet-2"]) == of_one
    # What a clone has after `dvc checkout`.
    shutil.rmtree("data")
    with Repo() as repo:
        repo.checkout()
        assert repo.reproduce() == []
    assert ensemble.read_text() == of_one


def test_hidden_files_are_no_inputs(project: Repo) -> None:
    leftover = MODELS / "segnet-0" / ".weights-0a1b2c3d"
    leftover.write_text("half")
    assert delete_unlisted(FOLDERS) == [MODELS / "segnet-0" / "weights"]
    assert leftover.read_text() == "half"
    assert delete_unlisted(FOLDERS) == []


def lose_the_cache() -> None:
    (cached,) = [
        path for path in Path(".dvc/cache/files").rglob("*") if path.is_file() and "segnet" in path.read_text()
    ]
    cached.unlink()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lose_the_cache, "segnet-0/weights"),
        (lambda: (MODELS / "segnet-0" / "weights").write_text("by hand"), "segnet-0/weights"),
        (lambda: (MODELS / "segnet-0" / "notes.txt").write_text("mine"), "segnet-0/notes.txt"),
        (lambda: (MODELS / "unet-0" / "notes.txt").write_text("mine"), "unet-0/notes.txt"),
        (lambda: os.link(MODELS / "segnet-0" / "weights", MODELS / "copy"), "copy"),
        (lambda: (MODELS / "elsewhere").symlink_to(Path("data").absolute()), "elsewhere"),
    ],
)
def test_what_dvc_cannot_restore_is_named_and_nothing_is_deleted(project: Repo, change: object, named: str) -> None:
    assert callable(change)
    change()
    before = trained()
    with pytest.raises(HarveysegError) as raised:
        delete_unlisted(FOLDERS)
    assert raised.value.problems == (str(MODELS / named),)
    assert str(raised.value).endswith(f"or delete them: `rm {MODELS / named}`.")
    assert trained() == before


def test_nothing_has_run_yet(tmp_path: Path) -> None:
    assert delete_unlisted([tmp_path / "models"]) == []
