"""Figures are files with what they must show; how they look was judged by eye."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from harveyseg.classes import HARVEY25
from harveyseg.evaluation.figures import (
    PredictionGrid,
    confusion_figure,
    learning_curve,
    overview_figure,
    prediction_figure,
)
from harveyseg.plots import colourise


def history(epochs: int) -> pd.DataFrame:
    epoch = np.arange(1, epochs + 1)
    losses = {"train_loss": 2 / epoch, "val_loss": 2.2 / epoch}
    return pd.DataFrame({"epoch": epoch, **losses, "val_argmax_score": np.linspace(0.4, 0.7, epochs)})


def a_grid(classes: list[int], shape: tuple[int, int] = (300, 400)) -> PredictionGrid:
    labels = np.array([classes], np.uint8).repeat(64, 0).repeat(16, 1)
    photos = [np.full((32, 32, 3), 127, np.uint8)] * 2
    columns = {"truth": [labels, labels], "prediction": [labels, np.zeros_like(labels)]}
    return PredictionGrid(
        ["6411", "6412"],
        photos,
        [shape, shape],
        columns,
        {"prediction": ["score 1.000", "score 0.900"]},
        HARVEY25,
    )


def pixels_of(path: Path, class_id: int) -> int:
    with Image.open(path) as opened:
        rgb = np.array(opened.convert("RGB")).astype(int)
    return int((np.abs(rgb - HARVEY25.palette[class_id].astype(int)).max(2) <= 1).sum())


def test_colourise_is_the_palette() -> None:
    colours = colourise(np.array([[0, 24, 255]], np.uint8), HARVEY25)
    assert colours.tolist() == [[HARVEY25.palette[0].tolist(), HARVEY25.palette[24].tolist(), [255] * 3]]


@pytest.mark.parametrize("epochs", [1, 30])
def test_learning_curve(tmp_path: Path, epochs: int) -> None:
    learning_curve(history(epochs), tmp_path / "curve.png", "unet-f0")
    with Image.open(tmp_path / "curve.png") as opened:
        assert opened.width > 900
        assert len(np.unique(np.array(opened.convert("RGB")).reshape(-1, 3), axis=0)) > 20
    assert [path.name for path in tmp_path.iterdir()] == ["curve.png"]


def test_learning_curve_with_epochs_that_were_not_validated(tmp_path: Path) -> None:
    seldom = history(9)
    seldom.loc[seldom["epoch"] % 4 != 1, ["val_loss", "val_argmax_score"]] = np.nan
    learning_curve(seldom, tmp_path / "seldom.png", "unet-f0")
    dense = seldom.interpolate()  # the same straight lines, drawn point by point
    learning_curve(dense, tmp_path / "dense.png", "unet-f0")
    with Image.open(tmp_path / "seldom.png") as with_gaps, Image.open(tmp_path / "dense.png") as complete:
        difference = np.abs(np.array(with_gaps.convert("RGB")).astype(int) - np.array(complete.convert("RGB")))
    assert (difference > 60).mean() < 1e-3


def test_confusion_figure_grows_with_the_classes_that_occur(tmp_path: Path) -> None:
    confusion = np.zeros((25, 25), np.int64)
    confusion[0, 0] = 10
    confusion[5, 6] = 3
    confusion_figure(confusion, HARVEY25, tmp_path / "few.png", "few")
    confusion_figure(confusion + 1, HARVEY25, tmp_path / "all.png", "all")
    with Image.open(tmp_path / "few.png") as few, Image.open(tmp_path / "all.png") as every:
        assert every.height > 1.5 * few.height


def test_prediction_figure_shows_the_maps_and_a_legend_of_the_classes_that_occur(tmp_path: Path) -> None:
    prediction_figure(a_grid([3, 5]), tmp_path / "sheet.png", "title")
    assert pixels_of(tmp_path / "sheet.png", 3) > 5000
    assert pixels_of(tmp_path / "sheet.png", 5) > 5000
    assert pixels_of(tmp_path / "sheet.png", 7) == 0


def test_prediction_figure_keeps_the_aspect_of_the_original(tmp_path: Path) -> None:
    for name, shape in {"wide": (400, 200), "tall": (200, 400)}.items():
        prediction_figure(a_grid([3, 5], shape), tmp_path / f"{name}.png", name)
    with Image.open(tmp_path / "wide.png") as wide, Image.open(tmp_path / "tall.png") as tall:
        assert tall.height > 2 * wide.height


def test_overview(tmp_path: Path) -> None:
    overview_figure(a_grid([3, 5]), {"unet": 0.62, "ensemble": 0.7}, 0.65, tmp_path / "overview.png", "title")
    overview_figure(a_grid([3]), {"unet": 0.65}, 0.65, tmp_path / "equal.png", "no span")
    assert pixels_of(tmp_path / "overview.png", 5) > 3000


def test_the_same_figure_is_the_same_file(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        learning_curve(history(3), tmp_path / name, "title")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_no_global_state() -> None:
    code = "import sys, harveyseg.evaluation.figures; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("shape", [(4000, 600), (600, 4000)])
def test_long_names_of_photos_stay_in_their_rows(tmp_path: Path, shape: tuple[int, int]) -> None:
    """A layout that has no room for them warns, and is left out."""
    short = a_grid([1, 5], shape)
    names = [f"flight_of_2017-08-31_morning_{number}" for number in (6411, 6412)]
    heights = []
    for name, grid in {"short": short, "long": replace(short, names=names)}.items():
        prediction_figure(grid, tmp_path / f"{name}.png", "title")
        with Image.open(tmp_path / f"{name}.png") as opened:
            pixels = np.asarray(opened.convert("L"))
        heights.append(np.flatnonzero((pixels == 127).sum(1) > 50))
    # The grey photos are where they were, and as large.
    assert len(heights[0]) == pytest.approx(len(heights[1]), rel=0.03)
