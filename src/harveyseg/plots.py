"""The style that all figures share: colours, the legend of classes, numbers as text, and how a figure is saved.

Only matplotlib's object interface is used: no window, no global state, no effect on a caller's own figures.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Patch

from harveyseg.arrays import ClassMap, Photo
from harveyseg.classes import ClassList
from harveyseg.files import atomic

INK = "#222222"
"""Text."""
GREY = "#8a8a8a"
"""Outlines, and what is secondary."""
BLUE = "#2f6db3"
ORANGE = "#d9772b"
GREEN = "#3a8f5a"

DPI = 130


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG file, atomically. The same figure gives the same bytes."""
    with atomic(path) as temporary:
        figure.set_dpi(DPI)
        # Not savefig, which draws everything twice. matplotlib would add its own version.
        plain = {"metadata": {"Software": None}, "pil_kwargs": {"compress_level": 3}}
        FigureCanvasAgg(figure).print_png(temporary, **plain)  # type: ignore[no-untyped-call]


def colourise(class_map: ClassMap, classes: ClassList) -> Photo:
    """RGB colours (H, W, 3) of a class map (H, W); white where it is 255."""
    colours = np.full((256, 3), 255, np.uint8)
    colours[: len(classes)] = classes.palette
    return colours[class_map]


def add_class_legend(figure: Figure | SubFigure, classes: ClassList, shown: Iterable[int], columns: int) -> None:
    """Put a legend with the colour and name of each class below the panels.

    Args:
        figure: with a constrained layout.
        classes: the list of classes.
        shown: the indices of those to show.
        columns: of the legend.
    """
    figure.legend(
        handles=[
            Patch(facecolor=classes.palette[index] / 255, edgecolor=GREY, lw=0.5, label=classes.names[index])
            for index in shown
        ],
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        fontsize=7.5,
        handlelength=1.1,
        handleheight=1.1,
    )


def interpolation(pixels: int) -> str:
    """How ``imshow`` draws an image of so many rows: small ones with visible pixels."""
    return "nearest" if pixels < 200 else "antialiased"


def percent(share: float) -> str:
    """A share with one decimal.

    >>> percent(0.4567), percent(0), percent(0.0001)
    ('45.7%', '0.0%', '<0.1%')
    """
    return f"{100 * share:.1f}%" if share >= 0.0005 or share == 0 else "<0.1%"


def precise_percent(share: float) -> str:
    """A share with at least two significant digits, for shares that span orders of magnitude.

    >>> precise_percent(0.4567), precise_percent(0.000123), precise_percent(1e-9)
    ('45.7%', '0.012%', '<0.0001%')
    """
    if share >= 0.01:
        return f"{100 * share:.1f}%"
    return f"{100 * share:#.2g}%" if share >= 1e-6 else "<0.0001%"
