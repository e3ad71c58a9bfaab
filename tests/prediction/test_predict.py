"""``harveyseg predict`` as a whole: what is written, once for each image, and what a second call does."""

import errno
import json
import logging
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import geopandas
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyogrio
import pytest
import rasterio
import shapely
from affine import Affine
from PIL import Image
from rio_cogeo.cogeo import cog_validate

from harveyseg.classes import HARVEY25
from harveyseg.errors import HarveysegError
from harveyseg.geo.frame import FrameColour
from harveyseg.geo.mosaic import MosaicOptions
from harveyseg.pipeline.new_repository import create_repository
from harveyseg.prediction import pictures
from harveyseg.prediction.assess_maps import _rates, assess_maps
from harveyseg.prediction.example import write_example
from harveyseg.prediction.inputs import Input
from harveyseg.prediction.overlay import draw_overlay
from harveyseg.prediction.predict import Outcome, PredictionOptions, predict_images
from harveyseg.prediction.products import ProductOptions, error_rates
from harveyseg.prediction.scale import Training
from harveyseg.prediction.trained_ensemble import TrainedEnsemble
from helpers.commands import run_command
from helpers.predicting import FLOODED, PARAMS, half_red, single, sure
from helpers.rasters import RGBA, UTM, grid, red_half, write_dji, write_tiff
from helpers.small_disk import small_disk

ENSEMBLE = TrainedEnsemble(
    (sure(FLOODED, 0.5),),
    (1.0,),
    training=Training((6.0, 8.0), frozenset({(96, 160)})),
    measured={"Flooded": {"iou": 0.5, "precision": 0.75, "recall": 0.6}},
)


def save(path: Path, pixels: npt.NDArray[np.uint8]) -> Path:
    Image.fromarray(pixels).save(path)
    return path


def run(
    arguments: Sequence[Path], out: Path, options: PredictionOptions | None = None, ensemble: TrainedEnsemble = ENSEMBLE
) -> Outcome:
    return predict_images(list(map(str, arguments)), ensemble, PARAMS, out, options or PredictionOptions())


def classes_in(path: Path) -> npt.NDArray[np.uint8]:
    with Image.open(path) as opened:
        assert opened.mode == "L"
        return np.array(opened)


@pytest.fixture
def mosaic(tmp_path: Path) -> Path:
    """20 x 30 m at 5 cm: red in the right half, and transparent in the upper quarter."""
    alpha = np.full((1, 400, 600), 255, np.uint8)
    alpha[:, :100] = 0
    return write_tiff(tmp_path / "mosaic.tif", np.concatenate([red_half(400, 600), alpha]), colours=RGBA)


def test_photos(tmp_path: Path) -> None:
    photos = [save(tmp_path / "left.png", half_red(64, 64)), save(tmp_path / "right.jpg", half_red(64, 128))]
    out = tmp_path / "new" / "maps"
    outcome = run(photos, out)
    assert (len(outcome.predicted), outcome.skipped, outcome.errors) == (2, 0, [])
    products = {f"{name}{ending}" for name in ("left", "right") for ending in (".png", "_overlay.jpg", ".json")}
    assert {file.name for file in out.iterdir()} == products | {"areas.csv", "contact_sheet.jpg"}
    labels = classes_in(out / "left.png")
    assert set(np.unique(labels)) == {0, FLOODED}
    with Image.open(out / "right_overlay.jpg") as opened:
        assert opened.size == (128, 64)
    table = pd.read_csv(out / "areas.csv")
    assert list(table.columns) == [
        "image", "scale", "seen_percent", "seen_m2", *HARVEY25.names, *(f"{name} m2" for name in HARVEY25.names),
    ]  # fmt: skip
    assert list(table["image"]) == ["left.png", "right.jpg"]
    assert list(table["scale"]) == ["none", "none"]
    np.testing.assert_allclose(table[list(HARVEY25.names)].sum(axis=1), 100, atol=0.02)
    np.testing.assert_allclose(table["Flooded"].iloc[0], 100 * np.mean(labels == FLOODED), atol=0.001)
    assert table["Flooded m2"].isna().all()


def test_a_photo_with_a_known_height(tmp_path: Path) -> None:
    """At 4 m the photo shows 4 * 36 / 26 m, and two thirds of that; the right half is flooded."""
    run([write_dji(tmp_path / "a.jpg", half_red(400, 600), height="+4.00")], tmp_path / "out")
    row = pd.read_csv(tmp_path / "out" / "areas.csv").iloc[0]
    side = 4 * 36 / 26
    assert row["scale"] == "flight height"
    assert row["seen_m2"] == pytest.approx(side**2 * 2 / 3, abs=0.01)
    assert row["Flooded m2"] == pytest.approx(side**2 / 3, rel=0.04)


