"""Where the page may be written."""

from pathlib import Path

import pytest

from harveyseg.errors import HarveysegError
from harveyseg.summary.page import write_summary


def test_a_page_of_someone_else_stays(tmp_path: Path) -> None:
    own = tmp_path / "notes.html"
    own.write_text("<p>my notes on harveyseg</p>")
    with pytest.raises(HarveysegError, match=r"notes\.html: exists already, and harveyseg did not write it"):
        write_summary(own, tmp_path / "params.yaml", tmp_path / "data")
    assert own.read_text() == "<p>my notes on harveyseg</p>"
