"""Class probabilities of photos: stored as uint8 at the cache's size, turned into label maps at any size.

A stored value is ``round(255 * p)``. Probabilities are enlarged before any argmax, never label maps: that alone is
worth more than a point of the best possible score at 256 x 256.
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd

from harveyseg.arrays import Confusions
from harveyseg.classes import N_CLASSES, SCORE_SIZE
from harveyseg.errors import HarveysegError
from harveyseg.files import atomic, write_text
from harveyseg.score import confusion

SCORE_SHAPE = (SCORE_SIZE, SCORE_SIZE)
"""(height, width) at which the competition scores."""

STRIPE = 256
"""Rows of a map that are made at a time where a map may be of any size."""

Result = TypeVar("Result")


def upsample(probabilities: npt.NDArray[np.uint8], size: tuple[int, int] = SCORE_SHAPE) -> npt.NDArray[np.float32]:
    """Enlarge probabilities bilinearly, with pixel centres at half-integers and edges repeated.

    The same map as ``torch.nn.functional.interpolate(mode="bilinear", align_corners=False)``.

    Args:
        probabilities: uint8 (classes, H, W).
        size: the new (height, width) in pixels.

    Returns:
        float32 (classes, height, width), still on the scale 0..255.
    """
    return np.stack([upsample_channel(channel, size) for channel in probabilities])


def argmax_map(probabilities: npt.NDArray[np.uint8], size: tuple[int, int] = SCORE_SHAPE) -> npt.NDArray[np.uint8]:
    """The most probable class of each pixel of the enlarged probabilities; of equal ones, the first.

    Exactly ``upsample(probabilities, size).argmax(0)`` in a tenth of its time and memory: one class after another
    is enlarged and compared with the best so far.

    Args:
        probabilities: uint8 (25, H, W).
        size: (height, width) of the map in pixels.

    Returns:
        class ids, uint8 (height, width).
    """
    best = upsample_channel(probabilities[0], size)
    labels = np.zeros(size, np.uint8)
    for class_id in range(1, len(probabilities)):
        update_argmax(upsample_channel(probabilities[class_id], size), class_id, best, labels)
    return labels


def update_argmax(
    candidate: npt.NDArray[Any], class_id: int, best: npt.NDArray[Any], labels: npt.NDArray[np.uint8]
) -> None:
    """One step of an argmax over classes in rising order: label the pixels where a class is better than all before.

    Args:
        candidate: (H, W), how much speaks for the class.
        class_id: the class.
        best: (H, W) of the same type, the largest candidate so far; brought up to date in place.
        labels: (H, W), the class of ``best``, no higher than ``class_id``; brought up to date in place.
    """
    better = np.asarray(cv2.compare(candidate, best, cv2.CMP_GT), np.uint8)  # 255 where better, else 0
    cv2.max(candidate, best, dst=best)
    # A later class has a larger id, so the maximum writes it where it is better and changes nothing elsewhere.
    np.bitwise_and(better, np.uint8(class_id), out=better)
    cv2.max(labels, better, dst=labels)


def upsample_channel(channel: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """One class's probabilities, uint8 (H, W), as :func:`upsample` enlarges them: float32 (height, width)."""
    enlarged = cv2.resize(channel.astype(np.float32), size[::-1], interpolation=cv2.INTER_LINEAR)
    return np.asarray(enlarged, np.float32)


def upsample_rows(channel: npt.NDArray[np.uint8], size: tuple[int, int], rows: slice) -> npt.NDArray[np.float32]:
    """Some rows of :func:`enlarge`, up to rounding, in memory for these alone.

    Args:
        channel: one class's probabilities, uint8 (H, W).
        size: (height, width) of the whole.
        rows: which of its rows, without step.

    Returns:
        float32 (rows, width).
    """
    height, own = size[0], len(channel)
    # Pixel centres at half-integers, edges repeated; across, OpenCV does the same.
    centres = np.clip((np.arange(*rows.indices(height)) + 0.5) * (own / height) - 0.5, 0, own - 1)
    above = centres.astype(np.intp)
    below = np.minimum(above + 1, own - 1)
    share = (centres - above).astype(np.float32)[:, None]
    tall = (1 - share) * channel[above] + share * channel[below]
    wide = cv2.resize(tall, (size[1], len(tall)), interpolation=cv2.INTER_LINEAR)
    return np.asarray(wide, np.float32)


