"""How long one photo takes: each network of the report's Table 1, in one process on an idle machine.

    .venv/bin/python benchmarks/latency.py [--size 256] [--rounds 30] [--device auto] [--threads 2]

One photo at a time goes through every network in turn, so that a disturbance slows all of them. Milliseconds are
medians over the rounds, with the quartiles; `times the U-Net` is the median of the ratios within a round. Weights are
random, which does not change the time.
"""

import argparse
import time
from datetime import date
from pathlib import Path

import numpy as np
from ruamel.yaml import YAML

from harveyseg.classes import HARVEY25
from harveyseg.config import preset
from harveyseg.inference.params import InferenceParams
from harveyseg.inference.predictor import Predictor
from harveyseg.models.network import build
from harveyseg.project import library_versions

PRESET = Path(preset.__file__).with_name("presets") / "report.yaml"
MEAN = (0.5, 0.5, 0.5)
STD = (0.25, 0.25, 0.25)
WARM_UP = 2
"""First rounds, which choose their kernels and do not count."""


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256, help="height and width in pixels, a multiple of 32")
    parser.add_argument("--rounds", type=int, default=30, help="photos that are timed for each network")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    arguments = parser.parse_args()
    params = InferenceParams(device=arguments.device, threads=arguments.threads)
    specs = YAML(typ="safe", pure=True).load(PRESET)["models"]
    networks = {
        name: build({key: value for key, value in spec.items() if key != "train"}, len(HARVEY25), None)
        for name, spec in specs.items()
    }
    predictors = {name: Predictor(network, MEAN, STD, params) for name, network in networks.items()}
    photo = np.random.default_rng(0).integers(0, 256, (1, arguments.size, arguments.size, 3)).astype(np.uint8)
    seconds: dict[str, list[float]] = {name: [] for name in predictors}
    for _ in range(arguments.rounds + WARM_UP):
        for name, predict in predictors.items():
            started = time.perf_counter()
            predict(photo).cpu()  # waits for the device
            seconds[name].append(time.perf_counter() - started)
    versions = ", ".join(f"{name} {version}" for name, version in library_versions().items())
    shape = f"{arguments.size} x {arguments.size} pixels"
    print(f"{date.today()}, {arguments.device}, {arguments.threads} threads, {shape}; {versions}\n")
    print("| network | parameters | ms | quartiles | times the U-Net |\n|---|---:|---:|---:|---:|")
    unet_seconds = np.array(seconds["unet"][WARM_UP:])
    for name, network in networks.items():
        network_seconds = np.array(seconds[name][WARM_UP:])
        low, middle, high = 1000 * np.percentile(network_seconds, [25, 50, 75])
        ratio = np.median(network_seconds / unet_seconds)
        count = sum(parameter.numel() for parameter in network.parameters())
        print(f"| {name} | {count} | {middle:.1f} | {low:.1f} - {high:.1f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
