"""Experiments on a cluster, with a Ray that runs one after the other in this process."""

import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harveyseg.errors import HarveysegError
from harveyseg.scaling import cluster
from harveyseg.scaling.cluster import ClusterOptions, run_experiment, run_experiments
from harveyseg.scaling.copies import git
from harveyseg.scaling.engine import Task
from harveyseg.scaling.experiments import (
    Experiment,
    ExperimentFolder,
    KilledError,
    experiment_folder,
    input_paths,
    pipeline_of,
)
from harveyseg.scaling.machines import Machine, Needs, resolve_settings
from harveyseg.tracking.client import TrackingParams, open_tracker
from harveyseg.tracking.mirror import mirror
from harveyseg.tracking.outputs import RunState
from helpers.records import make_record
from helpers.tracking import all_mlflow_runs

HERE = Machine("here", "host", "host (127.0.0.1)", 2, 0)


@dataclass(frozen=True)
class Outcomes(ExperimentFolder):
    """Experiments that end as the test says."""

    errors: Mapping[str, Exception] = field(default_factory=dict)
    begun: list[str] = field(default_factory=list)

    def run(self, experiment: Experiment) -> None:
        self.begun.append(experiment.name)
        if experiment.name in self.errors:
            raise self.errors[experiment.name]


@pytest.fixture
def needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Needs]:
    """A cluster of one machine, and settings without a tracker; what each task occupied."""
    (tmp_path / "params.yaml").write_text("{}\n")
    found: dict[str, Needs] = {}

    @contextmanager
    def connected(address: str) -> Iterator[None]:
        assert address == "auto"
        yield

    def resolve_on(ray: None, machines: list[Machine], settings: Iterable[tuple[str, str]]) -> list[Machine]:
        processors, resolved = resolve_settings(settings)
        return [replace(machine, processors=processors, resolved=resolved) for machine in machines]

    def run_tasks(
        ray: None, tasks: Mapping[str, Task], retries: int, ended: Callable[[str, str], None], look: Callable[[], None]
    ) -> None:
        for name, task in tasks.items():
            found[name] = task.needs
            ended(name, str(task.function(*task.arguments)))
            look()

    node = SimpleNamespace(get_node_id=lambda: "here")
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(get_runtime_context=lambda: node))
    monkeypatch.setattr(cluster, "connected", connected)
    monkeypatch.setattr(cluster, "list_machines", lambda ray: [HERE])
    monkeypatch.setattr(cluster, "resolve_on", resolve_on)
    monkeypatch.setattr(cluster, "run_tasks", run_tasks)
    return found


def experiment(name: str) -> Experiment:
    return Experiment(name, Path("repository"), Path(), {})


def test_each_experiment_occupies_what_its_settings_say_and_one_that_fails_stops_no_other(
    tmp_path: Path, needs: dict[str, Needs]
) -> None:
    copies = Outcomes(tmp_path, tmp_path, {"b": HarveysegError("no photos (log)")})
    params: dict[str, Any] = {
        "a": {},
        "b": {"train": {"threads": 2}},
        "c": {"models": {"x": {"train": {"threads": 2}}}},
    }
    ended: dict[str, str] = {}
    run_experiments(
        copies, {name: experiment(name) for name in params}, params, ClusterOptions("auto"), ended.__setitem__
    )
    assert copies.begun == ["a", "b", "c"]
    assert ended == {"a": "", "b": "no photos (log)", "c": ""}
    assert needs == {"a": Needs(1, 0), "b": Needs(2, 0), "c": Needs(2, 0)}


@pytest.mark.usefixtures("needs")
def test_runs_that_were_lost_with_their_machine_are_closed_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "params.yaml").write_text("tracking: {experiment: floods}\n")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setattr("socket.gethostname", lambda: "node-2")
    tracker = open_tracker(TrackingParams(experiment="floods"))
    started = round(time.time() * 1000)
    for model in ("a", "b"):  # each is a training of the experiment of this name
        monkeypatch.setenv("HARVEYSEG_PIPELINE", pipeline_of(model, Path("repository")))
        mirror(tracker, RunState(make_record(model, stage_key=model, started_ms=started), "RUNNING"))
    monkeypatch.setattr("socket.gethostname", lambda: "node-1")
    copies = Outcomes(tmp_path, tmp_path, {"a": HarveysegError("its machine was lost")})
    run_experiments(copies, {"a": experiment("a")}, {"a": {}}, ClusterOptions("auto"), lambda name, reason: None)
    states = {run.info.run_name: run.info.status for run in all_mlflow_runs(tracker, "floods")}
    assert states == {"a-f0": "KILLED", "b-f0": "RUNNING"}  # another command may still train b


def test_an_experiment_that_no_machine_can_take_is_refused_before_any_begins(
    tmp_path: Path, needs: dict[str, Needs]
) -> None:
    copies = Outcomes(tmp_path, tmp_path)
    params = {"a": {}, "b": {"train": {"threads": 3}}}
    ended: dict[str, str] = {}
    with pytest.raises(HarveysegError, match="b needs 3 cores, and no machine has that"):
        run_experiments(
            copies, {name: experiment(name) for name in params}, params, ClusterOptions("auto"), ended.__setitem__
        )
    assert copies.begun == []


