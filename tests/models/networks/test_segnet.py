"""SegNet against its paper: the layers, parameter counts worked out by hand, the unpooling in plain loops."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harveyseg.models.networks.segnet import Params, SegNet, build, unpool
from helpers.networks import parameter_count, parameter_ids


def make(seed: int = 0, width: int = 2, classes: int = 25) -> SegNet:
    torch.manual_seed(seed)
    return build(Params(width=width), classes, None)


def test_the_encoder_is_vgg16_and_the_decoder_its_mirror() -> None:
    """Table D of Simonyan & Zisserman 2015; conv1_1 of the decoder answers with the classes."""
    network = make(width=64)
    layers = [(c.in_channels, c.out_channels) for c in network.modules() if isinstance(c, nn.Conv2d)]
    assert layers == [
        (3, 64), (64, 64),
        (64, 128), (128, 128),
        (128, 256), (256, 256), (256, 256),
        (256, 512), (512, 512), (512, 512),
        (512, 512), (512, 512), (512, 512),
        (512, 512), (512, 512), (512, 512),
        (512, 512), (512, 512), (512, 256),
        (256, 256), (256, 256), (256, 128),
        (128, 128), (128, 64),
        (64, 64), (64, 25),
    ]  # fmt: skip
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in network.modules()) == 25
    assert {c.kernel_size for c in network.modules() if isinstance(c, nn.Conv2d)} == {(3, 3)}


# By hand, for first width w: 3x3 weights from RGB 27w; encoder 9 (1 + 2 + 4 + 8 + 16 + 16 + 32 + 64 + 64 + 3 * 64) w^2
# = 9 * 399 w^2; decoder 9 (3 * 64 + 2 * 64 + 32 + 2 * 16 + 8 + 4 + 2 + 1) w^2 = 9 * 399 w^2; head 9wK + K. Batch norm:
# 2 for each of (2 + 4 + 12 + 24 + 24) w channels down and (24 + 20 + 10 + 3 + 1) w up: 2 * 124 w.
@pytest.mark.parametrize("width", [4, 16, 64])
def test_parameter_count(width: int) -> None:
    assert parameter_count(make(width=width)) == 2 * 9 * 399 * width**2 + (27 + 9 * 25 + 248) * width + 25


def test_parameter_count_of_vgg16_and_of_segnet_as_others_count_it() -> None:
    network = make(width=64, classes=12)  # CamVid: 11 classes and the void
    encoder = [c for c in network.encoder.modules() if isinstance(c, nn.Conv2d)]
    # VGG16's 13 convolutions have 14,714,688 parameters, 4224 of them biases, which batch norm replaces here.
    assert sum(c.weight.numel() for c in encoder) == 14_714_688 - 4_224
    # Published tables say 29.44 million, or 29.45 with the 4224 + 3712 biases that batch norm makes idle.
    assert parameter_count(network) == 29_441_996
    assert parameter_count(network) + 4_224 + 3_712 == 29_449_932


def test_unpooling_in_plain_loops() -> None:
    torch.manual_seed(0)
    features = torch.randn(2, 3, 4, 6)
    values, indices = F.max_pool2d(features, 2, return_indices=True)
    expected = torch.zeros_like(features)
    for b in range(2):
        for c in range(3):
            for y in range(0, 4, 2):
                for x in range(0, 6, 2):
                    window = features[b, c, y : y + 2, x : x + 2]
                    row, column = divmod(int(window.argmax()), 2)
                    expected[b, c, y + row, x + column] = window[row, column]
    assert torch.equal(unpool(values, indices), expected)
    assert torch.equal(unpool(values, indices), F.max_unpool2d(values, indices, [2, 2]))
    channels_last = F.max_pool2d(features.to(memory_format=torch.channels_last), 2, return_indices=True)
    assert torch.equal(unpool(*channels_last), expected)


def test_unpooling_is_the_transpose_of_taking_the_maxima() -> None:
    """Its gradient is what stands at the places of the maxima."""
    torch.manual_seed(0)
    values, indices = F.max_pool2d(torch.randn(1, 2, 4, 4), 2, return_indices=True)
    values = values.clone().requires_grad_()
    weights = torch.randn(1, 2, 4, 4)
    (unpool(values, indices) * weights).sum().backward()  # type: ignore[no-untyped-call]
    assert values.grad is not None
    assert torch.equal(values.grad.flatten(2), weights.flatten(2).gather(2, indices.flatten(2)))


def test_forward_is_the_paper_written_out() -> None:
    network = make(width=2).eval()
    with torch.no_grad():
        for layer in network.modules():  # batch norm that does something
            if isinstance(layer, nn.BatchNorm2d):
                layer.weight.uniform_(0.5, 1.5)
                layer.bias.normal_(0, 0.2)
                layer.running_mean.normal_(0, 0.2)  # type: ignore[union-attr]
    state = network.state_dict()
    photos = torch.randn(2, 3, 64, 32)

    def stage(features: Tensor, prefix: str, convolutions: int) -> Tensor:
        for number in range(convolutions):
            features = F.conv2d(features, state[f"{prefix}.{3 * number}.weight"], padding=1)
            norm = f"{prefix}.{3 * number + 1}"
            moments = state[f"{norm}.running_mean"], state[f"{norm}.running_var"]
            features = F.relu(F.batch_norm(features, *moments, state[f"{norm}.weight"], state[f"{norm}.bias"]))
        return features

    one, at_one = F.max_pool2d(stage(photos, "encoder.0", 2), 2, return_indices=True)
    two, at_two = F.max_pool2d(stage(one, "encoder.1", 2), 2, return_indices=True)
    three, at_three = F.max_pool2d(stage(two, "encoder.2", 3), 2, return_indices=True)
    four, at_four = F.max_pool2d(stage(three, "encoder.3", 3), 2, return_indices=True)
    five, at_five = F.max_pool2d(stage(four, "encoder.4", 3), 2, return_indices=True)
    assert five.shape == (2, 16, 2, 1)
    up = stage(F.max_unpool2d(five, at_five, [2, 2]), "decoder.0", 3)
    up = stage(F.max_unpool2d(up, at_four, [2, 2]), "decoder.1", 3)
    up = stage(F.max_unpool2d(up, at_three, [2, 2]), "decoder.2", 3)
    up = stage(F.max_unpool2d(up, at_two, [2, 2]), "decoder.3", 2)
    up = stage(F.max_unpool2d(up, at_one, [2, 2]), "decoder.4", 1)
    expected = F.conv2d(up, state["head.weight"], state["head.bias"], padding=1)
    torch.testing.assert_close(network(photos), expected, rtol=1e-5, atol=1e-5)


def test_training_is_deterministic_and_asks_for_nothing_that_is_not() -> None:
    def gradients() -> list[Tensor]:
        network = make(width=4)
        network(torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))).square().mean().backward()
        return [parameter.grad for parameter in network.parameters() if parameter.grad is not None]

    torch.use_deterministic_algorithms(True)  # torch's own max_unpool2d raises then
    try:
        first, second = gradients(), gradients()
    finally:
        torch.use_deterministic_algorithms(False)
    assert len(first) == 25 * 3 + 2
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    assert all(gradient.abs().sum() > 0 for gradient in first)


def test_autocast_keeps_bfloat16_through_the_unpooling() -> None:
    network = make(width=16).eval()
    dtypes: list[torch.dtype] = []
    for stage in network.decoder:
        stage.register_forward_pre_hook(lambda _stage, inputs: dtypes.append(inputs[0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        network(torch.randn(2, 3, 64, 64))
    assert dtypes == [torch.bfloat16] * 5


def test_he_initialisation() -> None:
    for layer in make(width=32).modules():
        if isinstance(layer, nn.Conv2d):
            tolerance = 4 / math.sqrt(2 * layer.weight.numel())  # 4 standard errors of a standard deviation
            wanted = math.sqrt(2 / (9 * layer.in_channels))
            assert float(layer.weight.detach().std()) == pytest.approx(wanted, rel=tolerance)


def test_depth_groups_run_from_the_photo_to_the_logits() -> None:
    network = make()
    groups = network.depth_groups()
    assert parameter_ids(groups) == [id(parameter) for parameter in network.parameters()]
    assert [len(group) for group in groups] == [6, 6, 9, 9, 9, 9, 9, 9, 6, 3, 2]
