"""Small TIFF files as the programs that make mosaics write them, and a photo with a drone's metadata."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from affine import Affine
from PIL import Image
from rasterio.enums import ColorInterp

UTM = "EPSG:32615"
"""The zone of Houston."""
EAST, NORTH = 270_000.0, 3_290_000.0


def grid(pixel: float = 0.05) -> Affine:
    """North up, ``pixel`` units a side."""
    return Affine(pixel, 0, EAST, 0, -pixel, NORTH)


def write_tiff(
    path: Path,
    bands: npt.NDArray[Any],
    crs: str | None = UTM,
    transform: Affine | None = None,
    colours: tuple[ColorInterp, ...] | None = None,
    mask: npt.NDArray[np.bool_] | None = None,
    **options: Any,
) -> Path:
    """Write bands (n, H, W) as they are, by default tiled and with a place on the ground."""
    profile: dict[str, Any] = {
        "driver": "GTiff", "count": len(bands), "height": bands.shape[1], "width": bands.shape[2], "dtype": bands.dtype,
        "crs": crs, "transform": grid() if transform is None and crs is not None else transform,
        "tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "DEFLATE",
    }  # fmt: skip
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "w", **(profile | options)) as file:
        if colours is not None:
            file.colorinterp = colours
        file.write(bands)
        if mask is not None:
            file.write_mask(mask)
    return path


RGBA = (ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha)


def red_half(height: int = 96, width: int = 160) -> npt.NDArray[np.uint8]:
    """Dark green, and red in the right half: uint8 (3, H, W)."""
    bands = np.full((3, height, width), 30, np.uint8)
    bands[1] = 60
    bands[0, :, width // 2 :] = 250
    return bands


def dji_xmp(height: str, pitch: str) -> bytes:
    """The metadata that a DJI camera writes."""
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description drone-dji:AbsoluteAltitude="+75.10" '
        f'drone-dji:RelativeAltitude="{height}" drone-dji:GimbalPitchDegree="{pitch}"/></x:xmpmeta>'
    ).encode()


def write_dji(
    path: Path, pixels: npt.NDArray[np.uint8], orientation: int = 1, height: str = "+60.00", pitch: str = "-90.00"
) -> Path:
    """Write a JPEG of RGB pixels (H, W, 3) with the flight height, and a lens equivalent to 26 mm."""
    exif = Image.Exif()
    exif[0x010F], exif[0x0110] = "DJI", "FC6310"  # maker and model
    exif[0x0112] = orientation
    exif.get_ifd(0x8769)[0xA405] = 26
    Image.fromarray(pixels).save(path, quality=100, subsampling=0, exif=exif, xmp=dji_xmp(height, pitch))
    return path
