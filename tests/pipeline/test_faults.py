"""The short form of the campaign in benchmarks/faults.py, and whether its eyes are open."""

import itertools
import shutil
from pathlib import Path

import pytest

from breaking import inputs
from breaking.kills import Kill, run_chain
from breaking.trials import Outcome, Trial, append, drop, read, tables, total
from breaking.workspace import MODEL, TRAIN, Reference, digests, leftovers, tracking_problems
from helpers.project import Project

INPUTS = 3
OF_HYPOTHESIS = {"`params.yaml`", "run lengths", "submissions", "masks"}
"""Inputs of the campaign that `tests/test_properties.py` makes up in another way."""


@pytest.mark.slow
@pytest.mark.long
def test_a_training_that_is_killed_again_and_again_ends_in_the_same_bytes(finished: Project, tmp_path: Path) -> None:
    # Real programs, which a kill of their process group ends.
    project = Project(finished.copy(tmp_path / "harveyseg").folder, preloaded=False)
    # The commit at which the undisturbed training ran, so that both records must name it.
    project.run("git", "reset", "--soft", finished.record(MODEL).git_commit or "")
    shutil.rmtree(project.folder / "data" / "models" / MODEL)
    shutil.rmtree(project.folder / ".dvc" / "cache")  # which would restore it
    earlier = {finished.record(name).uid for name in (MODEL, "attention_unet-0")}
    reference = Reference(finished, finished, {}, digests(finished.folder))
    kills = [Kill(TRAIN, 2.0), Kill(TRAIN, 0.0, epoch=1)]
    trials = list(run_chain(reference, project, kills, ["-s", TRAIN], earlier))
    assert [trial.detail for trial in trials] == [""] * len(trials)
    assert trials[-1].fault == "in the epochs of a training"

    # The same comparison sees a byte, a leftover and an epoch too many.
    weights = project.folder / "data" / "models" / MODEL / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    weights.with_name(".weights-abcdefgh.safetensors").touch()
    assert reference.differences(project.folder) == [f"data/models/{MODEL}/weights.safetensors differs"]
    assert leftovers(project.folder) == [f"data/models/{MODEL}/.weights-abcdefgh.safetensors was left"]
    (problem,) = tracking_problems(project)
    assert problem.startswith("runs of the training")


@pytest.mark.parametrize("fault", [fault for fault in inputs.GENERATORS if fault not in OF_HYPOTHESIS])
def test_input_that_nobody_should_write_is_refused_in_words(fault: str) -> None:
    made = itertools.islice(inputs.make({fault: inputs.GENERATORS[fault]}), INPUTS)
    assert [trial.detail for trial in made if trial.outcome != Outcome.SURVIVED] == []


def test_a_generator_that_finds_something_is_heard() -> None:
    def crash(*_: object) -> str:
        raise IndexError("out of range")

    found = list(itertools.islice(inputs.make({"wrong": lambda *_: "differs", "crash": crash}), 2))
    assert [trial.outcome for trial in found] == [Outcome.WRONG, Outcome.UNCLEAR]


def test_the_page_counts_every_trial(tmp_path: Path) -> None:
    path = tmp_path / "results" / "faults.jsonl"
    append(path, [Trial("Old", "a", Outcome.LOST, day="2026-01-02")])
    for outcome, slowed in (
        (Outcome.SURVIVED, 1.25),
        (Outcome.LOST, 0.5),
        (Outcome.WRONG, None),
        (Outcome.UNCLEAR, None),
    ):
        append(path, [Trial("New", "b", outcome, slowed=slowed, day="2026-01-03")])
    drop(path, "Old")
    assert total(read(path)) == "**4 faults tried, 1 survived, 1 lost, 1 silently wrong** (2026-01-03)."
    assert tables(read(path)).splitlines()[-1] == "| b | 4 | 1 | 1 | 1 | 1.2 s |"
