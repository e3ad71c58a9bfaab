"""Rules as files, and the masks and class maps that they make."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harveyseg.classes import HARVEY25
from harveyseg.data.cache import CachedPart
from harveyseg.ensemble.evaluation import evaluate_ensemble
from harveyseg.ensemble.members import load_fold_models
from harveyseg.ensemble.weights import EnsembleWeights
from harveyseg.errors import HarveysegError
from harveyseg.evaluation.documents import write_evaluation
from harveyseg.files import read_json, write_json
from harveyseg.inference.probabilities import argmax_map, count_confusions, write_probabilities
from harveyseg.postprocess.files import read_rule, write_rule
from harveyseg.postprocess.regression import clipped_log_odds
from harveyseg.postprocess.rules import ArgmaxRule, ExpectedDiceRule
from harveyseg.postprocess.select import SelectedRule, select_rule
from harveyseg.postprocess.statistics import SpecialMask, collect_statistics
from harveyseg.record import RunRecord, identify_evaluation, identify_postprocessing, write_run
from harveyseg.score import pair_dice, pair_metrics
from harveyseg.tracking.client import Tracker
from harveyseg.tracking.mirror import mirror_all
from harveyseg.tracking.outputs import locate_outputs
from harveyseg.tracking.table import comparison_table
from helpers.postprocessing import GROUPS, PHOTOS, NoisyPhotos, make_calibrated_rule, make_fitted_rule
from helpers.records import make_record

SIZE = (1024, 1024)


def test_masks_have_the_dice_of_the_statistics(noisy: NoisyPhotos) -> None:
    truth, maps, statistics = noisy
    rule = ExpectedDiceRule.fit(statistics, GROUPS)
    for candidate in (rule, ArgmaxRule()):
        dice = statistics.dice(candidate.thresholds(statistics.level_counts))
        for photo in (0, 5):
            masks = make_fitted_rule(candidate).submitted_masks(maps[photo])
            assert pair_dice(truth[photo], masks, 1) == pytest.approx(dice[photo])
    assert not np.array_equal(
        rule.thresholds(statistics.level_counts), ArgmaxRule().thresholds(statistics.level_counts)
    )


def test_class_map_agrees_with_the_submitted_masks(noisy: NoisyPhotos) -> None:
    _, maps, statistics = noisy
    fitted = make_fitted_rule(ExpectedDiceRule.fit(statistics, GROUPS))
    overlaps = 0
    for photo in range(4):
        masks = fitted.submitted_masks(maps[photo])
        classes = fitted.class_map(maps[photo])
        covered = masks.sum(0)
        single = covered == 1
        assert np.array_equal(classes[single], masks.argmax(0)[single] + 1)
        rows, columns = np.nonzero(covered > 1)
        assert masks[classes[rows, columns] - 1, rows, columns].all()
        assert set(np.unique(classes)) <= {0, *(np.flatnonzero(masks.any((1, 2))) + 1)}
        overlaps += len(rows)
    assert overlaps
    assert fitted.class_map(maps[0], (60, 80)).shape == (60, 80)


def test_class_map_weighs_overlapping_classes_by_their_thresholds() -> None:
    maps = np.zeros((25, 4, 4), np.uint8)
    maps[0] = 50
    maps[1] = 250
    maps[2] = 40
    # Class 1 is certain elsewhere, so its threshold is near 125; class 2 is nowhere more probable than here.
    maps[1, :2, :2] = 160
    maps[2, :2, :2] = 130
    maps[1, 3, 3] = 0
    maps[3, 3, 3] = 255
    only_1_and_2 = make_calibrated_rule(
        presence_intercept=dict(zip(HARVEY25.scored_slugs, (9.0, 9.0, *(-9.0,) * 22), strict=True))
    )
    fitted = make_fitted_rule(only_1_and_2)
    masks = fitted.submitted_masks(maps)
    classes = fitted.class_map(maps, (4, 4))
    assert masks.any((1, 2)).tolist() == [True, True] + [False] * 22
    assert masks[:2, 0, 0].all()
    assert [argmax_map(maps, (4, 4))[place] for place in ((0, 0), (3, 0), (3, 3))] == [1, 1, 3]
    assert [classes[place] for place in ((0, 0), (3, 0), (3, 3))] == [2, 1, 0]


def test_class_map_of_the_rule_argmax_is_the_argmax_map(noisy: NoisyPhotos) -> None:
    _, maps, _ = noisy
    assert np.array_equal(make_fitted_rule(ArgmaxRule()).class_map(maps[1]), argmax_map(maps[1], SIZE))
    classes = argmax_map(maps[1], SIZE)
    masks = make_fitted_rule(ArgmaxRule()).submitted_masks(maps[1])
    assert all(np.array_equal(masks[class_id - 1], classes == class_id) for class_id in range(1, 25))


def test_a_written_rule_comes_back(noisy: NoisyPhotos, tmp_path: Path) -> None:
    _, _, statistics = noisy
    records: dict[int | None, RunRecord] = {
        0: make_record(model="a", fold=0, uid="u0"),
        2: make_record(model="a", fold=2, uid="u2"),
    }
    table = pd.DataFrame({"group": GROUPS, "fold": [0] * 4 + [2] * 8})
    selected = select_rule(statistics, GROUPS, "auto")
    evaluations: dict[int | None, str] = {0: "e0", 2: "e2"}
    identities = identify_postprocessing(evaluations, {"postprocess.method": "auto"}, "c0")
    write_rule(tmp_path, "a", records, statistics, table, selected, SIZE, None, identities)
    fitted = read_rule(tmp_path / "rules" / "a.json", list(records.values()))
    assert fitted.rule == selected.rule
    assert (fitted.photos, fitted.groups, fitted.uids) == (12, 6, {"a-f0": "u0", "a-f2": "u2"})
    dice = statistics.dice(selected.nested_thresholds)
    assert fitted.nested_score == pytest.approx(dice.mean())
    assert fitted.in_sample_score == pytest.approx(
        statistics.dice(selected.rule.thresholds(statistics.level_counts)).mean()
    )
    metrics = read_json(tmp_path / "metrics" / "a.json", "")
    assert metrics["val/score"] == pytest.approx(dice.mean())
    assert metrics["val/postprocess_gain"] == pytest.approx(dice.mean() - statistics.argmax_dice.mean())
    expected = pair_metrics(dice, statistics.present, HARVEY25.scored_slugs)
    assert metrics["val/macro_dice"] == expected["macro_dice"]
    assert metrics["val/dice/05_grass"] == expected["dice/05_grass"]
    assert [(run["uid"], run["val/score"]) for run in metrics["runs"]] == [
        ("u0", pytest.approx(dice[:4].mean())),
        ("u2", pytest.approx(dice[4:].mean())),
    ]
    assert [run["evaluation"].partition("-")[0] for run in metrics["runs"]] == ["e0", "e2"]
    assert [run["postprocess.method"] for run in metrics["runs"]] == ["auto", "auto"]


def test_pooled_metrics_are_those_of_all_photos_and_not_means_over_folds(noisy: NoisyPhotos, tmp_path: Path) -> None:
    truth, maps, statistics = noisy
    records: dict[int | None, RunRecord] = {fold: make_record(model="a", fold=fold, uid=f"u{fold}") for fold in (0, 2)}
    photos = pd.DataFrame({"group": GROUPS, "fold": [0] * 4 + [2] * 8})
    selected = select_rule(statistics, GROUPS, "argmax")
    identities = identify_postprocessing({0: "e0", 2: "e2"}, {}, "c0")
    write_rule(tmp_path, "a", records, statistics, photos, selected, SIZE, statistics, identities)

    # Pixel by pixel, from the masks alone.
    predicted = np.stack([argmax_map(photo, SIZE) for photo in maps])
    dice, present = np.ones((PHOTOS, 24)), np.zeros((PHOTOS, 24), bool)
    ious = []
    for class_id in range(25):
        true, found = truth == class_id, predicted == class_id
        if true.any():
            ious.append((true & found).sum() / (true | found).sum())
        for photo in range(PHOTOS if class_id else 0):
            pixels = true[photo].sum() + found[photo].sum()
            present[photo, class_id - 1] = true[photo].any()
            dice[photo, class_id - 1] = 2 * (true & found)[photo].sum() / pixels if pixels else 1
    expected = {
        "score": dice.mean(),
        "argmax_score": dice.mean(),
        "all_empty_score": 1 - present.mean(),
        "macro_dice": np.mean([dice[holds, index].mean() for index, holds in enumerate(present.T) if holds.any()]),
        "miou": np.mean(ious),
        "pixel_accuracy": (predicted == truth).mean(),
        "submitted_classes": np.mean([len(set(np.unique(photo)) - {0}) for photo in predicted]),
    }
    runs = read_json(tmp_path / "metrics" / "a.json", "")["runs"]
    for run in runs:
        for part in ("val", "test"):
            pooled = {name: run[f"pooled/{part}/{name}"] for name in expected if f"pooled/{part}/{name}" in run}
            assert pooled == pytest.approx({name: expected[name] for name in pooled})
            assert len(pooled) == len(expected) - (part == "test")  # macro Dice is of val only
        assert "test/score" not in run  # the mean of both folds' maps is submitted
    assert np.mean([run["val/macro_dice"] for run in runs]) != pytest.approx(expected["macro_dice"], abs=1e-3)


def test_an_ensemble_of_one_model_has_the_model_s_scores(noisy: NoisyPhotos, tracker: Tracker, tmp_path: Path) -> None:
    truth, maps, _ = noisy
    folds = {0: np.arange(4), 2: np.arange(4, PHOTOS)}
    photos = pd.DataFrame({"id": [f"p{row}" for row in range(PHOTOS)], "group": GROUPS, "fold": [0] * 4 + [2] * 8})
    part = CachedPart(
        tuple(photos["id"]), maps[:, :3], None, photos, (16, 16), "demo", "d" * 64, HARVEY25, (1024, 1024)
    )
    data = tmp_path / "data"
    for fold, rows in folds.items():
        record = make_record("unet", fold, results={})
        predictions = data / "predictions" / f"unet-{fold}"
        write_run(data / "models" / f"unet-{fold}" / "run.json", record)
        write_probabilities(predictions / "val.npy", photos["id"][rows].tolist(), (25, 16, 16), [maps[rows]])
        write_probabilities(predictions / "test.npy", ["t0", "t1", "t2"], (25, 16, 16), [maps[fold : fold + 3]])
        confusions = {
            "val": count_confusions(maps.__getitem__, truth, rows.tolist(), 25, 1),
            "test": count_confusions(maps[fold : fold + 3].__getitem__, truth, range(3), 25, 1),
        }
        write_evaluation(
            predictions, record, confusions, HARVEY25, identify_evaluation(record.uid, {}, record.data_hash, "c0")
        )
    fold_models = load_fold_models(["unet"], list(folds), data / "models", data / "predictions")
    weights = EnsembleWeights({"unet": 1.0}, {fold: {"unet": 1.0} for fold in folds})
    ensemble = make_record("ensemble", kind="ensemble").model_copy(update={"fold": None})
    write_run(data / "ensemble" / "run.json", ensemble)
    identity = identify_evaluation(ensemble.uid, {}, ensemble.data_hash, "c0")
    masks = {"val": truth, "test": truth[:3]}
    evaluate_ensemble(data / "ensemble", ensemble, fold_models, weights, part, masks, 1, identity)

    predict = fold_models.predictor(weights.chosen, weights.without_fold)
    val = collect_statistics(map(predict, range(PHOTOS)), truth, range(PHOTOS), HARVEY25, 1)
    test = collect_statistics(fold_models.test(weights.chosen), truth[:3], range(3), HARVEY25, 1)
    selected = select_rule(val, GROUPS, "auto")
    trainings: dict[int | None, RunRecord] = {fold: fold_models["unet", fold].record for fold in folds}
    sources: dict[str, dict[int | None, RunRecord]] = {"unet": trainings, "ensemble": {None: ensemble}}
    for source, records in sources.items():
        outputs = [locate_outputs(record, data) for record in records.values()]
        evaluations = {fold: output.evaluation for fold, output in zip(records, outputs, strict=True)}
        identities = identify_postprocessing(evaluations, {}, "c0")
        write_rule(data / "postprocess", source, records, val, photos, selected, SIZE, test, identities)
    outputs = [locate_outputs(record, data) for record in (*trainings.values(), ensemble)]
    mirror_all(tracker, [output.state() for output in outputs])

    table = comparison_table(tracker, outputs)
    by_name = {(row["model"], row["fold"]): row for row in table.to_dict("records")}
    model = by_name["unet", "all"]
    mixture = by_name["ensemble", ""]
    scores = [name for name in table.columns if name.startswith(("val_", "test_", "gain_")) and name != "val_loss"]
    assert len(scores) == 13
    assert {name: model[name] for name in scores} == pytest.approx({name: mixture[name] for name in scores}, abs=1e-12)
    assert by_name["unet", "mean"]["val_miou"] != pytest.approx(model["val_miou"], abs=1e-3)
    baseline = by_name["all_empty", ""]["val_score"]
    assert model["val_score"] - model["gain_over_empty"] == pytest.approx(baseline)


@pytest.mark.parametrize("overlapping", [{"val": 3, "test": 1}, None])
def test_overlapping_photos_are_counted_for_a_source_as_a_whole(
    noisy: NoisyPhotos, tmp_path: Path, overlapping: dict[str, int] | None
) -> None:
    _, _, statistics = noisy
    photos = pd.DataFrame({"group": GROUPS, "fold": [0] * 4 + [2] * 8})
    selected = select_rule(statistics, GROUPS, "argmax")
    models: dict[int | None, RunRecord] = {fold: make_record(model="a", fold=fold, uid=f"u{fold}") for fold in (0, 2)}
    ensemble: dict[int | None, RunRecord] = {None: make_record(kind="ensemble", model="ensemble", fold=None)}
    for source, records, prefix in (("a", models, "pooled/"), ("ensemble", ensemble, "")):
        identities = identify_postprocessing({fold: f"e{fold}" for fold in records}, {}, "c0")
        write_rule(tmp_path, source, records, statistics, photos, selected, SIZE, None, identities, overlapping)
        for run in read_json(tmp_path / "metrics" / f"{source}.json", "")["runs"]:
            counts = [run.get(f"{prefix}{part}/overlapping_photos") for part in ("val", "test")]
            assert counts == ([None, None] if overlapping is None else [3, 1])


def test_an_ensemble_has_one_run_for_all_photos(noisy: NoisyPhotos, tmp_path: Path) -> None:
    _, _, statistics = noisy
    table = pd.DataFrame({"group": GROUPS, "fold": [0] * 4 + [2] * 8})
    selected = SelectedRule(ArgmaxRule(), {"argmax": 0.5}, ["argmax"], np.full((PHOTOS, 24), SpecialMask.ARGMAX))
    record = make_record(kind="ensemble", model="ensemble", fold=None, uid="e")
    identities = identify_postprocessing({None: "e1"}, {}, "c0")
    write_rule(tmp_path, "ensemble", {None: record}, statistics, table, selected, SIZE, statistics, identities)
    (metrics,) = read_json(tmp_path / "metrics" / "ensemble.json", "")["runs"]
    assert metrics["val/score"] == metrics["test/score"] == statistics.argmax_dice.mean()


def test_rules_that_do_not_match_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(HarveysegError, match=r"a\.json: no such file.*dvc repro postprocess"):
        read_rule(path, [])
    content = make_fitted_rule(make_calibrated_rule()).model_dump()
    write_json(path, content)
    assert read_rule(path, [make_record(model="a", uid="u0")]).rule == make_calibrated_rule()
    with pytest.raises(HarveysegError, match=r"fitted on other runs \(a-f0\)"):
        read_rule(path, [make_record(model="a", uid="newer")])
    write_json(path, content | {"version": 1})
    with pytest.raises(HarveysegError, match="wrong or missing: version"):
        read_rule(path, [make_record(model="a", uid="u0")])
    del content["rule"]["presence_intercept"]["01_property_roof"]
    write_json(path, content)
    with pytest.raises(HarveysegError, match="the rule is not for these classes"):
        read_rule(path, [make_record(model="a", uid="u0")])


def test_the_file_names_classes() -> None:
    content = make_fitted_rule(
        make_calibrated_rule(presence_intercept=dict(zip(HARVEY25.scored_slugs, range(24), strict=True)))
    ).model_dump()
    assert content["rule"]["presence_intercept"]["24_boat"] == 23
    assert clipped_log_odds(np.array([0.5]))[0] == 0
