"""The cache against slow obvious versions, Pillow, and the real photographs."""

import json
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from PIL import Image
from pydantic import ValidationError

from harveyseg.arrays import ClassMap
from harveyseg.classes import HARVEY25
from harveyseg.config.settings import parse
from harveyseg.data.cache import (
    ResizeParams,
    build_cache,
    class_counts,
    class_frequencies,
    load_part,
    load_score_masks,
    read_resized_photo,
)
from harveyseg.data.class_lists import store_classes
from harveyseg.data.manifest import verify_photos, write_manifest
from harveyseg.data.resize import majority_classes, nearest_classes
from harveyseg.data.sources import DataParams, download_source
from harveyseg.errors import HarveysegError
from harveyseg.files import digest

SIZES = [((7, 5), (3, 4)), ((12, 16), (4, 4)), ((11, 9), (11, 9)), ((5, 6), (8, 7)), ((6, 4), (5, 9))]


def slow_nearest(mask: ClassMap, size: tuple[int, int]) -> ClassMap:
    result = np.zeros(size, np.uint8)
    for row in range(size[0]):
        for column in range(size[1]):
            y = (row + 0.5) * mask.shape[0] / size[0]  # the centre of the pixel, in pixels of the mask
            x = (column + 0.5) * mask.shape[1] / size[1]
            result[row, column] = mask[int(y), int(x)]
    return result


def slow_majority(mask: ClassMap, size: tuple[int, int]) -> ClassMap:
    """The mask enlarged until every target pixel is a whole block, and the blocks' pixels counted one by one."""
    fine = mask.repeat(size[0], axis=0).repeat(size[1], axis=1)
    result = np.zeros(size, np.uint8)
    for row in range(size[0]):
        for column in range(size[1]):
            block = fine[row * mask.shape[0] :, column * mask.shape[1] :][: mask.shape[0], : mask.shape[1]]
            counts = [int((block == class_id).sum()) for class_id in range(25)]
            result[row, column] = counts.index(max(counts))
    return result


