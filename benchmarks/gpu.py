"""What one GPU does, in parts of at most eight minutes, each of which goes on where it was broken off.

    python benchmarks/gpu.py --part tests|table|loops|memory|deterministic|compile|resume --project FOLDER --out FOLDER
        [--minutes 7] [--networks "U-Net 16,best"] [--tiny]

A project brings its data along as the packed cache, not as photos: `harveyseg preset report`, then `dvc repro code
resize-cache split`, and the folder is copied without data/raw. One project each for 256 and for 512 pixels.

In this order, the most decisive first. A part writes each line to OUT/<part>.json as soon as it is known, and its table
to OUT/<part>.md at the end; called again, it measures only the lines that are missing. Exit code 3: the time was up.

* tests: the tests that need CUDA.
* table: one training for each model of the project, as the stage `train` runs it, with its run in MLflow.
* loops: photos/s of the pipeline's loop, with 0 and 8 workers, and of the usual one (training_loops.py), in turns.
* memory: the most GPU memory of a step at the project's size, in float32 and bfloat16, whole and in three parts.
* deterministic: what deterministic kernels cost.
* compile: steps on one batch that stays on the GPU, without a compiler and with CUDA graphs by torch.compile.
* resume: a training that was broken off after its first epoch ends with the weights of one that was not.

With --tiny every part runs on the CPU with networks of a few channels in a minute, which shows only that it works.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harveyseg.config.settings import merge, parse
from harveyseg.data.cache import CachedPart, load_part
from harveyseg.data.normalisation import normalise
from harveyseg.device import autocast, compute_environment, resolve_device, resolve_precision
from harveyseg.files import write_json
from harveyseg.project import library_versions
from harveyseg.record import read_run
from harveyseg.training.checkpoint import Checkpoint
from harveyseg.training.params import TrainParams
from harveyseg.training.trainer import Training
from training_loops import NETWORKS, OurLoop, Recipe, UsualLoop, write_files

ROOT = Path(__file__).resolve().parents[1]
UNFINISHED = 3
"""Exit code."""
TESTS = ("tests/test_device.py", "tests/training/test_trainer.py", "tests/inference/test_predictor.py")
WORKERS = 8

Line = dict[str, Any]


class Bench:
    """What all parts are given.

    Args:
        project: with ``data/cache`` and, for ``table``, ``data/code`` and ``data/splits``.
        networks: names of ``NETWORKS``.
        tiny: a few small steps on the CPU.
    """

    def __init__(self, project: Path, networks: list[str], tiny: bool) -> None:
        self.project = project.resolve()
        self.networks = networks
        self.tiny = tiny
        self.device = resolve_device("cpu" if tiny else "cuda")
        self.steps = 1 if tiny else 20

    def part(self) -> CachedPart:
        """The packed training photos."""
        return load_part(self.project / "data" / "cache" / "train")

    def recipe(self, network: str, **changes: Any) -> Recipe:
        """One of ``NETWORKS``, on the device; a small batch if this is tiny."""
        small = {"batch_size": 2, "augmentation": {"crop": 32}} if self.tiny else {}
        recipe = Recipe.of(network, device=self.device.type)
        spec = {**recipe.spec, "width": 2} if self.tiny and "width" in recipe.spec else recipe.spec
        params = merge(recipe.params.model_dump(), merge(small, changes))
        return Recipe(spec, parse(TrainParams, params, "train"), recipe.size)

    def synchronise(self) -> None:
        """Wait until the GPU is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def tests(bench: Bench) -> Iterator[tuple[str, Callable[[], Line]]]:
    """The files with tests that need CUDA."""

    def run(path: str) -> Line:
        command = [sys.executable, "-m", "pytest", "-q", "-k", "cuda", "-p", "no:cacheprovider", path]
        printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        return {"exit code": printed.returncode, "result": printed.stdout.strip().rpartition("\n")[2]}

    for path in TESTS[:1] if bench.tiny else TESTS:
        yield path, partial(run, path)


