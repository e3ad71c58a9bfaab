"""The project around the package: its root folder, git's state, DVC's experiment, the versions of libraries."""

import os
import subprocess
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

LIBRARIES = ("albumentations", "dvc", "harveyseg", "mlflow", "numpy", "segmentation-models-pytorch", "torch")


@dataclass(frozen=True)
class GitState:
    """The commit that is checked out, and whether the checkout differs from it."""

    commit: str | None
    """None outside a git repository."""
    dirty: bool
    """Changes in tracked files other than params.yaml and dvc.lock, which each experiment changes by design."""


def git_state(folder: Path) -> GitState:
    """Read git's state. Without git or a repository there is no commit; that is not an error."""

    def git(*arguments: str) -> str | None:
        command = ["git", "-C", str(folder), *arguments]
        try:
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError):
            return None

    commit = git("rev-parse", "HEAD")
    changed = git("status", "--porcelain", "--untracked-files=no")
    if commit is None or changed is None:
        return GitState(None, False)
    names = {line[3:].strip() for line in changed.splitlines()}
    return GitState(commit.strip(), bool(names - {"params.yaml", "dvc.lock"}))


def experiment_name() -> str | None:
    """The name that ``dvc exp show`` prints for the running experiment; None in ``dvc repro``."""
    return os.environ.get("DVC_EXP_NAME") or None


def library_versions() -> dict[str, str]:
    """Versions of the libraries that can change a result."""
    return {name: version(name) for name in LIBRARIES}


def project_root() -> Path:
    """The project's root folder, also inside a queued or temporary DVC experiment.

    Those run in a copy under ``.dvc/tmp``; DVC names the real root in ``DVC_ROOT``. A study runs DVC in a copy of the
    whole project, and names the real root in ``HARVEYSEG_ROOT``. What must outlive the copy (the tracker's database,
    checkpoints) and relative paths in settings are resolved against it.
    """
    return Path(os.environ.get("HARVEYSEG_ROOT") or os.environ.get("DVC_ROOT") or Path.cwd()).resolve()
