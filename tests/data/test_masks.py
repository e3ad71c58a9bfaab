"""Masks in every form that people have them in, against the class ids that they were drawn from."""

import io

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from harveyseg.classes import HARVEY25, ClassList
from harveyseg.data.masks import read_mask_file
from helpers.class_lists import make_classes

IDS = np.random.default_rng(0).integers(0, 25, (48, 64)).astype(np.uint8)
COLOURS = {class_id: f"#{class_id * 10:02x}{255 - class_id:02x}{class_id % 7:02x}" for class_id in range(25)}
TABLE = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in COLOURS.values()], np.uint8)


OWN = make_classes(COLOURS)


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


@pytest.mark.parametrize("classes", [HARVEY25, OWN])
def test_grey_values_are_class_ids_and_the_bytes_are_kept(classes: ClassList) -> None:
    data = png(Image.fromarray(IDS), compress_level=1)
    mask = read_mask_file(data, classes)
    assert (mask.size, mask.stored, mask.problems) == ((64, 48), data, ())


@pytest.mark.parametrize("bits", [8, 4, 2, 1])
def test_palette_indices_are_class_ids_where_the_colours_are_not_the_list_s(bits: int) -> None:
    ids = IDS % min(25, 2**bits)
    data = png(palette(ids, TABLE), bits=bits)
    assert (data[24], data[25]) == (bits, 3)
    mask = read_mask_file(data, HARVEY25)
    assert mask.problems == ()
    assert np.array_equal(stored(mask.stored), ids)


def test_colours_are_translated_from_rgb_and_from_palettes_whose_indices_are_no_ids() -> None:
    rgb = Image.fromarray(TABLE[IDS])
    table = np.concatenate([np.zeros((200, 3), np.uint8), TABLE])  # the colours stand at 200 and above
    for image in (rgb, rgb.convert("RGBA"), palette(IDS, TABLE), palette(IDS + np.uint8(200), table)):
        mask = read_mask_file(png(image), OWN)
        assert mask.problems == ()
        assert np.array_equal(stored(mask.stored), IDS)


def test_pixels_that_an_alpha_channel_hides_are_no_class() -> None:
    """Editors keep any colour below them, mostly black, which may be the colour or the id of a class."""
    image = Image.fromarray(TABLE[IDS]).convert("RGBA")
    image.putpixel((3, 2), (0, 0, 0, 0))
    image.putpixel((4, 2), (255, 0, 0, 254))
    for classes in (OWN, HARVEY25, make_classes({3: "#000000", 4: "#ff0000"})):
        assert read_mask_file(png(image), classes).problems == (
            "is transparent in 2 pixels, whose class nobody can see; fill them with the colour of a class, or of "
            "`ignore`",
        )


def test_a_palette_whose_indices_and_colours_are_both_classes_is_refused() -> None:
    order = np.random.default_rng(1).permutation(25).astype(np.uint8)
    place = np.argsort(order).astype(np.uint8)  # where in the shuffled palette each class's colour stands
    mask = read_mask_file(png(palette(place[IDS], TABLE[order])), OWN)
    assert mask.problems == ("its palette's indices and its colours both stand for classes, but for other ones",)


def test_an_index_beyond_the_palette_is_not_taken_for_the_class_that_is_black() -> None:
    """Decoders show such pixels as black, so the colours of a damaged file would all be in the list."""
    classes = make_classes({3: "#000000", 4: "#ff0000"})
    data = png(palette(np.array([[0, 1]], np.uint8), np.array([[255, 0, 0]], np.uint8)))
    with Image.open(io.BytesIO(data)) as image:
        assert np.asarray(image.convert("RGB")).tolist() == [[[255, 0, 0], [0, 0, 0]]]
    assert read_mask_file(data, classes).problems == (
        "holds the palette index 1, but its palette ends at 0; export it again",
    )


def test_a_palette_of_greys_that_are_not_the_indices_is_refused() -> None:
    greys = np.repeat(np.arange(25, dtype=np.uint8)[:, None] * 10, 3, axis=1)
    (problem,) = read_mask_file(png(palette(IDS, greys)), HARVEY25).problems
    assert problem.startswith("is a palette of greys whose values differ from the indices")
    same = np.repeat(np.arange(25, dtype=np.uint8)[:, None], 3, axis=1)
    assert read_mask_file(png(palette(IDS, same)), HARVEY25).problems == ()


