"""An epoch holds what it should, in a seeded order, and rare classes come as often as asked."""

import numpy as np
import pytest

from harveyseg.arrays import ClassMaps
from harveyseg.classes import HARVEY25
from harveyseg.training.dataset import RareClassSampler, epoch_batches, unlabelled_batches


def test_every_photo_comes_once_in_an_epoch_and_the_order_changes() -> None:
    rows = list(range(100, 123))
    orders = []
    for epoch in range(3):
        batches = epoch_batches(rows, 5, seed=0, epoch=epoch)
        keys = [key for batch in batches for key in batch]
        assert sorted(keys) == [(epoch, row, 0) for row in rows]
        orders.append([row for _, row, _ in keys])
    assert orders[0] != orders[1] != orders[2]


def test_several_crops_of_each_photo_come_mixed() -> None:
    batches = epoch_batches(range(10, 17), 4, seed=0, epoch=2, crops_per_photo=3)
    keys = [key for batch in batches for key in batch]
    assert sorted(keys) == [(2, row, repetition) for row in range(10, 17) for repetition in range(3)]
    assert [len(batch) for batch in batches] == [4, 4, 4, 4, 5]
    assert len({repetition for _, _, repetition in keys[:7]}) > 1


def test_a_last_batch_of_one_joins_the_one_before() -> None:
    assert [len(batch) for batch in epoch_batches(range(11), 5, 0, 0)] == [5, 6]
    assert [len(batch) for batch in epoch_batches(range(12), 5, 0, 0)] == [5, 5, 2]
    assert [len(batch) for batch in epoch_batches(range(3), 1, 0, 0)] == [1, 1, 1]
    assert [len(batch) for batch in epoch_batches(range(1), 5, 0, 0)] == [1]


def test_unlabelled_photos_come_in_batches_of_the_same_sizes_and_equally_often() -> None:
    batches = unlabelled_batches(3, [4, 4, 2], seed=0, epoch=1)
    assert [len(batch) for batch in batches] == [4, 4, 2]
    keys = [key for batch in batches for key in batch]
    assert len(set(keys)) == 10
    assert {epoch for epoch, _, _ in keys} == {1}
    assert all(2 <= sum(photo == row for _, row, _ in keys) <= 4 for photo in range(3))


def _draws(classes: dict[int, list[int]], masks: ClassMaps, probability: float, n: int) -> list[tuple[int, int | None]]:
    sampler = RareClassSampler(probability, masks, HARVEY25, range(len(masks)), seed=0)
    assert sampler.photos == classes
    return [sampler(epoch, row, 0) for epoch in range(n) for row in range(len(masks))]


def test_rare_classes_are_drawn_evenly_whatever_their_size() -> None:
    masks = np.zeros((5, 100, 100), np.uint8)  # 50000 pixels: 1% is 500
    masks[:, :50] = 1  # frequent
    masks[0, 0, :100] = 2
    masks[1, 0, :100] = 2
    masks[2, 0, 0] = 3  # a single pixel
    masks[3, :5, :100] = 4  # exactly 1%: not rare
    drawn = _draws({2: [0, 1], 3: [2]}, masks, 0.5, 800)
    plain = [(row, class_id) for row, class_id in drawn if class_id is None]
    assert [len([1 for other, _ in plain if other == row]) for row in range(5)] == pytest.approx([400] * 5, abs=75)
    # 4000 samples, half of them of a rare class, half of those of each: standard deviation below 32.
    shares = {pair: drawn.count(pair) for pair in {pair for pair in drawn if pair[1] is not None}}
    assert shares == pytest.approx({(0, 2): 500, (1, 2): 500, (2, 3): 1000}, abs=130)


def test_without_a_rare_class_or_probability_a_sample_keeps_its_own_photo() -> None:
    masks = np.full((2, 8, 8), 1, np.uint8)
    masks[0, 0, 0] = 0  # the background is never drawn
    assert set(_draws({}, masks, 1.0, 20)) == {(0, None), (1, None)}
    masks = np.ones((2, 40, 40), np.uint8)
    masks[1, 3, 3] = 6
    assert set(_draws({6: [1]}, masks, 0.0, 20)) == {(0, None), (1, None)}
