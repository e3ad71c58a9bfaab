"""Which buildings stand in water, and where roads are cut, from the polygons of a class map.

A class map has one class for each pixel, so roofs and water never overlap: what counts is a ring around the building.
Roads under water are labelled as flooded, so roads themselves come from a layer of lines; without one, only places
where road and flood meet can be named.
"""

import itertools
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import geopandas
import numpy as np
import pandas as pd
import shapely

from harveyseg.arrays import BoolArray, FloatArray
from harveyseg.geo.ground import local_crs
from harveyseg.geo.own_layers import GEOMETRIES, keep_columns, repeated

ROOF = (
    "Property Roof", "Solar Panels", "Chimney", "Window", "Satellite Antenna",
    "Building Non-Flooded", "Building Flooded",
    "Building No Damage", "Building Minor Damage", "Building Major Damage", "Building Total Destruction",
)  # fmt: skip
"""The roof of a building and what lies on it, which would cut it up, in the built-in lists of classes."""
FLOODED = ("Flooded", "Road Flooded")
WATER = ("Water Body", "Water")
ROAD = ("Road / Highway", "Road Non-Flooded", "Road Clear", "Road Blocked", "Road")
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

_BUILDING_COLUMNS = ("state", "area_m2", "seen_share", "flood_share", "water_share", "duplicate")
_ROAD_COLUMNS = ("road", "state", "length_m", "cut", "duplicate")


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
    """state, area_m2, and as shares of the ring: seen_share, and of what was seen flood_share and water_share. Of
    footprints also all of their own columns, and whether they are the duplicate of another one."""
    roads: geopandas.GeoDataFrame
    """With lines: their own columns, road (the line's number), state, length_m, cut, duplicate. Without: points, state
    "check here", length_m."""
    summary: dict[str, float]
    """Buildings by state, metres of road by state, cuts, square metres of what was seen, flooded and open water.
    Duplicates do not count."""
    notes: tuple[str, ...]
    """What to know about the given layers: duplicates, renamed columns, buildings of several parts or at the edge."""


def assess(
    polygons: geopandas.GeoDataFrame,
    buildings: geopandas.GeoDataFrame | None = None,
    roads: geopandas.GeoDataFrame | None = None,
) -> Assessment:
    """Decide for each building and road whether it is in water.

    A building is *in water* if half of the visible ring of 2 m around it is flooded or open water, *touched* from a
    tenth on, else *dry*; *unknown* if less than half of the ring is visible. A road is walked in steps of 1 m: a step
    is in water if half of a disc of 2 m is, and at least 3 m of these cut the road.

    One building is one footprint, with all its parts. What is given twice is kept, marked and counted once: footprints
    that share 90 % of the area that they cover together, and equal lines. Own columns whose names are needed here get
    the prefix ``own_``.

    Args:
        polygons: of a class map, with the columns class and area_m2; see :func:`harveyseg.geo.polygons.class_polygons`.
        buildings: footprints; the roofs of the map if None.
        roads: lines; None if there are none.

    Returns:
        Geometries are in the coordinate reference system of ``polygons``.
    """
    metric = polygons.to_crs(_metric_crs(polygons))
    notes: list[str] = []
    if buildings is None:
        footprints = _roofs(metric)
    else:
        kept, renamed = keep_columns(buildings, _BUILDING_COLUMNS)
        footprints = _near_map(kept.to_crs(metric.crs), metric)
        notes += _renamed_note("buildings", renamed)
    assessed = _assess_buildings(footprints, metric)
    if buildings is not None:
        assessed["duplicate"] = repeated(footprints.geometry.to_numpy())
        notes += _footprint_notes(assessed, metric)
    if roads is None:
        walked = _flood_contacts(metric)
    else:
        kept, renamed = keep_columns(roads, _ROAD_COLUMNS)
        lines = _near_map(kept.to_crs(metric.crs), metric).explode(ignore_index=True)
        lines = lines[lines.length > 0].reset_index(drop=True)
        again = repeated(lines.geometry.to_numpy())
        walked = _walk_roads(lines, metric, again)
        notes += _renamed_note("roads", renamed)
        if again.any():
            notes.append(f"{int(again.sum())} of the lines are there twice and count once (column duplicate)")
    summary = _summary(polygons, assessed, walked, with_lines=roads is not None)
    return Assessment(assessed.to_crs(polygons.crs), walked.to_crs(polygons.crs), summary, tuple(notes))


