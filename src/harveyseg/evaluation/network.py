"""Evaluating one trained network: its probabilities of the held-out and the test photos, scores and figures."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from harveyseg.arrays import ClassMap, ClassMaps, Confusion, IntArray, Rows
from harveyseg.data.cache import CachedPart
from harveyseg.evaluation.boundary import boundary_accuracies, count_boundary_pixels
from harveyseg.evaluation.documents import prediction_grid, write_evaluation
from harveyseg.evaluation.figures import learning_curve, prediction_figure
from harveyseg.inference.network_file import load_network
from harveyseg.inference.params import InferenceParams
from harveyseg.inference.predictor import predict_maps
from harveyseg.inference.probabilities import (
    apply_to_argmax_maps,
    count_confusions,
    read_probabilities,
    write_probabilities,
)
from harveyseg.record import WEIGHTS_FILE, identify_evaluation, read_run
from harveyseg.score import confusion
from harveyseg.training.history import read_history


def evaluate_network(
    folder: Path,
    trained: Path,
    train: CachedPart,
    test: CachedPart,
    truth: Mapping[str, ClassMaps],
    held_out: Rows,
    inference: InferenceParams,
    code: str,
) -> dict[str, float]:
    """Predict held-out and test photos, score those whose masks are known, and write what ``data/predictions`` holds.

    Args:
        folder: where to write, e.g. ``data/predictions/unet-0``.
        trained: the folder of ``run.json``, ``history.csv`` and the weights, e.g. ``data/models/unet-0``.
        train: the cached training photos.
        test: the cached test photos.
        truth: masks at the score's size, uint8 (N, H, W): ``val``, of all training photos, and ``test`` if known.
        held_out: the rows of ``train`` that the network was not trained on.
        inference: how to predict.
        code: SHA-256 of the digests of the code that evaluates.

    Returns:
        The metrics, named ``<part>/<metric>``, e.g. ``val/argmax_score``.

    Raises:
        HarveysegError: when a file of the training is absent, damaged, or of another version.
    """
    record = read_run(trained / "run.json")
    network = load_network(trained / WEIGHTS_FILE)
    val_rows = held_out.tolist()
    threads = inference.threads
    stored: dict[str, npt.NDArray[np.uint8]] = {}
    for name, part, rows in (("val", train, val_rows), ("test", test, list(range(len(test.ids))))):
        maps = predict_maps(network.network, part.images, rows, network.mean, network.std, inference)
        shape = (len(part.classes), *maps.size)
        write_probabilities(folder / f"{name}.npy", [part.ids[row] for row in rows], shape, maps.batches)
        _, stored[name] = read_probabilities(folder / f"{name}.npy")

    classes = train.classes

    def compare(mask: ClassMap, predicted: ClassMap) -> tuple[Confusion, IntArray]:
        return confusion(mask, predicted, len(classes)), count_boundary_pixels(mask, predicted, classes.unscored)

    compared = apply_to_argmax_maps(compare, stored["val"].__getitem__, truth["val"], val_rows, threads)
    of_photos, near_boundaries = zip(*compared, strict=True)
    confusions = {"val": np.stack(of_photos)}
    boundary = boundary_accuracies(np.stack(near_boundaries))
    boundary_entries = {f"val/{name}": accuracy for name, accuracy in boundary.items()}
    if "test" in truth:
        maps_of = stored["test"].__getitem__
        confusions["test"] = count_confusions(maps_of, truth["test"], range(len(test.ids)), len(classes), threads)
    identity = identify_evaluation(record.uid, inference.deciding(), train.data_hash, code)
    results = write_evaluation(folder, record, confusions, classes, {**identity, **boundary_entries})

    grid = prediction_grid(train, val_rows, truth["val"], {"prediction": stored["val"].__getitem__}, photos=4)
    prediction_figure(grid, folder / "sheet.png", f"{record.name}: photos that it was not trained on")
    learning_curve(read_history(trained / "history.csv"), folder / "learning_curve.png", record.name)
    return results
