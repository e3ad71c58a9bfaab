"""How much of an image each class covers, in percent of what was seen and in square metres."""

import numpy as np

from harveyseg.arrays import ClassMap, FloatArray, IntArray
from harveyseg.classes import ClassList
from harveyseg.geo.ground import Georeference
from harveyseg.prediction.record import Areas

_STRIPE = 256
"""Rows that are counted at a time: ``bincount`` makes 64-bit integers of them."""


class AreaCounter:
    """Counts classes in a map that is made from top to bottom.

    Args:
        classes: the list of classes.
        width: of the map in pixels.
        georeference: where the map is; its pixels' area may change from top to bottom.
        pixel: (height, width) of a pixel in metres, where there is no georeference; None where unknown.
    """

    def __init__(
        self,
        classes: ClassList,
        width: int,
        georeference: Georeference | None,
        pixel: tuple[float, float] | None,
    ) -> None:
        self._names = classes.names
        self._width = width
        self._georeference = georeference
        self._pixel = pixel
        self._row = 0
        self._counts: IntArray = np.zeros(len(classes), np.int64)
        self._m2: FloatArray = np.zeros(len(classes))

    def add(self, class_map: ClassMap) -> None:
        """Count the next rows, uint8 (n, W); 255 is what was not seen."""
        for top in range(0, len(class_map), _STRIPE):
            stripe = class_map[top : top + _STRIPE]
            counts = np.bincount(stripe.ravel(), minlength=256)[: len(self._names)]
            self._counts += counts
            if self._georeference is not None:
                rows = slice(self._row, self._row + len(stripe))
                self._m2 += counts * self._georeference.row_pixel_area(rows, self._width)
            elif self._pixel is not None:
                self._m2 += counts * (self._pixel[0] * self._pixel[1])
            self._row += len(stripe)

    def areas(self) -> Areas:
        """What was counted."""
        seen = int(self._counts.sum())
        percent = 100 * self._counts / max(1, seen)
        known = self._georeference is not None or self._pixel is not None
        return Areas(
            pixels=self._row * self._width,
            seen_pixels=seen,
            seen_m2=float(self._m2.sum()) if known else None,
            percent=dict(zip(self._names, percent.tolist(), strict=True)),
            m2=dict(zip(self._names, self._m2.tolist(), strict=True)) if known else None,
        )
