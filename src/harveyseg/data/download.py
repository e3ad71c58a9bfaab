"""Downloading large files: what broke off goes on where it stopped, and only a checked file gets its final name.

requests carries the bytes, and urllib3's ``Retry`` waits for servers that are busy. pooch, the usual choice, was looked
at (1.9) and left: it opens its output anew at every try, so that 1.8 GB which break off start again from zero, and it
takes from figshare only the first ten files of an article, at an address that answers programs with an empty page. What
it lacks is here: the next piece is asked for with ``Range``, and ``If-Range`` makes the server send the whole file
instead when that has changed meanwhile.
"""

import errno
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

from harveyseg.errors import HarveysegError
from harveyseg.files import write_json

if TYPE_CHECKING:
    import requests

TRIES = 6
"""So often in a row a request may fail, or a connection break off without a new byte, before a download gives up."""
BACKOFF = 0.5
"""Seconds before the second try; each further wait is twice as long."""
TIMEOUT = 60.0
"""Seconds in which a connection has to be made, and the next bytes have to come."""

_BLOCK = 1 << 16  # bytes; so much can be lost when the process is killed
_BUSY = (429, 500, 502, 503, 504)
_LONGEST_WAIT = 600  # seconds; a server may ask for hours with Retry-After

logger = logging.getLogger(__name__)


class UnreachableError(HarveysegError):
    """No answer came at all: there is no network, or no such server."""


