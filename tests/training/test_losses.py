import math
from typing import Any

import numpy as np
import pytest
import torch

from harveyseg.arrays import FloatArray
from harveyseg.classes import HARVEY25, ClassList
from harveyseg.training.class_weights import class_weights
from harveyseg.training.losses import SegmentationLoss, at_output_stride
from harveyseg.training.params import LossParams
from harveyseg.training.self_training import pseudo_label_loss
from helpers.class_lists import make_classes


def test_floor_of_the_double_softmax_is_reached_by_a_perfect_network_and_by_no_other() -> None:
    target = torch.randint(0, 25, (2, 4, 4))
    perfect = torch.nn.functional.one_hot(target, 25).permute(0, 3, 1, 2).float() * 1000
    loss = SegmentationLoss(LossParams(softmax_before_loss=True), HARVEY25)
    floor = math.log(math.e + 24) - 1
    assert float(loss(perfect, target)) == pytest.approx(floor, abs=1e-5)
    assert float(SegmentationLoss(LossParams(), HARVEY25)(perfect, target)) == pytest.approx(0, abs=1e-5)
    assert float(loss(torch.randn(2, 25, 4, 4) * 5, target)) > floor
    # The whole range is 1: ln(e + 24) where a network is sure of a wrong class, ln 25 where it has no idea.
    assert float(loss(perfect.roll(1, dims=1), target)) == pytest.approx(math.log(math.e + 24), abs=1e-5)
    assert float(loss(torch.zeros(2, 25, 4, 4), target)) == pytest.approx(math.log(25), abs=1e-5)


@pytest.mark.parametrize("scheme", ["none", "enet", "sqrt"])
def test_weighted_cross_entropy_equals_torch_where_weights_are_positive(scheme: str) -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(3, 25, 8, 8), torch.randint(0, 25, (3, 8, 8))
    weights = class_weights(scheme, np.full(25, 0.04) + np.linspace(-0.01, 0.01, 25))  # type: ignore[arg-type]
    expected = torch.nn.functional.cross_entropy(
        logits, target, None if weights is None else torch.tensor(weights, dtype=torch.float32)
    )
    assert float(SegmentationLoss(LossParams(), HARVEY25, weights)(logits, target)) == pytest.approx(
        float(expected), rel=1e-5
    )


def test_dice_term_equals_a_slow_loop_over_photos_and_present_classes() -> None:
    torch.manual_seed(1)
    logits, target = torch.randn(2, 25, 4, 4), torch.randint(0, 3, (2, 4, 4))
    target[1] = 7  # one photo of a single class
    probabilities = logits.softmax(1).numpy()
    per_photo = []
    for photo in range(2):
        dice = []
        for class_id in sorted(set(target[photo].flatten().tolist())):
            truth = (target[photo] == class_id).numpy()
            p = probabilities[photo, class_id]
            dice.append(2 * (p * truth).sum() / (p.sum() + truth.sum()))
        per_photo.append(1 - sum(dice) / len(dice))
    assert float(SegmentationLoss(LossParams(dice=1.0), HARVEY25)(logits, target)) == pytest.approx(
        sum(per_photo) / 2, rel=1e-5
    )
    mixed = 0.25 * float(SegmentationLoss(LossParams(), HARVEY25)(logits, target)) + 0.75 * sum(per_photo) / 2
    assert float(SegmentationLoss(LossParams(dice=0.75), HARVEY25)(logits, target)) == pytest.approx(mixed, rel=1e-5)