def test_the_map_fits_the_pixels_as_they_are_stored(tmp_path: Path) -> None:
    write_dji(tmp_path / "photo.jpg", half_red(), orientation=6, height="+4.00")  # "rotate by 90 degrees"
    run([tmp_path / "photo.jpg"], tmp_path / "out")
    labels = classes_in(tmp_path / "out" / "photo.png")
    assert labels.shape == (96, 160)
    assert (labels[:, 90:] == FLOODED).all()
    assert (labels[:, :70] == 0).all()


def test_a_transparent_png(tmp_path: Path) -> None:
    pixels = np.dstack([half_red(), np.full((96, 160), 255, np.uint8)])
    pixels[:48, :, 3] = 0
    run([save(tmp_path / "photo.png", pixels)], tmp_path / "out")
    labels = classes_in(tmp_path / "out" / "photo.png")
    assert (labels[:48] == 255).all()
    assert (labels[48:, 90:] == FLOODED).all()
    row = pd.read_csv(tmp_path / "out" / "areas.csv").iloc[0]
    assert row["seen_percent"] == 50
    assert row["Flooded"] == pytest.approx(50, abs=1)


@pytest.mark.parametrize("name", ["photo.png", "photo.jpg", "photo.tif"])
def test_a_photo_in_a_black_frame(tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str) -> None:
    """As it comes out of a program that straightens or turns photos; in all formats alike."""
    pixels = half_red(192, 320)
    inside = np.zeros((192, 320), bool)
    inside[48:, :240] = True
    pixels[~inside] = 0
    pixels[100:120, 40:60] = 0  # a black roof
    if name.endswith(".tif"):
        write_tiff(tmp_path / name, pixels.transpose(2, 0, 1), None)
    else:
        Image.fromarray(pixels).save(tmp_path / name, quality=95, subsampling=0)

    def share_seen(frame: FrameColour | None, out: str) -> float:
        (record,) = run([tmp_path / name], tmp_path / out, PredictionOptions(MosaicOptions(frame=frame))).predicted
        return record.areas.seen_pixels / record.areas.pixels

    share = share_seen(None, "out")
    assert share == pytest.approx(9 / 16, abs=0.02)
    file = tmp_path / "out" / f"photo.{'tif' if name.endswith('.tif') else 'png'}"
    with rasterio.open(file) as opened:
        labels = opened.read(1)
    assert ((labels != 255) == inside).mean() > 0.98
    assert (labels[100:120, 40:60] != 255).all()
    assert "a frame of one colour (44% of the file) is taken as not seen" in caplog.text
    assert share_seen("0", "black") == share
    assert (share_seen("none", "kept"), share_seen("255", "white")) == (1, 1)
    with pytest.raises(HarveysegError, match=r"predicted in another way \(frame\)"):
        share_seen("none", "out")


def test_overexposed_ground_at_the_border_of_a_photo_was_seen(tmp_path: Path) -> None:
    pixels = half_red(192, 320)
    pixels[:48] = 255
    photo = save(tmp_path / "photo.png", pixels)
    (record,) = run([photo], tmp_path / "out").predicted
    assert record.areas.seen_pixels == record.areas.pixels
    (record,) = run([photo], tmp_path / "white", PredictionOptions(MosaicOptions(frame="255"))).predicted
    assert record.areas.seen_pixels == 0.75 * record.areas.pixels


