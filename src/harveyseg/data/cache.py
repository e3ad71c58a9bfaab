"""The resize cache: photos and masks, decoded and shrunk once, in a few packed arrays that later stages memory-map."""

from collections.abc import Mapping
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

from harveyseg.arrays import SIDE_MULTIPLE, ByteArray, ClassMap, ClassMaps, FloatArray, IntArray, Photo, Photos
from harveyseg.classes import MAX_CLASSES, ClassList
from harveyseg.config.settings import Section
from harveyseg.data.class_lists import parse_classes, stored_classes
from harveyseg.data.manifest import read_manifest
from harveyseg.data.resize import majority_classes, nearest_classes, resize_photo
from harveyseg.data.tiff_files import TIFF_STARTS, read_tiff
from harveyseg.errors import HarveysegError
from harveyseg.files import atomic, create_array, digest, read_json, read_table, write_json, write_table
from harveyseg.progress import track

_SUMS = ("pixels", "sum_r", "sum_g", "sum_b", "sumsq_r", "sumsq_g", "sumsq_b")
"""Columns of the training part's photos.csv: exact sums over the pixels 0..255 of a cached photo."""
_COUNT = "count_"
"""How the columns of photos.csv begin that hold the pixels of each class in the full-size mask."""

_MIN_SIDE = 64
_MAX_SIDE = 4096
_IMREAD = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
_REMEDY = "Run `dvc repro resize-cache` to write it again."


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
            or any(
                type(side) is not int or side % SIDE_MULTIPLE or not _MIN_SIDE <= side <= _MAX_SIDE for side in sides
            )
        ):
            raise ValueError(
                f"must be one number or [height, width], each a multiple of {SIDE_MULTIPLE} in "
                f"{_MIN_SIDE}..{_MAX_SIDE} ({_MIN_SIDE}, {_MIN_SIDE + SIDE_MULTIPLE}, "
                f"{_MIN_SIDE + 2 * SIDE_MULTIPLE}, ..., {_MAX_SIDE}); "
                "the networks halve the photo five times"
            )
        return value if isinstance(value, int) else (sides[0], sides[1])

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size


@dataclass(frozen=True)
class CachedPart:
    """The training or the test part at the cache's size; rows of all members are in the same order."""

    ids: tuple[str, ...]
    images: Photos
    """Memory-mapped and read-only."""
    masks: ClassMaps | None
    """Memory-mapped and read-only; None for the test part."""
    photos: pd.DataFrame
    """photos.csv: id, width and height in pixels of the original; for the training part also the sums of
    :func:`channel_statistics` and the pixels of each class, see :func:`class_counts`."""
    size: tuple[int, int]
    """(H, W) in pixels."""
    source: str
    """The value of ``data.source``."""
    data_hash: str
    """SHA-256 of the manifest, the classes and the score's size."""
    classes: ClassList
    """What the masks hold."""
    score_size: tuple[int, int]
    """(height, width) in pixels at which masks are scored."""
    skipped: int = 0
    """Number of bad files that ``data.on_bad: skip`` left out, of both parts together."""


def load_part(folder: Path) -> CachedPart:
    """Open ``data/cache/train`` or ``data/cache/test``; pixels are read when they are used.

    Raises:
        HarveysegError: when a file is absent, damaged, or does not fit the others.
    """
    info = _read_info(folder)
    height, width = info["size"]
    photos = read_photos(folder)
    shape = (len(photos), height, width)
    score_height, score_width = info["score_size"]
    return CachedPart(
        ids=tuple(photos["id"]),
        images=_open_array(folder / "images.npy", (*shape, 3)),
        masks=_open_array(folder / "masks.npy", shape) if _SUMS[0] in photos else None,
        photos=photos,
        size=(height, width),
        source=info["source"],
        data_hash=info["hash"],
        classes=_part_classes(info, folder),
        score_size=(score_height, score_width),
        skipped=info.get("skipped", 0),
    )


def read_part_classes(folder: Path) -> ClassList:
    """What the masks of a cached part hold.

    Raises:
        HarveysegError: when ``info.json`` is absent or damaged.
    """
    return _part_classes(_read_info(folder), folder)