def slow_loss(logits: torch.Tensor, target: torch.Tensor, **settings: Any) -> float:
    """All terms pixel by pixel, in float64."""
    dice, smoothing = settings.get("dice", 0.0), settings.get("label_smoothing", 0.0)
    background, presence = settings.get("background_weight", 1.0), settings.get("presence", 0.0)
    class_weight = np.array(settings.get("weights", np.ones(25)), np.float64)
    class_weight[0] *= background
    exponentials = np.exp(logits.double().numpy())
    p = exponentials / exponentials.sum(axis=1, keepdims=True)
    truth = target.numpy()
    entropy, total, dice_terms, presence_terms = 0.0, 0.0, [], []
    for b in range(len(truth)):
        for y in range(truth.shape[1]):
            for x in range(truth.shape[2]):
                wanted = np.full(25, smoothing / 25)
                wanted[truth[b, y, x]] += 1 - smoothing
                weight = class_weight[truth[b, y, x]]
                entropy += weight * -(wanted * np.log(p[b, :, y, x])).sum()
                total += abs(weight)
        missed, weights = 0.0, 0.0
        for class_id in range(25):
            mask = truth[b] == class_id
            if mask.any():
                weight = background if class_id == 0 else 1.0
                missed += weight * (1 - 2 * p[b, class_id][mask].sum() / (p[b, class_id].sum() + mask.sum()))
                weights += weight
            if class_id > 0:
                there = math.log(np.exp(50 * p[b, class_id]).mean()) / 50
                presence_terms.append(-math.log(there if mask.any() else 1 - there))
        dice_terms.append(missed / weights if weights else 0.0)
    return float(
        (1 - dice) * (entropy / total if total else 0.0)
        + dice * np.mean(dice_terms)
        + presence * np.mean(presence_terms)
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"label_smoothing": 0.1},
        {"background_weight": 0.2},
        {"background_weight": 0.0, "dice": 0.5},
        {"presence": 0.3},
        {"presence": 0.3, "dice": 1.0},
        {"weights": np.linspace(0.5, 2, 25), "background_weight": 0.5, "label_smoothing": 0.2, "dice": 0.4},
        {"weights": np.linspace(-3, 2, 25), "dice": 0.5},
    ],
    ids=str,
)
@pytest.mark.parametrize("channels_last", [False, True])
def test_every_term_equals_a_slow_loop_over_the_pixels(settings: dict[str, Any], channels_last: bool) -> None:
    torch.manual_seed(2)
    logits, target = 2 * torch.randn(3, 25, 4, 6), torch.randint(0, 4, (3, 4, 6))
    target[1] = 0  # a photo of nothing but background
    target[2, 0, 0] = 24
    if channels_last:
        logits = logits.to(memory_format=torch.channels_last)
    expected = slow_loss(logits, target, **settings)
    params = LossParams.model_validate({key: value for key, value in settings.items() if key != "weights"})
    assert float(SegmentationLoss(params, HARVEY25, settings.get("weights"))(logits, target)) == pytest.approx(
        expected, rel=1e-5
    )


def test_label_smoothing_equals_torch() -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(3, 25, 8, 8), torch.randint(0, 25, (3, 8, 8))
    expected = torch.nn.functional.cross_entropy(logits, target, label_smoothing=0.15)
    assert float(SegmentationLoss(LossParams(label_smoothing=0.15), HARVEY25)(logits, target)) == pytest.approx(
        float(expected), rel=1e-6
    )


def test_gradients_are_those_of_the_obvious_formula() -> None:
    torch.manual_seed(3)
    logits, target = torch.randn(2, 25, 6, 6, dtype=torch.float32), torch.randint(0, 5, (2, 6, 6))
    fast, obvious = logits.clone().requires_grad_(), logits.clone().double().requires_grad_()
    settings: dict[str, float] = {"dice": 0.5, "label_smoothing": 0.1, "presence": 0.2}
    SegmentationLoss(LossParams.model_validate(settings), HARVEY25)(fast, target).backward()
    p = obvious.softmax(1)
    truth = torch.nn.functional.one_hot(target, 25).permute(0, 3, 1, 2)
    dice = 2 * (p * truth).sum((2, 3)) / (p.sum((2, 3)) + truth.sum((2, 3)))
    present = truth.amax((2, 3)).double()
    pooled = ((50 * p).exp().mean((2, 3)).log() / 50)[:, 1:]
    loss = 0.5 * torch.nn.functional.cross_entropy(obvious, target, label_smoothing=0.1)
    loss = loss + 0.5 * (1 - ((dice * present).sum(1) / present.sum(1)).mean())
    loss = loss + 0.2 * torch.nn.functional.binary_cross_entropy(pooled, present[:, 1:])
    loss.backward()  # type: ignore[no-untyped-call]
    assert fast.grad is not None
    assert obvious.grad is not None
    torch.testing.assert_close(fast.grad.double(), obvious.grad, rtol=1e-4, atol=1e-7)


def test_double_softmax_with_a_dice_term_keeps_both_meanings() -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(2, 25, 4, 4), torch.randint(0, 25, (2, 4, 4))
    doubled = float(SegmentationLoss(LossParams(softmax_before_loss=True), HARVEY25)(logits, target))
    dice = float(SegmentationLoss(LossParams(dice=1.0), HARVEY25)(logits, target))
    both = float(SegmentationLoss(LossParams(softmax_before_loss=True, dice=0.25), HARVEY25)(logits, target))
    assert both == pytest.approx(0.75 * doubled + 0.25 * dice, rel=1e-5)


