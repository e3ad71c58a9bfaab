"""The verdict on each of the report's claims: the claims are data (claims.yaml), a few tests decide them.

The margin of a difference between two means is half the width of its 95% interval: Student's t, with the standard
deviation between seeds pooled over all variants of which several seeds learnt. A seed's value is the mean over the
folds. A claim that one variant is better than others, of which the best counts, is

* of no difference, when the whole interval lies within :data:`NO_DIFFERENCE` of zero, whichever sign it has;
* confirmed, when its mean is ahead by more than the margin;
* contradicted, when its mean is behind by more than the margin;
* undecided, otherwise: also when it has not run.

A claim that a variant does *not* help is confirmed by no difference, and otherwise decided the other way round. Seeds
that collapsed to one class are left out of differences and deviations, but a gain that vanishes with them is
contradicted.

Curves are judged by the seeds' curves (means over the folds and three epochs). The epochs that are compared in a
seed's curve are chosen by the mean curve of the other seeds: the lowest of many epochs would be below any other one by
chance. A change counts beyond the margin, as above, and beyond four times the mean curve's median step from one epoch
to the next.

Where a study has run at several photo sizes, a claim is judged at one of them, see :func:`find_deciding`.
"""

import itertools
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from importlib.resources import as_file, files
from typing import Annotated, Literal

from pydantic import Field
from scipy.stats import t as student_t

from harveyseg.classes import HARVEY25, RARE
from harveyseg.config.settings import Section, load, parse
from harveyseg.errors import HarveysegError
from harveyseg.reproduction.export import Latency, StudyRun, StudyRuns
from harveyseg.reproduction.studies import find_study, read_studies
from harveyseg.reproduction.tables import ARGMAX_SCORE, Variant, find_variants

Verdict = Literal["confirmed", "contradicted", "no difference", "undecided"]
CONFIRMED: Verdict = "confirmed"
CONTRADICTED: Verdict = "contradicted"
SAME: Verdict = "no difference"
UNDECIDED: Verdict = "undecided"

NO_DIFFERENCE = 0.01
"""Differences up to this, of scores, Dice, accuracies and losses, do not matter: on 45 photos they are noise."""


ENOUGH_SEEDS = 3
"""Seeds of each variant from which on the photo size matters more than the number of seeds."""

_DEFINITIONS = files("harveyseg.reproduction") / "claims.yaml"
_PRETRAINED = ("mobilenet_v2", "efficientnet_b1", "efficientnet_b2", "efficientnet_b3")
"""The networks that the report started from ImageNet weights."""
_CLEAR_CHANGE = 4
"""A mean curve changes where it moves by more than this many times its median step from one epoch to the next."""
_SETTLED = 5
"""Epochs after which the steps of a curve are counted."""
_FEWEST_CURVES = 3
"""Seeds whose curves are compared: two to choose the epochs for each."""
_SHORTEST_CURVE = 30
"""Epochs that a curve must have to be tested."""


@dataclass(frozen=True)
class Judgement:
    """What was measured of a claim, and what follows."""

    measured: str
    verdict: Verdict
    difference: float | None = None
    margin: float | None = None
    note: str = ""
    """What is missing for a verdict, or what limits it."""

    @property
    def low(self) -> float:
        """The lower end of the difference's 95% interval; minus infinity when it is unknown."""
        return -math.inf if self.difference is None or self.margin is None else self.difference - self.margin


@dataclass(frozen=True)
class Noise:
    """How much a value differs from seed to seed."""

    deviation: float
    """Standard deviation of one seed; NaN where no variant has several."""
    freedom: int
    """Degrees of freedom: seeds minus variants."""
    n_variants: int

    def margin(self, n_seeds: int, n_rival_seeds: int) -> float:
        """Half width of the 95% interval of a difference between two means; NaN when the deviation is unknown.

        >>> round(Noise(deviation=0.01, freedom=4, n_variants=1).margin(1, 1), 4)
        0.0393
        """
        if not self.freedom:
            return math.nan
        return float(student_t.ppf(0.975, self.freedom)) * self.deviation * math.sqrt(1 / n_seeds + 1 / n_rival_seeds)


