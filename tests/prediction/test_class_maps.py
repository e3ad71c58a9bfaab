"""Class maps of images whose classes are known, from networks whose answer is known."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from harveyseg.classes import HARVEY25
from harveyseg.inference.network_file import TrainedNetwork
from harveyseg.inference.probabilities import argmax_map, upsample
from harveyseg.prediction.class_maps import EnsemblePredictor, class_map_in_columns
from harveyseg.prediction.trained_ensemble import TrainedEnsemble
from helpers.paths import ROOT
from helpers.predicting import (
    FLOODED,
    GRASS,
    PARAMS,
    ArrayPicture,
    classify,
    fitted_rule,
    half_red,
    single,
    squares,
    sure,
)


@pytest.mark.parametrize(("height", "width"), [(96, 160), (160, 96), (64, 64), (37, 50), (1, 2)])
def test_a_class_map_has_the_images_own_size(height: int, width: int) -> None:
    labels = classify(ArrayPicture(half_red(height, width)), single(sure(FLOODED, 0.5)))
    assert labels.dtype == np.uint8
    expected = np.zeros((height, width), np.uint8)
    expected[:, width // 2 :] = FLOODED
    border = np.abs(np.arange(width) - width / 2 + 0.5) <= max(1, width / 64)  # where a network's pixel is half red
    assert (labels == expected)[:, ~border].all()
    if width in (64, 160, 96, 2):
        assert (labels == expected).mean() > 0.95


def test_the_mean_of_probabilities_decides() -> None:
    picture = ArrayPicture(half_red())
    flooded, grass = sure(FLOODED, -1.0), sure(GRASS, -1.0)  # each sure of its class, everywhere
    for shares, winner in [((0.6, 0.4), FLOODED), ((0.4, 0.6), GRASS)]:
        assert (classify(picture, TrainedEnsemble((flooded, grass), shares)) == winner).all()
    # Two that hesitate (p = 0.36) lose against one that is sure, though they are more.
    hesitant = sure(FLOODED, -1.0, confidence=2.6)
    ensemble = TrainedEnsemble((hesitant, hesitant, grass), (1 / 3, 1 / 3, 1 / 3))
    assert (classify(ArrayPicture(np.zeros((8, 8, 3), np.uint8)), ensemble) == GRASS).all()


def test_networks_of_different_sizes_and_strides_are_averaged() -> None:
    picture = ArrayPicture(half_red(128, 160))
    for stride in (1, 2, 4):
        members = (sure(FLOODED, 0.5), sure(FLOODED, 0.5, size=(96, 128), stride=stride), sure(GRASS, 2.0))
        labels = classify(picture, TrainedEnsemble(members, (0.5, 0.3, 0.2)))
        assert (labels[:, :70] == 0).all()
        assert (labels[:, 90:] == FLOODED).all()
    # 0.4 + 0.2 for grass against 0.4, though in another order of sizes.
    flooded, grass, small = sure(FLOODED, -1.0), sure(GRASS, -1.0, size=(96, 128)), sure(GRASS, -1.0)
    assert (classify(picture, TrainedEnsemble((flooded, grass, small), (0.4, 0.4, 0.2))) == GRASS).all()


class Noise(nn.Module):
    """Random logits, the same at the same place of every window."""

    def __init__(self, seed: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.logits = 3 * torch.randn(1, 25, *size, generator=torch.Generator().manual_seed(seed))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.logits.expand(len(inputs), -1, -1, -1)


def noisy(seed: int, size: tuple[int, int]) -> TrainedNetwork:
    return TrainedNetwork(Noise(seed, size), {}, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), size, HARVEY25)


@pytest.mark.parametrize("size", [(1024, 700), (700, 300), (257, 1), (20, 33), (1, 1)])
def test_stripes_are_the_argmax_of_the_enlarged_mean(size: tuple[int, int]) -> None:
    """Networks of two sizes, against the mean and the enlargement of whole arrays."""
    networks = (noisy(0, (64, 32)), noisy(1, (32, 64)))
    labels = classify(ArrayPicture(np.zeros((*size, 3), np.uint8)), TrainedEnsemble(networks, (0.7, 0.3)))
    maps = [
        np.rint(255 * network.network(torch.zeros(1, 3, 1, 1)).softmax(1)[0].numpy()).astype(np.uint8)
        for network in networks
    ]
    mean = np.rint(0.7 * upsample(maps[0], (64, 64)) + 0.3 * upsample(maps[1], (64, 64))).astype(np.uint8)
    enlarged = upsample(mean, size)
    differ = labels != argmax_map(mean, size)
    chosen = np.take_along_axis(enlarged, labels[None].astype(np.intp), 0)[0]
    assert labels.shape == size
    assert differ.mean() < 0.01  # only where two classes are equal but for rounding
    assert (enlarged.max(0) - chosen).max() <= 1.001


@pytest.mark.parametrize("photo_size", [(64, 64), (32, 32), (100, 80), (192, 320), (400, 400), (150, 16)])
def test_a_mosaic_is_seen_at_the_scale_of_the_training(photo_size: tuple[int, int]) -> None:
    mosaic, sizes = squares(), []
    trained = sure(FLOODED, 0.5)
    trained.network.register_forward_pre_hook(lambda _, given: sizes.append(tuple(given[0].shape[2:])))
    labels = classify(ArrayPicture(mosaic), single(trained), photo_size)
    assert set(sizes) == {(64, 64)}  # windows of the training's size, whatever the photo's
    assert labels.shape == mosaic.shape[:2]
    inner = np.zeros_like(labels, bool)  # away from the squares' borders, which resizing blurs
    for top in range(0, 192, 64):
        for left in range(0, 320, 64):
            inner[top + 12 : top + 52, left + 12 : left + 52] = True
    assert (labels[inner] == np.where(mosaic[..., 0] > 0, FLOODED, 0)[inner]).all()


class Middle(nn.Module):
    """Answers ``FLOODED`` in the middle of what it is shown, and background elsewhere."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        logits = inputs.new_zeros(len(inputs), 25, *inputs.shape[2:])
        logits[:, FLOODED] = -9
        logits[:, FLOODED, 16:48, 16:48] = 9
        return logits


