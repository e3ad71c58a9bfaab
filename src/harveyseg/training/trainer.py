"""Training one network on one fold. It knows nothing of tracking: it yields what happens, the caller passes it on."""

import copy
import math
import time
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice, repeat
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader, Dataset

from harveyseg.classes import CLASS_NAMES
from harveyseg.data.augmentation import Augmentation
from harveyseg.data.cache import CachedPart, channel_statistics, class_frequencies
from harveyseg.data.normalisation import normalise
from harveyseg.device import (
    autocast,
    peak_memory_mb,
    resolve_device,
    resolve_precision,
    seed_everything,
    use_threads,
)
from harveyseg.errors import HarveysegError
from harveyseg.models import build, locate_encoder_weights
from harveyseg.score import confusion, metrics
from harveyseg.training.checkpoint import Checkpoint
from harveyseg.training.dataset import RareClassSampler, SampleKey, Samples, UnlabelledViews, epoch_batches
from harveyseg.training.losses import SegmentationLoss, class_weights
from harveyseg.training.optimisation import (
    ExponentialMovingAverage,
    make_optimiser,
    make_schedule,
    parameter_groups,
)
from harveyseg.training.params import TrainParams

Row = dict[str, float]
"""One epoch: epoch (from 0), time_ms, train_loss, val_loss, val_argmax_score, lr, images_per_second, seconds.

An epoch that was not validated lacks val_loss and val_argmax_score. Images are samples: a photo can have several."""


@dataclass(frozen=True)
class Epoch:
    """One epoch is finished and its state is safe on disk."""

    row: Row
    history: tuple[Row, ...]
    """All epochs so far, those before a kill included."""
    epochs: int
    """How many there will be at the most."""

    def __str__(self) -> str:
        """One line of progress: losses, score, speed and the time that is left."""
        row = self.row
        mean = sum(earlier["seconds"] for earlier in self.history) / len(self.history)
        minutes, seconds = divmod(round((self.epochs - len(self.history)) * mean), 60)
        validation = (
            f"val loss {row['val_loss']:.4f}  score {row['val_argmax_score']:.4f}  " if "val_loss" in row else ""
        )
        return (
            f"epoch {len(self.history):>3}/{self.epochs}  train loss {row['train_loss']:.4f}  {validation}"
            f"{row['images_per_second']:.1f} images/s  ETA {minutes:d}:{seconds:02d}"
        )


