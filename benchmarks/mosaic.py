"""Memory and seconds of ``harveyseg predict`` for mosaics of several sizes, each in a process of its own.

    .venv/bin/python benchmarks/mosaic.py [--megapixels 10 100 900] [--scratch /tmp]

A mosaic is a square GeoTIFF (DEFLATE, tiled, alpha, 5 cm) of drawn photos of the demo side by side, transparent in a
corner. The network is small and untrained, so its map is far more ragged than a real one: the polygons' time and memory
are an upper bound. The first row is a mosaic of 1 megapixel, whose memory is that of the libraries.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import numpy as np
import rasterio
import torch
from affine import Affine
from rasterio.windows import Window

from harveyseg.arrays import Photo
from harveyseg.classes import HARVEY25
from harveyseg.data.demo.strips import STRIPS, Flight, draw_flight
from harveyseg.inference.network_file import TrainedNetwork
from harveyseg.inference.params import InferenceParams
from harveyseg.models import build
from harveyseg.prediction.predict import PredictionOptions, predict_images
from harveyseg.prediction.scale import Training
from harveyseg.prediction.trained_ensemble import TrainedEnsemble
from harveyseg.project import library_versions

BLOCK = 512
PIXEL = 0.05
"""Metres."""
NETWORK_SIZE = (512, 512)
GROUND = (60.0, 80.0)


def main() -> None:
    """Measure and print the table, or, for one mosaic, its line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megapixels", type=int, nargs="+", default=[10, 100, 900])
    parser.add_argument("--scratch", type=Path, help="folder with room for mosaics and maps")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one is not None:
        measure(arguments.one)
        return
    versions = ", ".join(f"{name} {version}" for name, version in library_versions().items())
    print(f"{date.today()}, rasterio {rasterio.__version__}; {versions}\n")
    print("| megapixels | seconds | seconds per 100 megapixels | peak memory, MB |\n|---:|---:|---:|---:|", flush=True)
    for megapixels in (1, *arguments.megapixels):
        with tempfile.TemporaryDirectory(dir=arguments.scratch) as folder:
            path = Path(folder) / "mosaic.tif"
            side = round((megapixels * 1e6) ** 0.5)
            write_mosaic(path, side)
            command = [sys.executable, __file__, "--one", str(path)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            seconds, megabytes = map(float, done.stdout.split())
            print(f"| {megapixels} | {seconds:.0f} | {100 * seconds / megapixels:.1f} | {megabytes:.0f} |", flush=True)


def measure(path: Path) -> None:
    """Predict one mosaic; print seconds and the peak memory of this process in MB."""
    torch.manual_seed(0)
    spec = {"network": "unet", "width": 4, "dropout": 0.0, "batch_norm": "none"}
    network = TrainedNetwork(
        build(spec, len(HARVEY25), None), spec, (0.4, 0.4, 0.4), (0.2, 0.2, 0.2), NETWORK_SIZE, HARVEY25
    )
    ensemble = TrainedEnsemble((network,), (1.0,), training=Training(GROUND))
    started = time.perf_counter()
    outcome = predict_images(
        [str(path)], ensemble, InferenceParams(device="cpu"), path.parent / "maps", PredictionOptions()
    )
    assert outcome.predicted
    status = Path("/proc/self/status").read_text()  # getrusage would report the parent's peak where that is higher
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    print(time.perf_counter() - started, peak / 1024)


def write_mosaic(path: Path, side: int) -> None:
    """Write a square mosaic row of blocks by row of blocks."""
    photo = drawn_photo()
    profile = {
        "driver": "GTiff", "count": 4, "height": side, "width": side, "dtype": "uint8", "crs": "EPSG:32615",
        "transform": Affine(PIXEL, 0, 270_000, 0, -PIXEL, 3_290_000), "tiled": True, "blockxsize": BLOCK,
        "blockysize": BLOCK, "compress": "DEFLATE", "bigtiff": "IF_SAFER", "photometric": "RGB", "alpha": "yes",
    }  # fmt: skip
    columns = np.arange(side)
    with rasterio.open(path, "w", **profile) as file:
        for top in range(0, side, BLOCK):
            rows = np.arange(top, min(top + BLOCK, side))
            colours = photo[np.ix_(rows % photo.shape[0], columns % photo.shape[1])]
            alpha = np.where((rows[:, None] < side // 4) & (columns < side // 4), 0, 255).astype(np.uint8)
            bands = np.concatenate([colours.transpose(2, 0, 1), alpha[None]])
            file.write(bands, window=Window(0, top, side, len(rows)))


def drawn_photo() -> Photo:
    """One photo of the demo, RGB."""
    return draw_flight(Flight(STRIPS[0], "train", frames=1, number=0), 0, 600)[0].photo


if __name__ == "__main__":
    main()
