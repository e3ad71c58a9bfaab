"""RESULTS.md: each claim of the report beside what was measured, made from MLflow alone.

A verdict follows from numbers by a rule. A claim that one variant is better than another is confirmed when its mean is
ahead by more than the half width of the 95% interval of such a difference (Student's t, with the deviation of a seed
pooled over all variants of which several seeds ran), not confirmed when it is behind by more than that, and not
testable in between: more seeds are missing then. Networks that ended at one class (two softmaxes can do that) learnt
nothing: differences and noise are those of the others, but nothing is confirmed that is not so with them, too.
"""

import datetime
import itertools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Literal

from scipy.special import stdtrit

from harveyseg.classes import CLASS_NAMES, N_CLASSES, N_SCORED, RARE, SCORE_SIZE, slug
from harveyseg.errors import HarveysegError
from harveyseg.evaluation.boundary import REACH
from harveyseg.files import write_text
from harveyseg.reproduction.studies import Base, read_studies
from harveyseg.reproduction.tables import (
    Variant,
    collapsed,
    describe,
    draw_curves,
    find_variants,
    markdown,
    study_table,
)
from harveyseg.tracking.client import KIND, TrackedRun, Tracker
from harveyseg.training.losses import double_softmax_floor

Verdict = Literal["confirmed", "not confirmed", "not testable here"]
SCORE, DECIDED, EMPTY = "val/argmax_score", "val/score", "val/all_empty_score"
BORDERS, INTERIORS = "val/boundary_accuracy", "val/interior_accuracy"
TABLE_1 = ("attention_unet", "unetplusplus", "mobilenet_v2", "efficientnet_b1", "efficientnet_b2", "efficientnet_b3")
"""The networks that the report compares with its U-Net."""
_REPORT_SIZE, _REPORT_UPDATES, _REPORT_LOSS = 256, 435, 2.91
_LOSS_TOLERANCE = 0.1
_WOBBLES = 4
"""A curve has changed where it moved more than so many times what it moves from one epoch to the next."""
_FROM_SCRATCH = ("attention_unet", "unetplusplus")
"""Of Table 1, besides the U-Net."""


@dataclass(frozen=True)
class Evidence:
    """All that MLflow knows of the studies of one recipe."""

    recipe: Mapping[str, Any]
    """params.yaml."""
    studies: Mapping[str, Mapping[str, Variant]]
    """Study -> variant -> its runs."""
    curves: Mapping[str, Mapping[int, float]]
    """Of the longest training of the study ``epochs``, see :meth:`harveyseg.tracking.client.Tracker.curves`."""
    shares: Mapping[int, float]
    """Class id -> share of the training pixels; empty where no run tells."""
    photos: int | None = None
    """Training photos, all folds together."""

    def variant(self, study: str, label: str) -> Variant | None:
        """A variant that has run, None otherwise."""
        found = self.studies.get(study, {}).get(label)
        return found if found is not None and found.seeds else None

    def ran(self, study: str) -> list[Variant]:
        """The variants of a study that have run."""
        return [variant for variant in self.studies.get(study, {}).values() if variant.seeds]

    @property
    def distinct(self) -> list[Variant]:
        """All variants that have run, those that studies share once."""
        found: list[Variant] = []
        seen: set[str | None] = set()
        for one in sorted((one for study in self.studies for one in self.ran(study)), key=lambda one: -len(one.seeds)):
            own = {run.run_id for folds in one.seeds for run in folds}
            if not own & seen:
                found.append(one)
            seen |= own
        return found

    @property
    def runs(self) -> list[TrackedRun]:
        """All trainings, each once."""
        found = (run for study in self.studies for one in self.ran(study) for folds in one.seeds for run in folds)
        return list({run.run_id: run for run in found}.values())

    def noise(self, values: Callable[[Variant], Sequence[float]] = lambda one: one.values(SCORE)) -> "Noise":
        """How much a seed matters, pooled over the variants of which several seeds learnt.

        Args:
            values: from a variant to the value of each of its seeds.
        """
        samples = [values(one.learnt) for one in self.distinct]
        known = [sample for sample in samples if len(sample) > 1 and not any(map(math.isnan, sample))]
        freedom = sum(len(sample) - 1 for sample in known)
        squares = math.fsum(statistics.variance(sample) * (len(sample) - 1) for sample in known)
        return Noise(math.sqrt(squares / freedom) if freedom else math.nan, freedom, len(known))

    def margin(
        self,
        one: Variant,
        other: Variant,
        values: Callable[[Variant], Sequence[float]] = lambda one: one.values(SCORE),
    ) -> float:
        """What a difference between the seeds that learnt of two variants must exceed, see :meth:`Noise.margin`."""
        return self.noise(values).margin(len(one.learnt.seeds), len(other.learnt.seeds))

    @property
    def pretrained(self) -> bool:
        """Whether the encoders started from pretrained weights."""
        return self.recipe["train"]["encoder_weights"] is not None

    @property
    def decides(self) -> bool:
        """Whether a decision rule was fitted."""
        return bool(self.recipe["postprocess"]["method"] != "argmax")