def table(bench: Bench) -> Iterator[tuple[str, Callable[[], Line]]]:
    """The project's trainings; a broken off one goes on from its last epoch."""

    def run(model: str, fold: int) -> Line:
        files = bench.project / "data" / "models" / f"{model}-{fold}" / "run.json"
        if not files.exists():
            environment = {**os.environ, "VIRTUAL_ENV": sys.prefix, "DVC_ROOT": str(bench.project)}
            command = ["stages/run", "train", "--model", model, "--fold", str(fold)]
            subprocess.run(command, cwd=bench.project, env=environment, stdout=sys.stderr, check=True)
        record = read_run(files)
        results = record.results
        return {
            "run": record.run_id,
            "device": record.environment["device_name"],
            "precision": record.environment["precision"],
            "argmax score": round(results["written/val_argmax_score"], 4),
            "photos/s": round(results["images_per_second"], 1),
            "seconds": round(results["seconds"], 1),
            "MiB": round(results.get("peak_gpu_memory_mb", 0)),
        }

    for path in sorted((bench.project / "data" / "code" / "train").glob("*.json")):
        yield path.stem, partial(run, path.stem, 0)


def loops(bench: Bench) -> Iterator[tuple[str, Callable[[], Line]]]:
    """Median photos/s of three turns of each loop."""

    def run(network: str) -> Line:
        part, recipe = bench.part(), bench.recipe(network)
        with tempfile.TemporaryDirectory() as folder:
            write_files(part, Path(folder))
            workers = bench.recipe(network, workers=1 if bench.tiny else WORKERS)
            kinds: dict[str, OurLoop | UsualLoop] = {
                "ours": OurLoop(recipe, part),
                f"ours, {workers.params.workers} workers": OurLoop(workers, part),
                "usual, fp32": UsualLoop(recipe, Path(folder), autocast=False),
                "usual, autocast": UsualLoop(recipe, Path(folder), autocast=True),
            }
            speeds: dict[str, list[float]] = {kind: [] for kind in kinds}
            for turn in range(2 if bench.tiny else 4):
                for kind, loop in kinds.items():
                    # The usual loop asks for no deterministic kernels, and lets cuDNN round to TF32.
                    ours = kind.startswith("ours")
                    torch.use_deterministic_algorithms(ours, warn_only=True)
                    torch.backends.cudnn.allow_tf32 = not ours
                    seconds = loop.run(bench.steps)
                    if turn:  # the first one chooses kernels
                        speeds[kind].append(bench.steps * recipe.params.batch_size / seconds)
        return {kind: round(float(np.median(values)), 1) for kind, values in speeds.items()}

    for network in bench.networks:
        yield network, partial(run, network)


def memory(bench: Bench) -> Iterator[tuple[str, Callable[[], Line]]]:
    """The most memory of two steps."""

    def run(network: str, precision: str, accumulate: int) -> Line:
        if bench.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        OurLoop(bench.recipe(network, precision=precision, accumulate=accumulate), bench.part()).run(2)
        return {"MiB": round(torch.cuda.max_memory_allocated() / 2**20) if bench.device.type == "cuda" else 0}

    for network in bench.networks:
        for precision in ("fp32",) if bench.tiny else ("fp32", "bf16"):
            for parts in (1, 2 if bench.tiny else 3):
                yield f"{network}, {precision}, {parts} part(s)", partial(run, network, precision, parts)


def deterministic(bench: Bench) -> Iterator[tuple[str, Callable[[], Line]]]:
    """Steps on one batch that stays on the device, in turns."""

    def run(network: str) -> Line:
        step = _resident_step(bench, OurLoop(bench.recipe(network), bench.part()))
        taken: dict[bool, list[float]] = {True: [], False: []}
        for turn in range(2 if bench.tiny else 4):
            for asked, seconds in taken.items():
                torch.use_deterministic_algorithms(asked, warn_only=True)
                torch.backends.cudnn.benchmark = not asked
                spent = _time(bench, step)
                if turn:
                    seconds.append(spent)
        slow, fast = (1000 * float(np.median(taken[asked])) for asked in (True, False))
        return {"ms a step": round(slow, 2), "without": round(fast, 2), "times": round(slow / fast, 2)}

    for network in bench.networks:
        yield network, partial(run, network)


def compiled(bench: Bench) -> Iterator[tuple[str, Callable[[], Line]]]:
    """Steps on one batch that stays on the device, before and after compiling."""

    def run(network: str) -> Line:
        loop = OurLoop(bench.recipe(network), bench.part())
        step = _resident_step(bench, loop)
        _time(bench, step)
        plain = _time(bench, step)
        # "eager" compiles nothing: it shows that the network can be traced.
        options: Any = {"backend": "eager"} if bench.tiny else {"mode": "reduce-overhead"}
        loop.learner.network.compile(**options)
        started = time.perf_counter()
        step()
        bench.synchronise()
        compiling = time.perf_counter() - started
        _time(bench, step)
        after = _time(bench, step)
        return {
            "ms a step": round(1000 * plain, 2),
            "compiled": round(1000 * after, 2),
            "times": round(plain / after, 2),
            "s to compile": round(compiling, 1),
        }

    for network in bench.networks:
        yield network, partial(run, network)


