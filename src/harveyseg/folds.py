"""Reading ``folds.csv``: which photo is held out in which fold."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from harveyseg.errors import HarveysegError
from harveyseg.files import sha256

COLUMNS = ("id", "group", "fold")

_MAKE_ANEW = "Make it anew with `dvc repro split`."


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
