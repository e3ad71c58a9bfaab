"""The camera of the demo: it lights a world and takes photos and masks from it.

A sun lights the height map (Lambert shading, cast shadows, ambient occlusion), so that roofs, crowns and cars get their
shading from geometry. Photo and mask are cut out by the same transform, at twice the final resolution: the photo is
averaged and the mask takes the majority, so the two are registered exactly.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from harveyseg.arrays import ClassMap, Float32Array, Photo
from harveyseg.data.demo.world import Label, Look, World


@dataclass(frozen=True)
class Frame:
    """One photo with its mask."""

    photo: Photo
    mask: ClassMap
    ground: Float32Array
    """(4, 2): x and y of the photo's corners in metres, along its border."""


@dataclass(frozen=True)
class Camera:
    """How the frames of a strip are taken.

    Attributes:
        width: of a photo in pixels.
        height: of a photo in pixels.
        scale: pixels of the world per metre.
        turn: angle against the ground's axes, radians.
        advance: metres from one frame to the next.
    """

    width: int
    height: int
    scale: float
    turn: float
    advance: float

    @property
    def span(self) -> tuple[float, float]:
        """Metres of ground that a frame covers across and along the strip."""
        cosine = np.cos(self.turn)
        sine = np.sin(self.turn)
        across = 2 * (self.width * cosine + self.height * abs(sine)) / self.scale
        along = 2 * (self.height * cosine + self.width * abs(sine)) / self.scale
        return float(across), float(along)


def photograph(world: World, camera: Camera, frames: int) -> list[Frame]:
    """Light the world and take photos along it."""
    rng = world.rng
    photo = _light(world)
    _string_wires(world, photo)
    width, height = camera.width, camera.height
    taken = []
    for frame in range(frames):
        centre_x = (world.width / 2 + rng.uniform(-1.5, 1.5)) * camera.scale
        centre_y = (camera.span[1] / 2 + 4 + camera.advance * frame + rng.uniform(-1.5, 1.5)) * camera.scale
        yaw = camera.turn + rng.normal(0, 0.015)
        cosine, sine = np.cos(yaw), np.sin(yaw)
        window = np.array([
            [cosine, -sine, centre_x - cosine * width + sine * height],
            [sine, cosine, centre_y - sine * width - cosine * height],
        ])  # fmt: skip
        inverse = cv2.WARP_INVERSE_MAP
        size = (2 * width, 2 * height)
        large = cv2.warpAffine(photo, window, size, flags=cv2.INTER_LINEAR | inverse, borderMode=cv2.BORDER_REFLECT)
        mask = cv2.warpAffine(
            world.label, window, size, flags=cv2.INTER_NEAREST | inverse, borderValue=Label.BACKGROUND
        )
        classes = _majority(np.asarray(mask, np.uint8))
        corners = np.array([(0, 0, 1), (size[0], 0, 1), (*size, 1), (0, size[1], 1)])
        exposed = _expose(np.asarray(large, np.uint8), world.look, rng, vignette=0.09)
        ground = (corners @ window.T / camera.scale).astype(np.float32)
        taken.append(Frame(exposed, _unlabel_borders(classes, rng), ground))
    return taken


def photograph_whole(world: World) -> tuple[Photo, ClassMap]:
    """The whole world at half its resolution, as an orthomosaic shows it, and its mask."""
    lit = _light(world)
    _string_wires(world, lit)
    return _expose(lit, world.look, world.rng, vignette=0.0), _majority(world.label)


def _shadows(height: Float32Array, azimuth: float, fall: float) -> Float32Array:
    """The share of direct light that reaches each pixel, 0..1, by the highest line of sight towards the sun.

    The horizon H(p) = max over k > 0 of h(p + k s) - k f is found by doubling:
    the maximum over the first 2n steps is that over n steps and the same moved by n steps.

    Args:
        height: metres, float32 (H, W).
        azimuth: direction towards the sun.
        fall: metres by which a ray falls per pixel.
    """
    size = height.shape[::-1]

    def moved(surface: Float32Array, steps: float) -> Float32Array:
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


