"""The whole pipeline with a real DVC in a real git repository, on a tiny demo set: results, experiments, clones."""

import io
import json
import re
import shutil
import signal
import sqlite3
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from ruamel.yaml import YAML
from safetensors.torch import load_file

from harveyseg.arrays import BinaryMask
from harveyseg.classes import HARVEY25
from harveyseg.data.cache import load_part
from harveyseg.evaluation.boundary import boundary_band
from harveyseg.evaluation.metrics import true_masks
from harveyseg.inference.probabilities import argmax_map, read_probabilities
from harveyseg.tracking.values import unpack_values
from helpers.browser import render, render_charts
from helpers.paths import ROOT, files_in
from helpers.project import Project, stages_run

pytestmark = pytest.mark.slow


def test_it_ends_with_a_table_and_a_valid_submission(finished: Project) -> None:
    table = finished.table()
    assert list(table["model"]) == [
        "unet", "unet", "attention_unet", "attention_unet", "ensemble", "all_empty"
    ]  # fmt: skip
    for column in ("val_score", "test_score"):
        assert table[column].between(0, 1).all(), column
    for column in ("val_argmax_score", "test_argmax_score"):
        assert table.loc[table["model"] != "all_empty", column].between(0, 1).all(), column
    masks = finished.folder / "data" / "raw" / "test_masks"
    for name, model in (("submission", "ensemble"), ("unet", "unet")):
        file = finished.folder / "data" / "submission" / f"{name}.csv"
        rows = pd.read_csv(file)
        assert list(rows.columns) == ["ImageClassId", "rle_mask"]
        assert len(rows) == 3 * 24
        # Another way to the same score: decode the file and compare with the masks themselves.
        printed = finished.run("harveyseg", "score", str(file), "--masks", str(masks))
        score = re.search(r"^score: ([\d.]+)$", printed, re.MULTILINE)
        assert score is not None
        assert float(score.group(1)) == pytest.approx(
            table.loc[table["model"] == model, "test_score"].iloc[0], abs=2e-5
        )


def test_every_training_has_its_boundary_accuracy_in_mlflow(finished: Project) -> None:
    names = [path.parent.name for path in (finished.folder / "data" / "models").glob("*/run.json")]
    with sqlite3.connect(finished.folder / "mlflow.db") as database:
        for name in names:
            query = "select key, value from tags where run_uuid = ?"
            logged = unpack_values(dict(database.execute(query, (finished.record(name).run_id,))))
            written = json.loads((finished.folder / "data" / "predictions" / name / "metrics.json").read_text())
            for part in ("boundary", "interior"):
                assert 0 < logged[f"val/{part}_accuracy"] == written[f"val/{part}_accuracy"] < 1
    assert sorted(names) == ["attention_unet-0", "unet-0"]


def test_scores_and_accuracies_are_those_of_the_held_out_photos_maps(finished: Project) -> None:
    data = finished.folder / "data"
    photos, masks = load_part(data / "cache" / "train").ids, true_masks(data / "cache" / "score")["val"]
    ids, stored = read_probabilities(data / "predictions" / "unet-0" / "val.npy")
    right, pixels, scores = np.zeros(2), np.zeros(2), []
    for photo, maps in zip(ids, stored, strict=True):
        mask = np.array(masks[photos.index(photo)])
        predicted = argmax_map(maps, (mask.shape[0], mask.shape[1]))
        near = boundary_band(mask, HARVEY25.unscored)
        for place, where in enumerate((near, ~near & (mask >= HARVEY25.unscored))):
            right[place] += np.count_nonzero(mask[where] == predicted[where])
            pixels[place] += np.count_nonzero(where)
        scores.append(np.mean([dice(mask == index, predicted == index) for index in range(1, 25)]))
    written = json.loads((data / "predictions" / "unet-0" / "metrics.json").read_text())
    assert written["val/argmax_score"] == pytest.approx(np.mean(scores))
    assert [written["val/boundary_accuracy"], written["val/interior_accuracy"]] == pytest.approx(right / pixels)


