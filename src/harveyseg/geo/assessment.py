"""Which buildings stand in water, and where roads are cut, from the polygons of a class map.

A class map has one class for each pixel, so roofs and water never overlap: what counts is a ring around the building.
Roads under water are labelled as flooded, so roads themselves come from a layer of lines; without one, only places
where road and flood meet can be named.
"""

import itertools
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import geopandas
import numpy as np
import pandas as pd
import pyogrio
import shapely

from harveyseg.arrays import FloatArray
from harveyseg.errors import HarveysegError
from harveyseg.geo.ground import local_crs

ROOF = (
    "Property Roof", "Solar Panels", "Chimney", "Window", "Satellite Antenna",
    "Building Non-Flooded", "Building Flooded",
    "Building No Damage", "Building Minor Damage", "Building Major Damage", "Building Total Destruction",
)  # fmt: skip
"""The roof of a building and what lies on it, which would cut it up, in the built-in lists of classes."""
FLOODED = ("Flooded", "Road Flooded")
WATER = ("Water Body", "Water")
ROAD = ("Road / Highway", "Road Non-Flooded", "Road Clear", "Road Blocked")
TREES = ("Trees / Shrubs", "Dense Vegetation / Forest", "Tree")
"""What hides the ground from above."""

RING = 2.0
"""Metres around a building in which water is looked for."""
_CLOSED_GAP = 0.3
_SMALLEST_BUILDING = 15.0
_DISC = 2.0
"""Metres around a point of a road."""
_STEP = 1.0
_SHORTEST_CUT = 3.0
_NEAR = 0.1
_STATES = ("in water", "touched", "dry", "unknown")

LayerKind = Literal["buildings", "roads"]
_GEOMETRIES: dict[LayerKind, tuple[str, ...]] = {
    "buildings": ("Polygon", "MultiPolygon"),
    "roads": ("LineString", "MultiLineString"),
}


def can_assess(names: Collection[str]) -> bool:
    """Whether a list of classes has buildings and water.

    >>> can_assess(["Property Roof", "Flooded"]), can_assess(["Property Roof", "Land"])
    (True, False)
    """
    return bool(first_known(ROOF, names) and first_known((*FLOODED, *WATER), names))


def first_known(role: Sequence[str], names: Collection[str]) -> str | None:
    """The first class of a role that is among some names."""
    return next((name for name in role if name in names), None)


class Assessment(NamedTuple):
    """What stands in water."""

    buildings: geopandas.GeoDataFrame
    """state, area_m2, and as shares of the ring: seen_share, and of what was seen flood_share and water_share."""
    roads: geopandas.GeoDataFrame
    """With lines: road (the line's number), state, length_m, cut. Without: points, state "check here", length_m."""
    summary: dict[str, float]
    """Buildings by state, metres of road by state, cuts, square metres of what was seen, flooded and open water."""


def assess(
    polygons: geopandas.GeoDataFrame,
    buildings: geopandas.GeoDataFrame | None = None,
    roads: geopandas.GeoDataFrame | None = None,
) -> Assessment:
    """Decide for each building and road whether it is in water.

    A building is *in water* if half of the visible ring of 2 m around it is flooded or open water, *touched* from a
    tenth on, else *dry*; *unknown* if less than half of the ring is visible. A road is walked in steps of 1 m: a step
    is in water if half of a disc of 2 m is, and at least 3 m of these cut the road.

    Args:
        polygons: of a class map, with the columns class and area_m2; see :func:`harveyseg.geo.polygons.class_polygons`.
        buildings: footprints; the roofs of the map if None.
        roads: lines; None if there are none.

    Returns:
        Geometries are in the coordinate reference system of ``polygons``.
    """
    metric = polygons.to_crs(_metric_crs(polygons))
    footprints = _roofs(metric) if buildings is None else _near_map(buildings.to_crs(metric.crs), metric)
    assessed = _assess_buildings(footprints, metric)
    if roads is None:
        walked = _flood_contacts(metric)
    else:
        lines = _near_map(roads.to_crs(metric.crs), metric).explode(ignore_index=True)
        walked = _walk_roads(lines, metric)
    area = polygons.groupby("class")["area_m2"].sum()
    summary = {
        "seen_m2": float(area.sum()),
        "flooded_m2": float(area.reindex(FLOODED).sum()),
        "water_m2": float(area.reindex(WATER).sum()),
        **{f"buildings_{state.replace(' ', '_')}": float((assessed["state"] == state).sum()) for state in _STATES},
    }
    if roads is None:
        summary["flood_meets_road"] = float(len(walked))
    else:
        lengths = walked.groupby("state")["length_m"].sum()
        summary |= {f"road_{state}_m": float(lengths.get(state, 0.0)) for state in ("water", "dry", "unseen")}
        summary["road_cut_m"] = float(walked.loc[walked["cut"], "length_m"].sum())
        summary["road_cuts"] = float(walked["cut"].sum())
    return Assessment(assessed.to_crs(polygons.crs), walked.to_crs(polygons.crs), summary)


