"""Reading files with clear errors, and writing them so that a reader never sees half of one."""

import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from harveyseg.errors import HarveysegError


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to ``path``; move it there on success, delete it on any failure.

    A reader sees the old file or the whole new one, even if the process is killed. The temporary name has the suffix of
    ``path``, because several writers choose the format by it.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "greeting.txt"
        >>> with atomic(target) as temporary:
        ...     _ = temporary.write_text("hello")
        >>> target.read_text()
        'hello'
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)  # mkstemp gives 0600, which a colleague sharing the folder could not read
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Yield a new folder that replaces ``folder`` on success and is deleted on failure."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        building = Path(temporary) / "new"
        building.mkdir()
        yield building
        if folder.exists():
            folder.rename(Path(temporary) / "old")
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
