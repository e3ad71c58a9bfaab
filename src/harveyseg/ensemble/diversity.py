"""How much the ensemble's models differ: a mean gains by models that are good, and wrong in different places."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from harveyseg.arrays import Confusions
from harveyseg.data.cache import CachedPart
from harveyseg.ensemble.members import Members, cached_masks
from harveyseg.evaluation.figures import diversity_figure
from harveyseg.files import write_text
from harveyseg.inference.probabilities import argmax_map
from harveyseg.score import confusion, image_dice, image_scores


@dataclass(frozen=True)
class Diversity:
    """Pairwise comparison of models on the photos that they were not trained on."""

    models: tuple[str, ...]
    disagreement: npt.NDArray[np.float64]
    """(m, m): share of the pixels that two models label differently."""
    error_correlation: npt.NDArray[np.float64]
    """(m, m): Pearson correlation of two models' 1 - Dice over those (photo, class) that the truth or any model holds:
    1 where they fail alike, near 0 where they fail independently. NaN where a model has the same Dice everywhere."""


def compare_models(members: Members, part: CachedPart, threads: int) -> Diversity:
    """Compare the models' most probable classes, at the cache's size, with each other and with the truth.

    Args:
        members: the models.
        part: the training part.
        threads: photos compared side by side; does not change the result.

    Raises:
        HarveysegError: when the part holds no masks.
    """
    models, positions, truth = members.models, members.positions, cached_masks(members, part)

    def photo(position: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        fold, row = positions[position]
        true = truth[position]
        labels = [argmax_map(members.of[model, fold].val[row], (true.shape[0], true.shape[1])) for model in models]
        differ = np.array([[np.count_nonzero(one != other) / true.size for other in labels] for one in labels])
        counts = np.stack([confusion(true, one) for one in labels])
        held = (counts.sum(2) + counts.sum(1)).any(0)
        held[0] = False  # the background is not scored
        return differ, 1 - image_dice(counts)[:, held]

    with ThreadPoolExecutor(threads) as pool:
        differ, errors = zip(*pool.map(photo, range(len(positions))), strict=True)
    with np.errstate(invalid="ignore", divide="ignore"):  # 0 / 0 is NaN
        correlation = np.corrcoef(np.concatenate(errors, axis=1)).reshape(len(models), len(models))
    return Diversity(models, np.mean(differ, axis=0), correlation)


def mixture_scores(equal: Confusions, results: Mapping[str, float]) -> dict[str, float]:
    """The out-of-fold scores of mixtures, named for the reader.

    Args:
        equal: the confusions of the mean of all models.
        results: the ensemble's metrics, ``val/argmax_score`` and, with several folds, ``val/nested_argmax_score``.
    """
    scores = {"mean of all": float(image_scores(equal).mean()), "chosen weights": results["val/argmax_score"]}
    nested = results.get("val/nested_argmax_score")
    return scores if nested is None else scores | {"chosen on other folds": nested}


def write_diversity(folder: Path, found: Diversity, scores: Mapping[str, float]) -> list[Path]:
    """Write ``diversity.csv`` and ``diversity.png``.

    The table has one row for each score, then one for each pair of models, with those of its columns filled that
    apply: what ("unet", "unet + attention_unet"), score, disagreement, error_correlation.

    Args:
        folder: where to.
        found: the comparison.
        scores: of each model and of mixtures of them, out of fold.

    Returns:
        The two files.
    """
    rows: list[dict[str, str | float]] = [{"what": name, "score": score} for name, score in scores.items()]
    for one, other in zip(*np.triu_indices(len(found.models), 1), strict=True):
        rows.append(
            {
                "what": f"{found.models[one]} + {found.models[other]}",
                "disagreement": float(found.disagreement[one, other]),
                "error_correlation": float(found.error_correlation[one, other]),
            }
        )
    table = pd.DataFrame(rows, columns=["what", "score", "disagreement", "error_correlation"])
    write_text(folder / "diversity.csv", table.to_csv(index=False, float_format="%.6f", lineterminator="\n"))
    title = "How much the models differ on photos that they were not trained on"
    figure = folder / "diversity.png"
    diversity_figure(found.models, found.disagreement, found.error_correlation, scores, figure, title)
    return [folder / "diversity.csv", figure]
