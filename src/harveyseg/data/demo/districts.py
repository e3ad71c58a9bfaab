"""The districts of the demo: what is drawn across a strip, from rows of houses to rivers.

A band draws everything between y and the y that it returns, over the whole width of the strip.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from harveyseg.data.demo.objects import (
    add_antenna,
    add_bins,
    add_boat,
    add_car,
    add_fence,
    add_on_roof,
    add_pole_shadow,
    add_pool,
    add_roof,
    add_solar_panels,
    add_street_light,
    add_tank,
    add_trampoline,
    add_tree,
)
from harveyseg.data.demo.world import ASPHALT, CONCRETE, SAND, SOIL, Colour, Label, Points, World, box, rgb

Band = Callable[[World, float], float]


@dataclass(frozen=True)
class Garden:
    """The probability of each thing on a lot."""

    pool: float = 0.0
    shed: float = 0.0
    trampoline: float = 0.0
    bins: float = 0.0
    car: float = 0.55
    chimney: float = 0.0
    window: float = 0.0
    solar: float = 0.0
    antenna: float = 0.0
    tree: float = 0.6


def homes(world: World, y: float, front: int, garden: Garden) -> float:
    """A row of houses on lots some 28 m deep, with their street below (``front`` 1) or above (-1)."""
    depth = world.rng.uniform(26, 31)
    kerb = y + depth if front > 0 else y
    x = -world.rng.uniform(0, 14)
    while x < world.width:
        width = world.rng.uniform(14.5, 17.5)
        if abs(x + width / 2 - world.cross_street) > width / 2 + 5:
            lot = _Lot(world, x, width, kerb, front)
            _pave(lot)
            _add_pool(lot, garden)
            _build_house(lot)
            _furnish_roof(lot, garden)
            _furnish_yard(lot, garden)
            _plant(lot, garden)
        x += width
    back = kerb - front * depth
    add_fence(world, ((-2, back), (world.width + 2, back)))
    return y + depth


class _Lot:
    """Where a lot and its house are, in metres.

    Attributes:
        world: what to draw into.
        left: x of its left border.
        width: of the lot.
        middle: x of its centre line.
        front: 1 with the street below, -1 above.
        garage_side: 1 right of the house, -1 left.
        house_width: of the house.
        house_depth: of the house.
        centre: of the house, metres from the kerb.
        turn: of the house, radians.
        colour: of the roof.
        garage: x of the garage.
    """

    def __init__(self, world: World, left: float, width: float, kerb: float, front: int) -> None:
        """Place a house."""
        rng = world.rng
        self.world = world
        self.left = left
        self.width = width
        self.middle = left + width / 2
        self.front = front
        self._kerb = kerb
        self.garage_side = int(rng.choice((-1, 1)))
        self.house_width = width - rng.uniform(2.4, 3.6)
        self.house_depth = rng.uniform(8.5, 10.5)
        self.centre = rng.uniform(11.2, 12.4)
        self.turn = rng.normal(0, 0.03)
        self.colour: Colour = rng.uniform(0.8, 1.35) * world.look.roofs[rng.integers(len(world.look.roofs))]
        self.garage = self.middle + self.garage_side * (self.house_width / 2 - 3.2)

    def y(self, distance: float) -> float:
        """The y that is ``distance`` metres from the kerb."""
        return self._kerb - self.front * distance

    def box(self, left: float, right: float, near: float, far: float) -> Points:
        """A rectangle between two x and two distances from the kerb."""
        return box(left, min(self.y(near), self.y(far)), right, max(self.y(near), self.y(far)))


def _pave(lot: _Lot) -> None:
    """Draw drive, walk, patio, the ground between the houses, and the fences."""
    world = lot.world
    rng = world.rng
    drive = lot.box(lot.garage - 2.4, lot.garage + 2.4, -1.5, lot.centre - 3)
    world.area(drive, rng.uniform(0.8, 1.1) * CONCRETE, Label.BACKGROUND, (0.04, 0.04, 0.06))
    door = lot.middle - lot.garage_side * 2
    world.area(lot.box(door - 0.6, door + 0.6, 2, lot.centre), 0.9 * CONCRETE, Label.BACKGROUND)
    if world.chance(0.75):
        left = lot.middle - rng.uniform(2.5, lot.width / 2 - 1)
        right = lot.middle + rng.uniform(2.5, lot.width / 2 - 1)
        patio = lot.box(left, right, lot.centre, lot.centre + rng.uniform(7.5, 11))
        world.area(patio, rng.uniform(0.8, 1.1) * rgb(186, 152, 126), Label.BACKGROUND, (0.06, 0.1, 0.06))
    if world.chance(0.75):  # gravel and mulch between the houses, which nobody labels
        gap = lot.box(lot.left + 0.2, lot.left + lot.width - 0.2, lot.centre - 4.5, lot.centre + 5)
        world.area(gap, rng.uniform(0.7, 1.4) * rgb(112, 98, 80), Label.BACKGROUND, (0.16, 0.14, 0.08))
    for far in (lot.centre + 1, 27.0):
        add_fence(world, ((lot.left, lot.y(12.0)), (lot.left, lot.y(far))))


def _add_pool(lot: _Lot, garden: Garden) -> None:
    rng = lot.world.rng
    if lot.world.chance(garden.pool):
        x = lot.middle + rng.uniform(-2, 2)
        add_pool(lot.world, x, lot.y(lot.centre + 9.6), rng.uniform(2.9, 3.8), rng.normal(0, 0.25))


def _build_house(lot: _Lot) -> None:
    """Raise the ground, so that houses are a little above a flood, and draw the roof of house and garage."""
    world = lot.world
    rng = world.rng
    side, front = lot.garage_side, lot.front
    width, depth = lot.house_width, lot.house_depth
    window, u, v = world.axes(lot.middle, lot.y(lot.centre), 12)
    pad = np.exp(-((np.maximum(np.abs(u) - width / 2, 0) + np.maximum(np.abs(v) - depth / 2, 0)) ** 2) / 6)
    world.ground[window] += 0.3 * pad

    parts = [(0.0, 0.0, width, depth), (side * (width / 2 - 3.2), front * depth * 0.55, 6.4, 7.0)]
    if world.chance(0.6):
        parts.append((-side * rng.uniform(1.5, width / 2 - 2.5), -front * depth * 0.45, 5.0, 5.5))
    if world.chance(0.5):
        parts.append((-side * (width / 2 - 2.6), front * depth * 0.42, 4.4, 4.0))
    pitch = rng.uniform(0.45, 0.75)
    hip = world.chance(0.75)
    add_roof(world, lot.middle, lot.y(lot.centre), lot.turn, parts, lot.colour, pitch=pitch, hip=hip)


def _furnish_roof(lot: _Lot, garden: Garden) -> None:
    world = lot.world
    rng = world.rng
    if world.chance(garden.chimney):
        x = lot.middle + rng.uniform(-0.3, 0.3) * lot.house_width
        y = lot.y(lot.centre + rng.uniform(-2, 2.5))
        add_on_roof(world, x, y, lot.turn, (1.3, 1.0), rgb(138, 92, 76), Label.CHIMNEY, 1.4)
    if world.chance(garden.window):
        for shift in (-1.6, 1.6):
            x = lot.middle + shift + rng.uniform(-0.3, 0.3)
            add_on_roof(world, x, lot.y(lot.centre - 2.6), lot.turn, (1.1, 1.3), rgb(58, 78, 104), Label.WINDOW, 0.15)
    if world.chance(garden.solar):
        add_solar_panels(world, lot.middle - lot.garage_side * 1.0, lot.y(lot.centre + 2.5), lot.turn)
    if world.chance(garden.antenna):
        add_antenna(world, lot.middle + rng.uniform(-3, 3), lot.y(lot.centre + rng.uniform(-3, 3)))


def _furnish_yard(lot: _Lot, garden: Garden) -> None:
    world = lot.world
    rng = world.rng
    side = lot.garage_side
    if world.chance(garden.shed):
        colour = rng.uniform(0.6, 1.5) * rgb(150, 140, 128)
        x = lot.left + lot.width / 2 - side * (lot.width / 2 - 3)
        part = (0.0, 0.0, rng.uniform(3.6, 5.4), rng.uniform(3.0, 4.2))
        add_roof(world, x, lot.y(24.0), lot.turn, [part], colour, Label.SECONDARY, 2.2, 0.35, hip=False)
    if world.chance(garden.trampoline):
        add_trampoline(world, lot.middle + side * (lot.width / 2 - 3.4), lot.y(23.2))
    for shift in (-1.2, 1.2):
        if world.chance(garden.car):
            add_car(world, lot.garage + shift, lot.y(rng.uniform(1.5, 5)), np.pi / 2 + rng.normal(0, 0.05))
    if world.chance(garden.bins):
        add_bins(world, lot.garage + side * 3.2 - 1, lot.y(0.3))


def _plant(lot: _Lot, garden: Garden) -> None:
    """Add trees, and shrubs along the walls and fences."""
    world = lot.world
    rng = world.rng
    for distance, probability in (
        (0.8, 0.6), (2.5, 0.5), (5.0, 0.4), (19.5, 0.6), (22.5, 0.6), (25.0, 0.8), (26.5, 0.8),
    ):  # fmt: skip
        if not world.chance(garden.tree * probability):
            continue
        radius = rng.uniform(2.6, 5.6) * (0.85 if distance > 10 else 1)
        if distance < 10:  # not on the drive
            x = lot.middle - lot.garage_side * rng.uniform(0, lot.width / 2)
        else:
            x = lot.middle + rng.uniform(-0.5, 0.5) * lot.width
        add_tree(world, x, lot.y(distance + rng.uniform(-1, 1)), radius, world.crown())
    for _ in range(int(rng.integers(2, 7))):
        if world.chance(0.5):
            distance = lot.centre - lot.house_depth / 2 - rng.uniform(0.4, 1.2)
        else:
            distance = rng.uniform(19, 26)
        x = lot.middle + rng.uniform(-lot.width / 2, lot.width / 2)
        if abs(x - lot.garage) > 3.3:
            add_tree(world, x, lot.y(distance), rng.uniform(0.6, 1.1), world.crown())


def street(world: World, y: float, lights: bool = False, cars: float = 0.5, asphalt: bool = False) -> float:
    """A street about 8 m wide between verges and pavements."""
    rng = world.rng
    wide = rng.uniform(6.6, 8.6)
    colour = rng.uniform(0.85, 1.1) * (ASPHALT if asphalt else rgb(166, 162, 156))
    left, right = -3.0, world.width + 3
    for edge in (y + 0.2, y + wide + 3.6):
        world.area(box(left, edge, right, edge + 1.2), 0.95 * CONCRETE, Label.BACKGROUND)
    top, bottom = y + 2.5, y + 2.5 + wide
    world.street_lines.append([world.place(x, (top + bottom) / 2) for x in np.arange(left, right + 1, 4)])
    world.lower(box(left, top - 1, right, bottom + 1), 0.55)
    world.area(box(left, top, right, bottom), colour, Label.ROAD, (0.05, 0.05, 0.07))
    for lane in (0.28, 0.72):  # worn, darker wheel tracks
        track = box(left, top + wide * lane - 0.7, right, top + wide * lane + 0.7)
        world.area(track, 0.9 * colour, Label.ROAD, (0.05, 0.06, 0.09))
    if asphalt:
        step = rng.uniform(5.5, 8.5)
        for x in np.arange(left + rng.uniform(0, step), right, step):
            world.area(box(x, top + 3.9, x + 0.43 * step, top + 4.1), rgb(226, 190, 74), Label.ROAD)
    else:
        for x in np.arange(left + rng.uniform(0, 5), right, 5.5):  # joints of the concrete plates, tarred
            world.area(box(x, top, x + 0.16, bottom), 0.45 * colour, Label.ROAD)
        world.area(box(left, top + 3.95, right, top + 4.1), 0.5 * colour, Label.ROAD)
    for x in np.arange(rng.uniform(4, 16), world.width, 24):
        if lights:
            add_street_light(world, x, top - 0.8, np.pi / 2)
        if world.chance(cars):
            eastward = world.chance(0.5)
            lane = bottom - 1.4 if eastward else top + 1.4
            add_car(world, x + rng.uniform(3, 18), lane, 0.0 if eastward else np.pi)
    return y + wide + 5


def add_cross_street(world: World) -> None:
    """Draw a street along the whole strip."""
    x = world.cross_street = world.width * world.rng.uniform(0.3, 0.7)
    world.lower(box(x - 5, -10, x + 5, world.length + 10), 0.35)
    world.street_lines.append([world.place(x, y) for y in np.arange(-10, world.length + 11, 4)])
    half = world.rng.uniform(3.1, 4.1)
    for edge in (-half - 1.8, half + 0.8):
        world.area(box(x + edge, -10, x + edge + 1, world.length + 10), CONCRETE, Label.BACKGROUND)
    world.area(box(x - half, -10, x + half, world.length + 10), 1.1 * ASPHALT, Label.ROAD, (0.06, 0.05, 0.08))
    step = world.rng.uniform(5.5, 8.5)
    for y in np.arange(world.rng.uniform(0, step), world.length, step):
        world.area(box(x - 0.1, y, x + 0.1, y + 0.43 * step), rgb(226, 190, 74), Label.ROAD)


def grassland(world: World, y: float, deep: float, track: bool = False, sunk: float = 0.0) -> float:
    """Rough grass with mown stripes and clumps of trees.

    Args:
        world: what to draw into.
        y: where it begins.
        deep: metres along the strip.
        track: whether a dirt track crosses it.
        sunk: metres by which it is lower than the ground around it.
    """
    rng = world.rng
    window, inside = world.outline(box(-3, y, world.width + 3, y + deep))
    rows = np.arange(window[0].start, window[0].stop, dtype=np.float32)[:, None] / world.scale
    stripes = 1 + 0.07 * np.sin(rows * 2.1 + 0.6 * world.broad[window]) + 0.08 * world.patch[window]
    world.albedo[window] *= np.where(inside, stripes, 1)[..., None]
    if sunk:
        world.lower(box(-3, y, world.width + 3, y + deep), sunk)
    if track:
        for rut in (0.0, 1.7):
            world.area(box(-3, y + deep * 0.45 + rut, world.width + 3, y + deep * 0.45 + rut + 0.7),
                       SOIL, Label.BACKGROUND, (0.1, 0.1, 0.15))  # fmt: skip
    for _ in range(int(deep / 6)):
        x = rng.uniform(0, world.width)
        row = y + rng.uniform(2, deep - 2)
        for _ in range(int(rng.integers(1, 5))):  # in clumps
            crown = world.crown()
            add_tree(world, x + rng.normal(0, 3), row + rng.normal(0, 2), rng.uniform(1, 4), crown)
    return y + deep


def power_line(world: World, y: float) -> float:
    """Poles with cross-arms, and three wires along the strip's width."""
    poles = [(x, y + 2.5) for x in np.arange(-9.0, world.width + 30, 31)]
    for x, row in poles:
        window, u, v = world.axes(x, row, 2.2)
        inside = ((np.abs(u) < 0.16) & (np.abs(v) < 1.1)) | (np.hypot(u, v) < 0.3)
        paint = np.broadcast_to(rgb(116, 98, 80), (*u.shape, 3))
        add_pole_shadow(world, x, row, 9.0)
        world.put(window, inside, paint, Label.POWER_LINES, 2.5)
    for before, after in pairwise(poles):
        world.wires.append((world.place(*before), world.place(*after)))
    return y + 5


