"""The score against numbers worked out by hand, a slow plain version, and the real masks."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from harveyseg.classes import HARVEY25
from harveyseg.score import argmax_metrics, confusion, image_dice, image_scores, pair_dice, pair_metrics

TRUTH = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 5, 5], [0, 0, 5, 5]], np.uint8)
PREDICTED = np.array([[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 6, 5], [0, 0, 5, 5]], np.uint8)
# Class 1: 4 true, 4 predicted, 3 of them right. Class 5: 4, 3, 3. Class 6: none true, 1 predicted. Background: 8, 8, 7.


def random_class_maps(seed: int, *shape: int, classes: int = 25) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, classes, shape).astype(np.uint8)


def test_metrics_of_a_hand_made_mask() -> None:
    metrics = argmax_metrics(confusion(TRUTH, PREDICTED, 25)[None], HARVEY25)
    assert metrics == pytest.approx(
        {
            "argmax_score": (0.75 + 6 / 7 + 0 + 21) / 24,
            "all_empty_score": 22 / 24,
            "argmax_macro_dice": (0.75 + 6 / 7) / 2,
            "argmax_dice/01_property_roof": 0.75,
            "argmax_dice/05_grass": 6 / 7,
            "miou": (7 / 9 + 3 / 5 + 3 / 4) / 3,  # classes 0, 1 and 5; class 6 does not occur in the truth
            "pixel_accuracy": 13 / 16,
        }
    )


def test_dice_counts_only_photos_that_hold_the_class_and_the_score_counts_all() -> None:
    empty = np.zeros((4, 4), np.uint8)
    wrong = np.full((4, 4), 1, np.uint8)
    counts = np.stack([confusion(TRUTH, PREDICTED, 25), confusion(empty, empty, 25), confusion(empty, wrong, 25)])
    metrics = argmax_metrics(counts, HARVEY25)
    assert metrics["argmax_dice/01_property_roof"] == pytest.approx(0.75)  # the third photo holds no roof
    assert image_scores(counts, 1) == pytest.approx([(0.75 + 6 / 7 + 21) / 24, 1, 23 / 24])
    assert metrics["argmax_score"] == pytest.approx(image_scores(counts, 1).mean())


def test_perfect_predictions_score_1() -> None:
    counts = np.stack([confusion(class_map, class_map, 25) for class_map in random_class_maps(0, 5, 9, 7, classes=6)])
    metrics = argmax_metrics(counts, HARVEY25)
    assert {metrics[key] for key in ("argmax_score", "argmax_macro_dice", "miou", "pixel_accuracy")} == {1.0}


def test_nothing_at_all_scores_the_share_of_absent_pairs() -> None:
    truth = random_class_maps(1, 20, 3, 3)
    counts = np.stack([confusion(class_map, np.zeros_like(class_map), 25) for class_map in truth])
    absent = sum(class_id not in class_map for class_map in truth for class_id in range(1, 25))
    metrics = argmax_metrics(counts, HARVEY25)
    assert metrics["argmax_score"] == metrics["all_empty_score"] == pytest.approx(absent / (20 * 24))


def test_a_photo_without_any_class_leaves_the_class_metrics_out() -> None:
    empty = np.zeros((4, 4), np.uint8)
    assert argmax_metrics(confusion(empty, empty, 25)[None], HARVEY25) == {
        "argmax_score": 1,
        "all_empty_score": 1,
        "miou": 1,
        "pixel_accuracy": 1,
    }


def test_no_photo_is_refused() -> None:
    with pytest.raises(ValueError, match="no image"):
        argmax_metrics(np.zeros((0, 25, 25), np.int64), HARVEY25)


def test_confusion_is_that_of_a_plain_loop() -> None:
    truth = random_class_maps(2, 31, 17)
    predicted = random_class_maps(3, 31, 17)
    plain = np.zeros((25, 25), np.int64)
    for row, column in zip(truth.ravel(), predicted.ravel(), strict=True):
        plain[row, column] += 1
    counts = confusion(truth, predicted, 25)
    assert counts.dtype == np.int64
    assert np.array_equal(counts, plain)
    assert np.array_equal(confusion(truth.T, predicted.T, 25), plain)  # not contiguous


def test_confusion_is_exact_beyond_what_float32_counts() -> None:
    pixels = 2**24 + 3  # float32 would say 2**24 + 4 or less
    class_map = np.zeros((1, pixels), np.uint8)
    assert confusion(class_map, class_map, 25)[0, 0] == pixels


@pytest.mark.parametrize(("truth", "predicted"), [(25, 0), (254, 0), (0, 25), (0, 255)])
def test_confusion_refuses_unknown_classes(truth: int, predicted: int) -> None:
    true, guess = (np.full((2, 2), value, np.uint8) for value in (truth, predicted))
    with pytest.raises(ValueError, match=rf"largest {truth} \(truth\), {predicted} \(prediction\)"):
        confusion(true, guess, 25)


def test_pixels_without_a_label_count_nowhere() -> None:
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(0, 5, (2, 30, 40)).astype(np.uint8)
    truth[rng.random(truth.shape) < 0.3] = 255
    counts = np.zeros((5, 5), np.int64)
    for true, guess in zip(truth.ravel(), predicted.ravel(), strict=True):
        if true != 255:
            counts[true, guess] += 1
    assert np.array_equal(confusion(truth, predicted, 5), counts)
    masks = np.stack([predicted == index for index in range(2, 5)])
    assert pair_dice(truth, masks, 2) == pytest.approx(image_dice(counts)[2:])
    assert not confusion(np.full((3, 3), 255, np.uint8), np.zeros((3, 3), np.uint8), 5).any()


def test_confusion_refuses_other_shapes() -> None:
    with pytest.raises(ValueError, match="shape"):
        confusion(np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8), 25)


def test_pair_dice_of_disjoint_masks_is_that_of_the_confusion() -> None:
    truth = random_class_maps(4, 12, 12, classes=9)
    predicted = random_class_maps(5, 12, 12, classes=9)
    masks = np.stack([predicted == class_id for class_id in range(1, 25)])
    assert pair_dice(truth, masks, 1) == pytest.approx(image_dice(confusion(truth, predicted, 25))[1:])


def test_pair_dice_of_overlapping_masks_is_that_of_a_plain_loop() -> None:
    truth = random_class_maps(6, 8, 8, classes=9)
    masks = np.random.default_rng(7).random((24, 8, 8)) < 0.3
    masks[20:] = False
    for class_id, dice in enumerate(pair_dice(truth, masks, 1), start=1):
        true = {(int(y), int(x)) for y, x in np.argwhere(truth == class_id)}
        predicted = {(int(y), int(x)) for y, x in np.argwhere(masks[class_id - 1])}
        assert dice == (2 * len(true & predicted) / (len(true) + len(predicted)) if true or predicted else 1)


def test_pair_dice_refuses_other_shapes() -> None:
    with pytest.raises(ValueError, match="shape"):
        pair_dice(TRUTH, np.zeros((24, 4, 5), np.bool_), 1)


def test_pair_metrics_are_the_shared_part_of_argmax_metrics() -> None:
    counts = np.stack([confusion(TRUTH, PREDICTED, 25), confusion(PREDICTED, TRUTH, 25)])
    pairs = pair_metrics(image_dice(counts)[:, 1:], counts.sum(2)[:, 1:] > 0, HARVEY25.scored_slugs)
    expected = {name if name == "all_empty_score" else f"argmax_{name}": value for name, value in pairs.items()}
    assert expected.items() <= argmax_metrics(counts, HARVEY25).items()


def test_nothing_at_all_on_the_real_masks(real_data: Path) -> None:
    photos = sorted((real_data / "train_masks").rglob("*.png"))
    counts = []
    absent = 0
    for path in photos:
        with Image.open(path) as opened:
            class_map = np.array(opened.resize((1024, 1024), Image.Resampling.NEAREST))
        counts.append(confusion(class_map, np.zeros_like(class_map), 25))
        absent += sum(not (class_map == class_id).any() for class_id in range(1, 25))
    assert argmax_metrics(np.stack(counts), HARVEY25)["argmax_score"] == pytest.approx(
        absent / (len(photos) * 24), abs=1e-12
    )