def _part_classes(info: Mapping[str, Any], folder: Path) -> ClassList:
    return parse_classes(info["classes"], folder / "info.json", _REMEDY)


def _read_info(folder: Path) -> dict[str, Any]:
    info = read_json(folder / "info.json", _REMEDY)  # written last, so the other files belong to it
    missing = {"size", "source", "hash", "classes", "score_size"} - info.keys()
    if missing:
        raise HarveysegError(f"{folder / 'info.json'}: lacks {', '.join(sorted(missing))}. {_REMEDY}")
    return info


def read_photos(folder: Path) -> pd.DataFrame:
    """Read ``photos.csv`` of a cached part; ids are strings.

    Raises:
        HarveysegError: when it is absent, damaged, or lacks a column.
    """
    columns = {"id": str, "width": int, "height": int}
    statistics = (*_SUMS, *(f"{_COUNT}{index}" for index in range(MAX_CLASSES)))
    return read_table(folder / "photos.csv", columns, _REMEDY, optional=dict.fromkeys(statistics, int))


def class_counts(photos: pd.DataFrame) -> IntArray:
    """Pixels of each class in the full-size masks of the given photos.

    Args:
        photos: a training part's photos.csv.

    Returns:
        int64 (N, C).
    """
    return np.asarray(photos.filter(regex=rf"^{_COUNT}\d+$").to_numpy(), np.int64)


def load_score_masks(folder: Path, part: str) -> ClassMaps | None:
    """The masks of a part at the scoring size.

    Args:
        folder: ``data/cache/score``.
        part: ``"train"`` or ``"test"``.

    Returns:
        (N, H, W), memory-mapped and read-only, in the order of that part's photos.csv; None for a test part
        whose masks are unknown.

    Raises:
        HarveysegError: when the file is damaged, or the training part's is absent.
    """
    path = folder / f"{part}_masks.npy"
    if part == "test" and folder.is_dir() and not path.exists():
        return None
    return _open_array(path, None)


def channel_statistics(photos: pd.DataFrame) -> tuple[FloatArray, FloatArray]:
    """Mean and standard deviation of the cached pixels of the given photos.

    Args:
        photos: rows of a training part's photos.csv, e.g. those a fold trains on.

    Returns:
        Two arrays of shape (3,), red, green, blue, for pixels in 0..1. The deviation is at least 1/255, one grey level,
        so that dividing by it is safe for photos of one colour.

    Example:
        >>> sums = {"sum_r": [510], "sum_g": [510], "sum_b": [0]}
        >>> squares = {"sumsq_r": [2 * 255**2], "sumsq_g": [255**2 * 2], "sumsq_b": [0]}
        >>> mean, deviation = channel_statistics(pd.DataFrame({"pixels": [4], **sums, **squares}))
        >>> mean.tolist(), (255 * deviation).tolist()
        ([0.5, 0.5, 0.0], [127.5, 127.5, 1.0])
    """
    pixels = float(photos["pixels"].sum())
    mean = photos[["sum_r", "sum_g", "sum_b"]].sum().to_numpy(np.float64) / pixels
    square = photos[["sumsq_r", "sumsq_g", "sumsq_b"]].sum().to_numpy(np.float64) / pixels
    return mean / 255, np.sqrt(np.maximum(square - mean**2, 1.0)) / 255


def class_frequencies(photos: pd.DataFrame) -> FloatArray:
    """Share of each class in the labelled pixels of the given photos' full-size masks, shape (C,), summing to 1."""
    counts = class_counts(photos).sum(axis=0).astype(np.float64)
    return np.asarray(counts / counts.sum(), np.float64)


