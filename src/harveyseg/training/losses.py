"""The training loss: cross-entropy, optionally weighted and smoothed, a Dice term, and an image-level term."""

import torch
import torch.nn.functional as F
from torch import nn

from harveyseg.arrays import FloatArray
from harveyseg.classes import IGNORED, ClassList
from harveyseg.training.params import LossParams


class SegmentationLoss(nn.Module):
    """``(1 - dice) * cross_entropy + dice * (1 - mean Dice of the classes present in each photo) + presence * ...``.

    * Cross-entropy applies the class weights and smooths the labels. ``softmax_before_loss`` feeds it probabilities,
      which bounds it from below: the best are 1 for the right class and 0 for the others, and their softmax gives
      ln(e + classes - 1) - 1 = 2.285, however good the network is.
    * Dice is soft and taken per photo over the classes that it holds, as the competition scores it, rather than over
      the batch.
    * ``background_weight`` is for the classes that are not scored, mostly what nobody labelled: it multiplies the class
      weight of their pixels in the cross-entropy and weighs their Dice. False positives on background pixels still
      lower the Dice of the predicted class.
    * The presence term is the binary cross-entropy between whether each scored class occurs in the photo and a smooth
      maximum of its probability over the pixels, see :func:`_presence_loss`. The competition gives a whole point for a
      class that is rightly left empty, which the other terms barely reward.

    Where the logits are coarser than the target, the pixel terms see one pixel of each block, see
    :func:`at_output_stride`; a class of a single pixel is present nevertheless.

    Pixels without a label (255) count in no term: not in a mean, not in the probability mass of a class, not for its
    presence. They are looked for only where the list of classes has ``ignore``.

    Args:
        params: the group ``train.loss``.
        classes: the classes of logits and target.
        weights: class weights, shape (C,), or None.

    Shape:
        logits (B, C, H, W) of any float type, target (B, k H, k W) int64 for any output stride k; the loss is a
        float32 scalar.

    >>> from harveyseg.classes import HARVEY25
    >>> logits = torch.zeros(1, 25, 4, 4)
    >>> target = torch.zeros(1, 4, 4, dtype=torch.int64)
    >>> SegmentationLoss(LossParams(), HARVEY25)(logits, target)  # ln 25: all classes equally probable
    tensor(3.2189)
    """

    def __init__(self, params: LossParams, classes: ClassList, weights: FloatArray | None = None) -> None:
        super().__init__()
        self.params = params
        self._classes = len(classes)
        self._unscored = classes.unscored
        self._ignores = classes.ignored_value is not None
        pixel_weights = None
        if weights is not None or params.background_weight != 1:
            pixel_weights = torch.ones(len(classes)) if weights is None else torch.tensor(weights, dtype=torch.float32)
            pixel_weights[: classes.unscored] *= params.background_weight
        self.pixel_weights: torch.Tensor | None
        self.register_buffer("pixel_weights", pixel_weights)

    def forward(self, logits: torch.Tensor, target: torch.Tensor, batch: torch.Tensor | None = None) -> torch.Tensor:
        """Compute the loss in float32, whatever the network computed in.

        Args:
            logits: (B, C, H, W).
            target: (B, k H, k W).
            batch: the target of the whole batch, uint8 or int64, if ``target`` is only some photos of it. The loss is
                then these photos' share: the shares of all photos of the batch add up to its loss.
        """
        params = self.params
        photo_share, label_share, pixel_share = self._shares(logits, target, batch)
        # Classes last: a view of what a channels_last network returns, and twice as fast to run a softmax over.
        pixel_logits = logits.float().permute(0, 2, 3, 1).flatten(1, 2)  # (B, P, C)
        full_target = target.flatten(1)  # (B, k * k * P)
        target = at_output_stride(target, logits).flatten(1)  # (B, P)
        labelled = None
        if self._ignores:
            labelled = target != IGNORED
            target = target.masked_fill(~labelled, 0)
        plain = self.pixel_weights is None and labelled is None
        if plain and not (params.dice or params.label_smoothing or params.presence):
            pixels = pixel_logits.flatten(0, 1)
            loss = F.cross_entropy(pixels.softmax(dim=1) if params.softmax_before_loss else pixels, target.flatten())
            return photo_share * loss
        log_probabilities = pixel_logits.log_softmax(dim=2)
        true = _of_true_class(log_probabilities, target)
        loss = logits.new_zeros(())
        if params.dice < 1:
            if params.softmax_before_loss:
                doubled = pixel_logits.softmax(dim=2).log_softmax(dim=2)
                true_doubled = _of_true_class(doubled, target)
                cross_entropy = self._cross_entropy(doubled, true_doubled, target, labelled)
            else:
                cross_entropy = self._cross_entropy(log_probabilities, true, target, labelled)
            loss = (1 - params.dice) * (pixel_share * cross_entropy)
        if params.dice or params.presence:
            probabilities = log_probabilities.exp()
            if params.dice:
                dice = _dice_loss(probabilities, true.exp(), target, self._unscored, params.background_weight, labelled)
                loss = loss + params.dice * (photo_share * dice)
            if params.presence:
                present = self._present(full_target)
                presence = _presence_loss(probabilities, present, self._unscored, labelled)
                loss = loss + params.presence * (label_share * presence)
        return loss

    def _shares(
        self, logits: torch.Tensor, target: torch.Tensor, batch: torch.Tensor | None
    ) -> tuple[float, float | torch.Tensor, float | torch.Tensor]:
        """Some photos' shares of what the terms are means over: photos, photos with a label, weights of pixels."""
        if batch is None:
            return 1.0, 1.0, 1.0
        photos = len(target) / len(batch)
        labels: float | torch.Tensor = photos
        if self._ignores:
            shown, all_shown = ((masks != IGNORED).flatten(1).any(dim=1).sum() for masks in (target, batch))
            labels = shown / all_shown.clamp_min(1)
        if self.pixel_weights is None and not self._ignores:
            return photos, labels, photos
        part, whole = (self._weight(at_output_stride(masks, logits)) for masks in (target, batch))
        return photos, labels, part / whole.clamp_min(torch.finfo(torch.float32).tiny)

    def _weight(self, target: torch.Tensor) -> torch.Tensor:
        """The sum of the pixels' weights by which the cross-entropy is divided."""
        labelled = target != IGNORED
        if self.pixel_weights is None:
            return labelled.sum().float()
        weights = self.pixel_weights[target.long().masked_fill(~labelled, 0)] * labelled
        return weights.abs().sum()

    def _present(self, photo: torch.Tensor) -> torch.Tensor:
        """Whether each photo holds each class: (B, P) -> bool (B, C)."""
        if not self._ignores:
            return _count(photo, self._classes) > 0
        labelled = photo != IGNORED
        return _count(photo.masked_fill(~labelled, 0), self._classes, labelled) > 0

    def _cross_entropy(
        self,
        log_probabilities: torch.Tensor,
        true: torch.Tensor,
        target: torch.Tensor,
        labelled: torch.Tensor | None,
    ) -> torch.Tensor:
        """Weighted mean over the pixels; ``true`` is the log-probability of each pixel's true class."""
        pixels = -true
        smoothing = self.params.label_smoothing
        if smoothing:
            pixels = (1 - smoothing) * pixels - smoothing * log_probabilities.mean(dim=2)
        if self.pixel_weights is None and labelled is None:
            return pixels.mean()
        # torch divides by the sum of the pixels' weights. With weights of mixed sign (`report`) that sum can be zero
        # or negative, which would blow the loss up or change its sign again, hence the sum of their absolute values.
        weights = torch.ones_like(pixels) if self.pixel_weights is None else self.pixel_weights[target]
        if labelled is not None:
            weights = weights * labelled
        return (pixels * weights).sum() / weights.abs().sum().clamp_min(torch.finfo(torch.float32).tiny)


