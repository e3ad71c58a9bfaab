"""Files stay whole, whatever happens to the process that writes them."""

import errno
import fcntl
import functools
import hashlib
import json
import math
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harveyseg.errors import HarveysegError
from harveyseg.files import (
    atomic,
    copy_folder,
    create_array,
    digest,
    finished_by_last,
    locked,
    read_json,
    read_table,
    replacing,
    require_writable,
    sha256,
    write_json,
    write_table,
    write_text,
)
from helpers.small_disk import small_disk

WRITER = """
import sys, time
from pathlib import Path
from harveyseg.files import atomic
with atomic(Path(sys.argv[1])) as temporary, temporary.open("w") as opened:
    opened.write("half of the new")
    opened.flush()
    print("writing", flush=True)
    time.sleep(60)
"""


FOLDER_WRITER = """
import sys, time
from pathlib import Path
from harveyseg.files import replacing
with replacing(Path(sys.argv[1])) as folder:
    (folder / "half.txt").write_text("half of the new")
    print("writing", flush=True)
    time.sleep(60)
"""


def test_a_folder_that_a_killed_process_was_making_is_deleted_by_the_next_one(tmp_path: Path) -> None:
    folder = tmp_path / "metrics"
    with replacing(folder) as building:
        (building / "whole.txt").write_text("old")
    (tmp_path / ".metrics-_of_mine").mkdir()
    (tmp_path / ".metrics-_of_mine" / "notes.txt").touch()
    with subprocess.Popen(
        [sys.executable, "-c", FOLDER_WRITER, str(folder)], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "writing\n"
        (made,) = {*tmp_path.glob(".metrics-*")} - {tmp_path / ".metrics-_of_mine"}
        with replacing(folder) as building:  # another process, while the first one works
            (building / "whole.txt").write_text("new")
        assert (made / "new" / "half.txt").exists()
        writer.send_signal(signal.SIGKILL)
        assert writer.wait() == -signal.SIGKILL
    assert made.exists()
    with replacing(folder) as building:
        (building / "whole.txt").write_text("newest")
    assert {path.name for path in tmp_path.iterdir()} == {"metrics", ".metrics-_of_mine"}
    assert (folder / "whole.txt").read_text() == "newest"


def test_a_process_killed_in_the_middle_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "state.txt"
    path.write_text("the old file, whole")
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "writing\n"
        assert path.read_text() == "the old file, whole"  # a reader at the same time
        writer.send_signal(signal.SIGKILL)
        assert writer.wait() == -signal.SIGKILL
    assert path.read_text() == "the old file, whole"
    assert len(list(tmp_path.iterdir())) == 2
    write_text(path, "new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]  # the next write removes what the dead one left


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "state.txt"
    path.write_text("old")

    def fail() -> None:
        with atomic(path) as temporary:
            temporary.write_text("new")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_temporary_file_ends_like_the_path_and_lies_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "curve.png"
    with atomic(path) as temporary:
        assert temporary.suffix == ".png"
        assert temporary.parent == path.parent  # a rename works only inside one file system
        temporary.write_bytes(b"x")
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_others_can_read_what_was_written(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "x")
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o644


def test_json_round_trip_is_exact_and_independent_of_order(tmp_path: Path) -> None:
    value = {"b": 0.1 + 0.2, "a": [1, None, True], "ä": "☂"}
    write_json(tmp_path / "1.json", value)
    write_json(tmp_path / "2.json", dict(reversed(value.items())))
    assert read_json(tmp_path / "1.json", "") == value
    assert (tmp_path / "1.json").read_bytes() == (tmp_path / "2.json").read_bytes()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_json_cannot_hold_is_refused(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"loss": value})
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="JSON"):
        digest({"loss": value})


@pytest.mark.parametrize(
    ("content", "cause"),
    [(None, "no such file"), (b"", "not valid JSON"), (b'{"a": ', "not valid JSON"), (b"\xff\xfe", "not valid JSON"),
     (b"[1]", "holds a list, not an object"), (b"null", "holds a NoneType")],
)  # fmt: skip
def test_a_damaged_file_is_named_with_cause_and_remedy(tmp_path: Path, content: bytes | None, cause: str) -> None:
    path = tmp_path / "info.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(HarveysegError) as caught:
        read_json(path, "Make it again.")
    assert str(caught.value).startswith(f"{path}: {cause}")
    assert str(caught.value).endswith(" Make it again.")