@dataclass(frozen=True)
class StudyResults:
    """The variants of all studies of one recipe, with what was measured of them."""

    studies: Mapping[str, Mapping[str, Variant]]
    """Study -> variant -> its runs."""
    shares: Mapping[int, float]
    """Class id -> share of the training pixels; empty where no run has logged it."""
    pretrained: bool
    """Whether the encoders started from ImageNet weights."""
    latency: Mapping[str, Latency] = field(default_factory=dict)
    """Network -> how long one photo takes; empty where it was not measured."""

    @classmethod
    def of(cls, runs: StudyRuns) -> "StudyResults":
        """Sort the runs of a recipe by study and variant; a study that the recipe cannot have has none."""
        studies = {}
        for name in read_studies():
            try:
                studies[name] = {variant.label: variant for variant in find_variants(name, runs)}
            except HarveysegError:  # params.yaml lacks what the study varies
                studies[name] = {}
        shares = {
            class_id: runs.data[key]
            for class_id, slug in enumerate(HARVEY25.slugs)
            if (key := f"data/pixel_share/{slug}") in runs.data
        }
        return cls(studies, shares, runs.recipe.params["train"]["encoder_weights"] is not None, runs.latency)

    def measured(self, study: str) -> list[Variant]:
        """The variants of a study that have run."""
        return [variant for variant in self.studies.get(study, {}).values() if variant.seeds]

    def find(self, study: str, labels: Sequence[str]) -> list[Variant]:
        """These variants; empty when one of them has not run."""
        variants = {variant.label: variant for variant in self.measured(study)}
        return [variants[label] for label in labels] if variants.keys() >= set(labels) else []

    @cached_property
    def distinct(self) -> list[Variant]:
        """All variants that have run, those that studies share once."""
        variants = [variant for study in self.studies for variant in self.measured(study)]
        distinct: list[Variant] = []
        seen: set[str] = set()
        for variant in sorted(variants, key=lambda variant: -len(variant.seeds)):
            uids = {run.uid for folds in variant.seeds for run in folds}
            if not uids & seen:
                distinct.append(variant)
            seen |= uids
        return distinct

    @property
    def runs(self) -> list[StudyRun]:
        """All training runs, each once."""
        variants = [variant for study in self.studies for variant in self.measured(study)]
        return list({run.uid: run for variant in variants for folds in variant.seeds for run in folds}.values())

    def noise(self, quantity: "Quantity" = "argmax_score") -> Noise:
        """Standard deviation between seeds, pooled over the variants of which several seeds learnt."""
        values = [self.values(variant.learnt, quantity) for variant in self.distinct]
        samples = [sample for sample in values if len(sample) > 1 and not any(map(math.isnan, sample))]
        freedom = sum(len(sample) - 1 for sample in samples)
        squares = math.fsum(statistics.variance(sample) * (len(sample) - 1) for sample in samples)
        return Noise(math.sqrt(squares / freedom) if freedom else math.nan, freedom, len(samples))

    def values(self, variant: Variant, quantity: "Quantity") -> list[float]:
        """The quantity of each seed; NaN where it is unknown."""
        return _QUANTITIES[quantity](self, variant)

    def longest_curves(self, study: str, name: str) -> list[dict[int, float]]:
        """A curve (epoch, from 1 -> mean over the folds) of each seed of the study's last variant that has run.

        Seeds that collapsed to one class are left out, and those of which a fold lacks the curve.
        """
        variants = self.measured(study)
        seeds = variants[-1].compared.seeds if variants else ()
        curves = [[run.curves.get(name, {}) for run in folds] for folds in seeds]
        return [mean_curve(folds) for folds in curves if min(map(len, folds)) >= _SHORTEST_CURVE]


