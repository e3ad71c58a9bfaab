"""Running the trials of studies as DVC experiments, and tagging the runs of each as it finishes.

Importing DVC takes a second, so it is imported only in functions.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
from filelock import FileLock

from harveyseg.config.settings import load
from harveyseg.errors import HarveysegError
from harveyseg.files import write_text
from harveyseg.record import read_run
from harveyseg.reproduction.studies import (
    Study,
    StudyRecipe,
    Trial,
    find_study,
    read_studies,
    study_tags,
    study_trials,
)
from harveyseg.tracking.client import Tracker
from harveyseg.tracking.mirror import mirror
from harveyseg.tracking.outputs import RunOutputs, locate_outputs
from harveyseg.tracking.query import tag_runs

_TARGET = "postprocess"
"""The last stage that a study needs: it has no use for the comparison table and the submission of one trial."""
KEPT_PARAMS = Path(".locks", "study-params.yaml")
"""The recipe, while DVC changes params.yaml to queue its variants."""
_KILLED = KEPT_PARAMS.with_name("study-killed.yaml")
"""The same, once params.yaml was set back after a kill, until git's index is, too."""
_STAGED = ("params.yaml", ".dvc/tmp/repro.dat")
"""What DVC stages while it queues an experiment."""
_NAMED = 2
"""Of the studies that share a trial, so many are named while it runs."""
_POLL_SECONDS = 5.0
_READS = 5
_STARTS = 5
"""A worker can die while trials wait (DVC's queue is a folder of files, which may be read half written): so many times
new ones are started."""


def restore_params(params: Path) -> bool:
    """Set params.yaml back when a study was killed while it queued variants; returns whether it was."""
    kept = params.parent / KEPT_PARAMS
    if not kept.exists():
        return False
    with FileLock(kept.with_suffix(".lock")):  # a study that is alive holds it, and then sets it back itself
        if not kept.exists():
            return False
        write_text(params, kept.read_text(encoding="utf-8"))
        kept.replace(params.parent / _KILLED)
    return True


def run_studies(
    names: Sequence[str],
    recipe: StudyRecipe,
    root: Path,
    tracker: Tracker,
    seeds: int,
    jobs: int,
    say: Callable[[str], None],
) -> None:
    """Queue the trials that are missing, let DVC's queue run them, and tag the runs of each as it finishes.

    A trial that several studies share runs once. Ctrl-C takes the trials out of the queue and stops the one that runs;
    a training that was stopped goes on from its last finished epoch when the study is run again. When this process is
    killed, DVC's worker goes on alone.

    Args:
        names: of the studies, in the order in which they shall run.
        recipe: the recipe.
        root: the project, a git and DVC repository.
        tracker: where the runs are tagged.
        seeds: how many of each variant.
        jobs: how many trials run at a time.
        say: is told what happens, a line each.

    Raises:
        HarveysegError: when the project is no git and DVC repository, a trial fails, or the queue dies.
    """
    queue = _Queue(root)
    tasks: dict[str, _Task] = {}
    for name in names:
        for trial in study_trials(find_study(name), recipe, seeds):
            tasks.setdefault(trial.name, _Task(trial, []))
    # A trial counts for every study that has it, also for those that are not run now.
    for name, study in read_studies().items():
        for trial in _possible_trials(study, recipe, seeds):
            if trial.name in tasks:
                tasks[trial.name].studies.append((name, trial.variant))
    finished = queue.finished()
    waiting = {name: task for name, task in tasks.items() if name not in finished}
    say(f"{', '.join(names)}: {len(tasks)} trials, {len(tasks) - len(waiting)} done before")
    for name, task in tasks.items():
        if name in finished:
            _adopt(task, recipe, root, finished[name], tracker)
    if not waiting:
        return
    try:
        _feed(queue, recipe, waiting, jobs)
        failed = _watch(waiting, recipe, root, queue, jobs, tracker, say)
    except KeyboardInterrupt:
        queue.stop(set(waiting))
        say("stopped. The same command goes on with what is missing.")
        raise
    if failed:
        lines = "\n".join(f"  {task}: {queue.last_words(task.trial.name)}" for task in failed)
        raise HarveysegError(
            f"{len(failed)} trials failed:\n{lines}\n`dvc queue logs <name>` shows all of it. Mend the cause, then run "
            "the command again."
        )


