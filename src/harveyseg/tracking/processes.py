"""Which process computes a run, and which pipeline it belongs to."""

import os
import socket
import time
from pathlib import Path

import psutil  # type: ignore[import-untyped]

_CLOCK_TOLERANCE_SECONDS = 5.0
"""A process's start time is computed from the boot time, which a clock adjustment moves."""


def pipeline_name(experiment: str | None) -> str:
    """Which pipeline invocation this is: ``HARVEYSEG_PIPELINE``, else named by the ``dvc`` process above this one.

    A queue's worker runs several experiments, hence the experiment's name in it.
    """
    if named := os.environ.get("HARVEYSEG_PIPELINE"):
        return named
    process = psutil.Process()
    process = next((ancestor for ancestor in process.parents() if _is_dvc(ancestor)), process)
    started = time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime(process.create_time()))
    return f"{experiment or 'repro'} {started} {socket.gethostname()} {process.pid}"


def _is_dvc(process: psutil.Process) -> bool:
    try:
        command = process.cmdline()
    except psutil.Error:  # another user's process, or one that has just ended
        return False
    return any(Path(part).name in ("dvc", "dvc.exe") for part in command[:2]) or command[1:3] == ["-m", "dvc"]


def this_process() -> str:
    """This process, by host, number and start."""
    process = psutil.Process()
    return f"{socket.gethostname()} {process.pid} {process.create_time()}"


def is_dead(process: str) -> bool:
    """Whether a process of this machine, named as by :func:`this_process` without the host, has ended."""
    try:
        pid, started = process.split(" ")
        return bool(abs(psutil.Process(int(pid)).create_time() - float(started)) > _CLOCK_TOLERANCE_SECONDS)
    except psutil.NoSuchProcess:
        return True
    except ValueError:  # not written by this package
        return False