Quantity = Literal["argmax_score", "rare_dice", "boundary_gap"]


def _rare_dice(results: StudyResults, variant: Variant) -> list[float]:
    """Mean Dice of the argmax maps over the classes below :data:`RARE` of the pixels that held-out photos hold."""
    rare = [class_id for class_id, share in results.shares.items() if class_id and 0 < share < RARE]
    by_class = [variant.values(f"val/argmax_dice/{HARVEY25.slugs[class_id]}") for class_id in rare]
    present = [values for values in by_class if not any(map(math.isnan, values))]
    if not present:
        return [math.nan] * len(variant.seeds)
    return [statistics.fmean(seed) for seed in zip(*present, strict=True)]


def _boundary_gap(_: StudyResults, variant: Variant) -> list[float]:
    accuracies = zip(variant.values("val/boundary_accuracy"), variant.values("val/interior_accuracy"), strict=True)
    return [boundary - interior for boundary, interior in accuracies]


_QUANTITIES: dict[Quantity, Callable[[StudyResults, Variant], list[float]]] = {
    "argmax_score": lambda _, variant: variant.values(ARGMAX_SCORE),
    "rare_dice": _rare_dice,
    "boundary_gap": _boundary_gap,
}


class _Test(Section):
    stand_ins: dict[str, str] = Field(default_factory=dict)
    """Network -> the one that is compared instead where the recipe has no ImageNet weights and that one has run."""

    @property
    def compared(self) -> list[str]:
        """The variants that decide, as claims.yaml names them; all of the study if empty."""
        return []

    def resolve(self, study: str, results: StudyResults) -> dict[str, str]:
        """The variants that decide -> those of the results."""
        variants = results.studies.get(study, {})
        resolved = dict(zip(self.compared, _labels(study, self.compared, list(variants)), strict=True))
        if not results.pretrained:
            measured = {variant.label for variant in results.measured(study)}
            resolved |= {
                name: label for name, label in self.stand_ins.items() if name in resolved and label in measured
            }
        return resolved

    def count_seeds(self, study: str, results: StudyResults) -> int:
        """How many seeds each variant that decides has at the least; of what has no seeds, as many as are enough."""
        variants = results.studies.get(study, {})
        labels = [*self.resolve(study, results).values()] or [*variants]
        return min((len(variants[label].seeds) if label in variants else 0 for label in labels), default=0)


