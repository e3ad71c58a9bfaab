"""How long one photo takes: each network of the report's Table 1, in one process on an idle machine.

    .venv/bin/python benchmarks/latency.py [--size 256] [--rounds 30] [--device auto] [--threads 2] [--log]

One photo at a time goes through every network in turn, so that a disturbance slows all of them. Milliseconds are
medians over the rounds, with the quartiles; `times the U-Net` is the median of the ratios within a round, with its 95%
interval (order statistics). Weights are random, which does not change the time.

--log makes a run of MLflow's experiment `latency` of it, in the project in the present folder: RESULTS.md takes the
claim on latency from there. It refuses a machine that does other things.
"""

import argparse
import os
import time
from datetime import date
from pathlib import Path

import numpy as np
from ruamel.yaml import YAML
from scipy.stats import binom

from harveyseg.classes import HARVEY25
from harveyseg.config import preset
from harveyseg.device import compute_environment, resolve_device
from harveyseg.inference.params import InferenceParams
from harveyseg.inference.predictor import Predictor
from harveyseg.models.network import build
from harveyseg.project import library_versions
from harveyseg.reproduction.export import LATENCY_EXPERIMENT, Latency, log_latency
from harveyseg.tracking.client import TrackingParams, open_tracker

PRESET = Path(preset.__file__).with_name("presets") / "report.yaml"
MEAN = (0.5, 0.5, 0.5)
STD = (0.25, 0.25, 0.25)
BUSY = 0.5
"""Mean number of running processes in the last minute, above which a machine is not idle."""
WARM_UP = 2
"""First rounds, which choose their kernels and do not count."""


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256, help="height and width in pixels, a multiple of 32")
    parser.add_argument("--rounds", type=int, default=30, help="photos that are timed for each network")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--log", action="store_true", help="log the result to MLflow")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    if arguments.log and load > BUSY:
        parser.error(f"--log: {load:.2f} processes run on this machine (limit: {BUSY}). Wait until it is idle.")
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
    print("| network | parameters | ms | quartiles | times the U-Net | 95% interval |\n|---|---:|---:|---:|---:|---:|")
    unet_seconds = np.array(seconds["unet"][WARM_UP:])
    latencies = {}
    for name, network in networks.items():
        network_seconds = np.array(seconds[name][WARM_UP:])
        first, middle, third = 1000 * np.percentile(network_seconds, [25, 50, 75])
        ratios = np.sort(network_seconds / unet_seconds)
        left_out = max(int(binom.ppf(0.025, len(ratios), 0.5)) - 1, 0)  # on each side
        low, high = float(ratios[left_out]), float(ratios[-1 - left_out])
        latencies[name] = Latency(milliseconds=middle, ratio=float(np.median(ratios)), low=low, high=high)
        count = sum(parameter.numel() for parameter in network.parameters())
        print(
            f"| {name} | {count} | {middle:.1f} | {first:.1f} - {third:.1f} | {latencies[name].ratio:.2f} | "
            f"{low:.2f} - {high:.2f} |"
        )
    if arguments.log:
        tracker = open_tracker(TrackingParams(experiment=LATENCY_EXPERIMENT), required=True)
        settings = {name: getattr(arguments, name) for name in ("size", "rounds", "device", "threads")}
        log_latency(tracker, latencies, {**settings, **compute_environment(resolve_device(arguments.device))})


if __name__ == "__main__":
    main()
