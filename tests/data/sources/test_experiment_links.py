"""Relative paths that lead out of the project lead to the same place from a copy of it."""

import os
from pathlib import Path

import pytest

from harveyseg.data.sources.experiment_links import link_for_experiments, link_into_copy


@pytest.mark.parametrize("path", ["../photos", "../../photos", "../shared/photos"])
def test_an_experiment_finds_what_the_project_finds(tmp_path: Path, path: str) -> None:
    root = tmp_path / "above" / "project"
    (root / ".dvc").mkdir(parents=True)
    target = Path(os.path.normpath(root / path))
    target.mkdir(parents=True)
    (target / "1.jpg").touch()
    for _ in range(2):
        link_for_experiments(path, root)
    for folder in ("exps/tmpabc", "exps/standalone/tmpabc"):
        copy = root / ".dvc" / "tmp" / folder
        copy.mkdir(parents=True)
        if (root / ".dvc" / "tmp") in Path(os.path.normpath(copy / path)).parents:
            assert (copy / path / "1.jpg").exists()


@pytest.mark.parametrize("is_file", [True, False])
def test_a_file_or_a_folder_is_linked_once_and_never_outside_the_limit(tmp_path: Path, is_file: bool) -> None:
    root = tmp_path / "project"
    copy = tmp_path / "study" / "trials" / "a" / "project"
    copy.mkdir(parents=True)
    root.mkdir()
    target = tmp_path / "input"
    target.write_text("content") if is_file else target.mkdir()
    for _ in range(2):
        assert link_into_copy("../input", root, copy, tmp_path / "study")
    assert (copy / "../input").resolve() == target
    assert not link_into_copy("../../../../../absent", root, copy, tmp_path / "study")
    link = copy.parent / "input"
    link.unlink()
    link.symlink_to(tmp_path / "gone")  # a link that leads nowhere is replaced
    assert link_into_copy("../input", root, copy, tmp_path / "study")
    assert link.resolve() == target
