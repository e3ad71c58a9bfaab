"""The comparison table: values worked out by hand, same bytes in every clone, nothing dropped silently."""

import csv
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from mlflow.tracking import MlflowClient
from ruamel.yaml import YAML

from harveyseg.errors import HarveysegError
from harveyseg.files import read_json, write_json
from harveyseg.record import ALL_EMPTY, RunRecord
from harveyseg.tracking.client import Tracker, TrackingParams, open_tracker
from harveyseg.tracking.mirror import mirror, mirror_all, show_running
from harveyseg.tracking.outputs import RunOutputs, RunState, list_workspace, locate_outputs
from harveyseg.tracking.query import find_all_runs
from harveyseg.tracking.table import (
    ALL_FOLDS,
    all_runs_table,
    comparison_table,
    short_table,
    table_markdown,
    verify_table,
    write_comparison,
)
from helpers.paths import ROOT
from helpers.records import make_record, write_outputs

PARAMS = """\
models:
  unet:
    network: unet
  attention_unet:
    network: attention_unet
folds:
  - 0
  - 1
tracking:
  experiment: harveyseg
"""


def write_workspace(root: Path) -> list[RunOutputs]:
    """Two models on two folds and the ensemble, finished and evaluated; params.yaml lists them, unet first."""
    (root / "params.yaml").write_text(PARAMS)
    scores = {("unet", 0): 0.60, ("unet", 1): 0.70, ("attention_unet", 0): 0.5, ("attention_unet", 1): 0.75}
    pooled = {"unet": 0.66, "attention_unet": 0.65}  # of twelve photos in fold 0 and eighteen in fold 1
    empty = {0: 0.58, 1: 0.62}
    for (model, fold), score in scores.items():
        values = {
            "val/argmax_score": score,
            "val/argmax_macro_dice": score / 2,
            "val/miou": score / 4,
            "val/pixel_accuracy": 1 - score / 8,
            "val/all_empty_score": empty[fold],
            "test/argmax_score": score - 0.01,
            "test/all_empty_score": 0.59,
        }
        output = write_outputs(root / "data", make_record(model, fold), values)
        write_pooled(root / "data", output.record, pooled[model])
    ensemble = make_record("ensemble", 0, kind="ensemble", parameters={}).model_copy(update={"fold": None})
    write_outputs(
        root / "data", ensemble, {"val/argmax_score": 0.8, "val/all_empty_score": 0.6, "test/argmax_score": 0.79}
    )
    return list_workspace(root / "params.yaml", root / "data")


def write_pooled(data: Path, record: RunRecord, argmax_score: float, **more: float) -> None:
    """Add a training to its model's file of the stage postprocess; a slash in a name is two underscores."""
    path = data / "postprocess" / "metrics" / f"{record.model}.json"
    runs = read_json(path, "")["runs"] if path.exists() else []
    values = {
        "pooled/val/argmax_score": argmax_score,
        "pooled/val/all_empty_score": 0.604,
        "pooled/test/argmax_score": 0.66,
        "pooled/test/all_empty_score": 0.59,
    }
    named = {name.replace("__", "/"): value for name, value in more.items()}
    write_json(path, {"runs": [*runs, {"uid": record.uid, **values, **named}]})


def log(tracker: Tracker, outputs: list[RunOutputs]) -> None:
    mirror_all(tracker, [output.state() for output in outputs])


def make_table(tracker: Tracker, outputs: list[RunOutputs], folder: Path) -> list[dict[str, str]]:
    write_comparison(comparison_table(tracker, outputs), folder)
    with (folder / "comparison.csv").open(newline="") as opened:
        return list(csv.DictReader(opened))


