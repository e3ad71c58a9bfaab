"""A network and all that trains it: loss, optimiser, schedule and the moving average of its weights."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from harveyseg.arrays import ClassMap, ClassMaps, Confusion, FloatArray, Photo, Photos
from harveyseg.classes import ClassList
from harveyseg.data.cache import channel_statistics, class_frequencies
from harveyseg.data.normalisation import normalise
from harveyseg.device import autocast, resolve_device, resolve_precision
from harveyseg.models import locate_encoder_weights
from harveyseg.models.initial_weights import load_initial_weights
from harveyseg.models.network import build
from harveyseg.score import argmax_metrics, confusion
from harveyseg.training.class_weights import class_weights
from harveyseg.training.dataset import Batch
from harveyseg.training.losses import SegmentationLoss
from harveyseg.training.optimiser import make_moving_average, make_optimiser, parameter_groups
from harveyseg.training.own_loss import own_loss
from harveyseg.training.params import SelfTrainingParams, TrainParams
from harveyseg.training.schedule import make_schedule
from harveyseg.training.self_training import pseudo_label_loss

if TYPE_CHECKING:
    from timm.utils.model_ema import ModelEmaV3

logger = logging.getLogger(__name__)


class Learner:
    """Build the network from torch's global random state, and everything around it.

    Args:
        spec: the network, as :func:`harveyseg.models.network.build` takes it.
        params: the recipe.
        classes: what the masks hold.
        photos: photos.csv of the photos to train on, and of no other: statistics and class weights come from them.
        steps: batches of the whole training, which the schedule spreads over.

    Attributes:
        network: what is trained.
        averaged: the network that is validated, saved, and used as the teacher: ``network`` with the moving average of
            its weights, or ``network`` itself without ``optimiser.ema``.
        mean: of each channel, for pixels in 0..1.
        std: standard deviation of each channel.

    Raises:
        HarveysegError: for settings that cannot work here (no CUDA, missing encoder weights).
    """

    def __init__(
        self, spec: Mapping[str, Any], params: TrainParams, classes: ClassList, photos: pd.DataFrame, steps: int
    ) -> None:
        self._classes = classes
        self.device = resolve_device(params.device)
        self.precision = resolve_precision(params.precision, self.device)
        mean, std = channel_statistics(photos)
        self.mean = (float(mean[0]), float(mean[1]), float(mean[2]))
        self.std = (float(std[0]), float(std[1]), float(std[2]))
        network = build(spec, len(classes), locate_encoder_weights(params.encoder_weights))
        if params.init is not None:
            copied = load_initial_weights(network, spec, classes, params.init)
            logger.info("train.init: %s, which knows %d of %d classes", params.init, len(copied), len(classes))
        self._own_loss = own_loss(network, classes, params)
        self.network = network.to(self.device).to(memory_format=torch.channels_last)
        self.loss = SegmentationLoss(params.loss, classes, _class_weights(params, classes, photos)).to(self.device)
        groups = parameter_groups(network.depth_groups(), params.lr, params.optimiser.depth_factor)
        self.optimiser = make_optimiser(params.optimiser.name, groups, params.optimiser.weight_decay)
        self.schedule = make_schedule(
            params.schedule.name, self.optimiser, steps, patience=params.schedule.plateau_patience
        )
        self._average: ModelEmaV3 | None = None
        self._steps = 0
        self.averaged: nn.Module = self.network
        if params.optimiser.ema is not None:
            self._average = make_moving_average(self.network, params.optimiser.ema)
            self.averaged = self._average.module
        self._self_training = params.self_training
        self._accumulate = params.accumulate

    def train_epoch(self, batches: Iterable[tuple[Batch, Batch | None]]) -> float:
        """Learn from each batch of photos and masks, and from the two views of unlabelled photos that come with it.

        Returns:
            The mean loss per sample, without that of the unlabelled photos.
        """
        self.network.train()
        total = torch.zeros((), device=self.device)
        samples = 0
        for (images, masks), unlabelled in batches:
            self.optimiser.zero_grad(set_to_none=True)
            batch = masks.to(self.device, non_blocking=True)
            start = 0
            for size in part_sizes(len(images), self._accumulate):
                part = slice(start, start + size)
                start += size
                loss = self._part_loss(images[part], batch[part], batch)
                total += loss.detach() * len(images)
                if unlabelled is not None and self._self_training is not None:
                    plain, recoloured = unlabelled
                    taught = self._self_training_loss(plain[part], recoloured[part], self._self_training)
                    loss = loss + size / len(images) * taught
                loss.backward()  # type: ignore[no-untyped-call]
            self._step()
            samples += len(images)
        return float(total) / samples

    def _part_loss(self, images: torch.Tensor, masks: torch.Tensor, batch: torch.Tensor) -> torch.Tensor:
        """The share that a part of a batch, photos (B, H, W, 3) and masks (B, H, W), has in the batch's loss."""
        if self._own_loss is not None:
            with autocast(self.device, self.precision):
                mean = self._own_loss(self._normalise(images), masks)
            return len(masks) / len(batch) * mean
        logits = self._predict(self.network, images)
        loss: torch.Tensor = self.loss(logits, masks.long(), None if len(masks) == len(batch) else batch)
        return loss

    def _step(self) -> None:
        self.optimiser.step()
        if not isinstance(self.schedule, ReduceLROnPlateau):
            self.schedule.step()
        self._steps += 1
        if self._average is not None:
            self._average.update(self.network, step=self._steps + 2)

    def _self_training_loss(
        self, plain: torch.Tensor, recoloured: torch.Tensor, params: SelfTrainingParams
    ) -> torch.Tensor:
        with torch.no_grad():
            teacher_logits = self._predict(self.averaged, plain)
        logits = self._predict(self.network, recoloured)
        return params.weight * pseudo_label_loss(logits, teacher_logits, params.confidence)

    def end_epoch(self, validation: Mapping[str, float]) -> None:
        """Pass the validation loss to a plateau schedule."""
        if isinstance(self.schedule, ReduceLROnPlateau):
            self.schedule.step(validation["val_loss"])

    @torch.inference_mode()
    def validate(self, images: Photos, masks: ClassMaps, rows: Sequence[int], batch_size: int) -> dict[str, float]:
        """Loss and argmax score at the cache's size, which are quick stand-ins for those at the score's size.

        Coarser logits are enlarged first, so that networks of any output stride can be compared.

        Returns:
            ``val_loss``, the mean over the photos of each photo's own loss, so that it does not depend on the batch
            size where pixels are weighted; ``val_argmax_score``; and ``val_predicted_classes``, the mean number of
            scored classes in a photo's argmax map.
        """
        self.averaged.eval()
        losses: list[torch.Tensor] = []
        confusions: list[Confusion] = []
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            truth = np.stack([masks[row] for row in batch])
            logits = self._predict(self.averaged, torch.from_numpy(np.stack([images[row] for row in batch])))
            if logits.shape[-2:] != truth.shape[-2:]:
                logits = F.interpolate(logits.float(), size=truth.shape[-2:], mode="bilinear", align_corners=False)
            target = torch.from_numpy(truth).to(self.device).long()
            losses.extend(self.loss(logits[i : i + 1], target[i : i + 1]) for i in range(len(batch)))
            predicted = logits.argmax(dim=1).to(torch.uint8).cpu().numpy()
            confusions.extend(confusion(*maps, len(self._classes)) for maps in zip(truth, predicted, strict=True))
        counts = np.stack(confusions)
        return {
            "val_loss": float(torch.stack(losses).double().mean()),
            "val_argmax_score": argmax_metrics(counts, self._classes)["argmax_score"],
            "val_predicted_classes": float((counts.sum(1)[:, self._classes.unscored :] > 0).sum(1).mean()),
        }

    @torch.inference_mode()
    def predict_map(self, image: Photo) -> ClassMap:
        """The argmax map (H, W) of one photo (H, W, 3), both at the cache's size."""
        self.averaged.eval()
        logits = self._predict(self.averaged, torch.from_numpy(np.array(image)[None])).float()
        logits = F.interpolate(logits, size=image.shape[:2], mode="bilinear", align_corners=False)
        return np.asarray(logits[0].argmax(dim=0).to(torch.uint8).cpu().numpy())

    def _predict(self, network: nn.Module, images: torch.Tensor) -> torch.Tensor:
        """Logits (B, C, H / stride, W / stride) of photos (B, H, W, 3), uint8."""
        inputs = self._normalise(images)
        with autocast(self.device, self.precision):
            logits: torch.Tensor = network(inputs)
        return logits

    def _normalise(self, images: torch.Tensor) -> torch.Tensor:
        """Photos (B, H, W, 3), uint8, as networks take them, on the device."""
        return normalise(images.to(self.device, non_blocking=True), self.mean, self.std)

    @property
    def lr(self) -> float:
        """Present learning rate of the deepest parameters."""
        return float(self.optimiser.param_groups[-1]["lr"])

    def weights(self) -> dict[str, torch.Tensor]:
        """A copy of the averaged network's state dict, on the CPU."""
        return {name: value.detach().cpu().clone() for name, value in self.averaged.state_dict().items()}

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed training needs, apart from the random generators."""
        return {
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "averaged": self.averaged.state_dict(),
            "steps": self._steps,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        self.averaged.load_state_dict(state["averaged"])
        self._steps = state["steps"]


def part_sizes(samples: int, parts: int) -> list[int]:
    """Sizes of the parts of a batch, as equal as can be; of a batch of fewer samples each is a part.

    >>> part_sizes(7, 3)
    [3, 2, 2]
    >>> part_sizes(2, 3)
    [1, 1]
    """
    parts = min(samples, parts)
    return [samples // parts + (number < samples % parts) for number in range(parts)]


def _class_weights(params: TrainParams, classes: ClassList, photos: pd.DataFrame) -> FloatArray | None:
    frequencies = class_frequencies(photos)
    weights = class_weights(params.class_weights, frequencies)
    if weights is not None and (absent := np.flatnonzero(frequencies == 0)).size:
        names = ", ".join(f"{classes.classes[index].id} {classes.names[index]}" for index in absent)
        logger.warning("train.class_weights: no training pixel of %s: weight 0", names)
    return weights
