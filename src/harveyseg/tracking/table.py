"""The comparison table, made from MLflow alone, and its check against the stages' own files.

Scores and parameters go to ``comparison.csv`` and ``comparison.md``, the same bytes in every clone; run ids and costs,
which differ between machines, go to ``costs.csv``.
"""

import csv
import io
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from harveyseg.config.settings import listed_models
from harveyseg.errors import HarveysegError, raise_problems
from harveyseg.files import write_text
from harveyseg.record import SKIPPED, RunRecord, read_run
from harveyseg.tracking.client import EXPERIMENT, RunOutputs, TrackedRun, Tracker, text

EMPTY = "all_empty"
"""The row of a submission without a single pixel; a model can have no such name."""

Cell = str | float | None


@dataclass(frozen=True)
class _Column:
    name: str
    source: Literal["metrics", "parameters", "tags"]
    key: str
    format: Callable[[float], str] | None = None
    """None for text."""
    averaged: bool = False
    """Whether the folds' values are averaged; the others stand in the mean's row where all folds agree."""


def _five_decimals(value: float) -> str:
    return f"{value:.5f}"


def _whole(value: float) -> str:
    return f"{value:.0f}"


def _score(name: str) -> _Column:
    part, _, rest = name.partition("_")
    return _Column(name, "metrics", f"{part}/{rest}", _five_decimals, averaged=True)


