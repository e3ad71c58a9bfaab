"""Symmetries and scales, against NumPy's own turns."""

import numpy as np
import pytest
from torch import nn

from helpers.known_networks import FP32, Coarse, FirstChannels, Places, difference, images, maps_of


@pytest.mark.parametrize(("tta", "passes"), [("none", 1), ("flips", 4), ("d4", 8)])
@pytest.mark.parametrize("network", [FirstChannels(), Coarse(2)])
def test_symmetries_do_not_change_the_maps_of_a_pointwise_network(tta: str, passes: int, network: nn.Module) -> None:
    calls: list[tuple[int, ...]] = []
    hook = network.register_forward_pre_hook(lambda _, given: calls.append(tuple(given[0].shape[2:])))
    photos = images(4, 6)
    maps = maps_of(network, photos, FP32.model_copy(update={"tta": tta}))
    hook.remove()
    assert difference(maps, maps_of(network, photos)) <= 1  # turned back wrongly, noise would differ everywhere
    assert np.mean(maps != maps_of(network, photos)) < 1e-2
    assert len(calls) == passes
    assert calls.count((6, 4)) == (4 if tta == "d4" else 0)  # rows and columns swapped


def test_the_mean_over_symmetries_is_that_of_numpys_turns() -> None:
    plain = maps_of(Places(), images(6, 6, 1)).astype(float)[0]
    upright = [plain, plain[:, ::-1], plain[:, :, ::-1], plain[:, ::-1, ::-1]]
    # The network's maps do not depend on the photo: turned back, a view's map is the plain map turned.
    turned = [np.rot90(maps, quarter, (1, 2)) for maps in (plain, plain[:, ::-1]) for quarter in range(4)]
    for tta, several in (("flips", upright), ("d4", turned)):
        maps = maps_of(Places(), images(6, 6, 1), FP32.model_copy(update={"tta": tta}))
        assert np.abs(maps[0] - np.mean(several, axis=0)).max() <= 1
    assert difference(maps, plain[None].astype(np.uint8)) > 20  # a single pass does not give the mean


def test_symmetries_of_a_photo_that_is_not_square() -> None:
    plain = maps_of(Places(), images(4, 6, 1)).astype(float)[0]
    transposed = maps_of(Places(), images(6, 4, 1)).astype(float)[0].transpose(0, 2, 1)
    several = [maps[:, ::rows, ::columns] for maps in (plain, transposed) for rows in (1, -1) for columns in (1, -1)]
    maps = maps_of(Places(), images(4, 6, 1), FP32.model_copy(update={"tta": "d4"}))
    assert np.abs(maps[0] - np.mean(several, axis=0)).max() <= 1


def test_a_scaled_photo_has_sides_divisible_by_32_and_its_maps_come_back() -> None:
    network = FirstChannels()
    photos = np.full((2, 64, 96, 3), 77, np.uint8)
    maps = maps_of(network, photos, FP32.model_copy(update={"scales": (0.75, 1.0, 1.5)}))
    assert network.sizes == [(2, 64, 64), (2, 64, 96), (2, 96, 128)]
    assert maps.shape == (2, 25, 64, 96)
    assert difference(maps, maps_of(network, photos)) <= 1


def test_scales_are_averaged_as_probabilities_at_the_size_of_the_photo() -> None:
    rows = np.linspace(0, 255, 128)
    columns = np.linspace(255, 0, 128)
    smooth = np.stack(np.broadcast_arrays(rows[:, None], columns[None], 90.0), -1).round().astype(np.uint8)[None]
    single = [
        maps_of(FirstChannels(), smooth, FP32.model_copy(update={"scales": (scale,)})) for scale in (1.0, 0.5, 2.0)
    ]
    inner = np.s_[:, :, 8:-8, 8:-8]  # where the photo ends, resizing repeats its border
    assert difference(single[0][inner], single[1][inner]) <= 4  # a smooth photo looks the same at every scale
    assert difference(single[0][inner], single[2][inner]) <= 4
    mean = maps_of(FirstChannels(), smooth, FP32.model_copy(update={"scales": (1.0, 0.5, 2.0)}))
    assert np.abs(mean - np.mean([maps.astype(float) for maps in single], axis=0)).max() <= 1
