"""The pipeline from Python: prepare data, train and evaluate in a folder, without DVC or MLflow.

``from harveyseg import Workspace`` is made for notebooks. It calls what the stages call and writes the same files to
the same places, so :class:`harveyseg.prediction.api.Predictor` reads them, too. Experiments
that are to be compared belong into a project of ``harveyseg init``, where DVC and MLflow record them.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from harveyseg.config.preset import change_settings
from harveyseg.config.settings import section
from harveyseg.data.cache import CachedPart, ResizeParams, build_cache, load_part, read_part_classes, read_photos
from harveyseg.data.overlap import overlaps_of_data
from harveyseg.data.sources import DataParams, download_source
from harveyseg.data.split import SplitParams, fold_rows, make_folds, read_folds
from harveyseg.errors import HarveysegError
from harveyseg.evaluation.metrics import true_masks
from harveyseg.evaluation.network import evaluate_network
from harveyseg.files import write_table
from harveyseg.inference.params import InferenceParams
from harveyseg.pipeline.check import ModelConfig, check_params
from harveyseg.pipeline.fold_training import FoldTraining
from harveyseg.pipeline.identity import kept_record
from harveyseg.pipeline.new_repository import template_folder
from harveyseg.training.trainer import Result


@dataclass(frozen=True)
class Data:
    """Photos and masks at the size that networks are trained on, and the folds."""

    train: CachedPart
    """The training photos: ``images`` uint8 (N, H, W, 3), RGB; ``masks`` uint8 (N, H, W), indices of ``classes``, 255
    where there is no label."""
    test: CachedPart
    """The test photos; their ``masks`` are None."""
    folds: pd.DataFrame
    """The columns id, group (str) and fold (int): one row for each training photo, in the order of ``train``."""


@dataclass(frozen=True)
class Evaluation:
    """How good a network's argmax maps are, before any post-processing."""

    folder: Path
    """Holds the pictures ``sheet.png``, ``learning_curve.png`` and ``confusion.png``, and the tables."""
    metrics: Mapping[str, float]
    """E.g. ``val/argmax_score``, of the held-out photos, and ``val/all_empty_score``, that of submitting nothing."""
    per_class: pd.DataFrame
    """A row for each part (``val``, ``test``) and scored class, see
    :func:`harveyseg.evaluation.metrics.per_class_table`."""


