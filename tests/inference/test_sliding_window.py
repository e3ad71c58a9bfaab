"""Windows that overlap, against whole photos and closed forms."""

import subprocess
import sys

import numpy as np
import numpy.typing as npt
import pytest
import torch

from harveyseg.inference.predictor import Predictor
from harveyseg.inference.sliding_window import sliding_window, window_size
from helpers.known_networks import FP32, MEAN, STD, FirstChannels, difference, images, maps_of
from helpers.paths import ROOT


def test_the_size_of_windows() -> None:
    assert window_size((100, 300), FP32) == (100, 300)
    assert window_size((100, 300), FP32.model_copy(update={"window": 128})) == (128, 128)
    assert window_size((96, 300), FP32.model_copy(update={"window": 128})) == (96, 128)


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.9])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (200, 330), (352, 97), (30, 500), (1, 2), (5, 64)])
def test_windows_give_what_the_whole_photo_gives(height: int, width: int, overlap: float) -> None:
    """For a network that looks at one pixel at a time."""
    photo = images(height, width, 1)[0]
    params = FP32.model_copy(update={"overlap": overlap, "batch_size": 3})
    network = FirstChannels()
    stripes = list(sliding_window(Predictor(network, MEAN, STD, params), photo, (96, 64), params))
    assert {size[1:] for size in network.sizes} == {(96, 64)}  # never another size
    whole = np.concatenate(stripes, axis=1)
    expected = maps_of(FirstChannels(), photo[None])[0]
    assert difference(whole, expected) <= 1
    assert np.mean(whole != expected) < 1e-4  # weights of float32 sum to 1 - 1e-7
    if height <= 96 and width <= 64:
        assert np.array_equal(whole, expected)


def test_a_window_counts_most_in_its_middle() -> None:
    """Two windows next to each other, each certain of a different class."""
    numbers = iter((3, 7))

    def predict(windows: npt.NDArray[np.uint8]) -> torch.Tensor:
        maps = torch.zeros(len(windows), 25, 64, 64)
        for window_maps in maps:
            window_maps[next(numbers)] = 1
        return maps

    params = FP32.model_copy(update={"overlap": 0.5})
    (whole,) = sliding_window(predict, np.zeros((64, 96, 3), np.uint8), (64, 64), params)
    row = whole[:, 20].astype(float) / 255
    assert (row[3, :32] == 1).all()
    assert (row[7, 64:] == 1).all()
    assert (np.diff(row[3]) <= 0).all()
    # The weights of two Hann windows that overlap by half sum to 1 without being normalised.
    falling = np.cos(np.pi * (np.arange(32) + 0.5) / 64) ** 2
    np.testing.assert_allclose(row[3, 32:64], falling, atol=0.51 / 255)
    np.testing.assert_allclose(row[7, 32:64], 1 - falling, atol=0.51 / 255)


def test_a_photo_is_padded_by_mirroring() -> None:
    seen: list[npt.NDArray[np.uint8]] = []

    def predict(windows: npt.NDArray[np.uint8]) -> torch.Tensor:
        seen.extend(windows)
        return torch.zeros(len(windows), 25, 64, 64)

    photo = images(70, 40, 1)[0]
    list(sliding_window(predict, photo, (64, 64), FP32))
    mirrored = np.pad(photo, ((0, 26), (0, 24), (0, 0)), mode="reflect")
    assert len(seen) == 2
    assert np.array_equal(seen[0], mirrored[:64])
    assert np.array_equal(seen[1], mirrored[32:])


CHILD = """
import resource, sys
import numpy as np, torch
from harveyseg.inference.params import InferenceParams
from harveyseg.inference.sliding_window import sliding_window
torch.set_num_threads(1)
photo = np.broadcast_to(np.zeros((1, 1, 3), np.uint8), (int(sys.argv[1]), 320, 3))
constant = lambda windows: torch.full((len(windows), 25, *windows.shape[1:3]), 1 / 25)
rows = 0
for stripe in sliding_window(constant, photo, (128, 128), InferenceParams(batch_size=2)):
    assert (stripe == 10).all()
    rows += stripe.shape[1]
assert rows == len(photo)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def test_memory_does_not_grow_with_a_photos_height() -> None:
    def peak(height: int) -> int:
        command = [sys.executable, "-c", CHILD, str(height)]
        done = subprocess.run(command, cwd=ROOT / "src", capture_output=True, text=True, check=True)
        return int(done.stdout)

    # The maps of the tall photo alone take 61 MiB as bytes, 244 MiB as floats.
    assert peak(8000) < peak(800) + 25
