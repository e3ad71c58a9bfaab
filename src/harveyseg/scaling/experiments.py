"""DVC's experiments in copies of the project: those of a study, and those that ``dvc exp run --queue`` has queued.

DVC changes settings and stashes edits in a copy only, never in the user's files. The finished experiment is then
fetched into the project, where ``dvc exp show`` lists it.
"""

import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import Timeout

from harveyseg.data.sources.experiment_links import link_into_copy
from harveyseg.errors import HarveysegError
from harveyseg.files import copy_folder, locked
from harveyseg.project import git_output
from harveyseg.scaling.copies import adding_to_cache, git, process_group, remove_copies, stage_environment, wait_for
from harveyseg.scaling.items import PIPELINE

_STOPPED = "stopped"


class KilledError(HarveysegError):
    """DVC's process was killed, e.g. for lack of memory: the experiment may succeed on another machine."""


@dataclass(frozen=True)
class Experiment:
    """What ``dvc exp run`` is to do."""

    name: str
    """What ``dvc exp show`` calls it."""
    repository: Path
    """A clone of the git repository, as the experiment finds it; it is copied for each attempt."""
    inside: Path
    """The project in the repository."""
    inputs: Mapping[str, str]
    """Settings that name a file or folder, e.g. ``data.path``; relative ones lead from each copy to the same place."""
    before: tuple[str, ...] = ()
    """Stages whose results other experiments share; one experiment at a time adds them to DVC's cache."""
    targets: tuple[str, ...] = ()
    """Stages; all if empty."""
    options: tuple[str, ...] = ()
    """As ``dvc exp run -S`` takes them."""
    message: str | None = None
    """Of the experiment's commit; DVC's own if None."""


@dataclass(frozen=True)
class ExperimentFolder:
    """Copies of the project for some experiments, below a folder on the project's disk."""

    root: Path
    """The project."""
    folder: Path

    def log(self, name: str) -> Path:
        """What DVC and the stages of an experiment print; it stays."""
        return self.root / ".dvc" / "tmp" / f"{name}.log"

    def run(self, experiment: Experiment) -> None:
        """Run an experiment, and fetch it into the project.

        Raises:
            HarveysegError: when it fails, with the first error that it printed.
            KilledError: when it was killed.
        """
        name = experiment.name
        self.log(name).unlink(missing_ok=True)
        attempts = self.folder / "trials"
        attempts.mkdir(parents=True, exist_ok=True)
        # Of its own: what a killed attempt left may still run.
        attempt = Path(tempfile.mkdtemp(dir=attempts, prefix=f"{name}-"))
        try:
            project = self.copy(experiment, attempt / "project")
            options = [argument for option in experiment.options for argument in ("-S", option)]
            if experiment.before:
                new = git(project, "diff", "--cached", "--relative", "--name-only", "--diff-filter=A", "-z").split("\0")
                with adding_to_cache(self.root):
                    self.run_dvc(project, name, "exp", "run", "--name", f"{name}-data", *options, *experiment.before)
                options = []  # the copy has the experiment's settings now
                git(project, "add", "--force", "--", *filter(None, new))  # DVC has left them outside of git
            message = () if experiment.message is None else ("--message", experiment.message)
            self.run_dvc(project, name, "exp", "run", "--name", name, *message, *options, *experiment.targets)
            self._fetch(project, name)
        finally:
            shutil.rmtree(attempt, ignore_errors=True)

    def find_commit(self, name: str, baseline: str) -> str | None:
        """The commit of a finished experiment; None where its settings and files are those of the commit it began from.

        Args:
            name: of the experiment.
            baseline: the commit it began from, since other ones may have experiments of the same name.
        """
        found = git(self.root, "for-each-ref", "--format=%(objectname)", _reference(name, baseline))
        return found or None

    def run_dvc(self, project: Path, name: str, *arguments: str) -> None:
        """Run DVC in a copy whose stages store checkpoints and the database in the project.

        Raises:
            HarveysegError: when it fails, or :meth:`stop` was called.
            KilledError: when it was killed.
        """
        if (self.folder / _STOPPED).exists():
            raise HarveysegError("stopped")
        log = self.log(name)
        with log.open("a", encoding="utf-8") as opened:
            command = [sys.executable, "-m", "dvc", *arguments]
            environment = {**stage_environment(self.root), PIPELINE: pipeline_of(name, project)}
            with process_group(command, project, environment, opened) as leader:
                code = wait_for(leader)
        if code < 0:
            raise KilledError(f"{signal.Signals(-code).name} ended `dvc {' '.join(arguments)}` ({log})")
        if code:
            raise HarveysegError(_first_error(log))

    def stop(self) -> None:
        """Let no further command of DVC start in the copies."""
        (self.folder / _STOPPED).touch()

    def copy(self, experiment: Experiment, folder: Path) -> Path:
        """Copy an experiment's clone; relative paths lead from the project in it to the photos and the other inputs.

        Returns:
            The project in the copy.

        Raises:
            HarveysegError: where a path leads too far up.
        """
        copy_folder(experiment.repository, folder)
        project = folder / experiment.inside
        for setting, path in experiment.inputs.items():
            if not link_into_copy(path, self.root, project, self.folder):
                raise HarveysegError(
                    f"{setting} = {path!r}: the path points too far above the project. Use an absolute path."
                )
        return project

    def _fetch(self, project: Path, name: str) -> None:
        """Bring the experiment from a copy into the project, one at a time."""
        reference = _reference(name, git(project, "rev-parse", "HEAD"))
        copy = git(project, "rev-parse", "--show-toplevel")
        with locked(self.root / ".locks" / "fetch.lock"):
            if git(project, "for-each-ref", reference):
                git(self.root, "fetch", "--quiet", "--no-tags", copy, f"+{reference}:{reference}")
            else:  # all is as in the commit, so an earlier experiment of this name, from other edits, is outdated
                git(self.root, "update-ref", "-d", reference)


