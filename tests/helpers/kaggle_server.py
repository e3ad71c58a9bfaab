"""A local server that answers Kaggle's client as Kaggle does: its API, its store of files, and what can go wrong.

Learnt from the source of `kaggle` and `kagglesdk`. It is a proxy: `KAGGLE_API_ENVIRONMENT=LOCALHOST` makes the client
speak plain HTTP to http://localhost, `HTTP_PROXY` leads that here, and so do the addresses of the store.
"""

import base64
import json
import os
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from helpers.http_server import QuietHandler, serve

COMPETITION = "flood-maps"
TOKEN = "KGAT-token-of-ana"
KEY = "key-of-ana"
STORE = "files.store.test"
SIGNATURE = "Signature=3f0c-secret"
LIMIT = "Submission not allowed: Your team has used its daily Submission allowance (5) today"


@dataclass
class Answer:
    """What to answer to one request instead of the usual."""

    status: int
    """0: break the connection without an answer."""
    message: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    done: bool = False
    """Do what was asked for all the same, before answering so."""


@dataclass
class Kaggle:
    """The state of the service; tests set it and read it."""

    address: str = ""
    archive: bytes = b""
    rules_accepted: bool = True
    answers: dict[str, list[Answer | None]] = field(default_factory=lambda: defaultdict(list))
    """By method's name, e.g. ``DownloadDataFiles``, or ``GET`` and ``PUT`` of the store; used up one by one, None being
    the usual answer."""
    broken_after: list[int] = field(default_factory=list)
    """After how many bytes each download breaks; used up one by one."""
    scored_after: int = 0
    """How many times a submission is listed as pending."""
    result: dict[str, str] = field(
        default_factory=lambda: {"status": "COMPLETE", "publicScore": "0.76640", "privateScore": "0.77510"}
    )
    requests: list[tuple[str, str]] = field(default_factory=list)
    """(method's name or GET or PUT, detail)."""
    submissions: list[dict[str, Any]] = field(default_factory=list)
    """Newest first."""
    uploaded: dict[str, bytes] = field(default_factory=dict)

    def count(self, name: str) -> int:
        """How often a method was called."""
        return sum(called == name for called, _ in self.requests)

    def use(self, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
        """Make this process's client, and those of its children, talk to this service, with an empty home folder."""
        for name in [name for name in sys.modules if name.partition(".")[0] == "kaggle"]:
            monkeypatch.delitem(sys.modules, name)  # it reads its settings while it is imported
        for name in [name for name in os.environ if name.startswith("KAGGLE_")]:
            monkeypatch.delenv(name, raising=False)
        for name in ("no_proxy", "NO_PROXY", "http_proxy", "HTTP_PROXY", "XDG_CONFIG_HOME"):
            monkeypatch.delenv(name, raising=False)
        (home / ".kaggle").mkdir(parents=True)
        monkeypatch.setenv("HOME", str(home))
        monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "LOCALHOST")
        monkeypatch.setenv("http_proxy", self.address)
        monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
        monkeypatch.setattr("harveyseg.data.sources.kaggle_client._WAITS", (0.01,) * 3)
        monkeypatch.setattr("harveyseg.data.sources.kaggle_client._POLL_SECONDS", 0.01)


@contextmanager
def running() -> Iterator[Kaggle]:
    """The service, until the ``with`` block ends."""
    state = Kaggle()
    handler = type("Handler", (_Handler,), {"state": state})
    with serve(handler) as state.address:
        yield state


