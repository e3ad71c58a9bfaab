"""``data.source: kaggle``: all files of a competition, fetched once with the credentials of Kaggle's own client."""

import re
from pathlib import Path

from pydantic import field_validator

from harveyseg.config.settings import Section
from harveyseg.data.archives import unpack
from harveyseg.data.download import fetch
from harveyseg.data.sources.kaggle_client import Competition
from harveyseg.data.sources.source_data import SourceData


class KaggleParams(Section):
    """The section ``data.kaggle``."""

    competition: str = "fdl21-fdl-dsba"
    """The last part of the competition's address. `harveyseg upload` submits to the same competition."""

    @field_validator("competition")
    @classmethod
    def _name(cls, value: str) -> str:
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", value):
            raise ValueError("must be the last part of the competition's address: lower-case letters, digits and -")
        return value


def provide_kaggle(params: KaggleParams, root: Path, scratch: Path) -> SourceData:
    """Fetch the competition's archive, unless it is there, and unpack it.

    Args:
        params: which competition.
        root: the project's root. The archive is kept in its ``.downloads/kaggle/<competition>``, and an interrupted
            download is resumed there.
        scratch: an empty folder for the files.

    Raises:
        HarveysegError: when Kaggle refuses the archive, or it is damaged.
    """
    archive = root / ".downloads" / "kaggle" / params.competition / f"{params.competition}.zip"
    if not archive.exists():
        url, size = Competition(params.competition).archive()
        fetch(url, archive, size=size)
    return SourceData(unpack(archive, scratch / "files"), {"competition": params.competition})
