"""Where the time of a training step of ours goes, part by part, and the floor of each part."""

import argparse
import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from harveyseg.data.normalisation import normalise
from harveyseg.device import autocast
from training_loops import OurLoop, Recipe, make_cache


def step_rows(arguments: argparse.Namespace, network: str, folder: Path) -> Iterator[list[str]]:
    """Part, milliseconds of a photo, share of the step, floor, times the floor; of one of ``NETWORKS``."""
    changes = {"batch_size": arguments.batch} if arguments.batch else {}
    recipe = Recipe.of(network, threads=arguments.threads, **changes)
    part = make_cache(arguments.photos, recipe.size, folder)
    assert part.masks is not None
    loop = OurLoop(recipe, part)
    loop.run(1)
    batch = recipe.params.batch_size
    taken: dict[str, list[float]] = {}
    for _ in range(arguments.rounds):
        for name, seconds in _step(loop).items():
            taken.setdefault(name, []).append(seconds / batch)
        rows = list(range(min(batch, len(part.ids))))
        pixels = batch if recipe.params.augmentation.crop is None else max(1, batch // 4)
        started = time.perf_counter()
        loop.learner.validate(part.images, part.masks, rows, pixels)
        taken.setdefault("validation", []).append((time.perf_counter() - started) / len(rows))
    floors = _floors(loop, batch, math.prod(part.size))
    step = sum(statistics.median(values) for name, values in taken.items() if name != "validation")
    for name, values in taken.items():
        seconds = statistics.median(values)
        share = "" if name == "validation" else f"{seconds / step:.1%}"
        cells = [f"{1000 * floors[name]:.2f}", f"{seconds / floors[name]:.1f}"] if floors.get(name) else ["", ""]
        yield [name, f"{1000 * seconds:.2f}", share, *cells]
    lowest = sum(value for name, value in floors.items() if name != "validation")
    yield ["step", f"{1000 * step:.2f}", "100%", f"{1000 * lowest:.2f}", f"{step / lowest:.1f}"]


def _step(loop: OurLoop) -> dict[str, float]:
    """Seconds of the parts of a step, in the order in which the learner takes them."""
    learner = loop.learner
    seconds: dict[str, float] = {}
    last = time.perf_counter()

    def ended(name: str) -> None:
        nonlocal last
        now = time.perf_counter()
        seconds[name], last = now - last, now

    samples = [loop.samples[key] for key in next(loop.batches)]
    ended("augmentation")
    photos, masks = (torch.stack(arrays) for arrays in zip(*samples, strict=True))
    learner.network.train()
    inputs = normalise(photos, learner.mean, learner.std)
    target = masks.long()
    ended("copy and normalise")
    with autocast(learner.device, learner.precision):
        logits = learner.network(inputs)
    ended("forward")
    loss = learner.loss(logits, target)
    ended("loss")
    learner.optimiser.zero_grad(set_to_none=True)
    loss.backward()
    ended("backward, of the loss too")
    average, learner._average = learner._average, None
    learner._step()
    learner._average = average
    ended("optimiser")
    if average is not None:
        average.update(learner.network, step=10)
        ended("moving average")
    return seconds


def _floors(loop: OurLoop, batch: int, photo: int) -> dict[str, float]:
    """Seconds of a photo that each part would take at the speed of a copy and of a large matrix product.

    Args:
        loop: what is measured.
        batch: photos or crops in a step.
        photo: pixels of a validated photo.
    """
    learner = loop.learner
    low = learner.precision == "bf16"
    values = torch.ones(2**25)
    copied = _best(values.clone) / (2 * 4 * len(values))
    factor = torch.ones(2048, 2048, dtype=torch.bfloat16 if low else torch.float32)
    multiplied = _best(lambda: factor @ factor) / (2 * 2048**3)
    side = loop.params.augmentation.crop or 256
    inputs = torch.zeros(1, 3, side, side).to(memory_format=torch.channels_last)
    moved = _Traffic()
    network = learner.network.eval()
    handles = [
        module.register_forward_hook(moved) for module in network.modules() if not any(True for _ in module.children())
    ]
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), autocast(learner.device, learner.precision), counter:
        logits = network(inputs)
    for handle in handles:
        handle.remove()
    forward = max(counter.get_total_flops() * multiplied, moved.bytes * copied)
    parameters = 4 * sum(parameter.numel() for parameter in network.parameters())
    pixels = side * side
    floors = {
        "augmentation": 2 * 4 * pixels * copied,  # photo and mask are read and written
        "copy and normalise": (3 + 12 + 1 + 8) * pixels * copied,
        "forward": forward,
        "loss": logits.numel() * (2 + 4) * copied,
        "backward, of the loss too": 2 * forward + logits.numel() * (4 + 2) * copied,
        "optimiser": 7 * parameters * copied / batch,  # weight, gradient, two moments; three of them written
        "validation": forward * photo / pixels,
    }
    if learner._average is not None:
        floors["moving average"] = 3 * parameters * copied / batch
    return floors


class _Traffic:
    """Bytes that the layers read and write."""

    def __init__(self) -> None:
        self.bytes = 0

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        for values in itertools.chain(inputs, (output,)):
            if isinstance(values, Tensor):
                self.bytes += values.numel() * values.element_size()


def _best(work: Callable[[], Any]) -> float:
    """The least seconds of five."""
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return float(np.min(seconds))
