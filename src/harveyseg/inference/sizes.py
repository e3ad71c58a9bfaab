"""The sizes that networks take, and those of the maps that they return."""

import math

from torch import Tensor
from torch.nn import functional

from harveyseg.arrays import SIDE_MULTIPLE
from harveyseg.errors import HarveysegError


def round_up(side: int) -> int:
    """The next multiple of 32 from ``side`` on.

    >>> round_up(32), round_up(33)
    (32, 64)
    """
    return math.ceil(side / SIDE_MULTIPLE) * SIDE_MULTIPLE


def round_side(side: float) -> int:
    """The multiple of 32 that is nearest to ``side``, at least 32.

    >>> round_side(3), round_side(47.9), round_side(49)
    (32, 32, 64)
    """
    return max(1, round(side / SIDE_MULTIPLE)) * SIDE_MULTIPLE


def output_stride(photo: tuple[int, int], maps: Tensor) -> int:
    """How many times larger a photo is than the maps that a network returns for it, along each axis.

    Args:
        photo: (height, width) in pixels.
        maps: (B, C, H, W).

    Raises:
        HarveysegError: when the size of the maps is not a whole fraction of the photo's.
    """
    size = (maps.shape[2], maps.shape[3])
    stride = max(1, photo[0] // size[0])
    if photo != (size[0] * stride, size[1] * stride):
        raise HarveysegError(
            f"the network returns maps of {size[0]}x{size[1]} for a photo of {photo[0]}x{photo[1]} pixels; a whole "
            "fraction of its size was expected. Sizes divisible by 32 suit almost every network."
        )
    return stride


def resize_maps(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (B, C, H, W) bilinearly, pixel centres at half-integers; shrinking averages all pixels (antialias)."""
    if tuple(maps.shape[2:]) == size:
        return maps
    return functional.interpolate(maps, size, mode="bilinear", align_corners=False, antialias=True)
