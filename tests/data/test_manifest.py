"""Verification of folders in the Kaggle layout: good ones in all their shapes, and every bad input with its message."""

import hashlib
import io
import logging
import os
import re
import shutil
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageOps

from harveyseg.classes import HARVEY25
from harveyseg.data.manifest import read_manifest, read_mask_of, verify_photos, write_manifest, write_skipped
from harveyseg.errors import HarveysegError
from helpers.damage import Damage, copy, cut, damaged, empty, remove, write, zeroed
from helpers.photos import encoded, huge, mask, palette, photo, png, see_through, turned, with_value

SEEDS = {"10": 0, "9": 1, "NA": 2, "20": 3}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Training photos 10, 9 and NA, test photo 20 with a mask."""
    for photo_id, seed in SEEDS.items():
        part = "test" if photo_id == "20" else "train"
        for kind, image, ending in (("images", photo(seed), "jpg"), ("masks", mask(), "png")):
            path = tmp_path / f"{part}_{kind}/{photo_id}.{ending}"
            path.parent.mkdir(exist_ok=True)
            image.save(path)
    return tmp_path


def without_test_masks(folder: Path) -> None:
    """A test photo on its side, of which no mask says how it is meant."""
    (folder / "test_images/20.jpg").write_bytes(turned(6))
    shutil.rmtree(folder / "test_masks")


BAD: list[tuple[Damage, str]] = [
    (lambda folder: shutil.rmtree(folder / "train_images"), "train_images: the folder is missing"),
    (lambda folder: shutil.rmtree(folder / "train_masks"), "train_masks: the folder is missing"),
    (lambda folder: shutil.rmtree(folder / "test_images"), "test_images: the folder is missing"),
    (empty("test_images"), "test_images: holds no photo (.jpg or .jpeg or .png or .tif or .tiff)"),
    (remove("train_masks/9.png"), "train_images/9.jpg: has no mask train_masks/9.png"),
    (remove("test_masks/20.png"), "test_images/20.jpg: has no mask test_masks/20.png"),
    (remove("train_images/9.jpg"), "train_masks/9.png: has no photo 9 in train_images"),
    (
        write("train_masks/9.png", encoded(mask((64, 48)), "PNG")),
        "train_masks/9.png: is 48x64 pixels, its photo 64x48; one of the two was turned, perhaps by an EXIF",
    ),
    (
        write("train_masks/9.png", encoded(mask((19, 26)), "PNG")),
        "train_masks/9.png: is 26x19 pixels, its photo 64x48; resize the photo to its mask's size, or the mask by its",
    ),
    (
        write("train_masks/9.png", encoded(mask((48, 60)), "PNG")),
        "train_masks/9.png: is 60x48 pixels, its photo 64x48; is it the mask of another photo, or was one of the two",
    ),
    (
        write("train_masks/9.png", encoded(mask(), "WEBP", lossless=True)),
        "train_masks/9.png: is WEBP data; a mask must be a PNG, whose values are exact",
    ),
    (
        write("train_masks/9.png", encoded(with_value(25, 7), "PNG")),
        "train_masks/9.png: holds the value 25 in 7 pixels; classes are 0..24",
    ),
    (
        write("test_masks/20.png", encoded(with_value(255, 1), "PNG")),
        "test_masks/20.png: holds the value 255 in 1 pixels; classes are 0..24",
    ),
    (
        write("train_masks/9.png", encoded(Image.new("RGB", (64, 48), (1, 2, 3)), "PNG")),
        "train_masks/9.png: holds the colour #010203 in 3072 pixels",
    ),
    (
        write("train_masks/9.png", encoded(palette(with_value(31, 5)), "PNG")),
        "train_masks/9.png: holds the palette index 31 in 5 pixels; classes are 0..24",
    ),
    (
        write("train_masks/9.png", encoded(Image.fromarray(np.zeros((48, 64), np.uint16)), "PNG")),
        "train_masks/9.png: is 16-bit grey; a mask must be 8-bit grey",
    ),
    # Pillow reads this one as mode L with the values 0 and 17, both valid classes
    (
        write("train_masks/9.png", png(4, 0, (b"\0" + b"\x01" * 32) * 48)),
        "train_masks/9.png: is 4-bit grey; a mask must be 8-bit grey",
    ),
    (cut("train_images/9.jpg", 1500), "train_images/9.jpg: cannot be decoded as a JPEG photo (image file is truncated"),
    (cut("train_images/9.jpg", -2), "train_images/9.jpg: "),
    (zeroed, "train_images/9.jpg: is truncated (a JPEG without its end marker)"),
    (cut("train_images/9.jpg", 100), "train_images/9.jpg: cannot be decoded as a JPEG photo"),
    (cut("train_images/9.jpg", 0), "train_images/9.jpg: the file is empty"),
    (cut("train_masks/9.png", 0), "train_masks/9.png: the file is empty"),
    (write("train_images/9.jpg", b"<html>"), "train_images/9.jpg: cannot be decoded as a JPEG photo (unknown format)"),
    (cut("train_masks/9.png", -50), "train_masks/9.png: cannot be decoded as a PNG mask"),
    (
        write("train_masks/9.png", huge(0)),
        "train_masks/9.png: cannot be decoded as a PNG mask (Image size (200000000 pixels) exceeds limit of 178956970",
    ),
    (cut("train_masks/9.png", -1), "train_masks/9.png: is truncated (a PNG without its end chunk)"),
    (
        write("train_images/9.jpg", encoded(photo(1), "PNG")),
        "train_images/9.jpg: is PNG data; rename it to .png",
    ),
    (
        write("train_masks/9.png", encoded(photo(1))),
        "train_masks/9.png: is JPEG data; a mask must be a PNG, whose values are exact",
    ),
    (
        write("train_images/9.jpg", encoded(photo(1).convert("CMYK"))),
        "train_images/9.jpg: is CMYK; a colour photo (RGB) is needed",
    ),
    (write("train_images/9.jpg", turned()), "train_images/9.jpg: has the EXIF orientation 3, and its size does not"),
    (
        without_test_masks,
        "test_images/20.jpg: has the EXIF orientation 6, and no mask says whether",
    ),
    (
        write("train_images/9.JPEG", encoded(photo(8))),
        "train_images/9.jpg: has the same id '9' as train_images/9.JPEG; ids must be unique",
    ),
    (
        write("train_images/20.jpg", encoded(photo(8))),
        "train_images/20.jpg: has the same id '20' as test_images/20.jpg; ids must be unique",
    ),
    (
        copy("train_images/9.jpg", "test_images/21.jpg"),
        "train_images/9.jpg: the same photo as test_images/21.jpg; a test score would be worthless",
    ),
    (write("train_images/9.gif", b""), "train_images/9.gif: must end in .jpg or .jpeg or .png or .tif or .tiff"),
    (
        write("train_masks/9.jpg", b""),
        "train_masks/9.jpg: must end in .png; a mask must be a PNG, whose values are exact",
    ),
    (
        lambda folder: (folder / "train_masks").rename(folder / "train_images/Train_Masks"),
        "train_images/Train_Masks: a folder inside train_images; move it next to train_images, or rename it if",
    ),
    (
        lambda folder: (folder / "train_images/back").symlink_to(folder / "train_images"),
        "train_images/back: a link to a folder that contains it; remove it",
    ),
]


@pytest.mark.parametrize(("damage", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_input(folder: Path, damage: Damage, message: str) -> None:
    damage(folder)
    with pytest.raises(HarveysegError, match=re.escape(message)) as caught:
        verify_photos(folder, HARVEY25)
    assert str(caught.value).startswith(f"the photos in {folder}: ")
    remedy = "Fix or remove these files (or fetch them again), then run `dvc repro download`."
    structural = re.search("folder|holds no photo", message)
    assert str(caught.value).endswith(remedy + ("" if structural else " To continue without them: data.on_bad = skip."))


def test_all_problems_are_listed_at_once(folder: Path) -> None:
    (folder / "train_masks/10.png").unlink()
    (folder / "train_masks/9.png").write_bytes(encoded(with_value(25, 3), "PNG"))
    (folder / "train_images/NA.jpg").write_bytes(b"\xff\xd8\xff")
    (folder / "test_images/20.jpg").write_bytes((folder / "train_images/9.jpg").read_bytes())
    with pytest.raises(HarveysegError) as caught:
        verify_photos(folder, HARVEY25)
    lines = str(caught.value).splitlines()
    assert lines[0].endswith(": 4 problems")
    assert len(lines) == 1 + 4 + 1
    for name in ("train_images/10.jpg", "train_masks/9.png", "train_images/NA.jpg", "test_images/20.jpg"):
        assert name in str(caught.value)


def test_manifest_of_a_good_folder(folder: Path, tmp_path: Path) -> None:
    verified = verify_photos(folder, HARVEY25)
    pairs, manifest = verified.pairs, verified.manifest
    assert [(pair.part, pair.id) for pair in pairs] == [
        ("train", "10"),
        ("train", "9"),
        ("train", "NA"),
        ("test", "20"),
    ]
    write_manifest(tmp_path / "manifest.csv", manifest)
    read = read_manifest(tmp_path / "manifest.csv")
    assert read.equals(manifest)
    row = read.iloc[2]
    assert row[["part", "id", "image", "mask", "width", "height"]].tolist() == [
        "train", "NA", "train_images/NA.jpg", "train_masks/NA.png", 64, 48,
    ]  # fmt: skip
    assert row["image_sha256"] == hashlib.sha256((folder / "train_images/NA.jpg").read_bytes()).hexdigest()
    assert row["mask_sha256"] == hashlib.sha256((folder / "train_masks/NA.png").read_bytes()).hexdigest()


def test_one_training_photo_is_enough_here(folder: Path) -> None:
    for photo_id in ("10", "NA"):
        (folder / f"train_images/{photo_id}.jpg").unlink()
        (folder / f"train_masks/{photo_id}.png").unlink()
    assert len(verify_photos(folder, HARVEY25).pairs) == 2


def test_test_masks_may_be_unknown(folder: Path) -> None:
    shutil.rmtree(folder / "test_masks")
    verified = verify_photos(folder, HARVEY25)
    pairs, manifest = verified.pairs, verified.manifest
    assert pairs[-1].mask is None
    assert manifest.iloc[-1][["mask", "mask_sha256"]].tolist() == ["", ""]


def test_nested_folders_any_case_and_hidden_files(folder: Path) -> None:
    flat = verify_photos(folder, HARVEY25).manifest
    for name in ("train_images", "train_masks", "test_images"):
        (folder / name).rename(folder / "moved")
        (folder / name).mkdir()
        (folder / "moved").rename(folder / name / name)
    nested = folder / "train_images/train_images"
    (nested / "9.jpg").rename(nested / "9.JPEG")
    (nested / ".DS_Store").write_bytes(b"")
    assert verify_photos(folder, HARVEY25).manifest.equals(flat)


def test_trailing_bytes_and_upright_exif_are_no_problem(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 1
    (folder / "train_images/9.jpg").write_bytes(encoded(photo(1), exif=exif) + b"camera maker's trailer")
    (folder / "train_images/10.jpg").write_bytes(encoded(photo(0), progressive=True))
    verify_photos(folder, HARVEY25)


def test_same_photo_twice_in_training_is_warned_about(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copy(folder / "train_images/9.jpg", folder / "train_images/10.jpg")
    with caplog.at_level(logging.WARNING):
        verify_photos(folder, HARVEY25)
    assert "train_images/10.jpg and train_images/9.jpg: the same photo under several ids" in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a table of the expected kind"),
        ("part,id\ntrain,1\n", "lacks the columns image, mask"),
        (None, "no such file"),
    ],
)
def test_damaged_manifest(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "manifest.csv").write_text(text)
    with pytest.raises(HarveysegError, match=rf"manifest\.csv: {message}.*dvc repro download"):
        read_manifest(tmp_path / "manifest.csv")


@pytest.mark.parametrize(("ending", "kind"), [("png", "PNG"), ("tif", "TIFF"), ("TIFF", "TIFF"), ("PNG", "PNG")])
def test_photos_keep_their_format_and_bytes(folder: Path, ending: str, kind: str) -> None:
    (folder / "train_images/9.jpg").unlink()
    (folder / f"train_images/9.{ending}").write_bytes(encoded(photo(1), kind))
    row = verify_photos(folder, HARVEY25).manifest.iloc[1]
    assert row["image"] == f"train_images/9.{ {'PNG': 'png', 'TIFF': 'tif'}[kind] }"
    assert row["image_sha256"] == hashlib.sha256((folder / f"train_images/9.{ending}").read_bytes()).hexdigest()


def test_an_opaque_alpha_channel_is_no_problem(folder: Path) -> None:
    (folder / "train_images/9.jpg").unlink()
    (folder / "train_images/9.png").write_bytes(encoded(photo(1).convert("RGBA"), "PNG"))
    assert verify_photos(folder, HARVEY25).manifest["image"].tolist()[1] == "train_images/9.png"


def tiff_of_16_bits() -> bytes:
    done, data = cv2.imencode(".tif", np.zeros((48, 64, 3), np.uint16))
    assert done
    return data.tobytes()


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        (
            "9.png",
            encoded(see_through(), "PNG"),
            "is transparent in places; a photo without an alpha channel is needed",
        ),
        ("9.png", encoded(photo(1).convert("L"), "PNG"), "is grey; a colour photo (RGB) is needed"),
        ("9.png", png(16, 2, (b"\0" * (1 + 64 * 6)) * 48), "has 16 bits per channel; 8 are needed"),
        ("9.png", encoded(photo(1), "PNG")[:-1], "is truncated (a PNG without its end chunk)"),
        ("9.png", encoded(photo(1)), "is JPEG data; rename it to .jpg"),
        (
            "9.png",
            huge(2),
            "has too many pixels to be decoded as a whole; cut photo and mask into parts, or shrink both",
        ),
        ("9.tif", encoded(photo(1), "TIFF")[:3000], "cannot be decoded as a TIFF photo ("),
        (
            "9.tif",
            tiff_of_16_bits(),
            "its values are uint16; 8 bits are needed. Say which values become black and white",
        ),
    ],
)
def test_bad_photos_of_other_formats(folder: Path, name: str, data: bytes, message: str) -> None:
    (folder / "train_images/9.jpg").unlink()
    (folder / "train_images" / name).write_bytes(data)
    with pytest.raises(HarveysegError, match=re.escape(f"train_images/{name}: {message}")):
        verify_photos(folder, HARVEY25)


def test_folders_at_any_depth_in_any_case(folder: Path) -> None:
    flat = verify_photos(folder, HARVEY25).manifest
    deep = folder / "archive/FDL21"
    deep.mkdir(parents=True)
    (folder / "train_images").rename(folder / "moved")
    (deep / "Train_Images/TRAIN_IMAGES").mkdir(parents=True)
    (folder / "moved").rename(deep / "Train_Images/TRAIN_IMAGES/train_images")
    (folder / "train_masks").rename(deep / "TRAIN_MASKS")
    junk = folder / "__MACOSX/train_images/._9.jpg"  # as the Archive Utility of macOS leaves it
    junk.parent.mkdir(parents=True)
    junk.write_bytes(b"")
    assert verify_photos(folder, HARVEY25).manifest.equals(flat)


def test_photos_and_masks_in_folders_of_their_own(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """By flight, by day, linked from elsewhere; masks are found by id, wherever they lie."""
    flat = verify_photos(folder, HARVEY25).manifest
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (folder / "train_images/9.jpg").rename(elsewhere / "9.jpg")
    (folder / "train_images/flight 2").symlink_to(elsewhere)
    for old, new in {
        "train_images/10.jpg": "train_images/flight 1/day/10.jpg",
        "train_masks/9.png": "train_masks/done/9.png",
        "train_masks/NA.png": "train_masks/train_masks/NA.png",
        "test_images/20.jpg": "test_images/flight 1/20.jpg",
    }.items():
        (folder / new).parent.mkdir(parents=True, exist_ok=True)
        (folder / old).rename(folder / new)
    (folder / "train_images/flight 3/.cache").mkdir(parents=True)
    (folder / "train_images/flight 3/.cache/9.jpg").write_bytes(b"")
    assert verify_photos(folder, HARVEY25).manifest.equals(flat)
    for part, name in (("images", "10.jpg"), ("masks", "9.png")):
        target = folder / f"train_{part}/flight 9" / name
        target.parent.mkdir()
        target.write_bytes(encoded(photo(7)) if part == "images" else encoded(mask(), "PNG"))
    with pytest.raises(HarveysegError) as raised:
        verify_photos(folder, HARVEY25)
    for one, other, stem in (
        ("train_images/flight 1/day/10.jpg", "train_images/flight 9/10.jpg", "10"),
        ("train_images/flight 9/10.jpg", "train_images/flight 1/day/10.jpg", "10"),
        ("train_masks/flight 9/9.png", "train_masks/done/9.png", "9"),
    ):
        assert f"  - {one}: has the same id '{stem}' as {other}; ids must be unique" in str(raised.value)


def test_a_folder_that_cannot_be_listed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "train_images/locked").mkdir()
    listed = Path.iterdir

    def refused(path: Path) -> Iterator[Path]:  # an administrator, as whom tests may run, is refused nothing
        if path.name == "locked":
            raise PermissionError(13, "Permission denied")
        return iter(listed(path))

    monkeypatch.setattr(Path, "iterdir", refused)
    with pytest.raises(HarveysegError, match=r"train_images/locked: cannot be listed \(Permission denied\)"):
        verify_photos(folder, HARVEY25, skip=True)


def test_several_folders_of_one_name_are_not_chosen_from(folder: Path) -> None:
    shutil.copytree(folder / "train_images", folder / "backup/Train_images")
    with pytest.raises(HarveysegError) as caught:
        verify_photos(folder, HARVEY25, skip=True)
    assert "train_images: 2 folders have this name: train_images, backup/Train_images; keep one" in str(caught.value)


def test_bad_files_can_be_left_out(folder: Path, tmp_path: Path) -> None:
    clean = verify_photos(folder, HARVEY25).manifest
    damaged(folder)
    verified = verify_photos(folder, HARVEY25, skip=True)
    assert [(pair.part, pair.id) for pair in verified.pairs] == [("train", "10"), ("test", "20"), ("test", "21")]
    good = clean["id"].isin(["10", "20"])
    assert (
        verified.manifest[verified.manifest["id"] != "21"]
        .reset_index(drop=True)
        .equals(clean[good].reset_index(drop=True))
    )
    write_skipped(tmp_path / "skipped.csv", verified.skipped)
    skipped = pd.read_csv(tmp_path / "skipped.csv")
    assert dict(zip(skipped["file"], skipped["cause"].str.slice(0, 20), strict=True)) == {
        "train_images/3.jpg": "has no mask train_ma",
        "train_images/9.jpg": "cannot be decoded as",
        "train_images/NA.jpg": "the same photo as te",
        "train_masks/1.png": "holds the value 25 i",
        "train_masks/2.png": "is 48x64 pixels, its",
        "train_masks/4.png": "has no photo 4 in tr",
        "test_images/22.jpg": "the file is empty",
        "test_images/notes.txt": "must end in .jpg or ",
    }
    with pytest.raises(
        HarveysegError, match=r": 9 problems\n(.*\n)+.*To continue without them: data\.on_bad = skip\.$"
    ):
        verify_photos(folder, HARVEY25)


def test_of_two_photos_of_one_id_none_is_chosen(folder: Path) -> None:
    write("train_images/9.JPEG", encoded(photo(8)))(folder)
    write("train_images/20.jpg", encoded(photo(9)))(folder)
    write("train_masks/20.png", encoded(mask(), "PNG"))(folder)
    ids = [pair.id for pair in verify_photos(folder, HARVEY25, skip=True).pairs]
    assert ids == ["10", "NA", "20"]  # of the one in both parts, the test photo stays


def test_one_name_in_two_forms_of_unicode(folder: Path) -> None:
    """macOS writes an accent as a character of its own: a mask that comes from there is that of the photo."""
    write("train_images/\u00e9.jpg", encoded(photo(8)))(folder)
    write("train_masks/e\u0301.png", encoded(mask(), "PNG"))(folder)
    write("train_images/o\u0301.jpg", encoded(photo(9)))(folder)
    write("train_masks/\u00f3.png", encoded(mask(), "PNG"))(folder)
    (first, second) = (pair for pair in verify_photos(folder, HARVEY25).pairs if pair.id in ("\u00e9", "\u00f3"))
    assert (first.mask, second.mask) == (folder / "train_masks/e\u0301.png", folder / "train_masks/\u00f3.png")


def test_ids_that_differ_only_in_case(folder: Path) -> None:
    """Where case is ignored one of them would overwrite the other in data/raw, in either part and also a mask."""
    write("train_images/na.png", encoded(photo(8), "PNG"))(folder)
    write("train_masks/na.png", encoded(mask(), "PNG"))(folder)
    for part, stem in (("train", "\u00e9T\u00c9"), ("test", "e\u0301te\u0301")):
        write(f"{part}_images/{stem}.jpg", encoded(photo(40 + len(stem))))(folder)
        write(f"{part}_masks/{stem}.png", encoded(mask(), "PNG"))(folder)
    with pytest.raises(HarveysegError) as raised:
        verify_photos(folder, HARVEY25)
    assert str(raised.value).splitlines()[1:-1] == [
        f"  - {file}: its id {unicodedata.normalize('NFC', Path(file).stem)!r} differs from {other} only in case or "
        "accents; some file systems keep only one"
        for file, other in (
            ("train_images/NA.jpg", "train_images/na.png"),
            ("train_images/na.png", "train_images/NA.jpg"),
            ("train_masks/NA.png", "train_masks/na.png"),
            ("train_masks/na.png", "train_masks/NA.png"),
            ("train_images/\u00e9T\u00c9.jpg", "test_images/e\u0301te\u0301.jpg"),
        )
    ]
    ids = [pair.id for pair in verify_photos(folder, HARVEY25, skip=True).pairs]
    assert ids == ["10", "9", "20", "\u00e9t\u00e9"]


def test_a_pipe_is_no_photo(folder: Path) -> None:
    """Nobody writes into it: reading it would never end."""
    os.mkfifo(folder / "train_images/8.jpg")
    (folder / "train_masks/9.png").unlink()
    os.mkfifo(folder / "train_masks/9.png")
    with pytest.raises(HarveysegError) as raised:
        verify_photos(folder, HARVEY25)
    for name in ("train_images/8.jpg", "train_masks/9.png"):
        assert f"  - {name}: is not a regular file (a pipe, a socket or a device); remove it" in str(raised.value)


def test_nothing_left_is_an_error_also_when_bad_files_are_left_out(folder: Path) -> None:
    write("test_images/20.jpg", b"")(folder)
    with pytest.raises(HarveysegError) as caught:
        verify_photos(folder, HARVEY25, skip=True, name="s3://bucket")
    assert str(caught.value) == (
        "the photos in s3://bucket: 2 problems\n"
        "  - test_images/20.jpg: the file is empty\n"
        "  - test_images: nothing is left, since every photo is bad\n"
        "Fix or remove these files (or fetch them again), then run `dvc repro download`."
    )


def test_files_that_cannot_be_read_or_named(folder: Path, tmp_path: Path) -> None:
    """A link that leads nowhere, a name that is not UTF-8, and one that would break a line of every CSV file."""
    (folder / "train_images/9.jpg").unlink()
    (folder / "train_images/9.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (folder / "train_masks/NA.png").unlink()
    (folder / "train_masks/NA.png").symlink_to(tmp_path / "nowhere.png")
    for stem in ("\udcff", "a\nb"):
        photo(7).save(folder / "odd.jpg")
        mask().save(folder / "odd.png")
        (folder / "odd.jpg").rename(folder / f"train_images/{stem}.jpg")
        (folder / "odd.png").rename(folder / f"train_masks/{stem}.png")
    with pytest.raises(HarveysegError) as raised:
        verify_photos(folder, HARVEY25)
    lines = str(raised.value).splitlines()
    for line in (
        "train_images/9.jpg: cannot be read (No such file or directory)",
        "train_masks/NA.png: cannot be read (No such file or directory)",
        r"train_images/\udcff.jpg: its name has control characters or is not UTF-8; rename it",
        r"train_masks/a\nb.png: its name has control characters or is not UTF-8; rename it",
    ):
        assert f"  - {line}" in lines
    left = verify_photos(folder, HARVEY25, skip=True)
    assert [pair.id for pair in left.pairs] == ["10", "20"]
    write_skipped(tmp_path / "skipped.csv", left.skipped)
    assert len(pd.read_csv(tmp_path / "skipped.csv")) == 6


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize("drawn_on", ["stored", "shown"])
def test_a_mask_fits_the_stored_pixels_of_a_photo_on_its_side(folder: Path, orientation: int, drawn_on: str) -> None:
    """The mask says where the photo is bright, as Pillow decodes or shows it."""
    (folder / "train_images/9.jpg").write_bytes(turned(orientation))
    with Image.open(folder / "train_images/9.jpg") as opened:
        stored = np.asarray(opened)
        seen = np.asarray(ImageOps.exif_transpose(opened)) if drawn_on == "shown" else stored
    Image.fromarray((seen[..., 0] > 128).astype(np.uint8)).save(folder / "train_masks/9.png")
    row = verify_photos(folder, HARVEY25).manifest.set_index("id").loc["9"]
    size = (stored.shape[1], stored.shape[0])
    found = read_mask_of(folder / "train_images/9.jpg", folder / "train_masks/9.png", HARVEY25, size)
    assert row["mask_sha256"] == hashlib.sha256(found.stored).hexdigest()
    with Image.open(io.BytesIO(found.stored)) as opened:
        np.testing.assert_array_equal(np.asarray(opened), stored[..., 0] > 128)