def fetch(
    url: str,
    path: Path,
    *,
    size: int | None = None,
    checksum: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Path:
    """Download a file, once: a file that is there and has the size and checksum is taken as it is.

    What has come is kept in ``<path>.part`` when a download breaks off, and the next call goes on from there, in this
    process or another. Two processes that want one file wait for each other.

    Args:
        url: http or https; redirections are followed.
        path: the file to make; its parents are made too.
        size: bytes, if known.
        checksum: ``"md5:<hexadecimal>"`` or ``"sha256:<hexadecimal>"``, if known.
        headers: further headers of the requests, e.g. an authorisation.

    Returns:
        ``path``.

    Raises:
        HarveysegError: when the server cannot be reached or does not give the file, the disk is full, or what came has
            another size or checksum.
    """
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        if path.exists():
            if not (wrong := _difference(path, size, checksum)):
                return path
            logger.warning("%s: %s; it is downloaded again.", path, wrong)
        download = _Download(url, path, size, checksum)
        with _session(headers) as session:
            download.run(session)
    return path


def fetch_json(url: str, params: Mapping[str, str | int] | None = None) -> Any:
    """Ask a web service.

    Args:
        url: its address.
        params: the query.

    Returns:
        The JSON that it answers with.

    Raises:
        UnreachableError: when no answer comes.
        HarveysegError: when it answers with anything else.
    """
    import requests

    with _session(None) as session, _clear_errors(url):
        for tries in range(1, TRIES + 1):
            try:
                response = session.get(url, params=params, timeout=TIMEOUT)
                break
            except requests.exceptions.ChunkedEncodingError:  # broken off within the answer
                if tries == TRIES:
                    raise
                time.sleep(BACKOFF * 2**tries)
        if response.status_code != 200:
            raise _refused(url, response)
        try:
            return response.json(parse_constant=_no_json)
        except ValueError as error:
            raise HarveysegError(
                f"{without_secrets(url)}: the answer is not JSON ({error}). Is a proxy or a log-in page in between?"
            ) from None


def _no_json(name: str) -> NoReturn:
    """Refuse NaN and infinity, which Python's reader takes though JSON has none."""
    raise ValueError(f"it holds {name}")


class _Download:
    """One file on its way."""

    def __init__(self, url: str, path: Path, size: int | None, checksum: str | None) -> None:
        self._url = url
        self._path = path
        self._size = size
        self._checksum = checksum
        self._part = path.with_name(f"{path.name}.part")
        self._note = path.with_name(f"{path.name}.part.json")
        """Of which file ``part`` is the beginning: its checksum, and what If-Range wants."""

    def run(self, session: "requests.Session") -> None:
        """Go on until the file is there."""
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.progress import TransferSpeedColumn as Speed

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), Speed(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as progress:
            task = progress.add_task(self._path.name, total=self._size)
            tries = 0
            while True:
                before = self._have()
                problem = ""
                try:
                    with _clear_errors(self._url):
                        for have, total in self._receive(session):
                            progress.update(task, completed=have, total=total)
                except _BrokenOffError as error:
                    problem = str(error)
                if not problem:
                    break
                tries = 0 if self._have() > before else tries + 1
                if tries == TRIES:
                    raise HarveysegError(
                        f"{without_secrets(self._url)}: the connection broke off {TRIES} times without a new byte "
                        f"({problem}). {self._have():,} bytes are kept in {self._part}: run the command again to go on."
                    )
                wait = BACKOFF * 2**tries
                logger.warning("%s: broke off (%s); going on in %g s.", self._path.name, problem, wait)
                time.sleep(wait)
        self._finish()

    def _have(self) -> int:
        return self._part.stat().st_size if self._part.exists() else 0

    def _receive(self, session: "requests.Session") -> Iterator[tuple[int, int | None]]:
        """Ask for what is missing and append it; yields (bytes that are here, bytes of the whole file if known)."""
        import urllib3

        validator = self._read_note()
        have = 0 if validator is None else self._have()
        if have and have == self._size:
            return  # killed after the last byte
        # Packed for the way, the bytes would be others than those that are counted and continued.
        asked = {"Accept-Encoding": "identity"}
        if have:
            asked["Range"] = f"bytes={have}-"
            if validator:
                asked["If-Range"] = validator
        with session.get(self._url, headers=asked, stream=True, timeout=TIMEOUT) as response:
            status, content_range = response.status_code, response.headers.get("Content-Range", "")
            if have and status == 416 and content_range == f"bytes */{have}":
                return
            other = validator and _validator(response) not in ("", validator)
            if status == 416 or (status == 206 and (other or not content_range.startswith(f"bytes {have}-"))):
                self._part.unlink(missing_ok=True)
                raise _BrokenOffError("the server has another file by now: starting again")
            if status not in (200, 206):
                raise _refused(self._url, response)
            if status == 200:
                have = 0
                # In this order: a note never lies beside the beginning of another file, whenever the process is killed.
                self._part.unlink(missing_ok=True)
                write_json(self._note, {"checksum": self._checksum, "validator": _validator(response)})
            claimed = content_range.rpartition("/")[2] if status == 206 else response.headers.get("Content-Length", "")
            total = int(claimed) if claimed.isdecimal() else self._size
            self._check_room(have, total)
            yield have, total
            try:
                with self._part.open("ab") as opened:
                    for block in response.raw.stream(_BLOCK, decode_content=False):
                        opened.write(block)
                        have += len(block)
                        yield have, total
            except urllib3.exceptions.HTTPError as error:
                raise _BrokenOffError(_reason(error)) from None
            except OSError as error:
                raise self._disk_error(error) from None
            if total is not None and have < total:
                raise _BrokenOffError(f"the server ended after {have:,} of {total:,} bytes")

    def _read_note(self) -> str | None:
        """What If-Range names, perhaps nothing; None when nothing can tell whether ``part`` begins this very file."""
        try:
            note = json.loads(self._note.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):  # absent, not UTF-8 or no JSON
            return None
        if not isinstance(note, dict) or not {"checksum", "validator"} <= note.keys():
            return None
        known = note["checksum"] == self._checksum and (note["validator"] or self._checksum)
        return str(note["validator"]) if known else None

    def _check_room(self, have: int, total: int | None) -> None:
        free = shutil.disk_usage(self._path.parent).free
        if total is not None and total - have > free:
            raise HarveysegError(
                f"{self._path}: {total - have:,} bytes are still to come, and only {free:,} are free there. Make room, "
                "then run the command again."
            )

    def _disk_error(self, error: OSError) -> HarveysegError:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return HarveysegError(
            f"{self._part}: {'the disk is full' if full else 'cannot be written'} ({error.strerror}). What has come is "
            f"kept; {'make room' if full else 'mend that'}, then run the command again to go on."
        )

    def _finish(self) -> None:
        """Check the file and give it its name."""
        if wrong := _difference(self._part, self._size, self._checksum):
            self._part.unlink()
            self._note.unlink(missing_ok=True)
            raise HarveysegError(
                f"{without_secrets(self._url)}: {wrong}. It was removed; run the command again to download it anew. "
                "If that happens again, the file was changed or damaged where it comes from."
            )
        with self._part.open("rb") as opened:
            os.fsync(opened.fileno())
        self._part.replace(self._path)
        self._note.unlink(missing_ok=True)


class _BrokenOffError(Exception):
    """The connection ended early; another try may go on."""


@contextmanager
def _session(headers: Mapping[str, str] | None) -> Iterator["requests.Session"]:
    """Waits and asks again when no connection can be made or the server is busy (5xx; 429, as long as it asks for)."""
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3 import BaseHTTPResponse
    from urllib3.util import Retry

    class TellingRetry(Retry):
        def sleep(self, response: BaseHTTPResponse | None = None) -> None:
            why = "no connection" if response is None else f"the server is busy ({response.status})"
            seconds = response and self.get_retry_after(response)
            logger.warning("%s: asking again %s.", why, f"in {seconds:g} s, as it wants" if seconds else "soon")
            super().sleep(response)

    retry = TellingRetry(
        total=TRIES,
        status_forcelist=_BUSY,
        backoff_factor=BACKOFF,
        raise_on_status=False,
        retry_after_max=_LONGEST_WAIT,
    )
    log = logging.getLogger("urllib3.connectionpool")
    level = log.level
    log.setLevel(logging.ERROR)  # its warnings hold whole addresses, which may be signed
    try:
        with requests.Session() as session:
            session.mount("http://", HTTPAdapter(max_retries=retry))
            session.mount("https://", HTTPAdapter(max_retries=retry))
            session.headers["User-Agent"] = "harveyseg"
            session.headers.update(headers or {})
            yield session
    finally:
        log.setLevel(level)


@contextmanager
def _clear_errors(url: str) -> Iterator[None]:
    """Say what requests' exceptions mean."""
    import requests

    try:
        yield
    except requests.exceptions.InvalidSchema:
        raise HarveysegError(f"{without_secrets(url)}: no http or https address. Correct it.") from None
    except (requests.exceptions.InvalidURL, requests.exceptions.MissingSchema) as error:
        raise HarveysegError(f"{url}: no valid address ({error}). Correct it.") from None
    except requests.exceptions.RequestException as error:
        raise UnreachableError(
            f"{without_secrets(url)}: cannot be reached ({_reason(error)}). Check the network, or HTTPS_PROXY if there "
            "is a proxy, and run the command again; what was downloaded is kept."
        ) from None


def _reason(error: BaseException) -> str:
    """The innermost cause of a network error, without the addresses that the outer ones repeat."""
    while True:
        inner = getattr(error, "reason", None) or next((arg for arg in error.args if isinstance(arg, Exception)), None)
        if not isinstance(inner, Exception):
            return str(error).rsplit(": ", 1)[-1] or type(error).__name__
        error = inner


def _refused(url: str, response: "requests.Response") -> HarveysegError:
    """What a status means for the user."""
    status = response.status_code
    if status in _BUSY:
        text = f"the server is busy or broken (it answered {TRIES + 1} times, last with {status})"
        remedy = "Try again later; what was downloaded is kept."
    elif status in (404, 410):
        text, remedy = f"there is no such file ({status})", "Correct the address, or the number or DOI that led to it."
    elif status in (401, 403):
        text = f"the server does not give it to you ({status})"
        remedy = "It may be private or want a log-in; a network's proxy may forbid it, too."
    elif status == 202 and "x-amzn-waf-action" in response.headers:
        text = "the server wants to be sure that a person asks (an empty answer, 202)"
        remedy = "Download the file with a browser and use data.source: directory."
    else:
        text, remedy = f"the server answered with the status {status} {response.reason}", "Check the address."
    return HarveysegError(f"{without_secrets(url)}: {text}. {remedy}")


def _validator(response: "requests.Response") -> str:
    """What If-Range may name: a strong ETag, else the date of the last change, else nothing."""
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else response.headers.get("Last-Modified", "")


def _difference(path: Path, size: int | None, checksum: str | None) -> str:
    """How a file differs from what it should be; empty when it does not."""
    actual = path.stat().st_size
    if size is not None and actual != size:
        return f"the file has {actual:,} bytes, {size:,} were expected"
    if checksum is not None:
        algorithm, _, expected = checksum.partition(":")
        with path.open("rb") as opened:
            found = hashlib.file_digest(opened, algorithm).hexdigest()
        if found != expected.lower():
            return f"the file's {algorithm} is {found}, {expected} was expected"
    return ""


def without_secrets(url: str) -> str:
    """An address without its query and user, which may hold secrets."""
    split = urlsplit(url)
    return split._replace(netloc=split.netloc.rpartition("@")[2], query="", fragment="").geturl()
