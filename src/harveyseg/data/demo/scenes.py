"""A seeded generator of drone photographs with exact masks: the pipeline's data source where no real ones are at hand.

Every flight strip is one drawn world, in metres, of three layers: reflectance, height above ground, and class. A sun
lights the height map (Lambert shading, cast shadows, ambient occlusion), so roofs, crowns and cars take their shape and
their shadows from geometry rather than from paint. A flood is a water level over a terrain. The frames of a strip are
windows moved along its world by a part of their height, so that neighbouring ids show the same houses, as in the real
set. Photo and mask are cut out of the same layers by the same transform, at twice the final resolution: the photo is
averaged, the mask takes the majority, and the two are registered exactly.

What the set keeps of the real one: the folder layout, the range of ids and their gaps, two portrait sizes of two
flights of which the second is mostly flooded, the imbalance of the classes and what they stand on, unlabelled strips at
some borders, one frame without any label, and rare classes that only one strip holds.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import Field

from harveyseg.classes import N_CLASSES
from harveyseg.config.settings import Section
from harveyseg.files import atomic

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
Bools = npt.NDArray[np.bool_]
Window = tuple[slice, slice]
Heights = npt.NDArray[np.floating[Any]]
Colour = Floats  # linear reflectance of red, green and blue, shape (3,)
Points = list[tuple[float, float]]

(
    BACKGROUND, ROOF, SECONDARY, POOL, VEHICLE, GRASS, TREES, SOLAR, CHIMNEY, STREET_LIGHT, WINDOW, ANTENNA, BINS,
    TRAMPOLINE, ROAD, CONSTRUCTION, POWER_LINES, TANK, PARKING, SPORTS, INDUSTRIAL, FOREST, WATER, FLOODED, BOAT,
) = range(N_CLASSES)  # fmt: skip

FRAME_METRES = 64.0
"""Ground width of a frame at zoom 1."""

ADVANCE = 0.44
"""How far a frame lies from the one before, as a part of its height: neighbours share a little over half."""

JPEG_QUALITY = 90


class DemoParams(Section):
    """How many photographs to draw, how large, and from which seed.

    Attributes:
        train: photographs with masks for training. From 30 on, all 25 classes are among them.
        test: photographs for testing, from the same strips; their masks are written, too.
        seed: the same seed gives the same files, byte for byte (with the same versions of numpy and OpenCV).
        width: width in pixels of the first flight's photos, which are 3:4; the second flight's are 307:459 and as much
            wider as in the real set. Objects scale with it.
    """

    train: int = Field(default=36, ge=8, le=2000)
    test: int = Field(default=12, ge=1, le=2000)
    seed: int = Field(default=0, ge=0)
    width: int = Field(default=300, ge=96, le=600)


def _rgb(red: float, green: float, blue: float) -> Colour:
    """Linear reflectance of a display colour 0..255, with the display's gamma taken as 2."""
    return np.square(np.array((red / 255, green / 255, blue / 255), np.float32))


def _noise(rng: np.random.Generator, shape: tuple[int, int], cell: float) -> Floats:
    """Smooth noise of about zero mean and unit variance whose features are ``cell`` pixels wide; float32 (H, W)."""
    if cell <= 1:
        return rng.standard_normal(shape, dtype=np.float32)
    height, width = int(np.ceil(shape[0] / cell)) + 1, int(np.ceil(shape[1] / cell)) + 1
    grid = rng.standard_normal((height, width), dtype=np.float32)
    size = (int(np.ceil(width * cell)), int(np.ceil(height * cell)))
    smooth = cv2.resize(grid, size, interpolation=cv2.INTER_CUBIC)
    return np.ascontiguousarray(smooth[: shape[0], : shape[1]]) * np.float32(1.35)


@dataclass(frozen=True)
class _Look:
    """A flight's light, season and camera.

    Attributes:
        grass: lush and dry colour of lawns.
        crowns: colours of tree crowns.
        roofs: colours of roofs.
        azimuth: direction towards the sun, radians in image axes.
        elevation: the sun's height, radians.
        sun: colour of direct light.
        sky: colour of diffuse light.
        haze: part of the light that is veil rather than ground.
    """

    grass: tuple[Colour, Colour]
    crowns: tuple[Colour, ...]
    roofs: tuple[Colour, ...]
    azimuth: float
    elevation: float
    sun: tuple[float, float, float]
    sky: tuple[float, float, float]
    haze: float


CONCRETE = _rgb(188, 180, 168)
ASPHALT = _rgb(118, 118, 122)
SOIL = _rgb(148, 122, 96)
SAND = _rgb(196, 166, 130)
FENCE = _rgb(126, 106, 86)
CARS = (
    _rgb(232, 232, 234), _rgb(225, 226, 228), _rgb(168, 172, 178), _rgb(60, 62, 68), _rgb(34, 36, 42),
    _rgb(150, 28, 30), _rgb(40, 66, 120), _rgb(112, 100, 84),
)  # fmt: skip
GLASS = _rgb(36, 44, 54)


class _World:
    """The ground of one strip: reflectance, height, class and terrain, drawn in metres at twice the final resolution.

    x runs across the strip and y along it. Everything drawn follows a gentle bend, so that streets curve and houses
    turn with them.

    Attributes:
        albedo: linear reflectance, float32 (H, W, 3).
        height: metres above ground, float32 (H, W).
        ground: metres of terrain, float32 (H, W); only a flood looks at it.
        label: class ids, uint8 (H, W).
        wires: power lines as pairs of pixel positions.
    """

    def __init__(self, rng: np.random.Generator, look: _Look, width: float, length: float, scale: float) -> None:
        """Lay a lawn of ``width`` x ``length`` metres at ``scale`` pixels per metre."""
        self.rng = rng
        self.look = look
        self.width = width
        self.length = length
        self.scale = scale
        shape = (round(length * scale), round(width * scale))
        self.fine = _noise(rng, shape, 1.0)
        self.grain = _noise(rng, shape, 0.42 * scale)
        self.patch = _noise(rng, shape, 2.6 * scale)
        self.broad = _noise(rng, shape, 17 * scale)
        self.ground = 0.3 * self.broad + 0.03 * self.patch
        self.height = np.zeros(shape, np.float32)
        self.label = np.full(shape, GRASS, np.uint8)
        self.wires: list[tuple[tuple[float, float], tuple[float, float]]] = []
        self._bend = (rng.uniform(2, 4.5), rng.uniform(80, 130), rng.uniform(0, 2 * np.pi))
        self.cross_street = -100.0

        dry = np.clip(0.45 + 0.3 * self.broad + 0.13 * self.patch + 0.08 * self.grain, 0, 1)[..., None]
        lush, parched = (np.array(colour, np.float32) for colour in look.grass)
        self.albedo = lush + (parched - lush) * dry
        self.albedo *= (1 + 0.13 * self.fine + 0.07 * self.grain + 0.05 * self.patch)[..., None]

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Pixel position (column, row) of a point in metres, after the bend."""
        size, wavelength, phase = self._bend
        return x * self.scale, (y + size * np.sin(2 * np.pi * x / wavelength + phase)) * self.scale

    def slope(self, x: float) -> float:
        """Angle, in radians, by which the bend turns things at ``x``."""
        size, wavelength, phase = self._bend
        return float(np.arctan(size * 2 * np.pi / wavelength * np.cos(2 * np.pi * x / wavelength + phase)))

    def outline(self, points: Points, margin: float = 0.0) -> tuple[Window, Bools]:
        """The window around a polygon given in metres, widened by ``margin`` metres, and the polygon's inside in it."""
        corners = []
        for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1], strict=True):
            steps = max(1, int(abs(x1 - x0) / 4))  # long edges follow the bend
            corners += [self.place(x0 + (x1 - x0) * i / steps, y0 + (y1 - y0) * i / steps) for i in range(steps)]
        positions = np.array(corners)
        spare = margin * self.scale
        window = self._window(*(positions.min(axis=0) - spare), *(positions.max(axis=0) + spare))
        rows, columns = window
        inside = np.zeros((rows.stop - rows.start, columns.stop - columns.start), np.uint8)
        if inside.size:
            shifted = (positions - (columns.start, rows.start)) * 16
            cv2.fillPoly(inside, [np.round(shifted).astype(np.int32)], 1, shift=4)
        return window, inside.astype(bool)

    def _window(self, left: float, top: float, right: float, bottom: float) -> Window:
        height, width = self.label.shape
        columns = slice(min(max(int(left), 0), width), min(max(int(right) + 2, 0), width))
        rows = slice(min(max(int(top), 0), height), min(max(int(bottom) + 2, 0), height))
        return rows, columns

    def axes(self, x: float, y: float, reach: float, angle: float = 0.0) -> tuple[Window, Floats, Floats]:
        """The window within ``reach`` metres of a point, and the coordinates u, v in metres along an object's axes."""
        column, row = self.place(x, y)
        span = reach * self.scale
        rows, columns = self._window(column - span, row - span, column + span, row + span)
        across = ((np.arange(columns.start, columns.stop) + 0.5 - column) / self.scale).astype(np.float32)[None]
        down = ((np.arange(rows.start, rows.stop) + 0.5 - row) / self.scale).astype(np.float32)[:, None]
        turn = angle + self.slope(x)
        cosine, sine = np.float32(np.cos(turn)), np.float32(np.sin(turn))
        return (rows, columns), across * cosine + down * sine, down * cosine - across * sine

    def texture(self, window: Window, fine: float, grain: float, patch: float) -> Floats:
        """Brightness factor of a rough surface: the three noise fields by their amplitudes."""
        rough = fine * self.fine[window] + grain * self.grain[window] + patch * self.patch[window]
        return np.asarray(1 + rough, np.float32)

    def put(self, window: Window, inside: Bools, paint: Floats, label: int, top: Heights | float) -> None:
        """Cover ``inside`` with ``paint`` (h, w, 3) where the thing's ``top`` is not below what stands there."""
        inside = inside & (top >= self.height[window])
        np.copyto(self.albedo[window], paint, where=inside[..., None])
        np.copyto(self.height[window], np.asarray(top, np.float32), where=inside)
        self.label[window][inside] = label

    def area(
        self,
        points: Points,
        colour: Colour,
        label: int,
        rough: tuple[float, float, float] = (0.06, 0.05, 0.05),
        top: float = 0.0,
    ) -> None:
        """Cover a polygon given in metres with one rough material."""
        window, inside = self.outline(points)
        self.put(window, inside, self.texture(window, *rough)[..., None] * colour, label, top)

    @staticmethod
    def box(left: float, top: float, right: float, bottom: float) -> Points:
        """The corners of a rectangle in metres."""
        return [(left, top), (right, top), (right, bottom), (left, bottom)]

    def lower(self, points: Points, metres: float) -> None:
        """Sink the terrain under a polygon (or raise it, by a negative amount), with banks 3 m wide."""
        window, inside = self.outline(points, margin=3)
        if inside.size:
            kernel = round(3 * self.scale)
            self.ground[window] -= metres * cv2.blur(inside.astype(np.float32), (kernel, kernel))


