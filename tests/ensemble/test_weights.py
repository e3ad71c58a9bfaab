"""Weights against slow plain searches; no photo of a fold may influence the weights without it."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from harveyseg.arrays import ClassMap, FloatArray
from harveyseg.classes import HARVEY25
from harveyseg.ensemble.members import FoldModels, load_fold_models
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
from harveyseg.record import write_run
from harveyseg.score import confusion, image_scores
from helpers.small_ensemble import (
    FOLDS,
    GROUPS,
    IDS,
    MODELS,
    SIZE,
    VAL_IDS,
    Truth,
    enlarge_bilinear,
    load_written,
    make_member_record,
    random_maps,
    random_truth,
    shrink,
    training_part,
    write_predictions,
)

ARGMAX = PostprocessParams(method="argmax")
AUTO = PostprocessParams(method="auto")


def plain_scores(fold_models: FoldModels, truth: Truth, counts: Sequence[int]) -> FloatArray:
    """The score of the mixture's argmax map of each out-of-fold photo, with plain loops."""
    scores = []
    for fold, row in fold_models.positions:
        maps = [
            fold_models[model, fold].val[row].astype(int) * count for model, count in zip(MODELS, counts, strict=True)
        ]
        predicted = np.sum(maps, axis=0).argmax(0)
        mask = truth[VAL_IDS[fold][row]]
        dice = []
        for class_id in range(1, 25):
            both = ((predicted == class_id) & (mask == class_id)).sum()
            total = (predicted == class_id).sum() + (mask == class_id).sum()
            dice.append(2 * both / total if total else 1.0)
        scores.append(np.mean(dice))
    return np.array(scores)


def argmax_map_scores(
    fold_models: FoldModels, truth: Sequence[ClassMap], threads: int
) -> Callable[[tuple[int, ...]], FloatArray]:
    """From counts to the argmax score of each photo when one more is taken: (models, photos)."""
    mixtures = MixtureStatistics(fold_models, truth, HARVEY25, threads)
    return lambda counts: np.array([statistics.argmax_dice.mean(1) for statistics in mixtures.with_one_more(counts)])


def plain_statistics(fold_models: FoldModels, truth: Truth, counts: Sequence[int]) -> ThresholdStatistics:
    histograms = np.zeros((5, 24, 2, 256), np.int32)
    confusions = []
    for position, (fold, row) in enumerate(fold_models.positions):
        mask = truth[VAL_IDS[fold][row]]
        total = sum(
            count * fold_models[model, fold].val[row].astype(int) for model, count in zip(MODELS, counts, strict=True)
        )
        mean = np.rint(total / sum(counts)).astype(int)
        confusions.append(confusion(mask, np.asarray(total).argmax(0).astype(np.uint8), 25))
        for class_id, y, x in itertools.product(range(1, 25), range(SIZE[0]), range(SIZE[1])):
            histograms[position, class_id - 1, int(mask[y, x] == class_id), mean[class_id, y, x]] += 1
    return ThresholdStatistics.from_histograms(histograms, np.stack(confusions), HARVEY25)


def test_scores_of_mixtures_are_those_of_plain_loops(fold_models: FoldModels) -> None:
    truth = random_truth(0)
    scores_after = argmax_map_scores(fold_models, [truth[photo] for photo in fold_models.ids], threads=2)
    for counts in ((0, 0, 0), (1, 0, 0), (3, 1, 7)):
        for model, scores in enumerate(scores_after(counts)):
            taken = [count + (index == model) for index, count in enumerate(counts)]
            assert scores == pytest.approx(plain_scores(fold_models, truth, taken))


def test_statistics_of_mixtures_are_those_of_plain_loops(fold_models: FoldModels) -> None:
    truth = random_truth(0)
    mixtures = MixtureStatistics(fold_models, [truth[photo] for photo in fold_models.ids], HARVEY25, threads=2)
    for counts in ((0, 0, 0), (1, 0, 0), (2, 1, 3)):
        for model, statistics in enumerate(mixtures.with_one_more(counts)):
            taken = [count + (index == model) for index, count in enumerate(counts)]
            expected = plain_statistics(fold_models, truth, taken)
            assert np.array_equal(statistics.histograms, expected.histograms)
            np.testing.assert_allclose(statistics.dice_by_threshold, expected.dice_by_threshold)