@dataclass(frozen=True)
class Noise:
    """How much a value differs from seed to seed."""

    deviation: float
    """Standard deviation of one seed; NaN where no variant has several."""
    freedom: int
    """Degrees of freedom: seeds minus variants."""
    variants: int
    """From so many variants."""

    def margin(self, seeds: int, others: int) -> float:
        """Half width of the 95% interval of a difference between two means over so many seeds; NaN when unknown."""
        if not self.freedom:
            return math.nan
        return float(stdtrit(self.freedom, 0.975)) * self.deviation * math.sqrt(1 / seeds + 1 / others)


@dataclass(frozen=True)
class Finding:
    """What was measured of a claim."""

    measured: str
    verdict: Verdict


@dataclass(frozen=True)
class Claim:
    """Something that the report says, and how to test it."""

    says: str
    test: Callable[[Evidence], Finding]


def gather(base: Base, tracker: Tracker) -> Evidence:
    """Read all studies of a recipe.

    Raises:
        HarveysegError: when MLflow cannot be read, or knows no finished run of them.
    """
    studies = {name: {one.label: one for one in find_variants(name, base, tracker)} for name in read_studies()}
    evidence = Evidence(base.params, studies, {}, {})
    if not evidence.runs:
        raise HarveysegError(
            "MLflow has no finished run of any study with the recipe and data that params.yaml names. "
            "`harveyseg study softmax` runs one, `harveyseg study --list` prints all."
        )
    longest = evidence.ran("epochs")
    curves = tracker.curves(longest[-1].compared.seeds[0][0].run_id or "") if longest else {}
    logged = _data_metrics({run.tags.get("harveyseg.split_hash") for run in evidence.runs}, tracker)
    shares, counts = (
        {class_id: logged[key] for class_id in range(N_CLASSES) if (key := f"data/{kind}/{slug(class_id)}") in logged}
        for kind in ("pixel_share", "photos")
    )
    return Evidence(base.params, studies, curves, shares, round(max(counts.values())) if counts else None)


def write_results(base: Base, tracker: Tracker, path: Path, figure: Path) -> str:
    """Write RESULTS.md and the learning curves that it shows; returns the text.

    Args:
        base: the recipe whose studies count.
        tracker: where to read.
        path: of RESULTS.md.
        figure: of the PNG; its folder must lie beside or below that of ``path``.

    Raises:
        HarveysegError: when MLflow cannot be read, or knows no finished run of the studies; no file is touched then.
    """
    evidence = gather(base, tracker)
    definitions = read_studies()
    drawn = evidence.ran("epochs")
    if drawn:
        draw_curves(definitions["epochs"], drawn, tracker, figure)
    parts = [_heading(evidence), _claims(evidence), *_explanations(evidence), "## The studies\n"]
    for name, study in definitions.items():
        found = list(evidence.studies[name].values())
        parts.append(f"### {study.title}\n\nThe report: {study.says}\n")
        if any(one.seeds for one in found):
            parts.append(f"{markdown(study_table(name, base, found))}\n{describe(found)}\n")
        else:
            parts.append(f"Not run: `harveyseg study {name}`.\n")
        if study.curves and drawn:
            parts.append(f"![Losses of each epoch]({figure.relative_to(path.parent)})\n")
            if base.params["train"]["schedule"]["name"] in (
                "constant",
                "plateau",
            ):  # which do not ask how many there will be
                parts.append("With the same seed these are one training that ends sooner or later.\n")
    result = "\n".join(parts)
    write_text(path, result)
    return result


# The tests of the claims. Each looks at the evidence and says what it found.


def _better(study: str, one: str, *others: str) -> Callable[[Evidence], Finding]:
    """The claim that a variant scores higher than each of the others."""

    def test(evidence: Evidence) -> Finding:
        found = [variant for label in (one, *others) if (variant := evidence.variant(study, label)) is not None]
        return _beats(found[0], found[1:], evidence) if len(found) == 1 + len(others) else _missing(study)

    return test


