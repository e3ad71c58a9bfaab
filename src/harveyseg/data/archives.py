"""Unpacking zip and tar archives that someone else made: nothing lands outside the target, and all of it or nothing.

The standard library reads the formats; what it leaves to the caller is here. Every member is written by this module as
an ordinary file, so no link, device, owner or mode of the archive reaches the disk.
"""

import bz2
import gzip
import io
import lzma
import re
import stat
import tarfile
import tempfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, TypeVar

from rich.console import Console
from rich.progress import track

from harveyseg.errors import HarveysegError

ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
"""What the names of archives end in; what a file really is, its first bytes tell."""

MemberT = TypeVar("MemberT")

_LONGEST_NAME = 1000  # bytes; photos have no such names, and each part becomes a folder and takes memory
_LONGEST_PART = 255  # bytes; what common file systems take
_DEEPEST = 64
_BLOCK = 1 << 20
_TAR_BLOCK = 512
_DAMAGED = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError)
_DECOMPRESSORS = ((b"\x1f\x8b", gzip.open), (b"BZh", bz2.open), (b"\xfd7zXZ\x00", lzma.open))
_ENCRYPTED = 0x1 | 0x40 | 0x2000  # flag bits: traditional, strong, and an encrypted list of members


@dataclass(frozen=True)
class Limits:
    """What an archive may grow to. The competition's is 1.8 GB of 634 files that barely shrink when packed."""

    total_bytes: int = 50 * 10**9
    """Of all members, unpacked."""
    files: int = 100_000
    """Files and folders."""
    ratio: float = 100
    """Unpacked to packed bytes, of each member and of the whole."""
    ratio_from: int = 10**7
    """Unpacked bytes below which no ratio is looked at: a small file of zeros harms nobody."""


class _RefusedError(Exception):
    """Why an archive is not unpacked; becomes a ``HarveysegError`` that names the archive."""


def unpack(archive: Path, target: Path, limits: Limits | None = None) -> Path:
    """Unpack a zip or tar archive (also .tar.gz, .tar.bz2, .tar.xz) into the folder ``target``.

    ``target`` appears only when all is there, and takes the place of an older folder of that name. Whatever goes wrong,
    and when the process is killed, no half of it is seen under that name.

    Args:
        archive: the file; its kind is told by its first bytes.
        target: the folder to make; its parents are made too.
        limits: what the archive may grow to; ``Limits()`` by default.

    Returns:
        ``target``.

    Raises:
        HarveysegError: for an archive that is damaged, cut off, encrypted or of another kind, that grows beyond the
            limits, or that holds a path out of the target, a name too long or too deep, a link, a device, or two
            members of one name (also where only the case differs); and when the disk is full.
    """
    limits = limits or Limits()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as temporary:
        building = Path(temporary) / "new"
        building.mkdir()
        writer = _Writer(building, archive.stat().st_size, limits)
        try:
            with archive.open("rb") as opened:
                _unpack(opened, archive.name, writer)
        except _RefusedError as error:
            raise HarveysegError(
                f"{archive}: not unpacked: {error}. Remove the file, and get the archive from a source that you trust."
            ) from None
        except _DAMAGED as error:
            raise _damaged(archive, writer, error) from None
        except OSError as error:
            if error.errno is None or isinstance(error, gzip.BadGzipFile):  # how gzip and bz2 say that data are invalid
                raise _damaged(archive, writer, error) from None
            raise HarveysegError(
                f"{archive}: could not be unpacked to {target.parent} ({error.strerror}; member {writer.member!r}). "
                "Make room there, or mend the folder's permissions, then run the command again."
            ) from None
        if target.exists():
            target.rename(Path(temporary) / "old")
        building.rename(target)
    return target


class _Writer:
    """Writes members below a folder, and refuses what may not be written."""

    def __init__(self, folder: Path, packed: int, limits: Limits) -> None:
        self._folder = folder
        self._packed = packed
        self._limits = limits
        self._files: set[str] = set()
        self._folders: set[str] = set()
        self._written = 0
        self.member = ""
        """The member that is being written, for messages."""

    def begin(self, name: str, is_folder: bool) -> Path | None:
        """Check a member's name; the path to write it to, or None for a folder."""
        self.member = name
        parts = _safe_parts(name)
        keys = ["/".join(parts[:length]) for length in range(1, len(parts) + 1)]
        # On the file systems of macOS and Windows these would be one file, and the second would overwrite the first.
        keys = [unicodedata.normalize("NFC", key).casefold() for key in keys]
        above = keys if is_folder else keys[:-1]
        if (not is_folder and (not parts or keys[-1] in self._files | self._folders)) or self._files & set(above):
            raise _RefusedError(f"the member {name!r} occurs twice (perhaps in another case)")
        self._folders.update(above)
        if not is_folder:
            self._files.add(keys[-1])
        if len(self._files) + len(self._folders) > self._limits.files:
            raise _RefusedError(f"it holds more than {self._limits.files} files and folders")
        if is_folder:
            return None
        path = self._folder.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def copy(self, source: IO[bytes], path: Path, packed: int) -> None:
        """Write a member, counting what really comes, whatever its header claims.

        Args:
            source: the member's bytes.
            path: the file to write.
            packed: how many bytes it takes in the archive.
        """
        size = 0
        with path.open("xb") as opened:
            while block := source.read(_BLOCK):
                size += len(block)
                self._written += len(block)
                self.check(self._written)
                self._check_ratio(size, packed, f"the member {self.member!r}")
                opened.write(block)

    def check(self, unpacked: int) -> None:
        """Refuse an archive of which so many bytes were unpacked, or are claimed to come."""
        if unpacked > self._limits.total_bytes:
            raise _RefusedError(f"unpacked it is larger than {self._limits.total_bytes:,} bytes")
        self._check_ratio(unpacked, self._packed, "it")

    def _check_ratio(self, unpacked: int, packed: int, what: str) -> None:
        if unpacked > max(self._limits.ratio_from, self._limits.ratio * packed):
            raise _RefusedError(
                f"{what} grows to more than {self._limits.ratio:g} times its packed size, like a zip bomb"
            )