def test_an_image_of_a_training_photos_ground_is_one_input() -> None:
    trained = TrainedNetwork(Middle(), {}, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (64, 64), HARVEY25)
    picture = ArrayPicture(squares())
    expected = np.zeros((192, 320), np.uint8)
    expected[48:144, 80:240] = FLOODED
    assert (classify(picture, single(trained)) == expected).mean() > 0.98
    # Five photographs side by side: the middle of each is flooded (their windows overlap, so there are more middles).
    labels = classify(picture, single(trained), (192, 64))
    assert (labels[90:100].reshape(10, 5, 64)[:, :, 28:36] == FLOODED).all()
    assert (labels[:40] == 0).all()


@pytest.mark.parametrize("rule", [None, fitted_rule({}, 100.0)])
def test_what_was_not_seen_is_no_class_and_reaches_no_network(rule: object) -> None:
    shown = np.zeros((192, 320), bool)
    shown[64:128, 128:192] = True  # one square, which is red
    windows: list[torch.Tensor] = []
    trained = sure(FLOODED, 0.5)
    trained = TrainedNetwork(trained.network, {}, (0.2, 0.4, 0.6), (1.0, 1.0, 1.0), (64, 64), HARVEY25)
    trained.network.register_forward_pre_hook(lambda _, given: windows.extend(given[0]))
    picture = ArrayPicture(squares(), shown)
    labels = classify(picture, TrainedEnsemble((trained,), (1.0,), rule), (64, 64))  # type: ignore[arg-type]
    assert (labels[~shown] == 255).all()
    assert (labels[shown] == FLOODED).mean() > 0.9
    # Of all windows only those with something in them are predicted, after the first, which tells the maps' size;
    # what was not seen has the training's mean colour there.
    seen = [window for window in windows if window[0].max() > 0.1]
    assert len(windows) - len(seen) <= PARAMS.batch_size
    reds = torch.stack(seen)[:, 0]
    assert (reds.sub(250 / 255 - 0.2).abs().lt(0.01) | reds.abs().lt(0.01)).all()


def test_nothing_seen_at_all() -> None:
    picture = ArrayPicture(squares(), np.zeros((192, 320), bool))
    for rule in (None, fitted_rule({}, 100.0)):
        assert (classify(picture, TrainedEnsemble((sure(FLOODED),), (1.0,), rule), (64, 64)) == 255).all()


