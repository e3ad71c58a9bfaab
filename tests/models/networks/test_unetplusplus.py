"""U-Net++ against its paper: equation 1 as a recursion, what enters each node, counts worked out by hand."""

from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harveyseg.models.networks.unetplusplus import Params, UnetPlusPlus, build
from helpers.networks import parameter_count, parameter_ids


def make(seed: int = 0, **settings: object) -> UnetPlusPlus:
    torch.manual_seed(seed)
    return build(Params.model_validate(settings), 25, None)


def node(network: UnetPlusPlus, i: int, j: int) -> nn.Module:
    column = network.columns[j - 1]
    assert isinstance(column, nn.ModuleList)
    return column[i]


def test_forward_is_equation_1_as_a_recursion() -> None:
    network = make(width=2, batch_norm="none").eval()
    state = network.state_dict()
    photos = torch.randn(2, 3, 32, 16)

    def h(features: Tensor, prefix: str) -> Tensor:
        features = F.relu(F.conv2d(features, state[f"{prefix}.0.weight"], state[f"{prefix}.0.bias"], padding=1))
        return F.relu(F.conv2d(features, state[f"{prefix}.2.weight"], state[f"{prefix}.2.bias"], padding=1))

    @cache
    def x(i: int, j: int) -> Tensor:
        if j == 0:
            return h(photos if i == 0 else F.max_pool2d(x(i - 1, 0), 2), f"encoder.levels.{i}")
        prefix = f"columns.{j - 1}.{i}"
        up = F.conv_transpose2d(x(i + 1, j - 1), state[f"{prefix}.up.weight"], state[f"{prefix}.up.bias"], stride=2)
        return h(torch.cat([*(x(i, k) for k in range(j)), up], 1), f"{prefix}.convs")

    expected = F.conv2d(x(0, 4), state["head.weight"], state["head.bias"])
    torch.testing.assert_close(network(photos), expected, rtol=1e-5, atol=1e-5)


def test_every_node_gets_all_before_it_and_one_from_below() -> None:
    network = make(width=2).eval()
    seen: dict[tuple[int, int], tuple[list[tuple[int, ...]], tuple[int, ...]]] = {}
    for j in range(1, 5):
        for i in range(5 - j):
            node(network, i, j).register_forward_hook(
                lambda _node, inputs, _output, place=(i, j): seen.update(
                    {place: ([tuple(skip.shape[1:]) for skip in inputs[0]], tuple(inputs[1].shape[1:]))}
                )
            )
    network(torch.zeros(1, 3, 64, 32))
    assert sorted(seen) == [(i, j) for i in range(4) for j in range(1, 5 - i)]
    for (i, j), (skips, below) in seen.items():
        assert skips == [(2 * 2**i, 64 // 2**i, 32 // 2**i)] * j, (i, j)
        assert below == (2 * 2 ** (i + 1), 64 // 2 ** (i + 1), 32 // 2 ** (i + 1)), (i, j)
    assert len(seen[0, 4][0]) == 4


# By hand: the contracting path as in the U-Net, 4599 w^2 + 27w, and 124w for its batch norms. A node of column j with c
# channels: up-convolution 8c^2 + c, convolutions 9 (j + 1) c^2 + 9 c^2 + 2c: (9j + 26) c^2 + 3c. Column j has the
# levels 0..4-j, with squares 85, 21, 5, 1 w^2 and sums 15, 7, 3, 1 w for j = 1..4:
# 35 * 85 + 44 * 21 + 53 * 5 + 62 = 4226 w^2, and 3 * 26w = 78w. Head 25w + 25.
@pytest.mark.parametrize("width", [16, 64])
def test_parameter_count(width: int) -> None:
    assert parameter_count(make(width=width)) == (4599 + 4226) * width**2 + (27 + 124 + 78 + 25) * width + 25


@pytest.mark.parametrize(("batch_norm", "norms"), [("none", 0), ("encoder", 10), ("both", 30)])
def test_batch_norm_places(batch_norm: str, norms: int) -> None:
    network = make(width=1, batch_norm=batch_norm)
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in network.modules()) == norms


def test_depth_groups() -> None:
    network = make(width=2)
    groups = network.depth_groups()
    assert parameter_ids(groups) == [id(parameter) for parameter in network.parameters()]
    assert [len(group) for group in groups] == [6] * 5 + [6 * nodes for nodes in (4, 3, 2, 1)] + [2]
