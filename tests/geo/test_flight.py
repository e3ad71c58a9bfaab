"""The ground that a drone's photo shows."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harveyseg.geo.flight import photo_ground
from helpers.rasters import write_dji

PIXELS = np.zeros((30, 40, 3), np.uint8)


def test_height_and_lens(tmp_path: Path) -> None:
    """At 60 m, a lens equivalent to 26 mm shows 60 * 36 / 26 m along the long side."""
    ground = photo_ground(write_dji(tmp_path / "a.jpg", PIXELS))
    assert ground == pytest.approx((60 * 36 / 26 * 0.75, 60 * 36 / 26))
    upright = photo_ground(write_dji(tmp_path / "b.jpg", PIXELS.transpose(1, 0, 2).copy()))
    assert upright == pytest.approx((60 * 36 / 26, 60 * 36 / 26 * 0.75))


@pytest.mark.parametrize(("height", "pitch"), [("+60.00", "-45.00"), ("-2.00", "-90.00"), ("high", "-90.00")])
def test_photos_whose_scale_is_not_known(tmp_path: Path, height: str, pitch: str) -> None:
    assert photo_ground(write_dji(tmp_path / "a.jpg", PIXELS, height=height, pitch=pitch)) is None


def test_photos_without_metadata(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    (tmp_path / "b.jpg").write_text("no photo")
    assert photo_ground(tmp_path / "a.png") is photo_ground(tmp_path / "b.jpg") is None
    exif = Image.Exif()
    exif[0x8825] = {6: 75.1}  # GPS altitude: above sea level
    exif.get_ifd(0x8769)[0xA405] = 26
    Image.fromarray(PIXELS).save(tmp_path / "c.jpg", exif=exif)
    assert photo_ground(tmp_path / "c.jpg") is None