def _light(world: World) -> Photo:
    """The lit world in display colours."""
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
    photo: Photo = np.rint(255 * np.sqrt(lit)).astype(np.uint8)
    return photo


def _string_wires(world: World, photo: Photo) -> None:
    """Draw three wires along each span over the lit photo, and their bundle, as annotators outline it, as the label."""
    thickness = max(1, round(0.09 * world.scale))
    for start, end in world.wires:
        for offset in (-0.55 * world.scale, 0.0, 0.55 * world.scale):
            wire = _fixed((start[0], start[1] + offset), (end[0], end[1] + offset))
            cv2.line(photo, *wire, (208, 208, 206), thickness, cv2.LINE_AA, shift=4)
        bundle = max(1, round(1.5 * world.scale))
        cv2.line(world.label, *_fixed(start, end), Label.POWER_LINES, bundle, cv2.LINE_8, shift=4)


def _fixed(start: tuple[float, float], end: tuple[float, float]) -> tuple[tuple[int, int], tuple[int, int]]:
    """A line's ends with four fractional bits, as OpenCV takes them."""
    return (round(start[0] * 16), round(start[1] * 16)), (round(end[0] * 16), round(end[1] * 16))


def _expose(large: Photo, look: Look, rng: np.random.Generator, vignette: float) -> Photo:
    """Turn a view at twice the resolution into a photo: optics, haze, exposure and noise.

    ``vignette`` is the share of light that is lost at the middle of a border.
    """
    photo = cv2.resize(large, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    photo += 0.35 * (photo - cv2.GaussianBlur(photo, (0, 0), 1.0))  # the sharpening every such camera applies
    height, width = photo.shape[:2]
    across = np.linspace(-1, 1, width, dtype=np.float32)[None]
    down = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    falloff = 1 - vignette * (across**2 + down**2)
    glare = np.float32(look.haze) * (1 + 0.4 * across * rng.uniform(-1, 1) + 0.4 * down * rng.uniform(-1, 1))
    photo *= falloff[..., None] * (rng.normal(1, 0.035) * (1 + rng.normal(0, 0.012, 3))).astype(np.float32)
    photo += (np.array((0.82, 0.87, 0.93), np.float32) - photo) * glare[..., None]
    grain = rng.standard_normal((height, width, 1), dtype=np.float32) * 0.011
    colour = rng.standard_normal((height, width, 3), dtype=np.float32) * 0.006
    exposed: Photo = np.rint(255 * np.clip(photo + grain + colour, 0, 1)).astype(np.uint8)
    return exposed


def _majority(label: ClassMap) -> ClassMap:
    """The most frequent of each 2 x 2 pixels.

    Ties go to the first pixel's class in one half of the blocks and to the last one's in the other, as on a chessboard:
    one rule for all would move every outline by a quarter of a pixel on average.
    """
    a, b, c, d = label[::2, ::2], label[::2, 1::2], label[1::2, ::2], label[1::2, 1::2]
    first = np.where((a == b) | (a == c) | (a == d), a, np.where((b == c) | (b == d), b, c))
    last = np.where((d == c) | (d == b) | (d == a), d, np.where((c == b) | (c == a), c, b))
    white = (np.arange(a.shape[0])[:, None] + np.arange(a.shape[1])) % 2 == 0
    return np.where(white, first, last)


def _unlabel_borders(mask: ClassMap, rng: np.random.Generator) -> ClassMap:
    """Leave strips at some borders without labels, as the annotators did: mostly thin, sometimes wide.

    A strip takes a part of a class, never all of it, so rare classes stay in the set.
    """
    for quarter in range(4):
        if rng.random() < 0.22:
            trial = mask.copy()
            side = np.rot90(trial, quarter)
            side[: 1 + int(rng.integers(2)) if rng.random() < 0.9 else len(side) // 9] = Label.BACKGROUND
            if len(np.setdiff1d(mask, trial)) == 0:
                mask = trial
    return mask