def _chance(world: _World, probability: float) -> bool:
    return bool(world.rng.random() < probability)


# ---------------------------------------------------------------------------------------------------- single objects


def _roof(
    world: _World,
    x: float,
    y: float,
    angle: float,
    parts: list[tuple[float, float, float, float]],
    colour: Colour,
    label: int = ROOF,
    wall: float = 3.0,
    pitch: float = 0.5,
    hip: bool = True,
) -> None:
    """A roof over the union of rectangles (du, dv, width, depth): the highest slope wins, which makes the valleys."""
    reach = max(np.hypot(abs(du) + width / 2, abs(dv) + depth / 2) for du, dv, width, depth in parts)
    window, u, v = world.axes(x, y, float(reach) + 0.5, angle)
    top = np.full(u.shape, -1, np.float32)
    for du, dv, width, depth in parts:
        beside, before = width / 2 - np.abs(u - du), depth / 2 - np.abs(v - dv)
        edge = np.minimum(beside, before)
        rise = edge if hip else (before if width >= depth else beside)
        top = np.maximum(top, np.where(edge > 0, wall + pitch * rise, -1))
    courses = world.rng.uniform(0.9, 1.08, 97).astype(np.float32)[(top * 5.5).astype(np.int32) % 97]  # of shingles
    paint = (courses * world.texture(window, 0.07, 0.05, 0.07))[..., None] * colour
    world.put(window, top > 0, paint, label, top)


def _on_roof(
    world: _World, x: float, y: float, angle: float, size: tuple[float, float], colour: Colour, label: int, rise: float
) -> None:
    """A rectangle that stands ``rise`` metres above the roof below it."""
    window, u, v = world.axes(x, y, max(size), angle)
    inside = (np.abs(u) < size[0] / 2) & (np.abs(v) < size[1] / 2) & (world.label[window] == ROOF)
    paint = world.texture(window, 0.08, 0.08, 0)[..., None] * colour
    world.put(window, inside, paint, label, world.height[window] + rise)


def _solar(world: _World, x: float, y: float, angle: float) -> None:
    """Two or three rows of dark panels with pale frames."""
    window, u, v = world.axes(x, y, 4, angle)
    inside = (np.abs(u) < 2.7) & (np.abs(v) < 1.7) & (world.label[window] == ROOF)
    frame = (np.mod(u + 2.7, 0.9) < 0.13) | (np.mod(v + 1.7, 1.7) < 0.13)
    paint = np.where(frame[..., None], _rgb(120, 130, 146), _rgb(26, 36, 72))
    world.put(
        window, inside, paint * world.texture(window, 0.05, 0.04, 0)[..., None], SOLAR, world.height[window] + 0.2
    )


def _antenna(world: _World, x: float, y: float) -> None:
    """A white dish with a dark feed."""
    window, u, v = world.axes(x, y, 1)
    distance = np.hypot(u, v)
    paint = np.where((np.hypot(u - 0.12, v) < 0.16)[..., None], _rgb(80, 80, 80), np.float32(0.9))
    inside = (distance < 0.5) & (world.label[window] == ROOF)
    world.put(window, inside, paint, ANTENNA, world.height[window] + 0.6)


def _tree(world: _World, x: float, y: float, radius: float, colour: Colour, label: int = TREES) -> None:
    """A crown of a dozen overlapping leafy domes."""
    rng = world.rng
    window, u, v = world.axes(x, y, radius * 1.15)
    if not u.size:
        return
    count = int(np.clip(3.2 * radius, 4, 15))
    offset = radius * 0.66 * np.sqrt(rng.random(count))
    bearing = rng.uniform(0, 2 * np.pi, count)
    domes = (radius * rng.uniform(0.32, 0.5, count)).astype(np.float32)
    centre_u = (offset * np.cos(bearing)).astype(np.float32)
    centre_v = (offset * np.sin(bearing)).astype(np.float32)
    base = 1.3 * radius * (1 - 0.5 * (offset / radius) ** 2) + rng.uniform(-0.25, 0.25, count) * radius
    ragged = 1 + 0.13 * world.grain[window]
    top = np.full(u.shape, -1, np.float32)
    tone = np.ones(u.shape, np.float32)
    for index in range(count):
        dome = domes[index] ** 2 - ragged * ((u - centre_u[index]) ** 2 + (v - centre_v[index]) ** 2)
        surface = np.where(dome > 0, np.float32(base[index]) + np.sqrt(np.maximum(dome, 0)), -1)
        tone[surface > top] = rng.uniform(0.8, 1.2)
        top = np.maximum(top, surface)
    inside = top > 0
    leaves = np.float32(0.2 * min(radius, 2.5))
    top += np.where(inside, leaves * world.grain[window] + 0.12 * world.fine[window], 0)
    paint = (tone * world.texture(window, 0.14, 0.16, 0.1))[..., None] * colour
    world.put(window, inside, np.maximum(paint, 0.002), label, top)


def _car(world: _World, x: float, y: float, angle: float, label: int = VEHICLE) -> None:
    """A saloon, or now and then a pick-up: body, cabin, windscreen and rear window."""
    colour = CARS[world.rng.integers(len(CARS))]
    length = world.rng.uniform(2.2, 2.7)
    window, u, v = world.axes(x, y, 3.2, angle)
    inside = (np.abs(u) / length) ** 4 + (np.abs(v) / 0.98) ** 4 < 1
    cabin = (np.abs(u + 0.25) < 1.25) & (np.abs(v) < 0.82)
    screen = (np.abs(v) < 0.84) & (((u > 0.55) & (u < 1.2)) | ((u > -1.85) & (u < -1.35)))
    if _chance(world, 0.25):  # a pick-up's bed
        screen |= (u < -0.8) & (np.abs(v) < 0.72) & (u > -length + 0.25)
    paint = np.where(screen[..., None], GLASS, colour)
    paint = paint * world.texture(window, 0.04, 0.03, 0)[..., None]
    world.put(window, inside, paint, label, np.where(cabin, np.float32(1.5), np.float32(1.0)))


