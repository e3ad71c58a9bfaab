"""A study's results: one row per variant, over its folds and seeds.

With several seeds, the spread is the sample standard deviation of their scores, and a variant that is behind the best
one by less than the larger of both spreads is marked: such a difference says nothing. Networks that collapsed to one
class (two softmaxes can do that) learnt nothing; they are counted in the note and left out of the means.
"""

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from harveyseg.classes import HARVEY25
from harveyseg.errors import HarveysegError, counted
from harveyseg.files import atomic, write_table, write_text
from harveyseg.reproduction.export import StudyRun, StudyRuns
from harveyseg.reproduction.studies import Study, find_study, study_variants

ARGMAX_SCORE = "val/argmax_score"
"""The metric of the report's claims: it submitted argmax maps."""
SCORE = "val/score"
ALL_EMPTY_SCORE = "val/all_empty_score"

_AVERAGED = {
    "argmax_score": ARGMAX_SCORE,
    "score": SCORE,
    "all_empty_score": ALL_EMPTY_SCORE,
    "argmax_macro_dice": "val/argmax_macro_dice",
    "miou": "val/miou",
    "false_positive_classes": "val/false_positive_classes",
    "missed_classes": "val/missed_classes",
    "boundary_accuracy": "val/boundary_accuracy",
    "interior_accuracy": "val/interior_accuracy",
    "train_loss": "written/train_loss",
    "val_loss": "written/val_loss",
    "epochs": "epochs",
    "parameters": "parameters",
    "seconds": "seconds",
}
"""Column -> metric, whose mean over folds and seeds it shows."""
_DECIMALS = {
    "seeds": 0,
    "epochs": 0,
    "parameters": 0,
    "false_positive_classes": 2,
    "missed_classes": 2,
    "train_loss": 3,
    "val_loss": 3,
    "report_score": 5,
    "report_val_loss": 2,
}
"""Decimals of a column, where they are not four."""
_CSV_ONLY = ("all_empty_score", "miou", "boundary_accuracy", "interior_accuracy", "seconds")
_ONE_CLASS = 1.05
"""Classes predicted per photo, the background not counted."""


@dataclass(frozen=True)
class Variant:
    """What was measured of one variant of a study."""

    label: str
    seeds: tuple[tuple[StudyRun, ...], ...]
    """For each seed that is complete, the runs of its folds."""

    def values(self, metric: str) -> list[float]:
        """The mean over the folds of each seed; NaN for a seed of which a run lacks the metric."""
        return [math.fsum(run.metrics.get(metric, math.nan) for run in folds) / len(folds) for folds in self.seeds]

    def mean(self, metric: str) -> float:
        """The mean over folds, then over seeds; NaN when a run lacks it, and without a seed."""
        values = self.values(metric)
        return math.fsum(values) / len(values) if values else math.nan

    def spread(self, metric: str) -> float:
        """Sample standard deviation over the seeds; NaN with fewer than two."""
        values = self.values(metric)
        return statistics.stdev(values) if len(values) > 1 else math.nan

    @property
    def learnt(self) -> "Variant":
        """The same without the seeds that collapsed to one class."""
        return Variant(self.label, tuple(folds for folds in self.seeds if not any(map(collapsed_to_one_class, folds))))

    @property
    def compared(self) -> "Variant":
        """The seeds used for the reported numbers: those that learnt, or, when none did, all."""
        return self.learnt if self.learnt.seeds else self

    @property
    def n_collapsed(self) -> int:
        """How many seeds collapsed to one class, on any fold."""
        return len(self.seeds) - len(self.learnt.seeds)


def collapsed_to_one_class(run: StudyRun) -> bool:
    """Whether a network gives one class to almost every pixel: it predicts hardly more than one class per photo."""
    if not {ALL_EMPTY_SCORE, "val/false_positive_classes", "val/missed_classes"} <= run.metrics.keys():
        return False
    present = HARVEY25.scored * (1 - run.metrics[ALL_EMPTY_SCORE])
    predicted = run.metrics["val/false_positive_classes"] + present - run.metrics["val/missed_classes"]
    return predicted < _ONE_CLASS


