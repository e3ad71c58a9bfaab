"""Someone's own layers of buildings and roads: read near a map, with all their columns."""

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import geopandas
import numpy as np
import pandas as pd
import pyogrio
import shapely

from harveyseg.arrays import BoolArray
from harveyseg.errors import HarveysegError

LayerKind = Literal["buildings", "roads"]
GEOMETRIES: dict[LayerKind, tuple[str, ...]] = {
    "buildings": ("Polygon", "MultiPolygon"),
    "roads": ("LineString", "MultiLineString"),
}
_GEOPACKAGE = ("fid", "geom", "geometry")
"""Names of columns that a GeoPackage and geopandas keep for themselves."""
_SAME = 0.9
"""Footprints that share so much of the area that they cover together are one building, drawn twice."""


class OwnLayer(NamedTuple):
    """What of someone's file is near a map."""

    features: geopandas.GeoDataFrame
    """Of the right kind, with a place; columns as in the file, and ``fid`` where the format has one."""
    total: int
    """Features in the whole file."""
    other_kinds: int
    """Features near the map that are of another kind, such as points."""


def read_layer(path: Path, kind: LayerKind, around: geopandas.GeoDataFrame) -> OwnLayer:
    """Read someone's buildings or roads, in any vector format, near a map.

    Args:
        path: the file.
        kind: what it must hold: polygons or lines.
        around: the polygons of the map.

    Raises:
        HarveysegError: when it cannot be read, has no coordinate reference system, is of another kind, or has several
            layers of this kind.
    """
    try:
        layer = _choose_layer(path, kind)
        info = pyogrio.read_info(path, layer=layer, force_feature_count=True)
        if info["geometry_type"] is None:
            raise HarveysegError(f"{path}: holds a table without geometries. --{kind} needs {GEOMETRIES[kind][0]}s.")
        if not info["crs"]:
            raise HarveysegError(
                f"{path}: has no coordinate reference system, so nobody knows where on earth it lies. Save it as "
                "GeoPackage or GeoJSON with one, or put the shapefile's .prj next to it."
            )
        frame = _read_features(path, layer, info, around)
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError, OSError) as error:
        raise HarveysegError(f"{path}: not a vector file that can be read ({error}).") from None
    frame = frame[frame.geometry.notna() & ~frame.geometry.is_empty]
    right = frame.geom_type.isin(GEOMETRIES[kind])
    if len(frame) and not right.any():
        found = ", ".join(sorted(frame.geom_type.unique()))
        raise HarveysegError(f"{path}: holds {found}; --{kind} needs {GEOMETRIES[kind][0]}s.")
    return OwnLayer(frame[right].reset_index(drop=True), int(info["features"]), int((~right).sum()))


def _choose_layer(path: Path, kind: LayerKind) -> str:
    """The only layer of a file, or the only one of the kind: another one would be assessed without a word."""
    layers = [(str(name), geometry) for name, geometry in pyogrio.list_layers(path)]
    fitting = [name for name, geometry in layers if str(geometry).split(" ")[0].removesuffix("Z") in GEOMETRIES[kind]]
    names = fitting or [name for name, _ in layers]
    if len(names) != 1:
        raise HarveysegError(
            f"{path}: has {len(names)} layers that could be the {kind}: {', '.join(names)}. Save the one that you mean "
            "as a file of its own."
        )
    return names[0]


def _read_features(path: Path, layer: str, info: dict[str, Any], around: geopandas.GeoDataFrame) -> Any:
    options = {"layer": layer, "bbox": tuple(around.to_crs(info["crs"]).total_bounds)}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="More than one layer")
        frame = pyogrio.read_dataframe(path, fid_as_index=True, **options)
        if "geometry" in info["fields"]:  # the shapes have taken its place
            own = pyogrio.read_dataframe(path, columns=["geometry"], read_geometry=False, fid_as_index=True, **options)
            own = own.rename(columns={"geometry": "own_geometry"})
            frame = frame.join(own)
    if info["fid_column"]:
        frame.insert(0, "fid", frame.index.to_numpy())
    return frame


def keep_columns(layer: geopandas.GeoDataFrame, added: Iterable[str]) -> tuple[geopandas.GeoDataFrame, dict[str, str]]:
    """Rename the columns whose names the output needs for itself, or that a GeoPackage cannot tell apart.

    Args:
        layer: someone's layer; its geometries end up in the column ``geometry``.
        added: names of the columns that the assessment adds.

    Returns:
        The layer, and the new names by the old ones.

    Example:
        >>> shape = shapely.box(0, 0, 1, 1)
        >>> layer = geopandas.GeoDataFrame({"State": ["TX"], "name": ["a"]}, geometry=[shape])
        >>> keep_columns(layer, ["state"])[1]
        {'State': 'own_State'}
    """
    taken = {name.lower() for name in (*added, *_GEOPACKAGE)}
    columns = [str(name) for name in layer.columns if name != layer.geometry.name]
    clashing = []
    for name in columns:
        if name.lower() in taken:
            clashing.append(name)
        taken.add(name.lower())
    renamed = {}
    for name in clashing:
        new, number = f"own_{name}", 2
        while new.lower() in taken:
            new, number = f"own_{name}_{number}", number + 1
        taken.add(new.lower())
        renamed[name] = new
    own = layer.drop(columns=layer.geometry.name).rename(columns=renamed)
    return geopandas.GeoDataFrame(own, geometry=layer.geometry.to_numpy(), crs=layer.crs), renamed


def repeated(shapes: Any) -> BoolArray:
    """Which shapes are an earlier one again: equal lines, in either direction, or polygons that nearly coincide.

    >>> repeated([shapely.box(0, 0, 10, 10), shapely.box(5, 0, 15, 10), shapely.box(0, 0, 10, 9.9)])
    array([False, False,  True])
    """
    shapes = np.asarray(shapes, object)
    again = np.zeros(len(shapes), np.bool_)
    if not len(shapes):
        return again
    if (shapely.get_dimensions(shapes) < 2).all():
        return pd.Series(shapely.to_wkb(shapely.normalize(shapes))).duplicated().to_numpy()
    first, second = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    first, second = first[first < second], second[first < second]
    areas = shapely.area(shapes)
    shared = shapely.area(shapely.intersection(shapes[first], shapes[second]))
    together = areas[first] + areas[second] - shared
    same = shared >= _SAME * np.maximum(together, 1e-9)
    again[second[same]] = True
    return again
