"""Where things are, and what is in a folder."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The checkout."""


def files_in(folder: Path) -> dict[str, bytes]:
    """The content of every file in a folder, by its path from there."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


REAL_PHOTOS = Path(os.environ.get("HARVEYSEG_DATA") or ROOT.parent / "shared" / "data" / "harvey")
"""The competition's photos in the Kaggle layout; tests that need them are skipped where the folder is absent."""