class Better(_Test):
    """A variant is ahead of the best of its rivals."""

    kind: Literal["better"]
    variant: str
    rivals: list[str]
    quantity: Quantity = "argmax_score"
    shown: list[str] = Field(default_factory=list)
    """Variants that are measured for comparison only."""
    denied: bool = False
    """Whether the claim is that the variant is *not* better."""

    @property
    def compared(self) -> list[str]:
        """See the base class."""
        return [self.variant, *self.rivals]

    def judge(self, study: str, results: StudyResults) -> Judgement:
        """Compare the means of the seeds that learnt."""
        variants = results.find(study, [*self.resolve(study, results).values()])
        if not variants:
            return not_run(study)
        shown = results.find(study, self.shown)
        measured = "; ".join(self._format(results, variant) for variant in (*variants, *shown))
        if collapsed := [variant.label for variant in variants if not variant.learnt.seeds]:
            return Judgement(measured, UNDECIDED, note=f"missing: a seed of {', '.join(collapsed)} that learns")
        means = [statistics.fmean(results.values(variant.learnt, self.quantity)) for variant in variants]
        if any(map(math.isnan, means)):
            return not_run(study)
        if not any(means):
            return Judgement(measured, UNDECIDED, note="missing: a longer or larger training, in which one is above 0")
        best = max(range(1, len(variants)), key=lambda index: means[index])
        difference = means[0] - means[best]
        noise = results.noise(self.quantity)
        margin = noise.margin(len(variants[0].learnt.seeds), len(variants[best].learnt.seeds))
        judgement = _judge(measured, difference, margin)
        all_seeds = [statistics.fmean(results.values(variant, self.quantity)) for variant in variants]
        if judgement.verdict == CONFIRMED and all_seeds[0] <= all_seeds[best]:
            note = "not so with the seeds that collapsed to one class"
            judgement = Judgement(measured, CONTRADICTED, difference, margin, note)
        if self.denied:
            opposite = {CONFIRMED: CONTRADICTED, CONTRADICTED: CONFIRMED, SAME: CONFIRMED, UNDECIDED: UNDECIDED}
            judgement = Judgement(measured, opposite[judgement.verdict], difference, margin, judgement.note)
        return _without_pretraining(judgement, [variant.label for variant in variants], results)

    def _format(self, results: StudyResults, variant: Variant) -> str:
        """Label and mean, of the seeds that learnt, and of all where some did not."""
        learnt, every = (results.values(side, self.quantity) for side in (variant.learnt, variant))
        if not variant.n_collapsed:
            return f"{variant.label} {statistics.fmean(every):.4f}"
        collapsed = f"{variant.n_collapsed} of {len(variant.seeds)} seeds collapsed to one class"
        if not learnt:
            return f"{variant.label} {statistics.fmean(every):.4f} ({collapsed})"
        return f"{variant.label} {statistics.fmean(learnt):.4f} ({collapsed}; {statistics.fmean(every):.4f} with them)"


class Order(_Test):
    """The variants, by their scores, are in this order, best first."""

    kind: Literal["order"]
    variants: list[str]

    @property
    def compared(self) -> list[str]:
        """See the base class."""
        return self.variants

    def judge(self, study: str, results: StudyResults) -> Judgement:
        """Compare each pair; without pretraining only the networks that the report did not pretrain either."""
        variants = results.find(study, [*self.resolve(study, results).values()])
        if not variants:
            return not_run(study)
        scored = sorted(variants, key=lambda variant: -variant.compared.mean(ARGMAX_SCORE))
        measured = ", ".join(
            f"{side.label} {side.compared.mean('written/val_loss'):.2f} / {side.compared.mean(ARGMAX_SCORE):.3f}"
            for side in scored
        )
        if collapsed := [variant.label for variant in variants if not variant.learnt.seeds]:
            return Judgement(measured, UNDECIDED, note=f"missing: a seed of {', '.join(collapsed)} that learns")
        comparable = [variant for variant in variants if results.pretrained or variant.label not in _PRETRAINED]
        noise = results.noise()
        verdicts = [
            _judge(
                "",
                ahead.learnt.mean(ARGMAX_SCORE) - behind.learnt.mean(ARGMAX_SCORE),
                noise.margin(len(ahead.learnt.seeds), len(behind.learnt.seeds)),
            ).verdict
            for ahead, behind in itertools.combinations(comparable, 2)
        ]
        if CONTRADICTED in verdicts:
            return Judgement(measured, CONTRADICTED, note="another order")
        if len(comparable) < len(variants):
            return Judgement(measured, UNDECIDED, note="missing: ImageNet weights, more seeds")
        if UNDECIDED in verdicts:
            return Judgement(measured, UNDECIDED, note="missing: more seeds")
        return Judgement(measured, SAME if SAME in verdicts else CONFIRMED)


