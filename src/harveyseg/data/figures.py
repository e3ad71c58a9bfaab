"""The data in figures: how much of the photos each class covers, how large they are, what augmentation makes of them.

Tables and pictures of all training photos, whatever fold they are in. As in :mod:`harveyseg.evaluation.figures`, only matplotlib's
object interface is used.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.colors
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator
from pydantic import ConfigDict

from harveyseg.classes import CLASS_NAMES, N_CLASSES, PALETTE
from harveyseg.config.settings import Section
from harveyseg.data.augmentation import Augmentation, AugmentationParams
from harveyseg.data.cache import COUNTS, CachedPart, class_frequencies
from harveyseg.errors import HarveysegError
from harveyseg.files import atomic, write_text

Image = npt.NDArray[np.uint8]

_INK, _GREY = "#222222", "#8a8a8a"
_COLOURS = PALETTE / 255
_LARGEST = 3
"""The report names the three classes that take up more than half of the pixels."""
_SIZES = 8
"""Sizes of photos that are drawn one by one."""
_PHOTOS, _EPOCHS = 3, 5
"""Of the augmented sheet."""


class SampleParams(Section):
    """What of the section ``train`` makes a sample; the stage ``configure`` checks the rest of it."""

    model_config = ConfigDict(extra="ignore")

    augmentation: AugmentationParams
    seed: int


@dataclass(frozen=True)
class Samples:
    """A photo with its mask, and the samples of it that training sees in its first epochs."""

    name: str
    images: Sequence[Image]
    """RGB (H, W, 3), the photo itself first."""
    masks: Sequence[Image]
    """Class ids (H, W), in the same order."""


def class_shares(photos: pd.DataFrame) -> pd.DataFrame:
    """How often each class occurs in the full-size masks.

    Args:
        photos: the training part's photos.csv.

    Returns:
        One row for each of the 25 classes, with the columns class_id, name, pixel_share (of all pixels of all photos;
        the sum is 1) and photos (how many hold the class).
    """
    return pd.DataFrame(
        {
            "class_id": range(N_CLASSES),
            "name": CLASS_NAMES,
            "pixel_share": class_frequencies(photos),
            "photos": (photos[list(COUNTS)].to_numpy() > 0).sum(axis=0),
        }
    )


def photo_sizes(train: pd.DataFrame, test: pd.DataFrame) -> pd.DataFrame:
    """How many photos there are of each size.

    Args:
        train: photos.csv of the training part.
        test: photos.csv of the test part.

    Returns:
        One row for each size, the commonest first, then by width and height, with the columns width, height (pixels of
        the original), train and test (photos).
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


def training_samples(part: CachedPart, params: SampleParams) -> list[Samples]:
    """Some photos, far from one another and rich in classes, with their samples of the first epochs.

    They are the very samples of a training with these settings, but for ``focus``, which would show other photos.

    Args:
        part: the cached training part.
        params: how samples are made.

    Returns:
        At most three photos: of each third of the part the one with the most classes.

    Raises:
        HarveysegError: when the part holds no masks.
    """
    if part.masks is None:
        raise HarveysegError("the training cache has no masks. Run `dvc repro resize-cache` again.")
    augmentation = Augmentation(params.augmentation, params.seed)
    held = (part.photos[list(COUNTS)].to_numpy() > 0).sum(axis=1)
    thirds = [rows for rows in np.array_split(np.arange(len(part.ids)), _PHOTOS) if len(rows)]
    found = []
    for row in (int(rows[held[rows].argmax()]) for rows in thirds):
        image, mask = np.array(part.images[row]), np.array(part.masks[row])
        pairs = [(image, mask), *(augmentation(image, mask, epoch, row) for epoch in range(_EPOCHS))]
        images, masks = zip(*pairs, strict=True)
        found.append(Samples(part.ids[row], images, masks))
    return found


def write_data_figures(folder: Path, part: CachedPart, test: pd.DataFrame, params: SampleParams) -> None:
    """Write ``class_shares`` and ``photo_sizes``, as .csv and .png, and ``augmented.png``.

    Args:
        folder: where to.
        part: the cached training part.
        test: the test part's photos.csv.
        params: how samples are made.

    Raises:
        HarveysegError: see :func:`training_samples`.
    """
    shares, sizes = class_shares(part.photos), photo_sizes(part.photos, test)
    for name, table in {"class_shares": shares, "photo_sizes": sizes}.items():
        write_text(folder / f"{name}.csv", table.to_csv(index=False, lineterminator="\n"))
    class_figure(shares, len(part.ids), folder / "class_shares.png")
    size_figure(sizes, part.size, folder / "photo_sizes.png")
    augmented_figure(training_samples(part, params), params.augmentation, folder / "augmented.png")


