"""What the page's tables and charts show, read from the stages' files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd

from harveyseg.arrays import BoolArray
from harveyseg.data.cache import class_counts
from harveyseg.files import read_json, read_table
from harveyseg.plots import precise_percent
from harveyseg.postprocess.statistics import SpecialMask
from harveyseg.record import ALL_EMPTY, ENSEMBLE, WEIGHTS_FILE, RunRecord
from harveyseg.summary.finished import FinishedPipeline
from harveyseg.summary.links import Links
from harveyseg.summary.pairs import Pairs
from harveyseg.tracking.outputs import read_epochs
from harveyseg.tracking.table import ALL_FOLDS, grouped_notes

Row = dict[str, Any]

_SETTINGS_FROM = "epoch"
"""The first column of comparison.csv that is no score."""
_PER_CLASS = {
    "part": str,
    "class": int,
    "name": str,
    "photos": int,
    "predicted": int,
    "argmax_score": float,
    "all_empty_score": float,
    "argmax_dice": float,
}


@dataclass(frozen=True)
class ScoreTable:
    """comparison.csv as the page shows it; cells are the file's own text."""

    columns: list[str]
    rows: list[list[str]]
    single_folds: list[bool]
    """By row, whether it is about single folds; such rows are folded away."""
    shared: dict[str, str]
    """Settings that all rows share, which need no column."""
    notes: list[str]


def score_table(table: pd.DataFrame) -> ScoreTable:
    """Leave out empty columns, and settings that are the same in every row that has them.

    Args:
        table: comparison.csv as text.
    """
    table = _best_first(table)
    cells = table.drop(columns="note")
    names = list(cells.columns)
    filled = {name: sorted({cell for cell in cells[name] if cell}) for name in names}
    settings = names[names.index(_SETTINGS_FROM) :]
    shared = {name: filled[name][0] for name in settings if len(filled[name]) == 1}
    columns = [name for name in names if filled[name] and name not in shared]
    return ScoreTable(
        columns=columns,
        rows=cells[columns].to_numpy().tolist(),
        single_folds=[fold not in ("", ALL_FOLDS) for fold in table["fold"]],
        shared=shared,
        notes=grouped_notes(table),
    )