def apply_to_argmax_maps(
    look: Callable[[npt.NDArray[np.uint8], npt.NDArray[np.uint8]], Result],
    probabilities: Callable[[int], npt.NDArray[np.uint8]],
    truth: npt.NDArray[np.uint8],
    rows: Sequence[int],
    threads: int,
) -> list[Result]:
    """What ``look`` finds in each photo's true mask and label map, both uint8 (1024, 1024).

    Args:
        look: from mask and label map to a result.
        probabilities: from a position in ``rows`` to the photo's probabilities, uint8 (25, H, W).
        truth: masks at the scoring size, uint8 (N, 1024, 1024).
        rows: the photos' rows in ``truth``.
        threads: photos looked at side by side; does not change the result.

    Returns:
        The results, in the order of ``rows``.
    """

    def at(position: int) -> Result:
        return look(truth[rows[position]], argmax_map(probabilities(position)))

    with ThreadPoolExecutor(threads) as pool:  # OpenCV and NumPy release the lock
        return list(pool.map(at, range(len(rows))))


def count_confusions(
    probabilities: Callable[[int], npt.NDArray[np.uint8]],
    truth: npt.NDArray[np.uint8],
    rows: Sequence[int],
    threads: int,
) -> Confusions:
    """Confusion of each photo at the scoring size, int64 (len(rows), 25, 25); see :func:`apply_to_argmax_maps`."""
    return np.stack(apply_to_argmax_maps(confusion, probabilities, truth, rows, threads))


def average(
    arrays: Sequence[npt.NDArray[np.uint8]], weights: Sequence[float], rows: Sequence[int]
) -> npt.NDArray[np.uint8]:
    """Weighted mean of several models' probabilities of one photo.

    Args:
        arrays: per model, uint8 (n, 25, H, W); their sizes may differ.
        weights: per model, not negative, summing to 1.
        rows: per model, the photo's row in its array.

    Returns:
        uint8 (25, H, W), of the size :func:`largest_size`: smaller maps are enlarged to it before they are averaged.
    """
    size = largest_size(arrays, weights)
    total = np.zeros((arrays[0].shape[1], *size), np.float32)
    for array, weight, row in zip(arrays, weights, rows, strict=True):
        if weight > 0:
            total += np.float32(weight) * (array[row] if array.shape[2:] == size else upsample(array[row], size))
    return np.rint(total).astype(np.uint8)


def largest_size(arrays: Sequence[npt.NDArray[np.uint8]], weights: Sequence[float]) -> tuple[int, int]:
    """The greatest height and the greatest width among the maps (n, 25, H, W) of the models that have a weight."""
    sizes = np.array([array.shape[2:] for array, weight in zip(arrays, weights, strict=True) if weight > 0])
    return int(sizes[:, 0].max()), int(sizes[:, 1].max())


def ids_file(path: Path) -> Path:
    """The list of photos that belongs to a file of probabilities: ``val.npy`` -> ``val_ids.csv``."""
    return path.with_name(f"{path.stem}_ids.csv")


def write_probabilities(
    path: Path, ids: Sequence[str], size: tuple[int, int], batches: Iterable[npt.NDArray[np.uint8]]
) -> None:
    """Write probabilities batch by batch, in bounded memory, and the ids of their photos beside them; atomically.

    Args:
        path: the ``.npy`` file; :func:`ids_file` names the other.
        ids: the photos, in order.
        size: (H, W) of the maps in pixels.
        batches: uint8 (b, 25, H, W), together as many as there are ids.

    Raises:
        ValueError: when the batches hold more or fewer photos than ``ids``.
    """
    with atomic(path) as temporary:
        stored = np.lib.format.open_memmap(temporary, "w+", np.uint8, (len(ids), N_CLASSES, *size))
        done = 0
        for batch in batches:
            stored[done : done + len(batch)] = batch
            done += len(batch)
        if done != len(ids):
            raise ValueError(f"{path}: {done} maps for {len(ids)} photos")
        stored.flush()
    write_text(ids_file(path), pd.DataFrame({"id": list(ids)}).to_csv(index=False))


def read_probabilities(path: Path) -> tuple[tuple[str, ...], npt.NDArray[np.uint8]]:
    """Open stored probabilities without reading them into memory.

    Returns:
        The photos' ids and a uint8 memory map (n, 25, H, W).

    Raises:
        HarveysegError: when a file is absent or damaged, or the two do not fit together.
    """
    remedy = "Evaluate the model again: `dvc repro`, or restore its predictions with `dvc checkout`."
    try:
        stored = np.load(path, mmap_mode="r")
        ids = tuple(pd.read_csv(ids_file(path), dtype=str, keep_default_na=False)["id"])
    except FileNotFoundError as error:
        raise HarveysegError(f"{error.filename}: no such file. {remedy}") from None
    except (ValueError, EOFError, KeyError) as error:
        raise HarveysegError(f"{path}, {ids_file(path).name}: cannot be read ({error}). {remedy}") from None
    if stored.dtype != np.uint8 or stored.ndim != 4 or stored.shape[:2] != (len(ids), N_CLASSES):
        raise HarveysegError(
            f"{path}: holds {stored.dtype} {stored.shape}, but {ids_file(path).name} lists {len(ids)} photos: "
            f"uint8 ({len(ids)}, {N_CLASSES}, height, width) was expected. {remedy}"
        )
    return ids, stored
