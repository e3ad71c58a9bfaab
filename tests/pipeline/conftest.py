"""A checkout whose pipeline has run, once for all tests and workers; tests that change anything take a copy."""

import os
import shutil
from pathlib import Path

import pytest
from filelock import FileLock

from helpers.project import SMALL, Project, start_project


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The checkout with small settings, run from start to end. It must be left as it is."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # which all workers share
    folder, printed = base / "finished" / "harveyseg", base / "finished.log"
    with FileLock(base / "finished.lock"):
        if not printed.exists():
            shutil.rmtree(folder, ignore_errors=True)
            project = start_project(folder, SMALL)
            output = project.run("dvc", "repro")
            project.commit("ran")
            printed.write_text(output)
    return Project(folder)


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Project:
    """A copy of the finished checkout."""
    return finished.copy(tmp_path / "harveyseg")
