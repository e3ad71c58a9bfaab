"""External members: training runs of other experiments, named by their MLflow run ids in ``ensemble.runs``.

They may have other hyperparameters, seeds and photo sizes, and come from other machines, as long as they were trained
on the same data and split. Runs that differ only in the fold are one model, ``<model>@<start of a run id>``, and
every fold of params.yaml must be there: the ensemble's weights are chosen on photos that a model was not trained on.
"""

from collections.abc import Sequence
from pathlib import Path

from harveyseg.arrays import ClassMaps
from harveyseg.data.cache import CachedPart
from harveyseg.ensemble.members import FoldModels
from harveyseg.errors import HarveysegError, raise_problems
from harveyseg.evaluation.metrics import evaluation_record
from harveyseg.files import digest, write_json
from harveyseg.inference.params import InferenceParams
from harveyseg.inference.probabilities import count_confusions, read_probabilities
from harveyseg.record import RunRecord, write_run
from harveyseg.tracking.client import Tracker
from harveyseg.tracking.faults import public_address
from harveyseg.tracking.query import KIND, TrackedRun, download_weights, get_runs, has_weights, record_of

_MACHINE_PARAMETERS = {"train.threads", "train.workers", "train.device", "train.precision"}
"""Parameters that say how a training was computed, not what was trained: folds of one model may differ in them."""
_ID_LENGTH = 8
"""Leading characters of a run id in a model's name."""


def find_external_models(
    run_ids: Sequence[str], tracker: Tracker, fold_models: FoldModels
) -> dict[str, dict[int, RunRecord]]:
    """Ask MLflow for training runs and put the folds of each model together.

    Args:
        run_ids: MLflow's run ids.
        tracker: where to look for them.
        fold_models: the workspace's models; an external model must have their data, split and folds.

    Returns:
        For each external model, named ``<model>@<start of its first fold's run id>``, the training of each fold.

    Raises:
        HarveysegError: listing every run that is unknown, is not a finished training, has other data, another split or
            other folds, has no weights, belongs to the workspace or is named twice, and every fold that a model lacks.
    """
    problems: list[str] = []
    folds_of: dict[str, dict[int | None, RunRecord]] = {}
    workspace_names = {member.record.uid: f"{model}-{fold}" for (model, fold), member in fold_models.members.items()}
    for run_id, run in zip(run_ids, get_runs(tracker, run_ids), strict=True):
        try:
            record = _training(run_id, run, tracker)
        except HarveysegError as error:
            problems += error.problems
            continue
        reasons = {
            "was trained on other data": record.data_hash != fold_models.first.record.data_hash,
            "was trained on another split": record.split_hash != fold_models.first.record.split_hash,
            f"holds out fold {record.fold}, which `folds` does not list": record.fold not in fold_models.folds,
            f"is {workspace_names.get(record.uid)} of this workspace": record.uid in workspace_names,
        }
        problems += [f"{run_id} ({record.name}): {reason}" for reason, holds in reasons.items() if holds]
        recipe = {name: value for name, value in record.parameters.items() if name not in _MACHINE_PARAMETERS}
        folds = folds_of.setdefault(digest({"model": record.model, **recipe}), {})
        if record.fold in folds:
            problems.append(f"{run_id} ({record.name}): is the same model and fold as {folds[record.fold].run_id}")
        folds[record.fold] = record
    for folds in folds_of.values():
        names = " and ".join(f"{record.run_id} ({record.name})" for record in folds.values())
        missing = [fold for fold in fold_models.folds if fold not in folds]
        problems += [f"{names}: fold {fold} of the same model is not among the runs" for fold in missing]
    raise_problems(problems, "ensemble.runs", "Correct `ensemble.runs` in params.yaml; `harveyseg ui` shows run ids.")
    models = {}
    for folds in folds_of.values():
        first = next(iter(folds.values()))  # in the order of ensemble.runs
        models[f"{first.model}@{str(first.run_id)[:_ID_LENGTH]}"] = {fold: folds[fold] for fold in fold_models.folds}
    return models


def _training(run_id: str, run: TrackedRun | None, tracker: Tracker) -> RunRecord:
    """The record of a run that is a finished training with weights."""
    if run is None:
        raise HarveysegError(f"{run_id}: no such run in MLflow at {public_address(tracker.uri)}")
    if run.tags.get(KIND) != "train":
        raise HarveysegError(f"{run_id}: is not a training, but {run.tags.get(KIND, 'not of this project')}")
    if run.status != "FINISHED":
        raise HarveysegError(f"{run_id}: the training is {run.status}, not FINISHED")
    if not has_weights(tracker, run_id):
        raise HarveysegError(
            f"{run_id}: MLflow does not have its weights; run `harveyseg sync` in the workspace that trained it"
        )
    return record_of(run)


def add_external_models(
    run_ids: Sequence[str],
    tracker: Tracker,
    fold_models: FoldModels,
    train: CachedPart,
    truth: ClassMaps,
    raw: Path,
    params: InferenceParams,
    folder: Path,
) -> None:
    """Fetch the weights of training runs and predict the same photos as the stage ``evaluate``.

    Writes, for each external model and fold, a folder ``<model>-<fold>`` with weights.safetensors, run.json,
    metrics.json and the probabilities of the held-out and the test photos, then ``models.json``, the models' names.

    Args:
        run_ids: MLflow's run ids, see :func:`find_external_models`; MLflow is not asked when there are none.
        tracker: where to look for them.
        fold_models: the workspace's models, whose photos are predicted.
        train: the training part.
        truth: its masks at the score's size, uint8 (N, H, W).
        raw: folder of the photos, which a network gets at the size that it was trained on, whatever the cache's is.
        params: how to predict.
        folder: where to write.

    Raises:
        HarveysegError: as :func:`find_external_models`, and when MLflow, a file of weights or a photo cannot be read.
    """
    models = find_external_models(run_ids, tracker, fold_models) if run_ids else {}
    for model, records in models.items():
        for fold, record in records.items():
            target = folder / f"{model}-{fold}"
            held_out = fold_models[fold_models.models[0], fold].val_ids
            weights = download_weights(tracker, str(record.run_id), target)
            from harveyseg.ensemble.external_maps import write_maps  # torch, which takes seconds to import

            photos = {"val": ("train", held_out), "test": ("test", fold_models.first.test_ids)}
            write_maps(target, weights, photos, raw, params)
            _, val = read_probabilities(target / "val.npy")
            rows = [train.ids.index(photo) for photo in held_out]
            confusions = {"val": count_confusions(val.__getitem__, truth, rows, len(train.classes), params.threads)}
            metrics = evaluation_record(record, confusions, train.classes)
            write_json(target / "metrics.json", {**metrics, **params.deciding()})
            write_run(target / "run.json", record)
    write_json(folder / "models.json", {"models": list(models)})
