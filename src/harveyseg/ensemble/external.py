"""Trainings of other experiments in the ensemble, named by their MLflow run ids in ``ensemble.runs``.

They may have other hyperparameters, seeds and photo sizes, and come from other machines, as long as they were trained
on the same data and split. Trainings that differ only in the fold are one model, ``<model>@<start of a run id>``, and
every fold of params.yaml must be there: the ensemble's weights are chosen on photos that a model was not trained on.
"""

import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from harveyseg.data.cache import CachedPart, read_resized_photo
from harveyseg.data.manifest import read_manifest
from harveyseg.ensemble.members import Members
from harveyseg.errors import HarveysegError, raise_problems
from harveyseg.evaluation.metrics import metrics_record
from harveyseg.files import digest, write_json
from harveyseg.inference.network_file import TrainedNetwork, load_network
from harveyseg.inference.params import InferenceParams
from harveyseg.inference.predictor import PredictedMaps, predict_maps
from harveyseg.inference.probabilities import count_confusions, read_probabilities, write_probabilities
from harveyseg.record import RunRecord, write_run
from harveyseg.tracking.client import KIND, TrackedRun, Tracker, record_of, without_password

_OF_THE_MACHINE = {"train.threads", "train.workers", "train.device", "train.precision"}
"""Parameters that say how a training was computed, not what was trained: folds of one model may differ in them."""
_ID_LENGTH = 8
"""Digits of a run id in a model's name."""


def find_models(run_ids: Sequence[str], tracker: Tracker, members: Members) -> dict[str, dict[int, RunRecord]]:
    """Ask MLflow for trainings and put the folds of each model together.

    Args:
        run_ids: MLflow's run ids.
        tracker: where they are known.
        members: the workspace's models: its data, split and folds are those that an added model must have.

    Returns:
        Per added model, named ``<model>@<start of its first fold's run id>``, the training of each fold.

    Raises:
        HarveysegError: listing every run that is unknown, no finished training, of other data, split or folds, without
            weights, in the workspace anyway or named twice, and every fold that a model lacks or has twice.
    """
    problems: list[str] = []
    folds_of: dict[str, dict[int | None, RunRecord]] = {}
    here = {member.record.uid: f"{model}-{fold}" for (model, fold), member in members.of.items()}
    for run_id, run in zip(run_ids, tracker.get(run_ids), strict=True):
        try:
            record = _training(run_id, run, tracker)
        except HarveysegError as error:
            problems += error.problems
            continue
        reasons = {
            "was trained on other data": record.data_hash != members.first.record.data_hash,
            "was trained on another split": record.split_hash != members.first.record.split_hash,
            f"holds out fold {record.fold}, which `folds` does not list": record.fold not in members.folds,
            f"is {here.get(record.uid)} of this workspace anyway": record.uid in here,
        }
        problems += [f"{run_id} ({record.name}): {reason}" for reason, holds in reasons.items() if holds]
        same = {name: value for name, value in record.parameters.items() if name not in _OF_THE_MACHINE}
        folds = folds_of.setdefault(digest({"model": record.model, **same}), {})
        if record.fold in folds:
            problems.append(f"{run_id} ({record.name}): is the same model and fold as {folds[record.fold].run_id}")
        folds[record.fold] = record
    for folds in folds_of.values():
        names = " and ".join(f"{record.run_id} ({record.name})" for record in folds.values())
        missing = [fold for fold in members.folds if fold not in folds]
        problems += [f"{names}: fold {fold} of the same model is not among the runs" for fold in missing]
    raise_problems(problems, "ensemble.runs", "Correct `ensemble.runs` in params.yaml; `harveyseg ui` shows run ids.")
    models = {}
    for folds in folds_of.values():
        first = next(iter(folds.values()))  # in the order of ensemble.runs
        models[f"{first.model}@{str(first.run_id)[:_ID_LENGTH]}"] = {fold: folds[fold] for fold in members.folds}
    return models


