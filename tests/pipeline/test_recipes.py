"""The recipes of benchmarks/score.py, set by DVC's own -S, are recipes that can be trained."""

from pathlib import Path
from typing import Any

import pytest
from dvc.utils.hydra import apply_overrides
from ruamel.yaml import YAML

from harveyseg.config.preset import apply_preset
from harveyseg.pipeline.check import check_params
from harveyseg.reproduction.studies import TABLE_1
from helpers.paths import ROOT
from score import RECIPES, Recipe, _table


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "params.yaml"
    path.write_text((ROOT / "params.yaml").read_text())
    return path


@pytest.mark.parametrize("name", RECIPES)
def test_recipe(name: str, path: Path) -> None:
    recipe: Recipe = RECIPES[name]
    apply_preset(recipe.preset, path)
    preset = values(path)
    apply_overrides(path, list(recipe.changes))
    params = values(path)
    assert (params == preset) == (not recipe.changes)
    assert len(params["models"]) == 1
    # Weights that are published need a network; those of `best` come with a package.
    if recipe.preset == "report":
        apply_overrides(path, ["train.encoder_weights=null"])
    assert [config.model for config in check_params(path)] == list(params["models"])


def values(path: Path) -> Any:
    return YAML(typ="safe", pure=True).load(path)


def test_each_recipe_can_be_asked_for() -> None:
    assert ",".join(RECIPES).split(",") == list(RECIPES)


def test_all_networks_of_table_1_are_in_the_preset(path: Path) -> None:
    apply_preset("report", path)
    assert set(values(path)["models"]) == set(TABLE_1)


def test_the_table_has_gains_over_empty_and_their_ratio_to_the_reports() -> None:
    nan = float("nan")
    lines = [
        {"recipe": "report", "all empty": 0.6, "argmax": 0.62, "score": 0.62, "spread": nan, "minutes": 10.04},
        {"recipe": "best", "all empty": 0.6, "argmax": 0.61, "score": 0.7, "spread": 0.01, "minutes": 20.0},
    ]
    header, _, *rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in _table(lines).splitlines())
    gains = ["gain over empty", "times the report's"]
    assert header == ["recipe", "all empty", "argmax", "score", *gains, "spread", "minutes"]
    assert rows == [
        ["report", "0.6000", "0.6200", "0.6200", "0.0200", "1.0", "", "10.0"],
        ["best", "0.6000", "0.6100", "0.7000", "0.1000", "5.0", "0.0100", "20.0"],
    ]
