"""The figure of post-processing: the score of each class against the threshold."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from harveyseg.plots import BLUE, GREEN, GREY, INK, ORANGE, save_figure
from harveyseg.postprocess.statistics import N_LEVELS, SpecialMask, Thresholds, ThresholdStatistics

_COLUMNS = 6


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
    inches = 1.96 * rows + 0.76
    figure = Figure(figsize=(max(6.5, 13 * columns / _COLUMNS), inches))
    # Axes that share their limits each look at all others, which takes half a minute for 150 classes.
    panels = figure.subplots(rows, columns, squeeze=False)
    # By hand: 24 panels would keep the layout engine busy for a second.
    figure.subplots_adjust(
        left=0.045, right=0.99, bottom=0.86 / inches, top=1 - 0.731 / inches, wspace=0.08, hspace=0.28
    )
    levels = np.arange(1, N_LEVELS)
    mean_dice = statistics.dice_by_threshold.mean(0)
    scores = statistics.dice(submitted).mean(0)
    photos_with_class = statistics.present.sum(0)
    for axes in panels.flat[classes.scored :]:
        axes.set_axis_off()
    for index, axes in enumerate(panels.flat[: classes.scored]):
        masks = submitted[:, index]
        own_thresholds = masks[(masks != SpecialMask.ARGMAX) & (masks != SpecialMask.EMPTY)]
        not_empty = np.count_nonzero(masks != SpecialMask.EMPTY)
        axes.plot(levels / 255, mean_dice[index, levels], color=BLUE, lw=1.4, label="one threshold for all photos")
        axes.axhline(mean_dice[index, SpecialMask.EMPTY], color=ORANGE, lw=1.1, ls="--", label="all empty")
        axes.axhline(mean_dice[index, SpecialMask.ARGMAX], color=GREY, lw=1.1, ls=":", label="argmax map")
        axes.axhline(scores[index], color=GREEN, lw=1.1, label="submitted")
        height = np.full(len(own_thresholds), scores[index])
        axes.plot(own_thresholds / 255, height, "|", color=GREEN, ms=11, label="each photo's threshold")
        axes.set_title(classes.names[index + classes.unscored], fontsize=8.5, color=INK)
        axes.text(
            0.99,
            0.98,
            f"in {photos_with_class[index]} of {len(submitted)} photos, submitted for {not_empty}",
            transform=axes.transAxes,
            ha="right",
            va="top",
            fontsize=6.5,
            color=GREY,
        )
        axes.set(xlim=(0, 1), ylim=(0, 1.2), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
        axes.tick_params(labelsize=7)
        axes.label_outer()
        axes.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("threshold", fontsize=9, y=0.387 / inches)
    figure.supylabel("mean Dice over all photos", fontsize=9, x=0.005)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=5, frameon=False, fontsize=8.5)
    figure.suptitle(title, fontsize=11, color=INK, y=1 - 0.129 / inches)
    save_figure(figure, path)
