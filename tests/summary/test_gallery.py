"""Photos and class maps of the gallery survive their encoding."""

import base64
import io
import zlib

import numpy as np
from PIL import Image

from harveyseg.summary.gallery import encode_map, encode_photo


def test_another_library_decodes_the_photo() -> None:
    rows, columns = np.mgrid[:96, :64]
    photo = np.stack([rows * 2, columns * 3, np.full_like(rows, 30)], axis=2).astype(np.uint8)
    header, text = encode_photo(photo).split(",")
    assert header == "data:image/webp;base64"
    decoded = np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB"))
    assert decoded.shape == photo.shape
    assert np.abs(decoded.astype(int) - photo).mean() < 4  # of 255; with red and blue swapped it is 60


def test_a_map_keeps_every_pixel() -> None:
    class_map = np.random.default_rng(0).integers(0, 256, (37, 53)).astype(np.uint8)
    stored = zlib.decompress(base64.b64decode(encode_map(class_map)))
    assert np.array_equal(np.frombuffer(stored, np.uint8).reshape(37, 53), class_map)
