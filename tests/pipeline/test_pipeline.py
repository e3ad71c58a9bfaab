"""The whole pipeline with a real DVC in a real git repository, on a tiny demo set: what runs, and what must not.

The tests share one workspace and build on one another, in the order in which they stand: each stage takes seconds
(importing torch and MLflow), so a workspace of its own for each test would take an hour.
"""

import json
import re
import shutil
import signal
import sqlite3
import subprocess
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from ruamel.yaml import YAML
from safetensors.torch import load_file

from helpers.project import Project, start_project

pytestmark = pytest.mark.slow

CHANGES: dict[str, object] = {
    "data": {"demo": {"train": 10, "test": 3, "seed": 0, "width": 96}},
    "resize-cache": {"size": 64},
    "split": {"folds": 2, "groups": "none"},
    "models": {
        "unet": {"network": "unet", "width": 4},
        # Its own lr: a change of train.lr must leave it alone.
        "attention_unet": {"network": "attention_unet", "width": 4, "train": {"lr": 0.004}},
    },
    "train": {"epochs": 2, "batch_size": 4, "lr": 0.01, "threads": 1},
    "inference": {"threads": 1},
}
LR_STAGES = {"configure", "train@unet-0", "evaluate@unet-0", "ensemble", "postprocess", "compare", "submit"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A checkout with small settings, run once from start to end."""
    made = start_project(tmp_path_factory.mktemp("project") / "harveyseg", CHANGES)
    ran = made.stages("dvc", "repro")
    assert ran == {
        "configure", "download", "resize-cache", "split", "train@unet-0", "train@attention_unet-0", "evaluate@unet-0",
        "evaluate@attention_unet-0", "ensemble", "postprocess", "compare", "submit",
    }  # fmt: skip
    made.commit("ran")
    return made


def test_it_ends_with_a_table_and_a_valid_submission(project: Project) -> None:
    table = project.table()
    assert list(table["model"]) == [
        "unet", "unet", "attention_unet", "attention_unet", "ensemble", "all_empty"
    ]  # fmt: skip
    assert table["val_argmax_score"].between(0, 1).all()
    assert table["test_argmax_score"].between(0, 1).all()
    masks = project.folder / "data" / "raw" / "test_masks"
    for name, model in (("submission", "ensemble"), ("unet", "unet")):
        file = project.folder / "data" / "submission" / f"{name}.csv"
        rows = pd.read_csv(file)
        assert list(rows.columns) == ["ImageClassId", "rle_mask"]
        assert len(rows) == 3 * 24
        # Another way to the same score: decode the file and compare with the masks themselves.
        printed = project.run("harveyseg", "score", str(file), "--masks", str(masks))
        score = float(re.search(r"^score: ([\d.]+)$", printed, re.MULTILINE).group(1))  # type: ignore[union-attr]
        assert score == pytest.approx(table.loc[table["model"] == model, "test_score"].iloc[0], abs=2e-5)


def test_a_second_time_nothing_runs(project: Project) -> None:
    assert project.stages("dvc", "repro") == set()
    assert project.run("harveyseg", "check").strip() == "The table and the stages' files agree."
    assert project.run("harveyseg", "sync").strip() == "MLflow has everything."
    assert project.run("git", "status", "--porcelain") == ""


def test_every_training_knows_its_borders(project: Project) -> None:
    names = [path.parent.name for path in (project.folder / "data" / "models").glob("*/run.json")]
    with sqlite3.connect(project.folder / "mlflow.db") as database:
        for name in names:
            query = "select key, value from latest_metrics where run_uuid = ?"
            found = dict(database.execute(query, (project.record(name).run_id,)))
            kept = json.loads((project.folder / "data" / "predictions" / name / "metrics.json").read_text())
            for part in ("border", "interior"):
                assert 0 < found[f"val/{part}_accuracy"] == kept[f"val/{part}_accuracy"] < 1
    assert sorted(names) == ["attention_unet-0", "unet-0"]


def test_the_ensembles_run_shows_the_data(project: Project) -> None:
    shares = pd.read_csv(project.folder / "data" / "figures" / "class_shares.csv")
    query = (
        "select sum(value), count(*), count(distinct run_uuid) from latest_metrics where key like 'data/pixel_share/%'"
    )
    with sqlite3.connect(project.folder / "mlflow.db") as database:
        total, values, runs = database.execute(query).fetchone()
    assert (total, values, runs) == (pytest.approx(1), len(shares), 1)
    logged = {path.name for path in (project.folder / "mlflow-artifacts").rglob("data/*")}
    assert logged == {path.name for path in (project.folder / "data" / "figures").iterdir()}


def test_dvc_shows_metrics_plots_and_the_graph(project: Project) -> None:
    metrics = project.run("dvc", "metrics", "show")
    assert "data/predictions/unet-0/metrics.json" in metrics.replace("\\", "/")
    assert "val/argmax_score" in metrics
    assert "train@unet-0" in project.run("dvc", "dag")
    plots = project.run("dvc", "plots", "show")
    assert plots.strip().endswith("index.html")


def test_lr_there_and_back_leaves_a_table_that_shows_the_first(project: Project) -> None:
    first, runs = project.record("unet-0"), project.runs()
    # 0.00001 becomes `1e-05` in params.yaml, which YAML 1.1 reads as a string.
    assert project.stages("dvc", "exp", "run", "-S", "train.lr=0.00001") == LR_STAGES
    table = project.table()
    assert table.loc[table["model"] == "unet", "lr"].tolist() == [1e-05, 1e-05]
    assert table.loc[table["model"] == "attention_unet", "lr"].tolist() == [0.004, 0.004]
    changed = project.record("unet-0")
    assert changed.parameters["train.lr"] == 1e-05
    assert changed.run_id != first.run_id
    assert changed.experiment is not None
    assert project.runs() == runs + 1
    # Back: everything comes from the run cache, the run's identity included; MLflow's newest run is the other one.
    assert project.stages("dvc", "exp", "run", "-S", "train.lr=0.01") == set()
    assert project.record("unet-0") == first
    assert project.table().loc[0, "lr"] == 0.01
    assert project.run("harveyseg", "check")
    everything = project.run("harveyseg", "table", "--all")
    assert changed.experiment in everything
    assert changed.experiment in project.run("dvc", "exp", "show", "--csv")


@pytest.mark.parametrize("way", ["--temp", "--queue"])
def test_experiments_elsewhere_are_tracked_here(project: Project, way: str) -> None:
    before, runs = project.record("unet-0"), project.runs()
    lr = {"--temp": "0.003", "--queue": "0.00002"}[way]
    # Down to the training alone, which is what is tracked; the rest of the chain is like any other stage.
    if way == "--temp":
        ran = project.stages("dvc", "exp", "run", "--temp", "-S", f"train.lr={lr}", "train@unet-0")
        assert ran == {"configure", "train@unet-0"}
    else:
        project.run("dvc", "exp", "run", "--queue", "-S", f"train.lr={lr}", "train@unet-0")
        project.run("dvc", "exp", "run", "--run-all")
    assert project.record("unet-0") == before
    assert project.runs() == runs + 1
    assert re.search(rf"\| {float(lr):g} ", project.run("harveyseg", "table", "--all"))


def test_a_forced_retrain_leaves_every_run_with_scores(project: Project) -> None:
    before, runs = project.record("attention_unet-0"), project.runs()
    weights = load_file(project.folder / "data" / "models" / "attention_unet-0" / "weights.safetensors")
    project.run("dvc", "repro", "-f", "-s", "train@attention_unet-0")
    after = project.record("attention_unet-0")
    again = load_file(project.folder / "data" / "models" / "attention_unet-0" / "weights.safetensors")
    assert all((weights[name] == again[name]).all() for name in weights)  # same seed, same weights
    assert after.run_id != before.run_id
    assert "evaluate@attention_unet-0" in project.stages("dvc", "repro")
    assert project.runs() == runs + 1
    scored = "exists (select 1 from latest_metrics m where m.run_uuid = runs.run_uuid and m.key = 'val/argmax_score')"
    # (Of this model; the queued trainings above were never evaluated.)
    model = "exists (select 1 from tags t where t.run_uuid = runs.run_uuid and t.value = 'attention_unet')"
    assert project.runs(f"{scored} and {model}") == project.runs(model) == 2


def test_a_clone_with_a_remote_recreates_the_same_table(project: Project, tmp_path: Path) -> None:
    project.run("dvc", "remote", "add", "--force", "--default", "local", str(tmp_path / "remote"))
    project.commit("remote")
    project.run("dvc", "push", "-q")
    clone = Project(tmp_path / "clone")
    project.run("git", "clone", "-q", str(project.folder), str(clone.folder))
    clone.run("dvc", "pull", "-q")
    assert "imported" in clone.run("harveyseg", "sync")
    written = {
        name: (clone.folder / "data" / "reports" / name).read_bytes() for name in ("comparison.csv", "comparison.md")
    }
    shutil.rmtree(clone.folder / "data" / "reports")
    clone.run("harveyseg", "table")
    for name, content in written.items():
        assert (clone.folder / "data" / "reports" / name).read_bytes() == content
        assert (project.folder / "data" / "reports" / name).read_bytes() == content
    assert clone.runs() == 2


def test_predict_maps_a_photo_at_its_own_size(project: Project, tmp_path: Path) -> None:
    photo = next((project.folder / "data" / "raw" / "test_images").glob("*.jpg"))
    project.run("harveyseg", "predict", str(photo), "--out", str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {f"{photo.stem}.png", f"{photo.stem}_overlay.jpg", "areas.csv"}
    areas = pd.read_csv(tmp_path / "areas.csv")
    assert areas.drop(columns="photo").sum(axis=1).iloc[0] == pytest.approx(100, abs=0.05)


def test_a_killed_training_ends_in_the_same_weights_under_one_run(project: Project, tmp_path: Path) -> None:
    settings = YAML()
    config = project.folder / "data" / "configs" / "unet.json"
    content = config.read_text().replace('"epochs": 2', '"epochs": 6')
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "unet.json").write_text(content)
    settings.dump({"tracking": {"experiment": "killed"}}, tmp_path / "params.yaml")

    def command(root: str) -> list[str]:
        paths = {
            "--configs": tmp_path / "configs",
            "--params": tmp_path / "params.yaml",
            "--out": tmp_path / root / "out",
        }
        options = [str(part) for pair in paths.items() for part in pair]
        return ["stages/run", "train", "--model", "unet", "--fold", "0", *options]

    project.run(*command("whole"), DVC_ROOT=str(tmp_path / "whole"))
    killed = 0
    for epoch in (2, 4):
        with subprocess.Popen(
            command("killed"),
            cwd=project.folder,
            env={**project.environment, "DVC_ROOT": str(tmp_path / "killed")},
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if f"epoch   {epoch}/6" in line:
                    process.send_signal(signal.SIGKILL)
                    killed += 1
        assert process.returncode == -signal.SIGKILL
    project.run(*command("killed"), DVC_ROOT=str(tmp_path / "killed"))
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
    assert Counter(steps) == {("epoch/train_loss", epoch): 1 for epoch in range(6)}
    assert not list((tmp_path / "killed" / ".checkpoints").glob("*"))


def test_an_edit_reruns_only_what_it_can_change(project: Project) -> None:
    source = project.folder / "src" / "harveyseg"
    originals = {
        name: (source / name).read_text() for name in ("tracking.py", "models/unetplusplus.py", "submission.py")
    }
    for name, text in originals.items():
        (source / name).write_text(f"{text}\n# an edit\n")
    status = project.run("dvc", "status")
    for name, text in originals.items():
        (source / name).write_text(text)
    changed = set(re.findall(r"^(\S+):$", status, re.MULTILINE))
    assert changed == {"configure", "compare", "submit"}


def test_a_model_that_is_removed_leaves_the_ensemble_and_the_table(project: Project) -> None:
    yaml = YAML()
    params = yaml.load(project.folder / "params.yaml")
    del params["models"]["attention_unet"]
    yaml.dump(params, project.folder / "params.yaml")
    assert project.stages("dvc", "repro") == {"configure", "ensemble", "postprocess", "compare", "submit"}
    assert (project.folder / "data" / "models" / "attention_unet-0").is_dir()  # its folder remains
    assert list(project.table()["model"]) == ["unet", "unet", "ensemble", "all_empty"]
    assert not (project.folder / "data" / "submission" / "attention_unet.csv").exists()
    assert not (project.folder / "data" / "postprocess" / "rules" / "attention_unet.json").exists()


def test_photos_outside_the_project_are_found_by_temporary_experiments(project: Project) -> None:
    outside = project.folder.parent / "photos"
    shutil.copytree(project.folder / "data" / "raw", outside, ignore=shutil.ignore_patterns("*.csv", "*.json"))
    directory = ("-S", "data.source=directory", "-S", "data.path=../photos")
    assert project.stages("dvc", "exp", "run", *directory, "download") == {"download"}
    project.commit("photos")
    assert project.stages("dvc", "exp", "run", "--temp", "-S", "data.demo.seed=1", "download") == {"download"}
    # A photo that is added there is noticed.
    assert project.stages("dvc", "repro", "download") == set()
    shutil.copy(next((outside / "test_images").glob("*.jpg")), outside / "test_images" / "99999.jpg")
    shutil.copy(next((outside / "test_masks").glob("*.png")), outside / "test_masks" / "99999.png")
    assert project.stages("dvc", "repro", "download") == {"download"}
    project.run("git", "checkout", "-q", "HEAD~1", "--", "params.yaml", "dvc.lock")


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
