"""Running studies with a real DVC in a real git repository: killed, stopped, repeated, and with photos elsewhere."""

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest
from mlflow.tracking import MlflowClient
from PIL import Image
from ruamel.yaml import YAML

from harveyseg.data.cache import load_part
from harveyseg.data.split import split_hash
from harveyseg.errors import HarveysegError
from harveyseg.reproduction.export import StudyRuns, export_study_runs
from harveyseg.reproduction.studies import find_study, read_recipe, read_studies, study_trials
from harveyseg.tracking.values import unpack_values
from helpers.processes import processes_in
from helpers.project import FEW_PHOTOS, Project, start_project
from helpers.studies import make_variant
from helpers.waiting import wait_until

pytestmark = pytest.mark.slow

CHANGES: dict[str, object] = {
    "data": FEW_PHOTOS,
    "resize-cache": {"size": 64},
    "split": {"folds": 2, "groups": "none"},
    "models": {
        "unet": {"network": "unet", "width": 4, "dropout": 0.1, "batch_norm": "encoder"},
        "attention_unet": {"network": "attention_unet", "width": 4},
    },
    "train": {"epochs": 2, "batch_size": 4, "lr": 0.01, "schedule": {"name": "plateau"}, "threads": 1},
    "inference": {"threads": 1},
    "postprocess": {"method": "argmax"},
}


class Study:
    """The command, in an environment that is not active: its commands are not on the path."""

    def __init__(self, project: Project, log: Path) -> None:
        self.project = project
        self.log = log
        self.script = str(project.programs / "harveyseg")
        folders = project.environment["PATH"].split(os.pathsep)
        inactive = {str(project.programs), str(Path(sys.executable).parent)}
        path = os.pathsep.join(folder for folder in folders if folder not in inactive)
        self.environment = {"PYTHONPATH": str(project.folder / "src"), "PATH": path}

    def run(self, *arguments: str, ok: bool = True) -> str:
        return self.project.run(self.script, *arguments, ok=ok, **self.environment)

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        with self.log.open("w") as opened:
            return subprocess.Popen(
                [self.script, *arguments],
                cwd=self.project.folder,
                env={**self.project.environment, **self.environment},
                stdout=opened,
                stderr=opened,
            )

    def wait_for(self, started: subprocess.Popen[bytes], pattern: str, times: int, file: Path) -> None:
        """Wait until what a process writes to a file has the pattern so many times, or a trial fails."""

        def found() -> bool:
            assert ": failed: " not in self.log.read_text(), "a trial failed"
            return file.exists() and len(re.findall(pattern, file.read_text())) >= times

        try:
            wait_until(found, started, seconds=600)
        except AssertionError as error:
            logs = {self.log, file, *(self.project.folder / ".dvc" / "tmp").glob("study-*.log")}
            written = "\n".join(f"{log}:\n{log.read_text()}" for log in sorted(logs) if log.exists())
            raise AssertionError(f"{error}\n{written}") from None