def river(world: World, y: float, deep: float, boats: tuple[float, ...] = ()) -> float:
    """Open water between sandy banks; a boat at each given part of the strip's width."""
    rng = world.rng
    left, right = -3.0, world.width + 3
    wiggle = [rng.uniform(0, 2 * np.pi) for _ in range(2)]

    def shore(row: float, phase: float) -> Points:
        return [(x, row + 1.6 * np.sin(x / 9 + phase) + 0.7 * np.sin(x / 3.7)) for x in np.arange(left, right + 3, 3)]

    banks = shore(y, wiggle[0] + 1) + shore(y + deep, wiggle[1] - 1)[::-1]
    world.area(banks, SAND, Label.BACKGROUND, (0.07, 0.08, 0.12))
    window, inside = world.outline(shore(y + 3.5, wiggle[0]) + shore(y + deep - 3.5, wiggle[1])[::-1])
    tint, pale = rgb(90, 114, 106), rgb(126, 143, 135)
    mix = np.clip(0.5 + 0.3 * world.broad[window], 0, 1)[..., None]
    ripples = world.texture(window, 0.015, 0.02, 0.02)[..., None]
    world.put(window, inside, (tint + (pale - tint) * mix) * ripples, Label.WATER, 0.0)
    for part in boats:
        add_boat(world, world.width * part, y + deep * rng.uniform(0.4, 0.6), rng.uniform(-0.5, 0.5))
    return y + deep


