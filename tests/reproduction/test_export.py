"""The exported runs of studies: nothing is lost, and nothing about the machine is told."""

import json
import lzma
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from harveyseg.errors import HarveysegError
from harveyseg.reproduction.export import (
    LATENCY_EXPERIMENT,
    Latency,
    StudyRuns,
    export_study_runs,
    import_runs_of,
    import_study_runs,
    load_study_runs,
    log_latency,
    merge_study_runs,
)
from harveyseg.reproduction.studies import StudyRecipe
from harveyseg.tracking.client import Tracker, TrackingParams, open_tracker
from helpers.studies import make_variant, with_curves


@pytest.fixture
def runs(recipe: StudyRecipe) -> StudyRuns:
    curves = {"val_loss": {0: 3.0, 1: 0.1 + 0.2}}
    seeds = with_curves(make_variant("on", 2 / 3, 0.7), curves).seeds
    made = [folds[0].model_copy(update={"studies": {"softmax": "on"}}) for folds in seeds]
    return StudyRuns(recipe, {"data/photos/05_grass": 40.0}, tuple(made))


@pytest.mark.parametrize("name", ["studies.jsonl", "studies.jsonl.xz"])
def test_what_is_read_is_what_was_written(runs: StudyRuns, tmp_path: Path, name: str) -> None:
    export_study_runs(runs, tmp_path / name)
    export_study_runs(runs, tmp_path / name)  # its own file is replaced
    read = import_study_runs(tmp_path / name)
    assert (read.runs, read.data) == (runs.runs, runs.data)
    for section in ("models", "train", "resize-cache", "folds"):
        assert read.recipe.params[section] == runs.recipe.params[section]
    if name.endswith(".xz"):
        text = subprocess.run(["xz", "-dc", tmp_path / name], capture_output=True, check=True, text=True).stdout
    else:
        text = (tmp_path / name).read_text()
    assert len(text.splitlines()) == 1 + 2


def test_another_compressed_file_is_neither_read_nor_replaced(runs: StudyRuns, tmp_path: Path) -> None:
    path = tmp_path / "studies.jsonl.xz"
    for content in (b"not compressed", lzma.compress(b"something else")):
        path.write_bytes(content)
        with pytest.raises(HarveysegError, match=r"studies\.jsonl\.xz: exists already"):
            export_study_runs(runs, path)
        with pytest.raises(HarveysegError, match=r"studies\.jsonl\.xz: not an export"):
            import_study_runs(path)
        assert path.read_bytes() == content


def test_the_newest_latency_goes_along(tracker: Tracker, project: Path, recipe: StudyRecipe) -> None:
    assert load_study_runs(recipe, tracker).latency == {}
    measured = open_tracker(TrackingParams(experiment=LATENCY_EXPERIMENT), project, required=True)
    for ratio in (1.5, 1.6):
        network = Latency(milliseconds=90 * ratio, ratio=ratio, low=ratio - 0.1, high=ratio + 0.2)
        log_latency(measured, {"mobilenet_v2": network}, {"size": 256})
    client = MlflowClient(tracking_uri=tracker.uri)
    (found, _) = client.search_runs([measured.experiment_id])
    assert (found.info.status, found.data.params["size"]) == ("FINISHED", "256")
    runs = load_study_runs(recipe, tracker)
    assert runs.latency == {"mobilenet_v2": network}
    assert runs.runs == ()
    export_study_runs(runs, project / "studies.jsonl")
    assert import_study_runs(project / "studies.jsonl").latency == runs.latency


def test_no_path_or_address_of_the_photos_is_exported(runs: StudyRuns, tmp_path: Path) -> None:
    params = json.loads(json.dumps(runs.recipe.params))
    params["data"] |= {"path": "/home/ana/harvey", "url": "https://store/photos?signature=3f0c"}
    params["split"]["groups"] = "/home/ana/overlap.csv:strict"
    export_study_runs(replace(runs, recipe=StudyRecipe(params)), tmp_path / "studies.jsonl")
    text = (tmp_path / "studies.jsonl").read_text()
    assert "ana" not in text
    assert "signature" not in text
    assert import_study_runs(tmp_path / "studies.jsonl").recipe.params["data"]["path"] == "harvey"


@pytest.mark.parametrize("content", ["", "{}\n", '{"recipe": {}, "data": {}}\n', "PK\x03"])
def test_another_file_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "studies.jsonl").write_text(content)
    with pytest.raises(HarveysegError, match=r"studies\.jsonl|section"):
        import_study_runs(tmp_path / "studies.jsonl")
    with pytest.raises(HarveysegError, match=r"absent\.jsonl: no such file\. `harveyseg results --export FILE`"):
        import_study_runs(tmp_path / "absent.jsonl")


def elsewhere(recipe: StudyRecipe, **changes: object) -> StudyRecipe:
    """The recipe on another machine: the photos lie in another folder, and one setting of training may differ."""
    params = json.loads(json.dumps(recipe.params))
    params["data"]["path"] = f"/mnt/{Path(params['data']['path']).name}"
    params["tracking"] = {"uri": "http://127.0.0.1:9"}
    params["train"] |= changes
    return StudyRecipe(params)


def test_runs_of_two_machines_become_one_recipes(runs: StudyRuns, recipe: StudyRecipe) -> None:
    first, second = (
        run.model_copy(update={"started_ms": started}) for run, started in zip(runs.runs, (2, 1), strict=True)
    )
    other = elsewhere(recipe, lr=0.5)
    parts = {
        "MLflow": replace(runs, runs=(first,)),
        "a.jsonl": replace(runs, recipe=elsewhere(recipe), runs=(second, first), data={"data/photos/01_x": 1.0}),
        "b.jsonl": replace(runs, recipe=other, runs=(second,)),
    }
    both, alone = merge_study_runs(parts)
    assert (both.recipe, both.runs) == (recipe, (second, first))  # the older one first, each once
    assert both.data == {"data/photos/05_grass": 40.0, "data/photos/01_x": 1.0}
    assert (alone.recipe, alone.runs) == (other, (second,))


def test_a_study_on_other_photos_is_not_mixed_in(runs: StudyRuns, recipe: StudyRecipe) -> None:
    first, second = runs.runs
    parts = {
        "a.jsonl": replace(runs, runs=(first,)),
        "b.jsonl": replace(runs, recipe=elsewhere(recipe), runs=(second.model_copy(update={"split_hash": "f" * 64}),)),
    }
    with pytest.raises(
        HarveysegError, match=r"b\.jsonl: its study softmax ran on other photos.* than that of a\.jsonl"
    ):
        merge_study_runs(parts)


def test_runs_of_another_recipe_are_not_taken_for_done(runs: StudyRuns, recipe: StudyRecipe, tmp_path: Path) -> None:
    path = tmp_path / "studies.jsonl"
    export_study_runs(replace(runs, recipe=elsewhere(recipe)), path)
    assert import_runs_of(recipe, path).runs == runs.runs
    export_study_runs(replace(runs, recipe=elsewhere(recipe, lr=0.5)), path)
    with pytest.raises(
        HarveysegError, match=r"studies\.jsonl: .* another recipe than params\.yaml, .* in train\.lr\. "
    ):
        import_runs_of(recipe, path)
    export_study_runs(replace(runs, recipe=elsewhere(recipe, lr=0.5, a_setting_of_tomorrow=None)), path)
    with pytest.raises(HarveysegError, match=r"differs in train\.lr and 1 more\. "):
        import_runs_of(recipe, path)
