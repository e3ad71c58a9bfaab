"""What identifies an ensemble: its run record, and the entries of ``submission.json`` about its members."""

import time
from collections.abc import Mapping
from pathlib import Path

from harveyseg.ensemble.members import FoldModels
from harveyseg.ensemble.weights import EnsembleParams, EnsembleWeights
from harveyseg.files import digest
from harveyseg.project import experiment_name, git_state, library_versions
from harveyseg.record import RunRecord


def new_ensemble_record(
    fold_models: FoldModels, weights: EnsembleWeights, params: EnsembleParams, checkout: Path
) -> RunRecord:
    """The record of an ensemble that starts now; its parameters name the weights and the members' uids."""
    uids = {f"{model}-{fold}": member.record.uid for (model, fold), member in fold_models.members.items()}
    # External runs are among the members.
    settings = {f"ensemble.{name}": value for name, value in params.model_dump(exclude={"runs"}).items()}
    git = git_state(checkout)
    shared = fold_models.first.record
    return RunRecord(
        kind="ensemble",
        model="ensemble",
        fold=None,
        stage_key=digest({"members": uids, "parameters": settings}),
        experiment=experiment_name(),
        parameters={
            **settings,
            # MLflow allows no @ in a name.
            **{f"weight.{model.replace('@', '.')}": weight for model, weight in weights.chosen.items()},
            **{f"member.{name.replace('@', '.')}": uid for name, uid in uids.items()},
        },
        git_commit=git.commit,
        git_dirty=git.dirty,
        data_source=shared.data_source,
        data_hash=shared.data_hash,
        split_hash=shared.split_hash,
        device="cpu",
        environment=library_versions(),
        started_ms=round(time.time() * 1000),
    )


def describe_mixture(fold_models: FoldModels, weights: Mapping[str, float]) -> dict[str, object]:
    """Each model's weight, and the uid and MLflow run id of every fold model that has a weight."""
    return {
        "weights": dict(weights),
        "members": {
            f"{model}-{fold}": {"uid": member.record.uid, "run_id": member.record.run_id}
            for (model, fold), member in fold_models.members.items()
            if weights.get(model, 0) > 0
        },
    }
