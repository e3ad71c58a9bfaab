"""Networks whose answer is known, and images in memory."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from harveyseg.arrays import BoolArray, ClassMap, Photo
from harveyseg.classes import HARVEY25
from harveyseg.data.resize import resize_photo
from harveyseg.inference.network_file import TrainedNetwork
from harveyseg.inference.params import InferenceParams
from harveyseg.postprocess.files import FittedRule
from harveyseg.postprocess.rules import ExpectedDiceRule
from harveyseg.prediction.class_maps import EnsemblePredictor
from harveyseg.prediction.trained_ensemble import TrainedEnsemble

PARAMS = InferenceParams(threads=1, device="cpu", precision="fp32")
FLOODED, GRASS = 23, 5


def sure(
    class_id: int, red: float = 0.0, confidence: float = 50.0, size: tuple[int, int] = (64, 64), stride: int = 1
) -> TrainedNetwork:
    """A network that answers ``class_id`` where the photo is redder than ``red`` (0..1), and background elsewhere."""
    layer = nn.Conv2d(3, 25, 1)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    assert layer.bias is not None
    with torch.no_grad():
        layer.weight[class_id, 0], layer.bias[class_id] = confidence, -confidence * red
        layer.bias[1:] -= 1e-3  # background wins where nothing speaks for another class
    network = nn.Sequential(nn.AvgPool2d(stride), layer)
    return TrainedNetwork(network, {}, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), size, HARVEY25)


def single(network: TrainedNetwork) -> TrainedEnsemble:
    return TrainedEnsemble((network,), (1.0,))


@dataclass
class ArrayPicture:
    """An RGB image (H, W, 3) in memory; what ``shown`` (H, W) leaves out was not seen."""

    pixels: Photo
    shown: BoolArray | None = None

    @property
    def size(self) -> tuple[int, int]:
        return self.pixels.shape[0], self.pixels.shape[1]

    def colours(self, rows: slice, size: tuple[int, int]) -> Photo:
        return resize_photo(np.ascontiguousarray(self.pixels[..., ::-1]), size)[rows]

    def seen(self, rows: slice, size: tuple[int, int]) -> BoolArray:
        if self.shown is None:
            return np.ones((rows.stop - rows.start, size[1]), bool)
        own = [np.arange(side + 1) * whole // side for side, whole in zip(size, self.size, strict=True)]
        sums = np.add.reduceat(np.add.reduceat(self.shown.astype(int), own[0][:-1], 0), own[1][:-1], 1)
        return (sums > 0)[rows]


def classify(
    picture: ArrayPicture, ensemble: TrainedEnsemble, photo_size: tuple[float, float] | None = None
) -> ClassMap:
    stripes = EnsemblePredictor(ensemble, PARAMS).stripes(picture, photo_size or picture.size)
    return np.concatenate([stripe.classes for stripe in stripes])


def fitted_rule(uids: dict[str, str], flooded: float = -100.0) -> FittedRule:
    """Every class is claimed, but flooded only if ``flooded``, its intercept, is high."""
    presence = dict.fromkeys(HARVEY25.scored_slugs, 100.0)
    presence[HARVEY25.slugs[FLOODED]] = flooded
    rule = ExpectedDiceRule(
        calibration_slope=1.0,
        calibration_intercept=dict.fromkeys(presence, 0.0),
        presence_slope=1.0,
        presence_intercept=presence,
    )
    return FittedRule(
        source="unet", uids=uids, unscored=1, scored_classes=HARVEY25.scored_slugs,
        score_size=(1024, 1024), photos=9, groups=3, argmax_score=0.6,
        nested_score=0.7, in_sample_score=0.7,
        cross_validated_scores={"expected": 0.7}, nested_rules=["expected"], rule=rule,
    )  # fmt: skip


def half_red(height: int = 96, width: int = 160) -> Photo:
    """Dark green on the left and red on the right, RGB."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2, 1] = 60
    pixels[:, width // 2 :, 0] = 250
    return pixels


def squares(numbers: Sequence[int] = (3, 5)) -> Photo:
    """A mosaic of 64 x 64 squares, RGB: red where row plus column is odd."""
    odd = np.indices(numbers).sum(0) % 2
    mosaic = np.zeros((64 * numbers[0], 64 * numbers[1], 3), np.uint8)
    mosaic[..., 0] = 250 * np.kron(odd, np.ones((64, 64))).astype(np.uint8)
    return mosaic
