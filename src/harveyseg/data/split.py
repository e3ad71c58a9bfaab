"""The folds: dividing the training photos so that neighbouring frames stay together and classes are spread evenly."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from iterstrat.ml_stratifiers import MultilabelStratifiedKFold
from pydantic import Field

from harveyseg.classes import CLASS_NAMES
from harveyseg.config.settings import Section
from harveyseg.data.cache import COUNTS
from harveyseg.errors import HarveysegError
from harveyseg.files import sha256

COLUMNS = ("id", "group", "fold")
"""Of ``folds.csv``."""

DISTANCE = 10
"""Frames whose ids differ by at most this much are taken to overlap, unless a setting says otherwise."""

_MAKE_ANEW = "Make it anew with `dvc repro split`."
_TRIES = 256
"""Divisions of each kind that are compared, which takes about a second."""


class SplitParams(Section):
    """The section ``split``."""

    folds: int = Field(ge=2)
    """Number of parts that the training photos are divided into."""
    method: Literal["stratified", "random"] = "stratified"
    """What is spread evenly: ``stratified``, the photos of each of the 24 classes; ``random``, only all photos."""
    groups: str = "ids"
    """What stays together: ``ids`` (frames with neighbouring ids), ``none``, or a CSV file with a column ``id`` and a
    group column, as ``path.csv`` or ``path.csv:column``; relative paths are below the project's root."""
    id_distance: int = Field(default=DISTANCE, ge=0)
    """For ``ids``: frames whose ids differ by at most this are linked, and so are all that a chain of links joins."""
    seed: int = Field(default=0, ge=0, le=2**32 - 1)
    """Of the random tries from which the most balanced folds are taken."""


def make_folds(photos: pd.DataFrame, params: SplitParams, root: Path) -> pd.DataFrame:
    """Assign every training photo to the fold in which it is held out.

    Stratified folds come from iterative stratification (Sechidis, Tsoumakas and Vlahavas, "On the stratification of
    multi-label data", ECML PKDD 2011) of whole groups by the classes they hold. It knows nothing of how many photos of
    a group hold a class and breaks ties by chance, so the most balanced (see ``imbalance``) of many seeded tries is
    taken, among them purely random ones, which win where there are few groups. A class that fewer groups hold than
    there are folds is absent from some folds; that is no error.

    Args:
        photos: the training part's photos.csv; its id and count columns are used.
        params: the section ``split``.
        root: the project's root.

    Returns:
        The columns id, group (str) and fold (0..folds-1), in the order of ``photos``; no fold is empty.

    Raises:
        HarveysegError: when there are fewer groups than folds, or the ids and the groups do not fit.
    """
    ids = [str(photo_id) for photo_id in photos["id"]]
    groups = group_labels(ids, params, root)
    _, group_of = np.unique(groups, return_inverse=True)
    n_groups = int(group_of.max()) + 1 if ids else 0
    if n_groups < params.folds:
        raise HarveysegError(
            f"split.folds = {params.folds}: the {len(ids)} training photos form only {n_groups} groups "
            f"(split.groups = {params.groups}), and each fold needs one. Add photos, lower split.folds, or lower "
            "split.id_distance (split.groups: none keeps nothing together)."
        )
    presence = _presence(photos)
    random = np.random.default_rng(params.seed)
    if params.method == "random":
        fold_of_group = _random(np.bincount(group_of), params.folds, random)
    else:
        fold_of_group = _stratified(group_of, presence, params.folds, random)
    return pd.DataFrame({"id": ids, "group": groups, "fold": fold_of_group[group_of]})


def group_labels(ids: list[str], params: SplitParams, root: Path) -> list[str]:
    """The group of each photo.

    Raises:
        HarveysegError: when ids are no numbers (for ``ids``), or the CSV file does not cover them.
    """
    if params.groups == "none":
        return ids
    if params.groups == "ids":
        return _groups_by_distance(ids, params.id_distance)
    return _groups_from_file(ids, params.groups, root)


