"""The training loss: cross-entropy, weighted if wanted, with a softmax before it if wanted, plus a Dice term."""

import math
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

ClassWeights = Literal["none", "report", "enet"]


def class_weights(scheme: ClassWeights, frequencies: npt.NDArray[np.float64]) -> npt.NDArray[np.float64] | None:
    """Weight of each class in the cross-entropy.

    * ``report``: 1 / ln(percentage of occurrences), the report's trial 2 taken literally. **It is defective**: the
      logarithm is 0 at 1%, so the weight is infinite there, negative below it, and positive above it. A class of
      0.9% thus gets about -9.5 and one of 1.1% about +10.5, and among the frequent classes the rarest weighs most
      while among the rare ones the rarest weighs least (in size): the order is turned round. A negative weight
      rewards mistakes. It is here so that the report's trial can be repeated, and its finding that weights "didn't
      really help" explained.
    * ``enet``: 1 / ln(1.02 + frequency), Paszke et al. 2016 (ENet), bounded in [1.4, 50.5].

    Args:
        scheme: which formula.
        frequencies: share of each class in the training pixels, shape (25,), sum 1.

    Returns:
        float64 (25,), weight 0 for a class without a pixel; None for ``none``.
    """
    if scheme == "none":
        return None
    present = frequencies > 0
    weights = np.zeros_like(frequencies)
    if scheme == "enet":
        weights[present] = 1 / np.log(1.02 + frequencies[present])
    else:
        logarithm = np.log(100 * frequencies[present])
        # Exactly 1% has no finite weight; float noise rarely hits it, and the largest finite one says the same.
        logarithm[logarithm == 0] = np.finfo(np.float32).eps
        weights[present] = 1 / logarithm
    return weights


def double_softmax_floor(classes: int) -> float:
    """Least value that cross-entropy can take when it is fed probabilities instead of logits.

    The best that the network can hand over is 1 for the right class and 0 for the others. Cross-entropy applies its
    own softmax to that, so the loss is ln(e + classes - 1) - 1: 2.285 for 25 classes, however good the network is.
    """
    return math.log(math.e + classes - 1) - 1


class SegmentationLoss(nn.Module):
    """``(1 - dice) * cross_entropy + dice * (1 - mean Dice of the classes present in each photo)``.

    Args:
        weights: class weights, shape (25,), or None.
        softmax_before_loss: apply a softmax to the logits before the cross-entropy, which applies one of its own: the
            report's trial 4 ("softmax at the output" together with ``nn.CrossEntropyLoss``). It bounds the loss from
            below, see :func:`double_softmax_floor`.
        dice: share of the Dice term, 0..1. Dice is soft and taken per photo over the classes that it holds, as the
            competition scores it, rather than over the batch.

    Shape:
        logits (B, C, H, W) of any float type, target (B, H, W) int64; the loss is a float32 scalar.
    """

    def __init__(
        self, weights: npt.NDArray[np.float64] | None = None, softmax_before_loss: bool = False, dice: float = 0.0
    ) -> None:
        super().__init__()
        self.softmax_before_loss = softmax_before_loss
        self.dice = dice
        self.weights: torch.Tensor | None
        self.register_buffer("weights", None if weights is None else torch.tensor(weights, dtype=torch.float32))

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Compute the loss in float32, whatever the network computed in."""
        logits = logits.float()
        loss = logits.new_zeros(())
        if self.dice < 1:
            scores = logits.softmax(dim=1) if self.softmax_before_loss else logits
            loss = (1 - self.dice) * self._cross_entropy(scores, target)
        if self.dice > 0:
            loss = loss + self.dice * _dice_loss(logits.softmax(dim=1), target)
        return loss

    def _cross_entropy(self, scores: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        if self.weights is None:
            return F.cross_entropy(scores, target)
        # torch divides by the sum of the pixels' weights. With weights of mixed sign (`report`) that sum can be zero
        # or negative and would blow the loss up or turn it round once more, hence the sum of their sizes.
        pixels = F.cross_entropy(scores, target, reduction="none") * self.weights[target]
        total = self.weights.abs()[target].sum()
        return pixels.sum() / total.clamp_min(torch.finfo(torch.float32).tiny)


def _dice_loss(probabilities: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """1 - mean over photos of the mean soft Dice of the classes that the photo holds."""
    truth = F.one_hot(target, probabilities.shape[1]).permute(0, 3, 1, 2).to(probabilities.dtype)  # (B, C, H, W)
    overlap = (probabilities * truth).sum(dim=(2, 3))  # (B, C)
    pixels = truth.sum(dim=(2, 3))
    dice = 2 * overlap / (probabilities.sum(dim=(2, 3)) + pixels).clamp_min(1e-6)
    present = (pixels > 0).to(dice.dtype)
    return 1 - ((dice * present).sum(dim=1) / present.sum(dim=1)).mean()
