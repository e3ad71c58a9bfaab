"""Unpacking zip and tar archives that someone else made: nothing is written outside the target, and all or nothing.

The standard library reads the formats. Every member is written here as an ordinary new file, so no link, device, owner
or mode of the archive reaches the disk, and no member replaces another one.
"""

import gzip
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import IO

from harveyseg.errors import HarveysegError
from harveyseg.files import replacing
from harveyseg.progress import track

ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
"""File names of archives end in one of these; the kind of an archive is found by its first bytes."""

Member = tuple[str, IO[bytes] | None]
"""Name and contents; None for a folder."""

_ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")
_BLOCK = 1 << 20
_DAMAGED = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, EOFError)


@dataclass(frozen=True)
class Limits:
    """How large an archive may be unpacked. The competition's holds 634 files of 1.8 GB, which barely shrink."""

    total_bytes: int = 50 * 10**9
    files: int = 100_000
    ratio: float = 100
    """Unpacked to packed bytes of the whole archive."""
    ratio_from: int = 10**7
    """Unpacked bytes up to which any ratio is allowed."""


class _RefusedError(Exception):
    """Why an archive is not unpacked."""


def unpack(archive: Path, target: Path, limits: Limits | None = None) -> Path:
    """Unpack a zip or tar archive (also .tar.gz, .tar.bz2, .tar.xz) into the folder ``target``.

    ``target`` appears only when it is complete, and then replaces an older folder of that name.

    Args:
        archive: the file.
        target: the folder to make, with its parents.
        limits: how large the archive may be; ``Limits()`` by default.

    Returns:
        ``target``.

    Raises:
        HarveysegError: when the archive is damaged, cut off, encrypted or of another kind, exceeds the limits, or holds
            a path outside the target, a link, a device, or two members of one name; and when the disk is full.
    """
    with replacing(target) as folder:
        try:
            with archive.open("rb") as opened:
                is_zip = opened.read(4) in _ZIP_MAGIC
            with closing(_zip_members(archive) if is_zip else _tar_members(archive)) as members:
                _write(members, folder, archive.stat().st_size, limits or Limits())
        except _RefusedError as error:
            raise HarveysegError(
                f"{archive}: not unpacked: {error}. Remove the file, and get the archive from a source that you trust."
            ) from None
        except _DAMAGED as error:
            raise _damaged(archive, error) from None
        except OSError as error:
            if error.errno is None:  # how bz2 reports invalid data
                raise _damaged(archive, error) from None
            raise HarveysegError(
                f"{archive}: could not be unpacked to {target.parent} ({error.strerror}). "
                "Free some disk space or fix the folder's permissions, then run the command again."
            ) from None
    return target


def _write(members: Iterator[Member], folder: Path, packed: int, limits: Limits) -> None:
    """Write all members below ``folder``; counts the bytes that are read, whatever the headers claim."""
    written = 0
    for count, (name, source) in enumerate(members, start=1):
        if count > limits.files:
            raise _RefusedError(f"it holds more than {limits.files} files and folders")
        path = PurePath(name)
        if path.anchor or ".." in path.parts:
            raise _RefusedError(f"the member {name!r} would be written outside the folder")
        if source is not None and not path.parts:
            raise _RefusedError("a member has no name")
        try:
            if source is None:
                (folder / path).mkdir(parents=True, exist_ok=True)
                continue
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            with (folder / path).open("xb") as target:
                while block := source.read(_BLOCK):
                    written += len(block)
                    if written > limits.total_bytes:
                        raise _RefusedError(f"unpacked it is larger than {limits.total_bytes:,} bytes")
                    if written > max(limits.ratio_from, limits.ratio * packed):
                        raise _RefusedError(f"it grows to more than {limits.ratio:g} times its packed size")
                    target.write(block)
        except (FileExistsError, NotADirectoryError):
            raise _RefusedError(f"the member {name!r} occurs twice") from None


def _zip_members(archive: Path) -> Generator[Member, None, None]:
    with zipfile.ZipFile(archive) as opened:
        for info in track(opened.infolist(), f"unpacking {archive.name}", unit="files"):
            if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _RefusedError(f"the member {info.filename!r} is a link or a device")
            if info.filename.endswith("/"):  # is_dir() fails for an empty name
                yield info.filename, None
                continue
            try:
                source = opened.open(info)
            except RuntimeError as error:  # encrypted, or compressed by an unknown method
                raise _RefusedError(f"the member {info.filename!r} cannot be read ({error})") from None
            with source:
                yield info.filename, source


class _StrictTarInfo(tarfile.TarInfo):
    """A header; tarfile would take one that it cannot read for the end of the archive, and members would be lost."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> "_StrictTarInfo":
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise  # a block of zeros, which is the end
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"the end is missing or a header is unreadable: {error}") from None


def _tar_members(archive: Path) -> Generator[Member, None, None]:
    with tarfile.open(archive, tarinfo=_StrictTarInfo) as opened:
        for info in track(opened, f"unpacking {archive.name}", unit="files"):
            if not (info.isdir() or info.isreg()):
                raise _RefusedError(f"the member {info.name!r} is a link or a device")
            yield info.name, None if info.isdir() else opened.extractfile(info)
        while opened.fileobj is not None and opened.fileobj.read(_BLOCK):  # checksums are verified at the very end
            pass


def _damaged(archive: Path, error: Exception) -> HarveysegError:
    cause = str(error).partition(":\n")[0]  # tarfile lists all formats that it tried
    return HarveysegError(
        f"{archive}: the archive is damaged, cut off, or no zip or tar archive ({cause}). "
        "Remove the file and download it again."
    )
