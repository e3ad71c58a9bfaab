"""The loss of the pseudo-labels is the formula."""

import pytest
import torch

from harveyseg.training.self_training import pseudo_label_loss


def test_the_loss_equals_a_slow_loop_over_the_pixels() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 25, 8, 8)
    teacher_logits = torch.randn(2, 25, 8, 8)
    probabilities = teacher_logits.softmax(1)
    log_probabilities = logits.log_softmax(1)
    total = 0.0
    confident = 0
    for b in range(2):
        for y in range(8):
            for x in range(8):
                label = int(probabilities[b, :, y, x].argmax())
                if probabilities[b, label, y, x] > 0.2:
                    total -= float(log_probabilities[b, label, y, x])
                    confident += 1
    assert 0 < confident < 2 * 8 * 8
    loss = float(pseudo_label_loss(logits, teacher_logits, confidence=0.2))
    assert loss == pytest.approx(total / (2 * 8 * 8), rel=1e-5)
