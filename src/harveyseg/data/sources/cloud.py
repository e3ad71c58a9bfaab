"""A folder in cloud storage, fetched once through fsspec."""

import errno
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from filelock import FileLock
from rich.console import Console
from rich.progress import track

from harveyseg.data.download import without_secrets
from harveyseg.data.manifest import FOLDERS
from harveyseg.errors import HarveysegError, raise_problems
from harveyseg.files import atomic

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}
"""The extra of this project that brings the package for a protocol."""
_VERSIONS = (
    "ETag",
    "etag",
    "md5Hash",
    "checksum",
    "mtime",
    "LastModified",
    "Last-Modified",
    "last_modified",
    "updated",
    "created",
)
"""How file systems call what changes when a file does, the surest first."""
_PARALLEL = 8
_LONGEST_PART = 255  # bytes; what common file systems take


def mirror(url: str, downloads: Path, folder: Path) -> None:
    """Fetch a folder's photos and masks and lay them out.

    A file whose name, size and version (checksum or time, what the storage tells) are those of one that was fetched
    before is not fetched again. A file appears among the downloads only when it is complete, so an interrupted call
    goes on where it stopped. What the storage no longer has is removed from the downloads.

    Args:
        url: e.g. ``s3://bucket/folder``; credentials are found as the protocol's own tools find them.
        downloads: where fetched files stay.
        folder: an empty folder, which gets links to them under their names in the storage.

    Raises:
        HarveysegError: when the protocol is unknown or its package absent, and when the storage cannot be read.
    """
    filesystem, base = _connect(url)
    kept = downloads / "cloud" / hashlib.sha256(url.encode()).hexdigest()[:16]
    kept.mkdir(parents=True, exist_ok=True)
    with FileLock(kept.with_suffix(".lock")):
        found = _listing(filesystem, base, url)
        listed = {relative: kept / _key(relative, info) for relative, info in found.items()}
        absent = [(str(found[relative]["name"]), target) for relative, target in listed.items() if not target.exists()]

        def fetch(item: tuple[str, Path]) -> None:
            with atomic(item[1]) as temporary:
                filesystem.get_file(item[0], str(temporary))

        try:
            with ThreadPoolExecutor(_PARALLEL) as pool:
                fetched = pool.map(fetch, absent)
                list(
                    track(fetched, f"Fetching {without_secrets(url)}", total=len(absent), console=Console(stderr=True))
                )
        except Exception as error:  # every file system has exceptions of its own
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                free = shutil.disk_usage(kept).free
                raise HarveysegError(
                    f"{kept}: the disk is full ({free:,} bytes are free). What was fetched is kept; make room, "
                    "then run `dvc repro download` again."
                ) from None
            raise HarveysegError(_unreadable(url, error)) from error
        for old in set(kept.iterdir()) - set(listed.values()):
            old.unlink()
    for relative, target in listed.items():
        (folder / relative).parent.mkdir(parents=True, exist_ok=True)
        (folder / relative).symlink_to(target.resolve())


def _connect(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the folder's path in it."""
    import fsspec

    protocol, separator, _ = url.partition("://")
    shown = without_secrets(url)
    if not separator:
        raise HarveysegError(f"data.url = {shown}: no URL. It must look like s3://bucket/folder or gs://bucket/folder.")
    try:
        filesystem, base = fsspec.core.url_to_fs(url)
        filesystem.invalidate_cache()  # an earlier listing by this process
    except ImportError:
        extra = _EXTRAS.get(protocol)
        remedy = f"pip install -e '.[{extra}]'" if extra else f"pip install fsspec[{protocol}]"
        raise HarveysegError(
            f"data.url = {shown}: the package for {protocol}:// is not installed. Install it: `{remedy}`."
        ) from None
    except ValueError:
        raise HarveysegError(
            f"data.url = {shown}: the protocol {protocol!r} is unknown. Use s3:// or gs://, or another one of fsspec."
        ) from None
    except Exception as error:  # wrong credentials may show here or later
        raise HarveysegError(_unreadable(url, error)) from error
    return filesystem, base


def _listing(filesystem: Any, base: str, url: str) -> dict[str, Mapping[str, Any]]:
    """What the storage tells about each file in a folder of the layout, by its name below ``base``."""
    try:
        found = {info["name"]: info for info in _walk(filesystem, base)}
    except Exception as error:
        raise HarveysegError(_unreadable(url, error)) from error
    listed = {}
    first: dict[str, str] = {}
    problems = []
    for path, info in sorted(found.items()):
        relative = path.removeprefix(base).strip("/")
        if url.startswith(("http://", "https://")):
            relative = unquote(relative)
        parts = PurePosixPath(relative).parts
        if ".." in parts or "\\" in relative:
            problems.append(f"holds the name {relative!r}, which leads elsewhere")
            continue
        # A key that ends in / stands for an empty folder.
        if info["type"] == "file" and not path.endswith("/") and {part.lower() for part in parts[:-1]} & set(FOLDERS):
            if "\0" in relative or any(len(part.encode()) > _LONGEST_PART for part in parts):
                problems.append(f"holds the name {relative!r}, which no file can have (NUL, or more than 255 bytes)")
                continue
            other = first.setdefault(relative.casefold(), relative)
            if other != relative:
                problems.append(f"holds {other!r} and {relative!r}, which some file systems would take for one file")
            listed[relative] = info
    raise_problems(problems, f"data.url = {without_secrets(url)}", "Rename these files there.")
    if not listed:
        raise HarveysegError(
            f"data.url = {without_secrets(url)}: no file is there in a folder {', '.join(FOLDERS[:-1])} or "
            f"{FOLDERS[-1]}. Correct data.url in params.yaml."
        )
    return listed


def _walk(filesystem: Any, path: str) -> Iterator[Mapping[str, Any]]:
    """All files below a path; for fsspec's own walk a folder is empty when its server is down."""
    try:
        listed = filesystem.ls(path, detail=True)
    except FileNotFoundError:
        return
    for info in listed:
        if info["type"] == "directory":
            if info["name"].rstrip("/") != path.rstrip("/"):
                yield from _walk(filesystem, info["name"].rstrip("/"))
        elif info["size"] is not None:
            yield info
        elif "?" not in info["name"]:
            # A web server's page tells names alone, and links to itself in another order.
            yield filesystem.info(info["name"])


def _key(relative: str, info: Mapping[str, Any]) -> str:
    """A file name that another version of the file does not get."""
    version = next((str(info[name]) for name in _VERSIONS if info.get(name)), "")
    return hashlib.sha256(json.dumps([relative, info["size"], version]).encode()).hexdigest()


def _unreadable(url: str, error: Exception) -> str:
    cause = " ".join(str(error).split()) or type(error).__name__
    split = urlsplit(url)
    for secret in (split.query, split.netloc.rpartition("@")[0]):
        cause = cause.replace(secret, "...") if secret else cause
    return (
        f"data.url = {without_secrets(url)}: cannot be read ({cause}). Check the address, the network and the "
        "credentials; what was fetched is kept, so run `dvc repro download` again."
    )
