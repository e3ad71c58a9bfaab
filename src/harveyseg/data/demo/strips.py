"""The strips of the demo: what each flight line passes over, in which light, and how it is flown."""

from dataclasses import dataclass
from functools import partial
from itertools import cycle
from typing import Literal

import numpy as np

from harveyseg.data.demo.camera import Camera, Frame, photograph
from harveyseg.data.demo.districts import (
    Band,
    Garden,
    add_cross_street,
    bare_ground,
    building_site,
    car_park,
    forest,
    grassland,
    homes,
    industrial_yard,
    power_line,
    river,
    sports_ground,
    street,
)
from harveyseg.data.demo.world import Look, World, rgb

FRAME_METRES = 64.0
"""Ground width of a frame at zoom 1."""
ADVANCE = 0.44
"""The distance between two frames as a share of their height: neighbours have a little over half in common."""
TEST_WORLDS = 3
"""Sets the random numbers of test flights apart from those of training flights. With this value no picture of the demo
looks so much like another that ``data/overlap.py`` takes two rows of parking bays or solar panels for the same ones."""
MAX_FRAMES = 60
"""Most frames of a part from one pass over ``STRIPS``; a larger part takes further passes over new ground."""

ROOFS = (rgb(128, 126, 128), rgb(112, 108, 108), rgb(146, 140, 136), rgb(118, 124, 138), rgb(134, 116, 102))
HAZY = Look(
    grass=(rgb(88, 118, 62), rgb(128, 134, 84)),
    crowns=(rgb(62, 92, 44), rgb(78, 108, 52), rgb(56, 84, 48), rgb(104, 124, 58)),
    roofs=ROOFS,
    azimuth=-2.2,
    elevation=0.95,
    sun=(1.2, 1.18, 1.12),
    sky=(0.5, 0.54, 0.6),
    haze=0.1,
)
SHARP = Look(
    grass=(rgb(90, 106, 54), rgb(134, 122, 78)),
    crowns=(rgb(60, 84, 42), rgb(74, 98, 46), rgb(90, 108, 56)),
    roofs=ROOFS,
    azimuth=-1.5,
    elevation=0.85,
    sun=(1.45, 1.4, 1.25),
    sky=(0.34, 0.38, 0.46),
    haze=0.03,
)
WET = Look(
    grass=(rgb(104, 100, 60), rgb(132, 110, 72)),
    crowns=(rgb(62, 80, 44), rgb(72, 90, 48), rgb(88, 100, 56)),
    roofs=(*ROOFS, rgb(156, 136, 122)),
    azimuth=-0.9,
    elevation=0.75,
    sun=(1.5, 1.4, 1.2),
    sky=(0.36, 0.41, 0.5),
    haze=0.02,
)


@dataclass(frozen=True)
class Strip:
    """One flight line: what is along it, and how it was flown.

    Attributes:
        first_id: id of its first frame, or a higher one where that is taken.
        share: its share of all frames.
        size: width and height of its photos, in units of ``DemoParams.width``.
        zoom: magnification; 1 shows ``FRAME_METRES`` across.
        turn: how the camera is turned against the ground's axes, degrees.
        look: its light.
        bands: what is drawn along it; after the last one, the first one follows again.
        flood: water level in metres, if any.
        cross_street: whether a street runs along it.
    """

    first_id: int
    share: float
    zoom: float
    turn: float
    look: Look
    bands: tuple[Band, ...]
    size: tuple[float, float] = (1.0, 4 / 3)
    flood: float | None = None
    cross_street: bool = False


def block(above: Garden, below: Garden, between: Band) -> tuple[Band, ...]:
    """Two rows of houses that face the street between them."""
    return partial(homes, front=1, garden=above), between, partial(homes, front=-1, garden=below)


