"""docs/extending.md, followed literally: its blocks are applied to a copy of the project, its commands are run."""

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from harveyseg.data.demo import DemoParams, write_demo
from helpers.paths import ROOT
from helpers.project import FEW_PHOTOS, Project, start_project

pytestmark = pytest.mark.slow

PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
RECIPES = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
BLOCK = re.compile(r"^<!-- (\w+)(?:: (\S+))? -->\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CHANGES: dict[str, object] = {
    "data": FEW_PHOTOS,
    "resize-cache": {"size": 64},
    "split": {"folds": 2, "groups": "none"},
    "models": {"unet": {"network": "unet", "width": 4}},
    "train": {"epochs": 1, "batch_size": 4, "threads": 1},
    "inference": {"threads": 1},
}


def apply_edit(path: Path, diff: str) -> None:
    """Replace the lines marked with - by those marked with +; what is not marked must be there, too."""
    lines = diff.splitlines(keepends=True)
    before = "".join(line[1:] for line in lines if not line.startswith("+"))
    after = "".join(line[1:] for line in lines if not line.startswith("-"))
    text = path.read_text(encoding="utf-8")
    assert text.count(before) == 1, f"{path}: docs/extending.md expects these lines once:\n{before}"
    path.write_text(text.replace(before, after), encoding="utf-8")


def merge(target: dict[str, Any], values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, Mapping) and isinstance(target.get(key), dict):
            merge(target[key], value)
        else:
            target[key] = value


def apply_params(path: Path, block: str) -> None:
    yaml = YAML()
    params = yaml.load(path)
    merge(params, yaml.load(block))
    yaml.dump(params, path)


def write_pairs(folder: Path, scratch: Path) -> None:
    """The drawn photos as the recipe of a data source expects them."""
    write_demo(scratch, DemoParams(train=8, test=2, width=96))
    folder.mkdir()
    for part in ("train", "test"):
        for photo in (scratch / f"{part}_images").iterdir():
            shutil.copy(photo, folder / photo.name)
            shutil.copy(scratch / f"{part}_masks" / f"{photo.stem}.png", folder / f"{photo.stem}_mask.png")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    copy = start_project(tmp_path / "harveyseg", CHANGES)
    for name in ("tests", "benchmarks"):
        shutil.copytree(ROOT / name, copy.folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy.folder)
    (copy.folder / "data").mkdir(exist_ok=True)
    shutil.copy(ROOT / "data" / "README.md", copy.folder / "data")
    copy.environment["PYTHONPATH"] = os.pathsep.join(str(copy.folder / name) for name in ("src", "tests"))
    return copy


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe(recipe: str, project: Project, tmp_path: Path) -> None:
    write_pairs(project.folder / "pairs", tmp_path / "drawn")
    commands = 0
    for action, path, block in BLOCK.findall(RECIPES[recipe]):
        target = project.folder / path
        if action == "file":
            assert not target.exists()
            target.write_text(block, encoding="utf-8")
        elif action == "append":
            target.write_text(f"{target.read_text(encoding='utf-8')}\n{block}", encoding="utf-8")
        elif action == "edit":
            apply_edit(target, block)
        elif action == "params":
            apply_params(project.folder / "params.yaml", block)
        else:
            assert action == "run"
            project.run("sh", "-euc", block)
            commands += 1
    assert commands == 1


def test_every_block_of_code_is_tested() -> None:
    assert list(RECIPES) == ["A network", "A data source", "A stage", "A metric"]
    assert len(BLOCK.findall(PAGE)) == PAGE.count("\n```") / 2
