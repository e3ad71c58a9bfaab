"""Figures: learning curve, confusion matrix, sheets of photo, truth and prediction, and the README's overview.

Only matplotlib's object interface is used: no window, no global state, no effect on a caller's own figures.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure, SubFigure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from harveyseg.classes import CLASS_NAMES, N_CLASSES, PALETTE
from harveyseg.plots import BLUE, GREEN, GREY, INK, ORANGE, add_class_legend, interpolation, percent, save_figure


@dataclass(frozen=True)
class Sheet:
    """Photos with their label maps, to be drawn side by side."""

    names: Sequence[str]
    """One per photo."""
    photos: Sequence[npt.NDArray[np.uint8]]
    """RGB (H, W, 3), of any size."""
    shapes: Sequence[tuple[int, int]]
    """(width, height) in pixels of each original, for its aspect: cached photos are squeezed."""
    columns: Mapping[str, Sequence[npt.NDArray[np.uint8]]]
    """Per column, e.g. "truth", one label map (H, W) for each photo."""
    notes: Mapping[str, Sequence[str]]
    """Per column, what is written below each of its maps; columns without notes are left out."""


def colourise(labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """RGB colours (H, W, 3) of a label map (H, W)."""
    colours: npt.NDArray[np.uint8] = PALETTE[labels]
    return colours


def learning_curve(history: pd.DataFrame, path: Path, title: str) -> None:
    """Loss of the training and the validation part per epoch, and the validation score beside it.

    Args:
        history: with the columns epoch, train_loss, val_loss and val_argmax_score; the last two are NaN where an epoch was
            not validated.
        path: the PNG file.
        title: e.g. the run's name.
    """
    figure = Figure(figsize=(9.5, 3.6), layout="constrained")
    losses, scores = figure.subplots(1, 2)
    validated = history.dropna(subset="val_argmax_score")
    epochs = validated["epoch"] + 1
    marker = "o" if len(validated) == 1 else ""  # a line through one point cannot be seen
    losses.plot(history["epoch"] + 1, history["train_loss"], color=BLUE, lw=1.8, marker=marker, label="training")
    losses.plot(epochs, validated["val_loss"], color=ORANGE, lw=1.8, marker=marker, label="validation")
    losses.set_ylabel("loss")
    losses.legend(frameon=False)
    scores.plot(epochs, validated["val_argmax_score"], color=GREEN, lw=1.8, marker=marker)
    scores.set_ylabel("validation score")
    best = int(validated["val_argmax_score"].to_numpy().argmax())
    epoch, score = int(epochs.iloc[best]), float(validated["val_argmax_score"].iloc[best])
    scores.plot([epoch], [score], "o", color=GREEN, ms=6)
    scores.set_title(f"best {score:.3f} in epoch {epoch}", fontsize=9, color=GREY, loc="right")
    for axes in (losses, scores):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25, lw=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=11, color=INK)
    save_figure(figure, path)


def confusion_figure(confusion: npt.NDArray[np.int64], path: Path, title: str) -> None:
    """Row-normalised confusion matrix of the classes that occur, with each one's share of the pixels.

    Args:
        confusion: int64 (25, 25), rows the truth, summed over the images.
        path: the PNG file.
        title: above the figure.
    """
    true = confusion.sum(1)
    shown = np.flatnonzero(true + confusion.sum(0))
    shares = confusion[np.ix_(shown, shown)] / np.maximum(true[shown, None], 1)
    side = 2.6 + 0.34 * len(shown)
    figure = Figure(figsize=(side + 1.2, side), layout="constrained")
    axes = figure.subplots()
    # The square root shows the small off-diagonal shares, which a linear scale would leave white.
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 1))
    for row, column in np.argwhere(shares >= 0.005):
        value = shares[row, column]
        text = f"{100 * value:.0f}"
        axes.text(column, row, text, ha="center", va="center", fontsize=6.5, color="white" if value > 0.35 else INK)
    names = [CLASS_NAMES[class_id] for class_id in shown]
    rows = [f"{name}  {percent(true[class_id] / true.sum())}" for name, class_id in zip(names, shown, strict=True)]
    axes.set_xticks(range(len(shown)), names, rotation=90, fontsize=7.5)
    axes.set_yticks(range(len(shown)), rows, fontsize=7.5)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true, with its share of all pixels")
    axes.set_xticks(np.arange(len(shown) - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(len(shown) - 1) + 0.5, minor=True)
    axes.grid(which="minor", color="white", lw=0.8)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(
        image, ax=axes, shrink=0.6, ticks=[0, 0.05, 0.2, 0.5, 1], format=lambda v, _: f"{100 * v:.0f}"
    )
    bar.set_label("% of the true class", fontsize=8)
    bar.ax.tick_params(labelsize=7.5)
    bar.outline.set_visible(False)
    axes.set_title(title, fontsize=11, color=INK)
    save_figure(figure, path)


def prediction_sheet(sheet: Sheet, path: Path, title: str) -> None:
    """One row per photo: the photo, then a coloured map per column, above a legend of the classes that occur."""
    figure = Figure(figsize=_sheet_size(sheet), layout=_tight())
    _draw_sheet(figure, sheet)
    figure.suptitle(title, fontsize=11, color=INK)
    save_figure(figure, path)


def overview(sheet: Sheet, scores: Mapping[str, float], all_empty_score: float, path: Path, title: str) -> None:
    """A bar for each model's score, against "all empty", above a sheet with a column for each model.

    Args:
        sheet: photo, truth and predictions.
        scores: per model, in the order of the bars.
        all_empty_score: what handing in nothing scores on the same photos.
        path: the PNG file.
        title: above the figure.
    """
    width, height = _sheet_size(sheet)
    bars_height = 0.9 + 0.28 * len(scores)
    figure = Figure(figsize=(width, height + bars_height), layout=_tight())
    upper, lower = np.asarray(figure.subfigures(2, 1, height_ratios=(bars_height, height)))
    axes = upper.subplots()
    names, values = list(scores), np.array(list(scores.values()))
    colours = [GREEN if value > all_empty_score else GREY for value in values]
    # Bars start at "all empty": what a model is worth is what it adds to that.
    axes.barh(names, values - all_empty_score, left=all_empty_score, color=colours, height=0.62)
    low, high = min(all_empty_score, values.min()), max(all_empty_score, values.max())
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
    axes.set_xlabel("score of the label map (mean Dice over image and class)", fontsize=8.5)
    axes.tick_params(labelsize=8.5)
    axes.spines[["top", "right"]].set_visible(False)
    _draw_sheet(lower, sheet)
    figure.suptitle(title, fontsize=11, color=INK)
    save_figure(figure, path)


def diversity_figure(
    models: Sequence[str],
    disagreement: npt.NDArray[np.float64],
    error_correlation: npt.NDArray[np.float64],
    scores: Mapping[str, float],
    path: Path,
    title: str,
) -> None:
    """How much models differ, pair by pair, and what each of them and their mixtures score.

    Args:
        models: their names.
        disagreement: (m, m), share of the pixels that two models label differently.
        error_correlation: (m, m), correlation of their errors; NaN where undefined.
        scores: per bar, models and mixtures.
        path: the PNG file.
        title: above the figure.
    """
    side = 1.1 + 0.42 * len(models)
    figure = Figure(figsize=(2 * side + 5.4, max(side + 0.9, 0.9 + 0.26 * len(scores))), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(side, side, 3.4))
    _pairs(left, models, 100 * disagreement, "Blues", None, "% of pixels labelled differently", ".0f")
    _pairs(middle, models, error_correlation, "Oranges", 1.0, "correlation of errors", ".2f")
    middle.set_yticklabels([])
    names, values = list(scores), np.array(list(scores.values()))
    margin = 0.15 * (values.max() - values.min()) or 0.01
    colours = [BLUE if name in models else GREEN for name in names]
    right.barh(names, values, color=colours, height=0.62)
    right.set_xlim(values.min() - margin, values.max() + 2 * margin)  # differences count, not distances from 0
    for index, value in enumerate(values):
        right.annotate(
            f"{value:.4f}", (value, index), (3, 0), textcoords="offset points", va="center", fontsize=7.5, color=INK
        )
    right.invert_yaxis()
    right.set_title("score of the label map", fontsize=9, color=INK)
    right.tick_params(labelsize=7.5)
    right.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=11, color=INK)
    save_figure(figure, path)


def _pairs(
    axes: Axes,
    names: Sequence[str],
    values: npt.NDArray[np.float64],
    colours: str,
    top: float | None,
    title: str,
    form: str,
) -> None:
    """A symmetric matrix of models, without its diagonal, with its numbers; ``top`` None is the largest of them."""
    shown = np.where(np.eye(len(names), dtype=bool), np.nan, values)
    if top is None:
        top = float(shown[~np.isnan(shown)].max(initial=1e-9))
    axes.imshow(shown, cmap=colours, vmin=0, vmax=1.6 * top)  # the darkest colours would hide the numbers
    for row, column in np.argwhere(~np.isnan(shown)):
        axes.text(column, row, format(shown[row, column], form), ha="center", va="center", fontsize=7.5, color=INK)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7.5)
    axes.set_yticks(range(len(names)), names, fontsize=7.5)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(title, fontsize=9, color=INK)


def decision_figure(
    worth: npt.NDArray[np.float64],
    present: npt.NDArray[np.bool_],
    decided: npt.NDArray[np.int64],
    path: Path,
    title: str,
) -> None:
    """Per class, the score against a threshold that all photos share, and beside it what was decided.

    Args:
        worth: (n, 24, 257), Dice of every decision, see :class:`harveyseg.postprocess.decision.Evidence`.
        present: (n, 24), whether the truth holds the class.
        decided: (n, 24), the decision for each photo: 0 the label map, 1..255 a threshold, 256 nothing.
        path: the PNG file.
        title: above the figure.
    """
    figure = Figure(figsize=(13, 8.6))
    panels = figure.subplots(4, 6, sharex=True, sharey=True)
    # By hand: 24 panels would keep the layout engine busy for a second.
    figure.subplots_adjust(left=0.045, right=0.99, bottom=0.1, top=0.915, wspace=0.08, hspace=0.28)
    thresholds = np.arange(1, 256) / 255
    scores = np.take_along_axis(worth, decided[..., None], -1)[..., 0].mean(0)
    for index, axes in enumerate(panels.flat):
        chosen = decided[:, index]
        handed_in, levels = int((chosen < 256).sum()), chosen[(chosen > 0) & (chosen < 256)]
        axes.plot(thresholds, worth[:, index, 1:256].mean(0), color=BLUE, lw=1.4, label="one threshold, always")
        axes.axhline(worth[:, index, 256].mean(), color=ORANGE, lw=1.1, ls="--", label="nothing")
        axes.axhline(worth[:, index, 0].mean(), color=GREY, lw=1.1, ls=":", label="label map")
        axes.axhline(scores[index], color=GREEN, lw=1.1, label="decided")
        # A mark for each photo, where its own threshold is.
        axes.plot(levels / 255, np.full(len(levels), scores[index]), "|", color=GREEN, ms=11, label="its thresholds")
        axes.set_title(CLASS_NAMES[index + 1], fontsize=8.5, color=INK)
        axes.text(
            0.99,
            0.98,
            f"in {present[:, index].sum()} of {len(present)} photos, handed in {handed_in}",
            transform=axes.transAxes,
            ha="right",
            va="top",
            fontsize=6.5,
            color=GREY,
        )
        axes.set(xlim=(0, 1), ylim=(0, 1.2), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("threshold", fontsize=9, y=0.045)
    figure.supylabel("mean Dice over all photos", fontsize=9, x=0.005)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=5, frameon=False, fontsize=8.5)
    figure.suptitle(title, fontsize=11, color=INK, y=0.985)
    save_figure(figure, path)


def _tight() -> ConstrainedLayoutEngine:
    return ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.045, wspace=0, hspace=0)


def _sheet_size(sheet: Sheet) -> tuple[float, float]:
    """Width and height in inches."""
    columns = 1 + len(sheet.columns)
    panel = min(2.2, 13 / columns)
    aspects = [height / width for width, height in sheet.shapes]
    legend_rows = -(-len(_classes_of(sheet)) // _legend_columns(sheet))
    return max(6.5, panel * columns + 0.3), sum(panel * aspect + 0.16 for aspect in aspects) + 0.55 + 0.18 * legend_rows


def _legend_columns(sheet: Sheet) -> int:
    return 4 if len(sheet.columns) < 4 else 6


def _classes_of(sheet: Sheet) -> list[int]:
    maps: Iterable[npt.NDArray[np.uint8]] = (labels for column in sheet.columns.values() for labels in column)
    occurs = np.zeros(N_CLASSES, np.bool_)
    for labels in maps:
        occurs[np.unique(labels)] = True
    return [int(class_id) for class_id in np.flatnonzero(occurs)]


def _draw_sheet(figure: Figure | SubFigure, sheet: Sheet) -> None:
    aspects = [height / width for width, height in sheet.shapes]
    grid = figure.subplots(len(sheet.photos), 1 + len(sheet.columns), squeeze=False, height_ratios=aspects)
    for row, (name, photo, shape) in enumerate(zip(sheet.names, sheet.photos, sheet.shapes, strict=True)):
        _draw_image(grid[row, 0], photo, shape)
        grid[row, 0].set_ylabel(name, fontsize=8, color=INK)
        for axes, (column, maps) in zip(grid[row, 1:], sheet.columns.items(), strict=True):
            _draw_image(axes, colourise(maps[row]), shape)
            if column in sheet.notes:
                axes.set_xlabel(sheet.notes[column][row], fontsize=7.5, color=GREY, labelpad=3)
    for axes, column in zip(grid[0], ("photo", *sheet.columns), strict=True):
        axes.set_title(column, fontsize=9, color=INK)
    add_class_legend(figure, _classes_of(sheet), _legend_columns(sheet))


def _draw_image(axes: Axes, image: npt.NDArray[np.uint8], shape: tuple[int, int]) -> None:
    width, height = shape
    axes.imshow(image, extent=(0, width, height, 0), interpolation=interpolation(image.shape[0]))
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