def _metric_crs(polygons: geopandas.GeoDataFrame) -> str:
    """The zone of UTM, as WKT; where there is none, near the poles, a system around the map."""
    try:
        return str(polygons.estimate_utm_crs().to_wkt())
    except RuntimeError:
        west, south, east, north = polygons.total_bounds
        return local_crs(polygons.crs.to_wkt(), (west + east) / 2, (south + north) / 2)


def read_layer(path: Path, kind: LayerKind, around: geopandas.GeoDataFrame) -> geopandas.GeoDataFrame:
    """Read someone's buildings or roads, in any vector format, near a map.

    Args:
        path: the file.
        kind: what it must hold: polygons or lines.
        around: the polygons of the map.

    Raises:
        HarveysegError: when it cannot be read, or is of another kind.
    """
    try:
        layer = geopandas.read_file(path, bbox=around)
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError, OSError) as error:
        raise HarveysegError(f"{path}: not a vector file that can be read ({error}).") from None
    if layer.crs is None:
        raise HarveysegError(f"{path}: has no coordinate reference system. Save it as GeoPackage or GeoJSON.")
    layer = layer[layer.geometry.notna() & ~layer.geometry.is_empty]
    right = layer.geom_type.isin(_GEOMETRIES[kind])
    if len(layer) and not right.any():
        found = ", ".join(sorted(layer.geom_type.unique()))
        raise HarveysegError(f"{path}: holds {found}; --{kind} needs {_GEOMETRIES[kind][0]}s.")
    return layer[right].reset_index(drop=True)


def _roofs(metric: geopandas.GeoDataFrame) -> geopandas.GeoDataFrame:
    """Roofs with what lies on them, closed and without holes, of at least 15 square metres."""
    joined = geopandas.GeoSeries([shapely.union_all(_of(metric, ROOF))], crs=metric.crs).explode(ignore_index=True)
    grown = shapely.union_all(joined.buffer(_CLOSED_GAP, join_style="mitre").to_numpy())
    closed = geopandas.GeoSeries([grown.buffer(-_CLOSED_GAP, join_style="mitre")], crs=metric.crs)
    single = closed.explode(ignore_index=True)
    whole = [shapely.Polygon(roof.exterior) for roof in single if not roof.is_empty]
    frame = geopandas.GeoDataFrame(geometry=whole, crs=metric.crs)
    return frame[frame.area >= _SMALLEST_BUILDING].reset_index(drop=True)


def _assess_buildings(buildings: geopandas.GeoDataFrame, metric: geopandas.GeoDataFrame) -> geopandas.GeoDataFrame:
    outlines = buildings.geometry.to_numpy()
    rings = _without(shapely.buffer(outlines, RING), outlines)
    area = np.maximum(shapely.area(rings), 1e-9)
    seen = _covered(rings, metric.geometry.to_numpy()) - _covered(rings, _of(metric, TREES))
    visible = np.maximum(seen, 1e-9)
    flood = _covered(rings, _of(metric, FLOODED)) / visible
    water = _covered(rings, _of(metric, WATER)) / visible
    wet = flood + water
    state = np.select([seen / area < 0.5, wet >= 0.5, wet >= 0.1], ["unknown", "in water", "touched"], "dry")
    return buildings.assign(
        state=state,
        area_m2=shapely.area(outlines),
        seen_share=np.clip(seen / area, 0, 1),
        flood_share=np.where(state == "unknown", np.nan, np.minimum(flood, 1)),
        water_share=np.where(state == "unknown", np.nan, np.minimum(water, 1)),
    )


