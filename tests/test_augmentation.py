import numpy as np
import numpy.typing as npt

from harveyseg.augmentation import Augmentation, AugmentationParams

NOTHING = AugmentationParams(flip=0, rotate=0, sharpen=0, brightness=0)


def _sample(size: int = 16) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    rng = np.random.default_rng(0)
    mask = rng.integers(0, 25, (size, size), dtype=np.uint8)
    return np.stack([mask * 10] * 3, axis=-1), mask


def test_the_same_seed_epoch_and_index_give_the_same_sample_in_any_order() -> None:
    image, mask = _sample()
    keys = [(epoch, index) for epoch in range(4) for index in range(4)]
    first = Augmentation(AugmentationParams(), seed=3)
    forward = {key: first(image, mask, *key) for key in keys}
    second = Augmentation(AugmentationParams(), seed=3)
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