def dice(true: BinaryMask, submitted: BinaryMask) -> float:
    both = np.count_nonzero(true) + np.count_nonzero(submitted)
    return 2 * np.count_nonzero(true & submitted) / both if both else 1.0


def test_the_ensembles_run_shows_the_data(finished: Project) -> None:
    shares = pd.read_csv(finished.folder / "data" / "figures" / "class_shares.csv")
    with sqlite3.connect(finished.folder / "mlflow.db") as database:
        tags = database.execute("select run_uuid, key, value from tags").fetchall()
    held = {
        (run, name): value
        for run, key, text in tags
        for name, value in unpack_values({key: text}).items()
        if name.startswith("data/pixel_share/")
    }
    assert sum(held.values()) == pytest.approx(1)
    assert len(held) == len(shares)
    assert len({run for run, _ in held}) == 1
    logged = {path.name for path in (finished.folder / "mlflow-artifacts").rglob("data/*")}
    assert logged == {path.name for path in (finished.folder / "data" / "figures").iterdir()}


def test_dvc_shows_one_score_for_each_model(finished: Project) -> None:
    """The numbers are those of the table, which is made of what MLflow holds."""
    table = finished.table()
    whole = table[table["fold"].astype(str).ne("0")].set_index("model")
    expected = {model: round(float(whole.loc[model, "val_score"]), 5) for model in whole.index}
    shown = json.loads(finished.run("dvc", "metrics", "show", "--json"))[""]["data"]
    assert list(shown) == ["data/metrics/scores.json"]
    scores = {name: round(score, 5) for name, score in shown["data/metrics/scores.json"]["data"].items()}
    assert scores == {
        "ensemble": expected["ensemble"], "all_empty": expected["all_empty"],
        "unet": expected["unet"], "atte_unet": expected["attention_unet"],
    }  # fmt: skip


@pytest.mark.long
def test_dvc_shows_which_of_three_experiments_is_best_and_what_was_changed(project: Project) -> None:
    """In a terminal of 160 columns, and in a table of at most 25."""
    changes = {
        "fast": ["train.lr=0.02"],
        "slow": ["train.lr=0.002"],
        "plain": ["train.lr=0.01", "postprocess.method=argmax"],  # from what the experiment before has left
    }
    for name, settings in changes.items():
        options = [part for setting in settings for part in ("-S", setting)]
        project.run("dvc", "exp", "run", "--name", name, *options)
    shown = ("dvc", "exp", "show", "--only-changed")
    table = pd.read_csv(io.StringIO(project.run(*shown, "--csv")))
    assert len(table.columns) <= 25
    rows = table.set_index("Experiment")
    assert rows.loc[list(changes), "train.lr"].tolist() == [0.02, 0.002, 0.01]
    assert rows.loc[list(changes), "postprocess.method"].tolist() == ["auto", "auto", "argmax"]
    best = str(rows.loc[list(changes), "ensemble"].idxmax())
    # Another way to the same number: the experiment's own file.
    project.run("dvc", "exp", "apply", best)
    scores = json.loads((project.folder / "data" / "metrics" / "scores.json").read_text())
    assert rows.loc[best, "ensemble"] == pytest.approx(scores["ensemble"], abs=1e-12)
    lines = project.run(*shown, "--no-pager", COLUMNS="160").splitlines()
    assert max(map(len, lines)) <= 160
    header = next(line for line in lines if "Experiment" in line)
    for column in ("ensemble", "unet", "atte_unet", "train.lr", "postprocess.method"):
        assert f" {column} " in header
    assert all(any(name in line for line in lines) for name in changes)