class _Handler(QuietHandler):
    state: Kaggle

    def do_POST(self) -> None:
        parts = urlsplit(self.path)
        content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        service, _, method = parts.path.removeprefix("/api/v1/").partition("/")
        self.state.requests.append((method, json.dumps(content)))
        if parts.hostname != "localhost" or not hasattr(self, f"_{method}"):
            self._json(404, {"code": 404, "message": "NotFound"})
            return
        planned = self._planned(method)
        if planned is not None and not planned.done:
            self._answer(planned)
            return
        if service == "security.OAuthService":
            self._json(200, self._IntrospectToken(content))
            return
        status, result = self._checked(content) or getattr(self, f"_{method}")(content)
        if planned is not None:
            self._answer(planned)
        elif status == 302:
            self.send_response(302)
            self.send_header("Location", result["url"])
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            self._json(status, result)

    def _checked(self, content: dict[str, Any]) -> tuple[int, dict[str, Any]] | None:
        basic = base64.b64encode(f"ana:{KEY}".encode()).decode()
        if self.headers["Authorization"] not in (f"Bearer {TOKEN}", f"Basic {basic}"):
            return 401, {"code": 401, "message": "Unauthenticated"}
        if content["competitionName"] != COMPETITION:
            return 404, {"code": 404, "message": "NotFound"}
        if not self.state.rules_accepted:
            message = "You must accept this competition's rules before you'll be able to download files."
            return 403, {"code": 403, "message": message}
        return None

    def _IntrospectToken(self, content: dict[str, Any]) -> dict[str, Any]:
        known = content["token"] == TOKEN
        return {"active": known, "username": "ana"} if known else {"active": False}

    def _DownloadDataFiles(self, content: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        serial = self.state.count("DownloadDataFiles")  # each time another signature
        return 302, {"url": f"http://{STORE}/32624/bundle/archive.zip?GoogleAccessId=web&{SIGNATURE}{serial}"}

    def _ListSubmissions(self, content: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        listed = []
        for submission in self.state.submissions:
            shown = dict(submission)
            if self.state.scored_after:
                shown |= {"status": "PENDING", "publicScore": "", "privateScore": ""}
            listed.append(shown)
        if listed:
            self.state.scored_after = max(0, self.state.scored_after - 1)
        return 200, {"submissions": listed}

    def _StartSubmissionUpload(self, content: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        token = f"blob-{self.state.count('StartSubmissionUpload')}"
        return 200, {"token": token, "createUrl": f"http://{STORE}/inbox/{token}?upload_id=u&{SIGNATURE}"}

    def _CreateSubmission(self, content: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if content["blobFileTokens"] not in self.state.uploaded:
            return 400, {"code": 400, "message": "No such file"}
        ref = 56073536 + len(self.state.submissions)
        self.state.submissions.insert(
            0,
            {
                "ref": ref,
                "date": "2026-11-24T08:30:00.123Z",
                "description": content["submissionDescription"],
                "fileName": "submission.csv",
                **self.state.result,
            },
        )
        return 200, {"message": "Successfully submitted to Flood maps", "ref": ref}

    def do_PUT(self) -> None:
        parts = urlsplit(self.path)
        data = self.rfile.read(int(self.headers["Content-Length"]))
        self.state.requests.append(("PUT", parts.path))
        planned = self._planned("PUT")
        if planned is not None:
            self._answer(planned)
        else:
            self.state.uploaded[parts.path.rsplit("/", 1)[-1]] = data
            self._json(200, {})

    def do_GET(self) -> None:
        """The store: signed addresses, byte ranges, no knowledge of Kaggle's users."""
        parts = urlsplit(self.path)
        wanted = self.headers["Range"]
        self.state.requests.append(("GET", wanted or ""))
        planned = self._planned("GET")
        if planned is not None:
            self._answer(planned)
            return
        if parts.hostname != STORE or SIGNATURE not in parts.query or self.headers["Authorization"]:
            self.send_error(403)
            return
        data, start = self.state.archive, 0
        # Before the head is sent: the client may ask again at once, and another thread answers.
        end = self.state.broken_after.pop(0) if self.state.broken_after else len(data)
        tag = f'"{hash(data)}"'
        if wanted and self.headers["If-Range"] in (None, tag):
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(data) - start))
        self.send_header("Content-Type", "application/zip")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", tag)
        self.end_headers()
        # The client follows the redirection itself and leaves that body unread.
        with suppress(OSError):
            self.wfile.write(data[start:end])

    def _planned(self, name: str) -> Answer | None:
        return self.state.answers[name].pop(0) if self.state.answers[name] else None

    def _answer(self, answer: Answer) -> None:
        if not answer.status:
            self.close_connection = True
            return
        self._json(answer.status, {"code": answer.status, "message": answer.message}, answer.headers)

    def _json(self, status: int, content: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
