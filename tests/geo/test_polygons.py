"""Polygons of class maps: a coverage, judged by shapely, with the areas of the pixels."""

from pathlib import Path

import cv2
import geopandas
import numpy as np
import pyogrio
import pytest
import shapely
from pyproj import Geod

from harveyseg.arrays import ClassMap
from harveyseg.classes import HARVEY25
from harveyseg.geo.ground import parse_crs
from harveyseg.geo.polygons import class_polygons
from harveyseg.geo.vector_files import read_geopackage_layer, write_geojson, write_geopackage
from helpers.rasters import UTM, grid

PIXEL = 0.3


def blobs(height: int = 300, width: int = 400, classes: int = 6) -> ClassMap:
    """Smooth regions that meet in threes and fours."""
    noise = np.random.default_rng(0).normal(size=(classes, height // 16, width // 16)).astype(np.float32)
    smooth = [cv2.resize(layer, (width, height), interpolation=cv2.INTER_CUBIC) for layer in noise]
    return np.asarray(np.argmax(smooth, axis=0), np.uint8)


def seen() -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    shown = np.ones((300, 400), bool)
    shown[:90, :150] = False
    shown[200:220, 200:230] = False
    return shown


def outline(class_map: ClassMap, crs: str = UTM, pixel: float = PIXEL) -> geopandas.GeoDataFrame:
    return class_polygons(class_map, seen(), HARVEY25, grid(pixel), parse_crs(crs), pixel**2)


def test_polygons_fit_together() -> None:
    polygons = outline(blobs())
    shapes = polygons.geometry.to_numpy()
    assert shapely.coverage_is_valid(shapes)
    assert shapely.is_valid(shapes).all()
    union = shapely.union_all(shapes)
    assert shapely.area(shapes).sum() == pytest.approx(union.area)  # no overlap
    assert union.area == pytest.approx(seen().sum() * PIXEL**2, rel=1e-3)  # no gap, and the hole stays
    assert shapely.get_num_interior_rings(shapely.get_parts(union)).sum() == 1


def test_the_areas_of_the_classes_are_those_of_the_pixels() -> None:
    class_map = blobs()
    polygons = outline(class_map)
    for class_id, own in polygons.groupby("class_id"):
        pixels = int((class_map[seen()] == class_id).sum())
        assert own["area_m2"].sum() == pytest.approx(pixels * PIXEL**2, rel=0.02)
        assert set(own["class"]) == {HARVEY25.names[int(str(class_id))]}
    geod = Geod(ellps="WGS84")
    first = polygons.to_crs(4326).geometry.iloc[0]
    assert polygons["area_m2"].iloc[0] == pytest.approx(abs(geod.geometry_area_perimeter(first)[0]))


def test_borders_are_where_the_classes_are_and_straight_ones_have_no_vertices() -> None:
    class_map = np.zeros((300, 400), np.uint8)
    class_map[120:180, 100:300] = 23
    flooded = outline(class_map).query("class_id == 23")
    left, top, right, bottom = 270_000 + 30, 3_290_000 - 36, 270_000 + 90, 3_290_000 - 54
    assert flooded.geometry.iloc[0].equals(shapely.box(left, bottom, right, top))
    assert shapely.get_num_coordinates(flooded.geometry.iloc[0]) == 5


def test_small_patches_become_part_of_their_surroundings() -> None:
    class_map = np.zeros((300, 400), np.uint8)
    class_map[250:253, 50:53] = 4  # 0.81 square metres
    class_map[250:254, 90:93] = 4  # 1.08
    assert list(outline(class_map)["class_id"]) == [0, 4]
    assert list(outline(class_map)["area_m2"])[1] == pytest.approx(1.08, rel=0.01)


def test_web_mercator_does_not_enlarge_areas() -> None:
    x, y = geopandas.GeoSeries.from_xy([270_000], [3_290_000], crs=UTM).to_crs(3857).iloc[0].coords[0]
    transform = grid(PIXEL) @ grid(1).identity()
    moved = type(transform)(PIXEL, 0, x, 0, -PIXEL, y)
    found = class_polygons(
        np.zeros((300, 400), np.uint8), seen(), HARVEY25, moved, parse_crs("EPSG:3857"), PIXEL**2 / 1.33
    )
    assert found["area_m2"].sum() == pytest.approx(seen().sum() * PIXEL**2 * np.cos(np.radians(29.72)) ** 2, rel=0.005)


def test_files(tmp_path: Path) -> None:
    polygons = outline(blobs())
    none = polygons.iloc[:0]
    write_geopackage(tmp_path / "map.gpkg", {"classes": polygons, "buildings": none, "summary": polygons[["area_m2"]]})
    layers = dict(pyogrio.list_layers(tmp_path / "map.gpkg"))
    assert layers["classes"] == "MultiPolygon"
    assert set(layers) == {"classes", "buildings", "summary"}
    read = read_geopackage_layer(tmp_path / "map.gpkg", "classes")
    assert read.crs.to_epsg() == 32615
    assert shapely.coverage_is_valid(shapely.get_parts(read.geometry.to_numpy()))
    assert list(read["class_id"]) == list(polygons["class_id"])
    write_geojson(tmp_path / "map.geojson", polygons)
    text = (tmp_path / "map.geojson").read_text()
    assert '"crs"' not in text  # RFC 7946, section 4
    rings = geopandas.read_file(tmp_path / "map.geojson")
    assert rings.crs.to_epsg() == 4326
    assert rings.total_bounds == pytest.approx(polygons.to_crs(4326).total_bounds, abs=1e-6)
    assert all(shapely.is_ccw(shapely.get_exterior_ring(shape)) for shape in rings.geometry)
