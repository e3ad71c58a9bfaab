"""Which files are predicted, under which names, and what is said about the others before anything is predicted."""

import logging
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harveyseg.errors import HarveysegError
from harveyseg.geo.mosaic import MosaicOptions
from harveyseg.prediction.inputs import Input, check_inputs, find_inputs
from harveyseg.prediction.predict import PredictionOptions, predict_images
from helpers.predicting import FLOODED, PARAMS, single, sure
from helpers.rasters import red_half, write_dji, write_tiff

PIXELS = np.ascontiguousarray(red_half().transpose(1, 2, 0))


def save(path: Path, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(PIXELS).save(path, **options)  # type: ignore[arg-type]
    return path


def check(*arguments: Path | str, out: Path = Path("out"), options: MosaicOptions | None = None) -> list[Input]:
    return check_inputs(find_inputs([str(argument) for argument in arguments], out), options or MosaicOptions())


@pytest.fixture
def flight(tmp_path: Path) -> Path:
    """A drone's card: numbers begin again in each folder, and programs left their files."""
    folder = tmp_path / "flight"
    for name in ("100MEDIA/DJI_0001.JPG", "100MEDIA/DJI_0002.JPG", "101MEDIA/DJI_0001.JPG"):
        save(folder / name, format="JPEG")
    for name in (
        "100MEDIA/DJI_0001.JPG.aux.xml",
        "100MEDIA/m.tfw",
        "Thumbs.db",
        ".DS_Store",
        "100MEDIA/._DJI_0001.JPG",
    ):
        (folder / name).write_text("")
    for name in ("@eaDir/DJI_0001.JPG", ".thumbnails/DJI_0001.JPG", "maps/100MEDIA_DJI_0001.png"):
        save(folder / name, format="PNG")
    (folder / "flight.MRK").write_text("")
    return folder


def test_a_folder_is_searched_and_gives_the_names(flight: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "harveyseg"):
        found = check(flight, out=flight / "maps")
    assert [item.name for item in found] == ["100MEDIA_DJI_0001", "100MEDIA_DJI_0002", "101MEDIA_DJI_0001"]
    assert caplog.messages == [
        "ignored: sidecars (5: .DS_Store, ._DJI_0001.JPG, DJI_0001.JPG.aux.xml, ...), "
        "files of other kinds (1: flight.MRK)"
    ]


def test_links_to_folders_are_followed(flight: Path, tmp_path: Path) -> None:
    card = tmp_path / "card"
    (card / "a").mkdir(parents=True)
    (card / "b").mkdir()
    Image.new("RGB", (8, 8)).save(card / "a" / "1.jpg")
    (card / "a" / "other").symlink_to(card / "b")  # a leads to b, b to a, and both back to the card
    (card / "b" / "other").symlink_to(card / "a")
    (card / "b" / "card").symlink_to(card)
    (tmp_path / "linked").symlink_to(card)
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "flight").symlink_to(card)
    for folder, name in ((card, "a_1"), (tmp_path / "linked", "a_1"), (tmp_path / "here", "flight_a_1")):
        assert [found.name for found in find_inputs([str(folder)], tmp_path / "out")] == [name]


def test_a_pattern_names_from_its_fixed_part(flight: Path) -> None:
    names = ["100MEDIA_DJI_0001", "101MEDIA_DJI_0001"]
    assert [item.name for item in check(f"{flight}/1*/DJI_0001.JPG")] == names
    assert [item.name for item in check(f"{flight}/100MEDIA/*.JPG")] == ["DJI_0001", "DJI_0002"]
    assert len(check(f"{flight}/**/*.JPG", flight / "100MEDIA")) == 4  # with that of @eaDir, which the pattern names


def test_arguments_that_cannot_be_predicted(flight: Path) -> None:
    first, second = flight / "100MEDIA" / "DJI_0001.JPG", flight / "101MEDIA" / "DJI_0001.JPG"
    (flight / "empty").mkdir()
    with pytest.raises(HarveysegError) as caught:
        check(first, second, flight / "absent.jpg", flight / "empty", f"{flight}/*.png")
    assert caught.value.problems == (
        f"{flight / 'absent.jpg'}: no such file",
        f"{flight / 'empty'}: no photos; .jpg, .jpeg, .png, .tif, .tiff, .webp are looked for",
        f"{flight}/*.png: no photos; .jpg, .jpeg, .png, .tif, .tiff, .webp are looked for",
        f"DJI_0001: {first}, {second} have this name; rename one, or name the folder above them",
    )


def test_a_name_too_long_for_its_products(tmp_path: Path) -> None:
    """File systems take 255 bytes; letters beyond ASCII are of several."""
    long = save(tmp_path / f"{'é' * 101}.jpg")
    with pytest.raises(HarveysegError, match="the names of its products would be too long; rename it"):
        check(long)
    assert check(save(tmp_path / f"{'é' * 100}.jpg"))


def test_a_photo_is_never_overwritten(tmp_path: Path) -> None:
    photo = save(tmp_path / "a.png")
    with pytest.raises(HarveysegError, match=r"a\.png: would be overwritten"):
        check(photo, out=tmp_path / "." / "")
    assert check(save(tmp_path / "b.jpg"), out=tmp_path)  # b.png is another file