def _training(run_id: str, run: TrackedRun | None, tracker: Tracker) -> RunRecord:
    """The record of a run that is a finished training with weights."""
    if run is None:
        raise HarveysegError(f"{run_id}: no such run in MLflow at {without_password(tracker.uri)}")
    if run.tags.get(KIND) != "train":
        raise HarveysegError(f"{run_id}: is no training, but {run.tags.get(KIND, 'not of this project')}")
    if run.status != "FINISHED":
        raise HarveysegError(f"{run_id}: the training is {run.status}, not FINISHED")
    if not tracker.has_weights(run_id):
        raise HarveysegError(
            f"{run_id}: MLflow does not have its weights; `harveyseg sync` in the workspace that trained it brings them"
        )
    return record_of(run)


def add_runs(
    run_ids: Sequence[str],
    tracker: Tracker,
    members: Members,
    train: CachedPart,
    truth: npt.NDArray[np.uint8],
    raw: Path,
    params: InferenceParams,
    folder: Path,
) -> None:
    """Fetch the weights of trainings and predict with them what stage ``evaluate`` predicts with the workspace's.

    Writes, for each added model and fold, a folder ``<model>-<fold>`` with weights.safetensors, run.json, metrics.json
    and the probabilities of the held-out and the test photos, then ``models.json``, the names of the added models.

    Args:
        run_ids: MLflow's run ids, see :func:`find_models`; MLflow is not asked when there are none.
        tracker: where they are known.
        members: the workspace's models, whose photos are predicted.
        train: the training part.
        truth: its masks at the scoring size, uint8 (N, 1024, 1024).
        raw: folder of the photos, which a network gets at the size that it was trained on, whatever the cache's is.
        params: how to predict.
        folder: where to.

    Raises:
        HarveysegError: as :func:`find_models`, and when MLflow, a file of weights or a photo cannot be read.
    """
    models = find_models(run_ids, tracker, members) if run_ids else {}
    for model, records in models.items():
        for fold, record in records.items():
            target, held_out = folder / f"{model}-{fold}", members.of[members.models[0], fold].val_ids
            trained = load_network(tracker.download_weights(str(record.run_id), target))
            for name, part, ids in (("val", "train", held_out), ("test", "test", members.first.test_ids)):
                maps = _predict(trained, _photos(raw, part, ids), params)
                write_probabilities(target / f"{name}.npy", ids, maps.size, maps.batches)
            val = read_probabilities(target / "val.npy")[1]
            rows = [train.ids.index(photo) for photo in held_out]
            confusions = {"val": count_confusions(val.__getitem__, truth, rows, params.threads)}
            write_json(target / "metrics.json", metrics_record(record, confusions))
            write_run(target / "run.json", record)
    write_json(folder / "models.json", {"models": list(models)})


def _photos(raw: Path, part: str, ids: Sequence[str]) -> list[tuple[Path, tuple[int, int]]]:
    """File and (height, width) of each photo."""
    manifest = read_manifest(raw / "manifest.csv")
    rows = manifest[manifest["part"] == part].set_index("id").loc[list(ids)]
    return [(raw / row["image"], (row["height"], row["width"])) for row in rows.to_dict("records")]


def _predict(
    trained: TrainedNetwork, photos: Sequence[tuple[Path, tuple[int, int]]], params: InferenceParams
) -> PredictedMaps:
    """Probabilities of photos that are read at the network's size, a few at a time."""

    def read(photo: tuple[Path, tuple[int, int]]) -> npt.NDArray[np.uint8]:
        return read_resized_photo(*photo, trained.size)

    def parts() -> Iterator[PredictedMaps]:
        with ThreadPoolExecutor(params.threads) as pool:
            for start in range(0, len(photos), params.batch_size):
                images = np.stack(list(pool.map(read, photos[start : start + params.batch_size])))
                yield predict_maps(trained.network, images, range(len(images)), trained.mean, trained.std, params)

    several = parts()
    first = next(several)
    return PredictedMaps(
        first.size, itertools.chain(first.batches, itertools.chain.from_iterable(maps.batches for maps in several))
    )
