"""Folders in cloud storage: fsspec's own storage in memory, and a local server that speaks S3."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import boto3
import fsspec
import pytest
from fsspec.implementations.http import HTTPFileSystem
from moto.server import ThreadedMotoServer

from harveyseg.data.sources import cloud, directory
from harveyseg.data.sources.cloud import mirror_folder
from harveyseg.errors import HarveysegError
from helpers.file_server import FileServer
from helpers.paths import files_in

FILES = {
    "photos/train_images/train_images/1.jpg": b"one",
    "photos/Train_Masks/1.png": b"mask",
    "photos/test_images/2.tif": b"two",
}
OTHERS = {"photos/notes.txt": b"", "photos/models/weights.bin": b"large", "elsewhere/train_images/3.jpg": b"three"}


@pytest.fixture
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    filesystem = fsspec.filesystem("memory")
    for name, content in {**FILES, **OTHERS}.items():
        filesystem.pipe_file(f"/bucket/{name}", content)
    yield filesystem
    filesystem.rm("/bucket", recursive=True)


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server with the files in the bucket ``bucket``."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "key"}
    for name, value in {**settings, "AWS_DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket="bucket")
    for name, content in {**FILES, **OTHERS, "photos/test_images/": b""}.items():
        client.put_object(Bucket="bucket", Key=name, Body=content)
    yield settings["AWS_ENDPOINT_URL"]
    server.stop()


def fetched(url: str, tmp_path: Path, name: str) -> dict[str, bytes]:
    """What a call lays out in a new folder."""
    folder = tmp_path / name
    folder.mkdir()
    mirror_folder(url, tmp_path / "downloads", folder)
    return files_in(folder)


def stamps(tmp_path: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of each file among the downloads: another one was written again."""
    files = [path for path in (tmp_path / "downloads").rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


EXPECTED = {name.removeprefix("photos/"): content for name, content in FILES.items()}


@pytest.mark.parametrize("url", ["memory://bucket/photos", "memory://bucket/photos/"])
def test_only_the_layouts_folders_are_fetched(memory: fsspec.AbstractFileSystem, tmp_path: Path, url: str) -> None:
    assert fetched(url, tmp_path, "a") == EXPECTED


def test_nothing_is_fetched_twice_and_what_changes_is(memory: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    fetched("memory://bucket/photos", tmp_path, "a")
    first = stamps(tmp_path)
    assert len(first) == 3
    assert fetched("memory://bucket/photos", tmp_path, "b") == EXPECTED
    assert stamps(tmp_path) == first
    memory.pipe_file("/bucket/photos/test_images/2.tif", b"new")  # as long as the old one
    memory.pipe_file("/bucket/photos/test_images/3.jpg", b"added")
    memory.rm("/bucket/photos/Train_Masks/1.png")
    assert fetched("memory://bucket/photos", tmp_path, "c") == {
        "train_images/train_images/1.jpg": b"one", "test_images/2.tif": b"new", "test_images/3.jpg": b"added",
    }  # fmt: skip
    last = stamps(tmp_path)
    assert len(last) == 3
    assert len(last.items() & first.items()) == 1


def test_an_interruption_costs_one_file(
    memory: fsspec.AbstractFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cloud, "_PARALLEL", 1)
    whole = type(memory).get_file

    def breaks_off(self: fsspec.AbstractFileSystem, path: str, target: str) -> None:
        whole(self, path, target)
        if path.endswith("1.jpg"):  # the last one
            Path(target).write_bytes(b"on")
            raise OSError("connection lost")

    monkeypatch.setattr(type(memory), "get_file", breaks_off)
    with pytest.raises(HarveysegError, match=r"cannot be read \(connection lost\)\. Check .* fetched files are kept"):
        fetched("memory://bucket/photos", tmp_path, "a")
    complete = stamps(tmp_path)
    assert len(complete) == 2  # no half of the third
    monkeypatch.undo()
    assert fetched("memory://bucket/photos", tmp_path, "b") == EXPECTED
    assert complete.items() < stamps(tmp_path).items()


def test_a_name_that_leads_elsewhere_is_refused(memory: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    memory.store["/bucket/photos/train_images/../../../x.jpg"] = memory.store["/bucket/photos/test_images/2.tif"]
    with pytest.raises(HarveysegError, match=r"the name 'train_images/\.\./\.\./\.\./x\.jpg' leads outside the folder"):
        fetched("memory://bucket/photos", tmp_path, "a")
    del memory.store["/bucket/photos/train_images/../../../x.jpg"]


def test_a_full_disk_is_not_the_network(
    memory: fsspec.AbstractFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: fsspec.AbstractFileSystem, path: str, target: str) -> None:
        Path("/dev/full").write_bytes(b"photo")  # answers each write as a full disk does

    monkeypatch.setattr(type(memory), "get_file", full)
    with pytest.raises(HarveysegError, match="there is no room for it on its disk"):
        fetched("memory://bucket/photos", tmp_path, "a")


def test_s3(s3: str, tmp_path: Path) -> None:
    assert fetched("s3://bucket/photos", tmp_path, "a") == EXPECTED
    first = stamps(tmp_path)
    assert len(first) == 3
    boto3.client("s3").put_object(Bucket="bucket", Key="photos/test_images/2.tif", Body=b"new")
    assert fetched("s3://bucket/photos", tmp_path, "b") == {**EXPECTED, "test_images/2.tif": b"new"}
    assert len(stamps(tmp_path).items() & first.items()) == 2
    with pytest.raises(HarveysegError, match=r"data\.url = s3://absent/photos: "):
        fetched("s3://absent/photos", tmp_path, "c")


@pytest.fixture
def web(local_service: FileServer) -> Iterator[FileServer]:
    """A web server that shows folders as pages of links."""
    local_service.files = {
        "/photos": b'<a href="train_images/">train_images/</a> <a href="train_masks/">train_masks/</a>',
        "/photos/train_images": b'<a href="?C=N;O=D">Name</a> <a href="1%20%23.jpg">1 #.jpg</a> <a href="gone/">',
        "/photos/train_images/1%20%23.jpg": b"one",
        "/photos/train_masks": b'<a href="1%20%23.png">1 #.png</a>',
        "/photos/train_masks/1%20%23.png": b"mask",
    }
    yield local_service
    HTTPFileSystem.clear_instance_cache()  # it remembers listings


def test_a_web_server(web: FileServer, tmp_path: Path) -> None:
    """Names are those of the files, and what changes is noticed; a dead link to a folder is nothing."""
    expected = {"train_images/1 #.jpg": b"one", "train_masks/1 #.png": b"mask"}
    assert fetched(f"{web.address}/photos", tmp_path, "a") == expected
    first = stamps(tmp_path)
    assert fetched(f"{web.address}/photos", tmp_path, "b") == expected
    assert stamps(tmp_path) == first
    web.files["/photos/train_images/1%20%23.jpg"] = b"new"
    assert fetched(f"{web.address}/photos", tmp_path, "c") == {**expected, "train_images/1 #.jpg": b"new"}
    assert len(stamps(tmp_path).items() & first.items()) == 1


def test_no_secret_of_an_address_is_written(web: FileServer, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    signed = f"{web.address.replace('//', '//ana:secret@')}/photos"
    provided = directory.provide_directory(directory.DirectoryParams(), "", signed, tmp_path, tmp_path / "a")
    assert (provided.detail, provided.name) == ({"url": f"{web.address}/photos"}, f"{web.address}/photos")
    assert (tmp_path / "a/train_images/1 #.jpg").read_bytes() == b"one"


def test_a_server_that_is_down_is_no_empty_folder(web: FileServer, tmp_path: Path) -> None:
    web.redirections["/photos/train_masks"] = "http://127.0.0.1:9/"
    with pytest.raises(HarveysegError, match=r"photos: cannot be read \(Cannot connect to host 127\.0\.0\.1:9 "):
        fetched(f"{web.address}/photos", tmp_path, "a")
    HTTPFileSystem.clear_instance_cache()
    web.answers = [(503, {})]
    with pytest.raises(HarveysegError, match=r"photos: cannot be read \(503"):
        fetched(f"{web.address}/photos", tmp_path, "b")
    with pytest.raises(HarveysegError, match=r"photos: cannot be read .* Check the address, the network and the cred"):
        fetched("http://127.0.0.1:9/photos", tmp_path, "c")
    web.answers = [(503, {})]
    signed = f"{web.address.replace('//', '//ana:secret@')}/photos?sig=secret"
    with pytest.raises(HarveysegError, match=r"data\.url = http://127\.0\.0\.1:\d+/photos: cannot be read") as raised:
        fetched(signed, tmp_path, "d")
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("bucket/photos", r"data\.url = bucket/photos: not a URL\. It must look like s3://"),
        ("s4://bucket/photos", r"the protocol 's4' is unknown\. Use s3:// or gs://"),
        ("memory://bucket/models", "no file is there in a folder train_images, train_masks, test_images or test_masks"),
        ("memory://absent", "no file is there in a folder"),
    ],
)
def test_wrong_addresses(memory: fsspec.AbstractFileSystem, tmp_path: Path, url: str, message: str) -> None:
    with pytest.raises(HarveysegError, match=message):
        fetched(url, tmp_path, "a")


@pytest.mark.parametrize(("protocol", "package", "extra"), [("s3", "s3fs", "s3"), ("gs", "gcsfs", "gs")])
def test_a_missing_package_is_named_with_its_extra(tmp_path: Path, protocol: str, package: str, extra: str) -> None:
    code = (
        f"import sys; sys.modules[{package!r}] = None\n"  # what import finds where a package is not installed
        "from pathlib import Path; from harveyseg.data.sources.cloud import mirror_folder\n"
        f"mirror_folder('{protocol}://bucket/photos', Path({str(tmp_path)!r}), Path({str(tmp_path)!r}))"
    )
    failed = subprocess.run(
        [sys.executable, "-c", code], env=dict(os.environ), capture_output=True, text=True, check=False
    )
    assert (
        f"the package for {protocol}:// is not installed. Install it: `pip install -e '.[{extra}]'`." in failed.stderr
    )
