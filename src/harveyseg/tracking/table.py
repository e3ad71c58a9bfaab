"""The comparison table, made from MLflow alone, and its verification against the stages' own files.

Scores and parameters go to ``comparison.csv`` and ``comparison.md``, the same bytes in every clone; run ids and costs,
which differ between machines, go to ``costs.csv``, which is no output of DVC: a table from another database would
otherwise block ``dvc checkout``.
"""

import math
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pandas as pd

from harveyseg.config.lock import dvc_md5
from harveyseg.errors import HarveysegError, counted
from harveyseg.files import read_table, write_table, write_text
from harveyseg.record import ALL_EMPTY, ENSEMBLE, POOLED, SKIPPED, RunRecord, format_value
from harveyseg.tracking.client import Tracker
from harveyseg.tracking.outputs import SCORES, RunOutputs, gain_over_empty
from harveyseg.tracking.query import EVALUATION_TAG, EXPERIMENT, TrackedRun, find_all_runs, find_runs

ALL_FOLDS = "all"
"""What the column ``fold`` holds in a model's row over the photos of all folds; the ensemble's only row has ""."""

MEAN = "mean"
SPREAD = "spread"
_NOT_POOLED = "no score over the photos of all folds: postprocess has not run, or `harveyseg sync` is due"
_DUE = "`dvc repro` is due"
_EPOCH_CHOSEN = "the epoch was chosen on the held-out photos (keep: best), so the val scores are optimistic"

Cell = str | float | None


@dataclass(frozen=True)
class _Column:
    name: str
    source: Literal["metrics", "parameters", "tags", "computed"]
    key: str
    format: Callable[[float], str] | None = None
    """None for text."""
    averaged: bool = False
    """Whether the rows of mean and spread are over the folds' values; a mean of the other columns says nothing."""
    pooled: bool = False
    """Whether the row of all folds shows the value over their photos; otherwise, the value that all folds share."""


def _five_decimals(value: float) -> str:
    return f"{value:.5f}"


def _whole(value: float) -> str:
    return f"{value:.0f}"


def _score(name: str) -> _Column:
    part, _, metric = name.partition("_")
    return _Column(name, "metrics", f"{part}/{metric}", _five_decimals, averaged=True, pooled=True)


_COMPARED = (
    _score("val_score"),  # nested
    _score("val_argmax_score"),
    _Column("gain_over_empty", "computed", "", _five_decimals, averaged=True),
    _score("val_nested_argmax_score"),  # of the ensemble; empty with one fold
    *(_score(f"val_{name}") for name in ("macro_dice", "argmax_macro_dice", "miou", "pixel_accuracy")),
    _score("test_score"),
    *(_score(f"test_{name}") for name in ("argmax_score", "argmax_macro_dice", "miou", "pixel_accuracy")),
    # Of the epoch whose weights are written, as the scores are.
    *(
        _Column(name, "metrics", f"written/{name}", _five_decimals, averaged=True)
        for name in ("train_loss", "val_loss")
    ),
    _Column("epoch", "metrics", "written/epoch", _whole),
    _Column("epochs", "metrics", "epochs", _whole),
    _Column("lr", "parameters", "train.lr", repr),
    _Column("batch_size", "parameters", "train.batch_size", _whole),
    _Column("size", "parameters", "resize-cache.size"),
    _Column("parameters", "metrics", "parameters", _whole),
    _Column("encoder_weights", "parameters", "train.encoder_weights"),
    _Column("tta", "parameters", "inference.tta"),
    _Column("postprocess", "parameters", "postprocess.method"),
    _Column("data_source", "tags", "harveyseg.data_source"),
)
_COSTS = (
    _Column("experiment", "tags", EXPERIMENT),
    _Column("seconds", "metrics", "seconds", lambda value: f"{value:.1f}"),
    _Column("images_per_second", "metrics", "images_per_second", lambda value: f"{value:.2f}"),
    _Column("device", "tags", "harveyseg.device"),
    _Column("peak_gpu_memory_mb", "metrics", "peak_gpu_memory_mb", _whole),
)
_COLUMNS = {column.name: column for column in (*_COMPARED, *_COSTS)}
_COMPARISON = ["model", "fold", *(column.name for column in _COMPARED), "note"]
_SHORT = {
    "model": "model",
    "val_score": "score",
    "gain_over_empty": "gain",
    "val_macro_dice": "macro Dice",
    "test_score": "test score",
    "seconds": "seconds",
}
"""Columns of the table on a terminal, and what it calls them: with a model's name of 28 characters it fits into 80."""
_SHORT_NOTE = "score, gain (over empty), macro Dice: of held-out photos; seconds: of training"
_COST_TABLE = ["model", "fold", "run_id", *(column.name for column in _COSTS)]


