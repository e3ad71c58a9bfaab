"""What is handed in for each (image, class): the decision between class probabilities and the score.

The score is the mean over (image, class 1..24) of Dice, and 1 where truth and hand-in are both empty. Classes are
handed in one by one, so each pair is a decision of its own, and the label map (each pixel its most probable class) is
only one candidate. For one pair let ``pi`` be the probability that the class is present, Y its true pixels, and ``r_i``
the probability of pixel i given that it is present. Handing in nothing is worth ``1 - pi``, handing in a set S is worth
``pi E[2 |S and Y| / (|S| + |Y|)]``. That is two questions: which set, and whether any.

*Which set.* If pixels are independent given the photo, then of all sets of one size the most probable pixels are the
best (Dai and Li 2023, RankDice), so S is a threshold set; and as an image has many pixels, ``|Y|`` is close to its
mean, and

    E[Dice(S)]  ~  D(S)  =  2 sum_S r_i / (|S| + sum_i r_i).

The pixels of one object are not independent, and small D* come out smaller than the Dice that they bring. That is left
to the regression below, which learns what a D* is worth.

Adding a pixel raises this ratio exactly if ``2 r_i > D(S)``: at the maximum D*, S is the pixels with ``r_i > D* / 2``.
The best threshold is half the best Dice: 0.5 only where all is sure, and another one for each image (Lipton, Elkan and
Narayanaswamy 2014; also Jansche 2007, Ye et al. 2012, Dembczynski et al. 2011). The sums need calibrated probabilities
(Popordanoska et al. 2021), so ``log odds(r) = slope * log odds(p) + intercept of the class`` is fitted first, on photos
that hold the class.

*Whether any.* S is handed in if ``pi E[Dice] > 1 - pi``. Both sides at once are one logistic regression, in which a
pair with the class wins its Dice and a pair without it loses 1: its odds are ``pi E[Dice] : (1 - pi)``. Its feature is
log odds(D*); area, sum or peak in its place gain less, and beside it nothing. Most classes occur in few photos, and
neighbouring frames show the same: all classes share the slope, their intercepts are drawn to a common one, and a group
of m frames counts as sqrt(m) photos.

This is the rule ``expected``. Cross-validation on out-of-fold predictions says whether the label map is handed in
instead: where it is better by more than the standard error over the parts (the one-standard-error rule of Breiman et
al. 1984, for the rule that is better on nearly all networks). To take whichever is ahead follows chance on networks
that hardly find anything. The score that is reported is nested: each photo is decided by a rule that was chosen and
fitted without the whole group of neighbouring frames that it belongs to. Thresholds and least areas for each class,
chosen on the score, are simpler; they were a little worse on most networks, and negative on some: with few photos they
fit chance (``benchmarks/decision.py``).

A test photo is predicted by the mean of several fold models, an out-of-fold photo by one. The mean is smoother, so a
fixed threshold would be a little off there; ``expected`` takes its threshold from each map itself, and whether any is
asked of a D* that is a little lower where the fold models disagree. With several folds the ensemble's photos are mixed
with the weights that were chosen without their fold. A photo's rule is fitted on photos of other folds, whose weights
it had a say in, a say at second hand that is not taken out. With a single fold the weights were chosen on the very
photos that are decided, and the ensemble's nested score is a little rosy.

Probabilities are stored in 256 levels. So all thresholds can be judged exactly from two histograms for each pair, of
the pixels in and outside the truth (:class:`Evidence`); masks are made only at the end.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError

from harveyseg.classes import N_CLASSES, N_SCORED, slug
from harveyseg.config.settings import Section
from harveyseg.errors import HarveysegError
from harveyseg.files import read_json, write_json
from harveyseg.inference.probabilities import (
    SCORE_SHAPE,
    STRIPE,
    argmax_map,
    update_argmax,
    upsample_channel,
    upsample_rows,
)
from harveyseg.record import RunRecord
from harveyseg.score import confusion, image_dice, pair_metrics

N_LEVELS = 256
ARGMAX = 0
"""In place of a level: hand in the pixels whose most probable class this is."""
NOTHING = N_LEVELS
"""In place of a level: hand in nothing."""

Floats = npt.NDArray[np.float64]
Levels = npt.NDArray[np.int64]
"""What is handed in for (image, class 1..24): pixels of at least that level, 1..255, or ARGMAX, or NOTHING."""

Method = Literal["auto", "argmax"]

_REMEDY = "Run `dvc repro postprocess`."
_OUTER_PARTS, _INNER_PARTS = 10, 5


class PostprocessParams(Section):
    """The section ``postprocess`` of params.yaml."""

    method: Method = "argmax"
    """``argmax``: the label map is handed in. ``auto``: what cross-validation says."""


@dataclass(frozen=True)
class Evidence:
    """What probabilities and truth of n photos say about every possible decision, all at one size."""

    pixels: npt.NDArray[np.int64]
    """(n, 24, 2, 256): pixels of each level outside [0] and inside [1] the true mask."""
    worth: Floats
    """(n, 24, 257): Dice of each decision, indexed by what stands in :data:`Levels`."""

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """(n, 24, 256): pixels of each level."""
        counts: npt.NDArray[np.int64] = self.pixels.sum(2)
        return counts

    @property
    def present(self) -> npt.NDArray[np.bool_]:
        """(n, 24): whether the class is in the truth."""
        present: npt.NDArray[np.bool_] = self.pixels[:, :, 1].sum(-1) > 0
        return present

    @classmethod
    def build(cls, pixels: npt.NDArray[np.int64], confusions: npt.NDArray[np.int64]) -> "Evidence":
        """From ``pixels`` and the label maps' confusions, int64 (n, 25, 25)."""
        outside, inside = tail_sums(pixels[:, :, 0]), tail_sums(pixels[:, :, 1])
        total = inside + outside + inside[..., :1]
        worth = np.ones((*total.shape[:2], N_LEVELS + 1))
        worth[..., :N_LEVELS] = np.where(total == 0, 1, 2 * inside / np.maximum(total, 1))
        worth[..., NOTHING] = inside[..., 0] == 0
        worth[..., ARGMAX] = image_dice(confusions)[:, 1:]  # in place of level 0, which all pixels reach
        return cls(pixels, worth)

    def of(self, photos: npt.NDArray[Any]) -> "Evidence":
        """That of some photos, given as an index or boolean array."""
        return Evidence(*(getattr(self, field.name)[photos] for field in fields(self)))

    def dice(self, levels: Levels) -> Floats:
        """Dice of the decisions ``levels`` (n, 24), float64 (n, 24)."""
        dice: Floats = np.take_along_axis(self.worth, levels[..., None], -1)[..., 0]
        return dice


