"""Photos and masks as images and as files, good ones and bad ones."""

import io
import zlib
from pathlib import Path

import cv2
import numpy as np
from PIL import ExifTags, Image

from harveyseg.arrays import Photo


def photo(seed: int, size: tuple[int, int] = (48, 64)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8))


def mask(size: tuple[int, int] = (48, 64)) -> Image.Image:
    return Image.fromarray((np.arange(size[0] * size[1]).reshape(size) % 25).astype(np.uint8))


def png(bits: int, colour: int, rows: bytes, size: tuple[int, int] = (48, 64)) -> bytes:
    """A PNG from its filtered rows, written by hand: Pillow does not write 4-bit grey."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")

    header = size[1].to_bytes(4, "big") + size[0].to_bytes(4, "big") + bytes([bits, colour, 0, 0, 0])
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def encoded(image: Image.Image, file_format: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def with_value(value: int, pixels: int) -> Image.Image:
    values = np.asarray(mask()).copy()
    values.flat[:pixels] = value
    return Image.fromarray(values)


def palette(indices: Image.Image) -> Image.Image:
    """The same values as indices into a palette of arbitrary colours."""
    image = Image.frombytes("P", indices.size, indices.tobytes())
    image.putpalette(np.random.default_rng(5).permutation(768).astype(np.uint8).tobytes())
    return image


def turned(orientation: int = 3) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(photo(0), exif=exif)


def huge(colour: int) -> bytes:
    """A PNG that claims 200 million pixels, of which none are there."""
    return png(8, colour, b"", (10_000, 20_000))


def see_through() -> Image.Image:
    image = photo(1).convert("RGBA")
    image.putpixel((3, 4), (0, 0, 0, 254))
    return image


def made_ground(seed: int) -> Photo:
    """Ground with many distinct corners: random rectangles on noise."""
    random = np.random.default_rng(seed)
    ground = random.integers(90, 110, (900, 1600, 3)).astype(np.uint8)
    for _ in range(700):
        x, y = random.integers(0, 1600), random.integers(0, 900)
        width, height = random.integers(6, 60, 2)
        colour = tuple(int(value) for value in random.integers(0, 255, 3))
        cv2.rectangle(ground, (int(x), int(y)), (int(x + width), int(y + height)), colour, -1)
    return ground


def with_position(path: Path, latitude: float, longitude: float, photo: Image.Image | None = None) -> Path:
    """Write a photo whose EXIF data hold a position, as a drone writes it."""

    def parts(degrees: float) -> tuple[float, float, float]:
        whole = int(abs(degrees))
        return whole, 0.0, (abs(degrees) - whole) * 3600

    exif = Image.Exif()
    gps = exif.get_ifd(ExifTags.IFD.GPSInfo)
    gps[ExifTags.GPS.GPSLatitudeRef] = "S" if latitude < 0 else "N"
    gps[ExifTags.GPS.GPSLatitude] = parts(latitude)
    gps[ExifTags.GPS.GPSLongitudeRef] = "W" if longitude < 0 else "E"
    gps[ExifTags.GPS.GPSLongitude] = parts(longitude)
    (photo or Image.new("RGB", (8, 8))).save(path, exif=exif)
    return path
