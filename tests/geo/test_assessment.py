"""What stands in water in a town that was drawn."""

from pathlib import Path

import geopandas
import numpy as np
import pytest
import shapely

from harveyseg.classes import HARVEY25, IGNORED
from harveyseg.errors import HarveysegError
from harveyseg.geo.assessment import assess
from harveyseg.geo.ground import parse_crs
from harveyseg.geo.own_layers import read_layer
from harveyseg.geo.polygons import class_polygons
from helpers.rasters import EAST, NORTH, UTM, grid
from helpers.town import HOUSES, PIXEL, draw_town, footprints, road_lines


def polygons_of(town: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> geopandas.GeoDataFrame:
    return class_polygons(town, town != IGNORED, HARVEY25, grid(PIXEL), parse_crs(UTM), PIXEL**2)


@pytest.fixture(scope="module")
def polygons() -> geopandas.GeoDataFrame:
    return polygons_of(draw_town())


def states(buildings: geopandas.GeoDataFrame) -> dict[str, str]:
    """The state of the building at each house's place."""
    joined = footprints().sjoin(buildings[["state", "geometry"]], predicate="intersects")
    return dict(zip(joined["name"], joined["state"], strict=True))


def test_the_houses_on_the_map(polygons: geopandas.GeoDataFrame) -> None:
    found = assess(polygons)
    assert len(found.buildings) == 9  # panels and chimneys cut no roof up
    assert states(found.buildings) == {name: state for name, (_, _, state) in HOUSES.items()}
    assert found.buildings["area_m2"].to_numpy() == pytest.approx(80, rel=0.02)
    counts = {name: count for name, count in found.summary.items() if name.startswith("buildings")}
    assert counts == {
        "buildings_in_water": 3, "buildings_touched": 1, "buildings_dry": 4, "buildings_unknown": 1,
    }  # fmt: skip
    pond = found.buildings[found.buildings["water_share"] > 0.5]
    assert len(pond) == 1
    assert pond["flood_share"].iloc[0] == 0
    assert (found.roads["state"] == "check here").all()
    assert len(found.roads) == 2  # the road goes into the flood and comes out of it
    assert found.summary["flood_meets_road"] == 2
    town = draw_town()
    assert found.summary["seen_m2"] == pytest.approx((town != IGNORED).sum() * PIXEL**2, rel=1e-3)
    flooded = (town == HARVEY25.names.index("Flooded")).sum() * PIXEL**2
    assert found.summary["flooded_m2"] == pytest.approx(flooded, rel=0.01)


def test_a_registry_and_a_road_network(polygons: geopandas.GeoDataFrame) -> None:
    found = assess(polygons, footprints(), road_lines())
    assert dict(zip(found.buildings["name"], found.buildings["state"], strict=True)) == {
        name: state for name, (_, _, state) in HOUSES.items()
    }
    cut = found.roads[found.roads["cut"]]
    assert list(cut["kind"]) == ["street"]
    assert cut["length_m"].iloc[0] == pytest.approx(24.0, abs=1.0)
    assert found.summary["road_cut_m"] == pytest.approx(24.0, abs=1.0)
    assert found.summary["road_cuts"] == 1
    street = found.roads[found.roads["kind"] == "street"]
    assert list(street["state"]) == ["dry", "water", "dry"]  # two pieces of the network
    assert street["length_m"].sum() == pytest.approx(120, abs=0.5)  # not what is beyond the map
    assert found.summary["road_dry_m"] == pytest.approx(120 - 24 + 20, abs=1.5)
    assert found.summary["road_unseen_m"] == 0
    assert list(found.roads["bridge"]) == ["no"] * 4


def test_where_nothing_was_seen_nothing_is_dry() -> None:
    town = draw_town()
    town[:, :600] = IGNORED
    found = assess(polygons_of(town), footprints(), road_lines())
    by_name = dict(zip(found.buildings["name"], found.buildings["state"], strict=True))
    assert by_name["dry 3"] == "dry"
    assert {by_name.get(name, "unknown") for name in ("dry 1", "dry 2", "under trees", "in the flood")} == {"unknown"}
    assert found.buildings.loc[found.buildings["state"] == "unknown", "flood_share"].isna().all()


def at_the_pole(geometry: shapely.Geometry) -> shapely.Geometry:
    """From the town's place to the south pole in EPSG:3031, whose units there are 0.97277 m."""
    return shapely.transform(geometry, lambda points: (points - (EAST, NORTH)) * 0.9727690)


def test_the_town_at_a_pole(polygons: geopandas.GeoDataFrame) -> None:
    """No zone of UTM reaches it."""
    polar, houses, roads = (
        layer.set_geometry([at_the_pole(shape) for shape in layer.geometry], crs="EPSG:3031")
        for layer in (polygons, footprints(), road_lines())
    )
    found = assess(polar, houses, roads)
    assert dict(zip(found.buildings["name"], found.buildings["state"], strict=True)) == {
        name: state for name, (_, _, state) in HOUSES.items()
    }
    assert found.buildings["area_m2"].to_numpy() == pytest.approx(80, rel=1e-4)
    assert found.summary["road_cut_m"] == pytest.approx(24.0, abs=1.0)
    assert found.buildings.crs == "EPSG:3031"


def test_metres_are_metres_in_any_system(polygons: geopandas.GeoDataFrame) -> None:
    for crs in ("EPSG:3857", "EPSG:2278", "EPSG:4326"):
        found = assess(polygons.to_crs(crs), footprints(), road_lines().to_crs(4326))
        assert found.buildings.crs == found.roads.crs == crs
        assert dict(zip(found.buildings["name"], found.buildings["state"], strict=True)) == {
            name: state for name, (_, _, state) in HOUSES.items()
        }
        assert found.summary["road_cut_m"] == pytest.approx(24.0, abs=1.0)


def test_a_map_without_buildings_and_water(polygons: geopandas.GeoDataFrame) -> None:
    grass = polygons[polygons["class"] == "Grass"]
    found = assess(grass)
    assert len(found.buildings) == len(found.roads) == 0
    assert found.summary["buildings_dry"] == found.summary["flood_meets_road"] == 0


def test_someone_elses_layers(tmp_path: Path, polygons: geopandas.GeoDataFrame) -> None:
    everywhere = footprints().to_crs(4326)
    far = everywhere.set_geometry(everywhere.translate(1))
    together = geopandas.GeoDataFrame(
        {"name": [*everywhere["name"], *far["name"], "bow tie", "none"]},
        geometry=[
            *everywhere.geometry,
            *far.geometry,
            shapely.affinity.affine_transform(
                shapely.Polygon([(0, 0), (1, 1), (1, 0), (0, 1)]), [1e-4, 0, 0, 1e-4, *everywhere.total_bounds[:2]]
            ),
            None,
        ],
        crs=4326,
    )
    together.to_file(tmp_path / "houses.geojson")
    layer = read_layer(tmp_path / "houses.geojson", "buildings", polygons)
    read = layer.features
    assert layer.total == 2 * len(HOUSES) + 2
    assert set(read["name"]) == {*HOUSES, "bow tie"}  # near the map, with a geometry
    assert len(assess(polygons, read).buildings) == 10
    with pytest.raises(HarveysegError, match=r"houses\.geojson: holds Polygon; --roads needs LineStrings"):
        read_layer(tmp_path / "houses.geojson", "roads", polygons)
    (tmp_path / "text.gpkg").write_text("no layer")
    for name in ("text.gpkg", "absent.gpkg"):
        with pytest.raises(HarveysegError, match=rf"{name}: not a vector file that can be read"):
            read_layer(tmp_path / name, "roads", polygons)
