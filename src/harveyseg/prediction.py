"""Class maps of new photos, from the workspace's trained models."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd

from harveyseg.classes import CLASS_NAMES, N_CLASSES, PALETTE
from harveyseg.errors import HarveysegError, raise_problems
from harveyseg.files import atomic, read_json
from harveyseg.inference import InferenceParams, predict
from harveyseg.probabilities import average, label_map
from harveyseg.resize import read_photo
from harveyseg.settings import load
from harveyseg.weights import TrainedNetwork, load_weights

Labels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Predictor:
    """Networks and their shares in the mean, which sum to 1."""

    networks: tuple[TrainedNetwork, ...]
    shares: tuple[float, ...]


def load_predictor(params: Path, data: Path, model: str | None) -> Predictor:
    """The workspace's ensemble, or one of its models as the mean of its folds.

    Args:
        params: params.yaml; its ``folds`` say which networks a model consists of.
        data: the folder of the stages' outs.
        model: key in ``models``; None for the ensemble.

    Raises:
        HarveysegError: when the model is unknown or not trained yet.
    """
    folds = load(params).get("folds")
    if not isinstance(folds, list) or not folds:
        raise HarveysegError(f"{params}: needs a list `folds`, which says what a model consists of.")
    if model is None:
        path = data / "ensemble" / "weights.json"
        weights = read_json(path, "Run `dvc repro`, or name a trained model with --model.")["weights"]
    else:
        trained = sorted(path.parent.name for path in (data / "models").glob(f"*-{folds[0]}/weights.safetensors"))
        names = [name.rpartition("-")[0] for name in trained]
        if model not in names:
            raise HarveysegError(f"--model {model}: not trained here. Trained are: {', '.join(names) or 'none'}")
        weights = {model: 1.0}
    chosen = [(name, fold, share) for name, share in weights.items() if share > 0 for fold in folds]
    return Predictor(
        tuple(load_weights(data / "models" / f"{name}-{fold}" / "weights.safetensors") for name, fold, _ in chosen),
        tuple(share / len(folds) for _, _, share in chosen),
    )


def predict_photo(path: Path, predictor: Predictor, params: InferenceParams) -> Labels:
    """Classify a photo's pixels, at its own size.

    The photo is shrunk to the size that each network was trained on; the mean of the probabilities is enlarged to the
    photo's own size before the best class of each pixel is taken.

    Returns:
        class ids, uint8 (H, W), as the file's pixels are stored.

    Raises:
        HarveysegError: when the file is absent or no image.
    """
    height, width = _size_of(path)
    maps = []
    for trained in predictor.networks:
        photo = read_photo(path, (height, width), trained.size)[None]
        maps.append(np.concatenate(list(predict(trained.network, photo, [0], trained.mean, trained.std, params))))
    mean = average(maps, predictor.shares, [0] * len(maps))
    return label_map(mean, (height, width))


def area_shares(labels: Labels) -> dict[str, float]:
    """Share of the photo's area that each class takes, in percent, by class name."""
    counts = np.bincount(labels.ravel(), minlength=N_CLASSES)
    return {name: 100 * float(count) / labels.size for name, count in zip(CLASS_NAMES, counts, strict=True)}


def overlay(path: Path, labels: Labels) -> npt.NDArray[np.uint8]:
    """The photo, half covered by the colours of its classes (background left clear); BGR uint8 (H, W, 3)."""
    photo = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    assert photo is not None  # predict_photo has read it
    blended = cv2.addWeighted(photo, 0.5, np.ascontiguousarray(PALETTE[labels][..., ::-1]), 0.5, 0)
    return np.where((labels == 0)[..., None], photo, blended).astype(np.uint8)


def predict_photos(photos: Sequence[Path], predictor: Predictor, params: InferenceParams, out: Path) -> pd.DataFrame:
    """Write ``<name>.png`` (class ids), ``<name>_overlay.jpg`` and, for all photos, ``areas.csv``.

    Returns:
        One row per photo: its name and the percentage of each class.

    Raises:
        HarveysegError: when photos are absent, share a name, or would be overwritten; before anything is written.
    """
    problems = [f"{photo}: no such file" for photo in photos if not photo.is_file()]
    stems = [photo.stem for photo in photos]
    problems += [f"{stem}: two photos have this name" for stem in sorted({s for s in stems if stems.count(s) > 1})]
    written = {(out / f"{stem}{ending}").resolve() for stem in stems for ending in (".png", "_overlay.jpg")}
    problems += [f"{photo}: would be overwritten in {out}" for photo in photos if photo.resolve() in written]
    raise_problems(problems, "photos to predict", "Name existing photos with different names, and another folder.")
    rows = []
    for photo in photos:
        labels = predict_photo(photo, predictor, params)
        _write_image(out / f"{photo.stem}.png", labels)
        _write_image(out / f"{photo.stem}_overlay.jpg", overlay(photo, labels))
        rows.append({"photo": photo.name, **area_shares(labels)})
    areas = pd.DataFrame(rows)
    with atomic(out / "areas.csv") as temporary:
        areas.to_csv(temporary, index=False, float_format="%.3f")
    return areas


def _write_image(path: Path, pixels: npt.NDArray[np.uint8]) -> None:
    with atomic(path) as temporary:
        cv2.imwrite(str(temporary), pixels)


def _size_of(path: Path) -> tuple[int, int]:
    photo = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if photo is None:
        raise HarveysegError(f"{path}: not an image that can be read. JPEG, PNG and TIFF can.")
    return photo.shape[0], photo.shape[1]
