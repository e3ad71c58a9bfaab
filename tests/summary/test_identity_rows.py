"""How the summary names the commit of a run."""

from unittest.mock import Mock

import pytest

from harveyseg.summary.content import identity_rows
from harveyseg.summary.links import Links
from helpers.records import make_record


@pytest.mark.parametrize(
    ("commit", "dirty", "shown"),
    [
        ("c0ffee" * 7, False, "c0ffeec"),
        ("c0ffee" * 7, True, "c0ffeec*"),
        ("c0ffee" * 7, None, "c0ffeec?"),
        (None, None, ""),
    ],
)
def test_a_commit_has_a_mark_unless_it_is_known_to_be_clean(commit: str | None, dirty: bool | None, shown: str) -> None:
    record = make_record(git_commit=commit, git_dirty=dirty)
    workspace = Mock(outputs=[Mock(record=record, evaluation="e")])
    assert identity_rows(workspace, Links())[0]["commit"] == shown