@pytest.mark.usefixtures("needs")
def test_ray_tries_an_experiment_again_only_if_its_process_was_killed(tmp_path: Path) -> None:
    copies = Outcomes(tmp_path, tmp_path, {"lost": KilledError("SIGKILL ended it"), "wrong": HarveysegError("why")})
    with pytest.raises(RuntimeError, match="SIGKILL ended it"):
        run_experiment(copies, experiment("lost"), ["here"], {})
    assert run_experiment(copies, experiment("wrong"), ["here"], {}) == "why"


def test_a_machine_that_joined_later_takes_no_experiment_that_it_would_compute_differently(
    tmp_path: Path, needs: dict[str, Needs]
) -> None:
    copies = Outcomes(tmp_path, tmp_path)
    reason = run_experiment(copies, experiment("a"), ["another"], {("cpu", "fp32"): "cuda fp32"})
    assert "joined later, and has {('cpu', 'fp32'): 'cpu fp32'}" in reason
    assert copies.begun == []


def test_what_dvc_prints_says_why_it_failed_or_that_it_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = ExperimentFolder(tmp_path, tmp_path)
    copies.log("a").parent.mkdir(parents=True)
    programs = {"fails": "print('error: no photos'); print('ERROR: failed to reproduce'); exit(1)"}
    programs["killed"] = f"import os; os.kill(os.getpid(), {signal.SIGKILL})"
    programs["named"] = "import os; print('error:', os.environ['HARVEYSEG_PIPELINE']); exit(1)"
    package = tmp_path / "modules" / "dvc"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(f"import sys\nexec({programs!r}[sys.argv[1]])\n")
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    with pytest.raises(HarveysegError) as caught:
        copies.run_dvc(tmp_path, "a", "fails")
    assert str(caught.value) == f"no photos ({copies.log('a')})"
    with pytest.raises(HarveysegError, match=rf"^{pipeline_of('b', tmp_path)} \("):
        copies.run_dvc(tmp_path, "b", "named")
    with pytest.raises(KilledError, match="SIGKILL ended `dvc killed`"):
        copies.run_dvc(tmp_path, "a", "killed")
    copies.stop()
    with pytest.raises(HarveysegError, match="stopped"):
        copies.run_dvc(tmp_path, "a", "fails")


def test_relative_paths_lead_from_a_copy_to_the_same_photos(tmp_path: Path) -> None:
    root, repository = tmp_path / "project", tmp_path / "repository"
    (repository / "inside").mkdir(parents=True)
    (tmp_path / "photos").mkdir()
    inputs = input_paths({"data": {"path": "../photos", "inputs": "/elsewhere", "classes": "x"}, "train": {}})
    assert inputs == {"data.path": "../photos", "data.inputs": "/elsewhere"}
    copies = ExperimentFolder(root, root / ".dvc" / "tmp" / "queue")
    copied = Experiment("a", repository, Path("inside"), {"data.path": "../photos"})
    project = copies.copy(copied, copies.folder / "trials" / "a" / "project")
    assert (project / ".." / "photos").samefile(tmp_path / "photos")
    with pytest.raises(HarveysegError, match="points too far above"):
        copies.copy(replace(copied, inputs={"data.path": "../../../../../../x"}), copies.folder / "b")


def test_a_second_command_is_refused_and_what_a_killed_one_left_is_removed(tmp_path: Path) -> None:
    left = tmp_path / ".dvc" / "tmp" / "queue" / "trials" / "a"
    left.mkdir(parents=True)
    with experiment_folder(tmp_path, "queue") as copies:
        assert not left.exists()
        with pytest.raises(HarveysegError, match="Another queue runs"), experiment_folder(tmp_path, "queue"):
            pass
        assert copies.folder.exists()
    assert not copies.folder.exists()


def test_of_several_experiments_of_a_name_the_one_that_has_just_run_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "t")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "t@example.org")
    root, repository = tmp_path / "project", tmp_path / "repository"
    root.mkdir()
    git(root, "init", "-q")
    git(root, "commit", "-q", "--allow-empty", "-m", "baseline")
    baseline = git(root, "rev-parse", "HEAD")
    # What earlier commands have left: an experiment that began from another commit, and one from edits of that time.
    other, outdated = (git(root, "commit-tree", "-m", text, "HEAD^{tree}") for text in ("other", "outdated"))
    git(root, "update-ref", f"refs/exps/{'f' * 2}/{'f' * 38}/a", other)
    git(root, "update-ref", f"refs/exps/{baseline[:2]}/{baseline[2:]}/a", outdated)
    git(tmp_path, "clone", "-q", str(root), str(repository))

    class Copies(ExperimentFolder):
        makes = True

        def run_dvc(self, project: Path, name: str, *arguments: str) -> None:
            if self.makes:
                made = git(project, "commit-tree", "-m", "new", "HEAD^{tree}")
                git(project, "update-ref", f"refs/exps/{baseline[:2]}/{baseline[2:]}/{name}", made)

    copies = Copies(root, tmp_path / "copies")
    (root / ".dvc" / "tmp").mkdir(parents=True)
    copies.run(Experiment("a", repository, Path(), {}))
    commit = copies.find_commit("a", baseline)
    assert commit is not None
    assert git(root, "log", "-1", "--format=%s", commit) == "new"
    monkeypatch.setattr(Copies, "makes", False)  # all is as in the commit
    copies.run(Experiment("a", repository, Path(), {}))
    assert copies.find_commit("a", baseline) is None
    assert git(root, "rev-parse", f"refs/exps/{'f' * 2}/{'f' * 38}/a") == other