def _beats(one: Variant, others: Sequence[Variant], evidence: Evidence, more: str = "") -> Finding:
    """Whether a variant scores higher than the best of others, by the seeds that learnt."""
    shown = "; ".join(map(_shown, (one, *others)))
    fallen = [side.label for side in (one, *others) if not side.learnt.seeds]
    if fallen:
        return Finding(f"{shown}{more}: no seed of {', '.join(fallen)} learnt", "not testable here")
    best = max(others, key=lambda other: other.learnt.mean(SCORE))
    gain = one.learnt.mean(SCORE) - best.learnt.mean(SCORE)
    finding = _judged(f"{shown}{more}", gain, evidence.margin(one, best))
    if finding.verdict == "confirmed" and one.mean(SCORE) <= best.mean(SCORE):
        return Finding(f"{finding.measured}; with the seeds that ended at one class it is not so", "not confirmed")
    return finding


def _shown(one: Variant) -> str:
    """Label and score, of the seeds that learnt, and of all where some did not."""
    if not one.collapsed:
        return f"{one.label} {one.mean(SCORE):.4f}"
    fallen = f"{one.collapsed} of {len(one.seeds)} seeds ended at one class"
    if not one.learnt.seeds:
        return f"{one.label} {one.mean(SCORE):.4f} ({fallen})"
    return f"{one.label} {one.learnt.mean(SCORE):.4f} ({fallen}; {one.mean(SCORE):.4f} with them)"


def _judged(measured: str, gain: float, margin: float) -> Finding:
    """The verdict on a claimed gain: beyond the margin one way, the other, or neither."""
    if math.isnan(margin):
        missing = "how much seeds differ is unknown. Missing: several seeds, `harveyseg study softmax --seeds 3`"
        return Finding(f"{measured} ({gain:+.4f}); {missing}", "not testable here")
    shown = f"{measured} ({gain:+.4f}, margin {margin:.4f})"
    if abs(gain) <= margin:
        return Finding(f"{shown}. Missing: more seeds", "not testable here")
    return Finding(shown, "confirmed" if gain > 0 else "not confirmed")


def _pretraining_missing(finding: Finding) -> Finding:
    """A claim about encoders from ImageNet is not tested by encoders from random weights."""
    joined = ", and" if "Missing:" in finding.measured else ". Missing:"
    return Finding(f"{finding.measured}{joined} ImageNet weights", "not testable here")


def _missing(study: str, what: str = "") -> Finding:
    return Finding(f"not run{what}: `harveyseg study {study}`", "not testable here")


def _size(evidence: Evidence) -> Finding:
    labels = list(evidence.studies.get("size", {}))
    finding = _better("size", labels[1], labels[0])(evidence) if len(labels) == 2 else _missing("size")
    if finding.verdict == "not testable here" or labels == ["512", "256"]:
        return finding
    return Finding(f"{finding.measured}; at these sizes", finding.verdict)


def _class_weights(evidence: Evidence) -> Finding:
    found = {one.label: one for one in evidence.ran("class_weights")}
    if not {"none", "report"} <= found.keys():
        return _missing("class_weights")
    more = f"; for comparison {_shown(found['enet'])}" if "enet" in found else ""
    gain = _beats(found["report"], [found["none"]], evidence, more)
    # The claim is that there is no gain: a gain refutes it.
    opposite: dict[Verdict, Verdict] = {"confirmed": "not confirmed", "not confirmed": "confirmed"}
    return Finding(gain.measured, opposite.get(gain.verdict, gain.verdict))


def _unet_first(evidence: Evidence) -> Finding:
    unet = evidence.variant("architecture", "unet")
    others = [one for name in TABLE_1 if (one := evidence.variant("architecture", name)) is not None]
    if unet is None or len(others) < len(TABLE_1):
        return _missing("architecture")
    finding = _beats(unet, others, evidence)
    if evidence.pretrained:
        return finding
    if finding.verdict == "not confirmed":  # a fortiori
        return Finding(f"{finding.measured}, though the encoders had no ImageNet weights", finding.verdict)
    return _pretraining_missing(finding)


def _table_1(evidence: Evidence) -> Finding:
    """The order of the scores; from random weights only that of the networks which the report, too, began so."""
    reported = read_studies()["architecture"].reported
    stated = {name: one.score or 0 for name, one in reported.items() if one.val_loss is not None}
    found = [one for name in stated if (one := evidence.variant("architecture", name)) is not None]
    if len(found) < len(stated):
        return _missing("architecture")
    fallen = [one.label for one in found if not one.learnt.seeds]
    rows = sorted((one.compared for one in found), key=lambda one: -one.mean(SCORE))
    measured = ", ".join(f"{one.label} {one.mean('final/val_loss'):.2f} / {one.mean(SCORE):.3f}" for one in rows)
    measured += " (best first)"
    if fallen:
        return Finding(f"{measured}: no seed of {', '.join(fallen)} learnt", "not testable here")
    comparable = rows if evidence.pretrained else [one for one in rows if one.label in _FROM_SCRATCH]
    noise = evidence.noise()
    gaps = [
        (ahead.mean(SCORE) - behind.mean(SCORE), noise.margin(len(ahead.seeds), len(behind.seeds)))
        for ahead, behind in itertools.permutations(comparable, 2)
        if stated[ahead.label] > stated[behind.label]
    ]
    if any(gap < -margin for gap, margin in gaps):
        return Finding(f"{measured}: another order", "not confirmed")
    if evidence.pretrained and all(gap > margin for gap, margin in gaps):
        return Finding(measured, "confirmed")
    missing = "more seeds" if evidence.pretrained else "ImageNet weights, and more seeds"
    return Finding(f"{measured}. Missing: {missing}", "not testable here")