def test_a_mosaic(tmp_path: Path, mosaic: Path) -> None:
    out = tmp_path / "out"
    options = PredictionOptions(products=ProductOptions((FLOODED, 0), geojson=True))
    (record,) = run([mosaic], out, options).predicted
    products = ("tif", "tif.aux.xml", "gpkg", "geojson", "json")
    expected = {f"mosaic.{ending}" for ending in products} | {"mosaic_overlay.jpg", "mosaic_probabilities.tif"}
    assert {file.name for file in out.iterdir()} == expected | {"areas.csv"}
    assert cog_validate(out / "mosaic.tif", strict=True)[0]
    with rasterio.open(mosaic) as given, rasterio.open(out / "mosaic.tif") as file:
        assert (file.crs, file.transform, file.shape) == (given.crs, given.transform, given.shape)
        labels = file.read(1)
        assert file.tags()["SOURCE"] == "mosaic.tif"
    assert (labels[:100] == 255).all()
    assert (labels[100:, 310:] == FLOODED).all()
    assert (labels[100:, :290] == 0).all()
    assert record.areas.seen_pixels == (labels != 255).sum()
    assert record.areas.percent["Flooded"] == pytest.approx(100 * (labels == FLOODED).sum() / (labels != 255).sum())
    assert record.areas.seen_m2 == pytest.approx(15 * 30, rel=2e-3)
    assert record.describe().endswith("(of what was seen; 25.0% was not)")
    with rasterio.open(out / "mosaic_probabilities.tif") as file:
        assert file.descriptions == ("Flooded", "Background")
        assert (file.read(1)[100:, 310:] > 150).all()
    assert set(dict(pyogrio.list_layers(out / "mosaic.gpkg"))) == {"classes", "buildings", "roads", "seen", "summary"}
    polygons = geopandas.read_file(out / "mosaic.gpkg", layer="classes")
    assert dict(zip(polygons["class"], polygons["area_m2"], strict=True)) == {
        "Background": pytest.approx(225, rel=0.02), "Flooded": pytest.approx(225, rel=0.02),
    }  # fmt: skip
    seen = geopandas.read_file(out / "mosaic.gpkg", layer="seen")
    assert seen.total_bounds == pytest.approx((270_000, 3_289_980, 270_030, 3_289_995), abs=0.2)
    summary = geopandas.read_file(out / "mosaic.gpkg", layer="summary").iloc[0]
    assert summary["flooded_recall"] == 0.6
    assert summary["pixel_cm"] == pytest.approx(5, rel=1e-3)
    overlay = cv2.imread(str(out / "mosaic_overlay.jpg"))
    assert overlay is not None
    assert overlay.shape == (400, 600, 3)
    assert (overlay[:90] > 240).all()


def test_a_tiff_without_a_place(tmp_path: Path) -> None:
    write_tiff(tmp_path / "m.tif", red_half(), None)
    run([tmp_path / "m.tif"], tmp_path / "out")
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        "m.tif", "m.tif.aux.xml", "m_overlay.jpg", "m.json", "areas.csv",
    }  # fmt: skip
    with rasterio.open(tmp_path / "out" / "m.tif") as file:
        assert (file.read(1)[:, 90:] == FLOODED).all()
        assert file.crs is None


def test_odd_places_spoil_nothing(tmp_path: Path, mosaic: Path, caplog: pytest.LogCaptureFixture) -> None:
    """At the pole in EPSG:3031, 5 cm of the grid are 5 / 0.97277 cm of ground. A site's own system has no place."""
    write_tiff(tmp_path / "pole.tif", red_half(400, 600), "EPSG:3031", Affine(0.05, 0, -15, 0, -0.05, 10))
    write_tiff(tmp_path / "site.tif", red_half(), 'LOCAL_CS["site",UNIT["metre",1]]')
    out = tmp_path / "out"
    outcome = run([tmp_path / "pole.tif", tmp_path / "site.tif", mosaic], out)
    assert (len(outcome.predicted), outcome.errors) == (3, [])
    pole, site, _ = outcome.predicted
    assert pole.areas.seen_m2 == pytest.approx(20 * 30 / 0.9727690**2, rel=1e-4)
    assert geopandas.read_file(out / "pole.gpkg", layer="classes")["area_m2"].sum() == pytest.approx(
        pole.areas.seen_m2, rel=1e-4
    )
    assert (site.scale_origin, site.areas.seen_m2) == ("none", None)
    assert "site.tif: 'site' is no system of places on the earth" in caplog.text


def test_a_second_call_predicts_what_is_new(tmp_path: Path, mosaic: Path) -> None:
    out = tmp_path / "out"
    photo = save(tmp_path / "a.png", half_red())
    run([mosaic], out)
    before = {file.name: (file.stat().st_mtime_ns, file.read_bytes()) for file in out.glob("mosaic*")}
    outcome = run([mosaic, photo], out)
    assert ([record.name for record in outcome.predicted], outcome.skipped) == (["a"], 1)
    assert {file.name: (file.stat().st_mtime_ns, file.read_bytes()) for file in out.glob("mosaic*")} == before
    assert list(pd.read_csv(out / "areas.csv")["image"]) == ["a.png", "mosaic.tif"]  # those of both calls
    (out / "mosaic.tif").unlink()
    assert run([mosaic, photo], out).skipped == 1
    assert cog_validate(out / "mosaic.tif")[0]


