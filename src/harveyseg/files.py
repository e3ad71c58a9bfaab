"""Reading files with clear errors, and writing them so that a reader never sees half of one."""

import errno
import hashlib
import json
import logging
import os
import re
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout

from harveyseg.errors import HarveysegError

if sys.platform != "win32":
    import fcntl

logger = logging.getLogger(__name__)

_BLOCK = 2**20
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to ``path``; move it there on success, delete it on any failure.

    A reader sees the old file or the whole new one, even if the process is killed. The temporary name has the suffix of
    ``path``, because several writers choose the format by it, and starts with a dot, which keeps it out of DVC's sight.
    What writers of ``path`` left is deleted, if they were killed before this process first wrote to the folder.

    Raises:
        HarveysegError: when the disk is full.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "greeting.txt"
        >>> with atomic(target) as temporary:
        ...     _ = temporary.write_text("hello")
        >>> target.read_text()
        'hello'
    """
    with _explain_full_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _delete_leftovers(path)
        handle, name = _open_temporary(path)
        temporary = Path(name)
        try:
            yield temporary
            with suppress(PermissionError):  # shares and SD cards have no modes of their own
                temporary.chmod(0o644)  # mkstemp gives 0600, which a colleague sharing the folder could not read
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            temporary.replace(path)
        finally:
            os.close(handle)
            temporary.unlink(missing_ok=True)


def create_array(path: Path, shape: tuple[int, ...]) -> np.memmap[Any, np.dtype[np.uint8]]:
    """Create a ``.npy`` file of uint8 zeros, memory-mapped for writing, with all its bytes reserved on the disk.

    Writing into a mapped file for which the disk has no room would end the process with SIGBUS.

    Raises:
        OSError: when the disk has no room for the array.
    """
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    with path.open("r+b") as opened:
        size = os.fstat(opened.fileno()).st_size
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(opened.fileno(), 0, size)
        else:  # macOS
            opened.seek(size - array.nbytes)
            for start in range(0, array.nbytes, _BLOCK):
                opened.write(bytes(min(_BLOCK, array.nbytes - start)))
    return array


@contextmanager
def locked(path: Path, timeout: float = -1, waiting: str = "") -> Iterator[None]:
    """Keep other processes out of the ``with`` block by a lock on a file, which stays.

    Where the file system has no locks (some network shares), the block runs without one, after a warning.

    Args:
        path: the lock file.
        timeout: seconds to wait for another process; for ever if negative.
        waiting: logged once, when another process has the lock.

    Raises:
        filelock.Timeout: when another process has kept the lock for ``timeout`` seconds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if timeout == 0:
                raise
            if waiting:
                logger.info("%s", waiting)
            lock.acquire(timeout=timeout)
    except (OSError, NotImplementedError) as error:
        if isinstance(error, Timeout) or (isinstance(error, OSError) and error.errno not in _NO_LOCKS):
            raise
        logger.warning("%s: cannot be locked here (%s). Run one command at a time in this project.", path, error)
    try:
        yield
    finally:
        lock.release()


@contextmanager
def finished_by_last(path: Path, finish: Callable[[], None]) -> Iterator[None]:
    """Run ``finish`` after the ``with`` block in the last one of the processes that are in such a block at a time.

    So what concerns the work of all is done when all of it is there, and once. Another process that comes meanwhile
    waits at the beginning of its block. Where the file system has no locks, each process runs ``finish``, after a
    warning.

    Args:
        path: a lock file, the same for all; it is there only while a process is in the block or was killed in it.
        finish: also called after an exception.

    Example:
        >>> import tempfile
        >>> lock = Path(tempfile.mkdtemp()) / "lock"
        >>> def finish():
        ...     print("all done")
        >>> with finished_by_last(lock, finish):
        ...     with finished_by_last(lock, finish):  # as in another process
        ...         print("working")
        working
        all done
        >>> lock.exists()
        False
    """
    handle = _enter_shared(path)
    try:
        yield
    finally:
        if handle is None:
            finish()
        else:
            _finish_if_last(path, handle, finish)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def copy_file(source: Path, target: Path) -> None:
    """Copy a file, with its mode and times where the disk keeps any: shares and SD cards refuse to set them."""
    shutil.copyfile(source, target)
    with suppress(PermissionError):
        shutil.copystat(source, target)