def test_weights_are_best_for_what_is_submitted(tmp_path: Path) -> None:
    differ = False
    for seed in range(4):
        folder = tmp_path / str(seed)
        full_truth = random_truth(seed)
        write_predictions(folder, full_truth)
        # Argmax maps still hold classes that most photos now lack.
        truth = full_truth | {
            photo: np.where(full_truth[photo] > 2, 0, full_truth[photo]).astype(np.uint8) for photo in IDS[1:]
        }
        fold_models = load_written(folder)
        groups = [GROUPS[photo] for photo in fold_models.ids]
        counts = [0, 0, 0]
        seen = []
        for _ in range(3):
            tried = []
            for model in range(3):
                more = [count + (index == model) for index, count in enumerate(counts)]
                score = in_sample_score(plain_statistics(fold_models, truth, more), groups, "auto")
                tried.append((score, -model, more))
            score, _, counts = max(tried)
            seen.append((score, counts))
        best = max(score for score, _ in seen)
        expected = next(counts for score, counts in seen if score > best - 1e-9)
        params = EnsembleParams(steps=3)
        chosen = choose_weights(fold_models, training_part(truth), GROUPS, params, AUTO, threads=1).chosen
        assert list(chosen.values()) == pytest.approx([count / sum(expected) for count in expected])
        differ |= chosen != choose_weights(fold_models, training_part(truth), GROUPS, params, ARGMAX, threads=1).chosen
    assert differ


def test_selection_is_greedy_and_keeps_the_best_prefix(fold_models: FoldModels) -> None:
    truth = random_truth(0)
    scores_after = argmax_map_scores(fold_models, [truth[photo] for photo in fold_models.ids], threads=1)
    counts = [0, 0, 0]
    seen = []
    for _ in range(6):
        tried = []
        for model in range(3):
            more = [count + (index == model) for index, count in enumerate(counts)]
            tried.append((plain_scores(fold_models, truth, more).mean(), -model, more))
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
        return [mixture_score(mixture) for mixture in more]

    all_counts = [counts for counts in itertools.product(range(7), repeat=3) if 0 < sum(counts) <= 6]
    best = max(mixture_score(counts) for counts in all_counts)

    def from_the_other_end(counts: tuple[int, ...]) -> list[float]:
        return scores_after(counts[::-1])[::-1]

    selected, mirrored = select_forward([scores_after, from_the_other_end], 3, 6)
    assert mixture_score(selected) == best
    assert (selected, mirrored) == ((2, 1, 0), (0, 1, 2))


@pytest.mark.parametrize("postprocess", [ARGMAX, AUTO], ids=lambda postprocess: postprocess.method)
def test_no_photo_of_a_fold_influences_the_weights_without_it(tmp_path: Path, postprocess: PostprocessParams) -> None:
    truth = random_truth(0)
    write_predictions(tmp_path, truth)
    params = EnsembleParams(steps=6)
    before = choose_weights(load_written(tmp_path), training_part(truth), GROUPS, params, postprocess, threads=1)
    assert set(before.without_fold) == set(FOLDS)
    changed = dict.fromkeys(FOLDS, False)
    for seed, fold in itertools.product(range(1, 6), FOLDS):
        # Other true masks of a fold's photos do not change the weights without it.
        other_truth = truth | {photo: random_truth(seed)[photo] for photo in VAL_IDS[fold]}
        after = choose_weights(
            load_written(tmp_path), training_part(other_truth), GROUPS, params, postprocess, threads=1
        )
        assert after.without_fold[fold] == before.without_fold[fold]
        changed[fold] |= after.chosen != before.chosen
    assert all(changed.values())


def test_one_fold_has_no_nested_weights(tmp_path: Path) -> None:
    truth = random_truth(0)
    write_predictions(tmp_path, truth)
    fold_models = load_fold_models(MODELS, (2,), tmp_path / "models", tmp_path / "predictions")
    weights = choose_weights(fold_models, training_part(truth), GROUPS, EnsembleParams(steps=2), ARGMAX, threads=1)
    assert weights.without_fold == {}
    assert sum(weights.chosen.values()) == pytest.approx(1)