def _b2_beats_b3(evidence: Evidence) -> Finding:
    smaller, larger = (evidence.variant("architecture", f"efficientnet_{size}") for size in ("b2", "b3"))
    if smaller is None or larger is None:
        return _missing("architecture")
    loss = larger.compared.mean("final/train_loss")
    finding = _beats(smaller, [larger], evidence, f"; B3's training loss {loss:.2f}")
    return finding if evidence.pretrained else _pretraining_missing(finding)


def _training_loss(evidence: Evidence) -> Finding:
    on, off = evidence.variant("softmax", "on"), evidence.variant("softmax", "off")
    if on is None or off is None:
        return _missing("softmax")
    if not on.learnt.seeds or not off.learnt.seeds:
        return Finding("no seed learnt with the additional softmax, or none without", "not testable here")
    two, one = on.learnt.mean("final/train_loss"), off.learnt.mean("final/train_loss")
    measured = (
        f"{two:.3f} with the additional softmax, {one:.3f} without; near means within {_LOSS_TOLERANCE}, on other "
        "photos and at another size"
    )
    near = abs(two - _REPORT_LOSS) < _LOSS_TOLERANCE < abs(one - _REPORT_LOSS)
    return Finding(measured, "confirmed" if near else "not confirmed")


def _imbalance(evidence: Evidence) -> Finding:
    if not evidence.shares:
        return Finding("no run on this data has logged the class shares: `dvc repro`", "not testable here")
    named = {class_id: evidence.shares[class_id] for class_id in (5, 6, 23)}
    total = sum(named.values())
    shares = ", ".join(f"{CLASS_NAMES[class_id]} {share:.1%}" for class_id, share in named.items())
    return Finding(f"{shares}: {total:.1%} of the pixels", "confirmed" if total > 0.5 else "not confirmed")


def _wobble(curve: Mapping[int, float]) -> float:
    """How much a curve moves from one epoch to the next, the median after the first five."""
    return statistics.median(
        abs(curve[after] - curve[before]) for before, after in itertools.pairwise(sorted(curve)[5:])
    )


def _epochs(evidence: Evidence) -> Finding:
    losses = evidence.curves.get("val_loss", {})
    if len(losses) < 30 or len(evidence.ran("epochs")) < len(evidence.studies["epochs"]):
        return _missing("epochs")
    wobble, lowest = _wobble(losses), min(losses, key=lambda epoch: losses[epoch])
    scores = ", ".join(f"{one.label}: {one.compared.mean(SCORE):.4f}" for one in evidence.ran("epochs"))
    inside = min(loss for epoch, loss in losses.items() if 20 <= epoch + 1 <= 35)
    outside = min(loss for epoch, loss in losses.items() if not 20 <= epoch + 1 <= 35)
    measured = (
        f"validation loss lowest after epoch {lowest + 1} of {len(losses)}; from 20 to 35 at least {inside:.4f}, "
        f"before {outside:.4f}; it moves by {wobble:.4f} an epoch. Scores after so many epochs: {scores}"
    )
    if lowest == max(losses):
        return Finding(f"{measured}. It still falls at the end. Missing: a longer training", "not testable here")
    if abs(inside - outside) <= _WOBBLES * wobble:
        return Finding(f"{measured}. The curve is flat there. Missing: more seeds", "not testable here")
    return Finding(measured, "confirmed" if inside < outside else "not confirmed")


def _overfitting(evidence: Evidence) -> Finding:
    losses, scores = evidence.curves.get("val_loss", {}), evidence.curves.get("val_argmax_score", {})
    if len(losses) < 10 or len(scores) < 10:
        return _missing("epochs")
    # Means of three epochs: a single lowest one is always below a single last one.
    smooth, smooth_score = _means_of_three(losses), _means_of_three(scores)
    lowest, last = min(smooth, key=lambda epoch: smooth[epoch]), max(smooth)
    rise, change = smooth[last] - smooth[lowest], smooth_score[last] - smooth_score[lowest]
    wobble, score_wobble = _wobble(losses), _wobble(scores)
    measured = (
        f"means of three epochs, from that around epoch {lowest + 1}, the lowest, to the last: validation loss "
        f"{rise:+.4f} (it moves by {wobble:.4f} an epoch), score at the training's size {change:+.4f} (by "
        f"{score_wobble:.4f}); one seed"
    )
    if rise <= _WOBBLES * wobble:
        return Finding(f"{measured}: no rise", "not confirmed")
    return Finding(measured, "confirmed" if change >= -_WOBBLES * score_wobble else "not confirmed")


