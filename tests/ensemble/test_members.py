"""Weights against slow plain searches; that nothing of a scored fold is used; files that do not fit."""

import itertools
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch
from torch.nn import functional

from harveyseg.config.settings import listed_models
from harveyseg.data.cache import CachedPart
from harveyseg.ensemble.members import FoldModels, load_fold_models
from harveyseg.ensemble.record import describe_mixture, new_ensemble_record
from harveyseg.ensemble.weights import (
    EnsembleParams,
    EnsembleWeights,
    MixtureStatistics,
    choose_weights,
    read_weights,
    select_forward,
    write_weights,
)
from harveyseg.errors import HarveysegError
from harveyseg.files import write_json
from harveyseg.inference.probabilities import write_probabilities
from harveyseg.postprocess.select import PostprocessParams, in_sample_score
from harveyseg.postprocess.statistics import ThresholdStatistics
from harveyseg.record import RunRecord, write_run
from harveyseg.score import confusion, image_scores

SIZE = (6, 5)
MODELS, FOLDS = ("a", "b", "c"), (0, 2)
VAL_IDS = {0: ("p0", "p3"), 2: ("p1", "p2", "p4")}
IDS = ("p0", "p1", "p2", "p3", "p4")
GROUPS = {"p0": "x", "p1": "y", "p2": "y", "p3": "z", "p4": "w"}
ARGMAX, AUTO = PostprocessParams(method="argmax"), PostprocessParams(method="auto")

Array = npt.NDArray[np.uint8]


def a_record(**changes: Any) -> RunRecord:
    fields: dict[str, Any] = {
        "kind": "train",
        "model": "a",
        "fold": 0,
        "stage_key": "k",
        "parameters": {},
        "git_commit": None,
        "git_dirty": False,
        "data_source": "demo",
        "data_hash": "d",
        "split_hash": "s",
        "device": "cpu",
        "environment": {},
        "started_ms": 0,
    }
    return RunRecord(**(fields | changes))


def random_maps(rng: np.random.Generator, count: int, truth: Sequence[Array] | None = None) -> Array:
    """Noise over a few classes, leaning to the truth where there is one, so that mixtures help."""
    maps = np.zeros((count, 25, *SIZE))
    maps[:, :5] = rng.random((count, 5, *SIZE))
    for one, labels in zip(maps, truth or [], strict=False):
        np.put_along_axis(one, labels[None], np.take_along_axis(one, labels[None], 0) + 0.4, 0)
    return np.asarray(np.rint(255 * maps / maps.sum(1, keepdims=True)), np.uint8)


def a_truth(seed: int) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {photo: rng.integers(0, 5, SIZE).astype(np.uint8) for photo in IDS}


def write_members(folder: Path, truth: dict[str, Array]) -> None:
    rng = np.random.default_rng(1)
    for model, fold in itertools.product(MODELS, FOLDS):
        name, ids = f"{model}-{fold}", VAL_IDS[fold]
        record = a_record(model=model, fold=fold, uid=f"uid-{name}", run_id=f"run-{name}")
        write_run(folder / "models" / name / "run.json", record)
        predictions = folder / "predictions" / name
        write_probabilities(predictions / "val.npy", ids, SIZE, [random_maps(rng, len(ids), [truth[i] for i in ids])])
        write_probabilities(predictions / "test.npy", ("t0", "t1"), SIZE, [random_maps(rng, 2)])
        scores = {"val/argmax_score": 0.5 + 0.1 * fold, "val/all_empty_score": 0.6}
        write_json(predictions / "metrics.json", {"uid": record.uid, **scores})


def read_members(folder: Path) -> FoldModels:
    return load_fold_models(MODELS, FOLDS, folder / "models", folder / "predictions")


@pytest.fixture
def members(tmp_path: Path) -> FoldModels:
    write_members(tmp_path, a_truth(0))
    return read_members(tmp_path)


def a_part(truth: dict[str, Array]) -> CachedPart:
    masks = np.stack([truth[photo] for photo in IDS])
    return CachedPart(IDS, np.zeros((5, *SIZE, 3), np.uint8), masks, pd.DataFrame({"id": IDS}), SIZE, "demo", "d")


