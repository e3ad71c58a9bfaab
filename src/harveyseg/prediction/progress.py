"""Progress of a long prediction: what is done, how fast, and the time left."""

import logging
import time

_SECONDS = 10.0
"""Between two messages."""

logger = logging.getLogger(__name__)


class Progress:
    """Logs now and then how many megapixels are done.

    Args:
        files: number of images to predict.
        pixels: of all of them.
    """

    def __init__(self, files: int, pixels: int) -> None:
        self._files = files
        self._pixels = pixels
        self._files_done = 0
        self._done = 0
        self._started = self._logged = time.monotonic()

    def add(self, pixels: int) -> None:
        """Count pixels that are predicted."""
        self._done += pixels
        now = time.monotonic()
        if now - self._logged >= _SECONDS:
            self._logged = now
            logger.info("%s", self.describe(now - self._started))

    def finish_file(self) -> None:
        """Count an image that is done, or was given up."""
        self._files_done += 1

    def describe(self, seconds: float) -> str:
        """What is done after so many seconds.

        >>> progress = Progress(3, 40_000_000)
        >>> progress.add(10_000_000)
        >>> progress.describe(20)
        '10 of 40 megapixels, 0 of 3 images, 0.5 megapixels/s, 1 min left'
        """
        rate = self._done / max(seconds, 1e-9)
        left = (self._pixels - self._done) / max(rate, 1e-9)
        megapixels = f"{self._done / 1e6:.0f} of {self._pixels / 1e6:.0f} megapixels"
        images = f"{self._files_done} of {self._files} images"
        return f"{megapixels}, {images}, {rate / 1e6:.1f} megapixels/s, {_duration(left)} left"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
