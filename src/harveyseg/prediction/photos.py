"""Class maps of new photos of any size, with an overlay of each photo and a table of areas."""

import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd

from harveyseg.arrays import SIDE_MULTIPLE, ByteArray, ClassMap, Photo, ProbabilityMaps
from harveyseg.classes import CLASS_NAMES, N_CLASSES, PALETTE
from harveyseg.data.resize import resize_photo
from harveyseg.errors import HarveysegError, raise_problems
from harveyseg.files import atomic, write_table
from harveyseg.inference.params import InferenceParams
from harveyseg.inference.predictor import Predictor, weighted_predictor
from harveyseg.inference.probabilities import STRIPE, average, update_argmax, upsample_rows
from harveyseg.inference.sliding_window import sliding_window, window_size
from harveyseg.postprocess.files import FittedRule
from harveyseg.prediction.trained_ensemble import TrainedEnsemble


def predict_photos(
    paths: Sequence[Path],
    ensemble: TrainedEnsemble,
    params: InferenceParams,
    out: Path,
    photo_size: tuple[int, int] | None = None,
) -> pd.DataFrame:
    """Write ``<name>.png`` (class ids) and ``<name>_overlay.jpg`` of each photo, and ``areas.csv`` of all.

    Args:
        paths: the photos' files.
        ensemble: the networks.
        params: how to predict.
        out: the folder to write to.
        photo_size: see :func:`predict_photo`; the same for all photos.

    Returns:
        One row for each photo: its name and the percentage of each class.

    Raises:
        HarveysegError: before anything is written, when photos are absent, share a name, or would be overwritten; later
            when one is no image.
    """
    problems = [f"{path}: no such file" for path in paths if not path.is_file()]
    stems = [path.stem for path in paths]
    problems += [f"{stem}: two photos have this name" for stem in sorted({s for s in stems if stems.count(s) > 1})]
    outputs = {(out / f"{stem}{ending}").resolve() for stem in stems for ending in (".png", "_overlay.jpg")}
    problems += [f"{path}: would be overwritten in {out}" for path in paths if path.resolve() in outputs]
    raise_problems(problems, "photos to predict", "Name existing photos with different names, and another folder.")
    rows = []
    for path in paths:
        photo = read_bgr(path)
        class_map = predict_photo(photo, ensemble, params, photo_size)
        _write_image(out / f"{path.stem}.png", class_map)
        draw_overlay(photo, class_map)
        _write_image(out / f"{path.stem}_overlay.jpg", photo)
        rows.append({"photo": path.name, **area_percentages(class_map)})
    areas = pd.DataFrame(rows)
    write_table(out / "areas.csv", areas, float_format="%.3f")
    return areas


def predict_photo(
    photo: Photo, ensemble: TrainedEnsemble, params: InferenceParams, photo_size: tuple[int, int] | None = None
) -> ClassMap:
    """Classify a photo's pixels, at its own size.

    The photo is resized so that ``photo_size`` becomes the size that a network was trained on, and goes through the
    network in windows of that size. The mean of the probabilities is enlarged to the photo's own size before classes
    are chosen. The ensemble's rule is meant for one photo, so a mosaic is post-processed in tiles of about
    ``photo_size``, see :func:`class_map_in_tiles`.

    Args:
        photo: uint8 (H, W, 3), BGR, see :func:`read_bgr`.
        ensemble: the networks, which may have been trained on photos of different sizes.
        params: how to predict.
        photo_size: (height, width), in this photo's pixels, of the ground that one training photo shows; None when this
            photo shows as much ground as a training photo.

    Returns:
        class ids, uint8 (H, W).

    Raises:
        HarveysegError: when the photo would have to be enlarged more than fourfold.
    """
    size = (photo.shape[0], photo.shape[1])
    probabilities = _predict_probabilities(photo, ensemble, params, photo_size or size)
    if ensemble.rule is not None:
        return class_map_in_tiles(ensemble.rule, probabilities, size, photo_size or size)
    return argmax_map_in_stripes(probabilities, size)


def parse_photo_size(text: str) -> tuple[int, int]:
    """Parse the option ``--photo-size``.

    >>> parse_photo_size("3000x4000")
    (3000, 4000)

    Returns:
        (height, width) in pixels.

    Raises:
        HarveysegError: when it is not of that form.
    """
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if match is None:
        raise HarveysegError(f"--photo-size {text}: must be HEIGHTxWIDTH in pixels, e.g. 3000x4000.")
    return int(match[1]), int(match[2])


