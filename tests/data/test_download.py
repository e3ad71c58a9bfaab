"""Downloads that break off, are killed, change or are refused; the server is a real one on this machine."""

import hashlib
import logging
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from harveyseg.data import download as downloads
from harveyseg.data.download import fetch, fetch_json, without_secrets
from harveyseg.errors import HarveysegError
from helpers.file_server import FileServer, etag, serving
from helpers.waiting import wait_until

DATA = random.Random(0).randbytes(3_000_000)
MD5 = f"md5:{hashlib.md5(DATA).hexdigest()}"
SHA256 = f"sha256:{hashlib.sha256(DATA).hexdigest()}"


@pytest.fixture
def server(local_service: FileServer) -> FileServer:
    local_service.files["/file"] = DATA
    return local_service


def ranges(server: FileServer) -> list[str]:
    return [headers.get("Range", "whole") for _, headers in server.requests]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


@pytest.mark.parametrize("known", [{}, {"size": len(DATA)}, {"checksum": MD5}, {"size": len(DATA), "checksum": SHA256}])
def test_once(server: FileServer, tmp_path: Path, known: dict[str, Any]) -> None:
    path = tmp_path / "new" / "file"
    for _ in range(3):
        assert fetch(f"{server.address}/file", path, **known) == path
        assert path.read_bytes() == DATA
    assert len(server.requests) == 1
    assert names(path.parent) == ["file"]


