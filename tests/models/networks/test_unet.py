"""The U-Net against its paper: shapes, parameter counts worked out by hand, and a forward pass written out flat."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harveyseg.models.blocks import ContractingPath, he_initialise
from harveyseg.models.network import build as build_network
from harveyseg.models.networks.unet import Params, Unet, build
from helpers.networks import parameter_count, parameter_ids


def make(seed: int = 0, **settings: object) -> Unet:
    torch.manual_seed(seed)
    return build(Params.model_validate(settings), 25, None)


@pytest.mark.parametrize("width", [16, 64])
def test_shapes_layer_by_layer(width: int) -> None:
    network = make(width=width).eval()
    shapes: list[tuple[int, ...]] = []
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.MaxPool2d):
            layer.register_forward_hook(lambda _layer, _inputs, output: shapes.append(tuple(output.shape[1:])))
    network(torch.zeros(1, 3, 64, 32))
    w = width
    assert shapes == [
        (w, 64, 32), (w, 64, 32), (w, 32, 16),
        (2 * w, 32, 16), (2 * w, 32, 16), (2 * w, 16, 8),
        (4 * w, 16, 8), (4 * w, 16, 8), (4 * w, 8, 4),
        (8 * w, 8, 4), (8 * w, 8, 4), (8 * w, 4, 2),
        (16 * w, 4, 2), (16 * w, 4, 2),
        (8 * w, 8, 4), (8 * w, 8, 4), (8 * w, 8, 4),
        (4 * w, 16, 8), (4 * w, 16, 8), (4 * w, 16, 8),
        (2 * w, 32, 16), (2 * w, 32, 16), (2 * w, 32, 16),
        (w, 64, 32), (w, 64, 32), (w, 64, 32),
        (25, 64, 32),
    ]  # fmt: skip


# Inputs x outputs x 9 (3x3 convolution) or x 4 (2x2 up-convolution), plus one bias for each output where no batch norm
# follows: on the expansive path and in the head.
LAYERS = {
    16: [
        3 * 16 * 9, 2_304, 4_608, 9_216, 18_432, 36_864, 73_728, 147_456, 294_912, 589_824,
        131_200, 295_040, 147_584, 32_832, 73_792, 36_928, 8_224, 18_464, 9_248, 2_064, 4_624, 2_320,
        16 * 25 + 25,
    ],
    64: [
        3 * 64 * 9, 36_864, 73_728, 147_456, 294_912, 589_824, 1_179_648, 2_359_296, 4_718_592, 9_437_184,
        2_097_664, 4_719_104, 2_359_808, 524_544, 1_179_904, 590_080, 131_200, 295_040, 147_584, 32_832, 73_792, 36_928,
        64 * 25 + 25,
    ],
}  # fmt: skip


@pytest.mark.parametrize("width", [16, 64])
def test_parameters_layer_by_layer(width: int) -> None:
    network = make(width=width).eval()
    counts: list[int] = []
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.BatchNorm2d):
            layer.register_forward_hook(
                lambda layer, *_: counts.append(sum(parameter.numel() for parameter in layer.parameters()))
            )
    network(torch.zeros(1, 3, 16, 16))
    down = counts[:20]
    assert down[::2] + counts[20:] == LAYERS[width]
    assert down[1::2] == [2 * channels for level in range(5) for channels in [width * 2**level] * 2]  # scale and shift


# By hand, for first width w. The levels have w, 2w, 4w, 8w, 16w channels: sum 31w, sum of squares 341 w^2.
# 3x3 weights down:  27w (from RGB) + 9 * 341 w^2 (second of each pair) + 4.5 * 340 w^2 (first of levels 2..5)
#                    = 4599 w^2 + 27w
# steps up to c = 8w, 4w, 2w, w (sum 15w, squares 85 w^2): up-convolution 8c^2, then 18c^2 and 9c^2
#                    = 35 * 85 w^2 = 2975 w^2
# head: 25w + 25.    Weights in all: 7574 w^2 + 52w + 25, without the biases and batch norms:
# a pair of convolutions to c channels has 2c biases, or 4c batch norm parameters; an up-convolution has c biases.
EXTRA = {"none": 2 * 31 + 3 * 15, "encoder": 4 * 31 + 3 * 15, "both": 4 * 31 + 5 * 15}


@pytest.mark.parametrize("batch_norm", ["none", "encoder", "both"])
@pytest.mark.parametrize("width", [16, 32, 64])
def test_parameter_count(width: int, batch_norm: str) -> None:
    count = parameter_count(make(width=width, batch_norm=batch_norm))
    assert count == 7574 * width**2 + (52 + EXTRA[batch_norm]) * width + 25


def test_parameter_count_of_the_report() -> None:
    assert parameter_count(make()) == 1_942_505
    assert parameter_count(make(width=64)) == 31_037_273


@pytest.mark.parametrize(("batch_norm", "norms"), [("none", 0), ("encoder", 10), ("both", 18)])
def test_batch_norm_places(batch_norm: str, norms: int) -> None:
    network = make(width=1, batch_norm=batch_norm)
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in network.modules()) == norms
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in network.encoder.modules()) == min(norms, 10)


def test_forward_is_the_paper_written_out() -> None:
    network = make(width=2, batch_norm="none").eval()
    state = network.state_dict()
    photos = torch.randn(2, 3, 32, 16)

    def pair(features: Tensor, prefix: str) -> Tensor:
        features = F.relu(F.conv2d(features, state[f"{prefix}.0.weight"], state[f"{prefix}.0.bias"], padding=1))
        return F.relu(F.conv2d(features, state[f"{prefix}.2.weight"], state[f"{prefix}.2.bias"], padding=1))

    def up(features: Tensor, step: int) -> Tensor:
        prefix = f"decoder.{step}.up"
        return F.conv_transpose2d(features, state[f"{prefix}.weight"], state[f"{prefix}.bias"], stride=2)

    one = pair(photos, "encoder.levels.0")
    two = pair(F.max_pool2d(one, 2), "encoder.levels.1")
    three = pair(F.max_pool2d(two, 2), "encoder.levels.2")
    four = pair(F.max_pool2d(three, 2), "encoder.levels.3")
    five = pair(F.max_pool2d(four, 2), "encoder.levels.4")
    four = pair(torch.cat([four, up(five, 0)], 1), "decoder.0.convs")
    three = pair(torch.cat([three, up(four, 1)], 1), "decoder.1.convs")
    two = pair(torch.cat([two, up(three, 2)], 1), "decoder.2.convs")
    one = pair(torch.cat([one, up(two, 3)], 1), "decoder.3.convs")
    expected = F.conv2d(one, state["head.weight"], state["head.bias"])
    torch.testing.assert_close(network(photos), expected, rtol=1e-5, atol=1e-5)


def test_dropout_after_every_max_pool() -> None:
    torch.manual_seed(0)
    path = ContractingPath(8, 0.3, batch_norm=False).train()
    zeroed: list[float] = []
    order: list[str] = []
    for name, layer in path.named_modules():
        if isinstance(layer, nn.Dropout):
            layer.register_forward_hook(
                lambda _layer, inputs, output: zeroed.append(
                    float(((output == 0) & (inputs[0] != 0)).sum() / (inputs[0] != 0).sum())
                )
            )
        if isinstance(layer, nn.Dropout | nn.MaxPool2d):
            layer.register_forward_hook(lambda *_, name=name: order.append(name))
    path(torch.randn(8, 3, 64, 64))
    assert order == ["pool.0", "pool.1"] * 4
    assert zeroed == pytest.approx([0.3] * 4, abs=0.03)


def test_he_initialisation() -> None:
    network = make(width=32, batch_norm="none")
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            # Counted rather than looked up: how many inputs does an output in the middle depend on?
            photo = torch.zeros(1, layer.in_channels, 8, 8, requires_grad=True)
            output = layer(photo)
            (gradient,) = torch.autograd.grad(output[0, 0, output.shape[2] // 2, output.shape[3] // 2], photo)
            incoming = int((gradient != 0).sum())
            tolerance = 4 / math.sqrt(2 * layer.weight.numel())  # 4 standard errors of a standard deviation
            assert float(layer.weight.detach().std()) == pytest.approx(math.sqrt(2 / incoming), rel=tolerance), name
            assert layer.bias is not None
            assert not layer.bias.any()


@pytest.mark.parametrize("kind", ["unet", "attention_unet", "unetplusplus"])
def test_pytorchs_own_start_is_left_as_it_is(kind: str) -> None:
    """Kaiming's uniform distribution with a = sqrt(5), as torch.nn documents it: within 1 / sqrt(fan_in)."""
    for initialisation in ("pytorch", "he"):
        torch.manual_seed(0)
        network = build_network({"network": kind, "initialisation": initialisation}, 25, None)
        layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]
        assert len(layers) > 20
        # PyTorch counts a transposed convolution's outputs as its inputs.
        ratios = [
            float(layer.weight.detach().abs().max()) * math.sqrt(math.prod(layer.weight.shape[1:])) for layer in layers
        ]
        biases = [float(layer.bias.detach().abs().sum()) for layer in layers if layer.bias is not None]
        if initialisation == "pytorch":
            assert max(ratios) <= 1 + 1e-6
            assert min(biases) > 0
        else:
            assert min(ratios) > 1.5
            assert max(biases) == 0


