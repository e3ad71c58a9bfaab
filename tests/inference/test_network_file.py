"""A trained network comes back bit for bit, from one file; a file that cannot be used is named."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from harveyseg.classes import HARVEY25
from harveyseg.errors import HarveysegError
from harveyseg.inference.network_file import load_network, save_network
from harveyseg.models import locate_encoder_weights
from harveyseg.models.network import build

SPEC = {"network": "unet", "width": 4, "dropout": 0.1}
MEAN, STD, SIZE = (0.1 + 0.2, 1 / 3, 0.5), (2 / 3, 0.1, 1e-17), (64, 96)


def state(spec: dict[str, Any] = SPEC) -> dict[str, torch.Tensor]:
    """A state that no fresh network has, batch norm's statistics and counters included."""
    network = build(spec, 25, None)
    generator = torch.Generator().manual_seed(7)
    return {
        name: torch.rand(value.shape, generator=generator) if value.is_floating_point() else value + 3
        for name, value in network.state_dict().items()
    }


def test_round_trip_is_bit_for_bit(tmp_path: Path) -> None:
    original = state()
    save_network(tmp_path / "new" / "weights.safetensors", original, SPEC, MEAN, STD, SIZE, HARVEY25)
    trained = load_network(tmp_path / "new" / "weights.safetensors")
    loaded = trained.network.state_dict()
    assert list(loaded) == list(original)
    assert all(torch.equal(loaded[name], original[name]) for name in original)
    assert (trained.spec, trained.mean, trained.std, trained.size) == (SPEC, MEAN, STD, SIZE)
    assert not trained.network.training
    network = build(SPEC, 25, None).eval()
    network.load_state_dict(original)
    photos = torch.randn(1, 3, *SIZE)
    assert torch.equal(network(photos), trained.network(photos))


def test_the_memory_format_does_not_matter(tmp_path: Path) -> None:
    original = state()
    network = build(SPEC, 25, None)
    network.load_state_dict(original)
    network = network.to(memory_format=torch.channels_last)
    save_network(tmp_path / "w.safetensors", network.state_dict(), SPEC, MEAN, STD, SIZE, HARVEY25)
    loaded = load_network(tmp_path / "w.safetensors").network.state_dict()
    assert all(torch.equal(loaded[name], original[name]) for name in original)


def test_other_tools_can_read_the_file(tmp_path: Path) -> None:
    save_network(tmp_path / "w.safetensors", state(), SPEC, MEAN, STD, SIZE, HARVEY25)
    with safe_open(tmp_path / "w.safetensors", framework="np") as opened:
        assert set(opened.keys()) == set(state())
        header = json.loads(opened.metadata()["harveyseg"])
    assert header == {
        "spec": SPEC,
        "mean": list(MEAN),
        "std": list(STD),
        "size": list(SIZE),
        "classes": json.loads(HARVEY25.model_dump_json()),
    }


def test_an_absent_file() -> None:
    with pytest.raises(HarveysegError, match=r"absent\.safetensors: no such file.*dvc checkout"):
        load_network(Path("absent.safetensors"))


@pytest.mark.parametrize("content", ["half", "empty", "text"])
def test_a_damaged_file(tmp_path: Path, content: str) -> None:
    path = tmp_path / "w.safetensors"
    save_network(path, state(), SPEC, MEAN, STD, SIZE, HARVEY25)
    whole = path.read_bytes()
    path.write_bytes(
        {"half": whole[: len(whole) // 2], "empty": b"", "text": b"no tensors here, but many words"}[content]
    )
    with pytest.raises(HarveysegError, match=r"w\.safetensors: not a safetensors file .*dvc repro"):
        load_network(path)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_a_file_of_somebody_else(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    save_file(state(), tmp_path / "w.safetensors", metadata)
    with pytest.raises(HarveysegError, match=r"w\.safetensors: was not written by harveyseg"):
        load_network(tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    ("spec", "cause"),
    [
        ({**SPEC, "width": 8}, "size mismatch"),
        ({"network": "attention_unet", "width": 4}, r"Missing key\(s\)"),
        ({"network": "hrnet"}, "network = 'hrnet': allowed: attention_unet"),
        ({**SPEC, "attention": True}, "attention: unknown key"),
    ],
)
def test_a_file_for_another_network(tmp_path: Path, spec: dict[str, Any], cause: str) -> None:
    save_network(tmp_path / "w.safetensors", state(), spec, MEAN, STD, SIZE, HARVEY25)
    with pytest.raises(HarveysegError, match=f"(?s)w\\.safetensors: does not fit the network .*{cause}.*dvc repro"):
        load_network(tmp_path / "w.safetensors")


def test_a_list_of_classes_that_is_none(tmp_path: Path) -> None:
    """As another version of the program might have written it."""
    save_network(tmp_path / "w.safetensors", state(), SPEC, MEAN, STD, SIZE, HARVEY25)
    data = (tmp_path / "w.safetensors").read_bytes()
    color = HARVEY25.classes[0].color.encode()
    assert color in data
    (tmp_path / "w.safetensors").write_bytes(data.replace(color, b"#00000x", 1))  # of the same length
    with pytest.raises(HarveysegError, match=r"(?s)w\.safetensors.*classes\[0\] \(.*color: .*dvc repro"):
        load_network(tmp_path / "w.safetensors")


def test_a_relative_path_is_below_the_projects_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own.pt").write_bytes(b"x")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))  # a queued experiment runs in a folder of its own
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert locate_encoder_weights("own.pt") == str(tmp_path.resolve() / "own.pt")
    assert locate_encoder_weights(str(tmp_path / "own.pt")) == str(tmp_path / "own.pt")
    assert locate_encoder_weights("imagenet") == "imagenet"
    assert locate_encoder_weights(None) is None
