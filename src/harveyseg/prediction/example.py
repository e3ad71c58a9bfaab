"""A drawn, georeferenced mosaic to try ``harveyseg predict`` and ``harveyseg assess`` on, with the truth next to it."""

from pathlib import Path

import geopandas
import numpy as np
import rasterio
import shapely
from affine import Affine
from rasterio.enums import ColorInterp

from harveyseg.classes import HARVEY25, IGNORED
from harveyseg.data.demo.town import GROUND_SIZE, Town, draw_town
from harveyseg.data.demo.world import Points
from harveyseg.errors import HarveysegError
from harveyseg.files import atomic, require_writable
from harveyseg.geo.class_raster import writing_class_raster
from harveyseg.geo.vector_files import write_geopackage

_CRS = "EPSG:32615"  # UTM 15 north, in which Houston lies
_WEST, _NORTH = 262_000.0, 3_295_000.0
_TRANSFORM = Affine.translation(_WEST, _NORTH) @ Affine.scale(GROUND_SIZE, -GROUND_SIZE)


def write_example(folder: Path, seed: int) -> list[Path]:
    """Draw a town half under water.

    Args:
        folder: made when absent.
        seed: the same seed gives the same town.

    Returns:
        ``mosaic.tif``: red, green, blue and alpha, 8 bits, UTM; ``buildings.gpkg``: footprints of the houses;
        ``roads.gpkg``: the middle lines of the streets; ``truth.tif``: the class map that a perfect network would give.

    Raises:
        HarveysegError: when the folder is not empty or cannot be written to.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise HarveysegError(f"{folder}: is not an empty folder. Name another one, or delete it.")
    require_writable(folder)
    town = draw_town(seed)
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / name for name in ("mosaic.tif", "truth.tif", "buildings.gpkg", "roads.gpkg")]
    mosaic, truth, buildings, roads = files
    _write_mosaic(mosaic, town)
    size = (town.mask.shape[0], town.mask.shape[1])
    with writing_class_raster(truth, size, _CRS, _TRANSFORM, HARVEY25, {"SOFTWARE": "harveyseg"}) as writer:
        writer.write(np.where(town.seen, town.mask, IGNORED)[None])
    houses = [shapely.union_all([shapely.Polygon(_place(box)) for box in house]) for house in town.footprints]
    _write_layer(buildings, houses)
    _write_layer(roads, [shapely.LineString(_place(line)) for line in town.streets])
    return files


def _write_mosaic(path: Path, town: Town) -> None:
    height, width = town.mask.shape
    with (
        atomic(path) as temporary,
        rasterio.open(
            temporary, "w", driver="GTiff", height=height, width=width, count=4, dtype="uint8", crs=_CRS,
            transform=_TRANSFORM, tiled=True, compress="DEFLATE", photometric="RGB",
        ) as file,
    ):  # fmt: skip
        file.colorinterp = (ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha)
        file.write(np.where(town.seen, town.photo.transpose(2, 0, 1), 0).astype(np.uint8), (1, 2, 3))
        file.write(np.where(town.seen, 255, 0).astype(np.uint8), 4)


def _write_layer(path: Path, shapes: list[shapely.Geometry]) -> None:
    """Number the shapes and write them as the only layer, which has the file's name."""
    extent = shapely.box(*rasterio.open(path.with_name("mosaic.tif")).bounds)
    frame = geopandas.GeoDataFrame({"number": range(1, len(shapes) + 1)}, geometry=shapes, crs=_CRS)
    write_geopackage(path, {path.stem: frame[frame.intersects(extent)]})


def _place(points: Points) -> Points:
    """Coordinates of the grid from positions in the mosaic."""
    return [_TRANSFORM @ point for point in points]
