"""What rules of post-processing score, each alone, on a finished pipeline's out-of-fold predictions.

    .venv/bin/python benchmarks/postprocess.py [--data data] [--params params.yaml]

Every score is nested as in the stage `postprocess`: a photo's rule is fitted without the photo's group. The table shows
the argmax score and the gain of each rule over it:

- all empty: every mask is empty.
- least area: the argmax map, without classes below an area of their own.
- thresholds: a threshold and a least area for each class.
- by area, by sum, by peak: the masks of `expected`, submitted or not by another feature than their expected Dice: the
  mask's area, and the mean or the highest probability of all pixels.
- expected: see docs/post-processing.md.
- selected: `expected` or the argmax map, chosen by cross-validation; also its score, with the standard error of a mean
  over such photos, from 2000 bootstrap samples of whole groups.

Least areas and thresholds are chosen on the score. A class with few photos takes part of the evidence from the others:
16 pseudo-photos score like the average class.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np

from harveyseg.arrays import BoolArray, FloatArray, IntArray
from harveyseg.config.settings import listed_models
from harveyseg.data.cache import load_part
from harveyseg.data.split import read_folds
from harveyseg.ensemble.members import load_fold_models
from harveyseg.ensemble.weights import EnsembleWeights, read_weights
from harveyseg.evaluation.metrics import true_masks
from harveyseg.postprocess.regression import clipped_log_odds
from harveyseg.postprocess.rules import ExpectedDiceRule, fit_presence_model
from harveyseg.postprocess.select import group_folds, select_rule
from harveyseg.postprocess.statistics import (
    N_LEVELS,
    SpecialMask,
    Thresholds,
    ThresholdStatistics,
    collect_statistics,
    tail_sums,
)

AREAS = np.array([1, 50, 100, 200, 400, 1000, 2000, 4000, 8000, 16000, 32000, 64000, 128000, 2**21])
LEVELS = np.array([8, 13, 20, 26, 38, 51, 64, 77, 90, 102, 115, 128, 153, 179])
PSEUDO_PHOTOS = 16

Feature = Callable[[ThresholdStatistics, Thresholds], FloatArray]
"""From n photos and their masks (n, 24) to a feature that speaks for submitting them, (n, 24)."""


def _area(statistics: ThresholdStatistics, thresholds: Thresholds) -> FloatArray:
    above = tail_sums(statistics.level_counts)
    pixels = np.take_along_axis(above, np.minimum(thresholds, N_LEVELS - 1)[..., None], -1)[..., 0]
    return clipped_log_odds(pixels / above[..., 0])


def _sum(statistics: ThresholdStatistics, thresholds: Thresholds) -> FloatArray:
    total = statistics.level_counts @ np.arange(N_LEVELS) / (N_LEVELS - 1)
    return clipped_log_odds(total / statistics.level_counts.sum(-1))


def _peak(statistics: ThresholdStatistics, thresholds: Thresholds) -> FloatArray:
    highest = N_LEVELS - 1 - (statistics.level_counts[..., ::-1] > 0).argmax(-1)
    return clipped_log_odds(highest / (N_LEVELS - 1))


FEATURES: dict[str, Feature] = {"by area": _area, "by sum": _sum, "by peak": _peak}


def held_out_dice(
    statistics: ThresholdStatistics, areas: IntArray, groups: list[str], held_out: BoolArray
) -> dict[str, FloatArray]:
    """Dice (held out, 24) of the held-out photos by each rule, which is fitted on the others.

    Args:
        statistics: of n photos.
        areas: (n, 24), pixels of each class in the argmax map.
        groups: the photos' groups, n.
        held_out: (n,).
    """
    fitting = statistics.subset(~held_out)
    scored = statistics.subset(held_out)
    fitting_groups = np.array(groups)[~held_out].tolist()

    def choose_settings(dice_by_setting: FloatArray) -> FloatArray:
        """For each class the setting, of (n, 24, settings), that is best on the photos not held out."""
        others = dice_by_setting[~held_out]
        best = (others.sum(0) + PSEUDO_PHOTOS * others.mean((0, 1))).argmax(-1)
        dice: FloatArray = np.take_along_axis(dice_by_setting[held_out], best[None, :, None], -1)[..., 0]
        return dice

    empty_dice = statistics.dice_by_threshold[..., SpecialMask.EMPTY]
    least_area = np.where(areas[..., None] >= AREAS, statistics.argmax_dice[..., None], empty_dice[..., None])
    mask_areas = tail_sums(statistics.level_counts)[..., LEVELS]
    mask_dice = statistics.dice_by_threshold[..., LEVELS]
    thresholds = np.where(mask_areas[..., None] >= AREAS, mask_dice[..., None], empty_dice[..., None, None])

    expected = ExpectedDiceRule.fit(fitting, fitting_groups)
    fitting_masks, _ = expected.optimal_thresholds(fitting.level_counts)
    scored_masks, _ = expected.optimal_thresholds(scored.level_counts)

    def submit_by(feature: Feature) -> FloatArray:
        slope, intercept = fit_presence_model(fitting, fitting_groups, fitting_masks, feature(fitting, fitting_masks))
        submitted = slope * feature(scored, scored_masks) + intercept > 0
        return scored.dice(np.where(submitted, scored_masks, SpecialMask.EMPTY))

    return {
        "argmax": scored.argmax_dice,
        "all empty": empty_dice[held_out],
        "least area": choose_settings(least_area),
        "thresholds": choose_settings(thresholds.reshape(*thresholds.shape[:2], -1)),
        **{name: submit_by(feature) for name, feature in FEATURES.items()},
        "expected": scored.dice(expected.thresholds(scored.level_counts)),
    }


def standard_error(scores: FloatArray, groups: list[str]) -> float:
    """Of the mean of the photos' scores, by the bootstrap over groups of photos."""
    _, group_of = np.unique(np.array(groups), return_inverse=True)
    sums = np.bincount(group_of, scores)
    sizes = np.bincount(group_of)
    drawn = np.random.default_rng(0).integers(0, len(sizes), (2000, len(sizes)))
    return float((sums[drawn].sum(1) / sizes[drawn].sum(1)).std(ddof=1))


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    arguments = parser.parse_args()
    data: Path = arguments.data
    models, folds = listed_models(arguments.params)
    fold_models = load_fold_models(models, folds, data / "models", data / "predictions", data / "ensemble" / "added")
    truth = true_masks(data / "cache" / "score")["val"]
    train = load_part(data / "cache" / "train")
    rows = fold_models.rows(train.ids)
    groups = read_folds(data / "splits" / "folds.csv").set_index("id").loc[fold_models.ids]["group"].tolist()
    fold_of = group_folds(groups, max_folds=10, min_groups=2)
    sources = {name: EnsembleWeights.of_single_model(name) for name in models}
    sources["mean"] = EnsembleWeights(dict.fromkeys(models, 1 / len(models)), {})
    sources["ensemble"] = read_weights(data / "ensemble" / "weights.json")
    header = ["source", "argmax", "all empty", "least area", "thresholds", *FEATURES, "expected", "selected"]
    print(f"{len(rows)} photos, {len(set(groups))} groups\n\n| {' | '.join([*header, 'score of selected'])} |")
    print("|---|" + "---:|" * len(header))
    for source, weights in sources.items():
        predict = fold_models.predictor(weights.chosen, weights.without_fold)
        statistics = collect_statistics(map(predict, range(len(rows))), truth, rows, train.classes, threads=2)
        areas = statistics.confusions.sum(1)[:, train.classes.unscored :]
        dice = [held_out_dice(statistics, areas, groups, fold_of == fold) for fold in range(int(fold_of.max()) + 1)]
        scores = [float(np.concatenate([of_fold[rule] for of_fold in dice]).mean()) for rule in dice[0]]
        selected = statistics.dice(select_rule(statistics, groups, "auto").nested_thresholds).mean(1)
        scores.append(float(selected.mean()))
        gains = " | ".join(f"{score - scores[0]:+.4f}" for score in scores[1:])
        error = standard_error(selected, groups)
        print(f"| {source} | {scores[0]:.4f} | {gains} | {scores[-1]:.4f} ± {error:.4f} |")


if __name__ == "__main__":
    main()
