"""Studies: what they change, checked with DVC's own reading of the options, and a real queue that is really killed."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest
from dvc.utils.hydra import apply_overrides
from mlflow.tracking import MlflowClient

from harveyseg.config.preset import apply_preset
from harveyseg.config.settings import load
from harveyseg.errors import HarveysegError
from harveyseg.pipeline.check import check_params
from harveyseg.reproduction.studies import (
    KEPT_PARAMS,
    Base,
    _Queue,
    find_study,
    read_base,
    read_studies,
    restore_params,
    study_tag,
    trials,
    variants,
)
from helpers.paths import ROOT
from helpers.project import Project, start_project

REPORT = {
    "channels": ["64", "32", "16"],
    "class_weights": ["none", "report", "enet"],
    "dropout": ["0.0", "0.1", "0.3"],
    "batch_norm": ["off", "encoder", "both"],
    "discriminative_lr": ["off", "on"],
    "adaptive_lr": ["off", "on"],
    "softmax": ["off", "on"],
    "size": ["512", "256"],
    "architecture": [
        "unet", "attention_unet", "unetplusplus", "mobilenet_v2", "efficientnet_b1", "efficientnet_b2",
        "efficientnet_b3", "fcn", "segnet",
    ],
    "epochs": ["20", "25", "30", "35"],
}  # fmt: skip
"""The variants of each study of the report's recipe; `grid` besides."""


@pytest.fixture
def params(tmp_path: Path) -> Path:
    """params.yaml with the report's recipe."""
    path = tmp_path / "params.yaml"
    path.write_text((ROOT / "params.yaml").read_text())
    apply_preset("report", path)
    return path


def settings(params: Path, options: tuple[str, ...], folder: Path) -> dict[str, Any]:
    """params.yaml as DVC makes it of these -S options."""
    copy = folder / "changed.yaml"
    copy.write_text(params.read_text())
    apply_overrides(copy, list(options))
    return load(copy)


def test_every_study_of_the_report_is_there(params: Path) -> None:
    base = read_base(params)
    assert {name: list(variants(find_study(name), base)) for name in read_studies() if name != "grid"} == REPORT
    grid = list(variants(find_study("grid"), base))
    assert len(grid) == 9
    assert grid[:2] == ["lr 0.0003, epochs 20", "lr 0.0003, epochs 25"]


def test_the_reports_recipe_is_in_each_study_but_that_of_networks_as_one_trial(params: Path) -> None:
    base = read_base(params)
    own = {"16", "none", "0.1", "encoder", "on", "256", "25", "lr 0.001, epochs 25", "unet"}
    names = [
        trial.name for name in read_studies() for trial in trials(find_study(name), base, 1) if trial.variant in own
    ]
    assert len(names) == len(read_studies()) == 11
    assert len(set(names)) == 1


def test_no_two_trials_are_the_same_by_accident(params: Path) -> None:
    base = read_base(params)
    for name in read_studies():
        names = [trial.name for trial in trials(find_study(name), base, 2)]
        assert len(set(names)) == len(names), name


@pytest.mark.parametrize("name", list(read_studies()))
def test_dvc_reads_the_options_as_they_are_meant(params: Path, tmp_path: Path, name: str) -> None:
    base = read_base(params)
    for trial, (model, changes) in zip(
        trials(find_study(name), base, 1), variants(find_study(name), base).values(), strict=True
    ):
        made = settings(params, trial.options, tmp_path)
        assert list(made["models"]) == [model] == [trial.model]
        for path, value in changes.items():
            found: Any = made
            for key in path.split("."):
                found = found[key]
            assert found == value
        # The trial's name is a digest of exactly these settings.
        assert trial.name == f"study-{Base(made).key}"
        # And they can be trained (weights from the network aside).
        apply_overrides(tmp_path / "changed.yaml", ["train.encoder_weights=null"])
        assert [config.model for config in check_params(tmp_path / "changed.yaml")] == [model]


def test_seeds_count_up_from_that_of_the_recipe(params: Path, tmp_path: Path) -> None:
    params.write_text(params.read_text().replace("\n  seed: 0\n  #", "\n  seed: 5\n  #"))
    base = read_base(params)
    assert base.params["train"]["seed"] == 5
    made = trials(find_study("softmax"), base, 3)
    assert [(trial.variant, trial.seed) for trial in made] == [
        (variant, seed) for variant in ("off", "on") for seed in (5, 6, 7)
    ]
    assert [settings(params, trial.options, tmp_path)["train"]["seed"] for trial in made] == [5, 6, 7] * 2


def test_sizes_are_multiples_of_the_recipes(params: Path) -> None:
    params.write_text(params.read_text().replace("\n  size: 256\n", "\n  size: [64, 96]\n"))
    assert list(variants(find_study("size"), read_base(params))) == ["[128, 192]", "[64, 96]"]


