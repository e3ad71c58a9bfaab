"""The ensemble's weights, chosen out of fold by greedy forward selection on the score itself."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import Field

from harveyseg.arrays import ClassMap, ProbabilityMap, Rows
from harveyseg.classes import ClassList
from harveyseg.config.settings import Section
from harveyseg.data.cache import CachedPart
from harveyseg.ensemble.members import FoldModels
from harveyseg.errors import HarveysegError
from harveyseg.files import read_json, write_json
from harveyseg.inference.probabilities import update_argmax
from harveyseg.postprocess.select import PostprocessParams, in_sample_score
from harveyseg.postprocess.statistics import PhotoCounter, PhotoStatistics, StatisticsStack, ThresholdStatistics
from harveyseg.progress import Progress

Counts = tuple[int, ...]
"""How often each model was taken: a mixture of the models with weights in these proportions."""

ScoresWithOneMore = Callable[[Counts], Sequence[float]]
"""Maps the counts so far to, for each model, the score after adding it once more."""


class EnsembleParams(Section):
    """The section ``ensemble`` of params.yaml."""

    steps: int = Field(default=12, ge=1, le=250)
    """Number of greedy selection steps, with replacement; a weight is a multiple of 1 / (how many were taken)."""
    runs: tuple[str, ...] = ()
    """MLflow run ids of training runs of other experiments that take part: one for each fold of a model, trained on the
    same data and split."""


@dataclass(frozen=True)
class EnsembleWeights:
    """The weights of the models, each set summing to 1."""

    chosen: dict[str, float]
    """Chosen on all out-of-fold photos; these predict the test photos."""
    without_fold: dict[int, dict[str, float]]
    """For each fold, weights chosen on the photos of all other folds; empty when there is only one fold.

    A score with these is the nested estimate. With ``chosen`` it is optimistically biased, since the same photos chose
    the weights. (Both rest on models whose best epoch was picked on the same photos, if training keeps the best one.)
    """

    @property
    def models(self) -> set[str]:
        """Those that have a weight, in any of the sets."""
        sets = [self.chosen, *self.without_fold.values()]
        return {model for weights in sets for model, weight in weights.items() if weight > 0}

    @classmethod
    def of_single_model(cls, model: str) -> "EnsembleWeights":
        """The weights of an "ensemble" of one model."""
        return cls({model: 1.0}, {})


def choose_weights(
    fold_models: FoldModels,
    part: CachedPart,
    groups: Mapping[str, str],
    params: EnsembleParams,
    postprocess: PostprocessParams,
    threads: int,
) -> EnsembleWeights:
    """Choose the weights by greedy forward selection with replacement (Caruana et al., ICML 2004) on the score.

    The score is that of what is submitted: of the argmax maps, or with ``postprocess.method: auto`` of a rule that is
    fitted on each mixture. The two can disagree: networks trained with class weights have poor argmax maps and good
    probabilities. The score is taken at the cache's size, against the masks of that size, to which maps of other sizes
    are resized. The search looks at hundreds of mixtures, which costs 16 times less at 256 x 256 than at 1024 x 1024,
    and it only has to rank the mixtures correctly.

    With several folds the weights are also chosen without the photos of each fold. Scored on that fold, they estimate
    what weights chosen in this way score on new photos.

    Args:
        fold_models: the models.
        part: the training part, with masks at the cache's size.
        groups: each photo's group, by its id.
        params: how many steps.
        postprocess: how masks are made from probabilities.
        threads: photos processed at the same time; does not change the result.
    """
    folds = fold_models.folds if len(fold_models.folds) > 1 else ()
    if len(fold_models.models) == 1:
        only = {fold_models.models[0]: 1.0}
        return EnsembleWeights(only, dict.fromkeys(folds, only))
    mixtures = MixtureStatistics(fold_models, fold_models.masks(part), part.classes, threads)
    group_of = [groups[photo] for photo in fold_models.ids]
    fold_of = np.array([fold for fold, _ in fold_models.positions])
    photo_sets = [np.arange(len(fold_of)), *(np.flatnonzero(fold_of != fold) for fold in folds)]
    searches = [MixtureScores(mixtures, photos, group_of, postprocess) for photos in photo_sets]
    selected = select_forward(
        [search.scores_with_one_more for search in searches], len(fold_models.models), params.steps
    )
    chosen, *without_fold = (_to_weights(fold_models.models, counts) for counts in selected)
    return EnsembleWeights(chosen, dict(zip(folds, without_fold, strict=True)))


def _to_weights(models: Sequence[str], counts: Counts) -> dict[str, float]:
    return {model: count / sum(counts) for model, count in zip(models, counts, strict=True)}


def select_forward(searches: Sequence[ScoresWithOneMore], models: int, steps: int) -> list[Counts]:
    """Greedy forward selection with replacement: always take the model that raises the score most.

    >>> def scores_with_one_more(counts: tuple[int, ...]) -> list[float]:
    ...     mixtures = np.array(counts) + np.eye(2)
    ...     return [1 - abs(a / (a + b) - 0.6) for a, b in mixtures]  # best where 60% is the first model
    >>> select_forward([scores_with_one_more], models=2, steps=8)
    [(3, 2)]

    Args:
        searches: independent of each other; they advance in turn, one step at a time.
        models: how many there are.
        steps: how many are taken.

    Returns:
        For each search the counts at its highest score; of equal ones the smallest mixture.
    """
    counts: list[Counts] = [(0,) * models] * len(searches)
    best_counts = list(counts)
    best_scores = [-np.inf] * len(searches)
    with Progress("choosing weights", steps * len(searches), "mixtures") as progress:
        for _ in range(steps):
            # Searches at the same mixture, of which there are many, come in succession: only its statistics are held.
            for search in sorted(range(len(searches)), key=counts.__getitem__):
                scores = searches[search](counts[search])
                taken = int(np.argmax(scores))
                counts[search] = tuple(count + (model == taken) for model, count in enumerate(counts[search]))
                if scores[taken] > best_scores[search] + 1e-12:  # a difference of rounding is no gain
                    best_counts[search] = counts[search]
                    best_scores[search] = scores[taken]
                progress.add()
    return best_counts


class MixtureStatistics:
    """Threshold statistics of mixtures of the models on the out-of-fold photos.

    Args:
        fold_models: the models; maps of another size than the masks are resized bilinearly.
        masks: the true mask of each out-of-fold photo, uint8 (H, W).
        classes: what they hold.
        threads: photos processed at the same time; does not change the result.
    """

    def __init__(self, fold_models: FoldModels, masks: Sequence[ClassMap], classes: ClassList, threads: int) -> None:
        self._fold_models = fold_models
        self._masks = masks
        self._classes = classes
        self._threads = threads
        self._last: tuple[Counts, list[ThresholdStatistics]] | None = None

    def with_one_more(self, counts: Counts) -> list[ThresholdStatistics]:
        """Statistics of the mixture ``counts`` when one more is taken, for each model.

        Those of the last mixture are kept: searches without one fold mostly take the same steps.
        """
        if self._last is None or self._last[0] != counts:
            self._last = None  # frees its memory before that of the next is taken
            self._last = counts, self._compute(counts)
        return self._last[1]

    def _compute(self, counts: Counts) -> list[ThresholdStatistics]:
        positions = iter(range(len(self._masks)))
        stacks = [StatisticsStack(len(self._masks), self._classes) for _ in counts]
        with ThreadPoolExecutor(self._threads) as pool:
            while batch := list(itertools.islice(positions, 4 * self._threads)):
                for of_models in pool.map(self._photo_statistics, batch, itertools.repeat(counts)):
                    for stack, photo in zip(stacks, of_models, strict=True):
                        stack.add(photo)
        return [stack.finish() for stack in stacks]

    def _photo_statistics(self, position: int, counts: Counts) -> list[PhotoStatistics]:
        """One photo's statistics, one more taken of each model."""
        fold, row = self._fold_models.positions[position]
        mask = self._masks[position]
        maps = [self._fold_models[model, fold].val[row] for model in self._fold_models.models]
        highest = np.zeros((len(maps), *mask.shape), np.uint16)
        argmax_maps = np.zeros((len(maps), *mask.shape), np.uint8)
        classes = self._classes
        counters = [PhotoCounter(mask, classes) for _ in maps]
        # Class by class in small integers, which stay in the processor's cache: 4 times the speed of whole maps.
        for index in range(len(classes)):
            channels = [_resized(probabilities[index], mask.shape) for probabilities in maps]
            mixture = np.zeros(mask.shape, np.uint16)
            for count, channel in zip(counts, channels, strict=True):
                if count:
                    mixture += np.uint16(count) * channel  # at most 250 * 255, which 16 bits hold
            class_mask = mask == index
            own_mask = class_mask if class_mask.any() else None
            for model, channel in enumerate(channels):
                total = mixture + channel
                update_argmax(total, index, highest[model], argmax_maps[model])
                if index >= classes.unscored:
                    mean = np.asarray(cv2.convertScaleAbs(total, alpha=1 / (sum(counts) + 1)), np.uint8)
                    counters[model].add(index, mean, own_mask)
        return [counter.finish(argmax_map) for counter, argmax_map in zip(counters, argmax_maps, strict=True)]


