"""Archives: good ones arrive whole, and nothing of a bad one does."""

import io
import os
import resource
import signal
import stat
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from harveyseg.data.archives import Limits, unpack
from harveyseg.errors import HarveysegError
from helpers.waiting import wait_until

FILES = {"train_images/1.jpg": os.urandom(3000), "train_masks/1.png": b"mask", "empty": b""}


def make_zip(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def make_tar(path: Path, members: dict[str, bytes], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def refused(archive: Path, message: str, limits: Limits | None = None) -> None:
    """Unpacking fails with this message, and leaves an older folder as it was and nothing next to it."""
    target = archive.parent / "parent" / "target"
    target.mkdir(parents=True)
    (target / "old").write_text("older")
    before = archive.read_bytes()
    with pytest.raises(HarveysegError, match=message) as caught:
        unpack(archive, target, limits)
    assert str(archive) in str(caught.value)
    assert [path.relative_to(archive.parent).as_posix() for path in sorted(archive.parent.rglob("*"))] == sorted(
        [archive.name, "parent", "parent/target", "parent/target/old"]
    )
    assert archive.read_bytes() == before


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tar.bz2", "a.tar.xz"])
def test_every_kind_is_unpacked_whatever_its_name(tmp_path: Path, name: str) -> None:
    mode = {"tar": "w:"}.get(name.split(".", 1)[1], f"w:{name.rsplit('.')[-1]}")
    packed = make_zip(tmp_path / name, FILES) if name == "a.zip" else make_tar(tmp_path / name, FILES, mode)
    archive = packed.rename(tmp_path / "download")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/of an older one").touch()
    assert unpack(archive, tmp_path / "out") == tmp_path / "out"
    unpacked = {path.relative_to(tmp_path / "out").as_posix(): path for path in (tmp_path / "out").rglob("*")}
    assert {key: path.read_bytes() for key, path in unpacked.items() if path.is_file()} == FILES
    assert sorted(path.name for path in tmp_path.iterdir()) == ["download", "out"]


def test_what_tar_and_zip_themselves_write(tmp_path: Path) -> None:
    """Folders as members, ``./`` before names, long names in extra headers, modes that forbid reading."""
    deep = tmp_path / "in" / ("d" * 120) / ("e" * 120)
    deep.mkdir(parents=True)
    (deep / "photo é.jpg").write_bytes(b"photo")
    (deep / "photo é.jpg").chmod(0o000)
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        archive.add(tmp_path / "in", ".", filter=lambda info: info)
    unpack(tmp_path / "a.tar", tmp_path / "out")
    assert (tmp_path / "out" / deep.relative_to(tmp_path / "in") / "photo é.jpg").read_bytes() == b"photo"
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) & 0o500 == 0o500


@pytest.mark.parametrize("name", ["/etc/passwd", "../outside", "a/../../outside"])
@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_nothing_is_written_outside(tmp_path: Path, make: Callable[..., Path], name: str) -> None:
    refused(make(tmp_path / "archive", {"good": b"1", name: b"2"}), "outside the folder")


@pytest.mark.parametrize("name", ["a/" * 15000 + "1.jpg", "n" * 252 + ".jpg"])
@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_names_that_the_file_system_does_not_take(tmp_path: Path, make: Callable[..., Path], name: str) -> None:
    refused(make(tmp_path / "archive", {name: b""}), r"could not be unpacked to .* \(File name too long\)")


@pytest.mark.parametrize("name", ["", "."])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_members_without_a_name(tmp_path: Path, kind: str, name: str) -> None:
    if kind == "zip":
        with zipfile.ZipFile(tmp_path / "archive", "w") as archive:
            info = zipfile.ZipInfo("file")
            info.filename = name  # which zipfile would not write otherwise
            archive.writestr(info, b"1")
    else:
        make_tar(tmp_path / "archive", {name: b"1"})
    refused(tmp_path / "archive", "has no name")


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_folders_count_like_files(tmp_path: Path, make: Callable[..., Path]) -> None:
    archive = make(tmp_path / "archive", {"a/1.jpg": b"1", "d/": b""})
    unpack(archive, tmp_path.with_name(f"{tmp_path.name}-fine"), Limits(files=2))
    refused(archive, "more than 1 files and folders", Limits(files=1))


@pytest.mark.parametrize(
    "members",
    [("a", "a"), ("a", "./a"), ("a", "a/b"), ("a/b", "a")],
)
@pytest.mark.parametrize("make", ["zip", "tar"])
def test_no_two_members_of_one_name(tmp_path: Path, make: str, members: tuple[str, str]) -> None:
    path = tmp_path / "archive"
    if make == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name in members:
                if name not in archive.namelist():
                    archive.writestr(name, b"")
                else:
                    with pytest.warns(UserWarning, match="Duplicate name"):
                        archive.writestr(name, b"")
    else:
        with tarfile.open(path, "w") as tar:
            for name in members:
                tar.addfile(tarfile.TarInfo(name))
    refused(path, "occurs twice")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_no_links_or_devices_in_a_tar(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        info = tarfile.TarInfo("member")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    refused(tmp_path / "a.tar", "'member' is a link or a device")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_no_links_or_devices_in_a_zip(tmp_path: Path, kind: int) -> None:
    info = zipfile.ZipInfo("member")
    info.external_attr = (kind | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    refused(tmp_path / "a.zip", "'member' is a link or a device")


@pytest.mark.parametrize("make", [make_zip, make_tar])
@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(total_bytes=10**6), "larger than 1,000,000 bytes"),
        (Limits(ratio=20, ratio_from=10**5), "grows to more than 20 times its packed size"),
    ],
)
def test_bombs(tmp_path: Path, make: Callable[..., Path], limits: Limits, message: str) -> None:
    bomb = make(tmp_path / "bomb", {"a": bytes(2 * 10**6), "b": b"", "c": b""})
    unpack(bomb, tmp_path / "fine")
    (tmp_path / "fine").rename(tmp_path.with_name(f"{tmp_path.name}-fine"))
    refused(bomb, message, limits)