def plain_scores(members: FoldModels, truth: dict[str, Array], counts: Sequence[int]) -> npt.NDArray[np.float64]:
    """Per out-of-fold photo the mean Dice over the classes 1..24 of the mixture's argmax, with plain loops."""
    scores = []
    for fold, row in members.positions:
        maps = [members[model, fold].val[row].astype(int) * count for model, count in zip(MODELS, counts, strict=True)]
        labels, true = np.sum(maps, axis=0).argmax(0), truth[VAL_IDS[fold][row]]
        dice = []
        for class_id in range(1, 25):
            both, total = (
                ((labels == class_id) & (true == class_id)).sum(),
                (labels == class_id).sum() + (true == class_id).sum(),
            )
            dice.append(2 * both / total if total else 1.0)
        scores.append(np.mean(dice))
    return np.array(scores)


def argmax_map_scores(
    members: FoldModels, truth: Sequence[npt.NDArray[np.uint8]], threads: int
) -> Callable[[tuple[int, ...]], npt.NDArray[np.float64]]:
    """From counts to the score of each photo's label map when one more is taken: (models, photos)."""
    mixtures = MixtureStatistics(members, truth, threads)
    return lambda counts: np.array([one.argmax_dice.mean(1) for one in mixtures.with_one_more(counts)])


def test_positions_run_fold_by_fold(members: FoldModels) -> None:
    assert members.positions == [(0, 0), (0, 1), (2, 0), (2, 1), (2, 2)]
    assert members.ids == ["p0", "p3", "p1", "p2", "p4"]
    assert members.rows(IDS) == [0, 3, 1, 2, 4]


def test_scores_of_mixtures_are_those_of_plain_loops(members: FoldModels) -> None:
    truth = a_truth(0)
    scores_after = argmax_map_scores(members, [truth[photo] for photo in members.ids], threads=2)
    for counts in ((0, 0, 0), (1, 0, 0), (3, 1, 7)):
        for model, found in enumerate(scores_after(counts)):
            taken = [count + (index == model) for index, count in enumerate(counts)]
            assert found == pytest.approx(plain_scores(members, truth, taken))


def plain_statistics(members: FoldModels, truth: dict[str, Array], counts: Sequence[int]) -> ThresholdStatistics:
    pixels, confusions = np.zeros((5, 24, 2, 256), np.int64), []
    for position, (fold, row) in enumerate(members.positions):
        true = truth[VAL_IDS[fold][row]]
        total = sum(
            count * members[model, fold].val[row].astype(int) for model, count in zip(MODELS, counts, strict=True)
        )
        mean = np.rint(total / sum(counts)).astype(int)
        confusions.append(confusion(true, np.asarray(total).argmax(0).astype(np.uint8)))
        for class_id, y, x in itertools.product(range(1, 25), range(SIZE[0]), range(SIZE[1])):
            pixels[position, class_id - 1, int(true[y, x] == class_id), mean[class_id, y, x]] += 1
    return ThresholdStatistics.from_histograms(pixels, np.stack(confusions))


def test_statistics_of_mixtures_is_that_of_plain_loops(members: FoldModels) -> None:
    truth = a_truth(0)
    mixtures = MixtureStatistics(members, [truth[photo] for photo in members.ids], threads=2)
    for counts in ((0, 0, 0), (1, 0, 0), (2, 1, 3)):
        for model, found in enumerate(mixtures.with_one_more(counts)):
            taken = [count + (index == model) for index, count in enumerate(counts)]
            expected = plain_statistics(members, truth, taken)
            assert np.array_equal(found.histograms, expected.histograms)
            np.testing.assert_allclose(found.dice_by_threshold, expected.dice_by_threshold)


