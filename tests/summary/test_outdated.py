"""A page that shows earlier results is found."""

from pathlib import Path

import pytest

from harveyseg.summary.outdated import is_outdated, results_digest


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """A page of the results in ``data``."""
    (tmp_path / "data" / "reports").mkdir(parents=True)
    (tmp_path / "data" / "reports" / "comparison.csv").write_text("model,val_score\nunet,0.65\n")
    path = tmp_path / "summary.html"
    path.write_text(f'<meta name="harveyseg-results" content="{results_digest(tmp_path / "data")}">')
    return path


def test_a_page_of_these_results_is_not_outdated(page: Path) -> None:
    assert not is_outdated(page, page.parent / "data")


def test_a_page_of_other_scores_is_outdated(page: Path) -> None:
    (page.parent / "data" / "reports" / "comparison.csv").write_text("model,val_score\nunet,0.66\n")
    assert is_outdated(page, page.parent / "data")


def test_a_page_is_outdated_where_the_table_is_gone(page: Path) -> None:
    (page.parent / "data" / "reports" / "comparison.csv").unlink()
    assert is_outdated(page, page.parent / "data")


def test_no_page_and_one_without_a_mark_are_not_outdated(page: Path) -> None:
    assert not is_outdated(page.with_name("other.html"), page.parent / "data")
    page.write_text("<p>of an earlier version</p>")
    assert not is_outdated(page, page.parent / "data")