def _boat(world: _World, x: float, y: float, angle: float) -> None:
    """A white hull with a pointed bow, a deck, a cabin, and a wake."""
    window, u, v = world.axes(x, y, 14, angle)
    wake = (u < -2.5) & (np.abs(np.abs(v) - 0.25 * (-u - 2)) < 0.35) & (world.label[window] == WATER)
    brighter = np.exp(u / 5) * 0.25 * (1 + 0.4 * world.grain[window])
    world.albedo[window] += np.where(wake, brighter, 0)[..., None].astype(np.float32)
    beam = 1.25 * np.clip(1 - ((u - 0.5) / 3.1) ** 4, 0, 1) * np.where(u > 0.5, 1 - (u - 0.5) / 3.0, 1)
    inside = (np.abs(u) < 3.2) & (np.abs(v) < beam)
    deck = (np.abs(u + 0.6) < 1.7) & (np.abs(v) < 0.7)
    cabin = (np.abs(u - 0.1) < 0.55) & (np.abs(v) < 0.6)
    paint = np.where(deck[..., None], _rgb(176, 140, 100), _rgb(240, 240, 238))
    paint = np.where(cabin[..., None], GLASS, paint)
    world.put(window, inside, paint, BOAT, np.where(cabin, np.float32(1.6), np.float32(0.8)))


def _pool(world: _World, x: float, y: float, size: float, angle: float) -> None:
    """A kidney or rectangle of clear water in a pale coping and a paved deck."""
    rng = world.rng
    window, u, v = world.axes(x, y, size * 1.6 + 2, angle)
    if _chance(world, 0.6):
        lobe = rng.uniform(0.5, 0.8) * size
        first = np.hypot((u + 0.45 * size) / 0.95, v) - 0.62 * size
        second = np.hypot(u - 0.5 * size, v - 0.2 * size) - 0.62 * lobe
        edge = np.minimum(np.minimum(first, second), np.hypot(u / 1.9, v) - 0.42 * size)
    else:
        edge = np.maximum(np.abs(u) - size, np.abs(v) - 0.52 * size)
    stone = rng.uniform(0.75, 1.1)
    world.put(
        window,
        edge < 1.1,
        world.texture(window, 0.05, 0.07, 0.04)[..., None] * stone * _rgb(198, 172, 146),
        BACKGROUND,
        0.0,
    )
    coping = np.broadcast_to(_rgb(222, 214, 204), (*edge.shape, 3))
    world.put(window, edge < 0.35, coping, BACKGROUND, 0.0)
    depth = np.clip(-edge / (0.5 * size), 0, 1)[..., None]
    caustics = (1 + 0.1 * np.abs(world.grain[window]) + 0.05 * world.fine[window])[..., None]
    shallow, deep = _rgb(132, 214, 222), _rgb(40, rng.uniform(128, 158), rng.uniform(176, 200))
    world.put(window, edge < 0, (shallow + (deep - shallow) * depth) * caustics, POOL, 0.0)


def _trampoline(world: _World, x: float, y: float) -> None:
    window, u, v = world.axes(x, y, 2.4)
    distance = np.hypot(u, v)
    rim = _rgb(44, 86, 178) if _chance(world, 0.6) else _rgb(52, 140, 84)
    paint = np.where((distance > 1.55)[..., None], rim, _rgb(38, 38, 42))
    world.put(window, distance < 2.0, paint * world.texture(window, 0.06, 0.05, 0)[..., None], TRAMPOLINE, 0.9)


def _pole_shadow(world: _World, x: float, y: float, tall: float) -> None:
    """The thin shadow of a mast. Drawn, since the height map would take a mast's arm for a wall."""
    away = world.look.azimuth + np.pi - world.slope(x)
    reach = tall / float(np.tan(world.look.elevation))
    window, u, v = world.axes(x, y, reach, away)
    shaded = (u > 0) & (u < reach) & (np.abs(v) < 0.13)
    world.albedo[window] *= np.where(shaded, 0.45, 1)[..., None].astype(np.float32)


def _street_light(world: _World, x: float, y: float, angle: float) -> None:
    """A mast with an arm that reaches over the road and a bright lamp at its end."""
    window, u, v = world.axes(x, y, 3.6, angle)
    arm = (u > -0.25) & (u < 2.9) & (np.abs(v) < 0.2)
    lamp = (np.abs(u - 2.7) < 0.5) & (np.abs(v) < 0.34)
    paint = np.where(lamp[..., None], _rgb(236, 236, 230), _rgb(150, 152, 154))
    _pole_shadow(world, x, y, 6.5)
    world.put(window, arm | lamp, paint, STREET_LIGHT, 1.2)


def _bins(world: _World, x: float, y: float) -> None:
    """Two or three wheeled bins in a row at the kerb."""
    colours = (_rgb(34, 62, 44), _rgb(36, 38, 40), _rgb(42, 70, 128))
    for index in range(int(world.rng.integers(2, 4))):
        window, u, v = world.axes(
            x + 1.05 * index, y + world.rng.uniform(-0.15, 0.15), 0.9, world.rng.uniform(-0.2, 0.2)
        )
        inside = (np.abs(u) < 0.45) & (np.abs(v) < 0.5)
        paint = np.where((v < -0.28)[..., None], np.float32(0.02), np.float32(colours[index]))
        world.put(window, inside, paint, BINS, 1.1)


def _tank(world: _World, x: float, y: float, radius: float) -> None:
    """A white cylinder with a low cone, seams and a rusty edge."""
    window, u, v = world.axes(x, y, radius + 0.5)
    distance = np.hypot(u, v)
    seams = (np.mod(np.arctan2(v, u) * 6 / np.pi, 1) < 0.06) | (np.abs(distance - 0.6 * radius) < 0.1)
    paint = np.where(seams[..., None], _rgb(168, 160, 150), _rgb(216, 214, 208))
    paint = np.where((distance > radius - 0.35)[..., None], _rgb(150, 112, 86), paint)
    paint = paint * world.texture(window, 0.03, 0.03, 0.05)[..., None]
    world.put(window, distance < radius, paint, TANK, 6 + 0.18 * (radius - distance))


def _fence(world: _World, points: tuple[tuple[float, float], tuple[float, float]]) -> None:
    """A board fence between two points."""
    (x0, y0), (x1, y1) = points
    dx, dy = (0.0, 0.11) if abs(x1 - x0) > abs(y1 - y0) else (0.11, 0.0)
    ring = [(x0 - dx, y0 - dy), (x1 - dx, y1 - dy), (x1 + dx, y1 + dy), (x0 + dx, y0 + dy)]
    world.area(ring, FENCE, BACKGROUND, (0.12, 0.1, 0.05), top=1.4)


# ------------------------------------------------------------------------------------------------------------- bands
# A band draws what lies between y and the y it returns, over the whole width of the strip.

Band = Callable[[_World, float], float]


@dataclass(frozen=True)
class _Garden:
    """How probable each thing is on a lot."""

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


def _homes(world: _World, y: float, front: int, garden: _Garden) -> float:
    """A row of houses on lots 27 m deep, their street below (``front`` 1) or above (-1)."""
    depth = 27.0
    kerb = y + depth if front > 0 else y
    x = -world.rng.uniform(0, 14)
    while x < world.width:
        lot = world.rng.uniform(14.5, 17.5)
        if abs(x + lot / 2 - world.cross_street) > lot / 2 + 5:
            _lot(world, x, lot, kerb, front, garden)
        x += lot
    back = kerb - front * depth
    _fence(world, ((-2, back), (world.width + 2, back)))
    return y + depth


