"""How long idle OpenMP threads should spin: images/s of training steps, alone on the machine and two at once.

    .venv/bin/python benchmarks/spinning.py

libgomp spins 300,000 rounds unless told otherwise; 0 sleeps at once (the same as OMP_WAIT_POLICY=passive).
"""

import os
import subprocess
import sys
import time
from typing import Any

import torch

from harveyseg.models import build

SPINS = (0, 1_000, 10_000, 300_000)
NETWORKS: dict[str, dict[str, Any]] = {
    "unet": {"network": "unet", "width": 16},
    "mobilenet_v2": {"network": "smp", "architecture": "Unet", "encoder": "mobilenet_v2"},
    "efficientnet_b1": {"network": "smp", "architecture": "Unet", "encoder": "efficientnet-b1"},
}
BATCH, SIZE, STEPS = 6, 128, 8


def measure() -> None:
    """Print images/s of each network in this process, bf16 and channels_last on two threads."""
    torch.set_num_threads(2)
    speeds = []
    for spec in NETWORKS.values():
        network = build(spec, None).to(memory_format=torch.channels_last)
        optimiser = torch.optim.AdamW(network.parameters(), fused=True)
        photos = torch.randn(BATCH, 3, SIZE, SIZE).to(memory_format=torch.channels_last)
        masks = torch.randint(0, 25, (BATCH, SIZE, SIZE))
        for step in range(STEPS + 2):
            if step == 2:  # the first ones choose their kernels
                started = time.perf_counter()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logits = network(photos)
            loss = torch.nn.functional.cross_entropy(logits.float(), masks)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        speeds.append(STEPS * BATCH / (time.perf_counter() - started))
    print(" | ".join(f"{speed:.1f}" for speed in speeds))


def main() -> None:
    """Print a table, each row from fresh processes, since libgomp reads its setting when it starts."""
    print(f"| spin count | at once | {' | '.join(NETWORKS)} |\n|---:|---:|{'---:|' * len(NETWORKS)}")
    environment = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    for at_once in (1, 2):
        for spins in SPINS:
            processes = [
                subprocess.Popen(
                    [sys.executable, __file__, "measure"],
                    env={**environment, "GOMP_SPINCOUNT": str(spins)},
                    stdout=subprocess.PIPE,
                    text=True,
                )
                for _ in range(at_once)
            ]
            printed = [process.communicate()[0].strip() for process in processes]
            print(f"| {spins} | {at_once} | {printed[0]} |", flush=True)


if __name__ == "__main__":
    measure() if sys.argv[1:] == ["measure"] else main()
