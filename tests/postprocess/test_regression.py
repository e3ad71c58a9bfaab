"""The logistic regression against closed forms and against its neighbourhood."""

import numpy as np
import pytest

from harveyseg.arrays import FloatArray
from harveyseg.postprocess.regression import fit_logistic


def test_the_odds_are_those_of_expected_gain_and_loss() -> None:
    """Two kinds of (photo, class): present with probability 0.2 or 0.6, where the mask then scores 0.5 or 0.9."""
    x = np.array([-1.0, 1.0])
    presence = np.array([0.2, 0.6])
    dice = np.array([0.5, 0.9])
    many = 1e6
    slope, intercept = fit_logistic(
        np.tile(x, (24, 1)), np.tile(many * presence * dice, (24, 1)), np.tile(many * (1 - presence), (24, 1))
    )
    odds = np.exp(slope * x + intercept[0])
    assert odds == pytest.approx(presence * dice / (1 - presence), rel=1e-3)
    assert (odds > 1).tolist() == (presence * dice > 1 - presence).tolist() == [False, True]


def test_regression_is_at_its_minimum() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(24, 9))
    positive = rng.random((24, 9))
    negative = rng.random((24, 9)) * (rng.random((24, 9)) < 0.5)

    def objective(slope: float, common: float, deviation: FloatArray) -> float:
        probability = 1 / (1 + np.exp(-(slope * x + common + deviation[:, None])))
        penalty = 0.1 * (slope - 1) ** 2 + 0.01 * common**2 + 0.5 * (deviation**2).sum()
        return float(-(positive * np.log(probability) + negative * np.log(1 - probability)).sum() + penalty / 2)

    slope, intercept = fit_logistic(x, positive, negative)
    # 0.01 common = 0.5 sum(deviation) at the minimum, which tells the two parts of the intercepts apart.
    common = intercept.sum() / (24 + 0.01 / 0.5)
    best = objective(slope, common, intercept - common)
    for _ in range(200):
        step = rng.normal(size=26) * 1e-3
        assert objective(slope + step[0], common + step[1], intercept - common + step[2:]) > best


def test_the_intercept_of_a_rare_class_is_shrunk_towards_the_others() -> None:
    x = np.zeros((24, 50))
    positive = np.full((24, 50), 0.8)
    negative = np.full((24, 50), 0.2)
    positive[5] = negative[5] = 0
    positive[6] = negative[6] = 0
    negative[6, 0] = 1
    _, intercept = fit_logistic(x, positive, negative)
    assert intercept[0] == pytest.approx(np.log(4), abs=0.05)
    assert intercept[5] == pytest.approx(intercept[0], abs=0.1)  # no photo holds it: like the others
    assert 0 < intercept[6] < intercept[5]  # a single loss