def test_rows_order_means_and_decimals(tracker: Tracker, project: Path) -> None:
    outputs = write_workspace(project)
    log(tracker, list(reversed(outputs)))  # the order of logging must not show
    rows = make_table(tracker, outputs, project / "reports")
    assert [(row["model"], row["fold"], row["val_argmax_score"], row["test_argmax_score"]) for row in rows] == [
        ("unet", "0", "0.60000", "0.59000"),
        ("unet", "1", "0.70000", "0.69000"),
        ("unet", "all", "0.66000", "0.66000"),
        ("unet", "mean", "0.65000", "0.64000"),
        ("unet", "spread", "0.07071", "0.07071"),  # 0.1 / sqrt(2)
        ("attention_unet", "0", "0.50000", "0.49000"),
        ("attention_unet", "1", "0.75000", "0.74000"),
        ("attention_unet", "all", "0.65000", "0.66000"),
        ("attention_unet", "mean", "0.62500", "0.61500"),
        ("attention_unet", "spread", "0.17678", "0.17678"),  # 0.25 / sqrt(2)
        ("ensemble", "", "0.80000", "0.79000"),
        (ALL_EMPTY, "", "0.60400", "0.59000"),
    ]
    first = rows[0]
    assert list(first)[:5] == ["model", "fold", "val_score", "val_argmax_score", "gain_over_empty"]
    assert first == {
        "model": "unet",
        "fold": "0",
        "val_score": "",
        "val_argmax_score": "0.60000",
        "gain_over_empty": "",
        "val_nested_argmax_score": "",
        "val_macro_dice": "",
        "val_argmax_macro_dice": "0.30000",
        "val_miou": "0.15000",
        "val_pixel_accuracy": "0.92500",
        "test_argmax_score": "0.59000",
        "test_score": "",
        "test_argmax_macro_dice": "",
        "test_miou": "",
        "test_pixel_accuracy": "",
        "train_loss": "1.50000",  # of the second of three epochs, whose weights are written: 3 / 2
        "val_loss": "1.65000",  # 3.3 / 2
        "epoch": "2",
        "epochs": "3",
        "lr": "0.001",
        "batch_size": "4",
        "size": "128 x 128",
        "parameters": "1234",
        "encoder_weights": "",
        "tta": "",
        "postprocess": "",
        "data_source": "demo",
        "note": "",
    }
    assert rows[2]["lr"] == "0.001"
    assert rows[3]["lr"] == rows[4]["lr"] == ""
    with (project / "reports" / "costs.csv").open(newline="") as opened:
        costs = list(csv.DictReader(opened))
    assert [(row["model"], row["fold"], row["seconds"]) for row in costs][:2] == [
        ("unet", "0", "44.0"),
        ("unet", "1", "44.0"),
    ]
    assert all(len(row["run_id"]) == 32 for row in costs)
    assert len(costs) == 5