def find_variants(name: str, studies: StudyRuns) -> list[Variant]:
    """All variants of a study, as defined, also those of which nothing has run.

    Of a repeated training the newest counts; a seed of which a fold is missing does not. Runs on other photos or
    another split than the newest one's are left out: params.yaml does not tell them apart.

    Raises:
        HarveysegError: for an unknown study.
    """
    labels = study_variants(find_study(name), studies.recipe)
    runs = [run for run in studies.runs if name in run.studies]
    newest = {
        (run.studies[name], run.seed, run.fold): run for run in runs if run.photos == runs[-1].photos
    }  # of equal keys the last one stays, and runs are sorted by time
    variants = []
    for label in labels:
        seeds = sorted({seed for variant, seed, _ in newest if variant == label})
        folds = [
            tuple(newest[label, seed, fold] for fold in studies.recipe.folds if (label, seed, fold) in newest)
            for seed in seeds
        ]
        complete = tuple(runs for runs in folds if len(runs) == len(studies.recipe.folds))
        variants.append(Variant(label, complete))
    return variants


def study_table(study: Study, variants: Sequence[Variant]) -> pd.DataFrame:
    """The table of a study.

    Returns:
        One row per variant: its label, number of seeds (of those that learnt), means of the metrics, spread of the
        argmax score, by how much that is behind the best variant's, what the report states, and a note. NaN where
        nothing is known.
    """
    measured = [variant for variant in variants if variant.seeds]
    best = max(measured, key=lambda variant: variant.compared.mean(ARGMAX_SCORE), default=None)
    rows = []
    for variant in variants:
        compared = variant.compared
        row: dict[str, float | str | None] = {"variant": variant.label, "seeds": len(compared.seeds)}
        row |= {column: compared.mean(metric) for column, metric in _AVERAGED.items()}
        row["spread"] = compared.spread(ARGMAX_SCORE)
        row["behind"] = math.nan if best is None else best.compared.mean(ARGMAX_SCORE) - compared.mean(ARGMAX_SCORE)
        reported = study.reported.get(variant.label)
        if reported is not None:
            row["report_score"] = reported.score
            row["report_val_loss"] = reported.val_loss
        row["note"] = _note(variant, best)
        rows.append(row)
    leading = ["variant", "seeds", "argmax_score", "spread", "behind"]
    averaged = [column for column in _AVERAGED if column not in leading]
    reported_columns = ["report_score", "report_val_loss"] if study.reported else []
    frame = pd.DataFrame(rows, columns=[*leading, *averaged, *reported_columns, "note"])
    return frame.astype(dict.fromkeys(reported_columns, float))


def write_study(name: str, studies: StudyRuns, folder: Path) -> str:
    """Write ``study-<name>.csv`` and ``.md`` and, for a study whose curves matter, ``.png``.

    Returns:
        The Markdown.

    Raises:
        HarveysegError: for an unknown study, and one of which nothing has run with this recipe.
    """
    study = find_study(name)
    variants = find_variants(name, studies)
    if not any(variant.seeds for variant in variants):
        raise HarveysegError(
            f"study {name}: MLflow has no finished run of it with the recipe and data that params.yaml names. "
            f"`harveyseg study {name}` runs it."
        )
    table = study_table(study, variants)
    shown = f"{study.title}\n\nThe report: {study.says}\n\n{study_markdown(table)}\n{describe_variants(variants)}\n"
    write_table(folder / f"study-{name}.csv", table, float_format="%.6f")
    write_text(folder / f"study-{name}.md", shown)
    if study.curves:
        draw_curves(study, variants, folder / f"study-{name}.png")
    return shown


def study_markdown(table: pd.DataFrame) -> str:
    """A study's table as Markdown, without its empty columns and those that only the CSV has."""
    columns = [
        name
        for name in table.columns
        if name not in _CSV_ONLY and (name in ("variant", "note") or table[name].notna().any())
    ]
    cells = table[columns].apply(lambda column: column.map(lambda value: _cell(str(column.name), value)))
    alignment = [None if name in ("variant", "note") else "right" for name in columns]
    return f"{cells.to_markdown(index=False, disable_numparse=True, stralign=None, colalign=alignment)}\n"


