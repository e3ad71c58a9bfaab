"""The resize cache: photos and masks, decoded and shrunk once, packed into a few arrays that later stages map."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import Field, field_validator
from rich.console import Console
from rich.progress import track

from harveyseg.classes import N_CLASSES, SCORE_SIZE
from harveyseg.config.settings import Section
from harveyseg.data.manifest import read_manifest
from harveyseg.data.resize import resize_photo
from harveyseg.errors import HarveysegError
from harveyseg.files import atomic, read_json, write_json

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


_LARGEST, _SMALLEST, _MULTIPLE = 4096, 64, 32
_REDUCED = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}

Image = npt.NDArray[np.uint8]


class ResizeParams(Section):
    """The section ``resize-cache``."""

    size: int | tuple[int, int]
    """Height and width in pixels: one number for a square, or [height, width]."""
    mask_method: Literal["nearest", "majority"] = "nearest"
    """How a cached pixel gets its class: ``nearest``, from its centre; ``majority``, by the largest area in it."""
    threads: int = Field(default=2, ge=1, le=64)
    """Photos that are decoded and shrunk at the same time."""

    @field_validator("size", mode="plain")
    @classmethod
    def _check_size(cls, value: Any) -> int | tuple[int, int]:
        sides = [value, value] if isinstance(value, int) else value
        if (
            not isinstance(sides, list | tuple)
            or len(sides) != 2
            or any(type(side) is not int or side % _MULTIPLE or not _SMALLEST <= side <= _LARGEST for side in sides)
        ):
            raise ValueError(
                f"must be one number or [height, width], each a multiple of {_MULTIPLE} in {_SMALLEST}..{_LARGEST} "
                f"({_SMALLEST}, {_SMALLEST + _MULTIPLE}, {_SMALLEST + 2 * _MULTIPLE}, ..., {_LARGEST}); "
                "the networks halve the photo five times"
            )
        return value if isinstance(value, int) else (sides[0], sides[1])

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size


@dataclass(frozen=True)
class _Outputs:
    """The arrays that the threads fill, a row for each photo."""

    images: Image
    masks: Image | None
    score_masks: Image | None


def build_cache(raw: Path, cache: Path, params: ResizeParams) -> None:
    """Write ``cache/train``, ``cache/test`` and ``cache/score`` from the verified photos in ``raw``.

    Each part gets ``images.npy`` (N, H, W, 3) uint8 RGB, ``photos.csv`` and, last of all, ``info.json``; the training
    part also ``masks.npy`` (N, H, W) uint8. ``score`` holds the known masks, (N, 1024, 1024) uint8.

    Raises:
        HarveysegError: when the manifest or a file it names is absent or cannot be decoded.
    """
    manifest = read_manifest(raw / "manifest.csv")
    source = read_json(raw / "source.json", "Make it anew with `dvc repro download`.")
    for part in ("train", "test"):
        rows = manifest[manifest["part"] == part].reset_index(drop=True)
        info = {"size": list(params.shape), "source": source["source"], "hash": source["hash"]}
        if "skipped" in source:
            info["skipped"] = source["skipped"]
        _build_part(raw, cache, part, rows, info, params)


def _build_part(
    raw: Path, cache: Path, part: str, rows: pd.DataFrame, info: dict[str, Any], params: ResizeParams
) -> None:
    folder, score_path = cache / part, cache / "score" / f"{part}_masks.npy"
    score_path.parent.mkdir(parents=True, exist_ok=True)
    for old in (folder / "info.json", score_path):  # a cache that is being overwritten must not look complete
        old.unlink(missing_ok=True)
    has_masks = bool((rows["mask"] != "").all())
    count, (height, width) = len(rows), params.shape
    # OpenCV's own threads on top of these would only compete with them.
    cv2.setNumThreads(1)
    with ExitStack() as files:
        outputs = _Outputs(
            images=_create(files, folder / "images.npy", (count, height, width, 3)),
            masks=_create(files, folder / "masks.npy", (count, height, width)) if part == "train" else None,
            score_masks=_create(files, score_path, (count, SCORE_SIZE, SCORE_SIZE)) if has_masks else None,
        )
        with ThreadPoolExecutor(params.threads) as pool:
            results = pool.map(lambda index: _fill(raw, rows, index, outputs, params), range(count))
            statistics = list(track(results, f"Resizing {part} photos", total=count, console=Console(stderr=True)))
        for array in (outputs.images, outputs.masks, outputs.score_masks):
            if isinstance(array, np.memmap):
                array.flush()
    photos = pd.concat([rows[["id", "width", "height"]], pd.DataFrame(statistics)], axis="columns")
    with atomic(folder / "photos.csv") as temporary:
        photos.to_csv(temporary, index=False, lineterminator="\n")
    write_json(folder / "info.json", info)


def _create(files: ExitStack, path: Path, shape: tuple[int, ...]) -> Image:
    temporary = files.enter_context(atomic(path))
    return np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)


def _fill(raw: Path, rows: pd.DataFrame, index: int, outputs: _Outputs, params: ResizeParams) -> dict[str, int]:
    """Put one photo and its mask into the arrays; returns the statistics of a training photo."""
    row = rows.iloc[index]
    photo = read_photo(raw / row["image"], (row["height"], row["width"]), params.shape)
    outputs.images[index] = photo
    if outputs.score_masks is None:
        return {}
    mask = read_mask(raw / row["mask"])
    outputs.score_masks[index] = nearest(mask, (SCORE_SIZE, SCORE_SIZE))
    if outputs.masks is None:
        return {}
    outputs.masks[index] = (nearest if params.mask_method == "nearest" else majority)(mask, params.shape)
    return _statistics(photo, mask)


def _statistics(photo: Image, mask: Image) -> dict[str, int]:
    """Sums over a cached photo (values 0..255) and class counts of a full-size mask, all exact integers."""
    pixels = photo.reshape(-1, 3).astype(np.int64)
    sums, squares = pixels.sum(axis=0), (pixels**2).sum(axis=0)
    counts = np.bincount(mask.ravel(), minlength=N_CLASSES)
    return {
        "pixels": len(pixels),
        **{f"sum_{channel}": int(value) for channel, value in zip("rgb", sums, strict=True)},
        **{f"sumsq_{channel}": int(value) for channel, value in zip("rgb", squares, strict=True)},
        **{column: int(value) for column, value in zip(COUNTS, counts, strict=True)},
    }


def read_photo(path: Path, full: tuple[int, int], size: tuple[int, int]) -> Image:
    """Decode a photo and shrink it by area average.

    A JPEG's decoder shrinks by the largest 1/k (8, 4, 2, 1) that divides both sides and leaves at least twice the
    target. For photos of 12 megapixels and 256x256 that is 1/4, at less than half the time of a full decode and 53 dB
    (PSNR) from its average. k must divide the sides, since the decoder rounds the size up, and the last row and column
    would stand for less of the photo than the others.

    Args:
        path: the file; an EXIF orientation is ignored, since masks fit the pixels as they are stored.
        full: (height, width) of the file in pixels.
        size: (height, width) wanted; a side longer than the photo's is interpolated linearly.

    Returns:
        (height, width, 3), RGB.

    Raises:
        HarveysegError: when the file is absent or no image.
    """
    # For other formats than JPEG, OpenCV's reduced decode is a full one that then skips pixels.
    reduction = _reduction(full, size) if path.suffix == ".jpg" else 1
    flags = _REDUCED[reduction] | cv2.IMREAD_IGNORE_ORIENTATION
    return resize_photo(_decode(path, flags), size)


def read_mask(path: Path) -> Image:
    """Decode a PNG mask to class ids of shape (H, W).

    Raises:
        HarveysegError: when the file is absent or no image.
    """
    return _decode(path, cv2.IMREAD_UNCHANGED)


def _decode(path: Path, flags: int) -> Image:
    remedy = "Fetch the data anew with `dvc repro -f download`."
    try:
        data = np.fromfile(path, np.uint8)
    except FileNotFoundError:
        raise HarveysegError(f"{path}: no such file, though the manifest names it. {remedy}") from None
    decoded = cv2.imdecode(data, flags) if len(data) else None
    if decoded is None:
        raise HarveysegError(f"{path}: cannot be decoded, though it was verified. {remedy}")
    return np.asarray(decoded, np.uint8)


def _reduction(full: tuple[int, int], size: tuple[int, int]) -> int:
    for k in (8, 4, 2):
        if all(side % k == 0 and side // k >= 2 * target for side, target in zip(full, size, strict=True)):
            return k
    return 1


def nearest(mask: Image, size: tuple[int, int]) -> Image:
    """The class at the centre of each target pixel.

    ``cv2.INTER_NEAREST`` takes the corner instead, half a target pixel off the photo. Pillow's NEAREST, which the
    competition's own script uses, takes the same pixel as this, which needs no rounding.

    Args:
        mask: (H, W).
        size: (height, width) wanted.

    Returns:
        An array of shape ``size``.
    """
    rows, columns = (
        (2 * np.arange(target) + 1) * side // (2 * target) for side, target in zip(mask.shape, size, strict=True)
    )
    return mask[np.ix_(rows, columns)]


def majority(mask: Image, size: tuple[int, int]) -> Image:
    """The class with the largest area in each target pixel; the lowest id where several have the same.

    Source pixels that lie across a border count for each side with their share, in exact integers.

    Args:
        mask: (H, W).
        size: (height, width) wanted.

    Returns:
        An array of shape ``size``.
    """
    winner = np.zeros(size, np.uint8)
    largest = np.zeros(size, np.int64)
    for class_id in np.flatnonzero(np.bincount(mask.ravel(), minlength=N_CLASSES)):
        rows = _overlap_sums((mask == class_id).view(np.uint8), size[0])
        area = _overlap_sums(rows.T, size[1]).T
        better = area > largest
        winner[better] = class_id
        largest[better] = area[better]
    return winner


def _overlap_sums(values: npt.NDArray[Any], target: int) -> npt.NDArray[np.int64]:
    """Divide the first axis, of n pixels, into ``target`` equal intervals and sum the values over each.

    Returns:
        Shape (target, ...), in units of 1/target of a pixel, so that every share is a whole number.
    """
    # Border i lies at i * n / target: in pixel first[i], rest[i] / target behind its start.
    first, rest = np.divmod(np.arange(target + 1) * len(values), target)
    whole = np.add.reduceat(values, first[:-1], axis=0, dtype=np.int64)
    whole[first[:-1] == first[1:]] = 0  # reduceat yields the element itself for an empty range
    behind = np.zeros((target + 1, *values.shape[1:]), np.int64)
    behind[:-1] = values[first[:-1]]
    behind *= rest.reshape(-1, *(1,) * (values.ndim - 1))
    return target * whole - behind[:-1] + behind[1:]
