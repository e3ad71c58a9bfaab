"""Photos that show the same ground, found by their pictures.

Frames of a flight overlap their neighbours, and so do frames of the next flight line, whose ids are far away. Where
overlapping photos end up in different folds, a network is scored on ground that it was trained on. Two photos overlap
here if enough local features match under one affine transform (SIFT, Lowe 2004; RootSIFT, Arandjelovic and Zisserman
2012; RANSAC, Fischler and Bolles 1981): drones look straight down from a constant height, so two
overlapping photos differ by a shift and a rotation.

Not every pair is compared, which would take quadratic time. A photo is compared with a fixed number of candidates: the
next ids, the nearest positions where the files have any, and the photos that hold most of its features' nearest
neighbours (Muja and Lowe 2009). Where two photos overlap, the frames before and after each of them become candidates of
the other.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import ExifTags, Image
from scipy.sparse import coo_array
from scipy.spatial import KDTree

from harveyseg.arrays import Float32Array, FloatArray, IntArray
from harveyseg.data.cache import decode_image
from harveyseg.data.manifest import read_manifest
from harveyseg.data.split import OVERLAPS_FILE, read_overlaps
from harveyseg.errors import HarveysegError
from harveyseg.progress import Progress, track

SIDE = 800
"""Pixels of a photo's longer side when features are taken."""

FEATURES = 1500
"""Most local features of one photo."""

LEAST_MATCHES = 10
"""Two photos overlap if at least this many features agree on one transform. On the 93 photos whose overlaps are known
9 to 12 find every group and join no two that are apart (``benchmarks/overlap.py``)."""

_CANDIDATES = 12
"""Candidates of one photo by position and by appearance: this many each."""
_NEXT_IDS = 8
"""Candidates of one photo by id: this many ids after it."""
_AROUND = 2
"""Where two photos overlap, this many frames before and after each are compared with the other."""
_QUERY_STEP = 3
"""Every third feature votes for candidates: enough, and a third of the time."""
_VOTES = 12
"""Nearest neighbours for which a feature votes."""
_VOTE_DISTANCE = 0.2
"""Squared distance between unit vectors above which a neighbour gets no vote."""
_RATIO = 0.8
"""Lowe's ratio: a match counts if it is this much nearer than the second best."""
_TOLERANCE = 8.0
"""By how much a matched feature may miss the transform: 1 % of the photo's longer side, see :class:`Features`."""


_Pair = tuple[int, int]
"""Indices of two photos, the smaller one first."""


@dataclass(frozen=True)
class Features:
    """Local features of one photo."""

    points: Float32Array
    """(n, 2): x and y, in a unit of which the photo's longer side has ``SIDE``."""
    descriptors: Float32Array
    """(n, 128): RootSIFT, of unit length."""


_NO_FEATURES = Features(np.zeros((0, 2), np.float32), np.zeros((0, 128), np.float32))


def overlaps_of_data(raw: Path, threads: int, required: bool) -> list[tuple[str, str]] | None:
    """The pairs of photos of a data set that show the same ground: as the source says, or found by their pictures.

    The pictures are compared only if the pairs are required or the files hold positions: it takes a second per photo.

    Args:
        raw: ``data/raw``.
        threads: see :func:`find_overlaps`.
        required: whether the pairs have to be known.

    Returns:
        Pairs of ids; None where they are unknown.

    Raises:
        HarveysegError: when the manifest or the source's list is damaged.
    """
    overlaps = read_overlaps(raw / OVERLAPS_FILE)
    if overlaps is not None:
        return overlaps
    manifest = read_manifest(raw / "manifest.csv")
    photos = [raw / name for name in manifest["image"]]
    if not required and not any(map(photo_position, photos)):
        return None
    return find_overlaps(photos, list(manifest["id"]), threads)


