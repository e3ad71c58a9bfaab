"""All items of the matrix as tasks of Ray, on one machine or on several."""

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from harveyseg.config.settings import load, section
from harveyseg.errors import HarveysegError
from harveyseg.scaling.copies import interrupted_by_signals, stage_environment
from harveyseg.scaling.engine import LOCAL, Task, connected, list_machines, resolve_on, run_tasks
from harveyseg.scaling.experiments import Experiment, ExperimentFolder, KilledError, pipeline_of
from harveyseg.scaling.items import (
    PIPELINE,
    matrix_items,
    pipeline_name,
    plan_items,
    require_upstream,
    unfinished_stages,
)
from harveyseg.scaling.machines import (
    Item,
    Machine,
    describe_plan,
    local_machine,
    plan_experiments,
    plan_resources,
    require_equal_devices,
    require_room,
    resolve_settings,
)
from harveyseg.scaling.parcel import Parcel, pack_project, unpack_project
from harveyseg.scaling.view import ItemsView
from harveyseg.scaling.work import work
from harveyseg.tracking.client import TrackingParams, open_tracker
from harveyseg.tracking.mirror import close_abandoned
from harveyseg.tracking.query import PIPELINE as PIPELINE_TAG
from harveyseg.tracking.query import running_trainings

logger = logging.getLogger(__name__)

LOGS = Path(".dvc", "tmp", "cluster")
"""What each item prints, ``<item>.log``."""

_KILLED = 128
"""Exit statuses from here on are those of killed processes."""


@dataclass(frozen=True)
class ClusterOptions:
    """Where items run, and how."""

    address: str = LOCAL
    """See :func:`harveyseg.scaling.engine.connected`."""
    gpus: float | None = None
    """See :func:`harveyseg.scaling.machines.plan_resources`."""
    retries: int = 2
    """How often an item begins again whose process or machine was lost."""
    mixed_devices: bool = False
    """Whether machines may compute on different devices or in different precision."""
    pull: bool = False
    """Whether the machines share no disk with the project, so that DVC's remote brings inputs and takes results."""


def pending_items(root: Path) -> dict[str, tuple[str, ...]]:
    """The items of the matrix that are not up to date, e.g. ``unet-0``, and their stages in the order of the pipeline.

    Raises:
        HarveysegError: when a stage before the matrix has to run first, or the pipeline has no matrix.
    """
    items = matrix_items(root)
    plan = plan_items(root, [stage for stages in items.values() for stage in stages])
    require_upstream(root, plan)
    unfinished = unfinished_stages(root, plan.items)
    return {
        item: tuple(stage for stage in plan.items if stage in stages)
        for item, stages in items.items()
        if unfinished.intersection(stages)
    }


def describe_matrix(root: Path, items: Mapping[str, Sequence[str]], options: ClusterOptions) -> list[str]:
    """What :func:`run_matrix` would run where; without a cluster, nothing is started for that.

    Raises:
        HarveysegError: when the machines lack what an item needs, or would compute differently.
    """
    planned, machines = _look(partial(plan_resources, load(root / "params.yaml"), items, options.gpus), options)
    return describe_plan(planned, machines, {name: item.stages for name, item in planned.items()})


def describe_experiments(
    params: Mapping[str, Mapping[str, Any]], changes: Mapping[str, Sequence[str]], options: ClusterOptions
) -> list[str]:
    """What :func:`run_experiments` would run where; without a cluster, nothing is started for that.

    Args:
        params: the settings of each experiment.
        changes: what is said of each.
        options: where and how.

    Raises:
        HarveysegError: when the machines lack what an experiment needs, or would compute differently.
    """
    planned, machines = _look(partial(plan_experiments, params, options.gpus), options)
    return describe_plan(planned, machines, changes, "experiments")


def _look(plan: Callable[[bool], dict[str, Item]], options: ClusterOptions) -> tuple[dict[str, Item], list[Machine]]:
    """What would run, and the machines that can take it."""
    if options.address != LOCAL:
        with connected(options.address) as ray:
            return _plan(ray, plan, options)
    here = local_machine()
    planned = plan(here.gpus > 0)
    processors, resolved = resolve_settings(_settings(planned))
    machines = [replace(here, processors=processors, resolved=resolved)]
    _check(planned, machines, options)
    return planned, machines


