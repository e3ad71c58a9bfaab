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


@pytest.mark.parametrize(
    "page",
    [
        '<!DOCTYPE html>\n<meta name="generator" content="harveyseg">',
        # The end of a page of the first version that wrote one.
        "<footer><p>harveyseg 0.1.0. Charts: Vega 6.2.0 and Vega-Lite v6.4 of the University of Washington Interactive "
        "Data Lab, BSD 3-Clause. This file needs no network.</p></footer>",
    ],
)
def test_a_page_of_any_version_is_replaced(tmp_path: Path, page: str) -> None:
    """That is, it does not stop the command, which here stops at what is asked for next: a finished project."""
    (tmp_path / "summary.html").write_text(page)
    with pytest.raises(HarveysegError, match=r"params\.yaml: no such file"):
        write_summary(tmp_path / "summary.html", tmp_path / "params.yaml", tmp_path / "data")