def smooth_photo(height: int, width: int) -> ClassMap:
    noise = np.random.default_rng(0).integers(0, 256, (height // 40, width // 40, 3)).astype(np.uint8)
    return np.asarray(cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def decode(path: Path) -> ClassMap:
    """The full decode, by Pillow."""
    return np.asarray(Image.open(path))


def psnr(a: ClassMap, b: npt.NDArray[Any]) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(np.float64) - b) ** 2)))


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Three training photos of two sizes and two test photos with masks, as ``download`` leaves them."""
    folder, random = tmp_path / "raw", np.random.default_rng(1)
    sizes = {"train": [(96, 128), (70, 90), (64, 64)], "test": [(96, 128), (64, 80)]}
    for part, part_sizes in sizes.items():
        for kind in ("images", "masks"):
            (folder / f"{part}_{kind}").mkdir(parents=True)
        for number, (height, width) in enumerate(part_sizes):
            photo = random.integers(0, 256, (height, width, 3)).astype(np.uint8)
            mask = random.integers(0, 25, (height, width)).astype(np.uint8)
            Image.fromarray(photo).save(folder / f"{part}_images/{part}{number}.jpg", quality=95)
            Image.fromarray(mask).save(folder / f"{part}_masks/{part}{number}.png")
    store_classes(folder, HARVEY25)
    write_manifest(folder / "manifest.csv", verify_photos(folder, HARVEY25).manifest)
    (folder / "source.json").write_text(
        json.dumps({"source": "directory", "detail": {}, "hash": "abc", "score_size": [1024, 1024]})
    )
    return folder


@pytest.mark.parametrize(("full", "size"), SIZES)
def test_nearest_samples_the_centre(full: tuple[int, int], size: tuple[int, int]) -> None:
    mask = np.random.default_rng(0).integers(0, 25, full).astype(np.uint8)
    assert np.array_equal(nearest_classes(mask, size), slow_nearest(mask, size))


@pytest.mark.parametrize("full", [(4000, 3000), (4592, 3072), (1600, 1200), (1837, 1229), (201, 150)])
def test_nearest_at_the_scoring_size_is_pillows(full: tuple[int, int]) -> None:
    mask = np.random.default_rng(0).integers(0, 25, full).astype(np.uint8)
    pillow = Image.fromarray(mask).resize((1024, 1024), Image.Resampling.NEAREST)
    assert np.array_equal(nearest_classes(mask, (1024, 1024)), np.asarray(pillow))


def test_nearest_is_not_shifted_as_opencvs_is() -> None:
    mask = np.repeat(np.arange(8, dtype=np.uint8), 4)[None].repeat(32, axis=0)  # stripes 4 pixels wide
    mask = np.roll(mask, 1, axis=1)
    assert np.array_equal(nearest_classes(mask, (8, 8))[0], np.arange(8))
    assert not np.array_equal(cv2.resize(mask, (8, 8), interpolation=cv2.INTER_NEAREST)[0], np.arange(8))


@pytest.mark.parametrize(("full", "size"), SIZES)
@pytest.mark.parametrize("classes", [2, 25])
def test_majority_counts_shares_of_pixels(full: tuple[int, int], size: tuple[int, int], classes: int) -> None:
    mask = np.random.default_rng(2).integers(0, classes, full).astype(np.uint8)
    assert np.array_equal(majority_classes(mask, size), slow_majority(mask, size))


def test_majority_gives_ties_to_the_lowest_id() -> None:
    mask = np.array([[3, 2, 9, 9], [2, 3, 4, 4], [7, 7, 7, 7], [7, 7, 7, 7]], np.uint8)
    assert majority_classes(mask, (2, 2)).tolist() == [[2, 4], [7, 7]]


@pytest.mark.parametrize("k", [2, 4, 8])
def test_photo_is_the_mean_of_blocks(tmp_path: Path, k: int) -> None:
    size = (64, 96)
    full = (size[0] * k, size[1] * k)
    Image.fromarray(smooth_photo(*full)).save(tmp_path / "photo.jpg", quality=95)
    decoded = decode(tmp_path / "photo.jpg").astype(np.float64)
    means = decoded.reshape(size[0], k, size[1], k, 3).mean(axis=(1, 3))
    photo = read_resized_photo(tmp_path / "photo.jpg", full, size)
    if k == 2:  # a full decode: only rounding differs
        assert np.abs(photo - means).max() <= 1
    else:
        assert psnr(photo, means) > 45


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("photo.png", {}),
        ("photo.tif", {}),
        ("photo.tif", {"compression": "tiff_lzw"}),
        ("photo.tif", {"compression": "tiff_adobe_deflate"}),
    ],
)
@pytest.mark.parametrize("alpha", [False, True])
def test_photo_of_another_format_is_the_mean_of_blocks(
    tmp_path: Path, name: str, options: dict[str, Any], alpha: bool
) -> None:
    """With noise, of which a decoder that skips pixels would leave more than a mean does."""
    pixels = np.random.default_rng(3).integers(0, 256, (64 * 8, 96 * 8, 3)).astype(np.uint8)
    image = Image.fromarray(pixels)
    (image.convert("RGBA") if alpha else image).save(tmp_path / name, **options)
    means = pixels.reshape(64, 8, 96, 8, 3).mean(axis=(1, 3))
    assert np.abs(read_resized_photo(tmp_path / name, pixels.shape[:2], (64, 96)) - means).max() <= 1


def test_photo_keeps_red_red_and_ignores_an_orientation(tmp_path: Path) -> None:
    photo = np.zeros((64, 128, 3), np.uint8)
    photo[:, :, 0] = 200
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(photo).save(tmp_path / "photo.jpg", exif=exif)
    read = read_resized_photo(tmp_path / "photo.jpg", (64, 128), (32, 64))
    assert read.shape == (32, 64, 3)
    assert np.abs(read.reshape(-1, 3).mean(axis=0) - (200, 0, 0)).max() < 3


def test_photo_of_odd_size_is_not_shifted(tmp_path: Path) -> None:
    """A ramp whose last columns would be off if the decoder's rounded-up size were taken for the photo's."""
    ramp = np.linspace(0, 255, 2055).astype(np.uint8)[None, :, None].repeat(520, axis=0).repeat(3, axis=2)
    Image.fromarray(ramp).save(tmp_path / "photo.jpg", quality=100, subsampling=0)
    read = read_resized_photo(tmp_path / "photo.jpg", (520, 2055), (64, 128))
    centres = (np.arange(128) + 0.5) / 128 * 255
    assert np.abs(read[:, :, 1].mean(axis=0) - centres).max() < 1


def test_photo_smaller_than_the_target_is_interpolated(tmp_path: Path) -> None:
    Image.fromarray(smooth_photo(400, 40)).save(tmp_path / "photo.jpg", quality=95)
    decoded = decode(tmp_path / "photo.jpg")
    columns = decoded.reshape(100, 4, 40, 3).mean(axis=1).round().astype(np.uint8)
    expected = cv2.resize(columns, (64, 100), interpolation=cv2.INTER_LINEAR)
    assert np.abs(read_resized_photo(tmp_path / "photo.jpg", (400, 40), (100, 64)).astype(int) - expected).max() <= 1


@pytest.mark.parametrize("method", ["nearest", "majority"])
def test_cache_of_a_small_set(raw: Path, tmp_path: Path, method: str) -> None:
    params = parse(ResizeParams, {"size": [64, 96], "mask_method": method, "threads": 3}, "resize-cache")
    build_cache(raw, tmp_path / "cache", params)
    train, test = load_part(tmp_path / "cache/train"), load_part(tmp_path / "cache/test")
    assert train.ids == ("train0", "train1", "train2")
    assert (train.size, train.source, train.classes) == ((64, 96), "directory", HARVEY25)
    identity = {"manifest": "abc", "classes": HARVEY25.identity(), "score_size": [1024, 1024]}
    assert train.data_hash == test.data_hash == digest(identity)
    assert train.images.shape == (3, 64, 96, 3)
    assert test.images.shape == (2, 64, 96, 3)
    assert test.masks is None
    assert list(test.photos.columns) == ["id", "width", "height"]
    assert test.photos.to_numpy().tolist() == [["test0", 128, 96], ["test1", 80, 64]]
    resize = nearest_classes if method == "nearest" else majority_classes
    for part, cached in (("train", train), ("test", test)):
        score_masks = load_score_masks(tmp_path / "cache/score", part)
        assert score_masks is not None
        for index, photo_id in enumerate(cached.ids):
            mask = np.asarray(Image.open(raw / f"{part}_masks/{photo_id}.png"))
            assert np.array_equal(score_masks[index], nearest_classes(mask, (1024, 1024)))
            if cached.masks is not None:
                assert np.array_equal(cached.masks[index], resize(mask, (64, 96)))


def test_statistics_are_those_of_the_whole_arrays(raw: Path, tmp_path: Path) -> None:
    build_cache(raw, tmp_path / "cache", ResizeParams(size=64))
    train = load_part(tmp_path / "cache/train")
    pixels = np.asarray(train.images).reshape(3, -1, 3).astype(np.float64)
    assert train.photos["pixels"].tolist() == [64 * 64] * 3
    assert np.array_equal(train.photos[["sum_r", "sum_g", "sum_b"]].to_numpy(), pixels.sum(axis=1))
    assert np.array_equal(train.photos[["sumsq_r", "sumsq_g", "sumsq_b"]].to_numpy(), (pixels**2).sum(axis=1))
    for index, photo_id in enumerate(train.ids):
        mask = np.asarray(Image.open(raw / f"train_masks/{photo_id}.png"))
        counted = class_counts(train.photos)[index]
        assert counted.tolist() == [(mask == c).sum() for c in range(25)]


@pytest.mark.parametrize("method", ["nearest", "majority"])
def test_pixels_without_a_label_stay_so_and_weigh_nothing(raw: Path, tmp_path: Path, method: str) -> None:
    classes = HARVEY25.model_copy(update={"ignore": 255})
    for path in (raw / "train_masks").iterdir():
        mask = np.array(Image.open(path))
        mask[: len(mask) // 3] = 255
        Image.fromarray(mask).save(path)
    store_classes(raw, classes)
    write_manifest(raw / "manifest.csv", verify_photos(raw, classes).manifest)
    params = parse(ResizeParams, {"size": [64, 64], "mask_method": method}, "resize-cache")
    build_cache(raw, tmp_path / "cache", params)
    train = load_part(tmp_path / "cache/train")
    assert train.masks is not None
    labelled = []
    for photo_id, cached in zip(train.ids, train.masks, strict=True):
        mask = np.asarray(Image.open(raw / f"train_masks/{photo_id}.png"))
        assert np.array_equal(np.unique(np.nonzero(cached == 255)[0]), np.arange((cached[:, 0] == 255).sum()))
        assert (cached == 255).mean() == pytest.approx(1 / 3, abs=1 / 64)
        labelled.append(mask[mask != 255])
    pixels = np.concatenate(labelled)
    assert np.allclose(class_frequencies(train.photos), np.bincount(pixels, minlength=25) / len(pixels))


def test_cache_made_again_forgets_old_test_masks(raw: Path, tmp_path: Path) -> None:
    build_cache(raw, tmp_path / "cache", ResizeParams(size=64))
    manifest = pd.read_csv(raw / "manifest.csv", keep_default_na=False)
    manifest.loc[manifest["part"] == "test", ["mask", "mask_sha256"]] = ""
    write_manifest(raw / "manifest.csv", manifest)
    build_cache(raw, tmp_path / "cache", ResizeParams(size=64))
    assert load_score_masks(tmp_path / "cache/score", "test") is None
    assert not [path for path in (tmp_path / "cache").rglob(".*") if path.is_file()]


def test_failure_leaves_no_cache_that_looks_complete(raw: Path, tmp_path: Path) -> None:
    build_cache(raw, tmp_path / "cache", ResizeParams(size=64))
    (raw / "train_images/train1.jpg").write_bytes(b"no photo")
    with pytest.raises(HarveysegError, match=r"train1\.jpg: cannot be decoded.*download"):
        build_cache(raw, tmp_path / "cache", ResizeParams(size=96))
    with pytest.raises(HarveysegError, match=r"info\.json: no such file.*resize-cache"):
        load_part(tmp_path / "cache/train")
    (raw / "train_images/train1.jpg").unlink()
    with pytest.raises(HarveysegError, match=r"train1\.jpg: no such file"):
        build_cache(raw, tmp_path / "cache", ResizeParams(size=96))


@pytest.mark.parametrize("size", [250, 32, 8192, 0, True, "256", 256.0, [256], [256, 300], [256, 256, 3], None])
def test_size_that_cannot_work_names_the_allowed_ones(size: object) -> None:
    with pytest.raises(HarveysegError, match=r"resize-cache\.size = .*multiple of 32 in 64\.\.4096"):
        parse(ResizeParams, {"size": size}, "resize-cache")


@pytest.mark.parametrize("values", [{"mask_method": "linear"}, {"threads": 0}])
def test_other_wrong_settings(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ResizeParams.model_validate({"size": 256, **values})


def test_real_photos(real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start = time.perf_counter()
    download_source(DataParams(source="directory", path=str(real_data)), tmp_path, tmp_path / "raw")
    verified = time.perf_counter()
    build_cache(tmp_path / "raw", tmp_path / "cache", ResizeParams(size=256))
    cached = time.perf_counter()
    with capsys.disabled():
        print(f" [verified and copied in {verified - start:.1f} s, cached in {cached - verified:.1f} s] ", end="")
    train, test = load_part(tmp_path / "cache/train"), load_part(tmp_path / "cache/test")
    assert (len(train.ids), len(test.ids)) == (45, 48)
    assert set(zip(train.photos["width"], train.photos["height"], strict=True)) == {(1200, 1600), (1229, 1837)}
    assert train.masks is not None
    assert train.masks.max() <= 24
    assert np.array_equal(class_counts(train.photos).sum(axis=1), train.photos["width"] * train.photos["height"])
    for index, photo_id in enumerate(train.ids[:6]):
        decoded = decode(tmp_path / f"raw/train_images/{photo_id}.jpg").astype(np.float32)
        exact = cv2.resize(decoded, (256, 256), interpolation=cv2.INTER_AREA)
        assert psnr(train.images[index], exact) > 50
