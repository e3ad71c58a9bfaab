"""A study's table, made from MLflow alone: one row per variant, over its seeds.

With several seeds, the spread is the sample standard deviation of their scores, and a variant that is behind the best
one by less than the larger of both spreads is marked: such a difference says nothing.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from harveyseg.classes import N_SCORED
from harveyseg.errors import HarveysegError
from harveyseg.files import atomic, write_text
from harveyseg.reproduction.studies import Base, Study, find_study, study_tag, variants
from harveyseg.tracking.client import TrackedRun, Tracker

_AVERAGED = {
    "argmax_score": "val/argmax_score",
    "score": "val/score",
    "all_empty_score": "val/all_empty_score",
    "macro_dice": "val/argmax_macro_dice",
    "miou": "val/miou",
    "false_positive_classes": "val/false_positive_classes",
    "missed_classes": "val/missed_classes",
    "boundary_accuracy": "val/boundary_accuracy",
    "interior_accuracy": "val/interior_accuracy",
    "train_loss": "final/train_loss",
    "val_loss": "final/val_loss",
    "epochs": "epochs",
    "parameters": "parameters",
    "seconds": "seconds",
}
"""Column -> metric, whose mean over folds and seeds it shows."""
_DECIMALS = {
    "epochs": 0,
    "parameters": 0,
    "seconds": 0,
    "false_positive_classes": 2,
    "missed_classes": 2,
    "train_loss": 3,
    "val_loss": 3,
    "report_score": 5,
    "report_val_loss": 2,
}
"""Of the numbers that have not four."""
_CSV_ONLY = ("all_empty_score", "miou", "boundary_accuracy", "interior_accuracy", "seconds")
_ONE_CLASS = 1.05
"""Classes claimed per photo, the background not counted."""


@dataclass(frozen=True)
class Variant:
    """What MLflow knows of one variant of a study."""

    label: str
    seeds: tuple[tuple[TrackedRun, ...], ...]
    """For each seed that is complete, the runs of its folds."""

    def mean(self, metric: str) -> float:
        """The mean over folds, then over seeds; NaN when a run lacks it."""
        values = self.values(metric)
        return math.fsum(values) / len(values) if values else math.nan

    def spread(self, metric: str) -> float:
        """Sample standard deviation over the seeds; NaN with fewer than two."""
        values = self.values(metric)
        return statistics.stdev(values) if len(values) > 1 else math.nan

    def values(self, metric: str) -> list[float]:
        """The mean over folds of each seed; NaN for a seed of which a run lacks the metric."""
        return [math.fsum(found.metrics.get(metric, math.nan) for found in folds) / len(folds) for folds in self.seeds]

    @property
    def learnt(self) -> "Variant":
        """The same without the seeds that ended at one class."""
        return Variant(self.label, tuple(folds for folds in self.seeds if not any(map(collapsed, folds))))

    @property
    def compared(self) -> "Variant":
        """What its numbers are taken from: the seeds that learnt, or, when none did, all."""
        return self.learnt if self.learnt.seeds else self

    @property
    def collapsed(self) -> int:
        """How many seeds ended at one class for almost every pixel, on any fold."""
        return sum(any(map(collapsed, folds)) for folds in self.seeds)


def collapsed(run: TrackedRun) -> bool:
    """Whether a network gives one class to almost every pixel: it claims hardly more than one class per photo."""
    if not {"val/all_empty_score", "val/false_positive_classes", "val/missed_classes"} <= run.metrics.keys():
        return False
    present = N_SCORED * (1 - run.metrics["val/all_empty_score"])
    return run.metrics["val/false_positive_classes"] + present - run.metrics["val/missed_classes"] < _ONE_CLASS


def find_variants(name: str, base: Base, tracker: Tracker) -> list[Variant]:
    """All variants of a study of this recipe, as defined, also those of which nothing has run.

    Where a training was repeated the newest counts; a seed of which a fold is missing or unfinished does not. Runs on
    other photos or another split than the newest one's are left out: params.yaml does not tell them apart.

    Raises:
        HarveysegError: for an unknown study, and when MLflow cannot be read.
    """
    found: dict[tuple[str, str, str], TrackedRun] = {}
    tag = study_tag(name, base)
    tagged_runs = [run for run in tracker.find_tagged(tag) if run.status == "FINISHED"]  # oldest first
    split = tagged_runs[-1].tags.get("harveyseg.split_hash") if tagged_runs else None
    for tagged in tagged_runs:
        if tagged.tags.get("harveyseg.split_hash") == split:
            found[tagged.tags[tag], tagged.parameters["train.seed"], tagged.tags["harveyseg.fold"]] = tagged
    result = []
    for label in variants(find_study(name), base):
        seeds = sorted({seed for variant, seed, _ in found if variant == label}, key=int)
        folds = [
            [run for fold in base.folds if (run := found.get((label, seed, str(fold)))) is not None] for seed in seeds
        ]
        result.append(Variant(label, tuple(tuple(runs) for runs in folds if len(runs) == len(base.folds))))
    return result


def study_table(name: str, base: Base, found: Sequence[Variant]) -> pd.DataFrame:
    """The table of a study.

    Args:
        name: of the study.
        base: the recipe.
        found: see :func:`find_variants`.

    Returns:
        One row per variant: its label, number of seeds (those that ended at one class are left out, see the note),
        means of the metrics, spread of the score, by how much the score is behind the best variant's, what the report
        states, and a note. NaN where nothing is known.
    """
    study = find_study(name)
    best = max((one for one in found if one.seeds), key=lambda one: one.compared.mean("val/argmax_score"), default=None)
    rows = []
    for one in found:
        reported, compared = study.reported.get(one.label), one.compared
        row: dict[str, float | str | None] = {"variant": one.label, "seeds": len(compared.seeds)}
        row |= {column: compared.mean(metric) for column, metric in _AVERAGED.items()}
        row["spread"] = compared.spread("val/argmax_score")
        row["behind"] = (
            math.nan if best is None else best.compared.mean("val/argmax_score") - compared.mean("val/argmax_score")
        )
        row["report_score"] = math.nan if reported is None or reported.score is None else reported.score
        row["report_val_loss"] = math.nan if reported is None or reported.val_loss is None else reported.val_loss
        row["note"] = _note(one, best)
        rows.append(row)
    leading = ["variant", "seeds", "score", "spread", "behind"]
    stated = ["report_score", "report_val_loss"] if study.reported else []
    rest = [column for column in _AVERAGED if column != "score"]
    return pd.DataFrame(rows, columns=[*leading, *rest, *stated, "note"])


def write_study(name: str, base: Base, tracker: Tracker, folder: Path) -> str:
    """Write ``study-<name>.csv`` and ``.md`` and, for a study whose curves matter, ``.png``.

    Returns:
        The Markdown.

    Raises:
        HarveysegError: for an unknown study, one of which nothing has run with this recipe, and without MLflow.
    """
    found = find_variants(name, base, tracker)
    if not any(one.seeds for one in found):
        raise HarveysegError(
            f"study {name}: MLflow has no finished run of it with the recipe and data that params.yaml names. "
            f"`harveyseg study {name}` runs it."
        )
    frame = study_table(name, base, found)
    study = find_study(name)
    shown = f"{study.title}\n\nThe report: {study.says}\n\n{markdown(frame)}\n{describe(found)}\n"
    write_text(folder / f"study-{name}.csv", frame.to_csv(index=False, float_format="%.6f", lineterminator="\n"))
    write_text(folder / f"study-{name}.md", shown)
    if study.curves:
        draw_curves(study, found, tracker, folder / f"study-{name}.png")
    return shown


def markdown(frame: pd.DataFrame) -> str:
    """A study's table as Markdown, without its empty columns and those that only the CSV has."""
    kept = [name for name in frame.columns if name not in _CSV_ONLY]
    shown = [name for name in kept if name in ("variant", "note") or frame[name].notna().any()]
    lines = [shown, ["---" if name in ("variant", "note") else "---:" for name in shown]]
    for row in frame[shown].to_dict("records"):
        lines.append([_cell(str(name), value) for name, value in row.items()])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def describe(found: Sequence[Variant]) -> str:
    """One sentence on data, seeds and spread."""
    runs = [run for one in found for folds in one.seeds for run in folds]
    data = sorted({f"{run.tags.get('harveyseg.data_source', '?')}" for run in runs})
    sizes = sorted({run.parameters.get("resize-cache.size", "?") for run in runs})
    seeds = sorted({len(one.compared.seeds) for one in found if one.seeds})
    spoken = " to ".join(str(count) for count in dict.fromkeys((seeds[0], seeds[-1])))
    several = "a difference below the spread of their scores is marked" if seeds[-1] > 1 else "their spread is unknown"
    learnt = f"Seeds of each variant, of those that learnt: {spoken}; {several}."
    return f"Data: {', '.join(data)}, {', '.join(sizes)} pixels. {learnt}"


