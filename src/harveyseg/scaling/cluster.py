"""All items of the matrix as tasks of Ray, which counts and pins the GPUs and cores of one machine or of several.

Ray is an extra (``pip install 'harveyseg[ray]'``), imported only in functions.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harveyseg.config.settings import load
from harveyseg.errors import HarveysegError
from harveyseg.scaling.copies import interrupted_by_signals, stage_environment
from harveyseg.scaling.items import matrix_items, plan_items, require_upstream, unfinished_stages
from harveyseg.scaling.view import ItemsView
from harveyseg.scaling.work import work

LOGS = Path(".dvc", "tmp", "cluster")
"""What each item prints, ``<item>.log``."""

_KILLED = 128
"""Exit statuses from here on are those of killed processes."""
_SECONDS_TO_STOP = 90
_SECONDS_BETWEEN_LOOKS = 1.0
_SWITCHES = {
    "RAY_USAGE_STATS_ENABLED": "0",  # Ray would report home
    "RAY_worker_niceness": "0",  # it is 15 by default: everything else on the machine would come first
    "RAY_AUTH_MODE": "token",  # whoever reaches Ray's ports can run code
}


@dataclass(frozen=True)
class Needs:
    """What one item occupies while it runs."""

    cpus: int
    gpus: float

    def __str__(self) -> str:
        """E.g. ``2 cores, 1 GPU``."""
        cores = "1 core" if self.cpus == 1 else f"{self.cpus} cores"
        return f"{cores}, {self.gpus:g} GPU" if self.gpus else cores


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


def item_needs(params: Path, gpus: float | None, has_gpus: bool) -> Needs:
    """What an item occupies: the threads of the settings, and a GPU where the settings mean one.

    Args:
        params: ``params.yaml``.
        gpus: of one item, e.g. 0.5 for two items on a GPU; by ``train.device`` if None.
        has_gpus: whether any machine has a GPU, which ``train.device: auto`` then means on all of them.
    """
    values = load(params)
    sections = [values.get(name) or {} for name in ("train", "inference")]
    threads = max(int(settings.get("threads") or 1) for settings in sections)
    devices = {str(settings.get("device", "cpu")) for settings in sections}
    wanted = "cuda" in devices or ("auto" in devices and has_gpus)
    return Needs(threads, float(wanted) if gpus is None else gpus)


def describe_plan(items: Mapping[str, Sequence[str]], needs: Needs) -> list[str]:
    """What would run: a line for each item, and what each occupies."""
    lines = [f"{item}: {', '.join(stages)}" for item, stages in items.items()]
    return [*lines, f"{len(items)} items of {needs} each"]


def run_matrix(root: Path, items: Mapping[str, Sequence[str]], gpus: float | None, retries: int) -> None:
    """Run items on Ray's cluster, or on this machine where there is none, then ``dvc repro`` in the project.

    Args:
        root: the project, on a disk that all machines share.
        items: as :func:`pending_items` returns them.
        gpus: see :func:`item_needs`.
        retries: how often an item begins again whose process or machine was lost.

    Raises:
        HarveysegError: when Ray is missing, no machine has what an item needs, or items failed; DVC then runs nothing.
        KeyboardInterrupt: after a signal, when nothing is running any more.
    """
    if items:
        with interrupted_by_signals(), _cluster() as ray:
            needs = item_needs(root / "params.yaml", gpus, "GPU" in ray.cluster_resources())
            _require_room(ray.nodes(), needs)
            failed = _run_tasks(ray, root, items, needs, retries)
        if failed:
            logs = "\n".join(f"  {item}: {reason} ({root / LOGS / item}.log)" for item, reason in failed.items())
            raise HarveysegError(
                f"{len(failed)} of {len(items)} items failed:\n{logs}\nCorrect the cause, then run the same command "
                "again; what is done is not repeated."
            )
    if subprocess.run([sys.executable, "-m", "dvc", "repro"], cwd=root, env=stage_environment(root)).returncode:
        raise HarveysegError("`dvc repro` failed after all items were done; the reason is above.")


@contextmanager
def _cluster() -> Iterator[Any]:
    """Ray, connected to the cluster that ``RAY_ADDRESS`` or a ``ray start`` on this machine names, or started here."""
    for name, value in _SWITCHES.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError:
        raise HarveysegError("`harveyseg cluster` needs Ray. Run `pip install 'harveyseg[ray]'`.") from None
    try:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    except ValueError:  # these options are for a cluster that is started, not for one that is there
        ray.init(log_to_driver=False, logging_level="ERROR")
    try:
        yield ray
    finally:
        ray.shutdown()


def _require_room(nodes: Sequence[Mapping[str, Any]], needs: Needs) -> None:
    """Refuse an item that no machine can take: Ray would wait for ever."""
    machines = [node["Resources"] for node in nodes if node["Alive"]]
    if not any(has.get("CPU", 0) >= needs.cpus and has.get("GPU", 0) >= min(needs.gpus, 1) for has in machines):
        has = "; ".join(f"{int(machine.get('CPU', 0))} cores, {machine.get('GPU', 0):g} GPUs" for machine in machines)
        raise HarveysegError(
            f"An item needs {needs}, and no machine has that ({has}). Lower train.threads and inference.threads, set "
            "train.device to cpu, or add a machine."
        )


def run_item(item: str, stages: Sequence[str], root: str) -> int:
    """Run one item's stages where Ray puts it; returns the exit status.

    Raises:
        RuntimeError: when the process was killed, e.g. for lack of memory, so that Ray tries again.
    """
    log = Path(root) / LOGS / f"{item}.log"
    with log.open("a", encoding="utf-8") as opened:
        print(f"{socket.gethostname()}: begins", file=opened, flush=True)
        status = work(stages, Path(root), output=opened)
        print(f"{socket.gethostname()}: exit status {status}", file=opened, flush=True)
    if status >= _KILLED:
        raise RuntimeError(f"{item}: exit status {status}")
    return status


def _run_tasks(ray: Any, root: Path, items: Mapping[str, Sequence[str]], needs: Needs, retries: int) -> dict[str, str]:
    """Run all items and show them; returns those that failed, and why."""
    logs = {item: root / LOGS / f"{item}.log" for item in items}
    (root / LOGS).mkdir(parents=True, exist_ok=True)
    for log in logs.values():
        log.unlink(missing_ok=True)
    task = ray.remote(run_item).options(
        num_cpus=needs.cpus,
        num_gpus=needs.gpus,
        max_retries=retries,
        retry_exceptions=[RuntimeError],
        scheduling_strategy="SPREAD",
    )
    tasks = {task.remote(item, tuple(stages), str(root)): item for item, stages in items.items()}
    failed: dict[str, str] = {}
    try:
        with ItemsView(logs) as view:
            while tasks:
                done, _ = ray.wait(list(tasks), timeout=_SECONDS_BETWEEN_LOOKS)
                for reference in done:
                    item = tasks.pop(reference)
                    reason = _outcome(ray, reference)
                    if reason:
                        failed[item] = reason
                    view.finish(item, reason)
                view.refresh()
    except BaseException:
        for reference in tasks:
            with suppress(Exception):  # it has just ended
                ray.cancel(reference)  # raises KeyboardInterrupt in `work`, which ends the training
        if tasks:
            ray.wait(list(tasks), num_returns=len(tasks), timeout=_SECONDS_TO_STOP)
        raise
    return failed


def _outcome(ray: Any, reference: Any) -> str:
    """Why a task failed; empty if it did not."""
    try:
        status = ray.get(reference)
    except ray.exceptions.RayError as error:
        return str(error).strip().splitlines()[-1]
    return "" if status == 0 else f"exit status {status}"