def test_one_name_in_two_forms_of_unicode_is_one_image(tmp_path: Path) -> None:
    """As when the photos of a folder were copied by way of a Mac."""
    out = tmp_path / "out"
    run([save(tmp_path / "\u00e9.png", half_red())], out)
    (tmp_path / "mac").mkdir()
    copied = save(tmp_path / "mac" / "e\u0301.png", half_red())
    assert run([copied], out).skipped == 1
    with pytest.raises(HarveysegError, match="have this name"):
        run([copied, tmp_path / "\u00e9.png"], out)


def test_another_way_needs_overwrite(tmp_path: Path) -> None:
    out = tmp_path / "out"
    photo = save(tmp_path / "a.png", half_red())
    run([photo], out, PredictionOptions(products=ProductOptions((FLOODED,))))
    assert (out / "a_probability_23.png").exists()
    (out / "b.json").write_text('{"kind": "harveyseg prediction", "outputs": ["b.png"], "of": "another version"}')
    other = save(tmp_path / "b.png", half_red())
    with pytest.raises(HarveysegError, match="Replace them with --overwrite") as caught:
        run([photo, other], out)
    assert caught.value.problems == (
        f"{out / 'a.json'}: was predicted in another way (probabilities)",
        f"{out / 'b.json'}: is not a record of this version",
    )
    assert not (out / "b.png").exists()
    assert len(run([photo], out, PredictionOptions(overwrite=True)).predicted) == 1
    assert not (out / "a_probability_23.png").exists()
    save(tmp_path / "a.png", half_red(96, 168))
    with pytest.raises(HarveysegError, match=r"a\.json: was predicted in another way \(photo_size, another file\)"):
        run([photo], out)


def own_files(folder: Path, *names: str) -> dict[Path, bytes]:
    """Write files of a user, and return what they hold."""
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_text(f"{name} of mine")
    return {folder / name: f"{name} of mine".encode() for name in names}


def refused_files(out: Path, arguments: Sequence[Path], options: PredictionOptions) -> dict[Path, str]:
    """The files that a prediction refuses to replace, and why."""
    with pytest.raises(HarveysegError, match=r"Nothing was predicted yet\. Move these files") as caught:
        run(arguments, out, options)
    parts = [problem.partition(": ") for problem in caught.value.problems]
    return {Path(path): cause for path, _, cause in parts}


@pytest.mark.parametrize("overwrite", [False, True])
def test_files_of_a_user_are_never_replaced(tmp_path: Path, mosaic: Path, overwrite: bool) -> None:
    """Each file that a prediction writes may exist before: all are named, and none is touched."""
    products = ProductOptions((FLOODED,), geojson=True)
    photo = save(tmp_path / "a.png", half_red())
    run([mosaic, photo], tmp_path / "elsewhere", PredictionOptions(products=products))
    names = sorted(path.name for path in (tmp_path / "elsewhere").iterdir())
    assert len(names) == 13  # seven of the mosaic, four of the photo, two of both
    out = tmp_path / "out"
    mine = own_files(out, *names)
    options = PredictionOptions(products=products, overwrite=overwrite)
    assert set(refused_files(out, [mosaic, photo], options)) == set(mine)
    assert {path: path.read_bytes() for path in out.iterdir()} == mine


def test_products_that_are_asked_for_later_replace_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    photo = save(tmp_path / "7.png", half_red())
    run([photo], out)
    mine = own_files(out, "7_probability_23.png", "contact_sheet_2.jpg", "8.png")
    options = PredictionOptions(products=ProductOptions((FLOODED,)), overwrite=True)
    assert refused_files(out, [photo], options) == {
        out / "7_probability_23.png": "exists already, and `harveyseg predict` did not write it",
        out / "contact_sheet_2.jpg": "exists already, and `harveyseg predict` did not write it",
    }
    (out / "contact_sheet_2.jpg").unlink()
    assert run([photo], out).skipped == 1  # 8.png is nobody's concern
    assert (out / "8.png").read_bytes() == mine[out / "8.png"]


def test_a_table_of_the_same_name(tmp_path: Path) -> None:
    """Rows of areas.csv come from the records; columns that someone added would be lost."""
    out = tmp_path / "out"
    photo = save(tmp_path / "a.png", half_red())
    run([photo], out)
    table = (out / "areas.csv").read_text().splitlines()
    (out / "areas.csv").write_text(f"{table[0]},remark\n{table[1]},look again\n")
    assert set(refused_files(out, [photo], PredictionOptions(overwrite=True))) == {out / "areas.csv"}
    (out / "areas.csv").write_text(f"{table[0]}\n")
    assert run([photo], out).skipped == 1
    assert (out / "areas.csv").read_text().splitlines() == table