def draw_curves(study: Study, found: Sequence[Variant], tracker: Tracker, path: Path) -> None:
    """Losses of each epoch, one panel per variant (its first run that learnt), as the report's Fig. 3."""
    from matplotlib.figure import Figure

    drawn = [one for one in found if one.seeds]
    figure = Figure(figsize=(3.2 * len(drawn), 3.2), dpi=150, layout="constrained")
    axes = figure.subplots(1, len(drawn), sharey=True, squeeze=False)[0]
    for axis, one in zip(axes, drawn, strict=True):
        curves = tracker.curves(one.compared.seeds[0][0].run_id or "")
        for name, label in (("train_loss", "training"), ("val_loss", "validation")):
            epochs = sorted(curves.get(name, {}))
            axis.plot([epoch + 1 for epoch in epochs], [curves[name][epoch] for epoch in epochs], label=label)
        axis.set_title(one.label)
        axis.set_xlabel("epoch")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("loss")
    axes[0].legend()
    figure.suptitle(study.title)
    with atomic(path) as temporary:
        figure.savefig(temporary)


def tied(one: Variant, other: Variant) -> bool | None:
    """Whether two variants differ by less than the larger spread of their scores; None when no spread is known."""
    both = (one.compared, other.compared)
    spreads = [value for side in both if not math.isnan(value := side.spread("val/argmax_score"))]
    if not spreads:
        return None
    return abs(both[0].mean("val/argmax_score") - both[1].mean("val/argmax_score")) < max(spreads)


def _note(one: Variant, best: Variant | None) -> str:
    if not one.seeds:
        return "not run"
    notes = []
    if one is best:
        notes.append("best")
    elif best is not None and tied(one, best):
        notes.append("within the spread")
    if one.collapsed:
        left = ", left out" if one.learnt.seeds else ""
        notes.append(f"{one.collapsed} of {len(one.seeds)} seeds ended at one class{left}")
    return "; ".join(notes)


def _cell(name: str, value: float | str) -> str:
    if isinstance(value, str):
        return value
    if math.isnan(value):
        return ""
    return f"{value:.0f}" if name == "seeds" else f"{value:.{_DECIMALS.get(name, 4)}f}"
