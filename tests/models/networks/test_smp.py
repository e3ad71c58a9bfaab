"""Networks of smp: encoder stages, architectures, output strides, and settings that do not fit."""

import pytest
import torch
from torch import Tensor

from harveyseg.errors import HarveysegError
from harveyseg.models import network as models
from harveyseg.models.networks.smp import Params, SmpNetwork, build
from helpers.networks import parameter_ids


def make(encoder: str, architecture: str = "Unet", weights: str | None = None) -> SmpNetwork:
    return build(Params.model_validate({"encoder": encoder, "architecture": architecture}), 25, weights)


def stage_names(network: SmpNetwork) -> list[list[str]]:
    names = {id(parameter): name for name, parameter in network.model.encoder.named_parameters()}
    *stages, _, _ = network.depth_groups()
    return [[names[id(parameter)] for parameter in stage] for stage in stages]


def test_stages_of_resnet_are_its_layers() -> None:
    for stage, allowed in zip(
        stage_names(make("resnet18")),
        [("conv1.", "bn1."), ("layer1.",), ("layer2.",), ("layer3.",), ("layer4.",)],
        strict=True,
    ):
        assert all(name.startswith(allowed) for name in stage)


def test_stages_of_mobilenet_end_where_the_resolution_halves() -> None:
    blocks = [
        sorted({int(name.split(".")[1]) for name in stage}) for stage in stage_names(make("mobilenet_v2"))
    ]  # features.<block>.<...>
    assert blocks == [[0, 1], [2, 3], [4, 5, 6], list(range(7, 14)), list(range(14, 19))]


def test_stages_of_a_transformer_that_registers_its_stems_first() -> None:
    stages = [{name.split(".")[0] for name in stage} for stage in stage_names(make("mit_b0"))]
    assert stages == [{f"patch_embed{i}", f"block{i}", f"norm{i}"} for i in (1, 2, 3, 4)]


@pytest.mark.parametrize(
    ("architecture", "encoder"),
    [
        ("UnetPlusPlus", "resnet18"),
        ("MAnet", "resnet18"),
        ("Linknet", "vgg11"),
        ("FPN", "efficientnet-b0"),
        ("PSPNet", "mobilenet_v2"),
        ("DeepLabV3", "resnet18"),
        ("DeepLabV3Plus", "resnet18"),
        ("PAN", "resnet18"),
        ("UPerNet", "tu-convnext_atto"),
        ("Segformer", "mit_b0"),
        ("DPT", "tu-vit_tiny_patch16_224"),
    ],
)
def test_every_architecture(architecture: str, encoder: str) -> None:
    side = {"DPT": 224, "PAN": 128}.get(architecture, 64)  # the only size of that encoder; three more halvings
    spec = {"network": "smp", "architecture": architecture, "encoder": encoder}
    models.validate(spec, 25, None, "models.x", (side, side))
    network = make(encoder, architecture)
    assert sorted(parameter_ids(network.depth_groups())) == sorted(id(parameter) for parameter in network.parameters())
    assert network.eval()(torch.randn(1, 3, side, side)).shape == (1, 25, side, side)


def test_depth_groups_leave_the_network_as_it_was() -> None:
    network = make("mobilenet_v2").train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.depth_groups()
    assert network.training
    assert network.model.encoder.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize(("stride", "blocks"), [(2, 4), (4, 3)])
def test_output_stride_leaves_the_last_blocks_out(stride: int, blocks: int) -> None:
    """Up to the head it computes what the whole decoder has where those blocks would begin."""
    channels = (24, 20, 16, 12, 8)
    spec = {"network": "smp", "encoder": "resnet18", "output_stride": stride, "decoder_channels": channels[:blocks]}
    models.validate(spec, 25, None, "models.x", (64, 96))
    network = models.build(spec, 25, None).eval()
    assert isinstance(network, SmpNetwork)
    whole = build(Params.model_validate({"encoder": "resnet18", "decoder_channels": channels}), 25, None).eval()
    fitting = {key: value for key, value in network.state_dict().items() if "head" not in key}
    whole.load_state_dict(fitting, strict=False)
    entered: list[Tensor] = []
    whole.model.decoder.blocks[blocks].register_forward_pre_hook(lambda module, given: entered.append(given[0]))
    photos = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        whole(photos)
        logits = network(photos)
        expected = network.model.segmentation_head(entered[0])
    assert logits.shape == (1, 25, 64 // stride, 96 // stride)
    assert torch.equal(logits, expected)
    assert sorted(parameter_ids(network.depth_groups())) == sorted(id(parameter) for parameter in network.parameters())


def test_decoder_settings_that_do_not_fit() -> None:
    for setting in ({"output_stride": 2}, {"decoder_channels": [64, 32, 16, 8, 8]}):
        with pytest.raises(HarveysegError, match="settings of Unet, not of FPN"):
            models.validate(
                {"network": "smp", "architecture": "FPN", "encoder": "resnet18", **setting}, 25, None, "models.x"
            )
    spec = {"network": "smp", "encoder": "resnet18", "output_stride": 4, "decoder_channels": [64, 32, 16, 8]}
    with pytest.raises(HarveysegError, match="has 4 numbers; with output_stride 4 the decoder has 3 blocks"):
        models.validate(spec, 25, None, "models.x")


def test_unknown_encoders_get_the_closest_names_first() -> None:
    with pytest.raises(HarveysegError) as raised:
        models.validate({"network": "smp", "encoder": "efficientnet_b3"}, 25, None, "models.x")
    message = str(raised.value)
    assert (
        "models.x.encoder = 'efficientnet_b3': unknown encoder; closest: efficientnet-b3, tu-efficientnet_b3" in message
    )
    assert "resnet101" in message


def test_unknown_weights_tag_of_a_timm_encoder() -> None:
    with pytest.raises(HarveysegError, match=r"unknown weights 'foo'; allowed: tu-resnet18, tu-resnet18\.a1_in1k"):
        models.validate({"network": "smp", "encoder": "tu-resnet18.foo"}, 25, None, "models.x")
    models.validate({"network": "smp", "encoder": "tu-resnet18.a1_in1k"}, 25, None, "models.x", (64, 64))


def test_pairs_that_smp_cannot_combine() -> None:
    for architecture, encoder in (("UnetPlusPlus", "mit_b0"), ("DPT", "resnet18"), ("DeepLabV3", "vgg11")):
        with pytest.raises(HarveysegError, match=f"architecture {architecture} with the encoder {encoder} cannot be"):
            models.validate({"network": "smp", "architecture": architecture, "encoder": encoder}, 25, None, "models.x")


def test_sizes() -> None:
    fpn = {"network": "smp", "architecture": "FPN", "encoder": "resnet18"}
    models.validate(fpn, 25, None, "models.fpn", (64, 96))
    with pytest.raises(HarveysegError, match=r"models\.fpn: cannot take photos of 250x256 .* divisible by 32"):
        models.validate(fpn, 25, None, "models.fpn", (250, 256))
    with pytest.raises(HarveysegError, match="divisible by 32"):
        make("resnet18", "FPN")(torch.zeros(1, 3, 40, 64))
    fixed = {"network": "smp", "encoder": "tu-swin_tiny_patch4_window7_224"}
    with pytest.raises(HarveysegError, match=r"cannot take photos of 256x256 .*224"):
        models.validate(fixed, 25, None, "models.swin", (256, 256))


def test_an_error_of_ours_is_not_blamed_on_the_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harveyseg.models.networks.smp._leave_out_blocks", lambda *_: [][1])
    with pytest.raises(IndexError):
        build(Params(encoder="resnet18", output_stride=2), 25, None)
