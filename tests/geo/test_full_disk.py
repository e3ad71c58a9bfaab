"""Files that GDAL writes on a disk that is full: the cause and the remedy, and nothing cut."""

from collections.abc import Callable
from pathlib import Path

import geopandas
import numpy as np
import pytest

from harveyseg.errors import HarveysegError
from harveyseg.geo.full_disk import noticing_full_disk
from harveyseg.geo.vector_files import write_geojson, write_geopackage
from helpers.small_disk import small_disk


def layer() -> geopandas.GeoDataFrame:
    x, y = np.random.default_rng(0).random((2, 20_000))
    return geopandas.GeoDataFrame({"note": ["x" * 100] * len(x)}, geometry=geopandas.points_from_xy(x, y), crs=4326)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.gpkg", lambda path: write_geopackage(path, {"points": layer()})),
        ("a.geojson", lambda path: write_geojson(path, layer())),
    ],
)
def test_vector_files(tmp_path: Path, name: str, write: Callable[[Path], None]) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        with pytest.raises(HarveysegError, match=rf"{name}: there is no room .* Free some disk space"):
            write(disk / name)
        assert not list(disk.glob("[!.]*"))


def test_another_fault_keeps_its_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="broken"), noticing_full_disk(tmp_path):
        raise RuntimeError("broken")
