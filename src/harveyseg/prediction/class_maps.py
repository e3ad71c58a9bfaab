"""Class maps of images of any size, from top to bottom in bounded memory.

An image is resized so that things have the size that the networks know, and goes through them in windows of the size
that they were trained on. The mean of their probabilities is enlarged to the image's own size before classes are
chosen.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from harveyseg.arrays import ClassMap, Float32Array, Photo, Photos, ProbabilityMap, ProbabilityMaps
from harveyseg.classes import IGNORED
from harveyseg.device import resolve_device
from harveyseg.inference.params import InferenceParams
from harveyseg.inference.predictor import Predictor, weighted_predictor
from harveyseg.inference.probabilities import STRIPE, needed_rows, update_argmax, upsample_rows
from harveyseg.inference.sizes import round_side
from harveyseg.inference.sliding_window import PredictBatch, sliding_window, window_size
from harveyseg.postprocess.files import FittedRule
from harveyseg.postprocess.statistics import round_to_levels
from harveyseg.prediction.pictures import Picture, ResizedRows
from harveyseg.prediction.trained_ensemble import TrainedEnsemble

_CPU_WINDOWS = 2
"""Windows that go through a network together on a CPU: eight of 512 x 512 pixels would take 800 MB."""


class Stripe(NamedTuple):
    """Some rows of the result, of the image's own width."""

    classes: ClassMap
    """uint8 (n, W): indices of classes, 255 where nothing was seen."""
    probabilities: ProbabilityMaps
    """uint8 (c, n, W): of the classes that were asked for; 0 where nothing was seen."""


class EnsemblePredictor:
    """Networks on their device, ready for any number of images.

    Args:
        ensemble: the networks, which may have been trained on photos of different sizes.
        params: how to predict.
    """

    def __init__(self, ensemble: TrainedEnsemble, params: InferenceParams) -> None:
        self._rule = ensemble.rule
        self._params = _params_of_windows(params)
        means = np.array([network.mean for network in ensemble.networks]).mean(axis=0)
        red, green, blue = (int(level) for level in np.rint(np.clip(255 * means, 0, 255)))
        self._fill = (red, green, blue)
        self._groups: list[_Group] = []
        members = list(zip(ensemble.networks, ensemble.weights, strict=True))
        # Networks of one size share their windows, and so one map in memory.
        for size in dict.fromkeys(network.size for network in ensemble.networks):
            own = [(network, weight) for network, weight in members if network.size == size]
            predictors = [Predictor(network.network, network.mean, network.std, params) for network, _ in own]
            total = sum(weight for _, weight in own)
            predict = weighted_predictor(predictors, [weight / total for _, weight in own])
            self._groups.append(_Group(size, total, _only_where_seen(predict)))

    @property
    def network_size(self) -> tuple[int, int]:
        """(height, width) in pixels of the training photos of the first network."""
        return self._groups[0].size

    def resized_size(self, size: tuple[int, int], photo_size: tuple[float, float]) -> tuple[int, int]:
        """(height, width) to which an image of ``size`` is resized for the first network, see :meth:`stripes`."""
        return _resized_size(size, self.network_size, photo_size)

    def stripes(
        self, picture: Picture, photo_size: tuple[float, float], probability_classes: Sequence[int] = ()
    ) -> Iterator[Stripe]:
        """Classify an image's pixels, at its own size.

        The rule of post-processing is meant for one photo, so a mosaic is post-processed in tiles of about
        ``photo_size``; a class may begin or end where two tiles meet.

        Args:
            picture: the image.
            photo_size: (height, width), in the image's pixels, of the ground that one training photo shows.
            probability_classes: the classes whose probabilities are returned as well.

        Yields:
            Rows from top to bottom.
        """
        size = picture.size
        maps = [self._probability_rows(group, picture, photo_size) for group in self._groups]
        mean = _MeanRows(maps, [group.weight for group in self._groups])
        for part in _parts(mean, size, photo_size[0] if self._rule is not None else None):
            seen = np.concatenate([picture.seen(rows, size) for rows in _split(part.rows, STRIPE)])
            if not seen.any():
                classes = np.full(seen.shape, IGNORED, np.uint8)
            elif self._rule is None:
                classes = _argmax_rows(part, seen.shape)
            else:
                classes = class_map_in_columns(self._rule, part.probabilities, seen.shape, photo_size[1])
            np.putmask(classes, ~seen, np.uint8(IGNORED))
            wanted = np.zeros((len(probability_classes), *seen.shape), np.uint8)
            for index, class_id in enumerate(probability_classes):
                wanted[index] = round_to_levels(part.enlarge(part.probabilities[class_id])) * seen
            yield Stripe(classes, wanted)

    def _probability_rows(
        self, group: "_Group", picture: Picture, photo_size: tuple[float, float]
    ) -> "_ProbabilityRows":
        resized = ResizedRows(picture, _resized_size(picture.size, group.size, photo_size), self._fill)
        window = window_size(group.size, self._params)
        # What sliding_window needs of a photo is its shape, and some of its rows at a time.
        stripes = sliding_window(group.predict, cast(Photo, resized), window, self._params)
        return _ProbabilityRows(stripes, resized.size)


