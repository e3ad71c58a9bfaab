"""How much the ensemble's models differ: averaging helps when accurate models make different errors."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from harveyseg.arrays import Confusions, FloatArray
from harveyseg.data.cache import CachedPart
from harveyseg.ensemble.figures import diversity_figure
from harveyseg.ensemble.members import FoldModels
from harveyseg.files import write_table
from harveyseg.inference.probabilities import argmax_map
from harveyseg.progress import track
from harveyseg.score import confusion, image_dice, image_scores


@dataclass(frozen=True)
class Diversity:
    """Pairwise comparison of models on the photos that they were not trained on."""

    models: tuple[str, ...]
    disagreement: FloatArray
    """(m, m): share of the pixels to which two models give different classes."""
    error_correlation: FloatArray
    """(m, m): Pearson correlation of two models' 1 - Dice over the (photo, class) that the truth or any model holds.

    1 where they fail alike, near 0 where they fail independently, NaN where a model has the same Dice everywhere.
    """


def compare_models(fold_models: FoldModels, part: CachedPart, threads: int) -> Diversity:
    """Compare the models' argmax maps, at the cache's size, with each other and with the truth.

    Args:
        fold_models: the models.
        part: the training part.
        threads: photos processed at the same time; does not change the result.

    Raises:
        HarveysegError: when the part holds no masks.
    """
    models = fold_models.models
    positions = fold_models.positions
    masks = fold_models.masks(part)

    def compare_on_photo(position: int) -> tuple[FloatArray, FloatArray]:
        """Disagreement (m, m), and 1 - Dice (m, classes) of the classes that the truth or any model holds."""
        fold, row = positions[position]
        mask = masks[position]
        maps = [argmax_map(fold_models[model, fold].val[row], (mask.shape[0], mask.shape[1])) for model in models]
        disagreement = np.array([[np.count_nonzero(a != b) / mask.size for b in maps] for a in maps])
        confusions = np.stack([confusion(mask, predicted, len(part.classes)) for predicted in maps])
        occurs = (confusions.sum(2) + confusions.sum(1)).any(0)
        occurs[: part.classes.unscored] = False
        return disagreement, 1 - image_dice(confusions)[:, occurs]

    with ThreadPoolExecutor(threads) as pool:
        compared = track(pool.map(compare_on_photo, range(len(positions))), "comparing models", len(positions))
        disagreements, errors = zip(*compared, strict=True)
    with np.errstate(invalid="ignore", divide="ignore"):  # 0 / 0 is NaN
        correlation = np.corrcoef(np.concatenate(errors, axis=1)).reshape(len(models), len(models))
    return Diversity(models, np.mean(disagreements, axis=0), correlation)


def mixture_scores(equal: Confusions, results: Mapping[str, float], unscored: int) -> dict[str, float]:
    """The out-of-fold argmax scores of mixtures, named for the reader.

    Args:
        equal: the confusions of the mean of all models.
        results: the ensemble's metrics, ``val/argmax_score`` and, with several folds, ``val/nested_argmax_score``.
        unscored: number of classes that are not scored.
    """
    scores = {"mean of all": float(image_scores(equal, unscored).mean()), "chosen weights": results["val/argmax_score"]}
    nested = results.get("val/nested_argmax_score")
    return scores if nested is None else scores | {"chosen on other folds": nested}


def write_diversity(folder: Path, diversity: Diversity, argmax_scores: Mapping[str, float]) -> None:
    """Write ``diversity.csv`` and ``diversity.png``.

    The table has one row for each score, then one for each pair of models. Its columns, filled where they apply, are
    what ("unet", "unet + attention_unet"), argmax_score, disagreement and error_correlation.

    Args:
        folder: where to write.
        diversity: the comparison.
        argmax_scores: of each model and of mixtures of them, out of fold.
    """
    rows: list[dict[str, str | float]] = [
        {"what": name, "argmax_score": score} for name, score in argmax_scores.items()
    ]
    for first, second in zip(*np.triu_indices(len(diversity.models), 1), strict=True):
        rows.append(
            {
                "what": f"{diversity.models[first]} + {diversity.models[second]}",
                "disagreement": float(diversity.disagreement[first, second]),
                "error_correlation": float(diversity.error_correlation[first, second]),
            }
        )
    table = pd.DataFrame(rows, columns=["what", "argmax_score", "disagreement", "error_correlation"])
    write_table(folder / "diversity.csv", table, float_format="%.6f")
    figure = folder / "diversity.png"
    title = "How much the models differ on photos that they were not trained on"
    diversity_figure(
        diversity.models, diversity.disagreement, diversity.error_correlation, argmax_scores, figure, title
    )
