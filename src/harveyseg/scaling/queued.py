"""What ``dvc exp run --queue`` has queued, worked off on a cluster instead of by ``dvc queue start``.

Importing DVC takes a second, so it is imported only in functions.
"""

import logging
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from harveyseg.config.settings import flat_settings, load
from harveyseg.errors import HarveysegError
from harveyseg.project import git_output
from harveyseg.scaling.cluster import ClusterOptions, describe_experiments, run_experiments
from harveyseg.scaling.copies import clone_project, git, interrupted_by_signals
from harveyseg.scaling.experiments import Experiment, ExperimentFolder, experiment_folder, input_paths
from harveyseg.scaling.items import shared_stages

logger = logging.getLogger(__name__)

_PACKED = ".dvc/tmp/repro.dat"
"""Where DVC keeps the arguments of a queued command, in its stash."""
_QUEUE = "refs/exps/celery/stash"
"""The git reference without which nothing is queued."""
_DEFAULTS = {"on_error": "fail"}
"""Of arguments that are not empty by default."""


@dataclass(frozen=True)
class QueuedExperiment:
    """An entry of DVC's queue."""

    name: str
    stash: str
    """The commit that holds its settings and edits."""
    baseline: str
    """The commit from which it was queued."""
    params: Mapping[str, Any]
    """Its settings."""
    targets: tuple[str, ...]
    """The stages that the command named."""
    message: str | None
    unsupported: tuple[str, ...]
    """Other options of the command, e.g. ``--force``."""


def queued_experiments(root: Path) -> list[QueuedExperiment]:
    """What is queued and does not run, the oldest first."""
    if git_output(root, "rev-parse", "--quiet", "--verify", _QUEUE) is None:
        return []
    from dvc.repo import Repo
    from dvc.repo.experiments.queue.base import QueueEntry
    from dvc.repo.experiments.queue.tasks import run_exp

    with Repo(str(root)) as repo:
        decoded = [
            message.decode()
            for message in repo.experiments.celery_queue.celery.iter_queued()
            if message.headers.get("task") == run_exp.name
        ]
    return [
        _read_entry(root, QueueEntry.from_dict(options.get("entry_dict") or arguments[0]), options)
        for arguments, options, _ in decoded
    ]


def _read_entry(root: Path, entry: Any, options: Mapping[str, Any]) -> QueuedExperiment:
    """Look an entry up in DVC's stash; ``options`` are what else DVC keeps of the command."""
    packed = _packed_arguments(root, entry.stash_rev)
    packed.pop("run_env", None)
    targets = packed.pop("targets", None) or ()
    unsupported = [
        f"--{name.replace('_', '-')}" for name, value in packed.items() if value and value != _DEFAULTS.get(name)
    ]
    if options.get("copy_paths"):
        unsupported.append("--copy-paths")
    return QueuedExperiment(
        name=entry.name or entry.stash_rev[:7],
        stash=entry.stash_rev,
        baseline=entry.baseline_rev,
        params=YAML(typ="safe", pure=True).load(git(root, "show", f"{entry.stash_rev}:./params.yaml")),
        targets=(targets,) if isinstance(targets, str) else tuple(targets),
        message=options.get("message"),
        unsupported=tuple(unsupported),
    )


def _packed_arguments(root: Path, stash: str) -> dict[str, Any]:
    """The arguments of a queued command."""
    from dvc.repo.experiments.executor.base import BaseExecutor

    command = ["git", "-C", str(root), "show", f"{stash}:./{_PACKED}"]
    with tempfile.NamedTemporaryFile() as opened:
        if subprocess.run(command, stdout=opened, stderr=subprocess.DEVNULL, check=False).returncode:
            return {}
        arguments: tuple[Any, dict[str, Any]] = BaseExecutor.unpack_repro_args(opened.name)
    return arguments[1]