def copy_folder(source: Path, target: Path) -> None:
    """Copy a folder with :func:`copy_file`; symbolic links stay links.

    :func:`shutil.copytree` fails where the mode of a folder cannot be set.

    Args:
        source: a folder.
        target: it must not exist; folders above it are made.

    Raises:
        FileExistsError: when it exists.
    """
    target.mkdir(parents=True)
    for path in source.iterdir():
        copy = target / path.name
        if path.is_symlink():
            copy.symlink_to(path.readlink())
        elif path.is_dir():
            copy_folder(path, copy)
        else:
            copy_file(path, copy)


def require_writable(folder: Path) -> None:
    """Refuse a folder that cannot be made or written to, before the work whose files it is for. It is not made.

    Raises:
        HarveysegError: naming the folder and the cause.
    """
    remedy = "Name another folder, or make this one writable for you."
    existing = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not existing.is_dir():
        raise HarveysegError(f"{folder}: cannot be a folder, since {existing} is none. Name another one.")
    try:
        with tempfile.TemporaryDirectory(dir=existing, prefix=".harveyseg-"):
            pass
    except OSError as error:
        raise HarveysegError(f"{folder}: cannot be written to ({error.strerror}). {remedy}") from None


def refuse_foreign(path: Path, *marks: str) -> None:
    """Refuse to replace a file that holds none of ``marks``: each file that this program writes there holds one.

    Raises:
        HarveysegError: when such a file exists, or its folder cannot be written to.
    """
    require_writable(path.parent)
    if not os.path.lexists(path):
        return
    content = path.read_bytes() if path.is_file() else b""
    if not any(mark.encode() in content for mark in marks):
        raise HarveysegError(f"{path}: exists already, and harveyseg did not write it. Move it, or name another file.")


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Yield a new folder that replaces ``folder`` on success and is deleted on failure.

    What processes left that were killed in such a block is deleted.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _explain_full_disk(folder), _temporary_folder(folder) as temporary:
        building = temporary / "new"
        building.mkdir()
        yield building
        if folder.exists():
            folder.rename(temporary / "old")
        building.rename(folder)


def read_table(
    path: Path, columns: Mapping[str, type], remedy: str, optional: Mapping[str, type] | None = None
) -> pd.DataFrame:
    """Read a CSV table that this package wrote.

    Args:
        path: the file.
        columns: the columns that it must have, and the type of each; others are read as text.
        remedy: how to write the file again, for the error message.
        optional: columns that it may have, and the type of each.

    Returns:
        All columns of the file, in its order. Text that looks like a missing value, such as the id ``NA``, stays text.

    Raises:
        HarveysegError: when the file is absent, no such table, or lacks a column.
    """
    try:
        header = pd.read_csv(path, nrows=0, index_col=False).columns
        types = {name: {**(optional or {}), **columns}.get(name, str) for name in header}
        with warnings.catch_warnings():
            # Rows longer than the header: pandas would drop their last cells with nothing but a warning.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            table = pd.read_csv(
                path,
                index_col=False,
                dtype=types,
                keep_default_na=False,
                na_values=_blank_numbers(types),
                float_precision="round_trip",  # the default is off by a bit for some numbers
            )
    except FileNotFoundError:
        raise HarveysegError(f"{path}: no such file. {remedy}") from None
    except (ValueError, pd.errors.ParserWarning) as error:
        raise HarveysegError(f"{path}: not a table of the expected kind ({str(error).strip()}). {remedy}") from None
    if missing := [name for name in columns if name not in table]:
        raise HarveysegError(f"{path}: lacks the columns {', '.join(missing)}. {remedy}")
    return table


def write_table(path: Path, table: pd.DataFrame, float_format: str | None = None) -> None:
    """Write a table as CSV without its index, atomically; the same bytes on every platform."""
    write_text(path, table.to_csv(index=False, float_format=float_format, lineterminator="\n"))


def _blank_numbers(types: Mapping[str, type]) -> dict[str, list[str]]:
    """An empty cell of a column of floats is NaN; in a column of whole numbers it is an error."""
    return {name: [""] for name, kind in types.items() if kind is float}


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON with sorted keys, atomically.

    Raises:
        ValueError: for NaN or infinity, which JSON cannot hold.
    """
    write_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        path: the file.
        remedy: how to write the file again, for the error message.

    Raises:
        HarveysegError: when the file is absent, not JSON, or not an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise HarveysegError(f"{path}: no such file. {remedy}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise HarveysegError(f"{path}: not valid JSON ({error}). {remedy}") from None
    if not isinstance(value, dict):
        raise HarveysegError(f"{path}: holds a {type(value).__name__}, not an object. {remedy}")
    return value


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def digest(value: Mapping[str, Any]) -> str:
    """Hexadecimal SHA-256 of a JSON-like mapping; the order of its keys does not matter.

    Example:
        >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
        True
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True, allow_nan=False).encode()).hexdigest()


