"""Which command of DVC works in the project now: what the workspace holds changes under whoever reads it."""

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from harveyseg.errors import HarveysegError


@dataclass(frozen=True)
class RunningCommand:
    """A command of DVC."""

    pid: int
    command: str
    """E.g. ``dvc repro``."""
    writes: str
    """The folder or file, from the project's root, that its stage writes now."""


def running_stages(root: Path) -> list[RunningCommand]:
    """The commands of DVC that run a stage in the project now; its folders for experiments do not count.

    Args:
        root: the project's root.
    """
    writing: dict[int, list[str]] = {}
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):  # absent, or half written
        locks = json.loads((root / ".dvc" / "tmp" / "rwlock").read_text(encoding="utf-8"))
        for path, info in locks["write"].items():
            writing.setdefault(int(info["pid"]), []).append(os.path.relpath(path, root.resolve()))
    commands = ((pid, _command_of(pid), os.path.commonpath(paths)) for pid, paths in writing.items())
    return [RunningCommand(pid, command, writes) for pid, command, writes in commands if command]


def locked_message(root: Path, then: str) -> str:
    """The error where DVC's lock cannot be had.

    Args:
        root: the project's root.
        then: what the user can do later, e.g. "run `harveyseg status` again".
    """
    if running := running_stages(root):
        return _busy(running[0], then)
    holder = "another command of DVC"
    with suppress(OSError, ValueError):  # DVC can be set to other locks, which name no process
        pid = int((root / ".dvc" / "tmp" / "lock").read_text(encoding="utf-8"))
        holder = f"`{command}` (process {pid})" if (command := _command_of(pid)) else holder
    return f"{root}: {holder} has locked the project, as DVC does for moments. Wait a little, then {then}."


def require_idle(root: Path, then: str) -> None:
    """Refuse to read results that a stage is about to replace.

    Args:
        root: the project's root.
        then: what the user can do once nothing runs, e.g. "run `harveyseg summary`".

    Raises:
        HarveysegError: when DVC runs a stage in the project.
    """
    if running := running_stages(root):
        raise HarveysegError(_busy(running[0], then))


def _busy(running: RunningCommand, then: str) -> str:
    what = f"`{running.command}` (process {running.pid})"
    return f"{running.writes}: {what} writes it now. Wait until that command has ended, then {then}."


def _command_of(pid: int) -> str:
    """A process' command from ``dvc`` on; empty for one that has ended or is none of DVC's."""
    try:
        words = psutil.Process(pid).cmdline()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return ""
    start = next((place for place, word in enumerate(words) if Path(word).name == "dvc"), None)
    return "" if start is None else " ".join(["dvc", *words[start + 1 :]])
