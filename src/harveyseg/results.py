"""RESULTS.md: each claim of the report beside what was measured, made from MLflow alone.

A verdict follows from numbers by a rule: a difference counts when it is larger than the spread of the seeds, the
largest that any variant of any study with several seeds shows. What has not run, or has no known spread, is not
testable.
"""

import datetime
import math
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harveyseg.classes import CLASS_NAMES, N_CLASSES, slug
from harveyseg.files import write_text
from harveyseg.losses import double_softmax_floor
from harveyseg.score import N_SCORED
from harveyseg.study import Base, read_studies
from harveyseg.study_table import Variant, collapsed, describe, draw_curves, find_variants, markdown, study_table
from harveyseg.tracking import KIND, TrackedRun, Tracker

Verdict = Literal["confirmed", "not confirmed", "not testable here"]
SCORE, DECIDED, EMPTY = "val/score", "val/decided_score", "val/empty_score"
TABLE_1 = ("attention_unet", "unetplusplus", "mobilenet_v2", "efficientnet_b1", "efficientnet_b2", "efficientnet_b3")
"""The networks that the report compares with its U-Net."""
RARE = 0.01
"""Share of the training pixels below which a class is a minority."""


@dataclass(frozen=True)
class Evidence:
    """All that MLflow knows of the studies of one recipe."""

    studies: Mapping[str, Mapping[str, Variant]]
    """Study -> variant -> its runs."""
    curves: Mapping[str, Mapping[int, float]]
    """Of the longest training of the study ``epochs``, see :meth:`harveyseg.tracking.Tracker.curves`."""
    shares: Mapping[int, float]
    """Class id -> share of the training pixels; empty where no run tells."""

    def variant(self, study: str, label: str) -> Variant | None:
        """A variant that has run, None otherwise."""
        found = self.studies.get(study, {}).get(label)
        return found if found is not None and found.seeds else None

    def ran(self, study: str) -> list[Variant]:
        """The variants of a study that have run."""
        return [variant for variant in self.studies.get(study, {}).values() if variant.seeds]

    @property
    def distinct(self) -> list[Variant]:
        """All variants that have run, those that several studies share once."""
        found = (one for study in self.studies for one in self.ran(study))
        return list({tuple(run.run_id for folds in one.seeds for run in folds): one for one in found}.values())

    @property
    def runs(self) -> list[TrackedRun]:
        """All trainings, each once."""
        found = (run for one in self.distinct for folds in one.seeds for run in folds)
        return list({run.run_id: run for run in found}.values())

    @property
    def noise(self) -> float:
        """The largest spread of the seeds; NaN when every variant has one seed only."""
        spreads = [variant.spread(SCORE) for study in self.studies.values() for variant in study.values()]
        return max((spread for spread in spreads if not math.isnan(spread)), default=math.nan)


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
        HarveysegError: when MLflow cannot be read.
    """
    studies = {name: {one.label: one for one in find_variants(name, base, tracker)} for name in read_studies()}
    longest = [one for one in studies["epochs"].values() if one.seeds]
    curves = tracker.curves(longest[-1].seeds[0][0].run_id or "") if longest else {}
    hashes = {
        run.tags.get("harveyseg.data_hash")
        for study in studies.values()
        for one in study.values()
        for folds in one.seeds
        for run in folds
    }
    return Evidence(studies, curves, _pixel_shares(hashes, tracker))


def write_results(base: Base, tracker: Tracker, path: Path, figure: Path) -> str:
    """Write RESULTS.md and the learning curves that it shows; returns the text.

    Args:
        base: the recipe whose studies count.
        tracker: where to read.
        path: of RESULTS.md.
        figure: of the PNG; its folder must lie beside or below that of ``path``.

    Raises:
        HarveysegError: when MLflow cannot be read.
    """
    evidence = gather(base, tracker)
    definitions = read_studies()
    drawn = evidence.ran("epochs")
    if drawn:
        draw_curves(definitions["epochs"], drawn, tracker, figure)
    parts = [_heading(base, evidence.runs), _claims(evidence), *_explanations(evidence)]
    parts.append("## The studies\n")
    for name, study in definitions.items():
        found = list(evidence.studies[name].values())
        parts.append(f"### {study.title}\n\nThe report: {study.says}\n")
        if any(one.seeds for one in found):
            parts.append(f"{markdown(study_table(name, base, found))}\n{describe(found)}\n")
        else:
            parts.append(f"Not run: `harveyseg study {name}`.\n")
        if study.curves and drawn:
            parts.append(f"![Losses of each epoch]({figure.relative_to(path.parent)})\n")
    result = "\n".join(parts)
    write_text(path, result)
    return result


# The tests of the claims. Each looks at the evidence and says what it found.


def _better(study: str, one: str, other: str) -> Callable[[Evidence], Finding]:
    """The claim that a variant scores higher than another."""

    def test(evidence: Evidence) -> Finding:
        return _compare(evidence, study, one, other)

    return test


def _compare(evidence: Evidence, study: str, one: str, other: str) -> Finding:
    first, second = evidence.variant(study, one), evidence.variant(study, other)
    if first is None or second is None:
        return _missing(study)
    difference = first.mean(SCORE) - second.mean(SCORE)
    measured = f"{one} {first.mean(SCORE):.4f}, {other} {second.mean(SCORE):.4f} ({difference:+.4f})"
    fallen = [side for side in (first, second) if side.collapsed]
    for side in fallen:
        measured += f"; {side.collapsed} of {len(side.seeds)} seeds of {side.label} ended at one class"
    if any(side.collapsed == len(side.seeds) for side in fallen):
        return Finding(f"{measured}: more seeds are needed", "not testable here")
    return _judged(measured, evidence, lambda noise: difference > noise)


def _judged(measured: str, evidence: Evidence, holds: Callable[[float], bool]) -> Finding:
    """The verdict on a claim that holds or not, given the noise."""
    if math.isnan(evidence.noise):
        missing = "no variant has several seeds, so what is noise is unknown: `harveyseg study softmax --seeds 3`"
        return Finding(f"{measured}; {missing}", "not testable here")
    return Finding(measured, "confirmed" if holds(evidence.noise) else "not confirmed")


def _missing(study: str) -> Finding:
    return Finding(f"not run: `harveyseg study {study}`", "not testable here")


def _size(evidence: Evidence) -> Finding:
    labels = list(evidence.studies.get("size", {}))
    return _compare(evidence, "size", labels[1], labels[0]) if len(labels) == 2 else _missing("size")


def _class_weights(evidence: Evidence) -> Finding:
    plain = evidence.variant("class_weights", "none")
    weighted = [one for one in evidence.ran("class_weights") if one.label != "none"]
    if plain is None or not weighted:
        return _missing("class_weights")
    gains = {one.label: one.mean(SCORE) - plain.mean(SCORE) for one in weighted}
    measured = f"none {plain.mean(SCORE):.4f}; " + ", ".join(f"{label} {gain:+.4f}" for label, gain in gains.items())
    return _judged(measured, evidence, lambda noise: max(gains.values()) <= noise)


def _unet_first(evidence: Evidence) -> Finding:
    unet = evidence.variant("architecture", "unet")
    others = [one for name in TABLE_1 if (one := evidence.variant("architecture", name)) is not None]
    if unet is None or len(others) < len(TABLE_1):
        return _missing("architecture")
    rival = max(others, key=lambda one: one.mean(SCORE))
    difference = unet.mean(SCORE) - rival.mean(SCORE)
    measured = f"unet {unet.mean(SCORE):.4f}, the best of the others {rival.label} {rival.mean(SCORE):.4f}"
    return _judged(f"{measured} ({difference:+.4f})", evidence, lambda noise: difference > noise)


def _epochs(evidence: Evidence) -> Finding:
    losses = evidence.curves.get("val_loss", {})
    if not losses or len(evidence.ran("epochs")) < len(evidence.studies["epochs"]):
        return _missing("epochs")
    lowest = min(losses, key=lambda epoch: losses[epoch]) + 1
    scores = ", ".join(f"{one.label}: {one.mean(SCORE):.4f}" for one in evidence.ran("epochs"))
    measured = f"lowest validation loss after epoch {lowest} of {len(losses)}; scores by number of epochs: {scores}"
    return Finding(measured, "confirmed" if 20 <= lowest <= 35 else "not confirmed")


def _overfitting(evidence: Evidence) -> Finding:
    losses, scores = evidence.curves.get("val_loss", {}), evidence.curves.get("val_score", {})
    if not losses or not scores:
        return _missing("epochs")
    lowest, last = min(losses, key=lambda epoch: losses[epoch]), max(losses)
    rise, change = losses[last] - losses[lowest], scores[last] - scores[lowest]
    measured = (
        f"from epoch {lowest + 1}, the lowest, to {last + 1} the validation loss rises by {rise:.4f} and the score "
        f"changes by {change:+.4f}"
    )
    return _judged(measured, evidence, lambda noise: rise > 0 and change > -noise)


def _table_1(evidence: Evidence) -> Finding:
    reported = read_studies()["architecture"].reported
    rows = [
        (name, stated.score, one)
        for name, stated in reported.items()
        if stated.loss is not None and (one := evidence.variant("architecture", name)) is not None
    ]
    if len(rows) < sum(stated.loss is not None for stated in reported.values()):
        return _missing("architecture")
    ours = sorted(rows, key=lambda row: -row[2].mean(SCORE))
    measured = ", ".join(f"{name} {one.mean('final/val_loss'):.2f} / {one.mean(SCORE):.3f}" for name, _, one in ours)
    same = [name for name, _, _ in ours] == [name for name, _, _ in sorted(rows, key=lambda row: -(row[1] or 0))]
    return Finding(f"{measured} (loss / score, best first)", "confirmed" if same else "not confirmed")


def _training_loss(evidence: Evidence) -> Finding:
    on, off = evidence.variant("softmax", "on"), evidence.variant("softmax", "off")
    if on is None or off is None:
        return _missing("softmax")
    with_softmax, without = (_best_seed(one).metrics.get("final/train_loss", math.nan) for one in (on, off))
    measured = f"{with_softmax:.3f} with the additional softmax, {without:.3f} without (of the best seed)"
    near = abs(with_softmax - 2.91) < 0.1 and abs(without - 2.91) > 0.1
    return Finding(measured, "confirmed" if near else "not confirmed")


def _imbalance(evidence: Evidence) -> Finding:
    if not evidence.shares:
        return Finding("no run of these studies has logged the class shares", "not testable here")
    named = {class_id: evidence.shares[class_id] for class_id in (5, 6, 23)}
    total = sum(named.values())
    shares = ", ".join(f"{CLASS_NAMES[class_id]} {share:.1%}" for class_id, share in named.items())
    return Finding(f"{shares}: {total:.1%} of the pixels", "confirmed" if total > 0.5 else "not confirmed")


def _all_trials(evidence: Evidence) -> Finding:
    variants = evidence.distinct
    if not variants:
        return _missing("softmax")
    scores = [one.mean(SCORE) for one in variants]
    measured = (
        f"everything empty {variants[0].mean(EMPTY):.4f}; all variants lie between {min(scores):.4f} and "
        f"{max(scores):.4f}. What the first model was, the report does not say"
    )
    return Finding(measured, "not testable here")


def _latency(evidence: Evidence) -> Finding:
    wanted = ("mobilenet_v2", "unet", "efficientnet_b1", "efficientnet_b2", "efficientnet_b3")
    speeds = {
        name: one.mean("images_per_second")
        for name in wanted
        if (one := evidence.variant("architecture", name)) is not None
    }
    if len(speeds) < len(wanted):
        return _missing("architecture")
    mobile = speeds.pop("mobilenet_v2")
    listed = ", ".join(f"{name} {speed:.1f}" for name, speed in speeds.items())
    faster = mobile > max(speeds.values())
    measured = f"images/s while training: mobilenet_v2 {mobile:.1f}; {listed}"
    return Finding(measured, "confirmed" if faster else "not confirmed")


def _attention(evidence: Evidence) -> Finding:
    attention, unet = evidence.variant("architecture", "attention_unet"), evidence.variant("architecture", "unet")
    if attention is None or unet is None:
        return _missing("architecture")
    rare = [class_id for class_id, share in evidence.shares.items() if class_id and 0 < share < RARE]
    if not rare:
        return Finding("the class shares are not known", "not testable here")
    dice = {one.label: _mean_dice(one, rare) for one in (attention, unet)}
    measured = (
        f"mean Dice over the classes below {RARE:.0%} of the pixels, on photos that hold them: attention_unet "
        f"{dice['attention_unet']:.4f}, unet {dice['unet']:.4f}. Borders: not measured"
    )
    return Finding(measured, "confirmed" if dice["attention_unet"] > dice["unet"] + 0.01 else "not confirmed")


def _best_seed(one: Variant) -> TrackedRun:
    """The run with the highest score."""
    return max((run for folds in one.seeds for run in folds), key=lambda run: run.metrics.get(SCORE, -math.inf))


def _adaptive(evidence: Evidence) -> Finding:
    return _compare(evidence, "adaptive_lr", "on", "off")


CLAIMS = (
    Claim("Trial 1: 16 instead of 64 channels improve accuracy quite a lot", _better("channels", "16", "64")),
    Claim("Trial 2: class weights do not help", _class_weights),
    Claim("Trial 3: an adaptive learning rate is important", _adaptive),
    Claim("Trial 4: softmax at the output significantly improves performance", _better("softmax", "on", "off")),
    Claim("Trial 5: photos of half the size score better", _size),
    Claim("U-Net from scratch beats Attention U-Net, U-Net++, MobileNetV2, EfficientNets", _unet_first),
    Claim(
        "Table 1, loss / score: 1.48 / 0.62 (Attention U-Net), 2.62 / 0.68 (MobileNetV2), 2.79 / 0.67 (EfficientNet), "
        "2.10 / 0.66 (U-Net++)",
        _table_1,
    ),
    Claim(
        "EfficientNet-B2 (0.66943) beats B3 (0.63415, at a training loss of 2.50: overfitting)",
        _better("architecture", "efficientnet_b2", "efficientnet_b3"),
    ),
    Claim("The best network's training loss is 2.91", _training_loss),
    Claim("Grass, trees and flooded are more than half of the pixels", _imbalance),
    Claim("The optimum is around 20 to 35 epochs", _epochs),
    Claim("20 epochs are best (25 were used)", _better("epochs", "20", "25")),
    Claim("The validation loss rises while the score does not fall", _overfitting),
    Claim("All trials together: from about 0.60 to above 0.70", _all_trials),
    Claim("Dropout of 0.1 after every max-pool helps", _better("dropout", "0.1", "0.0")),
    Claim("Batch normalisation in the encoder helps", _better("batch_norm", "encoder", "off")),
    Claim("A smaller learning rate in shallow layers helps", _better("discriminative_lr", "on", "off")),
    Claim("MobileNetV2 has a lower latency", _latency),
    Claim("Attention helps minority classes and borders", _attention),
)


def _heading(base: Base, runs: Sequence[TrackedRun]) -> str:
    sources = ", ".join(sorted({run.tags.get("harveyseg.data_source", "?") for run in runs})) or "none yet"
    ended = max((run.started_ms for run in runs), default=0)
    date = datetime.datetime.fromtimestamp(ended / 1000, datetime.UTC).date().isoformat() if runs else "-"
    train, size = base.params["train"], base.params["resize-cache"]["size"]
    return (
        "# The report's claims, measured\n\n"
        "Made by `harveyseg results` from what MLflow logged; do not edit. "
        f"{len(runs)} trainings, the last of {date}; data source: {sources}; photos of {size} pixels, "
        f"{train['epochs']} epochs of {train['crops_per_photo']} samples of each photo in batches of "
        f"{train['batch_size']}, folds {base.folds} of {base.params['split']['folds']}. "
        "Scores are of the held-out photos; `score` is that of the label map, as the report handed it in.\n"
    )


def _claims(evidence: Evidence) -> str:
    noise = evidence.noise
    known = "unknown (one seed each)" if math.isnan(noise) else f"{noise:.4f}"
    lines = ["| the report says | measured here | verdict |", "| --- | --- | --- |"]
    for claim in CLAIMS:
        finding = claim.test(evidence)
        lines.append(f"| {claim.says} | {finding.measured} | **{finding.verdict}** |")
    return (
        "## Claims\n\n"
        f"A gain counts where it is larger than the largest spread of the seeds of any variant: {known}. Networks with "
        "an encoder start from random weights here where `encoder_weights` is null.\n\n" + "\n".join(lines) + "\n"
    )


def _explanations(evidence: Evidence) -> list[str]:
    """What lies behind the claims, each a paragraph with its test."""
    return ["## What lies behind\n", _floor(evidence), _lift(evidence), _collapse(evidence), _ranking(evidence)]


def _floor(evidence: Evidence) -> str:
    losses = [
        run.metrics["final/train_loss"]
        for run in evidence.runs
        if run.parameters.get("train.softmax_before_loss") == "true"
        and run.parameters.get("train.class_weights") == "none"
        and "final/train_loss" in run.metrics
    ]
    floor = double_softmax_floor(N_CLASSES)
    test = "No training with two softmaxes has run yet."
    if losses:
        held = "hold to it" if min(losses) > floor else "do NOT hold to it"
        test = f"The {len(losses)} unweighted trainings with two softmaxes {held}: their lowest is {min(losses):.3f}."
    return (
        "**The losses of Table 1 are not of one kind.** Softmax followed by a cross-entropy that applies its own "
        f"cannot fall below ln(e + 24) - 1 = {floor:.3f}. {test} The report's 1.48 (Attention U-Net) and 2.10 "
        "(U-Net++) lie below, so those trainings did not have it; 2.62, 2.79 and 2.91 lie above. Lower losses beside "
        "lower scores are thus no sign of overfitting, but of two different losses in one column.\n"
    )


def _lift(evidence: Evidence) -> str:
    """Score minus everything empty = (sum of Dice over present classes - false claims) / 24, exactly."""
    on, off = evidence.variant("softmax", "on"), evidence.variant("softmax", "off")
    head = (
        "**Everything empty is the score to beat, and a false claim costs as much as a perfect class brings.** The "
        "score minus that of handing in nothing is exactly (sum of Dice over the classes that a photo holds, minus the "
        "number of classes that are claimed and absent) / 24. "
    )
    if on is None or off is None:
        return f"{head}Whether the additional softmax lives on that: `harveyseg study softmax` has not run.\n"
    rows = []
    for one in (off, on):
        false, lift = one.mean("val/false_claims"), one.mean(SCORE) - one.mean(EMPTY)
        rows.append((one, N_SCORED * lift + false, false, lift))
    text = "; ".join(
        f"softmax {one.label}: Dice {dice:.2f}, false claims {false:.2f} per photo, lift {lift:+.4f}, decided "
        f"{one.mean(DECIDED):.4f}"
        for one, dice, false, lift in rows
    )
    (_, dice_off, false_off, lift_off), (_, dice_on, false_on, lift_on) = rows
    fewer, less = false_on < false_off, dice_on < dice_off
    if lift_on <= lift_off:
        meaning = "It does not help here"
        if fewer and less:
            meaning += ": it claims less, rightly and wrongly, and what it loses is worth more than what it saves"
    elif fewer and less:
        meaning = "So it helps by silence: it finds less of what is there, and is paid for claiming less of what is not"
    else:
        meaning = "So it helps, but not by silence: it also finds more of what is there"
    variants = evidence.distinct
    worse = sum(one.mean(SCORE) < one.mean(EMPTY) for one in variants)
    return f"{head}{text}. {meaning}. Of all {len(variants)} variants below, {worse} score less than an empty file.\n"


def _collapse(evidence: Evidence) -> str:
    fallen: dict[str, list[bool]] = {"true": [], "false": []}
    for run in evidence.runs:
        fallen[run.parameters.get("train.softmax_before_loss", "false")].append(collapsed(run))
    two, one = fallen["true"], fallen["false"]
    return (
        "**Two softmaxes can end at one class.** The gradient of the inner softmax vanishes where it is sure, so a "
        "network that early gives one class to every pixel stays there; its score is then near that of an empty file, "
        f"and its training loss near 3.1. That happened in {sum(two)} of {len(two)} trainings with two softmaxes and "
        f"in {sum(one)} of {len(one)} with one.\n"
    )


def _ranking(evidence: Evidence) -> str:
    ran = [one for one in evidence.ran("architecture") if not math.isnan(one.mean(DECIDED))]
    head = "**A decision rule changes the ranking.** "
    if len(ran) < 2:
        return f"{head}Not run: `harveyseg study architecture`.\n"
    by_map = [one.label for one in sorted(ran, key=lambda one: -one.mean(SCORE))]
    by_rule = [one.label for one in sorted(ran, key=lambda one: -one.mean(DECIDED))]
    gains = {one.label: one.mean(DECIDED) - one.mean(SCORE) for one in ran}
    moved = sum(by_map.index(label) != by_rule.index(label) for label in by_map)
    spread = {kind: max(values) - min(values) for kind, values in _both(ran).items()}
    least = min(gains, key=lambda label: gains[label])
    if not moved:
        head = "**A decision rule leaves the ranking as it is.** "
    return (
        f"{head}Of the label maps the order is {', '.join(by_map)}; of what a rule hands in that is fitted out of fold "
        f"(see `decision.py`) it is {', '.join(by_rule)}: {moved} of {len(ran)} networks change places. The rule adds "
        f"{sum(gains.values()) / len(gains):+.4f} on the average and {gains[least]:+.4f} at the least ({least}); the "
        f"distance from best to worst goes from {spread['map']:.4f} to {spread['rule']:.4f}.\n"
    )


def _both(ran: Sequence[Variant]) -> dict[str, list[float]]:
    return {"map": [one.mean(SCORE) for one in ran], "rule": [one.mean(DECIDED) for one in ran]}


def _mean_dice(one: Variant, classes: Sequence[int]) -> float:
    """Mean of the Dice of those classes that the held-out photos hold."""
    values = [one.mean(f"val/dice/{slug(class_id)}") for class_id in classes]
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def _pixel_shares(hashes: Set[str | None], tracker: Tracker) -> dict[int, float]:
    """Class shares as an ensemble of the same data has logged them."""
    for run in reversed(tracker.find_all()):
        if run.tags.get(KIND) == "ensemble" and run.tags.get("harveyseg.data_hash") in hashes:
            found = {class_id: run.metrics.get(f"data/pixel_share/{slug(class_id)}") for class_id in range(25)}
            known = {class_id: share for class_id, share in found.items() if share is not None}
            if known:
                return known
    return {}