def imbalance(fold: npt.NDArray[np.int64], presence: npt.NDArray[np.bool_], folds: int) -> float:
    """How far the folds are from equal; 0 is perfect.

    The sum over the folds of how far a fold's share of the photos is from 1/folds, plus the same for the photos that
    hold a class, averaged over the classes that occur.

    Args:
        fold: (N,) the fold of each photo.
        presence: (N, C) whether a photo holds a class.
        folds: their number.
    """
    member = np.eye(folds)[fold]  # (N, folds)
    photos = np.abs(member.mean(axis=0) - 1 / folds).sum()
    held = presence[:, presence.any(axis=0)].T.astype(np.float64) @ member  # (classes that occur, folds)
    classes = np.abs(held / held.sum(axis=1, keepdims=True) - 1 / folds).sum(axis=1)
    return float(photos + (classes.mean() if len(classes) else 0.0))


def summary(folds: pd.DataFrame, photos: pd.DataFrame) -> pd.DataFrame:
    """One row for each fold: fold, photos, groups, classes (how many of the 24 occur) and absent (names of the others).

    Only classes that occur among all photos count as absent.
    """
    presence = _presence(photos)
    occurs = presence.any(axis=0)
    rows = []
    for fold, members in folds.groupby("fold"):
        here = presence[members.index].any(axis=0)
        absent = [CLASS_NAMES[index + 1] for index in np.flatnonzero(occurs & ~here)]
        rows.append((fold, len(members), members["group"].nunique(), int(here.sum()), ", ".join(absent)))
    return pd.DataFrame(rows, columns=["fold", "photos", "groups", "classes", "absent"])


