"""What services that publish research data have in common: an API that is asked, and files that are fetched once."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from harveyseg.data.archives import ENDINGS, unpack
from harveyseg.data.download import UnreachableError, fetch, fetch_json
from harveyseg.errors import HarveysegError
from harveyseg.files import read_json, write_json

AnswerT = TypeVar("AnswerT")

_LONGEST_NAME = 200  # bytes; file systems take 255

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PublishedFile:
    """A file that can be fetched."""

    name: str
    size: int
    checksum: str | None
    """As :func:`harveyseg.data.download.fetch` takes it; None where the service states none."""
    url: str
    key: str
    """A folder's name that no other file of this name gets, nor another version of it."""


def is_file_name(name: str) -> bool:
    """Whether a file can be kept under a name that someone else chose, with room for the endings of a download."""
    odd = name in ("", ".", "..") or "/" in name or "\\" in name or not name.isprintable()
    return not odd and len(name.encode()) <= _LONGEST_NAME


class Service:
    """A service's API; its answers are kept, so that what was fetched once can be used without a network."""

    def __init__(self, name: str, address: str, downloads: Path) -> None:
        """Ask nothing yet.

        Args:
            name: what messages call it.
            address: of the API.
            downloads: where answers and files stay.
        """
        self.address = address.rstrip("/")
        self._name = name
        self._downloads = downloads

    def ask(self, path: str, params: Mapping[str, str | int], model: type[AnswerT]) -> AnswerT:
        """Ask for what is at a path below the address; checked to be as ``model`` says.

        Raises:
            HarveysegError: when the service gives no such answer, and gave none before where it cannot be reached.
        """
        url = f"{self.address}/{path}"
        key = hashlib.sha256(f"{url} {sorted(params.items())}".encode()).hexdigest()[:16]
        kept = self._downloads / "answers" / f"{key}.json"
        try:
            answer = fetch_json(url, params)
        except UnreachableError as error:
            if not kept.exists():
                raise
            logger.warning("%s What it answered last time is used.", error)
            answer = read_json(kept, "Remove it.")["answer"]
        else:
            write_json(kept, {"url": url, "params": dict(params), "answer": answer})
        try:
            return TypeAdapter(model).validate_python(answer)
        except ValidationError as error:
            raise HarveysegError(
                f"{url}: the answer is not what {self._name}'s API promises ({error.errors()[0]['msg']} at "
                f"{error.errors()[0]['loc']}). Has it changed? Download the files by hand, for data.source: directory."
            ) from None

    def provide(self, files: Sequence[PublishedFile], where: str, folder: Path) -> None:
        """Fetch files unless they are there, and unpack archives among them.

        Args:
            files: which.
            where: of what they are, for messages.
            folder: the folder to make; each file gets a folder of its own in it.

        Raises:
            HarveysegError: when a file cannot be fetched or unpacked, or its name is none.
        """
        folder.mkdir(parents=True)
        for index, file in enumerate(files):
            if not is_file_name(file.name):
                why = "is no name of a file, or a very long one"
                raise HarveysegError(f"{where}: {file.name!r} {why}. Download the files by hand.")
            kept = self._downloads / file.key / file.name
            path = fetch(file.url, kept, size=file.size, checksum=file.checksum)
            place = folder / f"file {index}"
            if file.name.lower().endswith(ENDINGS):
                unpack(path, place)
            else:
                place.mkdir()
                (place / file.name).symlink_to(path)
