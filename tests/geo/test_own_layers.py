"""Layers as people have them: elsewhere, twice, in parts, with columns of any name; geopandas reads them back."""

import json
from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
import pytest
import shapely

from harveyseg.classes import HARVEY25, IGNORED
from harveyseg.errors import HarveysegError
from harveyseg.geo.assessment import assess
from harveyseg.geo.ground import parse_crs
from harveyseg.geo.own_layers import read_layer
from harveyseg.geo.polygons import class_polygons
from harveyseg.geo.vector_files import write_geopackage
from helpers.rasters import EAST, NORTH, UTM, grid
from helpers.town import HOUSES, PIXEL, draw_town, footprints, road_lines

CLASHING = ("state", "Area_m2", "seen_share", "flood_share", "road", "length_m", "cut", "duplicate", "fid", "geom")


@pytest.fixture(scope="module")
def polygons() -> geopandas.GeoDataFrame:
    town = draw_town()
    return class_polygons(town, town != IGNORED, HARVEY25, grid(PIXEL), parse_crs(UTM), PIXEL**2)


def write_geojson(path: Path, layer: geopandas.GeoDataFrame, properties: list[dict[str, object]]) -> Path:
    """By hand, since geopandas has no two columns of the name geometry."""
    features = [
        {"type": "Feature", "properties": own, "geometry": shapely.geometry.mapping(shape)}
        for own, shape in zip(properties, layer.to_crs(4326).geometry, strict=True)
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


@pytest.mark.parametrize("layer", ["buildings", "roads"])
def test_no_column_is_lost_or_replaced(tmp_path: Path, polygons: geopandas.GeoDataFrame, layer: str) -> None:
    given = footprints() if layer == "buildings" else road_lines()
    names = [*CLASHING, "geometry", "GEOMETRY", "STATE", "own_state", "osm", "height"]
    properties: list[dict[str, object]] = [
        {**{name: f"{name} {number}" for name in names}, "osm": 9007199254740993 + number, "height": 2.5}
        for number in range(len(given))
    ]
    path = write_geojson(tmp_path / "own.geojson", given, properties)
    read = read_layer(path, "buildings" if layer == "buildings" else "roads", polygons)
    found = assess(polygons, read.features, None) if layer == "buildings" else assess(polygons, None, read.features)
    write_geopackage(tmp_path / "out.gpkg", {"buildings": found.buildings, "roads": found.roads})
    out = geopandas.read_file(tmp_path / "out.gpkg", layer=layer)
    numbers = (out["osm"] - 9007199254740993).tolist()  # no float holds it
    assert set(numbers) == set(range(len(given)))
    assert (out["height"] == 2.5).all()
    values = [set(out[column].astype(str)) for column in out.columns if column != "geometry"]
    for name in set(names) - {"osm", "height"}:
        assert {f"{name} {number}" for number in range(len(given))} in values, name
    assert set(out["state"]) <= {"in water", "touched", "dry", "unknown", "water", "unseen"}
    (renamed,) = [note for note in found.notes if "other names" in note]
    assert "fid is own_fid" in renamed
    assert "state is own_state_2" in renamed


def test_the_number_of_a_geopackages_row_is_kept(tmp_path: Path, polygons: geopandas.GeoDataFrame) -> None:
    houses = footprints()
    houses.index = pd.Index(np.arange(100, 100 + len(houses)), name="fid")
    houses.to_file(tmp_path / "own.gpkg", index=True)
    found = assess(polygons, read_layer(tmp_path / "own.gpkg", "buildings", polygons).features)
    assert dict(zip(found.buildings["name"], found.buildings["own_fid"], strict=True)) == dict(
        zip(houses["name"], houses.index, strict=True)
    )


def test_what_is_there_twice_counts_once(polygons: geopandas.GeoDataFrame) -> None:
    once = assess(polygons, footprints(), road_lines())
    assert once.notes == ()
    moved = footprints().set_geometry(footprints().translate(0.2))  # another survey
    turned = road_lines().set_geometry(road_lines().reverse())
    twice = assess(
        polygons,
        pd.concat([footprints(), footprints(), moved], ignore_index=True),
        pd.concat([road_lines(), turned], ignore_index=True),
    )
    assert twice.summary == pytest.approx(once.summary)
    assert len(twice.buildings) == 3 * len(HOUSES)  # kept, and marked
    assert twice.buildings["duplicate"].sum() == 2 * len(HOUSES)
    assert [note.split(" ")[0] for note in twice.notes] == ["18", "2"]
    neighbours = footprints().iloc[:2].copy()
    neighbours.geometry = [
        shapely.box(EAST, NORTH - 10, EAST + 10, NORTH),
        shapely.box(EAST + 5, NORTH - 10, EAST + 15, NORTH),
    ]
    assert not assess(polygons, neighbours).buildings["duplicate"].any()  # they share a third


def test_a_building_of_several_parts_is_said(polygons: geopandas.GeoDataFrame) -> None:
    together = geopandas.GeoDataFrame(geometry=[shapely.MultiPolygon(list(footprints().geometry))], crs=UTM)
    found = assess(polygons, together)
    assert len(found.buildings) == 1
    assert any("1 footprints have several parts, 9 in all, and count as one building each" in n for n in found.notes)


def test_footprints_at_the_edge(polygons: geopandas.GeoDataFrame) -> None:
    edge = geopandas.GeoDataFrame(
        {"name": ["mostly out", "out"]},
        geometry=[
            shapely.box(EAST - 9, NORTH - 60, EAST + 1, NORTH - 50),
            shapely.box(EAST - 30, NORTH - 60, EAST - 20, NORTH - 50),
        ],
        crs=UTM,
    )
    found = assess(polygons, edge)
    assert dict(zip(found.buildings["name"], found.buildings["state"], strict=True)) == {"mostly out": "unknown"}
    assert any(note.startswith("1 footprints reach beyond the map") for note in found.notes)


def test_layers_without_a_place(tmp_path: Path, polygons: geopandas.GeoDataFrame) -> None:
    footprints().to_file(tmp_path / "own.shp")
    (tmp_path / "own.prj").unlink()
    with pytest.raises(HarveysegError, match=r"own\.shp: has no coordinate reference system"):
        read_layer(tmp_path / "own.shp", "buildings", polygons)
    footprints().drop(columns="geometry").to_csv(tmp_path / "own.csv")
    with pytest.raises(HarveysegError, match=r"own\.csv: holds a table without geometries"):
        read_layer(tmp_path / "own.csv", "buildings", polygons)


def test_files_of_several_layers(tmp_path: Path, polygons: geopandas.GeoDataFrame) -> None:
    path = tmp_path / "own.gpkg"
    road_lines().to_file(path, layer="first")
    footprints().to_file(path, layer="second")
    assert len(read_layer(path, "buildings", polygons).features) == len(HOUSES)
    assert len(read_layer(path, "roads", polygons).features) == 2
    footprints().iloc[:2].to_file(path, layer="third")
    with pytest.raises(HarveysegError, match="2 layers that could be the buildings: second, third"):
        read_layer(path, "buildings", polygons)
