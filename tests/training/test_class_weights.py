import numpy as np

from harveyseg.training.class_weights import class_weights


def test_enet_weights_equal_the_formula_worked_out_by_hand() -> None:
    weights = class_weights("enet", np.array([0.5, 0.25, 0.25, 0.0]))
    assert weights is not None
    # 1 / ln(1.52) = 2.3883, 1 / ln(1.27) = 4.1838
    np.testing.assert_allclose(weights, [2.3883, 4.1838, 4.1838, 0.0], atol=1e-4)


def test_sqrt_weights_equal_the_formula_worked_out_by_hand() -> None:
    weights = class_weights("sqrt", np.array([0.7999, 0.16, 0.04, 0.0001, 0.0]))
    assert weights is not None
    # The median of those that occur is 0.1: sqrt(0.1 / 0.7999) = 0.3536, sqrt(0.1 / 0.16) = 0.7906,
    # sqrt(0.1 / 0.04) = 1.5811, sqrt(0.1 / 0.0001) = 31.6 is cut to 5.
    np.testing.assert_allclose(weights, [0.3536, 0.7906, 1.5811, 5.0, 0.0], atol=1e-4)


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
