"""The two figures of docs/reproduction.md: how far apart the variants of each claim are, and what two softmaxes do."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harveyseg.files import atomic
from harveyseg.plots import BLUE, DPI, GREEN, GREY, INK, ORANGE
from harveyseg.reproduction.claims import (
    CONFIRMED,
    CONTRADICTED,
    NO_DIFFERENCE,
    SAME,
    UNDECIDED,
    Better,
    Claim,
    Judgement,
    Verdict,
)
from harveyseg.reproduction.tables import ALL_EMPTY_SCORE, ARGMAX_SCORE, Variant, collapsed_to_one_class

FIGURE_SIGNATURE = "Matplotlib"
"""In the PNG files that this module and the studies' curves make."""
_COLOURS: Mapping[Verdict, str] = {CONFIRMED: GREEN, CONTRADICTED: ORANGE, SAME: BLUE, UNDECIDED: GREY}
_FLOOR = math.log(math.e + 24) - 1
"""Of the cross-entropy of 25 classes after a softmax before its own: the best is e / (e + 24)."""
_NOTHING = math.log(25)
"""The cross-entropy of knowing nothing."""
_STATES = {"off": "one softmax", "on": "two softmaxes"}
_REPORTED_LOSSES = {"best network": 2.91, "EfficientNet": 2.50}
"""Training losses that the report states."""


def draw_claims(judged: Mapping[str, tuple[Claim, Judgement, str]], path: Path) -> None:
    """Draw the difference that each claim is about, with its 95% interval.

    Args:
        judged: name of the claim -> claim, judgement and photo size.
        path: of the PNG.
    """
    shown = {name: entry for name, entry in judged.items() if isinstance(entry[0].test, Better)}
    figure = Figure(figsize=(7.5, 0.36 * len(shown) + 1.4), layout="constrained")
    axis = figure.subplots()
    axis.axvspan(-NO_DIFFERENCE, NO_DIFFERENCE, color=BLUE, alpha=0.12, lw=0)
    axis.axvline(0, color=GREY, lw=0.8)
    labels: list[str] = []
    for row, (name, (claim, judgement, photo_size)) in enumerate(shown.items()):
        if judgement.difference is not None and judgement.margin is not None:
            colour = _COLOURS[judgement.verdict]
            axis.errorbar(judgement.difference, row, xerr=judgement.margin, fmt="o", color=colour, capsize=3)
        labels.append(f"{name.replace('_', ' ')}, {photo_size} px" if judgement.measured else name.replace("_", " "))
        denied = isinstance(claim.test, Better) and claim.test.denied
        verdict = f'"no help": {judgement.verdict}' if denied else judgement.verdict
        text = verdict if judgement.measured else "not yet run"
        axis.annotate(text, (1.01, row), xycoords=("axes fraction", "data"), va="center", fontsize=8, color=INK)
    axis.set_yticks(range(len(shown)), labels, fontsize=8)
    axis.set_ylim(len(shown) - 0.5, -0.5)
    axis.set_xlabel("difference from the best rival, with its 95% interval; blue band: no difference")
    axis.grid(axis="x", alpha=0.3)
    _save(figure, path)


def draw_softmax(variants: Sequence[Variant], path: Path) -> None:
    """Draw the training losses and the gains over empty of one softmax and two.

    Args:
        variants: of the study ``softmax``: "off" and "on", which may have no run.
        path: of the PNG.
    """
    figure = Figure(figsize=(8.5, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for position, variant in enumerate(variants):
        colour = BLUE if variant.label == "off" else ORANGE
        _draw_losses(left, variant, colour, _STATES[variant.label])
        _draw_gains(right, variant, position, colour)
    left.axhline(_FLOOR, color=INK, lw=0.9, ls="--", label=f"floor of two softmaxes, {_FLOOR:.3f}")
    left.axhline(_NOTHING, color=GREY, lw=0.9, ls=":", label=f"knowing nothing, {_NOTHING:.3f}")
    for name, loss in _REPORTED_LOSSES.items():
        left.annotate(f"the report's {name}: {loss:.2f}", (0.99, loss), xycoords=("axes fraction", "data"), ha="right",
                      va="center", fontsize=7)  # fmt: skip
    left.set_xlabel("epoch")
    left.set_ylabel("training loss")
    left.legend(fontsize=7)
    left.grid(alpha=0.3)
    right.axhline(0, color=INK, lw=0.9)
    right.set_xticks(range(len(variants)), [_STATES[variant.label] for variant in variants])
    right.set_xlim(-0.5, len(variants) - 0.5)
    right.set_ylabel("gain over empty (cross: collapsed)")
    right.grid(axis="y", alpha=0.3)
    _save(figure, path)


def _draw_losses(axis: Axes, variant: Variant, colour: str, label: str) -> None:
    for run in (run for folds in variant.seeds for run in folds):
        losses = run.curves.get("train_loss", {})
        epochs = sorted(losses)
        axis.plot(epochs, [losses[epoch] for epoch in epochs], color=colour, lw=0.8, alpha=0.6, label=label)
        label = "_"  # one entry in the legend


def _draw_gains(axis: Axes, variant: Variant, position: int, colour: str) -> None:
    """One mark for each training, beside its neighbours; a cross where it collapsed."""
    runs = [run for folds in variant.seeds for run in folds]
    for index, run in enumerate(runs):
        gain = run.metrics[ARGMAX_SCORE] - run.metrics[ALL_EMPTY_SCORE]
        marker = "x" if collapsed_to_one_class(run) else "o"
        axis.plot(position + 0.5 * (index / max(len(runs) - 1, 1) - 0.5), gain, marker, color=colour, ms=5)


def _save(figure: Figure, path: Path) -> None:
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=DPI)