def describe_queue(root: Path, options: ClusterOptions) -> list[str]:
    """What :func:`run_queue` would run where: each experiment, and the settings that are not those of the project.

    Raises:
        HarveysegError: when the machines lack what an experiment needs, or would compute differently.
    """
    queued = queued_experiments(root)
    return describe_experiments(
        {entry.name: entry.params for entry in queued},
        {entry.name: [*_changes(root, entry), *_refusal(entry)] for entry in queued},
        options,
    )


def _changes(root: Path, entry: QueuedExperiment) -> list[str]:
    """The settings in which an experiment differs from the project as it is."""
    now, then = flat_settings(load(root / "params.yaml")), flat_settings(entry.params)
    changed = [f"{name}={value}" for name, value in then.items() if name not in now or now[name] != value]
    return changed + [f"without {name}" for name in now if name not in then]


def _refusal(entry: QueuedExperiment) -> list[str]:
    """Why the cluster does not take an experiment; empty if it does."""
    if not entry.unsupported:
        return []
    return [f"queued with {', '.join(entry.unsupported)}, which only `dvc queue start` knows"]


def run_queue(root: Path, options: ClusterOptions) -> None:
    """Run all queued experiments; those that are done leave the queue, and ``dvc exp show`` lists their results.

    Args:
        root: the project.
        options: where and how.

    Raises:
        HarveysegError: when an experiment fails; it stays queued. See also
            :func:`harveyseg.scaling.cluster.run_experiments`.
        KeyboardInterrupt: after a signal, when nothing is running any more.
    """
    failed: dict[str, str] = {}

    def end(name: str, reason: str) -> None:
        if not reason:
            try:
                _leave_queue(root, queued[name])
            except HarveysegError as error:
                reason = str(error)
        if reason:
            failed[name] = reason

    with interrupted_by_signals(), experiment_folder(root, "queue") as copies:
        _require_no_workers(root)
        queued = {entry.name: entry for entry in queued_experiments(root)}
        logger.info("%d experiments are queued.", len(queued))
        failed |= {name: reason for name, entry in queued.items() for reason in _refusal(entry)}
        taken = {name: entry for name, entry in queued.items() if name not in failed}
        experiments = {name: _prepare(copies, entry) for name, entry in taken.items()}
        run_experiments(copies, experiments, {name: entry.params for name, entry in taken.items()}, options, end)
    if failed:
        raise HarveysegError(
            "\n".join(
                [
                    f"{len(failed)} of {len(queued)} experiments failed, and stay queued:",
                    *(f"  {name}: {reason}" for name, reason in failed.items()),
                    "Correct the cause, then run the same command again, or drop them with `dvc queue remove NAME`.",
                ]
            )
        )


def _require_no_workers(root: Path) -> None:
    """Refuse to work on the queue while DVC's own workers do."""
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        active = [str(entry.name) for entry in repo.experiments.celery_queue.iter_active()]
    if active:
        raise HarveysegError(
            f"{', '.join(active)}: `dvc queue start` works on the queue. Stop it with `dvc queue stop`."
        )


def _prepare(copies: ExperimentFolder, entry: QueuedExperiment) -> Experiment:
    """A clone of the project as it was when the experiment was queued, with its edits staged."""
    folder = copies.folder / "queued" / entry.name
    project = clone_project(copies.root, folder)
    git(folder, "checkout", "--quiet", "--force", "--detach", entry.baseline)
    git(folder, "read-tree", "--reset", "-u", entry.stash)
    git(project, "rm", "--force", "--quiet", "--ignore-unmatch", _PACKED)
    return Experiment(
        name=entry.name,
        repository=folder,
        inside=project.relative_to(folder),
        inputs=input_paths(entry.params),
        before=shared_stages(project, entry.targets),
        targets=entry.targets,
        message=entry.message,
    )


def _leave_queue(root: Path, entry: QueuedExperiment) -> None:
    command = [sys.executable, "-m", "dvc", "queue", "remove", entry.stash[:7]]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise HarveysegError(f"done, but `dvc queue remove {entry.stash[:7]}` failed: {done.stderr.strip()}")
