"""A server of files that answers as figshare's API v2 does, and what it publishes: photos of eight flights."""

import hashlib
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from harveyseg.config.settings import parse
from harveyseg.data.manifest import read_manifest
from harveyseg.data.sources import DataParams, download_source
from helpers.file_server import FileServer
from helpers.paths import files_in

IMAGES_ARTICLE = 19961336
MASKS_ARTICLE = 19961426

IDS = [str(start + step) for start in range(6411, 6411 + 8 * 100, 100) for step in (0, 3, 9, 19)]
"""Frames of eight flights over one place each; all of a flight are neighbours."""


def photo(photo_id: str) -> bytes:
    """A JPEG that depends on the id."""
    pixels = np.random.default_rng(int(photo_id)).integers(0, 256, (96, 128, 3)).astype(np.uint8)
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, "JPEG")
    return written.getvalue()


def mask(photo_id: str) -> bytes:
    """A PNG of one class, which depends on the id."""
    written = io.BytesIO()
    Image.fromarray(np.full((96, 128), int(photo_id) % 25, np.uint8)).save(written, "PNG")
    return written.getvalue()


PHOTOS = {f"{photo_id}.jpg": photo(photo_id) for photo_id in IDS}

MASKS = {f"{photo_id}.png": mask(photo_id) for photo_id in IDS}


def zipped(members: dict[str, bytes]) -> bytes:
    """A zip archive of these files."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return written.getvalue()


def in_folder(folder: str, members: dict[str, bytes]) -> dict[str, bytes]:
    """The same files in a folder."""
    return {f"{folder}/{name}": data for name, data in members.items()}


class Figshare:
    """Publishes articles on a file server, which then answers as the API does."""

    def __init__(self, server: FileServer) -> None:
        self.server = server
        self.api = f"{server.address}/v2"

    def publish(self, article: int, files: dict[str, bytes], version: int = 1, **changes: Any) -> None:
        listed = []
        for name, data in files.items():
            number = int(hashlib.sha256(f"{article} {version} {name}".encode()).hexdigest()[:8], 16)
            md5 = hashlib.md5(data).hexdigest()
            listed.append(
                {
                    "id": number, "name": name, "size": len(data), "is_link_only": False, "computed_md5": md5,
                    "supplied_md5": md5, "mimetype": "application/zip",
                    "download_url": f"{self.server.address}/ndownloader/files/{number}", **changes,
                }
            )  # fmt: skip
            # The API sends on to a store with an address that has a new signature each time.
            self.server.redirections[f"/v2/file/download/{number}"] = f"/store/{number}?Signature=secret"
            self.server.files[f"/store/{number}?Signature=secret"] = data
        doi = f"10.6084/m9.figshare.{article}.v{version}"
        description = {
            "id": article,
            "version": version,
            "doi": doi,
            "files": listed[:10],
            "license": {"name": "CC BY 4.0"},
        }
        for path in (f"articles/{article}", f"articles/{article}/versions/{version}"):
            self.answer(path, description)
        self.pages(f"articles/{article}/versions/{version}/files", listed)

    def pages(self, path: str, listed: list[Any]) -> None:
        for size in (7, 1000):
            for page in range(1, len(listed) // size + 2):
                self.answer(f"{path}?page={page}&page_size={size}", listed[(page - 1) * size : page * size])

    def answer(self, path: str, value: Any) -> None:
        self.server.files[f"/v2/{path}"] = json.dumps(value).encode()

    def stored(self) -> list[str]:
        """Requests for files."""
        return [path for path, _ in self.server.requests if path.startswith("/store/")]


def download_files(project: Path, **values: Any) -> dict[str, bytes]:
    """Download into a project's data/raw."""
    download_source(parse(DataParams, {"source": "figshare", **values}, "data"), project, project / "data/raw")
    return files_in(project / "data/raw")


def ids_of_parts(project: Path) -> dict[str, list[str]]:
    """The ids of the training and of the test photos in a project's manifest."""
    manifest = read_manifest(project / "data/raw/manifest.csv")
    return {part: manifest.loc[manifest["part"] == part, "id"].tolist() for part in ("train", "test")}