def largest(shares: pd.DataFrame) -> tuple[list[str], float]:
    """Names of the three classes with the most pixels, the background left out, and their share of all pixels."""
    found = shares.iloc[1:].nlargest(_LARGEST, "pixel_share")
    return list(found["name"]), float(found["pixel_share"].sum())


def class_figure(shares: pd.DataFrame, photos: int, path: Path) -> None:
    """Share of the pixels, on a logarithmic scale, and number of photos of each class, the commonest on top.

    Args:
        shares: as from :func:`class_shares`.
        photos: how many there are.
        path: the PNG file.
    """
    ordered = shares.sort_values("pixel_share", ascending=False, kind="stable")
    share, colours = ordered["pixel_share"].to_numpy(), _COLOURS[ordered["class_id"]]
    places, occurs = range(N_CLASSES), share > 0
    names, total = largest(shares)
    figure = Figure(figsize=(9.6, 6.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    # Dots instead of bars: a logarithmic scale has no 0 for a bar to start from.
    low = 10.0 ** np.floor(np.log10(share[occurs].min()))
    left.hlines(np.flatnonzero(occurs), low, share[occurs], color="#dddddd", lw=1.2, zorder=1)
    dots = {"c": colours[occurs], "edgecolors": _GREY, "linewidths": 0.6}
    left.scatter(share[occurs], np.flatnonzero(occurs), s=58, zorder=2, **dots)
    left.set_xscale("log")
    left.set_xlim(low, 4 * share.max())  # room for the numbers
    for place, value in zip(places, share, strict=True):
        text, at, shift, colour = (_percent(value), value, 7, _INK) if value else ("absent", low, 3, _GREY)
        _note(left, text, at, place, shift, colour)
    left.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
    left.set_xlabel("share of all pixels", fontsize=9)
    left.set_yticks(places, ordered["name"].replace(CLASS_NAMES[0], f"{CLASS_NAMES[0]} (unlabelled)"), fontsize=8.5)
    for label in left.get_yticklabels():
        label.set_fontweight("bold" if label.get_text() in names else "normal")
    right.barh(places, ordered["photos"], height=0.68, color=colours, edgecolor=_GREY, linewidth=0.6)
    for place, count in zip(places, ordered["photos"], strict=True):
        _note(right, str(count), count, place, 4, _INK if count else _GREY)
    right.set_xlim(0, 1.1 * photos)
    right.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    right.set_xlabel(f"photos that hold the class, of {photos}", fontsize=9)
    for axes in (left, right):
        axes.tick_params(axis="y", length=0)
        axes.tick_params(axis="x", labelsize=8.5)
        axes.grid(axis="x", alpha=0.25, lw=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.set_ylim(N_CLASSES - 0.4, -0.6)
    title = f"{', '.join(names[:-1])} and {names[-1]} take up {100 * total:.1f}% of all pixels"
    figure.suptitle(title, fontsize=11, color=_INK)
    _save(figure, path)


def size_figure(sizes: pd.DataFrame, cached: tuple[int, int], path: Path) -> None:
    """The outlines of the photos to scale, beside how many there are of each size.

    Args:
        sizes: as from :func:`photo_sizes`; the commonest are drawn, the others are one bar.
        cached: (height, width) in pixels of the resize cache.
        path: the PNG file.
    """
    drawn, others = sizes.iloc[:_SIZES], sizes.iloc[_SIZES:]
    outlines = list(zip(drawn["width"], drawn["height"], strict=True))
    labels, counts = [f"{width} x {height}" for width, height in outlines], drawn[["train", "test"]]
    colours = [matplotlib.colormaps["Dark2"](index) for index in range(len(drawn))]
    if len(others):
        labels.append(f"{len(others)} other sizes")
        counts = pd.concat([counts, others[["train", "test"]].sum().to_frame().T])
        colours.append(matplotlib.colors.to_rgba(_GREY))
    figure = Figure(figsize=(8.6, max(3.2, 1.5 + 0.34 * len(labels))), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 2))
    height, width = cached
    left.add_patch(Rectangle((0, 0), width, height, color=_GREY, alpha=0.35))
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
        _note(right, f"{train} training, {test} test", train + test, place, 4, _INK)
    right.set_xlim(0, 1.45 * counts.sum(axis="columns").max())  # room for the numbers
    right.set_yticks(places, labels, fontsize=8.5)
    right.set_ylim(max(len(labels), 4) - 0.4, -0.6)  # few bars shall not be fat
    right.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    right.set_xlabel("photos", fontsize=9)
    right.tick_params(axis="y", length=0)
    for axes in (left, right):
        axes.tick_params(axis="x", labelsize=8.5)
        axes.spines[["top", "right"]].set_visible(False)
    left.tick_params(axis="y", labelsize=8.5)
    figure.suptitle(f"Sizes of the photos, and of the cache: {width} x {height} (grey)", fontsize=11, color=_INK)
    _save(figure, path)


def augmented_figure(samples: Sequence[Samples], params: AugmentationParams, path: Path) -> None:
    """For each photo a row of its samples and a row of their masks, above a legend of the classes that occur.

    Args:
        samples: as from :func:`training_samples`.
        params: what made them, for the title.
        path: the PNG file.
    """
    side, columns = 1.75, 1 + _EPOCHS
    classes = np.unique(np.concatenate([np.unique(mask) for one in samples for mask in one.masks]))
    height = len(samples) * (2 * side + 0.1) + 0.75 + 0.18 * -(-len(classes) // 6)
    layout = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    figure = Figure(figsize=(side * columns + 0.3, height), layout=layout)
    # squeeze=False: one photo alone makes an array of subfigures, too.
    for subfigure, one in zip(figure.subfigures(len(samples), 1, squeeze=False).flat, samples, strict=True):
        grid = subfigure.subplots(2, columns)
        for column, (image, mask) in enumerate(zip(one.images, one.masks, strict=True)):
            for axes, shown in ((grid[0, column], image), (grid[1, column], PALETTE[mask])):
                axes.imshow(shown, interpolation="nearest" if len(shown) < 200 else "antialiased")
                axes.set_xticks([])
                axes.set_yticks([])
                axes.spines[:].set_visible(False)
            if one is samples[0]:
                grid[0, column].set_title(f"epoch {column}" if column else "as cached", fontsize=9, color=_INK)
        grid[0, 0].set_ylabel(one.name, fontsize=8.5, color=_INK)
        grid[1, 0].set_ylabel("mask", fontsize=8.5, color=_GREY)
    figure.legend(
        handles=[
            Patch(facecolor=_COLOURS[class_id], edgecolor=_GREY, lw=0.5, label=CLASS_NAMES[class_id])
            for class_id in classes
        ],
        loc="outside lower center",
        ncols=6,
        frameon=False,
        fontsize=7.5,
        handlelength=1.1,
        handleheight=1.1,
    )
    values = params.model_dump(exclude={"focus"})  # which samples here do not have
    used = [name for name, value in values.items() if value and values[name.removesuffix("_limit")]]
    settings = ", ".join(f"{name}\u00a0{values[name]:g}" for name in used)  # a line does not break at such a space
    title = textwrap.fill(f"Samples of the first {_EPOCHS} epochs: {settings or 'no augmentation'}", 120)
    figure.suptitle(f"{title}\n", fontsize=10, color=_INK)  # a line of space above the columns' names
    _save(figure, path)


def _percent(share: float) -> str:
    """Two digits that count of a small share."""
    if share >= 0.01:
        return f"{100 * share:.1f}%"
    return f"{100 * share:#.2g}%" if share >= 1e-6 else "<0.0001%"


def _note(axes: Axes, text: str, value: float, place: float, shift: float, colour: str) -> None:
    """A text ``shift`` points right of a bar's or dot's end."""
    axes.annotate(text, (value, place), (shift, 0), textcoords="offset points", va="center", fontsize=8, color=colour)


def _save(figure: Figure, path: Path) -> None:
    with atomic(path) as temporary:
        # Without the program's version in it, the same figure is the same file.
        figure.savefig(temporary, dpi=130, metadata={"Software": None}, pil_kwargs={"compress_level": 3})