def _open_temporary(path: Path) -> tuple[int, str]:
    """Create a temporary file for ``path`` and lock it, which tells it from the leftovers of killed processes."""
    while True:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
        if sys.platform != "win32":
            with suppress(OSError):  # no locks here
                fcntl.flock(handle, fcntl.LOCK_EX)
        if os.path.exists(name):  # else another process took it for a leftover before it was locked
            return handle, name
        os.close(handle)


@contextmanager
def _temporary_folder(folder: Path) -> Iterator[Path]:
    """Make a temporary folder next to ``folder``, locked like a temporary file, after deleting those without a lock."""
    for leftover in folder.parent.glob(f".{folder.name}-????????"):
        if (handle := _lock_folder(leftover, wait=False)) is not None:
            if {path.name for path in leftover.iterdir()} <= {"new", "old"}:  # else it is somebody's own
                shutil.rmtree(leftover, ignore_errors=True)
            os.close(handle)
    while True:
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
        handle = _lock_folder(temporary, wait=True)
        if temporary.exists():  # else another process took it for a leftover before it was locked
            break
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if handle is not None:
            os.close(handle)


def _lock_folder(folder: Path, wait: bool) -> int | None:
    """Open and lock a folder; None where another process has the lock, or there are no locks."""
    if sys.platform == "win32":
        return None
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:  # no folder, or gone
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


def _delete_leftovers(path: Path) -> None:
    """Delete the temporary files of ``path`` that no process has locked."""
    for leftover in _found_temporaries(path.parent.absolute()).pop(path.name, ()):
        with suppress(OSError), leftover.open("rb") as opened:  # locked, or gone
            if sys.platform != "win32":  # there, a file that is open cannot be deleted anyway
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            leftover.unlink()


@cache  # to list a folder of many files for each one that is written takes longer than to write it
def _found_temporaries(folder: Path) -> dict[str, list[Path]]:
    """The temporary files in a folder when this process first writes there, by the name of what they are for."""
    found: dict[str, list[Path]] = {}
    for name in os.listdir(folder):
        if match := re.fullmatch(r"\.(.+)-[a-z0-9_]{8}(\.[^.]*)?", name):
            found.setdefault(match[1] + (match[2] or ""), []).append(folder / name)
    return found


def _enter_shared(path: Path) -> int | None:
    """Open a lock file and lock it together with others; None where there are no locks."""
    if sys.platform == "win32":
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_SH)
        except OSError as error:
            os.close(handle)
            if error.errno not in _NO_LOCKS:
                raise
            logger.warning("%s: cannot be locked here (%s). Run one command at a time in this folder.", path, error)
            return None
        if _is_open_at(handle, path):
            return handle
        os.close(handle)  # the last process removed it meanwhile


def _finish_if_last(path: Path, handle: int, finish: Callable[[], None]) -> None:
    """Run ``finish`` unless others have the lock, or had it after this process and have run it."""
    try:
        # Only after its own lock is gone can another one, which leaves at the same moment, find itself to be the last.
        fcntl.flock(handle, fcntl.LOCK_UN)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        if _is_open_at(handle, path):
            finish()
            path.unlink(missing_ok=True)
    finally:
        os.close(handle)


def _is_open_at(handle: int, path: Path) -> bool:
    """Whether the open file still is the one at ``path``."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


@contextmanager
def _explain_full_disk(path: Path) -> Iterator[None]:
    """Translate the ways in which libraries say that a disk is full."""
    try:
        yield
    except Exception as error:
        if isinstance(error, HarveysegError) or not _means_no_room(error):
            raise
        raise HarveysegError(
            f"{path}: there is no room for it on its disk, or your quota there is used up. Free some disk space, then "
            "run the same command again; it continues after what is complete."
        ) from error


def _means_no_room(error: BaseException | None) -> bool:
    while error is not None:
        # safetensors has an exception of its own, with Rust's text.
        if getattr(error, "errno", None) in _NO_ROOM or any(f"(os error {code})" in str(error) for code in _NO_ROOM):
            return True
        error = error.__cause__ or error.__context__
    return False
