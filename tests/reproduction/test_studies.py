"""Studies: what they change, checked with DVC's own reading of the options."""

from pathlib import Path
from typing import Any

import pytest
from dvc.utils.hydra import apply_overrides

from harveyseg.config.preset import apply_preset
from harveyseg.config.settings import load
from harveyseg.errors import HarveysegError
from harveyseg.pipeline.check import check_params
from harveyseg.reproduction.studies import (
    StudyRecipe,
    find_study,
    read_recipe,
    read_studies,
    study_tag,
    study_trials,
    study_variants,
)

REPORT = {
    "channels": ["64", "32", "16"],
    "class_weights": ["none", "report", "enet"],
    "dropout": ["0.0", "0.1", "0.3"],
    "batch_norm": ["off", "encoder", "both"],
    "discriminative_lr": ["off", "on"],
    "adaptive_lr": ["off", "on"],
    "softmax": ["off", "on"],
    "size": ["512", "256"],
    "architecture": [
        "unet", "attention_unet", "unetplusplus", "mobilenet_v2", "efficientnet_lite0", "efficientnet_lite1",
        "efficientnet_lite2", "efficientnet_b1", "efficientnet_b2", "efficientnet_b3",
    ],
    "related_work": ["unet", "fcn", "segnet", "mask_rcnn"],
    "all_trials": ["undone", "done"],
    "epochs": ["20", "25", "30", "35"],
}  # fmt: skip
"""The variants of each study of the report's recipe; `grid` besides."""


def settings(params: Path, options: tuple[str, ...], folder: Path) -> dict[str, Any]:
    """params.yaml as DVC makes it of these -S options."""
    copy = folder / "changed.yaml"
    copy.write_text(params.read_text())
    apply_overrides(copy, list(options))
    return load(copy)


def test_every_study_of_the_report_is_there(params: Path) -> None:
    recipe = read_recipe(params)
    assert {name: list(study_variants(find_study(name), recipe)) for name in read_studies() if name != "grid"} == REPORT
    grid = list(study_variants(find_study("grid"), recipe))
    assert len(grid) == 9
    assert grid[:2] == ["lr 0.0003, epochs 20", "lr 0.0003, epochs 25"]


def test_the_reports_recipe_is_in_each_study_but_that_of_networks_as_one_trial(params: Path) -> None:
    recipe = read_recipe(params)
    own = {"16", "none", "0.1", "encoder", "on", "256", "25", "lr 0.001, epochs 25", "unet", "done"}
    names = [
        trial.name
        for name in read_studies()
        for trial in study_trials(find_study(name), recipe, 1)
        if trial.variant in own
    ]
    assert len(names) == len(read_studies()) == 13
    assert len(set(names)) == 1


def test_no_two_trials_are_the_same_by_accident(params: Path) -> None:
    recipe = read_recipe(params)
    for name in read_studies():
        names = [trial.name for trial in study_trials(find_study(name), recipe, 2)]
        assert len(set(names)) == len(names), name


@pytest.mark.parametrize("name", list(read_studies()))
def test_dvc_reads_the_options_as_they_are_meant(params: Path, tmp_path: Path, name: str) -> None:
    recipe = read_recipe(params)
    for trial, (model, changes) in zip(
        study_trials(find_study(name), recipe, 1), study_variants(find_study(name), recipe).values(), strict=True
    ):
        made = settings(params, trial.options, tmp_path)
        assert list(made["models"]) == [model] == [trial.model]
        for path, value in changes.items():
            found: Any = made
            for key in path.split("."):
                found = found[key]
            assert found == value
        # The trial's name is a digest of exactly these settings.
        assert trial.name == f"study-{StudyRecipe(made).key}"
        # And they can be trained (weights from the network aside).
        apply_overrides(tmp_path / "changed.yaml", ["train.encoder_weights=null"])
        assert [config.model for config in check_params(tmp_path / "changed.yaml")] == [model]


