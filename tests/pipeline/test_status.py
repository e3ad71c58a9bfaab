"""`harveyseg status`, with a real DVC: what it calls stale is what runs, and experiments are compared as they are."""

import json
import re
from typing import Any

import pytest

from helpers.project import Project, start_project
from helpers.terminal import run_in_terminal

pytestmark = pytest.mark.slow

# In the project's own code, of which it digests the files.
STALE = """
import json
from pathlib import Path
from harveyseg.overview.status import inspect_workspace
stale = inspect_workspace(Path.cwd()).stale
print(json.dumps([stale.reasons, stale.following]))
"""


def stale(project: Project) -> tuple[dict[str, list[str]], list[str]]:
    script = project.folder.parent / "stale.py"
    script.write_text(STALE)
    reasons, following = json.loads(project.run("python", "-P", str(script)).splitlines()[-1])
    return reasons, following


def value_of(printed: str, label: str) -> str:
    return next(line.partition(":")[2].strip() for line in printed.splitlines() if line.startswith(f"{label}:"))


def test_nothing_is_stale_after_a_run(finished: Project) -> None:
    printed = finished.run("harveyseg", "status")
    assert value_of(printed, "trained").startswith("2 of 2 models and folds, the last one ")
    assert value_of(printed, "stale") == "nothing"
    table = finished.table()
    rows = table[table["fold"].astype(str).ne("0")].set_index("model")
    for label, column in (("held out", "val_score"), ("test", "test_score")):
        texts = re.split("[,;] ", value_of(printed, label).replace("all empty", "all_empty"))
        shown = {model: float(score) for model, score in map(str.split, texts)}
        assert set(shown) == set(rows.index)
        for model, score in shown.items():
            assert score == pytest.approx(rows.loc[model, column], abs=6e-5)
        models = list(shown.values())[:-1]
        assert models == sorted(models, reverse=True)
    assert "(stale)" not in printed
    assert "dvc exp run" in value_of(printed, "next")
    assert len(printed.splitlines()) <= 10
    assert finished.run("git", "status", "--porcelain") == ""  # it only looks
    command = [str(finished.programs / "harveyseg"), "status"]
    status, on_screen = run_in_terminal(command, 80, finished.environment, finished.folder)
    assert status == 0
    assert max(map(len, re.split(r"[\r\n]+", on_screen))) <= 80
    assert on_screen.split()[: len(printed.split())] == printed.split()  # and none of DVC's bars


CHANGES = {
    "a setting of all trainings": ("params.yaml", "lr: 0.01", "lr: 0.02"),
    "a setting of the evaluation": ("params.yaml", "tta: none", "tta: flips"),
    "a setting of the post-processing": ("params.yaml", "method: auto", "method: argmax"),
    "code of one network": ("src/harveyseg/models/networks/attention_unet.py", '"""', '# Edited.\n"""'),
    "code of the submission": ("src/harveyseg/evaluation/submission.py", '"""', '# Edited.\n"""'),
    "code of no stage": ("src/harveyseg/cli.py", '"""', '# Edited.\n"""'),
    "a result": ("data/ensemble/weights.json", "{", "{\n"),
}
CAUSES = {
    "a setting of all trainings": {"train@unet-0", "train@attention_unet-0"},
    "a setting of the evaluation": {"evaluate@unet-0", "evaluate@attention_unet-0", "ensemble"},
    "a setting of the post-processing": {"ensemble", "postprocess"},
    "code of one network": {"train@attention_unet-0", "evaluate@attention_unet-0"},
    "code of the submission": {"submit"},
    "code of no stage": set(),
    "a result": {"ensemble"},
}


LONG = ("a setting of all trainings", "a setting of the post-processing")


@pytest.mark.parametrize(
    "change", [pytest.param(change, marks=[pytest.mark.long] if change in LONG else []) for change in CHANGES]
)
def test_what_is_called_stale_is_what_runs(project: Project, change: str) -> None:
    name, old, new = CHANGES[change]
    path = project.folder / name
    assert old in path.read_text()
    path.chmod(0o644)
    path.write_text(path.read_text().replace(old, new, 1))
    reasons, following = stale(project)
    assert set(reasons) == CAUSES[change]
    printed = project.run("harveyseg", "status")
    assert "`dvc repro`" in value_of(printed, "next") if reasons else value_of(printed, "stale") == "nothing"
    ran = project.stages("dvc", "repro") - {"code"}
    # A result that was changed by hand comes back from DVC's cache of runs.
    assert ran >= set(reasons) or change == "a result"
    assert ran <= {*reasons, *following}
    assert stale(project) == ({}, [])


