"""Running the trials of studies, and tagging the runs of each as it finishes.

Each trial is a DVC experiment that runs in a copy of the project as it was when the study began, below
``.dvc/tmp/study``; see :mod:`harveyseg.scaling.experiments`.

Importing DVC takes a second, so it is imported only in functions.
"""

import logging
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from harveyseg.config.settings import section
from harveyseg.data.cache import load_part
from harveyseg.data.split import split_hash
from harveyseg.errors import HarveysegError
from harveyseg.progress import Progress
from harveyseg.record import read_run
from harveyseg.reproduction.export import StudyRun, StudyRuns
from harveyseg.reproduction.share_done import share_done
from harveyseg.reproduction.studies import StudyRecipe, Trial, find_study, read_studies, study_tags, study_trials
from harveyseg.reproduction.tables import ARGMAX_SCORE, SCORE
from harveyseg.scaling.cluster import ClusterOptions, run_experiments
from harveyseg.scaling.copies import clone_project, end_processes_in, git, interrupted_by_signals
from harveyseg.scaling.experiments import Experiment, ExperimentFolder, experiment_folder, input_paths
from harveyseg.tracking.client import Tracker, TrackingParams, open_tracker
from harveyseg.tracking.mirror import mirror
from harveyseg.tracking.outputs import RunOutputs, locate_outputs
from harveyseg.tracking.query import tag_runs
from harveyseg.tracking.views import study_view

logger = logging.getLogger(__name__)

_DATA = "split"
"""The last stage before training. Most trials share all that the stages up to here write."""
_TARGET = "postprocess"
"""The last stage that a study needs: it has no use for the comparison table and the submission of one trial."""
_INPUTS = "study-inputs"
"""The name of what looks which code and photos there are now."""
_SECONDS_BETWEEN_LOOKS = 10.0
"""Between two questions how far the trials are."""
_SHORT = 7
"""Digits of a commit in messages."""
_SHOWN_STUDIES = 2
"""How many of the studies that share a trial its messages name."""


@dataclass(frozen=True)
class _Task:
    """A trial and the studies that need it."""

    trial: Trial
    studies: list[tuple[str, str]] = field(default_factory=list)
    """(study, variant) of each."""

    def ran_in(self, runs: Sequence[StudyRun], folds: Sequence[int]) -> bool:
        """Whether these runs have all folds of the trial, for each study that needs it."""
        mine = set(self.studies)
        found = {run.fold for run in runs if run.seed == self.trial.seed and mine <= run.studies.items()}
        return found >= set(folds)

    def __str__(self) -> str:
        names = [f"{study}: {variant}" for study, variant in self.studies[:_SHOWN_STUDIES]]
        if len(self.studies) > _SHOWN_STUDIES:
            names.append("...")
        return f"{' = '.join(names)}, seed {self.trial.seed} ({self.trial.name})"


