"""Class maps of new photos of any size, from the workspace's trained models."""

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd

from harveyseg.classes import CLASS_NAMES, N_CLASSES, PALETTE
from harveyseg.config.settings import listed_models
from harveyseg.errors import HarveysegError, raise_problems
from harveyseg.files import atomic, read_json
from harveyseg.inference.network_file import TrainedNetwork, load_network
from harveyseg.inference.params import InferenceParams
from harveyseg.inference.predictor import Predictor, weighted_predictor
from harveyseg.inference.probabilities import STRIPE, average, update_argmax, upsample_rows
from harveyseg.inference.sizes import MULTIPLE
from harveyseg.inference.sliding_window import sliding_window, window_size
from harveyseg.postprocess.decision import Decision, read_decision
from harveyseg.record import read_run

Labels = npt.NDArray[np.uint8]
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class TrainedEnsemble:
    """Networks, their shares in the mean, which sum to 1, and how classes are decided from it."""

    networks: tuple[TrainedNetwork, ...]
    shares: tuple[float, ...]
    decision: Decision | None = None
    """The rule for one photograph; None for the most probable class of each pixel."""


def load_trained_ensemble(params: Path, data: Path, model: str | None, argmax: bool = False) -> TrainedEnsemble:
    """The workspace's ensemble, or one of its models as the mean of its folds.

    Args:
        params: params.yaml; its ``folds`` say which networks a model consists of.
        data: the folder of the stages' outs.
        model: key in ``models``; None for the ensemble.
        argmax: leave aside ``decisions/rules/<model>.json``, which is used where it is there.

    Raises:
        HarveysegError: when the model is unknown or not trained yet, or the decision is that of other runs.
    """
    _, folds = listed_models(params)
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
    return TrainedEnsemble(
        tuple(load_network(_folder(data, name, fold) / "weights.safetensors") for name, fold, _ in chosen),
        tuple(share / len(folds) for _, _, share in chosen),
        None if argmax else _decision(data, model, folds),
    )


def _folder(data: Path, model: str, fold: int) -> Path:
    """Where a member of the ensemble lies; an @ is in the names of added runs only (``ensemble.runs``)."""
    return (data / "ensemble" / "added" if "@" in model else data / "models") / f"{model}-{fold}"


def _decision(data: Path, model: str | None, folds: Sequence[int]) -> Decision | None:
    path = data / "postprocess" / "rules" / f"{model or 'ensemble'}.json"
    if not path.exists():
        return None
    runs = [data / "ensemble"] if model is None else [_folder(data, model, fold) for fold in folds]
    return read_decision(path, [read_run(run / "run.json") for run in runs])


def read_photo(path: Path) -> Pixels:
    """Decode a photo once: BGR uint8 (H, W, 3), as the file's pixels are stored (an EXIF orientation is ignored).

    Raises:
        HarveysegError: when the file is no image, or has more pixels than OpenCV reads.
    """
    try:
        photo = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise HarveysegError(
            f"{path}: cannot be read ({error.err}). If it has too many pixels, cut it into parts, or set "
            "OPENCV_IO_MAX_IMAGE_PIXELS in the environment."
        ) from None
    if photo is None:
        raise HarveysegError(f"{path}: not an image that can be read. JPEG, PNG and TIFF can.")
    return np.asarray(photo, np.uint8)


def parse_footprint(text: str) -> tuple[int, int]:
    """``"3000x4000"`` as (height, width).

    Raises:
        HarveysegError: when it is not of that form.
    """
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if found is None:
        raise HarveysegError(f"--footprint {text}: must be HEIGHTxWIDTH in pixels, e.g. 3000x4000.")
    return int(found[1]), int(found[2])


def predict_photo(
    photo: Pixels, predictor: TrainedEnsemble, params: InferenceParams, footprint: tuple[int, int] | None = None
) -> Labels:
    """Classify a photo's pixels, at its own size.

    The photo is resized so that ``footprint`` gets the size that a network was trained on, and goes through it in
    windows of that size; the mean of the probabilities is enlarged to the photo's own size before classes are decided.
    The predictor's decision says what is worth claiming in one photograph, so a mosaic of many is decided in tiles of
    about ``footprint``, see :func:`decided_labels`.

    Args:
        photo: BGR uint8 (H, W, 3), see :func:`read_photo`.
        predictor: the networks; of different sizes, maybe.
        params: how to predict.
        footprint: (height, width), in pixels of this photo, of the ground that one training photograph covers; None
            where the photo is itself like one of them.

    Returns:
        class ids, uint8 (H, W).

    Raises:
        HarveysegError: when the footprint would enlarge the photo more than fourfold.
    """
    own = (photo.shape[0], photo.shape[1])
    probabilities = _probabilities(photo, predictor, params, footprint or own)
    if predictor.decision is not None:
        return decided_labels(predictor.decision, probabilities, own, footprint or own)
    return enlarged_labels(probabilities, own)


