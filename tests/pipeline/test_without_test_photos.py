"""A pipeline on photos without a test part: every stage runs, and what needs test photos says that there are none."""

import json
import shutil
from pathlib import Path

import pytest

from harveyseg.data.demo import DemoParams, write_demo
from helpers.page import Page
from helpers.project import SMALL, start_project

pytestmark = pytest.mark.slow


def test_from_photos_to_table_and_maps(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    write_demo(photos, DemoParams(train=8, test=2, seed=0, width=96))
    shutil.move(photos / "test_images", tmp_path / "new")  # to predict, as photos of another flight
    shutil.rmtree(photos / "test_masks")
    folder = tmp_path / "project"
    folder.mkdir()
    data = {"source": "directory", "path": "../photos"}
    project = start_project(folder, {**SMALL, "data": data, "postprocess": {"method": "auto"}})
    printed = project.run("dvc", "repro")
    assert "photos has no folder test_images, so there will be no submission and no test score" in printed
    assert "no submission: the data have no test photos" in printed
    assert "up to date" in project.run("dvc", "status")
    project.run("harveyseg", "check")

    submission = folder / "data" / "submission"
    assert [path.name for path in submission.iterdir()] == ["submission.json"]
    assert json.loads((submission / "submission.json").read_text())["files"] == {}
    refused = project.run("harveyseg", "upload", ok=False)
    assert "lists no submission, since the data have no test photos" in refused

    table = project.table()
    assert set(table["model"]) >= {"unet", "attention_unet", "ensemble", "all_empty"}
    assert table["test_score"].isna().all()
    assert table["val_score"].between(0, 1).all()
    project.run("harveyseg", "summary")
    page = Page(folder / "summary.html")
    assert "test photos" not in page.text
    assert {picture["part"] for picture in page.scripts["gallery-data"]["pictures"]} == {"held out"}
    project.run("harveyseg", "predict", str(tmp_path / "new"), "--out", "maps")
    assert len(list((folder / "maps").glob("[0-9]*.png"))) == 2
