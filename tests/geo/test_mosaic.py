"""TIFF files as the programs that make mosaics write them, against the arrays that they were made of."""

import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp, Resampling

from harveyseg.errors import HarveysegError
from harveyseg.geo.frame import find_frame
from harveyseg.geo.mosaic import Mosaic, MosaicOptions, open_mosaic
from helpers.producers import HEIGHT, PRODUCERS, SHOWN, WIDTH, alpha, colours, hidden
from helpers.rasters import RGBA, UTM, grid, write_tiff


def seen(path: Path, options: MosaicOptions | None = None) -> npt.NDArray[np.bool_]:
    with open_mosaic(path, options or MosaicOptions()) as mosaic:
        parts = [mosaic.seen(slice(top, min(top + 70, HEIGHT)), mosaic.size) for top in range(0, HEIGHT, 70)]
    return np.concatenate(parts)


def all_colours(path: Path, options: MosaicOptions | None = None) -> npt.NDArray[np.uint8]:
    with open_mosaic(path, options or MosaicOptions()) as mosaic:
        return mosaic.colours(slice(0, HEIGHT), mosaic.size)


@pytest.mark.parametrize("producer", PRODUCERS)
def test_what_each_producer_declares(tmp_path: Path, producer: str) -> None:
    bands, options = PRODUCERS[producer]
    path = write_tiff(tmp_path / "mosaic.tif", bands, **options)
    assert np.array_equal(seen(path), SHOWN)
    assert np.array_equal(all_colours(path)[SHOWN], colours().transpose(1, 2, 0)[SHOWN])


@pytest.mark.parametrize("fill", [0, 255])
@pytest.mark.parametrize("compress", ["DEFLATE", "JPEG"])
def test_a_frame_that_nobody_declared(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, fill: int, compress: str
) -> None:
    bands = hidden(fill)
    bands[:, 150:170, 100:130] = fill  # a black or white roof inside
    options: dict[str, Any] = {"photometric": "YCbCr", "jpeg_quality": 90} if compress == "JPEG" else {}
    path = write_tiff(tmp_path / "mosaic.tif", bands, compress=compress, **options)
    with caplog.at_level(logging.WARNING, "harveyseg"):
        found = seen(path)
    assert np.logical_and(~found, ~SHOWN).sum() / np.logical_or(~found, ~SHOWN).sum() > 0.97
    assert found[150:170, 100:130].all()
    assert "a frame of one colour (18% of the file) is taken as not seen" in caplog.text
    assert seen(path, MosaicOptions(frame="none")).all()
    assert seen(path, MosaicOptions(frame="255" if fill == 0 else "0")).all()


def test_a_dark_corner_of_few_pixels_is_no_frame() -> None:
    photo = np.full((50, 50, 3), 90, np.uint8)
    photo[:7, :9] = 2
    assert not find_frame(photo, ("0", "255")).any()
    photo[:8, :9] = 2
    assert find_frame(photo, ("0", "255")).sum() == 72
    assert not find_frame(photo, ("255",)).any()


@pytest.mark.parametrize("size", [(96, 64), (200, 260), (50, 260), (333, 301)])
def test_stripes_are_the_rows_of_the_whole(tmp_path: Path, size: tuple[int, int]) -> None:
    path = write_tiff(tmp_path / "mosaic.tif", np.concatenate([hidden(), alpha()]), colours=RGBA)
    with open_mosaic(path, MosaicOptions()) as mosaic:
        whole, whole_seen = mosaic.colours(slice(0, size[0]), size), mosaic.seen(slice(0, size[0]), size)
        for top in range(0, size[0], 32):
            rows = slice(top, min(top + 32, size[0]))
            assert np.array_equal(mosaic.colours(rows, size), whole[rows])
            assert np.array_equal(mosaic.seen(rows, size), whole_seen[rows])


