"""Whether a page shows the results that the project has now."""

import hashlib
import re
from pathlib import Path

_MARK = re.compile(r'<meta name="harveyseg-results" content="([0-9a-f]*)">')
"""Stands near the top of the template."""
_TOP = 4096
"""Characters of a page in which the mark is."""


def results_digest(data: Path) -> str:
    """SHA-256 of the comparison table, which holds the scores of all models; empty where there is none.

    Args:
        data: the folder that stages write to.
    """
    table = data / "reports" / "comparison.csv"
    return hashlib.sha256(table.read_bytes()).hexdigest() if table.exists() else ""


def is_outdated(page: Path, data: Path) -> bool:
    """Whether ``harveyseg summary`` wrote this page when the table held other scores.

    Args:
        page: the HTML file; one that is absent, or not marked, is not outdated.
        data: the folder that stages write to.

    Raises:
        OSError: when a file cannot be read.
    """
    if not page.exists():
        return False
    with page.open(encoding="utf-8", errors="replace") as opened:
        mark = _MARK.search(opened.read(_TOP))
    return mark is not None and mark[1] != results_digest(data)
