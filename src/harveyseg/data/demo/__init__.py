"""The demo's data: a seeded generator of drone photos with exact masks, which needs no download.

Every flight is over one drawn world, in metres, of three layers: reflectance, height above ground, and class. Shapes
and shadows come from the height map, and a flood is a water level over a terrain. The frames of a flight are windows
moved along its world by part of their height, so that neighbouring ids show the same houses, as in the real set.
Training and test photos come from different flights.

The set keeps these properties of the real one: the folder layout, the range of ids and their gaps, two portrait sizes
of two flights of which the second is mostly flooded, the imbalance of the classes and their surroundings, unlabelled
strips at some borders, one frame without any label, and rare classes that only one strip holds.

May import: config and the leaf modules.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
from pydantic import Field

from harveyseg.arrays import ClassMap, Photo
from harveyseg.config.settings import Section
from harveyseg.data.demo.camera import Frame
from harveyseg.data.demo.strips import Flight, draw_flight, plan_flights
from harveyseg.files import atomic
from harveyseg.progress import track

JPEG_QUALITY = 90
_DRAWN_AT_A_TIME = 2


class DemoParams(Section):
    """The section ``data.demo``."""

    train: int = Field(default=36, ge=8, le=2000)
    """Number of training photos with masks. From 30 on, all 25 classes are among them."""
    test: int = Field(default=12, ge=1, le=2000)
    """Number of test photos with masks, of the same kinds of ground, but none that a training photo shows."""
    seed: int = Field(default=0, ge=0)
    """The same seed gives the same files, byte for byte (with the same versions of numpy and OpenCV)."""
    width: int = Field(default=300, ge=96, le=600)
    """Width in pixels of the first flight's photos, which are 3:4. Those of the second flight are 307:459 and wider by
    the same ratio as in the real set. Objects scale with it."""


def write_demo(folder: Path, params: DemoParams) -> list[tuple[str, str]]:
    """Draw the whole set into ``folder``, in the layout of the Kaggle archive with the test masks added.

    Writes ``train_images/<id>.jpg``, ``train_masks/<id>.png``, ``test_images/<id>.jpg`` and ``test_masks/<id>.png``:
    8-bit RGB JPEG, and 8-bit grey PNG whose values are class ids 0..24.

    Args:
        folder: where to write; made when absent. Files of the same name are replaced, others left alone.
        params: number and size of the photos, and the seed.

    Returns:
        The pairs of ids that show the same ground; always two photos of one part.
    """
    flights = plan_flights(params.train, params.test)
    drawn = track(_draw_ahead(flights, params), "drawing flights", len(flights), "flights")
    rng = np.random.default_rng([params.seed, len(flights)])
    overlaps: list[tuple[str, str]] = []
    photo_id = 0
    for flight, frames in zip(flights, drawn, strict=True):
        photo_id = max(photo_id + 30, flight.strip.first_id)  # the ids of two flights are never neighbours
        ids = []
        for frame in frames:
            quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
            _write(folder / f"{flight.part}_images" / f"{photo_id}.jpg", frame.photo[..., ::-1], quality)
            _write(folder / f"{flight.part}_masks" / f"{photo_id}.png", frame.mask, [cv2.IMWRITE_PNG_COMPRESSION, 6])
            ids.append(str(photo_id))
            photo_id += 1 if rng.random() < 0.8 else 2  # some ids are missing, as in the real set
        overlaps += [
            (ids[first], ids[second])
            for first, second in combinations(range(len(ids)), 2)
            if cv2.intersectConvexConvex(frames[first].ground, frames[second].ground)[0] > 0
        ]
    return overlaps


def _draw_ahead(flights: Sequence[Flight], params: DemoParams) -> Iterator[list[Frame]]:
    """Frames of each flight, in order. Two flights are drawn at a time, however many there are: frames take memory."""
    waiting: deque[Future[list[Frame]]] = deque()
    with ThreadPoolExecutor(_DRAWN_AT_A_TIME) as pool:
        for flight in flights:
            if len(waiting) == _DRAWN_AT_A_TIME:
                yield waiting.popleft().result()
            waiting.append(pool.submit(draw_flight, flight, params.seed, params.width))
        while waiting:
            yield waiting.popleft().result()


def _write(path: Path, image: Photo | ClassMap, options: list[int]) -> None:
    with atomic(path) as temporary:
        temporary.write_bytes(cv2.imencode(path.suffix, image, options)[1].tobytes())
