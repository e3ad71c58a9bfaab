"""Finding, checking and making networks by name."""

import copy
import subprocess
import sys
from typing import Any

import pytest
import torch

from harveyseg import models
from harveyseg.errors import HarveysegError

SPECS: dict[str, dict[str, Any]] = {
    "unet": {"network": "unet"},
    "attention_unet": {"network": "attention_unet"},
    "unetplusplus": {"network": "unetplusplus"},
    "mobilenet_v2": {"network": "smp", "encoder": "mobilenet_v2"},
    "efficientnet_b1": {"network": "smp", "encoder": "efficientnet-b1"},
    "efficientnet_b2": {"network": "smp", "encoder": "efficientnet-b2"},
    "efficientnet_b3": {"network": "smp", "encoder": "efficientnet-b3"},
}
"""The seven networks of the report."""

RELATED: dict[str, dict[str, Any]] = {"segnet": {"network": "segnet", "width": 16}, "fcn": {"network": "fcn"}}
"""Networks of the report's related work."""


def test_available() -> None:
    assert models.available() == ["attention_unet", "fcn", "segnet", "smp", "unet", "unetplusplus"]


def test_listing_and_building_import_no_other_network() -> None:
    code = """
import sys
from harveyseg import models
models.available()
print(sorted(name for name in sys.modules if name.startswith("harveyseg.models.")))
models.build({"network": "unet", "width": 1}, None)
print(sorted(name for name in sys.modules if name.startswith("harveyseg.models.")))
print("segmentation_models_pytorch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "['harveyseg.models.networks']",
        "['harveyseg.models.blocks', 'harveyseg.models.networks', 'harveyseg.models.networks.unet']",
        "False",
    ]


@pytest.mark.parametrize("name", SPECS | RELATED)
def test_all_networks_learn_from_a_batch_of_two(name: str) -> None:
    torch.manual_seed(0)
    network = models.build((SPECS | RELATED)[name], None).to(memory_format=torch.channels_last)
    photos = torch.randn(2, 3, 64, 64).to(memory_format=torch.channels_last)
    classes = torch.randint(25, (2, 64, 64))
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    losses = []
    for _ in range(4):
        logits = network.train()(photos)
        assert logits.shape == (2, 25, 64, 64)
        loss = torch.nn.functional.cross_entropy(logits, classes)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", ["unet", "attention_unet", "unetplusplus", "mobilenet_v2", "efficientnet_b1", "fcn"])
def test_channels_last_and_bf16_autocast(name: str) -> None:
    torch.manual_seed(0)
    network = models.build((SPECS | RELATED)[name], None).eval()
    photos = torch.randn(2, 3, 64, 64)
    exact = network(photos).detach()
    network = network.to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = network(photos.to(memory_format=torch.channels_last))
    assert rounded.dtype == torch.bfloat16
    # bfloat16 has 8 significant bits; over some 20 layers the relative error stays within a few percent.
    assert float((rounded.detach().float() - exact).norm() / exact.norm()) < 0.05
    rounded.float().square().mean().backward()
    assert all(torch.isfinite(value.grad).all() for value in network.parameters() if value.grad is not None)


@pytest.mark.parametrize("name", SPECS | RELATED)
def test_depth_groups_hold_every_parameter_once(name: str) -> None:
    network = models.build((SPECS | RELATED)[name], None)
    ids = [id(parameter) for group in network.depth_groups() for parameter in group]
    assert len(ids) == len(set(ids))
    assert set(ids) == {id(parameter) for parameter in network.parameters()}
    assert all(group for group in network.depth_groups())


@pytest.mark.parametrize("name", ["unet", "mobilenet_v2", "segnet"])
def test_copies_and_state_dicts_carry_over(name: str) -> None:
    network = models.build((SPECS | RELATED)[name], None).eval()
    other = models.build((SPECS | RELATED)[name], None).eval()
    other.load_state_dict(network.state_dict())
    photos = torch.randn(1, 3, 64, 64)
    assert torch.equal(network(photos), other(photos))
    assert torch.equal(network(photos), copy.deepcopy(network)(photos))


@pytest.mark.parametrize("name", SPECS | RELATED)
def test_validate_accepts_them_all(name: str) -> None:
    models.validate((SPECS | RELATED)[name], None, f"models.{name}", (256, 256))


def test_validate_leaves_the_random_state() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    models.validate(SPECS["unet"], None, "models.unet", (64, 64))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {"network": "unett"},
            "models.foo.network = 'unett': allowed: attention_unet, fcn, segnet, smp, unet, unetplusplus",
        ),
        (
            {"network": "blocks"},
            "models.foo.network = 'blocks': allowed: attention_unet, fcn, segnet, smp, unet, unetplusplus",
        ),
        ({"network": None}, "models.foo.network = None: allowed: attention_unet, fcn, segnet, smp, unet, unetplusplus"),
        (
            {"network": ["unet"]},
            "models.foo.network = ['unet']: allowed: attention_unet, fcn, segnet, smp, unet, unetplusplus",
        ),
        ({"width": 16}, "models.foo.network: missing. Allowed: attention_unet, fcn, segnet, smp, unet, unetplusplus"),
        ({"network": "unet", "depth": 4}, "models.foo.depth: unknown key. Known are: batch_norm, dropout, stem_stride"),
        ({"network": "unet", "width": 0}, "models.foo.width = 0: Input should be greater than or equal to 1"),
        ({"network": "unet", "width": 10**6}, "models.foo.width = 1000000: Input should be less than or equal to 512"),
        ({"network": "unet", "width": 16.5}, "models.foo.width = 16.5: Input should be a valid integer"),
        ({"network": "unet", "width": True}, "models.foo.width = True: Input should be a valid integer"),
        ({"network": "unet", "dropout": 1}, "models.foo.dropout = 1: Input should be less than 1"),
        ({"network": "unet", "dropout": -0.1}, "models.foo.dropout = -0.1: Input should be greater than or equal to 0"),
        ({"network": "unet", "dropout": float("nan")}, "models.foo.dropout = nan: Input should be"),
        ({"network": "unet", "batch_norm": "off"}, "models.foo.batch_norm = 'off': Input should be 'none', 'encoder'"),
        ({"network": "unet", "stem_stride": 3}, "models.foo.stem_stride = 3: Input should be 1, 2 or 4"),
        ({"network": "smp"}, "models.foo.encoder: missing"),
        (
            {"network": "smp", "architecture": "Unett", "encoder": "resnet18"},
            "models.foo.architecture = 'Unett': Input should be 'Unet', 'UnetPlusPlus', 'MAnet', 'Linknet', 'FPN'",
        ),
        (
            {"network": "smp", "encoder": "mobilenetv2"},
            "models.foo.encoder = 'mobilenetv2': unknown encoder; closest: mobilenet_v2, ",
        ),
    ],
)
def test_errors_name_the_setting(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(HarveysegError) as raised:
        models.validate(spec, None, "models.foo")
    assert message in str(raised.value)


def test_all_wrong_settings_at_once() -> None:
    with pytest.raises(HarveysegError, match="3 problems"):
        models.validate({"network": "unet", "width": 0, "dropout": 2, "deep": 1}, None, "models.foo")


@pytest.mark.parametrize("name", ["unet", "attention_unet", "unetplusplus"])
def test_size_that_does_not_fit(name: str) -> None:
    with pytest.raises(HarveysegError) as raised:
        models.validate(SPECS[name], None, f"models.{name}", (250, 256))
    message = str(raised.value)
    assert message.startswith(f"models.{name}: cannot take photos of 250x256 pixels (resize-cache.size): ")
    assert "divisible by 16" in message


@pytest.mark.parametrize("name", ["unet", "attention_unet", "unetplusplus"])
@pytest.mark.parametrize("stride", [2, 4])
def test_coarser_logits_are_accepted_and_need_larger_multiples(name: str, stride: int) -> None:
    spec = SPECS[name] | {"stem_stride": stride, "width": 2}
    models.validate(spec, None, "models.x", (256, 16 * stride), crop=32 * stride)
    with pytest.raises(HarveysegError, match=rf"80x64 pixels \(resize-cache\.size\): .* divisible by {16 * stride}"):
        models.validate(spec, None, "models.x", (80, 64))
    with pytest.raises(
        HarveysegError, match=r"models\.x: cannot take photos of 72x72 pixels \(train\.augmentation\.cr"
    ):
        models.validate(spec, None, "models.x", (64, 64), crop=72)


def test_logits_that_are_no_whole_part_of_the_photo_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    network = models.build(SPECS["unet"], None)
    for shape in [(24, 32), (32, 16), (8, 8), (128, 128)]:
        monkeypatch.setattr(type(network), "forward", lambda _self, photos, s=shape: photos.new_empty(2, 25, *s))
        with pytest.raises(HarveysegError, match=f"its logits would have {shape[0]}x{shape[1]}"):
            models.validate(SPECS["unet"], None, "models.unet", (64, 64))


@pytest.mark.parametrize("name", SPECS | RELATED)
def test_who_takes_encoder_weights(name: str) -> None:
    spec = (SPECS | RELATED)[name]
    assert models.takes_encoder_weights(spec, f"models.{name}") == (spec["network"] in ("smp", "fcn"))
    with pytest.raises(HarveysegError, match=r"models\.x\.deep: unknown key"):
        models.takes_encoder_weights(spec | {"deep": 1}, "models.x")


def test_weights_error_names_the_model() -> None:
    with pytest.raises(HarveysegError, match=r"^models\.unet: encoder_weights = 'imagenet': this network is trained"):
        models.validate(SPECS["unet"], "imagenet", "models.unet")
