"""What items occupy, and which machines would compute them alike."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from harveyseg.config.settings import load
from harveyseg.device import resolve_precision
from harveyseg.errors import HarveysegError
from harveyseg.scaling.machines import (
    Item,
    Machine,
    Needs,
    describe_plan,
    plan_experiments,
    plan_resources,
    require_equal_devices,
    require_room,
    resolve_settings,
)

AUTO = ("auto", "auto")
BOX = Machine("1", "box", "box", 8, 2, ("A100",), {AUTO: "cuda bf16"})
OLD = Machine("2", "old", "old", 8, 1, ("T4",), {AUTO: "cuda fp32"})
PLAIN = Machine("3", "plain", "plain", 4, 0, ("Xeon",), {AUTO: "cpu fp32"})
ON_A_GPU = {"unet-0": Item(("train@unet-0",), Needs(2, 1), {"train": AUTO})}
ON_CORES = {"unet-0": Item(("train@unet-0",), Needs(2, 0), {"train": AUTO})}


@pytest.mark.parametrize(
    ("device", "gpus", "has_gpus", "expected"),
    [
        ("cpu", None, True, Needs(4, 0)),
        ("auto", None, False, Needs(4, 0)),
        ("auto", None, True, Needs(4, 1)),
        ("cuda", None, False, Needs(4, 1)),  # which no machine has, instead of training on some CPUs
        ("auto", 0.5, True, Needs(4, 0.5)),
    ],
)
def test_an_item_needs_the_threads_and_the_device_of_the_settings(
    tmp_path: Path, device: str, gpus: float | None, has_gpus: bool, expected: Needs
) -> None:
    params = tmp_path / "params.yaml"
    params.write_text(f"train: {{threads: 2, device: {device}}}\ninference: {{threads: 4, device: cpu}}\n")
    assert plan_resources(load(params), {"a-0": ["train@a-0"]}, gpus, has_gpus)["a-0"].needs == expected


def test_a_models_own_settings_decide_what_its_items_need(tmp_path: Path) -> None:
    params = tmp_path / "params.yaml"
    params.write_text(
        "train: {threads: 1, device: cuda, precision: fp32}\n"
        "models: {a: {network: unet}, b: {train: {threads: 3, device: cpu, precision: bf16}}}\n"
    )
    planned = plan_resources(load(params), {"a-0": ["train@a-0"], "b-10": ["train@b-10"]}, None, True)
    assert planned["a-0"].needs == Needs(1, 1)
    assert planned["b-10"].needs == Needs(3, 0)
    assert planned["b-10"].devices == {"train": ("cpu", "bf16")}


def test_machines_that_would_compute_differently_are_refused_by_name() -> None:
    with pytest.raises(HarveysegError) as raised:
        require_equal_devices(ON_A_GPU, [BOX, OLD, PLAIN])
    message = str(raised.value)
    assert "train: device auto, precision auto: box has cuda bf16; old has cuda fp32\n" in message  # plain takes none
    assert "--mixed-devices" in message
    with pytest.raises(HarveysegError, match="box has cuda bf16; old has cuda fp32; plain has cpu fp32"):
        require_equal_devices(ON_CORES, [BOX, OLD, PLAIN])


def test_machines_that_compute_alike_or_take_no_item_are_accepted() -> None:
    require_equal_devices(ON_A_GPU, [BOX, PLAIN])
    require_equal_devices(ON_CORES, [PLAIN, replace(PLAIN, name="other", processors=("EPYC",))])


def test_a_machine_with_two_kinds_of_gpus_mixes_by_itself() -> None:
    both = replace(BOX, resolved={AUTO: "cuda bf16, cuda fp32"})
    with pytest.raises(HarveysegError, match="box has cuda bf16, cuda fp32"):
        require_equal_devices(ON_A_GPU, [both])


def test_an_item_that_no_machine_can_take_is_refused() -> None:
    require_room(ON_A_GPU, [PLAIN, OLD])
    with pytest.raises(HarveysegError, match=r"unet-0 needs 2 cores, 1 GPU, and no machine has that \(plain: 4 cores"):
        require_room(ON_A_GPU, [PLAIN])


@pytest.mark.parametrize(
    ("needs", "expected"), [(Needs(2, 0), 4), (Needs(3, 0), 2), (Needs(2, 1), 2), (Needs(1, 0.5), 4), (Needs(2, 2), 1)]
)
def test_a_machine_takes_as_many_items_as_fit(needs: Needs, expected: int) -> None:
    assert BOX.takes(needs) == expected


def test_the_plan_says_what_each_machine_would_run_and_how() -> None:
    assert describe_plan(ON_A_GPU, [BOX, PLAIN], {"unet-0": ["train@unet-0"]}) == [
        "unet-0: train@unet-0 (2 cores, 1 GPU)",
        "box: 8 cores, 2 GPUs (A100); 2 at a time of 2 cores, 1 GPU (train on cuda in bf16)",
        "plain: 4 cores (Xeon); 0 at a time of 2 cores, 1 GPU",
        "1 items. A machine takes the next one as soon as it has room.",
    ]


def test_an_experiment_occupies_what_the_largest_of_its_models_does() -> None:
    settings = {
        "train": {"threads": 1, "device": "cpu", "precision": "fp32"},
        "models": {"small": {}, "large": {"train": {"threads": 3, "device": "cuda"}}},
    }
    planned = plan_experiments({"sweep-1": settings, "sweep-2": {"size": 1}}, None, True)
    assert {name: item.needs for name, item in planned.items()} == {"sweep-1": Needs(3, 1), "sweep-2": Needs(1, 0)}
    # All models compute where the experiment does, so the machines must agree on each.
    assert planned["sweep-1"].devices == {"train of small": ("cpu", "fp32"), "train of large": ("cuda", "fp32")}


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_settings_become_what_a_training_on_this_machine_would_use() -> None:
    processors, resolved = resolve_settings([AUTO, ("cpu", "bf16"), ("cuda", "auto"), ("cpu", "tf32")])
    assert len(processors) == 1
    assert resolved[AUTO] == f"cpu {resolve_precision('auto', torch.device('cpu'))}"
    assert resolved["cpu", "bf16"] == "cpu bf16"
    assert resolved["cuda", "auto"] == "no CUDA device"
    assert resolved["cpu", "tf32"] == "cpu without tf32"
