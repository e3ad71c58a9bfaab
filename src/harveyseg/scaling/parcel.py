"""The project for machines that share no disk with it: sent as git's history and a few files.

Photos and results travel over DVC's remote.
"""

import hashlib
import os
import socket
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harveyseg.errors import HarveysegError
from harveyseg.files import locked, write_text
from harveyseg.scaling.copies import (
    LOCAL_SETTINGS,
    UNTRACKED,
    apply_changes,
    check_out,
    find_repository,
    git,
    processes_in,
    read_changes,
    remote_addresses,
    set_storage,
)

_FILES = (*UNTRACKED, str(LOCAL_SETTINGS))
"""Files that travel beside git's history."""


@dataclass(frozen=True)
class Parcel:
    """A project as it is now, without its data."""

    name: str
    """Of the project's folder on each machine."""
    commit: str
    history: bytes
    """A bundle of git, up to the commit."""
    changes: bytes
    """Those that are not committed."""
    inside: Path
    """The project in the repository."""
    files: Mapping[str, bytes]
    remotes: Mapping[str, str]
    """Addresses of DVC's remotes by name."""

    @property
    def state(self) -> str:
        """A digest of all that can differ between two parcels of a project."""
        content = (self.commit, self.changes, sorted(self.files.items()), sorted(self.remotes.items()))
        return hashlib.sha256(repr(content).encode()).hexdigest()


def pack_project(root: Path) -> Parcel:
    """Read the project as it is now.

    Raises:
        HarveysegError: when it is no git repository, nothing is committed, history is missing, or no remote is set.
    """
    repository = find_repository(root)
    if git(repository, "rev-parse", "--is-shallow-repository") == "true":
        raise HarveysegError(f"{repository}: lacks a part of git's history. Run `git fetch --unshallow`.")
    remotes = remote_addresses(root)
    if not remotes:
        raise HarveysegError(
            f"{root}: --pull needs a remote of DVC that all machines reach. Set one with `dvc remote add --default`."
        )
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder, "history")
        git(repository, "bundle", "create", "--quiet", str(bundle), "HEAD")
        history = bundle.read_bytes()
    place = hashlib.sha256(f"{socket.gethostname()} {root}".encode()).hexdigest()[:8]
    return Parcel(
        name=f"{root.name}-{place}",
        commit=git(repository, "rev-parse", "HEAD"),
        history=history,
        changes=read_changes(repository),
        inside=root.relative_to(repository.resolve()),
        files={name: (root / name).read_bytes() for name in _FILES if (root / name).exists()},
        remotes=remotes,
    )


def unpack_project(parcel: Parcel) -> Path:
    """Make the project on this machine, or bring it to the state of the parcel; its cache and checkpoints stay.

    Returns:
        The project, below ``$XDG_CACHE_HOME/harveyseg`` (``~/.cache/harveyseg``).

    Raises:
        HarveysegError: when something works on another state of it.
    """
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = caches / "harveyseg" / parcel.name
    repository, state = folder / "repository", folder / "state"
    project = repository / parcel.inside
    with locked(folder / "lock"):
        if state.exists() and state.read_text(encoding="utf-8") == parcel.state:
            return project
        if repository.exists() and processes_in(repository):
            raise HarveysegError(
                f"{socket.gethostname()}:{repository}: another command works there with other settings or code. Wait "
                "until it ends, or stop it."
            )
        state.unlink(missing_ok=True)
        repository.mkdir(exist_ok=True)
        history = folder / "history"
        history.write_bytes(parcel.history)
        git(repository, "init", "--quiet")
        check_out(repository, history)
        history.unlink()
        apply_changes(repository, parcel.changes)
        for name, content in parcel.files.items():
            (project / name).write_bytes(content)
        set_storage(project, str(folder / "cache"), parcel.remotes)
        write_text(state, parcel.state)
    return project
