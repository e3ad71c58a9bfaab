"""What rules for the decision are worth, each alone, on the workspace's out-of-fold predictions.

    .venv/bin/python benchmarks/decision.py [--data data] [--params params.yaml]

Every score is nested as that of the stage `postprocess`: a photo's rule is fitted without the photo's group.

- nothing: all masks empty.
- least area: the label map, without classes below an area of their own.
- thresholds: a threshold and a least area for each class.
- by area, by sum, by peak: the sets of `expected`, handed in or not by another feature than their expected Dice: the
  set's area, the mean or the highest probability of all pixels.
- expected: see harveyseg.postprocess.decision; `chosen` is it or the label map, by cross-validation inside. Its score stands behind
  it, with the standard error of a mean over such photos: from 2000 bootstrap samples of whole groups.

Least areas and thresholds are chosen on the score, a class's own photos beside 16 that score as all classes on average.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from harveyseg.config.settings import listed_models
from harveyseg.data.cache import load_part
from harveyseg.data.split import read_folds
from harveyseg.ensemble.members import Weights, load_members, read_weights
from harveyseg.evaluation.metrics import true_masks
from harveyseg.inference.probabilities import count_confusions
from harveyseg.postprocess.decision import (
    ARGMAX,
    N_LEVELS,
    NOTHING,
    Evidence,
    Expected,
    Floats,
    Levels,
    choose,
    gather,
    grouped_parts,
    log_odds,
    tail_sums,
    weigh,
)

AREAS = np.array([1, 50, 100, 200, 400, 1000, 2000, 4000, 8000, 16000, 32000, 64000, 128000, 2**21])
THRESHOLDS = np.array([8, 13, 20, 26, 38, 51, 64, 77, 90, 102, 115, 128, 153, 179])
PSEUDO_PHOTOS = 16

Rows = npt.NDArray[np.bool_]
Feature = Callable[[Evidence, Levels], Floats]
"""From n photos and their sets (n, 24) to what speaks for handing them in, (n, 24)."""


def _area(evidence: Evidence, levels: Levels) -> Floats:
    above = tail_sums(evidence.counts)
    pixels = np.take_along_axis(above, np.minimum(levels, N_LEVELS - 1)[..., None], -1)[..., 0]
    return log_odds(pixels / above[..., 0])


def _sum(evidence: Evidence, levels: Levels) -> Floats:
    share = evidence.counts @ np.arange(N_LEVELS) / (N_LEVELS - 1)
    return log_odds(share / evidence.counts.sum(-1))


def _peak(evidence: Evidence, levels: Levels) -> Floats:
    highest = N_LEVELS - 1 - (evidence.counts[..., ::-1] > 0).argmax(-1)
    return log_odds(highest / (N_LEVELS - 1))


FEATURES: dict[str, Feature] = {"by area": _area, "by sum": _sum, "by peak": _peak}


def held_out_dice(
    evidence: Evidence, areas: npt.NDArray[np.int64], groups: list[str], held_out: Rows
) -> dict[str, Floats]:
    """Dice (held out, 24) of the held-out photos under each rule, which is fitted on the others.

    Args:
        evidence: of n photos.
        areas: (n, 24), pixels of each class in the label map.
        groups: the photos' groups of neighbouring frames, n.
        held_out: (n,).
    """
    known, new = evidence.of(~held_out), evidence.of(held_out)
    known_groups = np.array(groups)[~held_out].tolist()
    above, worth = tail_sums(evidence.counts)[..., THRESHOLDS], evidence.worth

    def searched(settings: Floats) -> Floats:
        """Per class the setting, of (n, 24, settings), that is best on the photos not held out."""
        others = settings[~held_out]
        best = (others.sum(0) + PSEUDO_PHOTOS * others.mean((0, 1))).argmax(-1)
        dice: Floats = np.take_along_axis(settings[held_out], best[None, :, None], -1)[..., 0]
        return dice

    least = np.where(areas[..., None] >= AREAS, worth[..., ARGMAX, None], worth[..., NOTHING, None])
    both = np.where(above[..., None] >= AREAS, worth[..., THRESHOLDS, None], worth[..., NOTHING, None, None])
    expected = Expected.fit(known, known_groups)
    known_sets, new_sets = expected.best_sets(known.counts)[0], expected.best_sets(new.counts)[0]

    def by(feature: Feature) -> Floats:
        slope, intercept = weigh(known, known_groups, known_sets, feature(known, known_sets))
        return new.dice(np.where(slope * feature(new, new_sets) + intercept > 0, new_sets, NOTHING))

    return {
        "label map": new.worth[..., ARGMAX],
        "nothing": new.worth[..., NOTHING],
        "least area": searched(least),
        "thresholds": searched(both.reshape(*both.shape[:2], -1)),
        **{name: by(feature) for name, feature in FEATURES.items()},
        "expected": new.dice(expected.levels(new.counts)),
    }


def standard_error(scores: Floats, groups: list[str]) -> float:
    """Of the mean of the photos' scores, by the bootstrap over groups of photos."""
    _, group_of = np.unique(np.array(groups), return_inverse=True)
    sums, sizes = np.bincount(group_of, scores), np.bincount(group_of)
    drawn = np.random.default_rng(0).integers(0, len(sizes), (2000, len(sizes)))
    return float((sums[drawn].sum(1) / sizes[drawn].sum(1)).std(ddof=1))


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    arguments = parser.parse_args()
    data: Path = arguments.data
    own, folds = listed_models(arguments.params)
    members = load_members(own, folds, data / "models", data / "predictions", data / "ensemble" / "added")
    truth, rows = true_masks(data / "cache" / "score")["val"], members.rows(load_part(data / "cache" / "train").ids)
    groups = read_folds(data / "splits" / "folds.csv").set_index("id").loc[members.ids]["group"].tolist()
    parts = grouped_parts(groups, most=10, least_groups=2)
    equal = Weights(dict.fromkeys(own, 1 / len(own)), {})
    sources = {name: Weights({name: 1.0}, {}) for name in own}
    sources |= {"mean": equal, "ensemble": read_weights(data / "ensemble" / "weights.json")}
    header = ["label map", "nothing", "least area", "thresholds", *FEATURES, "expected", "chosen", "chosen, score"]
    print(f"{len(rows)} photos, {len(set(groups))} groups\n\n| {' | '.join(['source', *header])} |")
    print("|" + "---|" + "---:|" * len(header))
    for name, weights in sources.items():
        predict = members.predictor(weights.chosen, weights.without)
        evidence = gather(map(predict, range(len(rows))), truth, rows, threads=2)
        areas = count_confusions(predict, truth, rows, threads=2).sum(1)[:, 1:]
        dice = [held_out_dice(evidence, areas, groups, parts == part) for part in range(int(parts.max()) + 1)]
        scores = [float(np.concatenate([of_part[rule] for of_part in dice]).mean()) for rule in dice[0]]
        chosen = evidence.dice(choose(evidence, groups, "auto").nested).mean(1)
        scores.append(float(chosen.mean()))
        gains = " | ".join(f"{score - scores[0]:+.4f}" for score in scores[1:])
        error = standard_error(chosen, groups)
        print(f"| {name} | {scores[0]:.4f} | {gains} | {scores[-1]:.4f} ± {error:.4f} |")


if __name__ == "__main__":
    main()
