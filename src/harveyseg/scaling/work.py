"""Working on items of the matrix in a copy of the project, which shares the project's cache.

The command starts a process of its own (:mod:`harveyseg.scaling.worker`), the leader of a group to which DVC and the
stages belong: a signal to DVC alone would leave a training running.
"""

import logging
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from harveyseg.scaling.copies import (
    copy_prefix,
    interrupted_by_signals,
    process_group,
    stage_environment,
    wait_for,
    worker_copies,
)

logger = logging.getLogger(__name__)


def work(items: Sequence[str], root: Path, pull: bool = False, output: IO[str] | None = None) -> int:
    """Run stages in a copy of the project; afterwards ``dvc repro`` in the project restores their results.

    One item is worked on by one process at a time, on all machines that share the project's folder; a second one waits
    and finds the results. Ctrl-C, SIGTERM and a closed terminal end the training; it continues after its last finished
    epoch when the command is given again. The copy is removed, unless its process was killed: then the next command for
    these items on this machine takes it over.

    Args:
        items: names of stages, e.g. ``train@unet-0`` and ``evaluate@unet-0``, in any order.
        root: the project: checkpoints, locks and the tracker's database are there.
        pull: take what the items read from DVC's default remote, and push their results there.
        output: where DVC and the stages print; where this process does if None.

    Returns:
        An exit status: 0, or another one when an item is no stage, stages before it have not run, or it fails; the
        reason has been printed.

    Raises:
        KeyboardInterrupt: after a signal, when nothing is running any more.
    """
    command = [sys.executable, "-m", "harveyseg.scaling.worker", str(root), "pull" if pull else "share", *items]
    with interrupted_by_signals():
        pid = 0
        try:
            with process_group(command, root, stage_environment(root), output) as worker:
                pid = worker.pid
                code = wait_for(worker)
        except BaseException:
            for copy in worker_copies(root).glob(f"*/{copy_prefix(pid)}*"):  # the worker has not removed it
                shutil.rmtree(copy, ignore_errors=True)
            raise
    if code < 0:
        logger.error("%s: %s ended the process that worked on it.", ", ".join(items), signal.Signals(-code).name)
        return 128 - code
    return code
