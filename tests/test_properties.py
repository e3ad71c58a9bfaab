"""What users write by hand or get from others, as hypothesis makes it up: read right, or refused in words.

Right values come from outside: loops over pixels, the notebooks' run lengths, Python's csv, Pillow.
"""

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from harveyseg.arrays import ClassMap
from harveyseg.classes import HARVEY25, IGNORED, ClassList, SegmentationClass
from harveyseg.config.settings import Section, flat_settings, load, parse
from harveyseg.data.cache import ResizeParams
from harveyseg.data.masks import read_mask_file
from harveyseg.data.sources import DataParams
from harveyseg.data.split import SplitParams
from harveyseg.ensemble.weights import EnsembleParams
from harveyseg.errors import HarveysegError
from harveyseg.evaluation.submission import SubmitParams, decode_mask, encode_mask, read_submission, write_submission
from harveyseg.inference.params import InferenceParams
from harveyseg.pipeline.check import check_params
from harveyseg.postprocess.select import PostprocessParams
from harveyseg.tracking.client import TrackingParams
from harveyseg.training.params import TrainParams
from helpers.paths import ROOT

Bits = npt.NDArray[np.bool_]

# The same examples each time, and none is too slow: other programs may run on the machine.
settings.register_profile(
    "harveyseg", derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
settings.load_profile("harveyseg")

SECTIONS: dict[str, type[Section]] = {
    "data": DataParams,
    "resize-cache": ResizeParams,
    "split": SplitParams,
    "train": TrainParams,
    "inference": InferenceParams,
    "ensemble": EnsembleParams,
    "postprocess": PostprocessParams,
    "submit": SubmitParams,
    "tracking": TrackingParams,
}
SETTINGS = load(ROOT / "params.yaml") | {"models": {"unet": {"network": "unet", "width": 4, "train": {"lr": 0.1}}}}

small_masks = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=9))
file_names = st.text(
    st.characters(exclude_categories=("C", "Z"), exclude_characters="/") | st.just(" "), min_size=1, max_size=8
)
"""Of photos: commas, quotes, blanks and letters of all languages, but no control characters."""


# Run lengths


def notebook_encode(mask: Bits) -> str:
    """The code that the competitors' notebooks share."""
    pixels = np.concatenate([[0], mask.flatten().astype(int), [0]])
    runs = np.where(pixels[1:] != pixels[:-1])[0] + 1
    runs[1::2] -= runs[::2]
    return " ".join(str(value) for value in runs)