def test_another_recipe_has_another_tag(params: Path) -> None:
    one = study_tag("softmax", read_base(params))
    apply_preset("report-small", params)
    other = study_tag("softmax", read_base(params))
    assert one != other
    assert one.startswith("harveyseg.study.softmax.")


def test_what_cannot_be_varied_is_said(params: Path) -> None:
    with pytest.raises(HarveysegError, match=r"study 'depth': unknown\. Known are: channels, class_weights"):
        find_study("depth")
    apply_preset("best", params)
    for name in ("channels", "softmax", "architecture"):
        key = r"models\.unet is missing"
        with pytest.raises(HarveysegError, match=rf"params\.yaml: {key}.*`harveyseg preset report`"):
            variants(find_study(name), read_base(params))
    params.write_text(params.read_text().replace("\nfolds:", "\nfalten:"))
    with pytest.raises(HarveysegError, match=r"the section 'folds' is missing"):
        read_base(params)


def test_a_models_own_settings_do_not_hide_what_is_varied(params: Path, tmp_path: Path) -> None:
    own = "  unet:\n    train:\n      epochs: 3\n      seed: 9\n      optimiser:\n        weight_decay: 0.5\n"
    segnet = "  segnet:\n    network: segnet\n    width: 8\n    train:\n      epochs: 2\n"
    params.write_text(params.read_text().replace("\nmodels:\n  unet:\n", f"\nmodels:\n{segnet}{own}"))
    base = read_base(params)
    for trial in trials(find_study("epochs"), base, 2):
        made = settings(params, trial.options, tmp_path)
        (config,) = check_params(tmp_path / "changed.yaml")
        assert (config.train.epochs, config.train.seed) == (int(trial.variant), trial.seed)
        assert config.train.optimiser.weight_decay == 0.5  # which the study does not vary
        assert trial.name == f"study-{Base(made).key}"
    (trial,) = (trial for trial in trials(find_study("architecture"), base, 1) if trial.variant == "segnet")
    assert settings(params, trial.options, tmp_path)["models"] == {"segnet": {"network": "segnet", "width": 16}}


def test_params_yaml_outlives_a_kill_while_it_is_changed(params: Path) -> None:
    recipe, base = params.read_text(), read_base(params)
    kept = params.parent / KEPT_PARAMS
    kept.parent.mkdir()
    kept.write_text(recipe)
    params.write_text("")  # as DVC leaves it when it is killed
    assert read_base(params).key == base.key
    assert restore_params(params)
    assert params.read_text() == recipe
    assert not kept.exists()
    assert not restore_params(params)


@pytest.mark.slow
def test_what_dvc_had_staged_when_it_was_killed_does_not_hinder_the_next_study(tmp_path: Path) -> None:
    project = start_project(tmp_path / "harveyseg", CHANGES)
    params, kept = project.folder / "params.yaml", project.folder / KEPT_PARAMS
    recipe = params.read_text()
    kept.parent.mkdir(exist_ok=True)
    kept.write_text(recipe)
    # What DVC stages between its two stashes: its options on params.yaml, and its arguments, which git ignores.
    params.write_text(recipe.replace("softmax_before_loss: false", "softmax_before_loss: true"))
    arguments = project.folder / ".dvc" / "tmp" / "repro.dat"
    arguments.parent.mkdir(exist_ok=True)
    arguments.write_bytes(b"")
    project.run("git", "add", "--force", "params.yaml", str(arguments))
    assert set(project.run("git", "diff", "--cached", "--name-only").split()) == {"params.yaml", ".dvc/tmp/repro.dat"}
    (project.folder / "stages" / "train.py").open("a").write("# an edit of the user's\n")
    edited = project.run("git", "diff", "--", "stages")

    assert restore_params(params)
    base, queue = read_base(params), _Queue(project.folder)
    locked = project.folder / ".git" / "index.lock"
    locked.touch()
    with pytest.raises(HarveysegError, match=r"index\.lock: git's index is locked"), queue.kept_params(base):
        pass
    locked.unlink()
    for trial in trials(find_study("softmax"), base, 1):
        with queue.kept_params(base):
            queue.put(trial)
    assert study_states(project) == ["Queued", "Queued"]
    assert params.read_text() == recipe
    assert project.run("git", "diff", "--cached", "--name-only") == ""
    assert project.run("git", "diff", "--", "stages") == edited != ""


CHANGES: dict[str, object] = {
    "data": {"demo": {"train": 8, "test": 2, "seed": 0, "width": 96}},
    "resize-cache": {"size": 64},
    "split": {"folds": 2, "groups": "none"},
    "models": {
        "unet": {"network": "unet", "width": 4, "dropout": 0.1, "batch_norm": "encoder"},
        "attention_unet": {"network": "attention_unet", "width": 4},
    },
    "train": {"epochs": 2, "batch_size": 4, "lr": 0.01, "schedule": "plateau", "threads": 1},
    "inference": {"threads": 1},
    "postprocess": {"method": "argmax"},
}


