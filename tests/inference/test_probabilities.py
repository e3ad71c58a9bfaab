"""Enlarging, argmax maps, averaging and storage, against slow plain versions."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from harveyseg.errors import HarveysegError
from harveyseg.inference.probabilities import (
    argmax_map,
    average,
    count_confusions,
    ids_file,
    largest_size,
    read_probabilities,
    upsample,
    upsample_channel,
    upsample_rows,
    write_probabilities,
)
from harveyseg.score import confusion
from helpers.small_disk import small_disk


def smooth_probabilities(seed: int, height: int, width: int) -> npt.NDArray[np.uint8]:
    """Like a network's: smooth, a few classes at a time, many values equal to 0 or to each other."""
    torch.manual_seed(seed)
    coarse = torch.randn(1, 25, 6, 6) * 4
    logits = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic")
    return (logits.softmax(1)[0] * 255).round().to(torch.uint8).numpy()


def bilinear(channel: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.float64]:
    """The closed form, pixel by pixel: centres at half-integers, edges repeated."""
    height, width = channel.shape
    out = np.empty((size, size))
    for row in range(size):
        for column in range(size):
            y = min(max((row + 0.5) * height / size - 0.5, 0), height - 1)
            x = min(max((column + 0.5) * width / size - 0.5, 0), width - 1)
            top, left = int(y), int(x)
            bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
            upper = channel[top, left] * (1 - (x - left)) + channel[top, right] * (x - left)
            lower = channel[bottom, left] * (1 - (x - left)) + channel[bottom, right] * (x - left)
            out[row, column] = upper * (1 - (y - top)) + lower * (y - top)
    return out


@pytest.mark.parametrize(("height", "width", "size"), [(4, 4, 16), (3, 5, 14), (1, 2, 7), (6, 6, 6)])
def test_upsample_is_the_closed_form(height: int, width: int, size: int) -> None:
    channels = np.random.default_rng(0).integers(0, 256, (3, height, width)).astype(np.uint8)
    plain = np.stack([bilinear(channel, size) for channel in channels])
    assert np.abs(upsample(channels, (size, size)) - plain).max() < 1e-3


def test_upsample_is_what_torch_does() -> None:
    maps = smooth_probabilities(1, 64, 48)
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(maps)[None].float(), size=(256, 256), mode="bilinear", align_corners=False
    )
    assert np.abs(upsample(maps, (256, 256)) - theirs[0].numpy()).max() < 1e-3


@pytest.mark.parametrize("rows", [slice(0, 300), slice(0, 100), slice(99, 101), slice(256, 512)])
def test_rows_are_those_of_the_whole(rows: slice) -> None:
    channel = np.random.default_rng(0).integers(0, 256, (7, 11)).astype(np.uint8)
    np.testing.assert_allclose(
        upsample_rows(channel, (300, 40), rows), upsample_channel(channel, (300, 40))[rows], atol=1e-4
    )


@pytest.mark.parametrize(("height", "width", "size"), [(64, 64, 256), (96, 80, 250), (30, 30, 30), (64, 64, 40)])
@pytest.mark.parametrize("kind", ["smooth", "noise", "ties"])
def test_argmax_map_is_exactly_the_argmax_of_the_enlarged(kind: str, height: int, width: int, size: int) -> None:
    noise = np.random.default_rng(2).integers(0, 256 if kind == "noise" else 3, (25, height, width)).astype(np.uint8)
    maps = smooth_probabilities(3, height, width) if kind == "smooth" else noise
    class_map = argmax_map(maps, (size, size + 3))
    assert class_map.dtype == np.uint8
    assert np.array_equal(class_map, upsample(maps, (size, size + 3)).argmax(0))


def test_enlarging_comes_before_the_argmax() -> None:
    # Class 1 leads on the left, class 2 on the right, and class 0 is second on both sides: it wins only in between.
    maps = np.zeros((25, 1, 2), np.uint8)
    maps[:3, 0, :] = [[120, 120], [135, 0], [0, 135]]
    # The new pixels lie at 0, 0, 1/8, 3/8, 5/8, 7/8, 1, 1; 135 * 7/8 is less than 120 already.
    assert argmax_map(maps, (8, 8))[0].tolist() == [1, 1, 0, 0, 0, 0, 2, 2]


