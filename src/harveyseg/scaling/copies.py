"""Copies of the project in which DVC can work as it likes: clones that share the project's cache and its remotes.

Importing DVC takes a second, so it is imported only in functions.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import IO

import psutil  # type: ignore[import-untyped]

from harveyseg.errors import HarveysegError
from harveyseg.files import copy_file, locked
from harveyseg.project import git_output, git_problem

LOCAL_SETTINGS = Path(".dvc", "config.local")
"""DVC's settings that are not in git."""
UNTRACKED = ("params.yaml", "dvc.lock")
"""Files that need not be in git, or not as they are now."""
_SECONDS_TO_STOP = 30
"""For a training to record that it was stopped."""
_SECONDS_BETWEEN_LOOKS = 0.2


def clone_project(root: Path, folder: Path) -> Path:
    """Clone the project's repository, which may begin above the project, with uncommitted changes of tracked files.

    Args:
        root: the project.
        folder: of the clone; it must not exist.

    Returns:
        The project in the clone. DVC uses the original's cache and remotes there.

    Raises:
        HarveysegError: when the project is no git repository, or nothing is committed.
    """
    repository = find_repository(root)
    git(root, "clone", "--quiet", "--shared", str(repository), str(folder))
    return _make_equal(root, repository, folder)


def find_repository(root: Path) -> Path:
    """The folder of the project's git repository, which may begin above the project.

    Raises:
        HarveysegError: when there is none, or nothing is committed.
    """
    if problem := git_problem(root):
        raise HarveysegError("{}. {}.".format(*problem))
    if git_output(root, "rev-parse", "HEAD") is None:
        raise HarveysegError(
            f"{root}: nothing is committed, which DVC's experiments need. Run `git add -A && git commit -m start`."
        )
    return Path(git(root, "rev-parse", "--show-toplevel"))


def read_changes(repository: Path) -> bytes:
    """The uncommitted changes of tracked files, as a patch."""
    command = ["git", "-C", str(repository), "diff", "--binary", "HEAD"]
    return subprocess.run(command, capture_output=True, check=True).stdout


def apply_changes(repository: Path, changes: bytes) -> None:
    """Make the changes of :func:`read_changes` in a clone of the commit."""
    if changes:
        command = ["git", "-C", str(repository), "apply", "--whitespace=nowarn"]
        subprocess.run(command, input=changes, capture_output=True, check=True)


def renew_clone(root: Path, folder: Path) -> Path:
    """Make a clone, in which nothing works any more, equal to the project as it is now; results in it stay.

    Args:
        root: the project.
        folder: of the clone that :func:`clone_project` made.

    Returns:
        See :func:`clone_project`.

    Raises:
        HarveysegError: when it is not whole, as its process was killed while it cloned.
    """
    repository = Path(git(root, "rev-parse", "--show-toplevel"))
    check_out(folder, repository)
    project = _make_equal(root, repository, folder)
    shutil.rmtree(project / ".dvc" / "tmp", ignore_errors=True)  # locks of the killed process
    return project


def check_out(folder: Path, source: Path) -> None:
    """Bring a repository to the commit of another one, or of a bundle; files that git ignores stay."""
    git(folder, "fetch", "--quiet", str(source), "HEAD")
    git(folder, "reset", "--quiet", "--hard", "FETCH_HEAD")
    git(folder, "clean", "--quiet", "--force", "-d")


def _make_equal(root: Path, repository: Path, folder: Path) -> Path:
    """Bring a clone of the commit the uncommitted changes, the author and DVC's storage; returns the project in it."""
    apply_changes(folder, read_changes(repository))
    for key in ("user.name", "user.email"):
        with suppress(HarveysegError):  # not set
            git(folder, "config", key, git(root, "config", key))
    project = folder / root.relative_to(repository.resolve())
    _share_storage(root, project)
    return project


def _share_storage(root: Path, project: Path) -> None:
    """Let DVC use the cache and the remotes of the project, whose settings may hold relative paths."""
    from dvc.repo import Repo

    local_settings = root / LOCAL_SETTINGS
    if local_settings.exists():
        copy_file(local_settings, project / LOCAL_SETTINGS)
    with Repo(str(root)) as repo:
        cache = repo.cache.legacy.path
    set_storage(project, cache, remote_addresses(root))