def find_overlaps(photos: Sequence[Path], ids: Sequence[str], threads: int) -> list[tuple[str, str]]:
    """Find the pairs of photos that overlap. One that cannot be decoded overlaps none: verification names it.

    Args:
        photos: the files.
        ids: their ids.
        threads: photos that are processed in parallel; does not change the result.

    Returns:
        Pairs of ids, in the order of ``ids``.
    """
    if len(photos) < 2:
        return []
    with ThreadPoolExecutor(threads) as pool:
        features = list(track(pool.map(_features_or_none, photos), "finding features", len(photos)))
        positions = list(pool.map(photo_position, photos))
        order = _frame_order(ids)
        overlaps: set[_Pair] = set()
        compared: set[_Pair] = set()
        candidates = candidate_pairs(order, features, positions)
        with Progress("comparing photos", len(candidates), "pairs") as progress:
            while candidates:
                pairs = sorted(candidates)
                progress.reach(len(compared), len(compared) + len(pairs))
                matches = pool.map(lambda pair: count_matches(features[pair[0]], features[pair[1]]), pairs)
                counts = zip(pairs, progress.each(matches), strict=True)
                found = {pair for pair, count in counts if count >= LEAST_MATCHES}
                overlaps |= found
                compared |= candidates
                candidates = _pairs_around(found, order) - compared
    return [(ids[first], ids[second]) for first, second in sorted(overlaps)]


def photo_features(path: Path) -> Features:
    """Local features of a photo, taken from its grey values at a reduced size.

    Raises:
        HarveysegError: when it cannot be decoded.
    """
    grey = decode_image(path, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION)
    scale = SIDE / max(grey.shape)
    if scale < 1:
        reduced = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        grey = np.asarray(reduced, np.uint8)
    points, descriptors = cv2.SIFT.create(FEATURES, contrastThreshold=0.02).detectAndCompute(grey, None)
    if descriptors is None:
        return _NO_FEATURES
    total = np.maximum(descriptors.sum(axis=1, keepdims=True), 1e-9)
    unit = max(grey.shape) / SIDE  # pixels; below 1 for photos that are smaller than SIDE
    return Features(
        np.array([point.pt for point in points], np.float32) / np.float32(unit),
        np.sqrt(descriptors / total).astype(np.float32),
    )


def _features_or_none(path: Path) -> Features:
    try:
        return photo_features(path)
    except HarveysegError:
        return _NO_FEATURES


def photo_position(path: Path) -> tuple[float, float] | None:
    """Latitude and longitude in degrees from a photo's EXIF data; None where the file has none."""
    try:
        with Image.open(path) as image:
            gps = image.getexif().get_ifd(ExifTags.IFD.GPSInfo)
            latitude = _degrees(gps[ExifTags.GPS.GPSLatitude], gps[ExifTags.GPS.GPSLatitudeRef] == "S")
            longitude = _degrees(gps[ExifTags.GPS.GPSLongitude], gps[ExifTags.GPS.GPSLongitudeRef] == "W")
    except (OSError, LookupError, TypeError, ValueError, ZeroDivisionError):
        return None
    return latitude, longitude


def candidate_pairs(
    order: Sequence[int], features: Sequence[Features], positions: Sequence[tuple[float, float] | None]
) -> set[_Pair]:
    """The pairs of photos that are worth comparing: a fixed number for each photo.

    Args:
        order: indices of the photos in the order in which they were taken.
        features: of the photos.
        positions: latitude and longitude of each photo in degrees, None where unknown.

    Returns:
        Pairs of indices, the smaller one first.
    """
    pairs: set[_Pair] = set()
    for place, index in enumerate(order):
        pairs |= {_pair(index, later) for later in order[place + 1 : place + 1 + _NEXT_IDS]}
    pairs |= _nearest_positions(positions)
    return pairs | _most_similar(features)


def count_matches(first: Features, second: Features) -> int:
    """Number of features of two photos that agree on one affine transform without strong shear or change of scale."""
    if len(first.points) < 3 or len(second.points) < 3:
        return 0
    similarity = first.descriptors @ second.descriptors.T
    forward = _distinct_matches(similarity)
    backward = _distinct_matches(similarity.T)[:, ::-1]
    matches = np.unique(np.concatenate([forward, backward]), axis=0)
    if len(matches) < LEAST_MATCHES:
        return 0
    transform, inliers = cv2.estimateAffine2D(
        first.points[matches[:, 0]], second.points[matches[:, 1]], method=cv2.RANSAC, ransacReprojThreshold=_TOLERANCE
    )
    if transform is None or not _is_near_similarity(transform[:, :2]):
        return 0
    return int(inliers.sum())


