"""Overlapping photos are found by their pictures: made photos of known ground, and real ones with known overlaps."""

import csv
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageOps

from harveyseg.data import overlap
from harveyseg.data.manifest import MANIFEST_COLUMNS, write_manifest
from harveyseg.data.overlap import (
    candidate_pairs,
    count_matches,
    find_overlaps,
    overlaps_of_data,
    photo_features,
    photo_position,
)
from harveyseg.data.split import SplitParams, group_labels, write_overlaps
from helpers.photos import made_ground, with_position


@pytest.fixture(scope="module")
def flight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two flight lines over one ground, which overlap crosswise, and one photo of other ground; all by id."""
    folder = tmp_path_factory.mktemp("flight")
    ground = made_ground(0)
    photos = {
        "1": ground[0:480, 0:640],
        "2": ground[0:480, 320:960],
        "3": ground[0:480, 640:1280],
        "900": cv2.rotate(ground[300:780, 640:1280], cv2.ROTATE_180),
        "901": made_ground(1)[0:480, 0:640],
    }
    for photo_id, photo in photos.items():
        cv2.imwrite(str(folder / f"{photo_id}.png"), photo)
    return {photo_id: folder / f"{photo_id}.png" for photo_id in photos}


def test_photos_of_the_same_ground_are_found_and_no_others(flight: dict[str, Path]) -> None:
    pairs = find_overlaps(list(flight.values()), list(flight), threads=2)
    assert {("1", "2"), ("2", "3"), ("3", "900")} <= set(pairs)
    assert not [pair for pair in pairs if "901" in pair]


def test_groups_join_what_overlaps_through_others(flight: dict[str, Path]) -> None:
    pairs = [("1", "2"), ("3", "900"), ("2", "3"), ("901", "77")]
    groups = group_labels(list(flight), SplitParams(folds=2, groups="overlap"), Path(), pairs)
    assert groups[0] == groups[1] == groups[2] == groups[3] != groups[4]


def test_a_smaller_copy_of_the_photos_gives_the_same_overlaps(flight: dict[str, Path], tmp_path: Path) -> None:
    for photo_id, path in flight.items():
        Image.open(path).resize((320, 240), Image.Resampling.BOX).save(tmp_path / f"{photo_id}.png")
    small = find_overlaps([tmp_path / f"{photo_id}.png" for photo_id in flight], list(flight), threads=2)
    assert small == find_overlaps(list(flight.values()), list(flight), threads=2)


def test_a_mirrored_photo_is_no_overlap(flight: dict[str, Path], tmp_path: Path) -> None:
    ImageOps.mirror(Image.open(flight["1"])).save(tmp_path / "mirrored.png")
    assert count_matches(photo_features(tmp_path / "mirrored.png"), photo_features(flight["1"])) == 0


def test_a_photo_that_cannot_be_decoded_overlaps_nothing(flight: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "cut.jpg").write_bytes(b"\xff\xd8\xff")
    files = [flight["1"], flight["2"], tmp_path / "cut.jpg"]
    assert find_overlaps(files, ["1", "2", "3"], threads=1) == [("1", "2")]


def test_a_photo_without_features_overlaps_nothing(tmp_path: Path, flight: dict[str, Path]) -> None:
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((480, 640), 128, np.uint8))
    blank = photo_features(tmp_path / "grey.png")
    assert count_matches(blank, photo_features(flight["1"])) == 0
    assert find_overlaps([tmp_path / "grey.png", flight["1"]], ["0", "1"], threads=1) == []


@pytest.mark.parametrize(("latitude", "longitude"), [(29.75, -95.25), (-33.5, 151.125)])
def test_a_position_is_read_from_exif(tmp_path: Path, latitude: float, longitude: float) -> None:
    assert photo_position(with_position(tmp_path / "a.jpg", latitude, longitude)) == pytest.approx(
        (latitude, longitude), abs=1e-6
    )


def test_a_photo_without_a_position(flight: dict[str, Path]) -> None:
    assert photo_position(flight["1"]) is None


@pytest.mark.parametrize("located", [True, False])
def test_overlaps_of_a_data_set_are_found_where_asked_for_or_where_positions_are_known(
    tmp_path: Path, located: bool
) -> None:
    """Photos of one ground with far ids, as the stage ``split`` has them."""
    ground = made_ground(0)
    pictures = {"1": ground[0:480, 0:640], "2000": ground[100:580, 200:840], "4000": made_ground(1)[0:480, 0:640]}
    for index, (photo_id, picture) in enumerate(pictures.items()):
        photo = Image.fromarray(picture)
        if located:
            with_position(tmp_path / f"{photo_id}.jpg", 29.75 + index / 10000, -95.25, photo)
        else:
            photo.save(tmp_path / f"{photo_id}.jpg")
    rows = [["train", photo_id, f"{photo_id}.jpg", "", 640, 480, "", ""] for photo_id in pictures]
    write_manifest(tmp_path / "manifest.csv", pd.DataFrame(rows, columns=list(MANIFEST_COLUMNS)))
    found = [("1", "2000")]
    assert overlaps_of_data(tmp_path, 2, required=True) == found
    assert overlaps_of_data(tmp_path, 2, required=False) == (found if located else None)
    write_overlaps(tmp_path / "overlaps.csv", [("1", "4000")])  # the source knows better
    assert overlaps_of_data(tmp_path, 2, required=True) == [("1", "4000")]


def test_photos_that_were_taken_close_together_are_compared() -> None:
    # Far apart by id, without any feature: only their positions make two photos candidates.
    count = 100
    features = [overlap.Features(np.zeros((0, 2), np.float32), np.zeros((0, 128), np.float32))] * count
    positions = [(29.0 + index / 100, -95.0) for index in range(count)]
    positions[90] = positions[3]
    assert (3, 90) in candidate_pairs(range(count), features, list(positions))
    assert (3, 90) not in candidate_pairs(range(count), features, [None] * count)


def test_the_number_of_comparisons_grows_linearly() -> None:
    random = np.random.default_rng(0)

    def pairs_of(count: int) -> int:
        vectors = random.normal(size=(count, 8, 128)).astype(np.float32)
        features = [
            overlap.Features(np.zeros((8, 2), np.float32), rows / np.linalg.norm(rows, axis=1, keepdims=True))
            for rows in vectors
        ]
        return len(candidate_pairs(range(count), features, [None] * count))

    assert pairs_of(400) <= 4.5 * pairs_of(100)


@pytest.mark.slow
def test_every_group_of_the_real_photos_is_found(real_data: Path) -> None:
    known = real_data.parent / "overlap_groups.csv"
    if not known.is_file():
        pytest.skip(f"no {known}: the known overlaps of the real photos")
    with known.open(newline="") as opened:
        rows = {row["id"]: row for row in csv.DictReader(opened)}
    photos = [*sorted(real_data.glob("train_images/**/*.jpg")), *sorted(real_data.glob("test_images/**/*.jpg"))]
    ids = [path.stem for path in photos]
    pairs = find_overlaps(photos, ids, threads=2)
    groups = dict(zip(ids, group_labels(ids, SplitParams(folds=2, groups="overlap"), Path(), pairs), strict=True))
    for first, second in combinations(ids, 2):
        if rows[first]["group_strict"] == rows[second]["group_strict"]:
            assert groups[first] == groups[second], (first, second)
        if rows[first]["group_loose"] != rows[second]["group_loose"]:
            assert groups[first] != groups[second], (first, second)