def test_seeds_count_up_from_that_of_the_recipe_and_each_is_complete_before_the_next(
    params: Path, tmp_path: Path
) -> None:
    params.write_text(params.read_text().replace("\n  seed: 0\n  #", "\n  seed: 5\n  #"))
    recipe = read_recipe(params)
    assert recipe.params["train"]["seed"] == 5
    made = study_trials(find_study("softmax"), recipe, 3)
    assert [(trial.variant, trial.seed) for trial in made] == [
        (variant, seed) for seed in (5, 6, 7) for variant in ("off", "on")
    ]
    assert [settings(params, trial.options, tmp_path)["train"]["seed"] for trial in made] == [5, 5, 6, 6, 7, 7]


def test_some_variants_of_a_study(params: Path) -> None:
    recipe = read_recipe(params)
    study = find_study("architecture")
    some = study_trials(study, recipe, 2, ["efficientnet_lite1", "unet"])
    assert [(trial.variant, trial.seed) for trial in some] == [
        ("unet", 0), ("efficientnet_lite1", 0), ("unet", 1), ("efficientnet_lite1", 1)
    ]  # fmt: skip
    assert {trial.name for trial in some} < {trial.name for trial in study_trials(study, recipe, 2)}
    with pytest.raises(HarveysegError, match=r"--only 'segnet': no variant of this study\. It has: unet, attention_"):
        study_trials(study, recipe, 1, ["unet", "segnet"])


def test_sizes_are_multiples_of_the_recipes(params: Path) -> None:
    params.write_text(params.read_text().replace("\n  size: 256\n", "\n  size: [64, 96]\n"))
    assert list(study_variants(find_study("size"), read_recipe(params))) == ["[128, 192]", "[64, 96]"]


def test_another_recipe_has_another_tag(params: Path) -> None:
    tag = study_tag("softmax", read_recipe(params))
    apply_preset("report-small", params)
    assert study_tag("softmax", read_recipe(params)) != tag
    assert tag.startswith("harveyseg.study.softmax.")


def test_what_cannot_be_varied_is_said(params: Path) -> None:
    with pytest.raises(HarveysegError, match=r"study 'depth': unknown\. Known are: channels, class_weights"):
        find_study("depth")
    apply_preset("best", params)
    for name in ("channels", "softmax", "architecture"):
        key = r"models\.unet is missing"
        with pytest.raises(HarveysegError, match=rf"params\.yaml: {key}.*`harveyseg preset report`"):
            study_variants(find_study(name), read_recipe(params))
    params.write_text(params.read_text().replace("\nfolds:", "\nfalten:"))
    with pytest.raises(HarveysegError, match=r"the section 'folds' is missing"):
        read_recipe(params)


def test_a_models_own_settings_do_not_hide_what_is_varied(params: Path, tmp_path: Path) -> None:
    own = "  unet:\n    train:\n      epochs: 3\n      seed: 9\n      optimiser:\n        weight_decay: 0.5\n"
    segnet = "  segnet:\n    network: segnet\n    width: 8\n    train:\n      epochs: 2\n"
    params.write_text(params.read_text().replace("\nmodels:\n  unet:\n", f"\nmodels:\n{segnet}{own}"))
    recipe = read_recipe(params)
    for trial in study_trials(find_study("epochs"), recipe, 2):
        made = settings(params, trial.options, tmp_path)
        (config,) = check_params(tmp_path / "changed.yaml")
        assert (config.train.epochs, config.train.seed) == (int(trial.variant), trial.seed)
        assert config.train.optimiser.weight_decay == 0.5  # which the study does not vary
        assert trial.name == f"study-{StudyRecipe(made).key}"
    (trial,) = (trial for trial in study_trials(find_study("related_work"), recipe, 1) if trial.variant == "segnet")
    assert settings(params, trial.options, tmp_path)["models"] == {"segnet": {"network": "segnet", "width": 16}}


def test_an_absent_file_is_named_once(tmp_path: Path) -> None:
    with pytest.raises(HarveysegError) as raised:
        read_recipe(tmp_path / "params.yaml")
    assert str(raised.value) == (
        f"{tmp_path / 'params.yaml'}: no such file. Run this in the project's root folder, which holds params.yaml."
    )
