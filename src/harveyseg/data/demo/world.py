"""The ground of one flight strip: reflectance, height, class and terrain, drawn in metres.

Objects and districts paint into a :class:`World`; the camera photographs it.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from harveyseg.arrays import BinaryMask, Float32Array

Window = tuple[slice, slice]
"""Rows and columns of a world."""
Colour = Float32Array
"""float32 (3,): linear reflectance of red, green and blue."""
Heights = npt.NDArray[np.floating[Any]]
"""(h, w): metres above ground."""
Points = list[tuple[float, float]]
"""The corners (x, y) of a polygon, or the points of a line; in metres unless said otherwise."""

Label = IntEnum(
    "Label",
    "BACKGROUND ROOF SECONDARY POOL VEHICLE GRASS TREES SOLAR CHIMNEY STREET_LIGHT WINDOW ANTENNA BINS TRAMPOLINE ROAD "
    "CONSTRUCTION POWER_LINES TANK PARKING SPORTS INDUSTRIAL FOREST WATER FLOODED BOAT",
    start=0,
)
"""The classes by short names, with their ids."""


def rgb(red: float, green: float, blue: float) -> Colour:
    """Linear reflectance of a display colour 0..255, with the display's gamma taken as 2."""
    return np.square(np.array((red / 255, green / 255, blue / 255), np.float32))


CONCRETE = rgb(188, 180, 168)
ASPHALT = rgb(118, 118, 122)
SOIL = rgb(148, 122, 96)
SAND = rgb(196, 166, 130)
FENCE = rgb(126, 106, 86)
GLASS = rgb(36, 44, 54)
CARS = (
    rgb(232, 232, 234), rgb(225, 226, 228), rgb(168, 172, 178), rgb(60, 62, 68), rgb(34, 36, 42),
    rgb(150, 28, 30), rgb(40, 66, 120), rgb(112, 100, 84),
)  # fmt: skip


@dataclass(frozen=True)
class Look:
    """A flight's light, season and camera.

    Attributes:
        grass: lush and dry colour of lawns.
        crowns: colours of tree crowns.
        roofs: colours of roofs.
        azimuth: direction towards the sun, radians in image axes.
        elevation: the sun's height, radians.
        sun: colour of direct light.
        sky: colour of diffuse light.
        haze: share of the light that is haze and does not come from the ground.
    """

    grass: tuple[Colour, Colour]
    crowns: tuple[Colour, ...]
    roofs: tuple[Colour, ...]
    azimuth: float
    elevation: float
    sun: tuple[float, float, float]
    sky: tuple[float, float, float]
    haze: float