def forest(world: World, y: float, deep: float) -> float:
    """Closed woodland with a ragged edge."""
    rng = world.rng
    points = [(x, y + 2 * np.sin(x / 7) + 1) for x in np.arange(-3, world.width + 6, 3)]
    points += [(x, y + deep - 1 + 2 * np.sin(x / 5)) for x in np.arange(world.width + 3, -6, -3)]
    world.area(points, rgb(44, 58, 34), Label.FOREST, (0.2, 0.2, 0.1), top=1.0)
    for row in np.arange(y + 1.5, y + deep, 3.1):
        for x in np.arange(-1, world.width + 2, 3.3):
            crown = rng.uniform(0.5, 0.9) * world.crown()
            add_tree(world, x + rng.normal(0, 1), row + rng.normal(0, 1), rng.uniform(1.7, 3.0), crown, Label.FOREST)
    return y + deep


def bare_ground(world: World, y: float, deep: float) -> float:
    """Bare ground with tyre tracks and puddle stains: nothing that has a class."""
    rng = world.rng
    world.area(box(-5, y - 5, world.width + 5, y + deep + 5), SOIL, Label.BACKGROUND, (0.09, 0.09, 0.12))
    window, inside = world.outline(box(-5, y - 5, world.width + 5, y + deep + 5))
    stain = np.clip(world.broad[window] + 0.4 * world.patch[window], -1.2, 1.2)
    world.albedo[window] *= np.where(inside, 1 + 0.22 * stain, 1)[..., None]
    for row in np.arange(y, y + deep, 11):
        bow = rng.uniform(-0.3, 0.3)
        for rut in (0.0, 1.8):
            line = [(x, row + rut + bow * x) for x in (-5.0, world.width + 5)]
            track = [*line, *[(x, row + 0.5) for x, row in reversed(line)]]
            world.area(track, 0.8 * SOIL, Label.BACKGROUND, (0.12, 0.12, 0.15))
    return y + deep


