"""A training of the pipeline: its data, settings and identity brought together, and the files that it ends in."""

import time
from dataclasses import dataclass
from pathlib import Path

import torch

from harveyseg.data.cache import CachedPart, load_part
from harveyseg.data.split import fold_rows, read_folds, split_hash
from harveyseg.device import resolve_device, resolve_precision
from harveyseg.device_names import Precision
from harveyseg.inference.network_file import save_network
from harveyseg.pipeline.check import ModelConfig
from harveyseg.pipeline.identity import new_record, stage_key
from harveyseg.record import WEIGHTS_FILE, RunRecord, write_run
from harveyseg.training.checkpoint import Checkpoint
from harveyseg.training.history import write_history
from harveyseg.training.trainer import Training


@dataclass(frozen=True)
class FoldTraining:
    """One model with one fold held out, ready to train. :meth:`prepare` makes one."""

    config: ModelConfig
    fold: int
    part: CachedPart
    """The training photos."""
    split: str
    """SHA-256 of the folds."""
    device: torch.device
    precision: Precision
    key: str
    """See :func:`harveyseg.pipeline.identity.stage_key`."""
    checkpoint: Checkpoint
    training: Training

    @classmethod
    def prepare(cls, config: ModelConfig, fold: int, cache: Path, folds: Path, checkpoints: Path) -> "FoldTraining":
        """Open the data; nothing is trained yet.

        Args:
            config: the model's checked settings.
            fold: the fold that is held out.
            cache: ``data/cache``.
            folds: ``data/splits/folds.csv``.
            checkpoints: folder of all checkpoints.

        Raises:
            HarveysegError: when data are absent, damaged or too few, there is no such fold, or no such device.
        """
        part = load_part(cache / "train")
        split = split_hash(folds)
        unlabelled = None if config.train.self_training is None else load_part(cache / "test")
        device = resolve_device(config.train.device)
        precision = resolve_precision(config.train.precision, device)
        key = stage_key(config, cache / "train", part.classes, split, fold, cache / "test", device, precision)
        checkpoint = Checkpoint(checkpoints, key)
        rows = fold_rows(read_folds(folds), part.ids, fold)
        training = Training(config.spec, config.train, part, *rows, checkpoint=checkpoint, unlabelled=unlabelled)
        return cls(config, fold, part, split, device, precision, key, checkpoint, training)

    def new_record(self, checkout: Path) -> RunRecord:
        """The record of this training, which starts now, with the state of git in ``checkout``."""
        return new_record(
            self.config, self.fold, self.part, self.split, self.key, self.device, self.precision, checkout
        )

    def write(self, folder: Path, record: RunRecord) -> None:
        """Write ``weights.safetensors``, ``history.csv`` and ``run.json`` of the finished training.

        Args:
            folder: e.g. ``data/models/unet-0``.
            record: of the training; it gets its results, unless it was finished before.

        Raises:
            RuntimeError: when ``training.run()`` was not iterated to its end.
        """
        result = self.training.result()
        if record.ended_ms is None:
            record.results = result.results
            record.ended_ms = round(time.time() * 1000)
        description = (self.config.spec, result.mean, result.std, self.part.size, self.part.classes)
        save_network(folder / WEIGHTS_FILE, result.state, *description)
        write_history(folder / "history.csv", result.history)
        write_run(folder / "run.json", record)
