"""Memory and seconds of ``harveyseg predict`` for mosaics of several sizes, each in a process of its own.

    .venv/bin/python benchmarks/mosaic.py [--megapixels 10 100 900] [--photo photo.jpg] [--scratch /tmp] [--tta d4]

A mosaic is a square GeoTIFF (DEFLATE, tiled, alpha, 5 cm) of one photo side by side, transparent in a corner: a real
photo of 80 x 60 m of ground, or a drawn one of the demo. The packaged model predicts it with its post-processing,
without test-time augmentation unless ``--tta`` names one (its own is d4). CPU seconds are those of all threads; other
programs on the machine hardly change them. The first row is a mosaic of 1 megapixel, whose memory is that of the
libraries and the network.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import cv2
import numpy as np
import rasterio
from affine import Affine
from rasterio.windows import Window

from harveyseg.arrays import Photo
from harveyseg.data.demo.strips import STRIPS, Flight, draw_flight
from harveyseg.prediction.find_model import find_model
from harveyseg.prediction.predict import PredictionOptions, predict_images
from harveyseg.project import library_versions

BLOCK = 512
PIXEL = 0.05
"""Metres."""
GROUND = (80.0, 60.0)
"""(height, width) in metres of the ground that the photo shows."""


def main() -> None:
    """Measure and print the table, or, for one mosaic, its line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megapixels", type=int, nargs="+", default=[10, 100, 900])
    parser.add_argument("--photo", type=Path, help="a real photo of 80 x 60 m of ground; a drawn one if not given")
    parser.add_argument("--scratch", type=Path, help="folder with room for mosaics and maps")
    parser.add_argument("--tta", default="none", help="none, flips or d4")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one is not None:
        measure(arguments.one, arguments.tta)
        return
    versions = ", ".join(f"{name} {version}" for name, version in library_versions().items())
    print(f"{date.today()}, rasterio {rasterio.__version__}; {versions}")
    kind = "a drawn" if arguments.photo is None else "a real"
    print(f"{cpu_name()}; model harvey25, tta {arguments.tta}; {kind} photo\n")
    photo = drawn_photo() if arguments.photo is None else read_photo(arguments.photo)
    print("| megapixels | seconds | CPU seconds | CPU seconds per 100 megapixels | peak memory, MB |", flush=True)
    print("|---:|---:|---:|---:|---:|", flush=True)
    for megapixels in (1, *arguments.megapixels):
        with tempfile.TemporaryDirectory(dir=arguments.scratch) as folder:
            path = Path(folder) / "mosaic.tif"
            side = round((megapixels * 1e6) ** 0.5)
            write_mosaic(path, side, photo)
            command = [sys.executable, __file__, "--one", str(path), "--tta", arguments.tta]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            seconds, cpu, megabytes = map(float, done.stdout.split())
            row = f"| {megapixels} | {seconds:.0f} | {cpu:.0f} | {100 * cpu / megapixels:.0f} | {megabytes:.0f} |"
            print(row, flush=True)


def measure(path: Path, tta: str) -> None:
    """Predict one mosaic; print seconds, those of the CPU in all threads, and the peak memory of this process in MB."""
    ensemble = find_model(Path("params.yaml"), Path("data"), "harvey25")
    params = ensemble.inference.model_copy(update={"device": "cpu", "tta": tta})
    started, cpu_started = time.perf_counter(), time.process_time()
    outcome = predict_images([str(path)], ensemble, params, path.parent / "maps", PredictionOptions())
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    assert outcome.predicted
    status = Path("/proc/self/status").read_text()  # getrusage would report the parent's peak where that is higher
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    print(seconds, cpu_seconds, peak / 1024)


def write_mosaic(path: Path, side: int, photo: Photo) -> None:
    """Write a square mosaic row of blocks by row of blocks."""
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


def read_photo(path: Path) -> Photo:
    """A photo, RGB, with the mosaic's pixels."""
    pixels = cv2.imread(str(path))
    assert pixels is not None
    size = (round(GROUND[1] / PIXEL), round(GROUND[0] / PIXEL))
    return np.ascontiguousarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)[..., ::-1])


def cpu_name() -> str:
    """As the system calls it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))


if __name__ == "__main__":
    main()