def car_park(world: World, y: float) -> float:
    """A shop with a flat roof behind a car park with marked bays."""
    rng = world.rng
    deep = 46.0
    left, right = world.width * rng.uniform(0.08, 0.3), world.width * rng.uniform(0.75, 0.95)
    bay = rng.uniform(2.6, 3.3)
    world.area(box(left, y + 1, right, y + deep - 1), ASPHALT, Label.PARKING, (0.05, 0.05, 0.1))
    for row in (y + 25.0, y + 37.5):
        for x in np.arange(left + 2, right - 2, bay):
            world.area(box(x, row - 4.8, x + 0.16, row + 4.8), rgb(226, 226, 222), Label.PARKING)
            for shift in (-2.4, 2.4):
                if world.chance(0.4):
                    add_car(world, x + bay / 2, row + shift, np.pi / 2 * rng.choice((-1, 1)) + rng.normal(0, 0.04))
        world.area(box(left + 2, row - 0.1, right - 2, row + 0.1), rgb(226, 226, 222), Label.PARKING)
    for x in (left + 8, right - 9):
        add_tree(world, x, y + 31, 1.8, world.look.crowns[0])
    size = (0.0, 0.0, right - left - 3, rng.uniform(12.0, 15.5))
    middle = (left + right) / 2
    add_roof(world, middle, y + 10, 0.0, [size], rgb(176, 174, 170), Label.ROOF, wall=5.5, pitch=0.02)
    for _ in range(9):  # plant on the roof
        spot = (middle + rng.uniform(-0.4, 0.4) * (right - left), y + 10 + rng.uniform(-5, 5))
        add_on_roof(world, *spot, 0.0, (rng.uniform(1, 2.4), 1.4), rgb(150, 154, 158), Label.ROOF, 1.0)
    return y + deep


