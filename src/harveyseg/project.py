"""The project around the package: its root folder, git's state, DVC's experiment, the versions of libraries."""

import os
import subprocess
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

LIBRARIES = ("albumentations", "dvc", "harveyseg", "mlflow", "numpy", "segmentation-models-pytorch", "torch")


_CODE = tuple(f":(glob){folder}/**/*.{suffix}" for folder in ("src", "stages") for suffix in ("py", "yaml"))


@dataclass(frozen=True)
class GitState:
    """The commit that is checked out, and whether the checkout differs from it."""

    commit: str | None
    """None outside a git repository."""
    dirty: bool | None
    """Whether the project holds code that is in no commit; None where git cannot tell.

    That is a change in a tracked file, other than in params.yaml and dvc.lock, which each experiment changes by design,
    or an untracked ``*.py`` or ``*.yaml`` under ``src`` or ``stages``, ignored by git or not."""


def git_state(folder: Path) -> GitState:
    """Read git's state. Without git or a repository there is no commit; that is not an error."""

    def git(*arguments: str) -> str | None:
        command = ["git", "-C", str(folder), *arguments]
        try:
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError):
            return None

    commit = git("rev-parse", "HEAD")
    changed = git("diff", "--name-only", "--no-renames", "--relative", "-z", "HEAD")
    untracked = git("ls-files", "--others", "-z", "--", *_CODE)
    if commit is None or changed is None or untracked is None:
        return GitState(None if commit is None else commit.strip(), None)
    names = {name for name in changed.split("\0") if name}
    return GitState(commit.strip(), bool(untracked or names - {"params.yaml", "dvc.lock"}))


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