def test_reasons_name_the_setting_and_scores_that_do_not_stand_are_marked(project: Project) -> None:
    params = project.folder / "params.yaml"
    params.write_text(params.read_text().replace("lr: 0.01", "lr: 0.02"))
    printed = project.run("harveyseg", "status")
    assert value_of(printed, "stale") == (
        "train unet-0, attention_unet-0: train.lr is 0.02 in params.yaml and 0.01 in this run"
    )
    assert "then evaluate, ensemble, postprocess, metrics, compare, submit" in printed
    assert value_of(printed, "held out").count("(stale)") == 3
    params.write_text(params.read_text().replace("lr: 0.02", "lr: 0.01").replace("method: auto", "method: argmax"))
    printed = project.run("harveyseg", "status")
    assert "postprocess.method is argmax in params.yaml and auto in the last run" in printed
    # Code that was digested, but that the training has not run with.
    network = project.folder / "src" / "harveyseg" / "models" / "networks" / "attention_unet.py"
    network.write_text(network.read_text().replace('"""', '# Edited.\n"""', 1))
    project.run("dvc", "repro", "code")
    reasons, _ = stale(project)
    assert reasons["train@attention_unet-0"] == ["data/code/train.json modified"]
    assert "train@unet-0" not in reasons


@pytest.mark.long
def test_each_experiment_with_what_it_changed_and_what_it_gained(project: Project) -> None:
    committed = scores(project)

    def expected(setting: str) -> list[str]:
        """Score, gain and changes of the experiment that has just run."""
        found = scores(project)
        gain, own_gain = (found[name] - committed[name] for name in ("ensemble", "unet"))
        moved = f"; unet {own_gain:+.4f}" if abs(own_gain) >= 0.00005 else ""
        return [f"{found['ensemble']:.4f}", f"{gain:+.4f}", f"{setting}{moved}"]

    project.run("dvc", "exp", "run", "--name", "plain", "-S", "postprocess.method=argmax")
    plain = expected("postprocess.method auto -> argmax")
    plain_score = scores(project)["ensemble"]
    project.run("dvc", "exp", "run", "--name", "fast", "-S", "postprocess.method=auto", "-S", "train.lr=0.02")
    fast = expected("train.lr 0.01 -> 0.02")
    project.run("dvc", "exp", "run", "--queue", "--name", "long", "-S", "train.lr=0.01", "-S", "train.epochs=3")
    printed = project.run("harveyseg", "status")
    lines = {line.split()[0]: line.split(maxsplit=3) for line in printed.partition("experiments")[2].splitlines()[1:]}
    assert lines["plain"][1:] == plain
    assert lines["fast"][1:] == [*fast[:-1], f"{fast[-1]} (in the workspace)"]
    assert " ".join(lines["long"][1:]) == "queued train.epochs 2 -> 3"
    assert value_of(printed, "next") == "`dvc queue start` runs long"
    project.run("dvc", "queue", "remove", "--queued")
    other_is_better = plain_score > max(committed["ensemble"], scores(project)["ensemble"])
    following = value_of(project.run("harveyseg", "status"), "next")
    assert following.startswith("`dvc exp apply plain`") == other_is_better
    # The workspace scores what `fast` does, so nobody is told to apply that.
    assert "dvc exp apply fast" not in following


def scores(project: Project) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((project.folder / "data" / "metrics" / "scores.json").read_text())
    return content


def test_a_project_in_which_nothing_has_run(tmp_path_factory: pytest.TempPathFactory) -> None:
    project = start_project(tmp_path_factory.mktemp("new") / "harveyseg", {})
    printed = project.run("harveyseg", "status")
    assert value_of(printed, "trained") == "none of 7 models and folds"
    assert value_of(printed, "next") == "`dvc repro` trains all models"
    assert value_of(printed, "scores") == "none yet"