def _possible_trials(study: Study, recipe: StudyRecipe, seeds: int) -> list[Trial]:
    """The trials of a study; none where params.yaml lacks what it varies."""
    try:
        return study_trials(study, recipe, seeds)
    except HarveysegError:
        return []


@dataclass(frozen=True)
class _Task:
    """A trial and the studies that need it."""

    trial: Trial
    studies: list[tuple[str, str]]
    """(study, variant), which are several where studies share a trial."""

    def __str__(self) -> str:
        named = " = ".join(f"{study}: {variant}" for study, variant in self.studies[:_NAMED])
        more = " = ..." if len(self.studies) > _NAMED else ""
        return f"{named}{more}, seed {self.trial.seed} ({self.trial.name})"


def _feed(queue: "_Queue", recipe: StudyRecipe, tasks: Mapping[str, _Task], jobs: int) -> None:
    """Queue the tasks that are not in the queue, in their order, and let workers run them."""
    queue.revive(set(tasks))
    states = queue.states()
    finished = queue.finished()  # in this order: what ends between the two is finished
    # The success of a trial that is not among the finished ones was at another commit.
    missing = [
        task.trial
        for name, task in tasks.items()
        if states.get(name) not in ("Queued", "Running") and name not in finished
    ]
    with queue.kept_params(recipe):
        for trial in missing:
            queue.put(trial)
    queue.start(jobs)


def _watch(
    tasks: Mapping[str, _Task],
    recipe: StudyRecipe,
    root: Path,
    queue: "_Queue",
    jobs: int,
    tracker: Tracker,
    say: Callable[[str], None],
) -> list[_Task]:
    """Wait until all tasks have ended; returns those that failed."""
    waiting, running, failed, starts = dict(tasks), set(), [], 0
    while True:
        states, finished = queue.states(), queue.finished()
        for name, task in list(waiting.items()):
            if name in finished:
                say(f"{task}: {_adopt(task, recipe, root, finished[name], tracker)}")
                del waiting[name]
            elif states.get(name) == "Failed":
                say(f"{task}: FAILED")
                failed.append(task)
                del waiting[name]
            elif states.get(name) == "Running" and name not in running:
                say(f"{task}: runs (`dvc queue logs -f {name}`)")
                running.add(name)
                starts = 0
        if not waiting:
            return failed
        queued = sum(states.get(name) == "Queued" for name in waiting)
        wanted = min(jobs, len(waiting))
        if queue.workers() < wanted and (queued or not queue.workers()):
            starts += 1
            if starts > _STARTS:
                raise HarveysegError(
                    f"DVC's queue stops although {len(waiting)} trials are left (`dvc queue status`). Run the command "
                    "again: it goes on with what is missing."
                )
            _feed(queue, recipe, waiting, jobs)
        time.sleep(_POLL_SECONDS)


