"""The recipe that the tests of studies start from."""

from pathlib import Path

import pytest

from harveyseg.reproduction.studies import Base, read_base
from helpers.paths import ROOT


@pytest.fixture
def base(project: Path) -> Base:
    """The committed recipe, on two folds."""
    text = (ROOT / "params.yaml").read_text().replace("\nfolds:\n  - 0\n", "\nfolds:\n  - 0\n  - 1\n")
    (project / "params.yaml").write_text(text)
    return read_base(project / "params.yaml")
