"""A competition on Kaggle, through Kaggle's own client: signing in, its archive, its submissions, and what went wrong.

The client is an extra (``pip install -e '.[kaggle]'``) and takes a second to import, so that happens only in
functions. It signs in while it is imported, ends the process where it cannot, and prints request headers and signed
addresses in some situations: nothing of what it prints reaches the terminal but its warnings.
"""

import contextlib
import importlib.util
import io
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from harveyseg.errors import HarveysegError

if TYPE_CHECKING:
    import requests

T = TypeVar("T")

_WAITS = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds before each repetition of a request that failed for a reason that passes."""
_LONGEST_WAIT = 300.0
_POLLS = (2.0, 4.0, 8.0, 15.0, 30.0)
"""Seconds between two questions for a score; the last one goes on."""
_ON_PAGE = 100
_HELP = "docs/kaggle.md says more."
_SIGN_IN = (
    "Run `kaggle auth login`, or put a token from https://www.kaggle.com/settings into KAGGLE_API_TOKEN or "
    f"~/.kaggle/access_token (an older kaggle.json, or KAGGLE_USERNAME and KAGGLE_KEY, will do). {_HELP}"
)


@dataclass(frozen=True)
class Archive:
    """Where all files of a competition can be fetched for a while."""

    url: str
    """Signed: whoever has it can fetch the files, so it is for no log and no message."""
    size: int | None
    """In bytes, if the server says so."""


@dataclass(frozen=True)
class Submission:
    """A submission as Kaggle knows it."""

    ref: int
    description: str
    status: Literal["pending", "complete", "error"]
    error: str
    """What Kaggle found wrong with the file; "" unless the status is ``error``."""
    scores: dict[str, float]
    """``public_score`` and, once the competition is over, ``private_score``."""


class BrokenOffError(HarveysegError):
    """Kaggle may or may not have taken what it was sent."""


def require_client() -> None:
    """Check that Kaggle's client is installed, without running any of its code.

    Raises:
        HarveysegError: when it is not.
    """
    if importlib.util.find_spec("kaggle") is None:
        raise HarveysegError(
            f"Kaggle's client is not installed. Install the extra: pip install -e '.[kaggle]'. {_HELP}"
        )


class Competition:
    """One competition, seen by the user whose credentials the client finds."""

    def __init__(self, name: str) -> None:
        """Sign in.

        Args:
            name: the last part of its address, e.g. ``"fdl21-fdl-dsba"``.

        Raises:
            HarveysegError: when the client is not installed, finds no credentials or they are not accepted, or Kaggle
                cannot be reached.
        """
        require_client()
        self.name = name
        self.page = f"https://www.kaggle.com/competitions/{name}"
        self._api = self._call(_sign_in)

    def archive(self) -> Archive:
        """Ask for the archive of all files.

        Raises:
            HarveysegError: when the competition is unknown, its rules are not accepted, or Kaggle cannot be reached.
        """
        from kagglesdk.competitions.types.competition_api_service import ApiDownloadDataFilesRequest

        def ask() -> Archive:
            request = ApiDownloadDataFilesRequest()
            request.competition_name = self.name
            with self._api.build_kaggle_client() as client:
                # The answer of the address that Kaggle leads to; its body is left unread.
                response = client.competitions.competition_api_client.download_data_files(request)
                response.close()
            size = response.headers.get("Content-Length", "")
            return Archive(response.url, int(size) if size.isdigit() else None)

        return self._call(ask)

    def submissions(self) -> list[Submission]:
        """The newest submissions of the user's team.

        Raises:
            HarveysegError: as :meth:`archive`.
        """
        found = self._call(lambda: self._api.competition_submissions(self.name, page_size=_ON_PAGE))
        return [_submission(item) for item in found or [] if item is not None]

    def submit(self, path: Path, description: str) -> int:
        """Transfer a file and hand it in.

        Args:
            path: the file.
            description: shown beside the submission.

        Returns:
            The submission's number; 0 when Kaggle took it without naming one.

        Raises:
            HarveysegError: when Kaggle takes no such submission, and says why, or cannot be reached.
            BrokenOffError: when the connection broke or Kaggle failed before it answered. Handing in is never repeated
                then: it could count twice against the submissions of the day.
        """
        for wait in (*_WAITS, None):
            answer = self._call(
                lambda: self._api.competition_submit(str(path), description, self.name, quiet=True), repeat=False
            )
            if answer.message != self._api.COMPETITION_SUBMIT_UPLOAD_FAILED_MESSAGE:
                return int(answer.ref)
            # The file did not reach the store, from which it would have been handed in.
            if wait is not None:
                _pause(f"{path.name} could not be transferred", wait)
        raise HarveysegError(
            f"{path}: could not be transferred to Kaggle, and was not handed in. Try again later; {self.page}/submit "
            "in a browser does the same."
        )

    def wait(self, ref: int, seconds: float) -> Submission:
        """Wait until a submission is scored.

        Args:
            ref: its number.
            seconds: how long to wait at most.

        Returns:
            The submission, still ``pending`` when the time is over.

        Raises:
            HarveysegError: when it is not among the submissions any more, or as :meth:`archive`.
        """
        from rich.console import Console

        end = time.monotonic() + seconds
        polls = iter(_POLLS)
        with Console(stderr=True).status(f"Kaggle is scoring submission {ref} ..."):
            while True:
                found = next((item for item in self.submissions() if item.ref == ref), None)
                if found is None:
                    raise HarveysegError(f"Submission {ref} is not among those of {self.page}/submissions (any more).")
                left = end - time.monotonic()
                if found.status != "pending" or left <= 0:
                    return found
                time.sleep(min(next(polls, _POLLS[-1]), left))

    def _call(self, request: Callable[[], T], repeat: bool = True) -> T:
        """Send a request, again after a while where that can help.

        A rate limit (429) means that nothing was done. ``repeat`` says whether what may have been done can be repeated.
        """
        import requests

        for wait in (*_WAITS, None):
            try:
                with _only_warnings():
                    return request()
            except requests.RequestException as error:
                response = error.response
                if response is None:
                    # The error's text may hold a signed address: its kind has to do.
                    refused, cause, pause = False, f"the connection failed ({type(error).__name__})", wait
                else:
                    status, cause = _status(response), _cause(response)
                    refused = status == HTTPStatus.TOO_MANY_REQUESTS
                    if not refused and status < HTTPStatus.INTERNAL_SERVER_ERROR:
                        raise HarveysegError(self._explained(status, cause)) from None
                    pause = _retry_after(response) or wait
            if not refused and not repeat:
                raise BrokenOffError(f"Kaggle: {cause}.")
            if wait is None or pause is None or pause > _LONGEST_WAIT:
                break
            _pause(cause, pause)
        asked = "" if pause is None else f" It asks to wait for {pause:.0f} s."
        raise HarveysegError(f"Kaggle: {cause}.{asked} Check the network and {self.page}, then repeat this. {_HELP}")

    def _explained(self, status: int, cause: str) -> str:
        if status == HTTPStatus.UNAUTHORIZED:
            return f"Kaggle does not accept your credentials: {cause}. They may be old or mistyped. {_SIGN_IN}"
        if status == HTTPStatus.FORBIDDEN:
            return (
                f"Kaggle forbids this: {cause}. Open {self.page}/rules in a browser, signed in as the same user, and "
                "join the competition or accept its rules; some competitions want a verified phone number or an "
                f"invitation. A wrong data.kaggle.competition ({self.name}) is answered like this, too. {_HELP}"
            )
        if status == HTTPStatus.NOT_FOUND:
            return (
                f"Kaggle knows no competition {self.name!r}, or it takes no submissions any more: {cause}. "
                f"Correct data.kaggle.competition: it is the last part of the competition's address. {_HELP}"
            )
        return f"Kaggle refuses this: {cause}. {self.page} may say more. {_HELP}"


def _sign_in() -> Any:
    """The client, signed in."""
    try:
        from kaggle import KaggleApi

        api = KaggleApi()
        api.authenticate()
    except SystemExit:
        raise HarveysegError(f"No credentials for Kaggle, or none that it accepts. {_SIGN_IN}") from None
    return api


@contextlib.contextmanager
def _only_warnings() -> Iterator[None]:
    """Hold back what the client prints, but for its warnings, and never let it be verbose: that prints credentials."""
    printed = io.StringIO()
    log = logging.getLogger("urllib3.connectionpool")
    level = log.level
    log.setLevel(logging.ERROR)  # its warnings hold whole addresses, and those of the store are signed
    verbose = {name: os.environ.pop(name) for name in ("VERBOSE", "VERBOSE_OUTPUT") if name in os.environ}
    try:
        with contextlib.redirect_stdout(printed):
            yield
    finally:
        os.environ.update(verbose)
        log.setLevel(level)
        for line in dict.fromkeys(printed.getvalue().splitlines()):
            if line.startswith("Warning"):
                print(line, file=sys.stderr)


def _status(response: "requests.Response") -> int:
    """The status, which Kaggle may say in the body alone."""
    code = _body(response).get("code")
    return code if isinstance(code, int) else response.status_code


def _cause(response: "requests.Response") -> str:
    """What an answer says is wrong, in Kaggle's own words if there are any."""
    status = _status(response)
    message = str(_body(response).get("message") or "").strip().rstrip(".")
    return f"{message} ({status})" if message else f"{response.reason or 'no reason given'} ({status})"


def _body(response: "requests.Response") -> dict[str, Any]:
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _retry_after(response: "requests.Response") -> float | None:
    """The seconds that a server asks to wait."""
    from urllib3.exceptions import InvalidHeader
    from urllib3.util import Retry

    try:
        return Retry().parse_retry_after(response.headers.get("Retry-After", ""))
    except InvalidHeader:
        return None


def _pause(cause: str, seconds: float) -> None:
    print(f"Kaggle: {cause}. Once more in {seconds:.0f} s.", file=sys.stderr, flush=True)
    time.sleep(seconds)


def _submission(item: Any) -> Submission:
    """A submission in plain types."""
    texts = {"public_score": item.public_score, "private_score": item.private_score}
    return Submission(
        ref=item.ref,
        description=item.description or "",
        status=item.status.name.lower(),
        error=(item.error_description or "").strip(),
        scores={name: score for name, text in texts.items() if (score := _number(text)) is not None},
    )


def _number(text: str | None) -> float | None:
    """A score; None where there is none (yet)."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None