def test_he_initialisation_keeps_the_scale() -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(*(nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU()) for _ in range(20)))
    he_initialise(layers)
    # The second moment stays; padding with zeros takes a little of it in every layer.
    assert 0.1 < float(layers(torch.randn(1, 64, 64, 64)).square().mean()) < 2


def test_depth_groups_run_from_the_photo_to_the_logits() -> None:
    network = make(width=2)
    groups = network.depth_groups()
    assert parameter_ids(groups) == [id(parameter) for parameter in network.parameters()]
    assert len(groups) == 10
    assert groups[0][0] is next(network.encoder.levels[0].parameters())
    assert [len(group) for group in groups] == [6] * 5 + [6] * 4 + [2]


@pytest.mark.parametrize("stride", [2, 4])
def test_a_stem_stride_makes_channels_of_blocks_of_pixels(stride: int) -> None:
    network = make(width=2, batch_norm="none", stem_stride=stride).eval()
    photos = torch.randn(1, 3, 16 * stride, 32 * stride)
    # Channel c of pixel (i, j) of each block becomes channel c k^2 + i k + j.
    blocks = torch.stack(
        [photos[:, c, i::stride, j::stride] for c in range(3) for i in range(stride) for j in range(stride)], dim=1
    )
    coarse = make(width=2, batch_norm="none").eval()
    coarse.encoder.levels[0] = network.encoder.levels[0]
    coarse.load_state_dict(network.state_dict())
    logits = network(photos)
    assert logits.shape == (1, 25, 16, 32)
    torch.testing.assert_close(logits, coarse(blocks))


def test_a_stem_stride_keeps_channels_last() -> None:
    path = ContractingPath(2, 0.0, batch_norm=False, stem_stride=2)
    seen: list[bool] = []
    path.levels[0].register_forward_pre_hook(
        lambda _layer, inputs: seen.append(inputs[0].is_contiguous(memory_format=torch.channels_last))
    )
    path(torch.randn(1, 3, 32, 32).to(memory_format=torch.channels_last))
    assert seen == [True]
