"""Progress as a person sees it: a bar on a real terminal, lines in a pipe, and nothing in a program of one's own."""

import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harveyseg import progress
from harveyseg.errors import HarveysegError
from harveyseg.progress import BYTES, SECONDS, Progress, track
from helpers.terminal import run_in_terminal, screen

STEPS = """
import logging, sys, time
from harveyseg.logs import configure_logging
from harveyseg.progress import track
if "quiet" not in sys.argv:
    configure_logging()
for number in track(range(4), "resizing photos"):
    list(track(range(3), "an inner step"))
    if number == 2:
        logging.getLogger("harveyseg.data").warning("3.jpg: dark")
    time.sleep(0.15)
print("done")
"""


BAR = re.compile(r"resizing photos: +(\d+)%\|[^|]*\| (\d)/4 photos, ([\d.]+) photos/s, (\d\d:\d\d|\?) left")


def test_a_terminal_shows_one_bar_with_rate_and_time_left() -> None:
    status, written = run_in_terminal([sys.executable, "-c", STEPS])
    assert status == 0
    shown = [BAR.search(line) for line in written.split("\r") if "resizing" in line]
    assert all(shown)
    states = [match.groups() for match in shown if match]
    assert {(percent, done) for percent, done, _, _ in states} >= {("0", "0"), ("25", "1"), ("50", "2"), ("75", "3")}
    # A step takes 0.15 s at least, so at most 6.67 photos are done in a second.
    assert all(0 < float(rate) < 6.7 for _, done, rate, _ in states if done != "0")
    assert all(left != "?" for _, done, _, left in states if done != "0")
    assert "an inner step" not in written
    assert screen(written) == ["warning: 3.jpg: dark", "done"]  # the bar is gone, and a message has its own line


def test_a_narrow_terminal_keeps_the_bar_in_one_line() -> None:
    _, written = run_in_terminal([sys.executable, "-c", STEPS], columns=60)
    assert re.search(r"\|.\| 2/4 photos", written)
    assert max(map(len, re.split(r"[\r\n]", written))) <= 60


def test_dvc_passes_the_terminal_on_to_a_stage(tmp_path: Path) -> None:
    (tmp_path / "steps.py").write_text(STEPS)
    (tmp_path / "dvc.yaml").write_text(f"stages:\n  steps:\n    cmd: {sys.executable} steps.py\n")
    dvc = [sys.executable, "-m", "dvc"]
    subprocess.run([*dvc, "init", "--no-scm", "--quiet"], cwd=tmp_path, check=True)
    status, written = run_in_terminal([*dvc, "repro"], folder=tmp_path)
    assert status == 0
    assert {match[2] for line in written.split("\r") if (match := BAR.search(line))} >= set("0123")
    shown = screen(written)
    start = next(place for place, line in enumerate(shown) if line.endswith("steps.py"))
    assert shown[start + 1 : start + 3] == ["warning: 3.jpg: dark", "done"]


def test_a_pipe_gets_no_control_characters() -> None:
    for setting in ({"HARVEYSEG_PROGRESS_SECONDS": ""}, {"HARVEYSEG_PROGRESS_SECONDS": "0"}):
        done = subprocess.run(
            [sys.executable, "-c", STEPS], capture_output=True, check=True, env={**os.environ, **setting}
        )
        assert done.stdout == b"done\n"
        lines = done.stderr.decode().splitlines()
        assert not re.search(rb"[\x00-\x09\x0b-\x1f]", done.stderr)
        if setting["HARVEYSEG_PROGRESS_SECONDS"]:
            assert len(lines) == 5
            assert re.fullmatch(r"resizing photos: 1/4 photos, [\d.]+ photos/s, 00:00 left", lines[0])
            assert "warning: 3.jpg: dark" in lines
        else:
            assert lines == ["warning: 3.jpg: dark"]  # it took less than ten seconds


def test_a_program_that_imports_the_package_shows_nothing() -> None:
    assert run_in_terminal([sys.executable, "-c", STEPS, "quiet"]) == (0, "3.jpg: dark\r\ndone\r\n")


def test_a_terminal_that_cannot_write_a_line_again_gets_lines() -> None:
    _, written = run_in_terminal([sys.executable, "-c", STEPS], environment={"TERM": "dumb"})
    assert written == "warning: 3.jpg: dark\r\ndone\r\n"


class Clock:
    """Time that passes when it is told to."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[Clock]:
    caplog.set_level(logging.INFO, logger="harveyseg.progress")
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    monkeypatch.setattr(progress, "is_terminal", lambda: False)
    monkeypatch.setattr(Progress, "_last_line", 0.0)
    yield clock
    assert Progress._shown is None


def test_at_most_one_line_in_ten_seconds_whatever_the_step(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """15 photos of 0.7 s are the first that take more than ten seconds."""
    for step in ("first", "second"):
        for _ in track(range(30), step):
            clock.now += 0.7
    assert [message.partition(" photos")[0] for message in caplog.messages] == [
        "first: 15/30", "first: 30/30", "second: 15/30", "second: 30/30"
    ]  # fmt: skip
    assert caplog.messages[0] == "first: 15/30 photos, 1.43 photos/s, 00:10 left"


def test_what_an_earlier_process_did_does_not_count_for_the_rate(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    with Progress("training", total=100, unit="images", done=60) as shown:
        clock.now += 20
        shown.add(10, "epoch 7/10")
        assert caplog.messages == ["training: 70/100 images, 0.5 images/s, 01:00 left, epoch 7/10"]
        clock.now += 200
        shown.add(1)
    assert caplog.messages[1] == "training: 71/100 images, 20 s each, 09:40 left, epoch 7/10"


@pytest.mark.parametrize(
    ("unit", "done", "total", "expected"),
    [
        (BYTES, 3e6, 12e6, "x: 3.00MB/12.0MB, 300kB/s, 00:30 left"),
        (BYTES, 3e6, None, "x: 3.00MB, 300kB/s, ? left"),
        (SECONDS, 10, 900, "x: 10/900 s, 14:50 left"),
        ("files", 5, None, "x: 5 files, 0.5 files/s, ? left"),
        ("files", 0, 5, "x: 0/5 files, 0 files/s, ? left"),
        ("megapixels", 0.0512, 2.0, "x: 0.051/2 megapixels, 3 min 15 s each, 06:20 left"),
    ],
)
def test_units(unit: str, done: float, total: float | None, expected: str) -> None:
    shown = Progress("x", None, unit)
    shown.reach(done, total)
    assert shown.describe(seconds=10) == expected


def test_a_step_that_fails_leaves_the_place_to_the_next_one(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError, match="broken"), Progress("first", 2):
        raise ValueError("broken")
    with Progress("second", 2) as shown:
        clock.now += 11
        shown.add()
    assert caplog.messages == ["second: 1/2 photos, 11 s each, 00:11 left"]


def test_seconds_between_lines_must_be_a_number(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARVEYSEG_PROGRESS_SECONDS", "often")
    with pytest.raises(HarveysegError, match="HARVEYSEG_PROGRESS_SECONDS = 'often': not a number"):
        list(track([1], "x"))
