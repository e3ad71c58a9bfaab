"""How many pixels of an image show the ground of one training photo."""

import logging
import re
from pathlib import Path

import pytest
from affine import Affine

from harveyseg.classes import HARVEY25
from harveyseg.errors import HarveysegError
from harveyseg.geo.ground import Georeference, parse_crs
from harveyseg.prediction.inputs import Input
from harveyseg.prediction.options import parse_options, parse_reading, parse_training_ground, parse_tta
from harveyseg.prediction.scale import Training, find_scale, warn_of_odd_ground, warn_of_unknown_scales
from helpers.rasters import EAST, NORTH, UTM

TRAINING = Training((60.0, 80.0), frozenset({(3000, 4000), (3072, 4592)}))
NETWORK = (512, 512)


def mosaic(pixel: float, size: tuple[int, int] = (9000, 9000), crs: str = UTM) -> Input:
    georeference = Georeference(parse_crs(crs), Affine(pixel, 0, EAST, 0, -pixel, NORTH))
    return Input(Path("m.tif"), "m", size, True, georeference)


def photo(size: tuple[int, int] = (3000, 4000), ground: tuple[float, float] | None = None) -> Input:
    return Input(Path("p.jpg"), "p", size, False, None, ground)


def test_a_mosaics_scale_comes_from_its_place() -> None:
    scale = find_scale(mosaic(0.05), TRAINING, NETWORK, None)
    assert scale.origin == "georeference"
    assert scale.photo_size == pytest.approx((1200, 1600), rel=0.01)
    # A pixel of web Mercator has 0.87 of its size at 29.7 degrees.
    mercator = find_scale(
        Input(
            Path("m.tif"), "m", (9000, 9000), True,
            Georeference(parse_crs("EPSG:3857"), Affine(0.05, 0, -10_616_000, 0, -0.05, 3_471_000)),
        ), TRAINING, NETWORK, None,
    )  # fmt: skip
    assert mercator.photo_size == pytest.approx((1200 / 0.866, 1600 / 0.868), rel=0.01)


def test_a_photos_scale_comes_from_its_flight() -> None:
    twice = find_scale(photo(ground=(120.0, 160.0)), TRAINING, NETWORK, None)
    assert (twice.origin, twice.photo_size) == ("flight height", (1500, 2000))
    alike = find_scale(photo(ground=(57.0, 76.0)), TRAINING, NETWORK, None)
    assert alike.photo_size == (3000, 4000)  # a training photo, predicted whole
    assert alike.pixel == pytest.approx((0.019, 0.019))
    on_its_side = find_scale(photo((4000, 3000), (76.0, 57.0)), TRAINING, NETWORK, None)
    assert on_its_side.photo_size == (4000, 3000)
    assert find_scale(photo(ground=(120.0, 160.0)), Training(), NETWORK, None).origin == "none"


@pytest.mark.parametrize(
    ("ground", "sizes", "warned"),
    [
        ((60.0, 80.0), {(4000, 3000), (4592, 3072)}, "60 x 80 m .* 4592 pixels high and 3072 wide.* 2.0 times.*80x60"),
        ((80.0, 60.0), {(4000, 3000), (4592, 3072)}, ""),
        ((60.0, 80.0), {(4000, 3000), (3000, 4000)}, ""),
        ((60.0, 80.0), set(), ""),
        (None, {(4000, 3000)}, ""),
    ],
)
def test_height_and_width_of_the_ground_that_were_swapped(
    ground: tuple[float, float] | None, sizes: set[tuple[int, int]], warned: str, caplog: pytest.LogCaptureFixture
) -> None:
    warn_of_odd_ground(Training(ground, frozenset(sizes)))
    assert bool(caplog.messages) == bool(warned)
    assert re.search(warned, caplog.text)


def test_options_come_first() -> None:
    scale = find_scale(mosaic(0.05), TRAINING, NETWORK, 0.02)
    assert (scale.origin, scale.photo_size) == ("--gsd", (3000, 4000))
    assert find_scale(photo(), TRAINING, NETWORK, 0.01).photo_size == (6000, 8000)
    with pytest.raises(HarveysegError, match=r"--gsd: the ground that a training photo shows is not known.*--ground"):
        find_scale(photo(), Training(), NETWORK, 0.02)


