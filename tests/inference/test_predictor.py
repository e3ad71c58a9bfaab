"""Probabilities from networks whose answer is known in closed form."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn
from torch.nn import functional

from harveyseg.config.settings import parse
from harveyseg.errors import HarveysegError
from harveyseg.inference.params import InferenceParams
from harveyseg.inference.predictor import Predictor, predict_maps, weighted_predictor
from harveyseg.inference.sliding_window import sliding_window, window_size

MEAN, STD = (0.2, 0.4, 0.6), (0.5, 0.25, 0.1)
FP32 = InferenceParams(threads=1, device="cpu", precision="fp32")


class FirstChannels(nn.Module):
    """Logit of class c: the normalised channel c for c < 3, else 0. Dropout and batch norm must be switched off."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3, eps=0)
        self.dropout = nn.Dropout(0.9)
        self.sizes: list[tuple[int, ...]] = []

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.sizes.append((len(inputs), *inputs.shape[2:]))
        shown = self.dropout(self.norm(inputs))
        return torch.cat((shown, shown.new_zeros(len(inputs), 22, *inputs.shape[2:])), 1)


class Places(nn.Module):
    """Logits that depend on the place and on nothing else: class 1 grows downwards, class 2 to the right."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        height, width = inputs.shape[2:]
        logits = inputs.new_zeros(len(inputs), 25, height, width)
        logits[:, 1] = torch.linspace(0, 5, height)[:, None]
        logits[:, 2] = torch.linspace(0, 4, width)
        return logits


class Coarse(nn.Module):
    """Logits at a fraction of the photo's size: class c < 3 is the mean of channel c over a block of pixels."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        small = functional.avg_pool2d(inputs, self.stride)
        return torch.cat((small, small.new_zeros(len(small), 22, *small.shape[2:])), 1)


def images(height: int = 4, width: int = 6, count: int = 7) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3)).astype(np.uint8)


def maps_of(network: nn.Module, photos: npt.NDArray[np.uint8], params: InferenceParams = FP32) -> npt.NDArray[np.uint8]:
    maps = predict_maps(network, photos, range(len(photos)), MEAN, STD, params)
    whole = np.concatenate(list(maps.batches))
    assert maps.size == whole.shape[2:]
    return whole