def test_weights_serve_what_is_handed_in(tmp_path: Path) -> None:
    differ = False
    for seed in range(4):
        folder, whole = tmp_path / str(seed), a_truth(seed)
        write_members(folder, whole)
        # Classes that most photos lack are claimed by the label map all the same.
        truth = whole | {photo: np.where(whole[photo] > 2, 0, whole[photo]).astype(np.uint8) for photo in IDS[1:]}
        members = read_members(folder)
        groups = [GROUPS[photo] for photo in members.ids]
        counts, seen = [0, 0, 0], []
        for _ in range(3):
            tried = []
            for model in range(3):
                more = [count + (index == model) for index, count in enumerate(counts)]
                score = in_sample_score(plain_statistics(members, truth, more), groups, "auto")
                tried.append((score, -model, more))
            score, _, counts = max(tried)
            seen.append((score, counts))
        best = max(score for score, _ in seen)
        expected = next(counts for score, counts in seen if score > best - 1e-9)
        params = EnsembleParams(steps=3)
        decided = choose_weights(members, a_part(truth), GROUPS, params, AUTO, threads=1).chosen
        assert list(decided.values()) == pytest.approx([count / sum(expected) for count in expected])
        differ |= decided != choose_weights(members, a_part(truth), GROUPS, params, ARGMAX, threads=1).chosen
    assert differ


def test_selection_is_greedy_and_keeps_the_best_prefix(members: FoldModels) -> None:
    truth = a_truth(0)
    scores_after = argmax_map_scores(members, [truth[photo] for photo in members.ids], threads=1)
    counts, seen = [0, 0, 0], []
    for _ in range(6):
        tried = []
        for model in range(3):
            more = [count + (index == model) for index, count in enumerate(counts)]
            tried.append((plain_scores(members, truth, more).mean(), -model, more))
        score, _, counts = max(tried)
        seen.append((score, counts))
    best = max(score for score, _ in seen)
    expected = next(counts for score, counts in seen if score > best - 1e-9)
    assert select_forward([lambda counts: scores_after(counts).mean(1).tolist()], 3, 6) == [tuple(expected)]


def test_selection_finds_the_best_mixture_of_all_where_greed_suffices() -> None:
    # The score of a mixture falls with its distance from the weights 2/3, 1/3, 0.
    def mixture_score(counts: Sequence[int]) -> float:
        share = np.array(counts) / sum(counts)
        return float(1 - np.abs(share - [2 / 3, 1 / 3, 0]).sum())

    def scores_after(counts: tuple[int, ...]) -> list[float]:
        more = [[count + (index == model) for index, count in enumerate(counts)] for model in range(3)]
        return [mixture_score(one) for one in more]

    every = [counts for counts in itertools.product(range(7), repeat=3) if 0 < sum(counts) <= 6]
    best = max(mixture_score(counts) for counts in every)

    def from_the_other_end(counts: tuple[int, ...]) -> list[float]:
        return scores_after(counts[::-1])[::-1]

    found, other = select_forward([scores_after, from_the_other_end], 3, 6)
    assert mixture_score(found) == best
    assert (found, other) == ((2, 1, 0), (0, 1, 2))


@pytest.mark.parametrize("decide", [ARGMAX, AUTO], ids=lambda decide: decide.method)
def test_weights_of_a_fold_know_nothing_of_it(tmp_path: Path, decide: PostprocessParams) -> None:
    truth = a_truth(0)
    write_members(tmp_path, truth)
    params = EnsembleParams(steps=6)
    before = choose_weights(read_members(tmp_path), a_part(truth), GROUPS, params, decide, threads=1)
    assert set(before.without_fold) == set(FOLDS)
    changed = dict.fromkeys(FOLDS, False)
    for seed, fold in itertools.product(range(1, 6), FOLDS):
        # Any other truth of the fold's photos leaves its weights as they are; those of the other fold may change.
        other = truth | {photo: a_truth(seed)[photo] for photo in VAL_IDS[fold]}
        after = choose_weights(read_members(tmp_path), a_part(other), GROUPS, params, decide, threads=1)
        assert after.without_fold[fold] == before.without_fold[fold]
        changed[fold] |= after.chosen != before.chosen
    assert all(changed.values())


