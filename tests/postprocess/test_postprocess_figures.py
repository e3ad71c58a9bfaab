"""The figure of thresholds against its pixels."""

from pathlib import Path

import numpy as np
from PIL import Image

from harveyseg.classes import HARVEY25
from harveyseg.postprocess.figures import threshold_figure
from harveyseg.postprocess.statistics import SpecialMask, ThresholdStatistics


def test_figure_marks_the_thresholds_of_submitted_masks(tmp_path: Path) -> None:
    dice = np.linspace(0.2, 0.8, 257) * np.ones((3, 24, 1))
    statistics = ThresholdStatistics(
        np.ones((3, 24, 2, 256), np.int64), dice, np.zeros((3, 25, 25), np.int64), HARVEY25
    )
    empty = np.full((3, 24), SpecialMask.EMPTY, np.int64)
    submitted = empty.copy()
    submitted[:, 4] = (SpecialMask.ARGMAX, 80, 120)
    submitted[:, 5] = 200
    images = []
    for name, thresholds in {"empty": empty, "submitted": submitted}.items():
        threshold_figure(statistics, thresholds, tmp_path / f"{name}.png", "unet")
        with Image.open(tmp_path / f"{name}.png") as opened:
            images.append(np.array(opened.convert("RGB")).astype(int))
    changed = np.argwhere(np.abs(images[0] - images[1]).max(2) > 30)
    height, width = images[0].shape[:2]
    # Grass and trees, the last two panels of the first row.
    assert len(changed) > 50
    assert (changed[:, 0] < 0.32 * height).all()
    assert (changed[:, 1] > 0.65 * width).all()