def _lot(world: _World, x: float, lot: float, kerb: float, front: int, garden: _Garden) -> None:
    """One house with its drive, yard and what stands in them. ``s`` below is the distance from the kerb in metres."""
    rng = world.rng

    def at(s: float) -> float:
        return kerb - front * s

    side = int(rng.choice((-1, 1)))  # of the garage
    middle = x + lot / 2
    width, depth = lot - rng.uniform(2.4, 3.6), rng.uniform(8.5, 10.5)
    centre = rng.uniform(11.2, 12.4)
    turn = rng.normal(0, 0.03)
    colour = rng.uniform(0.8, 1.35) * world.look.roofs[rng.integers(len(world.look.roofs))]
    garage = middle + side * (width / 2 - 3.2)

    drive = world.box(garage - 2.4, min(at(-1.5), at(centre - 3)), garage + 2.4, max(at(-1.5), at(centre - 3)))
    world.area(drive, rng.uniform(0.8, 1.1) * CONCRETE, BACKGROUND, (0.04, 0.04, 0.06))
    walk = world.box(middle - side * 2 - 0.6, min(at(2), at(centre)), middle - side * 2 + 0.6, max(at(2), at(centre)))
    world.area(walk, 0.9 * CONCRETE, BACKGROUND)
    if _chance(world, 0.75):
        left, right = middle - rng.uniform(2.5, lot / 2 - 1), middle + rng.uniform(2.5, lot / 2 - 1)
        far = centre + rng.uniform(7.5, 11)
        patio = world.box(left, min(at(centre), at(far)), right, max(at(centre), at(far)))
        world.area(patio, rng.uniform(0.8, 1.1) * _rgb(186, 152, 126), BACKGROUND, (0.06, 0.1, 0.06))
    beside = world.box(
        x + 0.2, min(at(centre - 4.5), at(centre + 5)), x + lot - 0.2, max(at(centre - 4.5), at(centre + 5))
    )
    if _chance(world, 0.75):  # gravel and mulch between the houses, which nobody labels
        world.area(beside, rng.uniform(0.7, 1.4) * _rgb(112, 98, 80), BACKGROUND, (0.16, 0.14, 0.08))
    for s in (centre + 1, 27.0):
        _fence(world, ((x, at(12.0)), (x, at(s))))

    if _chance(world, garden.pool):
        _pool(world, middle + rng.uniform(-2, 2), at(centre + 9.6), rng.uniform(2.9, 3.8), rng.normal(0, 0.25))
    window, u, v = world.axes(middle, at(centre), 12)
    pad = np.exp(-((np.maximum(np.abs(u) - width / 2, 0) + np.maximum(np.abs(v) - depth / 2, 0)) ** 2) / 6)
    world.ground[window] += 0.3 * pad  # houses stand a little higher

    parts = [(0.0, 0.0, width, depth), (side * (width / 2 - 3.2), front * depth * 0.55, 6.4, 7.0)]
    if _chance(world, 0.6):
        parts.append((-side * rng.uniform(1.5, width / 2 - 2.5), -front * depth * 0.45, 5.0, 5.5))
    if _chance(world, 0.5):
        parts.append((-side * (width / 2 - 2.6), front * depth * 0.42, 4.4, 4.0))
    pitch = rng.uniform(0.45, 0.75)
    _roof(world, middle, at(centre), turn, parts, colour, pitch=pitch, hip=_chance(world, 0.75))
    if _chance(world, garden.chimney):
        place = (middle + rng.uniform(-0.3, 0.3) * width, at(centre + rng.uniform(-2, 2.5)))
        _on_roof(world, *place, turn, (1.3, 1.0), _rgb(138, 92, 76), CHIMNEY, 1.4)
    if _chance(world, garden.window):
        for shift in (-1.6, 1.6):
            place = (middle + shift + rng.uniform(-0.3, 0.3), at(centre - 2.6))
            _on_roof(world, *place, turn, (1.1, 1.3), _rgb(58, 78, 104), WINDOW, 0.15)
    if _chance(world, garden.solar):
        _solar(world, middle - side * 1.0, at(centre + 2.5), turn)
    if _chance(world, garden.antenna):
        _antenna(world, middle + rng.uniform(-3, 3), at(centre + rng.uniform(-3, 3)))
    if _chance(world, garden.shed):
        shade = rng.uniform(0.6, 1.5) * _rgb(150, 140, 128)
        size = (0.0, 0.0, rng.uniform(3.6, 5.4), rng.uniform(3.0, 4.2))
        _roof(world, x + lot / 2 - side * (lot / 2 - 3), at(24.0), turn, [size], shade, SECONDARY, 2.2, 0.35, hip=False)
    if _chance(world, garden.trampoline):
        _trampoline(world, middle + side * (lot / 2 - 3.4), at(23.2))
    for shift in (-1.2, 1.2):
        if _chance(world, garden.car):
            _car(world, garage + shift, at(rng.uniform(1.5, 5)), np.pi / 2 + rng.normal(0, 0.05))
    if _chance(world, garden.bins):
        _bins(world, garage + side * 3.2 - 1, at(0.3))

    crowns = world.look.crowns
    for s, probability in ((0.8, 0.6), (2.5, 0.5), (5.0, 0.4), (19.5, 0.6), (22.5, 0.6), (25.0, 0.8), (26.5, 0.8)):
        if _chance(world, garden.tree * probability):
            radius = rng.uniform(2.6, 5.6) * (0.85 if s > 10 else 1)
            away = middle - side * rng.uniform(0, lot / 2) if s < 10 else middle + rng.uniform(-0.5, 0.5) * lot
            _tree(world, away, at(s + rng.uniform(-1, 1)), radius, crowns[rng.integers(len(crowns))])
    for _ in range(int(rng.integers(2, 7))):  # shrubs along the walls and fences
        s = centre - depth / 2 - rng.uniform(0.4, 1.2) if _chance(world, 0.5) else rng.uniform(19, 26)
        shrub = middle + rng.uniform(-lot / 2, lot / 2)
        if abs(shrub - garage) > 3.3:
            _tree(world, shrub, at(s), rng.uniform(0.6, 1.1), crowns[rng.integers(len(crowns))])


def _street(world: _World, y: float, lights: bool = False, cars: float = 0.5, asphalt: bool = False) -> float:
    """A street 8 m wide between verges and pavements."""
    wide = 7.4
    rng = world.rng
    colour = rng.uniform(0.85, 1.1) * (ASPHALT if asphalt else _rgb(166, 162, 156))
    left, right = -3.0, world.width + 3
    for edge in (y + 0.2, y + wide + 3.6):
        world.area(world.box(left, edge, right, edge + 1.2), 0.95 * CONCRETE, BACKGROUND)
    top, bottom = y + 2.5, y + 2.5 + wide
    world.lower(world.box(left, top - 1, right, bottom + 1), 0.55)
    world.area(world.box(left, top, right, bottom), colour, ROAD, (0.05, 0.05, 0.07))
    for lane in (0.28, 0.72):  # worn, darker wheel tracks
        track = world.box(left, top + wide * lane - 0.7, right, top + wide * lane + 0.7)
        world.area(track, 0.9 * colour, ROAD, (0.05, 0.06, 0.09))
    if asphalt:
        for x in np.arange(left, right, 7):
            world.area(world.box(x, top + 3.9, x + 3, top + 4.1), _rgb(226, 190, 74), ROAD)
    else:
        for x in np.arange(left + rng.uniform(0, 5), right, 5.5):  # joints of the concrete plates, tarred
            world.area(world.box(x, top, x + 0.16, bottom), 0.45 * colour, ROAD)
        world.area(world.box(left, top + 3.95, right, top + 4.1), 0.5 * colour, ROAD)
    for x in np.arange(rng.uniform(4, 16), world.width, 24):
        if lights:
            _street_light(world, x, top - 0.8, np.pi / 2)
        if _chance(world, cars):
            near = _chance(world, 0.5)
            _car(world, x + rng.uniform(3, 18), bottom - 1.4 if near else top + 1.4, 0.0 if near else np.pi)
    return y + wide + 5


