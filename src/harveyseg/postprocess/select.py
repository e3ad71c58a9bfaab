"""Choosing between the rules by cross-validation, and the nested estimate of what the choice scores on other photos.

Groups of photos stay whole in every fold of the cross-validation (``docs/post-processing.md``).
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from harveyseg.arrays import IntArray, Rows
from harveyseg.config.settings import Section
from harveyseg.postprocess.rules import ArgmaxRule, ExpectedDiceRule, Rule
from harveyseg.postprocess.statistics import Thresholds, ThresholdStatistics

Method = Literal["auto", "argmax"]

_OUTER_FOLDS = 10
_INNER_FOLDS = 5

logger = logging.getLogger(__name__)


class PostprocessParams(Section):
    """The section ``postprocess`` of params.yaml."""

    method: Method = "argmax"
    """``argmax``: submit the argmax maps. ``auto``: choose the rule by cross-validation."""


@dataclass(frozen=True)
class SelectedRule:
    """A rule that was chosen and fitted on all photos, and the nested estimate of its score."""

    rule: Rule
    cross_validated_scores: dict[str, float]
    """Cross-validated score of each rule, on which the choice rests."""
    nested_rules: Sequence[str]
    """For each fold, the rule chosen without it."""
    nested_thresholds: Thresholds
    """(n, S): of each photo by the rule that was chosen and fitted without its group fold."""


def select_rule(statistics: ThresholdStatistics, groups: Sequence[str], method: Method) -> SelectedRule:
    """Choose and fit a rule on all photos, and post-process each photo by a rule that never saw its group.

    Args:
        statistics: of n photos.
        groups: the photos' groups, n.
        method: see :class:`PostprocessParams`.

    Returns:
        With ``argmax``, or with a single photo, which leaves nothing to fit on, the rule is ``argmax``.
    """
    outer = group_folds(groups, _OUTER_FOLDS, min_groups=2)
    folds = range(int(outer.max()) + 1)
    if method == "argmax" or len(folds) == 1:
        scores = {"argmax": float(statistics.argmax_dice.mean())}
        return SelectedRule(
            ArgmaxRule(), scores, ["argmax" for _ in folds], ArgmaxRule().thresholds(statistics.level_counts)
        )
    group_of = np.array(groups)
    nested_thresholds = np.empty(statistics.present.shape, np.int64)
    nested_rules = []
    for fold in folds:
        held_out = outer == fold
        rule, _ = _select_and_fit(statistics.subset(~held_out), group_of[~held_out].tolist())
        nested_thresholds[held_out] = rule.thresholds(statistics.subset(held_out).level_counts)
        nested_rules.append(rule.name)
    rule, scores = _select_and_fit(statistics, group_of.tolist())
    return SelectedRule(rule, scores, nested_rules, nested_thresholds)


def warn_of_single_group(groups: Sequence[str], method: Method) -> None:
    """Warn where the nested estimate cannot hold out whole groups, since there is only one."""
    if method != "argmax" and len(groups) > len(set(groups)) == 1:
        logger.warning(
            "all photos belong to one group: each photo's rule is fitted on its neighbours, so the estimated score is "
            "optimistic"
        )


def in_sample_score(statistics: ThresholdStatistics, groups: Sequence[str], method: Method) -> float:
    """The better rule's score on the photos it was fitted on.

    It is optimistically biased, but the bias is similar for all mixtures of models, so it can compare them.

    Args:
        statistics: of n photos.
        groups: the photos' groups, n.
        method: see :class:`PostprocessParams`.
    """
    argmax_score = float(statistics.argmax_dice.mean())
    if method == "argmax":
        return argmax_score
    thresholds = ExpectedDiceRule.fit(statistics, groups).thresholds(statistics.level_counts)
    return max(argmax_score, float(statistics.dice(thresholds).mean()))


def _select_and_fit(statistics: ThresholdStatistics, groups: Sequence[str]) -> tuple[Rule, dict[str, float]]:
    """Choose by cross-validation and fit on all photos; also returns both cross-validated scores.

    ``argmax`` is chosen where it is better by more than one standard error over the folds, else ``expected``.
    """
    group_of = np.array(groups)
    inner = group_folds(groups, _INNER_FOLDS, min_groups=_INNER_FOLDS)
    folds = range(int(inner.max()) + 1)
    thresholds = ArgmaxRule().thresholds(statistics.level_counts)
    if len(folds) > 1:  # a single photo leaves nothing to fit on
        for fold in folds:
            held_out = inner == fold
            rule = ExpectedDiceRule.fit(statistics.subset(~held_out), group_of[~held_out].tolist())
            thresholds[held_out] = rule.thresholds(statistics.subset(held_out).level_counts)
    argmax = statistics.argmax_dice.mean(1)
    expected = statistics.dice(thresholds).mean(1)
    scores = {"argmax": float(argmax.mean()), "expected": float(expected.mean())}
    fold_gains = [float((expected - argmax)[inner == fold].mean()) for fold in folds]
    standard_error = float(np.std(fold_gains, ddof=1)) / math.sqrt(len(fold_gains)) if len(fold_gains) > 1 else 0.0
    if scores["expected"] - scores["argmax"] > -standard_error:
        return ExpectedDiceRule.fit(statistics, groups), scores
    return ArgmaxRule(), scores


def group_folds(groups: Sequence[str], max_folds: int, min_groups: int) -> Rows:
    """Spread photos over folds of about equal size that keep groups whole.

    The largest group comes first, each into the fold with the fewest photos so far.

    >>> group_folds(["a", "a", "a", "b", "c", "c"], max_folds=2, min_groups=2).tolist()
    [0, 0, 0, 1, 1, 1]

    Args:
        groups: each photo's group.
        max_folds: the largest number of folds.
        min_groups: with fewer groups than this, photos are spread one by one. Then neighbours are on both sides, which
            is better than a fit on hardly any photo.

    Returns:
        Each photo's fold, from 0 without gaps.
    """
    _, group_of, sizes = np.unique(np.array(groups), return_inverse=True, return_counts=True)
    if len(sizes) < min_groups:
        group_of = np.arange(len(groups))
        sizes = np.ones(len(groups), np.int64)
    photos_in_fold: IntArray = np.zeros(min(max_folds, len(sizes)), np.int64)
    fold_of = np.empty(len(sizes), np.intp)
    for group in np.argsort(-sizes, kind="stable"):
        fold_of[group] = photos_in_fold.argmin()
        photos_in_fold[fold_of[group]] += sizes[group]
    return fold_of[group_of]
