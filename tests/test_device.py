"""Device and precision are as requested, or an error says what to set."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from harveyseg.device import (
    autocast,
    compute_environment,
    peak_memory_mb,
    resolve_device,
    resolve_precision,
    seed_everything,
    use_precision,
    use_threads,
)
from harveyseg.device_names import Precision
from harveyseg.errors import HarveysegError

CPU = torch.device("cpu")
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
no_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")


@no_cuda
def test_without_cuda() -> None:
    assert resolve_device("auto") == resolve_device("cpu") == CPU
    with pytest.raises(HarveysegError, match=r"device = 'cuda': .*no usable CUDA device\. Set it to auto or cpu"):
        resolve_device("cuda")


@cuda
def test_with_cuda() -> None:
    assert resolve_device("auto").type == resolve_device("cuda").type == "cuda"
    assert resolve_device("cpu") == CPU
    environment = compute_environment(resolve_device("cuda"))
    assert environment["device_name"] == torch.cuda.get_device_name()
    assert {"cuda", "cudnn", "driver"} < environment.keys()
    torch.ones(2**20, device="cuda")  # 4 MiB
    peak = peak_memory_mb(resolve_device("cuda"))
    assert peak is not None
    assert peak >= 4


def test_requested_precision() -> None:
    assert resolve_precision("fp32", CPU) == "fp32"
    assert resolve_precision("bf16", CPU) == "bf16"
    with pytest.raises(HarveysegError, match=r"precision = 'tf32': only CUDA devices .*Set it to auto or fp32"):
        resolve_precision("tf32", CPU)


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="needs Linux")
def test_auto_takes_bfloat16_only_where_the_cpu_computes_with_it() -> None:
    native = any(flag in Path("/proc/cpuinfo").read_text() for flag in ("avx512_bf16", "amx_bf16"))
    assert resolve_precision("auto", CPU) == ("bf16" if native else "fp32")


@pytest.mark.parametrize(
    ("capability", "bf16", "auto", "tf32"), [((7, 5), False, "fp32", False), ((8, 0), True, "bf16", True)]
)
def test_what_a_gpu_can_compute_with(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], bf16: bool, auto: str, tf32: bool
) -> None:
    """Turing and Ampere, as torch describes them; torch emulates bfloat16 on the former."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or bf16)
    gpu = resolve_device("auto")
    assert gpu == resolve_device("cuda") == torch.device("cuda")
    assert resolve_device("cpu") == CPU
    assert resolve_precision("auto", gpu) == auto
    assert resolve_precision("fp32", gpu) == "fp32"
    if tf32:
        assert resolve_precision("tf32", gpu) == "tf32"
    else:
        with pytest.raises(HarveysegError, match="only CUDA devices from Ampere on"):
            resolve_precision("tf32", gpu)


def test_autocast_computes_in_that_precision() -> None:
    values = torch.ones(2, 2)
    with autocast(CPU, "bf16"):
        assert (values @ values).dtype == torch.bfloat16
    with autocast(CPU, "fp32"):
        assert (values @ values).dtype == torch.float32


@pytest.mark.parametrize("precision", ["fp32", "bf16", "tf32"])
def test_only_tf32_lets_torch_round_to_tf32(precision: Precision) -> None:
    use_precision(precision)
    modes = {torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision}  # type: ignore[attr-defined]
    assert modes <= ({"tf32"} if precision == "tf32" else {"ieee", "none"})
    use_precision("fp32")


@cuda
@pytest.mark.parametrize(("precision", "largest"), [("fp32", 1e-6), ("tf32", 1e-2)])
def test_convolutions_on_cuda_are_as_exact_as_their_precision(precision: Precision, largest: float) -> None:
    use_precision(precision)
    photos, kernels = torch.rand(2, 64, 32, 32), torch.rand(64, 64, 3, 3)
    exact = torch.nn.functional.conv2d(photos.double(), kernels.double())
    computed = torch.nn.functional.conv2d(photos.cuda(), kernels.cuda()).cpu().double()
    error = float(((computed - exact) / exact).abs().max())
    assert largest / 1e3 < error < largest
    use_precision("fp32")


def test_threads() -> None:
    before = torch.get_num_threads()
    use_threads(before + 1)
    assert torch.get_num_threads() == before + 1
    use_threads(before)


@pytest.mark.parametrize("seed", [0, 1, 2**32 + 5])
def test_a_seed_determines_every_generator(seed: int) -> None:
    def draws() -> tuple[float, float, float]:
        return random.random(), float(np.random.random()), float(torch.rand(()))

    seed_everything(seed)
    first = draws()
    assert draws() != first
    seed_everything(seed)
    assert draws() == first
    seed_everything(seed + 1)
    assert all(new != old for new, old in zip(draws(), first, strict=True))


def test_the_environment_that_is_recorded() -> None:
    environment = compute_environment(CPU)
    assert environment.keys() == {"python", "torch", "platform", "device_name"}
    assert environment["torch"] == torch.__version__
    assert all(environment.values())
    assert peak_memory_mb(CPU) is None