def class_map_in_columns(
    rule: FittedRule, probabilities: ProbabilityMaps, size: tuple[int, int], tile_width: float
) -> ClassMap:
    """Post-process a row of tiles, each as if it were one photo.

    Args:
        rule: the rule for one photo.
        probabilities: uint8 (C, H, W).
        size: (height, width) of the map in pixels.
        tile_width: approximate width of a tile, in the map's pixels.

    Returns:
        uint8 (height, width): indices of classes.
    """
    class_map = np.empty(size, np.uint8)
    for columns in _tiles(probabilities.shape[2], size[1], tile_width):
        tile = class_map[:, columns.in_map]
        own = probabilities[:, :, columns.in_probabilities]
        if own.any():
            tile[:] = rule.class_map(own, (tile.shape[0], tile.shape[1]))
        else:  # not seen
            tile[:] = IGNORED
    return class_map


def _params_of_windows(params: InferenceParams) -> InferenceParams:
    """The settings for windows of one image: on a CPU few at a time, whose memory is what a mosaic takes most of."""
    if resolve_device(params.device).type != "cpu":
        return params
    return params.model_copy(update={"batch_size": min(params.batch_size, _CPU_WINDOWS)})


@dataclass(frozen=True)
class _Group:
    """Networks that were trained on photos of one size."""

    size: tuple[int, int]
    weight: float
    predict: PredictBatch


@dataclass(frozen=True)
class _Part:
    """Some rows of the map, and the probabilities that they depend on."""

    rows: slice
    probabilities: ProbabilityMaps
    enlarge: Callable[[ProbabilityMap], Float32Array]
    """From one class of these probabilities to the rows of the map, float32 (n, W), in levels."""


class _ProbabilityRows:
    """Rows of probabilities, read in order from the stripes of a sliding window; rows before are forgotten.

    Args:
        stripes: uint8 (C, n, W / stride).
        size: (height, width) in pixels of what the windows slide over.
    """

    def __init__(self, stripes: Iterator[ProbabilityMaps], size: tuple[int, int]) -> None:
        self._stripes = stripes
        self._held = [next(stripes)]
        self._first = 0
        self.width = self._held[0].shape[2]
        self.height = size[0] // (size[1] // self.width)

    def read(self, rows: slice) -> ProbabilityMaps:
        """uint8 (C, n, W); ``rows`` never start before those of the call before."""
        while self._first + sum(stripe.shape[1] for stripe in self._held) < rows.stop:
            self._forget(rows.start)
            self._held.append(next(self._stripes))
        self._forget(rows.start)
        parts = []
        top = self._first
        for stripe in self._held:
            parts.append(stripe[:, max(0, rows.start - top) : max(0, rows.stop - top)])
            top += stripe.shape[1]
        return np.concatenate(parts, axis=1)

    def _forget(self, start: int) -> None:
        """Drop the stripes that end before a row; joining the others only when they are read halves the memory."""
        while self._held and self._first + self._held[0].shape[1] <= start:
            self._first += self._held.pop(0).shape[1]


class _MeanRows:
    """The weighted mean of several rows of probabilities, at the size of the largest."""

    def __init__(self, maps: Sequence[_ProbabilityRows], weights: Sequence[float]) -> None:
        self._maps = maps
        self._weights = weights
        self.height = max(own.height for own in maps)
        self.width = max(own.width for own in maps)

    def read(self, rows: slice) -> ProbabilityMaps:
        """uint8 (C, n, W); see :meth:`_ProbabilityRows.read`."""
        if len(self._maps) == 1:
            return self._maps[0].read(rows)
        total: Float32Array | None = None
        for own, weight in zip(self._maps, self._weights, strict=True):
            needed = needed_rows(rows, self.height, own.height)
            channels = own.read(needed)
            if total is None:
                total = np.zeros((len(channels), rows.stop - rows.start, self.width), np.float32)
            for channel, summed in zip(channels, total, strict=True):
                enlarged = upsample_rows(channel, (self.height, self.width), rows, own.height, needed.start)
                summed += np.float32(weight) * enlarged
        assert total is not None
        return np.rint(total).astype(np.uint8)