def _resident_step(bench: Bench, loop: OurLoop) -> Callable[[], None]:
    """A step of the loop's learner on a batch that is on the device already."""
    learner = loop.learner
    samples = [loop.samples[key] for key in next(loop.batches)]
    photos, masks = (torch.stack(arrays).to(bench.device) for arrays in zip(*samples, strict=True))
    target = masks.long()
    learner.network.train()

    def step() -> None:
        learner.optimiser.zero_grad(set_to_none=True)
        with autocast(learner.device, learner.precision):
            logits = learner.network(normalise(photos, learner.mean, learner.std))
        loss: torch.Tensor = learner.loss(logits, target)
        loss.backward()  # type: ignore[no-untyped-call]
        learner.optimiser.step()

    return step


def _time(bench: Bench, step: Callable[[], None]) -> float:
    """Seconds of a step."""
    bench.synchronise()
    started = time.perf_counter()
    for _ in range(bench.steps):
        step()
    bench.synchronise()
    return (time.perf_counter() - started) / bench.steps


def resume(bench: Bench) -> Iterator[tuple[str, Callable[[], Line]]]:
    """Weights of a training in one go, and of one whose process would have ended after its first epoch."""

    def run(network: str) -> Line:
        part = bench.part()
        recipe = bench.recipe(network, epochs=2)
        rows = np.arange(len(part.ids))
        held_out = max(1, len(rows) // 5)

        def train(checkpoint: Checkpoint, epochs: int) -> dict[str, torch.Tensor] | None:
            training = Training(recipe.spec, recipe.params, part, rows[held_out:], rows[:held_out], checkpoint)
            for number, _ in enumerate(training.run(), 1):
                if number == epochs:
                    return None
            return training.result().state

        with tempfile.TemporaryDirectory() as folder:
            whole = train(Checkpoint(Path(folder), "whole"), 3)
            train(Checkpoint(Path(folder), "parts"), 1)
            resumed = train(Checkpoint(Path(folder), "parts"), 3)
        assert whole is not None
        assert resumed is not None
        return {"tensors that differ": sum(not torch.equal(whole[name], resumed[name]) for name in whole)}

    for network in bench.networks:
        yield network, partial(run, network)


PARTS: dict[str, Callable[[Bench], Iterator[tuple[str, Callable[[], Line]]]]] = {
    "tests": tests,
    "table": table,
    "loops": loops,
    "memory": memory,
    "deterministic": deterministic,
    "compile": compiled,
    "resume": resume,
}


def run_part(name: str, bench: Bench, out: Path, minutes: float) -> bool:
    """Measure the lines that ``out`` lacks, and write the table when all are there; False when the time is up first."""
    out.mkdir(parents=True, exist_ok=True)
    kept = out / f"{name}.json"
    lines: dict[str, Line] = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    started = time.monotonic()
    for title, measure in PARTS[name](bench):
        if title in lines:
            continue
        if time.monotonic() - started > 60 * minutes:
            return False
        lines[title] = measure()
        write_json(kept, lines)
        print(title, lines[title], flush=True)
    versions = ", ".join(f"{library} {version}" for library, version in library_versions().items())
    machine = ", ".join(f"{key} {value}" for key, value in compute_environment(bench.device).items())
    precision = resolve_precision("auto", bench.device)
    text = f"# benchmarks/gpu.py --part {name}, {date.today()}\n\n{machine}; {precision}; {versions}\n\n"
    columns = list(next(iter(lines.values()), {}))
    text += f"| | {' | '.join(columns)} |\n|:---|{'---:|' * len(columns)}\n"
    for title, line in lines.items():  # those that are read back have their columns in another order
        text += f"| {title} | {' | '.join(str(line[column]) for column in columns)} |\n"
    (out / f"{name}.md").write_text(text, encoding="utf-8")
    return True


def main() -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=list(PARTS), required=True)
    parser.add_argument("--project", type=Path, default=Path())
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=7, help="no further line is begun after so long")
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args()
    networks = ["U-Net 16"] if arguments.tiny else arguments.networks.split(",")
    finished = run_part(
        arguments.part, Bench(arguments.project, networks, arguments.tiny), arguments.out, arguments.minutes
    )
    sys.exit(0 if finished else UNFINISHED)


if __name__ == "__main__":
    main()
