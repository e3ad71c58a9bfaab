"""Photos as networks take them: zero mean and unit deviation per channel, as the report has it."""

from collections.abc import Sequence

import torch


def normalise(photos: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Subtract the mean and divide by the standard deviation, on the device where the photos are.

    Args:
        photos: uint8 RGB (B, H, W, 3); a quarter of the bytes of floats to move to a GPU.
        mean: of each channel of the training photos, on the scale 0..1.
        std: standard deviation of each channel, on the scale 0..1.

    Returns:
        float32 (B, 3, H, W). (B, H, W, 3) in memory is what channels_last means, so the permutation copies nothing.
    """
    shift = torch.tensor(mean, device=photos.device).view(3, 1, 1)
    scale = torch.tensor(std, device=photos.device).view(3, 1, 1)
    return (photos.permute(0, 3, 1, 2).float() / 255 - shift) / scale
