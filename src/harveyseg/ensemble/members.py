"""The ensemble: a weighted mean of the models' probabilities, its weights chosen out of fold on the score itself.

A model predicts a test photo by the mean of its fold models, and a training photo by the one fold model that was not
trained on it ("out of fold"). Models and folds come from params.yaml, so a model that was removed there is gone here,
too, though its files may still lie about; :mod:`harveyseg.ensemble.external` adds trainings of other experiments. Maps of
different sizes are averaged at the largest.
"""

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import Field

from harveyseg.classes import N_CLASSES, N_SCORED
from harveyseg.config.settings import Section
from harveyseg.data.cache import CachedPart
from harveyseg.errors import HarveysegError, raise_problems
from harveyseg.files import digest, read_json, write_json
from harveyseg.inference.probabilities import average, largest_size, read_probabilities, update_argmax
from harveyseg.postprocess.decision import N_LEVELS, Evidence, PostprocessParams, attainable_score, histograms
from harveyseg.project import experiment_name, git_state, library_versions
from harveyseg.record import RunRecord, read_run
from harveyseg.score import confusion

_REMEDY = "Run `dvc repro`, which trains and evaluates what is missing."

ScoresAfter = Callable[[tuple[int, ...]], Sequence[float]]
"""From how often each model was taken so far to the score when one more is taken, for each model."""


class EnsembleParams(Section):
    """The section ``ensemble`` of params.yaml."""

    steps: int = Field(default=12, ge=1, le=250)
    """Models taken one after another, with replacement; a weight is a multiple of 1 / (how many were taken)."""
    runs: tuple[str, ...] = ()
    """MLflow run ids of trainings of other experiments that take part, see :mod:`harveyseg.ensemble.external`."""


@dataclass(frozen=True)
class Member:
    """One trained model of one fold and what it predicts."""

    record: RunRecord
    val_ids: tuple[str, ...]
    val: npt.NDArray[np.uint8]
    """(n, 25, H, W): probabilities of the photos that its training left out."""
    test_ids: tuple[str, ...]
    test: npt.NDArray[np.uint8]
    """(n, 25, H, W): probabilities of the test photos."""
    score: float
    """val/argmax_score of its evaluation."""


@dataclass(frozen=True)
class Members:
    """All models x folds; checked to fit together."""

    models: tuple[str, ...]
    folds: tuple[int, ...]
    of: Mapping[tuple[str, int], Member]

    @property
    def first(self) -> Member:
        """Any member, for what all share: test photos, data, split."""
        return self.of[self.models[0], self.folds[0]]

    @property
    def positions(self) -> list[tuple[int, int]]:
        """The out-of-fold photos: (fold, row in that fold's ``val``), fold by fold."""
        return [(fold, row) for fold in self.folds for row in range(len(self.of[self.models[0], fold].val_ids))]

    @property
    def ids(self) -> list[str]:
        """The ids of ``positions``."""
        return [photo for fold in self.folds for photo in self.of[self.models[0], fold].val_ids]

    def mean_score(self, model: str) -> float:
        """A model's score over all out-of-fold photos, each of which counts the same."""
        members = [self.of[model, fold] for fold in self.folds]
        return float(np.average([one.score for one in members], weights=[len(one.val_ids) for one in members]))

    def rows(self, ids: Sequence[str]) -> list[int]:
        """Per position, the photo's place in ``ids``."""
        row_of = {photo: row for row, photo in enumerate(ids)}
        return [row_of[photo] for photo in self.ids]

    def predictor(
        self, weights: Mapping[str, float], without: Mapping[int, Mapping[str, float]] | None = None
    ) -> Callable[[int], npt.NDArray[np.uint8]]:
        """Weighted mean of the models' out-of-fold probabilities.

        Args:
            weights: of the models.
            without: other weights for the photos of a fold, by fold, see :class:`Weights`.

        Returns:
            From one of ``positions`` to uint8 (25, H, W).
        """
        of_fold, positions = {fold: (without or {}).get(fold, weights) for fold in self.folds}, self.positions

        def predict(position: int) -> npt.NDArray[np.uint8]:
            fold, row = positions[position]
            arrays = [self.of[model, fold].val for model in of_fold[fold]]
            return average(arrays, list(of_fold[fold].values()), [row] * len(arrays))

        return predict

    def test(self, weights: Mapping[str, float]) -> Iterator[npt.NDArray[np.uint8]]:
        """Weighted mean over models of the mean over folds, for each test photo, uint8 (25, H, W)."""
        arrays, shares = self._test_parts(weights)
        for row in range(len(self.first.test_ids)):
            yield average(arrays, shares, [row] * len(arrays))

    def test_size(self, weights: Mapping[str, float]) -> tuple[int, int]:
        """(H, W) of the maps that :meth:`test` yields."""
        return largest_size(*self._test_parts(weights))

    def _test_parts(self, weights: Mapping[str, float]) -> tuple[list[npt.NDArray[np.uint8]], list[float]]:
        arrays = [self.of[model, fold].test for model in weights for fold in self.folds]
        return arrays, [weight / len(self.folds) for weight in weights.values() for _ in self.folds]