def _unpack(opened: io.BufferedReader, name: str, writer: _Writer) -> None:
    start = opened.read(265)
    opened.seek(0)
    if start[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        _unpack_zip(opened, name, writer)
        return
    for magic, decompress in _DECOMPRESSORS:
        if start.startswith(magic):
            with decompress(opened, "rb") as stream:
                _unpack_tar(_Forward(stream, writer), name, writer)
            return
    if start[257:262] != b"ustar":
        raise _RefusedError("it is no zip or tar archive")
    _unpack_tar(_Forward(opened, writer), name, writer)


def _unpack_zip(opened: io.BufferedReader, name: str, writer: _Writer) -> None:
    with zipfile.ZipFile(opened) as members:
        infos = members.infolist()
        writer.check(sum(info.file_size for info in infos))  # before anything is written
        for info in _shown(infos, name):
            # ZipFile cuts a name off at a NUL; the original shows it.
            path = writer.begin(info.orig_filename, info.is_dir())
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _RefusedError(f"the member {info.filename!r} is a link or a device, no file")
            if info.flag_bits & _ENCRYPTED:
                raise _RefusedError(f"the member {info.filename!r} is encrypted, and no password can be given here")
            if path is not None:
                try:
                    with members.open(info) as source:
                        writer.copy(source, path, info.compress_size)
                except NotImplementedError as error:
                    raise _RefusedError(f"the member {info.filename!r} is packed in an unknown way ({error})") from None


def _unpack_tar(stream: "_Forward", name: str, writer: _Writer) -> None:
    with tarfile.open(fileobj=stream, mode="r:") as members:
        for info in _shown(members, name):
            path = writer.begin(info.name, info.isdir())
            if not (info.isdir() or info.isreg()) or info.issparse():
                raise _RefusedError(f"the member {info.name!r} is a link, a device or sparse, no ordinary file")
            source = members.extractfile(info)
            if path is not None and source is not None:
                writer.copy(source, path, info.size)
    # tarfile takes a header that it cannot read for the end. The real end is a block of zeros.
    if stream.last != bytes(_TAR_BLOCK):
        raise EOFError("the end is missing or a header is unreadable")
    while stream.read(_BLOCK):  # only at its end does a decompressor check the checksum
        pass


class _Forward(io.RawIOBase):
    """A stream that tarfile reads from front to back; it counts what comes, and never holds much in memory."""

    def __init__(self, stream: io.BufferedIOBase, writer: _Writer) -> None:
        super().__init__()
        self._stream = stream
        self._writer = writer
        self._position = 0
        self.last = b""
        """What the last read gave."""

    def tell(self) -> int:
        return self._position

    def seek(self, position: int, whence: int = io.SEEK_SET) -> int:
        """Skip forward to a position."""
        if position < self._position:
            raise tarfile.ReadError("a header points backwards")
        while self._position < position and self.read(min(_BLOCK, position - self._position)):
            pass
        return self._position

    def read(self, size: int = -1) -> bytes:
        """Read ``size`` bytes, or what is left."""
        if size > 16 * _BLOCK:  # names and comments of a member are read at once
            raise _RefusedError("a header claims more than 16 MiB")
        self.last = self._stream.read(size)
        self._position += len(self.last)
        self._writer.check(self._position)
        return self.last


def _safe_parts(name: str) -> tuple[str, ...]:
    """The parts of a member's path below the target."""
    long = len(name.encode("utf-8", "surrogateescape")) > _LONGEST_NAME
    if long or name.count("/") > _DEEPEST:
        why = f"has a name of more than {_LONGEST_NAME} bytes" if long else f"lies in more than {_DEEPEST} folders"
        raise _RefusedError(f"the member {name[:60]!r}... {why}")
    if "\\" in name or not name.isprintable():
        raise _RefusedError(f"the member {name!r} has a backslash or a control character in its name")
    if name.startswith("/") or re.match("[A-Za-z]:", name) or ".." in name.split("/"):
        raise _RefusedError(f"the member {name!r} would be written outside the folder")
    parts = PurePosixPath(name).parts
    if any(len(part.encode()) > _LONGEST_PART for part in parts):
        raise _RefusedError(f"the member {name!r} has a name of more than {_LONGEST_PART} bytes")
    return parts


def _shown(members: Iterable[MemberT], name: str) -> Iterator[MemberT]:
    """The members, with a bar that shows how far one is."""
    yield from track(members, f"Unpacking {name}", console=Console(stderr=True))


def _damaged(archive: Path, writer: _Writer, error: Exception) -> HarveysegError:
    where = f" at the member {writer.member!r}" if writer.member else ""
    return HarveysegError(
        f"{archive}: the archive is damaged or cut off{where} ({error}). Remove the file and download it again."
    )