def test_one_fold_has_no_nested_weights(tmp_path: Path) -> None:
    truth = a_truth(0)
    write_members(tmp_path, truth)
    members = load_fold_models(MODELS, (2,), tmp_path / "models", tmp_path / "predictions")
    weights = choose_weights(members, a_part(truth), GROUPS, EnsembleParams(steps=2), ARGMAX, threads=1)
    assert weights.without_fold == {}
    assert sum(weights.chosen.values()) == pytest.approx(1)


def test_predictions_are_weighted_means(members: FoldModels) -> None:
    weights = {"a": 0.5, "b": 0.0, "c": 0.5}
    other = {"a": 0.0, "b": 1.0, "c": 0.0}
    val = members["a", 2].val[1].astype(float) / 2 + members["c", 2].val[1] / 2
    assert np.array_equal(members.predictor(weights)(3), np.rint(val))
    for without in ({0: other}, {0: other, 2: weights}, {2: weights, 0: other}):
        assert np.array_equal(members.predictor(weights, without)(1), members["b", 0].val[1])
        assert np.array_equal(members.predictor(weights, without)(3), np.rint(val))
    assert np.array_equal(members.predictor(other, {2: weights})(1), members["b", 0].val[1])
    test = np.mean([members[model, fold].test.astype(float) for model in "ac" for fold in FOLDS], axis=0)
    assert np.abs(np.stack(list(members.test(weights))) - test).max() <= 0.5


def test_mean_score_weighs_folds_by_their_photos(members: FoldModels) -> None:
    assert members.argmax_score("a") == pytest.approx((2 * 0.5 + 3 * 0.7) / 5)


def test_record_names_weights_and_members(members: FoldModels, tmp_path: Path) -> None:
    weights = choose_weights(members, a_part(a_truth(0)), GROUPS, EnsembleParams(steps=2), ARGMAX, threads=1)
    record = new_ensemble_record(members, weights, EnsembleParams(steps=2), tmp_path)
    assert record.kind == record.model == "ensemble"
    assert record.parameters["member.b-2"] == "uid-b-2"
    assert record.parameters["ensemble.steps"] == 2
    assert sum(float(record.parameters[f"weight.{model}"] or 0) for model in MODELS) == pytest.approx(1)
    assert (record.data_hash, record.split_hash, record.data_source) == ("d", "s", "demo")
    again = new_ensemble_record(members, weights, EnsembleParams(steps=2), tmp_path)
    assert again.stage_key == record.stage_key
    assert again.uid != record.uid
    assert new_ensemble_record(members, weights, EnsembleParams(steps=3), tmp_path).stage_key != record.stage_key


def test_written_weights_come_back(members: FoldModels, tmp_path: Path) -> None:
    weights = choose_weights(members, a_part(a_truth(0)), GROUPS, EnsembleParams(steps=2), ARGMAX, threads=1)
    write_weights(tmp_path / "weights.json", members, weights)
    assert read_weights(tmp_path / "weights.json") == weights
    write_json(tmp_path / "weights.json", {"weights": {"a": 1.0}})
    with pytest.raises(HarveysegError, match=r"weights\.json: not the weights of an ensemble"):
        read_weights(tmp_path / "weights.json")


@pytest.mark.parametrize("folds", [(2, 0), (0, 10, 9)])
def test_weights_that_come_back_go_to_their_folds(tmp_path: Path, folds: tuple[int, ...]) -> None:
    """A file's folds stand in the order of their texts, whatever the order in params.yaml."""
    rng = np.random.default_rng(0)
    for model, fold in itertools.product(MODELS, folds):
        name = f"{model}-{fold}"
        write_run(tmp_path / "models" / name / "run.json", a_record(model=model, fold=fold, uid=name))
        for part in ("val", "test"):
            path = tmp_path / "predictions" / name / f"{part}.npy"
            write_probabilities(path, (f"{part}{fold if part == 'val' else ''}",), SIZE, [random_maps(rng, 1)])
        write_json(tmp_path / "predictions" / name / "metrics.json", {"uid": name, "val/argmax_score": 0.5})
    members = load_fold_models(MODELS, folds, tmp_path / "models", tmp_path / "predictions")
    without = {fold: dict.fromkeys(MODELS, 0.0) | {model: 1.0} for fold, model in zip(folds, MODELS, strict=False)}
    write_weights(tmp_path / "weights.json", members, EnsembleWeights(dict.fromkeys(MODELS, 1 / 3), without))
    read = read_weights(tmp_path / "weights.json")
    for position, (fold, model) in enumerate(zip(folds, MODELS, strict=False)):
        assert np.array_equal(members.predictor(read.chosen, read.without_fold)(position), members[model, fold].val[0])