def _cross_street(world: _World) -> None:
    """A street along the whole strip."""
    x = world.cross_street = world.width * world.rng.uniform(0.3, 0.7)
    world.lower(world.box(x - 5, -10, x + 5, world.length + 10), 0.35)
    for edge in (-5.4, 4.4):
        world.area(world.box(x + edge, -10, x + edge + 1, world.length + 10), CONCRETE, BACKGROUND)
    world.area(world.box(x - 3.6, -10, x + 3.6, world.length + 10), 1.1 * ASPHALT, ROAD, (0.06, 0.05, 0.08))
    for y in np.arange(0, world.length, 7):
        world.area(world.box(x - 0.1, y, x + 0.1, y + 3), _rgb(226, 190, 74), ROAD)


def _grassland(world: _World, y: float, deep: float, track: bool = False, sunk: float = 0.0) -> float:
    """Rough grass with mown stripes, now and then a dirt track, single trees at random."""
    rng = world.rng
    window, inside = world.outline(world.box(-3, y, world.width + 3, y + deep))
    rows = np.arange(window[0].start, window[0].stop, dtype=np.float32)[:, None] / world.scale
    stripes = 1 + 0.07 * np.sin(rows * 2.1 + 0.6 * world.broad[window]) + 0.08 * world.patch[window]
    world.albedo[window] *= np.where(inside, stripes, 1)[..., None]
    if sunk:
        world.lower(world.box(-3, y, world.width + 3, y + deep), sunk)
    if track:
        for rut in (0.0, 1.7):
            world.area(world.box(-3, y + deep * 0.45 + rut, world.width + 3, y + deep * 0.45 + rut + 0.7),
                       SOIL, BACKGROUND, (0.1, 0.1, 0.15))  # fmt: skip
    for _ in range(int(deep / 6)):
        x, row = rng.uniform(0, world.width), y + rng.uniform(2, deep - 2)
        for _ in range(int(rng.integers(1, 5))):  # in clumps
            crown = world.look.crowns[rng.integers(len(world.look.crowns))]
            _tree(world, x + rng.normal(0, 3), row + rng.normal(0, 2), rng.uniform(1, 4), crown)
    return y + deep


def _power(world: _World, y: float) -> float:
    """Poles with cross-arms, and three wires along the strip's width."""
    poles = [(x, y + 2.5) for x in np.arange(-9.0, world.width + 30, 31)]
    for x, row in poles:
        window, u, v = world.axes(x, row, 2.2)
        inside = ((np.abs(u) < 0.16) & (np.abs(v) < 1.1)) | (np.hypot(u, v) < 0.3)
        paint = np.broadcast_to(_rgb(116, 98, 80), (*u.shape, 3))
        _pole_shadow(world, x, row, 9.0)
        world.put(window, inside, paint, POWER_LINES, 2.5)
    for before, after in pairwise(poles):
        world.wires.append((world.place(*before), world.place(*after)))
    return y + 5


def _river(world: _World, y: float, deep: float, boats: tuple[float, ...] = ()) -> float:
    """Open water between sandy banks; a boat at each given part of the strip's width."""
    rng = world.rng
    left, right = -3.0, world.width + 3
    wiggle = [rng.uniform(0, 2 * np.pi) for _ in range(2)]

    def shore(row: float, phase: float) -> Points:
        return [(x, row + 1.6 * np.sin(x / 9 + phase) + 0.7 * np.sin(x / 3.7)) for x in np.arange(left, right + 3, 3)]

    banks = shore(y, wiggle[0] + 1) + shore(y + deep, wiggle[1] - 1)[::-1]
    world.area(banks, SAND, BACKGROUND, (0.07, 0.08, 0.12))
    window, inside = world.outline(shore(y + 3.5, wiggle[0]) + shore(y + deep - 3.5, wiggle[1])[::-1])
    tint, pale = _rgb(90, 114, 106), _rgb(126, 143, 135)
    mix = np.clip(0.5 + 0.3 * world.broad[window], 0, 1)[..., None]
    ripples = world.texture(window, 0.015, 0.02, 0.02)[..., None]
    world.put(window, inside, (tint + (pale - tint) * mix) * ripples, WATER, 0.0)
    for part in boats:
        _boat(world, world.width * part, y + deep * rng.uniform(0.4, 0.6), rng.uniform(-0.5, 0.5))
    return y + deep


def _forest(world: _World, y: float, deep: float) -> float:
    """Closed woodland with a ragged edge."""
    rng = world.rng
    crowns = world.look.crowns
    points = [(x, y + 2 * np.sin(x / 7) + 1) for x in np.arange(-3, world.width + 6, 3)]
    points += [(x, y + deep - 1 + 2 * np.sin(x / 5)) for x in np.arange(world.width + 3, -6, -3)]
    world.area(points, _rgb(44, 58, 34), FOREST, (0.2, 0.2, 0.1), top=1.0)
    for row in np.arange(y + 1.5, y + deep, 3.1):
        for x in np.arange(-1, world.width + 2, 3.3):
            crown = rng.uniform(0.5, 0.9) * crowns[rng.integers(len(crowns))]
            _tree(world, x + rng.normal(0, 1), row + rng.normal(0, 1), rng.uniform(1.7, 3.0), crown, FOREST)
    return y + deep


def _bare(world: _World, y: float, deep: float) -> float:
    """Bare ground with tyre tracks and puddle stains: nothing that has a class."""
    rng = world.rng
    world.area(world.box(-5, y - 5, world.width + 5, y + deep + 5), SOIL, BACKGROUND, (0.09, 0.09, 0.12))
    window, inside = world.outline(world.box(-5, y - 5, world.width + 5, y + deep + 5))
    stain = np.clip(world.broad[window] + 0.4 * world.patch[window], -1.2, 1.2)
    world.albedo[window] *= np.where(inside, 1 + 0.22 * stain, 1)[..., None]
    for row in np.arange(y, y + deep, 11):
        bow = rng.uniform(-0.3, 0.3)
        for rut in (0.0, 1.8):
            line = [(x, row + rut + bow * x) for x in (-5.0, world.width + 5)]
            track = [*line, *[(x, row + 0.5) for x, row in reversed(line)]]
            world.area(track, 0.8 * SOIL, BACKGROUND, (0.12, 0.12, 0.15))
    return y + deep


def _commercial(world: _World, y: float) -> float:
    """A shop with a flat roof behind a car park with marked bays."""
    rng = world.rng
    deep = 46.0
    left, right = world.width * 0.16, world.width * 0.9
    world.area(world.box(left, y + 1, right, y + deep - 1), ASPHALT, PARKING, (0.05, 0.05, 0.1))
    for row in (y + 25.0, y + 37.5):
        for x in np.arange(left + 2, right - 2, 2.9):
            world.area(world.box(x, row - 4.8, x + 0.16, row + 4.8), _rgb(226, 226, 222), PARKING)
            for shift in (-2.4, 2.4):
                if _chance(world, 0.4):
                    _car(world, x + 1.5, row + shift, np.pi / 2 * rng.choice((-1, 1)) + rng.normal(0, 0.04))
        world.area(world.box(left + 2, row - 0.1, right - 2, row + 0.1), _rgb(226, 226, 222), PARKING)
    for x in (left + 8, right - 9):
        _tree(world, x, y + 31, 1.8, world.look.crowns[0])
    size = (0.0, 0.0, right - left - 3, 15.0)
    middle = (left + right) / 2
    _roof(world, middle, y + 10, 0.0, [size], _rgb(176, 174, 170), ROOF, wall=5.5, pitch=0.02)
    for _ in range(9):  # plant on the roof
        spot = (middle + rng.uniform(-0.4, 0.4) * (right - left), y + 10 + rng.uniform(-5, 5))
        _on_roof(world, *spot, 0.0, (rng.uniform(1, 2.4), 1.4), _rgb(150, 154, 158), ROOF, 1.0)
    return y + deep