def test_submitted_scores_are_next_to_those_of_the_argmax_maps(tracker: Tracker, project: Path) -> None:
    outputs = write_workspace(project)
    (project / "data" / "postprocess" / "metrics" / "unet.json").unlink()
    (project / "data" / "postprocess" / "metrics" / "attention_unet.json").unlink()
    for output, value in zip(outputs[:4], (0.7, 0.8, 0.6, 0.9), strict=True):
        pooled = {"unet": 0.764, "attention_unet": 0.784}[output.record.model]
        scores = {"val__score": value, "pooled__val__score": pooled, "pooled__test__score": 0.77}
        write_pooled(project / "data", output.record, 0.5, **scores)
    ensemble = {"uid": outputs[4].record.uid, "val/score": 0.85, "test/score": 0.77}
    write_json(project / "data" / "postprocess" / "metrics" / "ensemble.json", {"runs": [ensemble]})
    log(tracker, outputs)
    rows = make_table(tracker, outputs, project / "reports")
    assert [
        (row["model"], row["fold"], row["val_score"], row["gain_over_empty"], row["test_score"]) for row in rows
    ] == [
        ("unet", "0", "0.70000", "0.12000", ""),  # what is submitted is the mean of the folds' maps
        ("unet", "1", "0.80000", "0.18000", ""),
        ("unet", "all", "0.76400", "0.16000", "0.77000"),
        ("unet", "mean", "0.75000", "0.15000", ""),
        ("unet", "spread", "0.07071", "0.04243", ""),
        ("attention_unet", "0", "0.60000", "0.02000", ""),
        ("attention_unet", "1", "0.90000", "0.28000", ""),
        ("attention_unet", "all", "0.78400", "0.18000", "0.77000"),
        ("attention_unet", "mean", "0.75000", "0.15000", ""),
        ("attention_unet", "spread", "0.21213", "0.18385", ""),
        ("ensemble", "", "0.85000", "0.25000", "0.77000"),
        (ALL_EMPTY, "", "0.60400", "0.00000", "0.59000"),
    ]
    short = short_table(comparison_table(tracker, outputs)).partition("\n\n")[0].splitlines()
    columns = [match.span() for match in re.finditer("-+", short[1])]
    header, _, *cells = [[line[start:end].strip() for start, end in columns] for line in short]
    assert header == ["model", "score", "gain", "test score", "seconds"]
    assert cells == [  # the best first; a training takes 44 s
        ["ensemble", "0.85000", "0.25000", "0.77000", ""],
        ["attention_unet", "0.78400", "0.18000", "0.77000", "88.0"],
        ["unet", "0.76400", "0.16000", "0.77000", "88.0"],
        [ALL_EMPTY, "0.60400", "0.00000", "0.59000", ""],
    ]
    for line in short:  # nothing is cut off, or between two columns
        assert [word for word in re.split(" {2,}", line) if word] == [
            cell for start, end in columns if (cell := line[start:end].strip())
        ]
    assert verify_table(project / "reports" / "comparison.csv", outputs) == []
    (project / "data" / "postprocess" / "metrics" / "ensemble.json").unlink()
    differences = verify_table(project / "reports" / "comparison.csv", outputs)
    assert [difference.partition(": ")[2] for difference in differences] == [
        "ensemble: gain_over_empty is 0.25000, the stages' files say absent",
        "ensemble: test_score is 0.77000, the stages' files say absent",
        "ensemble: val_score is 0.85000, the stages' files say absent",
    ]


def test_the_short_table_fits_a_terminal_of_80_columns() -> None:
    """Six columns, and a model with the longest name of the presets, whose figures are the widest there can be."""
    presets = ROOT / "src" / "harveyseg" / "config" / "presets"
    names = [name for preset in presets.iterdir() for name in YAML(typ="safe").load(preset)["models"]]
    longest = max(names, key=len)
    values = {"val_score": 0.65429, "gain_over_empty": -0.59999, "val_macro_dice": 0.1, "test_score": 0.7}
    rows = [
        {"model": model, "fold": fold, "seconds": seconds, "note": "", **values}
        for model, fold, seconds in ((longest, "0", 99_999.9), (longest, ALL_FOLDS, math.nan), ("unet", ALL_FOLDS, 1.0))
    ]
    lines = short_table(pd.DataFrame(rows)).splitlines()
    assert lines[0].split("  ")[-4:] == ["gain", "macro Dice", "test score", "seconds"]
    assert lines[2].split() == [longest, "0.65429", "-0.59999", "0.10000", "0.70000", "99999.9"]
    assert max(map(len, lines)) <= 80


