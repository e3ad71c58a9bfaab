"""The figure of post-processing: the score of each class against the threshold."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.markers import TICKDOWN, TICKLEFT

from harveyseg.plots import BLUE, GREEN, GREY, INK, ORANGE, save_figure
from harveyseg.postprocess.statistics import N_LEVELS, SpecialMask, Thresholds, ThresholdStatistics

_COLUMNS = 6
_TOP = 1.2
"""Height of a panel, in Dice; all panels are one wide."""
_DICE = 1.2
"""Height of a Dice of 1, in inches."""
_ACROSS = 1.08
"""From a panel to the next one."""
_DOWN = 1.54
"""From a panel to the one below it."""


def threshold_figure(statistics: ThresholdStatistics, submitted: Thresholds, path: Path, title: str) -> None:
    """For each class, the score of one threshold for all photos, and the score of the submitted masks.

    Args:
        statistics: of n photos.
        submitted: the submitted masks, (n, S).
        path: the PNG file.
        title: above the figure.
    """
    classes = statistics.classes
    columns = min(_COLUMNS, classes.scored)
    rows = -(-classes.scored // columns)
    across, down = (columns - 1) * _ACROSS + 1, (rows - 1) * _DOWN + _TOP
    width = max(6.5, 13 * columns / _COLUMNS)
    legend_columns = 5 if width > 8 else 3
    below = 0.66 + 0.2 * -(-5 // legend_columns)
    height = below + _DICE * down + 0.73
    figure = Figure(figsize=(width, height))
    # All panels are drawn into one Axes, each at its own place: Axes of their own take three times as long.
    axes = figure.add_axes((0.585 / width, below / height, (width - 0.715) / width, _DICE * down / height))
    axes.set_axis_off()
    axes.set_xlim(0, across)
    axes.set_ylim(_TOP - down, _TOP)
    panel = np.arange(classes.scored)
    left, base = panel % columns * _ACROSS, -(panel // columns) * _DOWN

    levels = np.arange(1, N_LEVELS)
    mean_dice = statistics.dice_by_threshold.mean(0)
    curves = np.full((2, classes.scored, N_LEVELS), np.nan)  # the last column stays NaN, which interrupts the line
    curves[0, :, :-1] = left[:, None] + levels / 255
    curves[1, :, :-1] = base[:, None] + mean_dice[:, levels]
    axes.plot(curves[0].ravel(), curves[1].ravel(), color=BLUE, lw=1.4, label="one threshold for all photos")
    scores = statistics.dice(submitted).mean(0)
    for label, values, colour, style in (
        ("all empty", mean_dice[:, SpecialMask.EMPTY], ORANGE, "--"),
        ("argmax map", mean_dice[:, SpecialMask.ARGMAX], GREY, ":"),
        ("submitted", scores, GREEN, "-"),
    ):
        axes.hlines(base + values, left, left + 1, color=colour, lw=1.1, ls=style, label=label)
    photos, indices = np.nonzero((submitted != SpecialMask.ARGMAX) & (submitted != SpecialMask.EMPTY))
    own = left[indices] + submitted[photos, indices] / 255
    axes.plot(own, (base + scores)[indices], "|", color=GREEN, ms=11, label="each photo's threshold")

    axes.hlines(base, left, left + 1, color="black", lw=0.8, clip_on=False)
    axes.vlines(left, base, base + _TOP, color="black", lw=0.8, clip_on=False)
    lowest = panel + columns >= classes.scored
    for tick in (0, 0.5, 1):
        axes.plot(left, base + tick, linestyle="", marker=TICKLEFT, color="black", ms=3.5, mew=0.8, clip_on=False)
        axes.plot(left + tick, base, linestyle="", marker=TICKDOWN, color="black", ms=3.5, mew=0.8, clip_on=False)
        for y in base[left == 0]:
            axes.text(-0.07 * across / width, y + tick, f"{tick:g}", ha="right", va="center", fontsize=7)
        for x, y in zip(left[lowest], base[lowest], strict=True):
            axes.text(x + tick, y - 0.06, f"{tick:g}", ha="center", va="top", fontsize=7)
    present, not_empty = statistics.present.sum(0), np.count_nonzero(submitted != SpecialMask.EMPTY, axis=0)
    for index, (x, y) in enumerate(zip(left, base, strict=True)):
        name = classes.names[index + classes.unscored]
        axes.text(x + 0.5, y + _TOP + 0.05, name, ha="center", fontsize=8.5, color=INK)
        counts = f"in {present[index]} of {len(submitted)} photos, submitted for {not_empty[index]}"
        axes.text(x + 0.99, y + _TOP - 0.02, counts, ha="right", va="top", fontsize=6.5, color=GREY)
    figure.supxlabel("threshold", fontsize=9, y=(below - 0.47) / height)
    figure.supylabel("mean Dice over all photos", fontsize=9, x=0.065 / width)
    figure.legend(loc="lower center", ncols=legend_columns, frameon=False, fontsize=8.5)
    figure.suptitle(title, fontsize=11, color=INK, y=1 - 0.13 / height)
    save_figure(figure, path)
