"""Other versions of the pipeline: the last committed one, and experiments; DVC's cache holds their tables."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from ruamel.yaml import YAML

from harveyseg.config.lock import dvc_md5, stage_outputs
from harveyseg.config.settings import flat_settings, load
from harveyseg.errors import HarveysegError
from harveyseg.pipeline.running import locked_message
from harveyseg.project import git_output, project_root
from harveyseg.record import ALL_EMPTY, format_value
from harveyseg.tracking.table import ALL_FOLDS

TABLE = "data/reports/comparison.csv"
_COMMITS = 20
"""Commits of dvc.lock that are looked at for another table."""


@dataclass(frozen=True)
class Version:
    """The settings and scores of one state of the pipeline."""

    name: str
    table: pd.DataFrame
    """comparison.csv, all cells as text; of older versions of this package it may have other columns."""
    params: Mapping[str, str]
    """params.yaml, flat, e.g. ``train.lr`` -> "0.001"."""

    @property
    def scores(self) -> dict[str, float]:
        """``val_score`` of each model over all folds, and of the ensemble; those that have one."""
        table = self.table
        whole = table[(table["fold"] == ALL_FOLDS) | ((table["fold"] == "") & (table["model"] != ALL_EMPTY))]
        return {
            model: float(score) for model, score in zip(whole["model"], whole["val_score"], strict=True) if score != ""
        }


@dataclass(frozen=True)
class Change:
    """A setting that differs between two versions; "absent" where one does not have it."""

    name: str
    before: str
    after: str


def changes(before: Version, after: Version) -> list[Change]:
    """The settings that differ, by name.

    >>> none = pd.DataFrame()
    >>> changes(Version("a", none, {"lr": "1", "old": "x"}), Version("b", none, {"lr": "2"}))
    [Change(name='lr', before='1', after='2'), Change(name='old', before='x', after='absent')]
    """
    names = sorted(before.params.keys() | after.params.keys())
    pairs = [(name, before.params.get(name, "absent"), after.params.get(name, "absent")) for name in names]
    return [Change(*pair) for pair in pairs if pair[1] != pair[2]]


def present_version(params: Path, table: pd.DataFrame) -> Version:
    """The workspace."""
    return Version("workspace", table, flatten(load(params)))


def read_version(revision: str, name: str) -> Version:
    """Read an experiment or commit from git and DVC's cache.

    Args:
        revision: what git or ``dvc exp list`` calls it.
        name: what the page calls it.

    Raises:
        HarveysegError: when there is no such revision, it has no table, or DVC's cache does not hold it.
    """
    import dvc.api  # it takes two seconds
    from dvc.exceptions import DvcException, PathMissingError
    from dvc.lock import LockError
    from dvc.scm import RevError
    from scmrepo.exceptions import SCMError

    try:
        table = dvc.api.read(TABLE, rev=revision)
        params = dvc.api.read("params.yaml", rev=revision)
    except RevError:
        raise HarveysegError(
            f"{revision}: no such experiment or commit. `dvc exp list` prints the experiments' names."
        ) from None
    except PathMissingError:
        raise HarveysegError(
            f"{revision}: has no table, so its pipeline has not run to the end. `dvc exp run` finishes it."
        ) from None
    except LockError:
        raise HarveysegError(locked_message(project_root(), "run the same command again")) from None
    except (DvcException, SCMError, OSError) as error:
        cause = str(error) or type(error).__name__
        raise HarveysegError(
            f"{revision}: its table cannot be read ({cause}). If DVC's cache lacks it, run "
            f"`dvc exp apply {revision}` and `dvc repro`, or fetch it with `dvc fetch --all-commits`."
        ) from None
    cells = pd.read_csv(io.StringIO(table), dtype=str, keep_default_na=False)
    if not {"model", "fold", "val_score"} <= set(cells.columns):
        raise HarveysegError(f"{revision}: its table is of another version of harveyseg. Run it again to compare it.")
    return Version(name, cells, flatten(YAML(typ="safe", pure=True).load(params)))


@dataclass(frozen=True)
class Committed:
    """The last committed run whose scores are others than the workspace's."""

    version: Version
    unread: list[str]
    """Later commits with other scores, whose tables git and DVC's cache do not hold."""


def last_committed(root: Path) -> Committed | None:
    """Find the last committed run with another table than the workspace's.

    Args:
        root: the project's root.

    Returns:
        None where none of the last commits has one that can be read.
    """
    present = dvc_md5(root / TABLE)
    log = git_output(root, "log", f"-n{_COMMITS}", "--format=%H\t%h of %cs: %s", "--", "dvc.lock")
    unread: list[str] = []
    for line in (log or "").splitlines():
        commit, description = line.split("\t", 1)
        lock = git_output(root, "show", f"{commit}:./dvc.lock")
        if not lock or _recorded_table(lock) in (None, present):
            continue
        try:
            return Committed(read_version(commit, description), unread)
        except HarveysegError:
            unread.append(description)
    return None


def _recorded_table(lock: str) -> str | None:
    stage: dict[str, Any] = YAML(typ="safe", pure=True).load(lock).get("stages", {}).get("compare", {})
    return dict(stage_outputs(stage)).get(TABLE)


def flatten(values: Mapping[str, Any]) -> dict[str, str]:
    """Nested settings as one level, spelt as in YAML; a list is one value.

    >>> flatten({"train": {"lr": 0.1, "ema": None}, "folds": [0, 1]})
    {'train.lr': '0.1', 'train.ema': 'null', 'folds': '[0, 1]'}
    """
    scalar = str | int | float | bool | None
    return {
        name: format_value(value) if isinstance(value, scalar) else json.dumps(value)
        for name, value in flat_settings(values).items()
    }


def moved(before: Version, after: Version, models: Sequence[str]) -> list[tuple[str, float | None, float | None]]:
    """The score of each model before and after; None where a version has none."""
    names = dict.fromkeys([*models, *after.scores, *before.scores])
    return [(name, before.scores.get(name), after.scores.get(name)) for name in names]
