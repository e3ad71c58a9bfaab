"""What a study says while its trials run, with trials that train nothing."""

import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harveyseg.reproduction import runner


class Copies:
    """Copies of a project in which a trial lasts until it is told to end."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ending = threading.Event()

    def log(self, name: str) -> Path:
        return self.root / f"{name}.log"

    def run(self, _experiment: object) -> None:
        assert self.ending.wait(60)


def test_before_the_first_epoch_has_ended_no_time_is_foretold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    copies: Any = Copies(tmp_path)
    tasks: Mapping[str, Any] = {name: name for name in ("a", "b")}
    experiments: Mapping[str, Any] = {name: SimpleNamespace() for name in tasks}
    ended = []
    shares = iter([None] * 6 + [0.25, 0.25])  # three looks at two trials before an epoch ends, one after it

    def share(_name: str, _seconds: float) -> float | None:
        found = next(shares, 0.5)
        if found == 0.5:
            copies.ending.set()
        return found

    monkeypatch.setattr(runner, "_SECONDS_BETWEEN_LOOKS", 0.05)
    monkeypatch.setenv("HARVEYSEG_PROGRESS_SECONDS", "0")
    with caplog.at_level(logging.INFO, "harveyseg"):
        runner._run_here(copies, experiments, tasks, 2, lambda name, why: ended.append((name, why)), share)
    lines = [line for line in caplog.messages if line.startswith("study: ")]
    assert [line.partition(" trials, ")[0] for line in lines[:4]] == ["study: 0/2"] * 3 + ["study: 0.5/2"]
    assert all(line.endswith("no epoch has ended yet") for line in lines[:3])
    assert lines[3].endswith("00:00 left, 2 running")
    assert sorted(ended) == [("a", ""), ("b", "")]
