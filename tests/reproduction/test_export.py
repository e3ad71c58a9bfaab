"""The exported runs of studies: nothing is lost, and nothing about the machine is told."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from harveyseg.errors import HarveysegError
from harveyseg.reproduction.export import StudyRuns, export_study_runs, import_study_runs
from harveyseg.reproduction.studies import StudyRecipe
from helpers.studies import make_variant, with_curves


@pytest.fixture
def runs(recipe: StudyRecipe) -> StudyRuns:
    curves = {"val_loss": {0: 3.0, 1: 0.1 + 0.2}}
    seeds = with_curves(make_variant("on", 2 / 3, 0.7), curves).seeds
    made = [folds[0].model_copy(update={"studies": {"softmax": "on"}}) for folds in seeds]
    return StudyRuns(recipe, {"data/photos/05_grass": 40.0}, tuple(made))


def test_what_is_read_is_what_was_written(runs: StudyRuns, tmp_path: Path) -> None:
    export_study_runs(runs, tmp_path / "studies.jsonl")
    read = import_study_runs(tmp_path / "studies.jsonl")
    assert (read.runs, read.data) == (runs.runs, runs.data)
    for section in ("models", "train", "resize-cache", "folds"):
        assert read.recipe.params[section] == runs.recipe.params[section]
    assert len((tmp_path / "studies.jsonl").read_text().splitlines()) == 1 + 2


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
