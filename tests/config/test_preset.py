"""Presets change what they are about and leave the rest of params.yaml as it is."""

from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from harveyseg.config.preset import apply_preset, matches_preset, preset_names
from harveyseg.errors import HarveysegError
from harveyseg.pipeline.check import check_params
from helpers.paths import ROOT

COMMITTED = (ROOT / "params.yaml").read_text()


def values(text: str) -> Any:
    return YAML(typ="safe", pure=True).load(text)


def comments(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip().startswith("#")]


def without_models(text: str) -> str:
    """Overrides of single models come and go with a preset, their comments with them."""
    start, _, rest = text.partition("\nmodels:\n")
    return start + rest.partition("\n\n")[2]


@pytest.fixture
def params(tmp_path: Path) -> Path:
    path = tmp_path / "params.yaml"
    path.write_text(COMMITTED)
    return path


def applied(params: Path, name: str) -> str:
    apply_preset(name, params)
    return params.read_text()


def test_the_committed_file_is_the_demo_preset_byte_for_byte(params: Path) -> None:
    assert applied(params, "demo") == COMMITTED


@pytest.mark.parametrize("name", ["demo", "report", "report-small", "best", "best-imagenet"])
def test_no_preset_chooses_an_epoch_on_the_photos_that_it_is_scored_on(params: Path, name: str) -> None:
    recipe = YAML(typ="safe").load(applied(params, name))
    for train in (recipe["train"], *(model.get("train", {}) for model in recipe["models"].values())):
        validation = recipe["train"]["validation"] | train.get("validation", {})
        assert (validation["keep"], validation["early_stopping"]) == ("last", None)


def test_report_keeps_data_tracking_and_comments(params: Path) -> None:
    params.write_text(
        COMMITTED.replace("source: demo", "source: directory").replace("required: false", "required: true")
    )
    text = applied(params, "report")
    before, after = values(params.read_text()), values(COMMITTED)
    assert before["data"] == {**after["data"], "source": "directory"}
    assert before["tracking"] == {**after["tracking"], "required": True}
    assert comments(without_models(text)) == comments(without_models(COMMITTED))
    preset = values((ROOT / "src" / "harveyseg" / "config" / "presets" / "report.yaml").read_text())
    assert {key: before[key] for key in preset} == preset
    assert list(before) == list(after)  # no section comes or goes


def test_demo_after_report_restores_the_file(params: Path) -> None:
    assert applied(params, "report") != COMMITTED
    assert applied(params, "demo") == COMMITTED


@pytest.mark.parametrize("name", ["demo", "report"])
def test_comments_outlive_the_values_before_them(params: Path, name: str) -> None:
    # Each comment stands behind a value that the preset takes away.
    edited = COMMITTED.replace("folds:\n  - 0\n", "folds:\n  - 0\n  - 2\n  - 1\n")
    edited = edited.replace("\ntrain:\n", "  mine:\n    network: unet\n\n# My remark on the training.\ntrain:\n")
    params.write_text(edited)
    text = applied(params, name)
    assert values(text)["folds"] == [0]
    assert "mine" not in values(text)["models"]
    expected = applied_to_committed(params, name)
    assert text == expected.replace("\ntrain:\n", "\n# My remark on the training.\ntrain:\n")


def applied_to_committed(params: Path, name: str) -> str:
    params.write_text(COMMITTED)
    return applied(params, name)


def test_the_number_that_dvc_wrote_is_replaced(params: Path) -> None:
    params.write_text(COMMITTED.replace("lr: 0.003", "lr: 1e-05").replace("ema: null", "ema: 0.99"))
    assert applied(params, "demo") == COMMITTED


def test_an_unknown_preset_lists_the_known_ones(params: Path) -> None:
    with pytest.raises(HarveysegError, match=r"preset 'demos': unknown\. Known are: best, best-imagenet, demo, report"):
        apply_preset("demos", params)
    assert params.read_text() == COMMITTED


def test_without_a_params_file_nothing_is_made(tmp_path: Path) -> None:
    with pytest.raises(HarveysegError, match=r"params\.yaml: no such file\. Run this in the project's root"):
        apply_preset("demo", tmp_path / "params.yaml")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_can_be_trained(params: Path, name: str) -> None:
    text = applied(params, name)
    if name != "best":  # whose weights come with a package; published ones need a network, which a test must not
        params.write_text(text.replace("encoder_weights: imagenet", "encoder_weights: null"))
    assert [config.model for config in check_params(params)] == list(values(text)["models"])


@pytest.mark.parametrize("name", preset_names())
def test_one_learning_rate_is_every_models(params: Path, name: str) -> None:
    # `-S train.lr=...` would otherwise silently pass some models by.
    models = values(applied(params, name))["models"]
    assert all("lr" not in entry.get("train", {}) for entry in models.values())


@pytest.mark.parametrize("name", ["demo", "report"])
def test_both_have_all_seven_networks_of_the_report(params: Path, name: str) -> None:
    assert len(values(applied(params, name))["models"]) == 7


def test_whether_a_file_has_the_settings_of_a_preset(params: Path) -> None:
    apply_preset("demo", params)
    assert matches_preset("demo", params)
    assert not matches_preset("best", params)
    params.write_text(params.read_text().replace("lr: 0.003", "lr: 0.004"))
    assert not matches_preset("demo", params)
