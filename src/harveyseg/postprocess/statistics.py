"""Threshold statistics: everything needed to choose masks, from the photos' probabilities and true masks.

Probabilities are stored in 256 levels, so two histograms for each (photo, class), of the pixels outside and inside the
true mask, give the Dice of every threshold exactly. Masks are made only at the end.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from harveyseg.arrays import (
    BinaryMask,
    BoolArray,
    ClassMap,
    ClassMaps,
    Confusion,
    Confusions,
    Float32Array,
    FloatArray,
    IntArray,
    ProbabilityMap,
    ProbabilityMaps,
    Rows,
)
from harveyseg.classes import IGNORED, ClassList
from harveyseg.inference.probabilities import argmax_map, upsample_channel
from harveyseg.score import confusion, image_dice

N_LEVELS = 256

_PHOTOS_AT_A_TIME = 256
"""Photos whose intermediate results are held in memory."""


class SpecialMask(IntEnum):
    """What an array of thresholds holds where the submitted mask is not "all pixels of at least this level"."""

    ARGMAX = 0
    """The pixels whose most probable class this is."""
    EMPTY = N_LEVELS
    """No pixel."""


PixelCounts = npt.NDArray[np.int32]
"""Pixels of a photo, which is far from 2^31 of them; half the memory of int64. Sums of them are int64."""

Thresholds = IntArray
"""int64 (n, S): the mask of each (photo, scored class).