def test_two_images_may_not_share_a_file(tmp_path: Path) -> None:
    out = tmp_path / "out"
    first, second = save(tmp_path / "a.png", half_red()), save(tmp_path / "a_probability_23.png", half_red())
    options = PredictionOptions(products=ProductOptions((FLOODED,)))
    shared = out / "a_probability_23.png"
    assert refused_files(out, [first, second], options) == {
        shared: "would be a file of a as well as of a_probability_23; rename one of these images"
    }
    run([first], out, options)
    assert refused_files(out, [second], PredictionOptions(overwrite=True)) == {
        shared: "is a file of a, and would be one of a_probability_23; rename this image"
    }


def test_what_someone_edited_stays(tmp_path: Path, mosaic: Path, caplog: pytest.LogCaptureFixture) -> None:
    out = tmp_path / "out"
    run([mosaic], out)
    classes = geopandas.read_file(out / "mosaic.gpkg", layer="classes").assign(seen_by="me")
    classes.to_file(out / "mosaic.gpkg", layer="classes")
    (out / "mosaic_overlay.jpg").unlink()
    assert run([mosaic], out).skipped == 1
    assert f"{mosaic}: changed since it was predicted, and left as it is: mosaic.gpkg. --overwrite" in caplog.text
    assert (geopandas.read_file(out / "mosaic.gpkg", layer="classes")["seen_by"] == "me").all()
    assert len(run([mosaic], out, PredictionOptions(overwrite=True)).predicted) == 1
    assert "seen_by" not in geopandas.read_file(out / "mosaic.gpkg", layer="classes")


def test_a_killed_prediction_is_finished_by_the_next_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it left is its own, although it had no time for a record."""
    out = tmp_path / "out"
    photo = save(tmp_path / "a.png", half_red())
    with monkeypatch.context() as patched:
        patched.setattr("harveyseg.prediction.predict.write_record", stop)
        with pytest.raises(KeyboardInterrupt):
            run([photo], out, PredictionOptions(products=ProductOptions((FLOODED,))))
    assert {path.name for path in out.iterdir()} == {
        ".a.unfinished", "a.png", "a_overlay.jpg", "a_probability_23.png"
    }  # fmt: skip
    assert len(run([photo], out).predicted) == 1
    assert {path.name for path in out.iterdir()} == {"a.json", "a.png", "a_overlay.jpg", "areas.csv"}


def stop(*_: object) -> None:
    raise KeyboardInterrupt


def test_one_that_fails_later_spoils_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = [save(tmp_path / f"{name}.png", half_red()) for name in "abc"]

    def open_picture(item: Input, options: MosaicOptions) -> object:
        if item.name == "b":
            os.truncate(item.path, 100)  # the card was pulled out
        return pictures.open_picture(item, options)

    monkeypatch.setattr("harveyseg.prediction.predict.open_picture", open_picture)
    outcome = run(photos, tmp_path / "out")
    assert [record.name for record in outcome.predicted] == ["a", "c"]
    assert len(outcome.errors) == 1
    assert "b.png: not a colour photo that can be read" in caplog.text
    assert list(pd.read_csv(tmp_path / "out" / "areas.csv")["image"]) == ["a.png", "c.png"]
    assert not list((tmp_path / "out").glob("b*"))


def test_photos_of_one_name_are_told_apart(tmp_path: Path) -> None:
    """A row is called as the map is, so that each row's shares are those of its map."""
    for folder in ("100MEDIA", "101MEDIA"):
        (tmp_path / "card" / folder).mkdir(parents=True)
    save(tmp_path / "card" / "100MEDIA" / "DJI_0001.JPG", half_red())
    save(tmp_path / "card" / "101MEDIA" / "DJI_0001.JPG", np.zeros_like(half_red()))
    outcome = run([tmp_path / "card"], tmp_path / "out")
    areas = pd.read_csv(tmp_path / "out" / "areas.csv").set_index("image")["Flooded"]
    assert sorted(areas.index) == ["100MEDIA_DJI_0001.JPG", "101MEDIA_DJI_0001.JPG"]
    for image, percent in areas.items():
        class_map = np.asarray(Image.open(tmp_path / "out" / f"{Path(str(image)).stem}.png"))
        assert percent == pytest.approx(100 * np.mean(class_map == FLOODED), abs=1e-3)
    assert areas.max() > 40
    assert areas.min() == 0
    assert sorted(record.describe().partition(":")[0] for record in outcome.predicted) == sorted(areas.index)


