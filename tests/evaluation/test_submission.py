"""Run-length rows of hand-made masks; files good and bad; the score of a file. Made-up ones: test_properties.py."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from harveyseg.classes import HARVEY25
from harveyseg.errors import HarveysegError
from harveyseg.evaluation.submission import (
    SubmitParams,
    decode_mask,
    encode_mask,
    read_submission,
    score_submission,
    write_submission,
)
from harveyseg.score import argmax_metrics, confusion
from helpers.photos import huge
from helpers.submissions import blobs, masks_of

SIZE = (1024, 1024)

LABELS = np.array([[0, 1, 1, 0], [0, 0, 0, 2], [2, 0, 0, 0], [1, 1, 1, 1]], np.uint8)


def test_rows_of_a_hand_made_mask() -> None:
    # Row by row from 1: the first row's roof is 2..3, the last row's 13..16; class 2 is 8..9, over the line's end.
    assert [encode_mask(mask) for mask in masks_of(LABELS)[:3]] == ["2 2 13 4", "8 2", ""]
    assert encode_mask(LABELS < 25) == "1 16"
    assert np.array_equal(decode_mask("2 2 13 4", size=(4, 4)), LABELS == 1)
    assert np.array_equal(decode_mask("8 2", size=(4, 4)), LABELS == 2)
    assert not decode_mask("", size=(4, 4)).any()


@pytest.mark.parametrize(
    ("row", "cause"),
    [
        ("1", "odd count"),
        ("1 2 3", "odd count"),
        ("a 2", "not a whole number"),
        ("1.5 2", "not a whole number"),
        ("0 2", "is outside the pixels"),
        ("16 2", "is outside the pixels"),
        ("-3 2", "is outside the pixels"),
        ("99999999999999999999 1", "not a whole number"),
        ("1 0", "length 0"),
        ("1 -4", "length -4"),
        ("1 3 2 2", "overlap"),
        ("5 1 1 1", "not in order"),
    ],
)
def test_bad_rows_are_refused_with_their_cause(row: str, cause: str) -> None:
    with pytest.raises(ValueError, match=cause):
        decode_mask(row, size=(4, 4))


def test_a_written_submission(tmp_path: Path) -> None:
    path = tmp_path / "submission.csv"
    write_submission(path, ["20", "3"], iter([masks_of(blobs(1)), masks_of(blobs(2))]), HARVEY25, SIZE, SubmitParams())
    lines = path.read_text().splitlines()
    assert lines[0] == "ImageClassId,rle_mask"
    assert [line.split(",")[0] for line in lines[1:]] == [f"{i}.png_{c}" for i in ("20", "3") for c in range(1, 25)]
    assert "20.png_24," in lines  # no boat: the row is there and empty
    rows = read_submission(path, ["3", "20"], HARVEY25, SIZE)
    for photo, seed in (("20", 1), ("3", 2)):
        for class_id, row in enumerate(rows[photo], start=1):
            assert np.array_equal(decode_mask(row, SIZE), blobs(seed) == class_id)


def test_classes_may_overlap(tmp_path: Path) -> None:
    masks = np.random.default_rng(3).random((24, 8, 8)) < 0.4
    masks = np.kron(masks, np.ones((1, 128, 128), np.bool_))
    write_submission(tmp_path / "submission.csv", ["a"], [masks], HARVEY25, SIZE, SubmitParams(row_id="{id}_{class}"))
    rows = read_submission(tmp_path / "submission.csv", ["a"], HARVEY25, SIZE)["a"]
    assert np.array_equal(np.stack([decode_mask(row, SIZE) for row in rows]), masks)


@pytest.mark.parametrize("masks", [blobs(1) > 0, np.zeros((25, 1024, 1024), np.bool_)])
def test_predictions_of_another_shape_are_refused(tmp_path: Path, masks: npt.NDArray[np.bool_]) -> None:
    with pytest.raises(ValueError, match=r"expected a mask for each scored class, bool \(24, 1024, 1024\)"):
        write_submission(tmp_path / "submission.csv", ["a"], [masks], HARVEY25, SIZE, SubmitParams())
    assert not list(tmp_path.iterdir())


def test_too_few_predictions_and_double_ids_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shorter"):
        write_submission(tmp_path / "submission.csv", ["a", "b"], [masks_of(blobs(1))], HARVEY25, SIZE, SubmitParams())
    with pytest.raises(HarveysegError, match="duplicate row"):
        write_submission(
            tmp_path / "submission.csv", ["a", "a"], [masks_of(blobs(1))] * 2, HARVEY25, SIZE, SubmitParams()
        )
    assert not list(tmp_path.iterdir())


def write_rows(path: Path, rows: dict[str, str], header: str = "ImageClassId,rle_mask") -> Path:
    path.write_text("\n".join([header, *(f"{name},{row}" for name, row in rows.items())]) + "\n")
    return path


def test_every_bad_row_is_listed_with_line_and_cause(tmp_path: Path) -> None:
    rows = {f"10.png_{class_id}": "" for class_id in range(1, 24)}  # class 24 is missing
    rows |= {"10.png_3": "1 2 3", "10.png_5": "1048576 2", "99.png_1": "", "10.png_25": "", "10.png_x": "", "10_1": ""}
    with pytest.raises(HarveysegError) as caught:
        read_submission(write_rows(tmp_path / "bad.csv", rows), ["10", "11"], HARVEY25, SIZE)
    text = str(caught.value)
    for expected in (
        "line 4, '10.png_3': contains 3 numbers, an odd count",
        "line 6, '10.png_5': a run is outside the pixels 1..1048576",
        "line 25, '99.png_1': unknown image",
        "line 26, '10.png_25': no class 1..24",
        "line 27, '10.png_x': no class 1..24",
        "line 28, '10_1': duplicate row",
        "image '10': no row for class 24",
        "image '11': no row for class 1, 2, 3",
    ):
        assert expected in text


def test_a_long_list_of_problems_is_cut(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "bad.csv", {f"{photo}_1": "" for photo in range(100)})
    with pytest.raises(HarveysegError, match="and 81 more"):
        read_submission(path, ["x"], HARVEY25, SIZE)


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (None, "no such file"),
        ("", "not a CSV file"),
        ("id,mask\n1_1,\n", "the header is 'id,mask'"),
        ("ImageClassId,rle_mask\na_1,1 2\na_2,1 2,3\n", "not a CSV file .*line 3"),
    ],
)
def test_files_that_are_not_submissions_are_refused(tmp_path: Path, content: str | None, cause: str) -> None:
    path = tmp_path / "submission.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(HarveysegError, match=cause):
        read_submission(path, ["a"], HARVEY25, SIZE)


@pytest.fixture
def masks_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "masks"
    folder.mkdir()
    for photo, (seed, size) in {"20": (1, 64), "3": (2, 2048), "x_7": (3, 1024)}.items():
        Image.fromarray(blobs(seed, size)).save(folder / f"{photo}.png")
    return folder


@pytest.mark.parametrize("header", ["ImageClassId,rle_mask", "img_class,rle_mask"])
@pytest.mark.parametrize("row_id", ["{id}.png_{class}", "{id}_{class}"])
def test_a_perfect_submission_scores_1(tmp_path: Path, masks_dir: Path, row_id: str, header: str) -> None:
    path = tmp_path / "submission.csv"
    masks = [masks_of(blobs(seed)) for seed in (1, 2, 3)]
    write_submission(path, ["20", "3", "x_7"], masks, HARVEY25, SIZE, SubmitParams.model_validate({"row_id": row_id}))
    path.write_text(path.read_text().replace("ImageClassId,rle_mask", header))
    metrics = score_submission(path, masks_dir, HARVEY25, SIZE)
    assert metrics["score"] == metrics["macro_dice"] == 1


def test_the_score_of_a_file_is_that_of_its_maps(tmp_path: Path, masks_dir: Path) -> None:
    predictions = [blobs(11), blobs(12), blobs(13)]
    write_submission(
        tmp_path / "submission.csv", ["20", "3", "x_7"], map(masks_of, predictions), HARVEY25, SIZE, SubmitParams()
    )
    metrics = score_submission(tmp_path / "submission.csv", masks_dir, HARVEY25, SIZE)
    expected = argmax_metrics(
        np.stack([confusion(blobs(seed), maps, 25) for seed, maps in zip((1, 2, 3), predictions, strict=True)]),
        HARVEY25,
    )
    renamed = {name.removeprefix("argmax_"): value for name, value in expected.items()}
    assert metrics == pytest.approx({name: renamed[name] for name in metrics})
    assert {"score", "all_empty_score", "macro_dice"} < metrics.keys()


@pytest.mark.parametrize(("row", "file"), [("\u00e9", "e\u0301"), ("e\u0301", "\u00e9")])
def test_one_name_in_two_forms_of_unicode(tmp_path: Path, masks_dir: Path, row: str, file: str) -> None:
    (masks_dir / "20.png").rename(masks_dir / f"{file}.png")
    path = tmp_path / "submission.csv"
    masks = map(masks_of, (blobs(1), blobs(2), blobs(3)))
    write_submission(path, [row, "3", "x_7"], masks, HARVEY25, SIZE, SubmitParams())
    assert score_submission(path, masks_dir, HARVEY25, SIZE)["score"] == 1


def test_sidecars_are_no_masks(tmp_path: Path, masks_dir: Path) -> None:
    (masks_dir / "20.png").rename(masks_dir / "20.PNG")
    for name in ("._3.png", "3.png.aux.xml", "Thumbs.db"):
        (masks_dir / name).write_bytes(b"x")
    path = tmp_path / "submission.csv"
    write_submission(
        path, ["20", "3", "x_7"], map(masks_of, (blobs(1), blobs(2), blobs(3))), HARVEY25, SIZE, SubmitParams()
    )
    assert score_submission(path, masks_dir, HARVEY25, SIZE)["score"] == 1


def test_masks_may_follow_one_naming_rule(tmp_path: Path, masks_dir: Path) -> None:
    path = tmp_path / "submission.csv"
    write_submission(
        path, ["20", "3", "x_7"], map(masks_of, (blobs(1), blobs(2), blobs(3))), HARVEY25, SIZE, SubmitParams()
    )
    for mask in list(masks_dir.iterdir()):
        mask.rename(masks_dir / f"{mask.stem}_lab.png")
    assert score_submission(path, masks_dir, HARVEY25, SIZE)["score"] == 1
    (masks_dir / "3_lab.png").rename(masks_dir / "4_lab.png")
    with pytest.raises(HarveysegError, match=r"unknown image") as caught:
        score_submission(path, masks_dir, HARVEY25, SIZE)
    assert any(problem.startswith("image '4_lab': no row for class") for problem in caught.value.problems)


def test_masks_that_cannot_be_used_are_named(tmp_path: Path, masks_dir: Path) -> None:
    path = tmp_path / "submission.csv"
    write_submission(path, ["20", "3", "x_7"], [masks_of(blobs(1))] * 3, HARVEY25, SIZE, SubmitParams())
    with pytest.raises(HarveysegError, match="no masks"):
        score_submission(path, tmp_path / "absent", HARVEY25, SIZE)
    Image.fromarray(np.full((4, 4), 25, np.uint8)).save(masks_dir / "20.png")
    with pytest.raises(HarveysegError, match=r"20\.png: holds the value 25 in 16 pixels; classes are 0\.\.24"):
        score_submission(path, masks_dir, HARVEY25, SIZE)
    Image.fromarray(np.full((4, 4, 3), (1, 2, 3), np.uint8)).save(masks_dir / "20.png")
    with pytest.raises(HarveysegError, match=r"20\.png: holds the colour #010203"):
        score_submission(path, masks_dir, HARVEY25, SIZE)
    (masks_dir / "20.png").write_bytes(b"no image")
    with pytest.raises(HarveysegError, match=r"20\.png: cannot be decoded"):
        score_submission(path, masks_dir, HARVEY25, SIZE)
    (masks_dir / "20.png").write_bytes(huge(0))
    with pytest.raises(HarveysegError, match=r"20\.png: cannot be decoded .*200000000 pixels.*Replace the mask"):
        score_submission(path, masks_dir, HARVEY25, SIZE)


def test_submitting_the_real_masks_scores_1(tmp_path: Path, real_data: Path) -> None:
    files = sorted((real_data / "train_masks").rglob("*.png"))[:6]
    folder = tmp_path / "masks"
    folder.mkdir()
    maps = []
    for file in files:
        (folder / file.name).symlink_to(file)
        with Image.open(file) as opened:
            maps.append(np.array(opened.resize((1024, 1024), Image.Resampling.NEAREST)))
    write_submission(
        tmp_path / "submission.csv", [file.stem for file in files], map(masks_of, maps), HARVEY25, SIZE, SubmitParams()
    )
    assert score_submission(tmp_path / "submission.csv", folder, HARVEY25, SIZE)["score"] == 1
