"""What a data source hands over to be verified and copied."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Provided:
    """A folder of photos and masks, and what identifies them."""

    folder: Path
    """In the Kaggle layout; it is verified and copied, never changed."""
    detail: Mapping[str, Any]
    """For ``source.json``: what else identifies the data, without anything that differs between two clones."""
    name: str | None = None
    """What messages call the folder, where the user knows it by another name than ``data.source``."""
