"""The state of the workspace in a few lines: what is trained, what is stale, which scores stand, what to do next."""

import datetime
import logging
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from harveyseg.config.settings import listed_models
from harveyseg.ensemble.weights import read_weights
from harveyseg.errors import HarveysegError
from harveyseg.overview.collect import PARTS, PipelineFiles, collect_scores
from harveyseg.overview.experiments import Experiments, list_experiments
from harveyseg.overview.stale import StaleStages, find_stale
from harveyseg.pipeline.running import locked_message, require_idle
from harveyseg.project import git_output, git_problem
from harveyseg.record import ENSEMBLE, RunRecord, read_run

_REASONS = 3
"""Reasons for stale stages that are shown; `dvc status` has all."""
_LABEL = 12
"""Columns that a label takes."""
_DVC_BARS = "dvc.progress"
"""By this logger's level DVC decides about its bars: one flashes up for each file, a hundred in a second."""
_SCORES = re.compile("held out:|test:|ensemble:")


@dataclass(frozen=True)
class Overview:
    """What the project holds."""

    files: PipelineFiles
    trained: list[RunRecord]
    missing: list[str]
    """Names of the listed models and folds that are not trained."""
    stale: StaleStages
    scores: pd.DataFrame | None
    """From :func:`harveyseg.overview.collect.collect_scores`; None where that fails."""
    problem: str
    """Why there are no scores."""
    weights: dict[str, float]
    """Of the ensemble's models; empty before the ensemble is made."""
    committed: bool
    """Whether git holds ``dvc.lock`` and ``params.yaml`` as they are."""
    experiments: Experiments | None
    """None without a commit in git."""

    def stands(self, source: str) -> bool:
        """Whether the score of a model, or of the ensemble, is that of the present settings, code and data."""
        if source == ENSEMBLE:
            return not self.stale.includes("ensemble") and not self.stale.includes("postprocess")
        items = [f"{source}-{fold}" for fold in self.files.folds]
        own = [f"{stage}@{item}" for stage in ("train", "evaluate") for item in items]
        return not any(self.stale.includes(stage) for stage in own) and "postprocess" not in self.stale.reasons


def inspect_workspace(root: Path) -> Overview:
    """Look at the project's files; nothing is run or written.

    Args:
        root: the project's root.

    Raises:
        HarveysegError: when ``params.yaml`` or a result is damaged, DVC cannot read the project, or runs a stage in it.
    """
    then = "run `harveyseg status` again"
    require_idle(root, then)
    from dvc.exceptions import DvcException  # a second
    from dvc.lock import LockError

    logging.getLogger(_DVC_BARS).setLevel(logging.CRITICAL)
    data = root / "data"
    models, folds = listed_models(root / "params.yaml")
    files = PipelineFiles(models, folds, data / "models", data / "ensemble", data / "postprocess" / "metrics")
    paths = {f"{model}-{fold}": data / "models" / f"{model}-{fold}" / "run.json" for model in models for fold in folds}
    trained = [read_run(path) for path in paths.values() if path.exists()]
    committed = git_problem(root) is None and git_output(root, "rev-parse", "HEAD") is not None
    try:
        stale = find_stale(root, trained)
        experiments = list_experiments(root) if committed else None
    except LockError:
        raise HarveysegError(locked_message(root, then)) from None
    except DvcException as error:
        raise HarveysegError(f"{root}: DVC cannot read the project: {error}. `harveyseg doctor` says more.") from None
    scores, problem = None, ""
    try:
        scores = collect_scores(files)
    except HarveysegError as error:
        problem = str(error)
    changed = git_output(root, "status", "--porcelain", "--", "dvc.lock", "params.yaml")
    weights = data / "ensemble" / "weights.json"
    return Overview(
        files,
        trained,
        [name for name, path in paths.items() if not path.exists()],
        stale,
        scores,
        problem,
        dict(read_weights(weights).chosen) if weights.exists() else {},
        changed == "",
        experiments,
    )


def status_lines(overview: Overview) -> Iterator[str]:
    """The answer of ``harveyseg status``.

    Args:
        overview: from :func:`inspect_workspace`.
    """
    yield f"trained:    {_trained(overview)}"
    if overview.missing:
        yield f"missing:    {', '.join(overview.missing)}"
    yield from _stale(overview.stale)
    yield from _score_lines(overview)
    if overview.weights:
        shares = sorted(overview.weights.items(), key=lambda item: -item[1])
        yield "ensemble:   " + ", ".join(f"{model} {weight:.2f}" for model, weight in shares if weight)
    yield f"next:       {_next(overview)}"
    if overview.experiments is not None:
        yield from _experiment_lines(overview.experiments)


