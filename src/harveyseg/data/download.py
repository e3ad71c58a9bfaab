"""Downloading large files: an interrupted download is resumed, and only a verified file gets its final name.

requests transfers the bytes, and urllib3's ``Retry`` waits for busy servers. pooch, the usual choice, starts 1.8 GB
again from zero when a connection breaks. Here, the next request asks for the missing bytes with ``Range``, and
``If-Range`` makes the server send the whole file instead if it has changed in the meantime.
"""

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.exceptions import InvalidSchema, InvalidURL, MissingSchema
from urllib3.util import Retry

from harveyseg.errors import HarveysegError
from harveyseg.files import locked, write_json
from harveyseg.progress import BYTES, Progress

TRIES = 6
"""Consecutive requests without a new byte after which a download gives up."""
BACKOFF = 0.5
"""Seconds before the second try; each further wait is twice as long."""
TIMEOUT = 60.0
"""Seconds to wait for a connection, and for the next bytes."""

_BLOCK = 1 << 16
_BUSY = (429, 500, 502, 503, 504)
_MAX_WAIT = 600  # seconds; with Retry-After a server may ask for hours

logger = logging.getLogger(__name__)


class UnreachableError(HarveysegError):
    """No answer came: there is no network, or no such server."""


def fetch(url: str, path: Path, *, size: int | None = None, checksum: str | None = None) -> Path:
    """Download a file, unless it is there with the expected size and checksum.

    An interrupted download leaves ``<path>.part``, which the next call resumes, in this process or another. Two
    processes that want one file wait for each other.

    Args:
        url: http or https; redirections are followed.
        path: the file to make, with its parents.
        size: bytes, if known.
        checksum: ``"md5:<hexadecimal>"`` or ``"sha256:<hexadecimal>"``, if known.

    Returns:
        ``path``.

    Raises:
        HarveysegError: when the server cannot be reached or refuses the file, the disk is full, or the file has another
            size or checksum.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.with_name(f".{path.name}.lock")):
        if path.exists():
            difference = _difference(path, size, checksum)
            if not difference:
                return path
            logger.warning("%s: %s; it is downloaded again.", path, difference)
        _Download(url, path, size, checksum).run()
    return path


def fetch_json(url: str, params: Mapping[str, str | int] | None = None) -> Any:
    """Query a web service.

    Args:
        url: its address.
        params: the query.

    Returns:
        The JSON of the answer.

    Raises:
        UnreachableError: when no answer comes.
        HarveysegError: when the answer is anything else than JSON.
    """
    with _session() as session, _clear_errors(url):
        for attempt in range(1, TRIES + 1):
            try:
                response = session.get(url, params=params, timeout=TIMEOUT)
                break
            except requests.exceptions.ChunkedEncodingError:  # interrupted within the answer
                if attempt == TRIES:
                    raise
                time.sleep(BACKOFF * 2**attempt)
        if response.status_code != 200:
            raise _refused(url, response)
        try:
            return response.json()
        except ValueError as error:
            raise HarveysegError(
                f"{without_secrets(url)}: the answer is not JSON ({error}). Is there a proxy or a log-in page?"
            ) from None


def without_secrets(url: str) -> str:
    """An address without its query and user, which may hold secrets.

    >>> without_secrets("https://ana:secret@host:8/a.zip?sig=secret")
    'https://host:8/a.zip'
    """
    split = urlsplit(url)
    return split._replace(netloc=split.netloc.rpartition("@")[2], query="", fragment="").geturl()


class _BrokenOffError(Exception):
    """The connection ended early; another request may continue."""


class _Download:
    """The download of one file."""

    def __init__(self, url: str, path: Path, size: int | None, checksum: str | None) -> None:
        self._url = url
        self._path = path
        self._size = size
        self._checksum = checksum
        self._part = path.with_name(f"{path.name}.part")
        self._note = path.with_name(f"{path.name}.part.json")
        """Which file ``part`` is the beginning of: its checksum, and the value for If-Range."""

    def run(self) -> None:
        """Request the missing bytes until the file is complete, then verify it and give it its name."""
        title = f"downloading {self._path.name}"
        with _session() as session, Progress(title, self._size, BYTES, self._received()) as progress:
            tries = 0
            while True:
                before = self._received()
                try:
                    with _clear_errors(self._url):
                        for received, total in self._receive(session):
                            progress.reach(received, total)
                    break
                except _BrokenOffError as error:
                    tries = 0 if self._received() > before else tries + 1
                    if tries == TRIES:
                        raise HarveysegError(
                            f"{without_secrets(self._url)}: the connection broke off {TRIES} times without a new byte "
                            f"({error}). {self._received():,} bytes are kept in {self._part}; run the command again to "
                            "continue."
                        ) from None
                    logger.warning("%s: broke off (%s); continuing soon.", self._path.name, error)
                    time.sleep(BACKOFF * 2**tries)
        self._finish()

    def _received(self) -> int:
        return self._part.stat().st_size if self._part.exists() else 0

    def _receive(self, session: requests.Session) -> Iterator[tuple[int, int | None]]:
        """Request the missing bytes and append them; yields (bytes received, bytes of the whole file if known)."""
        validator = self._read_validator()
        received = 0 if validator is None else self._received()
        if received and received == self._size:
            return  # killed after the last byte
        headers = {"Accept-Encoding": "identity"}  # compressed bytes could not be counted and continued
        if received:
            headers["Range"] = f"bytes={received}-"
            if validator:
                headers["If-Range"] = validator
        with session.get(self._url, headers=headers, stream=True, timeout=TIMEOUT) as response:
            content_range = response.headers.get("Content-Range", "")
            if received and response.status_code == 416 and content_range == f"bytes */{received}":
                return
            self._check_continuation(response, received, validator)
            if response.status_code == 206:
                start = received
                length = content_range.rpartition("/")[2]
            else:
                start = 0
                length = response.headers.get("Content-Length", "")
                # In this order: a note never describes the beginning of another file, whenever the process is killed.
                self._part.unlink(missing_ok=True)
                write_json(self._note, {"checksum": self._checksum, "validator": _validator(response)})
            total = int(length) if length.isdecimal() else self._size
            for received in self._append(response, start, total):
                yield received, total
        if total is not None and received < total:
            raise _BrokenOffError(f"the server ended after {received:,} of {total:,} bytes")

    def _check_continuation(self, response: requests.Response, received: int, validator: str | None) -> None:
        """Refuse an answer that is neither the whole file nor the bytes that continue this one."""
        status = response.status_code
        if status not in (200, 206, 416):
            raise _refused(self._url, response)
        changed = bool(validator) and _validator(response) not in ("", validator)
        continues = response.headers.get("Content-Range", "").startswith(f"bytes {received}-") and not changed
        if status == 416 or (status == 206 and not continues):
            self._part.unlink(missing_ok=True)
            raise _BrokenOffError("the server has another file by now: starting again")

    def _append(self, response: requests.Response, received: int, total: int | None) -> Iterator[int]:
        """Write the answer to the end of ``part``; yields the bytes received so far."""
        free = shutil.disk_usage(self._path.parent).free
        if total is not None and total - received > free:
            raise HarveysegError(
                f"{self._path}: {total - received:,} more bytes are needed, and only {free:,} are free there. "
                "Free some disk space, then run the command again."
            )
        yield received
        try:
            with self._part.open("ab") as opened:
                for block in response.raw.stream(_BLOCK, decode_content=False):
                    opened.write(block)
                    received += len(block)
                    yield received
        except urllib3.exceptions.HTTPError as error:
            raise _BrokenOffError(_reason(error)) from None
        except OSError as error:
            raise HarveysegError(
                f"{self._part}: cannot be written ({error.strerror}). Free some disk space or fix the folder's "
                "permissions, then run the command again to continue; the bytes received so far are kept."
            ) from None

    def _read_validator(self) -> str | None:
        """The value for If-Range, perhaps empty; None when ``part`` may be the beginning of another file."""
        try:
            note = json.loads(self._note.read_bytes())
            validator = str(note["validator"])
            same = note["checksum"] == self._checksum and (validator or self._checksum)
        except (FileNotFoundError, ValueError, KeyError, TypeError):  # no note, or a damaged one
            return None
        return validator if same else None

    def _finish(self) -> None:
        if difference := _difference(self._part, self._size, self._checksum):
            self._part.unlink()
            self._note.unlink(missing_ok=True)
            raise HarveysegError(
                f"{without_secrets(self._url)}: {difference}. It was removed; run the command again to download it "
                "again. If that does not help, the file was changed or damaged at its source."
            )
        with self._part.open("rb") as opened:
            os.fsync(opened.fileno())
        self._part.replace(self._path)
        self._note.unlink(missing_ok=True)


class _LoudRetry(Retry):
    def sleep(self, response: urllib3.BaseHTTPResponse | None = None) -> None:
        logger.warning("%s: trying again.", "no connection" if response is None else f"busy ({response.status})")
        super().sleep(response)


@contextmanager
def _session() -> Iterator[requests.Session]:
    """A session that repeats requests when there is no connection or the server is busy; it heeds Retry-After."""
    retry = _LoudRetry(
        total=TRIES,
        status_forcelist=_BUSY,
        backoff_factor=BACKOFF,
        raise_on_status=False,
        retry_after_max=_MAX_WAIT,
    )
    urllib3_logger = logging.getLogger("urllib3.connectionpool")
    level = urllib3_logger.level
    urllib3_logger.setLevel(logging.ERROR)  # its warnings hold whole addresses, which may be signed
    try:
        with requests.Session() as session:
            session.mount("http://", HTTPAdapter(max_retries=retry))
            session.mount("https://", HTTPAdapter(max_retries=retry))
            session.headers["User-Agent"] = "harveyseg"
            yield session
    finally:
        urllib3_logger.setLevel(level)


@contextmanager
def _clear_errors(url: str) -> Iterator[None]:
    """Translate requests' exceptions."""
    try:
        yield
    except (InvalidSchema, InvalidURL, MissingSchema):
        raise HarveysegError(f"{without_secrets(url)}: not a valid http or https address. Correct it.") from None
    except requests.exceptions.RequestException as error:
        raise UnreachableError(
            f"{without_secrets(url)}: cannot be reached ({_reason(error)}). Check the network, or HTTPS_PROXY if there "
            "is a proxy, and run the command again; downloaded bytes are kept."
        ) from None


