"""Reading the resize cache: packed arrays and the table of photos that the stage ``resize-cache`` wrote."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from harveyseg.classes import N_CLASSES
from harveyseg.errors import HarveysegError
from harveyseg.files import read_json

COUNTS: tuple[str, ...] = tuple(f"count_{class_id}" for class_id in range(N_CLASSES))
"""Columns of photos.csv: pixels of each class in the full-size mask."""

_MAKE_ANEW = "Make it anew with `dvc repro resize-cache`."


@dataclass(frozen=True)
class CachedPart:
    """The training or the test part at the cache's size; rows of all members are in the same order."""

    ids: tuple[str, ...]
    images: npt.NDArray[np.uint8]
    """(N, H, W, 3), RGB, memory-mapped and read-only."""
    masks: npt.NDArray[np.uint8] | None
    """(N, H, W), class ids, memory-mapped and read-only; None for the test part."""
    photos: pd.DataFrame
    """photos.csv: id, width, height in pixels of the original; for the training part also the statistics."""
    size: tuple[int, int]
    """(H, W) in pixels."""
    source: str
    """The value of ``data.source``."""
    data_hash: str
    """SHA-256 of the manifest."""
    skipped: int = 0
    """How many bad files ``data.on_bad: skip`` left out of the data, both parts together."""


def load_part(folder: Path) -> CachedPart:
    """Open ``data/cache/train`` or ``data/cache/test``; pixels are read when they are used.

    Raises:
        HarveysegError: when a file is absent, damaged, or does not fit the others.
    """
    info = read_json(folder / "info.json", _MAKE_ANEW)  # written last, so the other files belong to it
    missing = {"size", "source", "hash"} - info.keys()
    if missing:
        raise HarveysegError(f"{folder / 'info.json'}: lacks {', '.join(sorted(missing))}. {_MAKE_ANEW}")
    height, width = info["size"]
    photos = read_photos(folder)
    shape = (len(photos), height, width)
    return CachedPart(
        ids=tuple(photos["id"]),
        images=_open(folder / "images.npy", (*shape, 3)),
        masks=_open(folder / "masks.npy", shape) if COUNTS[0] in photos else None,
        photos=photos,
        size=(height, width),
        source=info["source"],
        data_hash=info["hash"],
        skipped=info.get("skipped", 0),
    )


def read_photos(folder: Path) -> pd.DataFrame:
    """Read ``photos.csv`` of a cached part; ids are strings.

    Raises:
        HarveysegError: when it is absent, damaged, or lacks a column.
    """
    path = folder / "photos.csv"
    try:
        # Without keep_default_na a photo with the id "NA" would lose its name.
        photos = pd.read_csv(path, dtype={"id": str}, keep_default_na=False)
    except FileNotFoundError:
        raise HarveysegError(f"{path}: no such file. {_MAKE_ANEW}") from None
    except ValueError as error:
        raise HarveysegError(f"{path}: not a table of photos ({error}). {_MAKE_ANEW}") from None
    missing = [column for column in ("id", "width", "height") if column not in photos]
    if missing:
        raise HarveysegError(f"{path}: lacks the columns {', '.join(missing)}. {_MAKE_ANEW}")
    return photos


def load_score_masks(folder: Path, part: str) -> npt.NDArray[np.uint8] | None:
    """The masks of a part at the scoring size.

    Args:
        folder: ``data/cache/score``.
        part: ``"train"`` or ``"test"``.

    Returns:
        (N, 1024, 1024), memory-mapped and read-only, in the order of that part's photos.csv; None for a test part
        whose masks are unknown.

    Raises:
        HarveysegError: when the file is damaged, or the training part's is absent.
    """
    path = folder / f"{part}_masks.npy"
    return None if part == "test" and folder.is_dir() and not path.exists() else _open(path, None)


def channel_statistics(photos: pd.DataFrame) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean and standard deviation of the cached pixels of the given photos.

    Args:
        photos: rows of a training part's photos.csv, e.g. those a fold trains on.

    Returns:
        Two arrays of shape (3,), red, green, blue, for pixels in 0..1. The deviation is at least 1/255, one grey level,
        so that dividing by it is safe for photos of one colour.
    """
    pixels = float(photos["pixels"].sum())
    mean = photos[["sum_r", "sum_g", "sum_b"]].sum().to_numpy(np.float64) / pixels
    square = photos[["sumsq_r", "sumsq_g", "sumsq_b"]].sum().to_numpy(np.float64) / pixels
    return mean / 255, np.sqrt(np.maximum(square - mean**2, 1.0)) / 255


def class_frequencies(photos: pd.DataFrame) -> npt.NDArray[np.float64]:
    """Share of each class in the full-size masks of the given photos, shape (25,), summing to 1."""
    counts = photos[list(COUNTS)].sum().to_numpy(np.float64)
    return np.asarray(counts / counts.sum(), np.float64)


def _open(path: Path, shape: tuple[int, ...] | None) -> npt.NDArray[np.uint8]:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise HarveysegError(f"{path}: no such file. {_MAKE_ANEW}") from None
    except (OSError, ValueError, EOFError) as error:
        raise HarveysegError(f"{path}: not a NumPy array, or cut off ({error}). {_MAKE_ANEW}") from None
    if array.dtype != np.uint8 or (shape is not None and array.shape != shape):
        found = f"{array.dtype} {array.shape}"
        expected = f"uint8 {shape}" if shape else "uint8"
        raise HarveysegError(f"{path}: holds {found}, {expected} was expected. {_MAKE_ANEW}")
    return np.asanyarray(array)
