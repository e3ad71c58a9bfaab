"""The ensemble's fold models: their predictions, loaded and checked, and weighted means of them.

A model predicts a test photo by the mean of its fold models, and a training photo by the one fold model that was not
trained on it ("out of fold"). Maps of different sizes are averaged at the largest.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harveyseg.arrays import ClassMap, ProbabilityMaps, ProbabilityStack
from harveyseg.data.cache import CachedPart
from harveyseg.errors import HarveysegError, raise_problems
from harveyseg.files import read_json
from harveyseg.inference.probabilities import average, largest_size, read_probabilities
from harveyseg.record import INFERENCE, RunRecord, Value, format_value, read_run

_REMEDY = "Run `dvc repro`, which trains and evaluates what is missing."


@dataclass(frozen=True)
class FoldModel:
    """One trained model of one fold and its predictions."""

    record: RunRecord
    val_ids: tuple[str, ...]
    val: ProbabilityStack
    """(n, C, H, W): probabilities of the photos that its training held out."""
    test_ids: tuple[str, ...]
    test: ProbabilityStack
    """(n, C, H, W): probabilities of the test photos."""
    argmax_score: float
    """val/argmax_score of its evaluation."""
    inference: Mapping[str, Value]
    """How its evaluation predicted: settings, e.g. ``inference.tta`` -> "flips", with device and precision."""


@dataclass(frozen=True)
class FoldModels:
    """All models x folds, checked to fit together.

    Its out-of-fold photos have *positions* 0, 1, ...: those of the first fold, then those of the second, and so on.
    """

    models: tuple[str, ...]
    folds: tuple[int, ...]
    members: Mapping[tuple[str, int], FoldModel]

    def __getitem__(self, model_and_fold: tuple[str, int]) -> FoldModel:
        """``fold_models["unet", 0]``."""
        return self.members[model_and_fold]

    @property
    def first(self) -> FoldModel:
        """An arbitrary fold model, for attributes that all share: test photos, data, split."""
        return self[self.models[0], self.folds[0]]

    @property
    def positions(self) -> list[tuple[int, int]]:
        """For each out-of-fold photo its fold, and its row in that fold's ``val``."""
        return [(fold, row) for fold in self.folds for row in range(len(self[self.models[0], fold].val_ids))]

    @property
    def ids(self) -> list[str]:
        """The ids of the out-of-fold photos."""
        return [photo for fold in self.folds for photo in self[self.models[0], fold].val_ids]

    def inference(self, models: Collection[str]) -> dict[str, Value]:
        """How some of the models were predicted.

        Args:
            models: their names.

        Returns:
            For each setting the value; where fold models differ all values, e.g. "cpu and cuda" for the device.
        """
        settings = [member.inference for (model, _), member in self.members.items() if model in models]
        joined: dict[str, Value] = {}
        for name in sorted({name for of_member in settings for name in of_member}):
            values = list(dict.fromkeys(of_member.get(name, "unknown") for of_member in settings))
            joined[name] = values[0] if len(values) == 1 else " and ".join(map(format_value, values))
        return joined

    def argmax_score(self, model: str) -> float:
        """A model's argmax score over all out-of-fold photos, each of which counts the same."""
        members = [self[model, fold] for fold in self.folds]
        weights = [len(member.val_ids) for member in members]
        return float(np.average([member.argmax_score for member in members], weights=weights))

    def rows(self, ids: Sequence[str]) -> list[int]:
        """Find each out-of-fold photo's place in ``ids``."""
        row_of = {photo: row for row, photo in enumerate(ids)}
        return [row_of[photo] for photo in self.ids]

    def masks(self, part: CachedPart) -> list[ClassMap]:
        """The true masks of the out-of-fold photos at the cache's size, uint8 (H, W) each.

        Args:
            part: the training part.

        Raises:
            HarveysegError: when the part holds no masks.
        """
        if part.masks is None:
            raise HarveysegError("data/cache/train/masks.npy: missing. Run `dvc repro resize-cache`.")
        return [part.masks[row] for row in self.rows(part.ids)]

    def predictor(
        self, weights: Mapping[str, float], without_fold: Mapping[int, Mapping[str, float]] | None = None
    ) -> Callable[[int], ProbabilityMaps]:
        """Weighted mean of the models' out-of-fold probabilities.

        Args:
            weights: of the models.
            without_fold: other weights for the photos of some folds, see
                :class:`harveyseg.ensemble.weights.EnsembleWeights`.

        Returns:
            A function from the position of an out-of-fold photo to its probabilities, uint8 (C, H, W).
        """
        weights_of_fold = {fold: (without_fold or {}).get(fold, weights) for fold in self.folds}
        positions = self.positions

        def predict(position: int) -> ProbabilityMaps:
            fold, row = positions[position]
            arrays = [self[model, fold].val for model in weights_of_fold[fold]]
            return average(arrays, list(weights_of_fold[fold].values()), [row] * len(arrays))

        return predict

    def test(self, weights: Mapping[str, float]) -> Iterator[ProbabilityMaps]:
        """Weighted mean over models of the mean over folds, for each test photo, uint8 (C, H, W)."""
        arrays, shares = self._test_shares(weights)
        for row in range(len(self.first.test_ids)):
            yield average(arrays, shares, [row] * len(arrays))

    def test_size(self, weights: Mapping[str, float]) -> tuple[int, int]:
        """(H, W) of the maps that :meth:`test` yields."""
        return largest_size(*self._test_shares(weights))

    def _test_shares(self, weights: Mapping[str, float]) -> tuple[list[ProbabilityStack], list[float]]:
        """The test probabilities of every fold model, and the share of each in the mean."""
        arrays = [self[model, fold].test for model in weights for fold in self.folds]
        return arrays, [weight / len(self.folds) for weight in weights.values() for _ in self.folds]