def test_the_command_ends_with_1_when_one_fails_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos").mkdir()
    for name in "abc":
        save(tmp_path / "photos" / f"{name}.png", half_red())

    def open_picture(item: Input, options: MosaicOptions) -> object:
        if item.name == "b":
            os.truncate(item.path, 100)
        return pictures.open_picture(item, options)

    ensemble = replace(single(sure(FLOODED, 0.5)), inference=PARAMS)
    monkeypatch.setattr("harveyseg.prediction.find_model.find_model", lambda *_: ensemble)
    monkeypatch.setattr("harveyseg.prediction.predict.open_picture", open_picture)
    monkeypatch.chdir(tmp_path)
    for predicted, done in ((2, 0), (0, 2)):  # the second call finds b broken before anything is predicted
        status, out, error = run_command(monkeypatch, capsys, "predict", "photos", "--out", "maps")
        assert status == 1
        assert "b.png: " in error
        if predicted:
            assert out.endswith(f"maps: {predicted} predicted, {done} were done before, 1 failed\n")
    assert sorted(path.stem for path in (tmp_path / "maps").glob("?.png")) == ["a", "c"]


def refuse(error: Exception) -> Callable[..., Any]:
    def call(*_: object, **__: object) -> None:
        raise error

    return call


def one_sentence(caplog: pytest.LogCaptureFixture) -> str:
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.exc_info is None  # no traceback
    return record.getMessage()


@pytest.mark.parametrize("kind", ["photo", "mosaic"])
def test_a_full_disk_is_one_sentence_and_no_cut_map_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1200, 1200, 3)).astype(np.uint8)
    if kind == "photo":
        image = save(tmp_path / "a.png", noise)
    else:
        image = write_tiff(tmp_path / "a.tif", np.moveaxis(noise, -1, 0))
    with small_disk(tmp_path / "disk", "100k") as disk:
        assert run([image], disk / "out").errors
        assert "there is no room for it on its disk" in one_sentence(caplog)
        for path in (disk / "out").glob("a*"):
            with rasterio.open(path) as opened:
                opened.read()  # whole


def test_a_share_without_modes_is_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "chmod", refuse(PermissionError(errno.EPERM, "Operation not permitted")))
    assert not run([save(tmp_path / "a.png", half_red())], tmp_path / "out").errors
    assert (tmp_path / "out" / "a.png").exists()


@pytest.mark.parametrize("error", [MemoryError("Unable to allocate 4 PiB"), RuntimeError("can't allocate memory")])
def test_out_of_memory_is_one_sentence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr("harveyseg.prediction.predict.open_picture", refuse(error))
    photo = save(tmp_path / "a.png", half_red())
    assert run([photo], tmp_path / "out").errors
    assert one_sentence(caplog) == f"out of memory: predicting {photo}. Cut it into smaller images."


def test_bad_files_and_scales_come_before_anything_is_written(tmp_path: Path) -> None:
    photo = save(tmp_path / "a.png", half_red())
    with pytest.raises(HarveysegError, match="no such file"):
        run([photo, tmp_path / "absent.jpg"], tmp_path / "out")
    with pytest.raises(HarveysegError, match="scale of the images: 1 problem"):
        run([photo], tmp_path / "out", PredictionOptions(gsd=0.0001))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", ["a file", "below a file", "no place for files"])
def test_a_folder_that_cannot_be_is_named_before_anything_is_done(tmp_path: Path, place: str) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    out = {"a file": file, "below a file": file / "maps", "no place for files": Path("/proc/maps")}[place]
    cause = "cannot be written to" if place == "no place for files" else "cannot be a folder, since .*file is none"
    photo = save(tmp_path / "a.png", half_red())
    with pytest.raises(HarveysegError, match=f"^{out}: {cause}.*Name another"):
        run([photo], out)
    with pytest.raises(HarveysegError, match=f"^{out}: (is not an empty folder|{cause}).*Name another"):
        write_example(out, 0)
    with pytest.raises(HarveysegError, match=f"^{out}: (is not an empty folder|{cause}).*Name another"):
        create_repository(out)
    assert file.read_text() == "mine"