def test_an_ignored_background_gives_no_gradient() -> None:
    logits = torch.zeros(1, 25, 1, 2, requires_grad=True)
    SegmentationLoss(LossParams(background_weight=0.0), HARVEY25)(logits, torch.tensor([[[0, 5]]])).backward()
    assert logits.grad is not None
    assert float(logits.grad[..., 0].abs().sum()) == 0
    assert float(logits.grad[..., 1].abs().sum()) > 0
    loss = SegmentationLoss(LossParams(background_weight=0.0, dice=0.5), HARVEY25)(
        logits, torch.zeros(1, 1, 2, dtype=torch.int64)
    )
    (gradient,) = torch.autograd.grad(loss, logits)
    assert float(loss.detach()) == 0  # nothing there to learn from, and no division by zero
    assert float(gradient.abs().sum()) == 0


def test_presence_is_low_for_what_is_right_and_high_for_a_few_pixels_of_a_false_alarm() -> None:
    target = torch.full((1, 64, 64), 5)
    right = 100 * torch.nn.functional.one_hot(target, 25).permute(0, 3, 1, 2).float()
    alarm = right.clone()
    alarm[0, :, :3, :3] = 0
    alarm[0, 9, :3, :3] = 100  # nine pixels of another class
    loss = SegmentationLoss(LossParams(presence=1.0), HARVEY25)
    plain = SegmentationLoss(LossParams(), HARVEY25)
    # By hand: 9 of 4096 pixels pool to 1 - ln(4096 / 9) / 50 = 0.878, and -ln(1 - 0.878) / 24 = 0.088.
    assert float(loss(right, target)) == pytest.approx(0, abs=1e-6)
    assert float(loss(alarm, target) - plain(alarm, target)) == pytest.approx(0.0875, abs=1e-3)


def test_a_class_of_weight_zero_gives_no_gradient() -> None:
    weights = np.ones(25)
    weights[3] = 0
    logits = torch.zeros(1, 25, 1, 2, requires_grad=True)
    SegmentationLoss(LossParams(), HARVEY25, weights)(logits, torch.tensor([[[3, 5]]])).backward()
    assert logits.grad is not None
    assert float(logits.grad[..., 0].abs().sum()) == 0
    assert float(logits.grad[..., 1].abs().sum()) > 0
    assert not math.isnan(float(logits.grad.sum()))


