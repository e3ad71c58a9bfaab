"""The recipe that the tests of studies start from."""

from pathlib import Path

import pytest

from harveyseg.config.preset import apply_preset
from harveyseg.reproduction.studies import StudyRecipe, read_recipe
from helpers.paths import ROOT


@pytest.fixture
def recipe(project: Path) -> StudyRecipe:
    """The committed recipe, on two folds."""
    text = (ROOT / "params.yaml").read_text().replace("\nfolds:\n  - 0\n", "\nfolds:\n  - 0\n  - 1\n")
    (project / "params.yaml").write_text(text)
    return read_recipe(project / "params.yaml")


@pytest.fixture
def params(tmp_path: Path) -> Path:
    """params.yaml with the report's recipe."""
    path = tmp_path / "params.yaml"
    path.write_text((ROOT / "params.yaml").read_text())
    apply_preset("report", path)
    return path
