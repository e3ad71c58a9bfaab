"""The project around the package: its root folder, git's state, DVC's experiment, the versions of libraries."""

import os
import shlex
import subprocess
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

LIBRARIES = ("albumentations", "dvc", "harveyseg", "mlflow", "numpy", "segmentation-models-pytorch", "torch")

_CODE = tuple(f":(glob){folder}/**/*.{suffix}" for folder in ("src", "stages") for suffix in ("py", "yaml"))
_TRACKED = (".", ":(exclude)params.yaml", ":(exclude)dvc.lock")


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
    """What a git command that only reads prints in a folder; None where it fails, e.g. outside a repository.

    `git status` writes nothing then: on a full disk it would fail, and it would hold a lock that `git commit` needs.
    """
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
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
    if commit is None:
        return GitState(None, None)
    changed = _has_changes(folder)
    untracked = git_output(folder, "ls-files", "--others", "-z", "--", *_CODE)
    return GitState(commit.strip(), None if changed is None or untracked is None else bool(changed or untracked))


def _has_changes(folder: Path) -> bool | None:
    """Whether a tracked file of a folder differs from the commit; None where git cannot tell.

    `git diff HEAD` alone would tell, but it writes the index where a file was only touched, which a full disk refuses.
    """
    options = ("--porcelain=v1", "-z", "--untracked-files=no", "--no-renames")
    status = git_output(folder, "status", *options, "--", *_TRACKED)
    if status is None:
        return None
    # Two letters a file: the index differs from the commit, the file from the index. Where both do, it may be undone.
    states = [line[:2] for line in status.split("\0") if line]
    if any(" " in state for state in states) or not states:
        return bool(states)
    different = git_output(folder, "diff", "--name-only", "-z", "HEAD", "--", *_TRACKED)
    return None if different is None else bool(different)


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
    checkpoints) is resolved against it; for relative paths in settings, see :func:`input_path`.
    """
    return Path(os.environ.get("HARVEYSEG_ROOT") or os.environ.get("DVC_ROOT") or Path.cwd()).resolve()


def input_path(name: str, root: Path) -> Path:
    """The file or folder that a setting names, as DVC sees it.

    In a copy of the project, where an experiment or a study runs, that is the copy's own, if git or DVC brought it
    there: the project's may have been edited since, and DVC records the content of the copy.

    Args:
        name: absolute, or relative to ``root``.
        root: the project's root.
    """
    here, there = Path.cwd() / name, root / name
    inside = Path(os.path.normpath(here)).is_relative_to(Path.cwd())
    if root != project_root() or not inside or not here.exists() or here.resolve() == there.resolve():
        return there
    return here