def _means_of_three(curve: Mapping[int, float]) -> dict[int, float]:
    epochs = sorted(curve)
    return {
        middle: (curve[before] + curve[middle] + curve[after]) / 3
        for before, middle, after in zip(epochs, epochs[1:], epochs[2:], strict=False)
    }


def _all_trials(evidence: Evidence) -> Finding:
    variants = evidence.distinct
    if not variants:
        return _missing("softmax")
    scores = [one.compared.mean(SCORE) for one in variants]
    measured = (
        f"all empty {variants[0].mean(EMPTY):.4f}; all variants lie between {min(scores):.4f} and "
        f"{max(scores):.4f}. Missing: a training with all trials undone"
    )
    return Finding(measured, "not testable here")


def _latency(evidence: Evidence) -> Finding:
    names = ("mobilenet_v2", "unet", "efficientnet_b1", "efficientnet_b2", "efficientnet_b3")
    found = [evidence.variant("architecture", name) for name in names]
    speeds = [f"{one.label} {one.mean('images_per_second'):.1f}" for one in found if one is not None]
    if len(speeds) < len(names):
        return _missing("architecture")
    measured = f"images/s while training, beside other jobs: {', '.join(speeds)}"
    return Finding(f"{measured}. Missing: an idle machine (`benchmarks/latency.py`)", "not testable here")


def _attention(test: Callable[[Evidence, Variant, Variant], Finding]) -> Callable[[Evidence], Finding]:
    """A claim about the Attention U-Net and the U-Net, tested where both have run and learnt."""

    def checked(evidence: Evidence) -> Finding:
        attention, unet = (evidence.variant("architecture", name) for name in ("attention_unet", "unet"))
        if attention is None or unet is None:
            return _missing("architecture")
        if not attention.learnt.seeds or not unet.learnt.seeds:
            return Finding("one of them learnt from no seed", "not testable here")
        return test(evidence, attention, unet)

    return checked


def _minorities(evidence: Evidence, attention: Variant, unet: Variant) -> Finding:
    rare = _rare(evidence)
    if not rare:
        return Finding("the class shares are not known", "not testable here")
    ours, theirs = (_mean_dice(one.learnt, rare) for one in (attention, unet))
    measured = (
        f"mean Dice over the classes below {RARE:.0%} of the pixels, on photos that hold them: attention_unet "
        f"{ours:.4f}, unet {theirs:.4f}"
    )
    if ours == theirs == 0:
        return Finding(f"{measured}: neither finds any. Missing: a longer or larger training", "not testable here")
    return _judged(measured, ours - theirs, evidence.margin(attention, unet, lambda one: _seed_dice(one, rare)))


def _rare(evidence: Evidence) -> list[int]:
    """The classes that occur, but rarely."""
    return [class_id for class_id, share in evidence.shares.items() if class_id and 0 < share < RARE]


def _borders(evidence: Evidence, attention: Variant, unet: Variant) -> Finding:
    """Whether attention gains more near borders than elsewhere: what is better everywhere is better there, too."""
    if any(math.isnan(one.learnt.mean(BORDERS)) for one in (attention, unet)):
        return _missing("architecture", " since borders are measured")
    ours, theirs = (statistics.fmean(_border_gaps(one.learnt)) for one in (attention, unet))
    near = " and ".join(
        f"{one.label} {one.learnt.mean(BORDERS):.4f} and {one.learnt.mean(INTERIORS):.4f}" for one in (attention, unet)
    )
    measured = (
        f"share of the labelled pixels whose class is right, within {REACH} pixels (of {SCORE_SIZE}) of a border "
        f"between two classes, and elsewhere: {near}; gain near borders minus gain elsewhere"
    )
    return _judged(measured, ours - theirs, evidence.margin(attention, unet, _border_gaps))


def _border_gaps(one: Variant) -> list[float]:
    return [near - far for near, far in zip(one.values(BORDERS), one.values(INTERIORS), strict=True)]


