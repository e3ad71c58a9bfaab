"""How large things are in a photo or mosaic, compared with the photos that the networks were trained on."""

import logging
import math
from dataclasses import dataclass
from typing import Literal

from harveyseg.errors import HarveysegError
from harveyseg.prediction.inputs import Input

WARN_BEYOND = 1.5
REFUSE_BEYOND = 4.0
_SAME = 1.1
"""A photo whose ground differs by less than this factor is predicted whole, like a training photo: flight heights are
above take-off, and so off by that much on a slope."""

_SQUARE = 1.3
"""Pixels of a photo are square; estimates of its ground are less exact."""

Origin = Literal["georeference", "flight height", "--gsd", "none"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Training:
    """What is known of the photos that the networks were trained on."""

    ground: tuple[float, float] | None = None
    """(height, width) in metres of the ground that one photo shows."""
    sizes: frozenset[tuple[int, int]] = frozenset()
    """(height, width) in pixels of the photos before they were resized; empty where unknown."""


@dataclass(frozen=True)
class Scale:
    """The scale of one photo or mosaic."""

    origin: Origin
    """What the scale was taken from; ``none``: the image is taken to show as much ground as a training photo."""
    pixel: tuple[float, float] | None
    """(height, width) in metres of a pixel; None where unknown."""
    photo_size: tuple[float, float]
    """(height, width), in this image's pixels, of the ground that one training photo shows."""


def find_scale(item: Input, training: Training, network_size: tuple[int, int], gsd: float | None) -> Scale:
    """Compare an image's pixels with the ground that a training photo shows.

    Args:
        item: the image.
        training: the photos that the networks were trained on.
        network_size: (height, width) in pixels to which these were resized.
        gsd: metres of a pixel, from ``--gsd``; what the file says if None.

    Raises:
        HarveysegError: when objects would be far smaller or larger than the networks know them.
    """
    if gsd is not None and not 0 < gsd < math.inf:
        raise HarveysegError(f"gsd: {100 * gsd:g} cm cannot be the ground that a pixel shows; give a number above 0.")
    origin, pixel = _pixel_size(item, gsd)
    if training.ground is None and gsd is not None:
        raise HarveysegError(
            "--gsd: the ground that a training photo shows is not known here. Give it with --ground, or in data.ground "
            "of params.yaml."
        )
    if pixel is None or training.ground is None:
        return Scale("none", pixel, (float(item.size[0]), float(item.size[1])))
    high, wide = training.ground
    photo_size, turned = ((metres[0] / pixel[0], metres[1] / pixel[1]) for metres in ((high, wide), (wide, high)))
    if not item.georeference and (_same(item.size, photo_size) or _same(item.size, turned)):
        photo_size = (float(item.size[0]), float(item.size[1]))
    ratios = [own / trained for own, trained in zip(item.size, photo_size, strict=True)]
    _check(item, max(1 / ratio for ratio in ratios), "{:.1f} times less ground than a training photo")
    enlargement = max(side / trained for side, trained in zip(network_size, photo_size, strict=True))
    _check(item, enlargement, "pixels {:.1f} times as large as those that the networks were trained on")
    return Scale(origin, pixel, photo_size)


def warn_of_odd_ground(training: Training) -> None:
    """Say so where the ground of the training photos has another shape than their pixels: height and width swapped.

    >>> warn_of_odd_ground(Training((80.0, 60.0), frozenset({(4000, 3000)})))
    """
    if training.ground is None or not training.sizes:
        return
    high, wide = training.ground
    odd = {size: high / size[0] * size[1] / wide for size in training.sizes}
    if all(max(ratio, 1 / ratio) > _SQUARE for ratio in odd.values()):
        height, width = max(training.sizes)
        logger.warning(
            "a training photo is said to show %g x %g m of ground (height x width), but is %d pixels high and %d wide, "
            "so that things would be %.1f times too large one way: correct data.ground, or give --ground, perhaps "
            "%gx%g",
            high, wide, height, width, max(odd[height, width], 1 / odd[height, width]), wide, high,
        )  # fmt: skip


def warn_of_unknown_scales(items: list[Input], scales: list[Scale], training: Training) -> None:
    """Say once which images are taken to show as much ground as a training photo, and which of them hardly do."""
    unknown = [item for item, scale in zip(items, scales, strict=True) if scale.origin == "none"]
    if not unknown:
        return
    unlike = [
        item for item in unknown if training.sizes and not any(_alike(item.size, size) for size in training.sizes)
    ]
    if unlike:
        height, width = max(training.sizes)
        logger.warning(
            "%d of %d images have another size or shape than the training photos (%d x %d pixels), e.g. %s with "
            "%d x %d. Without a known scale each is taken to show as much ground as one of them, and shrunk to one "
            "input of the networks. Say how large a pixel is: --gsd, and --ground where that of the training is not "
            "known.",
            len(unlike), len(items), width, height, unlike[0].path, unlike[0].size[1], unlike[0].size[0],
        )  # fmt: skip
    else:
        logger.info(
            "%d of %d images have no known scale: each is taken to show as much ground as a training photo",
            len(unknown),
            len(items),
        )


def _same(size: tuple[int, int], expected: tuple[float, float]) -> bool:
    return all(1 / _SAME < own / other < _SAME for own, other in zip(size, expected, strict=True))


def _pixel_size(item: Input, gsd: float | None) -> tuple[Origin, tuple[float, float] | None]:
    if gsd is not None:
        return "--gsd", (gsd, gsd)
    if item.georeference is not None:
        return "georeference", item.georeference.pixel_size(item.size)
    if item.flight_ground is not None:
        return "flight height", (item.flight_ground[0] / item.size[0], item.flight_ground[1] / item.size[1])
    return "none", None


def _check(item: Input, ratio: float, what: str) -> None:
    text = f"{item.path}: shows {what.format(ratio)}"
    if ratio > REFUSE_BEYOND:
        raise HarveysegError(
            f"{text}; more than {REFUSE_BEYOND:g} times is not predicted. If its scale is wrong, give it with --gsd."
        )
    if ratio > WARN_BEYOND:
        logger.warning("%s: expect more errors", text)


def _alike(size: tuple[int, int], trained: tuple[int, int]) -> bool:
    """Whether two sizes are within a factor of 1.5, and of about the same shape, upright or not."""
    ratios = [own / side for own, side in zip(sorted(size), sorted(trained), strict=True)]
    return max(ratios) / min(ratios) < 1.1 and max(*ratios, 1 / min(ratios)) <= WARN_BEYOND