def comparison_table(
    tracker: Tracker, outputs: Sequence[RunOutputs], contradictions: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """The table of these runs and evaluations, from MLflow alone: by their ids, never the latest runs.

    Args:
        tracker: where to read.
        outputs: which runs, in the order of the table's rows.
        contradictions: by uid, how a run differs from params.yaml; it becomes a note.

    Returns:
        For each model one row per fold and the row ``all``: the scores over the photos of all folds, each of which
        counts the same, as in the ensemble's row; of several folds also the ``mean`` over the folds and its ``spread``
        (sample standard deviation). Then the ensemble and ``all_empty``, both over all photos. All columns of
        :func:`write_comparison`'s files, full precision; a missing number is NaN, and ``note`` says why.

    Raises:
        HarveysegError: when MLflow cannot be read.
    """
    runs = find_runs(tracker, outputs)
    notes = {uid: f"{text}: {_DUE}" for uid, text in (contradictions or {}).items()}
    sources = [
        _Source(output.record, run, notes.get(output.record.uid, "")) for output, run in zip(outputs, runs, strict=True)
    ]
    return _frame(sources)


def all_runs_table(tracker: Tracker) -> pd.DataFrame:
    """Every training and ensemble in MLflow, finished or not, sorted by the name that ``dvc exp show`` prints.

    Runs of versions before 0.2.0, whose evaluations have no identity, have no scores: their names meant other metrics.

    Raises:
        HarveysegError: when MLflow cannot be read.
    """
    rows = []
    for run in find_all_runs(tracker):
        cells = _cells(run if EVALUATION_TAG in run.tags else _without_scores(run))
        identity = {"experiment": cells.pop("experiment"), "status": run.status}
        fold = run.tags.get("harveyseg.fold", "")
        rows.append(identity | {"model": run.tags.get("harveyseg.model", ""), "fold": fold} | cells)
    # Stable, so that runs of one name stay oldest first; by length first, so that fold 10 comes after fold 2.
    rows.sort(key=lambda row: (row["experiment"] or "", row["model"], len(str(row["fold"])), row["fold"]))
    columns = ["experiment", "status", "model", "fold", *(name for name in _COLUMNS if name != "experiment")]
    return _typed(rows, columns)


def write_comparison(frame: pd.DataFrame, folder: Path) -> None:
    """Write ``comparison.csv``, ``comparison.md`` and ``costs.csv``, each atomically.

    Args:
        frame: from :func:`comparison_table`.
        folder: e.g. ``data/reports``.
    """
    write_table(folder / "comparison.csv", _rendered(frame[_COMPARISON]))
    write_text(folder / "comparison.md", table_markdown(frame[_COMPARISON]))
    trained = frame[~frame["fold"].isin([ALL_FOLDS, MEAN, SPREAD]) & (frame["model"] != ALL_EMPTY)]
    write_table(folder / "costs.csv", _rendered(trained[_COST_TABLE]))


def short_table(frame: pd.DataFrame) -> str:
    """The scores of each model and the ensemble as text for a terminal: the best first, and the notes of all rows.

    Args:
        frame: from :func:`comparison_table`.

    Returns:
        The columns ``model``; ``score``, ``gain`` (over empty) and ``macro Dice``, all of the held-out photos; ``test
        score``; ``seconds``; without those that are empty. A model's scores are over the photos of all folds, its
        seconds those of all its trainings.
    """
    rows = frame[frame["fold"].isin([ALL_FOLDS, ""])].copy()
    trained = frame[~frame["fold"].isin([ALL_FOLDS, MEAN, SPREAD, ""])]
    seconds = trained.groupby("model")["seconds"].sum(min_count=1)
    rows["seconds"] = rows["model"].map(seconds).fillna(rows["seconds"])
    rows = rows.sort_values("val_score", ascending=False, kind="stable", na_position="last")
    return f"{_aligned(rows[list(_SHORT)])}\n{_SHORT_NOTE}\n{_notes(frame)}"


def restore_comparison(frame: pd.DataFrame, folder: Path, tracked: Mapping[str, str]) -> list[Path]:
    """:func:`write_comparison`, except that a file which DVC tracks is written only as DVC knows it.

    Any other content would be lost at the next ``dvc checkout``, or keep DVC from making one.

    Args:
        frame: from :func:`comparison_table`.
        folder: e.g. ``data/reports``.
        tracked: the MD5 of the files that DVC tracks, by their names.

    Returns:
        The files that were left as they are, because the table is another than the tracked one.
    """
    left = []
    with tempfile.TemporaryDirectory() as scratch:
        write_comparison(frame, Path(scratch))
        for path in sorted(Path(scratch).iterdir()):
            if tracked.get(path.name) not in (None, dvc_md5(path)):
                left.append(folder / path.name)
            else:
                write_text(folder / path.name, path.read_text(encoding="utf-8"))
    return left


def table_markdown(frame: pd.DataFrame) -> str:
    """A table as Markdown without its empty columns; the notes follow as a list, equal notes of several rows once."""
    return _markdown(frame.drop(columns="note", errors="ignore")) + (_notes(frame) if "note" in frame else "")


def _markdown(frame: pd.DataFrame) -> str:
    cells = _rendered(frame).replace(r"\|", r"\\|", regex=True)
    cells = cells.loc[:, (cells != "").any()]
    alignment = ["right" if name in _COLUMNS and _COLUMNS[name].format else "left" for name in cells]
    return f"{cells.to_markdown(index=False, disable_numparse=True, colalign=alignment)}\n"


def _aligned(frame: pd.DataFrame) -> str:
    """A table for a terminal, without its empty columns; any style of tabulate pads the titles, which is too wide."""
    cells = _rendered(frame)
    cells = cells.loc[:, (cells != "").any()]
    texts = {_SHORT[name]: [_SHORT[name], *cells[name]] for name in _SHORT if name in cells}
    widths = {name: max(map(len, texts[name])) for name in texts}
    columns = [
        [text.ljust(widths[name]) if name == "model" else text.rjust(widths[name]) for text in texts[name]]
        for name in texts
    ]
    header, *lines = ["  ".join(row).rstrip() for row in zip(*columns, strict=True)]
    rule = "  ".join("-" * width for width in widths.values())
    return "".join(f"{line}\n" for line in (header, rule, *lines))


def _notes(frame: pd.DataFrame) -> str:
    """A list of the notes after an empty line; empty if there are none."""
    return "".join(["\n", *(f"- {line}\n" for line in grouped_notes(frame))]) if frame["note"].any() else ""


def grouped_notes(frame: pd.DataFrame) -> list[str]:
    """The notes of a table, equal ones of several rows once, each after the names of its rows.

    Args:
        frame: with the columns ``model``, ``fold`` and ``note``, the latter two as text.
    """
    names = [_row_name(model, fold) for model, fold in zip(frame["model"], frame["fold"], strict=True)]
    models = [model for model in dict.fromkeys(frame["model"]) if model != ALL_EMPTY]
    rows_of: dict[str, list[str]] = {}
    for name, note in zip(names, frame["note"], strict=True):
        if note:
            rows_of.setdefault(note, []).append(name)
    return [f"{'all' if rows == models else ', '.join(rows)}: {note}" for note, rows in rows_of.items()]


def _row_name(model: str, fold: str) -> str:
    """What a note calls a row; that over all folds is the model's."""
    return f"{model} fold {fold}" if fold.isdigit() else f"{model} {fold}" if fold not in ("", ALL_FOLDS) else model


def read_comparison(path: Path) -> pd.DataFrame:
    """Read ``comparison.csv``.

    Returns:
        All cells as text, as they are in the file.

    Raises:
        HarveysegError: when the table is absent or not such a table.
    """
    remedy = "`dvc repro -f compare` writes it."
    cells = read_table(path, dict.fromkeys(_COMPARISON, str), remedy)
    if list(cells.columns) != _COMPARISON:
        raise HarveysegError(f"{path}: not a comparison table of this version. {remedy}")
    return cells


def score_of(table: pd.DataFrame, source: str, column: str = "val_score", fold: str = ALL_FOLDS) -> float | None:
    """A number of the table from :func:`read_comparison`; None if it is empty.

    Args:
        table: the table.
        source: a model, ``"ensemble"`` or ``"all_empty"``.
        column: of the table.
        fold: which of a model's rows; that over all folds, or ``"mean"`` or ``"spread"``. The others have one row.
    """
    wanted = "" if source in (ENSEMBLE, ALL_EMPTY) else fold
    cells = table.loc[(table["model"] == source) & (table["fold"] == wanted), column]
    return float(cells.iloc[0]) if len(cells) and cells.iloc[0] else None


def find_winner(table: pd.DataFrame, sources: Sequence[str]) -> str:
    """The source with the highest score on held-out photos; the first of equal ones.

    Args:
        table: from :func:`read_comparison`.
        sources: the models, then the ensemble.

    Raises:
        HarveysegError: when no source has a score.
    """
    scores = {source: score for source in sources if (score := score_of(table, source)) is not None}
    if not scores:
        raise HarveysegError("data/reports/comparison.csv: holds no score. `dvc repro` makes what is missing.")
    return max(scores, key=scores.__getitem__)


def verify_table(table: Path, outputs: Sequence[RunOutputs]) -> list[str]:
    """Compare ``comparison.csv`` with the files that the stages wrote.

    Args:
        table: comparison.csv.
        outputs: the workspace's runs, see :func:`harveyseg.tracking.outputs.list_workspace`.

    Returns:
        One line for each difference. A missing or NaN score on either side counts as a difference.

    Raises:
        HarveysegError: when the table is absent or not such a table.
    """
    problems = []
    sources = []
    for output in outputs:
        record = output.record
        metrics = dict(record.results)
        parameters = record.parameters
        try:
            metrics |= output.scores()
            parameters = output.parameters
        except HarveysegError as error:
            problems.append(str(error))
        texts = {name: format_value(value) for name, value in parameters.items()}
        tags = {"harveyseg.data_source": record.data_source}
        sources.append(_Source(record, TrackedRun(None, "FINISHED", record.started_ms, texts, metrics, tags)))
        if "val/argmax_score" not in metrics:
            problems.append(f"{output.metrics}: val/argmax_score is absent")
        elif record.kind == "train" and f"{POOLED}val/argmax_score" not in metrics:
            problems.append(f"{record.name}: {_NOT_POOLED}")
    expected = _keyed(_rendered(_frame(sources)[_COMPARISON]))
    actual = _keyed(read_comparison(table))
    for key in expected.keys() | actual.keys():
        where = f"{table}: {' '.join(key).strip()}"
        if key not in actual:
            problems.append(f"{where}: the row is absent")
        elif key not in expected:
            problems.append(f"{where}: params.yaml lists no such model and fold")
        else:
            problems += [
                f"{where}: {name} is {actual[key][name] or 'absent'}, the stages' files say {value or 'absent'}"
                for name, value in expected[key].items()
                if name != "note" and actual[key][name] != value
            ]
    return sorted(problems)


@dataclass(frozen=True)
class _Source:
    """One row's origin: a run as MLflow holds it or, to verify a table, as the stages' files say."""

    record: RunRecord
    run: TrackedRun | None
    note: str = ""
    """What is to be said about the run, whatever MLflow holds of it."""


def _frame(sources: Sequence[_Source]) -> pd.DataFrame:
    rows: list[dict[str, Cell]] = []
    trained = [source for source in sources if source.record.kind == "train"]
    for model in dict.fromkeys(source.record.model for source in trained):
        folds = sorted((s for s in trained if s.record.model == model), key=lambda source: source.record.fold or 0)
        fold_rows = [_row(source, str(source.record.fold)) for source in folds]
        rows += [*fold_rows, _all_folds(fold_rows, [source.run for source in folds])]
        if len(fold_rows) > 1:
            rows += [_over_folds(MEAN, fold_rows, statistics.fmean), _over_folds(SPREAD, fold_rows, statistics.stdev)]
    rows += [_row(source, "") for source in sources if source.record.kind == "ensemble"]
    rows.append(_empty_row([source.run for source in trained]))
    return _typed(rows, ["model", "fold", "run_id", *_COLUMNS, "note"])


def _row(source: _Source, fold: str) -> dict[str, Cell]:
    record, run = source.record, source.run
    identity: dict[str, Cell] = {"model": record.model, "fold": fold}
    if run is None:
        return identity | {"note": "not in MLflow: run `harveyseg sync`"}
    cells = _cells(run)
    notes = [source.note] if source.note else []
    notes += [] if run.status == "FINISHED" else [f"the run is {run.status}"]
    missing = "no score: evaluate has not run, or `harveyseg sync` is due"
    notes += [missing] if cells["val_argmax_score"] is None else []
    notes += _empty_notes(run.metrics)
    if record.kind == "ensemble" and "val/score" in run.metrics:
        notes.append(_overlap_note(run.metrics))
    notes += [f"{name} is NaN" for name, value in cells.items() if isinstance(value, float) and math.isnan(value)]
    return identity | cells | {"run_id": run.run_id, "note": "; ".join(notes)}


def _without_scores(run: TrackedRun) -> TrackedRun:
    metrics = {name: value for name, value in run.metrics.items() if not name.startswith(SCORES)}
    return replace(run, metrics=metrics)


def _cells(run: TrackedRun) -> dict[str, Cell]:
    origin: dict[str, Mapping[str, str | float]] = {
        "metrics": run.metrics,
        "parameters": run.parameters,
        "tags": run.tags,
        "computed": {},
    }
    cells: dict[str, Cell] = {}
    for name, column in _COLUMNS.items():
        value = origin[column.source].get(column.key)
        cells[name] = value if value is None or column.format is None else float(value)
    cells["gain_over_empty"] = gain_over_empty(run.metrics)
    return cells


def _all_folds(folds: Sequence[dict[str, Cell]], runs: Sequence[TrackedRun | None]) -> dict[str, Cell]:
    """A model's scores over the photos of all its folds, and what its folds share."""
    pooled = _pooled(runs)
    row: dict[str, Cell] = {"model": folds[0]["model"], "fold": ALL_FOLDS}
    for column in _COMPARED:
        if column.pooled:
            row[column.name] = pooled.get(column.key)
        else:
            values = [fold.get(column.name) for fold in folds]
            row[column.name] = values[0] if all(value == values[0] for value in values) else None
    row["gain_over_empty"] = gain_over_empty(pooled)
    notes = [*_skipped_notes(runs), *_empty_notes(pooled), _overlap_note(pooled) if pooled else _NOT_POOLED]
    if any(run is not None and run.parameters.get("train.validation.keep") == "best" for run in runs):
        notes.append(_EPOCH_CHOSEN)
    return row | {"note": "; ".join(notes)}


def _pooled(runs: Sequence[TrackedRun | None]) -> dict[str, float]:
    """The metrics over the photos of all folds that every run of a model holds; nothing where the runs disagree."""
    held = [
        {name.removeprefix(POOLED): value for name, value in run.metrics.items() if name.startswith(POOLED)}
        for run in runs
        if run is not None
    ]
    return held[0] if len(held) == len(runs) and all(metrics == held[0] for metrics in held) else {}


def _empty_notes(metrics: Mapping[str, float]) -> list[str]:
    """A note where no photo gets a single scored class: such a score is that of the all-empty baseline."""
    texts = {
        "predicted_classes": "the argmax maps predict no scored class in any photo",
        "submitted_classes": "no scored class is submitted for any photo",
    }
    parts = {"val": "held-out", "test": "test"}
    return [
        f"{text} ({photos} photos), which scores as `{ALL_EMPTY}`"
        for name, text in texts.items()
        for part, photos in parts.items()
        if metrics.get(f"{part}/{name}") == 0
    ]


def _overlap_note(metrics: Mapping[str, float]) -> str:
    """How many photos are scored although a network was trained on ground that they show."""
    val, test = (metrics.get(f"{part}/overlapping_photos") for part in ("val", "test"))
    if val is None or test is None:
        return "not checked whether photos that are scored show ground of training photos"
    if not val and not test:
        return "no held-out or test photo shows ground of a training photo"
    counts = f"{counted(round(val), 'held-out photo')} and {counted(round(test), 'test photo')}"
    return f"ground of training photos is shown by {counts}"


def _skipped_notes(runs: Sequence[TrackedRun | None]) -> list[str]:
    """A note of how many bad files the runs' data lack."""
    counts = {run.parameters[SKIPPED] for run in runs if run is not None and SKIPPED in run.parameters}
    files = " or ".join(sorted(counts, key=int))
    return (
        [f"{files} bad {'file was' if files == '1' else 'files were'} left out of the data (data.on_bad: skip)"]
        if counts
        else []
    )


def _over_folds(
    name: str, folds: Sequence[dict[str, Cell]], statistic: Callable[[Sequence[float]], float]
) -> dict[str, Cell]:
    row: dict[str, Cell] = {"model": folds[0]["model"], "fold": name}
    for column in _COMPARED:
        numbers = [value for fold in folds if isinstance(value := fold.get(column.name), float)]
        if column.averaged and len(numbers) == len(folds):
            row[column.name] = statistic(numbers)
    return row


def _empty_row(runs: Sequence[TrackedRun | None]) -> dict[str, Cell]:
    """Scores of submitting nothing, as logged with any model (they are the same for every model)."""
    row: dict[str, Cell] = {"model": ALL_EMPTY, "fold": ""}
    pooled = next((metrics for run in runs if (metrics := _pooled([run]))), {})
    for part in ("val", "test"):
        baseline = pooled.get(f"{part}/all_empty_score")
        row |= {f"{part}_score": baseline, f"{part}_argmax_score": baseline}
    if not pooled:
        return row | {"note": "unknown until a model is post-processed"}
    return row | {"gain_over_empty": 0.0}


def _typed(rows: Sequence[Mapping[str, Cell]], columns: Sequence[str]) -> pd.DataFrame:
    """Numbers as float64 with NaN for what is missing, the rest as text with "" for what is missing."""
    data: dict[str, pd.Series[float] | pd.Series[str]] = {}
    for name in columns:
        values = [row.get(name) for row in rows]
        if name in _COLUMNS and _COLUMNS[name].format is not None:
            data[name] = pd.Series([math.nan if value is None else value for value in values], dtype="float64")
        else:
            data[name] = pd.Series(["" if value is None else str(value) for value in values], dtype="str")
    return pd.DataFrame(data, columns=list(columns))


def _rendered(frame: pd.DataFrame) -> pd.DataFrame:
    """All cells as text with fixed decimals."""
    cells = {}
    for name in frame.columns:
        formatted = _COLUMNS[name].format if name in _COLUMNS else None
        values = frame[name].tolist()
        if formatted is None:
            cells[name] = [str(value) for value in values]
        else:
            cells[name] = ["" if math.isnan(value) else formatted(float(value)) for value in values]
    return pd.DataFrame(cells, dtype="str")


def _keyed(cells: pd.DataFrame) -> dict[tuple[str, str], dict[str, str]]:
    rows = [{str(name): str(cell) for name, cell in row.items()} for row in cells.to_dict("records")]
    return {(row["model"], row["fold"]): row for row in rows}
