"""The pipeline's steps from Python: the same files as the stages write, without DVC."""

import re
import runpy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from harveyseg import Data, Evaluation, Predictor, Workspace
from harveyseg.arrays import ClassMap
from harveyseg.data.split import fold_rows, split_hash
from harveyseg.errors import HarveysegError
from harveyseg.inference.network_file import load_network
from harveyseg.inference.probabilities import argmax_map
from harveyseg.record import read_run
from harveyseg.training.trainer import Result
from helpers.paths import ROOT

CHANGES: dict[str, Any] = {
    "data.demo": {"train": 10, "test": 2, "seed": 0, "width": 100},
    "data.score_size": 64,
    "resize-cache.size": 64,
    "models": {"tiny": {"network": "unet", "width": 2}},
    "train.epochs": 2,
    "train.threads": 1,
    "train.device": "cpu",
    "train.precision": "fp32",
    "inference.threads": 1,
    "inference.device": "cpu",
    "inference.precision": "fp32",
}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return Workspace.create(tmp_path_factory.mktemp("workspace"), CHANGES)


@pytest.fixture(scope="module")
def data(workspace: Workspace) -> Data:
    return workspace.prepare_data()


@pytest.fixture(scope="module")
def result(workspace: Workspace, data: Data) -> Result:
    return workspace.train("tiny", fold=0)


@pytest.fixture(scope="module")
def evaluation(workspace: Workspace, result: Result) -> Evaluation:
    return workspace.evaluate("tiny", fold=0)


