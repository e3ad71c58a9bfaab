"""Mask R-CNN (He, Gkioxari, Dollar & Girshick 2017): Faster R-CNN with a mask for each box, that of torchvision.

The report names Faster R-CNN (Ren, He, Girshick & Sun 2017) under "Related work". It finds objects one by one: a region
proposal network on a feature pyramid (Lin et al. 2017) proposes boxes, a second stage classifies them and draws the
mask of each. Objects are the connected regions of the classes that ``objects`` lists. What it finds is painted into a
probability map for each class, see :func:`paint`, so that it goes wherever the maps of other networks go. It knows no
other classes: where it finds nothing, there is the first class of the list, the background.

It is trained by torchvision's own loss (:class:`harveyseg.models.network.BringsLoss`). The settings ``train.loss`` and
``train.class_weights`` decide only its ``val_loss``, which is that of the painted maps. Pixels without a label count
as pixels without an object.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import cv2
import numpy as np
import segmentation_models_pytorch as smp
import torch
from pydantic import Field
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from harveyseg.arrays import ClassMap
from harveyseg.classes import ClassList
from harveyseg.config.settings import Section
from harveyseg.errors import HarveysegError
from harveyseg.models.network import Network
from harveyseg.models.pretrained import find_encoder_weights, load_encoder_weights

TAKES_ENCODER_WEIGHTS = True

_LEVELS = 5
"""Of the pyramid: features 4, 8, 16 and 32 times coarser than the photo, and a max-pool of the last."""
_RATIOS = (0.5, 1.0, 2.0)
"""Height by width of the anchors, the paper's."""
_CANONICAL = 7
"""A box of this many times the smallest anchor is looked up on the third level: 224 and 32 pixels in the paper."""
_PROPOSALS = 500
"""Boxes in a photo that the second stage looks at or chooses from; 1000 and 2000 in torchvision."""
_BOXES_PER_PHOTO = 64
"""That the second stage learns from, at most a quarter of them on objects: the paper's number without a pyramid. With
one it takes 512, and several times as long."""
_LEAST_PIXELS = 4
"""Of an object. Smaller regions are specks of the annotation or what resizing left of an object."""
_LEAST_PROBABILITY = 1e-6
"""Painted where the network is sure of another class, so that the logarithm is finite."""


class Params(Section):
    """Settings of Mask R-CNN."""

    objects: Annotated[tuple[str, ...], Field(min_length=1)]
    """Names of the classes that are found, those whose objects can be counted."""
    encoder: Literal[
        "tu-tf_efficientnet_lite0",
        "tu-tf_efficientnet_lite1",
        "tu-tf_efficientnet_lite2",
        "mobilenet_v2",
        "resnet18",
        "resnet34",
        "resnet50",
    ] = "tu-tf_efficientnet_lite0"
    """The classification network under the pyramid, as smp names it."""
    channels: Annotated[int, Field(strict=True, ge=8, le=512)] = 128
    """Of the pyramid and of the layers for proposals and masks; 256 in the paper."""
    smallest_anchor: Annotated[int, Field(strict=True, ge=4, le=128)] = 8
    """Side in pixels of the boxes that proposals on the finest level start from; each level doubles it. 32 in the
    paper, for photos of 800 pixels."""