def difference(one: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> int:
    assert one.shape == other.shape
    return int(np.abs(one.astype(int) - other.astype(int)).max())


def test_probabilities_are_the_softmax_of_the_normalised_photo() -> None:
    photos, rows = images(), [5, 0, 3]
    params = FP32.model_copy(update={"batch_size": 2})
    maps = np.concatenate(list(predict_maps(FirstChannels().train(), photos, rows, MEAN, STD, params).batches))
    assert maps.shape == (3, 25, 4, 6)
    assert maps.dtype == np.uint8
    for index, row in enumerate(rows):
        for y in range(4):
            for x in range(6):
                logits = [(photos[row, y, x, c] / 255 - MEAN[c]) / STD[c] for c in range(3)] + [0.0] * 22
                total = sum(math.exp(logit) for logit in logits)
                expected = [255 * math.exp(logit) / total for logit in logits]
                assert np.abs(maps[index, :, y, x] - np.array(expected)).max() <= 0.5 + 1e-3


def test_batches_are_bounded_and_do_not_change_the_result() -> None:
    network = FirstChannels()
    expected = maps_of(network, images())
    assert network.sizes == [(7, 4, 6)]
    network.sizes.clear()
    maps = maps_of(network, images(), FP32.model_copy(update={"batch_size": 3}))
    assert network.sizes == [(3, 4, 6), (3, 4, 6), (1, 4, 6)]
    assert np.array_equal(maps, expected)


def test_no_photos() -> None:
    maps = predict_maps(FirstChannels(), images(), [], MEAN, STD, FP32)
    assert maps.size == (4, 6)
    assert list(maps.batches) == []


def test_bf16_is_close_to_fp32() -> None:
    network = nn.Conv2d(3, 25, 3, padding=1)
    exact, close = (
        maps_of(network, images(), FP32.model_copy(update={"precision": name})) for name in ("fp32", "bf16")
    )
    assert 0 < difference(exact, close) <= 4  # it was another arithmetic


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("more", [{}, {"tta": "d4", "scales": (0.5, 1.0)}, {"window": 64}])
def test_cuda_is_close_to_the_cpu(more: dict[str, object]) -> None:
    network, cpu = nn.Conv2d(3, 25, 3, padding=1), FP32.model_copy(update=more)
    expected = maps_of(network, images(96, 160), cpu)
    assert difference(maps_of(network, images(96, 160), cpu.model_copy(update={"device": "cuda"})), expected) <= 1


@pytest.mark.parametrize(("tta", "passes"), [("none", 1), ("flips", 4), ("d4", 8)])
@pytest.mark.parametrize("network", [FirstChannels(), Coarse(2)])
def test_symmetries_leave_the_answer_of_a_pointwise_network_as_it_is(tta: str, passes: int, network: nn.Module) -> None:
    calls: list[tuple[int, ...]] = []
    hook = network.register_forward_pre_hook(lambda _, given: calls.append(tuple(given[0].shape[2:])))
    photos = images(4, 6)
    maps = maps_of(network, photos, FP32.model_copy(update={"tta": tta}))
    hook.remove()
    assert difference(maps, maps_of(network, photos)) <= 1  # turned back wrongly, noise would differ everywhere
    assert np.mean(maps != maps_of(network, photos)) < 1e-2
    assert len(calls) == passes
    assert calls.count((6, 4)) == (4 if tta == "d4" else 0)  # rows and columns swapped


def test_the_mean_over_symmetries_is_that_of_numpys_turns() -> None:
    plain = maps_of(Places(), images(6, 6, 1)).astype(float)[0]
    upright = [plain, plain[:, ::-1], plain[:, :, ::-1], plain[:, ::-1, ::-1]]
    # The network's answer has nothing to do with the photo: turned back, it is its own turned map.
    turned = [np.rot90(one, quarter, (1, 2)) for one in (plain, plain[:, ::-1]) for quarter in range(4)]
    for tta, several in (("flips", upright), ("d4", turned)):
        maps = maps_of(Places(), images(6, 6, 1), FP32.model_copy(update={"tta": tta}))
        assert np.abs(maps[0] - np.mean(several, axis=0)).max() <= 1
    assert difference(maps, plain[None].astype(np.uint8)) > 20  # which was not there for a single pass


def test_symmetries_of_a_photo_that_is_not_square() -> None:
    plain = maps_of(Places(), images(4, 6, 1)).astype(float)[0]
    lying = maps_of(Places(), images(6, 4, 1)).astype(float)[0].transpose(0, 2, 1)  # what a swapped photo gets
    several = [one[:, ::rows, ::columns] for one in (plain, lying) for rows in (1, -1) for columns in (1, -1)]
    maps = maps_of(Places(), images(4, 6, 1), FP32.model_copy(update={"tta": "d4"}))
    assert np.abs(maps[0] - np.mean(several, axis=0)).max() <= 1


def test_a_scaled_photo_has_sides_divisible_by_32_and_its_maps_come_back() -> None:
    network, photos = FirstChannels(), np.full((2, 64, 96, 3), 77, np.uint8)
    maps = maps_of(network, photos, FP32.model_copy(update={"scales": (0.75, 1.0, 1.5)}))
    assert network.sizes == [(2, 64, 64), (2, 64, 96), (2, 96, 128)]
    assert maps.shape == (2, 25, 64, 96)
    assert difference(maps, maps_of(network, photos)) <= 1


def test_scales_are_averaged_as_probabilities_at_the_size_of_the_photo() -> None:
    rows, columns = np.linspace(0, 255, 128), np.linspace(255, 0, 128)
    smooth = np.stack(np.broadcast_arrays(rows[:, None], columns[None], 90.0), -1).round().astype(np.uint8)[None]
    single = [maps_of(FirstChannels(), smooth, FP32.model_copy(update={"scales": (one,)})) for one in (1.0, 0.5, 2.0)]
    inner = np.s_[:, :, 8:-8, 8:-8]  # where the photo ends, resizing repeats its border
    assert difference(single[0][inner], single[1][inner]) <= 4  # a smooth photo looks the same at every scale
    assert difference(single[0][inner], single[2][inner]) <= 4
    mean = maps_of(FirstChannels(), smooth, FP32.model_copy(update={"scales": (1.0, 0.5, 2.0)}))
    assert np.abs(mean - np.mean([one.astype(float) for one in single], axis=0)).max() <= 1


@pytest.mark.parametrize("stride", [2, 4])
def test_maps_have_the_networks_own_size(stride: int) -> None:
    photos = images(64, 96, 3)
    maps = maps_of(Coarse(stride), photos)
    assert maps.shape == (3, 25, 64 // stride, 96 // stride)
    several = maps_of(Coarse(stride), photos, FP32.model_copy(update={"scales": (0.5, 2.0), "tta": "d4"}))
    assert several.shape == maps.shape
    windows = maps_of(Coarse(stride), photos, FP32.model_copy(update={"window": 64}))
    assert difference(windows, maps) <= 1


def test_an_answer_of_another_size_is_named() -> None:
    with pytest.raises(HarveysegError, match="returns maps of 2x4 for a photo of 4x6 pixels"):
        predict_maps(nn.Conv2d(3, 25, 3), images(), [0], MEAN, STD, FP32)
    with pytest.raises(HarveysegError, match=r"1/3 of the photo's size, .* inference\.window to null"):
        predict_maps(nn.AvgPool2d(3), images(96, 192), [0], MEAN, STD, FP32.model_copy(update={"window": 96}))


def test_several_networks_are_averaged_at_the_largest_maps() -> None:
    photos = images(32, 64, 2)
    fine, coarse = (Predictor(network, MEAN, STD, FP32) for network in (FirstChannels(), Coarse(2)))
    enlarged = functional.interpolate(coarse(photos), (32, 64), mode="bilinear", align_corners=False)
    expected = 0.25 * fine(photos) + 0.75 * enlarged
    for order, shares in (((fine, coarse), (0.25, 0.75)), ((coarse, fine), (0.75, 0.25))):
        torch.testing.assert_close(weighted_predictor(order, shares)(photos), expected)


def test_how_much_goes_through_at_once() -> None:
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
    """Two windows side by side, each sure of a class of its own."""
    numbers = iter((3, 7))

    def infer(windows: npt.NDArray[np.uint8]) -> torch.Tensor:
        maps = torch.zeros(len(windows), 25, 64, 64)
        for one in maps:
            one[next(numbers)] = 1
        return maps

    params = FP32.model_copy(update={"overlap": 0.5})
    (whole,) = sliding_window(infer, np.zeros((64, 96, 3), np.uint8), (64, 64), params)
    row = whole[:, 20].astype(float) / 255
    assert (row[3, :32] == 1).all()
    assert (row[7, 64:] == 1).all()
    assert (np.diff(row[3]) <= 0).all()
    # Of two Hann windows that overlap by half, the weights sum to 1 by themselves.
    falling = np.cos(np.pi * (np.arange(32) + 0.5) / 64) ** 2
    np.testing.assert_allclose(row[3, 32:64], falling, atol=0.51 / 255)
    np.testing.assert_allclose(row[7, 32:64], 1 - falling, atol=0.51 / 255)


def test_a_photo_is_continued_by_mirroring() -> None:
    seen: list[npt.NDArray[np.uint8]] = []

    def infer(windows: npt.NDArray[np.uint8]) -> torch.Tensor:
        seen.extend(windows)
        return torch.zeros(len(windows), 25, 64, 64)

    photo = images(70, 40, 1)[0]
    list(sliding_window(infer, photo, (64, 64), FP32))
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
        done = subprocess.run(
            command, cwd=Path(__file__).parents[2] / "src", capture_output=True, text=True, check=True
        )
        return int(done.stdout)

    # The maps of the tall photo alone take 61 MiB as bytes, 244 MiB as floats.
    assert peak(8000) < peak(800) + 25


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"scales": []}, r"inference\.scales = \[\]: must list different factors in 0\.25\.\.4"),
        ({"scales": [1.0, 0.0]}, r"inference\.scales = .*must list different factors"),
        ({"scales": [-1]}, r"inference\.scales = .*must list different factors"),
        ({"scales": [1, 1.0]}, r"inference\.scales = .*must list different factors"),
        ({"scales": 1.0}, r"inference\.scales = 1\.0: "),
        ({"window": 100}, r"inference\.window = 100: must be null or a multiple of 32 from 64"),
        ({"window": 32}, r"inference\.window = 32: must be null or a multiple of 32"),
        ({"window": -64}, r"inference\.window = -64: must be null or a multiple of 32"),
        ({"overlap": 1.0}, r"inference\.overlap = 1\.0: .* less than or equal to 0\.9"),
        ({"overlap": -0.1}, r"inference\.overlap = -0\.1: .* greater than or equal to 0"),
        ({"tta": "rot"}, r"inference\.tta = 'rot': .*'none', 'flips' or 'd4'"),
    ],
)
def test_what_cannot_work_is_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(HarveysegError, match=message):
        parse(InferenceParams, values, "inference")
