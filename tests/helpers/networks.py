"""Networks to test with: what each case promises, and how to make it."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from harveyseg.classes import HARVEY25
from harveyseg.models.network import BringsLoss, Network, build


@dataclass(frozen=True)
class NetworkCase:
    """A network's settings, and what the contract of all networks leaves open."""

    spec: dict[str, Any]
    stride: int = 1
    """How many times smaller than the photo the logits are."""
    multiple: int = 1
    """The network takes photos whose sides this divides, and no others."""
    size_error: str = "height and width must be divisible by"
    """What :func:`harveyseg.models.network.validate` says of other sizes."""
    unused: tuple[str, ...] = ()
    """How the names of parameters begin that no logit depends on."""
    bf16_error: float = 0.05
    """How far logits in bfloat16 (8 significant bits) may be off, relative to their size."""

    def make(self, seed: int = 0) -> Network:
        torch.manual_seed(seed)
        return build(self.spec, 25, None)


REPORT = {
    "unet": NetworkCase({"network": "unet"}, multiple=16),
    "attention_unet": NetworkCase({"network": "attention_unet"}, multiple=16),
    "unetplusplus": NetworkCase({"network": "unetplusplus"}, multiple=16),
    "mobilenet_v2": NetworkCase({"network": "smp", "encoder": "mobilenet_v2"}),
    **{
        # The last layers belong to the classifier, which a decoder does not use.
        f"efficientnet_b{size}": NetworkCase(
            {"network": "smp", "encoder": f"efficientnet-b{size}"},
            unused=("model.encoder._conv_head.", "model.encoder._bn1."),
        )
        for size in (1, 2, 3)
    },
}
"""The seven networks of the report."""

CASES = {
    **REPORT,
    "unet without batch norm": NetworkCase({"network": "unet", "batch_norm": "none"}, multiple=16),
    "unet with batch norm everywhere": NetworkCase({"network": "unet", "batch_norm": "both"}, multiple=16),
    "unet with stem stride 2": NetworkCase({"network": "unet", "stem_stride": 2}, stride=2, multiple=32),
    # Rounding moves some maxima of the max-pools to another pixel, so bfloat16 is compared only roughly.
    "segnet": NetworkCase({"network": "segnet", "width": 16}, multiple=32, bf16_error=0.4),
    "fcn": NetworkCase({"network": "fcn"}),
    "mask_rcnn": NetworkCase({"network": "mask_rcnn", "objects": ["Vehicle"], "encoder": "resnet18", "channels": 16}),
    "smp FPN": NetworkCase(
        {"network": "smp", "architecture": "FPN", "encoder": "resnet18"}, multiple=32, size_error="divisible by 32"
    ),
    "smp with output stride 2": NetworkCase(
        {"network": "smp", "encoder": "tu-tf_efficientnet_lite0", "output_stride": 2},
        stride=2,
        multiple=2,
        size_error="its logits would have",
    ),
    "smp transformer": NetworkCase({"network": "smp", "encoder": "mit_b0"}),
}
"""At least one for every network that is available."""


def training_loss(network: Network, photos: Tensor, masks: Tensor) -> Tensor:
    """What a network learns from: its own loss where it brings one, else cross-entropy.

    Args:
        network: in training mode.
        photos: (B, 3, H, W).
        masks: int64 (B, H, W).
    """
    if isinstance(network, BringsLoss):
        return network.make_loss(HARVEY25)(photos, masks.to(torch.uint8))
    logits = network(photos)
    stride = masks.shape[-1] // logits.shape[-1]
    return nn.functional.cross_entropy(logits.float(), masks[:, ::stride, ::stride])


def two_vehicles() -> Tensor:
    """Masks to :func:`random_photos`, int64 (2, 64, 64): in each a vehicle, 4, on background, 0."""
    masks = torch.zeros(2, 64, 64, dtype=torch.int64)
    masks[0, 10:30, 20:50] = masks[1, 40:52, 5:30] = 4
    return masks


def parameter_ids(groups: list[list[torch.nn.Parameter]]) -> list[int]:
    """The identity of each parameter, in the order of the groups."""
    return [id(parameter) for group in groups for parameter in group]


def parameter_count(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def random_photos(count: int = 2, height: int = 64, width: int = 64) -> Tensor:
    """Normalised photos, float (count, 3, height, width); the same in every call."""
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(0))