def gather(
    maps: Iterable[npt.NDArray[np.uint8]], truth: npt.NDArray[np.uint8], rows: Sequence[int], threads: int
) -> Evidence:
    """Gather the evidence of some photos.

    Args:
        maps: the photos' probabilities, uint8 (25, H, W) each; only a few are held at a time.
        truth: masks at the scoring size, uint8 (N, 1024, 1024).
        rows: the photos' rows in ``truth``.
        threads: photos looked at side by side; does not change the result.
    """

    def look(photo: tuple[npt.NDArray[np.uint8], int]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        probabilities, mask = photo[0], np.ascontiguousarray(truth[photo[1]])
        counts = confusion(mask, argmax_map(probabilities))
        pixels = np.zeros((N_SCORED, 2, N_LEVELS), np.int64)
        for class_id in range(1, N_CLASSES):
            true = mask == class_id if counts[class_id].any() else None
            pixels[class_id - 1] = histograms(_enlarge(probabilities[class_id], SCORE_SHAPE), true)
        return pixels, counts

    photos = zip(maps, rows, strict=True)
    found: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]] = []
    with ThreadPoolExecutor(threads) as pool:  # OpenCV releases the lock
        while batch := list(itertools.islice(photos, 2 * threads)):
            found += pool.map(look, batch)
    return Evidence.build(np.stack([one for one, _ in found]), np.stack([one for _, one in found]))


