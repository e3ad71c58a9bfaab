"""Descriptions, colours and names of runs in MLflow; the run of submitting nothing."""

from pathlib import Path

import pytest

from harveyseg.palette import model_colours
from harveyseg.tracking.appearance import COLOUR, NOTE
from harveyseg.tracking.baseline import baseline_state
from harveyseg.tracking.client import Tracker, TrackingParams, open_tracker
from harveyseg.tracking.mirror import mirror, mirror_all
from harveyseg.tracking.outputs import RunState
from harveyseg.tracking.query import find_all_runs
from helpers.records import SCORES, make_record, write_outputs
from helpers.tracking import all_mlflow_runs, connect

EVALUATED: dict[str, float | str] = {**SCORES, "val/score": 0.71234, "test/score": 0.65, "evaluation": "e"}


def test_the_description_has_the_numbers_and_the_picture(tracker: Tracker, tmp_path: Path) -> None:
    record = make_record(experiment="ocher-pope", changed={"train.lr": 0.01})
    output = write_outputs(tmp_path, record, EVALUATED)
    mirror(tracker, output.state())
    (run,) = all_mlflow_runs(tracker)
    lines = run.data.tags[NOTE].split("\n\n")
    assert lines[0] == ("Score **0.71234**, +0.11234 over submitting nothing, argmax score 0.66667, test score 0.65000")
    assert lines[1] == "`unet`, fold 0 held out, experiment `ocher-pope`, `train.lr` = 0.01, data demo"
    assert f"(get-artifact?path=evaluation%2Fsheet.png&run_uuid={run.info.run_id})" in lines[2]
    assert "| score | 0.71234 | 0.65000 |" in lines[3]
    assert "training loss 1.5000" in lines[4]


def test_the_description_follows_the_scores_until_somebody_edits_it(tracker: Tracker, tmp_path: Path) -> None:
    state = write_outputs(tmp_path, make_record(), EVALUATED).state()
    mirror(tracker, state)
    for score in (0.72, 0.73):
        mirror(tracker, RunState(state.record, metrics={**state.metrics, "val/score": score}, evaluation="e"))
        (run,) = all_mlflow_runs(tracker)
        assert f"Score **{score:.5f}**" in run.data.tags[NOTE]
    connect(tracker.uri).set_tag(run.info.run_id, NOTE, "the one for the paper")
    mirror(tracker, RunState(state.record, metrics={**state.metrics, "val/score": 0.74}, evaluation="e"))
    assert all_mlflow_runs(tracker)[0].data.tags[NOTE] == "the one for the paper"


def test_a_model_has_one_colour_and_a_users_own_stays(tracker: Tracker, project: Path) -> None:
    tracker = open_tracker(TrackingParams(required=True), project)  # which is waited for
    models = ["yours", "unet", "mine"]
    for model in models:
        mirror(tracker, RunState(make_record(model)))
    runs = {run.data.tags["harveyseg.model"]: run for run in all_mlflow_runs(tracker)}
    # As in DVC's charts and on the summary page, whatever the order there.
    assert {model: run.data.tags[COLOUR] for model, run in runs.items()} == model_colours(sorted(models))
    run = runs["mine"]
    connect(tracker.uri).set_tag(run.info.run_id, COLOUR, "#123456")
    mirror(tracker, RunState(make_record("mine", fold=1, uid=run.data.tags["harveyseg.uid"])))
    assert connect(tracker.uri).get_run(run.info.run_id).data.tags[COLOUR] == "#123456"


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({}, "unet-f0@ocher-pope"),
        ({"train.lr": 1e-05, "width": None}, "unet-f0@ocher-pope lr=1e-05 width=null"),
        ({f"train.{name}": True for name in "abcde"}, "unet-f0@ocher-pope a=true b=true c=true +2"),
    ],
)
def test_the_name_says_model_fold_and_what_was_changed(tracker: Tracker, changed: dict[str, object], name: str) -> None:
    mirror(tracker, RunState(make_record(experiment="ocher-pope", changed=changed)))
    (run,) = all_mlflow_runs(tracker)
    assert run.info.run_name == name


def test_another_evaluation_is_named_by_its_settings(tracker: Tracker) -> None:
    record = make_record()
    for tta in ("none", "flips"):
        settings = {"inference.tta": tta, "inference.overlap": 0.25}
        mirror(tracker, RunState(record, metrics=SCORES, evaluation=f"of {tta}", settings=settings))
    assert {run.info.run_name for run in all_mlflow_runs(tracker)} == {"unet-f0", "unet-f0 tta=flips"}


def test_submitting_nothing_is_a_run_that_all_pipelines_share(tracker: Tracker, tmp_path: Path) -> None:
    unscored = [write_outputs(tmp_path, make_record(), EVALUATED)]
    assert baseline_state(unscored) is None  # before post-processing
    pooled = {"pooled/val/all_empty_score": 0.6, "pooled/test/all_empty_score": 0.5}
    for number in range(2):
        outputs = [write_outputs(tmp_path / str(number), make_record(), {**EVALUATED, **pooled})]
        state = baseline_state(outputs)
        assert state is not None
        mirror_all(tracker, [outputs[0].state(), state])
    (run,) = [run for run in all_mlflow_runs(tracker) if run.data.tags["harveyseg.kind"] == "baseline"]
    assert run.info.run_name == "all_empty"
    assert run.data.metrics == {
        **{f"val/{name}": value for name, value in (("score", 0.6), ("argmax_score", 0.6), ("gain_over_empty", 0.0))},
        **{f"test/{name}": 0.5 for name in ("score", "argmax_score")},
    }
    assert len(find_all_runs(tracker)) == 2  # `harveyseg table --all` lists what was trained