def _probabilities(
    photo: Pixels, predictor: TrainedEnsemble, params: InferenceParams, footprint: tuple[int, int]
) -> npt.NDArray[np.uint8]:
    """Mean over the networks, uint8 (25, h, w)."""
    members = list(zip(predictor.networks, predictor.shares, strict=True))
    maps, shares = [], []
    # Networks of one size share their windows, and so one map in memory.
    for size in dict.fromkeys(trained.size for trained in predictor.networks):
        alike = [(trained, share) for trained, share in members if trained.size == size]
        predictors = [Predictor(trained.network, trained.mean, trained.std, params) for trained, _ in alike]
        shares.append(sum(share for _, share in alike))
        predict = weighted_predictor(predictors, [share / shares[-1] for _, share in alike])
        resized = _resize(photo, _resized_size(photo, size, footprint))
        maps.append(_stack(sliding_window(predict, resized, window_size(size, params), params), resized))
    if len(maps) == 1:
        return maps[0]
    return average([one[None] for one in maps], shares, [0] * len(maps))


def _resized_size(photo: Pixels, size: tuple[int, int], footprint: tuple[int, int]) -> tuple[int, int]:
    """(height, width) at which ``footprint`` has ``size``; multiples of 32, so that every network can take the end."""
    if footprint == photo.shape[:2]:
        return size
    if any(4 * ground < side for ground, side in zip(footprint, size, strict=True)):
        raise HarveysegError(
            f"--footprint {footprint[0]}x{footprint[1]}: one training photograph cannot be so few pixels of a photo: "
            f"it would be enlarged more than fourfold to {size[0]}x{size[1]}, the size that the networks know."
        )
    height, width = (
        max(1, round(own * side / ground / MULTIPLE)) * MULTIPLE
        for own, side, ground in zip(photo.shape, size, footprint, strict=False)
    )
    return height, width


def _resize(photo: Pixels, size: tuple[int, int]) -> Pixels:
    """Shrink as the photos for training were shrunk: by area average; a side that grows, linearly. BGR becomes RGB."""
    height, width = photo.shape[:2]
    # INTER_AREA averages only where both sides shrink, hence the two steps.
    area = cv2.resize(photo, (min(size[1], width), min(size[0], height)), interpolation=cv2.INTER_AREA)
    resized = cv2.resize(area, size[::-1], interpolation=cv2.INTER_LINEAR)
    return np.asarray(cv2.cvtColor(resized, cv2.COLOR_BGR2RGB), np.uint8)


