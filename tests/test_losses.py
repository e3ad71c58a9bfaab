import math

import numpy as np
import pytest
import torch

from harveyseg.losses import SegmentationLoss, class_weights, double_softmax_floor


def test_enet_weights_equal_the_formula_worked_out_by_hand() -> None:
    weights = class_weights("enet", np.array([0.5, 0.25, 0.25, 0.0]))
    assert weights is not None
    # 1 / ln(1.52) = 2.3883, 1 / ln(1.27) = 4.1838
    np.testing.assert_allclose(weights, [2.3883, 4.1838, 4.1838, 0.0], atol=1e-4)


def test_report_weights_change_sign_at_one_percent_and_turn_the_order_round() -> None:
    weights = class_weights("report", np.array([0.9, 0.08, 0.011, 0.009, 0.0]))
    assert weights is not None
    # 1 / ln(90) = 0.2222, 1 / ln(8) = 0.4809, 1 / ln(1.1) = 10.49, 1 / ln(0.9) = -9.491, absent 0
    np.testing.assert_allclose(weights, [0.2222, 0.4809, 10.4921, -9.4912, 0.0], atol=1e-4)


def test_report_weight_at_exactly_one_percent_is_finite() -> None:
    weights = class_weights("report", np.array([0.99, 0.01]))
    assert weights is not None
    assert np.isfinite(weights).all()


def test_no_weights() -> None:
    assert class_weights("none", np.array([0.5, 0.5])) is None


def test_floor_of_the_double_softmax_is_reached_by_a_perfect_network_and_by_no_other() -> None:
    target = torch.randint(0, 25, (2, 4, 4))
    perfect = torch.nn.functional.one_hot(target, 25).permute(0, 3, 1, 2).float() * 1000
    loss = SegmentationLoss(softmax_before_loss=True)
    assert double_softmax_floor(25) == pytest.approx(2.2853, abs=1e-4)
    assert float(loss(perfect, target)) == pytest.approx(double_softmax_floor(25), abs=1e-5)
    assert float(SegmentationLoss()(perfect, target)) == pytest.approx(0, abs=1e-5)
    assert float(loss(torch.randn(2, 25, 4, 4) * 5, target)) > double_softmax_floor(25)


@pytest.mark.parametrize("scheme", ["none", "enet"])
def test_weighted_cross_entropy_equals_torch_where_weights_are_positive(scheme: str) -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(3, 25, 8, 8), torch.randint(0, 25, (3, 8, 8))
    weights = class_weights(scheme, np.full(25, 0.04) + np.linspace(-0.01, 0.01, 25))  # type: ignore[arg-type]
    expected = torch.nn.functional.cross_entropy(
        logits, target, None if weights is None else torch.tensor(weights, dtype=torch.float32)
    )
    assert float(SegmentationLoss(weights)(logits, target)) == pytest.approx(float(expected), rel=1e-5)


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
    assert float(SegmentationLoss(dice=1.0)(logits, target)) == pytest.approx(sum(per_photo) / 2, rel=1e-5)
    mixed = 0.25 * float(SegmentationLoss()(logits, target)) + 0.75 * sum(per_photo) / 2
    assert float(SegmentationLoss(dice=0.75)(logits, target)) == pytest.approx(mixed, rel=1e-5)


def test_a_class_of_weight_zero_gives_no_gradient() -> None:
    weights = np.ones(25)
    weights[3] = 0
    logits = torch.zeros(1, 25, 1, 2, requires_grad=True)
    SegmentationLoss(weights)(logits, torch.tensor([[[3, 5]]])).backward()
    assert logits.grad is not None
    assert float(logits.grad[..., 0].abs().sum()) == 0
    assert float(logits.grad[..., 1].abs().sum()) > 0
    assert not math.isnan(float(logits.grad.sum()))
