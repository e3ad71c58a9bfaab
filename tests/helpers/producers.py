"""Mosaics as the programs that make them write them. A corner of each was not seen, and the file says so."""

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from affine import Affine
from rasterio.enums import ColorInterp

from helpers.rasters import RGBA

HEIGHT, WIDTH = 200, 260
SHOWN = np.ones((HEIGHT, WIDTH), bool)
SHOWN[:80, :120] = False
RGB, NIR, ALPHA = RGBA[:3], ColorInterp.nir, ColorInterp.alpha


def colours(seed: int = 0, low: int = 40, high: int = 200) -> npt.NDArray[np.uint8]:
    """Smooth colours (3, H, W) that are neither black nor white."""
    small = np.random.default_rng(seed).integers(low, high, (3, 9, 11)).astype(np.uint8)
    return np.stack([cv2.resize(band, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC) for band in small]).clip(
        low, high
    )


def hidden(value: int = 0, kind: Any = np.uint8) -> npt.NDArray[Any]:
    """The colours, with ``value`` where nothing was seen."""
    return np.where(SHOWN, colours(), value).astype(kind)


def alpha(kind: Any = np.uint8) -> npt.NDArray[Any]:
    return np.where(SHOWN, 255, 0).astype(kind)[None]


PRODUCERS: dict[str, tuple[npt.NDArray[Any], dict[str, Any]]] = {
    "OpenDroneMap: alpha": (np.concatenate([hidden(255), alpha()]), {"colours": RGBA}),
    "OpenDroneMap: 16 bit values of 8, alpha 255": (
        np.concatenate([hidden(0, np.uint16) * 257, alpha(np.uint16)]), {"colours": RGBA},
    ),
    "OpenDroneMap: multispectral": (
        np.concatenate([hidden(), hidden()[:1], alpha()]), {"colours": (*RGB, NIR, ALPHA)},
    ),
    "multispectral, blue first": (
        np.concatenate([hidden()[::-1], hidden()[:1], alpha()]), {"colours": (*RGB[::-1], NIR, ALPHA)},
    ),
    "nodata 0": (hidden(), {"nodata": 0}),
    "internal mask": (hidden(77), {"mask": SHOWN}),
    "strips, LZW, BigTIFF": (
        np.concatenate([hidden(), alpha()]),
        {"colours": RGBA, "tiled": False, "blockysize": 7, "compress": "LZW", "BIGTIFF": "YES", "blockxsize": WIDTH},
    ),
    "bands one after another": (hidden(), {"nodata": 0, "interleave": "band"}),
    "ZSTD": (hidden(), {"nodata": 0, "compress": "ZSTD"}),
    "LZMA": (hidden(), {"nodata": 0, "compress": "LZMA"}),
    "degrees": (hidden(), {"nodata": 0, "crs": "EPSG:4326", "transform": Affine(4.5e-7, 0, -95, 0, -4.5e-7, 29)}),
}  # fmt: skip