def test_same_bytes_from_a_second_empty_store(tracker: Tracker, project: Path, tmp_path: Path) -> None:
    outputs = write_workspace(project)
    log(tracker, outputs)
    make_table(tracker, outputs, tmp_path / "first")
    elsewhere = tmp_path / "clone"
    second = open_tracker(TrackingParams(), elsewhere)
    log(second, outputs)
    make_table(second, outputs, tmp_path / "second")
    for name in ("comparison.csv", "comparison.md"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    text = (tmp_path / "first" / "comparison.csv").read_text()
    assert not any(run.run_id and run.run_id in text for run in find_all_runs(tracker))


def test_latest_run_is_not_taken(tracker: Tracker, project: Path) -> None:
    """lr 0.01, then 0.02, then 0.01 again from DVC's run cache: no new run, and the newest is the wrong one."""
    by_lr = {}
    for lr in (0.01, 0.02):
        by_lr[lr] = RunOutputs(make_record(parameters={"train.lr": lr}), project)
        mirror(tracker, RunState(by_lr[lr].record, metrics={"val/argmax_score": lr}))
    for lr in (0.01, 0.02, 0.01):
        frame = comparison_table(tracker, [by_lr[lr]])
        assert frame["lr"][0] == lr
        assert frame["val_argmax_score"][0] == lr


def test_small_learning_rate_stays_a_number(tracker: Tracker, project: Path) -> None:
    record = make_record(parameters={"train.lr": 0.00001})
    mirror(tracker, RunState(record))
    frame = comparison_table(tracker, [RunOutputs(record, project)])
    assert frame["lr"][0] == 1e-05
    assert frame["lr"].dtype == "float64"


def test_what_is_missing_is_shown(tracker: Tracker, project: Path) -> None:
    records = [make_record(fold=fold) for fold in range(4)]
    scored, unscored, _, poisoned = records
    mirror(tracker, RunState(scored, metrics={"val/argmax_score": 0.5}))
    mirror(tracker, RunState(unscored))
    with pytest.raises(RuntimeError), show_running(tracker, poisoned) as run_id:
        raise RuntimeError
    assert run_id is not None
    MlflowClient(tracking_uri=tracker.uri).log_metric(run_id, "val/argmax_score", float("nan"))
    frame = comparison_table(tracker, [RunOutputs(record, project) for record in records])
    rows = {
        fold: (score, note)
        for fold, score, note in zip(frame["fold"], frame["val_argmax_score"], frame["note"], strict=True)
    }
    assert rows["0"] == (0.5, "")
    assert "no score" in rows["1"][1]
    assert "not in MLflow" in rows["2"][1]
    assert "FAILED" in rows["3"][1]
    assert "val_argmax_score is NaN" in rows["3"][1]
    assert all(str(rows[fold][0]) == "nan" for fold in ("1", "2", "3", "all", "mean", "spread"))
    assert rows["all"][1].startswith("no score over the photos of all folds")
    shown = table_markdown(frame[["model", "fold", "val_argmax_score", "val_miou", "note"]])
    assert "- unet fold 2: not in MLflow" in shown
    lines = [[cell.strip() for cell in line.split("|")] for line in shown.splitlines()]
    assert lines[0] == ["", "model", "fold", "val_argmax_score", ""]  # no empty column
    assert lines[2] == ["", "unet", "0", "0.50000", ""]


def test_bad_files_that_were_left_out_are_noted_once(tracker: Tracker, project: Path) -> None:
    outputs = []
    for model in ("unet", "attention_unet"):
        record = make_record(model, parameters={"data.skipped": 3})
        outputs.append(write_outputs(project / "data", record, {"val/argmax_score": 0.5, "val/all_empty_score": 0.4}))
        write_pooled(project / "data", outputs[-1].record, 0.5)
    outputs = [locate_outputs(output.record, project / "data") for output in outputs]
    log(tracker, outputs)
    make_table(tracker, outputs, project / "reports")
    notes = (project / "reports" / "comparison.md").read_text().partition("\n\n")[2]
    assert notes.startswith("- all: 3 bad files were left out of the data (data.on_bad: skip)")


@pytest.mark.parametrize(("keep", "chosen"), [("best", True), ("last", False)])
def test_a_row_says_that_its_epoch_was_chosen_on_the_photos_it_is_scored_on(
    tracker: Tracker, project: Path, keep: str, chosen: bool
) -> None:
    record = make_record(parameters={"train.validation.keep": keep})
    mirror(tracker, RunState(record, metrics={"val/argmax_score": 0.5, "pooled/val/argmax_score": 0.5}))
    frame = comparison_table(tracker, [RunOutputs(record, project)])
    notes = dict(zip(frame["fold"], frame["note"], strict=True))
    assert ("the epoch was chosen on the held-out photos" in notes["all"]) == chosen
    assert notes["0"] == ""


@pytest.mark.parametrize(
    ("name", "value", "noted"),
    [("predicted", 0.0, True), ("submitted", 0.0, True), ("predicted", 0.04, False), ("submitted", 0.04, False)],
)
def test_a_row_says_that_nothing_is_predicted(
    tracker: Tracker, project: Path, name: str, value: float, noted: bool
) -> None:
    metrics = {"val/argmax_score": 0.6, "pooled/val/argmax_score": 0.6}
    metrics |= {f"val/{name}_classes": value, f"pooled/val/{name}_classes": value}
    record = make_record()
    mirror(tracker, RunState(record, metrics=metrics))
    notes = comparison_table(tracker, [RunOutputs(record, project)])["note"].tolist()[:2]
    assert ["(held-out photos), which scores as `all_empty`" in note for note in notes] == [noted, noted]


@pytest.mark.parametrize(
    ("counts", "text"),
    [
        ({"val": 3.0, "test": 1.0}, "ground of training photos is shown by 3 held-out photos and 1 test photo"),
        ({"val": 0.0, "test": 0.0}, "no held-out or test photo shows ground of a training photo"),
        ({}, "not checked whether photos that are scored show ground of training photos"),
    ],
)
def test_rows_count_the_photos_that_show_ground_of_training_photos(
    tracker: Tracker, project: Path, counts: dict[str, float], text: str
) -> None:
    overlapping = {f"{part}/overlapping_photos": count for part, count in counts.items()}
    pooled = {"val/argmax_score": 0.6} | overlapping
    model, ensemble = make_record(), make_record("ensemble", None, kind="ensemble")
    mirror(tracker, RunState(model, metrics={"val/argmax_score": 0.6} | {f"pooled/{k}": v for k, v in pooled.items()}))
    mirror(tracker, RunState(ensemble, metrics={"val/argmax_score": 0.6, "val/score": 0.7} | overlapping))
    frame = comparison_table(tracker, [RunOutputs(record, project) for record in (model, ensemble)])
    notes = {
        (model, fold): note for model, fold, note in zip(frame["model"], frame["fold"], frame["note"], strict=True)
    }
    assert text in notes["unet", "all"]
    assert notes["ensemble", ""] == text
    assert notes["unet", "0"] == ""
    assert short_table(frame).endswith(f"\n\n- all: {text}\n")


def test_dvc_tracks_no_file_that_differs_between_databases(tracker: Tracker, project: Path, tmp_path: Path) -> None:
    outputs = write_workspace(project)
    second = open_tracker(TrackingParams(), tmp_path / "clone")
    for store, folder in ((tracker, "first"), (second, "second")):
        log(store, outputs)
        make_table(store, outputs, tmp_path / folder)
    outs = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]["compare"]["outs"]
    for path in (tmp_path / "first").iterdir():
        differs = path.read_bytes() != (tmp_path / "second" / path.name).read_bytes()
        assert (f"data/reports/{path.name}" in outs) != differs


