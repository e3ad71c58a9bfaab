"""Photo files of training that are read, or refused for what they are."""

import io
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from rasterio.enums import ColorInterp

from harveyseg.data.cache import decode_image
from harveyseg.data.photo_files import PhotoFile, check_photo_file, decode_photo_file
from harveyseg.errors import HarveysegError
from harveyseg.geo.mosaic import MosaicOptions
from harveyseg.prediction.inputs import check_inputs, find_inputs
from helpers.rasters import write_tiff

PIXELS = np.random.default_rng(0).integers(0, 256, (48, 64, 3)).astype(np.uint8)


def encoded(kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize("orientation", [0, 1, 6, 9, 65535])
def test_only_the_orientations_that_exif_defines_turn_a_photo(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded("JPEG", exif=exif)
    turned = orientation == 6
    assert decode_photo_file(data).orientation == (6 if turned else 1)
    assert check_photo_file(data, "JPEG") == PhotoFile(decode_photo_file(data).size, (), 6 if turned else 1)


@pytest.mark.parametrize("compression", ["NONE", "LZW", "DEFLATE", "PACKBITS", "ZSTD", "LZMA", "WEBP", "LERC"])
@pytest.mark.parametrize("layout", [{}, {"interleave": "band"}, {"bigtiff": "YES"}, {"endianness": "BIG"}])
def test_tiffs_of_every_compression_are_read(tmp_path: Path, compression: str, layout: dict[str, Any]) -> None:
    """As GDAL writes them; OpenCV and Pillow lack some of the decoders."""
    if compression == "WEBP" and "interleave" in layout:
        pytest.skip("GDAL writes WebP by pixel only")
    bands = np.ascontiguousarray(PIXELS.transpose(2, 0, 1))
    options: dict[str, Any] = {"interleave": "pixel", "photometric": "RGB", "compress": compression, **layout}
    if compression == "WEBP":
        options["WEBP_LOSSLESS"] = True
    path = write_tiff(tmp_path / "a.tif", bands, crs=None, **options)
    assert check_photo_file(path.read_bytes(), "TIFF") == PhotoFile((64, 48))
    assert np.array_equal(decode_image(path, cv2.IMREAD_COLOR)[..., ::-1], PIXELS)
    assert check_inputs(find_inputs([str(path)], tmp_path / "out"), MosaicOptions())[0].size == (48, 64)


def test_a_broken_tiff_is_named_with_its_compression(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", PIXELS.transpose(2, 0, 1), crs=None, compress="ZSTD")
    data = path.read_bytes()
    (problem,) = check_photo_file(data[: len(data) // 2], "TIFF").problems
    assert problem.startswith("cannot be decoded as a TIFF photo (compressed with ZSTD: ")
    (problem,) = check_photo_file(data[:6], "TIFF").problems
    assert problem.startswith("cannot be decoded as a TIFF photo (")


def in_16_bits(factor: int) -> npt.NDArray[np.uint16]:
    return PIXELS.transpose(2, 0, 1).astype(np.uint16) * np.uint16(factor)


BANDS = PIXELS.transpose(2, 0, 1)
BGR = (ColorInterp.blue, ColorInterp.green, ColorInterp.red)


@pytest.mark.parametrize(
    ("bands", "options", "cause"),
    [
        (BANDS[:1], {}, "has 1 band, as an elevation model, an index or a grey photo; a colour photo is needed"),
        (BANDS[:2], {}, "has 2 bands, as an elevation model, an index or a grey photo; a colour photo is needed"),
        (np.concatenate([BANDS, BANDS[:2]]), {}, "has 5 bands and does not say which are red, green and blue"),
        (in_16_bits(16), {}, "its values are uint16; 8 bits are needed"),
        (BANDS.astype(np.float32), {}, "its values are float32; 8 bits are needed"),
        (BANDS.astype(np.int16), {}, "its values are int16; 8 bits are needed"),
        (in_16_bits(257), {}, ""),  # 8 bits in disguise
        (np.concatenate([BANDS, BANDS[:1]]), {"alpha": "NO", "photometric": "RGB"}, ""),  # near infrared
        (BANDS, {"photometric": "MINISBLACK"}, ""),
    ],
)
def test_tiffs_of_other_kinds_are_named_alike_in_training_and_prediction(
    tmp_path: Path, bands: npt.NDArray[Any], options: dict[str, Any], cause: str
) -> None:
    path = write_tiff(tmp_path / "a.tif", bands, crs=None, **options)
    problems = check_photo_file(path.read_bytes(), "TIFF").problems
    if cause:
        assert problems[0].startswith(cause)
        with pytest.raises(HarveysegError, match=re.escape(f"a.tif: {cause}")):
            check_inputs(find_inputs([str(path)], tmp_path / "out"), MosaicOptions())
    else:
        assert not problems
        assert np.array_equal(decode_image(path, cv2.IMREAD_COLOR)[..., ::-1], PIXELS)
        check_inputs(find_inputs([str(path)], tmp_path / "out"), MosaicOptions())


def test_bands_in_another_order_are_never_taken_for_red_green_and_blue(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", BANDS, crs=None, colours=BGR, photometric="MINISBLACK")
    assert check_photo_file(path.read_bytes(), "TIFF").problems == (
        "its bands are blue, green, red; write these with `gdal_translate -b 3 -b 2 -b 1 -colorinterp red,green,blue`",
    )


@pytest.mark.parametrize(
    ("mode", "kind", "cause"),
    [
        ("L", "PNG", "is grey; a colour photo (RGB) is needed"),
        ("L", "JPEG", "is grey; a colour photo (RGB) is needed"),
        ("LA", "PNG", "is grey; a colour photo (RGB) is needed"),
        ("I;16", "PNG", "is grey; a colour photo (RGB) is needed"),
        ("1", "PNG", "is grey; a colour photo (RGB) is needed"),
        ("P", "PNG", "is a palette image, as masks and class maps are; a colour photo (RGB) is needed"),
        ("CMYK", "JPEG", "is CMYK; a colour photo (RGB) is needed"),
    ],
)
def test_photos_of_other_kinds_are_named_alike(tmp_path: Path, mode: str, kind: str, cause: str) -> None:
    path = tmp_path / ("a.png" if kind == "PNG" else "a.jpg")
    image = Image.fromarray(PIXELS)
    (image.convert("L").convert("I;16") if mode == "I;16" else image.convert(mode)).save(path, kind)
    assert check_photo_file(path.read_bytes(), kind).problems == (f"{cause}; save it as one",)
    with pytest.raises(HarveysegError, match=re.escape(f"{path.name}: {cause}. Save it as one.")):
        check_inputs(find_inputs([str(path)], tmp_path / "out"), MosaicOptions())


def test_webp_under_another_name_is_named() -> None:
    assert check_photo_file(encoded("WEBP"), "JPEG").problems == ("is WEBP data; save it as PNG",)
