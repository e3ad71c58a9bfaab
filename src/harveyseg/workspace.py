"""The pipeline from Python: prepare data, train and evaluate in a folder, without DVC or MLflow.

``from harveyseg import Workspace`` is made for notebooks. It calls what the stages call and writes the same files to
the same places, so :class:`harveyseg.prediction.api.Predictor` reads them, too. Experiments
that are to be compared belong into a project of ``harveyseg init``, where DVC and MLflow record them.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from harveyseg.config.preset import change_settings
from harveyseg.config.settings import flat_values, load, section
from harveyseg.data.cache import CachedPart, ResizeParams, build_cache, load_part, read_part_classes, read_photos
from harveyseg.data.class_lists import classes_file
from harveyseg.data.overlap import overlaps_of_data
from harveyseg.data.sources import DataParams, download_source
from harveyseg.data.split import SplitParams, files_of_split, fold_rows, make_folds, read_folds
from harveyseg.errors import HarveysegError
from harveyseg.evaluation.metrics import true_masks
from harveyseg.evaluation.network import evaluate_network
from harveyseg.files import read_json, sha256, write_json, write_table, write_text
from harveyseg.inference.params import InferenceParams
from harveyseg.pipeline.check import ModelConfig, check_params
from harveyseg.pipeline.code import code_digests, format_digests, stage_files
from harveyseg.pipeline.contradictions import find_contradictions
from harveyseg.pipeline.fold_training import FoldTraining
from harveyseg.pipeline.identity import kept_record
from harveyseg.pipeline.new_repository import template_folder
from harveyseg.record import RunRecord, Value, read_run
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
        self._prepared = self.folder / "data" / "prepared.json"
        if not self._params.is_file():
            raise HarveysegError(f"{self._params}: no such file. Workspace.create({str(folder)!r}) makes one.")

    @classmethod
    def create(cls, folder: str | Path, changes: Mapping[str, Any] | None = None) -> "Workspace":
        """Write ``params.yaml``: the settings of the demo, which draws its photos itself, with changes.

        Nothing is replaced: data and models of an earlier call stay where they are, and so does a ``params.yaml`` with
        other settings, which is refused.

        Args:
            folder: made when absent.
            changes: by full name, as in ``dvc exp run -S``, e.g. ``train.lr`` -> 0.001. A mapping replaces a section:
                ``{"models": {"unet": {"network": "unet"}}}`` leaves one model. docs/settings.md lists all. Give
                absolute paths.

        Raises:
            HarveysegError: for each impossible setting a line that says what is allowed; or when the folder is a file,
                a project of DVC, or has other settings. Nothing has been written then.
        """
        path = Path(folder)
        if path.exists() and not path.is_dir():
            raise HarveysegError(f"{path}: is a file. Name a folder.")
        if (path / "dvc.yaml").exists():
            raise HarveysegError(
                f"{path}: is a project of DVC. Name another folder, or edit its params.yaml and run `dvc repro`."
            )
        params = path / "params.yaml"
        text = change_settings((template_folder() / "params.yaml").read_text(encoding="utf-8"), changes or {})
        is_new = not params.exists()
        if not is_new and params.read_text(encoding="utf-8") != text:
            raise HarveysegError(
                f"{params}: has other settings than these. Open it as it is with Workspace({str(folder)!r}), delete "
                "it, or name another folder."
            )
        path.mkdir(parents=True, exist_ok=True)
        write_text(params, text)
        workspace = cls(path)
        try:
            workspace._read_configs()
        except HarveysegError:
            if is_new:
                params.unlink()
            raise
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
        self._prepared.unlink(missing_ok=True)
        download_source(section(self._params, "data", DataParams), self.folder, self._raw)
        build_cache(self._raw, self._cache, resize)
        overlaps = overlaps_of_data(self._raw, resize.threads, True) if split.groups == "overlap" else None
        unscored = read_part_classes(self._cache / "train").unscored
        folds = make_folds(read_photos(self._cache / "train"), unscored, split, self.folder, overlaps)
        write_table(self._folds, folds)
        write_json(self._prepared, self._data_settings())
        return self.load_data()

    def load_data(self) -> Data:
        """Open the data that were prepared here, or by the pipeline; pixels are read when they are used.

        Raises:
            HarveysegError: when a file is absent, damaged, or does not fit the others; or when the data were prepared
                with other settings than ``params.yaml`` has now.
        """
        self._require_prepared()
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
            HarveysegError: when there is no such model or fold, the data are not prepared with the settings of now, or
                the loss is not finite.
        """
        self._refuse_project(f"dvc repro train@{model}-{fold}")
        config = self._read_config(model)
        self._require_prepared()
        prepared = FoldTraining.prepare(config, fold, self._cache, self._folds, self.folder / ".checkpoints")
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
            HarveysegError: when the model was not trained with this fold held out, or not with the settings, photos
                and folds of now: photos that it was trained on would then count as held out.
        """
        self._refuse_project(f"dvc repro evaluate@{model}-{fold}")
        folder = self.folder / "data" / "predictions" / f"{model}-{fold}"
        network = self._read_config(model).spec["network"]
        trained = self._model_folder(model, fold)
        if not trained.is_dir():
            raise HarveysegError(f"{trained}: no such folder. Call train({model!r}, {fold}) first.")
        data, truth = self.load_data(), true_masks(self._cache / "score")
        self._require_trained_now(read_run(trained / "run.json"), data)
        _, held_out = fold_rows(data.folds, data.train.ids, fold)
        inference = section(self._params, "inference", InferenceParams)
        digests = format_digests(code_digests(stage_files("evaluate", template_folder() / "stages", [network])))
        code = hashlib.sha256(digests.encode()).hexdigest()  # as of the file that the stage `code` writes
        metrics = evaluate_network(folder, trained, data.train, data.test, truth, held_out, inference, code)
        return Evaluation(folder, metrics, pd.read_csv(folder / "per_class.csv"))

    def _read_configs(self) -> dict[str, ModelConfig]:
        """The checked settings of each model, as they are now."""
        configs = check_params(
            self._params, template_folder() / "stages", {"data": DataParams, "inference": InferenceParams}
        )
        return {config.model: config for config in configs}

    def _read_config(self, model: str) -> ModelConfig:
        configs = self._read_configs()
        if model not in configs:
            raise HarveysegError(f"{model}: no such model in {self._params}. Known are: {', '.join(configs)}.")
        return configs[model]

    def _data_settings(self) -> dict[str, Value]:
        """What decides the prepared data, with the content of the files that settings name."""
        values = load(self._params)
        settings = flat_values({name: values.get(name) for name in ("data", "resize-cache", "split")})
        named = files_of_split(section(self._params, "split", SplitParams))
        files: dict[str, str | None] = {f"split.{key}": file for key, file in named.items()}
        files["data.classes"] = classes_file(str(settings.get("data.classes")))
        for key, file in files.items():
            if file is not None and (path := self.folder / file).is_file():
                settings[f"the file of {key}"] = sha256(path)
        return settings

    def _require_prepared(self) -> None:
        """Refuse data that were prepared with other settings. In a project of DVC, DVC knows."""
        if (self.folder / "dvc.yaml").exists():
            return
        if not self._prepared.exists():
            raise HarveysegError(f"{self.folder}: the data are not prepared. Call prepare_data() first.")
        now, then = self._data_settings(), read_json(self._prepared, "Call prepare_data().")
        changed = [name for name in sorted(now.keys() | then.keys()) if now.get(name) != then.get(name)]
        if changed:
            raise HarveysegError(
                f"{self._params}: {', '.join(changed)} changed after the data were prepared. Call prepare_data() again."
            )

    def _require_trained_now(self, record: RunRecord, data: Data) -> None:
        """Refuse a training of other settings, folds or photos than those of now."""
        found = find_contradictions(self._params, [(record, record.parameters)], self._folds)
        if record.data_hash != data.train.data_hash:
            found.setdefault(record.uid, "this run was trained on other photos than data/cache holds")
        if record.uid in found:
            raise HarveysegError(
                f"{record.name}: {found[record.uid]}. Call train({record.model!r}, {record.fold}) again."
            )

    def _model_folder(self, model: str, fold: int) -> Path:
        return self.folder / "data" / "models" / f"{model}-{fold}"

    def _refuse_project(self, command: str) -> None:
        """DVC must know who wrote its outs."""
        if (self.folder / "dvc.yaml").exists():
            raise HarveysegError(
                f"{self.folder}: is a project of DVC, whose results only DVC may write. Run `{command}`."
            )