def load_fold_models(
    models: Sequence[str], folds: Sequence[int], runs: Path, predictions: Path, external: Path | None = None
) -> FoldModels:
    """Open the predictions of all models x folds and check that they fit together.

    Args:
        models: names of the models.
        folds: the folds that were held out.
        runs: folder of ``<model>-<fold>/run.json``.
        predictions: folder of ``<model>-<fold>/{val,test}.npy`` and ``metrics.json``.
        external: folder of the external models, each with all of these files and named in ``models.json``
            (:mod:`harveyseg.ensemble.external`); they come last. None leaves them out.

    Raises:
        HarveysegError: listing all that is missing, damaged, stale or of another data set or split.
    """
    folders = dict.fromkeys(models, (runs, predictions))
    if external is not None:
        external_models = read_json(external / "models.json", _REMEDY)["models"]
        folders |= dict.fromkeys(external_models, (external, external))
    members: dict[tuple[str, int], FoldModel] = {}
    problems: list[str] = []
    for model, (run_folder, prediction_folder) in folders.items():
        for fold in folds:
            name = f"{model}-{fold}"
            try:
                members[model, fold] = _load_fold_model(run_folder / name, prediction_folder / name)
            except HarveysegError as error:
                problems.append(str(error))
    heading = f"predictions of {len(folders)} models on {len(folds)} folds"
    raise_problems(problems, heading, _REMEDY)
    raise_problems(_mismatches(members), heading, _REMEDY)
    return FoldModels(tuple(folders), tuple(folds), members)


def _load_fold_model(run: Path, predictions: Path) -> FoldModel:
    record = read_run(run / "run.json")
    metrics = read_json(predictions / "metrics.json", _REMEDY)
    if metrics.get("uid") != record.uid:
        raise HarveysegError(
            f"{predictions / 'metrics.json'}: belongs to another run than {run / 'run.json'}. {_REMEDY}"
        )
    val_ids, val = read_probabilities(predictions / "val.npy")
    test_ids, test = read_probabilities(predictions / "test.npy")
    inference = {name: value for name, value in metrics.items() if name.startswith(INFERENCE)}
    return FoldModel(record, val_ids, val, test_ids, test, float(metrics["val/argmax_score"]), inference)


def _mismatches(members: Mapping[tuple[str, int], FoldModel]) -> list[str]:
    """One line for each fold model that has other data or photos than the first model."""
    first_model, first_fold = next(iter(members))
    first = members[first_model, first_fold]
    problems = []
    for (model, fold), member in members.items():
        fits = {
            "data": member.record.data_hash == first.record.data_hash,
            "split": member.record.split_hash == first.record.split_hash,
            "validation photos": member.val_ids == members[first_model, fold].val_ids,
            "test photos": member.test_ids == first.test_ids,
        }
        different = [what for what, fit in fits.items() if not fit]
        if different:
            problems.append(f"{model}-{fold}: other {', '.join(different)} than {first_model}")
    return problems
