"""What an item occupies, and on which device and in which precision each machine would compute it."""

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from harveyseg.device import compute_environment, resolve_device, resolve_precision
from harveyseg.errors import HarveysegError

THIS_MACHINE = "this machine"
_NO_GPU = "no CUDA device"
_SEVERAL = ", "


@dataclass(frozen=True)
class Needs:
    """What one item occupies while it runs."""

    cpus: int
    gpus: float

    def __str__(self) -> str:
        """E.g. ``2 cores, 1 GPU``."""
        cores = "1 core" if self.cpus == 1 else f"{self.cpus} cores"
        return f"{cores}, {self.gpus:g} GPU" if self.gpus else cores


@dataclass(frozen=True)
class Item:
    """One item: its stages, what it occupies, and the settings that say on which device it computes."""

    stages: tuple[str, ...]
    """In the order in which they run."""
    needs: Needs
    devices: Mapping[str, tuple[str, str]]
    """Section of the settings -> its ``device`` and ``precision``."""


@dataclass(frozen=True)
class Machine:
    """A machine that can take items."""

    node: str
    """Ray's id."""
    host: str
    """Its name in the network."""
    name: str
    """As messages call it."""
    cores: float
    gpus: float
    processors: tuple[str, ...] = ()
    resolved: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """(device, precision) of the settings -> what they become here, e.g. ``cuda bf16``."""

    def takes(self, needs: Needs) -> int:
        """How many items that occupy so much run here at a time."""
        rooms = [self.cores // needs.cpus]
        if needs.gpus:
            rooms.append(self.gpus // needs.gpus if needs.gpus >= 1 else int(self.gpus) * (1 // needs.gpus))
        return int(min(rooms))

    def __str__(self) -> str:
        """E.g. ``box (10.0.0.2): 8 cores, 2 GPUs (NVIDIA A100)``."""
        gpus = f", {self.gpus:g} GPUs" if self.gpus else ""
        processors = f" ({', '.join(self.processors)})" if self.processors else ""
        return f"{self.name}: {self.cores:g} cores{gpus}{processors}"


def plan_resources(
    params: Mapping[str, Any], items: Mapping[str, Sequence[str]], gpus: float | None, has_gpus: bool
) -> dict[str, Item]:
    """What each item occupies: the threads of its settings, and a GPU where they mean one.

    Args:
        params: the settings.
        items: ``<model>-<fold>`` -> the item's stages.
        gpus: of one item, e.g. 0.5 for two items on a GPU; by ``device`` if None.
        has_gpus: whether any machine has a GPU, which ``device: auto`` then means on all of them.
    """
    return {item: _plan_item(params, item, tuple(stages), gpus, has_gpus) for item, stages in items.items()}


def plan_experiments(params: Mapping[str, Mapping[str, Any]], gpus: float | None, has_gpus: bool) -> dict[str, Item]:
    """What each experiment occupies, which trains its models one after the other: as much as the largest one needs.

    Args:
        params: the settings of each.
        gpus: see :func:`plan_resources`.
        has_gpus: see there.
    """
    return {name: _plan_experiment(settings, gpus, has_gpus) for name, settings in params.items()}


def _plan_experiment(params: Mapping[str, Any], gpus: float | None, has_gpus: bool) -> Item:
    models = plan_resources(params, {f"{name}-0": () for name in params.get("models") or {"": None}}, gpus, has_gpus)
    needs = [item.needs for item in models.values()]
    devices = {
        f"{section} of {name.removesuffix('-0')}": pair
        for name, item in models.items()
        for section, pair in item.devices.items()
    }
    largest = Needs(max(need.cpus for need in needs), max(need.gpus for need in needs))
    return Item((), largest, devices)


def _plan_item(
    values: Mapping[str, Any], item: str, stages: tuple[str, ...], gpus: float | None, has_gpus: bool
) -> Item:
    train, inference = (dict(values.get(name) or {}) for name in ("train", "inference"))
    entry = (values.get("models") or {}).get(item.rpartition("-")[0])
    own = (entry.get("train") if isinstance(entry, Mapping) else None) or {}
    sections = {"train": train | own, "inference": inference}
    devices = {
        name: (str(settings.get("device", "cpu")), str(settings.get("precision", "auto")))
        for name, settings in sections.items()
        if settings
    }
    threads = max(int(settings.get("threads") or 1) for settings in sections.values())
    wanted = {device for device, _ in devices.values()}
    is_cuda = "cuda" in wanted or ("auto" in wanted and has_gpus)
    return Item(stages, Needs(threads, float(is_cuda) if gpus is None else gpus), devices)


def local_machine() -> Machine:
    """This machine, without Ray."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Machine("", THIS_MACHINE, THIS_MACHINE, cores, torch.cuda.device_count())


def resolve_settings(settings: Iterable[tuple[str, str]]) -> tuple[tuple[str, ...], dict[tuple[str, str], str]]:
    """What settings become on the machine that runs this.

    Args:
        settings: pairs of ``device`` and ``precision``.

    Returns:
        The processors' names, those of the GPUs where there are any; and each pair's meaning, e.g. ``cuda bf16``, or
        several where the machine has different GPUs.
    """
    gpus = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    names = [compute_environment(device)["device_name"] for device in gpus or [torch.device("cpu")]]
    return tuple(dict.fromkeys(names)), {pair: _resolve(*pair, gpus) for pair in settings}


def _resolve(device: Any, precision: Any, gpus: Sequence[torch.device]) -> str:
    try:
        kind = resolve_device(device).type
    except HarveysegError:
        return _NO_GPU
    meanings: dict[str, None] = {}
    for resolved in gpus if kind == "cuda" else [torch.device("cpu")]:
        try:
            with torch.cuda.device(resolved) if kind == "cuda" else nullcontext():  # torch asks the current one
                meanings[f"{kind} {resolve_precision(precision, resolved)}"] = None
        except HarveysegError:
            meanings[f"{kind} without {precision}"] = None
    return _SEVERAL.join(meanings)


def require_equal_devices(items: Mapping[str, Item], machines: Sequence[Machine]) -> None:
    """Refuse machines that would compute items on different devices or in different precision.

    Args:
        items: what is going to run.
        machines: with what they resolve the settings to.

    Raises:
        HarveysegError: which names the settings, the machines, and what each has.
    """
    if mixed := mixed_devices(items, machines):
        raise HarveysegError(
            "\n".join(
                [
                    "The machines would compute differently, so scores would depend on where an item runs:",
                    *mixed,
                    "Set device and precision to what all of them have, e.g. `precision: fp32`, take machines out of "
                    "the cluster, or accept it with --mixed-devices.",
                ]
            )
        )


def mixed_devices(items: Mapping[str, Item], machines: Sequence[Machine]) -> list[str]:
    """The settings that do not become the same on all machines that can take an item, and what each machine has."""
    mixed: dict[str, None] = {}
    for item in items.values():
        able = [machine for machine in machines if machine.takes(item.needs)]
        for section, pair in item.devices.items():
            meanings = {machine.resolved[pair] for machine in able}
            if len(meanings) > 1 or any(_SEVERAL in meaning for meaning in meanings):
                found = "; ".join(f"{machine.name} has {machine.resolved[pair]}" for machine in able)
                mixed[f"  {section}: device {pair[0]}, precision {pair[1]}: {found}"] = None
    return list(mixed)


def require_room(items: Mapping[str, Item], machines: Sequence[Machine]) -> None:
    """Refuse an item that no machine can take: Ray would wait for ever.

    Raises:
        HarveysegError: which says what the item needs, and what the machines have.
    """
    for name, item in items.items():
        if not any(machine.takes(item.needs) for machine in machines):
            has = "; ".join(map(str, machines))
            raise HarveysegError(
                f"{name} needs {item.needs}, and no machine has that ({has}). Lower train.threads and "
                "inference.threads, set device to cpu, or add a machine."
            )


def describe_plan(
    items: Mapping[str, Item], machines: Sequence[Machine], what: Mapping[str, Sequence[str]], kind: str = "items"
) -> list[str]:
    """What would run where: a line for each item, and one for each machine.

    Args:
        items: what would run.
        machines: with what they resolve the settings to.
        what: is said of each item.
        kind: what the items are called.
    """
    lines = [f"{name}: {', '.join(what[name])} ({item.needs})" for name, item in items.items()]
    for machine in machines:
        kinds: dict[Needs, dict[str, None]] = {}
        for item in items.values():
            meanings = kinds.setdefault(item.needs, {})
            meanings |= {
                f"{name} on {machine.resolved[pair].replace(' ', ' in ', 1)}": None
                for name, pair in item.devices.items()
            }
        takes = [
            f"{machine.takes(needs)} at a time of {needs}"
            + (f" ({', '.join(meanings)})" if meanings and machine.takes(needs) else "")
            for needs, meanings in kinds.items()
        ]
        lines.append("; ".join([str(machine), *takes]))
    return [*lines, f"{len(items)} {kind}. A machine takes the next one as soon as it has room."]
