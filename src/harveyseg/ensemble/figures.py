"""The figure of how much the ensemble's models differ."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harveyseg.arrays import FloatArray
from harveyseg.plots import BLUE, GREEN, INK, save_figure


def diversity_figure(
    models: Sequence[str],
    disagreement: FloatArray,
    error_correlation: FloatArray,
    scores: Mapping[str, float],
    path: Path,
    title: str,
) -> None:
    """Draw how much each pair of models differs, and the argmax scores of the models and of their mixtures.

    Args:
        models: their names.
        disagreement: (m, m), share of the pixels to which two models give different classes.
        error_correlation: (m, m), correlation of the models' errors; NaN where undefined.
        scores: one for each bar, models and mixtures.
        path: the PNG file.
        title: above the figure.
    """
    side = 1.1 + 0.42 * len(models)
    figure = Figure(figsize=(2 * side + 5.4, max(side + 0.9, 0.9 + 0.26 * len(scores))), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(side, side, 3.4))
    _draw_pairs(left, models, 100 * disagreement, "Blues", None, "% of pixels with different classes", ".0f")
    _draw_pairs(middle, models, error_correlation, "Oranges", 1.0, "correlation of errors", ".2f")
    middle.set_yticklabels([])
    _draw_scores(right, scores, models)
    figure.suptitle(title, fontsize=11, color=INK)
    save_figure(figure, path)


def _draw_scores(axes: Axes, scores: Mapping[str, float], models: Sequence[str]) -> None:
    names = list(scores)
    values = np.array(list(scores.values()))
    margin = 0.15 * (values.max() - values.min()) or 0.01
    axes.barh(names, values, color=[BLUE if name in models else GREEN for name in names], height=0.62)
    axes.set_xlim(values.min() - margin, values.max() + 2 * margin)  # differences count, not distances from 0
    for index, value in enumerate(values):
        axes.annotate(
            f"{value:.4f}", (value, index), (3, 0), textcoords="offset points", va="center", fontsize=7.5, color=INK
        )
    axes.invert_yaxis()
    axes.set_title("argmax score", fontsize=9, color=INK)
    axes.tick_params(labelsize=7.5)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_pairs(
    axes: Axes,
    names: Sequence[str],
    values: FloatArray,
    colours: str,
    maximum: float | None,
    title: str,
    number_format: str,
) -> None:
    """Draw a symmetric matrix of models without its diagonal; ``maximum`` None is that of the values."""
    pairs = np.where(np.eye(len(names), dtype=bool), np.nan, values)
    if maximum is None:
        maximum = float(pairs[~np.isnan(pairs)].max(initial=1e-9))
    axes.imshow(pairs, cmap=colours, vmin=0, vmax=1.6 * maximum)  # the darkest colours would hide the numbers
    for row, column in np.argwhere(~np.isnan(pairs)):
        text = format(pairs[row, column], number_format)
        axes.text(column, row, text, ha="center", va="center", fontsize=7.5, color=INK)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7.5)
    axes.set_yticks(range(len(names)), names, fontsize=7.5)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(title, fontsize=9, color=INK)