class MaskRcnn(Network):
    """(B, 3, H, W) -> logits (B, classes, H, W), for any H and W; in evaluation mode only."""

    exportable = False

    def __init__(self, params: Params, classes: int, published: str | bool | None = None) -> None:
        """Make the network with fresh weights, those of the encoder apart.

        Args:
            params: the settings.
            classes: channels of the logits.
            published: see :class:`harveyseg.models.pretrained.EncoderWeights`.
        """
        super().__init__()
        self._objects = params.objects
        self._classes = classes
        width = params.channels
        sizes = tuple((params.smallest_anchor * 2**level,) for level in range(_LEVELS))
        anchors = AnchorGenerator(sizes, (_RATIOS,) * _LEVELS)
        levels = ["0", "1", "2", "3"]
        scale = _CANONICAL * params.smallest_anchor
        self.model = MaskRCNN(
            _Pyramid(params.encoder, published, width),
            rpn_anchor_generator=anchors,
            rpn_head=_ProposalHead(width, anchors.num_anchors_per_location()[0]),
            rpn_post_nms_top_n_train=_PROPOSALS,
            rpn_post_nms_top_n_test=_PROPOSALS,
            box_roi_pool=MultiScaleRoIAlign(levels, output_size=7, sampling_ratio=2, canonical_scale=scale),
            box_head=TwoMLPHead(width * 7**2, 1024),
            box_predictor=_BoxPredictor(1024, classes),
            box_batch_size_per_image=_BOXES_PER_PHOTO,
            mask_roi_pool=MultiScaleRoIAlign(levels, output_size=14, sampling_ratio=2, canonical_scale=scale),
            mask_head=MaskRCNNHeads(width, (width,) * 4, 1),
            mask_predictor=_MaskPredictor(width, width, classes),
        )
        self.model.transform = _AsItIs(1, 1, [0.0], [1.0], size_divisible=1)

    def forward(self, photos: Tensor) -> Tensor:
        """Find objects and paint them, see :meth:`harveyseg.models.network.Network.forward`."""
        size = (photos.shape[2], photos.shape[3])
        if photos.is_meta:  # only shapes are asked for, and how many objects there are depends on the values
            self.model.backbone(photos)
            return photos.new_empty(len(photos), self._classes, *size)
        maps = [
            paint(found["masks"][:, 0], found["scores"], found["labels"], self._classes)
            for found in self.model(list(photos))
        ]
        logits: Tensor = torch.stack(maps).clamp_min(_LEAST_PROBABILITY).log()
        device = photos.device.type
        # In the type of other networks' logits: half the bytes.
        return logits.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else logits

    def make_loss(self, classes: ClassList) -> Callable[[Tensor, Tensor], Tensor]:
        """The loss of torchvision's detectors, see :meth:`harveyseg.models.network.BringsLoss.make_loss`.

        Raises:
            HarveysegError: when ``objects`` names a class that there is not, or that is painted where there is none.
        """
        indices = self._object_indices(classes)

        def loss(photos: Tensor, masks: Tensor) -> Tensor:
            targets = [instances(mask.cpu().numpy(), indices) for mask in masks]
            on_device = [{key: value.to(photos.device) for key, value in target.items()} for target in targets]
            terms: dict[str, Tensor] = self.model(list(photos), on_device)
            return torch.stack(list(terms.values())).sum()

        return loss

    def _object_indices(self, classes: ClassList) -> list[int]:
        if not classes.unscored:
            raise HarveysegError(
                f"objects: all classes of the list {classes.name} are scored, so there is none for where no object is. "
                "Add one with `scored: false`, or take another network."
            )
        indices = {name.casefold(): index for index, name in enumerate(classes.names)}
        possible = f"allowed: {', '.join(classes.names[1:])}"
        for name in self._objects:
            if indices.get(name.casefold(), 0) == 0:
                raise HarveysegError(f"objects: {name!r} is no class whose objects can be found; {possible}")
        return [indices[name.casefold()] for name in self._objects]

    @property
    def pretrained_part(self) -> nn.Module:
        """See :attr:`harveyseg.models.network.Network.pretrained_part`."""
        encoder: nn.Module = self.model.backbone.encoder
        return encoder

    def depth_groups(self) -> list[list[nn.Parameter]]:
        """The encoder, the pyramid, the proposals, the second stage."""
        model = self.model
        layers = (model.backbone.encoder, model.backbone.pyramid, model.rpn, model.roi_heads)
        return [list(layer.parameters()) for layer in layers]


def instances(mask: ClassMap, classes: Sequence[int]) -> dict[str, Tensor]:
    """The objects in a class map: the regions of each class whose pixels touch, also at corners.

    >>> import numpy as np
    >>> mask = np.zeros((4, 6), np.uint8)
    >>> mask[1:3, 2:5] = 7
    >>> found = instances(mask, [7])
    >>> found["boxes"].tolist(), found["labels"].tolist(), found["masks"].sum().item()
    ([[2.0, 1.0, 5.0, 3.0]], [7], 6)

    Args:
        mask: the class index of each pixel, uint8 (H, W).
        classes: indices of the classes whose objects are found.

    Returns:
        What torchvision's detectors learn from: ``boxes``, float32 (n, 4) as left, top, right, bottom in pixels, where
        a pixel reaches from its column to the next; ``labels``, int64 (n,), indices of classes; ``masks``, uint8
        (n, H, W), 1 on the object.
    """
    boxes: list[tuple[int, int, int, int]] = []
    labels: list[int] = []
    masks = []
    for index in classes:
        count, regions, statistics, _ = cv2.connectedComponentsWithStats((mask == index).astype(np.uint8))
        for region in range(1, count):  # 0 is all the rest
            left, top, width, height, pixels = map(int, statistics[region])
            if pixels >= _LEAST_PIXELS:
                boxes.append((left, top, left + width, top + height))
                labels.append(index)
                masks.append(torch.from_numpy((regions == region).astype(np.uint8)))
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.int64),
        "masks": torch.stack(masks) if masks else torch.zeros(0, *mask.shape, dtype=torch.uint8),
    }