def slow_decode(row: str, height: int, width: int) -> Bits | None:
    """Pixel after pixel; None where the row is none of a mask of this size."""
    words = row.split()
    if not row.isascii() or len(words) % 2 or not all(re.fullmatch(r"[+-]?\d{1,18}", word) for word in words):
        return None
    mask = np.zeros((height, width), np.bool_)
    last = 0
    for start, length in zip(map(int, words[::2]), map(int, words[1::2]), strict=True):
        if length < 1 or start <= last or start + length - 1 > height * width:
            return None
        for pixel in range(start - 1, start - 1 + length):
            mask[pixel // width, pixel % width] = True
        last = start + length - 1
    return mask


@given(small_masks)
def test_run_lengths_are_those_of_the_notebooks_and_come_back(mask: Bits) -> None:
    row = encode_mask(mask)
    assert row == notebook_encode(mask)
    assert np.array_equal(decode_mask(row, mask.shape), mask)
    slow = slow_decode(row, *mask.shape)
    assert slow is not None
    assert np.array_equal(slow, mask)


numbers = st.integers(-2, 20) | st.sampled_from(["x", "1.0", "1_0", "+3", "٣", "", str(10**25), "9" * 5000, "nan"])
rows = st.lists(numbers, max_size=6).map(lambda words: " ".join(map(str, words))) | st.text(max_size=8)


@given(rows, st.integers(1, 4), st.integers(1, 4))
@example("1_0 2", 4, 4)
def test_text_is_a_mask_as_a_loop_reads_it_or_is_refused(row: str, height: int, width: int) -> None:
    expected = slow_decode(row, height, width)
    try:
        mask = decode_mask(row, (height, width))
    except ValueError:
        assert expected is None
    else:
        assert expected is not None
        assert np.array_equal(mask, expected)


# Submissions


def two_classes() -> ClassList:
    entries = (("Other", False), ("Water", True), ("Roof", True))
    classes = [
        SegmentationClass(id=3 * index, name=name, color=f"#00000{index}", scored=scored)
        for index, (name, scored) in enumerate(entries)
    ]
    return ClassList(name="two", classes=tuple(classes))


TWO = two_classes()
photos = st.lists(file_names.filter(lambda name: not name.endswith(".png")), min_size=1, max_size=3, unique=True)


@given(st.data(), photos, st.sampled_from(["{id}.png_{class}", "{id}_{class}"]))
def test_a_submission_comes_back(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, ids: list[str], row_id: Any
) -> None:
    size = (3, 4)
    masks = [data.draw(arrays(np.bool_, (2, *size))) for _ in ids]
    path = tmp_path_factory.getbasetemp() / "submission.csv"
    write_submission(path, ids, masks, TWO, size, SubmitParams(row_id=row_id))
    read = read_submission(path, ids, TWO, size)
    assert list(read) == ids
    for photo, of_photo in zip(ids, masks, strict=True):
        decoded = [slow_decode(row, *size) for row in read[photo]]
        assert np.array_equal(np.array(decoded), of_photo)


@given(st.integers(0, 90), st.integers(0, 3), st.binary(max_size=3) | st.sampled_from([b",", b"\n", b'"', b"9" * 5000]))
@example(27, 1, b"_" + b"9" * 5000)
def test_a_damaged_submission_means_what_it_says_or_is_refused(
    tmp_path_factory: pytest.TempPathFactory, place: int, removed: int, inserted: bytes
) -> None:
    size = (3, 4)
    path = tmp_path_factory.getbasetemp() / "damaged.csv"
    content = b"ImageClassId,rle_mask\n7.png_3,1 2 5 3\n7.png_6,\nb.png_3,12 1\nb.png_6,1 12\n"
    path.write_bytes(content[:place] + inserted + content[place + removed :])
    try:
        read = read_submission(path, ["7", "b"], TWO, size)
    except HarveysegError as error:
        assert str(error).startswith(f"{path}: ")  # noqa: PT017
        return
    _, *lines = filter(None, csv.reader(io.StringIO(path.read_bytes().decode(), newline="")))
    said = {line[0].replace(".png_", "_"): line[1] for line in lines}
    assert {f"{photo}_{3 * number}": row for photo, of in read.items() for number, row in enumerate(of, 1)} == said


# Masks


@st.composite
def class_lists(draw: st.DrawFn) -> ClassList:
    """A few classes with ids and colours of all kinds, greys among them; with or without a value for no label."""
    count = draw(st.integers(2, 5))
    ids = draw(st.lists(st.integers(0, IGNORED - 1), min_size=count, max_size=count, unique=True))
    codes = st.integers(0, 2**24 - 1) | st.integers(0, 255).map(lambda grey: grey * 0x010101)
    *colours, other = draw(st.lists(codes.map("#{:06x}".format), min_size=count + 1, max_size=count + 1, unique=True))
    scored = [True, *draw(st.lists(st.booleans(), min_size=count - 1, max_size=count - 1))]
    entries = [
        SegmentationClass(id=class_id, name=f"class {class_id}", color=colour, scored=counts)
        for class_id, colour, counts in zip(ids, colours, scored, strict=True)
    ]
    return ClassList(name="drawn", ignore=draw(st.sampled_from([None, IGNORED, other])), classes=tuple(entries))


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def rgb(classes: ClassList, ids: ClassMap) -> npt.NDArray[np.uint8]:
    """Each class in its colour, uint8 (H, W, 3)."""
    colours = np.zeros((256, 3), np.uint8)
    for entry in classes.classes:
        colours[entry.id] = list(bytes.fromhex(entry.color[1:]))
    return colours[ids]


@settings(max_examples=40)
@given(st.data(), class_lists())
def test_ids_colours_and_palettes_are_read_as_the_same_classes(data: st.DataObject, classes: ClassList) -> None:
    known = [entry.id for entry in classes.classes]
    ids = data.draw(arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=4), elements=st.sampled_from(known)))
    colours = rgb(classes, ids)
    order = data.draw(st.permutations(known))
    indexed = Image.fromarray(np.vectorize(order.index)(ids).astype(np.uint8)).convert("P")
    indexed.putdata(np.vectorize(order.index)(ids).ravel().tolist())
    indexed.putpalette(rgb(classes, np.array([order], np.uint8)).tobytes())
    for image in (Image.fromarray(ids), Image.fromarray(colours), indexed):
        found = read_mask_file(png(image), classes)
        assert found.size == (ids.shape[1], ids.shape[0])
        if image.mode == "P" and found.problems:  # the indices are ids of classes, too: which are meant?
            assert set(range(len(known))) & set(known)
            continue
        assert found.problems == ()
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(found.stored))), ids)