def _presence(photos: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """(N, 24): whether a photo's full-size mask holds each of the classes 1..24."""
    return np.asarray(photos[list(COUNTS[1:])].to_numpy() > 0)


def _stratified(
    group_of: npt.NDArray[np.intp], presence: npt.NDArray[np.bool_], folds: int, random: np.random.Generator
) -> npt.NDArray[np.int64]:
    sizes = np.bincount(group_of)
    labels = np.zeros((len(sizes), presence.shape[1]), bool)
    np.logical_or.at(labels, group_of, presence)
    # The library counts groups, not photos: being large is made a label too, so that large groups are spread as well.
    labels = np.column_stack([labels, *(sizes > np.quantile(sizes, share) for share in (0.5, 0.75, 0.9))])
    candidates = [_random(sizes, folds, random) for _ in range(_TRIES)]
    for seed in random.integers(2**32, size=_TRIES):
        splitter = MultilabelStratifiedKFold(folds, shuffle=True, random_state=int(seed))
        candidate = np.empty(len(sizes), np.int64)
        for fold, (_, held_out) in enumerate(splitter.split(labels, labels)):
            candidate[held_out] = fold
        if len(np.unique(candidate)) == folds:
            candidates.append(candidate)
    return min(candidates, key=lambda candidate: imbalance(candidate[group_of], presence, folds))


def _random(sizes: npt.NDArray[np.intp], folds: int, random: np.random.Generator) -> npt.NDArray[np.int64]:
    """Groups in random order, each into the fold with the fewest photos so far."""
    fold_of_group = np.empty(len(sizes), np.int64)
    photos = np.zeros(folds, np.int64)
    for group in random.permutation(len(sizes)):
        fold_of_group[group] = photos.argmin()
        photos[photos.argmin()] += sizes[group]
    return fold_of_group


def _groups_by_distance(ids: list[str], distance: int) -> list[str]:
    if wrong := without_number(ids):
        raise HarveysegError(
            f"split.groups = ids: these photos have no numeric id: {_listed(wrong)}. "
            "Set split.groups to none, or to a CSV file with the columns id and group."
        )
    return neighbour_groups(ids, distance)


def _groups_from_file(ids: list[str], setting: str, root: Path) -> list[str]:
    name, column = setting, ""
    if not setting.endswith(".csv"):
        name, _, column = setting.rpartition(":")
    if not name.endswith(".csv"):
        raise HarveysegError(
            f"split.groups = {setting}: allowed are ids, none, path.csv and path.csv:column. Correct params.yaml."
        )
    where = f"split.groups = {setting}"
    try:
        table = pd.read_csv(root / name, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise HarveysegError(f"{where}: {root / name}: no such file. Correct split.groups.") from None
    except ValueError as error:
        raise HarveysegError(f"{where}: not a CSV file ({error}). Mend it, or correct split.groups.") from None
    choices = [other for other in table.columns if other != "id"]
    if not column and len(choices) == 1:
        column = choices[0]
    if "id" not in table or column not in choices:
        raise HarveysegError(
            f"{where}: a column id and a group column are needed; the file has {', '.join(table.columns)}. "
            "Name the group column as path.csv:column."
        )
    known = table[["id", column]].drop_duplicates()
    twice = known.loc[known["id"].duplicated(), "id"].tolist()
    if twice:
        raise HarveysegError(f"{where}: several groups for {_listed(twice)}. Leave one row for each id.")
    group_of = dict(zip(known["id"], known[column], strict=True))
    lacking = [photo_id for photo_id in ids if not group_of.get(photo_id)]
    if lacking:
        raise HarveysegError(f"{where}: no group for the photos {_listed(lacking)}. Add a row for each.")
    return [group_of[photo_id] for photo_id in ids]


def _listed(ids: list[str]) -> str:
    return ", ".join(ids)


def read_folds(path: Path) -> pd.DataFrame:
    """Read ``folds.csv``: the columns id (str), group (str) and fold (int), one row for each training photo.

    Raises:
        HarveysegError: when it is absent, damaged, or names a photo twice.
    """
    try:
        # Without keep_default_na a photo with the id "NA" would lose its name.
        folds = pd.read_csv(path, dtype={"id": str, "group": str, "fold": int}, keep_default_na=False)
    except FileNotFoundError:
        raise HarveysegError(f"{path}: no such file. {_MAKE_ANEW}") from None
    except ValueError as error:
        raise HarveysegError(f"{path}: not a table of folds ({error}). {_MAKE_ANEW}") from None
    if tuple(folds.columns) != COLUMNS:
        raise HarveysegError(f"{path}: has the columns {', '.join(folds.columns)}, not id, group, fold. {_MAKE_ANEW}")
    twice = folds.loc[folds["id"].duplicated(), "id"]
    if len(twice):
        raise HarveysegError(f"{path}: names photos twice: {', '.join(twice)}. {_MAKE_ANEW}")
    return folds


def indices(folds: pd.DataFrame, ids: Sequence[str], fold: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Rows to train on and rows held out.

    Args:
        folds: as from ``read_folds``.
        ids: the cached training photos, in the order of their rows.
        fold: the fold that is held out.

    Returns:
        Two ascending index arrays into ``ids``: training, validation. Together they hold every row once.

    Raises:
        HarveysegError: when there is no such fold, or the folds were made for other photos.
    """
    known = sorted(int(value) for value in folds["fold"].unique())
    if fold not in known:
        allowed = ", ".join(map(str, known))
        raise HarveysegError(f"fold {fold}: the split has no such fold. Allowed in `folds` are: {allowed}.")
    fold_of = dict(zip(folds["id"], folds["fold"], strict=True))
    if set(ids) != fold_of.keys():
        raise HarveysegError(f"data/splits/folds.csv was made for other photos than the cache holds. {_MAKE_ANEW}")
    held_out = np.array([fold_of[photo_id] == fold for photo_id in ids])
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def split_hash(path: Path) -> str:
    """What identifies the split in every run: the SHA-256 of ``folds.csv``."""
    return sha256(path)


def without_number(ids: list[str]) -> list[str]:
    """The ids that are no numbers, so that nobody can tell their neighbours."""
    return [photo_id for photo_id in ids if not re.fullmatch("[0-9]+", photo_id)]


def neighbour_groups(ids: list[str], distance: int) -> list[str]:
    """Link ids that differ by at most ``distance``, and all that a chain of links joins.

    Args:
        ids: numbers, in any order.
        distance: the longest link.

    Returns:
        The group of each id: "0" holds the smallest, and so on.
    """
    numbers = np.array([int(photo_id) for photo_id in ids], dtype=object)
    order = np.argsort(numbers, kind="stable")
    group_of = np.zeros(len(ids), np.int64)
    group_of[order[1:]] = np.cumsum(np.diff(numbers[order]) > distance)
    return [str(group) for group in group_of]