def test_a_record_says_what_made_the_map(tmp_path: Path, mosaic: Path) -> None:
    run([mosaic], tmp_path / "out")
    record = json.loads((tmp_path / "out" / "mosaic.json").read_text())
    assert record["scale_origin"] == "georeference"
    assert record["pixel_m"] == pytest.approx([0.05, 0.05], rel=1e-3)
    assert record["settings"]["inference.tta"] == "none"
    assert record["settings"]["photo_size"] == pytest.approx([120, 160], rel=1e-3)
    assert set(record["outputs"]) == {"mosaic.tif", "mosaic.tif.aux.xml", "mosaic_overlay.jpg", "mosaic.gpkg"}


def test_more_pixels_than_a_png_holds_are_predicted_in_a_tiff(tmp_path: Path) -> None:
    write_tiff(tmp_path / "long.tif", red_half(3, 70_000), None)
    (record,) = run([tmp_path / "long.tif"], tmp_path / "out").predicted
    assert record.areas.pixels == 210_000
    with Image.open(tmp_path / "out" / "long_overlay.jpg") as opened:
        assert opened.size == (4096, 1)


@pytest.mark.parametrize("height", [8, 700])
def test_the_overlay_leaves_the_background_clear(height: int) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (height, 12, 3)).astype(np.uint8)
    labels = np.zeros((height, 12), np.uint8)
    labels[2:-3, 3:9] = FLOODED
    labels[0] = 255
    blended = photo.copy()
    draw_overlay(blended, labels, HARVEY25)
    assert (blended[labels == 0] == photo[labels == 0]).all()
    expected = (photo[labels == FLOODED].astype(int) + HARVEY25.palette[FLOODED].astype(int)) / 2
    assert np.abs(blended[labels == FLOODED] - expected).max() <= 0.5
    assert (blended[0] == 255).all()


def test_contact_sheets(tmp_path: Path) -> None:
    photos = [save(tmp_path / f"{number:02d}.png", half_red()) for number in range(42)]
    run(photos[:3], tmp_path / "out")
    with Image.open(tmp_path / "out" / "contact_sheet.jpg") as opened:
        sheet = np.array(opened)
    assert sheet.shape[1] == 3 * 320
    for column in range(3):  # background clear, flooded blended with its colour; below, the legend
        flooded = sheet[90, column * 320 + 240].astype(int)
        assert np.abs(flooded - (np.array([250, 0, 0]) + HARVEY25.palette[FLOODED]) / 2).max() < 25
    assert np.abs(sheet[-20, 320 + 10].astype(int) - HARVEY25.palette[FLOODED]).max() < 25
    run(photos, tmp_path / "out")
    assert {file.name for file in (tmp_path / "out").glob("contact*")} == {"contact_sheet_1.jpg", "contact_sheet_2.jpg"}


