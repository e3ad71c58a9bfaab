"""Trials of a study: logged to MLflow, and made up in plain types."""

from pathlib import Path

from harveyseg.reproduction.export import StudyRun
from harveyseg.reproduction.studies import StudyRecipe, study_tags
from harveyseg.reproduction.tables import Variant
from harveyseg.tracking.client import Tracker
from harveyseg.tracking.mirror import mirror
from harveyseg.tracking.query import tag_runs
from helpers.records import START_MS, make_record, write_outputs


def log_trial(
    tracker: Tracker,
    root: Path,
    recipe: StudyRecipe,
    study: str,
    variant: str,
    seed: int,
    scores: tuple[float, ...],
    at: int = 0,
) -> None:
    """A finished trial in MLflow: a training on each fold with that score, tagged."""
    outputs = []
    for fold, score in enumerate(scores):
        parameters = {
            "train.seed": seed,
            "resize-cache.size": "128x128",
            "train.loss.softmax_before_loss": variant == "on",
        }
        environment = {"precision": "fp32"}
        record = make_record("unet", fold, parameters=parameters, environment=environment, started_ms=START_MS + at)
        values = {"val/argmax_score": score, "val/score": score + 0.05, "val/all_empty_score": 0.6}
        # Of 9.6 classes per photo none is claimed where the score is that of an empty file.
        values |= {"val/false_positive_classes": 1.0, "val/missed_classes": 9.6 if score == 0.6 else 6.0}
        folder = root / f"{study}-{variant.replace(' ', '')}-{seed}-{at}-{fold}"
        outputs.append(write_outputs(folder, record, values))
        mirror(tracker, outputs[fold].state())
    tag_runs(tracker, outputs, study_tags(study, recipe, variant))


def make_variant(label: str, *scores: float, **metrics: float) -> Variant:
    """A variant with a seed of this argmax score each; in a metric's name ``__`` is the slash."""
    named = {name.replace("__", "/"): value for name, value in metrics.items()}
    runs = [
        StudyRun(
            uid=f"{label}-{score}-{seed}",
            studies={},
            seed=seed,
            fold=0,
            started_ms=START_MS,
            data_source="demo",
            data_hash="d" * 64,
            split_hash="e" * 64,
            git_commit="c" * 40,
            device="cpu",
            parameters={},
            metrics={"val/argmax_score": score, "val/all_empty_score": 0.6, "val/score": score + 0.02, **named},
            curves={},
            environment={},
        )
        for seed, score in enumerate(scores)
    ]
    return Variant(label, tuple((run,) for run in runs))


def with_curves(variant: Variant, curves: dict[str, dict[int, float]]) -> Variant:
    """The same, with these curves of every training."""
    seeds = [tuple(run.model_copy(update={"curves": curves}) for run in folds) for folds in variant.seeds]
    return Variant(variant.label, tuple(seeds))
