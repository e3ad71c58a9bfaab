"""What DVC shows, collected from the stages' files; the files are written by hand."""

import json
from pathlib import Path

import pandas as pd
import pytest

from harveyseg.errors import HarveysegError
from harveyseg.files import write_json
from harveyseg.overview.collect import PipelineFiles, collect_curves, short_names, write_overview
from harveyseg.record import write_run
from harveyseg.training.history import write_history
from helpers.records import make_history, make_record

MODELS = ("unet", "attention_unet")
FOLDS = (0, 1)


@pytest.fixture
def files(tmp_path: Path) -> PipelineFiles:
    """Two models on two folds; the test photos have no masks."""
    data = tmp_path / "data"
    scores = data / "postprocess" / "metrics"
    for number, model in enumerate(MODELS):
        runs = []
        for fold in FOLDS:
            folder = data / "models" / f"{model}-{fold}"
            write_run(folder / "run.json", make_record(model, fold, uid=f"{model}-{fold}"))
            write_history(folder / "history.csv", make_history(2))
            runs.append({"uid": f"{model}-{fold}", "pooled/val/all_empty_score": 0.5, "val/score": 0.9})
        dice = {"val/dice/01_roof": 0.25, "val/dice/03_pool": number / 2}
        write_json(scores / f"{model}.json", {"runs": runs, "val/score": 0.6 + number / 10, **dice})
    write_run(data / "ensemble" / "run.json", make_record("ensemble", None, kind="ensemble", uid="together"))
    write_json(data / "ensemble" / "metrics.json", {"val/all_empty_score": 0.5})
    (data / "ensemble" / "per_class.csv").write_text("part,class,name\nval,1,Roof\nval,2,Road / Path\nval,3,Pool\n")
    ensemble = {"runs": [{"uid": "together"}], "val/score": 0.75, "val/dice/01_roof": 0.5, "val/dice/03_pool": 0.0}
    write_json(scores / "ensemble.json", ensemble)
    return PipelineFiles(MODELS, FOLDS, data / "models", data / "ensemble", scores)


def test_dvcs_file_holds_one_number_for_each_model_in_the_order_to_be_shown(
    files: PipelineFiles, tmp_path: Path
) -> None:
    written = write_overview(tmp_path / "out", files)
    expected = [("ensemble", 0.75), ("all_empty", 0.5), ("unet", 0.6), ("atte_unet", 0.7)]
    assert list(written.items()) == expected
    assert list(json.loads((tmp_path / "out" / "scores.json").read_text()).items()) == expected


def test_the_tables_of_the_charts_hold_every_model(files: PipelineFiles, tmp_path: Path) -> None:
    write_overview(tmp_path, files)
    scores = pd.read_csv(tmp_path / "scores.csv")
    assert scores.to_dict("list") == {
        "model": ["unet", "attention_unet", "ensemble"],
        "part": ["held-out photos"] * 3,
        "score": [0.6, 0.7, 0.75],
        "all_empty": [0.5] * 3,
        "colour": ["#2f6db3", "#d9772b", "#222222"],  # as in MLflow
    }
    dice = pd.read_csv(tmp_path / "class_dice.csv").pivot(index="model", columns="class", values="dice")
    assert dice.loc[[*MODELS, "ensemble"]].to_numpy().tolist() == [[0.25, 0.0], [0.25, 0.5], [0.5, 0.0]]
    assert dice.columns.tolist() == ["01 Roof", "03 Pool"]  # as in confusion.csv
    curves = pd.read_csv(tmp_path / "learning_curves.csv")
    assert dict(zip(curves["model"], curves["colour"], strict=True)) == {"unet": "#2f6db3", "attention_unet": "#d9772b"}
    assert len(curves) == len(MODELS) * len(FOLDS) * 2 * 3
    one = curves.query("model == 'unet' and fold == 1 and curve == 'validation loss'")
    assert one["epoch"].tolist() == [1, 2]
    assert one["value"].tolist() == [3.3, 1.65]


def test_scores_of_test_photos_are_drawn_where_their_masks_are_known(files: PipelineFiles, tmp_path: Path) -> None:
    for source in (*MODELS, "ensemble"):
        path = files.scores / f"{source}.json"
        content = json.loads(path.read_text()) | {"test/score": 0.8}
        for run in content["runs"]:
            run["pooled/test/all_empty_score"] = 0.4
        write_json(path, content)
    write_json(files.ensemble / "metrics.json", {"val/all_empty_score": 0.5, "test/all_empty_score": 0.4})
    written = write_overview(tmp_path, files)
    scores = pd.read_csv(tmp_path / "scores.csv")
    test = scores[scores["part"] == "test photos"]
    assert test["model"].tolist() == [*MODELS, "ensemble"]
    assert set(test["score"]) == {0.8}
    assert set(test["all_empty"]) == {0.4}
    assert written["ensemble"] == 0.75  # of the held-out photos


def test_an_epoch_that_was_not_validated_has_no_point(files: PipelineFiles) -> None:
    rows = make_history(2)
    for name in ("val_loss", "val_argmax_score"):
        del rows[0][name]
    write_history(files.trained / "unet-0" / "history.csv", rows)
    curves = collect_curves(files).query("model == 'unet' and fold == 0")
    assert sorted(zip(curves["curve"], curves["epoch"], strict=True)) == [
        ("argmax score of the held-out photos", 2),
        ("training loss", 1),
        ("training loss", 2),
        ("validation loss", 2),
    ]


def test_scores_of_other_runs_are_refused(files: PipelineFiles, tmp_path: Path) -> None:
    write_run(files.trained / "unet-1" / "run.json", make_record("unet", 1, uid="trained again"))
    with pytest.raises(HarveysegError, match=r"unet\.json: is not of the runs in .*unet-0, .*unet-1\. Run `dvc repro`"):
        write_overview(tmp_path / "out", files)
    assert not (tmp_path / "out").exists()


def test_two_models_never_share_a_column() -> None:
    report = ["unet", "attention_unet", "unetplusplus", "mobilenet_v2", *(f"efficientnet_b{n}" for n in (1, 2, 3))]
    short = short_names(report)
    assert len(set(short.values())) == len(report)
    assert max(map(len, short.values())) <= 10
    alike = ["segformer_large_512", "segformers_large_512"]
    assert short_names(alike) == dict(zip(alike, alike, strict=True))
    assert short_names(["ensemble_of_mine"])["ensemble_of_mine"] != "ensemble"