def build_cache(raw: Path, cache: Path, params: ResizeParams) -> None:
    """Write ``cache/train``, ``cache/test`` and ``cache/score`` from the verified photos in ``raw``.

    Each part gets ``images.npy`` (N, H, W, 3) uint8 RGB, ``photos.csv`` and, last of all, ``info.json``; the training
    part also ``masks.npy`` (N, H, W) uint8. ``score`` holds the known masks at the score's size. Masks hold indices of
    classes, and 255 where there is no label.

    Raises:
        HarveysegError: when the manifest or a file in it is absent or cannot be decoded.
    """
    manifest = read_manifest(raw / "manifest.csv")
    source = read_json(raw / "source.json", "Run `dvc repro download` to write it again.")
    classes = stored_classes(raw)
    identity = {"manifest": source["hash"], "classes": classes.identity(), "score_size": source["score_size"]}
    for part in ("train", "test"):
        rows = manifest[manifest["part"] == part].reset_index(drop=True)
        info = {
            "size": list(params.shape),
            "source": source["source"],
            "hash": digest(identity),
            "classes": classes.model_dump(),
            "score_size": source["score_size"],
        }
        if "skipped" in source:
            info["skipped"] = source["skipped"]
        _build_part(raw, cache / part, rows, info, params, classes)


def read_resized_photo(path: Path, full: tuple[int, int], size: tuple[int, int]) -> Photo:
    """Decode a photo and shrink it by area average.

    A JPEG's decoder shrinks by the largest 1/k (8, 4, 2, 1) that divides both sides and leaves at least twice the
    target. For photos of 12 megapixels and 256x256 that is 1/4, in less than half the time of a full decode and 53 dB
    (PSNR) from its average. k must divide the sides, since the decoder rounds the size up, and the last row and column
    would cover a smaller area than the others.

    Args:
        path: the file; an EXIF orientation is ignored, since masks fit the pixels as they are stored.
        full: (height, width) of the file in pixels.
        size: (height, width) wanted; a side longer than the photo's is interpolated linearly.

    Returns:
        uint8 RGB (height, width, 3).

    Raises:
        HarveysegError: when the file is absent or cannot be decoded.
    """
    # Of other formats than JPEG, OpenCV's reduced decode makes a full one and then skips pixels.
    reduction = _jpeg_reduction(full, size) if path.suffix == ".jpg" else 1
    return resize_photo(decode_image(path, _IMREAD[reduction] | cv2.IMREAD_IGNORE_ORIENTATION), size)


def read_mask(path: Path, classes: ClassList) -> ClassMap:
    """Decode a mask of ``data/raw``, from ids to indices.

    Raises:
        HarveysegError: when the file is absent or cannot be decoded.
    """
    return classes.indices[decode_image(path, cv2.IMREAD_UNCHANGED)]


def _open_array(path: Path, shape: tuple[int, ...] | None) -> ByteArray:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise HarveysegError(f"{path}: no such file. {_REMEDY}") from None
    except (OSError, ValueError, EOFError) as error:
        raise HarveysegError(f"{path}: not a NumPy array, or cut off ({error}). {_REMEDY}") from None
    if array.dtype != np.uint8 or (shape is not None and array.shape != shape):
        expected = f"uint8 {shape}" if shape else "uint8"
        raise HarveysegError(f"{path}: holds {array.dtype} {array.shape}, {expected} was expected. {_REMEDY}")
    return np.asanyarray(array)


@dataclass(frozen=True)
class _Outputs:
    """The arrays that the threads fill, a row for each photo."""

    images: Photos
    masks: ClassMaps | None
    score_masks: ClassMaps | None


def _build_part(
    raw: Path, folder: Path, rows: pd.DataFrame, info: dict[str, Any], params: ResizeParams, classes: ClassList
) -> None:
    part = folder.name
    score_path = folder.parent / "score" / f"{part}_masks.npy"
    score_path.parent.mkdir(parents=True, exist_ok=True)
    for old in (folder / "info.json", score_path):  # a cache that is being overwritten must not look complete
        old.unlink(missing_ok=True)
    count = len(rows)
    has_masks = count > 0 and bool((rows["mask"] != "").all())
    height, width = params.shape
    cv2.setNumThreads(1)  # OpenCV's own threads would only compete with these
    with ExitStack() as files:
        outputs = _Outputs(
            images=_create_array(files, folder / "images.npy", (count, height, width, 3)),
            masks=_create_array(files, folder / "masks.npy", (count, height, width)) if part == "train" else None,
            score_masks=_create_array(files, score_path, (count, *info["score_size"])) if has_masks else None,
        )
        with ThreadPoolExecutor(params.threads) as pool:
            results = pool.map(lambda index: _fill_row(raw, rows, index, outputs, params, classes), range(count))
            statistics = list(track(results, f"resizing {part} photos", count))
        for array in (outputs.images, outputs.masks, outputs.score_masks):
            if isinstance(array, np.memmap):
                array.flush()
    photos = pd.concat([rows[["id", "width", "height"]], pd.DataFrame(statistics)], axis="columns")
    write_table(folder / "photos.csv", photos)
    write_json(folder / "info.json", info)