def _stack(stripes: Iterator[npt.NDArray[np.uint8]], photo: Pixels) -> npt.NDArray[np.uint8]:
    """Stripes (25, h, w) of a photo (H, W, 3) put together, as they come, to (25, H / stride, W / stride)."""
    first = next(stripes)
    stride = photo.shape[1] // first.shape[2]
    whole = np.empty((len(first), photo.shape[0] // stride, first.shape[2]), np.uint8)
    done = 0
    for stripe in itertools.chain([first], stripes):
        whole[:, done : done + stripe.shape[1]] = stripe
        done += stripe.shape[1]
    return whole


def enlarged_labels(probabilities: npt.NDArray[np.uint8], size: tuple[int, int]) -> Labels:
    """The same as :func:`harveyseg.inference.probabilities.argmax_map`, stripe by stripe.

    Beside the map itself there is memory for a stripe of one class only, so a map may have any size.

    Args:
        probabilities: uint8 (25, H, W).
        size: (height, width) of the map in pixels.

    Returns:
        class ids, uint8 (height, width).
    """
    labels = np.zeros(size, np.uint8)
    for top in range(0, size[0], STRIPE):
        stripe = labels[top : top + STRIPE]
        best = np.full(stripe.shape, -1, np.float32)
        for class_id, channel in enumerate(probabilities):
            update_argmax(upsample_rows(channel, size, slice(top, top + STRIPE)), class_id, best, stripe)
    return labels


def decided_labels(
    decision: Decision, probabilities: npt.NDArray[np.uint8], size: tuple[int, int], footprint: tuple[int, int]
) -> Labels:
    """Decide a photo in tiles, each as one photograph; a class may begin or end where they meet.

    Args:
        decision: the rule for one photograph.
        probabilities: uint8 (25, H, W).
        size: (height, width) of the map in pixels.
        footprint: (height, width) that a tile has about, in the map's pixels.

    Returns:
        class ids, uint8 (height, width).
    """
    labels = np.empty(size, np.uint8)
    tall, wide = (
        _tiles(side, own, ground) for side, own, ground in zip(probabilities.shape[1:], size, footprint, strict=True)
    )
    for (rows, own_rows), (columns, own_columns) in itertools.product(tall, wide):
        tile = labels[own_rows, own_columns]
        tile[:] = decision.label_map(probabilities[:, rows, columns], (tile.shape[0], tile.shape[1]))
    return labels


def _tiles(side: int, own: int, ground: int) -> list[tuple[slice, slice]]:
    """Tiles of about ``ground`` pixels of a side of ``own``: where in the probabilities' ``side``, and where in it."""
    edges = np.linspace(0, side, min(side, max(1, round(own / ground))) + 1).round().astype(int)
    own_edges = (edges * own / side).round().astype(int)
    return [
        (slice(*pair), slice(*own_pair))
        for pair, own_pair in zip(itertools.pairwise(edges), itertools.pairwise(own_edges), strict=True)
    ]


def area_shares(labels: Labels) -> dict[str, float]:
    """Share of the photo's area that each class takes, in percent, by class name."""
    counts = np.zeros(N_CLASSES, np.int64)
    for top in range(0, len(labels), STRIPE):  # bincount makes 64-bit integers of what it counts
        counts += np.bincount(labels[top : top + STRIPE].ravel(), minlength=N_CLASSES)
    return {name: 100 * float(count) / labels.size for name, count in zip(CLASS_NAMES, counts, strict=True)}


def overlay(photo: Pixels, labels: Labels) -> None:
    """Cover a photo, BGR uint8 (H, W, 3), half by the colours of its classes, in place; background is left clear."""
    colours = np.ascontiguousarray(PALETTE[:, ::-1])
    for top in range(0, len(labels), STRIPE):
        stripe, shown = labels[top : top + STRIPE], photo[top : top + STRIPE]
        blended = cv2.addWeighted(shown, 0.5, colours[stripe], 0.5, 0)
        np.copyto(shown, blended, where=(stripe != 0)[..., None])


def predict_photos(
    photos: Sequence[Path],
    predictor: TrainedEnsemble,
    params: InferenceParams,
    out: Path,
    footprint: tuple[int, int] | None = None,
) -> pd.DataFrame:
    """Write ``<name>.png`` (class ids), ``<name>_overlay.jpg`` and, for all photos, ``areas.csv``.

    Args:
        photos: the files.
        predictor: the networks.
        params: how to predict.
        out: the folder to write to.
        footprint: see :func:`predict_photo`; the same for all photos.

    Returns:
        One row per photo: its name and the percentage of each class.

    Raises:
        HarveysegError: when photos are absent, share a name, or would be overwritten, before anything is written;
            when one is no image.
    """
    problems = [f"{photo}: no such file" for photo in photos if not photo.is_file()]
    stems = [photo.stem for photo in photos]
    problems += [f"{stem}: two photos have this name" for stem in sorted({s for s in stems if stems.count(s) > 1})]
    written = {(out / f"{stem}{ending}").resolve() for stem in stems for ending in (".png", "_overlay.jpg")}
    problems += [f"{photo}: would be overwritten in {out}" for photo in photos if photo.resolve() in written]
    raise_problems(problems, "photos to predict", "Name existing photos with different names, and another folder.")
    rows = []
    for path in photos:
        photo = read_photo(path)
        labels = predict_photo(photo, predictor, params, footprint)
        _write_image(out / f"{path.stem}.png", labels)
        overlay(photo, labels)
        _write_image(out / f"{path.stem}_overlay.jpg", photo)
        rows.append({"photo": path.name, **area_shares(labels)})
    areas = pd.DataFrame(rows)
    with atomic(out / "areas.csv") as temporary:
        areas.to_csv(temporary, index=False, float_format="%.3f")
    return areas


def _write_image(path: Path, pixels: npt.NDArray[np.uint8]) -> None:
    with atomic(path) as temporary:
        if not cv2.imwrite(str(temporary), pixels):
            raise HarveysegError(f"{path}: {pixels.shape[0]}x{pixels.shape[1]} pixels are more than this format holds.")
