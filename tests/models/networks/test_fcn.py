"""The FCN: torchvision's, with weights from a file, from torchvision's cache, or none."""

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import resnet50
from torchvision.models.segmentation import fcn_resnet50

from harveyseg.errors import HarveysegError
from harveyseg.models import network as models
from harveyseg.models.networks.fcn import Fcn, Params, build
from helpers.networks import parameter_count, parameter_ids

SPEC = {"network": "fcn"}
CACHED_AS = "resnet50-0676ba61.pth"
"""The file's name at download.pytorch.org, whose end is the start of its SHA-256."""


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """A whole ResNet-50, the classifier included, as torchvision publishes it."""
    torch.manual_seed(7)
    return {name: value.clone() for name, value in resnet50(weights=None).state_dict().items()}


@pytest.fixture
def torch_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of torchvision, and no way out."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    return tmp_path / "hub" / "checkpoints"


def assert_loaded(network: nn.Module, state: dict[str, Tensor]) -> None:
    assert isinstance(network, Fcn)
    loaded = network.model.backbone.state_dict()
    assert set(loaded) == {name for name in state if not name.startswith("fc.")}
    assert all(torch.equal(value, state[name]) for name, value in loaded.items())


def test_it_is_torchvisions_network() -> None:
    torch.manual_seed(0)
    network = build(Params(), 25, None).eval()
    torch.manual_seed(0)
    reference = fcn_resnet50(weights=None, weights_backbone=None, num_classes=25).eval()
    photos = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(network(photos), reference(photos)["out"])
    # By hand: ResNet-50 without its classifier 25,557,032 - 2,049,000, 3x3 convolution 9 * 2048 * 512, its batch norm
    # 1024, classes 25 * 512 + 25.
    assert parameter_count(network) == 25_557_032 - 2_049_000 + 9 * 2048 * 512 + 1024 + 25 * 512 + 25


def test_depth_groups_follow_the_stages() -> None:
    network = build(Params(), 25, None)
    groups = network.depth_groups()
    assert parameter_ids(groups) == [id(parameter) for parameter in network.parameters()]
    # A bottleneck has 3 convolutions and 3 batch norms, the first of a stage one of each more for its shortcut.
    assert [len(group) for group in groups] == [3, *(9 * blocks + 3 for blocks in (3, 4, 6, 3)), 5]


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_from_a_file(tmp_path: Path, state: dict[str, Tensor], suffix: str) -> None:
    path = tmp_path / f"resnet50{suffix}"
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    assert_loaded(models.build(SPEC, 25, str(path)), state)


def test_imagenet_from_torchvisions_cache(torch_home: Path, state: dict[str, Tensor]) -> None:
    torch_home.mkdir(parents=True)
    torch.save(state, torch_home / CACHED_AS)
    assert_loaded(models.build(SPEC, 25, "imagenet"), state)


@pytest.mark.usefixtures("torch_home")
def test_imagenet_without_a_network_names_the_remedy() -> None:
    with pytest.raises(HarveysegError) as raised:
        models.validate(SPEC, 25, "imagenet", "models.fcn")
    message = str(raised.value)
    assert message.startswith(
        f"models.fcn: encoder_weights = 'imagenet': https://download.pytorch.org/models/{CACHED_AS}"
    )
    assert "path to a local weights file, or set `encoder_weights: null`" in message


@pytest.mark.usefixtures("torch_home")
def test_without_weights_nothing_is_downloaded() -> None:
    models.validate(SPEC, 25, None, "models.fcn", (64, 64))


def test_weights_that_do_not_fit(tmp_path: Path, state: dict[str, Tensor]) -> None:
    other = copy.copy(state)
    del other["layer1.0.conv1.weight"]
    wrong = {"missing.pth": other, "shape.pth": state | {"conv1.weight": torch.zeros(1)}, "list.pth": [1, 2]}
    for name, content in wrong.items():
        torch.save(content, tmp_path / name)
    (tmp_path / "garbage.pth").write_bytes(b"no weights at all")
    (tmp_path / "garbage.safetensors").write_bytes(b"no weights at all")
    reasons = {
        "missing.pth": r"does not fit the FCN's ResNet-50: 1 tensors missing: layer1\.0\.conv1\.weight\. ",
        "shape.pth": r"does not fit .*: conv1\.weight is \(1,\), not \(64, 3, 7, 7\)\. .*Give another file",
        "list.pth": "holds no state dict",
        "garbage.pth": "cannot be read as a weights file",
        "garbage.safetensors": "cannot be read as a weights file",
    }
    for name, reason in reasons.items():
        with pytest.raises(HarveysegError, match=rf"{name} {reason}"):
            build(Params(), 25, str(tmp_path / name))


def test_a_path_that_does_not_exist() -> None:
    with pytest.raises(HarveysegError, match=r"'nowhere\.pth': no such file.*there is: `imagenet`"):
        build(Params(), 25, "nowhere.pth")


def test_a_setting_is_refused() -> None:
    with pytest.raises(HarveysegError, match=r"models\.fcn\.width: unknown key"):
        models.validate({**SPEC, "width": 16}, 25, None, "models.fcn")
