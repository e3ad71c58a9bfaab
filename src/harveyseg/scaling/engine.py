"""Ray, which counts and pins GPUs and cores of one machine or of several: connecting to it, and running tasks on it.

Ray is an extra (``pip install 'harveyseg[ray]'``), imported only in functions.
"""

import importlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from harveyseg.errors import HarveysegError
from harveyseg.scaling.machines import Machine, Needs, resolve_settings

logger = logging.getLogger(__name__)

LOCAL = "local"
"""The address of no cluster: Ray is started on this machine, for the time of the command."""

_SWITCHES = {
    "RAY_USAGE_STATS_ENABLED": "0",  # Ray would report home
    "RAY_worker_niceness": "0",  # it is 15 by default: everything else on the machine would come first
    "RAY_AUTH_MODE": "token",  # whoever reaches Ray's ports can run code
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # a task that asks for no GPU would not see which there are
}
_LOOPBACK = "127.0.0.1"
_PASSED_ON = ("HARVEYSEG_", "MLFLOW_", "DVC_", "AWS_", "GIT_AUTHOR_", "GIT_COMMITTER_")
"""How the environment variables begin that tasks on all machines get."""
_SECONDS_TO_STOP = 90
_SECONDS_BETWEEN_LOOKS = 1.0


class Task:
    """One function call that Ray runs somewhere.

    Args:
        function: it returns an exit status, or text that says why it failed; empty or 0 if it did not.
        arguments: what it is called with.
        needs: what it occupies.
    """

    def __init__(self, function: Callable[..., int | str], arguments: tuple[Any, ...], needs: Needs) -> None:
        self.function = function
        self.arguments = arguments
        self.needs = needs


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """Ray, connected to a cluster, or started on this machine, where it then listens on 127.0.0.1 only.

    Args:
        address: ``host:port``, ``auto`` (a ``ray start`` on this machine) or :data:`LOCAL`.

    Raises:
        HarveysegError: when Ray is missing, or no cluster answers there.
    """
    for name, value in _SWITCHES.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError:
        raise HarveysegError("`harveyseg cluster` needs Ray. Run `pip install 'harveyseg[ray]'`.") from None
    passed = {name: value for name, value in os.environ.items() if name.startswith(_PASSED_ON)}
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "runtime_env": {"env_vars": passed}}
    if address == LOCAL:
        with _loopback():
            ray.init(address=LOCAL, include_dashboard=False, _node_ip_address=_LOOPBACK, **common)
    else:
        try:
            ray.init(address=address, **common)
        except Exception as error:  # ConnectionError, ValueError, RuntimeError, AuthenticationError, ...
            raise HarveysegError(
                f"{address}: no Ray cluster answers ({str(error).strip().splitlines()[0]}). Start it with `ray start "
                "--head` there; all machines need the same token (`ray get-auth-token`) and the same versions of Ray "
                "and Python."
            ) from None
    try:
        logger.info("%s", _describe_ports(ray))
        yield ray
    finally:
        ray.shutdown()


@contextmanager
def _loopback() -> Iterator[None]:
    """Let Ray take 127.0.0.1 as this machine's address in this ``with`` block, so that its servers listen there only.

    It replaces that address by a public one, and its servers then listen on all addresses.
    """
    services = importlib.import_module("ray._private.services")
    before = getattr(services, "resolve_ip_for_localhost", None)
    if before is not None:  # else another version of Ray, and _describe_ports says where it listens
        services.resolve_ip_for_localhost = lambda host: host  # type: ignore[attr-defined]
    try:
        yield
    finally:
        if before is not None:
            services.resolve_ip_for_localhost = before  # type: ignore[attr-defined]


def _describe_ports(ray: Any) -> str:
    """On which addresses Ray's servers listen, which goes by the address of their machine."""
    addresses = sorted({str(node["NodeManagerAddress"]) for node in ray.nodes() if node["Alive"]})
    if addresses == [_LOOPBACK]:
        return f"Ray listens on {_LOOPBACK} only."
    guard = "asks for its token" if os.environ["RAY_AUTH_MODE"] == "token" else "ASKS FOR NO TOKEN"
    return f"Ray listens on all addresses of its machines ({', '.join(addresses)}) and {guard}."


def list_machines(ray: Any) -> list[Machine]:
    """The machines of the cluster that can take items, this one first."""
    here = str(ray.get_runtime_context().get_node_id())
    nodes = sorted((node for node in ray.nodes() if node["Alive"]), key=lambda node: node["NodeID"] != here)
    machines = []
    for node in nodes:
        has = node["Resources"]
        host = str(node["NodeManagerHostname"])
        name = f"{host} ({node['NodeManagerAddress']}:{node['NodeManagerPort']})"
        if has.get("CPU"):
            machines.append(Machine(node["NodeID"], host, name, has["CPU"], has.get("GPU", 0)))
    return machines


def resolve_on(ray: Any, machines: Iterable[Machine], settings: Iterable[tuple[str, str]]) -> list[Machine]:
    """Ask each machine what settings become there; see :func:`harveyseg.scaling.machines.resolve_settings`."""
    probe = ray.remote(resolve_settings)
    pairs = sorted(set(settings))
    answers = [(machine, probe.options(num_cpus=0, **_pinned(machine.node)).remote(pairs)) for machine in machines]
    return [
        replace(machine, processors=processors, resolved=resolved)
        for machine, answer in answers
        for processors, resolved in [ray.get(answer)]
    ]


def _pinned(node: str) -> dict[str, Any]:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False)}


def run_tasks(
    ray: Any,
    tasks: Mapping[str, Task],
    retries: int,
    ended: Callable[[str, str], None],
    look: Callable[[], None],
) -> dict[str, str]:
    """Run tasks as machines have room for them; after Ctrl-C, end those that run.

    Args:
        ray: connected.
        tasks: by name.
        retries: how often a task begins again whose process or machine was lost, or that raised ``RuntimeError``.
        ended: called with a task's name and why it failed; empty if it did not.
        look: called about once a second.

    Returns:
        The tasks that failed, and why.
    """
    running = {}
    for name, task in tasks.items():
        remote = ray.remote(task.function).options(
            num_cpus=task.needs.cpus,
            num_gpus=task.needs.gpus,
            max_retries=retries,
            retry_exceptions=[RuntimeError],
            scheduling_strategy="SPREAD",
        )
        running[remote.remote(*task.arguments)] = name
    failed: dict[str, str] = {}
    try:
        while running:
            done, _ = ray.wait(list(running), timeout=_SECONDS_BETWEEN_LOOKS)
            for reference in done:
                name = running.pop(reference)
                reason = _outcome(ray, reference)
                if reason:
                    failed[name] = reason
                ended(name, reason)
            look()
    except BaseException:
        for reference in running:
            with suppress(Exception):  # it has just ended
                ray.cancel(reference)  # raises KeyboardInterrupt in the task, which ends the training
        if running:
            ray.wait(list(running), num_returns=len(running), timeout=_SECONDS_TO_STOP)
        raise
    return failed


def _outcome(ray: Any, reference: Any) -> str:
    """Why a task failed; empty if it did not."""
    try:
        result = ray.get(reference)
    except ray.exceptions.RayError as error:
        return str(error).strip().splitlines()[-1]
    if isinstance(result, str):
        return result
    return "" if result == 0 else f"exit status {result}"
