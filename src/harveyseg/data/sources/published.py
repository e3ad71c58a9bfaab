"""Repositories of research data (figshare, Zenodo): a web API that is queried, and files that are fetched once."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from harveyseg.data.archives import ENDINGS, unpack
from harveyseg.data.download import UnreachableError, fetch, fetch_json
from harveyseg.errors import HarveysegError
from harveyseg.files import read_json, write_json

AnswerT = TypeVar("AnswerT")

_MAX_NAME = 200  # bytes; file systems take 255, and downloads add a suffix

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PublishedFile:
    """A file that can be fetched."""

    name: str
    size: int
    checksum: str | None
    """As in :func:`harveyseg.data.download.fetch`; None if the repository states none."""
    url: str
    key: str
    """A folder name, different for each file of the same name and each version of it."""


def is_file_name(name: str) -> bool:
    """Whether a file can have a name that someone else chose, and does not lead to another folder.

    >>> is_file_name("photos.zip"), is_file_name("../photos.zip"), is_file_name("..")
    (True, False, False)
    """
    short = len(name.encode()) <= _MAX_NAME
    return short and name.isprintable() and name == PurePath(name).name and name not in ("", "..")


class RepositoryApi:
    """The web API of a repository. Its answers are kept, so that fetched data can be used without a network."""

    def __init__(self, name: str, address: str, downloads: Path) -> None:
        """Describe the API without querying it.

        Args:
            name: of the repository, for messages.
            address: of the API.
            downloads: where answers and files are kept.
        """
        self.address = address.rstrip("/")
        self._name = name
        self._downloads = downloads

    def query(self, path: str, params: Mapping[str, str | int], model: type[AnswerT]) -> AnswerT:
        """Query the API, and validate the answer against ``model``.

        Raises:
            HarveysegError: when there is no valid answer. If the repository cannot be reached, its last answer to the
                same query is used.
        """
        url = f"{self.address}/{path}"
        key = hashlib.sha256(f"{url} {sorted(params.items())}".encode()).hexdigest()[:16]
        saved = self._downloads / "answers" / f"{key}.json"
        try:
            answer = fetch_json(url, params)
        except UnreachableError as error:
            if not saved.exists():
                raise
            logger.warning("%s Its last answer is used.", error)
            answer = read_json(saved, "Remove it.")["answer"]
        else:
            write_json(saved, {"url": url, "params": dict(params), "answer": answer})
        try:
            return TypeAdapter(model).validate_python(answer)
        except ValidationError as error:
            raise HarveysegError(
                f"{url}: unexpected answer of {self._name}'s API ({error.errors()[0]['msg']} at "
                f"{error.errors()[0]['loc']}). Has the API changed? Download the files by hand, and use data.source: "
                "directory."
            ) from None

    def fetch_files(self, files: Sequence[PublishedFile], origin: str, folder: Path) -> None:
        """Fetch files unless they are there, and unpack the archives among them.

        Args:
            files: the files.
            origin: the article or record that they belong to, for messages.
            folder: the folder to make; each file gets a subfolder.

        Raises:
            HarveysegError: when a file cannot be fetched or unpacked.
        """
        folder.mkdir(parents=True)
        for index, file in enumerate(files):
            if not is_file_name(file.name):
                raise HarveysegError(f"{origin}: {file.name!r} is not a file name. Download the files by hand.")
            path = fetch(file.url, self._downloads / file.key / file.name, size=file.size, checksum=file.checksum)
            target = folder / f"file {index}"
            if file.name.lower().endswith(ENDINGS):
                unpack(path, target)
            else:
                target.mkdir()
                (target / file.name).symlink_to(path)
