"""Device, precision and threads: what the settings mean on this machine, and how torch is told."""

import os
import platform
import random
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import torch

from harveyseg.depthwise import DepthwiseGradients
from harveyseg.device_names import DeviceName, Precision, PrecisionName
from harveyseg.errors import HarveysegError

_TF32_CAPABILITY = (8, 0)

_NO_SHARED_MEMORY = re.compile("unable to allocate shared memory|(out of|insufficient) shared memory")
"""How torch says so in a worker that is told, in one that dies of it, and in the process that loses the worker."""


def resolve_device(name: DeviceName) -> torch.device:
    """``auto`` takes a CUDA device if there is one.

    >>> resolve_device("cpu")
    device(type='cpu')

    Raises:
        HarveysegError: when ``cuda`` is asked for and there is no such device.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise HarveysegError("device = 'cuda': this machine has no usable CUDA device. Set it to auto or cpu.")
    return torch.device("cuda" if name != "cpu" and available else "cpu")


def resolve_precision(name: PrecisionName, device: torch.device) -> Precision:
    """``auto`` takes bfloat16 where the chip computes with it, and float32 elsewhere.

    A CPU without AVX-512 BF16 or AMX emulates bfloat16, which is slower than float32, so ``auto`` looks at the CPU's
    capabilities. float16 is not offered: U-Nets that are trained from scratch overflow in it.

    >>> resolve_precision("fp32", torch.device("cpu"))
    'fp32'

    Raises:
        HarveysegError: when ``tf32`` is asked for and the device lacks it.
    """
    if name == "tf32" and (device.type != "cuda" or torch.cuda.get_device_capability(device) < _TF32_CAPABILITY):
        raise HarveysegError(
            "precision = 'tf32': only CUDA devices from Ampere on (compute capability 8.0) compute with it. Set it to "
            "auto or fp32."
        )
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    native = {"avx512_bf16", "amx_bf16"} & set(_read_cpuinfo("flags").split())
    return "bf16" if native else "fp32"


def use_precision(precision: Precision) -> None:
    """Let float32 convolutions and matrix products on CUDA be rounded to TF32 for ``tf32``, and for nothing else.

    torch's own default is TF32 in convolutions: 10 bits of mantissa instead of 23.
    """
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")


@contextmanager
def autocast(device: torch.device, precision: Precision) -> Iterator[None]:
    """Autocast to bfloat16 for ``bf16``; otherwise a context that does nothing."""
    if precision != "bf16":
        yield
        return
    gradients = DepthwiseGradients() if device.type == "cpu" else nullcontext()
    with torch.autocast(device.type, dtype=torch.bfloat16), gradients:
        yield


def use_threads(count: int) -> None:
    """Let torch compute with ``count`` threads. Sums depend on their number, so it is part of a run's identity."""
    torch.set_num_threads(count)


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch, and ask for deterministic kernels where they exist."""
    # cuBLAS reads this when it starts; without it, matrix products differ from run to run.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    torch.backends.cudnn.benchmark = False
    # Bilinear upsampling has no deterministic CUDA backward: "warn" lets those networks run nevertheless. This is
    # use_deterministic_algorithms(True, warn_only=True), which also imports torch's compiler.
    torch.set_deterministic_debug_mode("warn")
    # That also fills each new tensor with NaN, which matters only to code that reads memory it never wrote, and takes
    # up to a sixth of the time of a training step on a CPU (benchmarks/cpu.py).
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def compute_environment(device: torch.device) -> dict[str, str]:
    """The device and the versions that can change a result.

    Returns:
        ``python``, ``torch``, ``platform``, ``device_name`` and, on CUDA, ``cuda``, ``cudnn`` and ``driver``.
    """
    environment = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "device_name": _read_cpuinfo("model name") or platform.processor() or platform.machine(),
    }
    if device.type == "cuda":
        environment["device_name"] = torch.cuda.get_device_name(device)
        environment["cuda"] = str(torch.version.cuda)
        environment["cudnn"] = str(torch.backends.cudnn.version())  # type: ignore[no-untyped-call]
        environment["driver"] = _driver_version()
    return environment


@contextmanager
def explain_out_of_memory(work: str, remedy: str) -> Iterator[None]:
    """Turn an allocation that fails, on CUDA, on the CPU or in shared memory, into one sentence.

    Args:
        work: what needs the memory, with the settings that decide how much.
        remedy: which of them to lower.

    Raises:
        HarveysegError: in place of torch's, NumPy's or Python's error.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if _NO_SHARED_MEMORY.search(str(error)):  # of worker processes; this process has room
            raise HarveysegError(
                f"/dev/shm has too little room for what the workers load: {work}. Set train.workers to 0, or start the "
                "container with a larger --shm-size."
            ) from error
        # On the CPU torch raises a plain RuntimeError, known by its text alone.
        allocation = isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
        if not allocation:
            raise
        raise HarveysegError(f"out of memory: {work}. {remedy}") from error


def peak_memory_mb(device: torch.device) -> float | None:
    """Most CUDA memory allocated so far, in MiB; None on a CPU."""
    return torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None


def _read_cpuinfo(key: str) -> str:
    """The first value of a key in /proc/cpuinfo; empty where there is no such file (macOS)."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as opened:
            line = next((line for line in opened if line.startswith(key)), "")
    except OSError:
        return ""
    return line.partition(":")[2].strip()


def _driver_version() -> str:
    try:
        with open("/proc/driver/nvidia/version", encoding="ascii", errors="replace") as opened:
            words = opened.readline().split()
    except OSError:
        return "unknown"
    return next((word for word in words if word[0].isdigit() and "." in word), "unknown")