class World:
    """The ground of one strip, at twice the resolution of the photos.

    x runs across the strip and y along it. Everything follows a gentle bend, so that streets curve and houses turn
    with them.

    Attributes:
        albedo: linear reflectance, float32 (H, W, 3).
        height: metres above ground, float32 (H, W).
        ground: metres of terrain, float32 (H, W); only a flood uses it.
        label: class ids, uint8 (H, W).
        wires: power lines as pairs of pixel positions.
        cross_street: x of the street that runs along the strip; far outside where there is none.
        footprints: the rectangles of each roof, as pixel positions of their corners.
        street_lines: the middle of each street, as pixel positions.
    """

    def __init__(self, rng: np.random.Generator, look: Look, width: float, length: float, scale: float) -> None:
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
        self.label = np.full(shape, Label.GRASS, np.uint8)
        self.wires: list[tuple[tuple[float, float], tuple[float, float]]] = []
        self._bend = (rng.uniform(2, 4.5), rng.uniform(80, 130), rng.uniform(0, 2 * np.pi))
        self.cross_street = -100.0
        self.footprints: list[list[Points]] = []
        self.street_lines: list[Points] = []

        dry = np.clip(0.45 + 0.3 * self.broad + 0.13 * self.patch + 0.08 * self.grain, 0, 1)[..., None]
        lush, parched = (np.array(colour, np.float32) for colour in look.grass)
        self.albedo = lush + (parched - lush) * dry
        self.albedo *= (1 + 0.13 * self.fine + 0.07 * self.grain + 0.05 * self.patch)[..., None]

    def chance(self, probability: float) -> bool:
        """Draw whether something happens."""
        return bool(self.rng.random() < probability)

    def crown(self) -> Colour:
        """Draw the colour of a tree."""
        return self.look.crowns[self.rng.integers(len(self.look.crowns))]

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Pixel position (column, row) of a point in metres, after the bend."""
        size, wavelength, phase = self._bend
        return x * self.scale, (y + size * np.sin(2 * np.pi * x / wavelength + phase)) * self.scale

    def turned_box(self, x: float, y: float, turn: float, outline: Points) -> Points:
        """Pixel positions of points given in metres along the axes of an object, which :meth:`axes` explains."""
        column, row = self.place(x, y)
        cosine, sine = np.cos(turn + self.slope(x)) * self.scale, np.sin(turn + self.slope(x)) * self.scale
        return [(float(column + u * cosine - v * sine), float(row + u * sine + v * cosine)) for u, v in outline]

    def slope(self, x: float) -> float:
        """Angle, in radians, by which the bend turns things at ``x``."""
        size, wavelength, phase = self._bend
        return float(np.arctan(size * 2 * np.pi / wavelength * np.cos(2 * np.pi * x / wavelength + phase)))

    def outline(self, points: Points, margin: float = 0.0) -> tuple[Window, BinaryMask]:
        """The window around a polygon, widened by ``margin`` metres, and the inside of the polygon in it."""
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

    def axes(self, x: float, y: float, reach: float, angle: float = 0.0) -> tuple[Window, Float32Array, Float32Array]:
        """The window within ``reach`` metres of a point, and the coordinates u, v in metres along an object's axes."""
        column, row = self.place(x, y)
        span = reach * self.scale
        rows, columns = self._window(column - span, row - span, column + span, row + span)
        across = ((np.arange(columns.start, columns.stop) + 0.5 - column) / self.scale).astype(np.float32)[None]
        down = ((np.arange(rows.start, rows.stop) + 0.5 - row) / self.scale).astype(np.float32)[:, None]
        turn = angle + self.slope(x)
        cosine, sine = np.float32(np.cos(turn)), np.float32(np.sin(turn))
        return (rows, columns), across * cosine + down * sine, down * cosine - across * sine

    def texture(self, window: Window, fine: float, grain: float, patch: float) -> Float32Array:
        """Brightness factor of a rough surface (h, w): the three noise fields, weighted by their amplitudes."""
        rough = fine * self.fine[window] + grain * self.grain[window] + patch * self.patch[window]
        return np.asarray(1 + rough, np.float32)

    def put(self, window: Window, inside: BinaryMask, paint: Float32Array, label: int, top: Heights | float) -> None:
        """Cover ``inside`` with ``paint`` (h, w, 3), except where something higher than ``top`` is already there."""
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
        """Cover a polygon with one rough material."""
        window, inside = self.outline(points)
        self.put(window, inside, self.texture(window, *rough)[..., None] * colour, label, top)

    def lower(self, points: Points, metres: float) -> None:
        """Sink the terrain under a polygon (or raise it, by a negative amount), with banks 3 m wide."""
        window, inside = self.outline(points, margin=3)
        if inside.size:
            kernel = round(3 * self.scale)
            self.ground[window] -= metres * cv2.blur(inside.astype(np.float32), (kernel, kernel))

    def flood(self, level: float) -> None:
        """Fill the terrain with murky water up to ``level`` metres; the ground shows through where it is shallow."""
        depth = level - self.ground
        wet = (depth > 0) & (self.height < 0.35) & (self.label != Label.WATER)
        cover = (1 - np.exp(-np.maximum(depth, 0) / 0.22))[..., None]
        shallow, deep = rgb(146, 112, 72), rgb(94, 88, 80)
        murk = shallow + (deep - shallow) * np.clip(depth / 0.6, 0, 1)[..., None]
        # The sky mirrored in it: broad pale sheets with soft ends.
        sheen = np.clip(self.broad[:, ::-1] - 0.2, 0, 1.5)[..., None] * np.array((0.045, 0.05, 0.056), np.float32)
        murk = (murk + sheen) * (1 + 0.02 * self.fine + 0.035 * self.patch)[..., None]
        soaked = 0.62 * self.albedo
        np.copyto(self.albedo, soaked + (murk - soaked) * (0.35 + 0.65 * cover), where=wet[..., None])
        self.label[wet] = Label.FLOODED

    def _window(self, left: float, top: float, right: float, bottom: float) -> Window:
        height, width = self.label.shape
        columns = slice(min(max(int(left), 0), width), min(max(int(right) + 2, 0), width))
        rows = slice(min(max(int(top), 0), height), min(max(int(bottom) + 2, 0), height))
        return rows, columns


def box(left: float, top: float, right: float, bottom: float) -> Points:
    """The corners of a rectangle in metres."""
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def _noise(rng: np.random.Generator, shape: tuple[int, int], cell: float) -> Float32Array:
    """Smooth noise of about zero mean and unit variance whose features are ``cell`` pixels wide; float32 (H, W)."""
    if cell <= 1:
        return rng.standard_normal(shape, dtype=np.float32)
    height, width = int(np.ceil(shape[0] / cell)) + 1, int(np.ceil(shape[1] / cell)) + 1
    grid = rng.standard_normal((height, width), dtype=np.float32)
    size = (int(np.ceil(width * cell)), int(np.ceil(height * cell)))
    smooth = cv2.resize(grid, size, interpolation=cv2.INTER_CUBIC)
    return np.ascontiguousarray(smooth[: shape[0], : shape[1]]) * np.float32(1.35)
