"""A competition on Kaggle, through Kaggle's own client: its archive, its submissions, and plain words for what fails.

The client is an extra (``pip install -e '.[kaggle]'``) and takes a second to import, so that happens only in
functions. It signs in while it is imported, ends the process where it cannot, and may print request headers and signed
addresses: of what it prints only the warnings reach the terminal.
"""

import contextlib
import importlib.util
import io
import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from harveyseg.errors import HarveysegError
from harveyseg.progress import BYTES, SECONDS, Progress, format_duration

if TYPE_CHECKING:
    import requests

T = TypeVar("T")

logger = logging.getLogger(__name__)

_WAITS = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds before each repetition of a request that failed for a reason that passes."""
_LONGEST_WAIT = 300.0
_POLL_SECONDS = 5.0
_PAGE_SIZE = 100
_TRANSFERS = 11
"""How often a file is sent whose connection breaks."""
_HELP = "docs/kaggle.md says more."
_SIGN_IN = (
    "Run `kaggle auth login`, or put a token from https://www.kaggle.com/settings into KAGGLE_API_TOKEN or "
    f"~/.kaggle/access_token (an older kaggle.json, or KAGGLE_USERNAME and KAGGLE_KEY, also works). {_HELP}"
)


@dataclass(frozen=True)
class KaggleSubmission:
    """A submission as Kaggle lists it."""

    ref: int
    description: str
    status: Literal["pending", "complete", "error"]
    error: str
    """What Kaggle found wrong with the file; "" unless the status is ``error``."""
    scores: dict[str, float]
    """``public_score`` and, once the competition is over, ``private_score``."""


class BrokenOffError(HarveysegError):
    """Kaggle may or may not have taken the submission."""


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
    """One competition, seen by the user whose credentials the client finds.

    Each method raises a ``HarveysegError`` when Kaggle cannot be reached or refuses the request, and says why.

    Args:
        name: the last part of its address, e.g. ``"fdl21-fdl-dsba"``.

    Raises:
        HarveysegError: when the client is not installed, or finds no credentials that Kaggle accepts.
    """

    def __init__(self, name: str) -> None:
        require_client()
        self.name = name
        self.page = f"https://www.kaggle.com/competitions/{name}"
        self._api = self._call(_sign_in)

    def archive(self) -> tuple[str, int | None]:
        """Where all files can be fetched for a while, and their size in bytes, if the server says so.

        The address is signed: whoever has it can fetch the files, so it must not be logged or shown.
        """
        from kagglesdk.competitions.types.competition_api_service import ApiDownloadDataFilesRequest

        def ask() -> tuple[str, int | None]:
            request = ApiDownloadDataFilesRequest()
            request.competition_name = self.name
            with self._api.build_kaggle_client() as client:
                # The client follows Kaggle's redirection; the body is left unread.
                response = client.competitions.competition_api_client.download_data_files(request)
                response.close()
            size = response.headers.get("Content-Length", "")
            return response.url, int(size) if size.isdigit() else None

        return self._call(ask)

    def submissions(self) -> list[KaggleSubmission]:
        """The newest submissions of the user's team, at most 100."""
        listed = self._call(lambda: self._api.competition_submissions(self.name, page_size=_PAGE_SIZE))
        return [_read_submission(item) for item in listed or [] if item is not None]

    def submit(self, path: Path, description: str) -> None:
        """Transfer a file and submit it.

        Args:
            path: the file.
            description: shown with the submission.

        Raises:
            BrokenOffError: when the connection broke or Kaggle failed before it answered. Submitting is never repeated
                then: it could count twice against the day's submissions.
        """
        answer = self._call(
            lambda: self._api.competition_submit(str(path), description, self.name, quiet=True), repeat=False
        )
        if answer.message == self._api.COMPETITION_SUBMIT_UPLOAD_FAILED_MESSAGE:
            raise HarveysegError(f"{path}: could not be transferred to Kaggle, and was not submitted. Try again later.")

    def wait(self, ref: int, seconds: float) -> KaggleSubmission:
        """Wait until a submission is scored; it is still ``pending`` when that takes longer than ``seconds``."""
        deadline = time.monotonic() + seconds
        title = f"waiting for the score, at most {format_duration(seconds)}"
        with Progress(title, seconds, SECONDS) as progress:
            while True:
                submission = next((item for item in self.submissions() if item.ref == ref), None)
                if submission is None:
                    raise HarveysegError(f"Submission {ref} is not among those of {self.page}/submissions any more.")
                left = deadline - time.monotonic()
                if submission.status != "pending" or left <= 0:
                    return submission
                progress.reach(seconds - left, seconds)
                time.sleep(min(_POLL_SECONDS, left))

    def _call(self, request: Callable[[], T], repeat: bool = True) -> T:
        """Send a request, again after a pause where that can help.

        A rate limit (429) means that nothing was done. ``repeat`` says whether a request may be sent again that Kaggle
        may have carried out.
        """
        import requests

        for wait in (*_WAITS, None):
            try:
                with _only_warnings():
                    return request()
            except requests.RequestException as error:
                # The error's text may hold a signed address: its kind has to do.
                status = 0
                cause = f"the connection failed ({type(error).__name__})"
                pause = wait
                if error.response is not None:
                    status, cause = _read_error(error.response)
                    asked = error.response.headers.get("Retry-After", "")
                    pause = float(asked) if asked.isdigit() else wait
            if status and status < HTTPStatus.INTERNAL_SERVER_ERROR and status != HTTPStatus.TOO_MANY_REQUESTS:
                raise HarveysegError(self._explain(status, cause))
            if status != HTTPStatus.TOO_MANY_REQUESTS and not repeat:
                raise BrokenOffError(f"Kaggle: {cause}.")
            if wait is None or pause is None or pause > _LONGEST_WAIT:
                break
            logger.warning("Kaggle: %s. Next try in %.0f s.", cause, pause)
            time.sleep(pause)
        request_to_wait = "" if pause is None else f" It asks to wait for {pause:.0f} s."
        raise HarveysegError(
            f"Kaggle: {cause}.{request_to_wait} Check the network and {self.page}, then repeat this. {_HELP}"
        )

    def _explain(self, status: int, cause: str) -> str:
        if status == HTTPStatus.UNAUTHORIZED:
            return f"Kaggle does not accept your credentials: {cause}. They may be old or mistyped. {_SIGN_IN}"
        if status == HTTPStatus.FORBIDDEN:
            return (
                f"Kaggle forbids this: {cause}. Open {self.page}/rules in a browser, signed in as the same user, and "
                "join the competition or accept its rules; some competitions want a verified phone number or an "
                f"invitation. A wrong data.kaggle.competition ({self.name}) can also be the reason. {_HELP}"
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
        from kaggle.api.kaggle_api_extended import KaggleApi

        api = KaggleApi()
        api.authenticate()
        api.upload_complete = _transfer
    except SystemExit:
        raise HarveysegError(f"No credentials for Kaggle, or none that it accepts. {_SIGN_IN}") from None
    return api


def _transfer(path: str, address: str, _: bool) -> Any:
    """What the client does to transfer a file, whose own bar would be a second form of progress.

    Args:
        path: the file.
        address: signed; it must not be logged or shown.
        _: whether the client is to be quiet.

    Returns:
        The client's word for what came of it.
    """
    import requests
    from kaggle.api.kaggle_api_extended import ResumableUploadResult
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    file = Path(path)
    size = file.stat().st_size
    with requests.Session() as session, Progress(f"sending {file.name}", size, BYTES) as progress:
        for scheme in ("http://", "https://"):
            session.mount(scheme, HTTPAdapter(max_retries=Retry(total=_TRANSFERS - 1, backoff_factor=0.5)))
        with _CountedReader(io.FileIO(file), lambda done: progress.reach(done, size)) as body:
            try:
                response = session.put(address, data=body)
            except requests.RequestException:
                return ResumableUploadResult.INCOMPLETE
    done = response.status_code in (HTTPStatus.OK, HTTPStatus.CREATED)
    return ResumableUploadResult.COMPLETE if done else ResumableUploadResult.FAILED


class _CountedReader(io.BufferedReader):
    """A file that says how much of it was read; less again, where it is sent again."""

    def __init__(self, file: io.FileIO, reached: Callable[[int], object]) -> None:
        super().__init__(file)
        self._reached = reached

    def read(self, size: int | None = -1, /) -> bytes:
        """The next bytes."""
        data = super().read(size)
        self._reached(self.tell())
        return data


@contextlib.contextmanager
def _only_warnings() -> Iterator[None]:
    """Hold back what the client prints, except warnings, and never let it be verbose: that prints credentials."""
    printed = io.StringIO()
    connections = logging.getLogger("urllib3.connectionpool")
    level = connections.level
    connections.setLevel(logging.ERROR)  # its warnings hold whole addresses, and those of the store are signed
    verbose = {name: os.environ.pop(name) for name in ("VERBOSE", "VERBOSE_OUTPUT") if name in os.environ}
    try:
        with contextlib.redirect_stdout(printed):
            yield
    finally:
        os.environ.update(verbose)
        connections.setLevel(level)
        for line in dict.fromkeys(printed.getvalue().splitlines()):
            if line.startswith("Warning"):
                logger.warning("%s", line.removeprefix("Warning: "))


def _read_error(response: "requests.Response") -> tuple[int, str]:
    """The status, and what is wrong, in Kaggle's own words if there are any; both can be in the body alone."""
    try:
        body = response.json()
    except ValueError:
        body = {}
    if not isinstance(body, dict):
        body = {}
    code = body.get("code")
    status = code if isinstance(code, int) else response.status_code
    message = str(body.get("message") or "").strip().rstrip(".")
    return status, f"{message or response.reason or 'no reason given'} ({status})"


def _read_submission(item: Any) -> KaggleSubmission:
    """A submission in plain types; a score that is not there (yet) is empty text."""
    scores = {name: getattr(item, name) for name in ("public_score", "private_score")}
    return KaggleSubmission(
        ref=item.ref,
        description=item.description or "",
        status=item.status.name.lower(),
        error=(item.error_description or "").strip(),
        scores={name: score for name, text in scores.items() if (score := _read_score(text)) is not None},
    )


def _read_score(text: str | None) -> float | None:
    try:
        score = float(text or "")
    except ValueError:
        return None
    return score if math.isfinite(score) else None
