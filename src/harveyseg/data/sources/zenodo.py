"""Records of Zenodo, by DOI; a part of ``data.source: figshare``.

The API (developers.zenodo.org) describes a record with all its files, their sizes and MD5s. A DOI belongs to one
version or to all; the number of the latter leads to the latest version, whose own number is in the answer.
"""

import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pydantic import BaseModel, Field

from harveyseg.data.sources.published import PublishedFile, RepositoryApi
from harveyseg.errors import HarveysegError

_API = "https://zenodo.org/api"
ZENODO_API_VARIABLE = "HARVEYSEG_ZENODO_API"
"""Environment variable with another address of the API, for tests."""
DOI = re.compile(r"10\.5281/zenodo\.(\d+)", re.IGNORECASE)
PAGE = re.compile(r"https?://(?:www\.)?zenodo\.org/records?/(\d+)/?(?:[?#].*)?")


class _File(BaseModel):
    """The fields of a file that are used."""

    key: str
    size: int
    checksum: str = Field(pattern="^md5:[0-9a-f]{32}$")


class _Record(BaseModel):
    """The fields of a record that are used."""

    id: int
    files: list[_File] = []


def provide_record(number: int, downloads: Path, unpacked: Path) -> dict[str, Any]:
    """Fetch a record's files, unless they are there, and unpack them.

    Args:
        number: of the record, or of all its versions.
        downloads: where fetched files are kept.
        unpacked: gets a folder with the files.

    Returns:
        What identifies the record.

    Raises:
        HarveysegError: when it has no public files, or one cannot be fetched or unpacked.
    """
    api = RepositoryApi("Zenodo", os.environ.get(ZENODO_API_VARIABLE, _API), downloads / "zenodo")
    record = api.query(f"records/{number}", {}, _Record)
    origin = f"Zenodo record {record.id}"
    if not record.files:
        raise HarveysegError(
            f"{origin}: it has no public files (restricted or under embargo). Ask for access at "
            f"https://zenodo.org/records/{record.id}, download them, and use data.source: directory."
        )
    files = [
        PublishedFile(
            name=file.key,
            size=file.size,
            checksum=file.checksum,
            url=f"{api.address}/records/{record.id}/files/{quote(file.key, safe='')}/content",
            key=str(record.id),
        )
        for file in record.files
    ]
    api.fetch_files(files, origin, unpacked / str(record.id))
    listed = [{"name": file.key, "size": file.size, "md5": file.checksum.removeprefix("md5:")} for file in record.files]
    return {"id": record.id, "files": listed}