@pytest.mark.parametrize(
    ("item", "times"),
    [
        (mosaic(60 / 512 * 2), "pixels 2.0 times as large"),
        (mosaic(0.02, (1200, 1600)), "2.5 times less ground"),
        (photo(ground=(30.0, 40.0)), "2.0 times less ground"),
    ],
)
def test_more_than_one_and_a_half_times_is_a_warning(item: Input, times: str, caplog: pytest.LogCaptureFixture) -> None:
    find_scale(item, TRAINING, NETWORK, None)
    assert len(caplog.messages) == 1
    assert times in caplog.messages[0]


@pytest.mark.parametrize(
    ("item", "times"),
    [
        (mosaic(60 / 512 * 5), "pixels 5.0 times as large as those that the networks were trained on"),
        (mosaic(0.02, (600, 800)), "5.0 times less ground than a training photo"),
        (photo(ground=(12.0, 16.0)), "5.0 times less ground than a training photo"),
    ],
)
def test_more_than_four_times_is_refused(item: Input, times: str) -> None:
    with pytest.raises(HarveysegError, match=f"{times}; more than 4 times is not predicted.*--gsd"):
        find_scale(item, TRAINING, NETWORK, None)


def test_a_common_scale_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    for pixel in (0.005, 0.02, 0.05, 0.15):
        find_scale(mosaic(pixel, (40_000, 40_000)), TRAINING, NETWORK, None)
    assert not caplog.messages


@pytest.mark.parametrize(
    ("size", "alike"),
    [
        ((3000, 4000), True), ((4000, 3000), True), ((3648, 4864), True), ((1500, 2000), False), ((3000, 3000), False),
        ((9000, 12000), False),
    ],
)  # fmt: skip
def test_an_unknown_scale_is_said_once(size: tuple[int, int], alike: bool, caplog: pytest.LogCaptureFixture) -> None:
    items = [photo(size), photo(size), photo(ground=(60.0, 80.0))]
    scales = [find_scale(item, TRAINING, NETWORK, None) for item in items]
    assert [scale.origin for scale in scales] == ["none", "none", "flight height"]
    assert scales[0].photo_size == size
    with caplog.at_level(logging.INFO, "harveyseg"):
        warn_of_unknown_scales(items, scales, TRAINING)
    assert len(caplog.records) == 1
    assert caplog.records[0].levelno == (logging.INFO if alike else logging.WARNING)
    assert caplog.messages[0].startswith("2 of 3 images have")


def test_options_that_make_no_sense() -> None:
    for text in ("60", "60x", "0x80", "-60x80", "60 x 80", "60X80", ""):
        with pytest.raises(HarveysegError, match=f"--ground {text}: must be HEIGHTxWIDTH in metres, e.g. 60x80"):
            parse_training_ground(text)
    good = {"bands": "3,2,1", "value_range": "0,4095", "nodata": "none", "crs": UTM}
    bad = {"bands": "0,1,2", "value_range": "5,5", "nodata": "black", "crs": "EPSG:0"}
    options = parse_options(HARVEY25, parse_reading(**good), "flooded,4", geojson=True, gsd=2.5, overwrite=False)
    assert options.reading.bands == (3, 2, 1)
    assert options.reading.value_range == (0.0, 4095.0)
    assert options.products.probabilities == (23, 4)
    assert options.gsd == 0.025
    for name, text in bad.items():
        with pytest.raises(HarveysegError, match=f"--{'range' if name == 'value_range' else name} {text}: "):
            parse_reading(**{**good, name: text})
    with pytest.raises(HarveysegError, match="--probabilities lava: "):
        parse_options(HARVEY25, parse_reading(**good), "lava", geojson=False, gsd=None, overwrite=False)
    with pytest.raises(HarveysegError, match="--tta all: must be none, flips, d4"):
        parse_tta("all")


@pytest.mark.parametrize("gsd", [0.0, -0.05, float("nan"), float("inf")])
def test_impossible_pixels(gsd: float) -> None:
    item = Input(Path("a.jpg"), "a", (3000, 4000), is_tiff=False)
    with pytest.raises(HarveysegError, match="cannot be the ground that a pixel shows"):
        find_scale(item, Training((60.0, 80.0)), (512, 512), gsd)
