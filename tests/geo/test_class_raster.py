"""Class maps as GeoTIFF, read back by rasterio and judged by rio-cogeo."""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from rasterio.enums import Resampling
from rio_cogeo.cogeo import cog_validate

from harveyseg.classes import HARVEY25, IGNORED
from harveyseg.geo.class_raster import read_classes, writing_class_raster, writing_probabilities
from harveyseg.geo.ground import parse_crs
from helpers.rasters import UTM, grid

CLASSES = np.repeat(np.repeat(np.random.default_rng(0).integers(0, 25, (130, 170)), 8, 0), 8, 1).astype(np.uint8)
CLASSES[:96, :296] = IGNORED


def write(path: Path, step: int = 300) -> Path:
    with writing_class_raster(path, CLASSES.shape, parse_crs(UTM), grid(), HARVEY25, {"MODEL": "unet"}) as writer:
        for top in range(0, len(CLASSES), step):
            writer.write(CLASSES[None, top : top + step])
    return path


def test_a_class_map_is_a_cloud_optimised_geotiff(tmp_path: Path) -> None:
    path = write(tmp_path / "map.tif")
    valid, errors, warnings = cog_validate(path, strict=True)
    assert (valid, errors, warnings) == (True, [], [])
    with rasterio.open(path) as file:
        assert np.array_equal(file.read(1), CLASSES)
        assert file.crs.to_epsg() == 32615
        assert file.transform == grid()
        assert file.nodata == IGNORED
        assert np.array_equal(file.dataset_mask() > 0, CLASSES != IGNORED)
        palette = file.colormap(1)
        assert [palette[class_id][:3] for class_id in range(25)] == [
            tuple(colour) for colour in HARVEY25.palette.tolist()
        ]
        assert file.tags()["MODEL"] == "unet"
        assert file.overviews(1)
    assert {file.name for file in tmp_path.iterdir()} == {"map.tif", "map.tif.aux.xml"}


def test_an_overview_holds_the_most_frequent_class(tmp_path: Path) -> None:
    with rasterio.open(write(tmp_path / "map.tif"), OVERVIEW_LEVEL=0) as file:
        overview = file.read(1)
    assert overview.shape == (520, 680)
    assert np.array_equal(overview, CLASSES[::2, ::2])  # every class fills blocks of 8 x 8 pixels
    assert np.array_equal(read_classes(tmp_path / "map.tif", (130, 170)), CLASSES[::8, ::8])


def test_gdal_reads_the_classes_names(tmp_path: Path) -> None:
    """Its own format VRT spells out what it read from the sidecar."""
    rasterio.shutil.copy(write(tmp_path / "map.tif"), tmp_path / "map.vrt", driver="VRT")
    read = ElementTree.parse(tmp_path / "map.vrt")
    assert [element.text for element in read.iter("Category")] == list(HARVEY25.names)


def test_the_file_does_not_depend_on_how_many_rows_come_at_a_time(tmp_path: Path) -> None:
    contents = {write(tmp_path / f"{step}.tif", step).read_bytes() for step in (1, 300, 512, 5000)}
    assert len(contents) == 1


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        with writing_class_raster(tmp_path / "map.tif", CLASSES.shape, None, grid(), HARVEY25, {}) as writer:
            writer.write(CLASSES[None, :600])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list(tmp_path.iterdir())


def test_probabilities(tmp_path: Path) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (2, 700, 600)).astype(np.uint8)
    path = tmp_path / "p.tif"
    with writing_probabilities(path, (700, 600), parse_crs(UTM), grid(), ["Flooded", "Boat"], {}) as writer:
        writer.write(levels[:, :256])
        writer.write(levels[:, 256:])
    assert cog_validate(path, strict=True)[0]
    with rasterio.open(path) as file:
        assert np.array_equal(file.read(), levels)
        assert file.descriptions == ("Flooded", "Boat")
        assert file.nodata is None
        half = file.read(out_shape=(2, 350, 300), resampling=Resampling.average)
    assert np.abs(half - levels.reshape(2, 350, 2, 300, 2).mean((2, 4))).max() <= 1