def test_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1.
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_digest_ignores_order_and_nothing_else() -> None:
    value = {"a": 1, "b": {"c": 2, "d": [1, 2]}}
    assert digest(value) == digest({"b": {"d": [1, 2], "c": 2}, "a": 1})
    assert digest(value) == hashlib.sha256(json.dumps(value).encode()).hexdigest()
    assert digest(value) != digest({"a": 1, "b": {"c": 2, "d": [2, 1]}})
    assert digest({"a": 1}) != digest({"a": "1"})


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        ("a,b\n1,2,9\n3,4,9\n", "not a table"),  # pandas alone would take the first column as an index
        ("a,b\n1,2\n3,4,9\n", "not a table"),
        ("a,b\n1\n", "not a table"),
        ("a,b\nx,1.5\n", "not a table"),
        ("b\n1\n", "lacks the columns a"),
        ("", "not a table"),
        (None, "no such file"),
    ],
)
def test_a_damaged_table_is_named_with_the_remedy(tmp_path: Path, content: str | None, cause: str) -> None:
    path = tmp_path / "table.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(HarveysegError, match=f"table.csv: {cause}.* Make it again.$"):
        read_table(path, {"a": str, "b": int}, "Make it again.")


def test_a_table_comes_back_as_it_was_written(tmp_path: Path) -> None:
    table = pd.DataFrame({"id": ["NA", "007", ""], "count": [1, 2, 3], "share": [0.1 + 0.2, math.nan, 8.31e-9]})
    write_table(tmp_path / "table.csv", table)
    read = read_table(tmp_path / "table.csv", {"id": str, "count": int, "share": float}, "")
    pd.testing.assert_frame_equal(read, table, check_dtype=False, check_exact=True)


def test_a_write_leaves_other_files_and_those_of_living_writers(tmp_path: Path) -> None:
    path = tmp_path / "state.txt"
    bystanders = [tmp_path / name for name in (".state-notes.txt", ".state-abcdefgh.csv", ".other-abcdefgh.txt")]
    for bystander in bystanders:
        bystander.write_text("mine")
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "writing\n"
        write_text(path, "mine first")
        assert len(list(tmp_path.iterdir())) == len(bystanders) + 2
        writer.send_signal(signal.SIGKILL)
    assert all(bystander.read_text() == "mine" for bystander in bystanders)


def _write_folder(folder: Path, content: bytes) -> None:
    with replacing(folder) as building:
        (building / "photo.jpg").write_bytes(content)


def _write_array(path: Path, content: bytes) -> None:
    with atomic(path) as temporary:
        create_array(temporary, (len(content),))[:] = np.frombuffer(content, np.uint8)


@pytest.mark.parametrize(
    "write", [lambda path, content: write_text(path, content.decode()), _write_array, _write_folder]
)
def test_a_full_disk_is_one_sentence_and_the_old_file_stays(
    tmp_path: Path, write: Callable[[Path, bytes], None]
) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        path = disk / "result"
        write(path, b"x" * 1000)
        before = {file: file.read_bytes() for file in disk.rglob("*") if file.is_file()}
        with pytest.raises(HarveysegError, match=r"result: there is no room .* Free some disk space"):
            write(path, b"y" * 2_000_000)
        assert {file: file.read_bytes() for file in disk.rglob("*") if file.is_file()} == before


def test_an_array_has_its_bytes_on_the_disk_before_it_is_filled(tmp_path: Path) -> None:
    array = create_array(tmp_path / "a.npy", (3, 500_000))
    assert (tmp_path / "a.npy").stat().st_blocks * 512 >= 1_500_000
    array[1] = 7
    array.flush()
    assert np.load(tmp_path / "a.npy").sum(axis=1).tolist() == [0, 3_500_000, 0]