def _create_array(files: ExitStack, path: Path, shape: tuple[int, ...]) -> ByteArray:
    return create_array(files.enter_context(atomic(path)), shape)


def _fill_row(
    raw: Path, rows: pd.DataFrame, index: int, outputs: _Outputs, params: ResizeParams, classes: ClassList
) -> dict[str, int]:
    """Put one photo and its mask into the arrays; returns the statistics of a training photo."""
    row = rows.iloc[index]
    photo = read_resized_photo(raw / row["image"], (row["height"], row["width"]), params.shape)
    outputs.images[index] = photo
    if outputs.score_masks is None:
        return {}
    mask = read_mask(raw / row["mask"], classes)
    height, width = outputs.score_masks.shape[1:]
    outputs.score_masks[index] = nearest_classes(mask, (height, width))
    if outputs.masks is None:
        return {}
    resize = nearest_classes if params.mask_method == "nearest" else majority_classes
    outputs.masks[index] = resize(mask, params.shape)
    return _statistics(photo, mask, len(classes))


def _statistics(photo: Photo, mask: ClassMap, classes: int) -> dict[str, int]:
    """Sums of a cached photo, and the pixels of each class in its full-size mask."""
    pixels = photo.reshape(-1, 3).astype(np.int64)
    sums = pixels.sum(axis=0)
    squares = (pixels**2).sum(axis=0)
    counts = np.bincount(mask.ravel(), minlength=256)[:classes]
    values = dict(zip(_SUMS, (len(pixels), *sums, *squares), strict=True))
    values |= {f"{_COUNT}{index}": count for index, count in enumerate(counts)}
    return {column: int(value) for column, value in values.items()}


def decode_image(path: Path, flags: int) -> ByteArray:
    """Decode a photo or mask of ``data/raw``. A TIFF is read through GDAL, as it is for prediction.

    Args:
        path: the file.
        flags: OpenCV's, ``cv2.IMREAD_...``; of a TIFF, only whether it becomes grey.

    Returns:
        uint8 (H, W) or (H, W, 3), BGR.

    Raises:
        HarveysegError: when it is absent or cannot be decoded.
    """
    remedy = "Run `dvc repro -f download` to fetch the data again."
    try:
        data = np.fromfile(path, np.uint8)
    except FileNotFoundError:
        raise HarveysegError(f"{path}: no such file, but the manifest lists it. {remedy}") from None
    try:
        decoded = _decode(data, flags)
    except (ValueError, cv2.error):
        decoded = None
    if decoded is None:
        raise HarveysegError(f"{path}: cannot be decoded, although it was verified. {remedy}")
    return np.asarray(decoded, np.uint8)


def _decode(data: ByteArray, flags: int) -> npt.NDArray[Any] | None:
    if not data[:4].tobytes().startswith(TIFF_STARTS):
        return cv2.imdecode(data, flags) if len(data) else None
    grey = not flags & cv2.IMREAD_COLOR
    return cv2.cvtColor(read_tiff(data.tobytes()), cv2.COLOR_RGB2GRAY if grey else cv2.COLOR_RGB2BGR)


def _jpeg_reduction(full: tuple[int, int], size: tuple[int, int]) -> int:
    for k in (8, 4, 2):
        if all(side % k == 0 and side // k >= 2 * target for side, target in zip(full, size, strict=True)):
            return k
    return 1
