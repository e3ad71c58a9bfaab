"""Queued experiments of DVC on a real Ray on this machine; what they must end in comes from DVC alone."""

import csv
import importlib.util
import io
import os
import signal
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from helpers.processes import processes_in
from helpers.toy_pipeline import Toy
from helpers.waiting import wait_until

pytestmark = pytest.mark.slow

OF_A_RUN = {"Experiment", "rev", "typ", "Created", "parent", "State", "Error"}
"""Columns of ``dvc exp show`` that may differ between two experiments with the same results."""


def shown(toy: Toy) -> dict[str, dict[str, str]]:
    """What ``dvc exp show`` says of each experiment, by its width."""
    rows = list(csv.DictReader(io.StringIO(toy.run("dvc", "exp", "show", "--csv"))))
    return {row["width"]: row for row in rows if row["Experiment"]}


def results(toy: Toy) -> dict[str, tuple[dict[str, str], str, str]]:
    """Of each experiment, by its width: what ``dvc exp show`` says, all files of its commit, and its ``dvc.lock``."""
    found = {}
    for width, row in shown(toy).items():
        name = row["Experiment"]
        reference = toy.run("git", "for-each-ref", "--format=%(refname)", f"refs/exps/*/*/{name}").strip()
        files = toy.run("git", "ls-tree", "-r", reference)
        kept = {column: value for column, value in row.items() if column not in OF_A_RUN}
        found[width] = (kept, files, toy.run("git", "show", f"{reference}:dvc.lock"))
    return found


def is_of_ray(process: psutil.Process) -> bool:
    try:
        return any("/ray/" in part or part.startswith("ray::") for part in process.cmdline())
    except psutil.NoSuchProcess:  # it has just ended
        return False


@pytest.mark.long
@pytest.mark.skipif(
    importlib.util.find_spec("ray") is None or (os.cpu_count() or 1) < 2, reason="needs the extra ray and two cores"
)
def test_a_queued_sweep_ends_in_what_dvc_makes_of_it_one_by_one(
    toy: Toy, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    serial = toy.copy(tmp_path / "serial")
    serial.let_trainings_end()
    for project in (toy, serial):  # edits that are not committed, one of them a new file, belong to the experiments
        (project.folder / "settings.txt").write_text("edited settings\n")
        (project.folder / "new.md").write_text("new\n")
        project.run("git", "add", "new.md")
    for width in "234":
        serial.run("dvc", "exp", "run", "--name", f"serial-{width}", "-S", f"width={width}")
        serial.run("git", "add", "new.md")  # DVC leaves it outside of git
    expected = results(serial)
    assert all("\tnew.md\n" in files for _, files, _ in expected.values())
    assert len({lock for _, _, lock in expected.values()}) == 3

    toy.environment["HOME"] = str(tmp_path_factory.mktemp("home"))
    toy.run("dvc", "exp", "run", "--queue", "--name", "sweep", "-S", "width=2,3,4")
    toy.run("dvc", "exp", "run", "--queue", "--name", "forced", "--force", "-S", "width=5")
    (toy.folder / "settings.txt").write_text("an edit after they were queued\n")
    before = toy.run("git", "status", "--porcelain")
    printed = toy.cluster("--queue", "--dry-run")
    assert "\nsweep-2: width=3 (1 core)\n" in printed
    assert "forced: width=5, queued with --force, which only `dvc queue start` knows (1 core)\n" in printed

    log = tmp_path / "log"
    killed = toy.start(log, "cluster", "run", "--queue")
    wait_until(lambda: toy.begun, killed)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    # Ray's workers notice it a moment later, and may begin another training until then.
    wait_until(lambda: not any(map(is_of_ray, processes_in(toy.folder))))
    assert {row["State"] for row in shown(toy).values()} == {"Queued"}
    started = len(toy.begun)

    (toy.folder / "fails.txt").write_text("b")
    toy.let_trainings_end()
    printed = toy.cluster("--queue", code=1)
    assert "error: 4 of 4 experiments failed, and stay queued:" in printed
    assert "failed to run: sh train.sh b, exited with 3" in printed
    assert {row["State"] for row in shown(toy).values()} == {"Queued"}
    assert len(toy.begun) == started + 6

    (toy.folder / "fails.txt").unlink()
    printed = toy.cluster("--queue", code=1)
    assert "  forced: queued with --force, which only `dvc queue start` knows" in printed
    assert len(toy.begun) == started + 9  # what was done was not repeated
    toy.run("dvc", "queue", "remove", "forced")
    assert "0 experiments are queued." in toy.cluster("--queue")
    assert results(toy) == expected
    assert toy.run("git", "status", "--porcelain") == before
    assert (toy.folder / "params.yaml").read_text() == "width: 1\n"
    assert not (toy.folder / ".dvc" / "tmp" / "queue").exists()
    assert processes_in(toy.folder) == []
    # The results are there: applying one trains nothing.
    toy.run("git", "stash")
    toy.run("dvc", "exp", "apply", "sweep-2")
    assert (toy.folder / "data" / "table.txt").read_text() == (
        "a edited settings\na width: 3\nb edited settings\nb width: 3\n"
    )