def test_shrinking_is_the_area_average_without_what_was_not_seen(tmp_path: Path) -> None:
    bands = hidden()
    path = write_tiff(tmp_path / "mosaic.tif", np.concatenate([bands, alpha()]), colours=RGBA)
    size = (HEIGHT // 4, WIDTH // 4)
    with open_mosaic(path, MosaicOptions()) as mosaic:
        found, found_seen = mosaic.colours(slice(0, size[0]), size), mosaic.seen(slice(0, size[0]), size)
    weights = SHOWN.reshape(size[0], 4, size[1], 4).sum((1, 3))
    sums = (bands * SHOWN).reshape(3, size[0], 4, size[1], 4).sum((2, 4), dtype=float)
    assert np.array_equal(found_seen, weights > 0)
    expected = (sums / np.maximum(weights, 1)).transpose(1, 2, 0)
    assert np.abs(found - expected)[found_seen].max() <= 1


def test_someone_elses_overviews_change_nothing(tmp_path: Path) -> None:
    plain = write_tiff(tmp_path / "plain.tif", colours())
    with_overviews = write_tiff(tmp_path / "overviews.tif", colours())
    with rasterio.open(with_overviews, "r+") as file:
        file.build_overviews([2, 4], Resampling.nearest)
    found = []
    for path in (plain, with_overviews):
        with open_mosaic(path, MosaicOptions()) as mosaic:
            found.append(mosaic.colours(slice(0, 50), (50, 65)))
    assert np.array_equal(found[0], found[1])


@pytest.mark.parametrize("kind", [np.uint16, np.float32])
def test_other_values_need_a_range(tmp_path: Path, kind: Any) -> None:
    values = np.concatenate(
        [hidden(0, kind) * 10, alpha(kind)]
    )  # 12 bits of 16; an alpha of 255, as OpenDroneMap has it
    path = write_tiff(tmp_path / "mosaic.tif", values, colours=RGBA)
    with pytest.raises(HarveysegError, match=rf"{np.dtype(kind)}; 8 bits are needed.*--range 0,4095, or --range auto"):
        Mosaic(path, MosaicOptions())
    options = MosaicOptions(value_range=(0, 2550))
    assert np.array_equal(all_colours(path, options)[SHOWN], colours().transpose(1, 2, 0)[SHOWN])
    assert np.array_equal(seen(path, options), SHOWN)
    automatic = all_colours(path, MosaicOptions(value_range="auto"))[SHOWN]
    low, high = np.percentile(colours()[:, SHOWN], [2, 98])
    expected = ((colours()[:, SHOWN].T - low) * 255 / (high - low)).clip(0, 255)
    assert np.abs(automatic - expected).max() <= 1


@pytest.mark.parametrize("value_range", [(0.0, 2550.0), (300.0, 2000.0), "auto"])
@pytest.mark.parametrize(("fill", "kind"), [(0, np.uint16), (65535, np.uint16), (0, np.int16), (0, np.float32)])
def test_a_range_makes_no_frame_of_dark_and_bright_things(
    tmp_path: Path, value_range: Any, fill: int, kind: Any
) -> None:
    """A frame is of exactly one value: a shadow and a bright roof at the border were seen, whatever becomes black."""
    bands = colours().astype(kind) * 10
    bands[:, 120:160, -40:] = np.random.default_rng(0).integers(20, 99, (3, 40, 40))
    bands[:, 170:, -40:] = np.random.default_rng(1).integers(3000, 4000, (3, 30, 40))
    bands[:, ~SHOWN] = fill
    path = write_tiff(tmp_path / "mosaic.tif", bands)
    assert np.array_equal(seen(path, MosaicOptions(value_range=value_range)), SHOWN)


def test_a_dark_spot_at_the_border_of_8_bits_and_a_range(tmp_path: Path) -> None:
    bands = colours()
    bands[:, 120:160, -40:] = 15
    path = write_tiff(tmp_path / "mosaic.tif", bands)
    for value_range in ((20.0, 200.0), "auto"):
        assert seen(path, MosaicOptions(value_range=value_range)).all()


def test_a_range_beyond_8_bits_is_refused_for_8_bits(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "m.tif", colours())
    with pytest.raises(HarveysegError, match=r"m\.tif: has 8 bits, of which --range 0,4095 would make a dark photo"):
        all_colours(path, MosaicOptions(value_range=(0, 4095)))
    assert all_colours(path, MosaicOptions(value_range=(40, 200))).max() == 255


def test_values_that_are_no_number_were_not_seen(tmp_path: Path) -> None:
    values = np.where(SHOWN, colours(), np.nan).astype(np.float32)
    values[1, 150:160, 100:110] = np.nan  # a hole
    expected = SHOWN.copy()
    expected[150:160, 100:110] = False
    for nodata in (np.nan, None):  # declared or not
        path = write_tiff(tmp_path / "mosaic.tif", values, nodata=nodata)
        assert np.array_equal(seen(path, MosaicOptions(value_range=(0, 255))), expected)


@pytest.mark.parametrize(
    ("bands", "message"),
    [
        (1, "has 1 band, as an elevation model, an index or a grey photo; a colour photo is needed"),
        (2, "has 2 bands"),
        (6, r"has 6 bands and does not say which are red, green and blue; name them, e\.g\. --bands 3,2,1"),
    ],
)
def test_files_that_are_no_colour_photo(tmp_path: Path, bands: int, message: str) -> None:
    interpretation = (ColorInterp.gray, *[ColorInterp.undefined] * (bands - 1))
    path = write_tiff(tmp_path / "mosaic.tif", np.repeat(colours()[:1], bands, 0), colours=interpretation)
    with pytest.raises(HarveysegError, match=message):
        Mosaic(path, MosaicOptions())


def test_bands_may_be_named(tmp_path: Path) -> None:
    interpretation = (ColorInterp.gray, *[ColorInterp.undefined] * 5)
    bands = np.concatenate([colours(1), colours(2)])
    path = write_tiff(tmp_path / "mosaic.tif", bands, colours=interpretation)
    expected = bands[[5, 3, 0]].transpose(1, 2, 0)
    assert np.array_equal(all_colours(path, MosaicOptions(bands=(6, 4, 1))), expected)
    with pytest.raises(HarveysegError, match="has 6 bands, but --bands names 7"):
        Mosaic(path, MosaicOptions(bands=(7, 4, 1)))


@pytest.mark.parametrize(
    "options", [{}, {"tiled": False, "blockysize": 3, "blockxsize": WIDTH}, {"interleave": "band"}]
)
@pytest.mark.parametrize("share", [0.5, 0.98])
def test_truncated_files(tmp_path: Path, options: dict[str, Any], share: float) -> None:
    path = write_tiff(tmp_path / "mosaic.tif", colours(), **options)
    Mosaic(path, MosaicOptions()).close()
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(HarveysegError, match=r"mosaic\.tif: (is truncated|not a TIFF that can be read)"):
        Mosaic(path, MosaicOptions())


def test_files_that_are_no_tiff(tmp_path: Path) -> None:
    path = tmp_path / "mosaic.tif"
    for content in (b"", b"no photo", b"II*\0"):
        path.write_bytes(content)
        with pytest.raises(HarveysegError, match=r"mosaic\.tif: not a TIFF that can be read"):
            Mosaic(path, MosaicOptions())


def test_a_compression_that_is_not_known_is_named(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "mosaic.tif", colours())
    content = path.read_bytes()
    tag = (259).to_bytes(2, "little") + (3).to_bytes(2, "little") + (1).to_bytes(4, "little")  # Compression, SHORT, 1
    assert content.count(tag) == 1
    changed = content.replace(tag + (8).to_bytes(2, "little"), tag + (34892).to_bytes(2, "little"))
    path.write_bytes(changed)
    with pytest.raises(
        HarveysegError, match=r"compressed by a method that is not known here \(34892\).*DEFLATE or LZW"
    ):
        Mosaic(path, MosaicOptions())


def test_where_a_mosaic_is(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "mosaic.tif", colours())
    with open_mosaic(path, MosaicOptions()) as mosaic:
        assert mosaic.georeference is not None
        assert mosaic.georeference.pixel_size(mosaic.size) == pytest.approx((0.05, 0.05), rel=1e-3)
        assert mosaic.place_warning() is None


def test_files_without_a_usable_place(tmp_path: Path) -> None:
    invented = write_tiff(tmp_path / "a.tif", colours(), "EPSG:32630", Affine(0.1, 0, 0, 0, -0.1, 0))
    world_file = write_tiff(tmp_path / "b.tif", colours(), None)
    (tmp_path / "b.tfw").write_text("0.05\n0\n0\n-0.05\n270000\n3290000\n")
    (tmp_path / "b.prj").write_text('PROJCS["WGS 84 / UTM zone 15N"]')
    nothing = write_tiff(tmp_path / "c.tif", colours(), None)
    for path, warning in ((invented, "are invented"), (world_file, "name the system with --crs"), (nothing, None)):
        with open_mosaic(path, MosaicOptions()) as mosaic:
            assert mosaic.georeference is None
            assert (mosaic.place_warning() or "").count(warning or "-") == (warning is not None)
    with open_mosaic(world_file, MosaicOptions(crs=UTM)) as mosaic:
        assert mosaic.georeference is not None
        assert mosaic.georeference.transform == Affine(0.05, 0, 269999.975, 0, -0.05, 3290000.025)
        assert mosaic.place_warning() is None


BUILDING_SITE = 'LOCAL_CS["site",UNIT["metre",1]]'


def test_systems_that_are_no_place_on_the_earth(tmp_path: Path) -> None:
    """A building site's own coordinates, and metres that are said to be degrees: the other options still work."""
    site = write_tiff(tmp_path / "site.tif", colours(), BUILDING_SITE)
    degrees = write_tiff(tmp_path / "degrees.tif", colours(), "EPSG:4326", grid())
    for path, cause in (
        (site, "'site' is no system of places on the earth"),
        (degrees, r"its coordinates \(270006.5, 3289995\) are no place on the earth in WGS 84"),
    ):
        with open_mosaic(path, MosaicOptions()) as mosaic:
            assert mosaic.georeference is None
            warning = mosaic.place_warning() or ""
            assert re.fullmatch(rf"{path}: {cause}, so .* not known; name its right system with --crs", warning)
        with open_mosaic(path, MosaicOptions(crs=UTM)) as mosaic:
            assert mosaic.georeference is not None
            assert mosaic.georeference.pixel_size(mosaic.size) == pytest.approx((0.05, 0.05), rel=1e-3)


def test_a_wrong_system_by_option(tmp_path: Path) -> None:
    nowhere = write_tiff(tmp_path / "a.tif", colours(), None, grid())
    with (
        open_mosaic(nowhere, MosaicOptions(crs="EPSG:4326")) as mosaic,
        pytest.raises(HarveysegError, match=r"a\.tif: --crs EPSG:4326: its coordinates .* Name the system of these"),
    ):
        assert mosaic.georeference
    with open_mosaic(nowhere, MosaicOptions(crs="EPSG:27700")) as mosaic:  # Great Britain
        assert "far outside the area that --crs EPSG:27700" in (mosaic.place_warning() or "")
    with open_mosaic(nowhere, MosaicOptions(crs="EPSG:32614")) as mosaic:  # the neighbouring zone
        assert mosaic.place_warning() is None
    for path, crs, warning in (
        (write_tiff(tmp_path / "b.tif", colours()), "EPSG:3857", "names its coordinate reference system itself"),
        (write_tiff(tmp_path / "c.tif", colours(), None), UTM, "has no grid, so --crs says nothing"),
    ):
        with open_mosaic(path, MosaicOptions(crs=crs)) as mosaic:
            assert warning in (mosaic.place_warning() or "")
            assert (mosaic.georeference is None) == (path.name == "c.tif")


def test_ground_control_points_alone_make_no_grid(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "mosaic.tif", colours(), None)
    points = [
        GroundControlPoint(row, column, *(grid() @ (column, row, 1))[:2]) for row, column in ((0, 0), (0, 99), (99, 0))
    ]
    with rasterio.open(path, "r+") as file:
        file.gcps = (points, rasterio.crs.CRS.from_string(UTM))
    with open_mosaic(path, MosaicOptions()) as mosaic, pytest.raises(HarveysegError, match="gdalwarp -t_srs"):
        assert mosaic.georeference
