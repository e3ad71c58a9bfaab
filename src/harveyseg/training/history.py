"""``history.csv``: one row per epoch, in full precision, from which MLflow gets what it missed.

``val_argmax_score`` is computed at the size of the cache; the score of the same name in ``comparison.csv`` is computed
at 1024 x 1024 pixels. ``val_predicted_classes`` is the mean number of scored classes in a held-out photo's argmax map.
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from harveyseg.files import read_table, write_table

VALIDATION = ("val_loss", "val_argmax_score", "val_predicted_classes")
"""Columns that are empty where an epoch was not validated."""
HISTORY_COLUMNS = ("epoch", "time_ms", "train_loss", *VALIDATION, "lr", "images_per_second", "seconds")


def write_history(path: Path, rows: Sequence[dict[str, float]]) -> None:
    """Write the rows, atomically; floats with all their digits, an empty cell for a missing value."""
    frame = pd.DataFrame(rows, columns=list(HISTORY_COLUMNS)).astype({"epoch": int, "time_ms": int})
    write_table(path, frame)


def read_history(path: Path) -> pd.DataFrame:
    """Read the rows back, bit for bit; NaN for an empty cell.

    Raises:
        HarveysegError: when the file is absent or no such table.
    """
    remedy = f"Run `dvc repro -f train@{path.parent.name}`, or `dvc checkout {path} --force`."
    return read_table(path, dict.fromkeys(HISTORY_COLUMNS, float) | {"epoch": int, "time_ms": int}, remedy)
