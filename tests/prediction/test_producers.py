"""A mosaic of every program that makes some, predicted as a whole; its products are opened by other libraries."""

from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import numpy.typing as npt
import pyogrio
import pytest
import rasterio
import shapely
from affine import Affine
from PIL import Image
from rio_cogeo.cogeo import cog_validate

from harveyseg.geo.mosaic import MosaicOptions
from harveyseg.prediction.predict import PredictionOptions, predict_images
from harveyseg.prediction.products import ProductOptions
from harveyseg.prediction.scale import Training
from harveyseg.prediction.trained_ensemble import TrainedEnsemble
from helpers.predicting import FLOODED, PARAMS, sure
from helpers.producers import PRODUCERS, SHOWN, alpha, colours, hidden
from helpers.rasters import RGBA, UTM, grid, write_tiff

ENSEMBLE = TrainedEnsemble((sure(FLOODED, 0.5),), (1.0,), training=Training((6.0, 8.0), frozenset({(96, 160)})))
NANS = np.where(SHOWN, colours(), np.nan).astype(np.float32)
FROM_0_TO_255 = MosaicOptions(value_range=(0.0, 255.0))
MOSAICS: dict[str, tuple[npt.NDArray[Any], dict[str, Any], MosaicOptions]] = {
    **{name: (*written, MosaicOptions()) for name, written in PRODUCERS.items()},
    "OpenDroneMap: float": (
        np.concatenate([hidden(0, np.float32), alpha(np.float32)]), {"colours": RGBA}, FROM_0_TO_255,
    ),
    "JPEG with an internal mask": (
        hidden(), {"mask": SHOWN, "compress": "JPEG", "photometric": "YCbCr"}, MosaicOptions(),
    ),
    "Pix4D: a black frame": (hidden(), {}, MosaicOptions()),
    "Metashape: a white frame": (hidden(255), {"compress": "LZW"}, MosaicOptions()),
    "float, NaN": (NANS, {"nodata": np.nan}, FROM_0_TO_255),
    "a world file": (hidden(), {"nodata": 0, "crs": None, "transform": grid()}, MosaicOptions(crs=UTM)),
    "OpenDroneMap without positions": (
        np.concatenate([hidden(), alpha()]),
        {"colours": RGBA, "crs": "EPSG:32630", "transform": Affine(0.1, 0, 0, 0, -0.1, 0)},
        MosaicOptions(),
    ),
}  # fmt: skip
# In metres: of 5 cm a pixel where UTM stretches by 1.00025, and of 4.5e-7 degrees at 29 degrees north.
SEEN_M2 = {
    "degrees": SHOWN.sum() * (4.5e-7 * 110_862) * (4.5e-7 * 97_440),
    "OpenDroneMap without positions": None,
}


@pytest.mark.parametrize("name", MOSAICS)
def test_the_products_of_a_mosaic_of_every_producer(tmp_path: Path, name: str) -> None:
    bands, written, reading = MOSAICS[name]
    path = write_tiff(tmp_path / "mosaic.tif", bands, **written)
    out = tmp_path / "out"
    options = PredictionOptions(reading, ProductOptions((FLOODED,), geojson=True))
    (record,) = predict_images([str(path)], ENSEMBLE, PARAMS, out, options).predicted
    with rasterio.open(path) as given, rasterio.open(out / "mosaic.tif") as opened:
        assert (opened.shape, opened.transform, opened.nodata) == (given.shape, given.transform, 255)
        classes = opened.read(1)
        crs = opened.crs
    for raster in ("mosaic.tif", "mosaic_probabilities.tif"):
        assert cog_validate(out / raster, strict=True)[0]
    with Image.open(out / "mosaic_overlay.jpg") as overlay:
        assert overlay.size == SHOWN.shape[::-1]
    assert np.mean((classes != 255) == SHOWN) > 0.995
    red = colours()[0].astype(int)
    assert (classes[SHOWN & (red > 150)] == FLOODED).mean() > 0.98  # of 255; the network's border is at 128
    assert (classes[SHOWN & (red < 105)] == 0).mean() > 0.98
    expected = SEEN_M2.get(name, SHOWN.sum() * (0.05 / 1.00025) ** 2)
    if expected is None:
        assert (record.areas.seen_m2, crs) == (None, None)
        assert not (out / "mosaic.gpkg").exists()
        return
    assert record.areas.seen_m2 == pytest.approx(expected, rel=0.005)
    assert crs == (written.get("crs") or UTM)
    assert set(dict(pyogrio.list_layers(out / "mosaic.gpkg"))) == {"classes", "buildings", "roads", "seen", "summary"}
    polygons = geopandas.read_file(out / "mosaic.gpkg", layer="classes")
    assert polygons.crs == crs
    assert shapely.coverage_is_valid(shapely.get_parts(polygons.geometry.to_numpy()))
    assert polygons["area_m2"].sum() == pytest.approx(expected, rel=0.01)
    geojson = geopandas.read_file(out / "mosaic.geojson")
    assert geojson.crs.to_epsg() == 4326
    assert geojson.total_bounds == pytest.approx(polygons.to_crs(4326).total_bounds, abs=1e-6)