class Near(_Test):
    """A metric of a variant is near a stated value, and that of its counterpart is not."""

    kind: Literal["near"]
    variant: str
    counterpart: str
    metric: str
    value: float
    tolerance: float

    @property
    def compared(self) -> list[str]:
        """See the base class."""
        return [self.variant, self.counterpart]

    def judge(self, study: str, results: StudyResults) -> Judgement:
        """Compare the means of the seeds that learnt with the value."""
        variants = results.find(study, [self.variant, self.counterpart])
        if not variants:
            return not_run(study)
        if not all(variant.learnt.seeds for variant in variants):
            return Judgement("", UNDECIDED, note="missing: a seed of each variant that learns")
        mean, counterpart = (variant.learnt.mean(self.metric) for variant in variants)
        measured = f"{self.variant} {mean:.3f}; {self.counterpart} {counterpart:.3f}"
        is_near = abs(mean - self.value) < self.tolerance < abs(counterpart - self.value)
        return Judgement(measured, CONFIRMED if is_near else CONTRADICTED, mean - self.value, self.tolerance)


class PixelShare(_Test):
    """Classes together have more than a share of the training pixels."""

    kind: Literal["pixel_share"]
    classes: list[str]
    above: float

    def count_seeds(self, _: str, results: StudyResults) -> int:
        """See the base class."""
        return ENOUGH_SEEDS if results.shares else 0

    def judge(self, _: str, results: StudyResults) -> Judgement:
        """Sum the shares."""
        if not results.shares:
            return Judgement("", UNDECIDED, note="no run on this data has logged the class shares: `dvc repro`")
        shares = {name: results.shares[HARVEY25.names.index(name)] for name in self.classes}
        total = sum(shares.values())
        measured = ", ".join(f"{name} {share:.1%}" for name, share in shares.items()) + f"; together {total:.1%}"
        return Judgement(measured, CONFIRMED if total > self.above else CONTRADICTED)


class Optimum(_Test):
    """The validation loss is lowest after ``first`` to ``last`` epochs."""

    kind: Literal["optimum"]
    first: int
    last: int

    def judge(self, study: str, results: StudyResults) -> Judgement:
        """Compare the lowest loss inside this range with the lowest outside, in the curves of the longest training."""
        curves = results.longest_curves(study, "val_loss")
        if not curves or len(results.measured(study)) < len(results.studies[study]):
            return not_run(study)
        mean = mean_curve(curves)
        lowest = min(mean, key=lambda epoch: mean[epoch])
        measured = f"lowest validation loss after epoch {lowest} of {len(mean)}"
        if len(curves) < _FEWEST_CURVES:
            return Judgement(measured, UNDECIDED, note="missing: more seeds")
        differences = []
        for curve, others in _with_others([*map(_means_of_three, curves)]):
            inside = {epoch: loss for epoch, loss in others.items() if self.first <= epoch <= self.last}
            outside = {epoch: loss for epoch, loss in others.items() if epoch not in inside}
            differences.append(
                curve[min(outside, key=outside.__getitem__)] - curve[min(inside, key=inside.__getitem__)]
            )
        judgement = _judge_change(differences, mean)
        measured += (
            f"; outside of {self.first} to {self.last} it is {statistics.fmean(differences):+.4f} higher than inside "
            f"({len(curves)} seeds); median step {_median_step(mean):.4f}"
        )
        if judgement.verdict == CONFIRMED and lowest == max(mean):
            note = "missing: a longer training, it still falls"
            return Judgement(measured, UNDECIDED, judgement.difference, judgement.margin, note)
        return replace(judgement, measured=measured)