def fit(line: str, width: int) -> str:
    """A line of :func:`status_lines` for a terminal: broken between words or scores, with the rest below its text.

    Args:
        line: as it is.
        width: columns of the terminal.

    Example:
        >>> print(fit("held out:   unet 0.7000, ensemble 0.7100; all empty 0.6000", 40))
        held out:   unet 0.7000,
                    ensemble 0.7100;
                    all empty 0.6000
    """
    if _SCORES.match(line):  # a name stays with its number: textwrap does not break at such blanks
        line = line[:_LABEL] + re.sub(r"(?<![,;]) ", "\xa0", line[_LABEL:])
    shown = textwrap.wrap(line, width, subsequent_indent=_LABEL * " ", break_long_words=False, break_on_hyphens=False)
    return "\n".join(shown).replace("\xa0", " ")


def _trained(overview: Overview) -> str:
    trained, listed = len(overview.trained), len(overview.trained) + len(overview.missing)
    if not trained:
        return f"none of {listed} models and folds"
    last = max(record.ended_ms or record.started_ms for record in overview.trained)
    when = datetime.datetime.fromtimestamp(last / 1000).strftime("%Y-%m-%d %H:%M")
    sources = ", ".join(sorted({record.data_source for record in overview.trained}))
    return f"{trained} of {listed} models and folds, the last one {when}, on the data source {sources}"


def _stale(stale: StaleStages) -> Iterator[str]:
    lines = stale.lines()
    if not lines:
        yield "stale:      nothing"
        return
    for number, line in enumerate(lines[:_REASONS]):
        yield f"{'' if number else 'stale:':11} {line}"
    more = f"{len(lines) - _REASONS} more reasons (`dvc status`)" if len(lines) > _REASONS else ""
    names = list(dict.fromkeys(stage.partition("@")[0] for stage in stale.following))
    follows = f"then {', '.join(names)}" if names else ""
    if rest := ", ".join(filter(None, (more, follows))):
        yield f"{'':11} {rest}"


def _score_lines(overview: Overview) -> Iterator[str]:
    if overview.scores is None:
        yield f"scores:     {overview.problem if overview.trained else 'none yet'}"
        return
    for part, title in PARTS.items():
        rows = overview.scores[overview.scores["part"] == title].sort_values("score", ascending=False, kind="stable")
        if rows.empty:
            continue
        texts = [
            f"{model} {score:.4f}{'' if overview.stands(model) else ' (stale)'}"
            for model, score in zip(rows["model"].astype(str), rows["score"].tolist(), strict=True)
        ]
        label = "held out:" if part == "val" else "test:"
        yield f"{label:11} {', '.join(texts)}; all empty {rows['all_empty'].tolist()[0]:.4f}"


def _experiment_lines(experiments: Experiments) -> Iterator[str]:
    if not experiments.experiments:
        yield "experiments: none from this commit"
        return
    yield "experiments (the ensemble's score on the held-out photos, its gain, settings, models whose own score moved):"
    yield from experiments.lines()


def _next(overview: Overview) -> str:
    """The most useful command now."""
    if not overview.trained:
        return "`dvc repro` trains all models"
    if overview.missing or overview.stale.reasons or overview.scores is None:
        return "`dvc repro` brings all up to date"
    experiments = overview.experiments
    if experiments is None:
        return "`harveyseg ui` compares all runs; experiments need a commit in git (`harveyseg doctor`)"
    if queued := [experiment.name for experiment in experiments.experiments if experiment.state == "queued"]:
        return f"`dvc queue start` runs {', '.join(queued)}"
    best = experiments.best
    if best is not None and best.score is not None and best.score > _workspace_score(overview.scores):
        return f"`dvc exp apply {best.name}` makes the best experiment the workspace"
    if not overview.committed:
        return (
            "`git add dvc.lock && git commit -a` keeps these results; experiments are compared with those of a commit"
        )
    return "`dvc exp run -S train.lr=0.001` tries a change; `dvc plots show` and `harveyseg ui` show details"


def _workspace_score(scores: pd.DataFrame) -> float:
    """The ensemble's score on the held-out photos."""
    rows = scores[(scores["model"] == ENSEMBLE) & (scores["part"] == PARTS["val"])]
    return float(rows["score"].item())
