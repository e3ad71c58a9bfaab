"""Noisy predictions of photos whose true masks are known, and rules that are written by hand."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from harveyseg.arrays import ClassMaps
from harveyseg.classes import HARVEY25
from harveyseg.postprocess.files import FittedRule
from harveyseg.postprocess.rules import ExpectedDiceRule, Rule
from harveyseg.postprocess.statistics import ThresholdStatistics

PHOTOS = 12
GROUPS = [str(photo // 2) for photo in range(PHOTOS)]
_CLASSES = (0, 1, 5, 6, 23)


class NoisyPhotos(NamedTuple):
    truth: ClassMaps
    """uint8 (12, 1024, 1024)."""
    maps: npt.NDArray[np.uint8]
    """uint8 (12, 25, 16, 16): probabilities."""
    statistics: ThresholdStatistics


def noisy_photos(noise: float, seed: int = 0, count: int = PHOTOS) -> tuple[ClassMaps, npt.NDArray[np.uint8]]:
    """Truth (count, 1024, 1024) of blocks of two or three classes a photo, and probabilities (count, 25, 16, 16)."""
    rng = np.random.default_rng(seed)
    chosen = np.stack([rng.permutation(_CLASSES)[rng.integers(0, rng.integers(2, 4), (4, 4))] for _ in range(count)])
    coarse = chosen.repeat(4, 1).repeat(4, 2)
    logits = np.full((count, 25, 16, 16), -12.0)
    logits[:, _CLASSES] = noise * rng.normal(size=(count, len(_CLASSES), 16, 16))
    np.put_along_axis(logits, coarse[:, None], np.take_along_axis(logits, coarse[:, None], 1) + 3, 1)
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return coarse.repeat(64, 1).repeat(64, 2).astype(np.uint8), np.rint(255 * shares).astype(np.uint8)


def make_calibrated_rule(**changes: Any) -> ExpectedDiceRule:
    """A rule that takes stored probabilities as they are, and submits masks that are expected to score over 0.5."""
    fields: dict[str, Any] = {
        "calibration_slope": 1.0,
        "calibration_intercept": dict.fromkeys(HARVEY25.scored_slugs, 0.0),
        "presence_slope": 1.0,
        "presence_intercept": dict.fromkeys(HARVEY25.scored_slugs, 0.0),
    }
    return ExpectedDiceRule(**(fields | changes))


def make_fitted_rule(rule: Rule) -> FittedRule:
    return FittedRule(
        source="a",
        uids={"a-f0": "u0"},
        unscored=1,
        scored_classes=tuple(rule.presence_intercept) if isinstance(rule, ExpectedDiceRule) else HARVEY25.scored_slugs,
        score_size=(1024, 1024),
        photos=12,
        groups=6,
        argmax_score=0.5,
        nested_score=0.6,
        in_sample_score=0.7,
        cross_validated_scores={"argmax": 0.5, "expected": 0.6},
        nested_rules=["expected"],
        rule=rule,
    )
