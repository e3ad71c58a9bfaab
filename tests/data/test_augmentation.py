import time
from itertools import product
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from harveyseg.data.augmentation import Augmentation, AugmentationParams

OFF: dict[str, Any] = {"flip": 0, "rotate": 0, "sharpen": 0, "brightness": 0}
NOTHING = AugmentationParams(**OFF)
EVERYTHING = AugmentationParams(d4=1, crop=64, zoom=0.5, contrast=0.3, colour=0.3, rotate=1)


def _sample(size: int = 16) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    rng = np.random.default_rng(0)
    mask = rng.integers(0, 25, (size, size), dtype=np.uint8)
    return np.stack([mask * 10] * 3, axis=-1), mask


@pytest.mark.parametrize("params", [AugmentationParams(), EVERYTHING])
def test_the_same_seed_epoch_and_index_give_the_same_sample_in_any_order(params: AugmentationParams) -> None:
    image, mask = _sample(80)
    keys = [(epoch, index, repetition) for epoch in range(3) for index in range(3) for repetition in range(2)]
    first = Augmentation(params, seed=3)
    forward = {key: first(image, mask, *key) for key in keys}
    second = Augmentation(params, seed=3)
    backward = {key: second(image, mask, *key) for key in reversed(keys)}
    for key in keys:
        assert np.array_equal(forward[key][0], backward[key][0])
        assert np.array_equal(forward[key][1], backward[key][1])


def test_epochs_indices_and_seeds_differ() -> None:
    image, mask = _sample()
    samples = {
        Augmentation(AugmentationParams(), seed)(image, mask, epoch, index)[0].tobytes()
        for seed in range(3)
        for epoch in range(4)
        for index in range(4)
    }
    assert len(samples) > 40  # of 48: a few draw the same flip and nothing else


def test_photo_and_mask_move_together() -> None:
    image, mask = _sample()
    augment = Augmentation(AugmentationParams(flip=0.5, rotate=0, sharpen=0, brightness=0), seed=0)
    seen = set()
    for index in range(20):
        moved, labels = augment(image, mask, 0, index)
        assert np.array_equal(moved[..., 0], labels * 10)
        seen.add(labels.tobytes())
    assert len(seen) == 4  # as it is, mirrored, upside down, both


def test_rotation_makes_no_new_class() -> None:
    _, mask = _sample(32)
    mask = np.where(mask > 12, 23, 2).astype(np.uint8)
    augment = Augmentation(AugmentationParams(flip=0, rotate=1, sharpen=0, brightness=0), seed=0)
    for index in range(10):
        labels = augment(np.zeros((32, 32, 3), np.uint8), mask, 0, index)[1]
        assert set(np.unique(labels)) <= {2, 23}


def test_all_switched_off_changes_nothing_and_brightness_leaves_the_mask() -> None:
    image, mask = _sample()
    same, labels = Augmentation(NOTHING, 0)(image, mask, 0, 0)
    assert np.array_equal(same, image)
    assert np.array_equal(labels, mask)
    bright = Augmentation(AugmentationParams(flip=0, rotate=0, sharpen=1, brightness=1), 0)
    changed, labels = bright(image, mask, 0, 0)
    assert not np.array_equal(changed, image)
    assert np.array_equal(labels, mask)


def test_what_is_new_leaves_the_older_draws_alone() -> None:
    """Flips and rotations come from a stream of their own: a crop that shows all, or colours, do not shift it."""
    image, mask = _sample(64)
    plain, wide = Augmentation(AugmentationParams(), 1), Augmentation(AugmentationParams(crop=64, contrast=0.1), 1)
    for index in range(10):
        assert np.array_equal(plain(image, mask, 0, index)[1], wide(image, mask, 0, index)[1])


def test_repetitions_of_a_photo_differ() -> None:
    image, mask = _sample(64)
    augment = Augmentation(AugmentationParams(**OFF, crop=32), 0)
    assert len({augment(image, mask, 0, 0, repetition)[1].tobytes() for repetition in range(8)}) == 8