@dataclass(frozen=True)
class Weights:
    """The weights of the models, each set summing to 1."""

    chosen: dict[str, float]
    """On all out-of-fold photos: what predicts the test photos."""
    without: dict[int, dict[str, float]]
    """Per fold, on the photos of all other folds; empty when there is only one fold.

    A score with these is the nested estimate. With ``chosen`` it is a little rosy, since the same photos chose them.
    (Both rest on models whose best epoch was picked by the same photos, if training keeps the best one.)
    """


def load_members(
    models: Sequence[str], folds: Sequence[int], runs: Path, predictions: Path, added: Path | None = None
) -> Members:
    """Open the predictions of all models x folds and check that they fit together.

    Args:
        models: names of the models.
        folds: the folds that were held out.
        runs: folder of ``<model>-<fold>/run.json``.
        predictions: folder of ``<model>-<fold>/{val,test}.npy`` and ``metrics.json``.
        added: folder of the models that were added by their run ids, each with all of these files and named in
            ``models.json``; they come last. None leaves them out.

    Raises:
        HarveysegError: listing all that is missing, damaged, stale or of another data set or split.
    """
    more = [] if added is None else list(read_json(added / "models.json", _REMEDY)["models"])
    of: dict[tuple[str, int], Member] = {}
    problems: list[str] = []
    for model in (*models, *more):
        for fold in folds:
            name = f"{model}-{fold}"
            places = (added / name, added / name) if added and model in more else (runs / name, predictions / name)
            try:
                of[model, fold] = _load_member(*places)
            except HarveysegError as error:
                problems.append(str(error))
    models = (*models, *more)
    heading = f"predictions of {len(models)} models on {len(folds)} folds"
    raise_problems(problems, heading, _REMEDY)
    for (model, fold), member in of.items():
        same_fold, any_member = of[models[0], fold], of[models[0], folds[0]]
        fits = {
            "data": member.record.data_hash == any_member.record.data_hash,
            "split": member.record.split_hash == any_member.record.split_hash,
            "validation photos": member.val_ids == same_fold.val_ids,
            "test photos": member.test_ids == any_member.test_ids,
        }
        different = [what for what, fit in fits.items() if not fit]
        if different:
            problems.append(f"{model}-{fold}: other {', '.join(different)} than {models[0]}")
    raise_problems(problems, heading, _REMEDY)
    return Members(tuple(models), tuple(folds), of)


def _load_member(run: Path, predictions: Path) -> Member:
    record = read_run(run / "run.json")
    found = read_json(predictions / "metrics.json", _REMEDY)
    if found.get("uid") != record.uid:
        raise HarveysegError(
            f"{predictions / 'metrics.json'}: belongs to another run than {run / 'run.json'}. {_REMEDY}"
        )
    val_ids, val = read_probabilities(predictions / "val.npy")
    test_ids, test = read_probabilities(predictions / "test.npy")
    return Member(record, val_ids, val, test_ids, test, float(found["val/argmax_score"]))