@pytest.mark.long
def test_a_study_that_is_killed_continues_with_what_is_missing(tmp_path: Path) -> None:
    project = start_project(tmp_path / "a" / "harveyseg", CHANGES)
    # Each trial runs in a copy, from which this path leads elsewhere.
    project.run("dvc", "repro", "download")
    project.use_photos("../../elsewhere/photos")
    project.commit("photos")
    study = Study(project, tmp_path / "log")
    # An edit that is not committed belongs to the study, and stays as it is whatever happens.
    edited = project.folder / "stages" / "train.py"
    with edited.open("a") as opened:
        opened.write("# an edit of the user's\n")
    before = {path: (project.folder / path).read_bytes() for path in ("params.yaml", "stages/train.py")}

    started = study.start("study", "softmax", "adaptive_lr")
    study.wait_for(started, r": runs \(", 2, study.log)
    for process in processes_in(project.folder):
        process.kill()
    assert started.wait() == -signal.SIGKILL
    # Three trials: the recipe itself is in both studies. One is done, one was killed, one had not begun.
    assert "softmax, adaptive_lr: 3 trials, 0 done before" in study.log.read_text()
    assert {path: (project.folder / path).read_bytes() for path in before} == before
    assert project.run("git", "stash", "list") == ""
    assert project.run("git", "status", "--porcelain", "--untracked-files=no") == " M stages/train.py\n"

    printed = study.run("study", "softmax", "adaptive_lr")
    assert "softmax, adaptive_lr: 3 trials, 1 done before" in printed
    assert "Data: directory, 64x64 pixels." in printed
    client = MlflowClient(tracking_uri=f"sqlite:///{project.folder / 'mlflow.db'}")
    found = client.search_runs(["1"], "tags.`harveyseg.kind` = 'train' AND attributes.status = 'FINISHED'")
    tagged = sorted(
        (run.data.tags.get("study.softmax", ""), run.data.tags.get("study.adaptive_lr", "")) for run in found
    )
    # The recipe learns with a plateau and one softmax: one run is a variant of both studies.
    assert tagged == [("", "off"), ("off", "on"), ("on", "")]
    table = (project.folder / "data" / "reports" / "study-softmax.md").read_text()
    assert re.findall(r"^\| (on|off) \| +1 \| +0\.\d{4}", table, re.MULTILINE) == ["off", "on"]
    # The data's class shares came along with the ensembles.
    ensembles = client.search_runs(["1"], "tags.`harveyseg.kind` = 'ensemble'")
    assert len(ensembles) == 3
    for run in ensembles:
        values = unpack_values(run.data.tags)
        shares = [value for name, value in values.items() if name.startswith("data/pixel_share/")]
        assert sum(shares) == pytest.approx(1)
    # DVC lists the trials as experiments.
    assert len(project.run("git", "for-each-ref", "refs/exps").splitlines()) == 3

    # Done is done, also after a commit that changes no code.
    runs = project.runs()
    assert "3 trials, 3 done before" in study.run("study", "softmax", "adaptive_lr")
    project.commit("the edit, and nothing else")
    assert "2 trials, 2 done before" in study.run("study", "adaptive_lr")
    assert project.runs() == runs
    # The table comes from MLflow alone.
    os.remove(project.folder / "data" / "reports" / "study-softmax.md")
    study.run("table", "--study", "softmax")
    assert (project.folder / "data" / "reports" / "study-softmax.md").read_text() == table

    # Other photos make other trials: here, one mask is another one.
    mask = min((tmp_path / "elsewhere" / "photos" / "train_masks").iterdir())
    labels = mask.read_bytes()
    Image.new("L", Image.open(mask).size).save(mask)
    started = study.start("study", "softmax")
    study.wait_for(started, "2 trials, 0 done before", 1, study.log)
    started.send_signal(signal.SIGTERM)
    assert started.wait(60) != 0
    mask.write_bytes(labels)
    assert "2 trials, 2 done before" in study.run("study", "softmax")
    assert project.runs() == runs

    # Other code makes other trials.
    blocks = project.folder / "src" / "harveyseg" / "models" / "blocks.py"
    blocks.write_text(blocks.read_text() + "\n# changed\n")
    started = study.start("study", "softmax")
    wait_until(lambda: project.runs() == runs + 1, started, seconds=600)
    assert "2 trials, 0 done before" in study.log.read_text()
    started.send_signal(signal.SIGTERM)
    assert started.wait(60) != 0
    assert not (project.folder / ".dvc" / "tmp" / "study").exists()


