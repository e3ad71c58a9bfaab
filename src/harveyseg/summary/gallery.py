"""The gallery: photos and their class maps, small enough that all fit into one page."""

import base64
import zlib
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import cv2
import numpy as np

from harveyseg.arrays import ClassMap, Photo, ProbabilityMaps
from harveyseg.data.cache import read_resized_photo
from harveyseg.data.manifest import MANIFEST_COLUMNS
from harveyseg.data.resize import nearest_classes
from harveyseg.files import read_table
from harveyseg.postprocess.files import class_map_of
from harveyseg.score import pair_dice
from harveyseg.summary.finished import FinishedPipeline
from harveyseg.summary.pairs import Pairs

MAX_PHOTOS = 50
"""Photos of each part that are shown, evenly spaced, besides those that the page points to."""
LONG_SIDE = 512
"""Pixels of a shown photo's longer side."""
_QUALITY = 72
"""Of WebP: a drone photo of this size takes about 35 kB."""


@dataclass(frozen=True)
class Picture:
    """One photo of the gallery."""

    key: str
    """``val-<id>`` or ``test-<id>``."""
    name: str
    part: str
    """``"held out"`` or ``"test"``."""
    fold: int | None
    """In which it is held out; None for a test photo."""
    score: float | None
    """Of what is submitted for it; None where its mask is unknown."""
    width: int
    height: int
    photo: str
    """A data URI."""
    prediction: str
    """Class indices, uint8 (height, width) by rows, deflated, in Base64."""
    truth: str | None
    """The same of the mask; None where it is unknown."""


@dataclass(frozen=True)
class Gallery:
    """Pictures of both parts, and how many photos there are."""

    pictures: list[Picture]
    held_out: int
    test: int

    @property
    def shown(self) -> dict[str, int]:
        """The number of pictures of each part."""
        parts = [picture.part for picture in self.pictures]
        return {part: parts.count(part) for part in ("held out", "test")}


@dataclass(frozen=True)
class _Job:
    """What one picture is made of."""

    key: str
    part: str
    row: int
    """In the cached part."""
    fold: int | None
    score: float | None
    predict: Callable[[tuple[int, int]], ClassMap]
    """From (height, width) to the map of what is submitted."""


def make_gallery(workspace: FinishedPipeline, pairs: Pairs, wanted: Collection[int]) -> Gallery:
    """Encode the photos, true masks and submitted masks of the winner.

    Args:
        workspace: the finished pipeline.
        pairs: of its winner.
        wanted: positions of out-of-fold photos that the page points to.

    Raises:
        HarveysegError: when a photo in data/raw is absent or damaged.
    """
    held_out = len(pairs.thresholds)
    jobs = [*_held_out_jobs(workspace, pairs, wanted), *_test_jobs(workspace, pairs.source)]
    manifest = read_table(
        workspace.data / "raw" / "manifest.csv", MANIFEST_COLUMNS, "Run `dvc repro download` to write it again."
    )
    files: dict[tuple[str, str], str] = dict(
        zip(zip(manifest["part"], manifest["id"], strict=True), manifest["image"], strict=True)
    )

    def make(job: _Job) -> Picture:
        part, truth = (workspace.train, "val") if job.part == "held out" else (workspace.test, "test")
        photo = part.photos.iloc[job.row]
        full = (int(photo["height"]), int(photo["width"]))
        size = _shown_size(full)
        file = workspace.data / "raw" / files["train" if truth == "val" else "test", photo["id"]]
        masks = workspace.truth.get(truth)
        return Picture(
            key=job.key,
            name=photo["id"],
            part=job.part,
            fold=job.fold,
            score=job.score,
            width=size[1],
            height=size[0],
            photo=encode_photo(read_resized_photo(file, full, size)),
            prediction=encode_map(job.predict(size)),
            truth=None if masks is None else encode_map(nearest_classes(np.asarray(masks[job.row]), size)),
        )

    pictures: list[Picture] = []
    queue = iter(jobs)
    with ThreadPoolExecutor(workspace.threads) as pool:  # OpenCV releases the lock
        while batch := list(islice(queue, 2 * workspace.threads)):
            pictures += pool.map(make, batch)
    return Gallery(pictures, held_out, len(workspace.test.ids))


def _held_out_jobs(workspace: FinishedPipeline, pairs: Pairs, wanted: Collection[int]) -> Iterator[_Job]:
    predictor = workspace.predictor(pairs.source)
    rows = workspace.fold_models.rows(workspace.train.ids)
    folds = [fold for fold, _ in workspace.fold_models.positions]
    scores = pairs.dice.mean(1)
    unscored = workspace.classes.unscored
    for position in sorted({*_spaced(len(rows)), *wanted}):

        def predict(size: tuple[int, int], position: int = position) -> ClassMap:
            return class_map_of(predictor(position), pairs.thresholds[position], unscored, size)

        name = workspace.fold_models.ids[position]
        yield _Job(f"val-{name}", "held out", rows[position], folds[position], float(scores[position]), predict)


def _test_jobs(workspace: FinishedPipeline, source: str) -> Iterator[_Job]:
    rule = workspace.rule(source)
    shown = set(_spaced(len(workspace.test.ids)))
    for row, probabilities in enumerate(workspace.fold_models.test(workspace.weights_of(source).chosen)):
        if row not in shown:
            continue

        def predict(size: tuple[int, int], maps: ProbabilityMaps = probabilities) -> ClassMap:
            return rule.class_map(maps, size)

        score = None
        if "test" in workspace.truth:
            truth = np.asarray(workspace.truth["test"][row])
            score = float(pair_dice(truth, rule.submitted_masks(probabilities), rule.unscored).mean())
        yield _Job(f"test-{workspace.test.ids[row]}", "test", row, None, score, predict)


def _spaced(photos: int) -> list[int]:
    """Evenly spaced photos; all if there are few."""
    places: list[int] = np.unique(np.linspace(0, photos - 1, min(photos, MAX_PHOTOS)).round().astype(int)).tolist()
    return places


def _shown_size(full: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a shown photo: its aspect, and never more pixels than it has.

    >>> _shown_size((3000, 4000)), _shown_size((100, 50))
    ((384, 512), (100, 50))
    """
    scale = min(1.0, LONG_SIDE / max(full))
    return max(1, round(full[0] * scale)), max(1, round(full[1] * scale))


def encode_photo(photo: Photo) -> str:
    """A photo, RGB (H, W, 3), as the data URI of a WebP file."""
    options = [cv2.IMWRITE_WEBP_QUALITY, _QUALITY]
    _, encoded = cv2.imencode(".webp", cv2.cvtColor(photo, cv2.COLOR_RGB2BGR), options)
    return f"data:image/webp;base64,{base64.b64encode(encoded.tobytes()).decode()}"


def encode_map(class_map: ClassMap) -> str:
    """A class map, uint8 (H, W), deflated and in Base64.

    >>> zlib.decompress(base64.b64decode(encode_map(np.array([[1, 2], [3, 255]], np.uint8)))).hex()
    '010203ff'
    """
    return base64.b64encode(zlib.compress(class_map.tobytes(), 9)).decode()
