"""What an external member predicts of the workspace's photos."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from harveyseg.arrays import Photo
from harveyseg.data.cache import read_resized_photo
from harveyseg.data.manifest import read_manifest
from harveyseg.inference.network_file import TrainedNetwork, load_network
from harveyseg.inference.params import InferenceParams
from harveyseg.inference.predictor import PredictedMaps, predict_maps
from harveyseg.inference.probabilities import write_probabilities


def write_maps(
    folder: Path, weights: Path, photos: Mapping[str, tuple[str, Sequence[str]]], raw: Path, params: InferenceParams
) -> None:
    """Write the probabilities of photos, at the size that the network was trained on.

    Args:
        folder: where to write.
        weights: the network's file.
        photos: for each file to write, without its suffix, a part of the data and the ids of its photos.
        raw: folder of the photos.
        params: how to predict.

    Raises:
        HarveysegError: when the weights or a photo cannot be read.
    """
    trained = load_network(weights)
    for name, (part, ids) in photos.items():
        maps = _predict_files(trained, _photo_files(raw, part, ids), params)
        shape = (len(trained.classes), *maps.size)
        write_probabilities(folder / f"{name}.npy", ids, shape, maps.batches)


def _photo_files(raw: Path, part: str, ids: Sequence[str]) -> list[tuple[Path, tuple[int, int]]]:
    """File and (height, width) of each photo."""
    manifest = read_manifest(raw / "manifest.csv")
    rows = manifest[manifest["part"] == part].set_index("id").loc[list(ids)]
    return [(raw / row["image"], (row["height"], row["width"])) for row in rows.to_dict("records")]


def _predict_files(
    trained: TrainedNetwork, photos: Sequence[tuple[Path, tuple[int, int]]], params: InferenceParams
) -> PredictedMaps:
    """Probabilities of photos that are read at the network's size, a few at a time."""

    def read(photo: tuple[Path, tuple[int, int]]) -> Photo:
        return read_resized_photo(*photo, trained.size)

    def predict_batches() -> Iterator[PredictedMaps]:
        with ThreadPoolExecutor(params.threads) as pool:
            for start in range(0, len(photos), params.batch_size):
                images = np.stack(list(pool.map(read, photos[start : start + params.batch_size])))
                yield predict_maps(trained.network, images, range(len(images)), trained.mean, trained.std, params)

    batches = predict_batches()
    first = next(batches)
    rest = itertools.chain.from_iterable(maps.batches for maps in batches)
    return PredictedMaps(first.size, itertools.chain(first.batches, rest))