def sports_ground(world: World, y: float) -> float:
    """A running track round a pitch, and two tennis courts."""
    rng = world.rng
    deep = 44.0
    middle = world.width * 0.5
    window, u, v = world.axes(middle, y + deep / 2, 44)
    oval = np.hypot(np.maximum(np.abs(u) - 16, 0), v)
    line = rgb(232, 232, 228)
    track = np.where((np.mod(oval - 14, 1.2) < 0.14)[..., None], line, rgb(176, 84, 66))
    mown = np.where(np.mod(u, 7) < 3.5, 0.86, 1.12)[..., None] * rgb(86, 142, 66)
    to_goal_line = np.abs(np.abs(u) - 19) * (np.abs(v) < 11.2)
    to_side_line = np.abs(np.abs(v) - 11) * (np.abs(u) < 19.2)
    marks = ((np.abs(u) < 19.2) & (np.abs(v) < 11.2)) & ((to_goal_line < 0.16) | (to_side_line < 0.16))
    marks |= (np.abs(np.hypot(u, v) - 4) < 0.16) | ((np.abs(u) < 0.16) & (np.abs(v) < 11))
    grass = np.where(marks[..., None], line, mown)
    paint = np.where((oval > 14)[..., None], track, grass) * world.texture(window, 0.06, 0.06, 0.05)[..., None]
    world.put(window, oval < 19, paint.astype(np.float32), Label.SPORTS, 0.0)
    for shift in (-0.42, 0.42):
        x = middle + shift * world.width
        court = rgb(52, 104, 148)
        world.area(box(x - 6, y + 8, x + 6, y + 34), rgb(66, 120, 84), Label.SPORTS)
        world.area(box(x - 4, y + 10, x + 4, y + 32), court, Label.SPORTS)
        for edge in (y + 10, y + 21, y + 31.8):
            world.area(box(x - 4, edge, x + 4, edge + 0.2), rgb(232, 232, 228), Label.SPORTS)
        for edge in (-4.0, -0.1, 3.8):
            world.area(box(x + edge, y + 10, x + edge + 0.2, y + 32), rgb(232, 232, 228), Label.SPORTS)
    for _ in range(6):
        crown = world.crown()
        add_tree(world, rng.uniform(0, world.width), y + deep - 1, rng.uniform(1.5, 2.8), crown)
    return y + deep


