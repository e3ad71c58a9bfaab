"""Finding, checking and making networks by name."""

import subprocess
import sys
from typing import Any

import pytest
import torch

from harveyseg.errors import HarveysegError
from harveyseg.models import available
from harveyseg.models.network import build, takes_encoder_weights, validate

UNET = {"network": "unet"}


def test_available() -> None:
    assert available() == ["attention_unet", "fcn", "mask_rcnn", "segnet", "smp", "unet", "unetplusplus"]


def test_listing_and_building_import_no_other_network() -> None:
    code = """
import sys
from harveyseg.models import available
available()
print(sorted(name for name in sys.modules if name.startswith("harveyseg.models.")))
from harveyseg.models.network import build
build({"network": "unet", "width": 1}, 25, None)
print(sorted(name for name in sys.modules if name.startswith("harveyseg.models.")))
print("segmentation_models_pytorch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "['harveyseg.models.networks']",
        "['harveyseg.models.blocks', 'harveyseg.models.network', 'harveyseg.models.networks', "
        "'harveyseg.models.networks.unet']",
        "False",
    ]


def test_validate_leaves_the_random_state() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    validate(UNET, 25, None, "models.unet", (64, 64))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {"network": "unett"},
            "models.foo.network = 'unett': allowed: attention_unet, fcn, mask_rcnn, segnet, smp, unet, unetplusplus",
        ),
        (
            {"network": "blocks"},
            "models.foo.network = 'blocks': allowed: attention_unet, fcn, mask_rcnn, segnet, smp, unet, unetplusplus",
        ),
        (
            {"network": None},
            "models.foo.network = None: allowed: attention_unet, fcn, mask_rcnn, segnet, smp, unet, unetplusplus",
        ),
        (
            {"network": ["unet"]},
            "models.foo.network = ['unet']: allowed: attention_unet, fcn, mask_rcnn, segnet, smp, unet, unetplusplus",
        ),
        (
            {"width": 16},
            "models.foo.network: missing. Allowed: attention_unet, fcn, mask_rcnn, segnet, smp, unet, unetplusplus",
        ),
        (
            {"network": "unet", "depth": 4},
            "models.foo.depth: unknown key. Known are: batch_norm, dropout, initialisation, stem_stride",
        ),
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
        validate(spec, 25, None, "models.foo")
    assert message in str(raised.value)


def test_all_wrong_settings_at_once() -> None:
    with pytest.raises(HarveysegError, match="3 problems"):
        validate({"network": "unet", "width": 0, "dropout": 2, "deep": 1}, 25, None, "models.foo")


@pytest.mark.parametrize("name", ["unet", "attention_unet", "unetplusplus"])
@pytest.mark.parametrize("stride", [2, 4])
def test_coarser_logits_are_accepted_and_need_larger_multiples(name: str, stride: int) -> None:
    spec = {"network": name, "stem_stride": stride, "width": 2}
    validate(spec, 25, None, "models.x", (256, 16 * stride), crop=32 * stride)
    with pytest.raises(HarveysegError, match=rf"80x64 pixels \(resize-cache\.size\): .* divisible by {16 * stride}"):
        validate(spec, 25, None, "models.x", (80, 64))
    with pytest.raises(
        HarveysegError, match=r"models\.x: cannot take photos of 72x72 pixels \(train\.augmentation\.cr"
    ):
        validate(spec, 25, None, "models.x", (64, 64), crop=72)


def test_logits_that_are_no_whole_part_of_the_photo_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    network = build(UNET, 25, None)
    for shape in [(24, 32), (32, 16), (8, 8), (128, 128)]:
        monkeypatch.setattr(type(network), "forward", lambda _self, photos, s=shape: photos.new_empty(2, 25, *s))
        with pytest.raises(HarveysegError, match=f"its logits would have {shape[0]}x{shape[1]}"):
            validate(UNET, 25, None, "models.unet", (64, 64))


@pytest.mark.parametrize("crop", [None, 64])
def test_batches_of_one_are_refused_where_the_network_pools_to_one_pixel(crop: int | None) -> None:
    pooling = {"network": "smp", "architecture": "DeepLabV3Plus", "encoder": "resnet18"}
    size = (64, 64) if crop is None else (96, 128)
    with pytest.raises(HarveysegError, match=r"models\.foo: cannot be trained on one sample of 64x64 pixels") as caught:
        validate(pooling, 25, None, "models.foo", size, crop, samples=1)
    assert "train.batch_size to 2" in str(caught.value)
    validate(pooling, 25, None, "models.foo", size, crop, samples=2)
    validate(UNET, 25, None, "models.foo", size, crop, samples=1)


def test_photos_smaller_than_the_networks_stride_are_refused() -> None:
    with pytest.raises(HarveysegError, match=r"models\.foo: cannot take photos of 8x8 pixels \(resize-cache\.size\)"):
        validate(UNET, 25, None, "models.foo", (8, 8))


def test_encoder_weights_of_a_network_with_a_wrong_setting() -> None:
    with pytest.raises(HarveysegError, match=r"models\.x\.deep: unknown key"):
        takes_encoder_weights(UNET | {"deep": 1}, "models.x")
