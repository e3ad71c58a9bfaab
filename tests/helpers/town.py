"""A drawn town, 120 x 80 m at 10 cm, whose flooded houses and roads are known."""

import geopandas
import numpy as np
import shapely

from harveyseg.arrays import ClassMap
from harveyseg.classes import HARVEY25, IGNORED
from helpers.rasters import EAST, NORTH, UTM

PIXEL = 0.1

HOUSES = {
    # name: (left, top) in metres of a house of 10 x 8 m, and its state
    "in the flood": (46.0, 10.0, "in water"),
    "in the flood, too": (46.0, 56.0, "in water"),
    "in the pond": (95.0, 60.0, "in water"),
    "at the flood's edge": (62.8, 22.0, "touched"),
    "dry 1": (5.0, 10.0, "dry"),
    "dry 2": (20.0, 10.0, "dry"),
    "dry 3": (85.0, 10.0, "dry"),
    "dry 4": (100.0, 10.0, "dry"),
    "under trees": (8.0, 60.0, "unknown"),
}


def _fill(town: ClassMap, name: str, left: float, top: float, width: float, height: float) -> None:
    columns = slice(round(left / PIXEL), round((left + width) / PIXEL))
    rows = slice(round(top / PIXEL), round((top + height) / PIXEL))
    town[rows, columns] = HARVEY25.names.index(name)


def draw_town() -> ClassMap:
    """uint8 (800, 1200); 255 in a corner that was not seen."""
    town = np.full((800, 1200), HARVEY25.names.index("Grass"), np.uint8)
    _fill(town, "Road / Highway", 0, 40, 120, 6)
    _fill(town, "Flooded", 38, 0, 24, 80)  # over the road: 24 m of it are water
    _fill(town, "Water Body", 90, 55, 20, 18)
    _fill(town, "Trees / Shrubs", 4, 56, 18, 16)
    for left, top, _ in HOUSES.values():
        _fill(town, "Property Roof", left, top, 10, 8)
        _fill(town, "Solar Panels", left + 1, top + 3, 8, 1)  # would cut the roof in two
        _fill(town, "Chimney", left + 7, top + 6, 0.8, 0.8)
    _fill(town, "Vehicle", 75, 41, 4, 2)
    town[:80, 1150:] = IGNORED
    return town


def footprints() -> geopandas.GeoDataFrame:
    """The houses as a registry has them, with their names."""
    boxes = [
        shapely.box(EAST + left, NORTH - top - 8, EAST + left + 10, NORTH - top) for left, top, _ in HOUSES.values()
    ]
    return geopandas.GeoDataFrame({"name": list(HOUSES)}, geometry=boxes, crs=UTM)


def road_lines() -> geopandas.GeoDataFrame:
    """The road's middle line, which goes on beyond the map, and a footpath on dry ground."""
    lines = [
        shapely.LineString([(EAST - 500, NORTH - 43), (EAST + 620, NORTH - 43)]),
        shapely.LineString([(EAST + 30, NORTH - 50), (EAST + 30, NORTH - 70)]),
    ]
    return geopandas.GeoDataFrame({"kind": ["street", "path"], "bridge": ["no", "no"]}, geometry=lines, crs=UTM)