def saturated(odds: float, dtype: torch.dtype, true_class: int) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Logits of a photo that says class 5 everywhere with these log odds against the background, and nothing else."""
    logits = torch.full((1, 25, 8, 8), -500.0, dtype=dtype)
    logits[:, 5], logits[:, 0] = (odds, 0.0) if odds < 0 else (0.0, -odds)
    rounded = float(logits[0, 5, 0, 0]) - float(logits[0, 0, 0, 0])
    return logits.requires_grad_(), torch.full((1, 8, 8), true_class), rounded


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("probability", [1e-30, 1e-12, 1e-8, 1e-4, 0.5, 0.985, 0.987, 1 - 1e-4, 1 - 1e-7])
@pytest.mark.parametrize("true_class", [0, 5])
@pytest.mark.parametrize("term", ["cross-entropy", "dice", "presence"])
def test_every_term_keeps_its_value_and_gradient_at_extreme_probabilities(
    dtype: torch.dtype, probability: float, true_class: int, term: str
) -> None:
    """In a uniform photo the terms have closed forms: the pooled probability is the pixels' own."""
    gap = 1e-7 if probability == 1 - 1e-7 else 1 - probability
    logits, target, odds = saturated(math.log(probability / gap), dtype, true_class)
    p, q = 1 / (1 + math.exp(-odds)), 1 / (1 + math.exp(odds))  # of class 5 and of the background, in float64
    right, wrong = (p, q) if true_class == 5 else (q, p)
    entropy = -math.log1p(-wrong) if wrong < 0.5 else -math.log(right)
    settings, weights, expected, slope = {
        "cross-entropy": ({}, None, entropy, wrong),
        "dice": ({"dice": 1.0}, None, wrong / (1 + right), 2 * right * wrong / (1 + right) ** 2),
        "presence": ({"presence": 1.0}, np.zeros(25), entropy / 24, wrong / 24),  # no pixel weighs: no cross-entropy
    }[term]
    loss = SegmentationLoss(LossParams.model_validate(settings), HARVEY25, weights)(logits, target)
    # float32 holds 1 - p to 6e-8, and Dice subtracts sums over pixels from each other.
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-4, abs=1e-6 if term == "dice" else 1e-7)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert torch.isfinite(gradient).all()
    # Along the wrong class's logit the slope is p of that class, and a bfloat16 gradient is rounded to 2^-9.
    rounding = 0.005 if dtype == torch.bfloat16 else 1e-3
    sums = gradient.double().sum(dim=(0, 2, 3))
    direction = 1 if true_class == 0 else -1
    assert float(sums[5]) == pytest.approx(direction * slope, rel=rounding, abs=5e-7)
    assert float(sums[0]) == pytest.approx(-direction * slope, rel=rounding, abs=5e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("probability", [1e-12, 0.5, 1 - 1e-7])
@pytest.mark.parametrize("true_class", [0, 5])
@pytest.mark.parametrize("term", ["softmax_before_loss", "label_smoothing", "weights", "pseudo-labels"])
def test_every_form_of_the_cross_entropy_is_torch_s_in_float64_at_extreme_probabilities(
    dtype: torch.dtype, probability: float, true_class: int, term: str
) -> None:
    gap = 1e-7 if probability == 1 - 1e-7 else 1 - probability
    logits, target, _ = saturated(math.log(probability / gap), dtype, true_class)
    exact = logits.detach().double().requires_grad_()
    cross_entropy = torch.nn.functional.cross_entropy
    if term == "softmax_before_loss":
        loss = SegmentationLoss(LossParams(softmax_before_loss=True, dice=1e-12), HARVEY25)(logits, target)
        expected = cross_entropy(exact.softmax(1), target)
    elif term == "label_smoothing":
        loss = SegmentationLoss(LossParams(label_smoothing=0.1), HARVEY25)(logits, target)
        expected = cross_entropy(exact, target, label_smoothing=0.1)
    elif term == "weights":
        target[0, :4] = 7
        weights = np.linspace(0.1, 3, 25)
        loss = SegmentationLoss(LossParams(), HARVEY25, weights)(logits, target)
        expected = cross_entropy(exact, target, torch.tensor(weights))
    else:
        teacher = torch.nn.functional.one_hot(target, 25).permute(0, 3, 1, 2) * 50.0
        loss = pseudo_label_loss(logits, teacher, confidence=0.9)
        expected = cross_entropy(exact, target)
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-4, abs=1e-7)
    (gradient,) = torch.autograd.grad(loss, logits)
    (slopes,) = torch.autograd.grad(expected, exact)
    rounding = 0.005 if dtype == torch.bfloat16 else 1e-3
    assert torch.allclose(gradient.double(), slopes, rtol=rounding, atol=1e-8)


@pytest.mark.parametrize("present", [False, True])
@pytest.mark.parametrize("odds", [-500.0, -90.0, 90.0, 500.0])
def test_presence_is_finite_where_a_probability_is_exactly_zero_or_one(odds: float, present: bool) -> None:
    logits, target, _ = saturated(odds, torch.float32, 5 if present else 0)
    loss = SegmentationLoss(LossParams(presence=1.0), HARVEY25)(logits, target)
    loss.backward()
    assert logits.grad is not None
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


def test_presence_of_nan_is_nan_and_no_error() -> None:
    logits = torch.full((2, 25, 4, 4), math.nan)
    assert math.isnan(
        float(SegmentationLoss(LossParams(presence=1.0), HARVEY25)(logits, torch.zeros(2, 4, 4, dtype=torch.int64)))
    )