def _resized(channel: ProbabilityMap, size: tuple[int, ...]) -> npt.NDArray[np.uint16]:
    if channel.shape != size:
        channel = np.asarray(cv2.resize(channel, size[::-1], interpolation=cv2.INTER_LINEAR), np.uint8)
    return channel.astype(np.uint16)


class MixtureScores:
    """Scores of mixtures on some of the out-of-fold photos.

    Args:
        mixtures: the statistics of all out-of-fold photos.
        photos: positions of the photos that count.
        groups: the group of each out-of-fold photo.
        postprocess: how masks are made from probabilities.
    """

    def __init__(
        self, mixtures: MixtureStatistics, photos: Rows, groups: Sequence[str], postprocess: PostprocessParams
    ) -> None:
        self._mixtures = mixtures
        self._photos = photos
        self._groups = [groups[photo] for photo in photos]
        self._method = postprocess.method

    def scores_with_one_more(self, counts: Counts) -> list[float]:
        """The score of the mixture ``counts`` when one more is taken, for each model."""
        return [
            in_sample_score(statistics.subset(self._photos), self._groups, self._method)
            for statistics in self._mixtures.with_one_more(counts)
        ]


def write_weights(path: Path, fold_models: FoldModels, weights: EnsembleWeights) -> None:
    """Write ``weights.json``: the weights, those chosen without each fold, and each model's argmax score."""
    content = {
        "weights": weights.chosen,
        "weights_without_fold": {str(fold): of_models for fold, of_models in weights.without_fold.items()},
        "argmax_scores": {model: fold_models.argmax_score(model) for model in fold_models.models},
    }
    write_json(path, content)


def read_weights(path: Path) -> EnsembleWeights:
    """Read ``weights.json``.

    Raises:
        HarveysegError: when it is absent or no such file.
    """
    remedy = "Run `dvc repro ensemble`."
    content = read_json(path, remedy)
    try:
        without_fold = {int(fold): of_models for fold, of_models in content["weights_without_fold"].items()}
        return EnsembleWeights(content["weights"], without_fold)
    except (KeyError, AttributeError, ValueError) as error:
        raise HarveysegError(f"{path}: not the weights of an ensemble ({error!r}). {remedy}") from None
