"""Figures of the data: the share of each class, the sizes of the photos, and augmented samples.

They show all training photos, whatever their fold.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.colors
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator
from pydantic import ConfigDict

from harveyseg.arrays import ClassMap, Photo
from harveyseg.classes import IGNORED, ClassList
from harveyseg.config.settings import Section
from harveyseg.data.augmentation import Augmentation, AugmentationParams
from harveyseg.data.cache import CachedPart, class_counts, class_frequencies
from harveyseg.errors import HarveysegError
from harveyseg.files import write_table
from harveyseg.plots import GREY, INK, add_class_legend, colourise, interpolation, precise_percent, save_figure

_N_LARGEST = 3  # the report says that three classes take up more than half of the pixels
_MAX_SIZES = 8  # sizes of photos that are drawn one by one
_N_PHOTOS = 3
_EPOCHS = 5


class SampleParams(Section):
    """The keys of the section ``train`` that decide what a sample looks like; other keys are ignored."""

    model_config = ConfigDict(extra="ignore")

    augmentation: AugmentationParams
    seed: int


@dataclass(frozen=True)
class AugmentedPhoto:
    """A photo with its mask, and the samples of both that a training sees in its first epochs."""

    name: str
    images: Sequence[Photo]
    """The cached photo first."""
    masks: Sequence[ClassMap]
    """In the same order."""


def class_shares(photos: pd.DataFrame, classes: ClassList) -> pd.DataFrame:
    """The share and the number of photos of each class, from the full-size masks.

    Args:
        photos: the training part's photos.csv.
        classes: what the masks hold.

    Returns:
        One row for each class, by index: class_id, name, pixel_share (of all labelled pixels of all photos; sums to 1)
        and photos (the number that hold the class).
    """
    return pd.DataFrame(
        {
            "class_id": [entry.id for entry in classes.classes],
            "name": classes.names,
            "pixel_share": class_frequencies(photos),
            "photos": (class_counts(photos) > 0).sum(axis=0),
        }
    )


def photo_sizes(train: pd.DataFrame, test: pd.DataFrame) -> pd.DataFrame:
    """Count the photos of each size.

    Args:
        train: photos.csv of the training part.
        test: photos.csv of the test part.

    Returns:
        One row for each size: width and height in pixels of the original, and the numbers of train and test photos. The
        most frequent size is first; ties are ordered by width, then height.

    Example:
        >>> sizes = pd.DataFrame({"width": [3000, 4592, 3000], "height": [4000, 3072, 4000]})
        >>> photo_sizes(sizes, sizes[:1])
           width  height  train  test
        0   3000    4000      2     1
        1   4592    3072      1     0
    """
    counts = pd.concat(
        [
            photos.groupby(["width", "height"]).size().rename(part)
            for part, photos in (("train", train), ("test", test))
        ],
        axis="columns",
    )
    counts = counts.fillna(0).astype(int).sort_index()
    order = np.argsort(-counts.sum(axis="columns").to_numpy(), kind="stable")
    return counts.iloc[order].reset_index()


def training_samples(part: CachedPart, params: SampleParams) -> list[AugmentedPhoto]:
    """Augment a few photos as a training with these settings does in its first epochs.

    Rare-class sampling is left out: it would show other photos.

    Args:
        part: the cached training part.
        params: how samples are made.

    Returns:
        At most three photos: from each third of the part, the one with the most classes.

    Raises:
        HarveysegError: when the part holds no masks.
    """
    if part.masks is None:
        raise HarveysegError("the training cache has no masks. Run `dvc repro resize-cache` again.")
    augmentation = Augmentation(params.augmentation, params.seed)
    n_classes = (class_counts(part.photos) > 0).sum(axis=1)
    photos = []
    for third in np.array_split(np.arange(len(part.ids)), _N_PHOTOS):
        if not len(third):
            continue
        row = int(third[n_classes[third].argmax()])
        image = np.array(part.images[row])
        mask = np.array(part.masks[row])
        samples = [(image, mask), *(augmentation(image, mask, epoch, row) for epoch in range(_EPOCHS))]
        images, masks = zip(*samples, strict=True)
        photos.append(AugmentedPhoto(part.ids[row], images, masks))
    return photos


def write_data_figures(folder: Path, part: CachedPart, test: pd.DataFrame, params: SampleParams) -> None:
    """Write ``class_shares`` and ``photo_sizes``, as .csv and .png, and ``augmented.png``.

    Args:
        folder: where to write them.
        part: the cached training part.
        test: the test part's photos.csv.
        params: how samples are made.

    Raises:
        HarveysegError: see :func:`training_samples`.
    """
    shares = class_shares(part.photos, part.classes)
    sizes = photo_sizes(part.photos, test)
    for name, table in {"class_shares": shares, "photo_sizes": sizes}.items():
        write_table(folder / f"{name}.csv", table)
    class_figure(shares, part.classes, len(part.ids), folder / "class_shares.png")
    size_figure(sizes, part.size, folder / "photo_sizes.png")
    augmented_figure(training_samples(part, params), part.classes, params.augmentation, folder / "augmented.png")


def largest_classes(shares: pd.DataFrame, unscored: int) -> tuple[list[str], float]:
    """Names of the three scored classes with the most pixels, and their share of all pixels."""
    largest = shares.iloc[unscored:].nlargest(_N_LARGEST, "pixel_share")
    return list(largest["name"]), float(largest["pixel_share"].sum())


def class_figure(shares: pd.DataFrame, classes: ClassList, photos: int, path: Path) -> None:
    """Draw each class's share of the pixels, on a logarithmic scale, and its number of photos, sorted by share.

    Args:
        shares: as from :func:`class_shares`.
        classes: what the masks hold.
        photos: the number of photos.
        path: the PNG file.
    """
    ordered = shares.sort_values("pixel_share", ascending=False, kind="stable")
    share = ordered["pixel_share"].to_numpy()
    occurs = share > 0
    colours = classes.palette[ordered.index] / 255
    places = range(len(classes))
    names, total = largest_classes(shares, classes.unscored)
    figure = Figure(figsize=(9.6, 1.6 + 0.2 * len(classes)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    # Dots instead of bars: a logarithmic scale has no 0 for a bar to start from.
    low = 10.0 ** np.floor(np.log10(share[occurs].min()))
    left.hlines(np.flatnonzero(occurs), low, share[occurs], color="#dddddd", lw=1.2, zorder=1)
    dots = {"c": colours[occurs], "edgecolors": GREY, "linewidths": 0.6}
    left.scatter(share[occurs], np.flatnonzero(occurs), s=58, zorder=2, **dots)
    left.set_xscale("log")
    left.set_xlim(low, 4 * share.max())  # room for the numbers
    for place, value in zip(places, share, strict=True):
        if value:
            _note(left, precise_percent(value), value, place, 7, INK)
        else:
            _note(left, "absent", low, place, 3, GREY)
    left.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
    left.set_xlabel("share of all pixels", fontsize=9)
    unscored = classes.names[: classes.unscored]
    left.set_yticks(places, ordered["name"].replace({name: f"{name} (not scored)" for name in unscored}), fontsize=8.5)
    for label in left.get_yticklabels():
        label.set_fontweight("bold" if label.get_text() in names else "normal")
    right.barh(places, ordered["photos"], height=0.68, color=colours, edgecolor=GREY, linewidth=0.6)
    for place, count in zip(places, ordered["photos"], strict=True):
        _note(right, str(count), count, place, 4, INK if count else GREY)
    right.set_xlim(0, 1.1 * photos)
    right.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    right.set_xlabel(f"photos that hold the class, of {photos}", fontsize=9)
    for axes in (left, right):
        axes.tick_params(axis="y", length=0)
        axes.tick_params(axis="x", labelsize=8.5)
        axes.grid(axis="x", alpha=0.25, lw=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.set_ylim(len(classes) - 0.4, -0.6)
    *others, last = names
    subject = f"{', '.join(others)} and {last} take" if others else f"{last} takes"
    figure.suptitle(f"{subject} up {100 * total:.1f}% of all pixels", fontsize=11, color=INK)
    save_figure(figure, path)


def size_figure(sizes: pd.DataFrame, cached: tuple[int, int], path: Path) -> None:
    """Draw the outlines of the photos to scale, next to the number of photos of each size.

    Args:
        sizes: as from :func:`photo_sizes`; the most frequent are drawn, the others share one bar.
        cached: (height, width) in pixels of the resize cache.
        path: the PNG file.
    """
    drawn = sizes.iloc[:_MAX_SIZES]
    others = sizes.iloc[_MAX_SIZES:]
    outlines = list(zip(drawn["width"], drawn["height"], strict=True))
    labels = [f"{width} x {height}" for width, height in outlines]
    counts = drawn[["train", "test"]]
    colours = [matplotlib.colormaps["Dark2"](index) for index in range(len(drawn))]
    if len(others):
        labels.append(f"{len(others)} other sizes")
        counts = pd.concat([counts, others[["train", "test"]].sum().to_frame().T])
        colours.append(matplotlib.colors.to_rgba(GREY))
    figure = Figure(figsize=(8.6, max(3.2, 1.5 + 0.34 * len(labels))), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 2))
    height, width = cached
    left.add_patch(Rectangle((0, 0), width, height, color=GREY, alpha=0.35))
    for (across, along), colour in zip(outlines, colours, strict=False):
        left.add_patch(Rectangle((0, 0), across, along, fill=False, edgecolor=colour, lw=1.6))
    left.set(xlim=(0, 1.03 * max(width, drawn["width"].max())), ylim=(0, 1.03 * max(height, drawn["height"].max())))
    left.set_aspect("equal")
    left.set_xlabel("width in pixels", fontsize=9)
    left.set_ylabel("height in pixels", fontsize=9)
    places = np.arange(len(labels))
    right.barh(places, counts["train"], color=colours, height=0.6)
    right.barh(places, counts["test"], left=counts["train"], color=colours, height=0.6, alpha=0.45)
    for place, (train, test) in enumerate(counts.itertuples(index=False)):
        _note(right, f"{train} training, {test} test", train + test, place, 4, INK)
    right.set_xlim(0, 1.45 * counts.sum(axis="columns").max())  # room for the numbers
    right.set_yticks(places, labels, fontsize=8.5)
    right.set_ylim(max(len(labels), 4) - 0.4, -0.6)  # keeps a few bars thin
    right.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    right.set_xlabel("photos", fontsize=9)
    right.tick_params(axis="y", length=0)
    for axes in (left, right):
        axes.tick_params(axis="x", labelsize=8.5)
        axes.spines[["top", "right"]].set_visible(False)
    left.tick_params(axis="y", labelsize=8.5)
    figure.suptitle(f"Sizes of the photos, and of the cache: {width} x {height} (grey)", fontsize=11, color=INK)
    save_figure(figure, path)


def augmented_figure(
    photos: Sequence[AugmentedPhoto], classes: ClassList, params: AugmentationParams, path: Path
) -> None:
    """Draw, for each photo, a row of samples and a row of their masks, above a legend of the classes that occur.

    Args:
        photos: as from :func:`training_samples`.
        classes: what the masks hold.
        params: the settings of the augmentation, for the title.
        path: the PNG file.
    """
    side = 1.75
    columns = 1 + _EPOCHS
    occurring = np.unique(np.concatenate([np.unique(mask) for photo in photos for mask in photo.masks]))
    occurring = occurring[occurring != IGNORED]
    height = len(photos) * (2 * side + 0.1) + 0.75 + 0.18 * -(-len(occurring) // 6)
    layout = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    figure = Figure(figsize=(side * columns + 0.3, height), layout=layout)
    # Without squeeze=False, a single photo would give a subfigure instead of an array of them.
    for subfigure, photo in zip(figure.subfigures(len(photos), 1, squeeze=False).flat, photos, strict=True):
        grid = subfigure.subplots(2, columns)
        for column, (image, mask) in enumerate(zip(photo.images, photo.masks, strict=True)):
            for axes, pixels in ((grid[0, column], image), (grid[1, column], colourise(mask, classes))):
                axes.imshow(pixels, interpolation=interpolation(len(pixels)))
                axes.set_xticks([])
                axes.set_yticks([])
                axes.spines[:].set_visible(False)
            if photo is photos[0]:
                grid[0, column].set_title(f"epoch {column}" if column else "as cached", fontsize=9, color=INK)
        grid[0, 0].set_ylabel(photo.name, fontsize=8.5, color=INK)
        grid[1, 0].set_ylabel("mask", fontsize=8.5, color=GREY)
    add_class_legend(figure, classes, occurring, columns=6)
    values = params.model_dump()
    used = [name for name, value in values.items() if value and values[name.removesuffix("_limit")]]
    settings = ", ".join(f"{name}\u00a0{values[name]:g}" for name in used)  # a line does not break at such a space
    title = textwrap.fill(f"Samples of the first {_EPOCHS} epochs: {settings or 'no augmentation'}", 120)
    figure.suptitle(f"{title}\n", fontsize=10, color=INK)  # a line of space above the columns' names
    save_figure(figure, path)


def _note(axes: Axes, text: str, value: float, place: float, shift: float, colour: str) -> None:
    """Write a text ``shift`` points to the right of the end of a bar or dot."""
    axes.annotate(text, (value, place), (shift, 0), textcoords="offset points", va="center", fontsize=8, color=colour)
