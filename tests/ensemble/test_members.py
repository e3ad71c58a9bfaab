"""Fold models: their weighted means, and files that do not fit together."""

import json
from pathlib import Path

import numpy as np
import pytest

from harveyseg.config.settings import listed_models
from harveyseg.ensemble.members import FoldModels, load_fold_models
from harveyseg.errors import HarveysegError
from harveyseg.files import write_json
from harveyseg.inference.probabilities import write_probabilities
from harveyseg.record import Value, write_run
from helpers.small_ensemble import (
    FOLDS,
    IDS,
    SIZE,
    enlarge_bilinear,
    load_written,
    make_member_record,
    random_maps,
    random_truth,
    shrink,
    write_predictions,
)


def test_positions_run_fold_by_fold(fold_models: FoldModels) -> None:
    assert fold_models.positions == [(0, 0), (0, 1), (2, 0), (2, 1), (2, 2)]
    assert fold_models.ids == ["p0", "p3", "p1", "p2", "p4"]
    assert fold_models.rows(IDS) == [0, 3, 1, 2, 4]


def test_predictions_are_weighted_means(fold_models: FoldModels) -> None:
    weights = {"a": 0.5, "b": 0.0, "c": 0.5}
    other = {"a": 0.0, "b": 1.0, "c": 0.0}
    val = fold_models["a", 2].val[1].astype(float) / 2 + fold_models["c", 2].val[1] / 2
    assert np.array_equal(fold_models.predictor(weights)(3), np.rint(val))
    for without in ({0: other}, {0: other, 2: weights}, {2: weights, 0: other}):
        assert np.array_equal(fold_models.predictor(weights, without)(1), fold_models["b", 0].val[1])
        assert np.array_equal(fold_models.predictor(weights, without)(3), np.rint(val))
    assert np.array_equal(fold_models.predictor(other, {2: weights})(1), fold_models["b", 0].val[1])
    test = np.mean([fold_models[model, fold].test.astype(float) for model in "ac" for fold in FOLDS], axis=0)
    assert np.abs(np.stack(list(fold_models.test(weights))) - test).max() <= 0.5


def test_argmax_score_weighs_folds_by_their_photos(fold_models: FoldModels) -> None:
    assert fold_models.argmax_score("a") == pytest.approx((2 * 0.5 + 3 * 0.7) / 5)


def test_how_the_members_were_predicted(tmp_path: Path) -> None:
    """An ensemble on a CPU of members that a GPU has predicted was not predicted on a CPU."""
    write_predictions(tmp_path, random_truth(0))
    shared = {"inference.tta": "flips", "inference.window": None}
    of_model: dict[str, dict[str, Value]] = {
        "a": {"inference.device": "cuda", "inference.scales": "0.75, 1.0", **shared},
        "b": {"inference.device": "cpu", "inference.scales": "0.75", **shared, "inference.window": 512},
        "c": {"inference.device": "cpu", "inference.scales": "1.0", "inference.window": None},
    }
    for folder in (tmp_path / "predictions").iterdir():
        metrics = json.loads((folder / "metrics.json").read_text())
        write_json(folder / "metrics.json", metrics | of_model[folder.name[0]])
    fold_models = load_written(tmp_path)
    assert fold_models.inference(["a"]) == of_model["a"]
    assert fold_models.inference({"b", "c"}) == {
        "inference.device": "cpu",
        "inference.scales": "0.75 and 1.0",
        "inference.tta": "flips and unknown",
        "inference.window": "512 and null",
    }
    assert fold_models.inference({"a", "b", "c"})["inference.device"] == "cuda and cpu"


def test_a_model_that_params_no_longer_list_is_left_out(tmp_path: Path) -> None:
    write_predictions(tmp_path, random_truth(0))
    (tmp_path / "params.yaml").write_text("models: {c: {network: unet}, a: {network: unet}}\nfolds: [2, 0]\n")
    models, folds = listed_models(tmp_path / "params.yaml")
    assert (models, folds) == (("c", "a"), (2, 0))
    fold_models = load_fold_models(models, folds, tmp_path / "models", tmp_path / "predictions")
    assert {model for model, _ in fold_models.members} == {"a", "c"}


def test_all_missing_and_damaged_files_are_listed_at_once(tmp_path: Path) -> None:
    write_predictions(tmp_path, random_truth(0))
    (tmp_path / "predictions/a-0/val.npy").unlink()
    (tmp_path / "predictions/b-2/metrics.json").unlink()
    (tmp_path / "models/c-0/run.json").write_text("{")
    write_json(tmp_path / "predictions/c-2/metrics.json", {"uid": "of an older run", "val/argmax_score": 0.1})
    with pytest.raises(HarveysegError) as caught:
        load_written(tmp_path)
    text = str(caught.value)
    for expected in (
        "4 problems",
        "a-0/val.npy: no such file",
        "b-2/metrics.json: no such file",
        "c-0/run.json: not valid",
    ):
        assert expected in text
    assert "c-2/metrics.json: belongs to another run" in text


def test_members_of_other_data_or_photos_are_refused(tmp_path: Path) -> None:
    write_predictions(tmp_path, random_truth(0))
    write_run(
        tmp_path / "models/b-0/run.json",
        make_member_record(model="b", uid="uid-b-0", data_hash="other", split_hash="other"),
    )
    rng = np.random.default_rng(2)
    write_probabilities(tmp_path / "predictions/c-0/val.npy", ("p0", "p1"), (25, *SIZE), [random_maps(rng, 2)])
    write_probabilities(tmp_path / "predictions/c-2/test.npy", ("t0",), (25, *SIZE), [random_maps(rng, 1)])
    with pytest.raises(HarveysegError) as caught:
        load_written(tmp_path)
    assert "b-0: other data, split than a" in str(caught.value)
    assert "c-0: other validation photos than a" in str(caught.value)
    assert "c-2: other test photos than a" in str(caught.value)


def test_maps_of_different_sizes_are_averaged_at_the_largest(tmp_path: Path) -> None:
    write_predictions(tmp_path, random_truth(0))
    shrink(tmp_path, "b", (3, 2), np.random.default_rng(4))
    fold_models = load_written(tmp_path)
    half = {"a": 0.5, "b": 0.5, "c": 0.0}
    expected = fold_models["a", 2].val[1] / 2 + enlarge_bilinear(fold_models["b", 2].val[1]) / 2
    assert np.abs(fold_models.predictor(half)(3) - expected).max() <= 0.5 + 1e-4
    test = np.mean([enlarge_bilinear(fold_models[model, fold].test[1]) for model in "ab" for fold in FOLDS], axis=0)
    assert np.abs(list(fold_models.test(half))[1] - test).max() <= 0.5 + 1e-4
    assert fold_models.test_size(half) == SIZE
    assert fold_models.test_size({"b": 1.0}) == (3, 2)
    assert next(fold_models.test({"b": 1.0})).shape == (25, 3, 2)
