"""A local HTTP server of files: ranges, ETags, redirections, and the ways in which a download goes wrong."""

import hashlib
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from helpers.http_server import QuietHandler, serve


@dataclass
class FileServer:
    """What is served, what goes wrong, and what was asked; tests set it and read it."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    """By path and query; what is absent is a 404."""
    redirections: dict[str, str] = field(default_factory=dict)
    answers: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    """Status and headers of the next answers, instead of what was asked for; used up one by one. 0: hang up."""
    cuts: list[int] = field(default_factory=list)
    """After how many bytes of its body each of the next answers with one breaks off; used up one by one."""
    ranges: bool = True
    """Whether Range is understood."""
    if_range: bool = True
    """Whether If-Range is understood; some servers send the range whatever it says."""
    etags: bool = True
    lengths: bool = True
    """Whether the length is told beforehand; else the end of the connection is the end of the file."""
    stall: threading.Event | None = None
    """Half way into a body the server waits for this."""
    stall_from: int = 0
    """The shortest body in which it does."""
    requests: list[tuple[str, Mapping[str, str]]] = field(default_factory=list)
    sent: int = 0
    """Bytes of bodies that were sent."""


def etag(data: bytes) -> str:
    """A strong ETag."""
    return f'"{hashlib.sha1(data).hexdigest()}"'


@contextmanager
def serving() -> Iterator[FileServer]:
    """Run a server on a free port of this machine."""
    state = FileServer()

    class Handler(QuietHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.close_connection = True
            state.requests.append((self.path, dict(self.headers)))
            if state.answers:
                status, headers = state.answers.pop(0)
                if status:
                    self._begin(status, {"Content-Length": "0", **headers})
            elif target := state.redirections.get(self.path):
                self._begin(302, {"Location": target, "Content-Length": "0"})
            elif self.path in state.files:
                self._file(state.files[self.path])
            else:
                self._begin(404, {"Content-Length": "0"})

        def _begin(self, status: int, headers: Mapping[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Connection", "close")
            self.end_headers()

        def _file(self, data: bytes) -> None:
            headers, status, start = {"ETag": etag(data)} if state.etags else {}, 200, 0
            same = not state.if_range or self.headers.get("If-Range", etag(data)) == etag(data)
            if state.ranges and same and "Range" in self.headers:
                status, start = 206, int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
                if start >= len(data):
                    self._begin(416, {"Content-Range": f"bytes */{len(data)}", "Content-Length": "0"})
                    return
                headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            body = data[start:]
            if state.lengths:
                headers["Content-Length"] = str(len(body))
            self._begin(status, headers)
            if state.cuts:
                body = body[: state.cuts.pop(0)]
            stall = state.stall if len(body) >= state.stall_from else None
            half = len(body) // 2 if stall else len(body)
            state.sent += half
            self.wfile.write(body[:half])
            self.wfile.flush()
            if stall:
                stall.wait(60)
                state.sent += len(body) - half
                self.wfile.write(body[half:])

    with serve(Handler) as state.address:
        try:
            yield state
        finally:
            if state.stall:
                state.stall.set()