def test_probabilities_of_chosen_classes() -> None:
    predictor = EnsemblePredictor(single(sure(FLOODED, 0.5)), PARAMS)
    shown = np.ones((192, 320), bool)
    shown[:, :40] = False
    stripes = list(predictor.stripes(ArrayPicture(squares(), shown), (64, 64), [FLOODED, 0]))
    flooded, background = np.concatenate([stripe.probabilities for stripe in stripes], axis=1)
    labels = np.concatenate([stripe.classes for stripe in stripes])
    assert (flooded[labels == FLOODED] > 127).all()
    assert (background[labels == 0] > flooded[labels == 0]).all()
    assert not flooded[~shown].any()
    assert not background[~shown].any()


def test_post_processing_is_for_one_photo() -> None:
    picture = ArrayPicture(half_red(64, 128))
    trained = sure(FLOODED, 0.5)
    refused, claimed = (TrainedEnsemble((trained,), (1.0,), fitted_rule({}, flooded)) for flooded in (-100.0, 100.0))
    assert (classify(picture, single(trained)) == FLOODED).mean() == pytest.approx(0.5, abs=0.02)
    assert (classify(picture, claimed) == FLOODED).mean() == pytest.approx(0.5, abs=0.02)
    assert (classify(picture, refused) != FLOODED).all()


@pytest.mark.parametrize(("width", "tile_width"), [(60, 20), (330, 110), (9, 9)])
def test_a_row_of_tiles_is_post_processed_one_by_one(width: int, tile_width: int) -> None:
    """Flooded is claimed in the tile that is sure of it, and not in the others, which are not."""
    columns = max(1, round(width / tile_width))
    probabilities = np.zeros((25, 12, 8 * columns), np.uint8)
    probabilities[0], probabilities[FLOODED] = 95, 160
    probabilities[:, :, -8:] = 0
    probabilities[FLOODED, :, -8:] = 255
    rule = fitted_rule({}, -3.0)  # so that only the sure tile is worth claiming
    labels = class_map_in_columns(rule, probabilities, (40, width), tile_width)
    sure_tile = np.zeros((40, width), bool)
    sure_tile[:, width - width // columns :] = True
    assert np.array_equal(labels == FLOODED, sure_tile)
    if columns > 1:  # as one photograph the whole row is flooded, or nothing
        assert not np.array_equal(rule.class_map(probabilities, (40, width)), labels)


def test_a_mosaic_of_photos_is_post_processed_as_they_are() -> None:
    probabilities = np.random.default_rng(0).integers(0, 256, (25, 12, 40)).astype(np.uint8)
    rule, photographs = fitted_rule({}, 100.0), np.empty((48, 160), np.uint8)
    for column in range(5):
        part = probabilities[:, :, 8 * column : 8 * column + 8]
        photographs[:, 32 * column : 32 * column + 32] = rule.class_map(part, (48, 32))
    assert np.array_equal(class_map_in_columns(rule, probabilities, (48, 160), 32), photographs)


def test_post_processing_goes_with_a_scale() -> None:
    trained = sure(FLOODED, 0.5)
    for flooded in (-100.0, 100.0):
        ensemble = TrainedEnsemble((trained,), (1.0,), fitted_rule({}, flooded))
        found = (classify(ArrayPicture(squares()), ensemble, (64, 64)) == FLOODED).mean()
        assert found == (pytest.approx(7 / 15, abs=0.05) if flooded > 0 else 0)


CHILD = """
import resource, sys
import numpy as np
from helpers.predicting import PARAMS, fitted_rule, sure
from harveyseg.prediction.class_maps import EnsemblePredictor
from harveyseg.prediction.trained_ensemble import TrainedEnsemble

class Endless:
    def __init__(self, height):
        self.size = (height, 2048)
    def colours(self, rows, size):
        return np.full((rows.stop - rows.start, size[1], 3), 90, np.uint8)
    def seen(self, rows, size):
        return np.ones((rows.stop - rows.start, size[1]), bool)

peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
rule = fitted_rule({}, 100.0) if sys.argv[1] == "rule" else None
predictor = EnsemblePredictor(TrainedEnsemble((sure(23),), (1.0,), rule), PARAMS)
def predict(height):
    for stripe in predictor.stripes(Endless(height), (512, 512)):
        pass
predict(1536)
before = peak()
predict(6144)
print(peak() - before)
"""


@pytest.mark.parametrize("kind", ["argmax", "rule"])
def test_memory_does_not_grow_with_the_height(kind: str) -> None:
    environment = {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests'}"}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, kind], env=environment, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 8  # MiB; the map alone has 12, its enlarged probabilities 300
