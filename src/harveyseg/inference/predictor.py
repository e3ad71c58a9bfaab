"""Probability maps from trained networks: of whole photos in batches, and of photos of any size in sliding windows.

One answer may be the mean of several: over the symmetries of the square and over scales of the photo (test-time
augmentation), over networks, and over windows that overlap. Networks may answer at a fraction of the photo's size;
the maps then have that size, and whoever decides about classes enlarges them first.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, field_validator
from torch import Tensor, nn
from torch.nn import functional

from harveyseg.config.settings import Section
from harveyseg.data.normalisation import normalise
from harveyseg.device import DeviceName, PrecisionName, autocast, resolve_device, resolve_precision, use_threads
from harveyseg.errors import HarveysegError

MULTIPLE = 32
"""Networks halve the photo up to five times: sides divisible by this suit every one of them."""

_ROWS, _COLUMNS = 2, 3
_FLIPS: tuple[tuple[int, ...], ...] = ((), (_ROWS,), (_COLUMNS,), (_ROWS, _COLUMNS))
_SYMMETRIES: dict[str, list[tuple[bool, tuple[int, ...]]]] = {
    "none": [(False, ())],
    "flips": [(False, axes) for axes in _FLIPS],
    "d4": [(transposed, axes) for transposed in (False, True) for axes in _FLIPS],
}
"""Per ``tta``: whether rows and columns are swapped, and which axes are then reversed."""

Infer = Callable[[npt.NDArray[np.uint8]], Tensor]
"""From uint8 RGB (B, H, W, 3) to probabilities, float32 (B, 25, H / stride, W / stride)."""


class InferenceParams(Section):
    """The section ``inference`` of params.yaml."""

    batch_size: int = Field(default=8, ge=1)
    """Photos, or windows of one photo, that go through the network together."""
    threads: int = Field(default=2, ge=1)
    """CPU threads of the network, and photos scored side by side."""
    device: DeviceName = "auto"
    precision: PrecisionName = "auto"
    """``auto``: bfloat16 where the chip computes with it, else float32."""
    tta: Literal["none", "flips", "d4"] = "none"
    """Mean over the photo and its mirror images (4 passes), or over all symmetries of the square (8 passes)."""
    scales: tuple[float, ...] = (1.0,)
    """Mean over the photo resized by these factors, each side to the nearest multiple of 32."""
    window: int | None = None
    """Photos larger than so many pixels go through the network in square windows that overlap; null: whole photos."""
    overlap: float = Field(default=0.25, ge=0, le=0.9)
    """Share of a window's side that its neighbour covers, too, at least (in steps of 32 pixels)."""

    @field_validator("scales")
    @classmethod
    def _check_scales(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value or len(set(value)) < len(value) or not all(0.25 <= scale <= 4 for scale in value):
            raise ValueError("must list different factors in 0.25..4, at least one, e.g. [1.0] or [0.75, 1.0, 1.25]")
        return value

    @field_validator("window")
    @classmethod
    def _check_window(cls, value: int | None) -> int | None:
        if value is not None and (value < 2 * MULTIPLE or value % MULTIPLE):
            raise ValueError(f"must be null or a multiple of {MULTIPLE} from {2 * MULTIPLE}: networks halve the photo")
        return value


class Maps(NamedTuple):
    """Probability maps of several photos."""

    size: tuple[int, int]
    """(height, width) of each map in pixels."""
    batches: Iterator[npt.NDArray[np.uint8]]
    """uint8 (b, 25, height, width): ``round(255 * p)``."""


class Inferer:
    """A trained network on its device; called with photos, it answers with their probabilities.

    A probability is the softmax of the logits, also for a network trained through a second softmax. Means are taken
    of probabilities, not of logits: a class that one view is sure of must not be outvoted by a large logit of another.

    Args:
        network: (B, 3, H, W) float, normalised -> logits (B, 25, H / stride, W / stride), for any stride that divides
            the photo. It is moved to the device, in eval mode.
        mean: of each channel of the training photos, on the scale 0..1.
        std: standard deviation of each channel, on the scale 0..1.
        params: device, precision, test-time augmentation.

    Raises:
        HarveysegError: when the device is not there.
    """

    def __init__(
        self, network: nn.Module, mean: Sequence[float], std: Sequence[float], params: InferenceParams
    ) -> None:
        use_threads(params.threads)
        self._device = resolve_device(params.device)
        self._precision = resolve_precision(params.precision, self._device)
        self._network = network.to(self._device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self._mean, self._std, self._params = mean, std, params

    @torch.inference_mode()
    def __call__(self, photos: npt.NDArray[np.uint8]) -> Tensor:
        """Mean probabilities over scales and symmetries.

        Args:
            photos: uint8 RGB (B, H, W, 3).

        Returns:
            float32 (B, 25, H / stride, W / stride), on the device.

        Raises:
            HarveysegError: when the network's answer is not a whole fraction of the photo's size.
        """
        inputs = normalise(torch.from_numpy(photos).to(self._device), self._mean, self._std)
        first, *others = self._params.scales
        total = self._at_scale(inputs, first)
        for scale in others:
            total.add_(self._at_scale(inputs, scale))
        return total.div_(len(self._params.scales))

    def _at_scale(self, inputs: Tensor, scale: float) -> Tensor:
        """Probabilities from the resized photo, brought back to the size that the network has for the photo itself."""
        size = (inputs.shape[2], inputs.shape[3])
        scaled = size if scale == 1 else _scaled(size, scale)
        maps = self._mean_over_symmetries(_resize(inputs, scaled))
        stride = _stride(scaled, maps)
        return _resize(maps, (size[0] // stride, size[1] // stride))

    def _mean_over_symmetries(self, inputs: Tensor) -> Tensor:
        symmetries = _SYMMETRIES[self._params.tta]
        total: Tensor | None = None
        for transposed, axes in symmetries:
            turned = inputs.transpose(_ROWS, _COLUMNS) if transposed else inputs
            turned = turned.flip(axes) if axes else turned
            with autocast(self._device, self._precision):
                logits: Tensor = self._network(turned.contiguous(memory_format=torch.channels_last))
            # Turned back and brought from channels_last, which the softmax along channels does not take, to planes
            # before they become floats: in bfloat16 that moves half the bytes.
            logits = logits.flip(axes) if axes else logits
            logits = logits.transpose(_ROWS, _COLUMNS) if transposed else logits
            maps = logits.contiguous().float().softmax(1)
            total = maps if total is None else total.add_(maps)
        assert total is not None
        return total.div_(len(symmetries))


def mixture(inferers: Sequence[Inferer], shares: Sequence[float]) -> Infer:
    """Several networks as one: the weighted mean of their probabilities, at the size of the largest maps.

    Args:
        inferers: the networks.
        shares: their weights, summing to 1.
    """

    @torch.inference_mode()
    def infer(photos: npt.NDArray[np.uint8]) -> Tensor:
        total: Tensor | None = None
        for inferer, share in zip(inferers, shares, strict=True):
            maps = inferer(photos).mul_(share)
            if total is not None:
                size = max((total.shape[2], total.shape[3]), (maps.shape[2], maps.shape[3]))
                maps = _resize(total, size).add_(_resize(maps, size))
            total = maps
        assert total is not None
        return total

    return infer


def predict(
    network: nn.Module,
    images: npt.NDArray[np.uint8],
    rows: Sequence[int],
    mean: Sequence[float],
    std: Sequence[float],
    params: InferenceParams,
) -> Maps:
    """Class probabilities of photos of one size, batch by batch, so that memory stays bounded for any number of them.

    The first batch is computed at once, since the size of the maps is the network's to choose.

    Args:
        network: see :class:`Inferer`.
        images: uint8 RGB (N, H, W, 3), may be a memory map.
        rows: which of ``images``, in which order.
        mean: see :class:`Inferer`.
        std: see :class:`Inferer`.
        params: all settings.

    Raises:
        HarveysegError: see :class:`Inferer`.
    """
    batches = _batches(Inferer(network, mean, std, params), images, rows, params)
    first = next(batches, None)
    if first is None:
        return Maps((images.shape[1], images.shape[2]), batches)
    return Maps((first.shape[2], first.shape[3]), itertools.chain([first], batches))


def _batches(
    infer: Infer, images: npt.NDArray[np.uint8], rows: Sequence[int], params: InferenceParams
) -> Iterator[npt.NDArray[np.uint8]]:
    size = (images.shape[1], images.shape[2])
    window = window_size(size, params)
    if window == size:
        for start in range(0, len(rows), params.batch_size):
            yield _quantise(infer(images[rows[start : start + params.batch_size]]))
    else:
        for row in rows:
            yield np.concatenate(list(slide(infer, images[row], window, params)), axis=1)[None]


def window_size(size: tuple[int, int], params: InferenceParams) -> tuple[int, int]:
    """(height, width) of what goes through the network at once, for photos of this (height, width).

    With ``window: null`` the whole photo; else no more than ``window`` of either side, and a multiple of 32.
    """
    if params.window is None:
        return size
    height, width = (min(params.window, _round_up(side)) for side in size)
    return height, width


@torch.inference_mode()
def slide(
    infer: Infer, photo: npt.NDArray[np.uint8], window: tuple[int, int], params: InferenceParams
) -> Iterator[npt.NDArray[np.uint8]]:
    """Probabilities of one photo of any size, from windows that overlap, in stripes from top to bottom.

    A window counts by a raised cosine (Hann) that falls towards its borders, where a network sees least of the
    surroundings (Pielawski & Wählby 2020, "Introducing Hann windows for reducing edge-effects in patch-based image
    segmentation"). The weights of all windows sum to 1 at every pixel, so where there is only one, up to the photo's
    border, it counts in full. A photo that the windows do not fill is continued by mirroring.

    Memory grows with the photo's width and the window's height, not with the photo's height.

    Args:
        infer: from windows to their probabilities, e.g. an :class:`Inferer`.
        photo: uint8 RGB (H, W, 3), may be a memory map.
        window: (height, width) in pixels; every call of ``infer`` gets windows of exactly this size.
        params: batch size and overlap.

    Yields:
        uint8 (25, h, ceil(W / stride)), ``round(255 * p)``, together ceil(H / stride) rows.

    Raises:
        HarveysegError: when windows would start between pixels of a network whose stride does not divide 32.
    """
    height, width = photo.shape[:2]
    tops, lefts = _starts(height, window[0], params.overlap), _starts(width, window[1], params.overlap)
    total: Tensor | None = None
    for index, top in enumerate(tops):
        band = photo[_mirrored(top, window[0], height)]
        for start in range(0, len(lefts), params.batch_size):
            chosen = lefts[start : start + params.batch_size]
            maps = infer(np.stack([band[:, _mirrored(left, window[1], width)] for left in chosen]))
            if total is None:
                stride = _stride(window, maps)
                if any(begin % stride for begin in (*tops, *lefts)):
                    raise HarveysegError(
                        f"the network answers at 1/{stride} of the photo's size, but windows start at multiples of "
                        f"{MULTIPLE} pixels. Set inference.window to null, or take a network whose stride divides that."
                    )
                rows, columns = maps.shape[2:]
                down, across = (
                    torch.from_numpy(_ramps([begin // stride for begin in starts], side)).to(maps.device)
                    for starts, side in ((tops, rows), (lefts, columns))
                )
                total = maps.new_zeros(maps.shape[1], rows, lefts[-1] // stride + columns)
            for number, one in enumerate(maps, start):
                begin = lefts[number] // stride
                total[:, :, begin : begin + columns].addcmul_(one, down[index][:, None] * across[number])
        assert total is not None  # there is always a window
        end = tops[index + 1] if top < tops[-1] else height
        finished = math.ceil((end - top) / stride)
        yield _quantise(total[:, :finished, : math.ceil(width / stride)])
        open_rows = rows - finished
        total[:, :open_rows] = total[:, finished:].clone()
        total[:, open_rows:] = 0


def _starts(side: int, window: int, overlap: float) -> list[int]:
    """Where windows start that cover a side: evenly spread multiples of 32, the last window reaching the end."""
    last = _round_up(max(0, side - window))
    step = max(MULTIPLE, int(window * (1 - overlap)) // MULTIPLE * MULTIPLE)
    gaps = math.ceil(last / step)
    return [0, *(last * gap // gaps // MULTIPLE * MULTIPLE for gap in range(1, gaps + 1))]


def _ramps(starts: Sequence[int], window: int) -> npt.NDArray[np.float32]:
    """The weights of windows along one axis, (len(starts), window), summing to 1 at every pixel that any covers."""
    hann = np.sin(np.pi * (np.arange(window) + 0.5) / window) ** 2
    sums = np.zeros(starts[-1] + window)
    for start in starts:
        sums[start : start + window] += hann
    return np.stack([hann / sums[start : start + window] for start in starts]).astype(np.float32)


def _mirrored(start: int, length: int, side: int) -> slice | npt.NDArray[np.int64]:
    """Which rows (or columns) of a photo make up a window; beyond the last one they run backwards, and so on."""
    if start + length <= side:
        return slice(start, start + length)
    return np.pad(np.arange(side), (0, start + length - side), mode="reflect")[start:]


def _scaled(size: tuple[int, int], scale: float) -> tuple[int, int]:
    height, width = (max(MULTIPLE, round(side * scale / MULTIPLE) * MULTIPLE) for side in size)
    return height, width


def _round_up(side: int) -> int:
    return math.ceil(side / MULTIPLE) * MULTIPLE


def _stride(photo: tuple[int, int], maps: Tensor) -> int:
    """How many of the photo's pixels one of the network's pixels stands for, along each axis."""
    size = (maps.shape[2], maps.shape[3])
    stride = max(1, photo[0] // size[0])
    if photo != (size[0] * stride, size[1] * stride):
        raise HarveysegError(
            f"the network answers with {size[0]}x{size[1]} for a photo of {photo[0]}x{photo[1]} pixels; a whole "
            "fraction of its size was expected. Sizes divisible by 32 suit almost every network."
        )
    return stride


def _resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, with pixel centres at half-integers; where it shrinks, over all pixels (antialias), not only two."""
    if tuple(maps.shape[2:]) == size:
        return maps
    return functional.interpolate(maps, size, mode="bilinear", align_corners=False, antialias=True)


@torch.inference_mode()
def _quantise(probabilities: Tensor) -> npt.NDArray[np.uint8]:
    """``round(255 * p)``; overwrites its argument."""
    return probabilities.mul_(255).round_().to(torch.uint8).contiguous().cpu().numpy()
