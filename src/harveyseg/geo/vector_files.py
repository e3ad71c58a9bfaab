"""Polygons as files: GeoPackage for QGIS and the like, GeoJSON for the web."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import geopandas
import pandas as pd
import pyogrio

from harveyseg.errors import HarveysegError
from harveyseg.files import atomic
from harveyseg.geo.full_disk import noticing_full_disk

_LAST_CHANGE = "2000-01-01T00:00:00.000Z"
"""What a GeoPackage says of each layer, instead of the time of writing: the same layers are the same bytes."""


def write_geopackage(path: Path, layers: Mapping[str, pd.DataFrame]) -> None:
    """Write layers, with or without geometry, to one file, atomically; the same layers as the same bytes.

    Args:
        path: ends in ``.gpkg``.
        layers: by name; those without rows are written as well, so that their columns are known.
    """
    with atomic(path) as temporary, noticing_full_disk(path.parent), _without_times():
        for name, layer in layers.items():
            if isinstance(layer, geopandas.GeoDataFrame):
                kind = None if len(layer) else "Unknown"
                pyogrio.write_dataframe(
                    layer, temporary, layer=name, driver="GPKG", promote_to_multi=True, geometry_type=kind
                )
            else:
                pyogrio.write_dataframe(layer, temporary, layer=name, driver="GPKG")


def write_geojson(path: Path, layer: geopandas.GeoDataFrame) -> None:
    """Write a layer as RFC 7946 asks: WGS 84, longitude first, rings anticlockwise; atomically."""
    with atomic(path) as temporary, noticing_full_disk(path.parent):
        temporary.unlink()  # the driver does not write into an existing file
        layer.to_file(temporary, driver="GeoJSON", layer=path.stem, RFC7946="YES")


def read_geopackage_layer(path: Path, layer: str) -> geopandas.GeoDataFrame:
    """Read one layer of a GeoPackage that this package wrote.

    Raises:
        HarveysegError: when the file or the layer is absent or damaged.
    """
    try:
        return geopandas.read_file(path, layer=layer)
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError, OSError) as error:
        raise HarveysegError(
            f"{path}: no layer {layer!r} can be read ({error}). Write it with `harveyseg predict`."
        ) from None


@contextmanager
def _without_times() -> Iterator[None]:
    pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": _LAST_CHANGE})
    try:
        yield
    finally:
        pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": None})