def test_dvcs_charts_are_drawn_without_a_network(project: Project) -> None:
    """In a real browser: a handful of charts of all models; two experiments are compared in them."""
    metrics = project.folder / "data" / "metrics"
    scores, dice = (pd.read_csv(metrics / f"{name}.csv") for name in ("scores", "class_dice"))

    def charts(command: str, scores: pd.DataFrame) -> dict[str, list[str]]:
        page = project.folder / "dvc_plots" / "index.html"
        assert project.run("dvc", "plots", *command.split()).strip() == page.as_uri()
        drawn = render_charts(page)
        assert list(drawn) == [
            "Learning curves", "Scores of what is submitted", "Dice of each class", "Confusion of the ensemble"
        ]  # fmt: skip
        assert {"unet", "attention_unet", "training loss", "validation loss"} <= set(drawn["Learning curves"])
        # Each number of held-out and test photos, of the models and the ensemble, as often as it is in the table.
        numbers = [text for text in drawn["Scores of what is submitted"] if re.fullmatch(r"0\.\d{3}", text)]
        assert Counter(numbers) == Counter(f"{score:.3f}" for score in scores["score"])
        best = scores[scores["part"] == "held-out photos"].groupby("model")["score"].max()
        assert [text for text in drawn["Scores of what is submitted"] if text in best] == [
            *best.sort_values(ascending=False).index
        ]
        assert set(dice["class"]) <= set(drawn["Dice of each class"])
        assert "05 Grass" in drawn["Confusion of the ensemble"]
        return drawn

    charts("show", scores)
    project.run("dvc", "exp", "run", "--name", "plain", "-S", "postprocess.method=argmax")
    drawn = charts("diff HEAD plain", pd.concat([scores, pd.read_csv(metrics / "scores.csv")]))
    for name, texts in drawn.items():
        assert "plain" in texts, name
    assert project.run("git", "status", "--porcelain", "--untracked-files=all", "--", "dvc_plots") == ""


def test_a_page_elsewhere_says_that_its_library_is_missing(tmp_path: Path) -> None:
    page = tmp_path / "plots" / "index.html"
    page.parent.mkdir()
    template = (ROOT / ".dvc" / "plots" / "page.html").read_text()
    page.write_text(template.replace("{plot_divs}", "<div id='chart'></div>").replace("{refresh_tag}", ""))
    assert "data/metrics/vega.js is missing, and there is no network" in render(page)


def test_dvc_draws_the_graph(finished: Project) -> None:
    assert "train@unet-0" in finished.run("dvc", "dag")


@pytest.mark.long
def test_lr_there_and_back_leaves_a_table_that_shows_the_first(project: Project) -> None:
    first = project.record("unet-0")
    # 0.00001 becomes `1e-05` in params.yaml, which YAML 1.1 reads as a string.
    printed = project.run("dvc", "exp", "run", "-S", "train.lr=0.00001")
    assert (
        "unet-0 starts from the first epoch. The training run before was another one: train.lr: 0.01 -> 1e-05"
        in printed
    )
    assert stages_run(printed) == {
        "code", "train@unet-0", "train@attention_unet-0", "evaluate@unet-0", "evaluate@attention_unet-0", "ensemble",
        "postprocess", "metrics", "compare", "submit",
    }  # fmt: skip
    table = project.table()
    assert table["lr"].dropna().tolist() == [1e-05] * 4
    changed = project.record("unet-0")
    assert changed.parameters["train.lr"] == 1e-05
    assert changed.run_id != first.run_id
    assert changed.experiment is not None
    assert project.runs() == 4
    # Back: everything comes from the run cache, the run's identity included; MLflow's newest run is the other one.
    assert project.stages("dvc", "exp", "run", "-S", "train.lr=0.01") == {"code"}
    assert project.record("unet-0") == first
    assert project.table().loc[0, "lr"] == 0.01
    assert project.run("harveyseg", "check")
    everything = project.run("harveyseg", "table", "--all")
    assert changed.experiment in everything
    assert changed.experiment in project.run("dvc", "exp", "show", "--csv")


