"""Probabilities from a network whose answer is known in closed form."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from harveyseg.inference import InferenceParams, predict

MEAN, STD = (0.2, 0.4, 0.6), (0.5, 0.25, 0.1)


class FirstChannels(nn.Module):
    """Logit of class c: the normalised channel c for c < 3, else 0. Dropout and batch norm must be switched off."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3, eps=0)
        self.dropout = nn.Dropout(0.9)
        self.sizes: list[int] = []

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(inputs))
        shown = self.dropout(self.norm(inputs))
        return torch.cat((shown, shown.new_zeros(len(inputs), 22, *inputs.shape[2:])), 1)


def images() -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (7, 4, 6, 3)).astype(np.uint8)


def test_probabilities_are_the_softmax_of_the_normalised_photo() -> None:
    photos, rows = images(), [5, 0, 3]
    params = InferenceParams(batch_size=2, threads=1, device="cpu", precision="fp32")
    maps = np.concatenate(list(predict(FirstChannels().train(), photos, rows, MEAN, STD, params)))
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
    photos, whole = images(), InferenceParams(batch_size=100, threads=1, device="cpu", precision="fp32")
    network = FirstChannels()
    expected = list(predict(network, photos, range(7), MEAN, STD, whole))
    assert len(expected) == 1
    network.sizes.clear()
    params = whole.model_copy(update={"batch_size": 3})
    maps = list(predict(network, photos, range(7), MEAN, STD, params))
    assert network.sizes == [3, 3, 1]
    assert np.array_equal(np.concatenate(maps), expected[0])


def test_bf16_is_close_to_fp32() -> None:
    network = nn.Conv2d(3, 25, 3, padding=1)
    fp32 = InferenceParams(threads=1, device="cpu", precision="fp32")
    exact, close = (
        np.concatenate(list(predict(network, images(), range(7), MEAN, STD, params))).astype(int)
        for params in (fp32, fp32.model_copy(update={"precision": "bf16"}))
    )
    assert np.abs(exact - close).max() <= 4
    assert np.abs(exact - close).max() > 0  # it was another arithmetic


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_is_close_to_the_cpu() -> None:
    network, cpu = nn.Conv2d(3, 25, 3, padding=1), InferenceParams(threads=1, device="cpu", precision="fp32")
    expected = np.concatenate(list(predict(network, images(), range(7), MEAN, STD, cpu))).astype(int)
    cuda = cpu.model_copy(update={"device": "cuda"})
    assert np.abs(np.concatenate(list(predict(network, images(), range(7), MEAN, STD, cuda))) - expected).max() <= 1