def choose_weights(
    members: Members,
    part: CachedPart,
    groups: Mapping[str, str],
    params: EnsembleParams,
    decide: PostprocessParams,
    threads: int,
) -> Weights:
    """Choose the weights by greedy forward selection with replacement (Caruana et al., ICML 2004) on the score.

    What counts is the score of what is handed in: that of the label maps, or with ``postprocess.method: auto`` that of a
    rule fitted on each mixture. They can disagree: networks trained with class weights make poor label maps and good
    decisions. The score is taken at the cache's size, against the masks of that size, to which maps of other sizes are
    brought: the search looks at hundreds of mixtures, 16 times cheaper at 256 x 256 than at 1024 x 1024, and weights
    need only the order of the mixtures to be right.

    With several folds the weights are chosen anew without the photos of each fold: scored on that fold, they tell what
    choosing weights is worth on photos that had no say in it.

    Args:
        members: the models.
        part: the training part, with masks at the cache's size.
        groups: each photo's group of neighbouring frames, by its id.
        params: how many steps.
        decide: how it is decided what is handed in.
        threads: photos looked at side by side; does not change the result.
    """
    folds = members.folds if len(members.folds) > 1 else ()
    if len(members.models) == 1:
        alone = {members.models[0]: 1.0}
        return Weights(alone, dict.fromkeys(folds, alone))
    evidence_after = evidence_of_mixtures(members, cached_masks(members, part), threads)
    names = np.array([groups[photo] for photo in members.ids])
    fold_of = np.array([fold for fold, _ in members.positions])

    def scores_of(photos: npt.NDArray[np.intp]) -> ScoresAfter:
        theirs = names[photos].tolist()
        return lambda counts: [
            attainable_score(one.of(photos), theirs, decide.method) for one in evidence_after(counts)
        ]

    learnt_on = [np.arange(len(names)), *(np.flatnonzero(fold_of != fold) for fold in folds)]
    taken = select([scores_of(photos) for photos in learnt_on], len(members.models), params.steps)
    chosen, *without = (
        {model: count / sum(counts) for model, count in zip(members.models, counts, strict=True)} for counts in taken
    )
    return Weights(chosen, dict(zip(folds, without, strict=True)))


def cached_masks(members: Members, part: CachedPart) -> list[npt.NDArray[np.uint8]]:
    """The true masks of ``members.positions`` at the cache's size, uint8 (H, W).

    Raises:
        HarveysegError: when the part holds no masks.
    """
    if part.masks is None:
        raise HarveysegError("data/cache/train/masks.npy: missing. Run `dvc repro resize-cache`.")
    return [part.masks[row] for row in members.rows(part.ids)]


def select(searches: Sequence[ScoresAfter], models: int, steps: int) -> list[tuple[int, ...]]:
    """Greedy forward selection with replacement: always take the model that lifts the score most.

    Args:
        searches: see :data:`ScoresAfter`; independent of each other, a step of each after the other.
        models: how many there are.
        steps: how many are taken.

    Returns:
        For each search how often each model was taken when its score was highest; the smallest such mixture.
    """
    counts = [(0,) * models] * len(searches)
    best, best_score = list(counts), [-np.inf] * len(searches)
    for _ in range(steps):
        # Equal mixtures, of which there are many, one after another: the evidence of one is all that is held.
        for search in sorted(range(len(searches)), key=counts.__getitem__):
            scores = searches[search](counts[search])
            taken = int(np.argmax(scores))
            counts[search] = tuple(count + (model == taken) for model, count in enumerate(counts[search]))
            if scores[taken] > best_score[search] + 1e-12:  # a gain by rounding is none
                best[search], best_score[search] = counts[search], scores[taken]
    return best


