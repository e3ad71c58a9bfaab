"""Figures: learning curve, confusion matrix, grids of photo, truth and prediction, and the README's overview."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure, SubFigure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from harveyseg.arrays import ClassMap, Confusion, Photo
from harveyseg.classes import IGNORED, ClassList
from harveyseg.plots import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    add_class_legend,
    colourise,
    interpolation,
    percent,
    save_figure,
)


@dataclass(frozen=True)
class PredictionGrid:
    """Photos with their class maps, to be drawn side by side."""

    names: Sequence[str]
    """One for each photo."""
    photos: Sequence[Photo]
    """RGB (H, W, 3), of any size."""
    shapes: Sequence[tuple[int, int]]
    """(width, height) in pixels of each original, for its aspect: cached photos are squeezed."""
    columns: Mapping[str, Sequence[ClassMap]]
    """For each column, e.g. "truth", one class map (H, W) for each photo."""
    notes: Mapping[str, Sequence[str]]
    """For each column with notes, the text below each of its maps."""
    classes: ClassList
    """What the maps hold."""


def learning_curve(history: pd.DataFrame, path: Path, title: str) -> None:
    """Draw the loss of training and held-out photos and the argmax score of the held-out photos for each epoch.

    Args:
        history: with the columns epoch, train_loss, val_loss and val_argmax_score; the last two are NaN where an
            epoch was not validated.
        path: the PNG file.
        title: e.g. the run's name.
    """
    figure = Figure(figsize=(9.5, 3.6), layout="constrained")
    losses, scores = figure.subplots(1, 2)
    validated = history.dropna(subset="val_argmax_score")
    epochs = validated["epoch"]
    marker = "o" if len(validated) == 1 else ""  # a line through one point cannot be seen
    losses.plot(history["epoch"], history["train_loss"], color=BLUE, lw=1.8, marker=marker, label="training")
    losses.plot(epochs, validated["val_loss"], color=ORANGE, lw=1.8, marker=marker, label="validation")
    losses.set_ylabel("loss")
    losses.legend(frameon=False)
    scores.plot(epochs, validated["val_argmax_score"], color=GREEN, lw=1.8, marker=marker)
    scores.set_ylabel("validation argmax score")
    best = int(validated["val_argmax_score"].to_numpy().argmax())
    epoch = int(epochs.iloc[best])
    score = float(validated["val_argmax_score"].iloc[best])
    scores.plot([epoch], [score], "o", color=GREEN, ms=6)
    scores.set_title(f"best {score:.3f} in epoch {epoch}", fontsize=9, color=GREY, loc="right")
    for axes in (losses, scores):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25, lw=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=11, color=INK)
    save_figure(figure, path)


def confusion_figure(confusion: Confusion, classes: ClassList, path: Path, title: str) -> None:
    """Draw the row-normalised confusion matrix of the classes that occur, with the share of the pixels of each.

    Args:
        confusion: int64 (C, C), rows the truth, summed over the images.
        classes: what they are.
        path: the PNG file.
        title: above the figure.
    """
    true = confusion.sum(1)
    occurring = np.flatnonzero(true + confusion.sum(0))
    shares = confusion[np.ix_(occurring, occurring)] / np.maximum(true[occurring, None], 1)
    side = 2.6 + 0.34 * len(occurring)
    figure = Figure(figsize=(side + 1.2, side), layout="constrained")
    axes = figure.subplots()
    # The square root shows the small off-diagonal shares, which a linear scale would leave white.
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 1))
    for row, column in np.argwhere(shares >= 0.005):
        value = shares[row, column]
        text = f"{100 * value:.0f}"
        axes.text(column, row, text, ha="center", va="center", fontsize=6.5, color="white" if value > 0.35 else INK)
    names = [classes.names[index] for index in occurring]
    rows = [f"{classes.names[index]}  {percent(true[index] / true.sum())}" for index in occurring]
    axes.set_xticks(range(len(occurring)), names, rotation=90, fontsize=7.5)
    axes.set_yticks(range(len(occurring)), rows, fontsize=7.5)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true, with its share of all pixels")
    between, ends = np.arange(len(occurring) - 1) + 0.5, (-0.5, len(occurring) - 0.5)
    axes.hlines(between, *ends, color="white", lw=0.8)
    axes.vlines(between, *ends, color="white", lw=0.8)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(
        image, ax=axes, shrink=0.6, ticks=[0, 0.05, 0.2, 0.5, 1], format=lambda v, _: f"{100 * v:.0f}"
    )
    bar.set_label("% of the true class", fontsize=8)
    bar.ax.tick_params(labelsize=7.5)
    bar.outline.set_visible(False)
    axes.set_title(title, fontsize=11, color=INK)
    save_figure(figure, path)


def prediction_figure(grid: PredictionGrid, path: Path, title: str) -> None:
    """Draw a row for each photo: the photo, then a coloured map for each column; below, a legend of the classes."""
    figure = Figure(figsize=_grid_size(grid), layout=_tight())
    _draw_grid(figure, grid)
    figure.suptitle(title, fontsize=11, color=INK)
    save_figure(figure, path)


def overview_figure(
    grid: PredictionGrid, argmax_scores: Mapping[str, float], all_empty_score: float, path: Path, title: str
) -> None:
    """Draw a bar for each model's argmax score, against the all-empty baseline, above a grid of predictions.

    Args:
        grid: photos, truth and predictions.
        argmax_scores: of the models, in the order of the bars.
        all_empty_score: the score of submitting nothing for the same photos.
        path: the PNG file.
        title: above the figure.
    """
    width, height = _grid_size(grid)
    bars_height = 0.9 + 0.28 * len(argmax_scores)
    figure = Figure(figsize=(width, height + bars_height), layout=_tight())
    upper, lower = np.asarray(figure.subfigures(2, 1, height_ratios=(bars_height, height)))
    axes = upper.subplots()
    names = list(argmax_scores)
    values = np.array(list(argmax_scores.values()))
    colours = [GREEN if value > all_empty_score else GREY for value in values]
    # Bars start at the baseline and so show the gain over it.
    axes.barh(names, values - all_empty_score, left=all_empty_score, color=colours, height=0.62)
    low = min(all_empty_score, values.min())
    high = max(all_empty_score, values.max())
    margin = 0.12 * (high - low) or 0.01
    axes.set_xlim(low - margin, high + margin)
    for index, (value, colour) in enumerate(zip(values, colours, strict=True)):
        side, shift = ("left", 4) if value > all_empty_score else ("right", -4)
        axes.annotate(
            f"{value:.3f}",
            (value, index),
            (shift, 0),
            textcoords="offset points",
            va="center",
            ha=side,
            fontsize=8.5,
            color=colour,
        )
    axes.axvline(all_empty_score, color=ORANGE, lw=1.6, label=f"all empty: {all_empty_score:.3f}")
    axes.legend(frameon=False, fontsize=8.5, loc="lower left", bbox_to_anchor=(0, 1.0), borderpad=0)
    axes.invert_yaxis()
    axes.set_xlabel("argmax score (mean Dice over photo and class)", fontsize=8.5)
    axes.tick_params(labelsize=8.5)
    axes.spines[["top", "right"]].set_visible(False)
    _draw_grid(lower, grid)
    figure.suptitle(title, fontsize=11, color=INK)
    save_figure(figure, path)


def _tight() -> ConstrainedLayoutEngine:
    return ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.045, wspace=0, hspace=0)


def _panel_width(grid: PredictionGrid) -> float:
    """In inches."""
    return min(2.2, 13 / (1 + len(grid.columns)))


def _grid_size(grid: PredictionGrid) -> tuple[float, float]:
    """Width and height in inches."""
    columns = 1 + len(grid.columns)
    panel = _panel_width(grid)
    aspects = [height / width for width, height in grid.shapes]
    legend_rows = -(-len(_classes_in(grid)) // _legend_columns(grid))
    return max(6.5, panel * columns + 0.3), sum(panel * aspect + 0.16 for aspect in aspects) + 0.55 + 0.18 * legend_rows


def _legend_columns(grid: PredictionGrid) -> int:
    return 4 if len(grid.columns) < 4 else 6


def _classes_in(grid: PredictionGrid) -> list[int]:
    occurring = {int(index) for maps in grid.columns.values() for own in maps for index in np.unique(own)}
    return sorted(occurring - {IGNORED})


def _draw_grid(figure: Figure | SubFigure, grid: PredictionGrid) -> None:
    # All panels, each one wide, are drawn into one Axes at their own places: Axes of their own take twice as long.
    axes = figure.subplots()
    axes.set_axis_off()
    inch = 1 / _panel_width(grid)
    across, below = 1.03, (0.24 if grid.notes else 0.07) * inch
    top = 0.0
    for row, (name, photo, (width, height)) in enumerate(zip(grid.names, grid.photos, grid.shapes, strict=True)):
        bottom = top + height / width
        label = _shorten(name, (bottom - top) / inch)
        axes.text(-0.05 * inch, (top + bottom) / 2, label, rotation=90, ha="right", va="center", fontsize=8, color=INK)
        _draw_image(axes, photo, (0, 1, bottom, top))
        for column, (title, maps) in enumerate(grid.columns.items(), start=1):
            left = column * across
            _draw_image(axes, colourise(maps[row], grid.classes), (left, left + 1, bottom, top))
            if title in grid.notes:
                note = grid.notes[title][row]
                axes.text(left + 0.5, bottom + 0.04 * inch, note, ha="center", va="top", fontsize=7.5, color=GREY)
        top = bottom + below
    for column, title in enumerate(("photo", *grid.columns)):
        axes.text(column * across + 0.5, -0.05 * inch, title, ha="center", fontsize=9, color=INK)
    axes.set_xlim(0, len(grid.columns) * across + 1)
    axes.set_ylim(top - below, 0)
    add_class_legend(figure, grid.classes, _classes_in(grid), _legend_columns(grid))


def _shorten(name: str, inches: float) -> str:
    """The end of a name that is too long for the height of its row, in letters of 8 points: there names differ."""
    characters = max(4, int(14 * inches))
    return name if len(name) <= characters else f"…{name[1 - characters :]}"


def _draw_image(axes: Axes, image: Photo, extent: tuple[float, float, float, float]) -> None:
    axes.imshow(image, extent=extent, interpolation=interpolation(image.shape[0]))