def test_a_trial_that_ran_on_another_machine_does_not_run_again(tmp_path: Path) -> None:
    project = start_project(tmp_path / "harveyseg", {**CHANGES, "folds": [0, 1]})
    project.run("dvc", "repro", "split")
    recipe = read_recipe(project.folder / "params.yaml")
    data = project.folder / "data"
    photos = {
        "data_hash": load_part(data / "cache" / "train").data_hash,
        "split_hash": split_hash(data / "splits" / "folds.csv"),
    }
    studies: dict[str, dict[str, str]] = {}
    for name, definition in read_studies().items():
        with suppress(HarveysegError):  # the recipe lacks what this study varies
            for trial in study_trials(definition, recipe, 1):
                studies.setdefault(trial.name, {})[name] = trial.variant
    file = tmp_path / "studies.jsonl.xz"
    off, on = study_trials(find_study("softmax"), recipe, 1)
    assert (off.variant, on.variant) == ("off", "on")

    def export(changes: dict[str, str]) -> None:
        """Runs of `on` with both folds, and of `off` with one, as if exported elsewhere."""
        runs = []
        for trial, fold in ((on, 0), (on, 1), (off, 0)):
            ((run,),) = make_variant(f"{trial.variant}-{fold}", 0.7).seeds
            here = {"studies": studies[trial.name], "seed": trial.seed, "fold": fold}
            runs.append(run.model_copy(update=here | photos | changes))
        export_study_runs(StudyRuns(recipe, {}, tuple(runs)), file)

    study = Study(project, tmp_path / "log")
    for digest in photos:
        export({digest: "f" * 64})
        printed = study.run("study", "softmax", "--done", str(file), ok=False)
        assert "studies.jsonl.xz: its runs are of other photos, masks or classes than this project's" in printed
        assert ": runs (" not in printed
    export({})
    printed = study.run("study", "softmax", "--done", str(file))
    assert "studies.jsonl.xz: its runs are of the commit ccccccc, this project is at " in printed
    assert "softmax: 1 of 2 trials are in exported files" in printed
    assert "softmax: 1 trials, 0 done before" in printed
    assert re.findall(r"\((study-\w+)\): argmax score", printed) == [off.name]
    # The table has both, one seed of each.
    table = r"^\| (on|off) \| +1 \| +0\.\d{4}"
    assert sorted(re.findall(table, printed, re.MULTILINE)) == ["off", "on"]
    # A second time nothing runs, and the table is the same.
    printed = study.run("study", "softmax", "--done", str(file))
    assert "softmax: 1 trials, 1 done before" in printed
    assert ": runs (" not in printed
    assert sorted(re.findall(table, printed, re.MULTILINE)) == ["off", "on"]


def test_a_study_that_is_told_to_stop_ends_its_trainings(tmp_path: Path) -> None:
    project = start_project(tmp_path / "harveyseg", {**CHANGES, "train": {**CHANGES["train"], "epochs": 100_000}})  # type: ignore[dict-item]
    study = Study(project, tmp_path / "log")
    started = study.start("study", "softmax", "--jobs", "2")
    study.wait_for(started, r": runs \(", 2, study.log)
    for log in re.findall(r"log: (\S+)\)", study.log.read_text()):
        study.wait_for(started, "Running stage 'train@unet-0'", 1, project.folder / log)
    second = study.run("study", "softmax", ok=False)
    assert "error: Another study runs in this project." in second
    # An epoch takes a part of a second, so what is left of 100,000 takes hours, for two trials at the same time.
    left = r"study: [\d.e-]+/2 trials, [^,]+ each, \d+:\d\d:\d\d left, 2 running\n"
    study.wait_for(started, left, 1, study.log)
    notes = re.findall("no epoch has ended yet|2 running", study.log.read_text())
    assert "no epoch has ended yet" not in notes[notes.index("2 running") :]
    started.send_signal(signal.SIGTERM)
    assert started.wait(60) != 0
    assert "The same command continues with what is missing." in study.log.read_text()
    assert processes_in(project.folder) == []
    assert not (project.folder / ".dvc" / "tmp" / "study").exists()


@pytest.mark.long
def test_a_project_inside_a_larger_repository_and_photos_that_are_not_in_git(tmp_path: Path) -> None:
    project = start_project(tmp_path / "larger" / "harveyseg", CHANGES)
    shutil.rmtree(project.folder / ".git")
    readme = tmp_path / "larger" / "README.md"
    readme.write_text("More than a project.\n")
    project.run("git", "init", "-q", str(readme.parent))
    project.run("git", "add", "../README.md")
    project.commit("start")
    readme.write_text("Edited.\n")
    project.run("dvc", "repro", "download")
    project.use_photos("photos")
    printed = Study(project, tmp_path / "log").run("study", "softmax", "--jobs", "2")
    assert len(re.findall(r": argmax score 0\.\d{4}, score 0\.\d{4}", printed)) == 2
    assert "Data: directory, 64x64 pixels." in printed
    assert len(project.run("git", "for-each-ref", "refs/exps").splitlines()) == 2
    assert "2 trials, 2 done before" in Study(project, tmp_path / "log").run("study", "softmax")


