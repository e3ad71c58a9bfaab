"""The ensemble's predictions, their evaluation out of fold and on the test photos, and its figures."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from harveyseg.arrays import ClassMaps
from harveyseg.data.cache import CachedPart
from harveyseg.ensemble.diversity import compare_models, mixture_scores, write_diversity
from harveyseg.ensemble.members import FoldModels
from harveyseg.ensemble.weights import EnsembleWeights
from harveyseg.evaluation.documents import prediction_grid, write_evaluation
from harveyseg.evaluation.figures import overview_figure, prediction_figure
from harveyseg.evaluation.metrics import MetricsFile, nested_entry
from harveyseg.inference.probabilities import count_confusions, read_probabilities, write_probabilities
from harveyseg.record import RunRecord


def evaluate_ensemble(
    folder: Path,
    record: RunRecord,
    fold_models: FoldModels,
    weights: EnsembleWeights,
    train: CachedPart,
    truth: Mapping[str, ClassMaps],
    threads: int,
    identity: MetricsFile,
) -> dict[str, float]:
    """Write the test probabilities, and the metrics and tables of the argmax maps.

    Args:
        folder: where to write.
        record: the ensemble's run.
        fold_models: its members.
        weights: their weights.
        train: the training part.
        truth: the true masks, see :func:`harveyseg.evaluation.metrics.true_masks`.
        threads: photos processed at the same time; does not change the result.
        identity: of the evaluation, see :func:`harveyseg.record.identify_evaluation`.

    Returns:
        The metrics.
    """
    classes = train.classes
    test_maps = (maps[None] for maps in fold_models.test(weights.chosen))
    shape = (len(classes), *fold_models.test_size(weights.chosen))
    write_probabilities(folder / "test.npy", fold_models.first.test_ids, shape, test_maps)
    rows = fold_models.rows(train.ids)
    count = partial(count_confusions, classes=len(classes), threads=threads)
    confusions = {"val": count(fold_models.predictor(weights.chosen), truth["val"], rows)}
    if "test" in truth:
        _, test = read_probabilities(folder / "test.npy")
        confusions["test"] = count(test.__getitem__, truth["test"], range(len(test)))
    nested = None
    if weights.without_fold:
        predictor = fold_models.predictor(weights.chosen, weights.without_fold)
        nested = count(predictor, truth["val"], rows)
    more = {**identity, **nested_entry(nested, classes.unscored)}
    return write_evaluation(folder, record, confusions, classes, more)


def write_ensemble_figures(
    folder: Path,
    results: Mapping[str, float],
    fold_models: FoldModels,
    weights: EnsembleWeights,
    train: CachedPart,
    masks: ClassMaps,
    threads: int,
) -> None:
    """Write sheet.png, overview.png, diversity.png and diversity.csv.

    Args:
        folder: where to write.
        results: the ensemble's metrics, from :func:`evaluate_ensemble`.
        fold_models: its members.
        weights: their weights.
        train: the training part.
        masks: its masks at the score's size, uint8 (N, H, W).
        threads: photos processed at the same time; does not change the result.
    """
    rows = fold_models.rows(train.ids)
    ensemble = fold_models.predictor(weights.chosen)
    scores = {model: fold_models.argmax_score(model) for model in fold_models.models}
    title = "Photos that the models were not trained on"

    grid = prediction_grid(train, rows, masks, {"ensemble": ensemble}, photos=4)
    prediction_figure(grid, folder / "sheet.png", title)

    columns = {model: fold_models.predictor({model: 1.0}) for model in fold_models.models} | {"ensemble": ensemble}
    grid = prediction_grid(train, rows, masks, columns, photos=3)
    ensemble_score = results.get("val/nested_argmax_score", results["val/argmax_score"])
    bars = scores | {"ensemble": ensemble_score}
    overview_figure(grid, bars, results["val/all_empty_score"], folder / "overview.png", title)

    equal_weights = dict.fromkeys(fold_models.models, 1 / len(fold_models.models))
    equal = count_confusions(fold_models.predictor(equal_weights), masks, rows, len(train.classes), threads)
    diversity = compare_models(fold_models, train, threads)
    write_diversity(folder, diversity, scores | mixture_scores(equal, results, train.classes.unscored))
