"""How photos and masks find each other in folders as people have them; every mask's pixels say whose it is."""

import logging
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image

from harveyseg.data.naming import matching_rules
from harveyseg.data.sources import DataParams, download_source
from harveyseg.errors import HarveysegError
from helpers.rasters import red_half, write_tiff

SIZE = (16, 24)


def put(folder: Path, photo: str, mask: str | None, number: int, part: str = "train") -> None:
    """A photo of the grey level 10 * ``number`` and a mask of the class ``number``."""
    for kind, name, value in (("images", photo, (10 * number,) * 3), ("masks", mask, number)):
        if name is not None:
            path = folder / f"{part}_{kind}" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB" if kind == "images" else "L", SIZE, value).save(path)


def download(folder: Path, **settings: object) -> dict[str, str]:
    """Run the source ``directory``; the part of each id, after a look at the pixels of each photo and its mask."""
    raw = folder.parent / "data" / "raw"
    params = DataParams.model_validate({"source": "directory", "path": str(folder), **settings})
    download_source(params, folder.parent, raw)
    parts = {}
    for part in ("train", "test"):
        for path in sorted((raw / f"{part}_images").glob("*")):
            parts[path.stem] = part
            level = int(np.asarray(Image.open(path))[0, 0, 0])
            mask = raw / f"{part}_masks" / f"{path.stem}.png"
            if mask.exists():
                assert (np.asarray(Image.open(mask)) == round(level / 10)).all(), path
    return parts


def log_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("harveyseg")]


@pytest.mark.parametrize(
    ("photo", "mask", "rule"),
    [
        ("{}.jpg", "{}_lab.png", "photo <id>, mask <id>_lab"),
        ("{}.jpg", "mask-{}.png", "photo <id>, mask mask-<id>"),
        ("IMG_{}.JPG", "IMG_{}.JPG.png", "photo <id>, mask <id>.JPG"),
        ("{}_sat.jpg", "{}_mask.png", "photo <id>_sat, mask <id>_mask"),
        ("{}.tif", "label_{}_v2.png", "photo <id>, mask label_<id>_v2"),
    ],
)
def test_masks_are_matched_by_one_rule(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, photo: str, mask: str, rule: str
) -> None:
    """Numbers that begin like others (1, 11, 12) included; the id is the photo's name."""
    for number in (1, 2, 11, 12):
        put(tmp_path / "photos", photo.format(number), mask.format(number), number)
    put(tmp_path / "photos", photo.format(20), mask.format(20), 20, "test")
    with caplog.at_level(logging.INFO, "harveyseg"):
        parts = download(tmp_path / "photos")
    assert parts == {Path(photo.format(n)).stem: "test" if n == 20 else "train" for n in (1, 2, 11, 12, 20)}
    assert f"train_masks: matched by their names: {rule}" in log_of(caplog)


def test_a_rule_that_leaves_some_out_names_them(tmp_path: Path) -> None:
    for number in (1, 2, 3, 4):
        put(tmp_path / "photos", f"{number}.jpg", f"{number}_lab.png" if number < 4 else "extra.png", number)
    put(tmp_path / "photos", "9.jpg", None, 9, "test")
    with pytest.raises(HarveysegError) as caught:
        download(tmp_path / "photos")
    assert caught.value.problems == (
        "train_images/4.jpg: has no mask train_masks/4_lab.png",
        "train_masks/extra.png: has no photo of its name (photo <id>, mask <id>_lab) in train_images",
    )
    assert sorted(download(tmp_path / "photos", on_bad="skip")) == ["1", "2", "3", "9"]


def test_a_mask_is_never_guessed(tmp_path: Path) -> None:
    """Other numbers, equal names for some, two rules, two masks for each photo: an error, not a pair."""
    assert [rule.describe() for rule in matching_rules(["1", "2"], ["11", "12"])] == ["photo <id>, mask <id>"]
    for name, photos, masks, message in (
        ("numbers", ["1", "2"], ["11", "12"], "train_images/1.jpg: has no mask train_masks/1.png"),
        ("some", ["1", "2", "3"], ["1", "2_lab", "3_lab"], "train_images/2.jpg: has no mask train_masks/2.png"),
        ("two", ["a", "a_x"], ["a_x_x"], "train_masks: the names could follow 'photo <id>, mask <id>_x' or 'photo "),
        ("double", ["1", "2"], ["1_a", "1_b", "2_a", "2_b"], "train_images/1.jpg: has no mask train_masks/1.png"),
    ):
        folder = tmp_path / name / "photos"
        for number, photo in enumerate(photos, 1):
            put(folder, f"{photo}.jpg", None, number)
        for number, mask in enumerate(masks, 1):
            put(folder, "other.jpg", f"{mask}.png", number)
        (folder / "train_images/other.jpg").unlink()
        put(folder, "99.jpg", None, 9, "test")
        with pytest.raises(HarveysegError, match=re.escape(message)):
            download(folder)