def test_progress_is_said_with_rate_and_time_left(
    tmp_path: Path, mosaic: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harveyseg.progress.is_terminal", lambda: False)
    monkeypatch.setenv("HARVEYSEG_PROGRESS_SECONDS", "0")
    with rasterio.open(mosaic) as opened:
        total = f"{opened.width * opened.height / 1e6:.2g}"
    with caplog.at_level(logging.INFO, "harveyseg"):
        run([mosaic], tmp_path / "out")
    said = [message for message in caplog.messages if message.startswith("predicting: ")]
    done = re.escape(f"predicting: {total}/{total} megapixels, ")
    assert re.fullmatch(rf"{done}(.+ megapixels/s|.+ s each), 00:00 left, 0 of 1 images done", said[-1])


def test_assess(tmp_path: Path, mosaic: Path) -> None:
    out = tmp_path / "out"
    run([mosaic], out)
    (alone,) = assess_maps([out], None, None)
    assert alone.file == out / "mosaic_assessment.gpkg"
    assert alone.text.splitlines() == [
        "mosaic: buildings: 0 in water, 0 touched, 0 dry, 0 unknown",
        "  roads: flood meets road at 0 places; --roads finds the cuts",
        "  error rates on held-out photos, before post-processing: Flooded: precision 0.75, recall 0.60, IoU 0.50",
        "  the depth of water cannot be had from a photo",
    ]
    line = {"type": "LineString", "coordinates": [[270_000, 3_289_990], [270_030, 3_289_990]]}
    house = {"type": "Polygon", "coordinates": [[[270_020, 3_289_985], [270_025, 3_289_985], [270_020, 3_289_990]]]}
    for name, geometry in (("roads", line), ("buildings", house)):
        frame = geopandas.GeoDataFrame.from_features([{"geometry": geometry, "properties": {"id": 7}}], crs=UTM)
        frame.to_file(tmp_path / f"{name}.gpkg")
    (both,) = assess_maps([out / "mosaic.gpkg"], tmp_path / "buildings.gpkg", tmp_path / "roads.gpkg", overwrite=True)
    assert both.text.splitlines()[:2] == [
        "mosaic: buildings: 1 in water, 0 touched, 0 dry, 0 unknown",
        "  roads: cut 1 times on 15.0 m; 15.0 m in water, 15.0 m dry, 0.0 m not seen",
    ]
    assert set(dict(pyogrio.list_layers(both.file))) == {"buildings", "roads", "seen", "summary"}
    assert run([mosaic], out).skipped == 1  # the prediction is as it was


def test_layers_of_another_place(tmp_path: Path, mosaic: Path) -> None:
    out = tmp_path / "out"
    run([mosaic], out)
    here = geopandas.GeoDataFrame(geometry=[shapely.box(270_020, 3_289_985, 270_025, 3_289_990)], crs=UTM)
    elsewhere = here.set_geometry(here.translate(100_000))
    for name, layer, cause in (
        ("far", elsewhere, r"none of its 1 features lies on the map .*mosaic\.gpkg"),
        ("empty", here.iloc[:0], "is empty"),
        ("wrong", here.set_crs(32616, allow_override=True), "none of its 1 features lies on the map"),
    ):
        layer.to_file(tmp_path / f"{name}.geojson")
        with pytest.raises(HarveysegError, match=rf"{name}\.geojson: {cause}.* Give --buildings a layer of this place"):
            assess_maps([out], tmp_path / f"{name}.geojson", None)
    assert not (out / "mosaic_assessment.gpkg").exists()
    beside = elsewhere.set_geometry(elsewhere.translate(20))
    pd.concat([here, elsewhere, beside]).to_file(tmp_path / "some.gpkg")
    (assessed,) = assess_maps([out], tmp_path / "some.gpkg", None)
    assert f"1 of 3 footprints of {tmp_path / 'some.gpkg'} lie on this map; the rest is not counted" in assessed.text
    far = Affine.translation(-100_000, 0) @ grid()
    run([write_tiff(tmp_path / "far.tif", red_half(400, 600), transform=far)], out)
    texts = [one.text for one in assess_maps([out], tmp_path / "some.gpkg", None, overwrite=True)]
    assert ["none of the 3 footprints" in text for text in texts] == [True, False]


def test_no_assessment_is_replaced_unasked(tmp_path: Path, mosaic: Path) -> None:
    other = write_tiff(tmp_path / "other.tif", red_half(400, 600))
    out = tmp_path / "out"
    run([mosaic, other], out)
    mine = own_files(out, "other_assessment.gpkg")
    with pytest.raises(HarveysegError, match="rename these files to keep them") as caught:
        assess_maps([out], None, None)
    assert caught.value.problems == (f"{out / 'other_assessment.gpkg'}: exists already",)
    assert (out / "other_assessment.gpkg").read_bytes() == mine[out / "other_assessment.gpkg"]
    assert not (out / "mosaic_assessment.gpkg").exists()
    assert len(assess_maps([out], None, None, overwrite=True)) == 2


def test_nothing_to_assess(tmp_path: Path) -> None:
    with pytest.raises(HarveysegError, match="holds no maps of georeferenced images"):
        assess_maps([tmp_path], None, None)
    with pytest.raises(HarveysegError, match=r"absent\.gpkg: no such file"):
        assess_maps([tmp_path / "absent.gpkg"], None, None)
    (tmp_path / "other.gpkg").write_text("")
    with pytest.raises(HarveysegError, match=r"other\.json: no record of this version"):
        assess_maps([tmp_path], None, None)


def test_error_rates_of_a_class_that_no_held_out_photo_shows() -> None:
    measured = {
        "Flooded": {"precision": 0.0, "iou": 0.0},
        "Property Roof": {"precision": 0.5, "recall": 0.25, "iou": 0.2},
    }
    assert error_rates(measured) == {"roof_precision": 0.5, "roof_recall": 0.25, "roof_iou": 0.2}
    assert _rates("Flooded", measured["Flooded"]) == "Flooded: not known, no held-out photo shows it"
    assert _rates("Property Roof", measured["Property Roof"]) == "Property Roof: precision 0.50, recall 0.25, IoU 0.20"
