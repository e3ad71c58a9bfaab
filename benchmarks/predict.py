"""Seconds for each full-size photo: `harveyseg predict` against a plain loop over the same network.

    .venv/bin/python benchmarks/predict.py FOLDER_OF_PHOTOS [--model harvey25] [--tta d4] [--rounds 2]

Both write a class map as PNG for each photo, with the same test-time augmentation, alternately in one process. The
plain loop is what is usually written: decode, resize, one pass for each symmetry, softmax, the mean, all classes
enlarged to the photo's size, argmax, save. `harveyseg predict` also applies the rule of post-processing, writes
overlay, record, areas and contact sheet, and checks every file first.
"""

import argparse
import statistics
import tempfile
import time
from datetime import date
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from harveyseg.arrays import Photo
from harveyseg.device import resolve_device, resolve_precision, use_threads
from harveyseg.inference.network_file import TrainedNetwork
from harveyseg.inference.params import InferenceParams
from harveyseg.prediction.find_model import find_model
from harveyseg.prediction.options import parse_tta
from harveyseg.prediction.predict import PredictionOptions, predict_images
from harveyseg.prediction.trained_ensemble import TrainedEnsemble
from harveyseg.project import library_versions


def main() -> None:
    """Alternate both, print seconds per photo."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--model", default="harvey25")
    parser.add_argument("--tta", default="d4")
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    ensemble = find_model(Path("params.yaml"), Path("data"), arguments.model)
    params = ensemble.inference.model_copy(update={"tta": parse_tta(arguments.tta)})
    photos = sorted(arguments.photos.iterdir())
    seconds: dict[str, list[float]] = {"plain loop": [], "harveyseg predict": []}
    with tempfile.TemporaryDirectory() as temporary:
        for number in range(arguments.rounds):
            for name in seconds:
                out = Path(temporary) / f"{name}-{number}"
                out.mkdir()
                started = time.perf_counter()
                if name == "plain loop":
                    _plain_loop(photos, ensemble, params, out)
                else:
                    predict_images([str(photo) for photo in photos], ensemble, params, out, PredictionOptions())
                seconds[name].append((time.perf_counter() - started) / len(photos))
    plain = statistics.median(seconds["plain loop"])
    device = resolve_device(params.device)
    versions = ", ".join(f"{name} {version}" for name, version in library_versions().items())
    print(f"{date.today()}, {device.type}, {resolve_precision(params.precision, device)}, {params.threads} threads")
    print(versions)
    print(f"{len(photos)} photos, model {arguments.model}, tta {params.tta}, {arguments.rounds} rounds each\n")
    print("| | seconds per photo, each round | median | times as fast |\n|---|---|---:|---:|")
    for name, values in seconds.items():
        each = ", ".join(f"{value:.2f}" for value in values)
        median = statistics.median(values)
        print(f"| {name} | {each} | {median:.2f} | {plain / median:.2f} |")


@torch.inference_mode()
def _plain_loop(photos: list[Path], ensemble: TrainedEnsemble, params: InferenceParams, out: Path) -> None:
    use_threads(params.threads)
    device = resolve_device(params.device)
    for photo in photos:
        image = np.asarray(Image.open(photo).convert("RGB"))
        size = (image.shape[0], image.shape[1])
        total = torch.zeros(())
        for trained, weight in zip(ensemble.networks, ensemble.weights, strict=True):
            total = total + weight * _mean_over_symmetries(trained, image, params, device, size)
        labels = total.argmax(1)[0].to("cpu", torch.uint8).numpy()
        Image.fromarray(labels).save(out / f"{photo.stem}.png")


def _mean_over_symmetries(
    trained: TrainedNetwork,
    image: Photo,
    params: InferenceParams,
    device: torch.device,
    size: tuple[int, int],
) -> torch.Tensor:
    network = trained.network.to(device).eval()
    resized = cv2.resize(image, trained.size[::-1], interpolation=cv2.INTER_AREA)
    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (trained.mean, trained.std))
    photo = ((torch.from_numpy(resized).to(device).permute(2, 0, 1) / 255 - mean) / std)[None]
    turns = range(4) if params.tta == "d4" else (0,)
    mirrors = (False,) if params.tta == "none" else (False, True)
    probabilities = []
    for turn in turns:
        for mirror in mirrors:
            view = torch.rot90(photo.flip(3) if mirror else photo, turn, (2, 3))
            logits = network(view)
            if logits.shape[2:] != view.shape[2:]:
                logits = functional.interpolate(logits, size=view.shape[2:], mode="bilinear")
            back = torch.rot90(logits.softmax(1), -turn, (2, 3))
            probabilities.append(back.flip(3) if mirror else back)
    average = torch.stack(probabilities).mean(0)
    return functional.interpolate(average, size=size, mode="bilinear")


if __name__ == "__main__":
    main()