class _Tile(NamedTuple):
    """Where a tile is along one axis."""

    in_probabilities: slice
    in_map: slice


def _parts(mean: _MeanRows, size: tuple[int, int], tile_height: float | None) -> Iterator[_Part]:
    """Divide a map of ``size`` into rows of tiles, or into stripes that are enlarged without seams."""
    if tile_height is not None:
        for tile in _tiles(mean.height, size[0], tile_height):
            own = (tile.in_map.stop - tile.in_map.start, size[1])
            enlarge = partial(upsample_rows, size=own, rows=slice(0, own[0]))
            yield _Part(tile.in_map, mean.read(tile.in_probabilities), enlarge)
        return
    for rows in _split(slice(0, size[0]), STRIPE):
        needed = needed_rows(rows, size[0], mean.height)
        enlarge = partial(upsample_rows, size=size, rows=rows, source_height=mean.height, first=needed.start)
        yield _Part(rows, mean.read(needed), enlarge)


def _argmax_rows(part: _Part, shape: tuple[int, ...]) -> ClassMap:
    """The most probable class of each pixel; the first of equally probable ones."""
    classes = np.zeros(shape, np.uint8)
    best = np.full(shape, -1, np.float32)
    for class_id, channel in enumerate(part.probabilities):
        if channel.any():
            update_argmax(part.enlarge(channel), class_id, best, classes)
    return classes


def _only_where_seen(predict: PredictBatch) -> PredictBatch:
    """Predict windows with a fourth channel, which is 0 where nothing was seen; there, probabilities become 0.

    A margin of one pixel of the maps stays as it is predicted, since the enlargement interpolates with it.
    Windows that show nothing do not go through the network, once the size of its maps is known.
    """
    shape: tuple[int, ...] | None = None
    device = torch.device("cpu")

    @torch.inference_mode()
    def predict_windows(windows: Photos) -> Tensor:
        nonlocal shape, device
        shown = windows[..., 3].any(axis=(1, 2))
        if shape is None or shown.all():
            maps = predict(np.ascontiguousarray(windows[..., :3]))
            shape, device = tuple(maps.shape[1:]), maps.device
        elif shown.any():
            some = predict(np.ascontiguousarray(windows[shown, :, :, :3]))
            maps = some.new_zeros(len(windows), *shape)
            maps[torch.from_numpy(shown)] = some
        else:
            return torch.zeros(len(windows), *shape, device=device)
        if not windows[..., 3].all():
            seen = torch.from_numpy(windows[..., 3]).to(maps.device, torch.float32)
            pooled = functional.max_pool2d(seen[:, None], windows.shape[1] // maps.shape[2])
            maps *= functional.max_pool2d(pooled, 3, stride=1, padding=1) > 0
        return maps

    return predict_windows


def _resized_size(
    size: tuple[int, int], trained_size: tuple[int, int], photo_size: tuple[float, float]
) -> tuple[int, int]:
    """(height, width) of the image when ``photo_size`` becomes ``trained_size``; multiples of 32 for every network."""
    if photo_size == size:
        return trained_size
    height, width = (
        round_side(own_side * trained_side / ground)
        for own_side, trained_side, ground in zip(size, trained_size, photo_size, strict=True)
    )
    return height, width


def _split(rows: slice, height: int) -> Iterator[slice]:
    for top in range(rows.start, rows.stop, height):
        yield slice(top, min(top + height, rows.stop))


def _tiles(probabilities_side: int, map_side: int, tile_side: float) -> list[_Tile]:
    """Divide an axis into tiles of about ``tile_side`` of the map's pixels."""
    count = min(probabilities_side, max(1, round(map_side / tile_side)))
    edges = np.linspace(0, probabilities_side, count + 1).round().astype(int).tolist()
    map_edges = [round(edge * map_side / probabilities_side) for edge in edges]
    return [
        _Tile(slice(*ends), slice(*map_ends))
        for ends, map_ends in zip(itertools.pairwise(edges), itertools.pairwise(map_edges), strict=True)
    ]