_SCORES = (
    *(_score(f"val_{name}") for name in ("score", "argmax_score", "nested_argmax_score")),
    *(_score(f"val_{name}") for name in ("macro_dice", "argmax_macro_dice", "miou", "pixel_accuracy")),
    *(_score(f"test_{name}") for name in ("score", "argmax_score", "argmax_macro_dice", "miou", "pixel_accuracy")),
)
"""``val_nested_argmax_score``: the ensemble's, its weights chosen without the fold that is scored; empty with one fold.
``decided_score``: of what is handed in, see :mod:`harveyseg.postprocess.rules`; of validation photos nested, of test photos that
of the model's submission file, which is made by the mean of its folds."""
_COMPARED = (
    *_SCORES,
    _Column("train_loss", "metrics", "final/train_loss", _five_decimals, averaged=True),
    _Column("val_loss", "metrics", "best/val_loss", _five_decimals, averaged=True),
    _Column("best_epoch", "metrics", "best/epoch", _whole),
    _Column("epochs", "metrics", "epochs", _whole),
    _Column("lr", "parameters", "train.lr", repr),
    _Column("batch_size", "parameters", "train.batch_size", _whole),
    _Column("size", "parameters", "resize-cache.size"),
    _Column("parameters", "metrics", "parameters", _whole),
    _Column("encoder_weights", "parameters", "train.encoder_weights"),
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
_COST_TABLE = ["model", "fold", "run_id", *(column.name for column in _COSTS)]


def workspace(params: Path, data: Path) -> list[RunOutputs]:
    """The runs that belong to ``params.yaml``: every listed model and fold, then the ensemble.

    A model that was taken from the list is not among them, although DVC leaves its folder.

    Args:
        params: params.yaml, with the mapping ``models`` and the list ``folds``.
        data: the folder of what stages write.

    Raises:
        HarveysegError: listing every run.json that is absent, damaged or of another model.
    """
    models, folds = listed_models(params)
    expected: list[tuple[str, int | None, Path, Path]] = [
        (model, fold, data / "models" / f"{model}-{fold}", data / "predictions" / f"{model}-{fold}")
        for model in models
        for fold in sorted(folds)
    ]
    expected.append(("ensemble", None, data / "ensemble", data / "ensemble"))
    outputs, problems = [], []
    for model, fold, folder, predictions in expected:
        path = folder / "run.json"
        try:
            record = read_run(path)
        except HarveysegError as error:
            problems.append(str(error))
            continue
        if (record.model, record.fold) != (model, fold):
            problems.append(f"{path}: is of {record.name}")
        outputs.append(RunOutputs(record, folder, predictions, data / "postprocess"))
    raise_problems(
        problems,
        "the runs that params.yaml lists",
        "`dvc repro` makes what is missing, `dvc pull` brings what others made.",
    )
    return outputs


def comparison(tracker: Tracker, records: Sequence[RunRecord]) -> pd.DataFrame:
    """The table of these runs, from MLflow alone: by their ids, never by "latest".

    Args:
        tracker: where to read.
        records: which runs, models in the order in which they shall stand.

    Returns:
        One row per model and fold, then per model the mean over its folds and, of several, their spread (sample
        standard deviation); then the ensemble and :data:`EMPTY`. All columns of :func:`write_table`'s files, full
        precision; a missing number is NaN, and ``note`` says why.

    Raises:
        HarveysegError: when MLflow cannot be read.
    """
    return _frame([_Source(record, run) for record, run in zip(records, tracker.find(records), strict=True)])


def all_runs(tracker: Tracker) -> pd.DataFrame:
    """Every training and ensemble in MLflow, whatever became of it, sorted by the name ``dvc exp show`` prints.

    Raises:
        HarveysegError: when MLflow cannot be read.
    """
    rows = []
    for run in tracker.find_all():
        cells = _cells(run)
        identity = {"experiment": cells.pop("experiment"), "status": run.status}
        fold = run.tags.get("harveyseg.fold", "")
        rows.append(identity | {"model": run.tags.get("harveyseg.model", ""), "fold": fold} | cells)
    # Stable, so that runs of one name stay oldest first; by length first, so that fold 10 comes after fold 2.
    rows.sort(key=lambda row: (row["experiment"] or "", row["model"], len(str(row["fold"])), row["fold"]))
    columns = ["experiment", "status", "model", "fold", *(name for name in _COLUMNS if name != "experiment")]
    return _typed(rows, columns)


def write_table(frame: pd.DataFrame, folder: Path) -> None:
    """Write ``comparison.csv``, ``comparison.md`` and ``costs.csv``, each atomically.

    Args:
        frame: from :func:`comparison`.
        folder: e.g. ``data/reports``.
    """
    write_text(folder / "comparison.csv", _csv(_rendered(frame, _COMPARISON)))
    write_text(folder / "comparison.md", markdown(frame[_COMPARISON]))
    trained = frame[~frame["fold"].isin(["mean", "spread"]) & (frame["model"] != EMPTY)]
    write_text(folder / "costs.csv", _csv(_rendered(trained, _COST_TABLE)))


def markdown(frame: pd.DataFrame) -> str:
    """A frame as a Markdown table without its empty columns; notes stand below it, the same of several rows once."""
    shown = [name for name in frame.columns if name != "note"]
    header, *rows = _rendered(frame, shown)
    kept = [index for index in range(len(header)) if any(row[index] for row in rows)]
    lines = [[header[index] for index in kept]]
    lines.append(["---:" if header[index] in _COLUMNS and _COLUMNS[header[index]].format else "---" for index in kept])
    lines += [[row[index].replace("|", "\\|") for index in kept] for row in rows]
    result = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    if "note" in frame:
        rows_of: dict[str, list[str]] = {}
        for model, fold, note in zip(frame["model"], frame["fold"], frame["note"], strict=True):
            if note:
                name = f"{model}{f' fold {fold}' if fold.isdigit() else f' {fold}' if fold else ''}"
                rows_of.setdefault(note, []).append(name)
        notes = [f"- {', '.join(names)}: {note}\n" for note, names in rows_of.items()]
        result += "\n" + "".join(notes) if notes else ""
    return result


def check(table: Path, outputs: Sequence[RunOutputs]) -> list[str]:
    """Compare ``comparison.csv`` with what the stages themselves wrote.

    Args:
        table: comparison.csv.
        outputs: the workspace's runs, see :func:`workspace`.

    Returns:
        One line for each difference; a score that is absent or NaN, there or here, is one, too.

    Raises:
        HarveysegError: when the table is absent or not such a table.
    """
    problems = []
    sources = []
    for output in outputs:
        record = output.record
        metrics = dict(record.results)
        try:
            metrics |= output.scores()
        except HarveysegError as error:
            problems.append(str(error))
        parameters = {name: text(value) for name, value in record.parameters.items()}
        tags = {"harveyseg.data_source": record.data_source}
        sources.append(_Source(record, TrackedRun(None, "FINISHED", record.started_ms, parameters, metrics, tags)))
        if "val/argmax_score" not in metrics:
            problems.append(f"{output.predictions / 'metrics.json'}: val/argmax_score is absent")
    expected = _keyed(_rendered(_frame(sources), _COMPARISON))
    actual = _keyed(_read_csv(table))
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
    """One row's origin: MLflow's view of a run, or for a check the stages' own."""

    record: RunRecord
    run: TrackedRun | None


def _frame(sources: Sequence[_Source]) -> pd.DataFrame:
    rows: list[dict[str, Cell]] = []
    trained = [source for source in sources if source.record.kind == "train"]
    empty: dict[str, Cell] | None = None
    for model in dict.fromkeys(source.record.model for source in trained):
        folds = sorted((s for s in trained if s.record.model == model), key=lambda source: source.record.fold or 0)
        fold_rows = [_row(source, str(source.record.fold)) for source in folds]
        rows += [*fold_rows, _mean(fold_rows) | _left_out([source.run for source in folds])]
        if len(fold_rows) > 1:
            rows.append(_spread(fold_rows))
        if empty is None:
            empty = _empty_row([source.run for source in folds])
    rows += [_row(source, "") for source in sources if source.record.kind == "ensemble"]
    rows.append(empty or {"model": EMPTY, "fold": "", "note": "unknown until a model is evaluated on every fold"})
    return _typed(rows, ["model", "fold", "run_id", *_COLUMNS, "note"])


def _row(source: _Source, fold: str) -> dict[str, Cell]:
    record, run = source.record, source.run
    identity: dict[str, Cell] = {"model": record.model, "fold": fold}
    if run is None:
        return identity | {"note": "not in MLflow: run `harveyseg sync`"}
    cells = _cells(run)
    notes = [] if run.status == "FINISHED" else [f"the run is {run.status}"]
    missing = "no score: evaluate has not run, or `harveyseg sync` is due"
    notes += [missing] if cells["val_argmax_score"] is None else []
    notes += [f"{name} is NaN" for name, value in cells.items() if isinstance(value, float) and math.isnan(value)]
    return identity | cells | {"run_id": run.run_id, "note": "; ".join(notes)}


def _cells(run: TrackedRun) -> dict[str, Cell]:
    origin: dict[str, Mapping[str, str | float]] = {
        "metrics": run.metrics,
        "parameters": run.parameters,
        "tags": run.tags,
    }
    cells: dict[str, Cell] = {}
    for name, column in _COLUMNS.items():
        value = origin[column.source].get(column.key)
        cells[name] = value if value is None or column.format is None else float(value)
    return cells


def _mean(folds: Sequence[dict[str, Cell]]) -> dict[str, Cell]:
    row: dict[str, Cell] = {"model": folds[0]["model"], "fold": "mean"}
    for column in _COMPARED:
        values = [fold.get(column.name) for fold in folds]
        if column.averaged:
            numbers = [value for value in values if isinstance(value, float)]
            row[column.name] = math.fsum(numbers) / len(numbers) if len(numbers) == len(values) else None
        else:
            row[column.name] = values[0] if all(value == values[0] for value in values) else None
    return row


def _left_out(runs: Sequence[TrackedRun | None]) -> dict[str, Cell]:
    """A note of how many bad files the runs' data lack."""
    counts = {run.parameters[SKIPPED] for run in runs if run is not None and SKIPPED in run.parameters}
    files = " or ".join(sorted(counts, key=int))
    return {"note": f"{files} bad files were left out of the data (data.on_bad: skip)"} if counts else {}


def _spread(folds: Sequence[dict[str, Cell]]) -> dict[str, Cell]:
    row: dict[str, Cell] = {"model": folds[0]["model"], "fold": "spread"}
    for column in _COMPARED:
        numbers = [value for fold in folds if isinstance(value := fold.get(column.name), float)]
        if column.averaged and len(numbers) == len(folds):
            row[column.name] = statistics.stdev(numbers)
    return row


def _empty_row(runs: Sequence[TrackedRun | None]) -> dict[str, Cell] | None:
    """Scores of predicting nothing, as logged with one model's folds (it is the same for every model)."""
    row: dict[str, Cell] = {"model": EMPTY, "fold": ""}
    for part in ("val", "test"):
        numbers = [
            run.metrics[key] for run in runs if run is not None and (key := f"{part}/all_empty_score") in run.metrics
        ]
        if len(numbers) == len(runs):
            row[f"{part}_score"] = math.fsum(numbers) / len(numbers)
    return row if "val_argmax_score" in row else None


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


def _rendered(frame: pd.DataFrame, columns: Sequence[str]) -> list[list[str]]:
    """Header and rows as text with fixed decimals."""
    cells = []
    for name in columns:
        column = _COLUMNS.get(name)
        values = frame[name].tolist()
        if column is not None and (form := column.format) is not None:
            cells.append(["" if math.isnan(value) else form(float(value)) for value in values])
        else:
            cells.append([str(value) for value in values])
    return [list(columns), *(list(row) for row in zip(*cells, strict=True))]


def _csv(rows: Sequence[Sequence[str]]) -> str:
    text_file = io.StringIO()
    csv.writer(text_file, lineterminator="\n").writerows(rows)
    return text_file.getvalue()


def _read_csv(path: Path) -> list[list[str]]:
    remedy = "Run `harveyseg table`."
    try:
        rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"))))
    except FileNotFoundError:
        raise HarveysegError(f"{path}: no such file. {remedy}") from None
    if not rows or rows[0] != _COMPARISON or any(len(row) != len(_COMPARISON) for row in rows):
        raise HarveysegError(f"{path}: not a comparison table of this version. {remedy}")
    return rows


def _keyed(rows: Sequence[Sequence[str]]) -> dict[tuple[str, str], dict[str, str]]:
    header, *body = rows
    return {(row[0], row[1]): dict(zip(header, row, strict=True)) for row in body}