CLAIMS = (
    Claim("Trial 1: 16 instead of 64 channels improve accuracy quite a lot", _better("channels", "16", "64")),
    Claim("Trial 2: class weights of 1/log(percentage) do not help", _class_weights),
    Claim("Trial 3: an adaptive learning rate is important", _better("adaptive_lr", "on", "off")),
    Claim("Trial 4: softmax at the output significantly improves performance", _better("softmax", "on", "off")),
    Claim("Trial 5: photos of half the size score better", _size),
    Claim("U-Net from scratch (0.709) beats Attention U-Net, U-Net++, MobileNetV2, EfficientNets", _unet_first),
    Claim(
        "Table 1, loss / score: MobileNetV2 2.62 / 0.68, EfficientNet 2.79 / 0.67, U-Net++ 2.10 / 0.66, Attention "
        "U-Net 1.48 / 0.62. Tested: the order of the scores",
        _table_1,
    ),
    Claim("EfficientNet-B2 (0.66943) beats B3 (0.63415, at a training loss of 2.50). Tested: the scores", _b2_beats_b3),
    Claim("The best network's training loss is 2.91", _training_loss),
    Claim("Grass, trees and flooded are more than half of the pixels", _imbalance),
    Claim("The optimum is around 20 to 35 epochs", _epochs),
    Claim("20 epochs are best (25 were used)", _better("epochs", "20", "25", "30", "35")),
    Claim("The validation loss rises while the score does not fall", _overfitting),
    Claim("All trials together: from about 0.60 to above 0.70", _all_trials),
    Claim("Dropout of 0.1 after every max-pool helps", _better("dropout", "0.1", "0.0")),
    Claim("Batch normalisation in the encoder helps", _better("batch_norm", "encoder", "off")),
    Claim("A smaller learning rate in shallow layers helps", _better("discriminative_lr", "on", "off")),
    Claim("MobileNetV2 has a lower latency", _latency),
    Claim("Attention helps minority classes", _attention(_minorities)),
    Claim("Attention helps borders", _attention(_borders)),
)


def _heading(evidence: Evidence) -> str:
    runs, recipe = evidence.runs, evidence.recipe
    train, size, folds = recipe["train"], recipe["resize-cache"]["size"], recipe["split"]["folds"]
    date = datetime.datetime.fromtimestamp(max(run.started_ms for run in runs) / 1000, datetime.UTC).date()
    source = ", ".join(sorted({run.tags.get("harveyseg.data_source", "?") for run in runs}))
    if source == "directory":
        source += f" `{PurePath(recipe['data']['path']).name}`"
    file, _, column = str(recipe["split"]["groups"]).partition(":")
    groups = {"none": "none", "ids": "neighbouring ids"}.get(file, f"`{PurePath(file).name}`, column `{column}`")
    photos = "" if evidence.photos is None else f", {evidence.photos} training photos"
    lines = [
        "# The report's claims, measured\n",
        "Made by `harveyseg results` from what MLflow logged; do not edit.\n",
        f"- **Data:** {source}{photos}; {folds} folds, groups that stay together: {groups}; held out in turn: fold "
        f"{', '.join(map(str, recipe['folds']))}. Scores are of the held-out photos. "
        "Few photos of one place are a small and biased sample.",
        f"- **Trainings:** {len(runs)}, the last of {date.isoformat()}. {train['epochs']} epochs of "
        f"{train['crops_per_photo']} samples of each photo in batches of {train['batch_size']}{_updates(evidence)}.",
    ]
    if size != _REPORT_SIZE:
        lines.append(
            f"- **Smaller than the report's:** photos of {size} pixels instead of {_REPORT_SIZE}, and trial 5 compares "
            "the sizes named there instead of 512 and 256."
        )
    if not evidence.pretrained:
        lines.append(
            "- **No ImageNet:** all networks start from random weights, also those that the report pretrained."
        )
    lines.append(
        f"- **Seeds:** where a study has one seed, it is {train['seed']}{_chosen(evidence)}. "
        "`score` is that of the label map, as the report handed it in.\n"
    )
    return "\n".join(lines)


def _chosen(evidence: Evidence) -> str:
    """What the comment in the preset says of its seed."""
    return ", which was chosen because the recipe learns from it, see below" if evidence.recipe["train"]["seed"] else ""


def _updates(evidence: Evidence) -> str:
    """How many updates that makes, where the number of photos is known."""
    if evidence.photos is None:
        return ""
    train, folds = evidence.recipe["train"], evidence.recipe["split"]["folds"]
    samples = evidence.photos * (folds - 1) / folds * train["crops_per_photo"]
    made = round(samples / train["batch_size"]) * train["epochs"]
    return f", about {made} updates (the report's 261 photos made about {_REPORT_UPDATES})"