def test_d4_draws_all_eight_symmetries_and_moves_photo_and_mask_together() -> None:
    image, mask = _sample()
    augment = Augmentation(AugmentationParams(**OFF, d4=1), 0)
    seen = set()
    for index in range(100):
        moved, labels = augment(image, mask, 0, index)
        assert np.array_equal(moved[..., 0], labels * 10)
        seen.add(labels.tobytes())
    turned = [np.rot90(mask, quarter) for quarter in range(4)]
    assert seen == {symmetry.tobytes() for turn in turned for symmetry in (turn, turn[:, ::-1])}


def test_a_crop_without_zoom_is_a_part_of_the_photo_and_each_part_is_as_likely() -> None:
    image, _ = _sample(40)
    mask: Any = np.arange(1600, dtype=np.uint16).reshape(40, 40)  # says where a crop was cut
    augment = Augmentation(AugmentationParams(**OFF, crop=32), 0)
    corners = np.zeros((9, 9), int)
    for index in range(3000):
        moved, labels = augment(image, mask, 0, index)
        top, left = divmod(int(labels[0, 0]), 40)
        assert np.array_equal(labels, mask[top : top + 32, left : left + 32])
        assert np.array_equal(moved, image[top : top + 32, left : left + 32])
        corners[top, left] += 1
    # 3000 draws of 81 corners: 37 each, standard deviation 6.
    assert corners.min() > 37 - 4.5 * 6
    assert corners.max() < 37 + 4.5 * 6


