"""Running the trials of studies, and tagging the runs of each as it finishes.

Each trial is a DVC experiment that runs in a copy of the project as it was when the study began, below
``.dvc/tmp/study``. DVC changes settings and stashes edits in that copy only, never in the user's files. The finished
experiment is then fetched into the project, where ``dvc exp show`` lists it.

Importing DVC takes a second, so it is imported only in functions.
"""

import logging
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import Timeout
from ruamel.yaml import YAML

from harveyseg.data.sources.experiment_links import link_into_copy
from harveyseg.errors import HarveysegError
from harveyseg.files import copy_folder, locked
from harveyseg.progress import Progress
from harveyseg.record import read_run
from harveyseg.reproduction.studies import StudyRecipe, Trial, find_study, read_studies, study_tags, study_trials
from harveyseg.reproduction.tables import ARGMAX_SCORE, SCORE
from harveyseg.scaling.copies import (
    adding_to_cache,
    clone_project,
    end_processes_in,
    git,
    interrupted_by_signals,
    remove_copies,
    stage_environment,
)
from harveyseg.tracking.client import Tracker
from harveyseg.tracking.mirror import mirror
from harveyseg.tracking.outputs import RunOutputs, locate_outputs
from harveyseg.tracking.query import tag_runs
from harveyseg.tracking.views import study_view

logger = logging.getLogger(__name__)

_FOLDER = Path(".dvc", "tmp", "study")
_DATA = "split"
"""The last stage before training. Most trials share all that the stages up to here write."""
_TARGET = "postprocess"
"""The last stage that a study needs: it has no use for the comparison table and the submission of one trial."""
_SHOWN_STUDIES = 2
"""How many of the studies that share a trial its messages name."""


@dataclass(frozen=True)
class _Task:
    """A trial and the studies that need it."""

    trial: Trial
    studies: list[tuple[str, str]] = field(default_factory=list)
    """(study, variant) of each."""

    def __str__(self) -> str:
        names = [f"{study}: {variant}" for study, variant in self.studies[:_SHOWN_STUDIES]]
        if len(self.studies) > _SHOWN_STUDIES:
            names.append("...")
        return f"{' = '.join(names)}, seed {self.trial.seed} ({self.trial.name})"


def run_studies(names: Sequence[str], recipe: StudyRecipe, root: Path, tracker: Tracker, seeds: int, jobs: int) -> None:
    """Run the trials that are missing, and tag the runs of all.

    A trial that several studies share runs once. Ctrl-C and SIGTERM end the training runs; they continue after
    their last finished epoch when the study is run again.

    Args:
        names: of the studies, in the order in which they shall run.
        recipe: the settings in params.yaml.
        root: the project, a git and DVC repository.
        tracker: where the runs are tagged.
        seeds: how many of each variant.
        jobs: how many trials run at a time.

    Raises:
        HarveysegError: when the project is no git and DVC repository, another study runs in it, or a trial fails.
    """
    tasks = _collect_tasks(names, recipe, seeds)
    tracker.prepare_views(map(study_view, names))
    failures = []
    with interrupted_by_signals(), _copies(root, recipe) as copies:
        finished = copies.find_finished(tasks)
        logger.info("%s: %d trials, %d done before", ", ".join(names), len(tasks), len(finished))
        for name, commit in finished.items():
            _adopt(tasks[name], recipe, root, commit, tracker)
        with (
            ThreadPoolExecutor(jobs) as pool,
            Progress("study", len(tasks), "trials", len(finished)) as progress,
        ):
            futures = {pool.submit(copies.run, task): task for name, task in tasks.items() if name not in finished}
            try:
                for future in as_completed(futures):
                    task = futures[future]
                    try:
                        logger.info("%s: %s", task, _adopt(task, recipe, root, future.result(), tracker))
                    except HarveysegError as error:
                        logger.error("%s: failed: %s", task, error)
                        failures.append(f"  {task}: {error}")
                    progress.add()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                copies.stop()
                logger.info("Stopped. The same command continues with what is missing.")
                raise
    if failures:
        raise HarveysegError(
            "\n".join([f"{len(failures)} trials failed:", *failures, "Fix the cause, then run the command again."])
        )