def histograms(levels: npt.NDArray[np.uint8], true: npt.NDArray[np.bool_] | None) -> npt.NDArray[np.int64]:
    """Pixels of each level outside [0] and inside [1] a class's true mask, which is None where it is empty.

    Args:
        levels: one class's probabilities, uint8 (H, W).
        true: bool (H, W).

    Returns:
        int64 (2, 256).
    """
    found = np.zeros((2, N_LEVELS), np.int64)
    found[0] = _histogram(levels, None)
    if true is not None:
        found[1] = _histogram(levels, true.view(np.uint8))
        found[0] -= found[1]
    return found


def _enlarge(channel: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """One class's enlarged probabilities, rounded to levels, uint8 (height, width)."""
    return _rounded(upsample_channel(channel, size))


def _rounded(enlarged: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    return np.asarray(cv2.convertScaleAbs(enlarged), np.uint8)


def _histogram(levels: npt.NDArray[np.uint8], mask: npt.NDArray[np.uint8] | None) -> npt.NDArray[np.int64]:
    counted = cv2.calcHist([levels], [0], mask, [N_LEVELS], [0, N_LEVELS])  # float32, exact: 2**20 pixels
    return np.asarray(counted, np.int64).reshape(-1)


def tail_sums(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Sums over the last axis from each place to the end: of the pixels of at least each level."""
    sums: npt.NDArray[Any] = values[..., ::-1].cumsum(-1)[..., ::-1]
    return sums


def _sigmoid(log_odds: Floats) -> Floats:
    return 1 / (1 + np.exp(-np.clip(log_odds, -50, 50)))


def log_odds(share: npt.NDArray[np.floating[Any]]) -> Floats:
    """Log odds of shares, which are kept 1e-4 away from 0 and 1."""
    bounded = np.clip(share.astype(np.float64), 1e-4, 1 - 1e-4)
    return np.log(bounded / (1 - bounded))


def _by_slug(values: tuple[float, ...]) -> dict[str, float]:
    return {slug(index + 1): value for index, value in enumerate(values)}


def _from_slug(values: object) -> object:
    return tuple(values.get(slug(index + 1)) for index in range(N_SCORED)) if isinstance(values, Mapping) else values


PerClass = Annotated[
    tuple[float, ...],
    Field(min_length=N_SCORED, max_length=N_SCORED),
    BeforeValidator(_from_slug),
    PlainSerializer(_by_slug),
]
"""24 numbers, for the classes 1..24; in JSON by the class's slug."""


class Argmax(BaseModel):
    """The label map: each pixel is handed in for its most probable class."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Literal["argmax"] = "argmax"

    def levels(self, counts: npt.NDArray[np.int64]) -> Levels:
        """Decide from the histograms of n photos, int64 (n, 24, 256)."""
        return np.full(counts.shape[:2], ARGMAX)


_LEVEL_LOG_ODDS = log_odds((np.arange(N_LEVELS) + 0.25) / (N_LEVELS - 0.5))
"""(256,): finite and symmetric at both ends."""
_CALIBRATION_PIXELS = 100
"""A photo's pixels are no independent observations; all together they count as so many."""
_CLASS_PENALTY = 0.5
"""Of the squares of the classes' own intercepts, in both regressions."""


class Expected(BaseModel):
    """The set of the highest expected Dice where handing it in is expected to beat nothing: see the module."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Literal["expected"] = "expected"
    calibration_slope: float
    calibration_intercept: PerClass
    presence_slope: float
    presence_intercept: PerClass

    @classmethod
    def fit(cls, evidence: Evidence, groups: Sequence[str]) -> "Expected":
        """Calibrate on the photos that hold the class, then weigh handing in against nothing on all.

        Args:
            evidence: of n photos.
            groups: their groups of neighbouring frames.
        """
        weight = _photo_weights(groups)
        share = _CALIBRATION_PIXELS / evidence.pixels[0, 0].sum()
        pixels = share * (evidence.pixels * (weight * evidence.present)[..., None, None]).sum(0)
        slope, intercept = _logistic(np.tile(_LEVEL_LOG_ODDS, (N_SCORED, 1)), pixels[:, 1], pixels[:, 0])
        calibrated = cls(
            calibration_slope=max(slope, 0.05),  # few photos must not turn the order of the pixels round
            calibration_intercept=tuple(intercept.tolist()),
            presence_slope=1.0,
            presence_intercept=(0.0,) * N_SCORED,
        )
        levels, dice = calibrated.best_sets(evidence.counts)
        slope, intercept = weigh(evidence, groups, levels, log_odds(dice))
        return calibrated.model_copy(update={"presence_slope": slope, "presence_intercept": tuple(intercept.tolist())})

    def best_sets(self, counts: npt.NDArray[np.int64]) -> tuple[Levels, Floats]:
        """The level of the set with the highest expected Dice, given presence, and that Dice; both (n, 24).

        Where no pixel reaches level 1, NOTHING and 0.
        """
        intercept = np.array(self.calibration_intercept)[:, None]
        mass = tail_sums(counts * _sigmoid(self.calibration_slope * _LEVEL_LOG_ODDS + intercept))
        dice = 2 * mass / (tail_sums(counts) + mass[..., :1])
        dice[..., 0] = 0  # all pixels, however improbable
        levels = dice.argmax(-1)
        return np.where(levels == 0, NOTHING, levels), dice.max(-1)

    def levels(self, counts: npt.NDArray[np.int64]) -> Levels:
        """Decide from the histograms of n photos, int64 (n, 24, 256)."""
        levels, dice = self.best_sets(counts)
        odds = self.presence_slope * log_odds(dice) + np.array(self.presence_intercept)
        return np.where(odds > 0, levels, NOTHING)


def weigh(evidence: Evidence, groups: Sequence[str], levels: Levels, feature: Floats) -> tuple[float, Floats]:
    """Learn from a feature whether handing in sets beats handing in nothing.

    Args:
        evidence: of n photos.
        groups: their groups of neighbouring frames.
        levels: the sets, (n, 24).
        feature: (n, 24), the larger, the likelier a set is right; on the scale of log odds.

    Returns:
        Slope, and per class intercept (24,): a set is handed in where ``slope * feature + intercept > 0``.
    """
    weight = np.where(levels == NOTHING, 0, _photo_weights(groups))  # there is nothing to weigh
    won, lost = weight * evidence.present * evidence.dice(levels), weight * ~evidence.present
    return _logistic(feature.T, won.T, lost.T)


def _photo_weights(groups: Sequence[str]) -> Floats:
    """(n, 1): a group of m frames counts as sqrt(m) photos."""
    _, group_of, sizes = np.unique(np.array(groups), return_inverse=True, return_counts=True)
    weights: Floats = 1 / np.sqrt(sizes[group_of])[:, None]
    return weights


def _logistic(x: Floats, won: Floats, lost: Floats) -> tuple[float, Floats]:
    """Logistic regression with one slope and an intercept per class, by Newton's method.

    Minimises ``- sum(won log s + lost log(1 - s))``, s = sigmoid(slope x + common + own of the class), plus
    half the class penalty times the sum of squares of the classes' own parts, and weak penalties that keep slope near 1
    and the common part near 0 where there is nothing to learn from.

    Args:
        x: (24, m).
        won: (24, m), how much speaks for "yes".
        lost: (24, m), how much speaks for "no".

    Returns:
        The slope, and per class common + own, (24,).
    """
    total = won + lost
    prior, penalty = np.array([1.0, 0.0]), np.array([0.1, 0.01])

    def objective(shared: Floats, own: Floats) -> float:
        z = shared[0] * x + shared[1] + own[:, None]
        fit = np.sum(total * np.logaddexp(0, z) - won * z)
        return float(fit + (penalty * (shared - prior) ** 2).sum() / 2 + _CLASS_PENALTY * (own**2).sum() / 2)

    shared, own = prior.copy(), np.zeros(len(x))
    value = objective(shared, own)
    for _ in range(100):
        s = _sigmoid(shared[0] * x + shared[1] + own[:, None])
        residual, variance = total * s - won, total * s * (1 - s)
        gradient = np.array([(x * residual).sum(), residual.sum()]) + penalty * (shared - prior)
        own_gradient = residual.sum(1) + _CLASS_PENALTY * own
        cross = np.stack([(x * variance).sum(1), variance.sum(1)], axis=1)
        own_hessian = cross[:, 1] + _CLASS_PENALTY
        hessian = np.array([[(x * x * variance).sum(), cross[:, 0].sum()], [cross[:, 0].sum(), cross[:, 1].sum()]])
        # The classes' block of the Hessian is diagonal: eliminate it (Schur complement).
        schur = hessian + np.diag(penalty) - (cross / own_hessian[:, None]).T @ cross
        step = np.linalg.solve(schur, gradient - cross.T @ (own_gradient / own_hessian))
        own_step = (own_gradient - cross @ step) / own_hessian
        scale = 1.0
        while scale > 1e-8 and objective(shared - scale * step, own - scale * own_step) > value:
            scale /= 2
        shared, own = shared - scale * step, own - scale * own_step
        value, before = objective(shared, own), value
        if before - value < 1e-10 * (1 + abs(value)):
            break
    return float(shared[0]), shared[1] + own


Rule = Argmax | Expected


@dataclass(frozen=True)
class Choice:
    """A rule, chosen and fitted on all photos, and what choosing and fitting it this way is worth on others."""

    rule: Rule
    cross_validated: dict[str, float]
    """Cross-validated score of each rule, on which the choice rests."""
    part_rules: Sequence[str]
    """The rule that was chosen without each part of the photos."""
    nested: Levels
    """(n, 24): each photo decided by the rule that was chosen and fitted without its part."""


def choose(evidence: Evidence, groups: Sequence[str], method: Method) -> Choice:
    """Choose and fit a rule, and decide each photo by one that knows nothing of its group.

    Args:
        evidence: of n photos.
        groups: the photos' groups of neighbouring frames, n.
        method: see :class:`PostprocessParams`.

    Returns:
        With ``argmax``, or a single photo, which leaves nothing to fit on, the label map.
    """
    names, outer = np.array(groups), grouped_parts(groups, _OUTER_PARTS, least_groups=2)
    parts = range(int(outer.max()) + 1)
    if method == "argmax" or len(parts) == 1:
        score = float(evidence.worth[..., ARGMAX].mean())
        return Choice(Argmax(), {"argmax": score}, ["argmax" for _ in parts], Argmax().levels(evidence.counts))
    nested, rules = np.empty(evidence.present.shape, np.int64), []
    for part in parts:
        rule, _ = _choose_rule(evidence.of(outer != part), names[outer != part])
        nested[outer == part] = rule.levels(evidence.of(outer == part).counts)
        rules.append(rule.name)
    rule, scores = _choose_rule(evidence, names)
    return Choice(rule, scores, rules, nested)


def attainable_score(evidence: Evidence, groups: Sequence[str], method: Method) -> float:
    """The score of these photos by the best rule fitted on them: too rosy, but for all probabilities alike.

    Args:
        evidence: of n photos.
        groups: their groups of neighbouring frames.
        method: see :class:`PostprocessParams`.
    """
    argmax = float(evidence.worth[..., ARGMAX].mean())
    if method == "argmax":
        return argmax
    return max(argmax, float(evidence.dice(Expected.fit(evidence, groups).levels(evidence.counts)).mean()))


def _choose_rule(evidence: Evidence, groups: npt.NDArray[np.str_]) -> tuple[Rule, dict[str, float]]:
    """``expected`` unless cross-validation says that the label map is better; fitted on all photos. And both scores."""
    parts = grouped_parts(groups.tolist(), _INNER_PARTS, least_groups=_INNER_PARTS)
    levels = Argmax().levels(evidence.counts)
    for part in range(int(parts.max()) + 1) if len(parts) > 1 else ():  # a single photo leaves nothing to fit on
        rule = Expected.fit(evidence.of(parts != part), groups[parts != part].tolist())
        levels[parts == part] = rule.levels(evidence.of(parts == part).counts)
    argmax, expected = evidence.worth[..., ARGMAX].mean(1), evidence.dice(levels).mean(1)
    scores = {"argmax": float(argmax.mean()), "expected": float(expected.mean())}
    of_parts = [float((expected - argmax)[parts == part].mean()) for part in range(int(parts.max()) + 1)]
    error = float(np.std(of_parts, ddof=1)) / math.sqrt(len(of_parts)) if len(of_parts) > 1 else 0.0
    better = scores["expected"] - scores["argmax"] > -error
    return Expected.fit(evidence, groups.tolist()) if better else Argmax(), scores


def grouped_parts(groups: Sequence[str], most: int, least_groups: int) -> npt.NDArray[np.intp]:
    """Parts of about equal size that keep groups whole, the largest group first into the emptiest part.

    Args:
        groups: each photo's group.
        most: at most so many parts.
        least_groups: where there are fewer groups, photos are spread one by one; neighbouring frames on both sides are
            better than a fit on hardly any photo.

    Returns:
        Each photo's part, from 0 without gaps.
    """
    _, group_of, sizes = np.unique(np.array(groups), return_inverse=True, return_counts=True)
    if len(sizes) < least_groups:
        group_of, sizes = np.arange(len(groups)), np.ones(len(groups), np.int64)
    load = np.zeros(min(most, len(sizes)), np.int64)
    part_of = np.empty(len(sizes), np.intp)
    for group in np.argsort(-sizes, kind="stable"):
        part_of[group] = load.argmin()
        load[part_of[group]] += sizes[group]
    return part_of[group_of]


class Decision(BaseModel):
    """One source's rule, where it comes from and what it is worth."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    source: str
    """A model of params.yaml, or ``"ensemble"``."""
    uids: dict[str, str]
    """Of the runs whose out-of-fold predictions the rule was fitted on, by their names."""
    photos: int
    groups: int
    argmax_score: float
    """Of the label maps of these photos."""
    nested_score: float
    """Of these photos, each decided by a rule that was chosen and fitted without its part."""
    in_sample_score: float
    """Of these photos, decided by ``rule``, which was fitted on them: too rosy."""
    cross_validated: dict[str, float]
    """Cross-validated score of each rule, on which the choice rests."""
    part_rules: Sequence[str]
    """The rule that was chosen without each part of the nested estimate."""
    rule: Rule = Field(discriminator="name")

    def summary(self) -> dict[str, object]:
        """What a side-car says of it."""
        return {"decision": self.rule.name, "val_score": self.nested_score}

    def handed_in(self, probabilities: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
        """What is handed in for one photo.

        Args:
            probabilities: uint8 (25, H, W), of any size.

        Returns:
            bool (24, 1024, 1024): a mask for each class 1..24; they may overlap and need not cover the photo.
        """
        labels = argmax_map(probabilities)
        enlarged = [_enlarge(channel, SCORE_SHAPE) for channel in probabilities[1:]]
        masks = np.zeros((N_SCORED, *SCORE_SHAPE), np.bool_)
        for index, level in enumerate(self._levels(enlarged)):
            if level == ARGMAX:
                masks[index] = labels == index + 1
            elif level != NOTHING:
                masks[index] = enlarged[index] >= level
        return masks

    def label_map(
        self, probabilities: npt.NDArray[np.uint8], size: tuple[int, int] = SCORE_SHAPE
    ) -> npt.NDArray[np.uint8]:
        """A map with one class for each pixel that agrees with :meth:`handed_in`, for pictures; in stripes.

        Where masks overlap, the class whose probability is the highest in relation to its threshold; where no class is
        handed in, the most probable one of the background and the classes that are handed in elsewhere in the photo.

        Args:
            probabilities: uint8 (25, H, W).
            size: (height, width) of the map in pixels.

        Returns:
            class ids, uint8 (height, width).
        """
        levels = self._levels(_enlarge(channel, SCORE_SHAPE) for channel in probabilities[1:])
        labels = np.zeros(size, np.uint8)
        for top in range(0, size[0], STRIPE):
            rows, stripe = slice(top, top + STRIPE), labels[top : top + STRIPE]
            best = upsample_rows(probabilities[0], size, rows)
            claimed, excess = np.zeros_like(stripe), np.ones(stripe.shape, np.float32)
            for class_id in (np.flatnonzero(levels != NOTHING) + 1).tolist():
                channel, level = upsample_rows(probabilities[class_id], size, rows), levels[class_id - 1]
                update_argmax(channel, class_id, best, stripe)
                if level != ARGMAX:
                    relative = _rounded(channel) / np.float32(level)
                    better = relative >= excess
                    claimed[better], excess[better] = class_id, relative[better]
            np.copyto(stripe, claimed, where=claimed > 0)
        return labels

    def _levels(self, enlarged: Iterable[npt.NDArray[np.uint8]]) -> Levels:
        counts = np.stack([_histogram(channel, None) for channel in enlarged])
        levels: Levels = self.rule.levels(counts[None])[0]
        return levels


def read_decision(path: Path, records: Sequence[RunRecord]) -> Decision:
    """Read a :class:`Decision`.

    Args:
        path: the file.
        records: the runs that it must have been fitted on.

    Raises:
        HarveysegError: when it is absent, damaged, of another version, or fitted on other runs.
    """
    try:
        decision = Decision.model_validate(read_json(path, _REMEDY))
    except ValidationError as error:
        keys = ", ".join(".".join(map(str, item["loc"])) for item in error.errors())
        raise HarveysegError(f"{path}: not a decision of this version (wrong or missing: {keys}). {_REMEDY}") from None
    if set(decision.uids.values()) != {record.uid for record in records}:
        raise HarveysegError(f"{path}: was fitted on other runs ({', '.join(decision.uids)}). {_REMEDY}")
    return decision


def decision_metrics(evidence: Evidence, choice: Choice, test: Evidence | None) -> dict[str, float]:
    """The scores of a choice, or of some of its photos.

    Args:
        evidence: of the out-of-fold photos.
        choice: its ``nested`` decides them.
        test: of the test photos, decided by its ``rule``; None where their masks are unknown.

    Returns:
        ``<part>/score`` for ``val`` (nested) and ``test``, ``<part>/postprocess_gain``, how much that is above the plain
        most-probable-class maps of the same predictions, and under the nested decision ``val/macro_dice`` and
        ``val/dice/<slug>``, see :func:`harveyseg.score.pair_metrics`.
    """
    found = pair_metrics(evidence.dice(choice.nested), evidence.present)
    argmax = float(evidence.worth[..., ARGMAX].mean())
    metrics = {f"val/{name}": value for name, value in found.items() if name != "all_empty_score"}
    metrics["val/postprocess_gain"] = found["score"] - argmax
    if test is not None:
        metrics["test/score"] = float(test.dice(choice.rule.levels(test.counts)).mean())
        metrics["test/postprocess_gain"] = metrics["test/score"] - float(test.worth[..., ARGMAX].mean())
    return metrics


def write_decision(
    folder: Path,
    source: str,
    records: Mapping[int | None, RunRecord],
    evidence: Evidence,
    photos: pd.DataFrame,
    choice: Choice,
    test: Evidence | None,
) -> list[tuple[RunRecord, dict[str, float]]]:
    """Write ``rules/<source>.json``, a :class:`Decision`, and ``metrics/<source>.json``.

    Args:
        folder: e.g. ``data/postprocess``.
        source: a model, or ``"ensemble"``.
        records: the source's runs by fold; an ensemble's only one under None.
        evidence: of the out-of-fold photos.
        photos: the same photos, with the columns group and fold.
        choice: made on them.
        test: see :func:`decision_metrics`.

    Returns:
        What is to be logged to each run: to a training what concerns the photos of its fold, and the test score of the
        source as a whole.
    """
    decision = Decision(
        source=source,
        uids={record.name: record.uid for record in records.values()},
        photos=len(photos),
        groups=photos["group"].nunique(),
        argmax_score=float(evidence.worth[..., ARGMAX].mean()),
        nested_score=float(evidence.dice(choice.nested).mean()),
        in_sample_score=float(evidence.dice(choice.rule.levels(evidence.counts)).mean()),
        cross_validated=choice.cross_validated,
        part_rules=choice.part_rules,
        rule=choice.rule,
    )
    write_json(folder / "rules" / f"{source}.json", decision.model_dump())
    logged = []
    for fold, record in records.items():
        own = np.array([fold in (None, other) for other in photos["fold"]])
        part = replace(choice, nested=choice.nested[own])
        logged.append((record, decision_metrics(evidence.of(own), part, test)))
    runs = [{"uid": record.uid, **found} for record, found in logged]
    write_json(folder / "metrics" / f"{source}.json", {**decision_metrics(evidence, choice, test), "runs": runs})
    return logged
