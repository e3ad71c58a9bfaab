"""The result of a data source, before its files are verified and copied."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harveyseg.data.sources.hold_out import HoldOut


@dataclass(frozen=True)
class SourceData:
    """A folder of photos and masks, and what identifies them."""

    folder: Path
    """In the Kaggle layout; it is verified and copied, never changed."""
    detail: Mapping[str, Any]
    """What else identifies the data, for ``source.json``; the same in two clones."""
    name: str | None = None
    """How messages refer to the folder, if the user knows it by another name than ``data.source``."""
    overlaps: Sequence[tuple[str, str]] | None = None
    """The pairs of ids that show the same ground; None if the source does not know them."""
    hold_out: HoldOut | None = None
    """How a test part is held out; None if the folder has one, or none is wanted."""
    needs_test: bool = True
    """Whether a folder without ``test_images`` is a problem."""
