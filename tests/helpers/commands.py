"""The command `harveyseg`, run in this process."""

import sys

import pytest

from harveyseg import cli


def run_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str, str]:
    """Exit status, stdout and stderr."""
    monkeypatch.setattr(sys, "argv", ["harveyseg", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.app()
    out, err = capsys.readouterr()
    status = ended.value.code
    assert status is None or isinstance(status, int)
    return status or 0, out, err