def test_numbers_that_start_again_in_the_next_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A drone's card, with masks in folders of the same names, and test photos of the next card without masks."""
    folder = tmp_path / "photos"
    put(folder, "100MEDIA/DJI_0001.JPG", "100MEDIA/DJI_0001_lab.png", 1)
    put(folder, "100MEDIA/DJI_0002.JPG", "100MEDIA/DJI_0002_lab.png", 2)
    put(folder, "101MEDIA/DJI_0001.JPG", "101MEDIA/DJI_0001_lab.png", 3)
    put(folder, "102MEDIA/DJI_0001.JPG", None, 4, "test")
    with caplog.at_level(logging.INFO, "harveyseg"):
        parts = download(folder)
    assert parts == {
        "100MEDIA_DJI_0001": "train", "100MEDIA_DJI_0002": "train", "101MEDIA_DJI_0001": "train",
        "102MEDIA_DJI_0001": "test",
    }  # fmt: skip
    said = "names start again in other folders, so photos are called by folder and name: 100MEDIA/DJI_0001.JPG"
    assert said in log_of(caplog)
    (folder / "train_masks/101MEDIA/DJI_0001_lab.png").unlink()
    with pytest.raises(HarveysegError) as caught:
        download(folder)
    assert caught.value.problems == (
        "train_images/101MEDIA/DJI_0001.JPG: has no mask train_masks/101MEDIA/DJI_0001_lab.png",
    )


def test_masks_that_do_not_say_of_which_folder_they_are(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    for number in (1, 2):
        put(folder, f"10{number}MEDIA/DJI_0001.JPG", "DJI_0001.png", number)
    put(folder, "9.jpg", None, 9, "test")
    with pytest.raises(HarveysegError, match=r"101MEDIA/DJI_0001\.JPG: has the same id 'DJI_0001' as train_images/102"):
        download(folder)


def test_sidecars_are_ignored_and_counted_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Those of GDAL are made by GDAL itself: statistics, a world file, overviews."""
    folder = tmp_path / "photos"
    put(folder, "1.jpg", "1.png", 1)
    put(folder, "9.jpg", None, 9, "test")
    mosaic = write_tiff(folder / "test_images/2.tif", red_half(), tfw="YES")
    with rasterio.Env(TIFF_USE_OVR=True), rasterio.open(mosaic, "r+") as opened:
        opened.build_overviews([2])
    with rasterio.open(mosaic) as opened:
        opened.stats()
    made = {path.name for path in mosaic.parent.iterdir()} - {"9.jpg", "2.tif"}
    assert made == {"2.tfw", "2.tif.ovr", "2.tif.aux.xml"}
    for name in ("train_images/1.xmp", "train_images/THUMBS.DB", "train_masks/.DS_Store", "train_masks/._1.png"):
        (folder / name).write_bytes(b"x")
    (folder / "train_images/@eaDir").mkdir()
    shutil.copy(folder / "train_images/1.jpg", folder / "train_images/@eaDir/1.jpg")
    with caplog.at_level(logging.INFO, "harveyseg"):
        assert download(folder) == {"1": "train", "2": "test", "9": "test"}
    assert [line for line in log_of(caplog) if "ignored" in line] == [
        "ignored: sidecars (7: .DS_Store, ._1.png, 1.xmp, ...)"
    ]


def test_a_long_list_shows_twenty_lines_and_its_length(tmp_path: Path) -> None:
    for number in range(1, 24):
        put(tmp_path / "photos", f"{number}.jpg", "0.png", number)
    put(tmp_path / "photos", "99.jpg", None, 24, "test")
    (tmp_path / "photos/old/Test_Images").mkdir(parents=True)
    with pytest.raises(HarveysegError) as caught:
        download(tmp_path / "photos")
    lines = str(caught.value).splitlines()
    assert lines[0].endswith("photos: 25 problems")
    assert lines[1].startswith("  - test_images: 2 folders have this name")  # first, since nothing helps without it
    assert lines[21:] == [
        "  - ... and 5 more",
        "Fix or remove these files (or fetch them again), then run `dvc repro download`.",
    ]
    assert len(caught.value.problems) == 25