def at_output_stride(target: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """The target at the size of the logits: one pixel out of each block of k x k, where k is the output stride.

    It is the pixel right below the block's centre, (k // 2, k // 2) counted from 0, which has no exact middle for even
    k. Averaged over mirrored samples the half pixel cancels out.

    >>> target = torch.arange(16).view(1, 4, 4)
    >>> at_output_stride(target, torch.zeros(1, 3, 2, 2))
    tensor([[[ 5,  7],
             [13, 15]]])

    Args:
        target: (B, H, W).
        logits: (B, C, H / k, W / k).

    Returns:
        (B, H / k, W / k); the target itself for k = 1.
    """
    stride = target.shape[-1] // logits.shape[-1]
    return target[:, stride // 2 :: stride, stride // 2 :: stride]


def _of_true_class(values: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Each pixel's value for its true class: (B, P, C), (B, P) -> (B, P)."""
    return values.gather(2, target[..., None])[..., 0]


def _count(target: torch.Tensor, classes: int, labelled: torch.Tensor | None = None) -> torch.Tensor:
    """Pixels of each class in each photo, of those that have a label, float32: (B, P) -> (B, C)."""
    counts = torch.zeros(len(target), classes, device=target.device)
    ones = torch.ones(target.shape, device=target.device) if labelled is None else labelled.float()
    return counts.scatter_add_(1, target, ones)


def _dice_loss(
    probabilities: torch.Tensor,
    true: torch.Tensor,
    target: torch.Tensor,
    unscored: int,
    background_weight: float,
    labelled: torch.Tensor | None,
) -> torch.Tensor:
    """Mean over photos of the weighted mean of 1 - soft Dice of the classes that the photo holds.

    Args:
        probabilities: (B, P, C).
        true: (B, P), the probability of each pixel's true class.
        target: (B, P), the true classes.
        unscored: number of classes that are not scored; they come first.
        background_weight: weight of these; the others' is 1. A photo whose classes all weigh nothing counts as 0.
        labelled: (B, P) bool, the pixels that count; all if None.
    """
    pixels = _count(target, probabilities.shape[2], labelled)
    if labelled is not None:
        probabilities = probabilities * labelled[..., None]
        true = true * labelled
    overlap = torch.zeros_like(pixels).scatter_add(1, target, true)
    dice = 2 * overlap / (probabilities.sum(dim=1) + pixels).clamp_min(1e-6)
    weights = (pixels > 0).float()
    weights[:, :unscored] *= background_weight
    total = weights.sum(dim=1).clamp_min(torch.finfo(torch.float32).tiny)
    return (((1 - dice) * weights).sum(dim=1) / total).mean()


_FILLS = -0.5
"""Mean of exp(-r * (1 - p)) - 1 from which :func:`_presence_loss` computes the complement by itself: pooled > 0.986."""

_SHARPNESS = 50.0
"""r of :func:`_presence_loss`. Of 65536 pixels a single one of probability 1 gives 0.78, a hundred give 0.87."""


def _presence_loss(
    probabilities: torch.Tensor, present: torch.Tensor, unscored: int, labelled: torch.Tensor | None
) -> torch.Tensor:
    """Image-level binary cross-entropy, mean over the photos and the scored classes.

    The probability that photo b holds class c is the log-sum-exp pooling of Pinheiro & Collobert 2015 ("From
    Image-Level to Pixel-Level Labeling with Convolutional Networks"), here of the pixels' probabilities::

        1 / r * ln(mean over pixels of exp(r * p[b, pixel, c]))

    which is between their mean and their maximum, and the closer to the maximum the larger r is. Both this and its
    complement are computed from differences to 1, which float32 holds down to 1e-38: a class that the network has
    given up still gets its full gradient.

    Args:
        probabilities: (B, P, C).
        present: (B, C) bool, whether the photo holds the class.
        unscored: number of classes that are not scored; they come first.
        labelled: (B, P) bool, the pixels that count; all if None. A photo without any counts nowhere.
    """
    pixels: int | torch.Tensor = probabilities.shape[1]
    exponentials = (_SHARPNESS * probabilities).expm1()
    if labelled is None:
        mean = exponentials.mean(dim=1)
    else:
        pixels = labelled.sum(dim=1, keepdim=True).clamp_min(1)
        mean = (exponentials * labelled[..., None]).sum(dim=1) / pixels
    pooled = mean.log1p() / _SHARPNESS
    # The complement, -1 / r * ln(mean of exp(-r * (1 - p))), matters where a class fills the photo, so that 1 - pooled
    # would cancel. Only a pixel's most probable class can be near 1: its 1 - p is the sum of the others, and for all
    # other classes exp(-r * (1 - p)) is below e^-25, which is 0 here.
    top = probabilities.argmax(dim=2)
    others = probabilities.scatter(2, top[..., None], 0.0).sum(dim=2)
    below_one = (_count(top, probabilities.shape[2], labelled) - pixels) / pixels
    differences = (-_SHARPNESS * others).expm1() / pixels
    below_one = below_one.scatter_add(1, top, differences if labelled is None else differences * labelled)
    fills = below_one > _FILLS
    complement = torch.where(fills, -below_one.clamp_min(_FILLS).log1p() / _SHARPNESS, 1 - pooled)
    # The smallest normal number keeps the logarithm and its gradient finite where a probability is exactly 0.
    likelihood = torch.where(present, pooled, complement) + torch.finfo(torch.float32).tiny
    losses = -likelihood[:, unscored:].log()
    if labelled is None:
        return losses.mean()
    shown = labelled.any(dim=1)
    return losses[shown].mean() if shown.any() else losses.new_zeros(())
