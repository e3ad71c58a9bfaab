"""Checkouts in which stages have run, made once for all tests and workers; tests that change anything take a copy."""

import os
import shutil
from pathlib import Path

import pytest
from filelock import FileLock

from helpers.project import FEW_PHOTOS, SMALL, TINY, Project, start_project


def _make_once(
    factory: pytest.TempPathFactory, name: str, changes: dict[str, object], *command: str, preloaded: bool
) -> Project:
    """The checkout with these settings in which the command has run, in a folder that all workers share."""
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    folder, printed = base / name / "harveyseg", base / f"{name}.log"
    with FileLock(base / f"{name}.lock"):
        if not printed.exists():
            shutil.rmtree(folder, ignore_errors=True)
            project = start_project(folder, changes, preloaded)
            output = project.run(*command)
            project.commit("ran")
            printed.write_text(output)
    return Project(folder, preloaded)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The checkout with small settings, run from start to end, by real programs. It must be left as it is."""
    return _make_once(tmp_path_factory, "finished", SMALL, "dvc", "repro", preloaded=False)


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Project:
    """A copy of the finished checkout."""
    return finished.copy(tmp_path / "harveyseg")


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The checkout with tiny settings, run until the training photos are split. It must be left as it is."""
    return _make_once(
        tmp_path_factory, "prepared", TINY | {"data": FEW_PHOTOS}, "dvc", "repro", "split", preloaded=True
    )