def test_removed_model_leaves_the_table_though_its_folder_stays(tracker: Tracker, project: Path) -> None:
    outputs = write_workspace(project)
    log(tracker, outputs)
    (project / "params.yaml").write_text(PARAMS.replace("  unet:\n    network: unet\n", "", 1))
    rest = list_workspace(project / "params.yaml", project / "data")
    assert {row["model"] for row in make_table(tracker, rest, project / "reports")} == {
        "attention_unet",
        "ensemble",
        ALL_EMPTY,
    }


def test_verification_finds_every_difference(tracker: Tracker, project: Path) -> None:
    outputs = write_workspace(project)
    log(tracker, outputs)
    table = project / "reports" / "comparison.csv"
    make_table(tracker, outputs, table.parent)
    assert verify_table(table, outputs) == []

    good = table.read_text()
    table.write_text(good.replace("0.70000", "0.70001"))
    (problem,) = verify_table(table, outputs)
    assert "unet 1: val_argmax_score is 0.70001, the stages' files say 0.70000" in problem

    table.write_text("".join(line for line in good.splitlines(keepends=True) if not line.startswith("ensemble")))
    assert [p.endswith("ensemble: the row is absent") for p in verify_table(table, outputs)] == [True]

    table.write_text(good.replace(",0.01,", ",0.02,").replace("0.60000", ""))
    assert any("val_argmax_score is absent" in problem for problem in verify_table(table, outputs))

    table.write_text(good)
    assert any("lists no such model" in problem for problem in verify_table(table, outputs[2:]))

    metrics = outputs[0].metrics
    content = json.loads(metrics.read_text())
    metrics.write_text(json.dumps(content | {"val/argmax_score": float("nan")}))
    assert any("val/argmax_score is nan" in problem for problem in verify_table(table, outputs))
    metrics.write_text(json.dumps({key: value for key, value in content.items() if key != "val/argmax_score"}))
    assert any("val/argmax_score is absent" in problem for problem in verify_table(table, outputs))
    metrics.unlink()
    assert any("metrics.json: val/argmax_score is absent" in problem for problem in verify_table(table, outputs))

    table.write_text("model,fold\nunet,0\n")
    with pytest.raises(HarveysegError, match="lacks the columns"):
        verify_table(table, outputs)
    table.unlink()
    with pytest.raises(HarveysegError, match="no such file"):
        verify_table(table, outputs)