def _walk_roads(lines: geopandas.GeoDataFrame, metric: geopandas.GeoDataFrame) -> geopandas.GeoDataFrame:
    """Divide each line where its state changes; columns of its own, such as bridge, are kept."""
    rows: list[dict[str, Any]] = []
    everything, wet = metric.geometry.to_numpy(), _of(metric, (*FLOODED, *WATER))
    own_columns = lines.drop(columns=lines.geometry.name)
    for number, line in enumerate(lines.geometry):
        steps = max(1, round(line.length / _STEP))
        ends = np.linspace(0, line.length, steps + 1)
        discs = shapely.buffer(shapely.line_interpolate_point(line, (ends[:-1] + ends[1:]) / 2), _DISC)
        area = shapely.area(discs)
        seen = _covered(discs, everything) / area
        state = np.where(seen < 0.5, "unseen", np.where(_covered(discs, wet) / area >= 0.5, "water", "dry"))
        changes = np.flatnonzero(np.concatenate([[True], state[1:] != state[:-1], [True]]))
        for start, stop in itertools.pairwise(changes):
            piece = shapely.ops.substring(line, ends[start], ends[stop])
            own = own_columns.iloc[number].to_dict()
            rows.append({**own, "road": number, "state": str(state[start]), "geometry": piece})
    columns = [*own_columns.columns, "road", "state", "geometry"]
    walked = geopandas.GeoDataFrame(pd.DataFrame(rows, columns=columns), geometry="geometry", crs=metric.crs)
    walked["length_m"] = walked.length
    walked["cut"] = (walked["state"] == "water") & (walked["length_m"] >= _SHORTEST_CUT)
    return walked


def _flood_contacts(metric: geopandas.GeoDataFrame) -> geopandas.GeoDataFrame:
    """The middle of each line of at least 3 m along which road and flood meet."""
    road = shapely.union_all(_of(metric, ROAD))
    flood = shapely.union_all(_of(metric, FLOODED))
    meeting = shapely.line_merge(shapely.intersection(road.boundary, flood.buffer(_NEAR)))
    lines = [line for line in shapely.get_parts(meeting) if line.length >= _SHORTEST_CUT]
    return geopandas.GeoDataFrame(
        {"state": "check here", "length_m": [line.length for line in lines]},
        geometry=[line.interpolate(0.5, normalized=True) for line in lines],
        crs=metric.crs,
    )


def _near_map(layer: geopandas.GeoDataFrame, metric: geopandas.GeoDataFrame) -> geopandas.GeoDataFrame:
    """What of someone's layer touches the map's extent, with valid geometries; lines are cut at its border."""
    extent = shapely.box(*metric.total_bounds)
    near = layer[layer.intersects(extent)].reset_index(drop=True)
    geometry = shapely.make_valid(near.geometry.to_numpy())
    if near.geom_type.isin(_GEOMETRIES["roads"]).all():
        geometry = shapely.intersection(geometry, extent)
    return near.set_geometry(geopandas.GeoSeries(geometry, index=near.index, crs=layer.crs))


def _of(polygons: geopandas.GeoDataFrame, classes: Sequence[str]) -> Any:
    """The geometries of some classes."""
    return polygons.geometry[polygons["class"].isin(classes)].to_numpy()


def _without(rings: Any, outlines: Any) -> Any:
    """Each ring without any of the buildings."""
    ring_of, building = shapely.STRtree(outlines).query(rings, predicate="intersects")
    cut = rings.copy()
    for ring, own in pd.Series(building).groupby(ring_of):
        cut[ring] = shapely.difference(rings[ring], shapely.union_all(outlines[own]))
    return cut


def _covered(shapes: Any, parts: Any) -> FloatArray:
    """Area of each shape that is covered by ``parts``, which do not overlap, float64 (n,)."""
    if not len(parts):
        return np.zeros(len(shapes))
    shape, part = shapely.STRtree(parts).query(shapes, predicate="intersects")
    areas = shapely.area(shapely.intersection(shapes[shape], parts[part]))
    return np.bincount(shape, areas, len(shapes)).astype(np.float64)
