"""Predicting an archive on Ray: a pool of actors, each with the networks in memory, that take its parts in turn.

A part is what ``--shard`` is: the same function, the same rule of what is done already, the same folder of products.
"""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from harveyseg.errors import HarveysegError
from harveyseg.files import finished_by_last
from harveyseg.inference.params import InferenceParams
from harveyseg.prediction.predict import LOCK, PredictionOptions, predict_images, summarise
from harveyseg.prediction.shard import Shard
from harveyseg.prediction.trained_ensemble import TrainedEnsemble
from harveyseg.progress import Progress
from harveyseg.scaling.copies import interrupted_by_signals
from harveyseg.scaling.engine import connected, list_machines, resolve_on
from harveyseg.scaling.machines import Item, Needs, mixed_devices, require_room

_PARTS = 8
"""For each actor: small parts, so that all end at about the same time."""
_RETRIES = 2
"""How often an actor begins again whose process or machine was lost, and with it the part that it was at."""
_SECONDS_BETWEEN_LOOKS = 1.0

logger = logging.getLogger(__name__)


class PartOutcome(NamedTuple):
    """What came of a part."""

    lines: list[str]
    """What was predicted, a line for each image."""
    skipped: int
    """Images that had been predicted before in the same way."""
    errors: list[str]
    """Of images that failed, or of the whole part, such as bad files."""
    messages: list[tuple[int, str]]
    """Level and text of what was logged."""


@dataclass(frozen=True)
class _Call:
    """What all parts share."""

    arguments: Sequence[str]
    folder: str
    """The working directory, from which paths go."""
    ensemble: TrainedEnsemble
    params: InferenceParams
    out: Path
    options: PredictionOptions


class PartPredictor:
    """An actor: predicts one part after the other."""

    def __init__(self, call: _Call) -> None:
        os.chdir(call.folder)
        self._call = call

    def predict(self, shard: Shard) -> PartOutcome:
        """Predict what has not been predicted yet of a part; its errors are returned, since others go on."""
        call = self._call
        with _Messages() as messages:
            try:
                options = replace(call.options, shard=shard)
                outcome = predict_images(call.arguments, call.ensemble, call.params, call.out, options)
            except HarveysegError as error:
                return PartOutcome([], 0, [str(error)], messages.kept)
        lines = [record.describe() for record in outcome.predicted]
        return PartOutcome(lines, outcome.skipped, [str(error) for error in outcome.errors], messages.kept)


def predict_on_cluster(
    arguments: Sequence[str],
    ensemble: TrainedEnsemble,
    params: InferenceParams,
    out: Path,
    options: PredictionOptions,
    address: str,
) -> PartOutcome:
    """Predict as :func:`harveyseg.prediction.predict.predict_images` does, on all machines of a cluster at once.

    Args:
        arguments: files, folders and patterns, on a disk that all machines share, as ``out`` is.
        ensemble: the networks.
        params: how to predict; an actor occupies ``params.threads`` cores, and a GPU where ``params.device`` means one.
        out: the folder of the products.
        options: see :class:`PredictionOptions`.
        address: see :func:`harveyseg.scaling.engine.connected`.

    Returns:
        What came of all parts.

    Raises:
        HarveysegError: when Ray is missing, no machine has room for an actor, or machines would compute differently.
        KeyboardInterrupt: after a signal, when no actor is running any more.
    """
    call = _Call(arguments, os.getcwd(), ensemble, params, out, options)
    with (
        # Around the actors' own locks, so that the summaries are made once, at the end.
        finished_by_last(out / LOCK, lambda: summarise(out, ensemble.classes)),
        connected(address) as ray,
        interrupted_by_signals(),  # inside, since Ray takes SIGTERM for itself
    ):
        needs, room = _plan(ray, params)
        logger.info("%d actors of %s each", room, needs)
        return _run_parts(ray, call, needs, room)


def _plan(ray: Any, params: InferenceParams) -> tuple[Needs, int]:
    """What an actor occupies, and how many the machines have room for."""
    machines = list_machines(ray)
    wants_gpu = params.device == "cuda" or (params.device == "auto" and any(machine.gpus for machine in machines))
    needs = Needs(params.threads, float(wants_gpu))
    pair = (str(params.device), str(params.precision))
    actor = {"predict": Item((), needs, {"inference": pair})}
    require_room(actor, machines)
    able = resolve_on(ray, [machine for machine in machines if machine.takes(needs)], [pair])
    if mixed := mixed_devices(actor, able):
        found = "\n".join(mixed)
        raise HarveysegError(
            f"The machines would predict differently, so maps would depend on where an image is predicted:\n{found}\n"
            "Set inference.device and inference.precision to what all have, or take machines out of the cluster."
        )
    return needs, sum(machine.takes(needs) for machine in able)


def _run_parts(ray: Any, call: _Call, needs: Needs, actors: int) -> PartOutcome:
    """Give parts to actors that are free."""
    kind = ray.remote(PartPredictor).options(
        num_cpus=needs.cpus, num_gpus=needs.gpus, max_restarts=_RETRIES, max_task_retries=_RETRIES
    )
    shared = ray.put(call)
    count = _PARTS * actors
    waiting = [Shard(number, count) for number in range(1, count + 1)]
    total = PartOutcome([], 0, [], [])
    running: dict[Any, tuple[Any, Shard]] = {}
    said: set[str] = set()

    def start(actor: Any) -> None:
        if waiting:
            shard = waiting.pop(0)
            running[actor.predict.remote(shard)] = (actor, shard)

    with Progress("predicting", count, "parts") as progress:
        for actor in [kind.remote(shared) for _ in range(actors)]:
            start(actor)
        while running:
            for reference in ray.wait(list(running), timeout=_SECONDS_BETWEEN_LOOKS)[0]:
                actor, shard = running.pop(reference)
                outcome = _outcome(ray, reference, shard)
                for level, text in outcome.messages:
                    if text not in said:  # parts say the same of the same settings
                        said.add(text)
                        logger.log(level, "%s", text)
                total = PartOutcome(
                    total.lines + outcome.lines, total.skipped + outcome.skipped, total.errors + outcome.errors, []
                )
                start(actor)
                progress.add(note=f"{len(total.lines)} images predicted")
    return total


def _outcome(ray: Any, reference: Any, shard: Shard) -> PartOutcome:
    try:
        outcome: PartOutcome = ray.get(reference)
    except ray.exceptions.RayError as error:
        reason = f"part {shard.number}/{shard.count}: {str(error).strip().splitlines()[-1]}"
        return PartOutcome([], 0, [reason], [(logging.ERROR, reason)])
    errors = [(logging.ERROR, error) for error in outcome.errors]
    return outcome._replace(messages=[*outcome.messages, *errors])


class _Messages(logging.Handler):
    """Keeps the warnings of the package in a ``with`` block, for the process that can show them."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.kept: list[tuple[int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.kept.append((record.levelno, record.getMessage()))

    def __enter__(self) -> "_Messages":
        logging.getLogger("harveyseg").addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("harveyseg").removeHandler(self)
