"""The drawn town: its mosaic, footprints and roads lie on one another, as other libraries read them."""

from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
from rasterio.features import rasterize

from harveyseg.arrays import BoolArray
from harveyseg.classes import HARVEY25
from harveyseg.errors import HarveysegError
from harveyseg.prediction.example import write_example

ROOFS = [
    HARVEY25.names.index(name) for name in ("Property Roof", "Solar Panels", "Chimney", "Window", "Satellite Antenna")
]
TREES = HARVEY25.names.index("Trees / Shrubs")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("example") / "town"
    files = write_example(folder, 3)
    assert sorted(files) == sorted(path for path in folder.iterdir() if path.suffix != ".xml")
    return folder


def covered(folder: Path, name: str, radius: float = 0.0) -> BoolArray:
    """The pixels whose centre a vector layer covers, drawn by rasterio."""
    shapes = geopandas.read_file(folder / name)
    with rasterio.open(folder / "truth.tif") as file:
        assert shapes.crs == file.crs
        areas = shapes.geometry.buffer(radius) if radius else shapes.geometry
        return np.asarray(rasterize(areas, file.shape, transform=file.transform), bool)


def test_files(folder: Path) -> None:
    with rasterio.open(folder / "mosaic.tif") as mosaic, rasterio.open(folder / "truth.tif") as truth:
        assert (mosaic.crs.to_epsg(), mosaic.count, mosaic.dtypes) == (32615, 4, ("uint8",) * 4)
        assert (mosaic.transform, mosaic.shape, mosaic.crs) == (truth.transform, truth.shape, truth.crs)
        assert mosaic.res == pytest.approx((64 / 300, 64 / 300))  # metres of a demo photo and its pixels
        seen = mosaic.read(4) == 255
        assert 0.5 < seen.mean() < 1
        assert np.array_equal(seen, truth.read(1) != 255)
        assert not mosaic.read([1, 2, 3])[:, ~seen].any()


def test_footprints_are_the_roofs(folder: Path) -> None:
    with rasterio.open(folder / "truth.tif") as file:
        classes = file.read(1)
    inside = covered(folder, "buildings.gpkg") & (classes != 255)
    roof = np.isin(classes, ROOFS)
    assert np.isin(classes[inside], [*ROOFS, TREES]).mean() > 0.99  # crowns reach over them
    assert (inside & roof).sum() / roof.sum() > 0.99


def test_streets_are_under_the_lines(folder: Path) -> None:
    with rasterio.open(folder / "truth.tif") as file:
        classes = file.read(1)
    road, flooded = (classes == HARVEY25.names.index(name) for name in ("Road / Highway", "Flooded"))
    within = covered(folder, "roads.gpkg", radius=4.5)
    assert (road & within).sum() / road.sum() > 0.99
    beneath = classes[covered(folder, "roads.gpkg", radius=0.5)]
    assert 0.1 < (beneath == HARVEY25.names.index("Flooded")).mean() < 0.9  # some of the streets are under water
    assert flooded.any()


def test_a_folder_that_holds_something(folder: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(HarveysegError, match="is not an empty folder"):
        write_example(folder, 0)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    (tmp_path / "file").touch()
    with pytest.raises(HarveysegError, match="is not an empty folder"):
        write_example(tmp_path / "file", 0)