def test_all_runs_are_sorted_by_experiment(tracker: Tracker) -> None:
    for experiment, fold in (("ocher-pope", 0), (None, 0), ("aged-lamb", 10), ("aged-lamb", 2)):
        mirror(tracker, RunState(make_record(fold=fold, experiment=experiment)))
    with pytest.raises(RuntimeError), show_running(tracker, make_record(experiment="ocher-pope", started_ms=1)):
        raise RuntimeError
    frame = all_runs_table(tracker)
    assert list(zip(frame["experiment"], frame["fold"], frame["status"], strict=True)) == [
        ("", "0", "FINISHED"),
        ("aged-lamb", "2", "FINISHED"),
        ("aged-lamb", "10", "FINISHED"),
        ("ocher-pope", "0", "FAILED"),
        ("ocher-pope", "0", "FINISHED"),
    ]
    assert "unet" in table_markdown(frame)


def test_scores_of_runs_without_an_evaluation_id_are_left_out(tracker: Tracker) -> None:
    # Versions before 0.2.0 called the argmax score val/score.
    for fold, evaluation in ((0, ""), (1, "e1")):
        metrics = {"val/score": 0.6, "written/val_loss": 1.5}
        mirror(tracker, RunState(make_record(fold=fold), metrics=metrics, evaluation=evaluation))
    frame = all_runs_table(tracker)
    assert frame["val_score"].isna().tolist() == [True, False]
    assert frame["val_loss"].tolist() == [1.5, 1.5]


@pytest.mark.slow
def test_stage_compare(project: Path) -> None:
    outputs = write_workspace(project)
    command = [sys.executable, str(ROOT / "stages" / "compare.py")]
    first = subprocess.run(command, cwd=project, env=dict(os.environ), capture_output=True, text=True, check=True)
    assert "sync: unet-f0: imported, 3 epochs, 20 values, 2 files" in first.stdout
    # Post-processing has not run, so the models have no score yet.
    assert re.search(r"^all_empty +0\.60400 ", first.stdout, re.MULTILINE)
    assert re.search(r"^unet {20,}88\.0$", first.stdout, re.MULTILINE)
    written = (project / "data" / "reports" / "comparison.md").read_text()
    assert re.search(r"^\| unet +\| all +\| +\| +0\.66000 ", written, re.MULTILINE)
    assert verify_table(project / "data" / "reports" / "comparison.csv", outputs) == []
