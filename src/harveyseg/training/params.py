"""The section ``train`` of ``params.yaml``: how a network is trained, in groups by component."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from harveyseg.config.settings import Section, flat_values
from harveyseg.data.augmentation import AugmentationParams
from harveyseg.device_names import DeviceName, PrecisionName
from harveyseg.record import Value
from harveyseg.training.class_weights import ClassWeights

OptimiserName = Literal["adam", "adamw"]
ScheduleName = Literal["constant", "plateau", "cosine", "one_cycle"]


class LossParams(Section):
    """Group ``train.loss``: the terms of :class:`SegmentationLoss`. The defaults are plain cross-entropy."""

    softmax_before_loss: bool = False
    """Apply a softmax before the cross-entropy, which applies one of its own: the report's "softmax at the output"."""
    dice: float = Field(default=0.0, ge=0, le=1)
    """Share of the Dice term; the rest is cross-entropy."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of the cross-entropy's target that is spread evenly over all classes (Szegedy et al. 2016)."""
    background_weight: float = Field(default=1.0, ge=0)
    """Weight of the classes that are not scored, such as the background, in the cross-entropy and in the Dice term; 0
    ignores them."""
    presence: float = Field(default=0.0, ge=0)
    """Weight of the image-level classification term: which classes does the sample hold at all?"""


class OptimiserParams(Section):
    """Group ``train.optimiser``: how the weights move."""

    name: OptimiserName
    """Adam with an L2 penalty, or AdamW with decoupled weight decay."""
    weight_decay: float = Field(ge=0)
    """Strength of that penalty or decay."""
    depth_factor: float = Field(default=1.0, gt=0, le=1)
    """Discriminative learning rate: the rate of each shallower group is the next deeper group's rate times this
    factor; 1 is off."""
    ema: float | None = Field(default=None, gt=0, lt=1)
    """Decay of the exponential moving average of the weights; null is off."""


class ScheduleParams(Section):
    """Group ``train.schedule``: the learning rate over time, see :func:`make_schedule`."""

    name: ScheduleName
    """How the learning rate changes: never, by the validation loss, or over all steps."""
    plateau_patience: int = Field(ge=0)
    """``plateau`` divides the rate by ten after more than this many epochs without a lower validation loss."""


class ValidationParams(Section):
    """Group ``train.validation``: how often the held-out photos are predicted, and what follows from it."""

    every: int = Field(default=1, ge=1)
    """Epochs from one validation to the next; the last epoch is always validated."""
    monitor: Literal["argmax_score", "loss"]
    """Which validation metric says that an epoch is better."""
    keep: Literal["best", "last"]
    """Which epoch's weights are written: the one with the best ``monitor``, or the last."""
    early_stopping: int | None = Field(ge=1)
    """Stop after this many epochs without a better ``monitor``; null trains all epochs."""


class SamplingParams(Section):
    """Group ``train.sampling``: how many samples an epoch takes from each photo, and which classes they show."""

    crops_per_photo: int = Field(default=1, ge=1)
    """Samples of each photo in an epoch, each augmented by itself."""
    rare_class_probability: float = Field(default=0.0, ge=0, le=1)
    """Probability that a crop shows a rare class: one below 1% of the training pixels, drawn evenly."""


class SelfTrainingParams(Section):
    """Group ``train.self_training``: pseudo-labels for the test photos, as many samples a step as labelled ones."""

    weight: float = Field(gt=0)
    """Weight of the cross-entropy with the pseudo-labels. ``train_loss`` leaves it out, so that it can be compared."""
    start: float = Field(ge=0, lt=1)
    """Share of the epochs after which it begins; before that the labels would be bad."""
    confidence: float = Field(ge=0, lt=1)
    """Probability above which a pixel's label is learnt."""