def test_another_evaluation_leaves_the_workspaces_table_as_it_is(project: Project) -> None:
    """The same trainings are evaluated with other settings, elsewhere: they get runs of their own."""
    reports = project.folder / "data" / "reports"
    written = {path.name: path.read_bytes() for path in reports.glob("comparison.*")}
    runs = project.runs()
    project.run("dvc", "exp", "run", "--temp", "-S", "inference.tta=flips", "compare")
    assert project.runs() == runs + 2  # one for each model, which are not trained again
    project.run("harveyseg", "table")
    assert {path.name: path.read_bytes() for path in reports.glob("comparison.*")} == written
    project.run("harveyseg", "check")
    assert project.run("harveyseg", "sync") == "MLflow has everything.\n"
    assert re.search(r"\| flips +\|", project.run("harveyseg", "table", "--all"))


def test_a_workspace_that_contradicts_params_yaml_is_named(project: Project) -> None:
    reports, params = project.folder / "data" / "reports", project.folder / "params.yaml"
    tracked = {path.name: path.read_bytes() for path in reports.glob("comparison.*")}
    settings = params.read_text()
    params.write_text(settings.replace("lr: 0.01", "lr: 0.5"))
    text = "train.lr is 0.5 in params.yaml and 0.01 in this run"
    printed = project.run("harveyseg", "check", ok=False)
    assert printed.splitlines() == [
        f"unet-f0: {text}",
        f"attention_unet-f0: {text}",
        "These results are not of the settings in params.yaml: run `dvc repro`.",
    ]
    printed = project.run("harveyseg", "table")
    assert f"- unet fold 0, attention_unet fold 0: {text}: `dvc repro` is due" in printed
    assert "comparison.csv and data/reports/comparison.md: not written" in printed
    assert {path.name: path.read_bytes() for path in reports.glob("comparison.*")} == tracked
    # A table that DVC does not know is not written at all: it would keep DVC from checking out its own.
    shutil.rmtree(reports)
    project.run("harveyseg", "table")
    assert [path.name for path in reports.iterdir()] == ["costs.csv"]
    project.run("dvc", "checkout", "-q")
    assert {path.name: path.read_bytes() for path in reports.glob("comparison.*")} == tracked
    params.write_text(settings)
    assert "is due" not in project.run("harveyseg", "table")
    assert "up to date" in project.run("dvc", "status")


@pytest.mark.parametrize("way", ["--temp", "--queue"])
def test_experiments_elsewhere_are_tracked_here(project: Project, way: str) -> None:
    before, runs = project.record("unet-0"), project.runs()
    # Down to the training alone, which is what is tracked; the rest of the chain is like any other stage.
    printed = project.run("dvc", "exp", "run", way, "-S", "train.lr=0.003", "train@unet-0")
    if way == "--queue":
        printed = project.run("dvc", "exp", "run", "--run-all")
    else:
        assert re.findall(r"Running stage '(.+)':", printed) == ["code", "train@unet-0"]
    assert project.record("unet-0") == before
    assert project.runs() == runs + 1
    assert re.search(r"\| +0\.003 ", project.run("harveyseg", "table", "--all"))
    named = "select count(*) from runs where name like 'unet-f0@%-% lr=0.003' and lifecycle_stage = 'active'"
    assert project.query(named) == 1  # the name says what was changed


def test_a_forced_retrain_leaves_every_run_with_scores(project: Project) -> None:
    before = project.record("attention_unet-0")
    path = project.folder / "data" / "models" / "attention_unet-0" / "weights.safetensors"
    weights = load_file(path)
    project.run("dvc", "repro", "-f", "-s", "train@attention_unet-0")
    after, again = project.record("attention_unet-0"), load_file(path)
    assert all((weights[name] == again[name]).all() for name in weights)  # same seed, same weights
    assert after.run_id != before.run_id
    evaluation = "evaluate@attention_unet-0"
    assert project.stages("dvc", "repro", evaluation) == {evaluation}
    assert project.runs() == 3
    scored = "exists (select 1 from latest_metrics m where m.run_uuid = runs.run_uuid and m.key = 'val/argmax_score')"
    assert project.runs(scored) == 3


