"""Class probabilities of photos: stored as uint8 at the network's size, turned into argmax maps of any size.

A stored value is ``round(255 * p)``. Probabilities are enlarged before the argmax, instead of class maps after it: at
256 x 256 pixels that raises the best possible score by more than a point.
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd

from harveyseg.arrays import (
    ClassMap,
    ClassMaps,
    Confusions,
    Float32Array,
    ProbabilityMap,
    ProbabilityMaps,
    ProbabilityStack,
)
from harveyseg.errors import HarveysegError
from harveyseg.files import atomic, create_array, read_table, write_table
from harveyseg.progress import Progress, track
from harveyseg.score import confusion

STRIPE = 256
"""Rows that are computed at a time where a map may have any size."""

_Result = TypeVar("_Result")


def upsample(probabilities: ProbabilityMaps, size: tuple[int, int]) -> Float32Array:
    """Enlarge probabilities bilinearly, with pixel centres at half-integers and edges repeated.

    The same as ``torch.nn.functional.interpolate(mode="bilinear", align_corners=False)``.

    >>> upsample(np.array([[[0, 100]]], np.uint8), (1, 4)).tolist()
    [[[0.0, 25.0, 75.0, 100.0]]]

    Args:
        probabilities: uint8 (C, H, W).
        size: the new (height, width) in pixels.

    Returns:
        float32 (C, height, width), still on the scale 0..255.
    """
    return np.stack([upsample_channel(channel, size) for channel in probabilities])


def argmax_map(probabilities: ProbabilityMaps, size: tuple[int, int]) -> ClassMap:
    """The most probable class of each pixel of the enlarged probabilities; the first of equally probable ones.

    Exactly ``upsample(probabilities, size).argmax(0)`` in a tenth of its time and memory: the classes are enlarged one
    after another and compared with the best so far.

    >>> argmax_map(np.array([[[9, 1]], [[1, 9]]], np.uint8), (2, 4)).tolist()
    [[0, 0, 1, 1], [0, 0, 1, 1]]

    Args:
        probabilities: uint8 (C, H, W).
        size: (height, width) of the map in pixels.

    Returns:
        class ids, uint8 (height, width).
    """
    best = upsample_channel(probabilities[0], size)
    class_map = np.zeros(size, np.uint8)
    for class_id in range(1, len(probabilities)):
        update_argmax(upsample_channel(probabilities[class_id], size), class_id, best, class_map)
    return class_map


def update_argmax(candidate: npt.NDArray[Any], class_id: int, best: npt.NDArray[Any], class_map: ClassMap) -> None:
    """One step of an argmax over classes in ascending order: the class takes the pixels where it is the best so far.

    Args:
        candidate: (H, W), the class's value, such as its probability.
        class_id: the class.
        best: (H, W) of the same type, the highest value so far; updated in place.
        class_map: uint8 (H, W), the class that ``best`` belongs to, all below ``class_id``; updated in place.
    """
    better = np.asarray(cv2.compare(candidate, best, cv2.CMP_GT), np.uint8)  # 255 where better, else 0
    cv2.max(candidate, best, dst=best)
    # A later class has a larger id, so the maximum writes it where it is better and changes nothing elsewhere.
    np.bitwise_and(better, np.uint8(class_id), out=better)
    cv2.max(class_map, better, dst=class_map)


def upsample_channel(channel: ProbabilityMap, size: tuple[int, int]) -> Float32Array:
    """One class's probabilities, uint8 (H, W), enlarged as by :func:`upsample`: float32 (height, width)."""
    enlarged = cv2.resize(channel.astype(np.float32), size[::-1], interpolation=cv2.INTER_LINEAR)
    return np.asarray(enlarged, np.float32)


def upsample_rows(
    channel: ProbabilityMap, size: tuple[int, int], rows: slice, source_height: int | None = None, first: int = 0
) -> Float32Array:
    """Some rows of the result of :func:`upsample_channel`, up to rounding, in memory for only these rows.

    Args:
        channel: one class's probabilities, uint8 (H, W), or only those of their rows that are needed.
        size: (height, width) of the whole result.
        rows: which of its rows, without a step.
        source_height: H, where ``channel`` has only some rows, see :func:`needed_rows`.
        first: the first of these.

    Returns:
        float32 (rows, width).
    """
    height = size[0]
    last = (len(channel) if source_height is None else source_height) - 1
    # Pixel centres at half-integers, edges repeated, as OpenCV does it along the rows.
    centres = np.clip((np.arange(*rows.indices(height)) + 0.5) * ((last + 1) / height) - 0.5, 0, last)
    above = centres.astype(np.intp)
    below = np.minimum(above + 1, last)
    weight_below = (centres - above).astype(np.float32)[:, None]
    tall = (1 - weight_below) * channel[above - first] + weight_below * channel[below - first]
    wide = cv2.resize(tall, (size[1], len(tall)), interpolation=cv2.INTER_LINEAR)
    return np.asarray(wide, np.float32)


def needed_rows(rows: slice, height: int, source_height: int) -> slice:
    """The rows of probabilities, of ``source_height``, that some rows of the enlarged map, of ``height``, depend on.

    >>> needed_rows(slice(4, 8), height=16, source_height=8)
    slice(1, 5, None)
    """
    top, bottom, _ = rows.indices(height)
    above = int(max(0.0, (top + 0.5) * source_height / height - 0.5))
    below = int(max(0.0, (bottom - 0.5) * source_height / height - 0.5)) + 2
    return slice(min(above, source_height - 1), min(below, source_height))