def _collect_tasks(names: Sequence[str], recipe: StudyRecipe, seeds: int) -> dict[str, _Task]:
    """Name -> trial, with every study that has it, also those that are not run now."""
    tasks: dict[str, _Task] = {}
    for name in names:
        for trial in study_trials(find_study(name), recipe, seeds):
            tasks.setdefault(trial.name, _Task(trial))
    for name, study in read_studies().items():
        with suppress(HarveysegError):  # the recipe lacks what this study varies
            for trial in study_trials(study, recipe, seeds):
                if trial.name in tasks:
                    tasks[trial.name].studies.append((name, trial.variant))
    return tasks


@contextmanager
def _copies(root: Path, recipe: StudyRecipe) -> Iterator["_Copies"]:
    """The copies of the project for one study; a second study has to wait for the first one."""
    folder = root / _FOLDER
    with ExitStack() as held:
        try:
            held.enter_context(locked(root / ".locks" / "study.lock", timeout=0))
        except Timeout:
            raise HarveysegError("Another study runs in this project. Wait until it ends, or stop it.") from None
        try:
            remove_copies(folder)  # of a study that was killed
            data = recipe.params["data"]
            inputs = {f"data.{key}": str(data[key]) for key in ("path", "inputs") if data.get(key)}
            yield _Copies(root, folder, inputs)
        finally:
            remove_copies(folder)


class _Copies:
    """Copies of the project, as it is when this is constructed, in which DVC can work as it likes."""

    def __init__(self, root: Path, folder: Path, inputs: Mapping[str, str]) -> None:
        self._root = root
        self._folder = folder
        self._inputs = inputs
        self._stopped = False
        self._fetching = threading.Lock()
        self._snapshot = folder / "snapshot"  # of the git repository, which may begin above the project
        project = clone_project(root, self._snapshot)
        self._inside = project.relative_to(self._snapshot)

    def find_finished(self, tasks: Mapping[str, _Task]) -> dict[str, str]:
        """Name -> commit of the trials that were made by the project's code from its photos, both as they are now."""
        listed = git(self._root, "for-each-ref", "--format=%(objectname) %(refname:lstrip=-1)", "refs/exps")
        experiments = [line.split() for line in listed.splitlines()]
        if not any(name in tasks for _, name in experiments):
            return {}
        project = self._copy("inputs")
        self._run_dvc(project, self._folder / "inputs.log", "repro", "download")
        inputs = _read_inputs((project / "dvc.lock").read_text(encoding="utf-8"))
        return {
            name: commit
            for commit, name in experiments
            if name in tasks and _read_inputs(git(self._root, "show", f"{commit}:./dvc.lock")) == inputs
        }

    def run(self, task: _Task) -> str:
        """Run a trial; returns the commit of its experiment, which has then been fetched into the project.

        Raises:
            HarveysegError: when it fails, with the first error that it printed.
        """
        name = task.trial.name
        log = self._root / ".dvc" / "tmp" / f"{name}.log"
        project = self._copy(name)
        logger.info("%s: runs (log: %s)", task, log.relative_to(self._root))
        try:
            options = [argument for option in task.trial.options for argument in ("-S", option)]
            with adding_to_cache(self._root):
                self._run_dvc(project, log, "exp", "run", "--name", f"{name}-data", *options, _DATA)
            self._run_dvc(project, log, "exp", "run", "--name", name, _TARGET)  # the copy has the trial's settings now
            reference = git(project, "for-each-ref", "--format=%(refname)", f"refs/exps/*/*/{name}")
            if not reference:  # the settings are those of the commit, and so are all results
                return git(project, "rev-parse", "HEAD")
            with self._fetching:
                copy = git(project, "rev-parse", "--show-toplevel")
                git(self._root, "fetch", "--quiet", "--no-tags", copy, f"+{reference}:{reference}")
            return git(project, "rev-parse", reference)
        finally:
            shutil.rmtree(self._trial(name), ignore_errors=True)

    def stop(self) -> None:
        """End the trials that run; no other one starts."""
        self._stopped = True
        end_processes_in(self._folder)

    def _trial(self, name: str) -> Path:
        return self._folder / "trials" / name

    def _copy(self, name: str) -> Path:
        """The project in a copy of the snapshot; relative paths lead from it to the photos and the other inputs."""
        repository = self._trial(name) / "project"
        copy_folder(self._snapshot, repository)
        project = repository / self._inside
        for setting, path in self._inputs.items():
            if not link_into_copy(path, self._root, project, self._folder):
                raise HarveysegError(
                    f"{setting} = {path!r}: the path points too far above the project. Use an absolute path."
                )
        return project

    def _run_dvc(self, project: Path, log: Path, *arguments: str) -> None:
        """Run DVC in a copy whose stages store checkpoints and the database in the project."""
        if self._stopped:
            raise HarveysegError("stopped")
        command = [sys.executable, "-m", "dvc", *arguments]
        with log.open("w", encoding="utf-8") as opened:
            # A session of its own: Ctrl-C is for this process, which then ends the others in order.
            done = subprocess.run(
                command,
                cwd=project,
                env=stage_environment(self._root),
                stdout=opened,
                stderr=opened,
                check=False,
                start_new_session=True,
            )
        if done.returncode:
            raise HarveysegError(_first_error(log))