def run_matrix(root: Path, items: Mapping[str, Sequence[str]], options: ClusterOptions) -> None:
    """Run items on Ray's cluster, or on this machine where there is none, then ``dvc repro`` in the project.

    Args:
        root: the project, on a disk that all machines share unless ``options.pull`` is set.
        items: as :func:`pending_items` returns them.
        options: where and how.

    Raises:
        HarveysegError: when Ray is missing, no machine has what an item needs, machines would compute differently, or
            items failed; DVC then runs nothing.
        KeyboardInterrupt: after a signal, when nothing is running any more.
    """
    os.environ.setdefault(PIPELINE, pipeline_name(root))  # for the items on all machines, and for `dvc repro`
    if items:
        project = pack_project(root) if options.pull else root
        with connected(options.address) as ray, interrupted_by_signals():
            plan = partial(plan_resources, load(root / "params.yaml"), items, options.gpus)
            planned, machines = _plan(ray, plan, options)
            if options.pull:
                _push_inputs(root, planned)
            else:
                _warn_of_database(machines)
            try:
                failed = _run_items(ray, root, project, planned, machines, options)
            finally:
                _close_lost_runs(root, [os.environ[PIPELINE]])
        if failed:
            logs = "\n".join(f"  {item}: {reason}" for item, reason in failed.items())
            raise HarveysegError(
                f"{len(failed)} of {len(items)} items failed:\n{logs}\nCorrect the cause, then run the same command "
                "again; what is done is not repeated."
            )
    if _dvc(root, "repro", *(["--pull"] if options.pull else [])):
        raise HarveysegError("`dvc repro` failed after all items were done; the reason is above.")


def _push_inputs(root: Path, items: Mapping[str, Item]) -> None:
    """Bring DVC's remote what the items read."""
    inputs = plan_items(root, [stage for item in items.values() for stage in item.stages]).inputs
    if _dvc(root, "push", *inputs):
        raise HarveysegError(f"`dvc push {' '.join(inputs)}` failed; the reason is above.")


def _dvc(root: Path, *arguments: str) -> int:
    """Run DVC in the project; returns its exit status."""
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(command, cwd=root, env=stage_environment(root), check=False).returncode


def run_experiments(
    copies: ExperimentFolder,
    experiments: Mapping[str, Experiment],
    params: Mapping[str, Mapping[str, Any]],
    options: ClusterOptions,
    ended: Callable[[str, str], None],
) -> None:
    """Run experiments on Ray's cluster, each as a whole on one machine at a time.

    Args:
        copies: on a disk that all machines share.
        experiments: by name.
        params: the settings of each.
        options: where and how.
        ended: called in this process with an experiment's name and why it failed; empty if it did not.

    Raises:
        HarveysegError: see :func:`run_matrix`; not for an experiment that fails.
        KeyboardInterrupt: after a signal, when nothing is running any more.
    """
    if not experiments:
        return
    with connected(options.address) as ray, interrupted_by_signals():
        planned, machines = _plan(ray, partial(plan_experiments, params, options.gpus), options)
        _warn_of_database(machines)
        known = _known(machines)
        tasks = {
            name: Task(
                run_experiment,
                (copies, experiment, known, _agreed(planned[name], machines, options)),
                planned[name].needs,
            )
            for name, experiment in experiments.items()
        }
        pipelines = [pipeline_of(name, experiment.repository) for name, experiment in experiments.items()]
        logs = {name: copies.log(name) for name in experiments}
        for log in logs.values():
            log.unlink(missing_ok=True)
        with ItemsView(logs) as view:

            def end(name: str, reason: str) -> None:
                view.finish(name, reason)
                ended(name, reason)

            try:
                run_tasks(ray, tasks, options.retries, end, view.refresh)
            finally:
                _close_lost_runs(copies.root, pipelines)


def run_experiment(
    copies: ExperimentFolder, experiment: Experiment, known: Sequence[str], resolved: Mapping[tuple[str, str], str]
) -> str:
    """Run one experiment where Ray puts it; see :func:`run_item`.

    Returns:
        Why it failed; empty if it did not.

    Raises:
        RuntimeError: when its process was killed, so that Ray tries again.
    """
    if difference := _difference(known, resolved):
        return difference
    try:
        copies.run(experiment)
    except KilledError as error:
        raise RuntimeError(str(error)) from None
    except HarveysegError as error:
        return str(error)
    return ""


def _known(machines: Sequence[Machine]) -> tuple[str, ...]:
    return tuple(machine.node for machine in machines)


def _agreed(item: Item, machines: Sequence[Machine], options: ClusterOptions) -> dict[tuple[str, str], str]:
    """What an item's settings become on all machines that can take it; empty if that may differ."""
    able = next(machine for machine in machines if machine.takes(item.needs))
    return {} if options.mixed_devices else {pair: able.resolved[pair] for pair in item.devices.values()}