def remote_addresses(root: Path) -> dict[str, str]:
    """The addresses of DVC's remotes by name; where they are paths, absolute ones."""
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        return {name: str(remote["url"]) for name, remote in repo.config["remote"].items()}


def set_storage(project: Path, cache: str, remotes: Mapping[str, str]) -> None:
    """Say in the settings of this checkout only where DVC's cache and remotes are."""
    from dvc.config import Config

    with Config(str(project / ".dvc")).edit("local") as settings:
        settings["cache"]["dir"] = cache
        for name, url in remotes.items():
            settings["remote"].setdefault(name, {})["url"] = url


def adding_to_cache(root: Path) -> AbstractContextManager[None]:
    """Keep others in the project from adding to DVC's cache in this ``with`` block.

    Where two commands add the same object at once, DVC tries a reflink onto the object that is there already, and
    deletes it when the file system has no reflinks.
    """
    return locked(root / ".locks" / "cache.lock")


def worker_copies(root: Path) -> Path:
    """The folder of all workers' copies: ``ITEMS/HOST-PID-...``."""
    return root / ".dvc" / "tmp" / "work"


def copy_prefix(pid: int | None = None) -> str:
    """How the names of copies begin that one process of this machine works in, or any of its processes."""
    return f"{socket.gethostname()}-" + ("" if pid is None else f"{pid}-")


def stage_environment(root: Path) -> dict[str, str]:
    """The environment of DVC in a copy whose stages store checkpoints and the database in the project."""
    # Stages look for `python` on the path, which need not be that of an active environment.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**os.environ, "PATH": path, "HARVEYSEG_ROOT": str(root)}


@contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """SIGTERM and a closed terminal end the ``with`` block as Ctrl-C does."""
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, signal.default_int_handler) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def remove_copies(folder: Path) -> None:
    """Remove a folder of copies, and first end what works in it."""
    end_processes_in(folder)
    shutil.rmtree(folder, ignore_errors=True)


def end_processes_in(folder: Path) -> None:
    """End all processes that work in a folder: DVC, its stages and their workers."""
    for end in (psutil.Process.terminate, psutil.Process.kill):
        processes = processes_in(folder)
        for process in processes:
            with suppress(psutil.Error):
                end(process)
        psutil.wait_procs(processes, timeout=_SECONDS_TO_STOP)


def processes_in(folder: Path) -> list[psutil.Process]:
    """All processes of this machine that work in a folder."""

    def works_inside(process: psutil.Process) -> bool:
        try:
            return Path(process.cwd()).is_relative_to(folder)
        except (psutil.Error, OSError):  # of another user, or just ended
            return False

    return [process for process in psutil.process_iter() if works_inside(process)]


@contextmanager
def process_group(
    command: Sequence[str], folder: Path, environment: Mapping[str, str], output: IO[str] | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """A command as the leader of a group of processes, of which none is left after this ``with`` block.

    A signal to DVC alone would leave its stage running. The group is a session of its own: Ctrl-C is for this process,
    which then ends the others in order.

    Args:
        command: what to run.
        folder: its working directory.
        environment: its environment.
        output: where it prints; where this process does if None.
    """
    leader = subprocess.Popen(
        command, cwd=folder, env=dict(environment), start_new_session=True, stdout=output, stderr=output
    )
    try:
        yield leader
    finally:
        _end_group(leader)


def wait_for(leader: "subprocess.Popen[bytes]") -> int:
    """The exit status of a process, negative after a signal."""
    while (code := leader.poll()) is None:
        time.sleep(_SECONDS_BETWEEN_LOOKS)  # Ray interrupts this thread between two calls, not in a long one
    return code


def _end_group(leader: "subprocess.Popen[bytes]") -> None:
    """End what is left of a group: DVC, its stage and the processes of that."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + _SECONDS_TO_STOP
        with suppress(ProcessLookupError):  # none is left
            os.killpg(leader.pid, number)
            while time.monotonic() < deadline:
                leader.poll()  # until then its number is taken, and so is the group's
                os.killpg(leader.pid, 0)
                time.sleep(0.05)
            continue
        return


def git(folder: Path, *arguments: str) -> str:
    """What a git command prints in a folder.

    Raises:
        HarveysegError: when it fails.
    """
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise HarveysegError(f"git {arguments[0]} failed in {folder}: {done.stderr.strip()}")
    return done.stdout.strip()
