"""`train.init`: which weights of a trained network another one starts from."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from harveyseg.classes import HARVEY25, ClassList
from harveyseg.errors import HarveysegError
from harveyseg.inference.network_file import save_network
from harveyseg.models.initial_weights import load_initial_weights
from harveyseg.models.network import Network, build
from helpers.class_lists import make_classes

# As wide as the list of classes is long: only the shapes' dependence on the list tells hidden layers from logits.
SPEC: dict[str, Any] = {"network": "unet", "width": 3, "dropout": 0.0, "batch_norm": "both"}
OLD = make_classes({0: "#000000", 1: "#0000ff", 2: "#00ff00"})


def fresh(classes: ClassList, spec: dict[str, Any] = SPEC, seed: int = 5) -> Network:
    torch.manual_seed(seed)
    return build(spec, len(classes), None)


@pytest.fixture
def trained(tmp_path: Path) -> dict[str, Tensor]:
    """Random weights, saved as if they had been trained."""
    state = fresh(OLD, seed=1).state_dict()
    state = {key: torch.rand_like(value) if value.is_floating_point() else value + 7 for key, value in state.items()}
    save_network(tmp_path / "w.safetensors", state, SPEC, (0, 0, 0), (1, 1, 1), (64, 64), OLD)
    return state


def logits_of(state: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    return [key for key, value in state.items() if value.shape != other[key].shape]


def test_the_same_classes(tmp_path: Path, trained: dict[str, Tensor]) -> None:
    network = fresh(OLD)
    assert load_initial_weights(network, SPEC, OLD, str(tmp_path / "w.safetensors")) == [
        "class 0",
        "class 1",
        "class 2",
    ]
    assert all(torch.equal(value, trained[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize("count", [4, 3])
def test_other_classes_are_matched_by_name(tmp_path: Path, trained: dict[str, Tensor], count: int) -> None:
    """Also in a list of the same length, where shapes alone would copy one class over another."""
    new = make_classes({value: f"#00000{value}" for value in (2, 5, 6, 0)[:count]})
    network = fresh(new)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    copied = load_initial_weights(network, SPEC, new, str(tmp_path / "w.safetensors"))
    assert copied == [name for name in new.names if name in OLD.names]
    longer = fresh(make_classes({value: f"#0000{value:02d}" for value in range(9)})).state_dict()
    heads = logits_of(before, longer)
    assert heads  # the last layer's weight and bias
    for key, value in network.state_dict().items():
        if key not in heads:
            assert torch.equal(value, trained[key]), key
            continue
        for row, name in enumerate(new.names):
            source = trained[key][OLD.names.index(name)] if name in OLD.names else before[key][row]
            assert torch.equal(value[row], source), (key, name)


def test_half_precision_is_widened(tmp_path: Path, trained: dict[str, Tensor]) -> None:
    half = {key: value.half() if value.dim() > 1 else value for key, value in trained.items()}
    save_network(tmp_path / "h.safetensors", half, SPEC, (0, 0, 0), (1, 1, 1), (64, 64), OLD)
    network = fresh(OLD)
    load_initial_weights(network, SPEC, OLD, str(tmp_path / "h.safetensors"))
    for key, value in network.state_dict().items():
        assert value.dtype == trained[key].dtype
        assert torch.allclose(value.float(), trained[key].float(), atol=1e-3)


@pytest.mark.usefixtures("trained")
def test_another_network_is_refused(tmp_path: Path) -> None:
    spec = SPEC | {"width": 4}
    with pytest.raises(HarveysegError, match=r"w\.safetensors is of another network than .*of another shape.*`init`"):
        load_initial_weights(fresh(OLD, spec), spec, OLD, str(tmp_path / "w.safetensors"))


@pytest.mark.usefixtures("trained")
def test_folders_and_files(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    network = fresh(OLD)
    with pytest.raises(HarveysegError, match=r"must hold one network, but holds 0 \(none\)"):
        load_initial_weights(network, SPEC, OLD, str(folder))
    shutil.copy(tmp_path / "w.safetensors", folder / "network-0.safetensors")
    assert len(load_initial_weights(network, SPEC, OLD, str(folder))) == 3
    shutil.copy(tmp_path / "w.safetensors", folder / "network-1.safetensors")
    with pytest.raises(HarveysegError, match=r"holds 2 \(network-0\.safetensors, network-1\.safetensors\)\. Name one"):
        load_initial_weights(network, SPEC, OLD, str(folder))
    with pytest.raises(HarveysegError, match=r"train\.init = absent: no such file.*harvey25"):
        load_initial_weights(network, SPEC, OLD, "absent")
    (tmp_path / "text.safetensors").write_text("none")
    with pytest.raises(HarveysegError, match=r"text\.safetensors is no network that this version of harveyseg wrote"):
        load_initial_weights(network, SPEC, OLD, str(tmp_path / "text.safetensors"))


def test_the_packaged_model_starts_a_training_of_the_preset() -> None:
    spec = {
        "network": "smp", "architecture": "Unet", "encoder": "tu-tf_efficientnet_lite0",
        "decoder_channels": [64, 48, 32, 24], "output_stride": 2,
    }  # fmt: skip
    assert len(load_initial_weights(fresh(HARVEY25, spec), spec, HARVEY25, "harvey25")) == 25
