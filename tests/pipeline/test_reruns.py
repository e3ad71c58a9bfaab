"""What DVC runs again after an edit, in a real repository: what the edit decides, and nothing else."""

import pytest
from mlflow.tracking import MlflowClient

from harveyseg.tracking.values import unpack_values
from helpers.project import Project

pytestmark = pytest.mark.slow

AFTER_A_TRAINING = {"ensemble", "postprocess", "metrics", "compare", "submit"}


CONSTANT = """

def boundary_accuracies(*_: object) -> dict[str, float]:
    return {"boundary_accuracy": 2.0}
"""


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


def test_other_code_of_the_evaluation_is_another_evaluation(project: Project) -> None:
    """As two members whose commits differ in what evaluates: neither overwrites the other's numbers in MLflow."""
    uid = project.record("unet-0").uid

    def accuracies() -> list[float]:
        client = MlflowClient(tracking_uri=f"sqlite:///{project.folder / 'mlflow.db'}")
        runs = client.search_runs(["1"], f"tags.`harveyseg.uid` = '{uid}'")
        return sorted(unpack_values(run.data.tags)["val/boundary_accuracy"] for run in runs)

    (first,) = accuracies()
    path = project.folder / "src" / "harveyseg" / "evaluation" / "boundary.py"
    code = path.read_text()
    path.write_text(code + CONSTANT)
    evaluations = {"evaluate@unet-0", "evaluate@attention_unet-0"}
    assert project.stages("dvc", "repro") == {"code", *evaluations, *AFTER_A_TRAINING}
    assert project.record("unet-0").uid == uid
    assert accuracies() == [first, 2.0]
    assert project.stages("dvc", "repro") == set()

    path.write_text(code)
    assert project.stages("dvc", "repro") == {"code"}
    assert accuracies() == [first, 2.0]
    assert project.run("harveyseg", "check").strip() == "The table and the stages' files agree."
    assert project.run("harveyseg", "sync").strip() == "MLflow has everything."

    # Other code of the post-processing alone: the same.
    edit(project, "postprocess/regression.py")
    assert project.stages("dvc", "repro") == {"code", "ensemble", "postprocess", "metrics", "compare", "submit"}
    assert accuracies() == [first, first, 2.0]


def test_an_edit_of_what_no_stage_runs(project: Project) -> None:
    edit(project, "cli.py", "kaggle/upload.py", "prediction/predict.py", "geo/mosaic.py", "reproduction/studies.py")
    assert project.stages("dvc", "repro") == {"code"}