def test_zoom_shows_what_it_says_and_photo_and_mask_stay_together() -> None:
    # A ramp: its slope in a crop tells how much of the photo is shown, its middle where.
    rows = np.repeat(np.linspace(0, 250, 256).astype(np.uint8)[:, None], 256, axis=1)
    image, mask = np.stack([rows] * 3, axis=-1), (rows // 10).astype(np.uint8)
    augment = Augmentation(AugmentationParams(**OFF, crop=64, zoom=0.6), 0)
    factors = []
    for index in range(200):
        moved, labels = augment(image, mask, 0, index)
        assert moved.shape == (64, 64, 3)
        assert labels.shape == (64, 64)
        level = moved[..., 0].astype(float)
        factors.append((level[-1, 0] - level[0, 0]) / 63 / (250 / 255))
        # The class changes every tenth grey level; the photo's pixel next to it is within one source pixel of it.
        assert np.abs(level / 10 - 0.5 - labels).max() < 0.5 + 2.1 * 250 / 255 / 10
        assert set(np.unique(labels)) <= set(np.unique(mask))
    assert np.exp(-0.6) * 0.97 < min(factors) < 0.6
    assert 1.7 < max(factors) < np.exp(0.6) * 1.03
    # log factor is uniform: mean 0, standard error 0.6 / sqrt(3 * 200) = 0.024
    assert abs(np.mean(np.log(factors))) < 0.1


def test_a_crop_is_resized_by_area_or_linearly_and_its_mask_takes_the_pixel_in_the_middle() -> None:
    image = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
    mask: Any = np.arange(96 * 96, dtype=np.uint16).reshape(96, 96)  # says which pixel was taken
    augment = Augmentation(AugmentationParams(**OFF, crop=32, zoom=1), 0)

    def spans(taken: Any) -> set[tuple[int, int]]:
        """(start, span) of the pixels whose middles, in 32 equal parts, are these."""
        middles = {span: np.floor((np.arange(32) + 0.5) * span / 32).astype(int) for span in range(11, 97)}
        return {
            (start, span)
            for span, middle in middles.items()
            for start in range(97 - span)
            if np.array_equal(start + middle, taken)
        }

    seen = set()
    for index in range(40):
        moved, labels = augment(image, mask, 0, index)
        candidates = []
        for (top, span), (left, other) in product(spans(labels[:, 0] // 96), spans(labels[0] % 96)):
            if span == other:
                mode = cv2.INTER_AREA if span > 32 else cv2.INTER_LINEAR
                cut = image[top : top + span, left : left + span]
                candidates.append(np.array_equal(cv2.resize(cut, (32, 32), interpolation=mode), moved))
                seen.add(span > 32)
        assert any(candidates)
    assert seen == {True, False}


def test_more_than_the_photo_is_mirrored() -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[:8], mask[8:16] = 7, 9
    augment = Augmentation(AugmentationParams(**OFF, crop=64, zoom=1), 0)
    runs = set()
    for index in range(30):
        column = augment(np.zeros((64, 64, 3), np.uint8), mask, 0, index)[1][:, 0]
        runs.add(tuple(column[np.flatnonzero(np.diff(column.astype(int), prepend=-1))].tolist()))
    assert {(9, 0), (0,)} <= runs  # parts of the photo, without its upper edge
    assert (0, 9, 7, 9, 0) in runs  # all of it and what the mirror shows above


@pytest.mark.parametrize("zoom", [0.0, 1.0])
def test_a_crop_around_a_class_shows_it_anywhere_but_at_the_rim(zoom: float) -> None:
    image, _ = _sample(128)
    mask = np.zeros((128, 128), np.uint8)
    mask[62:67, 62:67] = 8  # 5 x 5 pixels survive a shrinking by e
    augment = Augmentation(AugmentationParams(**OFF, crop=32, zoom=zoom), 0)
    centres = []
    for index in range(200):
        labels = augment(image, mask, 0, index, 0, 8)[1]
        assert (labels == 8).any()
        centres.append(np.argwhere(labels == 8).mean(axis=0))
    spread = np.ptp(centres, axis=0)
    assert (spread > 12).all()  # jitter of a third to each side
    mask[:] = 0
    mask[0, 127] = 8  # in the corner the crop stops at the photo's border
    no_zoom = Augmentation(AugmentationParams(**OFF, crop=32), 0)
    assert no_zoom(image, mask, 0, 0, 0, 8)[1][0, 31] == 8


def test_contrast_and_colour_are_the_formula() -> None:
    image = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)  # every grey level
    mask = np.arange(256, dtype=np.uint8)[None] % 25
    gains, shifts = [], []
    for index in range(300):
        changed, same_mask = Augmentation(AugmentationParams(**OFF, contrast=0.3), 0)(image, mask, 0, index)
        assert np.array_equal(same_mask, mask)
        assert np.ptp(changed, axis=2).max() == 0  # all channels alike
        gain = (int(changed[0, 160, 0]) - int(changed[0, 95, 0])) / 65
        expected = np.clip((np.arange(256) - 127.5) * gain + 127.5, 0, 255)
        assert np.abs(changed[0, :, 0] - expected).max() < 3  # the gain is read off to 1 / 65
        gains.append(gain)
        changed, _ = Augmentation(AugmentationParams(**OFF, colour=0.2), 0)(image, mask, 0, index)
        shifts.append(changed[0, 127:129].mean(axis=0) - 127.5)
    assert np.exp(-0.3) - 0.02 < min(gains) < 0.78
    assert 1.3 < max(gains) < np.exp(0.3) + 0.02
    spread = np.array(shifts)
    assert 11 < np.abs(spread).max() < 64 * 0.2 + 1
    assert np.abs(np.corrcoef(spread.T)[np.triu_indices(3, 1)]).max() < 0.25  # each channel by itself


def test_views_show_the_same_pixels_in_other_colours() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(60, 200, (96, 96, 3), dtype=np.uint8)
    augment = Augmentation(AugmentationParams(flip=1, rotate=1, sharpen=0, d4=1, crop=64, contrast=0.2), 0)
    differ = 0
    for index in range(10):
        plain, recoloured = augment.views(image, 0, index, 0)
        assert plain.shape == recoloured.shape == (64, 64, 3)
        assert any(
            np.array_equal(plain, image[top : top + 64, left : left + 64]) for top in range(33) for left in range(33)
        )
        assert np.corrcoef(plain.ravel(), recoloured.ravel())[0, 1] > 0.99
        differ += not np.array_equal(plain, recoloured)
        again = augment.views(image, 0, index, 0)
        assert np.array_equal(again[0], plain)
        assert np.array_equal(again[1], recoloured)
    assert differ >= 8  # a contrast of almost 1 changes nothing


def test_a_crop_of_256_pixels_takes_less_than_5_ms() -> None:
    rng = np.random.default_rng(0)
    image, mask = rng.integers(0, 256, (512, 512, 3), np.uint8), rng.integers(0, 25, (512, 512), np.uint8)
    params = AugmentationParams(crop=256, d4=1, zoom=0.3, contrast=0.2, colour=0.2)
    augment = Augmentation(params, 0)
    taken = []
    for index in range(40):
        started = time.process_time()
        augment(image, mask, 0, index, 0, 7)
        taken.append(time.process_time() - started)
    assert np.median(taken) < 0.005
