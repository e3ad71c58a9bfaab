"""The project around the package: its root folder, git's state, DVC's experiment, the versions of libraries."""

import os
import shlex
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


def git_output(folder: Path, *arguments: str) -> str | None:
    """What a git command prints in a folder; None where it fails, e.g. outside a repository."""
    try:
        return subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None


def git_problem(folder: Path) -> tuple[str, str] | None:
    """The cause and the remedy if git does not read a repository in a folder or above; None if it does."""
    command = ["git", "-C", str(folder), "rev-parse", "--show-toplevel"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"})
    except OSError:
        return "git is not installed, and `dvc exp` needs it", "Install git"
    if answer.returncode == 0:
        return None
    if "dubious ownership" in answer.stderr:
        quoted = shlex.quote(answer.stderr.partition("repository at '")[2].partition("'")[0] or str(folder))
        remedy = f"Run `git config --global --add safe.directory {quoted}`"
        return "another user owns this git repository, and git refuses to read it", remedy
    remedy = "Run `git init && git add -A && git commit -m start`"
    return f"{folder} is not a git repository, which DVC's experiments need", remedy


def git_state(folder: Path) -> GitState:
    """Read git's state. Without git or a repository there is no commit; that is not an error."""
    commit = git_output(folder, "rev-parse", "HEAD")
    changed = git_output(folder, "diff", "--name-only", "--no-renames", "--relative", "-z", "HEAD")
    untracked = git_output(folder, "ls-files", "--others", "-z", "--", *_CODE)
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