def test_a_clone_with_a_remote_recreates_the_same_table(project: Project, tmp_path: Path) -> None:
    project.run("dvc", "remote", "add", "--force", "--default", "local", str(tmp_path / "remote"))
    project.commit("remote")
    project.run("dvc", "push", "-q")
    clone = Project(tmp_path / "clone")
    project.run("git", "clone", "-q", str(project.folder), str(clone.folder))
    clone.run("dvc", "pull", "-q")
    assert "imported" in clone.run("harveyseg", "sync")
    reports = ("comparison.csv", "comparison.md")
    pulled = {name: (clone.folder / "data" / "reports" / name).read_bytes() for name in reports}
    shutil.rmtree(clone.folder / "data" / "reports")
    clone.run("harveyseg", "table")
    for name, content in pulled.items():
        assert (clone.folder / "data" / "reports" / name).read_bytes() == content
        assert (project.folder / "data" / "reports" / name).read_bytes() == content
    assert clone.runs() == 2


def test_predict_maps_a_photo_at_its_own_size(finished: Project, tmp_path: Path) -> None:
    photo = next((finished.folder / "data" / "raw" / "test_images").glob("*.jpg"))
    finished.run("harveyseg", "predict", str(photo), "--out", str(tmp_path))
    products = {f"{photo.stem}{ending}" for ending in (".png", "_overlay.jpg", ".json")}
    assert {path.name for path in tmp_path.iterdir()} == products | {"areas.csv"}
    areas = pd.read_csv(tmp_path / "areas.csv")
    assert areas[list(HARVEY25.names)].sum(axis=1).iloc[0] == pytest.approx(100, abs=0.05)


