"""What must not become the champion."""

import subprocess
from pathlib import Path

import pytest

from harveyseg.champion.publish import refuse_unfit
from harveyseg.errors import HarveysegError
from helpers.records import make_record


@pytest.fixture
def committed(tmp_path: Path) -> Path:
    """params.yaml, in a repository without changes."""
    params = tmp_path / "params.yaml"
    params.write_text("train: {}\n")
    for command in ("init -q", "add -A", "-c user.name=t -c user.email=t@example.org commit -qm start"):
        subprocess.run(["git", *command.split()], cwd=tmp_path, check=True)
    return params


def test_code_of_which_git_could_not_tell_is_not_taken_for_committed(committed: Path) -> None:
    refuse_unfit(committed, [make_record("unet", 0, git_dirty=False)], allow_dirty=False, allow_demo=True)
    unknown = [make_record("unet", 0, git_dirty=None)]
    with pytest.raises(HarveysegError, match="unet-f0: git could not tell whether"):
        refuse_unfit(committed, unknown, allow_dirty=False, allow_demo=True)
    with pytest.raises(HarveysegError, match="unet-f1: was trained from code that is in no commit"):
        refuse_unfit(committed, [make_record("unet", 1, git_dirty=True)], allow_dirty=False, allow_demo=True)
    refuse_unfit(committed, unknown, allow_dirty=True, allow_demo=True)


def test_a_checkout_of_which_git_cannot_tell_is_not_taken_for_committed(committed: Path) -> None:
    (committed.parent / ".git" / "index").write_bytes(b"damaged")
    with pytest.raises(HarveysegError, match=f"{committed.parent}: git could not tell whether its code is in a commit"):
        refuse_unfit(committed, [make_record("unet", 0, git_dirty=False)], allow_dirty=False, allow_demo=True)


def test_all_that_speaks_against_a_model_is_said_at_once(committed: Path) -> None:
    committed.write_text("train: {epochs: 1}\n")
    with pytest.raises(HarveysegError) as caught:
        refuse_unfit(committed, [make_record("unet", 0, data_source="demo")], allow_dirty=False, allow_demo=False)
    assert [problem.partition(":")[0] for problem in caught.value.problems] == ["params.yaml", "data.source is demo"]
    assert "--allow-dirty. Train on real photos" in str(caught.value)