def test_redirections(server: FileServer, tmp_path: Path) -> None:
    server.redirections["/start"] = "/file?signature=1"
    server.files["/file?signature=1"] = DATA
    server.cuts = [1000]
    fetch(f"{server.address}/start", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == DATA
    assert [path for path, _ in server.requests] == ["/start", "/file?signature=1"] * 2
    assert [headers.get("Range") for _, headers in server.requests] == [None, None, "bytes=1000-", "bytes=1000-"]


def test_broken_off_five_times(server: FileServer, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    server.cuts = [1, 500_000, 70_000, 1_000_000, 123_456]
    with caplog.at_level(logging.WARNING):
        fetch(f"{server.address}/file", tmp_path / "file", size=len(DATA), checksum=MD5)
    assert (tmp_path / "file").read_bytes() == DATA
    starts = [1, 500_001, 570_001, 1_570_001, 1_693_457]
    assert ranges(server) == ["whole", *(f"bytes={start}-" for start in starts)]
    assert all(headers["If-Range"] == etag(DATA) for _, headers in server.requests[1:])
    assert server.sent == len(DATA), "not one byte twice"
    assert sum("broke off" in record.message for record in caplog.records) == 5


def test_without_a_length_the_size_tells_that_the_end_came_early(server: FileServer, tmp_path: Path) -> None:
    server.lengths, server.cuts = False, [1_000_000]
    fetch(f"{server.address}/file", tmp_path / "file", size=len(DATA))
    assert (tmp_path / "file").read_bytes() == DATA
    assert ranges(server) == ["whole", "bytes=1000000-"]


def test_killed_and_resumed_by_another_process(server: FileServer, tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from harveyseg.data.download import fetch\n"
    code += f"fetch(sys.argv[1], Path(sys.argv[2]), size={len(DATA)}, checksum={MD5!r})"
    command = [sys.executable, "-c", code, f"{server.address}/file", str(tmp_path / "file")]
    server.stall = threading.Event()
    process = subprocess.Popen(command)
    part = tmp_path / "file.part"
    wait_until(lambda: part.exists() and part.stat().st_size >= 1_000_000, process)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    server.stall.set()
    server.stall = None
    assert not (tmp_path / "file").exists()
    had = part.stat().st_size
    subprocess.run(command, check=True, timeout=600)
    assert (tmp_path / "file").read_bytes() == DATA
    assert ranges(server) == ["whole", f"bytes={had}-"]
    assert names(tmp_path) == ["file"]


def test_killed_after_the_last_byte(server: FileServer, tmp_path: Path) -> None:
    for size in (len(DATA), None):
        break_off(server, tmp_path, size=size)
        (tmp_path / "file.part").write_bytes(DATA)
        fetch(f"{server.address}/file", tmp_path / "file", size=size)
        assert (tmp_path / "file").read_bytes() == DATA
        (tmp_path / "file").unlink()
    assert server.sent == 2 * 1000


def break_off(server: FileServer, folder: Path, **known: Any) -> None:
    """Leave the first 1000 bytes: the user interrupts the wait for another try."""
    server.cuts = [1000]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "sleep", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fetch(f"{server.address}/file", folder / "file", **known)
    assert (folder / "file.part").stat().st_size == 1000


def interrupt(seconds: float) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("if_range", [True, False])
@pytest.mark.parametrize("larger", [True, False])
def test_a_file_that_has_changed_is_started_again(
    server: FileServer, tmp_path: Path, if_range: bool, larger: bool
) -> None:
    break_off(server, tmp_path)
    server.if_range = if_range
    server.files["/file"] = changed = os.urandom(5000 if larger else 500)
    fetch(f"{server.address}/file", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == changed


def test_another_checksum_is_another_file(server: FileServer, tmp_path: Path) -> None:
    break_off(server, tmp_path, checksum="md5:0")
    fetch(f"{server.address}/file", tmp_path / "file", checksum=MD5)
    assert (tmp_path / "file").read_bytes() == DATA
    assert ranges(server) == ["whole", "whole"]


@pytest.mark.parametrize("note", [b"{}", b"[1]", b"\xff\xfe", b"", b'{"checksum": null'])
def test_a_damaged_note_is_none(server: FileServer, tmp_path: Path, note: bytes) -> None:
    break_off(server, tmp_path, checksum=MD5)
    (tmp_path / "file.part.json").write_bytes(note)
    fetch(f"{server.address}/file", tmp_path / "file", checksum=MD5)
    assert (tmp_path / "file").read_bytes() == DATA
    assert ranges(server) == ["whole", "whole"]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://ana:secret@host:8/a%20b.zip?sig=secret#secret", "https://host:8/a%20b.zip"),
        ("s3://bucket/photos/", "s3://bucket/photos/"),
        ("bucket/photos", "bucket/photos"),
        ("zip://::file:///photos.zip", "zip://::file:///photos.zip"),
        ("simplecache::s3://bucket/photos", "simplecache::s3://bucket/photos"),
    ],
)
def test_what_is_shown_of_an_address(url: str, shown: str) -> None:
    assert without_secrets(url) == shown


def test_a_server_that_ignores_ranges(server: FileServer, tmp_path: Path) -> None:
    server.ranges, server.cuts = False, [1000, 2_000_000]
    fetch(f"{server.address}/file", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == DATA


@pytest.mark.parametrize(("checksum", "second"), [(None, "whole"), (MD5, "bytes=1000-")])
def test_without_a_validator_only_a_checksum_lets_it_go_on(
    server: FileServer, tmp_path: Path, checksum: str | None, second: str
) -> None:
    server.etags, server.cuts = False, [1000]
    fetch(f"{server.address}/file", tmp_path / "file", checksum=checksum)
    assert (tmp_path / "file").read_bytes() == DATA
    assert ranges(server) == ["whole", second]


@pytest.mark.parametrize("answer", [(429, {"Retry-After": "1"}), (503, {}), (500, {}), (0, {})])
def test_a_server_that_is_busy_is_asked_again(
    server: FileServer, tmp_path: Path, answer: tuple[int, dict[str, str]], caplog: pytest.LogCaptureFixture
) -> None:
    server.answers = [answer, answer]
    server.files["/file?Signature=secret"] = DATA
    start = time.monotonic()
    with caplog.at_level(logging.WARNING):
        fetch(f"{server.address}/file?Signature=secret", tmp_path / "file")
    assert "secret" not in caplog.text
    assert caplog.text.count(f"busy ({answer[0]}): trying" if answer[0] else "no connection: trying") == 2
    assert (tmp_path / "file").read_bytes() == DATA
    assert len(server.requests) == 3
    assert (time.monotonic() - start >= 2) == ("Retry-After" in answer[1])


@pytest.mark.parametrize(
    ("status", "headers", "message"),
    [
        (404, {}, r"answered with status 404 Not Found\. Check the address"),
        (403, {}, r"answered with status 403 Forbidden\. .*log-in, download it with a browser"),
        (202, {}, r"answered with status 202 Accepted\. "),
        (503, {}, r"answered with status 503 Service Unavailable\. The server is busy or broken: try again later"),
        (206, {"Content-Range": "bytes 7-9/10"}, r"broke off 6 times without a new byte \(the server has another file"),
    ],
)
def test_refused(server: FileServer, tmp_path: Path, status: int, headers: dict[str, str], message: str) -> None:
    server.answers = [(status, headers)] * 100
    with pytest.raises(HarveysegError, match=f"^{server.address}/file: .*{message}") as caught:
        fetch(f"{server.address.replace('//', '//user:password@')}/file?token=secret", tmp_path / "file")
    assert "secret" not in str(caught.value)
    assert "password" not in str(caught.value)
    assert names(tmp_path) == []


@pytest.mark.parametrize("ask", [lambda url, path: fetch(url, path), lambda url, path: fetch_json(url)])
def test_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ask: Callable[[str, Path], object]) -> None:
    monkeypatch.setattr(downloads, "BACKOFF", 0.001)
    with serving() as gone:
        pass
    with pytest.raises(HarveysegError, match=r"cannot be reached \(.*Connection refused\)\. Check the network"):
        ask(f"{gone.address}/file", tmp_path / "file")
    for url in ("ftp://server/file", "server/file", "http://"):
        with pytest.raises(HarveysegError, match=r"address.*Correct it"):
            ask(url, tmp_path / "file")


def test_offline_keeps_what_has_come(server: FileServer, tmp_path: Path) -> None:
    break_off(server, tmp_path)
    server.answers = [(0, {})] * 100
    with pytest.raises(HarveysegError, match="cannot be reached"):
        fetch(f"{server.address}/file", tmp_path / "file")
    server.answers = []
    fetch(f"{server.address}/file", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == DATA
    assert ranges(server)[-1] == "bytes=1000-"


def test_a_connection_that_never_gets_further(server: FileServer, tmp_path: Path) -> None:
    server.cuts = [1000] + [0] * 100
    with pytest.raises(HarveysegError, match=r"broke off 6 times without a new byte .* 1,000 bytes are kept in"):
        fetch(f"{server.address}/file", tmp_path / "file")
    assert (tmp_path / "file.part").read_bytes() == DATA[:1000]


def test_a_connection_that_falls_silent(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(downloads, "TIMEOUT", 0.3)
    server.stall = threading.Event()
    waiting = threading.Timer(0.6, lambda: setattr(server, "stall", None))
    waiting.start()
    fetch(f"{server.address}/file", tmp_path / "file", checksum=MD5)
    waiting.join()
    assert "Read timed out" in caplog.text
    assert (tmp_path / "file").read_bytes() == DATA


@pytest.mark.parametrize(
    ("known", "message"),
    [
        ({"size": 10}, "the file has 3,000,000 bytes, 10 were expected"),
        ({"checksum": "md5:00"}, f"the file's md5 is {MD5[4:]}, 00 was expected"),
        ({"checksum": "sha256:00"}, f"the file's sha256 is {SHA256[7:]}, 00 was expected"),
    ],
)
def test_a_wrong_file_is_not_kept(server: FileServer, tmp_path: Path, known: dict[str, Any], message: str) -> None:
    with pytest.raises(HarveysegError, match=f"{message}. It was removed; run the command again"):
        fetch(f"{server.address}/file", tmp_path / "file", **known)
    assert names(tmp_path) == []


def test_a_file_that_is_there_but_wrong_is_replaced(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"of an older version")
    fetch(f"{server.address}/file", tmp_path / "file", checksum=MD5)
    assert (tmp_path / "file").read_bytes() == DATA


def test_no_room(server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage(NamedTuple):
        free: int

    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2_999_999))
    with pytest.raises(HarveysegError, match=r"3,000,000 more bytes are needed, and only 2,999,999 are free"):
        fetch(f"{server.address}/file", tmp_path / "file")
    monkeypatch.undo()
    # /dev/full answers each write as a full disk does.
    (tmp_path / "file.part").symlink_to("/dev/full")
    monkeypatch.setattr(Path, "unlink", lambda path, missing_ok=False: None)
    with pytest.raises(HarveysegError, match=r"file\.part: cannot be written \(No space left .* Free some disk space"):
        fetch(f"{server.address}/file", tmp_path / "file")


def test_a_disk_that_fills_up_keeps_what_has_come(server: FileServer, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, hard))
    try:
        with pytest.raises(HarveysegError, match=r"file\.part: cannot be written \(File too large\)"):
            fetch(f"{server.address}/file", tmp_path / "file", checksum=MD5)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    had = (tmp_path / "file.part").stat().st_size
    assert had >= 1 << 20
    fetch(f"{server.address}/file", tmp_path / "file", checksum=MD5)
    assert ranges(server) == ["whole", f"bytes={had}-"]


def test_two_at_once_download_it_once(server: FileServer, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: fetch(f"{server.address}/file", tmp_path / "file"), range(4)))
    assert len(server.requests) == 1


def test_json(server: FileServer) -> None:
    server.files["/list?page=2"] = b'[{"id": 1}]'
    server.files["/page"] = b"<html>Log in</html>"
    assert fetch_json(f"{server.address}/list", {"page": 2}) == [{"id": 1}]
    with pytest.raises(HarveysegError, match=r"/page: the answer is not JSON .* log-in page"):
        fetch_json(f"{server.address}/page")
    with pytest.raises(HarveysegError, match=r"/absent: the server answered with status 404"):
        fetch_json(f"{server.address}/absent")
