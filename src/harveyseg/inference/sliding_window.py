"""Probability maps of photos of any size, from windows that overlap."""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from harveyseg.arrays import SIDE_MULTIPLE, ByteArray, IntArray, Photo, Photos, ProbabilityMaps
from harveyseg.errors import HarveysegError
from harveyseg.inference.params import InferenceParams
from harveyseg.inference.sizes import output_stride, round_up

PredictBatch = Callable[[Photos], Tensor]
"""From photos of one size to probabilities, float32 (N, C, H / stride, W / stride)."""


def window_size(size: tuple[int, int], params: InferenceParams) -> tuple[int, int]:
    """(height, width) of what goes through the network at once, for photos of this (height, width).

    With ``window: null`` that is the whole photo; otherwise a multiple of 32, at most ``window`` along either side.

    >>> window_size((100, 300), InferenceParams(window=128))
    (128, 128)
    """
    if params.window is None:
        return size
    height, width = (min(params.window, round_up(side)) for side in size)
    return height, width


@torch.inference_mode()
def sliding_window(
    predict: PredictBatch, photo: Photo, window: tuple[int, int], params: InferenceParams
) -> Iterator[ProbabilityMaps]:
    """Probabilities of one photo of any size, in stripes from top to bottom.

    Windows are weighted by a raised cosine (Hann) that falls towards their borders, where a network sees least of the
    surroundings (Pielawski & Wählby 2020, "Introducing Hann windows for reducing edge-effects in patch-based image
    segmentation"). At every pixel the weights of all windows sum to 1, so a pixel that only one window covers, such as
    one at the photo's border, takes its value unchanged. A photo smaller than the windows is padded by mirroring.

    Memory grows with the photo's width and the window's height, not with the photo's height.

    Args:
        predict: from windows to their probabilities, e.g. a :class:`harveyseg.inference.predictor.Predictor`.
        photo: may be a memory map.
        window: (height, width) in pixels; ``predict`` gets windows of exactly this size.
        params: batch size and overlap.

    Yields:
        uint8 (C, h, ceil(W / stride)), ``round(255 * p)``; together they have ceil(H / stride) rows.

    Raises:
        HarveysegError: when windows would start between pixels of a network whose stride does not divide 32.
    """
    height, width = photo.shape[:2]
    tops = _window_starts(height, window[0], params.overlap)
    lefts = _window_starts(width, window[1], params.overlap)
    total: Tensor | None = None
    for index, top in enumerate(tops):
        band = photo[_mirrored(top, window[0], height)]
        for start in range(0, len(lefts), params.batch_size):
            batch_lefts = lefts[start : start + params.batch_size]
            maps = predict(np.stack([band[:, _mirrored(left, window[1], width)] for left in batch_lefts]))
            if total is None:
                stride = output_stride(window, maps)
                if any(begin % stride for begin in (*tops, *lefts)):
                    raise HarveysegError(
                        f"the network's maps have 1/{stride} of the photo's size, but windows start at multiples of "
                        f"{SIDE_MULTIPLE} pixels. Set inference.window to null, or take a network whose stride divides "
                        "that."
                    )
                rows, columns = maps.shape[2:]
                row_weights = _window_weights([top // stride for top in tops], rows).to(maps.device)
                column_weights = _window_weights([left // stride for left in lefts], columns).to(maps.device)
                total = maps.new_zeros(maps.shape[1], rows, lefts[-1] // stride + columns)
            for number, window_maps in enumerate(maps, start):
                begin = lefts[number] // stride
                weights = row_weights[index][:, None] * column_weights[number]
                total[:, :, begin : begin + columns].addcmul_(window_maps, weights)
        assert total is not None  # there is always a window
        end = tops[index + 1] if top < tops[-1] else height
        finished = math.ceil((end - top) / stride)
        yield quantise(total[:, :finished, : math.ceil(width / stride)])
        unfinished = rows - finished
        total[:, :unfinished] = total[:, finished:].clone()
        total[:, unfinished:] = 0


@torch.inference_mode()
def quantise(probabilities: Tensor) -> ByteArray:
    """Probabilities in levels, uint8 of the same shape: ``round(255 * p)``. Overwrites its argument."""
    return probabilities.mul_(255).round_().to(torch.uint8).contiguous().cpu().numpy()


def _window_starts(side: int, window: int, overlap: float) -> list[int]:
    """Where windows start that cover a side: evenly spread multiples of 32; the last window reaches the end."""
    last = round_up(max(0, side - window))
    step = max(SIDE_MULTIPLE, int(window * (1 - overlap)) // SIDE_MULTIPLE * SIDE_MULTIPLE)
    gaps = math.ceil(last / step)
    return [0, *(last * gap // gaps // SIDE_MULTIPLE * SIDE_MULTIPLE for gap in range(1, gaps + 1))]


def _window_weights(starts: Sequence[int], window: int) -> Tensor:
    """The weights of windows along one axis, float32 (len(starts), window), summing to 1 at every covered pixel."""
    hann = np.sin(np.pi * (np.arange(window) + 0.5) / window) ** 2
    sums = np.zeros(starts[-1] + window)
    for start in starts:
        sums[start : start + window] += hann
    weights = np.stack([hann / sums[start : start + window] for start in starts])
    return torch.from_numpy(weights.astype(np.float32))


def _mirrored(start: int, length: int, side: int) -> slice | IntArray:
    """Which rows (or columns) of a photo make up a window; after the last one they run backwards, and so on."""
    if start + length <= side:
        return slice(start, start + length)
    return np.pad(np.arange(side), (0, start + length - side), mode="reflect")[start:]