def _read_inputs(lock: str) -> Any:
    """The digests in a dvc.lock: of all code, and of the photos and what was made of them."""
    stages = YAML(typ="safe", pure=True).load(lock)["stages"]
    return stages["code"]["deps"], stages["download"]


def _adopt(task: _Task, recipe: StudyRecipe, root: Path, commit: str, tracker: Tracker) -> str:
    """Tag the runs of a finished trial, after bringing MLflow what it lacks of them; returns their scores in words."""
    with tempfile.TemporaryDirectory() as temporary:
        ensemble, *trained = _fetch_outputs(root, commit, task.trial.model, recipe.folds, Path(temporary))
        for output in (ensemble, *trained):
            mirror(tracker, output.state())
        for study, variant in task.studies:
            tag_runs(tracker, trained, study_tags(study, recipe, variant))
        scores = [output.scores() for output in trained]
    argmax_score, score = (sum(values[key] for values in scores) / len(scores) for key in (ARGMAX_SCORE, SCORE))
    return f"argmax score {argmax_score:.4f}, score {score:.4f}"


def _fetch_outputs(root: Path, commit: str, model: str, folds: Sequence[int], folder: Path) -> list[RunOutputs]:
    """Fetch what identifies and scores an experiment's runs from DVC's cache, without a checkout.

    Returns:
        The ensemble, with the class shares of the data, then the training runs.
    """
    from dvc.api import DVCFileSystem

    paths = ["ensemble/run.json", "ensemble/metrics.json", "figures/class_shares.csv"]
    paths += [f"postprocess/metrics/{name}.json" for name in ("ensemble", model)]
    for fold in folds:
        paths += [f"models/{model}-{fold}/{name}" for name in ("run.json", "history.csv")]
        paths.append(f"predictions/{model}-{fold}/metrics.json")
    stored = DVCFileSystem(url=str(root), rev=commit, subrepos=True)  # the project may be in a larger repository
    inside = git(root, "rev-parse", "--show-prefix")
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        try:
            stored.get_file(f"{inside}data/{path}", str(folder / path))
        except FileNotFoundError:
            raise HarveysegError(
                f"data/{path} of the experiment {commit[:7]}: not in DVC's cache. `dvc pull` brings it if it was "
                "pushed; otherwise remove the experiment (`dvc exp remove`), and the study runs it again."
            ) from None
    records = [read_run(folder / "ensemble" / "run.json")]
    records += [read_run(folder / "models" / f"{model}-{fold}" / "run.json") for fold in folds]
    return [locate_outputs(record, folder) for record in records]


def _first_error(log: Path) -> str:
    """The first error in a log, or its last line."""
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error")]
    found = [*errors, *lines[-1:], "no output"][0].removeprefix("error: ").removeprefix("ERROR: ")
    return f"{found} ({log})"