def run_studies(
    names: Sequence[str],
    recipe: StudyRecipe,
    root: Path,
    tracker: Tracker,
    seeds: int,
    jobs: int,
    cluster: ClusterOptions | None = None,
    only: Sequence[str] = (),
    exported: Mapping[str, StudyRuns] | None = None,
) -> None:
    """Run the trials that are missing, and tag the runs of all.

    A trial that several studies share runs once. Ctrl-C and SIGTERM end the training runs; they continue after
    their last finished epoch when the study is run again.

    Args:
        names: of the studies, in the order in which they shall run.
        recipe: the settings in params.yaml.
        root: the project, a git and DVC repository.
        tracker: where the runs are tagged.
        seeds: how many of each variant.
        jobs: how many trials run at a time on this machine.
        cluster: where they run instead, as many at a time as there is room for; on this machine if None.
        only: the variants to run, which each study must have; all if empty.
        exported: runs of this recipe on these photos from elsewhere, by file. A trial of which they have all folds does
            not run.

    Raises:
        HarveysegError: when the project is no git and DVC repository, another study runs in it, a trial fails, or
            exported runs are of other photos.
    """
    tasks = _collect_tasks(names, recipe, seeds, only)
    tracker.prepare_views(map(study_view, names))
    failures = []
    with interrupted_by_signals(), experiment_folder(root, "study") as copies:
        trials = _Trials(copies, recipe)
        if exported:
            _require_same_photos(exported, trials.photos())
            _warn_of_other_code(exported, trials.commit())
            runs = [run for part in exported.values() for run in part.runs]
            elsewhere = {name for name, task in tasks.items() if task.ran_in(runs, recipe.folds)}
            logger.info("%s: %d of %d trials are in exported files", ", ".join(names), len(elsewhere), len(tasks))
            tasks = {name: task for name, task in tasks.items() if name not in elsewhere}
        finished = trials.find_finished(tasks)
        logger.info("%s: %d trials, %d done before", ", ".join(names), len(tasks), len(finished))
        for name, commit in finished.items():
            _adopt(tasks[name], recipe, root, commit, tracker)
        missing = {name: trials.experiment(task.trial) for name, task in tasks.items() if name not in finished}

        def end(name: str, reason: str) -> None:
            try:
                if reason:
                    raise HarveysegError(reason)
                commit = copies.find_commit(name, trials.commit()) or trials.commit()
                logger.info("%s: %s", tasks[name], _adopt(tasks[name], recipe, root, commit, tracker))
            except HarveysegError as error:
                logger.error("%s: failed: %s", tasks[name], error)
                failures.append(f"  {tasks[name]}: {error}")

        if cluster is None:
            # Not the required one: where MLflow fails for a moment, only the time left is unknown.
            lenient = open_tracker(section(root / "params.yaml", "tracking", TrackingParams))
            _run_here(copies, missing, tasks, jobs, end, partial(share_done, lenient, recipe.params["folds"]))
        else:
            settings = {name: _trial_settings(recipe, tasks[name].trial) for name in missing}
            run_experiments(copies, missing, settings, cluster, end)
    if failures:
        raise HarveysegError(
            "\n".join([f"{len(failures)} trials failed:", *failures, "Fix the cause, then run the command again."])
        )


def _require_same_photos(exported: Mapping[str, StudyRuns], photos: tuple[str, str]) -> None:
    for file, part in exported.items():
        if any(run.photos != photos for run in part.runs):
            raise HarveysegError(
                f"{file}: its runs are of other photos, masks or classes than this project's, or of another split of "
                "them. They cannot be compared: use the photos of these runs, or leave the file out."
            )


def _warn_of_other_code(exported: Mapping[str, StudyRuns], commit: str) -> None:
    for file, part in exported.items():
        commits = {run.git_commit for run in part.runs} - {commit}
        if commits:
            names = ", ".join(sorted("an unknown one" if name is None else name[:_SHORT] for name in commits))
            logger.warning(
                "%s: its runs are of the commit %s, this project is at %s. Where the code of the training differs, so "
                "may the scores.",
                file,
                names,
                commit[:_SHORT],
            )


def _trial_settings(recipe: StudyRecipe, trial: Trial) -> dict[str, Any]:
    """The settings that say what a trial occupies."""
    return {**recipe.params, "models": {trial.model: recipe.params["models"].get(trial.model) or {}}}