class Workspace:
    """A folder with ``params.yaml`` in which the pipeline's steps run one by one.

    In a project of DVC only :meth:`load_data` works: DVC has to know who wrote its outs.

    Args:
        folder: holds ``params.yaml``. :meth:`create` makes one.

    Raises:
        HarveysegError: when there is no such file.

    Example:
        >>> workspace = Workspace.create(  # doctest: +SKIP
        ...     "trial", {"models": {"unet": {"network": "unet", "width": 8}}, "train.epochs": 5}
        ... )
        >>> data = workspace.prepare_data()  # doctest: +SKIP
        >>> result = workspace.train("unet", fold=0)  # doctest: +SKIP
        >>> workspace.evaluate("unet", fold=0).metrics["val/argmax_score"]  # doctest: +SKIP
        0.52
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).resolve()
        self._params = self.folder / "params.yaml"
        self._raw, self._cache = self.folder / "data" / "raw", self.folder / "data" / "cache"
        self._folds = self.folder / "data" / "splits" / "folds.csv"
        if not self._params.is_file():
            raise HarveysegError(f"{self._params}: no such file. Workspace.create({str(folder)!r}) makes one.")

    @classmethod
    def create(cls, folder: str | Path, changes: Mapping[str, Any] | None = None) -> "Workspace":
        """Write ``params.yaml``: the settings of the demo, which draws its photos itself, with changes.

        Data and models of an earlier call stay where they are.

        Args:
            folder: made when absent.
            changes: by full name, as in ``dvc exp run -S``, e.g. ``train.lr`` -> 0.001. A mapping replaces a section:
                ``{"models": {"unet": {"network": "unet"}}}`` leaves one model. docs/settings.md lists all. Give
                absolute paths.

        Raises:
            HarveysegError: for each impossible setting a line that says what is allowed; or when the folder is a
                project of DVC.
        """
        path = Path(folder)
        if (path / "dvc.yaml").exists():
            raise HarveysegError(
                f"{path}: is a project of DVC. Name another folder, or edit its params.yaml and run `dvc repro`."
            )
        path.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(template_folder() / "params.yaml", path / "params.yaml")
        change_settings(path / "params.yaml", changes or {})
        workspace = cls(path)
        _ = workspace._configs
        return workspace

    def prepare_data(self) -> Data:
        """Verify the photos of ``data.source``, shrink them into arrays and assign the folds, as three stages do.

        Returns:
            What :meth:`load_data` returns.

        Raises:
            HarveysegError: lists everything that is wrong with photos and masks; or when the folder is a project of
                DVC.
        """
        self._refuse_project("dvc repro split")
        resize = section(self._params, "resize-cache", ResizeParams)
        split = section(self._params, "split", SplitParams)
        download_source(section(self._params, "data", DataParams), self.folder, self._raw)
        build_cache(self._raw, self._cache, resize)
        overlaps = overlaps_of_data(self._raw, resize.threads, True) if split.groups == "overlap" else None
        unscored = read_part_classes(self._cache / "train").unscored
        folds = make_folds(read_photos(self._cache / "train"), unscored, split, self.folder, overlaps)
        write_table(self._folds, folds)
        return self.load_data()

    def load_data(self) -> Data:
        """Open the data that were prepared here, or by the pipeline; pixels are read when they are used.

        Raises:
            HarveysegError: when a file is absent, damaged, or does not fit the others.
        """
        return Data(load_part(self._cache / "train"), load_part(self._cache / "test"), read_folds(self._folds))

    def train(self, model: str, fold: int = 0) -> Result:
        """Train a model on all folds but one, print a line for each epoch, and write ``data/models/<model>-<fold>``.

        A training that was stopped continues after its last finished epoch, if neither settings, data nor code have
        changed.

        Args:
            model: key in ``models``.
            fold: the fold that is held out.

        Returns:
            ``history``, a row for each epoch, and ``results``; :meth:`evaluate` reads the weights from the folder.

        Raises:
            HarveysegError: when there is no such model or fold, the data are not prepared, or the loss is not finite.
        """
        self._refuse_project(f"dvc repro train@{model}-{fold}")
        if model not in self._configs:
            raise HarveysegError(f"{model}: no such model in {self._params}. Known are: {', '.join(self._configs)}.")
        prepared = FoldTraining.prepare(
            self._configs[model], fold, self._cache, self._folds, self.folder / ".checkpoints"
        )
        checkpoint = prepared.checkpoint
        with checkpoint.owned():
            record = kept_record(checkpoint) or prepared.new_record(self.folder)
            checkpoint.save_record(record.model_dump())
            for epoch in prepared.training.run():
                print(epoch, flush=True)
            prepared.write(self._model_folder(model, fold), record)
            checkpoint.finish(record.model_dump())
        return prepared.training.result()

    def evaluate(self, model: str, fold: int = 0) -> Evaluation:
        """Predict held-out and test photos with a trained model, score them, and draw figures.

        Args:
            model: key in ``models``.
            fold: the fold that was held out.

        Raises:
            HarveysegError: when the model was not trained with this fold held out.
        """
        self._refuse_project(f"dvc repro evaluate@{model}-{fold}")
        folder = self.folder / "data" / "predictions" / f"{model}-{fold}"
        data, truth = self.load_data(), true_masks(self._cache / "score")
        _, held_out = fold_rows(data.folds, data.train.ids, fold)
        inference = section(self._params, "inference", InferenceParams)
        trained = self._model_folder(model, fold)
        if not trained.is_dir():
            raise HarveysegError(f"{trained}: no such folder. Call train({model!r}, {fold}) first.")
        metrics = evaluate_network(folder, trained, data.train, data.test, truth, held_out, inference)
        return Evaluation(folder, metrics, pd.read_csv(folder / "per_class.csv"))

    @cached_property
    def _configs(self) -> dict[str, ModelConfig]:
        """The checked settings of each model."""
        configs = check_params(
            self._params, template_folder() / "stages", {"data": DataParams, "inference": InferenceParams}
        )
        return {config.model: config for config in configs}

    def _model_folder(self, model: str, fold: int) -> Path:
        return self.folder / "data" / "models" / f"{model}-{fold}"

    def _refuse_project(self, command: str) -> None:
        """DVC must know who wrote its outs."""
        if (self.folder / "dvc.yaml").exists():
            raise HarveysegError(
                f"{self.folder}: is a project of DVC, whose results only DVC may write. Run `{command}`."
            )
