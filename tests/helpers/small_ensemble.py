"""A small ensemble: three models on two folds with random predictions of five photos of 6 x 5 pixels."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch.nn import functional

from harveyseg.arrays import ClassMap, FloatArray, ProbabilityMaps
from harveyseg.classes import HARVEY25
from harveyseg.data.cache import CachedPart
from harveyseg.ensemble.members import FoldModels, load_fold_models
from harveyseg.files import write_json
from harveyseg.inference.probabilities import write_probabilities
from harveyseg.record import RunRecord, write_run
from harveyseg.summary.finished import FinishedPipeline
from helpers.records import make_record

SIZE = (6, 5)
MODELS = ("a", "b", "c")
FOLDS = (0, 2)
VAL_IDS = {0: ("p0", "p3"), 2: ("p1", "p2", "p4")}
IDS = ("p0", "p1", "p2", "p3", "p4")
GROUPS = {"p0": "x", "p1": "y", "p2": "y", "p3": "z", "p4": "w"}

Truth = dict[str, ClassMap]
"""The true mask of each photo."""


def make_member_record(**changes: Any) -> RunRecord:
    values: dict[str, Any] = {"model": "a", "parameters": {}, "data_hash": "d", "split_hash": "s"}
    return make_record(**(values | changes))


def random_maps(rng: np.random.Generator, count: int, truth: Sequence[ClassMap] | None = None) -> npt.NDArray[np.uint8]:
    """Noise over a few classes; with a truth, its class is more probable, so that mixtures help."""
    maps = np.zeros((count, 25, *SIZE))
    maps[:, :5] = rng.random((count, 5, *SIZE))
    for photo_maps, mask in zip(maps, truth or [], strict=False):
        np.put_along_axis(photo_maps, mask[None], np.take_along_axis(photo_maps, mask[None], 0) + 0.4, 0)
    return np.asarray(np.rint(255 * maps / maps.sum(1, keepdims=True)), np.uint8)


def random_truth(seed: int) -> Truth:
    rng = np.random.default_rng(seed)
    return {photo: rng.integers(0, 5, SIZE).astype(np.uint8) for photo in IDS}


def write_predictions(folder: Path, truth: Truth) -> None:
    rng = np.random.default_rng(1)
    for model, fold in itertools.product(MODELS, FOLDS):
        name = f"{model}-{fold}"
        ids = VAL_IDS[fold]
        record = make_member_record(model=model, fold=fold, uid=f"uid-{name}", run_id=f"run-{name}")
        write_run(folder / "models" / name / "run.json", record)
        predictions = folder / "predictions" / name
        write_probabilities(
            predictions / "val.npy", ids, (25, *SIZE), [random_maps(rng, len(ids), [truth[i] for i in ids])]
        )
        write_probabilities(predictions / "test.npy", ("t0", "t1"), (25, *SIZE), [random_maps(rng, 2)])
        scores = {"val/argmax_score": 0.5 + 0.1 * fold, "val/all_empty_score": 0.6}
        write_json(predictions / "metrics.json", {"uid": record.uid, **scores})


def load_written(folder: Path) -> FoldModels:
    return load_fold_models(MODELS, FOLDS, folder / "models", folder / "predictions")


def training_part(truth: Truth) -> CachedPart:
    masks = np.stack([truth[photo] for photo in IDS])
    counts = {f"count_{index}": (masks == index).sum((1, 2)) for index in range(25)}
    photos = pd.DataFrame({"id": IDS, **counts})
    return CachedPart(IDS, np.zeros((5, *SIZE, 3), np.uint8), masks, photos, SIZE, "demo", "d", HARVEY25, SIZE)


def finished_pipeline(folder: Path, truth: Truth) -> FinishedPipeline:
    """What the summary reads, as far as single models go."""
    write_predictions(folder, truth)
    part = training_part(truth)
    assert part.masks is not None
    fold_models = load_written(folder)
    fold_of = {photo: fold for fold, photos in VAL_IDS.items() for photo in photos}
    return FinishedPipeline(
        data=folder,
        outputs=[],
        table=pd.DataFrame(),
        fold_models=fold_models,
        models=fold_models.models,
        weights=None,  # type: ignore[arg-type]
        train=part,
        test=part,
        truth={"val": part.masks},
        split=pd.DataFrame(
            {"id": IDS, "group": [GROUPS[photo] for photo in IDS], "fold": [fold_of[photo] for photo in IDS]}
        ),
        threads=1,
    )


def shrink(folder: Path, model: str, size: tuple[int, int], rng: np.random.Generator) -> None:
    """Give a model smaller maps, like those of a network that works at a fraction of the photo's size."""
    for fold, (part, ids) in itertools.product(FOLDS, (("val", None), ("test", ("t0", "t1")))):
        photos = VAL_IDS[fold] if ids is None else ids
        maps = rng.integers(0, 256, (len(photos), 25, *size)).astype(np.uint8)
        write_probabilities(folder / "predictions" / f"{model}-{fold}" / f"{part}.npy", photos, (25, *size), [maps])


def enlarge_bilinear(maps: ProbabilityMaps) -> FloatArray:
    """(25, h, w) enlarged to SIZE by another library."""
    tensor = torch.from_numpy(np.array(maps)[None]).double()
    return np.asarray(functional.interpolate(tensor, SIZE, mode="bilinear")[0].numpy())
