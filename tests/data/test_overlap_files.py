"""Photos of other kinds among those that are compared: they overlap none, and stop nothing."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.errors import NotGeoreferencedWarning

from harveyseg.data.overlap import find_overlaps
from harveyseg.data.tiff_files import read_tiff


@pytest.mark.filterwarnings(f"ignore::{NotGeoreferencedWarning.__module__}.{NotGeoreferencedWarning.__name__}")
def test_tiffs_that_are_no_colour_photos(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (4, 64, 64))
    kinds = {
        "grey": (1, "uint8"),
        "two": (2, "uint8"),
        "float": (3, "float32"),
        "signed": (3, "int16"),
        "deep": (3, "uint16"),
    }
    paths = []
    for name, (bands, kind) in kinds.items():
        paths.append(tmp_path / f"{name}.tif")
        profile = {"driver": "GTiff", "width": 64, "height": 64, "count": bands, "dtype": kind}
        with rasterio.open(paths[-1], "w", **profile) as file:
            file.write(noise[:bands].astype(kind))
        if name != "deep":
            with pytest.raises(ValueError, match=rf"{bands} bands of {kind} are no colour photo"):
                read_tiff(paths[-1].read_bytes())
    cut = tmp_path / "cut.tif"
    cut.write_bytes(paths[-1].read_bytes()[:9000])
    (tmp_path / "nothing.tif").touch()
    assert find_overlaps([*paths, cut, tmp_path / "nothing.tif"], [str(i) for i in range(7)], 1) == []
