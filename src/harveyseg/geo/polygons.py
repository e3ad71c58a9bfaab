"""Class maps as polygons that fit together: no gaps and no overlaps, with smooth borders."""

import geopandas
import numpy as np
import shapely
from affine import Affine
from rasterio.features import shapes, sieve

from harveyseg.arrays import BoolArray, ClassMap, FloatArray
from harveyseg.classes import ClassList
from harveyseg.geo.ground import ELLIPSOID

SMALLEST_AREA = 1.0
"""Square metres; smaller patches of a class become part of what surrounds them."""
_TOLERANCE = 1.5
"""Pixels; a border may move by about as much where it is simplified."""


def class_polygons(
    class_map: ClassMap, seen: BoolArray, classes: ClassList, transform: Affine, crs: str, pixel_area: float
) -> geopandas.GeoDataFrame:
    """Outline the classes of a map.

    Polygons are simplified together, as a coverage: each by itself, they would overlap and leave gaps. That only works
    in pixel coordinates, where neighbours have exactly equal vertices.

    Args:
        class_map: uint8 (H, W): indices of classes.
        seen: bool (H, W); the rest becomes no polygon.
        classes: the list of classes.
        transform: of this map's grid, from (column, row) to coordinates.
        crs: coordinate reference system as WKT.
        pixel_area: square metres of a pixel of this map.

    Returns:
        The columns class_id, class, area_m2 (geodesic) and geometry, sorted by class.
    """
    smallest = max(2, round(SMALLEST_AREA / pixel_area))
    mask = seen.astype(np.uint8)
    sieved = sieve(class_map, smallest, mask=mask, connectivity=4)
    indices: list[int] = []
    outlines: list[shapely.Polygon] = []
    for outline, index in shapes(sieved, mask=mask, connectivity=4):
        indices.append(int(index))
        outlines.append(shapely.Polygon(outline["coordinates"][0], outline["coordinates"][1:]))
    # Neighbours get a vertex at every pixel, so also where three of them meet; rasterio leaves those out. Segments are
    # divided with rounding errors, but all vertices are corners of pixels. One name, since each step takes much memory.
    borders = shapely.segmentize(outlines, 1.0)
    borders = shapely.transform(borders, np.rint)
    borders = shapely.coverage_simplify(borders, _TOLERANCE)
    placed = shapely.transform(borders, lambda pixels: np.stack(transform @ tuple(pixels.T), axis=1))
    frame = geopandas.GeoDataFrame(
        {
            "class_id": [classes.classes[index].id for index in indices],
            "class": [classes.names[index] for index in indices],
        },
        geometry=placed,
        crs=crs,
    )
    frame = frame[~frame.geometry.is_empty].sort_values("class_id", kind="stable", ignore_index=True)
    frame.insert(2, "area_m2", geodesic_areas(frame.geometry))
    return frame


def geodesic_areas(shapes_: geopandas.GeoSeries) -> FloatArray:
    """Square metres of each shape on the WGS 84 ellipsoid, float64 (n,), whatever the coordinate reference system."""
    # Holes must run the other way round than what they are in, or their area is added.
    oriented = shapely.orient_polygons(shapes_.to_crs(4326).to_numpy())
    return np.array([abs(ELLIPSOID.geometry_area_perimeter(shape)[0]) for shape in oriented], np.float64)
