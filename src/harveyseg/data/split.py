"""The folds: training photos are divided so that neighbouring frames stay together and classes are spread evenly.

Next to ``folds.csv`` stands ``overlaps.csv``, the pairs of photos that show the same ground, wherever they are known.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import pandas as pd
from pydantic import Field, ValidationInfo, field_validator

from harveyseg.arrays import BoolArray, IntArray, Rows
from harveyseg.classes import ClassList
from harveyseg.config.settings import Section
from harveyseg.data.cache import class_counts
from harveyseg.data.naming import one_form
from harveyseg.errors import HarveysegError, raise_problems
from harveyseg.files import read_table, sha256, write_table
from harveyseg.project import input_path

DISTANCE = 10
"""Frames whose ids differ by at most this much are assumed to overlap, unless a setting says otherwise."""

OVERLAPS_FILE = "overlaps.csv"
"""The pairs of photos that show the same ground: in ``data/splits``, and in ``data/raw`` if the source knows them."""

_TRIES = 256  # divisions of each kind that are compared, in about a second
_REMEDY = "Run `dvc repro split` to write it again."


class SplitParams(Section):
    """The section ``split``."""

    folds: int = Field(ge=2)
    """Number of folds that the training photos are divided into."""
    method: Literal["stratified", "random"] = "stratified"
    """What is spread evenly: ``stratified``, the photos of each scored class; ``random``, only all photos."""
    groups: str = "ids"
    """What stays together: ``ids`` (frames with neighbouring ids), ``overlap`` (photos that show the same ground, found
    by their pictures), ``none``, or a CSV file with a column ``id`` and a group column, as ``path.csv`` or
    ``path.csv:column``; relative paths start at the project's root."""
    id_distance: int = Field(default=DISTANCE, ge=0)
    """For ``ids``: frames whose ids differ by at most this are linked; a group is everything that links connect."""
    seed: int = Field(default=0, ge=0, le=2**32 - 1)
    """Seed of the random tries from which the most balanced folds are taken."""
    held_out: str | None = None
    """A fixed validation list: a text file with the ids (or file names) of the photos to hold out, one on each line.
    They become fold 0 and all others fold 1, so ``folds`` of ``split`` must be 2 and the list ``folds`` ``[0]``."""

    @field_validator("held_out")
    @classmethod
    def _two_folds(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("folds") != 2:
            raise ValueError("divides the photos in two: set `split.folds` to 2, and `folds` to [0]")
        return value


def make_folds(
    photos: pd.DataFrame,
    unscored: int,
    params: SplitParams,
    root: Path,
    overlaps: Collection[tuple[str, str]] | None = None,
) -> pd.DataFrame:
    """Assign every training photo to the fold in which it is held out.

    Stratified folds come from iterative stratification (Sechidis, Tsoumakas and Vlahavas, "On the stratification of
    multi-label data", ECML PKDD 2011) of whole groups by the classes they hold. It ignores the number of photos in a
    group that hold a class, and breaks ties at random. So the most balanced of many seeded tries is taken (see
    :func:`fold_imbalance`), among them purely random ones, which win when there are few groups. A class that fewer
    groups hold than there are folds is missing from some folds; that is not an error.

    Args:
        photos: the training part's photos.csv; its ids and counts of classes are used.
        unscored: number of classes that are not scored; they come first, and are not spread.
        params: the section ``split``.
        root: the project's root.
        overlaps: for ``groups: overlap``, the pairs of ids that show the same ground.

    With ``held_out``, a list of the user's decides instead, whatever overlaps.

    Returns:
        The columns id, group (str) and fold (0..folds-1), in the order of ``photos``; no fold is empty.

    Raises:
        HarveysegError: when there are fewer groups than folds, or the ids and the groups do not fit.
    """
    ids = [str(photo_id) for photo_id in photos["id"]]
    groups = group_labels(ids, params, root, overlaps)
    if params.held_out is not None:
        listed = _read_held_out(ids, params.held_out, root)
        return pd.DataFrame({"id": ids, "group": groups, "fold": [0 if own in listed else 1 for own in ids]})
    _, group_of = np.unique(groups, return_inverse=True)
    n_groups = int(group_of.max()) + 1 if ids else 0
    if n_groups < params.folds:
        groups_found = "1 group" if n_groups == 1 else f"{n_groups} groups"
        smaller = "lower split.id_distance" if params.groups == "ids" else "set split.groups to another kind"
        raise HarveysegError(
            f"split.folds = {params.folds}: the {len(ids)} training photos form only {groups_found} "
            f"(split.groups = {params.groups}), and each fold needs one. Add photos, lower split.folds, or {smaller} "
            "(split.groups: none keeps nothing together)."
        )
    presence = _presence(photos, unscored)
    random = np.random.default_rng(params.seed)
    if params.method == "random":
        fold_of_group = _random_folds(np.bincount(group_of), params.folds, random)
    else:
        fold_of_group = _stratified_folds(group_of, presence, params.folds, random)
    return pd.DataFrame({"id": ids, "group": groups, "fold": fold_of_group[group_of]})


def group_labels(
    ids: list[str], params: SplitParams, root: Path, overlaps: Collection[tuple[str, str]] | None = None
) -> list[str]:
    """The group of each photo.

    Raises:
        HarveysegError: when ids are not numbers (for ``ids``), or the CSV file does not cover them.
    """
    if params.groups == "none":
        return ids
    if params.groups == "ids":
        return _groups_by_distance(ids, params.id_distance)
    if params.groups == "overlap":
        if overlaps is None:
            raise ValueError("groups: overlap needs the pairs of photos that overlap")
        return linked_groups(ids, overlaps)
    return _groups_from_file(ids, params.groups, root)


def files_of_split(params: SplitParams) -> dict[str, str]:
    """The files that decide the folds, by the key of the setting that names them."""
    files = {}
    if params.groups not in ("ids", "overlap", "none"):
        files["groups"] = _file_and_column(params.groups)[0]
    if params.held_out is not None:
        files["held_out"] = params.held_out
    return files


def fold_imbalance(fold: IntArray, presence: BoolArray, folds: int) -> float:
    """Measure how unequal the folds are; 0 is perfect.

    The sum over the folds of the difference between a fold's share of the photos and 1/folds, plus the same for the
    photos that hold a class, averaged over the classes that occur.

    Args:
        fold: (N,) the fold of each photo.
        presence: (N, C) whether a photo holds a class.
        folds: number of folds.

    Example:
        >>> presence = np.array([[True], [True], [False], [False]])
        >>> fold_imbalance(np.array([0, 1, 0, 1]), presence, 2), fold_imbalance(np.array([0, 0, 1, 1]), presence, 2)
        (0.0, 1.0)
    """
    member = np.eye(folds)[fold]  # (N, folds)
    photos = np.abs(member.mean(axis=0) - 1 / folds).sum()
    held = presence[:, presence.any(axis=0)].T.astype(np.float64) @ member  # (classes that occur, folds)
    classes = np.abs(held / held.sum(axis=1, keepdims=True) - 1 / folds).sum(axis=1)
    return float(photos + (classes.mean() if len(classes) else 0.0))


def summarise_folds(folds: pd.DataFrame, photos: pd.DataFrame, classes: ClassList) -> pd.DataFrame:
    """Count the photos, groups and classes of each fold.

    Args:
        folds: as from :func:`make_folds`.
        photos: the training part's photos.csv.
        classes: what the masks hold.

    Returns:
        One row for each fold: fold, photos, groups, classes (how many of the scored ones occur) and absent (names
        of the classes that occur in other folds only).
    """
    presence = _presence(photos, classes.unscored)
    occurs = presence.any(axis=0)
    rows = []
    for fold, members in folds.groupby("fold"):
        in_fold = presence[members.index].any(axis=0)
        absent = [classes.names[index + classes.unscored] for index in np.flatnonzero(occurs & ~in_fold)]
        rows.append((fold, len(members), members["group"].nunique(), int(in_fold.sum()), ", ".join(absent)))
    return pd.DataFrame(rows, columns=["fold", "photos", "groups", "classes", "absent"])


def read_folds(path: Path) -> pd.DataFrame:
    """Read ``folds.csv``: the columns id (str), group (str) and fold (int), one row for each training photo.

    Raises:
        HarveysegError: when it is absent, damaged, or lists a photo twice.
    """
    folds = read_table(path, {"id": str, "group": str, "fold": int}, _REMEDY)
    repeated = folds.loc[folds["id"].duplicated(), "id"]
    if len(repeated):
        raise HarveysegError(f"{path}: lists photos twice: {', '.join(repeated)}. {_REMEDY}")
    return folds


def fold_rows(folds: pd.DataFrame, ids: Sequence[str], fold: int) -> tuple[Rows, Rows]:
    """Find the rows to train on and the rows held out.

    Args:
        folds: as from ``read_folds``.
        ids: the cached training photos, in the order of their rows.
        fold: the fold that is held out.

    Returns:
        Two ascending index arrays into ``ids``: training, validation. Together they hold every row once.

    Raises:
        HarveysegError: when there is no such fold, or the folds were made for other photos.

    Example:
        >>> folds = pd.DataFrame({"id": ["7", "8", "9"], "group": ["0", "0", "1"], "fold": [1, 1, 0]})
        >>> train, held_out = fold_rows(folds, ["9", "7", "8"], fold=0)
        >>> train.tolist(), held_out.tolist()
        ([1, 2], [0])
    """
    existing = sorted(int(value) for value in folds["fold"].unique())
    if fold not in existing:
        allowed = ", ".join(map(str, existing))
        raise HarveysegError(f"fold {fold}: the split has no such fold. Allowed in `folds` are: {allowed}.")
    fold_of = dict(zip(folds["id"], folds["fold"], strict=True))
    if set(ids) != fold_of.keys():
        raise HarveysegError(f"data/splits/folds.csv was made for other photos than the cache holds. {_REMEDY}")
    held_out = np.array([fold_of[photo_id] == fold for photo_id in ids])
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def split_hash(path: Path) -> str:
    """The SHA-256 of ``folds.csv``, which identifies the split in every run."""
    return sha256(path)


def write_overlaps(path: Path, overlaps: Collection[tuple[str, str]]) -> None:
    """Write ``overlaps.csv``: the columns first and second (ids)."""
    write_table(path, pd.DataFrame(list(overlaps), columns=["first", "second"]))


def read_overlaps(path: Path) -> list[tuple[str, str]] | None:
    """Read ``overlaps.csv``; None where there is no such file, so that overlaps are unknown.

    Raises:
        HarveysegError: when it is damaged.
    """
    if not path.exists():
        return None
    table = read_table(path, {"first": str, "second": str}, _REMEDY)
    return list(zip(table["first"], table["second"], strict=True))


def count_overlapping_photos(
    overlaps: Collection[tuple[str, str]], fold_of: Mapping[str, int], held_out: Collection[int]
) -> dict[str, int]:
    """Count the scored photos that show ground which a network saw in training, so that their scores are optimistic.

    Args:
        overlaps: pairs of ids.
        fold_of: the fold of each training photo; all other photos are test photos.
        held_out: the folds that are held out in turn.

    Returns:
        ``val``: held-out photos that overlap a photo of another fold; ``test``: test photos that overlap a photo that
        some network was trained on.

    Example:
        >>> fold_of = {"1": 0, "2": 0, "3": 1}
        >>> count_overlapping_photos([("1", "2"), ("2", "3"), ("3", "9")], fold_of, held_out=[0])
        {'val': 1, 'test': 1}
        >>> count_overlapping_photos([("1", "9")], fold_of, held_out=[0])  # nothing was trained on fold 0
        {'val': 0, 'test': 0}
    """
    overlapping: dict[str, set[str]] = {"val": set(), "test": set()}
    for pair in overlaps:
        for photo, other in (pair, pair[::-1]):
            if other not in fold_of:
                continue
            if photo not in fold_of:
                if set(held_out) - {fold_of[other]}:
                    overlapping["test"].add(photo)
            elif fold_of[photo] in held_out and fold_of[other] != fold_of[photo]:
                overlapping["val"].add(photo)
    return {part: len(photos) for part, photos in overlapping.items()}


def without_number(ids: list[str]) -> list[str]:
    """The ids that are not numbers, so that their neighbours are unknown."""
    return [photo_id for photo_id in ids if not re.fullmatch("[0-9]+", photo_id)]


def neighbour_groups(ids: list[str], distance: int) -> list[str]:
    """Link ids that differ by at most ``distance``; a group is everything that links connect.

    Args:
        ids: numbers, in any order.
        distance: the longest link.

    Returns:
        The group of each id: "0" holds the smallest, and so on.

    Example:
        >>> neighbour_groups(["6411", "7000", "6420"], distance=10)
        ['0', '1', '0']
    """
    numbers = np.array([int(photo_id) for photo_id in ids], dtype=object)
    order = np.argsort(numbers, kind="stable")
    group_of = np.zeros(len(ids), np.int64)
    group_of[order[1:]] = np.cumsum(np.diff(numbers[order]) > distance)
    return [str(group) for group in group_of]


def linked_groups(ids: list[str], pairs: Collection[tuple[str, str]]) -> list[str]:
    """The group of each id: all that pairs link, directly or through others, which need not be among ``ids``.

    Example:
        >>> linked_groups(["1", "2", "3"], [("1", "9"), ("9", "3")])
        ['0', '1', '0']
    """
    # Imported here, as scikit-learn is: every stage reads the split.
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    nodes = list(dict.fromkeys([*ids, *(photo_id for pair in pairs for photo_id in pair)]))
    index_of = {photo_id: index for index, photo_id in enumerate(nodes)}
    first = [index_of[pair[0]] for pair in pairs]
    second = [index_of[pair[1]] for pair in pairs]
    graph = coo_array((np.ones(len(first)), (first, second)), shape=(len(nodes), len(nodes)))
    _, labels = connected_components(graph, directed=False)
    return [str(labels[index_of[photo_id]]) for photo_id in ids]


def _presence(photos: pd.DataFrame, unscored: int) -> BoolArray:
    """(N, S): whether a photo's full-size mask holds each of the scored classes."""
    return class_counts(photos)[:, unscored:] > 0


def _stratified_folds(group_of: Rows, presence: BoolArray, folds: int, random: np.random.Generator) -> IntArray:
    """The fold of each group."""
    # Imported here: it needs scikit-learn, whose import takes a second, and every stage reads the split.
    from iterstrat.ml_stratifiers import MultilabelStratifiedKFold

    sizes = np.bincount(group_of)
    labels = np.zeros((len(sizes), presence.shape[1]), bool)
    np.logical_or.at(labels, group_of, presence)
    # The library counts groups, not photos: being large is a label as well, so that large groups are spread evenly.
    labels = np.column_stack([labels, *(sizes > np.quantile(sizes, share) for share in (0.5, 0.75, 0.9))])
    candidates = [_random_folds(sizes, folds, random) for _ in range(_TRIES)]
    for seed in random.integers(2**32, size=_TRIES):
        splitter = MultilabelStratifiedKFold(folds, shuffle=True, random_state=int(seed))
        candidate = np.empty(len(sizes), np.int64)
        for fold, (_, held_out) in enumerate(splitter.split(labels, labels)):
            candidate[held_out] = fold
        if len(np.unique(candidate)) == folds:
            candidates.append(candidate)
    return min(candidates, key=lambda candidate: fold_imbalance(candidate[group_of], presence, folds))


def _random_folds(sizes: Rows, folds: int, random: np.random.Generator) -> IntArray:
    """Groups in random order, each into the fold with the fewest photos so far."""
    fold_of_group = np.empty(len(sizes), np.int64)
    photos = np.zeros(folds, np.int64)
    for group in random.permutation(len(sizes)):
        fold_of_group[group] = photos.argmin()
        photos[photos.argmin()] += sizes[group]
    return fold_of_group


def _groups_by_distance(ids: list[str], distance: int) -> list[str]:
    if unnumbered := without_number(ids):
        raise HarveysegError(
            f"split.groups = ids: these photos have no numeric id: {', '.join(unnumbered)}. "
            "Set split.groups to overlap, to none, or to a CSV file with the columns id and group."
        )
    return neighbour_groups(ids, distance)


def _read_held_out(ids: list[str], setting: str, root: Path) -> set[str]:
    """The ids of the photos that a list holds out."""
    where = f"split.held_out = {setting}"
    try:
        lines = input_path(setting, root).read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        raise HarveysegError(f"{where}: {root / setting}: no such file. Correct split.held_out.") from None
    except UnicodeDecodeError:
        raise HarveysegError(f"{where}: {root / setting}: not a text file. Write one id on each line.") from None
    known = set(ids)
    names = [one_form(line.strip()) for line in lines if line.strip()]
    listed = [name if name in known else PurePosixPath(name).stem for name in names]
    unknown = [name for name, photo_id in zip(names, listed, strict=True) if photo_id not in known]
    problems = [f"{name}: no training photo has this id" for name in unknown]
    raise_problems(problems, where, "Write one id on each line, as the names of the photos without their ending.")
    if not listed or len(set(listed)) == len(known):
        raise HarveysegError(
            f"{where}: lists {'all' if listed else 'none'} of the {len(known)} training photos. Both parts need photos."
        )
    return set(listed)


def _file_and_column(setting: str) -> tuple[str, str]:
    """``path.csv`` and ``path.csv:column`` as (path.csv, column or "")."""
    if setting.endswith(".csv"):
        return setting, ""
    name, _, column = setting.rpartition(":")
    return name, column


def _groups_from_file(ids: list[str], setting: str, root: Path) -> list[str]:
    name, column = _file_and_column(setting)
    if not name.endswith(".csv"):
        raise HarveysegError(
            f"split.groups = {setting}: allowed are ids, overlap, none, path.csv and path.csv:column. "
            "Correct params.yaml."
        )
    where = f"split.groups = {setting}"
    try:
        table = pd.read_csv(input_path(name, root), dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise HarveysegError(f"{where}: {root / name}: no such file. Correct split.groups.") from None
    except ValueError as error:
        raise HarveysegError(f"{where}: not a CSV file ({error}). Fix it, or correct split.groups.") from None
    choices = [name for name in table.columns if name != "id"]
    if not column and len(choices) == 1:
        column = choices[0]
    if "id" not in table or column not in choices:
        raise HarveysegError(
            f"{where}: a column id and a group column are needed; the file has {', '.join(table.columns)}. "
            "Name the group column as path.csv:column."
        )
    rows = table[["id", column]].drop_duplicates()
    repeated = rows.loc[rows["id"].duplicated(), "id"].tolist()
    if repeated:
        raise HarveysegError(f"{where}: several groups for {', '.join(repeated)}. Leave one row for each id.")
    group_of = dict(zip(rows["id"], rows[column], strict=True))
    missing = [photo_id for photo_id in ids if not group_of.get(photo_id)]
    if missing:
        raise HarveysegError(f"{where}: no group for the photos {', '.join(missing)}. Add a row for each.")
    return [group_of[photo_id] for photo_id in ids]
