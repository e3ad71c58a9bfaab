"""Sizes on the ground, against independent formulas and a projection that is known to mislead."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
from affine import Affine
from pyproj import Transformer

from harveyseg.errors import HarveysegError
from harveyseg.geo.ground import Georeference, foreign_projection_data, parse_crs
from helpers.paths import ROOT

LONGITUDE, LATITUDE = -95.37, 29.72


def at_houston(crs: str, pixel: float) -> Georeference:
    """A north-up grid of 100 x 100 pixels around Houston."""
    x, y = Transformer.from_crs(4326, crs, always_xy=True).transform(LONGITUDE, LATITUDE)
    return Georeference(parse_crs(crs), Affine(pixel, 0, x - 50 * pixel, 0, -pixel, y + 50 * pixel))


@pytest.mark.parametrize(
    ("crs", "pixel", "height", "width"),
    [
        ("EPSG:32615", 0.05, 0.04999, 0.04999),
        ("EPSG:32614", 0.05, 0.04994, 0.04994),  # the neighbouring zone
        ("EPSG:3857", 0.05, 0.0432, 0.0434),  # shrunk by about the cosine of the latitude
        ("EPSG:4326", 4.5e-7, 0.0499, 0.0435),  # degrees: no square
        ("EPSG:2278", 0.15, 0.0457, 0.0457),  # US survey feet
    ],
)
def test_the_size_of_a_pixel(crs: str, pixel: float, height: float, width: float) -> None:
    found = at_houston(crs, pixel).pixel_size((100, 100))
    assert found[0] == pytest.approx(height, rel=0.002)
    assert found[1] == pytest.approx(width, rel=0.002)
    if crs == "EPSG:4326":  # radii of curvature of the WGS 84 ellipsoid
        a, e2, sine = 6378137.0, 0.00669437999014, math.sin(math.radians(LATITUDE))
        meridian, normal = a * (1 - e2) / (1 - e2 * sine**2) ** 1.5, a / math.sqrt(1 - e2 * sine**2)
        assert found[0] == pytest.approx(math.radians(pixel) * meridian, rel=1e-6)
        assert found[1] == pytest.approx(math.radians(pixel) * normal * math.cos(math.radians(LATITUDE)), rel=1e-6)


@pytest.mark.parametrize("crs", ["EPSG:5703", "EPSG:4978", 'LOCAL_CS["site",UNIT["metre",1]]'])
def test_systems_of_no_maps(crs: str) -> None:
    """Heights, three axes from the centre of the earth, and a building site."""
    with pytest.raises(HarveysegError, match=r"is no system of maps; write e\.g\. EPSG:32615"):
        parse_crs(crs)


def test_places_that_cannot_be_measured() -> None:
    here = at_houston("EPSG:32615", 0.05)
    assert here.problem((100, 100)) is None
    assert Georeference(parse_crs("EPSG:32615+5703"), here.transform).problem((100, 100)) is None  # with heights
    moon = Georeference(parse_crs("IAU_2015:30100"), Affine(1e-6, 0, 10, 0, -1e-6, 20))
    assert moon.problem((100, 100)) == "its coordinate reference system cannot be converted to longitude and latitude"
    flat = Georeference(here.crs, here.transform @ Affine.scale(1, 0))
    assert flat.problem((100, 100)) == "its pixels have no size"
    across = Georeference(parse_crs("EPSG:4326"), Affine(1e-6, 0, 179.99999, 0, -1e-6, 0))
    assert across.problem((100, 100)) is None


def test_a_turned_grid_has_the_same_pixels() -> None:
    straight = at_houston("EPSG:32615", 0.05)
    turned = Georeference(straight.crs, straight.transform @ Affine.rotation(30))
    assert turned.pixel_size((100, 100)) == pytest.approx(straight.pixel_size((100, 100)), rel=1e-5)


@pytest.mark.parametrize("crs", ["EPSG:32615", "EPSG:3857", "EPSG:4326", "EPSG:2278"])
def test_the_area_of_pixels(crs: str) -> None:
    georeference = at_houston(crs, 4.5e-7 if crs == "EPSG:4326" else 0.05)
    height, width = georeference.pixel_size((100, 100))
    assert georeference.row_pixel_area(slice(0, 100), 100) == pytest.approx(height * width, rel=1e-4)


def test_pixels_of_web_mercator_shrink_towards_the_pole() -> None:
    georeference = at_houston("EPSG:3857", 100.0)
    north, south = (georeference.row_pixel_area(slice(top, top + 256), 512) for top in (0, 10240))
    ratio = (math.cos(math.radians(LATITUDE + 0.04)) / math.cos(math.radians(LATITUDE - 7.9))) ** 2
    assert north / south == pytest.approx(ratio, rel=0.01)


def test_the_invented_place_of_opendronemap() -> None:
    wkt = parse_crs("EPSG:32630")
    assert Georeference(wkt, Affine(0.1, 0, 0, 0, -0.1, 0)).is_invented()
    assert not Georeference(wkt, Affine(0.1, 0, 500_000, 0, -0.1, 0)).is_invented()
    assert not Georeference(parse_crs("EPSG:32615"), Affine(0.1, 0, 0, 0, -0.1, 0)).is_invented()


def test_a_system_that_does_not_exist() -> None:
    with pytest.raises(
        HarveysegError, match=r"--crs EPSG:1: not a known coordinate reference system; write e\.g\. EPSG:32615"
    ):
        parse_crs("EPSG:1")


def test_projection_data_of_another_program(tmp_path: Path) -> None:
    assert foreign_projection_data() is None
    code = "from harveyseg.geo.ground import foreign_projection_data; print(foreign_projection_data())"
    environment = {"PYTHONPATH": str(ROOT / "src"), "PROJ_LIB": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "PROJ_LIB\n"