def _sports(world: _World, y: float) -> float:
    """A running track round a pitch, and two tennis courts."""
    rng = world.rng
    deep = 44.0
    middle = world.width * 0.5
    window, u, v = world.axes(middle, y + deep / 2, 44)
    oval = np.hypot(np.maximum(np.abs(u) - 16, 0), v)
    line = _rgb(232, 232, 228)
    track = np.where((np.mod(oval - 14, 1.2) < 0.14)[..., None], line, _rgb(176, 84, 66))
    mown = np.where(np.mod(u, 7) < 3.5, 0.86, 1.12)[..., None] * _rgb(86, 142, 66)
    pitch = np.abs(np.abs(u) - 19) * (np.abs(v) < 11.2), np.abs(np.abs(v) - 11) * (np.abs(u) < 19.2)
    marks = ((np.abs(u) < 19.2) & (np.abs(v) < 11.2)) & ((pitch[0] < 0.16) | (pitch[1] < 0.16))
    marks |= (np.abs(np.hypot(u, v) - 4) < 0.16) | ((np.abs(u) < 0.16) & (np.abs(v) < 11))
    field_ = np.where(marks[..., None], line, mown)
    paint = np.where((oval > 14)[..., None], track, field_) * world.texture(window, 0.06, 0.06, 0.05)[..., None]
    world.put(window, oval < 19, paint.astype(np.float32), SPORTS, 0.0)
    for shift in (-0.42, 0.42):
        x = middle + shift * world.width
        court = _rgb(52, 104, 148)
        world.area(world.box(x - 6, y + 8, x + 6, y + 34), _rgb(66, 120, 84), SPORTS)
        world.area(world.box(x - 4, y + 10, x + 4, y + 32), court, SPORTS)
        for edge in (y + 10, y + 21, y + 31.8):
            world.area(world.box(x - 4, edge, x + 4, edge + 0.2), _rgb(232, 232, 228), SPORTS)
        for edge in (-4.0, -0.1, 3.8):
            world.area(world.box(x + edge, y + 10, x + edge + 0.2, y + 32), _rgb(232, 232, 228), SPORTS)
    for _ in range(6):
        crown = world.look.crowns[rng.integers(len(world.look.crowns))]
        _tree(world, rng.uniform(0, world.width), y + deep - 1, rng.uniform(1.5, 2.8), crown)
    return y + deep


