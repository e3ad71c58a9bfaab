"""SIGKILL at random moments of the pipeline, and two pipelines at once."""

import os
import random
import shutil
import signal
import subprocess
import threading
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from breaking.trials import Outcome, Trial, judge
from breaking.workspace import EPOCHS, RUNNING, TRAIN, Reference, leftovers, repair_dvc, tracking_problems
from harveyseg.config.settings import load
from helpers.project import Project, stages_run

PART = "Killed with SIGKILL"
TWO_PART = "Two commands at once"
THIRDS = 3
"""Of a training's epochs; each has a kill, besides the one at any moment of the stage, which is mostly imports."""


KILLS_IN_STAGE = 4
"""Of a chain in one stage."""


@dataclass(frozen=True)
class Kill:
    """When to kill the pipeline."""

    stage: str
    seconds: float
    """After the stage has begun, or the epoch has ended."""
    epoch: int = 0
    """The epoch of a training; 0: the stage as a whole."""


def plan(reference: Reference, seed: int) -> list[Kill]:
    """A kill in every stage and several in the epochs of the training, at random moments of each."""
    rng = random.Random(seed)
    kills = []
    for stage in filter(None, reference.seconds):
        kills.append(Kill(stage, rng.uniform(0, 1.05) * reference.seconds[stage]))
        if stage == TRAIN:
            length = EPOCHS // THIRDS
            # The earlier half of each third: a few more epochs pass before the kill comes.
            epochs = (rng.randint(1, length // 2) + third * length for third in range(THIRDS))
            kills += [Kill(stage, rng.uniform(0, 0.1), epoch) for epoch in epochs]
    return kills


def run_chain_in_stage(reference: Reference, folder: Path, stage: str) -> Iterator[Trial]:
    """Kill one stage of the finished project, again and again, where DVC has nothing to restore its results from."""
    project = reference.copy(folder)
    shutil.rmtree(project.folder / ".dvc" / "cache")
    for out in load(project.folder / "dvc.yaml")["stages"][stage]["outs"]:
        shutil.rmtree(project.folder / out)
    moments = [random.uniform(0, 1.05) * reference.seconds[stage] for _ in range(KILLS_IN_STAGE)]
    yield from run_chain(reference, project, [Kill(stage, moment) for moment in moments], ["-s", stage])


def run_chain(
    reference: Reference,
    project: Project,
    kills: Sequence[Kill],
    target: Sequence[str] = (),
    earlier: Collection[str] = (),
) -> Iterator[Trial]:
    """Kill ``dvc repro`` again and again, let it finish, and compare with the undisturbed run.

    Args:
        reference: the undisturbed run.
        project: where to run.
        kills: in the order of the stages.
        target: options of ``dvc repro``.
        earlier: the uids of MLflow's runs that the project has already.

    Yields:
        A trial for each kill that met a running pipeline.
    """
    met: list[tuple[str, list[str]]] = []
    for kill in kills:
        stage = run_and_kill(project, target, kill)
        if stage is not None:
            where = "in the epochs of a training" if kill.epoch else f"in the stage `{stage.partition('@')[0]}`"
            met.append((where, reference.differences(project.folder, partial=True) + repair_dvc(project)))
    finished = subprocess.run(
        ["dvc", "repro", *target], cwd=project.folder, env=project.environment, capture_output=True, text=True,
        check=False, timeout=600,
    )  # fmt: skip
    printed = finished.stdout + finished.stderr
    if finished.returncode:
        problems, outcome = [printed[-400:]], Outcome.LOST
    else:
        problems = reference.differences(project.folder) + leftovers(project.folder)
        problems += tracking_problems(project, earlier)
        problems += [f"{stage} runs again" for stage in stages_run(project.run("dvc", "repro", *target))]
        outcome = Outcome.WRONG
    for where, half in met:
        yield Trial(PART, where, *judge(half + problems, outcome))


def run_and_kill(project: Project, target: Sequence[str], kill: Kill) -> str | None:
    """Start ``dvc repro`` and kill it with all its processes in a stage.

    Args:
        project: where.
        target: options of ``dvc repro``.
        kill: when.

    Returns:
        The stage that was running; None when the pipeline ended before.
    """
    process = subprocess.Popen(
        ["dvc", "repro", *target], cwd=project.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=project.environment | {"HARVEYSEG_PROGRESS_SECONDS": "0"}, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    timer = threading.Timer(kill.seconds, os.killpg, [process.pid, signal.SIGKILL])
    stage, started = "", False
    for line in process.stdout:
        if match := RUNNING.match(line):
            stage = match[1]
        met = f", epoch {kill.epoch}/" in line if kill.epoch else stage == kill.stage
        if stage == kill.stage and met and not started:
            started = True
            timer.start()
    process.wait()
    timer.cancel()
    return stage if process.returncode == -signal.SIGKILL else None


def run_twice_at_once(reference: Reference, folder: Path) -> Trial:
    """Two ``dvc repro`` in one project; the one that comes late may refuse, and a third one finishes."""
    project = reference.start(folder)
    both = [
        subprocess.Popen(
            ["dvc", "repro"], cwd=project.folder, env=project.environment, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    printed = [process.communicate(timeout=600)[0] for process in both]
    problems = [text[-300:] for text in printed if "Traceback" in text]
    if all(process.returncode for process in both):
        problems.append(f"both failed: {printed[0][-200:]} {printed[1][-200:]}")
    project.run("dvc", "repro")
    problems += reference.differences(project.folder) + leftovers(project.folder) + tracking_problems(project)
    return Trial(TWO_PART, "`dvc repro` twice", *judge(problems))
