"""Settings of a process on a CPU: images/s of training steps as ``stages/run`` sets them, and with one changed.

    .venv/bin/python benchmarks/cpu.py

* GOMP_SPINCOUNT: how long idle OpenMP threads spin. libgomp's default is 300,000 rounds; 0 sleeps at once (the same as
  OMP_WAIT_POLICY=passive).
* memory given back: glibc's default, which returns each large tensor to the kernel.
* new tensors filled: the default of torch's deterministic mode, which fills each new tensor with NaN.
* 2 x 1: two trainings of one thread each instead of one of two. The speeds of all processes are added.
"""

import os
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch

from harveyseg.classes import HARVEY25
from harveyseg.config.settings import load, parse
from harveyseg.device import autocast, resolve_precision, seed_everything
from harveyseg.models.network import build
from harveyseg.project import library_versions
from harveyseg.training.losses import SegmentationLoss
from harveyseg.training.params import LossParams

ROOT = Path(__file__).resolve().parents[1]
_best = load(ROOT / "src" / "harveyseg" / "config" / "presets" / "best.yaml")
NETWORKS: dict[str, tuple[dict[str, Any], int, SegmentationLoss]] = {
    "report's U-Net": (
        {"network": "unet", "width": 16},
        15,
        SegmentationLoss(LossParams(softmax_before_loss=True), HARVEY25),
    ),
    "report's MobileNetV2": (
        {"network": "smp", "architecture": "Unet", "encoder": "mobilenet_v2"},
        15,
        SegmentationLoss(LossParams(softmax_before_loss=True), HARVEY25),
    ),
    "best": (
        _best["models"]["unet_efficientnet_lite0"],
        8,
        SegmentationLoss(parse(LossParams, _best["train"]["loss"], "train.loss"), HARVEY25),
    ),
}
"""The network, photos of 256 x 256 pixels in a step, and the loss."""
SIZE = 256
STEPS = 5
FILLED = "new tensors filled"
GIVEN_BACK = "memory given back"
ROWS: tuple[tuple[str, dict[str, str], int, int], ...] = (
    ("as stages/run", {}, 1, 2),
    ("GOMP_SPINCOUNT=0", {"GOMP_SPINCOUNT": "0"}, 1, 2),
    ("GOMP_SPINCOUNT=300000", {"GOMP_SPINCOUNT": "300000"}, 1, 2),
    (GIVEN_BACK, {"GOMP_SPINCOUNT": "1000"}, 1, 2),
    (FILLED, {}, 1, 2),
    ("as stages/run", {}, 2, 1),
    ("as stages/run", {}, 2, 2),
    ("GOMP_SPINCOUNT=0", {"GOMP_SPINCOUNT": "0"}, 2, 2),
    ("GOMP_SPINCOUNT=300000", {"GOMP_SPINCOUNT": "300000"}, 2, 2),
)
"""Setting, its environment, processes at once, threads of each."""


def measure(setting: str, threads: int) -> None:
    """Print images/s of each network in this process."""
    torch.set_num_threads(threads)
    seed_everything(0)
    torch.utils.deterministic.fill_uninitialized_memory = setting == FILLED  # type: ignore[attr-defined]
    cpu = torch.device("cpu")
    precision = resolve_precision("auto", cpu)
    speeds = []
    for spec, batch, loss_function in NETWORKS.values():
        network = build(spec, len(HARVEY25), None).to(memory_format=torch.channels_last)
        optimiser = torch.optim.AdamW(network.parameters(), fused=True)
        photos = torch.randn(batch, 3, SIZE, SIZE).to(memory_format=torch.channels_last)
        for step in range(STEPS + 1):
            if step == 1:  # the first one chooses its kernels
                started = time.perf_counter()
            with autocast(cpu, precision):
                logits = network(photos)
            loss = loss_function(logits, torch.randint(0, len(HARVEY25), (batch, *logits.shape[2:])))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        speeds.append(STEPS * batch / (time.perf_counter() - started))
    print(*speeds)


def main() -> None:
    """Print a table, each row from fresh processes, since the libraries read their settings when they start."""
    versions = ", ".join(f"{name} {version}" for name, version in library_versions().items())
    print(f"{date.today()}, {resolve_precision('auto', torch.device('cpu'))}; {versions}\n")
    print(f"| setting | processes x threads | {' | '.join(NETWORKS)} |\n|:---|---:|{'---:|' * len(NETWORKS)}")
    settings = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_"}
    environment = {key: value for key, value in os.environ.items() if key not in settings}
    for setting, changes, at_once, threads in ROWS:
        # stages/run starts stages/../benchmarks/cpu.py as it starts a stage.
        start = [sys.executable, __file__] if setting == GIVEN_BACK else ["stages/run", "../benchmarks/cpu"]
        processes = [
            subprocess.Popen(
                [*start, setting, str(threads)],
                cwd=ROOT,
                env={**environment, "VIRTUAL_ENV": sys.prefix, **changes},
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(at_once)
        ]
        printed = [[float(speed) for speed in process.communicate()[0].split()] for process in processes]
        speeds = " | ".join(f"{sum(speed):.1f}" for speed in zip(*printed, strict=True))
        print(f"| {setting} | {at_once} x {threads} | {speeds} |", flush=True)


if __name__ == "__main__":
    measure(sys.argv[1], int(sys.argv[2])) if len(sys.argv) == 3 else main()