class Overfitting(_Test):
    """The validation loss rises from its lowest to the last epoch while the score does not fall."""

    kind: Literal["overfitting"]

    def judge(self, study: str, results: StudyResults) -> Judgement:
        """Compare the epoch that is lowest, by the other seeds, with the last.

        A loss that does not rise decides; where it rises, the score must not fall by :data:`NO_DIFFERENCE` or more.
        """
        losses = results.longest_curves(study, "val_loss")
        scores = results.longest_curves(study, "val_argmax_score")
        if not losses or len(losses) != len(scores):
            return not_run(study)
        if len(losses) < _FEWEST_CURVES:
            return Judgement("", UNDECIDED, note="missing: more seeds")
        rises, changes, lowest = [], [], []
        smooth_losses, smooth_scores = ([*map(_means_of_three, curves)] for curves in (losses, scores))
        for (loss, others), score in zip(_with_others(smooth_losses), smooth_scores, strict=True):
            lowest.append(min(others, key=others.__getitem__))
            rises.append(loss[max(loss)] - loss[lowest[-1]])
            changes.append(score[max(score)] - score[lowest[-1]])
        rise = _judge_change(rises, mean_curve(losses))
        change = _judge_change(changes, mean_curve(scores))
        measured = (
            f"from around epoch {statistics.median(lowest):.0f} to the last: validation loss "
            f"{statistics.fmean(rises):+.4f}, argmax score at the training's size {statistics.fmean(changes):+.4f} "
            f"({len(losses)} seeds)"
        )
        verdict, note = rise.verdict, rise.note
        if verdict == SAME:
            verdict, note = CONTRADICTED, "no rise"
        elif verdict == CONFIRMED and change.verdict == CONTRADICTED:
            verdict, note = CONTRADICTED, "the score falls as well"
        elif verdict == CONFIRMED and change.low < -NO_DIFFERENCE:
            verdict, note = UNDECIDED, "missing: more seeds, for the score"
        return Judgement(measured, verdict, rise.difference, rise.margin, note)


class Faster(_Test):
    """One photo takes less time in a network than in the report's U-Net."""

    kind: Literal["faster"]
    network: str

    def judge(self, _: str, results: StudyResults) -> Judgement:
        """Compare the ratio of their times, and its interval, with 1."""
        measured = "; ".join(f"{name} {latency.milliseconds:.1f} ms" for name, latency in results.latency.items())
        latency = results.latency.get(self.network)
        if latency is None:
            return Judgement(measured, UNDECIDED, note="missing: `benchmarks/latency.py --log`, on an idle machine")
        gain = 1 - latency.ratio
        return _judge(f"{latency.ratio:.2f} times the U-Net's time; {measured}", gain, self._margin(latency))

    @staticmethod
    def _margin(latency: Latency) -> float:
        """The larger side of the interval, which need not be symmetric."""
        return max(latency.high - latency.ratio, latency.ratio - latency.low)

    def count_seeds(self, _: str, results: StudyResults) -> int:
        """See the base class."""
        return ENOUGH_SEEDS if results.latency else 0


class Claim(Section):
    """One entry of claims.yaml."""

    section: str
    """The section of the report."""
    says: str
    study: str | None = None
    test: Annotated[Better | Order | Near | PixelShare | Optimum | Overfitting | Faster, Field(discriminator="kind")]

    def judge(self, results: StudyResults) -> Judgement:
        """Test the claim."""
        judgement = self.test.judge(self.study or "", results)
        if not judgement.measured or self.study is None:
            return judgement
        resolved = self.test.resolve(self.study, results)
        stand_ins = [f"{label} for {name}" for name, label in self.test.stand_ins.items() if resolved[name] == label]
        stated = f"stand-ins: {', '.join(stand_ins)}" if stand_ins else ""
        return replace(judgement, note="; ".join(filter(None, (judgement.note, stated))))

    def count_seeds(self, results: StudyResults) -> int:
        """How many seeds each variant that the test compares has at the least, with those that collapsed."""
        return self.test.count_seeds(self.study or "", results)


def find_deciding(claim: Claim, results: Sequence[StudyResults]) -> int:
    """Which of several recipes' results decide a claim, whatever they say.

    It is the largest photo size at which each variant that the claim compares has :data:`ENOUGH_SEEDS`; without one,
    the size with most seeds, of equals the larger one.

    Args:
        claim: any.
        results: by the size of their photos, smallest first.
    """
    seeds = [min(claim.count_seeds(each), ENOUGH_SEEDS) for each in results]
    return max(range(len(results)), key=lambda index: (seeds[index], index))


@cache
def read_claims() -> Mapping[str, Claim]:
    """All claims, in the order of claims.yaml."""
    with as_file(_DEFINITIONS) as path:
        return {name: parse(Claim, values, name) for name, values in load(path).items()}


