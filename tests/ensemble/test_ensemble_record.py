"""The ensemble's record and the description of a mixture."""

import re
import shutil
from pathlib import Path

import pytest

from harveyseg.ensemble.members import FoldModels, load_fold_models
from harveyseg.ensemble.record import describe_mixture, new_ensemble_record
from harveyseg.ensemble.weights import (
    EnsembleParams,
    choose_weights,
)
from harveyseg.files import write_json
from harveyseg.postprocess.select import PostprocessParams
from harveyseg.record import write_run
from helpers.small_ensemble import (
    FOLDS,
    GROUPS,
    MODELS,
    make_member_record,
    random_truth,
    training_part,
    write_predictions,
)

ARGMAX = PostprocessParams(method="argmax")


def test_record_names_weights_and_members(fold_models: FoldModels, tmp_path: Path) -> None:
    weights = choose_weights(
        fold_models, training_part(random_truth(0)), GROUPS, EnsembleParams(steps=2), ARGMAX, threads=1
    )
    record = new_ensemble_record(fold_models, weights, EnsembleParams(steps=2), tmp_path)
    assert record.kind == record.model == "ensemble"
    assert record.parameters["member.b-2"] == "uid-b-2"
    assert record.parameters["ensemble.steps"] == 2
    assert sum(float(record.parameters[f"weight.{model}"] or 0) for model in MODELS) == pytest.approx(1)
    assert (record.data_hash, record.split_hash, record.data_source) == ("d", "s", "demo")
    again = new_ensemble_record(fold_models, weights, EnsembleParams(steps=2), tmp_path)
    assert again.stage_key == record.stage_key
    assert again.uid != record.uid
    assert new_ensemble_record(fold_models, weights, EnsembleParams(steps=3), tmp_path).stage_key != record.stage_key


def test_external_models_come_last_and_from_their_own_folder(tmp_path: Path) -> None:
    write_predictions(tmp_path, random_truth(0))
    for fold in FOLDS:
        target = tmp_path / "added" / f"a@0123-{fold}"
        shutil.copytree(tmp_path / "predictions" / f"a-{fold}", target)
        write_run(target / "run.json", make_member_record(uid=f"added-{fold}", fold=fold))
        write_json(target / "metrics.json", {"uid": f"added-{fold}", "val/argmax_score": 0.9})
    write_json(tmp_path / "added" / "models.json", {"models": ["a@0123"]})
    fold_models = load_fold_models(MODELS, FOLDS, tmp_path / "models", tmp_path / "predictions", tmp_path / "added")
    assert fold_models.models == (*MODELS, "a@0123")
    assert fold_models.argmax_score("a@0123") == pytest.approx(0.9)
    weights = choose_weights(
        fold_models, training_part(random_truth(0)), GROUPS, EnsembleParams(steps=3), ARGMAX, threads=1
    )
    record = new_ensemble_record(fold_models, weights, EnsembleParams(steps=3, runs=("0123",)), tmp_path)
    assert record.parameters["member.a.0123-2"] == "added-2"
    # The names that MLflow takes for a parameter.
    assert all(re.fullmatch(r"[/\w.\- :]+", name) for name in record.parameters)


def test_a_mixture_names_only_members_with_weight(fold_models: FoldModels) -> None:
    description = describe_mixture(fold_models, {"a": 0.0, "b": 1.0})
    assert description["members"] == {f"b-{f}": {"uid": f"uid-b-{f}", "run_id": f"run-b-{f}"} for f in FOLDS}