@pytest.mark.long
def test_a_killed_training_ends_in_the_same_weights_under_one_run(finished: Project, tmp_path: Path) -> None:
    settings = finished.folder / "data" / "code" / "train" / "unet.json"
    (tmp_path / "code" / "train").mkdir(parents=True)
    content = settings.read_text().replace('"epochs": 2', '"epochs": 6')
    (tmp_path / "code" / "train" / "unet.json").write_text(content)
    YAML().dump({"tracking": {"experiment": "killed"}}, tmp_path / "params.yaml")

    def command(root: str) -> list[str]:
        paths = {
            "--code": tmp_path / "code",
            "--params": tmp_path / "params.yaml",
            "--out": tmp_path / root / "out",
        }
        options = [str(part) for pair in paths.items() for part in pair]
        return ["stages/run", "train", "--model", "unet", "--fold", "0", *options]

    finished.run(*command("whole"), DVC_ROOT=str(tmp_path / "whole"))
    killed = 0
    for epoch in (2, 4):
        with subprocess.Popen(
            command("killed"),
            cwd=finished.folder,
            env={**finished.environment, "DVC_ROOT": str(tmp_path / "killed"), "HARVEYSEG_PROGRESS_SECONDS": "0"},
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stderr is not None
            if any(f"epoch {epoch}/6" in line for line in process.stderr):
                process.send_signal(signal.SIGKILL)
                killed += 1
        assert process.returncode == -signal.SIGKILL
    finished.run(*command("killed"), DVC_ROOT=str(tmp_path / "killed"))
    assert killed == 2
    whole, resumed = (
        load_file(tmp_path / root / "out" / "unet-0" / "weights.safetensors") for root in ("whole", "killed")
    )
    assert whole.keys() == resumed.keys()
    assert all((whole[name] == resumed[name]).all() for name in whole)
    with sqlite3.connect(tmp_path / "killed" / "mlflow.db") as database:
        runs = database.execute(
            "select runs.run_uuid, status from runs join tags on tags.run_uuid = runs.run_uuid "
            "where tags.key = 'harveyseg.kind' and tags.value = 'train'"
        ).fetchall()
        steps = database.execute("select key, step from metrics where key = 'epoch/train_loss'").fetchall()
    assert [status for _, status in runs] == ["FINISHED"]
    assert Counter(steps) == {("epoch/train_loss", epoch): 1 for epoch in range(1, 7)}
    assert len(list((tmp_path / "killed" / ".checkpoints").glob("*"))) == 1  # kept until `evaluate` has run


def test_a_model_that_is_removed_and_comes_back(project: Project, tmp_path: Path) -> None:
    """It leaves the ensemble, the table and the folders, also in clones; then DVC restores all it had."""
    params = project.folder / "params.yaml"
    with_both = params.read_text()
    run_json = project.folder / "data" / "ensemble" / "run.json"
    ensemble_of_both = run_json.read_bytes()

    def folders() -> set[str]:
        return {path.name for kind in ("models", "predictions") for path in (project.folder / "data" / kind).iterdir()}

    yaml = YAML()
    values = yaml.load(params)
    del values["models"]["attention_unet"]
    yaml.dump(values, params)
    without = params.read_text()
    assert project.stages("dvc", "repro") == {"code", "ensemble", "postprocess", "metrics", "compare", "submit"}
    ensemble_of_one = run_json.read_bytes()
    assert folders() == {"unet-0"}
    assert list(project.table()["model"]) == ["unet", "unet", "ensemble", "all_empty"]
    assert not (project.folder / "data" / "submission" / "attention_unet.csv").exists()
    assert not (project.folder / "data" / "postprocess" / "rules" / "attention_unet.json").exists()

    # There and back: only the stage that deletes runs. The ensemble is the same run as before.
    for text, ensemble, models in (
        (with_both, ensemble_of_both, {"unet-0", "attention_unet-0"}),
        (without, ensemble_of_one, {"unet-0"}),
    ):
        params.write_text(text)
        assert project.stages("dvc", "repro") == {"code"}
        assert run_json.read_bytes() == ensemble
        assert folders() == models

    project.commit("one model")
    clone = Project(tmp_path / "clone")
    project.run("git", "clone", "-q", str(project.folder), str(clone.folder))
    clone.run("dvc", "cache", "dir", "--local", str(project.folder / ".dvc" / "cache"))
    clone.run("dvc", "checkout", "-q")
    assert clone.stages("dvc", "repro") == set()


def test_photos_outside_the_project_are_found_by_temporary_experiments(project: Project) -> None:
    outside = project.folder.parent / "photos"
    shutil.copytree(project.folder / "data" / "raw", outside, ignore=shutil.ignore_patterns("*.csv", "*.json"))
    directory = ("-S", "data.source=directory", "-S", "data.path=../photos")
    assert project.stages("dvc", "exp", "run", *directory, "download") == {"code", "download"}
    project.commit("photos")
    assert project.stages("dvc", "exp", "run", "--temp", "-S", "data.demo.seed=1", "download") == {"code", "download"}
    # A photo that is added there is noticed.
    assert project.stages("dvc", "repro", "download") == set()
    shutil.copy(next((outside / "test_images").glob("*.jpg")), outside / "test_images" / "99999.jpg")
    shutil.copy(next((outside / "test_masks").glob("*.png")), outside / "test_masks" / "99999.png")
    assert project.stages("dvc", "repro", "download") == {"download"}


def test_photos_in_the_project_that_git_ignores_are_found_by_queued_and_temporary_experiments(project: Project) -> None:
    photos = files_in(project.use_photos("photos"))
    with (project.folder / ".gitignore").open("a") as ignored:
        ignored.write("/photos/\n")
    printed = project.run("dvc", "repro", "download")
    assert "warning: data.path = 'photos': neither git nor DVC tracks it" in printed
    project.commit("photos")
    assert project.stages("dvc", "exp", "run", "--temp", "-S", "train.lr=0.5", "download") == {"code"}
    project.run("dvc", "exp", "run", "--queue", "-S", "train.lr=0.6", "download")
    project.run("dvc", "exp", "run", "--run-all")
    assert len(project.run("git", "for-each-ref", "refs/exps/*/*/*").splitlines()) == 2
    assert files_in(project.folder / "photos") == photos
    # What the warning advises brings them to every experiment, also one that changes nothing, and into clones.
    project.run("dvc", "add", "-q", "photos")
    project.run("git", "add", "photos.dvc")
    project.commit("photos in DVC")
    assert project.stages("dvc", "exp", "run", "--temp", "download") == set()


def test_a_machine_without_the_photos_trains_with_what_dvc_pull_brought(project: Project, tmp_path: Path) -> None:
    project.use_photos("../photos")
    project.run("dvc", "repro", "train@unet-0")
    project.run("dvc", "remote", "add", "--force", "--default", "local", str(tmp_path / "remote"))
    project.commit("photos")
    project.run("dvc", "push", "-q", "train@unet-0", "--with-deps")
    clone = Project(tmp_path / "another machine" / "clone")
    project.run("git", "clone", "-q", str(project.folder), str(clone.folder))
    clone.run("dvc", "pull", "-q", "train@unet-0", "--with-deps")
    pulled = files_in(clone.folder / "data")

    assert stages_run(clone.run("dvc", "repro", "train@unet-0", ok=False)) == set()
    assert files_in(clone.folder / "data") == pulled
    assert "`dvc repro --allow-missing`" in clone.run("harveyseg", "doctor", ok=False)
    assert clone.stages("dvc", "repro", "--allow-missing", "train@unet-0") == set()
    assert files_in(clone.folder / "data") == pulled
    params = clone.folder / "params.yaml"
    params.write_text(params.read_text().replace("lr: 0.01", "lr: 0.02"))
    assert clone.stages("dvc", "repro", "--allow-missing", "train@unet-0") == {"code", "train@unet-0"}
    assert clone.record("unet-0").parameters["train.lr"] == 0.02
    # Settings of the data that were never run cannot do without them.
    params.write_text(params.read_text().replace("on_bad: error", "on_bad: skip"))
    printed = clone.run("dvc", "repro", "--allow-missing", "train@unet-0", ok=False)
    assert "error: data.path = '../photos': not on this machine" in printed
    assert (clone.folder / "data" / "raw" / "manifest.csv").exists()


def test_nothing_is_deleted_before_a_wrong_path_or_a_users_photo_is_named(project: Project) -> None:
    raw = project.folder / "data" / "raw"
    before = files_in(raw)
    params = project.folder / "params.yaml"
    params.write_text(params.read_text().replace("  path: data/README.md", "  path: ~/photos"))
    printed = project.run("dvc", "repro", ok=False)
    assert "error: data.path = '~/photos': DVC takes it literally. Write data.path: " in printed
    assert files_in(raw) == before
    project.run("git", "checkout", "-q", "params.yaml")
    (raw / "train_images" / "mine.jpg").write_bytes(b"a photo")
    printed = project.run("dvc", "repro", ok=False)
    assert (
        "data/raw holds what its stage, `download`, did not write and would replace: train_images/mine.jpg." in printed
    )
    assert files_in(raw) == before | {"train_images/mine.jpg": b"a photo"}


def test_bad_settings_and_bad_files_stop_with_the_remedy(project: Project) -> None:
    printed = project.run("dvc", "exp", "run", "-S", "train.batch_size=0", "-S", "train.lr=-1", ok=False)
    assert "train.batch_size = 0" in printed
    assert "train.lr = -1" in printed
    assert "Traceback" not in printed.partition("ERROR: failed to reproduce")[0]
    project.run("git", "checkout", "-q", "params.yaml", "dvc.lock")
    run_json = project.folder / "data" / "models" / "unet-0" / "run.json"
    run_json.unlink()
    run_json.write_text("{")
    printed = project.run("stages/run", "evaluate", "--model", "unet", "--fold", "0", ok=False)
    assert printed.startswith("error: data/models/unet-0/run.json: not valid JSON")
    assert "dvc repro -f" in printed
