import numpy as np
import torch

from harveyseg.data.normalisation import normalise


def test_it_equals_numpy_and_stays_channels_last() -> None:
    photos = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), dtype=np.uint8)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    expected = ((photos / 255 - mean) / std).transpose(0, 3, 1, 2)
    normalised = normalise(torch.from_numpy(photos), mean, std)
    np.testing.assert_allclose(normalised.numpy(), expected, atol=1e-5)
    assert normalised.is_contiguous(memory_format=torch.channels_last)
