"""A folder in cloud storage, mirrored through fsspec.

fsspec's own ``rsync`` compares sizes only, and its ``walk`` skips the subfolders that a server fails to list. So files
are listed and compared here: one is fetched again when its size or version (checksum or time) has changed.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import fsspec

from harveyseg.data.download import without_secrets
from harveyseg.data.pairs import FOLDERS
from harveyseg.errors import HarveysegError
from harveyseg.files import atomic, locked
from harveyseg.progress import track

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}
"""The extra of this project that installs the package for a protocol."""
_VERSIONS = (
    "ETag", "etag", "md5Hash", "checksum", "mtime", "LastModified", "Last-Modified", "last_modified", "updated",
    "created",
)  # fmt: skip
"""Names that file systems give to the version of a file, the most reliable first."""
_PARALLEL = 8


def mirror_folder(url: str, downloads: Path, folder: Path) -> None:
    """Fetch the photos and masks of a folder that have changed since the last call, and lay them out.

    A file appears among the downloads only when it is complete, so an interrupted call is resumed. Downloads that the
    storage no longer has are removed.

    Args:
        url: e.g. ``s3://bucket/folder``; credentials are found as the protocol's own tools find them.
        downloads: where fetched files are kept.
        folder: an empty folder, which gets links to them under their names in the storage.

    Raises:
        HarveysegError: when the protocol is unknown or its package missing, and when the storage cannot be read.
    """
    store = downloads / "cloud" / hashlib.sha256(url.encode()).hexdigest()[:16]
    store.mkdir(parents=True, exist_ok=True)
    with locked(store.with_suffix(".lock")):
        try:
            filesystem, base = _connect(url)
            files = _list_files(filesystem, base, url)
            targets = {name: store / _version_key(name, info) for name, info in files.items()}
            missing = [(files[name]["name"], path) for name, path in targets.items() if not path.exists()]

            def download(item: tuple[str, Path]) -> None:
                with atomic(item[1]) as temporary:
                    filesystem.get_file(item[0], str(temporary))

            with ThreadPoolExecutor(_PARALLEL) as pool:
                downloaded = pool.map(download, missing)
                list(track(downloaded, f"downloading {without_secrets(url)}", len(missing), "files"))
        except HarveysegError:
            raise
        except Exception as error:  # each file system has its own exceptions
            raise HarveysegError(_unreadable(url, error)) from error
        for outdated in set(store.iterdir()) - set(targets.values()):
            outdated.unlink()
    for name, path in targets.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(path.resolve())


def _connect(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the folder's path in it."""
    protocol, separator, _ = url.partition("://")
    setting = f"data.url = {without_secrets(url)}"
    if not separator:
        raise HarveysegError(f"{setting}: not a URL. It must look like s3://bucket/folder or gs://bucket/folder.")
    try:
        filesystem, base = fsspec.core.url_to_fs(url)
    except ImportError:
        extra = _EXTRAS.get(protocol)
        package = f"-e '.[{extra}]'" if extra else f"fsspec[{protocol}]"
        raise HarveysegError(
            f"{setting}: the package for {protocol}:// is not installed. Install it: `pip install {package}`."
        ) from None
    except ValueError:
        raise HarveysegError(
            f"{setting}: the protocol {protocol!r} is unknown. Use s3:// or gs://, or another one of fsspec."
        ) from None
    filesystem.invalidate_cache()  # of an earlier listing by this process
    return filesystem, base


def _list_files(filesystem: Any, base: str, url: str) -> dict[str, Mapping[str, Any]]:
    """The storage's description of each file in a folder of the layout, by its name below ``base``."""
    setting = f"data.url = {without_secrets(url)}"
    files = {}
    for info in sorted(_walk(filesystem, base), key=lambda info: str(info["name"])):
        name = info["name"].removeprefix(base).strip("/")
        if urlsplit(url).scheme in ("http", "https"):
            name = unquote(name)
        parts = PurePosixPath(name).parts
        if ".." in parts or "\\" in name:
            raise HarveysegError(f"{setting}: the name {name!r} leads outside the folder. Rename the file there.")
        is_file = info["type"] == "file" and not info["name"].endswith("/")  # such a key stands for an empty folder
        if is_file and {part.lower() for part in parts[:-1]} & set(FOLDERS):
            files[name] = info
    if not files:
        raise HarveysegError(
            f"{setting}: no file is there in a folder {', '.join(FOLDERS[:-1])} or {FOLDERS[-1]}. Correct data.url in "
            "params.yaml."
        )
    return files


def _walk(filesystem: Any, path: str) -> Iterator[Mapping[str, Any]]:
    """All files below a path; a folder that does not exist has none."""
    try:
        entries = filesystem.ls(path, detail=True)
    except FileNotFoundError:
        return
    for info in entries:
        if info["type"] == "directory":
            if info["name"].rstrip("/") != path.rstrip("/"):
                yield from _walk(filesystem, info["name"].rstrip("/"))
        elif info["size"] is not None:
            yield info
        elif "?" not in info["name"]:  # a web server's page lists names only, and links to itself in other orders
            yield filesystem.info(info["name"])


def _version_key(name: str, info: Mapping[str, Any]) -> str:
    """A file name that differs for each version of a file."""
    version = next((str(info[field]) for field in _VERSIONS if info.get(field)), "")
    return hashlib.sha256(json.dumps([name, info["size"], version]).encode()).hexdigest()


def _unreadable(url: str, error: Exception) -> str:
    cause = " ".join(str(error).split()) or type(error).__name__
    split = urlsplit(url)
    for secret in (split.query, split.netloc.rpartition("@")[0]):
        cause = cause.replace(secret, "...") if secret else cause
    return (
        f"data.url = {without_secrets(url)}: cannot be read ({cause}). Check the address, the network and the "
        "credentials; fetched files are kept, so run `dvc repro download` again."
    )
