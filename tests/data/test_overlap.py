"""Overlapping photos are found by their pictures: made photos of known ground, and real ones with known overlaps."""

import csv
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import ExifTags, Image

from harveyseg.arrays import Photo
from harveyseg.data import overlap
from harveyseg.data.overlap import candidate_pairs, count_matches, find_overlaps, photo_features, photo_position
from harveyseg.data.split import SplitParams, group_labels


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


def test_a_photo_without_features_overlaps_nothing(tmp_path: Path, flight: dict[str, Path]) -> None:
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((480, 640), 128, np.uint8))
    blank = photo_features(tmp_path / "grey.png")
    assert count_matches(blank, photo_features(flight["1"])) == 0
    assert find_overlaps([tmp_path / "grey.png", flight["1"]], ["0", "1"], threads=1) == []


def with_position(path: Path, latitude: float, longitude: float) -> Path:
    """A photo whose EXIF data hold a position, as a drone writes it."""

    def parts(degrees: float) -> tuple[float, float, float]:
        whole = int(abs(degrees))
        return whole, 0.0, (abs(degrees) - whole) * 3600

    exif = Image.Exif()
    gps = exif.get_ifd(ExifTags.IFD.GPSInfo)
    gps[ExifTags.GPS.GPSLatitudeRef] = "S" if latitude < 0 else "N"
    gps[ExifTags.GPS.GPSLatitude] = parts(latitude)
    gps[ExifTags.GPS.GPSLongitudeRef] = "W" if longitude < 0 else "E"
    gps[ExifTags.GPS.GPSLongitude] = parts(longitude)
    Image.new("RGB", (8, 8)).save(path, exif=exif)
    return path


@pytest.mark.parametrize(("latitude", "longitude"), [(29.75, -95.25), (-33.5, 151.125)])
def test_a_position_is_read_from_exif(tmp_path: Path, latitude: float, longitude: float) -> None:
    assert photo_position(with_position(tmp_path / "a.jpg", latitude, longitude)) == pytest.approx(
        (latitude, longitude), abs=1e-6
    )


def test_a_photo_without_a_position(flight: dict[str, Path]) -> None:
    assert photo_position(flight["1"]) is None


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