def test_ids_in_red_green_and_blue_alike() -> None:
    data = png(Image.fromarray(np.repeat(IDS[..., None], 3, axis=2)))
    assert np.array_equal(stored(read_mask_file(data, HARVEY25).stored), IDS)
    wrong = np.repeat(IDS[..., None], 3, axis=2)
    wrong[0, :3] = 77
    (problem,) = read_mask_file(png(Image.fromarray(wrong)), HARVEY25).problems
    assert problem == "holds the value (red, green and blue alike) 77 in 3 pixels; classes are 0..24"


def test_unknown_colours_are_listed_by_their_area() -> None:
    pixels = TABLE[IDS]
    pixels[0, :7] = (1, 2, 3)
    pixels[1, :9] = (10, 11, 12)
    mask = read_mask_file(png(Image.fromarray(pixels)), OWN)
    assert mask.problems == (
        "holds the colour #0a0b0c in 9 pixels; the list of classes has no such colour",
        "holds the colour #010203 in 7 pixels; the list of classes has no such colour; give the classes the colours of "
        "your masks (data.classes)",
    )
    pixels[2] = np.arange(192, dtype=np.uint8).reshape(64, 3)  # as many colours as pixels
    problems = read_mask_file(png(Image.fromarray(pixels)), OWN).problems
    assert len(problems) == 6
    assert problems[-1].startswith("holds 61 more colours that the list lacks, in 61 pixels")


@pytest.mark.parametrize(("ignore", "label"), [(255, 255), (13, 13), ("#ffffff", 255)])
def test_what_has_no_label(ignore: int | str, label: int) -> None:
    """As a value in grey files and palettes, as a colour in RGB files; a mask without any label is refused."""
    table = {class_id: colour for class_id, colour in COLOURS.items() if class_id != 13}
    classes = make_classes(table, ignore=ignore)
    ids = np.where(IDS == 13, np.uint8(label), IDS)
    assert read_mask_file(png(Image.fromarray(ids)), classes).problems == ()
    if isinstance(ignore, str):
        pixels = np.where((IDS == 13)[..., None], np.uint8(255), TABLE[IDS])
        assert np.array_equal(stored(read_mask_file(png(Image.fromarray(pixels)), classes).stored), ids)
    nothing = png(Image.fromarray(np.full_like(IDS, label)))
    assert read_mask_file(nothing, classes).problems == ("has no label in any pixel; leave photo and mask out",)


def test_255_without_ignore_names_the_setting() -> None:
    ids = IDS.copy()
    ids[0, :5] = 255
    assert read_mask_file(png(Image.fromarray(ids)), HARVEY25).problems == (
        "holds the value 255 in 5 pixels; classes are 0..24; if 255 means that there is no label, set `ignore: 255` in "
        "the list of classes",
    )


def test_black_and_white_that_was_jpeg_once_is_named_as_such() -> None:
    classes = make_classes({0: "#000000", 255 - 1: "#fefefe"})
    plain = np.kron(IDS % 2 * np.uint8(255), np.ones((21, 21), np.uint8))
    noisy = cv2.imdecode(cv2.imencode(".jpg", plain, [cv2.IMWRITE_JPEG_QUALITY, 90])[1], cv2.IMREAD_GRAYSCALE)
    assert noisy is not None
    problems = read_mask_file(png(Image.fromarray(np.asarray(noisy, np.uint8))), classes).problems
    assert len(problems) == 6
    assert "looks like black and white that was saved as JPEG once: threshold it" in problems[-1]


def test_ids_with_gaps_are_named_one_by_one() -> None:
    classes = make_classes({3: "#000000", 9: "#ffffff"})
    (problem,) = read_mask_file(png(Image.fromarray(np.full((4, 4), 5, np.uint8))), classes).problems
    assert problem == "holds the value 5 in 16 pixels; classes are 3, 9"