def kill_all_in(folder: Path) -> None:
    """SIGKILL to every process that works in a folder: the command, DVC's worker, the experiment, its stage."""
    for process in psutil.process_iter():
        try:
            inside = Path(process.cwd()).is_relative_to(folder)
        except (psutil.Error, OSError):
            continue
        if inside:
            process.kill()


@pytest.mark.slow
def test_a_study_that_is_killed_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    project = start_project(tmp_path / "harveyseg", CHANGES)
    script = str(Path(sys.executable).with_name("harveyseg"))
    # The environment is not active: its commands are not on the path.
    path = project.environment["PATH"].removeprefix(f"{Path(sys.executable).parent}{os.pathsep}")
    environment = {**project.environment, "PYTHONPATH": str(project.folder / "src"), "PATH": path}
    log, command = tmp_path / "log", [script, "study", "softmax", "adaptive_lr"]
    recipe = (project.folder / "params.yaml").read_text()

    def start() -> subprocess.Popen[bytes]:
        with log.open("w") as opened:
            return subprocess.Popen(command, cwd=project.folder, env=environment, stdout=opened, stderr=opened)

    # First while it queues, when DVC has changed params.yaml.
    started, deadline = start(), time.monotonic() + 200
    while (project.folder / "params.yaml").read_text() == recipe:
        assert started.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)
    kill_all_in(project.folder)
    assert started.wait() == -signal.SIGKILL
    assert (project.folder / "params.yaml").read_text() != recipe

    # What holds git's index when it is killed leaves it locked, which only the user can know to be stale.
    locked = project.folder / ".git" / "index.lock"
    locked.touch()
    refused = project.run(*command, ok=False, PATH=path, PYTHONPATH=environment["PYTHONPATH"])
    assert "params.yaml: set back to the recipe" in refused
    assert f"{locked}: git's index is locked" in refused
    assert (project.folder / "params.yaml").read_text() == recipe
    locked.unlink()

    # Then while it trains.
    started, deadline = start(), time.monotonic() + 500
    while len(re.findall(r": runs \(", log.read_text())) < 2:
        assert started.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.5)
    kill_all_in(project.folder)
    assert started.wait() == -signal.SIGKILL
    assert (project.folder / "params.yaml").read_text() == recipe
    # Three trials: the recipe itself is in both studies. One is done, one was killed, one had not begun.
    assert "softmax, adaptive_lr: 3 trials, 0 done before" in log.read_text()
    assert study_states(project) == ["Queued", "Running", "Success"]

    printed = project.run(script, *command[1:], PYTHONPATH=environment["PYTHONPATH"])
    assert "softmax, adaptive_lr: 3 trials, 1 done before" in printed
    assert project.runs() == 3 + project.runs("status != 'FINISHED'")
    client = MlflowClient(tracking_uri=f"sqlite:///{project.folder / 'mlflow.db'}")
    found = client.search_runs(["1"], "tags.`harveyseg.kind` = 'train' AND attributes.status = 'FINISHED'")
    tagged = sorted(
        (run.data.tags.get("study.softmax", ""), run.data.tags.get("study.adaptive_lr", "")) for run in found
    )
    # The recipe learns with a plateau and one softmax: one run is a variant of both studies.
    assert tagged == [("", "off"), ("off", "on"), ("on", "")]
    table = (project.folder / "data" / "reports" / "study-softmax.md").read_text()
    assert re.findall(r"^\| (on|off) \| 1 \| 0\.\d{4}", table, re.MULTILINE) == ["off", "on"]

    # The data's class shares came along with the ensembles.
    ensembles = client.search_runs(["1"], "tags.`harveyseg.kind` = 'ensemble'")
    assert len(ensembles) == 3
    for run in ensembles:
        shares = [value for name, value in run.data.metrics.items() if name.startswith("data/pixel_share/")]
        assert sum(shares) == pytest.approx(1)

    # Done is done.
    again = project.run(script, *command[1:], PYTHONPATH=environment["PYTHONPATH"])
    assert "3 trials, 3 done before" in again
    # After a commit that changes no code, DVC restores the trial from its run cache: its run stays the one that it was.
    runs = project.runs()
    project.run("git", "commit", "-q", "--allow-empty", "-m", "later")
    restored = project.run(script, "study", "adaptive_lr", PYTHONPATH=environment["PYTHONPATH"])
    assert "adaptive_lr: 2 trials, 0 done before" in restored
    assert project.runs() == runs
    # The table comes from MLflow alone.
    os.remove(project.folder / "data" / "reports" / "study-softmax.md")
    project.run(script, "table", "--study", "softmax", PYTHONPATH=environment["PYTHONPATH"])
    assert (project.folder / "data" / "reports" / "study-softmax.md").read_text() == table


def study_states(project: Project) -> list[str]:
    """The states of the queue's tasks, sorted."""
    return sorted(re.findall(r"study-\w+ .*(Queued|Running|Failed|Success)", project.run("dvc", "queue", "status")))
