"""A drawn town half under water, as a survey flight leaves it: an orthomosaic, its classes, houses and streets."""

from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np

from harveyseg.arrays import BoolArray, ClassMap, Photo
from harveyseg.data.demo.camera import photograph_whole
from harveyseg.data.demo.districts import Band, add_cross_street, car_park, forest, grassland, river, street
from harveyseg.data.demo.strips import CLOSE, DROWNED, FRAME_METRES, PLAIN, POOLS, WET, block, lay_bands
from harveyseg.data.demo.world import Points, World

GROUND_SIZE = FRAME_METRES / 300
"""Metres of ground that a pixel shows: as the demo's photos at their usual width."""

_HEIGHT, _WIDTH = 1260, 940
"""Of the mosaic, in pixels."""
_FALL = 2.4
"""Metres by which the terrain falls from the north to the south."""
_LEVEL = -0.35
_BANDS: tuple[Band, ...] = (
    *block(POOLS, PLAIN, partial(street, lights=True)), partial(forest, deep=16),
    *block(CLOSE, POOLS, street), partial(grassland, deep=22, sunk=0.4),
    *block(DROWNED, DROWNED, partial(street, cars=0.1)), car_park,
    *block(PLAIN, DROWNED, partial(street, cars=0.1)), partial(river, deep=34),
)  # fmt: skip


@dataclass(frozen=True)
class Town:
    """An orthomosaic and what it shows. North is up; positions are (column, row) in its pixels."""

    photo: Photo
    mask: ClassMap
    seen: BoolArray
    """(H, W): where the photos of the flight reached."""
    footprints: list[list[Points]]
    """The rectangles of each house, which overlap."""
    streets: list[Points]
    """The middle line of each street."""


def draw_town(seed: int) -> Town:
    """Draw 270 x 200 m. The same seed gives the same town."""
    rng = np.random.default_rng([seed, 20170827])
    world = World(rng, WET, _WIDTH * GROUND_SIZE, _HEIGHT * GROUND_SIZE, 2 / GROUND_SIZE)
    add_cross_street(world)
    lay_bands(world, _BANDS)
    world.ground += np.linspace(_FALL / 2, -_FALL / 2, len(world.ground), dtype=np.float32)[:, None]
    world.flood(_LEVEL)
    photo, mask = photograph_whole(world)
    return Town(
        photo,
        mask,
        _coverage(rng, mask.shape),
        [[_halve(outline) for outline in house] for house in world.footprints],
        [_halve(line) for line in world.street_lines],
    )


def _coverage(rng: np.random.Generator, shape: tuple[int, ...]) -> BoolArray:
    """Where at least one photo of four flight lines reached, whose frames are never quite straight."""
    seen = np.zeros(shape, np.uint8)
    size = (FRAME_METRES / GROUND_SIZE, FRAME_METRES / GROUND_SIZE * 4 / 3)
    for x in np.linspace(size[0] * 0.55, shape[1] - size[0] * 0.55, 4):
        for y in np.linspace(size[1] * 0.55, shape[0] - size[1] * 0.55, 6):
            centre = (x + rng.uniform(-8, 8), y + rng.uniform(-8, 8))
            corners = cv2.boxPoints((centre, size, rng.normal(0, 3)))
            cv2.fillPoly(seen, [np.rint(corners).astype(np.int32)], 1)
    return seen.astype(bool)


def _halve(points: Points) -> Points:
    """From pixels of the world to those of the mosaic."""
    return [(x / 2, y / 2) for x, y in points]
