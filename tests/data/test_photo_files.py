"""Photo files of training that are read, or refused for what they are."""

import io

import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile
from rasterio.io import MemoryFile

from harveyseg.data.photo_files import check_photo_file, decode_photo_file

PIXELS = np.random.default_rng(0).integers(0, 256, (48, 64, 3)).astype(np.uint8)


def encoded(kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, kind, **options)
    return stream.getvalue()


def encoded_by_gdal(compression: str) -> bytes:
    """A TIFF; Pillow's wheels before version 12 cannot write every compression."""
    with MemoryFile() as file:
        with file.open(
            driver="GTiff", width=64, height=48, count=3, dtype="uint8", compress=compression, photometric="rgb",
            interleave="pixel",
        ) as raster:  # fmt: skip
            raster.write(PIXELS.transpose(2, 0, 1))
        content: bytes = file.read()
    return content


@pytest.mark.parametrize("orientation", [0, 1, 6, 9, 65535])
def test_only_the_orientations_that_exif_defines_turn_a_photo(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded("JPEG", exif=exif)
    turned = orientation == 6
    assert decode_photo_file(data).orientation == (6 if turned else 1)
    assert bool(check_photo_file(data, "JPEG").problems) == turned


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("compression", ["zstd", "lzma"])
@pytest.mark.parametrize("pillow_reads_it", [True, False])
def test_a_compression_that_opencv_lacks_is_named(
    compression: str, pillow_reads_it: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(image: TiffImageFile) -> None:
        raise OSError("decoder error -2")

    lzw = encoded_by_gdal("lzw")
    assert not check_photo_file(lzw, "TIFF").problems
    if not pillow_reads_it:
        monkeypatch.setattr(TiffImageFile, "load", fail)
        assert check_photo_file(lzw, "TIFF").problems == ("cannot be decoded as a TIFF photo (decoder error -2)",)
    problems = check_photo_file(encoded_by_gdal(compression), "TIFF").problems
    assert problems == (f"is compressed with {compression.upper()}; save it with DEFLATE or LZW",)


def test_webp_under_another_name_is_named() -> None:
    assert check_photo_file(encoded("WEBP"), "JPEG").problems == ("is WEBP data; save it as PNG",)