@dataclass(frozen=True)
class Result:
    """What a finished training hands over."""

    state: dict[str, torch.Tensor]
    """State dict of the kept epoch."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    history: tuple[Row, ...]
    results: dict[str, float]
    """``best/*``, ``final/*``, ``epochs``, ``seconds``, ``images_per_second``, ``parameters``, ..."""


def at_output_stride(target: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """The target at the size of the logits: one pixel out of each block of k x k, where k is the output stride.

    It is the pixel right below the block's centre, (k // 2, k // 2) counted from 0, which has no exact middle for even
    k. Averaged over mirrored samples the half pixel cancels out.

    Args:
        target: (B, H, W).
        logits: (B, C, H / k, W / k).

    Returns:
        (B, H / k, W / k); the target itself for k = 1.
    """
    stride = target.shape[-1] // logits.shape[-1]
    return target[:, stride // 2 :: stride, stride // 2 :: stride]


class Training:
    """One training: construct it, iterate :meth:`run` to its end, then ask for :meth:`finished`.

    Args:
        spec: the network, as :func:`harveyseg.models.build` takes it.
        params: the recipe.
        part: the cached training photos.
        train_rows: rows of ``part`` to train on.
        val_rows: rows of the held-out fold.
        checkpoint: where the state is kept after each epoch.
        unlabelled: the cached test photos, for ``self_training``.

    Raises:
        HarveysegError: for settings that cannot work here (no CUDA, missing encoder weights, too few photos).
    """

    def __init__(
        self,
        spec: Mapping[str, Any],
        params: TrainParams,
        part: CachedPart,
        train_rows: npt.NDArray[np.int64],
        val_rows: npt.NDArray[np.int64],
        checkpoint: Checkpoint,
        unlabelled: CachedPart | None = None,
    ) -> None:
        self._params = params
        self._part = part
        self._train_rows = [int(row) for row in train_rows]
        self._val_rows = [int(row) for row in val_rows]
        self._checkpoint = checkpoint
        self._unlabelled = unlabelled
        if params.self_training is not None and (unlabelled is None or not unlabelled.ids):
            raise HarveysegError("train.self_training: there is no test photo to learn from. Set it to null.")
        if not self._train_rows or not self._val_rows:
            raise HarveysegError(
                f"the fold has {len(self._train_rows)} training and {len(self._val_rows)} validation photos: both "
                "need at least one. Lower split.folds, or add photos."
            )
        use_threads(params.threads)
        seed_everything(params.seed)
        self.device = resolve_device(params.device)
        self.dtype = resolve_precision(params.precision, self.device)
        # Statistics come from the training part of the fold alone; the validation part must stay unseen.
        photos = part.photos.iloc[self._train_rows]
        mean, std = channel_statistics(photos)
        self._mean: tuple[float, float, float] = (float(mean[0]), float(mean[1]), float(mean[2]))
        self._std: tuple[float, float, float] = (float(std[0]), float(std[1]), float(std[2]))
        frequencies = class_frequencies(photos)
        weights = class_weights(params.class_weights, frequencies)
        self.warnings: list[str] = []
        if weights is not None and (absent := np.flatnonzero(frequencies == 0)).size:
            names = ", ".join(f"{index} {CLASS_NAMES[index]}" for index in absent)
            self.warnings.append(f"class_weights: no training pixel of {names}: weight 0")
        if part.masks is None:
            raise HarveysegError("the training cache has no masks. Run `dvc repro resize-cache` again.")
        self._masks = part.masks
        self._rare_classes: RareClassSampler | None = None
        if params.sampling.rare_class_probability:
            self._rare_classes = RareClassSampler(
                params.sampling.rare_class_probability, part.masks, self._train_rows, params.seed
            )
            if not self._rare_classes.photos:
                self.warnings.append(
                    "sampling.rare_class_probability: no class is rare in the training part, so crops are drawn evenly"
                )
        self._network = build(spec, locate_encoder_weights(params.encoder_weights)).to(self.device)
        self._network.to(memory_format=torch.channels_last)
        self._loss = SegmentationLoss(params.loss, weights).to(self.device)
        groups = parameter_groups(self._network.depth_groups(), params.lr, params.optimiser.depth_factor)
        self._optimiser = make_optimiser(params.optimiser.name, groups, params.optimiser.weight_decay)
        steps = params.epochs * len(self._batches(0))
        self._schedule = make_schedule(params.schedule.name, self._optimiser, steps, params.schedule.plateau_patience)
        self._ema = (
            None if params.optimiser.ema is None else ExponentialMovingAverage(self._network, params.optimiser.ema)
        )
        # The average is validated in a network of its own, so that training's own weights are never touched.
        self._averaged = None if self._ema is None else copy.deepcopy(self._network)
        # Whole photos are validated: no more of their pixels at a time than a batch of crops has.
        crop, photo = params.augmentation.crop, part.size[0] * part.size[1]
        self._val_batch = params.batch_size if crop is None else max(1, params.batch_size * crop**2 // photo)
        self._history: list[Row] = []
        self._best: dict[str, Any] | None = None

    def run(self) -> Generator[Epoch, None, None]:
        """Train, from the last finished epoch where a checkpoint is there, and yield after each epoch.

        Raises:
            HarveysegError: when the loss is not finite.
        """
        self._resume()
        augmentation = Augmentation(self._params.augmentation, self._params.seed)
        samples = Samples(self._part.images, self._masks, augmentation, self._rare_classes)
        for epoch in range(len(self._history), self._params.epochs):
            if self._stopped_early():
                break
            batches = self._batches(epoch)
            loader = self._loader(samples, batches)
            views = self._views(augmentation, batches, epoch)
            started = time.perf_counter()
            lr = float(self._optimiser.param_groups[-1]["lr"])
            train_loss = self._pass(loader, views, epoch)
            train_seconds = time.perf_counter() - started
            due = (epoch + 1) % self._params.validation.every == 0 or epoch + 1 == self._params.epochs
            validation = self._validate() if due else {}
            if isinstance(self._schedule, ReduceLROnPlateau):
                self._schedule.step(validation["val_loss"])
            row: Row = {
                "epoch": epoch,
                "time_ms": round(time.time() * 1000),
                "train_loss": train_loss,
                **validation,
                "lr": lr,
                "images_per_second": sum(map(len, batches)) / train_seconds,
                "seconds": time.perf_counter() - started,
            }
            self._history.append(row)
            if due:
                self._keep_if_best(row)
            self._checkpoint.save(self._state())
            yield Epoch(row, tuple(self._history), self._params.epochs)

    def _batches(self, epoch: int) -> list[list[SampleKey]]:
        params = self._params
        return epoch_batches(self._train_rows, params.batch_size, params.seed, epoch, params.sampling.crops_per_photo)

    def _loader(
        self, samples: Dataset[tuple[torch.Tensor, torch.Tensor]], batches: list[list[SampleKey]]
    ) -> DataLoader[tuple[torch.Tensor, torch.Tensor]]:
        return DataLoader(
            samples,
            batch_sampler=batches,
            num_workers=self._params.workers,
            # A generator of its own: the loader draws a seed from it, which must not depend on the rest.
            generator=torch.Generator().manual_seed(self._params.seed),
            pin_memory=self.device.type == "cuda",
        )

    def _views(
        self, augmentation: Augmentation, batches: list[list[SampleKey]], epoch: int
    ) -> Iterable[tuple[torch.Tensor, torch.Tensor] | None]:
        """What comes beside each batch of the epoch: two views of as many test photos, or None."""
        params = self._params.self_training
        if params is None or self._unlabelled is None or epoch < params.start * self._params.epochs:
            return repeat(None, len(batches))
        photos, samples = len(self._unlabelled.ids), sum(map(len, batches))
        # One list of as many samples as needed, cut where the labelled ones are.
        keys = iter(epoch_batches(range(photos), samples, self._params.seed, epoch, -(-samples // photos))[0])
        views = [list(islice(keys, len(batch))) for batch in batches]
        return self._loader(UnlabelledViews(self._unlabelled.images, augmentation), views)

    def _pass(
        self,
        loader: DataLoader[tuple[torch.Tensor, torch.Tensor]],
        views: Iterable[tuple[torch.Tensor, torch.Tensor] | None],
        epoch: int,
    ) -> float:
        """One pass over the training part; returns the mean loss per sample."""
        self._network.train()
        total = torch.zeros((), device=self.device)
        samples = 0
        for (images, masks), unlabelled in zip(loader, views, strict=True):
            inputs = self._normalise(images)
            target = masks.to(self.device, non_blocking=True).long()
            with autocast(self.device, self.dtype):
                logits = self._network(inputs)
            loss = self._loss(logits, at_output_stride(target, logits))
            total += loss.detach() * len(images)
            if unlabelled is not None:
                loss = loss + self._self_training_loss(*unlabelled)
            self._optimiser.zero_grad(set_to_none=True)
            loss.backward()
            self._optimiser.step()
            if not isinstance(self._schedule, ReduceLROnPlateau):
                self._schedule.step()
            if self._ema is not None:
                self._ema.update(self._network)
            samples += len(images)
        mean = float(total) / samples
        if not math.isfinite(mean):
            raise HarveysegError(
                f"the training loss became {mean} in epoch {epoch + 1}. Lower train.lr, or set train.precision: fp32; "
                "with class_weights: report the loss has no lower bound (its weights have mixed signs)."
            )
        return mean

    def _self_training_loss(self, plain: torch.Tensor, recoloured: torch.Tensor) -> torch.Tensor:
        """Weighted cross-entropy of the recoloured view with the teacher's sure labels of the plain one."""
        params = self._params.self_training
        assert params is not None
        with torch.no_grad():
            teacher = self._averaged_network().eval()
            with autocast(self.device, self.dtype):
                probabilities = teacher(self._normalise(plain)).float().softmax(dim=1)
            confidence, labels = probabilities.max(dim=1)
        with autocast(self.device, self.dtype):
            logits = self._network(self._normalise(recoloured))
        pixels = F.cross_entropy(logits.float(), labels, reduction="none")
        # The mean over all pixels, as in FixMatch: the fewer are sure, the less they count.
        mean: torch.Tensor = (pixels * (confidence > params.confidence)).mean()
        return params.weight * mean

    def _averaged_network(self) -> nn.Module:
        """The network with the moving average of the weights."""
        assert self._ema is not None
        assert self._averaged is not None
        self._averaged.load_state_dict(self._ema.weights())
        return self._averaged

    def _normalise(self, images: torch.Tensor) -> torch.Tensor:
        return normalise(images.to(self.device, non_blocking=True), self._mean, self._std)

    @torch.inference_mode()
    def _validate(self) -> dict[str, float]:
        """Loss per photo and score at the cache's size (a quick stand-in for the score at 1024 x 1024).

        Coarser logits are enlarged first, so that networks of any output stride can be compared.
        """
        network = self._network if self._ema is None else self._averaged_network()
        network.eval()
        total = 0.0
        counts: list[npt.NDArray[np.int64]] = []
        for start in range(0, len(self._val_rows), self._val_batch):
            rows = self._val_rows[start : start + self._val_batch]
            images = torch.from_numpy(np.stack([self._part.images[row] for row in rows]))
            masks = np.stack([self._masks[row] for row in rows])
            with autocast(self.device, self.dtype):
                logits = network(self._normalise(images))
            if logits.shape[-2:] != masks.shape[-2:]:
                logits = F.interpolate(logits.float(), size=masks.shape[-2:], mode="bilinear", align_corners=False)
            target = torch.from_numpy(masks).to(self.device).long()
            total += float(self._loss(logits, target)) * len(rows)
            predicted = logits.argmax(dim=1).to(torch.uint8).cpu().numpy()
            counts.extend(confusion(truth, labels) for truth, labels in zip(masks, predicted, strict=True))
        return {"val_loss": total / len(self._val_rows), "val_argmax_score": metrics(np.stack(counts))["argmax_score"]}

    def _keep_if_best(self, row: Row) -> None:
        better = self._best is None or (
            row["val_argmax_score"] > self._best["row"]["val_argmax_score"]
            if self._params.validation.monitor == "argmax_score"
            else row["val_loss"] < self._best["row"]["val_loss"]
        )
        if better:
            self._best = {"row": row, "state": self._current_weights()}

    def _current_weights(self) -> dict[str, torch.Tensor]:
        state = self._network.state_dict() if self._ema is None else self._ema.weights()
        return {name: value.detach().cpu().clone() for name, value in state.items()}

    def _stopped_early(self) -> bool:
        if self._params.validation.early_stopping is None or self._best is None or "val_loss" not in self._history[-1]:
            return False
        best_epoch: float = self._best["row"]["epoch"]
        return len(self._history) - 1 - best_epoch >= self._params.validation.early_stopping

    def _state(self) -> dict[str, Any]:
        return {
            "network": self._network.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "schedule": self._schedule.state_dict(),
            "ema": None if self._ema is None else self._ema.state_dict(),
            "history": self._history,
            "best": self._best,
        }

    def _resume(self) -> None:
        state = self._checkpoint.load()
        if state is None:
            return
        self._network.load_state_dict(state["network"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._schedule.load_state_dict(state["schedule"])
        if self._ema is not None:
            self._ema.load_state_dict(state["ema"])
        self._history = list(state["history"])
        self._best = state["best"]

    def finished(self) -> Result:
        """The kept weights and the figures, once :meth:`run` has come to its end."""
        assert self._best is not None, "run() was not iterated to its end"
        best, last = self._best["row"], self._history[-1]
        kept = self._best["state"] if self._params.validation.keep == "best" else self._current_weights()
        seconds = sum(row["seconds"] for row in self._history)
        results = {
            **{f"best/{key}": best[key] for key in ("epoch", "train_loss", "val_loss", "val_argmax_score")},
            **{f"final/{key}": last[key] for key in ("epoch", "train_loss", "val_loss", "val_argmax_score")},
            "epochs": float(len(self._history)),
            "seconds": seconds,
            "images_per_second": float(np.mean([row["images_per_second"] for row in self._history])),
            "parameters": float(sum(parameter.numel() for parameter in self._network.parameters())),
        }
        if (memory := peak_memory_mb(self.device)) is not None:
            results["peak_gpu_memory_mb"] = memory
        return Result(kept, self._mean, self._std, tuple(self._history), results)
