"""`harveyseg work` with real DVC and git, on a pipeline whose trainings last until the test says so."""

import re
import shutil
import signal
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from helpers.paths import ROOT
from helpers.processes import processes_in
from helpers.project import stages_run
from helpers.toy_pipeline import TRAINING, Toy
from helpers.waiting import wait_until

pytestmark = pytest.mark.slow

DOCUMENT = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")


def test_the_project_takes_over_what_workers_made_and_trains_nothing(toy: Toy) -> None:
    toy.let_trainings_end()
    # Neither an uncommitted edit nor the order of the names changes what is trained.
    (toy.folder / "train.sh").write_text(TRAINING.replace("sed ", "true edited; sed "))
    printed = toy.work("evaluate@a", "train@a")
    assert stages_run(printed) == {"train@a", "evaluate@a"}
    toy.work("train@b")
    assert toy.begun == ["a", "b"]
    # Runs of the same settings and code share their pipeline's name.
    assert len(set((toy.folder / "pipelines.txt").read_text().splitlines())) == 1
    assert not (toy.folder / "data" / "model-a.txt").exists()
    assert not list((toy.folder / ".dvc" / "tmp" / "work").iterdir())
    assert stages_run(toy.run("dvc", "repro")) == {"evaluate@b", "table"}
    assert toy.begun == ["a", "b"]
    expected = "".join(f"{model} {line}\n" for model in "ab" for line in ("settings", "width: 1"))
    assert (toy.folder / "data" / "table.txt").read_text() == expected
    assert "up to date" in toy.run("dvc", "status")


def test_all_items_at_once_as_the_documentation_says(toy: Toy) -> None:
    [block] = [block for block in re.findall(r"```sh\n(.*?)```", DOCUMENT, re.DOTALL) if "xargs" in block]
    toy.let_trainings_end()
    printed = toy.run("sh", "-c", block.replace("dvc repro split\n", "dvc repro prepare\n"))
    assert toy.begun == ["a", "b"]
    assert stages_run(printed.split("done. `dvc repro` takes the results over.")[-1]) == {"table"}
    assert "up to date" in toy.run("dvc", "status")


def test_two_workers_that_want_one_item_train_it_once(toy: Toy, tmp_path: Path) -> None:
    logs = [tmp_path / "1.log", tmp_path / "2.log"]
    workers = [toy.start(log, "work", "train@a", "evaluate@a") for log in logs]
    wait_until(lambda: toy.begun)
    wait_until(lambda: any("Another process works on evaluate@a." in log.read_text() for log in logs))
    toy.let_trainings_end()
    assert [worker.wait(600) for worker in workers] == [0, 0], [log.read_text() for log in logs]
    assert toy.begun == ["a"]
    assert sorted(len(stages_run(log.read_text())) for log in logs) == [0, 2]
    assert stages_run(toy.run("dvc", "repro", "evaluate@a")) == set()


def test_after_a_command_was_killed_the_next_one_waits_for_its_training(toy: Toy, tmp_path: Path) -> None:
    killed = toy.start(tmp_path / "1.log", "work", "train@a")
    wait_until(lambda: toy.begun, killed)
    killed.kill()
    killed.wait()
    log = tmp_path / "2.log"
    second = toy.start(log, "work", "train@a")
    wait_until(lambda: "Another process works on train@a. Waiting for it" in log.read_text(), second)
    toy.let_trainings_end()
    assert second.wait(600) == 0, log.read_text()
    assert toy.begun == ["a"]
    assert stages_run(toy.run("dvc", "repro", "train@a")) == set()
    assert not list((toy.folder / ".dvc" / "tmp" / "work").iterdir())


def test_after_a_machine_was_lost_the_next_command_begins_again(toy: Toy, tmp_path: Path) -> None:
    lost = toy.start(tmp_path / "1.log", "work", "train@a")
    wait_until(lambda: toy.begun, lost)
    for process in processes_in(toy.folder):
        process.kill()
    lost.wait()
    toy.let_trainings_end()
    toy.work("train@a")
    assert toy.begun == ["a", "a"]
    assert not list((toy.folder / ".dvc" / "tmp" / "work").iterdir())
    assert stages_run(toy.run("dvc", "repro", "train@a")) == set()


def copies(toy: Toy) -> list[Path]:
    return list((toy.folder / ".dvc" / "tmp" / "work").glob("*/*/project"))


