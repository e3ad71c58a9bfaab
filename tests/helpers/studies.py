"""Trials of a study in MLflow."""

from pathlib import Path

from harveyseg.reproduction.studies import Base, study_tags
from harveyseg.tracking.client import Tracker, sync
from helpers.records import START_MS, make_record, write_outputs


def log(
    tracker: Tracker,
    root: Path,
    base: Base,
    study: str,
    variant: str,
    seed: int,
    scores: tuple[float, ...],
    at: int = 0,
) -> None:
    """A finished trial in MLflow: a training on each fold with that score, tagged."""
    records = []
    for fold, score in enumerate(scores):
        parameters = {
            "train.seed": seed,
            "resize-cache.size": "128x128",
            "train.loss.softmax_before_loss": variant == "on",
        }
        record = make_record("unet", fold, parameters=parameters, started_ms=START_MS + at)
        values = {"val/argmax_score": score, "val/score": score + 0.05, "val/all_empty_score": 0.6}
        # Of 9.6 classes per photo none is claimed where the score is that of an empty file.
        values |= {"val/false_positive_classes": 1.0, "val/missed_classes": 9.6 if score == 0.6 else 6.0}
        folder = root / f"{study}-{variant.replace(' ', '')}-{seed}-{at}-{fold}"
        sync(tracker, [write_outputs(folder, record, values)])
        records.append(record)
    tracker.tag(records, study_tags(study, base, variant))
