"""Pixels near boundaries against a loop over all pairs of pixels, and their accuracy by hand."""

import numpy as np
import pytest

from harveyseg.arrays import BinaryMask, ClassMap
from harveyseg.evaluation.boundary import REACH, boundary_accuracies, boundary_band, count_boundary_pixels


def slow_band(mask: ClassMap, reach: int) -> BinaryMask:
    """Each labelled pixel that is at most ``reach`` rows and columns from one that touches another class."""
    height, width = mask.shape
    pixels = [(y, x) for y in range(height) for x in range(width) if mask[y, x]]
    touching = [
        (y, x)
        for y, x in pixels
        if any(
            (y + dy, x + dx) in pixels and mask[y + dy, x + dx] != mask[y, x]
            for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0))
        )
    ]
    band = np.zeros(mask.shape, bool)
    for y, x in pixels:
        band[y, x] = any(abs(y - v) <= reach and abs(x - u) <= reach for v, u in touching)
    return band


@pytest.mark.parametrize("reach", [0, 1, 3])
@pytest.mark.parametrize("seed", range(4))
def test_the_band_is_that_of_the_slow_loop(reach: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    blocks = rng.choice(np.array([0, 1, 5], np.uint8), (3, 4), p=[0.4, 0.3, 0.3])
    mask = blocks.repeat(4, axis=0).repeat(5, axis=1)
    assert np.array_equal(boundary_band(mask, 1, reach), slow_band(mask, reach))


def test_by_hand() -> None:
    mask = np.array([[1, 1, 1, 5], [1, 1, 1, 5], [0, 0, 0, 5], [6, 6, 0, 5]], np.uint8)
    expected = np.array([[0, 1, 1, 1], [0, 1, 1, 1], [0, 0, 0, 1], [0, 0, 0, 0]], bool)
    assert np.array_equal(boundary_band(mask, 1, 1), expected)


def test_the_unlabelled_background_has_no_boundary() -> None:
    mask = np.zeros((8, 8), np.uint8)
    mask[2:5] = 7
    assert not boundary_band(mask, 1).any()
    assert not boundary_band(np.full((8, 8), 7, np.uint8), 1).any()


def stripes(*columns: int) -> ClassMap:
    """Vertical stripes of equal width, one class each."""
    return np.tile(np.repeat(np.array(columns, np.uint8), 1024 // len(columns)), (1024, 1))


def test_the_share_of_right_pixels_near_boundaries_and_elsewhere() -> None:
    width = (1024, 1024)[1]
    halves = np.full((1024, 1024), 5, np.uint8)
    plain = halves.copy()
    halves[:, width // 2 :] = 6
    halves[0] = plain[0] = 0  # not labelled
    truth = np.stack([plain, halves, halves])
    predictions = [stripes(5), stripes(5, 6), stripes(5)]

    def accuracies(*positions: int) -> tuple[float | None, float | None]:
        counts = [count_boundary_pixels(truth[row], predictions[row], 1) for row in positions]
        shares = boundary_accuracies(np.stack(counts))
        return shares["boundary_accuracy"], shares["interior_accuracy"]

    assert accuracies(1) == (1, 1)  # everything right
    assert accuracies(2) == (0.5, 0.5)  # one of the two sides
    assert accuracies(1, 2) == (0.75, 0.75)
    inside = width - 2 * (REACH + 1)  # columns of the halves that are not near the boundary
    assert accuracies(0, 2)[0] == 0.5
    assert accuracies(0, 2)[1] == pytest.approx((width + inside / 2) / (width + inside))
    assert accuracies(0) == (None, 1)  # no boundary


def test_right_near_the_boundary_alone() -> None:
    width = (1024, 1024)[1]
    mask = np.full((1024, 1024), 5, np.uint8)
    mask[:, width // 2 :] = 6
    predicted = np.full(width, 7)
    predicted[width // 2 - REACH - 1 : width // 2] = 5
    predicted[width // 2 : width // 2 + REACH + 1] = 6
    shares = boundary_accuracies(count_boundary_pixels(mask, stripes(*predicted), 1)[None])
    assert shares == {"boundary_accuracy": 1, "interior_accuracy": 0}