def _difference(known: Sequence[str], resolved: Mapping[tuple[str, str], str]) -> str:
    """Why this machine must not take an item: it joined later, and would compute differently; empty if it may."""
    import ray

    if ray.get_runtime_context().get_node_id() in known or (found := resolve_settings(resolved)[1]) == resolved:
        return ""
    return f"{socket.gethostname()} joined later, and has {found}, not {resolved}"


def _settings(items: Mapping[str, Item]) -> set[tuple[str, str]]:
    return {pair for item in items.values() for pair in item.devices.values()}


def _plan(
    ray: Any, plan: Callable[[bool], dict[str, Item]], options: ClusterOptions
) -> tuple[dict[str, Item], list[Machine]]:
    """What runs, and the machines that can take it, which have been asked what the settings become there."""
    machines = list_machines(ray)
    planned = plan(any(machine.gpus for machine in machines))
    machines = resolve_on(ray, machines, _settings(planned))
    _check(planned, machines, options)
    return planned, machines


def _check(items: Mapping[str, Item], machines: Sequence[Machine], options: ClusterOptions) -> None:
    require_room(items, machines)
    if not options.mixed_devices:
        require_equal_devices(items, machines)
    used = [machine for machine in machines if any(machine.takes(item.needs) for item in items.values())]
    if len({machine.processors for machine in used}) > 1:
        found = "; ".join(f"{machine.name}: {', '.join(machine.processors)}" for machine in used)
        logger.warning("The machines have different processors, so results can differ in the last digits (%s).", found)


def _warn_of_database(machines: Sequence[Machine]) -> None:
    """Say that a file on a network disk is no database for several machines."""
    if len({machine.host for machine in machines}) > 1 and not os.environ.get("MLFLOW_TRACKING_URI"):
        logger.warning(
            "Several machines would write to one SQLite file, which network disks damage. Start MLflow's server and "
            "name it in MLFLOW_TRACKING_URI (docs/team.md)."
        )


def _progress_of(params: Path) -> Callable[[], Mapping[str, object]]:
    """What to ask how far the items' trainings are."""
    if "tracking" not in load(params):
        return dict
    tracker = open_tracker(section(params, "tracking", TrackingParams))
    return lambda: running_trainings(tracker, PIPELINE_TAG, os.environ[PIPELINE])


def _close_lost_runs(root: Path, pipelines: Collection[str]) -> None:
    """Close the runs of trainings that were lost with their machine, now that none of these pipelines is running."""
    params = root / "params.yaml"
    if "tracking" in load(params):
        for line in close_abandoned(open_tracker(section(params, "tracking", TrackingParams)), (), pipelines):
            logger.info("%s", line)


def run_item(
    item: str,
    stages: Sequence[str],
    project: Path | Parcel,
    known: Sequence[str],
    resolved: Mapping[tuple[str, str], str],
) -> str:
    """Run one item's stages where Ray puts it.

    Args:
        item: its name.
        stages: in the order in which they run.
        project: on a disk that this machine shares, or to be worked on here over DVC's remote.
        known: the machines that were asked what the settings become there.
        resolved: what that is; empty if it may differ.

    Returns:
        Why it failed; empty if it did not.

    Raises:
        RuntimeError: when the process was killed, e.g. for lack of memory, so that Ray tries again.
    """
    if difference := _difference(known, resolved):
        return difference
    try:
        root = unpack_project(project) if isinstance(project, Parcel) else project
    except HarveysegError as error:
        return str(error)
    log = root / LOGS / f"{item}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as opened:
        print(f"{socket.gethostname()}: begins", file=opened, flush=True)
        status = work(stages, root, isinstance(project, Parcel), opened)
        print(f"{socket.gethostname()}: exit status {status}", file=opened, flush=True)
    reason = f"exit status {status} ({socket.gethostname()}:{log})" if status else ""
    if status >= _KILLED:
        raise RuntimeError(reason)
    return reason


def _run_items(
    ray: Any,
    root: Path,
    project: Path | Parcel,
    items: Mapping[str, Item],
    machines: Sequence[Machine],
    options: ClusterOptions,
) -> dict[str, str]:
    """Run all items and show them; returns those that failed, and why."""
    logs = {item: root / LOGS / f"{item}.log" for item in items}
    for log in logs.values():
        log.unlink(missing_ok=True)
    known = _known(machines)
    stored = ray.put(project)
    tasks = {
        name: Task(run_item, (name, item.stages, stored, known, _agreed(item, machines, options)), item.needs)
        for name, item in items.items()
    }
    with ItemsView(logs, _progress_of(root / "params.yaml")) as view:
        return run_tasks(ray, tasks, options.retries, view.finish, view.refresh)