def _run_here(
    copies: ExperimentFolder,
    experiments: Mapping[str, Experiment],
    tasks: Mapping[str, _Task],
    jobs: int,
    end: Callable[[str, str], None],
    share: Callable[[str, float], float | None],
) -> None:
    """Run experiments on this machine, some at a time; ``share`` tells how much of one is done after some seconds."""
    began: dict[str, float] = {}

    def run(name: str) -> str:
        logger.info("%s: runs (log: %s)", tasks[name], copies.log(name).relative_to(copies.root))
        began[name] = time.monotonic()
        try:
            copies.run(experiments[name])
        except HarveysegError as error:
            return str(error)
        return ""

    done = before = len(tasks) - len(experiments)
    waiting = iter(experiments)
    with ThreadPoolExecutor(jobs) as pool, Progress("study", len(tasks), "trials", before) as progress:
        running = {pool.submit(run, name): name for name in islice(waiting, jobs)}
        shares: dict[str, float] = {}
        try:
            while running:
                for future in wait(running, _SECONDS_BETWEEN_LOOKS, FIRST_COMPLETED).done:
                    name = running.pop(future)
                    end(name, future.result())
                    shares.pop(name, None)
                    done += 1
                    # Not earlier: why a trial failed is to be read before the next one begins.
                    running |= {pool.submit(run, name): name for name in islice(waiting, 1)}
                for name in began.keys() & running.values():
                    found = share(name, time.monotonic() - began[name])
                    shares[name] = max(found or 0.0, shares.get(name, 0.0))  # between two trainings it is not known
                reached = done + sum(shares.values())
                note = f"{len(running)} running" if reached > before else "no epoch has ended yet"
                progress.reach(reached, len(tasks), note)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            copies.stop()
            end_processes_in(copies.folder)
            raise


def _collect_tasks(names: Sequence[str], recipe: StudyRecipe, seeds: int, only: Sequence[str]) -> dict[str, _Task]:
    """Name -> trial, with every study that has it, also those that are not run now."""
    tasks: dict[str, _Task] = {}
    for name in names:
        for trial in study_trials(find_study(name), recipe, seeds, only):
            tasks.setdefault(trial.name, _Task(trial))
    for name, study in read_studies().items():
        with suppress(HarveysegError):  # the recipe lacks what this study varies
            for trial in study_trials(study, recipe, seeds):
                if trial.name in tasks:
                    tasks[trial.name].studies.append((name, trial.variant))
    return tasks


class _Trials:
    """The trials as experiments that begin from the project as it is when this is constructed."""

    def __init__(self, copies: ExperimentFolder, recipe: StudyRecipe) -> None:
        self._copies = copies
        self._inputs = input_paths(recipe.params)
        self._snapshot = copies.folder / "snapshot"  # of the git repository, which may begin above the project
        self._inside = clone_project(copies.root, self._snapshot).relative_to(self._snapshot)

    def experiment(self, trial: Trial) -> Experiment:
        """What DVC is to do."""
        return self._experiment(trial.name, before=(_DATA,), targets=(_TARGET,), options=trial.options)

    def _experiment(self, name: str, **changes: Any) -> Experiment:
        return Experiment(name, self._snapshot, self._inside, self._inputs, **changes)

    def commit(self) -> str:
        """The commit that is checked out in the project."""
        return git(self._snapshot, "rev-parse", "HEAD")

    def find_finished(self, tasks: Mapping[str, _Task]) -> dict[str, str]:
        """Name -> commit of the trials that were made by the project's code from its photos, both as they are now."""
        root = self._copies.root
        listed = git(root, "for-each-ref", "--format=%(objectname) %(refname:lstrip=-1)", "refs/exps")
        experiments = [line.split() for line in listed.splitlines()]
        if not any(name in tasks for _, name in experiments):
            return {}
        inputs = _read_inputs((self._run_in_copy("download") / "dvc.lock").read_text(encoding="utf-8"))
        return {
            name: commit
            for commit, name in experiments
            if name in tasks and _read_inputs(git(root, "show", f"{commit}:./dvc.lock")) == inputs
        }

    def photos(self) -> tuple[str, str]:
        """Digests of the photos, masks and classes, and of the split, as :class:`StudyRun` has them."""
        data = self._run_in_copy(_DATA) / "data"
        return load_part(data / "cache" / "train").data_hash, split_hash(data / "splits" / "folds.csv")

    @cached_property
    def _copy(self) -> Path:
        """A copy of the project, to see what its stages make of it."""
        self._copies.log(_INPUTS).unlink(missing_ok=True)
        return self._copies.copy(self._experiment(_INPUTS), self._copies.folder / "inputs")

    def _run_in_copy(self, stage: str) -> Path:
        """The copy, in which this stage and those before it have run."""
        self._copies.run_dvc(self._copy, _INPUTS, "repro", stage)
        return self._copy


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
