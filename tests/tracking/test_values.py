"""Few metrics, and all values: what MLflow shows, and what is read back from it."""

import json
from pathlib import Path

import pytest

from harveyseg.record import write_run
from harveyseg.tracking.client import Tracker
from harveyseg.tracking.mirror import mirror, mirror_all
from harveyseg.tracking.outputs import RunOutputs, RunState
from harveyseg.tracking.query import find_runs
from harveyseg.tracking.values import DICE, pack_values, unpack_values
from helpers.records import SCORES, make_history, make_record, make_results, write_outputs
from helpers.tracking import all_mlflow_runs, connect

AWKWARD = {"pooled/val/score": 0.1 + 0.2, "val/argmax_dice/01_roof": 5e-324, "test/miou": 1 / 3, "best/epoch": 7.0}


def many_classes(folder: Path, count: int) -> RunOutputs:
    """A run with a score for each of so many classes, of which class n is in n held-out photos."""
    dice = {f"{DICE}{number:03}_kind_{number}": number / 1000 for number in range(count)}
    argmax = {name.replace("dice", "argmax_dice"): value for name, value in dice.items()}
    output = write_outputs(folder, make_record(), {**SCORES, **dice, **argmax, "val/score": 0.7, "evaluation": "e"})
    rows = [f"val,{number},Kind {number},{number},0" for number in range(count)]
    rows += [f"test,{number},Kind {number},{count - number},0" for number in range(count)]
    (folder / "predictions" / "unet-0" / "per_class.csv").write_text(
        "part,class,name,photos,predicted\n" + "\n".join(rows) + "\n"
    )
    return output


@pytest.mark.parametrize("classes", [25, 150])
def test_mlflow_shows_few_metrics_and_holds_every_value(tracker: Tracker, tmp_path: Path, classes: int) -> None:
    output = many_classes(tmp_path, classes)
    state = output.state()
    assert mirror(tracker, state) is not None
    (run,) = all_mlflow_runs(tracker)
    of_classes = {name for name in run.data.metrics if name.startswith(DICE)}
    assert len(run.data.metrics) - len(of_classes) <= 25
    commonest = range(classes)[-30:]
    assert of_classes == {f"{DICE}{number:03}_kind_{number}" for number in commonest}
    shown = [value for name, value in run.data.metrics.items() if not name.startswith("epoch/")]
    assert max(len(str(value).partition(".")[2]) for value in shown) <= 5
    assert run.data.metrics["val/argmax_score"] == 0.66667
    assert max(map(len, run.data.tags.values())) <= 5000
    (found,) = find_runs(tracker, [output])
    assert found is not None
    values = {**state.record.results, **state.metrics}
    assert {name: found.metrics[name] for name in values} == values  # bit for bit
    assert mirror(tracker, state) is None  # a second time sends nothing


def test_values_of_one_part_leave_those_of_another(tracker: Tracker) -> None:
    record = make_record()
    mirror(tracker, RunState(record, metrics=AWKWARD))
    assert mirror(tracker, RunState(record, metrics={"test/miou": 0.5, "val/interior_accuracy": 0.25})) == (
        "unet-f0: 2 values"
    )
    (run,) = all_mlflow_runs(tracker)
    assert unpack_values(run.data.tags) == {**AWKWARD, "test/miou": 0.5, "val/interior_accuracy": 0.25}


def test_values_replace_the_metrics_of_an_earlier_version(tracker: Tracker, tmp_path: Path) -> None:
    """Which logged all as metrics; MLflow cannot delete one, and two answers must not contradict one another."""
    output = write_outputs(tmp_path, make_record(), {**SCORES, "evaluation": "e"})
    mirror(tracker, output.state())
    (run,) = all_mlflow_runs(tracker)
    connect(tracker.uri).log_metric(run.info.run_id, "val/all_empty_score", 0.1)
    (found,) = find_runs(tracker, [output])
    assert found is not None
    assert found.metrics["val/all_empty_score"] == SCORES["val/all_empty_score"]


def test_a_damaged_tag_holds_no_value_and_is_written_again(tracker: Tracker) -> None:
    record = make_record()
    mirror(tracker, RunState(record, metrics=AWKWARD))
    (run,) = all_mlflow_runs(tracker)
    (name,) = pack_values(AWKWARD)
    for damaged in ('{"pooled/val/score":0.30', "[]", '{"pooled/val/score": "x"}'):
        connect(tracker.uri).set_tag(run.info.run_id, name, damaged)
        assert unpack_values(all_mlflow_runs(tracker)[0].data.tags) == {}
        assert mirror(tracker, RunState(record, metrics=AWKWARD)) == "unet-f0: 4 values"
        assert unpack_values(all_mlflow_runs(tracker)[0].data.tags) == AWKWARD


def test_a_training_has_at_most_25_metrics(tracker: Tracker, tmp_path: Path) -> None:
    """With curves, GPU memory and the scores of an upload: all that a run can have."""
    results = {**make_results(make_history(3)), "peak_gpu_memory_mb": 900.0, "best/val_loss": 1.0}
    output = write_outputs(tmp_path, make_record(), {**SCORES, "evaluation": "e"})
    record = output.record.model_copy(update={"results": results})
    write_run(output.folder / "run.json", record)
    scores = json.loads(output.metrics.read_text())
    both = ("score", "argmax_score", "macro_dice", "miou", "missed_classes", "false_positive_classes", "pixel_accuracy")
    scores |= {f"{part}/{name}": 0.5 for part in ("val", "test", "pooled/val") for name in both}
    output.metrics.write_text(json.dumps(scores))
    state = RunOutputs(record, output.folder, output.predictions).state(
        {"kaggle/public_score": 0.7, "kaggle/private_score": 0.7}
    )
    mirror_all(tracker, [state])
    (run,) = all_mlflow_runs(tracker)
    assert len(run.data.metrics) == 25
    assert {"val/gain_over_empty", "written/val_loss", "epoch/val_loss", "kaggle/private_score"} <= set(
        run.data.metrics
    )


def test_values_that_need_fewer_tags_are_not_hidden_by_old_ones(tracker: Tracker) -> None:
    """Shorter numbers shift later names into earlier tags; what the last tag held of them is old."""
    record = make_record()
    names = [f"val/iou/{number:03d}_a_rather_long_name_of_a_class" for number in range(180)]
    mirror(tracker, RunState(record, metrics=dict.fromkeys(names, 1 / 3)))
    tags = all_mlflow_runs(tracker)[0].data.tags
    short = dict.fromkeys(names, 0.5)
    assert len(pack_values(short)) < len([name for name in tags if name.startswith("harveyseg.values.")])
    mirror(tracker, RunState(record, metrics=short))
    assert unpack_values(all_mlflow_runs(tracker)[0].data.tags) == short
    assert mirror(tracker, RunState(record, metrics=short)) is None
