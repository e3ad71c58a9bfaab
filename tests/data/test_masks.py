"""Masks in every form that people have them in, against the class ids that they were drawn from."""

import io

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from harveyseg.data.masks import parse_colours, read_mask_file

IDS = np.random.default_rng(0).integers(0, 25, (48, 64)).astype(np.uint8)
COLOURS = {class_id: f"#{class_id * 10:02x}{255 - class_id:02x}{class_id % 7:02x}" for class_id in range(25)}
TABLE = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in COLOURS.values()], np.uint8)


def png(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def palette(ids: npt.NDArray[np.uint8], table: npt.NDArray[np.uint8]) -> Image.Image:
    image = Image.frombytes("P", (ids.shape[1], ids.shape[0]), ids.tobytes())
    image.putpalette(table.tobytes())
    return image


def stored(data: bytes) -> npt.NDArray[np.uint8]:
    """What Pillow finds in the stored file, which must be an 8-bit grey PNG."""
    assert (data[24], data[25]) == (8, 0)  # bit depth and colour type of the header
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.mark.parametrize("colours", [None, COLOURS])
def test_grey_values_are_class_ids_and_the_bytes_are_kept(colours: dict[int, str] | None) -> None:
    data = png(Image.fromarray(IDS), compress_level=1)
    mask = read_mask_file(data, colours)
    assert (mask.size, mask.stored, mask.problems) == ((64, 48), data, ())


@pytest.mark.parametrize("bits", [8, 4, 2, 1])
def test_palette_indices_are_class_ids(bits: int) -> None:
    ids = IDS % min(25, 2**bits)
    data = png(palette(ids, TABLE), bits=bits)
    assert (data[24], data[25]) == (bits, 3)
    mask = read_mask_file(data, None)
    assert mask.problems == ()
    assert np.array_equal(stored(mask.stored), ids)


def test_colours_are_translated_from_rgb_and_palettes_of_any_order() -> None:
    rgb = Image.fromarray(TABLE[IDS])
    order = np.random.default_rng(1).permutation(25).astype(np.uint8)
    place = np.argsort(order).astype(np.uint8)  # where in the shuffled palette each class's colour stands
    for image in (rgb, rgb.convert("RGBA"), palette(place[IDS], TABLE[order])):
        mask = read_mask_file(png(image), COLOURS)
        assert mask.problems == ()
        assert np.array_equal(stored(mask.stored), IDS)


def test_unknown_colours_are_listed_by_their_area() -> None:
    pixels = TABLE[IDS]
    pixels[0, :7] = (1, 2, 3)
    pixels[1, :9] = (10, 11, 12)
    mask = read_mask_file(png(Image.fromarray(pixels)), COLOURS)
    assert mask.problems == (
        "holds the colour #0a0b0c in 9 pixels; data.classes has no such colour",
        "holds the colour #010203 in 7 pixels; data.classes has no such colour",
    )
    pixels[2] = np.arange(192, dtype=np.uint8).reshape(64, 3)  # as many colours as pixels
    problems = read_mask_file(png(Image.fromarray(pixels)), COLOURS).problems
    assert len(problems) == 6
    assert problems[-1] == "holds 61 more colours that data.classes lacks, in 61 pixels"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "must map class ids to colours"),
        ({}, "must map class ids to colours"),
        ({25: "#000000"}, r"25 is not a class id; those are 0\.\.24"),
        ({"1": "#000000"}, "'1' is not a class id"),
        ({True: "#000000"}, "True is not a class id"),
        ({1: "red"}, r"'red' \(class 1\) is not a colour; write \"#rrggbb\", in quotes"),
        ({1: None}, r"None \(class 1\) is not a colour.*a bare # begins a comment"),
        ({1: "#12345"}, "'#12345' .* is not a colour"),
        ({1: "#ABCDEF", 2: "#abcdef", 3: "#000000"}, "the colour #abcdef belongs to several classes: 1, 2"),
        ({-1: "#000000", 2: "x"}, "-1 is not a class id; .*; 'x' .* is not a colour"),
    ],
)
def test_wrong_tables_of_colours(value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_colours(value)


def test_a_table_may_leave_classes_out() -> None:
    assert parse_colours({23: "#1F77b4", 0: "#000000"}) == {23: "#1f77b4", 0: "#000000"}
