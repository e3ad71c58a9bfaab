"""Speed side by side: ours, what is usual, and the floor, in one run and in turns.

    .venv/bin/python benchmarks/speed.py --part training|steps|inference|resize|scoring|postprocess
        [--photos FOLDER] [--originals FOLDER] [--data data] [--networks "U-Net 16,best"] [--rounds 3] [--threads 2]

Everything runs under the environment that stages/run sets, the usual programs too. Both sides take turns, so that a
disturbance of the machine hits both; a ratio is the median of the pairs' ratios, with the least and the largest. CPU
seconds are those of all threads and worker processes: on a busy machine they say more than the wall clock's.

* training: photos/s of the pipeline's loop and of the usual one, see training_loops.py, in processes of their own that
  train in turns. Photos of 256 x 256 pixels in batches of 15 as in the report, crops of 256 in batches of 8 for `best`.
* steps: where a step's time goes. A floor is what the same bytes take to be read and written once, or the same
  multiplications as large matrix products in the same precision, whichever is more.
* inference: the mean over the eight symmetries, batches of 8, against a loop over views in float32 and in bfloat16.
* resize: a photo of --originals decoded and shrunk; per core. The floor decodes it at 1/8, which is little more than
  undoing the entropy coding.
* scoring: confusion matrices and run lengths of the masks of --originals, one thread.
* postprocess: statistics and rule of each model of a finished project (--data), against the grid search of thresholds
  that is usual; 12 photos are enough to extrapolate.

--photos is a folder in the Kaggle layout; without it the demo's drawn photos are taken. --originals has images/*.jpg
and masks/*.png of full size.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil  # type: ignore[import-untyped]

from harveyseg.classes import HARVEY25
from harveyseg.project import library_versions

ROOT = Path(__file__).resolve().parents[1]
STEPS = 3
"""Steps in a turn."""
WARM_UP = 1
"""Turns that do not count: they choose kernels and take memory."""

Seconds = tuple[float, float]
"""Wall clock, CPU."""


def main() -> None:
    """Print the table of one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=sorted(PARTS), required=True)
    parser.add_argument("--photos", type=Path, default=Path("demo"))
    parser.add_argument("--originals", type=Path)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--networks", default="U-Net 16,MobileNetV2,EfficientNet-B1,best")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=STEPS, help="steps in a turn of training")
    parser.add_argument("--batch", type=int, help="photos in a step; the recipe's own otherwise")
    parser.add_argument("--loop", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part in ("resize", "scoring") and arguments.originals is None:
        parser.error(f"--part {arguments.part} needs --originals")
    if arguments.loop is not None:
        serve_turns(arguments)
        return
    if os.environ.get("MALLOC_MMAP_MAX_") != "0":
        os.environ |= {"VIRTUAL_ENV": sys.prefix, "PYTHONPATH": str(ROOT / "benchmarks")}
        # stages/run starts stages/../benchmarks/speed.py as it starts a stage.
        os.execv(ROOT / "stages" / "run", ["stages/run", "../benchmarks/speed", *sys.argv[1:]])
    versions = ", ".join(f"{name} {version}" for name, version in library_versions().items())
    print(f"{date.today()}, {machine()}; {versions}\n", flush=True)
    PARTS[arguments.part](arguments)


def machine() -> str:
    """The processor, its threads in use, the precision, and how busy it was when this began."""
    from harveyseg.device import compute_environment, resolve_device, resolve_precision

    device = resolve_device("auto")
    name = compute_environment(device)["device_name"]
    load = os.getloadavg()[0]
    return f"{name}, {os.cpu_count()} CPUs, {resolve_precision('auto', device)}, load {load:.1f}"


def in_turns(sides: Mapping[str, Callable[[], Seconds]], rounds: int) -> dict[str, list[Seconds]]:
    """Let each side run once in every round; the first rounds do not count."""
    taken: dict[str, list[Seconds]] = {name: [] for name in sides}
    for number in range(WARM_UP + rounds):
        for name, side in sides.items():
            seconds = side()
            if number >= WARM_UP:
                taken[name].append(seconds)
    return taken


def timed(work: Callable[[], Any]) -> Callable[[], Seconds]:
    """A side that does this work in this process."""

    def run() -> Seconds:
        cpu, wall = time.process_time(), time.perf_counter()
        work()
        return time.perf_counter() - wall, time.process_time() - cpu

    return run


def ratio(others: Sequence[Seconds], ours: Sequence[Seconds], kind: int) -> str:
    """How many times longer the other side took: the median of the pairs, and the least and largest."""
    ratios = [other[kind] / own[kind] for other, own in zip(others, ours, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} - {max(ratios):.2f})"


def median(values: Sequence[Seconds], kind: int) -> float:
    """Of wall (0) or CPU seconds (1)."""
    return statistics.median(value[kind] for value in values)


def compare(title: str, taken: Mapping[str, Sequence[Seconds]], units: float, floor: float | None = None) -> None:
    """Rows of a table: what each side takes for one of so many units, and the first side's gain over the others."""
    ours, *_ = taken
    for name, seconds in taken.items():
        wall, cpu = (1000 * median(seconds, kind) / units for kind in (0, 1))
        cells = ["", ""] if name == ours else [ratio(seconds, taken[ours], kind) for kind in (0, 1)]
        above = f"{cpu / (1000 * floor / units):.2f}" if floor is not None else ""
        print(f"| {title} | {name} | {wall:.1f} | {cpu:.1f} | {' | '.join(cells)} | {above} |", flush=True)


HEADER = (
    "| | | wall ms | CPU ms | times ours, wall | times ours, CPU | CPU, times the floor |\n|:---|:---|" + "---:|" * 5
)


def training(arguments: argparse.Namespace) -> None:
    """Loops in turns, each in a process of its own."""
    print("Milliseconds of one photo or crop.\n\n" + HEADER)
    for network in arguments.networks.split(","):
        taken, photos = _loops_in_turns(arguments, network)
        compare(network, taken, photos)


def _loops_in_turns(arguments: argparse.Namespace, network: str) -> tuple[dict[str, list[Seconds]], int]:
    """Seconds of each loop, and the photos of a turn."""
    from training_loops import LOOPS, Recipe, make_cache, write_files

    recipe = Recipe.of(network, **({"batch_size": arguments.batch} if arguments.batch else {}))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        write_files(make_cache(arguments.photos, recipe.size, folder), folder / "files")
        turns: dict[str, Callable[[], Seconds]] = {}
        for kind in LOOPS:
            options = ["--part", "training", "--loop", kind, "--networks", network, "--photos", arguments.photos]
            options += ["--data", folder, "--threads", arguments.threads, "--steps", arguments.steps]
            options += ["--batch", recipe.params.batch_size]
            process = subprocess.Popen(
                ["stages/run", "../benchmarks/speed", *map(str, options)],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            stack.callback(_end, process)
            turns[kind] = partial(_turn, process)
        return in_turns(turns, arguments.rounds), arguments.steps * recipe.params.batch_size


def _turn(process: "subprocess.Popen[str]") -> Seconds:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    wall, cpu = json.loads(process.stdout.readline())
    return wall, cpu


def _end(process: "subprocess.Popen[str]") -> None:
    process.communicate()  # closes its input


def serve_turns(arguments: argparse.Namespace) -> None:
    """In a process of its own: train a turn whenever a line comes in, and print its seconds."""
    from training_loops import Recipe, make_cache, make_loop

    recipe = Recipe.of(arguments.networks, threads=arguments.threads, batch_size=arguments.batch)
    part = make_cache(arguments.photos, recipe.size, arguments.data)
    loop = make_loop(arguments.loop, recipe, part, arguments.data / "files")
    for _ in sys.stdin:
        before = _cpu_seconds()
        wall = loop.run(arguments.steps)
        print(json.dumps([wall, _cpu_seconds() - before]), flush=True)


def _cpu_seconds() -> float:
    """Of this process and its ended children."""
    times = psutil.Process().cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)


def steps(arguments: argparse.Namespace) -> None:
    """Where the time of a step goes."""
    from step_times import step_rows

    print("Milliseconds of one photo or crop, wall clock; a validated photo for validation.\n")
    print("| network | part | ms | share | floor | times the floor |\n|:---|:---|---:|---:|---:|---:|")
    for network in arguments.networks.split(","):
        with tempfile.TemporaryDirectory() as folder:
            for row in step_rows(arguments, network, Path(folder)):
                print(f"| {network} | {' | '.join(row)} |", flush=True)


def inference(arguments: argparse.Namespace) -> None:
    """The mean over the symmetries of the square."""
    import torch

    from harveyseg.inference.params import InferenceParams
    from harveyseg.inference.predictor import Predictor
    from harveyseg.models.network import build
    from training_loops import Recipe

    photos = np.random.default_rng(0).integers(0, 256, (8, 256, 256, 3)).astype(np.uint8)
    print("Milliseconds of one photo of 256 x 256 pixels.\n\n" + HEADER)
    for network in arguments.networks.split(","):
        spec = Recipe.of(network).spec
        params = InferenceParams(tta="d4", threads=arguments.threads)
        predictor = Predictor(build(spec, len(HARVEY25), None), (0.5,) * 3, (0.25,) * 3, params)
        plain = build(spec, len(HARVEY25), None).eval()

        def loop(autocast: bool, plain: torch.nn.Module = plain) -> None:
            for photo in photos:
                inputs = torch.from_numpy(photo.transpose(2, 0, 1).astype(np.float32) / 255 - 0.5)[None] / 0.25
                total = torch.zeros(())
                with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                    for turns in range(4):
                        for mirrored in (False, True):
                            view = torch.rot90(inputs, turns, (2, 3))
                            maps = plain(view.flip(3) if mirrored else view).softmax(1)
                            total = total + torch.rot90(maps.flip(3) if mirrored else maps, -turns, (2, 3))
                (total / 8).float().numpy()

        sides = {
            "ours": timed(partial(predictor, photos)),
            "loop, fp32": timed(partial(loop, False)),
            "loop, autocast": timed(partial(loop, True)),
        }
        compare(network, in_turns(sides, arguments.rounds), len(photos))


def resize(arguments: argparse.Namespace) -> None:
    """Photos of full size to the cache's size, one thread."""
    from PIL import Image

    from harveyseg.data.cache import read_resized_photo

    cv2.setNumThreads(1)
    paths = sorted((arguments.originals / "images").glob("*.jpg"))
    shapes = {path: Image.open(path).size[::-1] for path in paths}

    def ours(size: tuple[int, int]) -> None:
        for path in paths:
            read_resized_photo(path, shapes[path], size)

    def opencv(size: tuple[int, int], interpolation: int) -> None:
        for path in paths:
            photo = np.asarray(cv2.imread(str(path), cv2.IMREAD_COLOR))
            cv2.cvtColor(cv2.resize(photo, size[::-1], interpolation=interpolation), cv2.COLOR_BGR2RGB)

    def pillow(size: tuple[int, int]) -> None:
        for path in paths:
            np.asarray(Image.open(path).convert("RGB").resize(size[::-1]))

    def entropy() -> None:
        for path in paths:
            cv2.imread(str(path), cv2.IMREAD_REDUCED_COLOR_8)

    megabytes = statistics.mean(path.stat().st_size for path in paths) / 1e6
    print(f"Milliseconds of one photo: {len(paths)} JPEG files of {megabytes:.1f} MB on average.\n\n{HEADER}")
    for size in ((256, 256), (512, 512), (768, 1024)):
        sides: dict[str, Callable[[], None]] = {
            "ours": partial(ours, size),
            "OpenCV, area": partial(opencv, size, cv2.INTER_AREA),
            "OpenCV, linear (aliased)": partial(opencv, size, cv2.INTER_LINEAR),
            "Pillow": partial(pillow, size),
            "decode at 1/8": entropy,
        }
        taken = in_turns({name: timed(work) for name, work in sides.items()}, arguments.rounds)
        floor = median(taken.pop("decode at 1/8"), 1)
        compare(f"{size[0]} x {size[1]}", taken, len(paths), floor)
        print(f"| | floor: decoded at 1/8 | | {1000 * floor / len(paths):.1f} | | | |")


def scoring(arguments: argparse.Namespace) -> None:
    """Confusion matrices and run lengths of masks of full size, one thread."""
    from harveyseg.evaluation.submission import encode_mask
    from harveyseg.score import confusion

    cv2.setNumThreads(1)
    paths = sorted((arguments.originals / "masks").glob("*.png"))[:2]
    masks = [HARVEY25.indices[cv2.imread(str(path), cv2.IMREAD_UNCHANGED)] for path in paths]
    pairs = [(mask, np.roll(mask, (40, 40), (0, 1))) for mask in masks]
    classes = len(HARVEY25)

    def loop(truth: np.ndarray[Any, Any], predicted: np.ndarray[Any, Any]) -> None:
        for index in range(classes):
            a, b = truth == index, predicted == index
            (a & b).sum(), a.sum(), b.sum()

    def notebook_rle(mask: np.ndarray[Any, Any]) -> str:
        pixels = np.concatenate([[0], mask.flatten(), [0]])
        runs = np.where(pixels[1:] != pixels[:-1])[0] + 1
        runs[1::2] -= runs[::2]
        return " ".join(str(run) for run in runs)

    def each(work: Callable[..., object]) -> Callable[[], Seconds]:
        return timed(lambda: [work(*pair) for pair in pairs])

    def masked(encode: Callable[[Any], str], dtype: type) -> Callable[..., object]:
        return lambda mask, _: [encode((mask == index).astype(dtype, copy=False)) for index in range(classes)]

    print(f"Milliseconds of one mask of 12 megapixels, {classes} classes.\n\n{HEADER}")
    floor = timed(lambda: [np.maximum(*pair) for pair in pairs])
    counted = {
        "ours": each(lambda truth, predicted: confusion(truth, predicted, classes)),
        "np.bincount": each(lambda a, b: np.bincount((a.astype(np.int64) * classes + b).ravel(), minlength=classes**2)),
        "loop over classes": each(loop),
    }
    taken = in_turns({**counted, "floor": floor}, arguments.rounds)
    compare("confusion", {name: taken[name] for name in counted}, len(pairs), median(taken["floor"], 1))
    encoded = {"ours": each(masked(encode_mask, bool)), "notebook": each(masked(notebook_rle, np.uint8))}
    taken = in_turns({**encoded, "floor": timed(lambda: [masks[0] == 1, masks[1] == 1])}, arguments.rounds)
    compare("run lengths", {name: taken[name] for name in encoded}, len(pairs), median(taken["floor"], 1))
    print("\nFloors: both masks read once and one written; a mask read and one class marked.")


def postprocess(arguments: argparse.Namespace) -> None:
    """Statistics and rule of each model of a finished project."""
    from harveyseg.config.settings import listed_models
    from harveyseg.data.cache import load_part
    from harveyseg.data.split import read_folds
    from harveyseg.ensemble.members import load_fold_models
    from harveyseg.ensemble.weights import EnsembleWeights
    from harveyseg.evaluation.metrics import true_masks
    from harveyseg.postprocess.select import select_rule
    from harveyseg.postprocess.statistics import collect_statistics

    data: Path = arguments.data
    models, folds = listed_models(data.parent / "params.yaml")
    fold_models = load_fold_models(models, folds, data / "models", data / "predictions", data / "ensemble" / "added")
    truth = true_masks(data / "cache" / "score")["val"]
    train = load_part(data / "cache" / "train")
    rows = fold_models.rows(train.ids)[:12]
    ids = fold_models.ids[:12]
    groups = read_folds(data / "splits" / "folds.csv").set_index("id").loc[ids]["group"].tolist()
    size = train.score_size
    print(f"Milliseconds of one photo of {size[0]} x {size[1]} pixels, of {len(rows)}.\n\n{HEADER}")
    for model in models:
        weights = EnsembleWeights.of_single_model(model)
        predict = fold_models.predictor(weights.chosen, weights.without_fold)

        def ours(predict: Any = predict) -> None:
            maps = map(predict, range(len(rows)))
            found = collect_statistics(maps, truth, rows, train.classes, arguments.threads)
            select_rule(found, groups, "auto")

        def grid_search(predict: Any = predict) -> None:
            """Dice of every class at 14 thresholds; the best of each class is then chosen by its mean."""
            for row, index in zip(rows, range(len(rows)), strict=True):
                for number, levels in enumerate(predict(index)[train.classes.unscored :], train.classes.unscored):
                    maps = cv2.resize(levels, size[::-1], interpolation=cv2.INTER_LINEAR)
                    mask = truth[row] == number
                    for level in range(13, 255, 18):
                        above = maps > level
                        2 * (above & mask).sum() / max(1, above.sum() + mask.sum())

        def floor(predict: Any = predict) -> None:
            """The maps are read and enlarged, and no more."""
            for index in range(len(rows)):
                for levels in predict(index):
                    cv2.resize(levels, size[::-1], interpolation=cv2.INTER_LINEAR)

        sides = {"ours": timed(ours), "grid of 14 thresholds": timed(grid_search), "floor": timed(floor)}
        taken = in_turns(sides, arguments.rounds)
        lowest = median(taken.pop("floor"), 1)
        compare(model, taken, len(rows), lowest)
    print("\nFloor: the maps are read and enlarged to the size of the score.")


PARTS: dict[str, Callable[[argparse.Namespace], None]] = {
    "training": training,
    "steps": steps,
    "inference": inference,
    "resize": resize,
    "scoring": scoring,
    "postprocess": postprocess,
}


if __name__ == "__main__":
    main()