class _Queue:
    """DVC's queue of experiments: read through its API, changed through its command line."""

    def __init__(self, root: Path) -> None:
        self._root = root
        try:
            self._head = self._git("rev-parse", "HEAD")
        except subprocess.CalledProcessError:
            raise HarveysegError(
                f"{root}: not a git repository with a commit, which DVC's experiments need: `git init`, `git add -A`, "
                "`git commit`, `dvc init`."
            ) from None

    def finished(self) -> dict[str, str]:
        """Name -> git commit of the experiments of the checked-out commit."""
        prefix = f"refs/exps/{self._head[:2]}/{self._head[2:]}/"
        lines = self._git("for-each-ref", "--format=%(refname) %(objectname)", prefix).splitlines()
        return {reference.removeprefix(prefix): commit for reference, commit in map(str.split, lines)}

    def states(self) -> dict[str, str]:
        """Name -> Queued, Running, Failed or Success, the first of these that applies.

        A name can be there twice: as a trial of an older commit, too.
        """
        for _ in range(_READS):
            try:
                with self._opened() as queue:
                    tasks = [(str(task["name"]), str(task["status"])) for task in queue.status()]
            except (ValueError, KeyError, FileNotFoundError):  # a message was just being written, or taken away
                time.sleep(1)
            else:
                order = ("Queued", "Running", "Failed", "Success")
                return dict(sorted(tasks, key=lambda task: order.index(task[1]), reverse=True))
        raise HarveysegError(f"{self._root / '.dvc/tmp/exps/celery'}: DVC's queue cannot be read. `dvc queue status`?")

    def workers(self) -> int:
        """How many workers are alive. To ask them, as DVC does, can kill them: the question is a file, too."""
        return sum(map(self._is_worker, psutil.process_iter()))

    def _is_worker(self, process: psutil.Process) -> bool:
        try:
            return "queue-worker" in process.cmdline() and Path(process.cwd()).is_relative_to(self._root)
        except (psutil.Error, OSError):  # of another user, or just ended
            return False

    @contextmanager
    def kept_params(self, recipe: StudyRecipe) -> Iterator[None]:
        """While trials are queued, DVC lays their options over params.yaml: a copy outlives whatever ends that.

        Raises:
            HarveysegError: when params.yaml is no longer the recipe of the study; when git's index is locked.
        """
        params, kept = self._root / "params.yaml", self._root / KEPT_PARAMS
        with FileLock(kept.with_suffix(".lock")):
            if StudyRecipe(load(params)).key != recipe.key:
                raise HarveysegError(
                    f"{params}: was changed since the study began. Set it back, or begin a study of the new recipe: "
                    "run the command again."
                )
            if (self._root / _KILLED).exists():  # a DVC that finds staged what another one left cannot queue
                self._git("reset", "--quiet", "--", *_STAGED)
                (self._root / _KILLED).unlink()
            text = params.read_text(encoding="utf-8")
            write_text(kept, text)
            try:
                yield
            finally:
                if params.read_text(encoding="utf-8") != text:
                    write_text(params, text)
                kept.unlink()

    def put(self, trial: Trial) -> None:
        """Queue a trial."""
        options = [part for option in trial.options for part in ("-S", option)]
        self._dvc("exp", "run", "--queue", "--name", trial.name, *options, _TARGET)

    def start(self, jobs: int) -> None:
        """Let up to ``jobs`` workers run what is queued; they end when the queue is empty."""
        # The workers inherit what this prints to, and would hold a pipe open as long as they live.
        self._dvc("queue", "start", "--jobs", str(jobs), output=subprocess.DEVNULL)

    def revive(self, names: set[str]) -> None:
        """Take out trials that failed, and those that no living worker runs, so that they can be queued again."""
        alive, states = self.workers(), self.states()
        dead = [name for name in names if states.get(name) == "Running"] if not alive else []
        if dead:
            self._dvc("queue", "kill", *dead)  # forced, it would leave the stage of an experiment that still runs
        if gone := [*dead, *(name for name in names if states.get(name) == "Failed")]:
            self._dvc("queue", "remove", *gone)

    def last_words(self, name: str) -> str:
        """The first error that a trial printed, or the last line when there is none."""
        command = [sys.executable, "-m", "dvc", "queue", "logs", name]
        done = subprocess.run(command, cwd=self._root, capture_output=True, text=True, check=False)
        lines = [line for line in (done.stdout or done.stderr).splitlines() if line.strip()]
        return next((line for line in lines if line.lower().startswith("error")), lines[-1] if lines else "no output")

    def stop(self, names: set[str]) -> None:
        """Take waiting trials out of the queue and end running ones, one by one: meanwhile the next one may start."""
        for state, command in (("Queued", "remove"), ("Running", "kill")):
            for name in [name for name, found in self.states().items() if name in names and found == state]:
                with suppress(HarveysegError):  # it has just started, or ended
                    self._dvc("queue", command, name)

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        from dvc.repo import Repo

        with Repo(str(self._root)) as repo:
            yield repo.experiments.celery_queue

    def _git(self, *arguments: str) -> str:
        command = ["git", "-C", str(self._root), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            self._check_index(done.stderr)
            done.check_returncode()
        return done.stdout.strip()

    def _dvc(self, *arguments: str, output: int = subprocess.PIPE) -> None:
        command = [sys.executable, "-m", "dvc", *arguments]
        # DVC starts its workers as `dvc`, which is not on the path where the environment is not active.
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        environment = {**os.environ, "PATH": path}
        done = subprocess.run(
            command, cwd=self._root, env=environment, stdout=output, stderr=output, text=True, check=False
        )
        if done.returncode:
            said = f"{done.stdout or ''}{done.stderr or ''}".strip()
            self._check_index(said)
            raise HarveysegError(f"dvc {' '.join(arguments[:2])} failed: {said or f'exit {done.returncode}'}")

    def _check_index(self, said: str) -> None:
        """Of what git ("index.lock': File exists") or DVC ("index is locked") said when it failed."""
        if "index is locked" in said or "index.lock" in said:
            raise HarveysegError(
                f"{self._root / '.git/index.lock'}: git's index is locked. If no git or DVC command runs, one was "
                "killed: remove that file, then run the command again."
            )


def _adopt(task: _Task, recipe: StudyRecipe, root: Path, commit: str, tracker: Tracker) -> str:
    """Tag the runs of a finished trial, after bringing MLflow what it lacks of them; returns their score in words."""
    with tempfile.TemporaryDirectory() as temporary:
        ensemble, *trained = _outputs(root, commit, task.trial.model, recipe.folds, Path(temporary))
        for output in (ensemble, *trained):
            mirror(tracker, output.state())
        for study, variant in task.studies:
            tag_runs(tracker, trained, study_tags(study, recipe, variant))
        scores = [output.scores() for output in trained]
    means = {key: sum(score[key] for score in scores) / len(scores) for key in ("val/argmax_score", "val/score")}
    return f"score {means['val/argmax_score']:.4f}, decided {means['val/score']:.4f}"


def _outputs(root: Path, commit: str, model: str, folds: Sequence[int], folder: Path) -> list[RunOutputs]:
    """Fetch what identifies and scores an experiment's runs from DVC's cache, without checking anything out.

    Returns:
        The ensemble, with the class shares of the data, then the trainings.
    """
    from dvc.api import DVCFileSystem

    wanted = ["ensemble/run.json", "ensemble/metrics.json", "figures/class_shares.csv"]
    wanted += [f"postprocess/metrics/{name}.json" for name in ("ensemble", model)]
    for fold in folds:
        wanted += [f"models/{model}-{fold}/{name}" for name in ("run.json", "history.csv")]
        wanted.append(f"predictions/{model}-{fold}/metrics.json")
    stored = DVCFileSystem(url=str(root), rev=commit)
    for path in wanted:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        try:
            stored.get_file(f"data/{path}", str(folder / path))
        except FileNotFoundError:
            raise HarveysegError(
                f"data/{path} of the experiment {commit[:7]}: not in DVC's cache. `dvc pull` brings it where it was "
                "pushed; else `dvc exp remove` the experiment, and the study makes it anew."
            ) from None
    records = [read_run(folder / "ensemble" / "run.json")]
    records += [read_run(folder / "models" / f"{model}-{fold}" / "run.json") for fold in folds]
    return [locate_outputs(record, folder) for record in records]