@settings(max_examples=40)
@given(class_lists(), st.integers(0, 255), st.integers(0, 2**24 - 1))
def test_a_value_or_colour_of_no_class_is_named(classes: ClassList, value: int, code: int) -> None:
    allowed = {entry.id for entry in classes.classes} | {classes.ignored_value}
    assume(value not in allowed)
    (problem,) = read_mask_file(
        png(Image.fromarray(np.array([[value, classes.classes[0].id]], np.uint8))), classes
    ).problems
    assert problem.startswith(f"holds the value {value} in 1 pixels; classes are ")
    colour = f"#{code:06x}"
    assume(colour not in {entry.color for entry in classes.classes} | {classes.ignore})
    pixels = np.array([[list(bytes.fromhex(entry[1:])) for entry in (colour, classes.classes[0].color)]], np.uint8)
    (problem,) = read_mask_file(png(Image.fromarray(pixels)), classes).problems
    assert f"holds the colour {colour} in 1 pixels" in problem


@settings(max_examples=60)
@given(st.sampled_from(["L", "P", "RGB", "RGBA", "LA", "1"]), st.data())
def test_a_damaged_mask_is_refused_or_holds_classes_alone(mode: str, data: st.DataObject) -> None:
    ids = np.arange(12, dtype=np.uint8).reshape(3, 4)
    content = bytearray(png(Image.fromarray(ids).convert(mode)))
    place = data.draw(st.integers(0, len(content) - 1))
    content[place : place + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    found = read_mask_file(bytes(content), HARVEY25)
    if not found.problems:
        with Image.open(io.BytesIO(found.stored)) as stored:
            assert stored.mode == "L"
            assert np.asarray(stored).max() < len(HARVEY25)


# params.yaml

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.sampled_from([10**400, "null", "1e-3", "../../x", "\x07", "x" * 5000])
)  # fmt: skip
trees = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3),
    max_leaves=5,
)
SETTING_NAMES = sorted(flat_settings({name: SETTINGS[name] for name in SECTIONS}))


def with_value(name: str, value: object) -> dict[str, Any]:
    """The committed settings with another value of one."""
    values: dict[str, Any] = json.loads(json.dumps(SETTINGS))
    *path, last = name.split(".")
    place = values
    for key in path:
        place = place[key]
    place[last] = value
    return values


@settings(max_examples=300)
@given(st.sampled_from(SETTING_NAMES), trees)
def test_any_value_of_a_setting_is_taken_or_the_setting_is_named(name: str, value: object) -> None:
    section, _, _ = name.partition(".")
    try:
        parsed = parse(SECTIONS[section], with_value(name, value)[section], section)
    except HarveysegError as error:
        assert any(problem.startswith(section) for problem in error.problems), error  # noqa: PT017
    else:
        assert isinstance(parsed, SECTIONS[section])


fragments = [
    *("a", ":", ": ", "- ", "\n", "  ", "\n  ", "&x ", "*x", "{", "}", "[", "]", ", ", "!!int ", "!t ", "#", "'", '"'),
    *("|", "> ", "<<: ", "? ", "---\n", "...\n", "%YAML 9.9\n", "\t", "2001-13-45", "0x_", "1e400", ".nan", "9" * 5000),
]
words = st.lists(st.sampled_from(fragments), max_size=12).map("".join)


@settings(max_examples=100)
@given(words | st.text(max_size=20))
@example("a: 2001-13-45")
@example("a: " + "9" * 5000)
@example("a: &x [*x]")
@example("[" * 2000)
def test_any_text_is_read_as_settings_or_refused_in_words(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "text.yaml"
    path.write_text(text, encoding="utf-8", newline="")
    try:
        values = load(path)
    except HarveysegError as error:
        assert str(error).startswith(f"{path}: ")  # noqa: PT017
    else:
        assert isinstance(values, dict)


top_level = st.sampled_from(
    ["models", "models.unet", "models.unet.network", "models.unet.width", "folds", "train", "split"]
)


@settings(max_examples=15)
@given(top_level, trees)
def test_any_models_and_folds_are_checked_or_named(
    tmp_path_factory: pytest.TempPathFactory, name: str, value: object
) -> None:
    path: Path = tmp_path_factory.getbasetemp() / "params.yaml"
    # JSON is YAML, too; what JSON cannot hold was tried as text.
    path.write_text(json.dumps(with_value(name, value)))
    try:
        configs = check_params(path, ROOT / "stages")
    except HarveysegError as error:
        assert name.split(".")[0] in str(error)  # noqa: PT017
    else:
        assert configs
