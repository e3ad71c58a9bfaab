"""Where things are."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The checkout."""

REAL_PHOTOS = Path(os.environ.get("HARVEYSEG_DATA") or ROOT.parent / "shared" / "data" / "harvey")
"""The competition's photos in the Kaggle layout; tests that need them are skipped where the folder is absent."""
