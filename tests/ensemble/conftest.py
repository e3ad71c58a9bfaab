"""The small ensemble, loaded."""

from pathlib import Path

import pytest

from harveyseg.ensemble.members import FoldModels
from helpers.small_ensemble import load_written, random_truth, write_predictions


@pytest.fixture
def fold_models(tmp_path: Path) -> FoldModels:
    write_predictions(tmp_path, random_truth(0))
    return load_written(tmp_path)
