"""Training one network on one fold, resumed from the last finished epoch if it was killed.

No tracker is known here: :meth:`Training.run` yields each finished epoch, and the caller passes it on.
"""

import logging
import math
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import Dataset

from harveyseg.arrays import ClassMap, Photo, Rows
from harveyseg.data.augmentation import Augmentation
from harveyseg.data.cache import CachedPart
from harveyseg.device import (
    explain_out_of_memory,
    peak_memory_mb,
    seed_everything,
    use_precision,
    use_threads,
)
from harveyseg.errors import HarveysegError
from harveyseg.models.network import validate
from harveyseg.progress import Progress
from harveyseg.training.checkpoint import Checkpoint
from harveyseg.training.dataset import (
    Batch,
    EpochLoader,
    RareClassSampler,
    SampleKey,
    Samples,
    UnlabelledViews,
    epoch_batches,
    unlabelled_batches,
)
from harveyseg.training.history import VALIDATION
from harveyseg.training.learner import Learner, part_sizes
from harveyseg.training.params import TrainParams

logger = logging.getLogger(__name__)

Row = dict[str, float]
"""One epoch, by the columns of :mod:`harveyseg.training.history`; ``epoch`` counts from 1.

An epoch that was not validated lacks what only a validation gives. Images are samples: a photo can have several."""


@dataclass(frozen=True)
class Epoch:
    """A finished epoch, whose state is safe on disk."""

    row: Row
    history: tuple[Row, ...]
    """All epochs so far, those before a kill included."""
    epochs: int
    """The most epochs that the training can have."""

    def __str__(self) -> str:
        """Losses and score in words."""
        row = self.row
        validation = (
            f", val loss {row['val_loss']:.4f}, argmax score {row['val_argmax_score']:.4f}" if "val_loss" in row else ""
        )
        return f"epoch {len(self.history)}/{self.epochs}, train loss {row['train_loss']:.4f}{validation}"