def not_run(study: str) -> Judgement:
    """The judgement on a claim whose study has not run, or ran before these metrics existed."""
    return Judgement("", UNDECIDED, note=f"missing: `harveyseg study {study}`")


def _without_pretraining(judgement: Judgement, labels: Sequence[str], results: StudyResults) -> Judgement:
    """A claim about pretrained encoders is not tested without pretraining, unless a handicapped rival wins.

    Args:
        judgement: of the comparison as it is.
        labels: of the variants, the one that is said to be better first.
        results: what was measured.
    """
    if results.pretrained or set(labels).isdisjoint(_PRETRAINED):
        return judgement
    if judgement.verdict == CONTRADICTED and labels[0] not in _PRETRAINED:
        return replace(judgement, note="though encoders had no ImageNet weights")
    note = f"{judgement.note or 'missing:'}{',' if judgement.note else ''} ImageNet weights"
    return replace(judgement, verdict=UNDECIDED, note=note)


def _labels(study: str, names: Sequence[str], labels: Sequence[str]) -> list[str]:
    """The labels of variants that are named as in studies.yaml, where ``2x`` is a multiple of the recipe's value."""
    values = [values for values in find_study(study).vary.values() if isinstance(values, list)]
    if len(values) != 1 or len(values[0]) != len(labels):
        return list(names)
    by_name = dict(zip(map(str, values[0]), labels, strict=True))
    return [by_name.get(name, name) for name in names]


def _judge(measured: str, difference: float, margin: float) -> Judgement:
    """The verdict on a claimed gain, see the module."""
    if math.isnan(margin):
        note = "missing: how much seeds differ, `harveyseg study softmax --seeds 3`"
        return Judgement(measured, UNDECIDED, difference, None, note)
    if abs(difference) + margin <= NO_DIFFERENCE:
        return Judgement(measured, SAME, difference, margin)
    if abs(difference) <= margin:
        return Judgement(measured, UNDECIDED, difference, margin, "missing: more seeds")
    return Judgement(measured, CONFIRMED if difference > 0 else CONTRADICTED, difference, margin)


def mean_curve(curves: Sequence[Mapping[int, float]]) -> dict[int, float]:
    """The mean of curves, over the epochs that all have."""
    epochs = sorted(set.intersection(*(set(curve) for curve in curves)))
    return {epoch: statistics.fmean(curve[epoch] for curve in curves) for epoch in epochs}


def _with_others(curves: Sequence[dict[int, float]]) -> Iterator[tuple[dict[int, float], dict[int, float]]]:
    """Each curve, and the mean of the others."""
    for index, curve in enumerate(curves):
        yield curve, mean_curve([*curves[:index], *curves[index + 1 :]])


def _judge_change(changes: Sequence[float], mean: Mapping[int, float]) -> Judgement:
    """The verdict on a change that each seed's curve has; ``mean`` is the mean curve."""
    difference = statistics.fmean(changes)
    noise = Noise(statistics.stdev(changes), len(changes) - 1, 1)
    margin = max(noise.margin(len(changes), len(changes)) / math.sqrt(2), _CLEAR_CHANGE * _median_step(mean))
    return _judge("", difference, margin)


def _median_step(curve: Mapping[int, float]) -> float:
    """How much a curve moves from one epoch to the next, once it has settled."""
    epochs = sorted(curve)[_SETTLED:]
    return statistics.median(abs(curve[after] - curve[before]) for before, after in itertools.pairwise(epochs))


def _means_of_three(curve: Mapping[int, float]) -> dict[int, float]:
    epochs = sorted(curve)
    triples = zip(epochs, epochs[1:], epochs[2:], strict=False)
    return {
        middle: statistics.fmean(curve[epoch] for epoch in (before, middle, after)) for before, middle, after in triples
    }