def _reference(name: str, baseline: str) -> str:
    """Where DVC keeps an experiment that began from a commit."""
    return f"refs/exps/{baseline[:2]}/{baseline[2:]}/{name}"


def pipeline_of(name: str, repository: Path) -> str:
    """The pipeline to which an experiment's runs belong, whichever process and machine makes them.

    Args:
        name: of the experiment.
        repository: a clone at the commit from which it begins.
    """
    return f"{name} {(git_output(repository, 'rev-parse', 'HEAD') or '')[:7]}"


def input_paths(params: Mapping[str, Any]) -> dict[str, str]:
    """The settings that name files and folders of the user's, for :attr:`Experiment.inputs`."""
    data = params.get("data") or {}
    return {f"data.{key}": str(data[key]) for key in ("path", "inputs") if data.get(key)}


@contextmanager
def experiment_folder(root: Path, kind: str) -> Iterator[ExperimentFolder]:
    """A folder for the copies of experiments of one kind; a second command of this kind has to wait for the first one.

    Args:
        root: the project.
        kind: ``study`` or ``queue``.

    Raises:
        HarveysegError: when another command has it.
    """
    folder = root / ".dvc" / "tmp" / kind
    with ExitStack() as held:
        try:
            held.enter_context(locked(root / ".locks" / f"{kind}.lock", timeout=0))
        except Timeout:
            raise HarveysegError(f"Another {kind} runs in this project. Wait until it ends, or stop it.") from None
        try:
            remove_copies(folder)  # of a command that was killed
            folder.mkdir(parents=True)
            yield ExperimentFolder(root, folder)
        finally:
            remove_copies(folder)


def _first_error(log: Path) -> str:
    """The first error in a log, or its last line."""
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error")]
    found = [*errors, *lines[-1:], "no output"][0].removeprefix("error: ").removeprefix("ERROR: ")
    return f"{found} ({log})"