@dataclass(frozen=True)
class Result:
    """The weights and metrics of a finished training run."""

    state: dict[str, torch.Tensor]
    """State dict of the kept epoch."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    history: tuple[Row, ...]
    results: dict[str, float]
    """``written/*``, ``best/*``, ``epochs``, ``seconds``, ``images_per_second``, ``parameters``, ...

    ``written/*`` are of the epoch whose weights these are, ``best/*`` of the one that is best by ``monitor``."""

    def __str__(self) -> str:
        """The kept weights in words, and whether they find anything at all."""
        line = (
            f"weights of epoch {self.results['written/epoch']:.0f}, "
            f"train loss {self.results['written/train_loss']:.4f}, val loss {self.results['written/val_loss']:.4f}, "
            f"argmax score {self.results['written/val_argmax_score']:.4f}"
        )
        if self.results["written/val_predicted_classes"] == 0:
            return f"{line} (no scored class is predicted in any held-out photo, so this is the all-empty score)"
        return line


class Training:
    """One training: construct it, iterate :meth:`run` to its end, then ask for :meth:`result`.

    Args:
        spec: the network, as :func:`harveyseg.models.network.build` takes it.
        params: the recipe.
        part: the cached training photos.
        train_rows: rows of ``part`` to train on.
        val_rows: rows of the held-out fold.
        checkpoint: where the state is kept after each epoch.
        unlabelled: the cached test photos, for ``self_training``.

    Raises:
        HarveysegError: when photos or masks are missing.
    """

    def __init__(
        self,
        spec: Mapping[str, Any],
        params: TrainParams,
        part: CachedPart,
        train_rows: Rows,
        val_rows: Rows,
        checkpoint: Checkpoint,
        unlabelled: CachedPart | None = None,
    ) -> None:
        if not len(train_rows) or not len(val_rows):
            raise HarveysegError(
                f"the fold has {len(train_rows)} training and {len(val_rows)} validation photos: both need at least "
                "one. Lower split.folds, or add photos."
            )
        if part.masks is None:
            raise HarveysegError("the training cache has no masks. Run `dvc repro resize-cache` again.")
        if params.self_training is not None and (unlabelled is None or not unlabelled.ids):
            raise HarveysegError("train.self_training: there is no test photo to learn from. Set it to null.")
        self._spec = spec
        self._params = params
        self._part = part
        self._masks = part.masks
        self._train_rows = [int(row) for row in train_rows]
        self._val_rows = [int(row) for row in val_rows]
        self._checkpoint = checkpoint
        self._unlabelled = unlabelled
        self._learner: Learner | None = None
        self._result: Result | None = None

    def run(self) -> Generator[Epoch, None, None]:
        """Train, from the last finished epoch if there is a checkpoint, and yield after each epoch.

        Raises:
            HarveysegError: for settings that cannot work here (no CUDA, missing encoder weights, a single sample where
                batch norm needs two), or when the loss is not finite.
        """
        params = self._params
        if min(size for batch in self._batches(epoch=0) for size in part_sizes(len(batch), params.accumulate)) == 1:
            classes, size = len(self._part.classes), self._part.size
            validate(self._spec, classes, None, "the network", size, params.augmentation.crop, samples=1)
        # Prepare: seed before building the network, since its initial weights are random.
        use_threads(params.threads)
        seed_everything(params.seed)
        augmentation = Augmentation(params.augmentation, params.seed)
        steps = params.epochs * len(self._batches(epoch=0))
        photos = self._part.photos.iloc[self._train_rows]
        learner = Learner(self._spec, params, self._part.classes, photos, steps)
        samples = Samples(self._part.images, self._masks, augmentation, self._rare_class_sampler())
        labelled = self._loader(samples, learner.device)
        views = self._unlabelled_loader(augmentation, learner.device)
        use_precision(learner.precision)
        self._learner = learner
        history: list[Row] = []
        best_weights: dict[str, torch.Tensor] = {}

        # Resume.
        state = self._checkpoint.load(learner.device)
        if state is not None:
            learner.load_state_dict(state["learner"])
            history = list(state["history"])
            best_weights = state["best_weights"]

        images = sum(map(len, self._batches(epoch=0)))
        with Progress("training", params.epochs * images, "images", len(history) * images) as progress:
            for epoch in range(len(history), params.epochs):
                if self._stops_early(history):
                    break
                # Train.
                batches = self._batches(epoch)
                unlabelled = self._unlabelled_batches(views, batches, epoch)
                lr = learner.lr
                started = time.perf_counter()
                with explain_out_of_memory(self._describe_memory(learner), _LESS_MEMORY):
                    pairs = zip(labelled.epoch(batches), unlabelled, strict=True)
                    train_loss = learner.train_epoch(_counted(pairs, progress))
                train_seconds = time.perf_counter() - started
                _require_finite("training loss", train_loss, epoch + 1)

                # Validate.
                validation = self._validate(learner, epoch)

                # Keep.
                history.append(
                    {
                        "epoch": epoch + 1,
                        "time_ms": round(time.time() * 1000),
                        "train_loss": train_loss,
                        **validation,
                        "lr": lr,
                        "images_per_second": sum(map(len, batches)) / train_seconds,
                        "seconds": time.perf_counter() - started,
                    }
                )
                improved = bool(validation) and best_epoch(history, params.validation.monitor) is history[-1]
                if improved and params.validation.keep == "best":
                    best_weights = learner.weights()
                state = {"learner": learner.state_dict(), "history": history, "best_weights": best_weights}
                self._checkpoint.save(state, learner.device)
                finished = Epoch(history[-1], tuple(history), params.epochs)
                progress.add(0, str(finished))
                yield finished

        self._result = self._finish(learner, history, best_weights)

    def predict_held_out(self, photos: int) -> list[tuple[Photo, ClassMap, ClassMap]]:
        """Some held-out photos (H, W, 3), the same ones in each epoch, with their masks and present argmax maps (H, W).

        Args:
            photos: the largest number of photos; they are evenly spaced among all.

        Raises:
            RuntimeError: before the first epoch.
        """
        if self._learner is None:
            raise RuntimeError("run() has not finished an epoch")
        positions = np.unique(np.linspace(0, len(self._val_rows) - 1, photos).round().astype(int))
        rows = [self._val_rows[position] for position in positions]
        images = [np.array(self._part.images[row]) for row in rows]
        return [
            (image, np.array(self._masks[row]), self._learner.predict_map(image))
            for row, image in zip(rows, images, strict=True)
        ]

    def result(self) -> Result:
        """The kept weights and the metrics.

        Raises:
            RuntimeError: when :meth:`run` was not iterated to its end.
        """
        if self._result is None:
            raise RuntimeError("run() was not iterated to its end")
        return self._result

    def _validate(self, learner: Learner, epoch: int) -> dict[str, float]:
        """Validate and end an epoch, counted from 0; empty where it is not validated."""
        params = self._params
        validation: dict[str, float] = {}
        if (epoch + 1) % params.validation.every == 0 or epoch + 1 == params.epochs:
            with explain_out_of_memory(self._describe_memory(learner), _LESS_MEMORY):
                size = self._val_batch_size()
                validation = learner.validate(self._part.images, self._masks, self._val_rows, size)
        learner.end_epoch(validation)
        if validation and not math.isfinite(validation["val_loss"]):
            # It is worse than any other, whatever its score: maps of NaN score as the all-empty baseline does.
            logger.warning("epoch %d: the validation loss is %s, so it is left out", epoch + 1, validation["val_loss"])
            return {}
        return validation

    def _finish(self, learner: Learner, history: Sequence[Row], best_weights: Mapping[str, torch.Tensor]) -> Result:
        """The weights that ``validation.keep`` names, which must be finite and validated."""
        if not any("val_loss" in row for row in history):
            _require_finite("validation loss", math.nan, len(history))
        best = best_epoch(history, self._params.validation.monitor)
        if self._params.validation.keep == "best":
            weights = dict(best_weights)
            written = best
        else:
            weights = learner.weights()
            written = history[-1]
        if "val_loss" not in written:
            _require_finite("validation loss", math.nan, len(history))
        if not all(bool(torch.isfinite(value).all()) for value in weights.values()):
            _require_finite("largest weight", math.nan, round(written["epoch"]))
        results = _results(history, best, written, learner)
        return Result(weights, learner.mean, learner.std, tuple(history), results)

    def _rare_class_sampler(self) -> RareClassSampler | None:
        probability = self._params.sampling.rare_class_probability
        if not probability:
            return None
        sampler = RareClassSampler(probability, self._masks, self._part.classes, self._train_rows, self._params.seed)
        if not sampler.photos:
            logger.warning(
                "train.sampling.rare_class_probability: no class is rare in the training part; crops are drawn evenly"
            )
        return sampler

    def _batches(self, epoch: int) -> list[list[SampleKey]]:
        params = self._params
        return epoch_batches(self._train_rows, params.batch_size, params.seed, epoch, params.sampling.crops_per_photo)

    def _loader(self, samples: Dataset[Batch], device: torch.device) -> EpochLoader:
        return EpochLoader(samples, self._params.workers, self._params.seed, device.type == "cuda")

    def _unlabelled_loader(self, augmentation: Augmentation, device: torch.device) -> EpochLoader | None:
        if self._params.self_training is None or self._unlabelled is None:
            return None
        return self._loader(UnlabelledViews(self._unlabelled.images, augmentation), device)

    def _unlabelled_batches(
        self, views: EpochLoader | None, batches: Sequence[Sequence[SampleKey]], epoch: int
    ) -> Iterable[Batch | None]:
        """For each batch of the epoch two views of as many test photos, or None without self-training."""
        params = self._params
        if (
            views is None
            or params.self_training is None
            or self._unlabelled is None
            or epoch < params.self_training.start * params.epochs
        ):
            return repeat(None, len(batches))
        sizes = [len(batch) for batch in batches]
        return views.epoch(unlabelled_batches(len(self._unlabelled.ids), sizes, params.seed, epoch))

    def _describe_memory(self, learner: Learner) -> str:
        params = self._params
        crop = params.augmentation.crop
        height, width = self._part.size
        samples = f"photos of {height}x{width} pixels" if crop is None else f"crops of {crop}x{crop} pixels"
        return (
            f"training on {learner.device.type} with train.batch_size = {params.batch_size}, train.accumulate = "
            f"{params.accumulate}, {samples} and precision {learner.precision}"
        )

    def _val_batch_size(self) -> int:
        """Whole photos are validated: at most as many of their pixels at a time as a part of a batch has."""
        crop = self._params.augmentation.crop
        size = max(part_sizes(self._params.batch_size, self._params.accumulate))
        if crop is None:
            return size
        height, width = self._part.size
        return max(1, size * crop**2 // (height * width))

    def _stops_early(self, history: Sequence[Row]) -> bool:
        patience = self._params.validation.early_stopping
        if patience is None or not history or "val_loss" not in history[-1]:
            return False
        return len(history) - best_epoch(history, self._params.validation.monitor)["epoch"] >= patience


def _counted(batches: Iterable[tuple[Batch, Batch | None]], progress: Progress) -> Iterator[tuple[Batch, Batch | None]]:
    """Count the samples of each batch when the next one is asked for."""
    for batch in batches:
        yield batch
        progress.add(len(batch[0][0]))


def best_epoch(history: Sequence[Row], monitor: Literal["argmax_score", "loss"]) -> Row:
    """The validated epoch that is best by ``monitor``, the first of several that are equally good.

    >>> history = [{"epoch": 1, "val_loss": 2.0}, {"epoch": 2}, {"epoch": 3, "val_loss": 1.5}]
    >>> best_epoch(history, "loss")["epoch"]
    3
    """
    validated = (row for row in history if "val_loss" in row)
    return min(validated, key=lambda row: row["val_loss"] if monitor == "loss" else -row["val_argmax_score"])


_LESS_MEMORY = "Raise train.accumulate, or lower train.batch_size, train.augmentation.crop or resize-cache.size."


def _require_finite(name: str, value: float, epoch: int) -> None:
    if not math.isfinite(value):
        raise HarveysegError(
            f"the {name} became {value} in epoch {epoch}. Lower train.lr, or set train.precision: fp32; with "
            "class_weights: report the loss has no lower bound (its weights have mixed signs)."
        )


def _results(history: Sequence[Row], best: Row, written: Row, learner: Learner) -> dict[str, float]:
    figures = ("epoch", "train_loss", *VALIDATION)
    results = {
        # As floats, as a record that is read back has them: a run.json that is written again has the same bytes.
        **{f"best/{name}": float(best[name]) for name in figures},
        **{f"written/{name}": float(written[name]) for name in figures},
        "epochs": float(len(history)),
        "seconds": sum(row["seconds"] for row in history),
        "images_per_second": float(np.mean([row["images_per_second"] for row in history])),
        "parameters": float(sum(parameter.numel() for parameter in learner.network.parameters())),
    }
    if (memory := peak_memory_mb(learner.device)) is not None:
        results["peak_gpu_memory_mb"] = memory
    return results