def describe_variants(variants: Sequence[Variant]) -> str:
    """Sentences on the data, folds, seeds and their spread, and on what computed them."""
    runs = [run for variant in variants for folds in variant.seeds for run in folds]
    sources = sorted({run.data_source for run in runs})
    sizes = sorted({run.parameters.get("resize-cache.size", "?") for run in runs})
    seeds = sorted({len(variant.compared.seeds) for variant in variants if variant.seeds})
    folds = max(len(folds) for variant in variants for folds in variant.seeds)
    means = f"All numbers are means over {folds} folds and over the seeds. " if folds > 1 else ""
    n_seeds = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    spread = "a difference below the spread of their scores is marked" if seeds[-1] > 1 else "their spread is unknown"
    return (
        f"Data: {', '.join(sources)}, {', '.join(sizes)} pixels. {means}"
        f"Seeds of each variant, of those that learnt: {n_seeds}; {spread}. {_describe_computing(variants)}"
    )


def _describe_computing(variants: Sequence[Variant]) -> str:
    """With what the variants were computed: a difference may come from this."""
    runs = {
        variant.label: [run for folds in variant.compared.seeds for run in folds]
        for variant in variants
        if variant.seeds
    }
    first, *others = [{(run.seed, run.fold): run.computed_with for run in of_one} for of_one in runs.values()]
    everything = [run for of_one in runs.values() for run in of_one]
    if len({run.computed_with for run in everything}) == 1 or all(other == first for other in others):
        return f"Computed with {name_computing(everything)}."
    mixed = "; ".join(f"{label}: {name_computing(of_one)}" for label, of_one in runs.items())
    return f"**The variants were not computed alike:** {mixed}."


def name_computing(runs: Sequence[StudyRun]) -> str:
    """Device and precision, e.g. "cpu bf16"; where there are several, with the number of runs of each."""
    counts = Counter(run.computed_with for run in runs)
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{name} ({counted(counts[name], 'run')})" for name in sorted(counts))


def draw_curves(study: Study, variants: Sequence[Variant], path: Path) -> None:
    """Losses of each epoch, one panel per variant (its first run that learnt), as the report's Fig. 3."""
    from matplotlib.figure import Figure

    measured = [variant for variant in variants if variant.seeds]
    figure = Figure(figsize=(3.2 * len(measured), 3.2), dpi=150, layout="constrained")
    axes = figure.subplots(1, len(measured), sharey=True, squeeze=False)[0]
    for axis, variant in zip(axes, measured, strict=True):
        curves = variant.compared.seeds[0][0].curves
        for name, label in (("train_loss", "training"), ("val_loss", "validation")):
            losses = curves.get(name, {})
            epochs = sorted(losses)
            axis.plot(epochs, [losses[epoch] for epoch in epochs], label=label)
        axis.set_title(variant.label)
        axis.set_xlabel("epoch")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("loss")
    axes[0].legend()
    figure.suptitle(study.title)
    with atomic(path) as temporary:
        figure.savefig(temporary)


def is_within_spread(variant: Variant, best: Variant) -> bool | None:
    """Whether two variants differ by less than the larger spread of their scores; None when no spread is known."""
    compared = (variant.compared, best.compared)
    spreads = [side.spread(ARGMAX_SCORE) for side in compared]
    known_spreads = [spread for spread in spreads if not math.isnan(spread)]
    if not known_spreads:
        return None
    return abs(compared[0].mean(ARGMAX_SCORE) - compared[1].mean(ARGMAX_SCORE)) < max(known_spreads)


def _note(variant: Variant, best: Variant | None) -> str:
    if not variant.seeds:
        return "not run"
    notes = []
    if variant is best:
        notes.append("best")
    elif best is not None and is_within_spread(variant, best):
        notes.append("within the spread")
    if variant.n_collapsed:
        left_out = ", left out" if variant.learnt.seeds else ""
        notes.append(f"{variant.n_collapsed} of {len(variant.seeds)} seeds collapsed to one class{left_out}")
    return "; ".join(notes)


def _cell(name: str, value: float | str) -> str:
    if isinstance(value, str):
        return value
    return "" if math.isnan(value) else f"{value:.{_DECIMALS.get(name, 4)}f}"
