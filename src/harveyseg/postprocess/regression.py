"""The regression of the rule ``expected``: logistic, weighted, with one slope and an intercept for each class."""

from typing import Any

import numpy as np
import numpy.typing as npt

from harveyseg.arrays import FloatArray

CLASS_PENALTY = 0.5
"""Weight of the squares of the classes' deviations from the common intercept."""
_SLOPE_PRIOR = 1.0
_SLOPE_PENALTY = 0.1
_COMMON_PENALTY = 0.01


def sigmoid(log_odds: FloatArray) -> FloatArray:
    """Probabilities from log odds."""
    return 1 / (1 + np.exp(-np.clip(log_odds, -50, 50)))


def clipped_log_odds(probability: npt.NDArray[np.floating[Any]]) -> FloatArray:
    """Log odds of probabilities, which are first clipped to 1e-4 .. 1 - 1e-4.

    >>> clipped_log_odds(np.array([0.5, 0.75, 1.0])).round(3).tolist()
    [0.0, 1.099, 9.21]
    """
    clipped = np.clip(probability.astype(np.float64), 1e-4, 1 - 1e-4)
    return np.log(clipped / (1 - clipped))


def fit_logistic(x: FloatArray, positive: FloatArray, negative: FloatArray) -> tuple[float, FloatArray]:
    """Fit a logistic regression whose classes share the slope, by Newton's method.

    Minimises ``- sum(positive log s + negative log(1 - s))`` for ``s = sigmoid(slope x + common + deviation of the
    class)``, plus half of: the class penalty times the sum of the squared deviations, and weak penalties that keep the
    slope near 1 and the common intercept near 0 where there is nothing to learn from.

    >>> x = np.tile([-1.0, 1.0], (24, 1))
    >>> probability = sigmoid(2 * x - 1)
    >>> slope, intercepts = fit_logistic(x, 1e6 * probability, 1e6 * (1 - probability))
    >>> round(slope, 3), intercepts.round(3)[:2].tolist()
    (2.0, [-1.0, -1.0])

    Args:
        x: the feature, (S, m).
        positive: (S, m), the weight of the outcome "yes".
        negative: (S, m), the weight of the outcome "no".

    Returns:
        The slope, and for each class common intercept + deviation, (S,).
    """
    total = positive + negative
    prior = np.array([_SLOPE_PRIOR, 0.0])
    penalty = np.array([_SLOPE_PENALTY, _COMMON_PENALTY])

    def objective(shared: FloatArray, deviation: FloatArray) -> float:
        z = shared[0] * x + shared[1] + deviation[:, None]
        loss = np.sum(total * np.logaddexp(0, z) - positive * z)
        return float(loss + (penalty * (shared - prior) ** 2).sum() / 2 + CLASS_PENALTY * (deviation**2).sum() / 2)

    shared = prior.copy()  # slope, common intercept
    deviation = np.zeros(len(x))
    value = objective(shared, deviation)
    for _ in range(100):
        s = sigmoid(shared[0] * x + shared[1] + deviation[:, None])
        residual = total * s - positive
        variance = total * s * (1 - s)
        shared_gradient = np.array([(x * residual).sum(), residual.sum()]) + penalty * (shared - prior)
        class_gradient = residual.sum(1) + CLASS_PENALTY * deviation
        cross = np.stack([(x * variance).sum(1), variance.sum(1)], axis=1)
        class_hessian = cross[:, 1] + CLASS_PENALTY
        hessian = np.array([[(x * x * variance).sum(), cross[:, 0].sum()], [cross[:, 0].sum(), cross[:, 1].sum()]])
        # The classes' block of the Hessian is diagonal: eliminate it (Schur complement).
        schur = hessian + np.diag(penalty) - (cross / class_hessian[:, None]).T @ cross
        shared_step = np.linalg.solve(schur, shared_gradient - cross.T @ (class_gradient / class_hessian))
        class_step = (class_gradient - cross @ shared_step) / class_hessian
        scale = 1.0
        while scale > 1e-8 and objective(shared - scale * shared_step, deviation - scale * class_step) > value:
            scale /= 2
        shared = shared - scale * shared_step
        deviation = deviation - scale * class_step
        previous = value
        value = objective(shared, deviation)
        if previous - value < 1e-10 * (1 + abs(value)):
            break
    return float(shared[0]), shared[1] + deviation