A level 1..255 stands for the pixels of at least that level, a :class:`SpecialMask` for itself.
"""


@dataclass(frozen=True)
class ThresholdStatistics:
    """For each of n photos and each scored class, histograms of its probability and the Dice of every threshold.

    >>> from harveyseg.classes import HARVEY25
    >>> inside, outside = np.zeros((2, 1, 24, 256), np.int32)
    >>> inside[0, 0, [100, 200]] = 1, 3  # class 1 has four pixels, three of them at level 200
    >>> outside[0, 0, 150] = 1
    >>> confusions = np.zeros((1, 25, 25), np.int64)
    >>> confusions[0, 1, 1] = 4
    >>> statistics = ThresholdStatistics.from_histograms(np.stack([outside, inside], axis=2), confusions, HARVEY25)
    >>> statistics.dice_by_threshold[0, 0, [100, 151, SpecialMask.ARGMAX, SpecialMask.EMPTY]].round(3).tolist()
    [0.889, 0.857, 1.0, 0.0]
    """

    histograms: PixelCounts
    """(n, S, 2, 256): pixels of each level outside [0] and inside [1] the true mask."""
    dice_by_threshold: FloatArray
    """(n, S, 257): Dice of each threshold; the columns are the values of :data:`Thresholds`."""
    confusions: Confusions
    """(n, C, C): of the argmax maps."""
    classes: ClassList
    unlabelled_levels: PixelCounts | None = None
    """(n, S, 256): pixels of each level that have no label: submitted, but not scored. None: there are none."""
    unlabelled_argmax: IntArray | None = None
    """(n, S): pixels of the argmax maps that have no label."""

    @classmethod
    def from_histograms(
        cls,
        histograms: PixelCounts,
        confusions: Confusions,
        classes: ClassList,
        unlabelled_levels: PixelCounts | None = None,
        unlabelled_argmax: IntArray | None = None,
    ) -> "ThresholdStatistics":
        """Compute the Dice of every threshold.

        Args:
            histograms: int32 (n, S, 2, 256).
            confusions: of the argmax maps, int64 (n, C, C).
            classes: what they are.
            unlabelled_levels: int32 (n, S, 256).
            unlabelled_argmax: int64 (n, S).
        """
        dice = np.empty((*histograms.shape[:2], N_LEVELS + 1))
        for photos in photo_slices(len(histograms)):
            outside = tail_sums(histograms[photos, :, 0])
            inside = tail_sums(histograms[photos, :, 1])
            total = inside + outside + inside[..., :1]
            dice[photos, :, :N_LEVELS] = np.where(total == 0, 1, 2 * inside / np.maximum(total, 1))
            dice[photos, :, SpecialMask.EMPTY] = inside[..., 0] == 0
        # Level 0 is no threshold, since all pixels reach it: its column is that of the argmax maps.
        dice[..., SpecialMask.ARGMAX] = image_dice(confusions)[:, classes.unscored :]
        return cls(histograms, dice, confusions, classes, unlabelled_levels, unlabelled_argmax)

    @property
    def level_counts(self) -> IntArray:
        """(n, S, 256): pixels of each level, with and without a label: a rule knows of no labels."""
        counts: IntArray = self.histograms.sum(2, dtype=np.int64)
        return counts if self.unlabelled_levels is None else counts + self.unlabelled_levels

    @property
    def present(self) -> BoolArray:
        """(n, S): whether the true mask holds the class."""
        present: BoolArray = self.histograms[:, :, 1].sum(-1, dtype=np.int64) > 0
        return present

    @property
    def argmax_dice(self) -> FloatArray:
        """(n, S): Dice of the argmax maps."""
        return self.dice_by_threshold[..., SpecialMask.ARGMAX]

    def subset(self, photos: Rows | BoolArray) -> "ThresholdStatistics":
        """Select photos by their positions or by a boolean array (n,)."""
        return ThresholdStatistics(
            self.histograms[photos],
            self.dice_by_threshold[photos],
            self.confusions[photos],
            self.classes,
            None if self.unlabelled_levels is None else self.unlabelled_levels[photos],
            None if self.unlabelled_argmax is None else self.unlabelled_argmax[photos],
        )

    def dice(self, thresholds: Thresholds) -> FloatArray:
        """Look up the Dice of one threshold for each (photo, class): float64 (n, S)."""
        dice: FloatArray = np.take_along_axis(self.dice_by_threshold, thresholds[..., None], -1)[..., 0]
        return dice

    def not_empty(self, thresholds: Thresholds) -> BoolArray:
        """Whether the mask of each (photo, class) holds a pixel: bool (n, S)."""
        of_at_least = np.zeros((*thresholds.shape, N_LEVELS + 1), np.int64)
        of_at_least[..., :N_LEVELS] = tail_sums(self.level_counts)
        of_at_least[..., SpecialMask.ARGMAX] = self.confusions.sum(1)[:, self.classes.unscored :]
        if self.unlabelled_argmax is not None:
            of_at_least[..., SpecialMask.ARGMAX] += self.unlabelled_argmax
        pixels: IntArray = np.take_along_axis(of_at_least, thresholds[..., None], -1)[..., 0]
        return pixels > 0


def collect_statistics(
    maps: Iterable[ProbabilityMaps], truth: ClassMaps, rows: Sequence[int], classes: ClassList, threads: int
) -> ThresholdStatistics:
    """Compare photos' probabilities with their true masks, at the size of the score.

    Args:
        maps: the photos' probabilities, uint8 (C, H, W) each; only a few are held in memory at a time.
        truth: masks at the score's size, uint8 (N, H, W).
        rows: the photos' rows in ``truth``.
        classes: what they hold.
        threads: photos processed at the same time; does not change the result.
    """
    photos = ((probabilities, np.ascontiguousarray(truth[row])) for probabilities, row in zip(maps, rows, strict=True))
    stack = StatisticsStack(len(rows), classes)
    with ThreadPoolExecutor(threads) as pool:  # OpenCV releases the lock
        while batch := list(itertools.islice(photos, 2 * threads)):
            for statistics in pool.map(partial(_photo_statistics, classes=classes), *zip(*batch, strict=True)):
                stack.add(statistics)
    return stack.finish()


class PhotoStatistics(NamedTuple):
    """Of one photo; see :class:`ThresholdStatistics`."""

    histograms: PixelCounts
    """(S, 2, 256)."""
    confusion: Confusion
    unlabelled_levels: PixelCounts | None
    """(S, 256); None where every pixel has a label."""
    unlabelled_argmax: IntArray | None
    """(S,)."""


class StatisticsStack:
    """Collects the statistics of photos one by one: a list of them and the arrays made from it would hold them twice.

    Args:
        count: how many photos there will be.
        classes: what they hold.
    """

    def __init__(self, count: int, classes: ClassList) -> None:
        self._classes = classes
        self._added = 0
        self._histograms = np.zeros((count, classes.scored, 2, N_LEVELS), np.int32)
        self._confusions = np.zeros((count, len(classes), len(classes)), np.int64)
        self._levels: PixelCounts | None = None
        self._argmax: IntArray | None = None
        if classes.ignored_value is not None:
            self._levels = np.zeros((count, classes.scored, N_LEVELS), np.int32)
            self._argmax = np.zeros((count, classes.scored), np.int64)

    def add(self, photo: PhotoStatistics) -> None:
        """Take the next photo."""
        self._histograms[self._added] = photo.histograms
        self._confusions[self._added] = photo.confusion
        if self._levels is not None and self._argmax is not None:
            assert photo.unlabelled_levels is not None
            assert photo.unlabelled_argmax is not None
            self._levels[self._added] = photo.unlabelled_levels
            self._argmax[self._added] = photo.unlabelled_argmax
        self._added += 1

    def finish(self) -> ThresholdStatistics:
        """The statistics of all photos."""
        assert self._added == len(self._histograms)
        return ThresholdStatistics.from_histograms(
            self._histograms, self._confusions, self._classes, self._levels, self._argmax
        )


class PhotoCounter:
    """Collects the statistics of one photo, class by class.

    Args:
        mask: the true class map, uint8 (H, W).
        classes: what it holds.
    """

    def __init__(self, mask: ClassMap, classes: ClassList) -> None:
        self._mask = mask
        self._classes = classes
        self._labelled = None if classes.ignored_value is None else mask != IGNORED
        self._histograms = np.zeros((classes.scored, 2, N_LEVELS), np.int32)
        self._unlabelled = np.zeros((classes.scored, N_LEVELS), np.int32)

    def add(self, index: int, levels: ProbabilityMap, class_mask: BinaryMask | None) -> None:
        """Count the levels of a scored class, uint8 (H, W); ``class_mask`` is where it is true, None for nowhere."""
        place = index - self._classes.unscored
        self._histograms[place] = class_histograms(levels, class_mask, self._labelled)
        if self._labelled is not None:
            self._unlabelled[place] = count_levels(levels, ~self._labelled)

    def finish(self, argmax: ClassMap) -> PhotoStatistics:
        """The statistics, with those of the argmax map."""
        counts = confusion(self._mask, argmax, len(self._classes))
        if self._labelled is None:
            return PhotoStatistics(self._histograms, counts, None, None)
        hidden = np.bincount(argmax[~self._labelled], minlength=len(self._classes))[self._classes.unscored :]
        return PhotoStatistics(self._histograms, counts, self._unlabelled, hidden.astype(np.int64))


def _photo_statistics(probabilities: ProbabilityMaps, mask: ClassMap, classes: ClassList) -> PhotoStatistics:
    size = (mask.shape[0], mask.shape[1])
    counter = PhotoCounter(mask, classes)
    present = set(np.unique(mask).tolist())
    for index in range(classes.unscored, len(classes)):
        class_mask = mask == index if index in present else None
        counter.add(index, upsample_levels(probabilities[index], size), class_mask)
    return counter.finish(argmax_map(probabilities, size))


def class_histograms(levels: ProbabilityMap, mask: BinaryMask | None, labelled: BinaryMask | None = None) -> IntArray:
    """Pixels of each level outside [0] and inside [1] a class's true mask.

    Args:
        levels: one class's probabilities, uint8 (H, W).
        mask: bool (H, W); None where it is empty.
        labelled: bool (H, W), the pixels that count; all if None.

    Returns:
        int64 (2, 256).
    """
    histograms = np.zeros((2, N_LEVELS), np.int64)
    histograms[0] = count_levels(levels, labelled)
    if mask is not None:
        histograms[1] = count_levels(levels, mask)
        histograms[0] -= histograms[1]
    return histograms


def count_levels(levels: ProbabilityMap, mask: BinaryMask | None = None) -> IntArray:
    """Pixels of each level, int64 (256,); with a mask, only those inside it."""
    inside = None if mask is None else mask.view(np.uint8)
    counts = cv2.calcHist([levels], [0], inside, [N_LEVELS], [0, N_LEVELS])  # float32, exact up to 2**24 pixels
    return np.asarray(counts, np.int64).reshape(-1)


def upsample_levels(channel: ProbabilityMap, size: tuple[int, int]) -> ProbabilityMap:
    """One class's probabilities enlarged to (height, width) and rounded to levels."""
    return round_to_levels(upsample_channel(channel, size))


def round_to_levels(channel: Float32Array) -> ProbabilityMap:
    """Probabilities on the scale 0..255, float32 (H, W), rounded to levels."""
    return np.asarray(cv2.convertScaleAbs(channel), np.uint8)


def photo_slices(count: int) -> Iterator[slice]:
    """Some photos at a time, for what is computed for each of them: the intermediate results of all may be large."""
    for start in range(0, count, _PHOTOS_AT_A_TIME):
        yield slice(start, min(start + _PHOTOS_AT_A_TIME, count))


def tail_sums(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Sums over the last axis from each place to the end: from pixels of each level to pixels of at least that level.

    >>> tail_sums(np.array([5, 2, 1])).tolist()
    [8, 3, 1]
    """
    sums: npt.NDArray[Any] = values[..., ::-1].cumsum(-1)[..., ::-1]
    return sums
