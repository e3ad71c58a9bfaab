"""Photo files of training that are read, or refused for what they are."""

import io

import numpy as np
import pytest
from PIL import Image

from harveyseg.data.photo_files import check_photo_file, decode_photo_file

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
    assert bool(check_photo_file(data, "JPEG").problems) == turned


@pytest.mark.parametrize("compression", ["zstd", "lzma"])
def test_a_compression_that_opencv_lacks_is_named(compression: str) -> None:
    problems = check_photo_file(encoded("TIFF", compression=compression), "TIFF").problems
    assert problems == (f"is compressed with {compression.upper()}; save it with DEFLATE or LZW",)
    assert not check_photo_file(encoded("TIFF", compression="tiff_lzw"), "TIFF").problems


def test_webp_under_another_name_is_named() -> None:
    assert check_photo_file(encoded("WEBP"), "JPEG").problems == ("is WEBP data; save it as PNG",)