def test_side_car_names_only_members_with_weight(members: FoldModels) -> None:
    about = describe_mixture(members, {"a": 0.0, "b": 1.0})
    assert about["members"] == {f"b-{f}": {"uid": f"uid-b-{f}", "run_id": f"run-b-{f}"} for f in FOLDS}


def test_a_model_that_params_no_longer_name_is_left_out(tmp_path: Path) -> None:
    write_members(tmp_path, a_truth(0))
    (tmp_path / "params.yaml").write_text("models: {c: {network: unet}, a: {network: unet}}\nfolds: [2, 0]\n")
    models, folds = listed_models(tmp_path / "params.yaml")
    assert (models, folds) == (("c", "a"), (2, 0))
    members = load_fold_models(models, folds, tmp_path / "models", tmp_path / "predictions")
    assert {model for model, _ in members.members} == {"a", "c"}


def test_all_missing_and_damaged_files_are_listed_at_once(tmp_path: Path) -> None:
    write_members(tmp_path, a_truth(0))
    (tmp_path / "predictions/a-0/val.npy").unlink()
    (tmp_path / "predictions/b-2/metrics.json").unlink()
    (tmp_path / "models/c-0/run.json").write_text("{")
    write_json(tmp_path / "predictions/c-2/metrics.json", {"uid": "of an older run", "val/argmax_score": 0.1})
    with pytest.raises(HarveysegError) as caught:
        read_members(tmp_path)
    text = str(caught.value)
    for expected in (
        "4 problems",
        "a-0/val.npy: no such file",
        "b-2/metrics.json: no such file",
        "c-0/run.json: not valid",
    ):
        assert expected in text
    assert "c-2/metrics.json: belongs to another run" in text


def test_members_of_other_data_or_photos_are_refused(tmp_path: Path) -> None:
    write_members(tmp_path, a_truth(0))
    write_run(
        tmp_path / "models/b-0/run.json", a_record(model="b", uid="uid-b-0", data_hash="other", split_hash="other")
    )
    rng = np.random.default_rng(2)
    write_probabilities(tmp_path / "predictions/c-0/val.npy", ("p0", "p1"), SIZE, [random_maps(rng, 2)])
    write_probabilities(tmp_path / "predictions/c-2/test.npy", ("t0",), SIZE, [random_maps(rng, 1)])
    with pytest.raises(HarveysegError) as caught:
        read_members(tmp_path)
    assert "b-0: other data, split than a" in str(caught.value)
    assert "c-0: other validation photos than a" in str(caught.value)
    assert "c-2: other test photos than a" in str(caught.value)


def shrink(folder: Path, model: str, size: tuple[int, int], rng: np.random.Generator) -> None:
    """Give a model smaller maps, as a network has that answers at a fraction of the photo's size."""
    for fold, (part, ids) in itertools.product(FOLDS, (("val", None), ("test", ("t0", "t1")))):
        photos = VAL_IDS[fold] if ids is None else ids
        maps = rng.integers(0, 256, (len(photos), 25, *size)).astype(np.uint8)
        write_probabilities(folder / "predictions" / f"{model}-{fold}" / f"{part}.npy", photos, size, [maps])


def enlarged(maps: Array) -> npt.NDArray[np.float64]:
    """(25, h, w) brought to SIZE by another library."""
    tensor = torch.from_numpy(np.array(maps)[None]).double()
    return np.asarray(functional.interpolate(tensor, SIZE, mode="bilinear")[0].numpy())