def _best_first(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the model with the highest score on top; a model's rows stay together, in their order."""
    pooled = table["fold"].isin(["", ALL_FOLDS])
    scores = pd.to_numeric(table["val_score"].where(pooled), errors="coerce").groupby(table["model"]).max()
    order = table["model"].map(scores).sort_values(ascending=False, kind="stable", na_position="last")
    return table.loc[order.index]


def score_rows(workspace: FinishedPipeline) -> dict[str, tuple[str, list[Row]]]:
    """The scores of each source, the best first, for :func:`harveyseg.summary.charts.scores_chart`.

    Returns:
        By the chart's name the column of the table in which its baseline is, and the rows: model, what, score. A chart
        shows the held-out or the test photos, whose baselines differ.
    """
    columns = {
        "scores": {"held out": "val_score", "held out, argmax maps": "val_argmax_score"},
        "scores-test": {"test": "test_score"},
    }
    order = sorted(workspace.sources, key=lambda source: -(workspace.score(source) or 0))
    return {
        name: (
            next(iter(shown.values())),
            [
                {"model": source, "what": what, "score": score}
                for source in order
                for what, column in shown.items()
                if (score := workspace.score(source, column)) is not None
            ],
        )
        for name, shown in columns.items()
    }


def curve_rows(workspace: FinishedPipeline) -> list[Row]:
    """Every epoch of every training: model, fold, epoch, and the losses and the argmax score, None where absent."""
    return [
        {"model": output.record.model, "fold": str(output.record.fold), "epoch": int(epoch["epoch"])}
        | {name: epoch.get(name) for name in ("train_loss", "val_loss", "val_argmax_score")}
        for output in workspace.outputs
        if output.record.kind == "train"
        for epoch in read_epochs(output.folder / "history.csv")
    ]


def dice_rows(workspace: FinishedPipeline) -> list[Row]:
    """Mean Dice of each source and class over the held-out photos that hold the class.

    Returns:
        name, model, maps, dice and photos; ``submitted`` is what is submitted, ``argmax`` the argmax maps, both over
        the photos of all folds.
    """
    classes = workspace.classes
    names = dict(zip(classes.scored_slugs, classes.names[classes.unscored :], strict=True))
    present = _photos_with_class(workspace)
    rows: list[Row] = []
    for source in workspace.sources:
        path = workspace.data / "postprocess" / "metrics" / f"{source}.json"
        metrics = read_json(path, "Run `dvc repro postprocess`.")
        argmax = _argmax_dice(workspace, source)
        for slug, name in names.items():
            shared = {"name": name, "model": source, "photos": present[name]}
            if (dice := metrics.get(f"val/dice/{slug}")) is not None:
                rows.append({**shared, "maps": "submitted", "dice": dice})
            if name in argmax:
                rows.append({**shared, "maps": "argmax", "dice": argmax[name]})
    return rows


def _photos_with_class(workspace: FinishedPipeline) -> dict[str, int]:
    """By name, the held-out photos whose mask at the score's size holds each class."""
    tables = [
        _per_class(workspace, output.predictions) for output in workspace.outputs if output.record.model == ENSEMBLE
    ]
    return dict(zip(tables[0]["name"], tables[0]["photos"].tolist(), strict=True))


def _argmax_dice(workspace: FinishedPipeline, source: str) -> dict[str, float]:
    """By name, the mean over the photos of all folds, from each fold's mean and number of photos."""
    tables = [
        _per_class(workspace, output.predictions) for output in workspace.outputs if output.record.model == source
    ]
    held = pd.concat(tables)
    held = held[held["photos"] > 0]
    sums = (held["argmax_dice"] * held["photos"]).groupby(held["name"]).sum()
    photos = held["photos"].groupby(held["name"]).sum()
    return {str(name): float(value) for name, value in (sums / photos).items()}


def _per_class(workspace: FinishedPipeline, folder: Any) -> pd.DataFrame:
    table = read_table(folder / "per_class.csv", _PER_CLASS, "Run `dvc repro` to evaluate again.")
    return table[table["part"] == "val"]


def class_order(workspace: FinishedPipeline) -> list[str]:
    """Names of the classes that occur, the commonest by pixels first."""
    shares = read_class_shares(workspace)
    occurring = shares[shares["pixel_share"] > 0]
    return list(occurring.sort_values("pixel_share", ascending=False, kind="stable")["name"])


def read_class_shares(workspace: FinishedPipeline) -> pd.DataFrame:
    """class_shares.csv: a row for each class, by index."""
    columns = {"class_id": int, "name": str, "pixel_share": float, "photos": int}
    return read_table(workspace.data / "figures" / "class_shares.csv", columns, "Run `dvc repro split`.")


def split_rows(workspace: FinishedPipeline) -> list[Row]:
    """The number of photos of each fold that hold each class, for :func:`harveyseg.summary.charts.split_chart`."""
    present = class_counts(workspace.train.photos) > 0
    fold_of = workspace.split.set_index("id")["fold"].loc[list(workspace.train.ids)].to_numpy()
    return [
        {"name": name, "fold": f"fold {fold}", "photos": int(present[fold_of == fold, index].sum())}
        for fold in sorted(set(fold_of.tolist()))
        for index, name in enumerate(workspace.classes.names)
        if present[:, index].any()
    ]


def fold_table(workspace: FinishedPipeline) -> list[Row]:
    """fold, photos, groups and whether the fold is held out in turn."""
    groups = workspace.split.groupby("fold")
    return [
        {
            "fold": int(str(fold)),
            "photos": len(members),
            "groups": members["group"].nunique(),
            "held_out": fold in workspace.fold_models.folds,
        }
        for fold, members in groups
    ]


def threshold_rows(workspace: FinishedPipeline, pairs: Pairs) -> tuple[list[Row], list[Row]]:
    """The winner's thresholds.

    Returns:
        For the chart a row for each submitted mask that is made by a threshold: name, photo, threshold, dice.
        For the table a row for each class: name, present, submitted, from, to (the range of the thresholds, or None),
        score, empty (the score of leaving the class empty) and argmax (that of the argmax maps).
    """
    unscored = workspace.classes.unscored
    ids = workspace.fold_models.ids
    dice = pairs.dice
    points: list[Row] = []
    table: list[Row] = []
    for place, name in enumerate(workspace.classes.names[unscored:]):
        column = pairs.thresholds[:, place]
        chosen = np.flatnonzero((column != SpecialMask.ARGMAX) & (column != SpecialMask.EMPTY))
        levels = [float(column[position]) / 255 for position in chosen]
        points += [
            {"name": name, "photo": ids[position], "threshold": level, "dice": float(dice[position, place])}
            for position, level in zip(chosen.tolist(), levels, strict=True)
        ]
        table.append(
            {
                "name": name,
                "present": int(pairs.statistics.present[:, place].sum()),
                "submitted": int(pairs.submitted[:, place].sum()),
                "from": min(levels, default=None),
                "to": max(levels, default=None),
                "score": float(dice[:, place].mean()),
                "empty": float(1 - pairs.statistics.present[:, place].mean()),
                "argmax": float(pairs.statistics.argmax_dice[:, place].mean()),
            }
        )
    return points, table


def rule_rows(workspace: FinishedPipeline) -> list[Row]:
    """For each source the rule that was fitted, and its scores."""
    rows = []
    for source in workspace.sources:
        fitted = workspace.rule(source)
        rows.append(
            {
                "source": source,
                "rule": fitted.rule.name,
                "argmax": fitted.argmax_score,
                "nested": fitted.nested_score,
                "in_sample": fitted.in_sample_score,
                "photos": fitted.photos,
                "groups": fitted.groups,
            }
        )
    return rows


def diversity_rows(workspace: FinishedPipeline) -> list[Row]:
    """first, second, measure, value of each pair of models, in both orders; the measures are those of diversity.csv."""
    columns: dict[str, type] = {"what": str, "argmax_score": float, "disagreement": float, "error_correlation": float}
    table = read_table(workspace.data / ENSEMBLE / "diversity.csv", columns, "Run `dvc repro ensemble`.")
    rows: list[Row] = []
    for row in table[table["argmax_score"].isna()].to_dict("records"):
        first, second = str(row["what"]).split(" + ")
        for measure in ("disagreement", "error_correlation"):
            if not np.isnan(value := float(row[measure])):
                pair = {"measure": measure, "value": value}
                rows += [{"first": first, "second": second, **pair}, {"first": second, "second": first, **pair}]
    return rows


def mixture_rows(workspace: FinishedPipeline) -> list[Row]:
    """Argmax scores of each model and of mixtures of them, out of fold: what, score."""
    columns: dict[str, type] = {"what": str, "argmax_score": float}
    table = read_table(workspace.data / ENSEMBLE / "diversity.csv", columns, "Run `dvc repro ensemble`.")
    scores = {
        str(row["what"]): float(row["argmax_score"]) for row in table.to_dict("records") if row["argmax_score"] >= 0
    }
    # The table has more decimals, of all but the mean.
    tabled = {model: workspace.score(model, "val_argmax_score") for model in workspace.models}
    tabled["chosen weights"] = workspace.score(ENSEMBLE, "val_argmax_score")
    tabled["chosen on other folds"] = workspace.score(ENSEMBLE, "val_nested_argmax_score")
    return [{"what": what, "score": tabled.get(what, score)} for what, score in scores.items()]


def cost_rows(workspace: FinishedPipeline) -> list[Row]:
    """Time, speed, memory and device of each training."""
    rows = []
    for output in workspace.outputs:
        record = output.record
        if record.kind != "train":
            continue
        results = record.results
        rows.append(
            {
                "name": record.name,
                "seconds": results.get("seconds"),
                "images_per_second": results.get("images_per_second"),
                "epochs": results.get("epochs"),
                "parameters": results.get("parameters"),
                "gpu_mb": results.get("peak_gpu_memory_mb"),
                "weights_mb": weights.stat().st_size / 1e6
                if (weights := output.folder / WEIGHTS_FILE).exists()
                else None,
                "device": record.environment.get("device_name", record.device),
                "precision": record.environment.get("precision", ""),
                "threads": record.parameters.get("train.threads"),
            }
        )
    return rows


def identity_rows(workspace: FinishedPipeline, links: Links) -> list[Row]:
    """What identifies each run, and where MLflow shows it."""
    return [
        {
            "name": output.record.name,
            "address": links.addresses.get(output.record.uid),
            "run_id": output.record.run_id or "",
            "uid": output.record.uid,
            "evaluation": output.evaluation,
            "stage_key": output.record.stage_key[:12],
            "commit": _shown_commit(output.record),
            "started": datetime.fromtimestamp(output.record.started_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC"),
        }
        for output in workspace.outputs
    ]


def _shown_commit(record: RunRecord) -> str:
    if record.git_commit is None:
        return ""
    return record.git_commit[:7] + {True: "*", False: "", None: "?"}[record.git_dirty]


def worst_class(workspace: FinishedPipeline, pairs: Pairs) -> Row | None:
    """The scored class with the lowest Dice over the photos that hold it; of equal ones the commonest by pixels.

    A class that no network could learn is not called the worst: where it is in a held-out photo, it is in no photo of
    the other folds.

    Returns:
        name, dice, photos, share (of the held-out photos' pixels, a text), occurring: how many classes occur there,
        unlearnable: how many of them the training photos lack, and not_found: how many of the rest have a Dice of 0.
        None where no class occurs that could be learned.
    """
    present = pairs.statistics.present
    learnable = present & _in_training_photos(workspace)
    places = np.flatnonzero(learnable.any(0))
    if not len(places):
        return None
    means = {int(place): float(pairs.dice[learnable[:, place], place].mean()) for place in places}
    unscored = workspace.classes.unscored
    pixels = pairs.statistics.confusions.sum((0, 2))
    worst = min(means, key=lambda place: (means[place], -pixels[place + unscored]))
    occurring = int(present.any(0).sum())
    return {
        "name": workspace.classes.names[worst + unscored],
        "dice": means[worst],
        "photos": int(learnable[:, worst].sum()),
        "share": precise_percent(float(pixels[worst + unscored] / pixels.sum())),
        "not_found": sum(mean == 0 for mean in means.values()),
        "unlearnable": occurring - len(means),
        "occurring": occurring,
    }


def _in_training_photos(workspace: FinishedPipeline) -> BoolArray:
    """Whether each scored class is in a photo on which the networks of a held-out photo were trained, (n, S)."""
    holds = class_counts(workspace.train.photos)[:, workspace.classes.unscored :] > 0
    folds = workspace.split.set_index("id").loc[list(workspace.train.ids), "fold"].to_numpy()
    seen: BoolArray = np.stack([holds[folds != fold].any(0) for fold in workspace.held_out["fold"]])
    return seen


def glance(workspace: FinishedPipeline, winner: str) -> Row:
    """The best model, and what the ensemble adds to it, on held-out photos and on test photos."""
    singles = {model: score for model in workspace.models if (score := workspace.score(model)) is not None}
    best_single = max(singles, key=singles.__getitem__) if singles else None
    ensemble = workspace.score(ENSEMBLE)
    tests = [score for source in workspace.sources if (score := workspace.score(source, "test_score")) is not None]
    test = workspace.score(winner, "test_score")
    return {
        "winner": winner,
        "score": workspace.score(winner),
        "gain": workspace.score(winner, "gain_over_empty"),
        "empty": workspace.score(ALL_EMPTY),
        "test": test,
        "test_place": None if test is None else 1 + sum(score > test for score in tests),
        "tests": len(tests),
        "test_empty": workspace.score(ALL_EMPTY, "test_score"),
        "ensemble": ensemble,
        "best_single": best_single,
        "best_single_score": singles.get(best_single) if best_single else None,
        "added": _difference(ensemble, None if best_single is None else singles[best_single]),
        "test_added": _difference(
            workspace.score(ENSEMBLE, "test_score"),
            None if best_single is None else workspace.score(best_single, "test_score"),
        ),
        "nested": len(workspace.fold_models.folds) > 1,
    }


def _difference(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first - second


def known_sources(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The models of rows, each once, in their order."""
    return list(dict.fromkeys(str(row["model"]) for row in rows))