def _claims(evidence: Evidence) -> str:
    noise = evidence.noise()
    lines = ["| the report says or assumes | measured here | verdict |", "| --- | --- | --- |"]
    for claim in CLAIMS:
        finding = claim.test(evidence)
        lines.append(f"| {claim.says} | {finding.measured} | **{finding.verdict}** |")
    known = "How much a score differs from seed to seed is unknown: no variant has several that learnt."
    if noise.freedom:
        known = (
            f"The score differs from seed to seed by {noise.deviation:.4f} (standard deviation, pooled over the "
            f"{noise.variants} variants of which several seeds learnt; {noise.freedom} degrees of freedom)."
        )
    return (
        "## Claims\n\n"
        f"{known} A difference counts beyond its margin, half of its 95% interval: then a claimed gain is confirmed "
        "or, where it is a loss, not confirmed; within the margin more seeds are missing. Seeds that ended at one "
        "class are left out of it and counted; what is not so with them is not confirmed.\n\n" + "\n".join(lines) + "\n"
    )


def _explanations(evidence: Evidence) -> list[str]:
    """What lies behind the claims, each a paragraph with its test."""
    return ["## What lies behind\n", _floor(evidence), _lift(evidence), _collapse(evidence), _ranking(evidence)]


def _floor(evidence: Evidence) -> str:
    losses = [
        run.metrics["final/train_loss"]
        for run in evidence.runs
        if run.parameters.get("train.loss.softmax_before_loss") == "true"
        and run.parameters.get("train.class_weights") != "report"
        and "final/train_loss" in run.metrics
    ]
    floor = double_softmax_floor(N_CLASSES)
    test = "No training with two softmaxes has run yet."
    if losses:
        held = "hold to it" if min(losses) > floor else "do NOT hold to it"
        test = (
            f"The {len(losses)} trainings with two softmaxes and no negative class weight {held}: their lowest is "
            f"{min(losses):.3f}."
        )
    return (
        "**The losses of Table 1 are not of one kind.** Softmax followed by a cross-entropy that applies its own "
        f"cannot fall below ln(e + 24) - 1 = {floor:.3f}. {test} The report's 1.48 (Attention U-Net) and 2.10 "
        "(U-Net++) lie below, so those trainings had one softmax, or class weights of both signs as "
        "1/log(percentage) gives them (positive ones leave the floor where it is); 2.62, 2.79 and 2.91 are possible "
        "with two. Losses of both kinds stand in one column and cannot be compared.\n"
    )


def _lift(evidence: Evidence) -> str:
    """Score minus all empty = (sum of Dice over present classes - false claims) / 24, exactly."""
    head = (
        "**all empty is the score to beat, and a false claim costs as much as a perfect class brings.** The "
        "score minus that of handing in nothing is exactly (sum of Dice over the classes that a photo holds, minus the "
        "number of classes that are claimed and absent) / 24. "
    )
    variants = evidence.distinct
    worse = sum(one.compared.mean(SCORE) < one.compared.mean(EMPTY) for one in variants)
    tail = f"Of all {len(variants)} variants below, {worse} score less than an empty file.\n"
    on, off = evidence.variant("softmax", "on"), evidence.variant("softmax", "off")
    if on is None or off is None or not on.learnt.seeds or not off.learnt.seeds:
        return (
            f"{head}Whether the additional softmax lives on that cannot be said yet (`harveyseg study softmax`). {tail}"
        )
    (dice_off, false_off, lift_off), (dice_on, false_on, lift_on) = (_parts(one.learnt) for one in (off, on))
    text = (
        f"Of the seeds that learnt, without the additional softmax: Dice {dice_off:.2f}, false claims {false_off:.2f} "
        f"per photo, lift {lift_off:+.4f}; with it: Dice {dice_on:.2f}, false claims {false_on:.2f}, lift "
        f"{lift_on:+.4f}."
    )
    misses = (one.learnt.mean("val/missed_classes") for one in (off, on))
    text += " Classes that a photo holds and that are not claimed: {:.2f} without, {:.2f} with it".format(*misses)
    rare = _rare(evidence)
    if rare:
        dice = (_mean_dice(one.learnt, rare) for one in (off, on))
        text += "; mean Dice on the classes below {:.0%} of the pixels: {:.4f}, {:.4f}".format(RARE, *dice)
    margin = evidence.margin(on, off)
    if math.isnan(margin):
        meaning = "Whether the lifts differ cannot be said with one seed each"
    elif abs(lift_on - lift_off) <= margin:
        meaning = f"The lifts do not differ by more than the margin ({margin:.4f})"
    else:
        meaning = f"It {'helps' if lift_on > lift_off else 'does not help'} here, beyond the margin ({margin:.4f})"
    return f"{head}{text}. {meaning}. {tail}"