def _reason(error: BaseException) -> str:
    """The innermost cause of a network error, without the addresses that the outer ones repeat."""
    while True:
        inner = getattr(error, "reason", None) or next((arg for arg in error.args if isinstance(arg, Exception)), None)
        if not isinstance(inner, Exception):
            return str(error).rsplit(": ", 1)[-1] or type(error).__name__
        error = inner


def _refused(url: str, response: requests.Response) -> HarveysegError:
    if response.status_code in _BUSY:
        remedy = "The server is busy or broken: try again later; downloaded bytes are kept."
    else:
        remedy = (
            "Check the address, or the number or DOI that led to it. If the file needs a log-in, download it with a "
            "browser and use data.source: directory."
        )
    status = f"{response.status_code} {response.reason or ''}".strip()
    return HarveysegError(f"{without_secrets(url)}: the server answered with status {status}. {remedy}")


def _validator(response: requests.Response) -> str:
    """A value for If-Range: a strong ETag, else the date of the last change, else nothing."""
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else response.headers.get("Last-Modified", "")


def _difference(path: Path, size: int | None, checksum: str | None) -> str:
    """How a file differs from the expected one; empty if it does not."""
    actual_size = path.stat().st_size
    if size is not None and actual_size != size:
        return f"the file has {actual_size:,} bytes, {size:,} were expected"
    if checksum is not None:
        algorithm, _, expected = checksum.partition(":")
        with path.open("rb") as opened:
            actual = hashlib.file_digest(opened, algorithm).hexdigest()
        if actual != expected.lower():
            return f"the file's {algorithm} is {actual}, {expected} was expected"
    return ""
