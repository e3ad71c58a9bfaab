"""Probabilities of networks that are known in closed form."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from harveyseg.errors import HarveysegError
from harveyseg.inference.predictor import Predictor, predict_maps, weighted_predictor
from helpers.known_networks import FP32, MEAN, STD, Coarse, FirstChannels, difference, images, maps_of


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


@pytest.mark.parametrize(("window", "size"), [(None, "96x160"), (64, "64x64")])
def test_out_of_memory_names_what_decides_how_much_is_needed(window: int | None, size: str) -> None:
    def allocate(module: nn.Module, _: tuple[torch.Tensor]) -> None:
        torch.empty(2**50)  # 4 PiB: torch's own error of the CPU's allocator

    network = nn.Conv2d(3, 25, 1)
    network.register_forward_pre_hook(allocate)
    params = FP32.model_copy(update={"window": window, "batch_size": 2, "scales": (1.0, 1.5)})
    with pytest.raises(HarveysegError) as caught:
        maps_of(network, images(96, 160), params)
    assert str(caught.value) == (
        f"out of memory: predicting on cpu with inference.batch_size = 2, photos or windows of {size} pixels, "
        "inference.scales = [1.0, 1.5] and precision fp32. "
        "Lower inference.batch_size, or set a smaller inference.window or smaller inference.scales."
    )


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


@pytest.mark.parametrize("stride", [2, 4])
def test_maps_have_the_networks_own_size(stride: int) -> None:
    photos = images(64, 96, 3)
    maps = maps_of(Coarse(stride), photos)
    assert maps.shape == (3, 25, 64 // stride, 96 // stride)
    several = maps_of(Coarse(stride), photos, FP32.model_copy(update={"scales": (0.5, 2.0), "tta": "d4"}))
    assert several.shape == maps.shape
    windows = maps_of(Coarse(stride), photos, FP32.model_copy(update={"window": 64}))
    assert difference(windows, maps) <= 1


def test_maps_of_an_unexpected_size_are_named() -> None:
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
