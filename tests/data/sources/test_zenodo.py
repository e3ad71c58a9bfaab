"""Records of Zenodo, against a server on this machine that answers as Zenodo's API does."""

import hashlib
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from harveyseg.data.sources import zenodo
from harveyseg.errors import HarveysegError
from helpers.figshare import MASKS, PHOTOS, download_files, ids_of_parts, in_folder, zipped
from helpers.file_server import FileServer

CONCEPT, FIRST, SECOND = 5000, 5001, 5009


class Zenodo:
    """Publishes records on a file server, with the answers' fields and habits of the API."""

    def __init__(self, server: FileServer) -> None:
        self.server = server

    def publish(self, record: int, files: dict[str, bytes], **changes: Any) -> None:
        address, listed = f"/api/records/{record}", []
        for name, data in files.items():
            content = f"{address}/files/{name}/content"
            listed.append(
                {
                    "id": "c6e5f6a0-0f57-4ac0-9d3f-7a2d4b1f3c11", "key": name, "size": len(data),
                    "checksum": f"md5:{hashlib.md5(data).hexdigest()}",
                    "links": {"self": f"{self.server.address}{content}"}, **changes,
                }
            )  # fmt: skip
            self.server.files[quote(content)] = data
        description = {
            "id": record, "recid": str(record), "conceptrecid": str(CONCEPT), "doi": f"10.5281/zenodo.{record}",
            "metadata": {"title": "Photos", "access_right": "open" if files else "restricted"}, "files": listed,
        }  # fmt: skip
        self.server.files[address] = json.dumps(description).encode()
        # The number of all versions leads to the latest one.
        self.server.redirections[f"/api/records/{CONCEPT}"] = address

    def contents(self) -> list[str]:
        """Requests for files."""
        return [path for path, _ in self.server.requests if path.endswith("/content")]


@pytest.fixture
def service(local_service: FileServer, monkeypatch: pytest.MonkeyPatch) -> Zenodo:
    monkeypatch.setenv(zenodo.ZENODO_API_VARIABLE, f"{local_service.address}/api")
    published = Zenodo(local_service)
    both = {**in_folder("flood/train_images", PHOTOS), **in_folder("flood/train_masks", MASKS)}
    published.publish(FIRST, {"flood photos #1.zip": zipped(both), "readme.txt": b"Photos"})
    return published


def test_a_record_that_breaks_off_goes_on_and_is_fetched_once(service: Zenodo, tmp_path: Path) -> None:
    archive = next(data for path, data in service.server.files.items() if path.endswith("zip/content"))
    service.server.cuts = [30, 10**9, 1, 100_000, 3, 50_000, 20_000]  # first the description
    raw = download_files(tmp_path, url=f"10.5281/zenodo.{FIRST}", figshare={"test_share": 0.25})
    assert len(service.contents()) == 6 + 1
    assert 0 <= service.server.sent - len(archive) < 5_000, "of the archive not one byte twice"
    assert len(ids_of_parts(tmp_path)["test"]) == 8
    for name, data in {**PHOTOS, **MASKS}.items():
        kind = "images" if name.endswith(".jpg") else "masks"
        assert data in [raw.get(f"{part}_{kind}/{name}") for part in ("train", "test")]
    source = json.loads(raw["source.json"])
    assert (source["source"], source["detail"]) == (
        "figshare",
        {
            "record": {
                "id": FIRST,
                "files": [
                    {"name": "flood photos #1.zip", "size": len(archive), "md5": hashlib.md5(archive).hexdigest()},
                    {"name": "readme.txt", "size": 6, "md5": hashlib.md5(b"Photos").hexdigest()},
                ],
            },
            "test_share": 0.25,
            "seed": 0,
        },
    )
    assert download_files(tmp_path, url=f"10.5281/zenodo.{FIRST}", figshare={"test_share": 0.25}) == raw
    assert len(service.contents()) == 6 + 1


@pytest.mark.parametrize(
    ("url", "record"),
    [
        (f"10.5281/zenodo.{FIRST}", FIRST),
        (f"https://www.doi.org/10.5281/ZENODO.{FIRST}", FIRST),
        (f"https://zenodo.org/records/{FIRST}", FIRST),
        (f"https://zenodo.org/record/{FIRST}/?preview=1#files", FIRST),
        (f"doi:10.5281/zenodo.{CONCEPT}", SECOND),
    ],
)
def test_dois_of_a_version_and_of_all(service: Zenodo, tmp_path: Path, url: str, record: int) -> None:
    service.publish(SECOND, {**PHOTOS, **MASKS})
    assert json.loads(download_files(tmp_path, url=url)["source.json"])["detail"]["record"]["id"] == record


def test_what_is_wrong_is_said(service: Zenodo, tmp_path: Path) -> None:
    def fails(message: str, number: int = FIRST) -> None:
        with pytest.raises(HarveysegError, match=message):
            download_files(tmp_path, url=f"10.5281/zenodo.{number}")
        assert not (tmp_path / "data/raw").exists()

    fails(
        r"/records/7: the server answered with status 404 Not Found\. Check the address, or the number or DOI",
        7,
    )
    service.publish(FIRST, {})
    fails(r"record 5001: it has no public files .* https://zenodo\.org/records/5001, download .* directory")
    service.publish(FIRST, {"a.zip": b"x"}, checksum="md5:" + "0" * 32)
    fails(r"/records/5001/files/a\.zip/content: the file's md5 is 9dd4e461268c8034f5c8564e155c67a6, .*0 was expected")
    service.publish(FIRST, {"a.zip": b"x"}, checksum="crc32:1234")
    fails(r"/records/5001: unexpected answer of Zenodo's API \(String should match pattern")
    service.publish(FIRST, {"../../a.zip": b"x"})
    fails(r"Zenodo record 5001: '\.\./\.\./a\.zip' is not a file name")