def outputs(project: Project) -> dict[str, dict[str, str]]:
    """Of each experiment, the digests of its outputs without ids and times."""
    found = {}
    for line in project.run(
        "git", "for-each-ref", "--format=%(objectname) %(refname:lstrip=-1)", "refs/exps"
    ).splitlines():
        commit, name = line.split()
        stages = YAML(typ="safe", pure=True).load(project.run("git", "show", f"{commit}:dvc.lock"))["stages"]
        outs = [out for stage in stages.values() for out in stage["outs"]]
        kept = {
            out["path"]: out["md5"] for out in outs if out["path"].endswith((".npy", ".safetensors", "confusion.csv"))
        }
        found[name] = {"data": str(stages["split"]), **kept}
    return found


@pytest.mark.long
@pytest.mark.skipif(
    importlib.util.find_spec("ray") is None or (os.cpu_count() or 1) < 2, reason="needs the extra ray and two cores"
)
def test_a_study_on_a_cluster_ends_in_the_same_files(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    serial = start_project(tmp_path / "serial", CHANGES)
    one_by_one = Study(serial, tmp_path / "log").run("study", "softmax")
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))  # for Ray's token
    clustered = start_project(tmp_path / "clustered", CHANGES)
    study = Study(clustered, tmp_path / "log")
    assert "--on ray: must be cluster" in study.run("study", "softmax", "--on", "ray", ok=False)
    printed = study.run("study", "softmax", "--on", "cluster")
    assert "Ray listens on 127.0.0.1 only." in printed
    expected = outputs(serial)
    assert [len(digests) for digests in expected.values()] == [7, 7]
    assert outputs(clustered) == expected
    tables = []
    for project in (serial, clustered):
        reports = {path.name: path.read_text() for path in (project.folder / "data" / "reports").iterdir()}
        table = pd.read_csv(StringIO(reports.pop("study-softmax.csv")))
        tables.append((reports, table.drop(columns="seconds").to_csv()))  # all but the time that a training took
    assert tables[0] == tables[1]
    assert reports["study-softmax.md"] in one_by_one
    assert reports["study-softmax.md"] in printed
    assert "2 trials, 2 done before" in study.run("study", "softmax", "--on", "cluster")
    assert clustered.runs() == serial.runs() == 2
    assert clustered.runs("runs.status != 'FINISHED'") == 0
    assert not (clustered.folder / ".dvc" / "tmp" / "study").exists()


def test_without_a_commit_it_says_what_is_missing(tmp_path: Path) -> None:
    project = start_project(tmp_path / "harveyseg", CHANGES)

    def refusal() -> str:
        return Study(project, tmp_path / "log").run("study", "softmax", ok=False)

    shutil.rmtree(project.folder / ".git")
    assert f"error: {project.folder} is not a git repository, which DVC's experiments need. Run `git init" in refusal()
    project.run("git", "init", "-q")
    assert f"error: {project.folder}: nothing is committed, which DVC's experiments need." in refusal()


def test_a_trial_that_fails_says_why_at_once_and_the_others_run(tmp_path: Path) -> None:
    project = start_project(tmp_path / "harveyseg", {**CHANGES, "data": {"source": "directory", "path": "../photos"}})
    (tmp_path / "photos").mkdir()
    printed = Study(project, tmp_path / "log").run("study", "softmax", ok=False)
    reasons = re.findall(r"^error: (.+, seed 0 \(study-\w+\)): failed: (.*)$", printed, re.MULTILINE)
    assert len(reasons) == 2
    assert printed.index(f"error: {reasons[0][0]}: failed") < printed.index(f"{reasons[1][0]}: runs (log: ")
    for _, reason in reasons:
        log = re.fullmatch(rf"the photos in {re.escape(str(project.folder))}/\.\./photos: 2 problems \((.+)\)", reason)
        assert log is not None, reason
        assert "photos" in Path(log[1]).read_text()
    assert "2 trials failed:" in printed