def test_average_is_the_weighted_mean() -> None:
    first, second = (np.random.default_rng(seed).integers(0, 256, (3, 25, 4, 4)).astype(np.uint8) for seed in (4, 5))
    mixed = average([first, second], [0.25, 0.75], [2, 0])
    assert np.array_equal(mixed, np.rint(0.25 * first[2].astype(float) + 0.75 * second[0]))
    assert np.array_equal(average([first, second], [1.0, 0.0], [1, 1]), first[1])


def test_average_of_different_sizes_has_the_largest() -> None:
    small, tall, wide = (
        np.random.default_rng(seed).integers(0, 256, (2, 25, *size)).astype(np.uint8)
        for seed, size in ((6, (4, 4)), (7, (8, 4)), (8, (4, 6)))
    )
    enlarged = [
        torch.nn.functional.interpolate(torch.from_numpy(maps[1:]).double(), (8, 6), mode="bilinear")[0].numpy()
        for maps in (small, tall, wide)
    ]
    mixed = average([small, tall, wide], [0.5, 0.25, 0.25], [1, 1, 1])
    expected = 0.5 * enlarged[0] + 0.25 * enlarged[1] + 0.25 * enlarged[2]
    assert mixed.shape == (25, 8, 6)
    assert np.abs(mixed - expected).max() <= 0.5 + 1e-4
    # A model without weight does not decide the size.
    assert np.array_equal(average([small, tall, wide], [1.0, 0.0, 0.0], [0, 0, 0]), small[0])
    assert largest_size([small, tall, wide], [0.5, 0.5, 0.0]) == (8, 4)


def test_count_confusions_takes_each_photos_own_mask() -> None:
    maps = np.stack([smooth_probabilities(seed, 16, 16) for seed in range(3)])
    truth = np.random.default_rng(6).integers(0, 25, (5, 1024, 1024)).astype(np.uint8)
    counts = count_confusions(maps.__getitem__, truth, [4, 0, 2], 25, threads=2)
    plain = [
        confusion(truth[row], upsample(photo_maps, (1024, 1024)).argmax(0).astype(np.uint8), 25)
        for row, photo_maps in zip([4, 0, 2], maps, strict=True)
    ]
    assert np.array_equal(counts, np.stack(plain))


def test_stored_probabilities_come_back(tmp_path: Path) -> None:
    maps = np.random.default_rng(7).integers(0, 256, (3, 25, 4, 6)).astype(np.uint8)
    path = tmp_path / "val.npy"
    write_probabilities(path, ["7", "NA", "007"], (25, 4, 6), iter([maps[:2], maps[2:]]))
    ids, stored = read_probabilities(path)
    assert ids == ("7", "NA", "007")
    assert isinstance(stored, np.memmap)
    assert np.array_equal(stored, maps)


@pytest.mark.parametrize(("count", "cause"), [(1, "1 maps for 2 photos"), (3, "broadcast")])
def test_a_wrong_number_of_maps_is_refused(tmp_path: Path, count: int, cause: str) -> None:
    with pytest.raises(ValueError, match=cause):
        write_probabilities(tmp_path / "val.npy", ["a", "b"], (25, 4, 4), iter([np.zeros((count, 25, 4, 4), np.uint8)]))
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_named_before_anything_is_predicted(tmp_path: Path) -> None:
    def batches() -> Iterator[npt.NDArray[np.uint8]]:
        raise AssertionError("predicted in vain")
        yield np.zeros(0, np.uint8)  # never reached: it makes this a generator

    with small_disk(tmp_path / "disk", "1m") as disk:
        with pytest.raises(HarveysegError, match=r"val\.npy: there is no room .* Free some disk space"):
            write_probabilities(disk / "val.npy", [str(index) for index in range(20)], (25, 64, 64), batches())
        assert not list(disk.iterdir())


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "val.npy"
    with pytest.raises(HarveysegError, match=r"val\.npy: no such file.*dvc repro"):
        read_probabilities(path)
    write_probabilities(path, ["a", "b"], (25, 4, 4), [np.zeros((2, 25, 4, 4), np.uint8)])
    ids_file(path).write_text("id\na\n")
    with pytest.raises(HarveysegError, match="lists 1 photos"):
        read_probabilities(path)
    ids_file(path).unlink()
    with pytest.raises(HarveysegError, match=r"val_ids\.csv: no such file"):
        read_probabilities(path)
    ids_file(path).write_text("id\na\nb\n")
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(HarveysegError, match=r"val\.npy: cannot be read"):
        read_probabilities(path)
