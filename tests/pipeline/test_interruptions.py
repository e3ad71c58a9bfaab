"""What DVC, the disk or a second process interrupt is neither lost nor computed twice."""

import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from helpers.project import Project, stages_run
from helpers.small_disk import small_disk

pytestmark = pytest.mark.slow


@pytest.fixture
def started(prepared: Project, tmp_path: Path) -> Project:
    """A project that is ready to train."""
    return prepared.copy(tmp_path / "harveyseg")


def test_a_training_that_dvc_cannot_commit_is_restored_and_not_repeated(started: Project) -> None:
    cache = started.folder / ".dvc" / "cache"
    shutil.move(cache, cache.with_name("kept"))
    with small_disk(cache, "64m"):
        shutil.copytree(cache.with_name("kept"), cache, dirs_exist_ok=True)
        (cache / "ballast").write_bytes(bytes(shutil.disk_usage(cache).free - 40_960))  # too little for the weights
        printed = started.run("dvc", "repro", "train", ok=False, HARVEYSEG_PROGRESS_SECONDS="0")
    assert "epoch 1/1" in printed
    assert "No space left on device" in printed
    record = started.record("unet-0")
    cache.rmdir()
    shutil.move(cache.with_name("kept"), cache)
    printed = started.run("dvc", "repro", "evaluate", HARVEYSEG_PROGRESS_SECONDS="0")
    assert stages_run(printed) == {"train@unet-0", "evaluate@unet-0"}
    assert "epoch 1/1" not in printed
    assert started.record("unet-0") == record
    assert started.runs("status = 'FINISHED'") == started.runs() == 1
    assert not list((started.folder / ".checkpoints").iterdir())


def test_two_experiments_that_need_one_training_share_it(started: Project) -> None:
    commands = [
        [
            "dvc",
            "exp",
            "run",
            "--temp",
            "--name",
            name,
            "-S",
            "train.epochs=20",
            "-S",
            f"inference.tta={tta}",
            "evaluate",
        ]
        for name, tta in (("plain", "none"), ("flips", "flips"))
    ]
    experiments = [
        subprocess.Popen(
            command,
            cwd=started.folder,
            env=started.environment | {"HARVEYSEG_PROGRESS_SECONDS": "0"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for command in commands
    ]
    printed = [experiment.communicate(timeout=600)[0] for experiment in experiments]
    assert [experiment.returncode for experiment in experiments] == [0, 0], "\n".join(printed)
    assert sorted(text.count("Another process runs this very training") for text in printed) == [0, 1]
    assert sorted("epoch 20/20" in text for text in printed) == [False, True]
    with_uids = """select count(distinct value) from tags join runs on runs.run_uuid = tags.run_uuid
                   where key = 'harveyseg.uid' and runs.name like 'unet%'"""
    assert started.query(with_uids) == 1


def test_folds_are_those_of_the_file_of_groups_as_it_is(started: Project) -> None:
    """Back and forth between two versions of the file and two seeds; nothing is forced."""
    ids = list(pd.read_csv(started.folder / "data" / "splits" / "folds.csv", dtype=str)["id"])
    versions = [
        {photo: f"{name}{row // 2 if name == 'a' else row % 4}" for row, photo in enumerate(ids)} for name in "ab"
    ]
    options = ["-S", "split.groups=groups.csv", "-S", "data.inputs=groups.csv"]
    for version, seed in [(0, 0), (0, 1), (1, 0), (0, 0), (1, 1)]:
        rows = [f"{photo},{group}" for photo, group in versions[version].items()]
        (started.folder / "groups.csv").write_text("\n".join(["id,group", *rows, ""]))
        started.run("dvc", "exp", "run", *options, "-S", f"split.seed={seed}", "split")
        folds = pd.read_csv(started.folder / "data" / "splits" / "folds.csv", dtype=str)
        assert dict(zip(folds["id"], folds["group"], strict=True)) == versions[version]
        assert (folds.groupby("group")["fold"].nunique() == 1).all()
    assert started.stages("dvc", "repro", "split") == set()
    assert "up to date" in started.run("dvc", "status", "split")


def test_a_queued_experiment_reads_the_files_of_its_time(started: Project) -> None:
    """DVC records the file in the experiment's copy; an edit in the project meanwhile belongs to later experiments."""
    ids = list(pd.read_csv(started.folder / "data" / "splits" / "folds.csv", dtype=str)["id"])
    before, edited = ("".join(f"{photo},{row // n}\n" for row, photo in enumerate(ids)) for n in (2, 4))
    groups = started.folder / "groups.csv"
    groups.write_text(f"id,group\n{before}")
    started.commit("groups")
    options = ["-S", "split.groups=groups.csv", "-S", "data.inputs=groups.csv"]
    started.run("dvc", "exp", "run", "--queue", "--name", "queued", *options, "split")
    groups.write_text(f"id,group\n{edited}")
    started.run("dvc", "exp", "run", "--run-all")
    # `dvc exp apply` would fail: the stages after `split` have never run.
    commit = started.run("git", "for-each-ref", "--format=%(objectname)", "refs/exps/*/*/queued").strip()
    (started.folder / "dvc.lock").write_text(started.run("git", "show", f"{commit}:dvc.lock"))
    started.run("dvc", "checkout", "--force", "data/splits")
    folds = pd.read_csv(started.folder / "data" / "splits" / "folds.csv", dtype=str)
    assert "".join(f"{row.id},{row.group}\n" for row in folds.itertuples()) == before


@pytest.mark.parametrize(("folder", "stage"), [("cache", "resize-cache"), ("predictions", "evaluate")])
def test_a_full_disk_is_one_sentence_and_the_stage_can_be_repeated(started: Project, folder: str, stage: str) -> None:
    place = started.folder / "data" / folder
    if stage == "evaluate":
        started.run("dvc", "repro", "train")
    shutil.rmtree(place, ignore_errors=True)
    with small_disk(place, "200k"):
        printed = started.run("dvc", "repro", "-f", "-s", stage, ok=False)
        assert "error: data/" in printed
        assert "there is no room for it on its disk" in printed
        assert "Traceback" not in printed
    place.rmdir()
    assert stage in started.run("dvc", "repro", stage)