def test_settings_keep_their_comments_and_get_the_changes(workspace: Workspace) -> None:
    text = (workspace.folder / "params.yaml").read_text()
    assert "# All settings of the pipeline" in text
    assert "  score_size: 64\n" in text
    assert "attention_unet" not in text


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"train.lr": -1}, r"train\.lr = -1: Input should be greater than 0"),
        ({"train.epoch": 3}, r"train\.epoch: unknown key\. Known are: .*epochs"),
        ({"training.lr": 0.1}, r"training\.lr: .* has no section 'training'.*train"),
        ({"data.source": "nowhere"}, r"data\.source = 'nowhere': .*demo"),
    ],
)
def test_an_impossible_setting_says_what_is_allowed(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(HarveysegError, match=expected):
        Workspace.create(tmp_path, {**CHANGES, **changes})


def test_a_folder_without_settings_is_no_workspace(tmp_path: Path) -> None:
    with pytest.raises(HarveysegError, match=r"params\.yaml: no such file\. Workspace\.create"):
        Workspace(tmp_path)


def test_the_stages_write_the_same_data(workspace: Workspace, data: Data, tmp_path: Path) -> None:
    stages = {name: runpy.run_path(str(ROOT / "stages" / f"{name}.py"))["main"] for name in ("resize_cache", "split")}
    raw, cache, folds = workspace.folder / "data" / "raw", tmp_path / "cache", tmp_path / "splits" / "folds.csv"
    stages["resize_cache"](params=workspace.folder / "params.yaml", raw=raw, cache=cache)
    stages["split"](workspace.folder / "params.yaml", raw, cache, folds, tmp_path / "figures")
    assert folds.read_bytes() == (workspace.folder / "data" / "splits" / "folds.csv").read_bytes()
    written = [path.relative_to(cache) for path in cache.rglob("*") if path.is_file()]
    assert len(written) == 9
    for name in written:
        assert (cache / name).read_bytes() == (workspace.folder / "data" / "cache" / name).read_bytes(), name
    assert data.train.images.shape == (10, 64, 64, 3)
    assert data.folds["id"].tolist() == list(data.train.ids)


def test_a_training_leaves_what_the_stage_does(workspace: Workspace, result: Result) -> None:
    folder = workspace.folder / "data" / "models" / "tiny-0"
    assert {path.name for path in folder.iterdir()} == {"history.csv", "run.json", "weights.safetensors"}
    record = read_run(folder / "run.json")
    assert (record.model, record.fold, record.data_source, record.run_id) == ("tiny", 0, "demo", None)
    assert record.results == result.results
    state = load_network(folder / "weights.safetensors").network.state_dict()
    for name, value in result.state.items():
        torch.testing.assert_close(state[name], value, rtol=0, atol=0)


def test_a_finished_training_is_not_trained_again(
    workspace: Workspace, result: Result, capsys: pytest.CaptureFixture[str]
) -> None:
    before = read_run(workspace.folder / "data" / "models" / "tiny-0" / "run.json")
    again = workspace.train("tiny", fold=0)
    assert capsys.readouterr().out == ""  # no epoch
    assert again.history == result.history
    assert read_run(workspace.folder / "data" / "models" / "tiny-0" / "run.json") == before


def test_the_argmax_score_is_the_mean_dice_of_the_held_out_photos(
    workspace: Workspace, data: Data, evaluation: Evaluation
) -> None:
    _, held_out = fold_rows(data.folds, data.train.ids, 0)
    truth = np.load(workspace.folder / "data" / "cache" / "score" / "train_masks.npy")[held_out]
    # Not enlarged: the score's size is that of the network.
    predicted = np.load(evaluation.folder / "val.npy").argmax(1)

    def dice(actual: ClassMap, found: ClassMap, index: int) -> float:
        first, second = actual == index, (found == index) & (actual != 255)
        return 2 * (first & second).sum() / (first.sum() + second.sum()) if first.any() or second.any() else 1.0

    pairs = list(zip(truth, predicted, strict=True))
    expected = np.mean([dice(*pair, index) for pair in pairs for index in range(1, 25)])
    assert evaluation.metrics["val/argmax_score"] == pytest.approx(expected, abs=1e-12)
    empty = np.mean([1.0 - (actual == index).any() for actual in truth for index in range(1, 25)])
    assert evaluation.metrics["val/all_empty_score"] == pytest.approx(empty, abs=1e-12)


def test_an_evaluation_has_a_row_for_each_class_and_pictures(evaluation: Evaluation) -> None:
    assert isinstance(evaluation.per_class, pd.DataFrame)
    assert evaluation.per_class["part"].value_counts().to_dict() == {"val": 24, "test": 24}
    for name in ("sheet.png", "learning_curve.png", "confusion.png"):
        assert (evaluation.folder / name).stat().st_size > 1000


def test_the_trained_network_predicts_new_photos(workspace: Workspace, data: Data, evaluation: Evaluation) -> None:
    """From the files alone: nearly the map of the evaluation, which shrinks the photo while it decodes it."""
    predictor = Predictor.load(workspace.folder, "tiny")
    photo = np.asarray(Image.open(workspace.folder / "data" / "raw" / "test_images" / f"{data.test.ids[0]}.jpg"))
    class_map = predictor.classify(photo)
    evaluated = argmax_map(np.load(evaluation.folder / "test.npy")[0], class_map.shape)
    assert class_map.shape == photo.shape[:2]
    assert (class_map == evaluated).mean() > 0.95


def test_what_was_not_trained_or_prepared_is_said(workspace: Workspace, data: Data, tmp_path: Path) -> None:
    with pytest.raises(HarveysegError, match=r"unet: no such model in .*Known are: tiny"):
        workspace.train("unet")
    with pytest.raises(HarveysegError, match=r"tiny-2: no such folder\. Call train\('tiny', 2\) first"):
        workspace.evaluate("tiny", fold=2)
    with pytest.raises(HarveysegError, match=r"fold 7: the split has no such fold"):
        workspace.train("tiny", fold=7)


def test_a_project_of_dvc_is_left_to_dvc(tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").touch()
    with pytest.raises(HarveysegError, match="is a project of DVC"):
        Workspace.create(tmp_path)
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    project = Workspace(tmp_path)
    for step in (project.prepare_data, lambda: project.train("unet"), lambda: project.evaluate("unet")):
        with pytest.raises(HarveysegError, match=r"only DVC may write\. Run `dvc repro"):
            step()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dvc.yaml", "params.yaml"]


@pytest.fixture
def trained(workspace: Workspace, evaluation: Evaluation, tmp_path: Path) -> Workspace:
    """A copy whose settings can be changed."""
    return Workspace(shutil.copytree(workspace.folder, tmp_path / "copy"))


def edit(workspace: Workspace, before: str, after: str) -> None:
    path = workspace.folder / "params.yaml"
    text = path.read_text()
    assert text.count(before) == 1
    path.write_text(text.replace(before, after))


def test_photos_that_a_network_was_trained_on_are_not_scored_as_held_out(trained: Workspace) -> None:
    edit(trained, "  seed: 0\n  # null | a text file", "  seed: 1\n  # null | a text file")
    with pytest.raises(HarveysegError, match=r"split\.seed changed after the data were prepared\. Call prepare_data"):
        trained.evaluate("tiny", fold=0)
    before = read_run(trained.folder / "data" / "models" / "tiny-0" / "run.json").split_hash
    trained.prepare_data()
    assert split_hash(trained.folder / "data" / "splits" / "folds.csv") != before  # or this would show nothing
    with pytest.raises(HarveysegError, match=r"tiny-f0: this run was made with other folds than folds\.csv holds"):
        trained.evaluate("tiny", fold=0)


def test_a_network_of_other_settings_is_not_evaluated_and_is_trained_again(
    trained: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(trained, "epochs: 2", "epochs: 1")
    expected = r"tiny-f0: train\.epochs is 1 in params\.yaml and 2 in this run\. Call train\('tiny', 0\) again"
    with pytest.raises(HarveysegError, match=expected):
        trained.evaluate("tiny", fold=0)
    assert len(trained.train("tiny", fold=0).history) == 1
    edit(trained, "epochs: 1", "epochs: 3")  # with the same object
    assert len(trained.train("tiny", fold=0).history) == 3
    assert capsys.readouterr().out.count("epoch ") == 4
    assert trained.evaluate("tiny", fold=0).metrics["val/argmax_score"] > 0


def test_nothing_is_trained_on_data_of_other_settings(trained: Workspace) -> None:
    edit(trained, "[height, width]\n  size: 64", "[height, width]\n  size: 96")
    for step in (trained.load_data, lambda: trained.train("tiny"), lambda: trained.evaluate("tiny")):
        with pytest.raises(HarveysegError, match=r"resize-cache\.size changed after the data were prepared"):
            step()
    assert trained.prepare_data().train.images.shape[1:3] == (96, 96)
    with pytest.raises(HarveysegError, match=r"tiny-f0: resize-cache\.size is 96x96 in params\.yaml and 64x64"):
        trained.evaluate("tiny")


def test_an_edited_file_of_groups_is_noticed(trained: Workspace, tmp_path: Path) -> None:
    photos = trained.load_data().train.ids
    groups = tmp_path / "groups.csv"

    def write_groups(size: int) -> None:
        groups.write_text("".join(["id,group\n", *(f"{photo},{row // size}\n" for row, photo in enumerate(photos))]))

    write_groups(2)
    edit(trained, "  groups: ids\n", f"  groups: {groups}\n")
    trained.prepare_data()
    trained.load_data()
    write_groups(3)
    message = r"the file of split\.groups changed after the data were prepared\. Call prepare_data\(\) again"
    with pytest.raises(HarveysegError, match=message):
        trained.load_data()
    assert trained.prepare_data().folds["group"].nunique() == 4  # of ten photos


def test_settings_that_a_user_has_edited_are_not_replaced(tmp_path: Path) -> None:
    workspace = Workspace.create(tmp_path, CHANGES)
    assert Workspace.create(tmp_path, CHANGES).folder == workspace.folder  # a notebook that runs once more
    edit(workspace, "epochs: 2", "epochs: 5  # mine")
    before = (tmp_path / "params.yaml").read_bytes()
    for changes in (CHANGES, {**CHANGES, "train.lr": -1}):
        with pytest.raises(HarveysegError, match=r"params\.yaml: has other settings than these"):
            Workspace.create(tmp_path, changes)
    assert (tmp_path / "params.yaml").read_bytes() == before


@pytest.mark.parametrize("changes", [{"train.lr": -1}, {"train.lr": np.float64(0.1)}, {"data.path": Path("/photos")}])
def test_a_refused_setting_leaves_nothing(tmp_path: Path, changes: dict[str, Any]) -> None:
    name, value = next(iter(changes.items()))
    with pytest.raises(HarveysegError, match=rf"{re.escape(name)} = {re.escape(repr(value))}: "):
        Workspace.create(tmp_path, {**CHANGES, **changes})
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HarveysegError, match=r"file: is a file\. Name a folder"):
        Workspace.create(tmp_path / "file")


def test_data_that_were_not_prepared(tmp_path: Path) -> None:
    workspace = Workspace.create(tmp_path, CHANGES)
    for step in (workspace.load_data, lambda: workspace.train("tiny")):
        with pytest.raises(HarveysegError, match=r"the data are not prepared\. Call prepare_data\(\) first"):
            step()
