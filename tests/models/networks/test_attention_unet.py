"""The Attention U-Net against its paper: the gate in plain numpy, which skips are gated, counts worked out by hand."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from harveyseg.models.networks import unet
from harveyseg.models.networks.attention_unet import AttentionGate, AttentionUnet, Params, build
from helpers.networks import parameter_count


def make(seed: int = 0, **settings: object) -> AttentionUnet:
    torch.manual_seed(seed)
    return build(Params.model_validate(settings), 25, None)


def obvious_gate(gate: AttentionGate, skip: Tensor, gating: Tensor) -> npt.NDArray[np.float64]:
    """Equations 1 and 2 of the paper, pixel by pixel."""
    state = {name: value.double().numpy() for name, value in gate.state_dict().items()}
    x, g = skip.double().numpy(), gating.double().numpy()
    batch, channels, height, width = x.shape
    alpha = np.empty((batch, height // 2, width // 2))
    for b in range(batch):
        for row in range(height // 2):
            for column in range(width // 2):
                cell = x[b, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
                hidden = np.einsum("ocyx,cyx->o", state["w_x.weight"], cell)
                hidden += state["w_g.weight"][:, :, 0, 0] @ g[b, :, row, column] + state["w_g.bias"]
                q = state["psi.weight"][0, :, 0, 0] @ np.maximum(hidden, 0) + state["psi.bias"][0]
                alpha[b, row, column] = 1 / (1 + np.exp(-q))

    def at(position: int, cells: int) -> list[tuple[int, float]]:
        """Weights of the two cells next to a pixel: bilinear, half-pixel centres, the border repeated."""
        where = min(max((position + 0.5) / 2 - 0.5, 0), cells - 1)
        low = int(where)
        return [(low, 1 - (where - low)), (min(low + 1, cells - 1), where - low)]

    result = np.zeros_like(x)
    for b in range(batch):
        for row in range(height):
            for column in range(width):
                value = sum(
                    up * across * alpha[b, i, j]
                    for i, up in at(row, height // 2)
                    for j, across in at(column, width // 2)
                )
                for channel in range(channels):
                    result[b, channel, row, column] = value * x[b, channel, row, column]
    return result


def test_gate_is_the_formula_of_the_paper() -> None:
    torch.manual_seed(0)
    gate = AttentionGate(3)
    skip, gating = torch.randn(2, 3, 6, 4), torch.randn(2, 6, 3, 2)
    expected = obvious_gate(gate, skip, gating)
    np.testing.assert_allclose(gate(skip, gating).detach().numpy(), expected, rtol=1e-5, atol=1e-6)


def test_gate_lets_through_or_shuts() -> None:
    gate = AttentionGate(2)
    skip, gating = torch.randn(1, 2, 4, 4), torch.randn(1, 4, 2, 2)
    for bias, expected in ((100.0, skip), (-100.0, torch.zeros_like(skip))):
        with torch.no_grad():
            gate.psi.weight.zero_()
            gate.psi.bias.fill_(bias)  # type: ignore[union-attr]
            torch.testing.assert_close(gate(skip, gating), expected)


def test_open_gates_leave_a_plain_unet() -> None:
    """The gates are on skips 2..4, are gated by the coarser level, and nothing else differs from the U-Net."""
    network = make(width=2).eval()
    plain = unet.build(unet.Params(width=2), 25, None).eval()
    plain.load_state_dict({name: value for name, value in network.state_dict().items() if "gates" not in name})
    photos = torch.randn(1, 3, 32, 32)
    expected = plain(photos)
    assert not torch.allclose(network(photos), expected)
    for gate in network.gates:
        assert isinstance(gate, AttentionGate)
        torch.nn.init.zeros_(gate.psi.weight)
        torch.nn.init.constant_(gate.psi.bias, 100)  # type: ignore[arg-type]
    torch.testing.assert_close(network(photos), expected)


def test_gates_see_the_skip_and_the_coarser_level() -> None:
    network = make(width=2).eval()
    seen: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    for gate in network.gates:
        gate.register_forward_hook(lambda _gate, inputs, _output: seen.append((inputs[0].shape, inputs[1].shape)))
    network(torch.zeros(1, 3, 64, 32))
    assert seen == [
        ((1, 16, 8, 4), (1, 32, 4, 2)),
        ((1, 8, 16, 8), (1, 16, 8, 4)),
        ((1, 4, 32, 16), (1, 8, 16, 8)),
    ]


# By hand: the U-Net's 7574 w^2 + 221w + 25 (batch norm in the encoder) and the gates at c = 8w, 4w, 2w (sum 14w,
# squares 84 w^2): W_x 4c^2, W_g 2c^2 + c, psi c + 1, that is 504 w^2 + 28w + 3.
@pytest.mark.parametrize("width", [16, 64])
def test_parameter_count(width: int) -> None:
    assert parameter_count(make(width=width)) == 8078 * width**2 + 249 * width + 28


def test_depth_groups_hold_each_gate_with_its_step() -> None:
    network = make(width=2)
    groups = network.depth_groups()
    assert [len(group) for group in groups] == [6] * 5 + [6 + 5] * 3 + [6, 2]
    gate = network.gates[0]
    assert isinstance(gate, AttentionGate)
    assert groups[5][0] is gate.w_x.weight


def test_alpha_reaches_beyond_its_cell_by_interpolation_only() -> None:
    """A change of one gating cell changes the skip only where bilinear interpolation carries it: 4x4 pixels."""
    torch.manual_seed(1)
    gate = AttentionGate(2)
    skip, gating = torch.ones(1, 2, 12, 12), torch.zeros(1, 4, 6, 6)
    changed = gating.clone()
    changed[0, :, 2, 3] = F.relu(torch.randn(4)) + 1
    difference = (gate(skip, changed) - gate(skip, gating)).abs().sum((0, 1)) > 0
    rows, columns = torch.nonzero(difference, as_tuple=True)
    assert (int(rows.min()), int(rows.max())) == (3, 6)
    assert (int(columns.min()), int(columns.max())) == (5, 8)