class TrainParams(Section):
    """Section ``train``; ``models.<name>.train`` may override any key for one model."""

    epochs: int = Field(ge=1)
    """Passes over the photos that are trained on, those of the other folds."""
    batch_size: int = Field(ge=1)
    """Samples per optimiser step."""
    accumulate: int = Field(default=1, ge=1)
    """Parts of a batch that go through the network one after the other, which takes less memory. Their gradients are
    summed: those of the whole batch, but for batch norm, whose statistics are then of a part."""
    lr: float = Field(gt=0, le=10)
    """Learning rate of the deepest parameters."""
    seed: int = Field(ge=0)
    """Seed of the initial weights, the order of the samples and the augmentation."""
    device: DeviceName
    """``auto``: CUDA where there is any, else the CPU."""
    precision: PrecisionName
    """``auto``: bfloat16 where the chip computes with it, else float32; ``tf32``: on CUDA only."""
    threads: int = Field(ge=1, le=256)
    """CPU threads that compute; another number gives other weights."""
    workers: int = Field(ge=0, le=64)
    """Processes that augment while the network trains; 0 augments in the training process. Never changes the result."""
    encoder_weights: str | None
    """``imagenet``, a path to a local weights file, or null; for networks that have an encoder to load."""
    init: str | None = None
    """Start from a trained network: a packaged model (``harvey25``), a model folder, or a ``weights.safetensors``.
    Classes are matched by name. It replaces ``encoder_weights``; null is off."""
    class_weights: ClassWeights
    """Class weights in the cross-entropy: none; the report's 1 / ln(percentage), which is defective; ENet's
    1 / ln(1.02 + share); or the square root of median frequency balancing."""
    loss: LossParams
    optimiser: OptimiserParams
    schedule: ScheduleParams
    validation: ValidationParams
    augmentation: AugmentationParams
    sampling: SamplingParams = SamplingParams()
    self_training: SelfTrainingParams | None = None
    """Null is off."""

    @field_validator("accumulate")
    @classmethod
    def _parts_of_a_batch(cls, value: int, info: ValidationInfo) -> int:
        batch_size = info.data.get("batch_size")
        if batch_size is not None and value > batch_size:
            raise ValueError(f"must be at most `batch_size`, which is {batch_size}")
        return value

    @field_validator("encoder_weights", "init")
    @classmethod
    def _not_empty(cls, value: str | None) -> str | None:
        if value == "":
            raise ValueError("must be a name such as `imagenet`, a path, or null")
        return value

    @field_validator("validation")
    @classmethod
    def _every_epoch_for_plateau(cls, value: ValidationParams, info: ValidationInfo) -> ValidationParams:
        schedule = info.data.get("schedule")
        if value.every > 1 and schedule is not None and schedule.name == "plateau":
            raise ValueError("`schedule.name: plateau` needs the validation loss of every epoch: set `every` to 1")
        return value

    @field_validator("sampling")
    @classmethod
    def _crops_for_rare_classes(cls, value: SamplingParams, info: ValidationInfo) -> SamplingParams:
        augmentation = info.data.get("augmentation")
        if value.rare_class_probability and augmentation is not None and augmentation.crop is None:
            raise ValueError("only crops can show a rare class: set `augmentation.crop`, or this probability to 0")
        return value

    @field_validator("self_training")
    @classmethod
    def _average_as_teacher(cls, value: SelfTrainingParams | None, info: ValidationInfo) -> SelfTrainingParams | None:
        optimiser = info.data.get("optimiser")
        if value is not None and optimiser is not None and optimiser.ema is None:
            raise ValueError("the teacher is the moving average of the weights: set `optimiser.ema`, e.g. to 0.99")
        return value


_MOVED = {
    "dice": "loss.dice",
    "softmax_before_loss": "loss.softmax_before_loss",
    "label_smoothing": "loss.label_smoothing",
    "background_weight": "loss.background_weight",
    "presence": "loss.presence",
    "optimiser": "optimiser.name",
    "weight_decay": "optimiser.weight_decay",
    "depth_factor": "optimiser.depth_factor",
    "ema": "optimiser.ema",
    "schedule": "schedule.name",
    "plateau_patience": "schedule.plateau_patience",
    "validate_every": "validation.every",
    "monitor": "validation.monitor (argmax_score or loss)",
    "keep": "validation.keep",
    "early_stopping": "validation.early_stopping",
    "crops_per_photo": "sampling.crops_per_photo",
    "augmentation.focus": "sampling.rare_class_probability",
}
"""Former key of the section, when it was flat: where its value is now."""


def moved_keys(train: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Keys of a section ``train`` that was written before it had groups, each with its present place.

    >>> list(moved_keys({"lr": 0.001, "optimiser": "adam", "dice": 0.5}))
    [('dice', 'loss.dice'), ('optimiser', 'optimiser.name')]
    """
    for old, new in _MOVED.items():
        holder: Any = train
        *groups, key = old.split(".")
        for group in groups:
            holder = holder.get(group) if isinstance(holder, Mapping) else None
        # `optimiser` and `schedule` are groups now; only a plain value there is an old one.
        if isinstance(holder, Mapping) and key in holder and not isinstance(holder[key], Mapping):
            yield old, new


def for_network(train: TrainParams, overrides: Mapping[str, Any], pretrainable: bool) -> TrainParams:
    """A model's settings, merged with its own ``overrides``, without encoder weights that are not used.

    The section ``train`` speaks for all models; a network from scratch must not record a pretraining, nor may one that
    starts from a trained network.
    """
    if train.init is None and (pretrainable or "encoder_weights" in overrides):
        return train
    return train.model_copy(update={"encoder_weights": None})


def flat_parameters(spec: Mapping[str, Any], train: TrainParams) -> dict[str, Value]:
    """The settings as a flat mapping, e.g. ``train.lr`` -> 0.001 and ``model.network`` -> "unet"."""
    return flat_values({"model": spec, "train": train.model_dump()})
