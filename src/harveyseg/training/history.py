"""``history.csv``: one row per epoch, in full precision, so that a tracker that missed some can be given the same."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from harveyseg.errors import HarveysegError
from harveyseg.files import write_table

COLUMNS = ("epoch", "time_ms", "train_loss", "val_loss", "val_argmax_score", "lr", "images_per_second", "seconds")


def write_history(path: Path, rows: Sequence[dict[str, float]]) -> None:
    """Write the rows, atomically; floats with all their digits, an empty cell for a missing value."""
    frame = pd.DataFrame(rows, columns=list(COLUMNS)).astype({"epoch": int, "time_ms": int})
    write_table(path, frame)


def read_history(path: Path) -> pd.DataFrame:
    """Read the rows back, bit for bit; NaN for an empty cell.

    Raises:
        HarveysegError: when the file is absent or no such table.
    """
    remedy = "Run `dvc repro -f` on the train stage that writes it, or `dvc checkout`."
    try:
        frame = pd.read_csv(path, float_precision="round_trip")
    except FileNotFoundError:
        raise HarveysegError(f"{path}: no such file. {remedy}") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise HarveysegError(f"{path}: not a CSV file ({error}). {remedy}") from None
    if missing := sorted(set(COLUMNS) - set(frame.columns)):
        raise HarveysegError(f"{path}: lacks the columns {', '.join(missing)}. {remedy}")
    return frame
