"""Test-time augmentation: the mean of a network's probabilities over symmetries of the square and over scales.

Means are taken of probabilities, not of logits: a class that one view is sure of must not be outvoted by a large logit
of another.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from torch import Tensor

from harveyseg.inference.sizes import output_stride, resize_maps, round_side

_ROWS = 2
_COLUMNS = 3
_FLIPS: tuple[tuple[int, ...], ...] = ((), (_ROWS,), (_COLUMNS,), (_ROWS, _COLUMNS))


class _Symmetry(NamedTuple):
    """A symmetry of the square."""

    transposed: bool
    """Whether rows and columns are swapped."""
    flipped: tuple[int, ...]
    """The axes that are reversed after that."""


_SYMMETRIES = {
    "none": [_Symmetry(False, ())],
    "flips": [_Symmetry(False, axes) for axes in _FLIPS],
    "d4": [_Symmetry(transposed, axes) for transposed in (False, True) for axes in _FLIPS],
}


def mean_probabilities(
    network: Callable[[Tensor], Tensor],
    photos: Tensor,
    tta: Literal["none", "flips", "d4"],
    scales: Sequence[float],
) -> Tensor:
    """Probabilities of photos, averaged over symmetries and scales.

    A probability is the softmax of the logits, also for a network that was trained with a second softmax.

    >>> import torch
    >>> network = torch.nn.Conv2d(3, 25, kernel_size=1)
    >>> with torch.inference_mode():
    ...     mean_probabilities(network, torch.randn(1, 3, 32, 64), "d4", [1.0, 0.5]).shape
    torch.Size([1, 25, 32, 64])

    Args:
        network: (B, 3, H, W) -> logits (B, C, H / stride, W / stride).
        photos: (B, 3, H, W) float, normalised.
        tta: the symmetries, see :class:`harveyseg.inference.params.InferenceParams`.
        scales: factors by which the photos are resized, at least one.

    Returns:
        float32 (B, C, H / stride, W / stride).

    Raises:
        HarveysegError: when the size of the logits is not a whole fraction of the photos'.
    """
    first, *others = scales
    total = _at_scale(network, photos, tta, first)
    for scale in others:
        total.add_(_at_scale(network, photos, tta, scale))
    return total.div_(len(scales))


def _at_scale(network: Callable[[Tensor], Tensor], photos: Tensor, tta: str, scale: float) -> Tensor:
    """Probabilities of the resized photos, at the size that the network returns for the photos themselves."""
    size = (photos.shape[2], photos.shape[3])
    scaled = size if scale == 1 else (round_side(size[0] * scale), round_side(size[1] * scale))
    maps = _mean_over_symmetries(network, resize_maps(photos, scaled), tta)
    stride = output_stride(scaled, maps)
    return resize_maps(maps, (size[0] // stride, size[1] // stride))


def _mean_over_symmetries(network: Callable[[Tensor], Tensor], photos: Tensor, tta: str) -> Tensor:
    symmetries = _SYMMETRIES[tta]
    total: Tensor | None = None
    for transposed, flipped in symmetries:
        view = photos.transpose(_ROWS, _COLUMNS) if transposed else photos
        view = view.flip(flipped) if flipped else view
        logits = network(view)
        # Flipped back and made contiguous by channel (the softmax does not take channels_last) before they become
        # floats: in bfloat16 that moves half the bytes.
        logits = logits.flip(flipped) if flipped else logits
        logits = logits.transpose(_ROWS, _COLUMNS) if transposed else logits
        maps = logits.contiguous().float().softmax(1)
        total = maps if total is None else total.add_(maps)
    assert total is not None
    return total.div_(len(symmetries))
