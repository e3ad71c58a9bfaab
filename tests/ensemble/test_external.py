"""Trainings of other experiments: what a plain forward pass predicts, and every reason to refuse one."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch
from mlflow.tracking import MlflowClient

from harveyseg.classes import HARVEY25
from harveyseg.data.cache import CachedPart, read_resized_photo
from harveyseg.data.manifest import MANIFEST_COLUMNS
from harveyseg.device import resolve_device
from harveyseg.ensemble.external import add_external_models, find_external_models
from harveyseg.ensemble.members import FoldModels, load_fold_models
from harveyseg.errors import HarveysegError
from harveyseg.files import write_json
from harveyseg.inference.network_file import load_network, save_network
from harveyseg.inference.params import InferenceParams
from harveyseg.inference.probabilities import argmax_map, read_probabilities, write_probabilities
from harveyseg.models.network import build
from harveyseg.record import RunRecord, write_run
from harveyseg.score import confusion, image_scores
from harveyseg.tracking.client import Tracker, TrackingParams, open_tracker
from harveyseg.tracking.mirror import mirror, show_running
from harveyseg.tracking.outputs import RunOutputs, RunState
from helpers.environment import VARIABLES
from helpers.records import make_record

SIZE = (1024, 1024)

PARAMS = InferenceParams(batch_size=2, threads=1, device="auto", precision="fp32")
FOLDS = (0, 1)
VAL_IDS = {0: ("p0", "p2"), 1: ("p1", "p3", "p4")}
IDS = ("p0", "p1", "p2", "p3", "p4")
TEST_IDS = ("t0", "t1", "t2")
SPEC = {"network": "unet", "width": 1, "dropout": 0.0, "batch_norm": "none"}
MEAN = (0.4, 0.5, 0.3)
STD = (0.2, 0.25, 0.3)
PHOTO = (160, 224)
"""Height and width of the photos' files."""


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tracker]:
    """One for all tests: each trains under ids of its own."""
    with pytest.MonkeyPatch.context() as environment:
        for name in VARIABLES:
            environment.delenv(name, raising=False)
        yield open_tracker(TrackingParams(), tmp_path_factory.mktemp("project"))


def a_record(**changes: Any) -> RunRecord:
    parameters = {"train.lr": 0.001, "train.seed": 0, "train.threads": 2}
    return make_record(**({"parameters": parameters, "data_hash": "data", "split_hash": "split"} | changes))


def train(tracker: Tracker, folder: Path, record: RunRecord, size: int = 64, seed: int = 0) -> str:
    """Log a training as stage ``train`` does, of a network with random weights; returns its run id."""
    torch.manual_seed(seed)
    state = build(SPEC, 25, None).state_dict()
    state = {name: value * 4 for name, value in state.items()}  # so that it is certain of something
    save_network(folder / "weights.safetensors", state, SPEC, MEAN, STD, (size, size), HARVEY25)
    return finish(tracker, RunOutputs(record, folder).state())


def finish(tracker: Tracker, state: RunState) -> str:
    with show_running(tracker, state.record) as run_id:
        mirror(tracker, state)
    assert run_id is not None
    return run_id


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    rng = np.random.default_rng(0)
    rows = []
    for part, ids in (("train", IDS), ("test", TEST_IDS)):
        (folder / part).mkdir(parents=True)
        for photo in ids:
            coarse = rng.integers(0, 256, (5, 7, 3)).astype(np.uint8)
            cv2.imwrite(str(folder / part / f"{photo}.jpg"), cv2.resize(coarse, PHOTO[::-1]))
            rows.append((part, photo, f"{part}/{photo}.jpg", "", PHOTO[1], PHOTO[0], "", ""))
    pd.DataFrame(rows, columns=list(MANIFEST_COLUMNS)).to_csv(folder / "manifest.csv", index=False)
    return folder