def test_weights_are_chosen_among_maps_of_different_sizes(tmp_path: Path) -> None:
    truth = random_truth(0)
    write_predictions(tmp_path, truth)
    shrink(tmp_path, "b", (3, 2), np.random.default_rng(4))
    fold_models = load_written(tmp_path)
    scores_after = argmax_map_scores(fold_models, [truth[photo] for photo in fold_models.ids], threads=1)
    scores = scores_after((1, 0, 0))[1]
    for (fold, row), score in zip(fold_models.positions, scores, strict=True):
        # The search rounds enlarged maps; no other class is close enough for that to matter.
        mixed = fold_models["a", fold].val[row] + np.rint(enlarge_bilinear(fold_models["b", fold].val[row]) - 1e-6)
        plain = image_scores(confusion(truth[VAL_IDS[fold][row]], mixed.argmax(0).astype(np.uint8), 25), 1)
        assert score == pytest.approx(float(plain), abs=0.02)


def test_the_longest_search_does_not_overflow(tmp_path: Path) -> None:
    """Sums of 16 bits hold the most steps that params.yaml allows: the classes are those of 64 bits."""
    rng = np.random.default_rng(5)
    truth = random_truth(0)
    write_predictions(tmp_path, truth)
    for model, fold in itertools.product(MODELS, FOLDS):
        sure = 255 * (rng.random((len(VAL_IDS[fold]), 25, *SIZE)) > 0.9).astype(np.uint8)
        write_probabilities(
            tmp_path / "predictions" / f"{model}-{fold}" / "val.npy", VAL_IDS[fold], (25, *SIZE), [sure]
        )
    fold_models = load_written(tmp_path)
    scores_after = argmax_map_scores(fold_models, [truth[photo] for photo in fold_models.ids], threads=1)
    assert scores_after((100, 149, 0))[2] == pytest.approx(plain_scores(fold_models, truth, (100, 149, 1)))
    assert EnsembleParams(steps=250).steps == 250
    with pytest.raises(ValueError, match="250"):
        EnsembleParams(steps=251)


def test_written_weights_come_back(fold_models: FoldModels, tmp_path: Path) -> None:
    weights = choose_weights(
        fold_models, training_part(random_truth(0)), GROUPS, EnsembleParams(steps=2), ARGMAX, threads=1
    )
    write_weights(tmp_path / "weights.json", fold_models, weights)
    assert read_weights(tmp_path / "weights.json") == weights
    write_json(tmp_path / "weights.json", {"weights": {"a": 1.0}})
    with pytest.raises(HarveysegError, match=r"weights\.json: not the weights of an ensemble"):
        read_weights(tmp_path / "weights.json")


@pytest.mark.parametrize("folds", [(2, 0), (0, 10, 9)])
def test_weights_that_come_back_go_to_their_folds(tmp_path: Path, folds: tuple[int, ...]) -> None:
    """A file lists folds in alphabetical order, whatever the order in params.yaml."""
    rng = np.random.default_rng(0)
    for model, fold in itertools.product(MODELS, folds):
        name = f"{model}-{fold}"
        write_run(tmp_path / "models" / name / "run.json", make_member_record(model=model, fold=fold, uid=name))
        for part in ("val", "test"):
            path = tmp_path / "predictions" / name / f"{part}.npy"
            write_probabilities(path, (f"{part}{fold if part == 'val' else ''}",), (25, *SIZE), [random_maps(rng, 1)])
        write_json(tmp_path / "predictions" / name / "metrics.json", {"uid": name, "val/argmax_score": 0.5})
    fold_models = load_fold_models(MODELS, folds, tmp_path / "models", tmp_path / "predictions")
    without = {fold: dict.fromkeys(MODELS, 0.0) | {model: 1.0} for fold, model in zip(folds, MODELS, strict=False)}
    write_weights(tmp_path / "weights.json", fold_models, EnsembleWeights(dict.fromkeys(MODELS, 1 / 3), without))
    read = read_weights(tmp_path / "weights.json")
    for position, (fold, model) in enumerate(zip(folds, MODELS, strict=False)):
        assert np.array_equal(
            fold_models.predictor(read.chosen, read.without_fold)(position), fold_models[model, fold].val[0]
        )