@pytest.mark.parametrize("stride", [2, 4])
def test_the_target_is_the_pixel_right_below_the_centre_of_each_block(stride: int) -> None:
    target = torch.arange(64).reshape(1, 8, 8)
    taken = at_output_stride(target, torch.zeros(1, 25, 8 // stride, 8 // stride))
    expected = {
        2: [[9, 11, 13, 15], [25, 27, 29, 31], [41, 43, 45, 47], [57, 59, 61, 63]],
        4: [[18, 22], [50, 54]],
    }
    assert taken.tolist() == [expected[stride]]
    assert torch.equal(at_output_stride(target, torch.zeros(1, 25, 8, 8)), target)


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_a_class_of_one_pixel_is_present_at_every_output_stride(stride: int) -> None:
    target = torch.zeros(1, 8, 8, dtype=torch.int64)
    for pixel in range(4):  # each place of a 2 x 2 block
        target[0, pixel // 2, pixel % 2] = 5 + pixel
    logits = torch.zeros(1, 25, 8 // stride, 8 // stride)
    presence = SegmentationLoss(LossParams(presence=1.0), HARVEY25)(logits, target) - SegmentationLoss(
        LossParams(), HARVEY25
    )(logits, target)
    # Every class has the probability 1 / 25 in every pixel; 4 of 24 are present.
    assert float(presence) == pytest.approx((4 * math.log(25) + 20 * math.log(25 / 24)) / 24, rel=1e-5)


FIVE = {index: f"#00000{index}" for index in range(5)}
IGNORING = make_classes(FIVE, unscored=[0, 1], ignore=255)
PLAIN = make_classes(FIVE, unscored=[0, 1])
WEIGHTS = np.array([0.5, 1.0, 2.0, 0.7, 1.5])


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"softmax_before_loss": True},
        {"dice": 0.4, "background_weight": 0.3},
        {"presence": 0.5},
        {"dice": 0.5, "presence": 0.2, "label_smoothing": 0.1, "background_weight": 0.2},
    ],
)
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_pixels_without_a_label_count_in_no_term(params: dict[str, float], weights: FloatArray | None) -> None:
    """The loss of a photo is that of a photo that consists of its labelled pixels alone."""
    torch.manual_seed(0)
    logits = (4 * torch.randn(1, 5, 6, 8)).requires_grad_()
    target = torch.randint(0, 5, (1, 6, 8))
    target[torch.rand(target.shape) < 0.4] = 255
    labelled = target[0] != 255
    settings = LossParams.model_validate(params)
    loss = SegmentationLoss(settings, IGNORING, weights)(logits, target)
    few = logits[:, :, labelled][:, :, None]  # (1, 5, 1, labelled pixels)
    expected = SegmentationLoss(settings, PLAIN, weights)(few, target[:, labelled][:, None])
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert not gradient[0][:, ~labelled].any()
    assert gradient[0][:, labelled].any()


def test_a_photo_without_any_label_changes_nothing() -> None:
    torch.manual_seed(1)
    logits = torch.randn(2, 5, 4, 4, requires_grad=True)
    target = torch.randint(0, 5, (2, 4, 4))
    target[1] = 255
    for params in ({}, {"presence": 1.0}):
        loss = SegmentationLoss(LossParams.model_validate(params), IGNORING)
        assert float(loss(logits, target)) == pytest.approx(float(loss(logits[:1], target[:1])), rel=1e-5)
    both = SegmentationLoss(LossParams(dice=0.5, presence=0.5), IGNORING)
    nothing = both(logits[1:], target[1:])
    (gradient,) = torch.autograd.grad(nothing, logits)
    assert float(nothing) == 0
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"softmax_before_loss": True},
        {"dice": 0.5, "presence": 0.2, "label_smoothing": 0.1, "background_weight": 0.2},
    ],
)
@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("classes", [PLAIN, IGNORING])
def test_the_shares_of_the_parts_of_a_batch_add_up(
    params: dict[str, float], weights: FloatArray | None, classes: ClassList
) -> None:
    """Photos of different mixtures, of which one has no label at all, with logits of half the size."""
    torch.manual_seed(2)
    logits = (4 * torch.randn(5, 5, 4, 4)).requires_grad_()
    target = torch.randint(0, 5, (5, 8, 8))
    target[1] = 4
    if classes is IGNORING:
        target[0, :3] = target[2] = 255
    loss = SegmentationLoss(LossParams.model_validate(params), classes, weights)
    whole = loss(logits, target)
    batch = target.to(torch.uint8)  # as the loader has it
    shares = [loss(logits[part], target[part], batch) for part in (slice(0, 2), slice(2, 3), slice(3, 5))]
    assert float(torch.stack(shares).sum()) == pytest.approx(float(whole), rel=1e-6)
    (expected,) = torch.autograd.grad(whole, logits)
    (gradient,) = torch.autograd.grad(torch.stack(shares).sum(), logits)
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-8)


def test_without_a_pixel_to_ignore_both_lists_give_the_same_loss() -> None:
    torch.manual_seed(2)
    logits, target = torch.randn(2, 5, 4, 4), torch.randint(0, 5, (2, 4, 4))
    settings = LossParams(dice=0.3, presence=0.2, label_smoothing=0.1)
    loss, plain = (float(SegmentationLoss(settings, classes, WEIGHTS)(logits, target)) for classes in (IGNORING, PLAIN))
    assert loss == pytest.approx(plain, rel=1e-6)