LARGE = (307 / 300, 459 / 300)
POOLS = Garden(pool=0.45, shed=0.2, chimney=0.35, car=0.5, tree=0.8)
PLAIN = Garden(car=0.4, shed=0.2, tree=1.0)
CLOSE = Garden(pool=0.35, window=0.4, chimney=0.5, shed=0.25, trampoline=0.2, bins=0.35, car=0.5, tree=0.7)
SUNNY = Garden(pool=0.4, window=0.6, chimney=0.5, solar=1.0, antenna=1.0, car=0.5, tree=0.4)
DROWNED = Garden(pool=0.35, shed=0.2, chimney=0.35, window=0.2, trampoline=0.06, car=0.3, tree=1.1)
STRIPS = (
    Strip(6437, 8, 1.0, 9, HAZY, (
        *block(POOLS, POOLS, partial(street, lights=True)), power_line, partial(grassland, deep=34, track=True),
        partial(river, deep=46, boats=(0.38, 0.62)), partial(grassland, deep=14), partial(forest, deep=26),
        *block(PLAIN, POOLS, street), power_line, partial(river, deep=44), partial(grassland, deep=40),
    )),
    Strip(6690, 9, 1.4, -14, HAZY, (
        *block(CLOSE, CLOSE, street), *block(SUNNY, CLOSE, partial(street, lights=True)), power_line,
        partial(grassland, deep=18, track=True), partial(forest, deep=16), *block(CLOSE, POOLS, street),
    )),
    Strip(7239, 8, 0.9, 22, SHARP, (
        *block(PLAIN, PLAIN, partial(street, asphalt=True, lights=True)), car_park, partial(street, asphalt=True),
        partial(grassland, deep=20), industrial_yard, partial(forest, deep=24), sports_ground, power_line,
        *block(POOLS, PLAIN, partial(street, asphalt=True)), partial(grassland, deep=20), partial(river, deep=30),
    ), cross_street=True),
    Strip(8420, 9, 1.15, -6, SHARP, (
        partial(forest, deep=34), *block(POOLS, CLOSE, partial(street, lights=True)), power_line,
        partial(grassland, deep=24, sunk=0.3), building_site, partial(homes, front=-1, garden=PLAIN),
        partial(river, deep=30), partial(grassland, deep=22, sunk=0.35), partial(homes, front=1, garden=CLOSE),
        partial(street, lights=True), partial(forest, deep=30),
    ), flood=-0.28),
    Strip(9030, 7, 1.0, -20, WET, (
        *block(DROWNED, DROWNED, partial(street, cars=0.1)), power_line, partial(grassland, deep=44, sunk=0.7),
        *block(DROWNED, PLAIN, partial(street, cars=0.1)), partial(homes, front=1, garden=DROWNED),
        partial(street, cars=0.1),
    ), LARGE, 0.0),
    Strip(10165, 6, 0.9, 15, WET, (
        *block(PLAIN, DROWNED, partial(street, cars=0.1)), *block(DROWNED, PLAIN, street), power_line,
        partial(grassland, deep=34, sunk=0.8), partial(forest, deep=20),
    ), LARGE, 0.02, cross_street=True),
)  # fmt: skip
"""The flight lines: four of the dry flight, two of the flooded one."""

BARE = Strip(6411, 1, 1.0, 0, SHARP, (partial(bare_ground, deep=200),))
"""The strip of the one frame without any class."""


@dataclass(frozen=True)
class Flight:
    """One pass over new ground of a strip's kind, all of whose photos are of one part.

    Attributes:
        strip: what is along it.
        part: of all its photos.
        frames: number of photos.
        number: counts the flights of a part; no two draw the same random numbers.
    """

    strip: Strip
    part: Literal["train", "test"]
    frames: int
    number: int


def plan_flights(train: int, test: int) -> list[Flight]:
    """The flights and their frames, in the order of their ids.

    Every flight has ground of its own, so no test photo shows ground of a training photo.
    """
    to_train = [(BARE, 1), *_share_out(train - 1)]
    training = [Flight(strip, "train", frames, number) for number, (strip, frames) in enumerate(to_train)]
    testing = [Flight(strip, "test", frames, number) for number, (strip, frames) in enumerate(_share_out(test))]
    return sorted(training + testing, key=lambda flight: flight.strip.first_id)


def _share_out(frames: int) -> list[tuple[Strip, int]]:
    """Frames for each strip, one pass or several over all of them: shares by largest remainder."""
    strips = STRIPS * -(-frames // MAX_FRAMES)
    total = sum(strip.share for strip in strips)
    exact = [strip.share / total * frames for strip in strips]
    counts = [int(value) for value in exact]
    by_remainder = sorted(range(len(strips)), key=lambda index: counts[index] - exact[index])
    for index in by_remainder[: frames - sum(counts)]:
        counts[index] += 1
    return [(strip, count) for strip, count in zip(strips, counts, strict=True) if count]


def draw_flight(flight: Flight, seed: int, width: int) -> list[Frame]:
    """Draw the world of one flight and photograph it.

    Args:
        flight: what to draw, and the number of photos.
        seed: of the data set.
        width: of the photos, see ``DemoParams.width``.
    """
    rng = np.random.default_rng([seed, flight.number] if flight.part == "train" else [seed, flight.number, TEST_WORLDS])
    strip, frames = flight.strip, flight.frames
    height = round(strip.size[1] * width)
    scale = 2 * width * strip.zoom / FRAME_METRES
    camera = Camera(
        width=round(strip.size[0] * width),
        height=height,
        scale=scale,
        turn=float(np.deg2rad(strip.turn)),
        advance=ADVANCE * 2 * height / scale,
    )
    across, along = camera.span
    world = World(rng, strip.look, across + 8, along + 8 + camera.advance * (frames - 1), scale)
    if strip.cross_street:
        add_cross_street(world)
    lay_bands(world, strip.bands)
    if strip.flood is not None:
        world.flood(strip.flood)
    return photograph(world, camera, frames)


def lay_bands(world: World, bands: tuple[Band, ...]) -> None:
    """Draw the bands over the whole world; after the last one, the first one follows again."""
    y = -world.rng.uniform(8, 16)
    for band in cycle(bands):
        if y >= world.length:
            break
        y = band(world, y)
