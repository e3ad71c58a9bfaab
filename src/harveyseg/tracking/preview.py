"""Predictions of a training that still runs, as images in MLflow's charts: one for each of some epochs."""

import io
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from harveyseg.arrays import ClassMap, Photo
from harveyseg.classes import ClassList
from harveyseg.tracking.client import Tracker

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

KEY = "predictions"
"""The name of the images in MLflow."""
_INTERVAL_SECONDS = 30.0
"""The shortest time between two images, ..."""
_INTERVAL_SHARE = 0.1
"""... and its share of the time so far: a training of hours has some forty."""
_SIDE = 256
"""Pixels of a panel's longer side."""
_GAP = 4


class Previews:
    """The images of one training: the first epoch's, then others in growing intervals.

    Args:
        tracker: where to.
        run_id: MLflow's id of the run; None for no images.
        classes: what the maps hold.
    """

    def __init__(self, tracker: Tracker, run_id: str | None, classes: ClassList) -> None:
        self._tracker = tracker
        self._run_id = run_id
        self._classes = classes
        self._started = time.monotonic()
        self._next = self._started

    @property
    def due(self) -> bool:
        """Whether the epoch that has just ended shall have an image."""
        usable = self._run_id is not None and self._tracker.alive and not self._tracker.artifacts_lost
        return usable and time.monotonic() >= self._next

    def send(self, panels: Sequence[tuple[Photo, ClassMap, ClassMap]], epoch: int) -> None:
        """Send the image of an epoch.

        Args:
            panels: photos (H, W, 3), their masks and their argmax maps (H, W), all uint8.
            epoch: from 1; the step at which MLflow shows the image.
        """
        image = draw_panels(panels, self._classes)
        encoded = io.BytesIO()
        image.save(encoded, "PNG")

        def log(client: "MlflowClient") -> None:
            run_id = str(self._run_id)
            try:
                client.log_image(run_id, image, key=KEY, step=epoch, synchronous=True)
            except Exception as error:
                run = client.get_run(run_id)  # fails where the tracker is away altogether
                store = str(run.info.artifact_uri).removesuffix(f"/{run_id}/artifacts")
                self._tracker.lose_artifacts(store, error)

        self._tracker.attempt(log, len(encoded.getvalue()))
        now = time.monotonic()
        self._next = now + max(_INTERVAL_SECONDS, _INTERVAL_SHARE * (now - self._started))


def draw_panels(panels: Sequence[tuple[Photo, ClassMap, ClassMap]], classes: ClassList) -> Image.Image:
    """One row for each photo: the photo, its mask, its argmax map; white where a mask has no class.

    Args:
        panels: photos (H, W, 3), their masks and their argmax maps (H, W), all uint8 and of one size.
        classes: what the maps hold.
    """
    height, width = panels[0][1].shape
    scale = min(1.0, _SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    colours = np.full((256, 3), 255, np.uint8)
    colours[: len(classes)] = classes.palette
    sheet = Image.new("RGB", (3 * (size[0] + _GAP) - _GAP, len(panels) * (size[1] + _GAP) - _GAP), "white")
    for row, (photo, mask, predicted) in enumerate(panels):
        for column, pixels in enumerate((photo, colours[mask], colours[predicted])):
            tile = Image.fromarray(np.ascontiguousarray(pixels))
            resample = Image.Resampling.BOX if column == 0 else Image.Resampling.NEAREST
            sheet.paste(tile.resize(size, resample), (column * (size[0] + _GAP), row * (size[1] + _GAP)))
    return sheet