def _industrial(world: _World, y: float) -> float:
    """Halls with ribbed metal roofs and stacked containers on a stained yard, with tanks beside it."""
    rng = world.rng
    deep = 44.0
    left, right = world.width * 0.22, world.width * 0.85
    world.area(world.box(left, y + 1, right, y + deep - 1), _rgb(170, 160, 146), INDUSTRIAL, (0.07, 0.08, 0.16))
    for shift in (0.16, 0.42):
        x = left + (right - left) * (shift + 0.06)
        window, u, v = world.axes(x, y + 16, 16)
        inside = (np.abs(u) < 7) & (np.abs(v) < 12)
        ribs = 1 + 0.12 * np.sin(v * 5.2)
        colour = _rgb(150, 168, 182) if shift < 0.2 else _rgb(176, 128, 104)
        paint = (ribs * world.texture(window, 0.03, 0.03, 0.07))[..., None] * colour
        world.put(window, inside, paint, INDUSTRIAL, 5 + 0.15 * (7 - np.abs(u)))
    stacks = (_rgb(170, 70, 50), _rgb(50, 90, 140), _rgb(190, 150, 60), _rgb(90, 120, 90))
    for index in range(12):
        x, row = left + 8 + 6.6 * (index % 6), y + 34 + 4 * (index // 6)
        if x < right - 4:
            box = world.box(x, row, x + 6, row + 2.4)
            world.area(box, stacks[rng.integers(4)], INDUSTRIAL, (0.05, 0.06, 0.04), top=2.6)
    for part in (0.68, 0.88):
        _tank(world, left + (right - left) * part, y + 15, 5.0)
    return y + deep


def _construction(world: _World, y: float) -> float:
    """Graded soil with slabs, one house in bare timber, and heaps."""
    rng = world.rng
    deep = 30.0
    left, right = world.width * 0.28, world.width * 0.72
    world.lower(world.box(left, y, right, y + deep), -0.6)
    world.area(world.box(left, y + 1, right, y + deep - 1), _rgb(184, 142, 104), CONSTRUCTION, (0.09, 0.12, 0.14))
    slab = world.box(left + 3, y + 6, left + 15, y + 18)
    world.area(slab, _rgb(206, 204, 198), CONSTRUCTION, (0.04, 0.03, 0.04), top=0.3)
    window, u, v = world.axes(right - 9, y + 13, 10)
    inside = (np.abs(u) < 6) & (np.abs(v) < 5.5)
    timber = (np.mod(u, 1.3) < 0.35) | (np.abs(v) < 0.25) | (np.abs(np.abs(v) - 5.3) < 0.25)
    beams = np.where(timber[..., None], _rgb(222, 186, 134), _rgb(128, 104, 80))
    beams = beams * world.texture(window, 0.08, 0.08, 0)[..., None]
    top = np.where(timber, 3 + 0.4 * (5.5 - np.abs(v)), np.float32(0.3))
    world.put(window, inside, beams.astype(np.float32), CONSTRUCTION, top.astype(np.float32))
    for _ in range(5):
        spot = (rng.uniform(left + 3, right - 3), y + rng.uniform(21, 26))
        window, u, v = world.axes(*spot, 3)
        mound = 1.4 - 0.6 * np.hypot(u, v) + 0.15 * world.grain[window]
        paint = world.texture(window, 0.1, 0.15, 0.1)[..., None] * _rgb(170, 122, 84)
        world.put(window, mound > 0, paint, CONSTRUCTION, mound)
    return y + deep


# ----------------------------------------------------------------------------------------------------- flood and light


def _flood(world: _World, level: float) -> None:
    """Fill the terrain with murky water up to ``level`` metres: shallow water shows the ground, deep water does not."""
    depth = level - world.ground
    wet = (depth > 0) & (world.height < 0.35) & (world.label != WATER)
    cover = (1 - np.exp(-np.maximum(depth, 0) / 0.22))[..., None]
    shallow, deep = _rgb(146, 112, 72), _rgb(94, 88, 80)
    murk = shallow + (deep - shallow) * np.clip(depth / 0.6, 0, 1)[..., None]
    # The sky mirrored in it: broad pale sheets with soft ends.
    sheen = np.clip(world.broad[:, ::-1] - 0.2, 0, 1.5)[..., None] * np.array((0.045, 0.05, 0.056), np.float32)
    murk = (murk + sheen) * (1 + 0.02 * world.fine + 0.035 * world.patch)[..., None]
    soaked = 0.62 * world.albedo
    np.copyto(world.albedo, soaked + (murk - soaked) * (0.35 + 0.65 * cover), where=wet[..., None])
    world.label[wet] = FLOODED


def _shadows(height: Floats, azimuth: float, fall: float) -> Floats:
    """How lit each pixel is, 0..1, by the highest line of sight towards the sun.

    The horizon H(p) = max over k > 0 of h(p + k s) - k f is found by doubling:
    the maximum over the first 2n steps is that over n steps and the same moved by n steps.

    Args:
        height: metres, float32 (H, W).
        azimuth: direction towards the sun.
        fall: metres by which a ray falls per pixel.
    """
    size = height.shape[::-1]

    def moved(surface: Floats, steps: float) -> Floats:
        shift = np.array([[1, 0, np.cos(azimuth) * steps], [0, 1, np.sin(azimuth) * steps]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        shifted = cv2.warpAffine(surface, shift, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
        return np.asarray(shifted - np.float32(fall * steps), np.float32)

    horizon = moved(height, 1)
    longest = max(2.0, float(height.max()) / fall)
    for doubling in range(int(np.ceil(np.log2(longest)))):
        np.maximum(horizon, moved(horizon, 2.0**doubling), out=horizon)
    lit = np.clip(1 - (horizon - height) / 0.5, 0, 1)
    return np.asarray(cv2.GaussianBlur(lit, (0, 0), 1.2), np.float32)


def _light(world: _World) -> Bytes:
    """The lit world as display colours, uint8 RGB (H, W, 3)."""
    look, scale = world.look, world.scale
    height = world.height
    relief = cv2.GaussianBlur(height, (0, 0), 0.9)
    slope_x = np.asarray(cv2.Sobel(relief, cv2.CV_32F, 1, 0, scale=scale / 8), np.float32)
    slope_y = np.asarray(cv2.Sobel(relief, cv2.CV_32F, 0, 1, scale=scale / 8), np.float32)
    steepest = np.float32(1.7)  # a wall is one step of the map, not a face: unlimited it would outline every roof
    gentler = steepest / np.maximum(np.hypot(slope_x, slope_y), steepest)
    slope_x *= gentler
    slope_y *= gentler
    low = np.cos(look.elevation)
    towards = low * (np.cos(look.azimuth) * slope_x + np.sin(look.azimuth) * slope_y)
    lambert = (np.sin(look.elevation) - towards) / np.sqrt(1 + slope_x**2 + slope_y**2)
    direct = np.maximum(lambert, 0) * _shadows(height, look.azimuth, float(np.tan(look.elevation)) / scale)
    around = cv2.resize(height, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
    around = cv2.GaussianBlur(around, (0, 0), 0.3 * scale)
    around = cv2.resize(around, height.shape[::-1], interpolation=cv2.INTER_LINEAR)
    open_sky = np.clip(1 - 0.13 * np.maximum(around - height, 0), 0.3, 1)
    crease = np.clip(cv2.GaussianBlur(height, (0, 0), 1.6) - height, -0.12, 0.12)  # ridges pale, valleys dark
    open_sky -= 0.9 * crease
    lit = direct[..., None] * np.array(look.sun, np.float32) + open_sky[..., None] * np.array(look.sky, np.float32)
    lit *= world.albedo
    np.clip(lit, 0, 1, out=lit)
    photo: Bytes = np.rint(255 * np.sqrt(lit)).astype(np.uint8)
    return photo


def _string_wires(world: _World, photo: Bytes) -> None:
    """Draw three wires along each span over the lit photo, and their bundle, as annotators outline it, as the label."""
    thickness = max(1, round(0.09 * world.scale))
    for start, end in world.wires:
        for offset in (-0.55 * world.scale, 0.0, 0.55 * world.scale):
            wire = _fixed((start[0], start[1] + offset), (end[0], end[1] + offset))
            cv2.line(photo, *wire, (208, 208, 206), thickness, cv2.LINE_AA, shift=4)
        bundle = max(1, round(1.5 * world.scale))
        cv2.line(world.label, *_fixed(start, end), POWER_LINES, bundle, cv2.LINE_8, shift=4)


def _fixed(start: tuple[float, float], end: tuple[float, float]) -> tuple[tuple[int, int], tuple[int, int]]:
    """A line's ends with four fractional bits, as OpenCV takes them."""
    return (round(start[0] * 16), round(start[1] * 16)), (round(end[0] * 16), round(end[1] * 16))


# ------------------------------------------------------------------------------------------------------------- strips

ROOFS = (_rgb(128, 126, 128), _rgb(112, 108, 108), _rgb(146, 140, 136), _rgb(118, 124, 138), _rgb(134, 116, 102))
HAZY = _Look(
    grass=(_rgb(88, 118, 62), _rgb(128, 134, 84)),
    crowns=(_rgb(62, 92, 44), _rgb(78, 108, 52), _rgb(56, 84, 48), _rgb(104, 124, 58)),
    roofs=ROOFS,
    azimuth=-2.2,
    elevation=0.95,
    sun=(1.2, 1.18, 1.12),
    sky=(0.5, 0.54, 0.6),
    haze=0.1,
)
SHARP = _Look(
    grass=(_rgb(90, 106, 54), _rgb(134, 122, 78)),
    crowns=(_rgb(60, 84, 42), _rgb(74, 98, 46), _rgb(90, 108, 56)),
    roofs=ROOFS,
    azimuth=-1.5,
    elevation=0.85,
    sun=(1.45, 1.4, 1.25),
    sky=(0.34, 0.38, 0.46),
    haze=0.03,
)
WET = _Look(
    grass=(_rgb(104, 100, 60), _rgb(132, 110, 72)),
    crowns=(_rgb(62, 80, 44), _rgb(72, 90, 48), _rgb(88, 100, 56)),
    roofs=(*ROOFS, _rgb(156, 136, 122)),
    azimuth=-0.9,
    elevation=0.75,
    sun=(1.5, 1.4, 1.2),
    sky=(0.36, 0.41, 0.5),
    haze=0.02,
)


@dataclass(frozen=True)
class _Strip:
    """One flight line: what lies along it, and how it was flown.

    Attributes:
        first_id: id of its first frame; later where that is taken.
        share: its share of all frames.
        size: width and height of its photos, in units of ``DemoParams.width``.
        zoom: magnification; 1 shows ``FRAME_METRES`` across.
        turn: how the camera is turned against the ground's axes, degrees.
        look: its light.
        bands: what is drawn along it, again from the first when all are.
        flood: water level in metres, if any.
        cross_street: whether a street runs along it, too.
    """

    first_id: int
    share: float
    zoom: float
    turn: float
    look: _Look
    bands: tuple[Band, ...]
    size: tuple[float, float] = (1.0, 4 / 3)
    flood: float | None = None
    cross_street: bool = False


def _block(above: _Garden, below: _Garden, street: Band) -> tuple[Band, ...]:
    """Two rows of houses that face the street between them."""
    return partial(_homes, front=1, garden=above), street, partial(_homes, front=-1, garden=below)


LARGE = (307 / 300, 459 / 300)
POOLS = _Garden(pool=0.45, shed=0.2, chimney=0.35, car=0.5, tree=0.8)
PLAIN = _Garden(car=0.4, shed=0.2, tree=1.0)
CLOSE = _Garden(pool=0.35, window=0.4, chimney=0.5, shed=0.25, trampoline=0.2, bins=0.35, car=0.5, tree=0.7)
SUNNY = _Garden(pool=0.4, window=0.6, chimney=0.5, solar=1.0, antenna=1.0, car=0.5, tree=0.4)
DROWNED = _Garden(pool=0.35, shed=0.2, chimney=0.35, window=0.2, trampoline=0.06, car=0.3, tree=1.1)
STRIPS = (
    _Strip(6437, 8, 1.0, 9, HAZY, (
        *_block(POOLS, POOLS, partial(_street, lights=True)), _power, partial(_grassland, deep=34, track=True),
        partial(_river, deep=46, boats=(0.38, 0.62)), partial(_grassland, deep=14), partial(_forest, deep=26),
        *_block(PLAIN, POOLS, _street), _power, partial(_river, deep=44), partial(_grassland, deep=40),
    )),
    _Strip(6690, 9, 1.4, -14, HAZY, (
        *_block(CLOSE, CLOSE, _street), *_block(SUNNY, CLOSE, partial(_street, lights=True)), _power,
        partial(_grassland, deep=18, track=True), partial(_forest, deep=16), *_block(CLOSE, POOLS, _street),
    )),
    _Strip(7239, 8, 0.9, 22, SHARP, (
        *_block(PLAIN, PLAIN, partial(_street, asphalt=True, lights=True)), _commercial, partial(_street, asphalt=True),
        partial(_grassland, deep=20), _industrial, partial(_forest, deep=24), _sports, _power,
        *_block(POOLS, PLAIN, partial(_street, asphalt=True)), partial(_grassland, deep=20), partial(_river, deep=30),
    ), cross_street=True),
    _Strip(8420, 9, 1.15, -6, SHARP, (
        partial(_forest, deep=34), *_block(POOLS, CLOSE, partial(_street, lights=True)), _power,
        partial(_grassland, deep=24, sunk=0.3), _construction, partial(_homes, front=-1, garden=PLAIN),
        partial(_river, deep=30), partial(_grassland, deep=22, sunk=0.35), partial(_homes, front=1, garden=CLOSE),
        partial(_street, lights=True), partial(_forest, deep=30),
    ), flood=-0.28),
    _Strip(9030, 7, 1.0, -20, WET, (
        *_block(DROWNED, DROWNED, partial(_street, cars=0.1)), _power, partial(_grassland, deep=44, sunk=0.7),
        *_block(DROWNED, PLAIN, partial(_street, cars=0.1)), partial(_homes, front=1, garden=DROWNED),
        partial(_street, cars=0.1),
    ), LARGE, 0.0),
    _Strip(10165, 6, 0.9, 15, WET, (
        *_block(PLAIN, DROWNED, partial(_street, cars=0.1)), *_block(DROWNED, PLAIN, _street), _power,
        partial(_grassland, deep=34, sunk=0.8), partial(_forest, deep=20),
    ), LARGE, 0.02, cross_street=True),
)  # fmt: skip
"""The flight lines: four of the dry flight, two of the flooded one."""

BARE = _Strip(6411, 1, 1.0, 0, SHARP, (partial(_bare, deep=200),))
"""The frame on which there is nothing to label."""

ROUND = 60
"""Most frames from one round of ``STRIPS``; a larger set takes further rounds over new ground."""


@dataclass(frozen=True)
class _Frame:
    """One photo with its mask: uint8 RGB (h, w, 3) and uint8 (h, w)."""

    photo: Bytes
    mask: Bytes


def _majority(label: Bytes) -> Bytes:
    """The most frequent of each 2 x 2 pixels.

    Ties go to the first pixel's class in one half of the blocks and to the last one's in the other, as on a chessboard:
    one rule for all would move every outline by a quarter of a pixel on average.
    """
    a, b, c, d = label[::2, ::2], label[::2, 1::2], label[1::2, ::2], label[1::2, 1::2]
    first = np.where((a == b) | (a == c) | (a == d), a, np.where((b == c) | (b == d), b, c))
    last = np.where((d == c) | (d == b) | (d == a), d, np.where((c == b) | (c == a), c, b))
    white = (np.arange(a.shape[0])[:, None] + np.arange(a.shape[1])) % 2 == 0
    return np.where(white, first, last)


def _draw(number: int, strip: _Strip, frames: int, params: DemoParams) -> list[_Frame]:
    """Draw one strip's world and photograph it; ``number`` sets its random numbers apart from the other strips'."""
    rng = np.random.default_rng([params.seed, number])
    width, height = round(strip.size[0] * params.width), round(strip.size[1] * params.width)
    scale = 2 * params.width * strip.zoom / FRAME_METRES  # of the drawing, pixels per metre
    turn = np.deg2rad(strip.turn)
    cosine, sine = np.cos(turn), np.sin(turn)
    span_x = 2 * (width * cosine + height * abs(sine)) / scale
    span_y = 2 * (height * cosine + width * abs(sine)) / scale
    advance = ADVANCE * 2 * height / scale
    world = _World(rng, strip.look, span_x + 8, span_y + 8 + advance * (frames - 1), scale)
    if strip.cross_street:
        _cross_street(world)
    y, index = -rng.uniform(8, 16), 0
    while y < world.length:
        y = strip.bands[index % len(strip.bands)](world, y)
        index += 1
    if strip.flood is not None:
        _flood(world, strip.flood)
    photo = _light(world)
    _string_wires(world, photo)

    result = []
    for frame in range(frames):
        centre_x = (world.width / 2 + rng.uniform(-1.5, 1.5)) * scale
        centre_y = (span_y / 2 + 4 + advance * frame + rng.uniform(-1.5, 1.5)) * scale
        yaw = turn + rng.normal(0, 0.015)
        cosine, sine = np.cos(yaw), np.sin(yaw)
        window = np.array([
            [cosine, -sine, centre_x - cosine * width + sine * height],
            [sine, cosine, centre_y - sine * width - cosine * height],
        ])  # fmt: skip
        inverse = cv2.WARP_INVERSE_MAP
        size = (2 * width, 2 * height)
        large = cv2.warpAffine(photo, window, size, flags=cv2.INTER_LINEAR | inverse, borderMode=cv2.BORDER_REFLECT)
        mask = cv2.warpAffine(world.label, window, size, flags=cv2.INTER_NEAREST | inverse, borderValue=BACKGROUND)
        labels = _majority(np.asarray(mask, np.uint8))
        result.append(_Frame(_camera(np.asarray(large, np.uint8), strip.look, rng), _unlabel_borders(labels, rng)))
    return result


def _camera(large: Bytes, look: _Look, rng: np.random.Generator) -> Bytes:
    """What the camera makes of a view at twice its resolution: optics, haze, exposure, noise; uint8 RGB."""
    photo = cv2.resize(large, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    photo += 0.35 * (photo - cv2.GaussianBlur(photo, (0, 0), 1.0))  # the sharpening every such camera applies
    height, width = photo.shape[:2]
    across = np.linspace(-1, 1, width, dtype=np.float32)[None]
    down = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    vignette = 1 - 0.09 * (across**2 + down**2)
    glare = np.float32(look.haze) * (1 + 0.4 * across * rng.uniform(-1, 1) + 0.4 * down * rng.uniform(-1, 1))
    photo *= vignette[..., None] * (rng.normal(1, 0.035) * (1 + rng.normal(0, 0.012, 3))).astype(np.float32)
    photo += (np.array((0.82, 0.87, 0.93), np.float32) - photo) * glare[..., None]
    grain = rng.standard_normal((height, width, 1), dtype=np.float32) * 0.011
    colour = rng.standard_normal((height, width, 3), dtype=np.float32) * 0.006
    exposed: Bytes = np.rint(255 * np.clip(photo + grain + colour, 0, 1)).astype(np.uint8)
    return exposed


def _unlabel_borders(mask: Bytes, rng: np.random.Generator) -> Bytes:
    """Leave strips at some borders without labels, as the annotators did: mostly thin, now and then wide.

    A strip takes a part of a class, never all of it, so that the rare classes stay in the set.
    """
    for quarter in range(4):
        if rng.random() < 0.22:
            trial = mask.copy()
            side = np.rot90(trial, quarter)
            side[: 1 + int(rng.integers(2)) if rng.random() < 0.9 else len(side) // 9] = BACKGROUND
            if len(np.setdiff1d(mask, trial)) == 0:
                mask = trial
    return mask


def _plan(frames: int) -> list[tuple[_Strip, int]]:
    """The strips to fly and the frames of each: shares by largest remainder, after the one bare frame."""
    strips = STRIPS * -(-(frames - 1) // ROUND)
    total = sum(strip.share for strip in strips)
    exact = [strip.share / total * (frames - 1) for strip in strips]
    counts = [int(value) for value in exact]
    by_remainder = sorted(range(len(strips)), key=lambda index: counts[index] - exact[index])
    for index in by_remainder[: frames - 1 - sum(counts)]:
        counts[index] += 1
    return [(BARE, 1), *((strip, count) for strip, count in zip(strips, counts, strict=True) if count)]


def _choose_test(masks: list[Bytes], count: int, rng: np.random.Generator) -> set[int]:
    """Indices of the test frames: at random, yet neither the bare frame nor, if it can be helped, a class's last."""
    present = np.array([np.bincount(mask.ravel(), minlength=N_CLASSES) > 0 for mask in masks])
    order = [int(index) for index in rng.permutation(len(masks)) if present[index, 1:].any()]
    left = present.sum(axis=0)
    chosen: list[int] = []
    for index in order:
        if len(chosen) < count and (left[present[index]] > 1).all():
            chosen.append(index)
            left = left - present[index]
    chosen += [index for index in order if index not in chosen][: count - len(chosen)]
    return set(chosen)


def write_demo(folder: Path, params: DemoParams) -> None:
    """Draw the whole set into ``folder``, in the layout of the Kaggle archive with the test masks added.

    Writes ``train_images/<id>.jpg``, ``train_masks/<id>.png``, ``test_images/<id>.jpg`` and ``test_masks/<id>.png``:
    8-bit RGB JPEG, and 8-bit grey PNG whose values are class ids 0..24.

    Args:
        folder: where to write; made when absent. Files of the same name are replaced, others left alone.
        params: how many photos, how large, from which seed.
    """
    plan = _plan(params.train + params.test)
    with ThreadPoolExecutor(max_workers=2) as pool:
        drawn = list(pool.map(lambda task: _draw(task[0], task[1][0], task[1][1], params), enumerate(plan)))
    rng = np.random.default_rng([params.seed, len(plan)])
    test = _choose_test([frame.mask for frames in drawn for frame in frames], params.test, rng)
    index, identifier = 0, 0
    for (strip, _), frames in zip(plan, drawn, strict=True):
        identifier = max(identifier + 30, strip.first_id)  # strips lie apart
        for frame in frames:
            part = "test" if index in test else "train"
            quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
            _write(folder / f"{part}_images" / f"{identifier}.jpg", frame.photo[..., ::-1], quality)
            _write(folder / f"{part}_masks" / f"{identifier}.png", frame.mask, [cv2.IMWRITE_PNG_COMPRESSION, 6])
            index += 1
            identifier += 1 if rng.random() < 0.8 else 2  # now and then a frame is missing, as in the real set


def _write(path: Path, image: Bytes, options: list[int]) -> None:
    with atomic(path) as temporary:
        temporary.write_bytes(cv2.imencode(path.suffix, image, options)[1].tobytes())