def _summary(
    polygons: geopandas.GeoDataFrame,
    buildings: geopandas.GeoDataFrame,
    roads: geopandas.GeoDataFrame,
    with_lines: bool,
) -> dict[str, float]:
    area = polygons.groupby("class")["area_m2"].sum()
    counted = buildings[~buildings["duplicate"]] if "duplicate" in buildings else buildings
    summary = {
        "seen_m2": float(area.sum()),
        "flooded_m2": float(area.reindex(FLOODED).sum()),
        "water_m2": float(area.reindex(WATER).sum()),
        **{f"buildings_{state.replace(' ', '_')}": float((counted["state"] == state).sum()) for state in _STATES},
    }
    if not with_lines:
        return {**summary, "flood_meets_road": float(len(roads))}
    once = roads[~roads["duplicate"].astype(bool)]
    lengths = once.groupby("state")["length_m"].sum()
    summary |= {f"road_{state}_m": float(lengths.get(state, 0.0)) for state in ("water", "dry", "unseen")}
    summary["road_cut_m"] = float(once.loc[once["cut"], "length_m"].sum())
    summary["road_cuts"] = float(once["cut"].sum())
    return summary


def _renamed_note(kind: str, renamed: dict[str, str]) -> list[str]:
    columns = ", ".join(f"{old} is {new}" for old, new in renamed.items())
    return [f"own columns of the {kind} that have other names in the output: {columns}"] if renamed else []


def _footprint_notes(footprints: geopandas.GeoDataFrame, metric: geopandas.GeoDataFrame) -> list[str]:
    shapes = footprints.geometry.to_numpy()
    parts = shapely.get_num_geometries(shapes)
    beyond = ~shapely.within(shapes, shapely.box(*metric.total_bounds))
    notes = []
    if again := int(footprints["duplicate"].sum()):
        notes.append(f"{again} footprints are another one again and count once (column duplicate)")
    if several := int((parts > 1).sum()):
        notes.append(
            f"{several} footprints have several parts, {int(parts[parts > 1].sum())} in all, and count as one building "
            "each; divide them where each part is a building"
        )
    if cut := int(beyond.sum()):
        notes.append(
            f"{cut} footprints reach beyond the map; where less than half of the ring was seen they are unknown"
        )
    return notes


def _metric_crs(polygons: geopandas.GeoDataFrame) -> str:
    """The zone of UTM, as WKT; where there is none, near the poles, a system around the map."""
    try:
        return str(polygons.estimate_utm_crs().to_wkt())
    except RuntimeError:
        west, south, east, north = polygons.total_bounds
        return local_crs(polygons.crs.to_wkt(), (west + east) / 2, (south + north) / 2)


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


def _walk_roads(
    lines: geopandas.GeoDataFrame, metric: geopandas.GeoDataFrame, duplicate: BoolArray
) -> geopandas.GeoDataFrame:
    """Divide each line where its state changes; columns of its own, such as bridge, are kept."""
    rows: list[dict[str, Any]] = []
    own: list[int] = []
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
            own.append(number)
            rows.append({"road": number, "state": str(state[start]), "geometry": piece})
    pieces = pd.DataFrame(rows, columns=["road", "state", "geometry"])
    columns = own_columns.iloc[own].reset_index(drop=True)  # their types are kept: large numbers are no floats
    walked = geopandas.GeoDataFrame(columns.join(pieces), geometry="geometry", crs=metric.crs)
    walked["length_m"] = walked.length
    walked["cut"] = (walked["state"] == "water") & (walked["length_m"] >= _SHORTEST_CUT)
    walked["duplicate"] = duplicate[own]
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
    if near.geom_type.isin(GEOMETRIES["roads"]).all():
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