def evidence_of_mixtures(
    members: Members, truth: Sequence[npt.NDArray[np.uint8]], threads: int
) -> Callable[[tuple[int, ...]], list[Evidence]]:
    """What the out-of-fold photos say of mixtures of the models.

    Args:
        members: the models; maps of another size than the truth are brought to its size bilinearly.
        truth: per position, class ids, uint8 (H, W).
        threads: photos looked at side by side.

    Returns:
        From how often each model was taken so far to the evidence when one more is taken, for each model.
    """
    positions = members.positions

    def look(position: int, counts: tuple[int, ...]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        fold, row = positions[position]
        true = truth[position]
        maps = [members.of[model, fold].val[row] for model in members.models]
        best, labels = np.zeros((len(maps), *true.shape), np.uint16), np.zeros((len(maps), *true.shape), np.uint8)
        pixels = np.zeros((len(maps), N_SCORED, 2, N_LEVELS), np.int64)
        # Class by class in small integers, which stay in the processor's cache: 4 times the speed of whole maps.
        for class_id in range(N_CLASSES):
            channels = [_resized(one[class_id], true.shape) for one in maps]
            base = np.zeros(true.shape, np.uint16)
            for count, channel in zip(counts, channels, strict=True):
                if count:
                    base += np.uint16(count) * channel  # at most 250 * 255, which 16 bits hold
            inside = true == class_id
            for model, channel in enumerate(channels):
                total = base + channel
                update_argmax(total, class_id, best[model], labels[model])
                if class_id:
                    mean = np.asarray(cv2.convertScaleAbs(total, alpha=1 / (sum(counts) + 1)), np.uint8)
                    pixels[model, class_id - 1] = histograms(mean, inside if inside.any() else None)
        return pixels, np.stack([confusion(true, one) for one in labels])

    @functools.lru_cache(maxsize=1)  # the searches without a fold mostly walk the same way, step by step
    def evidence_after(counts: tuple[int, ...]) -> list[Evidence]:
        with ThreadPoolExecutor(threads) as pool:
            found = list(pool.map(lambda position: look(position, counts), range(len(positions))))
        return [
            Evidence.build(np.stack([pixels[model] for pixels, _ in found]), np.stack([one[model] for _, one in found]))
            for model in range(len(members.models))
        ]

    return evidence_after


def _resized(channel: npt.NDArray[np.uint8], size: tuple[int, ...]) -> npt.NDArray[np.uint16]:
    if channel.shape != size:
        channel = np.asarray(cv2.resize(channel, size[::-1], interpolation=cv2.INTER_LINEAR), np.uint8)
    return channel.astype(np.uint16)


def write_weights(path: Path, members: Members, weights: Weights) -> None:
    """Write ``weights.json``: the weights, those chosen without each fold, and each model's out-of-fold score."""
    content = {
        "weights": weights.chosen,
        "weights_without_fold": {str(fold): found for fold, found in weights.without.items()},
        "scores": {model: members.mean_score(model) for model in members.models},
    }
    write_json(path, content)


def read_weights(path: Path) -> Weights:
    """Read ``weights.json``.

    Raises:
        HarveysegError: when it is absent or no such file.
    """
    content = read_json(path, _REMEDY)
    try:
        without = {int(fold): found for fold, found in content["weights_without_fold"].items()}
        return Weights(content["weights"], without)
    except (KeyError, AttributeError, ValueError) as error:
        raise HarveysegError(f"{path}: not the weights of an ensemble ({error!r}). {_REMEDY}") from None


def new_record(members: Members, weights: Weights, params: EnsembleParams, checkout: Path) -> RunRecord:
    """The record of an ensemble that is made now; its parameters name the weights and the members' uids."""
    uids = {f"{model}-{fold}": member.record.uid for (model, fold), member in members.of.items()}
    # Added runs are among the members.
    settings = {f"ensemble.{name}": value for name, value in params.model_dump(exclude={"runs"}).items()}
    git, shared = git_state(checkout), members.first.record
    return RunRecord(
        kind="ensemble",
        model="ensemble",
        fold=None,
        stage_key=digest({"members": uids, "parameters": settings}),
        experiment=experiment_name(),
        parameters={
            **settings,
            # MLflow allows no @ in a name.
            **{f"weight.{model.replace('@', '.')}": weight for model, weight in weights.chosen.items()},
            **{f"member.{name.replace('@', '.')}": uid for name, uid in uids.items()},
        },
        git_commit=git.commit,
        git_dirty=git.dirty,
        data_source=shared.data_source,
        data_hash=shared.data_hash,
        split_hash=shared.split_hash,
        device="cpu",
        environment=library_versions(),
        started_ms=round(time.time() * 1000),
    )


def describe_members(members: Members, weights: Mapping[str, float]) -> dict[str, object]:
    """What a mixture is made of, for a side-car: each model's weight, and uid and MLflow run id of its fold models."""
    return {
        "weights": dict(weights),
        "members": {
            f"{model}-{fold}": {"uid": member.record.uid, "run_id": member.record.run_id}
            for (model, fold), member in members.of.items()
            if weights.get(model, 0) > 0
        },
    }
