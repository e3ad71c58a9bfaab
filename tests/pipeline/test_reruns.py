"""What DVC runs again after an edit, in a real repository: what the edit decides, and nothing else."""

import pytest

from helpers.project import Project

pytestmark = pytest.mark.slow

AFTER_A_TRAINING = {"ensemble", "postprocess", "metrics", "compare", "submit"}


def edit(project: Project, *names: str) -> None:
    """Add a comment to source files of the package."""
    for name in names:
        with (project.folder / "src" / "harveyseg" / name).open("a", encoding="utf-8") as opened:
            opened.write("# Edited.\n")


def test_a_second_time_nothing_runs(project: Project) -> None:
    assert project.stages("dvc", "repro") == set()
    assert "up to date" in project.run("dvc", "status")
    assert project.run("harveyseg", "check").strip() == "The table and the stages' files agree."
    assert project.run("harveyseg", "sync").strip() == "MLflow has everything."
    assert project.run("git", "status", "--porcelain") == ""


def test_what_kills_file_managers_and_notebooks_leave_reruns_nothing(project: Project) -> None:
    data = project.folder / "data"
    for folder in [data, *(path for path in data.rglob("*") if path.is_dir())]:
        (folder / ".DS_Store").write_bytes(b"a view")
        (folder / ".weights-0a1b2c3d.safetensors").write_bytes(b"half")
        (folder / ".ipynb_checkpoints").mkdir()
        (folder / ".ipynb_checkpoints" / "look-checkpoint.ipynb").write_text("{}")
    assert "up to date" in project.run("dvc", "status")
    assert project.stages("dvc", "repro") == set()


def test_an_edit_of_one_network_trains_its_models_alone(project: Project) -> None:
    before = project.record("unet-0")
    edit(project, "models/networks/attention_unet.py")
    assert project.stages("dvc", "repro") == {
        "code", "train@attention_unet-0", "evaluate@attention_unet-0", *AFTER_A_TRAINING
    }  # fmt: skip
    assert project.record("unet-0") == before
    assert "up to date" in project.run("dvc", "status")
    assert project.stages("dvc", "repro") == set()


def test_an_edit_of_the_tracker_trains_nothing(project: Project) -> None:
    edit(project, "tracking/client.py", "tracking/table.py")
    assert project.stages("dvc", "repro") == {"code", "compare"}
    assert "up to date" in project.run("dvc", "status")


def test_an_edit_of_the_submissions_code_makes_the_submission_alone(project: Project) -> None:
    edit(project, "evaluation/submission.py")
    assert project.stages("dvc", "repro") == {"code", "submit"}
    assert "up to date" in project.run("dvc", "status")


def test_a_setting_of_one_model_trains_that_model_alone(project: Project) -> None:
    assert project.stages("dvc", "exp", "run", "-S", "+models.unet.train.lr=0.004", "code") == {"code"}
    assert project.stages("dvc", "repro", "--dry") >= {"train@unet-0"}
    assert "train@attention_unet-0" not in project.stages("dvc", "repro", "--dry")


def test_an_edit_of_what_no_stage_runs(project: Project) -> None:
    edit(project, "cli.py", "kaggle/upload.py", "prediction/predict.py", "geo/mosaic.py", "reproduction/studies.py")
    assert project.stages("dvc", "repro") == {"code"}