def read_bgr(path: Path) -> Photo:
    """Decode a photo: uint8 (H, W, 3), BGR, with the pixels as they are stored (an EXIF orientation is ignored).

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


def argmax_map_in_stripes(probabilities: ProbabilityMaps, size: tuple[int, int]) -> ClassMap:
    """The same as :func:`harveyseg.inference.probabilities.argmax_map`, up to rounding, for maps of any size.

    Apart from the map itself it needs memory for one stripe of one class only.

    Args:
        probabilities: uint8 (C, H, W).
        size: (height, width) of the map in pixels.

    Returns:
        class ids, uint8 (height, width).
    """
    class_map = np.zeros(size, np.uint8)
    for top in range(0, size[0], STRIPE):
        stripe = class_map[top : top + STRIPE]
        best = np.full(stripe.shape, -1, np.float32)
        for class_id, channel in enumerate(probabilities):
            update_argmax(upsample_rows(channel, size, slice(top, top + STRIPE)), class_id, best, stripe)
    return class_map


def class_map_in_tiles(
    rule: FittedRule, probabilities: ProbabilityMaps, size: tuple[int, int], tile_size: tuple[int, int]
) -> ClassMap:
    """Post-process a photo in tiles, each as if it were one photo; a class may begin or end where two tiles meet.

    Args:
        rule: the rule for one photo.
        probabilities: uint8 (C, H, W).
        size: (height, width) of the map in pixels.
        tile_size: approximate (height, width) of a tile, in the map's pixels.

    Returns:
        class ids, uint8 (height, width).
    """
    class_map = np.empty(size, np.uint8)
    row_tiles = _tiles(probabilities.shape[1], size[0], tile_size[0])
    column_tiles = _tiles(probabilities.shape[2], size[1], tile_size[1])
    for rows, columns in itertools.product(row_tiles, column_tiles):
        tile = class_map[rows.in_map, columns.in_map]
        tile_probabilities = probabilities[:, rows.in_probabilities, columns.in_probabilities]
        tile[:] = rule.class_map(tile_probabilities, (tile.shape[0], tile.shape[1]))
    return class_map


def area_percentages(class_map: ClassMap) -> dict[str, float]:
    """Percentage of the photo's area that each class covers, by class name.

    >>> area_percentages(np.array([[0, 0, 0, 5]], np.uint8))["Background"]
    75.0
    """
    counts = np.zeros(N_CLASSES, np.int64)
    for top in range(0, len(class_map), STRIPE):  # bincount makes 64-bit integers of what it counts
        counts += np.bincount(class_map[top : top + STRIPE].ravel(), minlength=N_CLASSES)
    return {name: 100 * float(count) / class_map.size for name, count in zip(CLASS_NAMES, counts, strict=True)}


def draw_overlay(photo: Photo, class_map: ClassMap) -> None:
    """Blend a photo, BGR, with the colours of its classes, half and half, in place; background is left clear."""
    colours = np.ascontiguousarray(PALETTE[:, ::-1])
    for top in range(0, len(class_map), STRIPE):
        class_stripe = class_map[top : top + STRIPE]
        photo_stripe = photo[top : top + STRIPE]
        blended = cv2.addWeighted(photo_stripe, 0.5, colours[class_stripe], 0.5, 0)
        np.copyto(photo_stripe, blended, where=(class_stripe != 0)[..., None])


def _predict_probabilities(
    photo: Photo, ensemble: TrainedEnsemble, params: InferenceParams, photo_size: tuple[int, int]
) -> ProbabilityMaps:
    """Weighted mean over the networks, uint8 (C, h, w)."""
    members = list(zip(ensemble.networks, ensemble.weights, strict=True))
    maps = []
    weights = []
    # Networks of one size share their windows, and so one map in memory.
    for size in dict.fromkeys(network.size for network in ensemble.networks):
        group = [(network, weight) for network, weight in members if network.size == size]
        predictors = [Predictor(network.network, network.mean, network.std, params) for network, _ in group]
        weights.append(sum(weight for _, weight in group))
        predict = weighted_predictor(predictors, [weight / weights[-1] for _, weight in group])
        resized = resize_photo(photo, _resized_size(photo, size, photo_size))
        maps.append(_stack_stripes(sliding_window(predict, resized, window_size(size, params), params), resized))
    if len(maps) == 1:
        return maps[0]
    return average([array[None] for array in maps], weights, [0] * len(maps))


def _resized_size(photo: Photo, trained_size: tuple[int, int], photo_size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of the photo when ``photo_size`` becomes ``trained_size``; multiples of 32 for every network."""
    if photo_size == photo.shape[:2]:
        return trained_size
    if any(4 * ground < side for ground, side in zip(photo_size, trained_size, strict=True)):
        raise HarveysegError(
            f"--photo-size {photo_size[0]}x{photo_size[1]}: too few pixels for the ground of one training photo: the "
            f"photo would be enlarged more than fourfold, to {trained_size[0]}x{trained_size[1]}, the networks' size."
        )
    height, width = (
        max(1, round(photo_side * trained_side / ground / SIDE_MULTIPLE)) * SIDE_MULTIPLE
        for photo_side, trained_side, ground in zip(photo.shape, trained_size, photo_size, strict=False)
    )
    return height, width


def _stack_stripes(stripes: Iterator[ProbabilityMaps], photo: Photo) -> ProbabilityMaps:
    """Put stripes (C, h, w) of a photo (H, W, 3) together, one by one, to (C, H / stride, W / stride)."""
    first = next(stripes)
    stride = photo.shape[1] // first.shape[2]
    whole = np.empty((len(first), photo.shape[0] // stride, first.shape[2]), np.uint8)
    top = 0
    for stripe in itertools.chain([first], stripes):
        whole[:, top : top + stripe.shape[1]] = stripe
        top += stripe.shape[1]
    return whole


class _Tile(NamedTuple):
    """Where a tile is along one axis."""

    in_probabilities: slice
    in_map: slice


def _tiles(probabilities_side: int, map_side: int, tile_side: int) -> list[_Tile]:
    """Divide an axis into tiles of about ``tile_side`` of the map's pixels."""
    count = min(probabilities_side, max(1, round(map_side / tile_side)))
    edges = np.linspace(0, probabilities_side, count + 1).round().astype(int)
    map_edges = (edges * map_side / probabilities_side).round().astype(int)
    return [
        _Tile(slice(*ends), slice(*map_ends))
        for ends, map_ends in zip(itertools.pairwise(edges), itertools.pairwise(map_edges), strict=True)
    ]


def _write_image(path: Path, pixels: ByteArray) -> None:
    encoded, content = cv2.imencode(path.suffix, pixels)
    if not encoded:
        raise HarveysegError(f"{path}: {pixels.shape[0]}x{pixels.shape[1]} pixels are more than this format holds.")
    with atomic(path) as temporary:
        temporary.write_bytes(content.tobytes())  # OpenCV would not tell a full disk from a format that is too small