def test_maps_of_different_sizes_are_averaged_at_the_largest(tmp_path: Path) -> None:
    write_members(tmp_path, a_truth(0))
    shrink(tmp_path, "b", (3, 2), np.random.default_rng(4))
    members = read_members(tmp_path)
    half = {"a": 0.5, "b": 0.5, "c": 0.0}
    expected = members["a", 2].val[1] / 2 + enlarged(members["b", 2].val[1]) / 2
    assert np.abs(members.predictor(half)(3) - expected).max() <= 0.5 + 1e-4
    test = np.mean([enlarged(members[model, fold].test[1]) for model in "ab" for fold in FOLDS], axis=0)
    assert np.abs(list(members.test(half))[1] - test).max() <= 0.5 + 1e-4
    assert members.test_size(half) == SIZE
    assert members.test_size({"b": 1.0}) == (3, 2)
    assert next(members.test({"b": 1.0})).shape == (25, 3, 2)


def test_weights_are_chosen_among_maps_of_different_sizes(tmp_path: Path) -> None:
    truth = a_truth(0)
    write_members(tmp_path, truth)
    shrink(tmp_path, "b", (3, 2), np.random.default_rng(4))
    members = read_members(tmp_path)
    scores_after = argmax_map_scores(members, [truth[photo] for photo in members.ids], threads=1)
    found = scores_after((1, 0, 0))[1]
    for (fold, row), score in zip(members.positions, found, strict=True):
        # The search enlarges to whole numbers; nobody is so close here that it matters.
        mixed = members["a", fold].val[row] + np.rint(enlarged(members["b", fold].val[row]) - 1e-6)
        plain = image_scores(confusion(truth[VAL_IDS[fold][row]], mixed.argmax(0).astype(np.uint8)))
        assert score == pytest.approx(float(plain), abs=0.02)


def test_added_models_come_last_and_from_their_own_folder(tmp_path: Path) -> None:
    write_members(tmp_path, a_truth(0))
    for fold in FOLDS:
        target = tmp_path / "added" / f"a@0123-{fold}"
        shutil.copytree(tmp_path / "predictions" / f"a-{fold}", target)
        write_run(target / "run.json", a_record(uid=f"added-{fold}", fold=fold))
        write_json(target / "metrics.json", {"uid": f"added-{fold}", "val/argmax_score": 0.9})
    write_json(tmp_path / "added" / "models.json", {"models": ["a@0123"]})
    members = load_fold_models(MODELS, FOLDS, tmp_path / "models", tmp_path / "predictions", tmp_path / "added")
    assert members.models == (*MODELS, "a@0123")
    assert members.argmax_score("a@0123") == pytest.approx(0.9)
    weights = choose_weights(members, a_part(a_truth(0)), GROUPS, EnsembleParams(steps=3), ARGMAX, threads=1)
    record = new_ensemble_record(members, weights, EnsembleParams(steps=3, runs=("0123",)), tmp_path)
    assert record.parameters["member.a.0123-2"] == "added-2"
    # The names that MLflow takes for a parameter.
    assert all(re.fullmatch(r"[/\w.\- :]+", name) for name in record.parameters)


def test_the_longest_search_does_not_overflow(tmp_path: Path) -> None:
    """Sums of 16 bits hold the largest count: the same labels as with 64, at the most that params.yaml allows."""
    rng = np.random.default_rng(5)
    truth = a_truth(0)
    write_members(tmp_path, truth)
    for model, fold in itertools.product(MODELS, FOLDS):
        sure = 255 * (rng.random((len(VAL_IDS[fold]), 25, *SIZE)) > 0.9).astype(np.uint8)
        write_probabilities(tmp_path / "predictions" / f"{model}-{fold}" / "val.npy", VAL_IDS[fold], SIZE, [sure])
    members = read_members(tmp_path)
    scores_after = argmax_map_scores(members, [truth[photo] for photo in members.ids], threads=1)
    assert scores_after((100, 149, 0))[2] == pytest.approx(plain_scores(members, truth, (100, 149, 1)))
    assert EnsembleParams(steps=250).steps == 250
    with pytest.raises(ValueError, match="250"):
        EnsembleParams(steps=251)