def test_what_was_predicted_is_no_photo(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Also where the folder of the photos is that of the products, and in a folder that is copied elsewhere."""
    photos = tmp_path / "photos"
    for name in ("a.jpg", "b.jpg"):
        save(photos / name)
    run = partial(predict_images, ensemble=single(sure(FLOODED)), params=PARAMS, options=PredictionOptions())
    assert len(run([str(photos)], out=photos).predicted) == 2
    assert (run([str(photos)], out=photos).skipped, run([f"{photos}/*.jpg"], out=photos).skipped) == (2, 2)
    with caplog.at_level(logging.INFO, "harveyseg"):
        assert [item.name for item in check(photos, out=tmp_path / "maps")] == ["a", "b"]
    assert "ignored: what was predicted before (7: a.json, a.png, a_overlay.jpg, ...)" in caplog.messages
    with pytest.raises(HarveysegError, match=r"a_overlay\.jpg: is not a photo but what was predicted from one"):
        check(photos / "a_overlay.jpg")


def test_all_bad_files_are_named_at_once(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.jpg")
    whole = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "half.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "zeros.jpg").write_bytes(whole[: len(whole) // 2] + bytes(len(whole) // 2))
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("no photo")
    Image.fromarray(PIXELS[..., 0]).save(tmp_path / "grey.jpg")
    Image.fromarray(PIXELS).convert("P").save(tmp_path / "palette.png")
    Image.fromarray(PIXELS[..., 0].astype(np.uint16)).save(tmp_path / "deep.png")
    write_tiff(tmp_path / "elevation.tif", red_half()[:1].astype(np.float32))
    mosaic = write_tiff(tmp_path / "cut.tif", noise.transpose(2, 0, 1))
    mosaic.write_bytes(mosaic.read_bytes()[:-900])
    with pytest.raises(HarveysegError, match="Nothing was predicted yet") as caught:
        check(tmp_path)
    assert [problem.removeprefix(f"{tmp_path}/").split(". ")[0] for problem in caught.value.problems] == [
        "cut.tif: is truncated: pixels are missing",
        "deep.png: is grey; a colour photo (RGB) is needed",
        "elevation.tif: has 1 band, as an elevation model, an index or a grey photo; a colour photo is needed.",
        "empty.jpg: the file is empty",
        "grey.jpg: is grey; a colour photo (RGB) is needed",
        "half.jpg: cannot be decoded (image file is truncated (81 bytes not processed))",
        "palette.png: is a palette image, as masks and class maps are; a colour photo (RGB) is needed",
        "text.jpg: cannot be decoded (unknown format)",
        "zeros.jpg: is truncated (a JPEG without its end marker)",
    ]


def test_a_photo_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "large.jpg")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # Pillow refuses twice as many
    with pytest.raises(
        HarveysegError, match=r"large\.jpg: has too many pixels .*; save it as TIFF, which is read in parts"
    ):
        check(tmp_path)


def test_the_content_tells_the_format(tmp_path: Path) -> None:
    for name, kind in (("png.jpg", "PNG"), ("webp.jpg", "WEBP"), ("jpeg.png", "JPEG")):
        save(tmp_path / name, format=kind)
    write_tiff(tmp_path / "tiff.jpg", red_half())
    assert {item.name: item.is_tiff for item in check(tmp_path)} == {
        "jpeg": False, "png": False, "tiff": True, "webp": False,
    }  # fmt: skip


@pytest.mark.parametrize("orientation", [0, 1, 6, 9, 65535])
def test_orientations(tmp_path: Path, caplog: pytest.LogCaptureFixture, orientation: int) -> None:
    for name in ("a.jpg", "b.jpg"):
        write_dji(tmp_path / name, PIXELS, orientation)
    with caplog.at_level(logging.INFO, "harveyseg"):
        found = check(tmp_path)
    assert [item.size for item in found] == [(96, 160)] * 2
    assert len(caplog.messages) == (orientation == 6)
    if orientation == 6:
        assert caplog.messages[0].startswith("2 photos have an EXIF orientation: their maps fit the pixels as they are")


def test_what_is_known_of_the_ground(tmp_path: Path) -> None:
    photo, mosaic = check(write_dji(tmp_path / "a.jpg", PIXELS), write_tiff(tmp_path / "b.tif", red_half()))
    assert photo.flight_ground == pytest.approx((60 * 36 / 26 * 0.6, 60 * 36 / 26))
    assert mosaic.georeference is not None
    assert (mosaic.flight_ground, photo.georeference) == (None, None)


def test_options_of_tiff_files_are_for_them(tmp_path: Path) -> None:
    photo = save(tmp_path / "a.jpg")
    for options in (MosaicOptions(value_range="auto"), MosaicOptions(bands=(3, 2, 1)), MosaicOptions(crs="EPSG:32615")):
        with pytest.raises(
            HarveysegError, match=r"a\.jpg: --range, --bands and --crs are for TIFF files; this is JPEG"
        ):
            check(photo, options=options)
