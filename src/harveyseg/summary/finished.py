"""What the page is made of: the workspace's files, read and checked once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from harveyseg.arrays import ClassMaps, ProbabilityMaps
from harveyseg.classes import ClassList
from harveyseg.config.settings import listed_models, section
from harveyseg.data.cache import CachedPart, load_part
from harveyseg.data.split import read_folds
from harveyseg.ensemble.members import FoldModels, load_fold_models
from harveyseg.ensemble.weights import EnsembleWeights, read_weights
from harveyseg.errors import raise_problems
from harveyseg.evaluation.metrics import true_masks
from harveyseg.inference.params import InferenceParams
from harveyseg.pipeline.recorded import require_recorded
from harveyseg.postprocess.files import FittedRule, read_rule
from harveyseg.record import ENSEMBLE, RunRecord
from harveyseg.tracking.outputs import RunOutputs, list_workspace
from harveyseg.tracking.table import find_winner, read_comparison, score_of, verify_table


@dataclass(frozen=True)
class FinishedPipeline:
    """The finished pipeline in a project's folder."""

    data: Path
    """The folder that stages write to."""
    outputs: Sequence[RunOutputs]
    """Of every listed model and fold, then of the ensemble."""
    table: pd.DataFrame
    """comparison.csv, all cells as text."""
    fold_models: FoldModels
    """The listed models and those that ``ensemble.runs`` adds."""
    models: tuple[str, ...]
    """The listed models."""
    weights: EnsembleWeights
    """Of the ensemble."""
    train: CachedPart
    test: CachedPart
    truth: Mapping[str, ClassMaps]
    """The masks at the score's size: ``val``, of all training photos, and where they are known ``test``."""
    split: pd.DataFrame
    """folds.csv: id, group, fold."""
    threads: int
    """Photos processed at the same time."""

    @property
    def classes(self) -> ClassList:
        """What the masks hold."""
        return self.train.classes

    @property
    def sources(self) -> tuple[str, ...]:
        """The models, then the ensemble: all that has a score of its own."""
        return (*self.models, ENSEMBLE)

    @property
    def held_out(self) -> pd.DataFrame:
        """The rows of ``split`` of the out-of-fold photos, in the order of their positions."""
        return self.split.set_index("id").loc[self.fold_models.ids].reset_index()

    def weights_of(self, source: str) -> EnsembleWeights:
        """The weights with which a source averages the models."""
        return self.weights if source == ENSEMBLE else EnsembleWeights.of_single_model(source)

    def predictor(self, source: str) -> Callable[[int], ProbabilityMaps]:
        """From the position of an out-of-fold photo to its probabilities, uint8 (C, H, W)."""
        weights = self.weights_of(source)
        return self.fold_models.predictor(weights.chosen, weights.without_fold)

    def records(self, source: str) -> list[RunRecord]:
        """The runs of a source."""
        return [output.record for output in self.outputs if output.record.model == source]

    def rule(self, source: str) -> FittedRule:
        """The rule with which a source's test photos are post-processed."""
        return read_rule(self.data / "postprocess" / "rules" / f"{source}.json", self.records(source))

    def score(self, source: str, column: str = "val_score") -> float | None:
        """A number of the table: a model's over all folds, the ensemble's or the baseline's; None if empty."""
        return score_of(self.table, source, column)

    @property
    def winner(self) -> str:
        """The source with the highest score on held-out photos; the first of equal ones.

        Raises:
            HarveysegError: when no source has a score.
        """
        return find_winner(self.table, self.sources)


def read_finished_pipeline(params: Path, data: Path) -> FinishedPipeline:
    """Read a finished pipeline.

    Args:
        params: params.yaml.
        data: the folder that stages write to.

    Raises:
        HarveysegError: when a file is absent, damaged or not what the pipeline wrote, or the table and the files of the
            stages differ.
    """
    outputs = list_workspace(params, data)
    table_file = data / "reports" / "comparison.csv"
    require_recorded([table_file, *(file for run in outputs for file in run.files())], params.parent)
    table = read_comparison(table_file)
    remedy = "Run `dvc repro`; `harveyseg check` shows whether they agree then."
    raise_problems(verify_table(table_file, outputs), "the table and the stages' files differ", remedy)
    models, folds = listed_models(params)
    ensemble = data / ENSEMBLE
    return FinishedPipeline(
        data=data,
        outputs=outputs,
        table=table,
        fold_models=load_fold_models(models, folds, data / "models", data / "predictions", ensemble / "added"),
        models=models,
        weights=read_weights(ensemble / "weights.json"),
        train=load_part(data / "cache" / "train"),
        test=load_part(data / "cache" / "test"),
        truth=true_masks(data / "cache" / "score"),
        split=read_folds(data / "splits" / "folds.csv"),
        threads=section(params, "inference", InferenceParams).threads,
    )