def _distinct_matches(similarity: Float32Array) -> IntArray:
    """Rows and the columns most similar to them, int64 (m, 2), where the second most similar one is much less so."""
    best_two = np.argpartition(-similarity, 1, axis=1)[:, :2]
    values = np.take_along_axis(similarity, best_two, axis=1)
    best = best_two[np.arange(len(best_two)), values.argmax(axis=1)]
    nearest = np.sqrt(np.maximum(2 - 2 * values.max(axis=1), 0))
    second_nearest = np.sqrt(np.maximum(2 - 2 * values.min(axis=1), 0))
    rows = np.flatnonzero(nearest < _RATIO * second_nearest)
    return np.stack([rows, best[rows]], axis=1)


def _is_near_similarity(linear: FloatArray) -> bool:
    """Whether a 2 x 2 matrix is close to a rotation, at about the same scale in all directions, between 0.7 and 1.4."""
    return 0.5 < float(np.linalg.det(linear)) < 2 and float(np.linalg.cond(linear)) < 1.6


def _degrees(values: Sequence[float], negative: bool) -> float:
    degrees, minutes, seconds = (float(value) for value in values)
    total = degrees + minutes / 60 + seconds / 3600
    return -total if negative else total


def _metres(positions: Sequence[tuple[float, float]]) -> FloatArray:
    """Positions in metres on a plane, float64 (n, 2): exact enough to find neighbours within a flight."""
    degrees = np.array(positions, np.float64).reshape(-1, 2)
    metres = 111_320.0 * degrees
    if len(degrees):
        metres[:, 1] *= np.cos(np.radians(degrees[:, 0].mean()))
    return metres


def _nearest_positions(positions: Sequence[tuple[float, float] | None]) -> set[_Pair]:
    located = [index for index, position in enumerate(positions) if position is not None]
    if len(located) < 2:
        return set()
    points = _metres([position for position in positions if position is not None])
    _, neighbours = KDTree(points).query(points, k=min(_CANDIDATES + 1, len(located)))
    return {
        _pair(located[row], located[neighbour])
        for row, nearest in enumerate(np.asarray(neighbours).tolist())
        for neighbour in nearest
        if neighbour != row
    }


def _most_similar(features: Sequence[Features]) -> set[_Pair]:
    """Each photo with those that hold most of its features' nearest neighbours."""
    descriptors = np.concatenate([photo.descriptors for photo in features])
    photo_of = np.repeat(np.arange(len(features)), [len(photo.descriptors) for photo in features])
    if len(features) < 2 or len(descriptors) <= _VOTES:
        return set()
    cv2.setRNGSeed(0)
    index = cv2.flann.Index(descriptors, {"algorithm": 1, "trees": 4})  # 1: randomised k-d trees
    queries = np.arange(0, len(descriptors), _QUERY_STEP)
    neighbours, distances = index.knnSearch(descriptors[queries], _VOTES, params={"checks": 64})
    voters = np.repeat(photo_of[queries], _VOTES)
    counted = (distances.ravel() < _VOTE_DISTANCE) & (neighbours.ravel() >= 0)
    voters = voters[counted]
    voted = photo_of[neighbours.ravel()[counted]]
    size = (len(features), len(features))
    votes = coo_array((np.ones(len(voters)), (voters, voted)), shape=size).tocsr()
    votes = (votes + votes.T).tolil()
    votes.setdiag(0)
    pairs: set[_Pair] = set()
    for photo, (others, counts) in enumerate(zip(votes.rows, votes.data, strict=True)):
        ranked = sorted(zip(counts, others, strict=True), key=lambda entry: (-entry[0], entry[1]))
        pairs |= {_pair(photo, other) for count, other in ranked[:_CANDIDATES] if count > 0}
    return pairs


def _pairs_around(overlaps: set[_Pair], order: Sequence[int]) -> set[_Pair]:
    """For each overlap, the frames shortly before and after one photo, each with the other photo."""
    place_of = {index: place for place, index in enumerate(order)}
    pairs: set[_Pair] = set()
    for pair in overlaps:
        for photo, other in (pair, pair[::-1]):
            place = place_of[photo]
            around = order[max(place - _AROUND, 0) : place + _AROUND + 1]
            pairs |= {_pair(frame, other) for frame in around if frame != other}
    return pairs


def _frame_order(ids: Sequence[str]) -> list[int]:
    """Indices of the photos in the order of their ids; among numbers 9 comes before 10."""
    return sorted(range(len(ids)), key=lambda index: (len(ids[index]), ids[index]))


def _pair(first: int, second: int) -> _Pair:
    return min(first, second), max(first, second)