def apply_to_argmax_maps(
    function: Callable[[ClassMap, ClassMap], _Result],
    probabilities: Callable[[int], ProbabilityMaps],
    truth: ClassMaps,
    rows: Sequence[int],
    threads: int,
) -> list[_Result]:
    """Call a function with the true class map and the argmax map of each photo, at the score's size.

    Args:
        function: from true class map and argmax map to a result.
        probabilities: from a position in ``rows`` to the photo's probabilities, uint8 (C, H, W).
        truth: the true class maps, uint8 (N, H, W).
        rows: the photos' rows in ``truth``.
        threads: photos that are processed at the same time; does not change the result.

    Returns:
        The results, in the order of ``rows``.
    """

    def apply_at(position: int) -> _Result:
        return function(truth[rows[position]], argmax_map(probabilities(position), (truth.shape[1], truth.shape[2])))

    with ThreadPoolExecutor(threads) as pool:  # OpenCV and NumPy release the lock
        return list(track(pool.map(apply_at, range(len(rows))), "comparing maps with masks", len(rows)))


def count_confusions(
    probabilities: Callable[[int], ProbabilityMaps], truth: ClassMaps, rows: Sequence[int], classes: int, threads: int
) -> Confusions:
    """Confusion of each photo's argmax map, int64 (len(rows), C, C); see :func:`apply_to_argmax_maps`."""
    count = partial(confusion, classes=classes)
    return np.stack(apply_to_argmax_maps(count, probabilities, truth, rows, threads))


def average(arrays: Sequence[ProbabilityStack], weights: Sequence[float], rows: Sequence[int]) -> ProbabilityMaps:
    """Weighted mean of several models' probabilities of one photo.

    Args:
        arrays: one for each model, uint8 (n, C, H, W); their sizes may differ.
        weights: one for each model, not negative, summing to 1.
        rows: the photo's row in each model's array.

    Returns:
        uint8 (C, H, W) of the size :func:`largest_size`, to which smaller maps are enlarged before they are averaged.
    """
    size = largest_size(arrays, weights)
    total = np.zeros((arrays[0].shape[1], *size), np.float32)
    for array, weight, row in zip(arrays, weights, rows, strict=True):
        if weight > 0:
            total += np.float32(weight) * (array[row] if array.shape[2:] == size else upsample(array[row], size))
    return np.rint(total).astype(np.uint8)


def largest_size(arrays: Sequence[ProbabilityStack], weights: Sequence[float]) -> tuple[int, int]:
    """The greatest height and the greatest width of the maps (n, C, H, W) of the models that have a weight."""
    sizes = np.array([array.shape[2:] for array, weight in zip(arrays, weights, strict=True) if weight > 0])
    return int(sizes[:, 0].max()), int(sizes[:, 1].max())


def ids_file(path: Path) -> Path:
    """The list of photos that belongs to a file of probabilities: ``val.npy`` -> ``val_ids.csv``."""
    return path.with_name(f"{path.stem}_ids.csv")


def write_probabilities(
    path: Path, ids: Sequence[str], shape: tuple[int, int, int], batches: Iterable[ProbabilityStack]
) -> None:
    """Write probabilities batch by batch, in bounded memory, and a list of their photos; both atomically.

    Args:
        path: the ``.npy`` file; :func:`ids_file` names the other.
        ids: the photos, in order.
        shape: (C, H, W) of a photo's maps.
        batches: uint8 (n, C, H, W), together as many as there are ids.

    Raises:
        ValueError: when the batches hold more or fewer photos than ``ids``.
    """
    with atomic(path) as temporary:
        stored = create_array(temporary, (len(ids), *shape))
        written = 0
        with Progress(f"computing {path.parent.name}/{path.name}", len(ids)) as progress:
            for batch in batches:
                stored[written : written + len(batch)] = batch
                written += len(batch)
                progress.add(len(batch))
        if written != len(ids):
            raise ValueError(f"{path}: {written} maps for {len(ids)} photos")
        stored.flush()
    write_table(ids_file(path), pd.DataFrame({"id": list(ids)}))


def read_probabilities(path: Path) -> tuple[tuple[str, ...], ProbabilityStack]:
    """Open stored probabilities without reading them into memory.

    Returns:
        The photos' ids and a uint8 memory map (n, C, H, W).

    Raises:
        HarveysegError: when a file is absent or damaged, or the two do not match.
    """
    remedy = "Evaluate the model again: `dvc repro`, or restore its predictions with `dvc checkout`."
    try:
        stored = np.load(path, mmap_mode="r")
    except FileNotFoundError as error:
        raise HarveysegError(f"{error.filename}: no such file. {remedy}") from None
    except (ValueError, EOFError) as error:
        raise HarveysegError(f"{path}: cannot be read ({error}). {remedy}") from None
    ids = tuple(read_table(ids_file(path), {"id": str}, remedy)["id"])
    if stored.dtype != np.uint8 or stored.ndim != 4 or len(stored) != len(ids):
        raise HarveysegError(
            f"{path}: holds {stored.dtype} {stored.shape}, but {ids_file(path).name} lists {len(ids)} photos: "
            f"uint8 ({len(ids)}, classes, height, width) was expected. {remedy}"
        )
    return ids, stored