def test_a_bomb_that_lies_about_its_size(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"a": bytes(10**6)})
    size = (10**6).to_bytes(4, "little")
    assert archive.read_bytes().count(size) == 2
    archive.write_bytes(archive.read_bytes().replace(size, (1).to_bytes(4, "little")))
    refused(archive, "the archive is damaged", Limits(total_bytes=1000))


@pytest.mark.parametrize("flag", [0x1, 0x40])
def test_encrypted(tmp_path: Path, flag: int) -> None:
    archive = make_zip(tmp_path / "a.zip", {"secret": b"12345"})
    data = bytearray(archive.read_bytes())
    data[6] |= flag  # the local header's flags
    data[data.index(b"PK\x01\x02") + 8] |= flag  # the central directory's
    archive.write_bytes(data)
    refused(archive, "'secret' cannot be read .*encrypt")


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz", "a.tar.bz2", "a.tar.xz", "a.tar"])
def test_cut_off_anywhere(tmp_path: Path, name: str) -> None:
    mode = {"tar": "w:"}.get(name.split(".", 1)[1], f"w:{name.rsplit('.')[-1]}")
    whole = make_zip(tmp_path / name, FILES) if name == "a.zip" else make_tar(tmp_path / name, FILES, mode)
    data = whole.read_bytes()
    # A plain tar ends in a block of zeros, here from byte 5120 on; what is cut off the padding after it is no loss.
    last = len(data) - 1 if name != "a.tar" else 5120 + 511
    for index, length in enumerate((600, 1024, 3000, 3584, 4096, last)):
        folder = tmp_path / str(index)
        folder.mkdir()
        (folder / name).write_bytes(data[: min(length, last)])
        refused(folder / name, r"damaged, cut off.*Remove the file and download it again")


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_checksum_of_a_zip_member(tmp_path: Path, compression: int) -> None:
    archive = make_zip(tmp_path / "a.zip", {"good": b"good", "bad": os.urandom(5000)}, compression)
    data = bytearray(archive.read_bytes())
    data[2000] ^= 1
    archive.write_bytes(data)
    refused(archive, "Bad CRC-32 for file 'bad'")


@pytest.mark.parametrize("place", [0.3, 0.99, -6])
def test_checksum_of_a_compressed_tar(tmp_path: Path, place: float) -> None:
    archive = make_tar(tmp_path / "a.tar.gz", FILES)
    data = bytearray(archive.read_bytes())
    data[int(place * len(data)) if place > 0 else int(place)] ^= 0xFF
    archive.write_bytes(data)
    refused(archive, "the archive is damaged")


def test_an_unreadable_header_is_not_taken_for_the_end(tmp_path: Path) -> None:
    archive = make_tar(tmp_path / "a.tar", {"first": b"1", "second": b"2"}, "w:")
    data = bytearray(archive.read_bytes())
    data[data.index(b"second")] ^= 1
    archive.write_bytes(data)
    refused(archive, "a header is unreadable")


@pytest.mark.parametrize("data", [b"", b"<html>Please log in</html>", b"7z\xbc\xaf\x27\x1c" + bytes(600)])
def test_other_kinds(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.zip").write_bytes(data)
    refused(tmp_path / "a.zip", "no zip or tar archive")


def test_a_file_system_that_takes_no_more(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"good": b"1", "large": bytes(200_000)})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        refused(archive, r"could not be unpacked to .*parent \(File too large\)\. Free some disk space")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_killed_half_way_leaves_nothing_that_looks_finished(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {str(index): b"0" * 9999 for index in range(3000)}, zipfile.ZIP_STORED)
    code = "import sys; from pathlib import Path; from harveyseg.data.archives import unpack\n"
    code += "unpack(Path(sys.argv[1]), Path(sys.argv[2]))"
    process = subprocess.Popen([sys.executable, "-c", code, str(archive), str(tmp_path / "out")])
    wait_until(lambda: any(tmp_path.glob(".out-*/new/9")), process)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    unpack(archive, tmp_path / "out")
    assert len(list((tmp_path / "out").iterdir())) == 3000