def refuse(number: int) -> Callable[..., None]:
    def call(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return call


def test_a_folder_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A superuser may write everywhere, so the system's answer is given here."""
    require_writable(tmp_path / "new" / "below")
    assert list(tmp_path.iterdir()) == []  # nothing was made

    def mkdir(path: str, *_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr(os, "mkdir", mkdir)
    with pytest.raises(HarveysegError, match=rf"{tmp_path}/new: cannot be written to \(Permission denied\)\. Name"):
        require_writable(tmp_path / "new")


def test_a_share_without_locks_and_modes_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fcntl, "flock", refuse(errno.ENOLCK))
    monkeypatch.setattr(os, "chmod", refuse(errno.EPERM))
    for content in ("old", "new"):
        write_text(tmp_path / "a.txt", content)
    assert (tmp_path / "a.txt").read_text() == "new"
    assert list(tmp_path.iterdir()) == [tmp_path / "a.txt"]
    with locked(tmp_path / "a.lock"):
        write_text(tmp_path / "b.txt", "inside")
    assert "cannot be locked here" in caplog.text
    assert (tmp_path / "b.txt").read_text() == "inside"


def describe_tree(folder: Path) -> dict[str, tuple[int, int, bytes | str]]:
    """Path -> (mode, time in ns, bytes) of each file; a link's target instead of its bytes."""
    described: dict[str, tuple[int, int, bytes | str]] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            described[name] = (0, 0, os.readlink(path))
        elif path.is_file():
            status = path.stat()
            described[name] = (stat.S_IMODE(status.st_mode), status.st_mtime_ns, path.read_bytes())
    return described


def test_a_copy_keeps_modes_where_the_disk_keeps_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source"
    (source / "stages" / "empty").mkdir(parents=True)
    for name, mode in (("run", 0o755), ("config.local", 0o600), ("object", 0o444)):
        (source / "stages" / name).write_text(name)
        (source / "stages" / name).chmod(mode)
        os.utime(source / "stages" / name, ns=(1, 10**18))
    (source / "to_folder").symlink_to("stages")
    (source / "to_nothing").symlink_to("../absent")
    copy_folder(source, tmp_path / "new" / "copy")
    assert describe_tree(tmp_path / "new" / "copy") == describe_tree(source)
    assert (tmp_path / "new" / "copy" / "stages" / "empty").is_dir()
    assert (tmp_path / "new" / "copy" / "to_folder").is_symlink()
    monkeypatch.setattr(os, "chmod", refuse(errno.EPERM))
    copy_folder(source, tmp_path / "card")
    assert {name: content for name, (_, _, content) in describe_tree(tmp_path / "card").items()} == {
        name: content for name, (_, _, content) in describe_tree(source).items()
    }


def test_a_lock_that_the_last_one_removed_is_made_again(tmp_path: Path) -> None:
    """One comes while another finishes: it waits, finds the removed file locked, and makes its own."""
    finished: list[str] = []
    waiting = threading.Event()

    def come() -> None:
        waiting.set()
        with finished_by_last(tmp_path / "lock", lambda: finished.append("second")):
            assert finished == ["first"]
            assert (tmp_path / "lock").exists()

    second = threading.Thread(target=come)

    def finish() -> None:
        second.start()
        waiting.wait()
        finished.append("first")

    with finished_by_last(tmp_path / "lock", finish):
        pass
    second.join()
    assert finished == ["first", "second"]
    assert list(tmp_path.iterdir()) == []


def test_a_killed_process_is_not_waited_for(tmp_path: Path) -> None:
    killed = (
        "import os, signal, sys; from pathlib import Path; from harveyseg.files import finished_by_last\n"
        "with finished_by_last(Path(sys.argv[1]), print): os.kill(os.getpid(), signal.SIGKILL)"
    )
    command = [sys.executable, "-c", killed, str(tmp_path / "lock")]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert (tmp_path / "lock").exists()
    finished: list[int] = []
    with finished_by_last(tmp_path / "lock", lambda: finished.append(1)):
        pass
    assert finished == [1]
    assert list(tmp_path.iterdir()) == []


def test_without_locks_everyone_finishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fcntl, "flock", refuse(errno.ENOLCK))
    finished: list[int] = []
    for number in (1, 2):
        with finished_by_last(tmp_path / "lock", functools.partial(finished.append, number)):
            pass
    assert finished == [1, 2]
    assert "cannot be locked here" in caplog.text


def test_the_folder_is_listed_once_and_not_for_each_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed: list[object] = []
    listdir = os.listdir

    def count(path: str) -> list[str]:
        listed.append(path)
        return listdir(path)

    monkeypatch.setattr(os, "listdir", count)
    for number in range(20):
        write_text(tmp_path / f"{number}.txt", "x")
    assert len(listed) == 1