def paint(masks: Tensor, scores: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Probabilities of classes from objects that were found.

    An object of score s whose mask has probability m in a pixel makes its class s * m probable there; of several
    objects of a class the most probable counts. What is left to 1 is the first class's; where classes add up to more,
    they are divided by their sum.

    >>> masks = torch.tensor([[[1.0, 0.5, 0.0]], [[0.0, 1.0, 0.0]]])
    >>> paint(masks, torch.tensor([0.8, 0.9]), torch.tensor([1, 2]), classes=3)[:, 0]
    tensor([[0.2000, 0.0000, 1.0000],
            [0.8000, 0.3077, 0.0000],
            [0.0000, 0.6923, 0.0000]])

    Args:
        masks: probability that a pixel belongs to the object, (n, H, W).
        scores: probability of the object, (n,).
        labels: index of its class, at least 1, (n,).
        classes: how many there are.

    Returns:
        Float (classes, H, W), summing to 1.
    """
    found = [masks.new_zeros(masks.shape[1:])] * classes
    for label, score, mask in zip(labels.tolist(), scores, masks, strict=True):
        found[label] = torch.maximum(found[label], score * mask)
    total = torch.stack(found).sum(0)
    found[0] = (1 - total).clamp_min(0)
    return torch.stack(found) / total.clamp_min(1)


class _Pyramid(nn.Module):
    """An encoder of smp and a feature pyramid, float32, whatever the encoder computes in: anchors get its type."""

    def __init__(self, encoder: str, published: str | bool | None, channels: int) -> None:
        super().__init__()
        self.encoder = smp.encoders.get_encoder(encoder, weights=published)
        self.pyramid = FeaturePyramidNetwork(list(self.encoder.out_channels[2:]), channels, LastLevelMaxPool())
        self.out_channels = channels

    def forward(self, photos: Tensor) -> dict[str, Tensor]:
        features = {str(level): feature for level, feature in enumerate(self.encoder(photos)[2:])}
        return {name: feature.float() for name, feature in self.pyramid(features).items()}


class _AsItIs(GeneralizedRCNNTransform):  # type: ignore[misc]
    """Neither normalises nor resizes photos: they come as the network gets them."""

    def normalize(self, image: Tensor) -> Tensor:
        return image

    def resize(self, image: Tensor, target: Any = None) -> tuple[Tensor, Any]:
        return image, target


class _ProposalHead(RPNHead):  # type: ignore[misc]
    """In float32, as the next two: boxes that are computed in bfloat16 are off by whole pixels."""

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        objectness, boxes = super().forward(features)
        return [value.float() for value in objectness], [value.float() for value in boxes]


class _BoxPredictor(FastRCNNPredictor):  # type: ignore[misc]
    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        scores, boxes = super().forward(features)
        return scores.float(), boxes.float()


class _MaskPredictor(MaskRCNNPredictor):  # type: ignore[misc]
    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = super().forward(features)
        return logits.float()


def build(params: Params, classes: int, encoder_weights: str | None) -> MaskRcnn:
    """Make a Mask R-CNN.

    >>> network = build(Params(objects=("Vehicle",)), classes=25, encoder_weights=None).eval()
    >>> network(torch.zeros(1, 3, 64, 96)).shape
    torch.Size([1, 25, 64, 96])

    Args:
        params: settings.
        classes: channels of the logits.
        encoder_weights: of the encoder, see :func:`harveyseg.models.pretrained.find_encoder_weights`.

    Raises:
        HarveysegError: when the weights cannot be found or do not fit.
    """
    weights = find_encoder_weights(params.encoder, encoder_weights)
    network = MaskRcnn(params, classes, weights.published)
    load_encoder_weights(network.pretrained_part, params.encoder, weights)
    return network