def industrial_yard(world: World, y: float) -> float:
    """Halls with ribbed metal roofs and stacked containers on a stained yard, with tanks next to it."""
    rng = world.rng
    deep = 44.0
    left, right = world.width * 0.22, world.width * 0.85
    world.area(box(left, y + 1, right, y + deep - 1), rgb(170, 160, 146), Label.INDUSTRIAL, (0.07, 0.08, 0.16))
    for shift in (0.16, 0.42):
        x = left + (right - left) * (shift + 0.06)
        window, u, v = world.axes(x, y + 16, 16)
        inside = (np.abs(u) < 7) & (np.abs(v) < 12)
        ribs = 1 + 0.12 * np.sin(v * 5.2)
        colour = rgb(150, 168, 182) if shift < 0.2 else rgb(176, 128, 104)
        paint = (ribs * world.texture(window, 0.03, 0.03, 0.07))[..., None] * colour
        world.put(window, inside, paint, Label.INDUSTRIAL, 5 + 0.15 * (7 - np.abs(u)))
    stacks = (rgb(170, 70, 50), rgb(50, 90, 140), rgb(190, 150, 60), rgb(90, 120, 90))
    for index in range(12):
        x = left + 8 + 6.6 * (index % 6)
        row = y + 34 + 4 * (index // 6)
        if x < right - 4:
            container = box(x, row, x + 6, row + 2.4)
            world.area(container, stacks[rng.integers(4)], Label.INDUSTRIAL, (0.05, 0.06, 0.04), top=2.6)
    for part in (0.68, 0.88):
        add_tank(world, left + (right - left) * part, y + 15, 5.0)
    return y + deep


def building_site(world: World, y: float) -> float:
    """Graded soil with slabs, one house in bare timber, and heaps."""
    rng = world.rng
    deep = 30.0
    left, right = world.width * 0.28, world.width * 0.72
    world.lower(box(left, y, right, y + deep), -0.6)
    world.area(box(left, y + 1, right, y + deep - 1), rgb(184, 142, 104), Label.CONSTRUCTION, (0.09, 0.12, 0.14))
    slab = box(left + 3, y + 6, left + 15, y + 18)
    world.area(slab, rgb(206, 204, 198), Label.CONSTRUCTION, (0.04, 0.03, 0.04), top=0.3)
    window, u, v = world.axes(right - 9, y + 13, 10)
    inside = (np.abs(u) < 6) & (np.abs(v) < 5.5)
    timber = (np.mod(u, 1.3) < 0.35) | (np.abs(v) < 0.25) | (np.abs(np.abs(v) - 5.3) < 0.25)
    beams = np.where(timber[..., None], rgb(222, 186, 134), rgb(128, 104, 80))
    beams = beams * world.texture(window, 0.08, 0.08, 0)[..., None]
    top = np.where(timber, 3 + 0.4 * (5.5 - np.abs(v)), np.float32(0.3))
    world.put(window, inside, beams.astype(np.float32), Label.CONSTRUCTION, top.astype(np.float32))
    for _ in range(5):
        spot = (rng.uniform(left + 3, right - 3), y + rng.uniform(21, 26))
        window, u, v = world.axes(*spot, 3)
        mound = 1.4 - 0.6 * np.hypot(u, v) + 0.15 * world.grain[window]
        paint = world.texture(window, 0.1, 0.15, 0.1)[..., None] * rgb(170, 122, 84)
        world.put(window, mound > 0, paint, Label.CONSTRUCTION, mound)
    return y + deep