def test_after_a_process_was_killed_the_next_command_takes_its_copy_over(toy: Toy, tmp_path: Path) -> None:
    first = toy.start(tmp_path / "1.log", "work", "train@a")
    wait_until(lambda: toy.begun, first)
    [left] = copies(toy)
    number = left.stat().st_ino
    [worker] = psutil.Process(first.pid).children()
    worker.kill()
    assert first.wait(120) == 128 + signal.SIGKILL
    assert processes_in(toy.folder) == []
    (left / "new.md").write_text("left by an edit of then")
    (toy.folder / "train.sh").write_text(TRAINING.replace("sed ", "true committed; sed "))
    toy.commit()
    (toy.folder / "train.sh").write_text(TRAINING.replace("sed ", "true edited; sed "))
    second = toy.start(tmp_path / "2.log", "work", "train@a")
    wait_until(lambda: len(toy.begun) == 2, second)
    [again] = copies(toy)
    assert again.stat().st_ino == number
    assert "true edited" in (again / "train.sh").read_text()
    assert not (again / "new.md").exists()
    # Where its training outlived it, the copy is not used again.
    second.kill()
    [worker] = [process for process in processes_in(again) if "harveyseg.scaling.worker" in process.cmdline()]
    worker.kill()
    third = toy.start(tmp_path / "3.log", "work", "train@a")
    wait_until(lambda: len(toy.begun) == 3, third)
    assert len(copies(toy)) == 2
    toy.let_trainings_end()
    assert third.wait(120) == 0, (tmp_path / "3.log").read_text()
    assert copies(toy) == []
    assert stages_run(toy.run("dvc", "repro", "train@a")) == set()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_training(toy: Toy, tmp_path: Path, number: signal.Signals) -> None:
    stopped = toy.start(tmp_path / "log", "work", "train@a")
    wait_until(lambda: toy.begun, stopped)
    training = [process for process in psutil.Process(stopped.pid).children(recursive=True) if process.name() == "sh"]
    assert training
    stopped.send_signal(number)
    assert stopped.wait(120) == 130
    assert processes_in(toy.folder) == []
    assert not list((toy.folder / ".dvc" / "tmp" / "work").glob("*/*"))


def test_what_keeps_a_worker_from_beginning_is_one_sentence_with_the_remedy(toy: Toy) -> None:
    printed = toy.work("train@c", code=1)
    assert f"error: train@c: no stage of {toy.folder}/dvc.yaml. Was train@" in printed
    assert "`dvc stage list --name-only` prints all." in printed
    assert "error: code: DVC keeps no results of this stage" in toy.work("code", code=1)
    assert "train@a must run before evaluate@a" in toy.work("evaluate@a", code=1)
    # A stage before it is outdated, and so is what was made from its results.
    (toy.folder / "params.yaml").write_text("width: 2\n")
    printed = toy.work("train@a", code=1)
    assert f"error: {toy.folder}: prepare must run before train@a" in printed
    assert "Run `dvc repro prepare` there" in printed
    toy.run("dvc", "repro", "prepare")
    shutil.rmtree(toy.folder / ".dvc" / "cache")
    printed = toy.work("train@a", code=1)
    assert "results that the items read are not stored" in printed
    assert "Run `dvc commit --force prepare` there." in printed
    assert toy.begun == []
    assert not list((toy.folder / ".dvc" / "tmp" / "work").iterdir())
    toy.run("dvc", "commit", "--force", "prepare")
    toy.let_trainings_end()
    assert stages_run(toy.work("train@a")) == {"train@a"}


def test_a_stage_that_fails_gives_an_exit_status_and_keeps_what_is_done(toy: Toy) -> None:
    toy.let_trainings_end()
    (toy.folder / "fails.txt").write_text("b")
    assert "error: train@b: failed to run: sh train.sh b, exited with 3" in toy.work("train@a", "train@b", code=1)
    assert stages_run(toy.run("dvc", "repro", "train@a")) == set()
    (toy.folder / "fails.txt").unlink()
    assert stages_run(toy.work("train@a", "train@b")) == {"train@b"}


def test_over_a_remote_a_second_checkout_works_with_a_cache_of_its_own(toy: Toy, tmp_path: Path) -> None:
    toy.run("dvc", "remote", "add", "--default", "store", "../store")  # a relative path is that of the project
    toy.commit()
    second = Toy(tmp_path / "second")
    toy.run("git", "clone", "-q", ".", str(second.folder))
    second.let_trainings_end()
    assert "Run `dvc push prepare` where they ran." in second.work("--pull", "train@a", code=1)
    toy.run("dvc", "push")
    # The record of a run of another stage, which is not this worker's to push.
    other = second.folder / ".dvc" / "cache" / "runs" / "aa" / "aaaa" / "bbbb"
    other.parent.mkdir(parents=True)
    other.write_text("cmd: other\nouts:\n- path: data/other.txt\n  md5: d41d8cd98f00b204e9800998ecf8427e\n")
    assert stages_run(second.work("--pull", "train@a", "evaluate@a")) == {"train@a", "evaluate@a"}
    pushed = list((tmp_path / "store").glob("**/runs/*/*/*"))
    assert len(pushed) == 2
    assert not any("data/other.txt" in path.read_text() for path in pushed)
    # A third one, and then the project, find the results and train nothing.
    third = Toy(tmp_path / "third")
    toy.run("git", "clone", "-q", ".", str(third.folder))
    assert stages_run(third.work("--pull", "train@a")) == set()
    assert stages_run(toy.run("dvc", "repro", "--pull", "evaluate@a")) == set()
    assert (toy.folder / "data" / "score-a.txt").read_text() == "a settings\na width: 1\n"
    assert (second.begun, third.begun, toy.begun) == (["a"], [], [])