@pytest.fixture
def fold_models(tmp_path: Path) -> FoldModels:
    """The workspace's own model."""
    for fold in FOLDS:
        record = a_record(fold=fold, uid=f"own-{fold}")
        write_run(tmp_path / "models" / f"unet-{fold}" / "run.json", record)
        folder = tmp_path / "predictions" / f"unet-{fold}"
        for part, ids in (("val", VAL_IDS[fold]), ("test", TEST_IDS)):
            write_probabilities(folder / f"{part}.npy", ids, (25, 64, 64), [np.zeros((len(ids), 25, 64, 64), np.uint8)])
        write_json(folder / "metrics.json", {"uid": record.uid, "val/argmax_score": 0.5})
    return load_fold_models(["unet"], FOLDS, tmp_path / "models", tmp_path / "predictions")


@pytest.fixture
def part() -> CachedPart:
    images = np.zeros((5, 64, 64, 3), np.uint8)
    masks = np.zeros((5, 64, 64), np.uint8)
    return CachedPart(IDS, images, masks, pd.DataFrame({"id": IDS}), (64, 64), "demo", "data", HARVEY25, (64, 64))


def plain(weights: Path, photo: Path, size: int) -> npt.NDArray[np.uint8]:
    """One photo through the network, the long way."""
    trained = load_network(weights)
    pixels = torch.from_numpy(read_resized_photo(photo, PHOTO, (size, size))).permute(2, 0, 1).float() / 255
    inputs = (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    with torch.inference_mode():
        probabilities = trained.network(inputs[None]).softmax(1)[0]
    return np.asarray((255 * probabilities).round().to(torch.uint8))


@pytest.mark.parametrize("size", [64, 96])
def test_added_trainings_predict_what_their_network_says(
    tmp_path: Path, tracker: Tracker, raw: Path, fold_models: FoldModels, part: CachedPart, size: int
) -> None:
    """Also at another size than that of the workspace's cache: the photos are read at the network's own."""
    parameters = {"train.lr": 0.1, "resize-cache.size": f"{size}x{size}"}
    ids = [
        train(tracker, tmp_path / f"elsewhere-{fold}", a_record(fold=fold, parameters=parameters), size, fold)
        for fold in (1, 0)
    ]
    truth = np.random.default_rng(1).integers(0, 25, (5, 1024, 1024)).astype(np.uint8)
    add_external_models(ids, tracker, fold_models, part, truth, raw, PARAMS, tmp_path / "added")
    both = load_fold_models(["unet"], FOLDS, tmp_path / "models", tmp_path / "predictions", tmp_path / "added")
    name = f"unet@{ids[0][:8]}"
    assert both.models == ("unet", name)
    for fold in FOLDS:
        folder = tmp_path / "added" / f"{name}-{fold}"
        assert both[name, fold].record.run_id == ids[1 - fold]
        for file, source, photos in (("val", "train", VAL_IDS[fold]), ("test", "test", TEST_IDS)):
            ids_in_file, maps = read_probabilities(folder / f"{file}.npy")
            assert ids_in_file == photos
            assert maps.shape[2:] == (size, size)
            for photo, predicted in zip(photos, maps, strict=True):
                expected = plain(
                    tmp_path / f"elsewhere-{fold}/weights.safetensors", raw / source / f"{photo}.jpg", size
                )
                assert np.abs(predicted.astype(int) - expected.astype(int)).max() <= 1
                assert np.mean(predicted == expected) > 0.99
        scores = [
            float(image_scores(confusion(truth[IDS.index(photo)], argmax_map(predicted, SIZE), 25), 1))
            for photo, predicted in zip(VAL_IDS[fold], both[name, fold].val, strict=True)
        ]
        assert both[name, fold].argmax_score == pytest.approx(np.mean(scores))
        assert both[name, fold].inference["inference.device"] == resolve_device("auto").type
        assert both[name, fold].inference["inference.precision"] == "fp32"


def test_without_runs_mlflow_is_not_asked(
    tmp_path: Path, fold_models: FoldModels, part: CachedPart, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    dead = open_tracker(TrackingParams(), tmp_path)
    truth = np.zeros((5, 1024, 1024), np.uint8)
    add_external_models([], dead, fold_models, part, truth, tmp_path / "no raw folder", PARAMS, tmp_path / "added")
    both = load_fold_models(["unet"], FOLDS, tmp_path / "models", tmp_path / "predictions", tmp_path / "added")
    assert both.models == ("unet",)
    with pytest.raises(HarveysegError, match="cannot be used"):
        find_external_models(["0" * 32], dead, fold_models)


def test_seeds_are_models_and_machines_are_not(tmp_path: Path, tracker: Tracker, fold_models: FoldModels) -> None:
    ids = {
        (seed, fold): train(
            tracker, tmp_path / "w", a_record(fold=fold, parameters={"train.seed": seed, "train.threads": 1 + fold})
        )
        for fold in FOLDS
        for seed in (1, 2)
    }
    models = find_external_models(list(ids.values()), tracker, fold_models)
    assert list(models) == [f"unet@{ids[1, 0][:8]}", f"unet@{ids[2, 0][:8]}"]
    for seed, folds in zip((1, 2), models.values(), strict=True):
        assert {fold: record.run_id for fold, record in folds.items()} == {fold: ids[seed, fold] for fold in FOLDS}


def test_every_reason_to_refuse_is_listed_at_once(tmp_path: Path, tracker: Tracker, fold_models: FoldModels) -> None:
    folder = tmp_path / "w"
    other = train(tracker, folder, a_record(model="other", data_hash="x", split_hash="x"))
    alone = train(tracker, folder, a_record(model="alone"))
    twice = [train(tracker, folder, a_record(model="twice", fold=fold)) for fold in (0, 1, 1)]
    outside = train(tracker, folder, a_record(model="outside", fold=4))
    own = train(tracker, folder, a_record(model="own", uid="own-0"))
    ensemble = finish(tracker, RunState(a_record(kind="ensemble", model="ensemble", fold=None)))
    bare = finish(tracker, RunState(a_record(model="bare")))
    with pytest.raises(RuntimeError), show_running(tracker, a_record(model="failed")) as failed:
        raise RuntimeError
    path = train(tracker, folder, a_record(model="../../outside"))
    foreign = MlflowClient(tracking_uri=tracker.uri).create_run("0").info.run_id
    named = ["f" * 32, other, alone, *twice, outside, own, ensemble, bare, str(failed), path, foreign]
    with pytest.raises(HarveysegError) as caught:
        find_external_models(named, tracker, fold_models)
    expected = {
        f"{'f' * 32}: no such run in MLflow at {tracker.uri}",
        f"{other} (other-f0): was trained on other data",
        f"{other} (other-f0): was trained on another split",
        f"{other} (other-f0): fold 1 of the same model is not among the runs",
        f"{alone} (alone-f0): fold 1 of the same model is not among the runs",
        f"{twice[2]} (twice-f1): is the same model and fold as {twice[1]}",
        f"{outside} (outside-f4): holds out fold 4, which `folds` does not list",
        f"{outside} (outside-f4): fold 0 of the same model is not among the runs",
        f"{outside} (outside-f4): fold 1 of the same model is not among the runs",
        f"{own} (own-f0): is unet-0 of this workspace",
        f"{own} (own-f0): fold 1 of the same model is not among the runs",
        f"{ensemble}: is not a training, but ensemble",
        f"{bare}: MLflow does not have its weights; run `harveyseg sync` in the workspace that trained it",
        f"{failed}: the training is FAILED, not FINISHED",
        f"{path}: the tag harveyseg.model is '../../outside', which is not a model's name",
        f"{foreign}: is not a training, but not of this project",
    }
    assert set(caught.value.problems) == expected
