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
    use_threads,
)
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
    assert resolve_precision("fp32", CPU) == torch.float32
    assert resolve_precision("bf16", CPU) == torch.bfloat16


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="needs Linux")
def test_auto_takes_bfloat16_only_where_the_cpu_computes_with_it() -> None:
    native = any(flag in Path("/proc/cpuinfo").read_text() for flag in ("avx512_bf16", "amx_bf16"))
    assert resolve_precision("auto", CPU) == (torch.bfloat16 if native else torch.float32)


def test_autocast_computes_in_that_precision() -> None:
    values = torch.ones(2, 2)
    with autocast(CPU, torch.bfloat16):
        assert (values @ values).dtype == torch.bfloat16
    with autocast(CPU, torch.float32):
        assert (values @ values).dtype == torch.float32


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
