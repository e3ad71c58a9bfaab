"""Probability maps from trained networks: of whole photos in batches, or in windows where photos are larger.

Networks may return maps at a fraction of the photo's size. Their size is kept: maps are enlarged only where classes are
chosen (:mod:`harveyseg.inference.probabilities`).
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from harveyseg.arrays import Photos, ProbabilityStack
from harveyseg.data.normalisation import normalise
from harveyseg.device import (
    autocast,
    explain_out_of_memory,
    resolve_device,
    resolve_precision,
    use_precision,
    use_threads,
)
from harveyseg.inference.params import InferenceParams
from harveyseg.inference.sizes import resize_maps
from harveyseg.inference.sliding_window import PredictBatch, quantise, sliding_window, window_size
from harveyseg.inference.tta import mean_probabilities


class PredictedMaps(NamedTuple):
    """Probability maps of several photos."""

    size: tuple[int, int]
    """(height, width) of each map in pixels."""
    batches: Iterator[ProbabilityStack]
    """uint8 (n, C, height, width): ``round(255 * p)``."""


_LESS_MEMORY = "Lower inference.batch_size, or set a smaller inference.window or smaller inference.scales."


class Predictor:
    """A trained network on its device; called with photos, it returns their probabilities.

    >>> network = nn.Conv2d(3, 25, kernel_size=1)
    >>> predictor = Predictor(network, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), InferenceParams(device="cpu"))
    >>> predictor(np.zeros((2, 32, 64, 3), np.uint8)).shape
    torch.Size([2, 25, 32, 64])

    Args:
        network: (B, 3, H, W) float, normalised -> logits (B, C, H / stride, W / stride), for any stride that divides
            the photo. It is moved to the device and set to eval mode.
        mean: of each channel of the training photos, on the scale 0..1.
        std: standard deviation of each channel, on the scale 0..1.
        params: device, precision, test-time augmentation.

    Raises:
        HarveysegError: when this machine lacks the device.
    """

    def __init__(
        self, network: nn.Module, mean: Sequence[float], std: Sequence[float], params: InferenceParams
    ) -> None:
        use_threads(params.threads)
        self._device = resolve_device(params.device)
        self._precision = resolve_precision(params.precision, self._device)
        use_precision(self._precision)
        self._network = network.to(self._device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self._mean = mean
        self._std = std
        self._params = params

    @torch.inference_mode()
    def __call__(self, photos: Photos) -> Tensor:
        """Mean probabilities over symmetries and scales.

        Returns:
            float32 (N, C, H / stride, W / stride), on the device.

        Raises:
            HarveysegError: when the size of the network's logits is not a whole fraction of the photos', or memory runs
                out.
        """
        with explain_out_of_memory(self._describe_memory(photos), _LESS_MEMORY):
            inputs = normalise(torch.from_numpy(photos).to(self._device), self._mean, self._std)
            return mean_probabilities(self._logits, inputs, self._params.tta, self._params.scales)

    def _describe_memory(self, photos: Photos) -> str:
        params = self._params
        return (
            f"predicting on {self._device.type} with inference.batch_size = {params.batch_size}, photos or windows of "
            f"{photos.shape[1]}x{photos.shape[2]} pixels, inference.scales = {list(params.scales)} and precision "
            f"{self._precision}"
        )

    def _logits(self, inputs: Tensor) -> Tensor:
        with autocast(self._device, self._precision):
            logits: Tensor = self._network(inputs.contiguous(memory_format=torch.channels_last))
        return logits


def weighted_predictor(predictors: Sequence[PredictBatch], weights: Sequence[float]) -> PredictBatch:
    """Several networks as one: the weighted mean of their probabilities, at the size of the largest maps.

    Args:
        predictors: the networks.
        weights: one for each network, summing to 1.
    """

    @torch.inference_mode()
    def predict_batch(photos: Photos) -> Tensor:
        total: Tensor | None = None
        for predictor, weight in zip(predictors, weights, strict=True):
            maps = predictor(photos).mul_(weight)
            if total is not None:
                size = max((total.shape[2], total.shape[3]), (maps.shape[2], maps.shape[3]))
                maps = resize_maps(total, size).add_(resize_maps(maps, size))
            total = maps
        assert total is not None
        return total

    return predict_batch


def predict_maps(
    network: nn.Module,
    photos: Photos,
    rows: Sequence[int],
    mean: Sequence[float],
    std: Sequence[float],
    params: InferenceParams,
) -> PredictedMaps:
    """Probability maps of photos of one size, batch by batch, in bounded memory for any number of photos.

    The first batch is computed at once, since only the network knows the size of its maps.

    >>> photos = np.zeros((3, 32, 64, 3), np.uint8)
    >>> network = nn.Conv2d(3, 25, kernel_size=1)
    >>> maps = predict_maps(network, photos, [2, 0], (0.5,) * 3, (0.25,) * 3, InferenceParams(device="cpu"))
    >>> maps.size, [batch.shape for batch in maps.batches]
    ((32, 64), [(2, 25, 32, 64)])

    Args:
        network: see :class:`Predictor`.
        photos: may be a memory map.
        rows: which of ``photos``, in which order.
        mean: see :class:`Predictor`.
        std: see :class:`Predictor`.
        params: all settings.

    Raises:
        HarveysegError: see :class:`Predictor`.
    """
    batches = _predict_batches(Predictor(network, mean, std, params), photos, rows, params)
    first = next(batches, None)
    if first is None:
        return PredictedMaps((photos.shape[1], photos.shape[2]), batches)
    return PredictedMaps((first.shape[2], first.shape[3]), itertools.chain([first], batches))


def _predict_batches(
    predict: PredictBatch, photos: Photos, rows: Sequence[int], params: InferenceParams
) -> Iterator[ProbabilityStack]:
    size = (photos.shape[1], photos.shape[2])
    window = window_size(size, params)
    if window == size:
        for start in range(0, len(rows), params.batch_size):
            yield quantise(predict(photos[rows[start : start + params.batch_size]]))
    else:
        for row in rows:
            stripes = list(sliding_window(predict, photos[row], window, params))
            yield np.concatenate(stripes, axis=1)[None]