def _parts(one: Variant) -> tuple[float, float, float]:
    """Sum of Dice over present classes and false claims, per photo; the lift that both make."""
    false, lift = one.mean("val/false_positive_classes"), one.mean(SCORE) - one.mean(EMPTY)
    return N_SCORED * lift + false, false, lift


def _collapse(evidence: Evidence) -> str:
    recipe = evidence.variant("softmax", "on")
    fallen = [run for run in evidence.runs if collapsed(run)]
    two = [run for run in fallen if run.parameters.get("train.loss.softmax_before_loss") == "true"]
    if recipe is None:
        return "**Whether two softmaxes learn reliably** has not been tested: `harveyseg study softmax --seeds 3`.\n"
    seeds = f"{recipe.collapsed} of the {len(recipe.seeds)} seeds of the recipe ended so"
    first = evidence.recipe["train"]["seed"]
    if first:
        seeds += f" (seed {first} was chosen because it does not)"
    if not two:
        return f"**Two softmaxes can end at one class.** Here they did not: {seeds}.\n"
    return (
        "**Two softmaxes can end at one class.** Such a network gives one class to almost every pixel; the gradient of "
        "the inner softmax vanishes where it is sure, so it stays there. "
        f"{seeds[0].upper()}{seeds[1:]}; of all trainings below {len(two)} with two softmaxes and "
        f"{len(fallen) - len(two)} with one did.\n"
    )


def _ranking(evidence: Evidence) -> str:
    networks = [one.compared for one in evidence.ran("architecture") if one.label in ("unet", *TABLE_1)]
    ran = [one for one in networks if not math.isnan(one.mean(DECIDED))]
    if len(ran) < 2 or not evidence.decides:
        missing = "`harveyseg study architecture`" if evidence.decides else "`postprocess.method: auto`"
        return f"**What a decision rule does to the ranking** has not been tested: {missing} is missing.\n"
    by_map = [one.label for one in sorted(ran, key=lambda one: -one.mean(SCORE))]
    by_rule = [one.label for one in sorted(ran, key=lambda one: -one.mean(DECIDED))]
    gains = {one.label: one.mean(DECIDED) - one.mean(SCORE) for one in ran}
    least = min(gains, key=lambda label: gains[label])
    maps, rules = evidence.noise(), evidence.noise(lambda one: one.values(DECIDED))
    turned, beyond = 0, 0
    for one, other in itertools.combinations(ran, 2):
        before, after = (one.mean(metric) - other.mean(metric) for metric in (SCORE, DECIDED))
        seeds = len(one.seeds), len(other.seeds)
        turned += before * after < 0
        beyond += before * after < 0 and abs(before) > maps.margin(*seeds) and abs(after) > rules.margin(*seeds)
    head = (
        "changes the ranking" if beyond else "hardly changes the ranking" if turned else "leaves the ranking as it is"
    )
    text = (
        f"**A decision rule {head}.** Of the label maps the order is {', '.join(by_map)}; of what a rule hands in that "
        f"is fitted out of fold (see `decision.py`) it is {', '.join(by_rule)}: of {math.comb(len(ran), 2)} pairs "
        f"{turned} change places, {beyond} of them beyond the margins. The rule adds "
        f"{statistics.fmean(gains.values()):+.4f} on the average and {gains[least]:+.4f} at the least ({least})."
    )
    on, off = evidence.variant("softmax", "on"), evidence.variant("softmax", "off")
    if on is not None and off is not None and on.learnt.seeds and off.learnt.seeds:
        before, after = (off.learnt.mean(metric) - on.learnt.mean(metric) for metric in (SCORE, DECIDED))
        text += f" One softmax instead of two brings {before:+.4f} as label maps and {after:+.4f} decided."
    return f"{text}\n"


def _seed_dice(one: Variant, classes: Sequence[int]) -> list[float]:
    """For each seed, the mean of the Dice of those classes that the held-out photos hold."""
    values = [one.values(f"val/argmax_dice/{slug(class_id)}") for class_id in classes]
    known = [dice for dice in values if not any(map(math.isnan, dice))]
    return [statistics.fmean(seed) for seed in zip(*known, strict=True)]


def _mean_dice(one: Variant, classes: Sequence[int]) -> float:
    values = _seed_dice(one, classes)
    return statistics.fmean(values) if values else math.nan


def _data_metrics(splits: Set[str | None], tracker: Tracker) -> dict[str, float]:
    """``data/*`` as an ensemble on the same photos and split has logged them; the newest counts."""
    for run in reversed(tracker.find_all()):
        if run.tags.get(KIND) == "ensemble" and run.tags.get("harveyseg.split_hash") in splits:
            found = {name: value for name, value in run.metrics.items() if name.startswith("data/")}
            if found:
                return found
    return {}
