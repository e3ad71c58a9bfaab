"""A finished pipeline of five tiny photos on two folds."""

from pathlib import Path

import pytest

from harveyseg.summary.finished import FinishedPipeline
from helpers.small_ensemble import finished_pipeline, random_truth


@pytest.fixture
def workspace(tmp_path: Path) -> FinishedPipeline:
    return finished_pipeline(tmp_path, random_truth(0))
