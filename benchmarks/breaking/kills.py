"""SIGKILL at random moments of the pipeline, and two pipelines at once."""

import os
import random
import signal
import subprocess
import threading
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from breaking.trials import Outcome, Trial, judge
from breaking.workspace import RUNNING, TRAIN, Reference, leftovers, repair_dvc, tracking_problems
from helpers.project import Project, stages_run

PART = "Killed with SIGKILL"
TWO_PART = "Two commands at once"
KILLS_IN_A_TRAINING = 3


@dataclass(frozen=True)
class Kill:
    """When to kill the pipeline."""

    stage: str
    fraction: float
    """Of the stage's usual duration."""


def plan(reference: Reference, seed: int) -> list[Kill]:
    """A kill in every stage and several in the training, at random moments of each."""
    rng = random.Random(seed)
    stages = [stage for stage in reference.seconds if stage]
    return [
        Kill(stage, rng.uniform(0, 1.05))
        for stage in stages
        for _ in range(KILLS_IN_A_TRAINING if stage == TRAIN else 1)
    ]


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
        stage = run_and_kill(project, target, kill, reference.seconds[kill.stage])
        if stage is not None:
            met.append((stage, reference.differences(project.folder, partial=True) + repair_dvc(project)))
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
    for stage, half in met:
        yield Trial(PART, f"in the stage `{stage.partition('@')[0]}`", *judge(half + problems, outcome))


def run_and_kill(project: Project, target: Sequence[str], kill: Kill, seconds: float) -> str | None:
    """Start ``dvc repro`` and kill it with all its processes in a stage.

    Args:
        project: where.
        target: options of ``dvc repro``.
        kill: when.
        seconds: the usual duration of that stage.

    Returns:
        The stage that was running; None when the pipeline ended before.
    """
    process = subprocess.Popen(
        ["dvc", "repro", *target], cwd=project.folder, env=project.environment, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    timer = threading.Timer(kill.fraction * seconds, os.killpg, [process.pid, signal.SIGKILL])
    stage = ""
    for line in process.stdout:
        if match := RUNNING.match(line):
            stage = match[1]
            if stage == kill.stage:  # it runs once
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
