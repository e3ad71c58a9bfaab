"""``data.source: figshare``: the public copy of the data, or any article, record of Zenodo or archive in that layout.

The copy has photos in one article of figshare and their masks in another, and no test part, so some photos are held out
as one. The API is version 2 (docs.figshare.com), with two traps: the description of an article lists only ten of its
files, so they are listed page by page; and ``download_url`` gives programs an empty page, so files come from
``/file/download``.
"""

import hashlib
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, Field, PositiveInt, field_validator

from harveyseg.config.settings import Section
from harveyseg.data.archives import unpack
from harveyseg.data.download import fetch, without_secrets
from harveyseg.data.pairs import layout_folders
from harveyseg.data.sources import zenodo
from harveyseg.data.sources.hold_out import HoldOut
from harveyseg.data.sources.layout import link_training_part
from harveyseg.data.sources.published import AnswerT, PublishedFile, RepositoryApi, is_file_name
from harveyseg.data.sources.source_data import SourceData
from harveyseg.errors import HarveysegError
from harveyseg.files import sha256

_API = "https://api.figshare.com/v2"
FIGSHARE_API_VARIABLE = "HARVEYSEG_FIGSHARE_API"
"""Environment variable with another address of the API, for tests."""

_PAGE = 1000  # the API's maximum
_DOI = re.compile(r"(?:https?://(?:(?:dx|www)\.)?doi\.org/|doi:\s*)?(10\.\d{4,9}/\S+)", re.IGNORECASE)
_FIGSHARE_DOI = re.compile(r"10\..*figshare\.(c\.)?(\d+)(?:\.v(\d+))?", re.IGNORECASE)
_FIGSHARE_PAGE = re.compile(
    r"https?://(?:[\w-]+\.)*figshare\.com/(article|collection)s/(?:[^/?#]+/){0,2}(\d{4,})(?:/(\d{1,3}))?/?(?:[?#].*)?"
)


class FigshareParams(Section):
    """The section ``data.figshare``."""

    articles: tuple[PositiveInt, ...] = Field(default=(19961336, 19961426), min_length=1)
    """Numbers of the articles that hold the photos and the masks: the last part of their addresses."""
    test_share: float = Field(default=0.2, gt=0, lt=1)
    """About this share of the photos becomes the test part, if the data have none."""
    seed: int = Field(default=0, ge=0, le=2**32 - 1)
    """Decides which photos those are."""

    @field_validator("articles")
    @classmethod
    def _once(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(value)) < len(value):
            raise ValueError("each article may be listed once")
        return value


class _Article(BaseModel):
    """The fields of an article or a collection that are used."""

    id: int
    version: int


class _File(BaseModel):
    """The fields of a file that are used."""

    id: int
    name: str
    size: int
    is_link_only: bool = False
    computed_md5: str = ""
    supplied_md5: str | None = None

    @property
    def md5(self) -> str:
        """The MD5 that figshare computed, else the one that the uploader stated; perhaps empty."""
        return self.computed_md5 or self.supplied_md5 or ""


class _Entry(BaseModel):
    """An article in the list of a collection."""

    id: int


def provide_figshare(params: FigshareParams, url: str, root: Path, scratch: Path) -> SourceData:
    """Fetch photos and masks, unless they are there, unpack them, and hold out a test part if they have none.

    Args:
        params: which articles, and what to hold out.
        url: ``data.url``: ``""`` for these articles, else the DOI (or the page's address) of an article or a collection
            on figshare or of a record of Zenodo, or the address of an archive.
        root: the project's root. Downloads are kept in its ``.downloads``, and interrupted ones are resumed there.
        scratch: an empty folder for the files.

    Raises:
        HarveysegError: when a file cannot be fetched or unpacked, or photos and masks cannot be told apart.
    """
    downloads = root / ".downloads"
    scratch = scratch.absolute()  # links lead there
    unpacked = scratch / "unpacked"
    detail: dict[str, Any]
    doi = _doi_of(url)
    if doi and (record := zenodo.DOI.fullmatch(doi)):
        detail = {"record": zenodo.provide_record(int(record[1]), downloads, unpacked)}
        name = f"Zenodo: {detail['record']['id']}"
    elif doi or not url:
        api = _FigshareApi(downloads)
        articles = api.articles_of(doi) if doi else [(number, None) for number in params.articles]
        detail = {"articles": [api.provide_article(*article, unpacked) for article in articles]}
        name = "figshare: " + ", ".join(str(article["id"]) for article in detail["articles"])
    else:
        name = without_secrets(url)
        detail = {"url": name, "sha256": _provide_archive(url, downloads, unpacked)}
    if layout_folders(unpacked)["test_images"]:
        return SourceData(unpacked, detail, name)
    layout = scratch / "layout"
    link_training_part(unpacked, layout, name)
    hold_out = HoldOut(params.test_share, params.seed, "data.figshare")
    return SourceData(
        layout,
        {**detail, "test_share": params.test_share, "seed": params.seed},
        name,
        hold_out=hold_out,
        needs_test=False,
    )


def _doi_of(url: str) -> str | None:
    """The DOI in a setting, or of the page of an article, collection or record; None for other addresses."""
    if doi := _DOI.fullmatch(url):
        return doi[1]
    if record := zenodo.PAGE.fullmatch(url):
        return f"10.5281/zenodo.{record[1]}"
    if page := _FIGSHARE_PAGE.fullmatch(url):
        collection = "c." if page[1] == "collection" else ""
        version = f".v{page[3]}" if page[3] else ""
        return f"10.6084/m9.figshare.{collection}{page[2]}{version}"
    return None


def _provide_archive(url: str, downloads: Path, unpacked: Path) -> str:
    """Fetch and unpack the archive at an address; returns its SHA-256."""
    folder = downloads / "archives" / hashlib.sha256(url.encode()).hexdigest()[:16]
    name = Path(unquote(urlsplit(url).path)).name
    archive = fetch(url, folder / (name if is_file_name(name) else "archive"))
    with archive.open("rb") as opened:
        start = opened.read(1000).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith(b"<") and (b"<html" in start or b"<!doctype html" in start):
        archive.unlink()  # so that the next call asks again
        raise HarveysegError(
            f"{without_secrets(url)}: it is a web page (HTML), not an archive. Set data.url to the address of the "
            "archive itself, which the page's download button has; if that needs a log-in, download it with a browser "
            "and use data.source: directory."
        )
    unpack(archive, unpacked)
    return sha256(archive)


class _FigshareApi(RepositoryApi):
    def __init__(self, downloads: Path) -> None:
        super().__init__("figshare", os.environ.get(FIGSHARE_API_VARIABLE, _API), downloads / "figshare")

    def articles_of(self, doi: str) -> list[tuple[int, int | None]]:
        """Number and version (None: the latest) of the articles behind the DOI of an article or of a collection."""
        match = _FIGSHARE_DOI.fullmatch(doi)
        if not match:
            raise HarveysegError(
                f"data.url = {doi}: a DOI of neither figshare (10.6084/m9.figshare.1234) nor Zenodo "
                "(10.5281/zenodo.1234), and no others are supported. Set data.url to the address of the archive "
                "itself, or download the files and use data.source: directory. (On a university's own figshare: set "
                "data.figshare.articles to the number at the end of the page's address.)"
            )
        number = int(match[2])
        version = int(match[3]) if match[3] else None
        if not match[1]:
            return [(number, version)]
        if version is not None:
            latest = self.query(f"collections/{number}", {}, _Article).version
            if version != latest:
                raise HarveysegError(
                    f"data.url = {doi}: figshare lists the articles of this collection's latest version only, which is "
                    f"{latest}. Leave .v{version} out, or list the articles in data.figshare.articles."
                )
        return [(entry.id, None) for entry in self._list(f"collections/{number}/articles", _Entry)]

    def provide_article(self, number: int, version: int | None, unpacked: Path) -> dict[str, Any]:
        """Fetch an article's files into a folder of its own; returns what identifies it."""
        of_version = "" if version is None else f"/versions/{version}"
        article = self.query(f"articles/{number}{of_version}", {}, _Article)
        files = self._list(f"articles/{number}/versions/{article.version}/files", _File)
        origin = f"figshare article {number}"
        if links := [file.name for file in files if file.is_link_only]:
            raise HarveysegError(
                f"{origin}: {links[0]} is only a link to another place. Set data.url to the archive's address there."
            )
        published = [
            PublishedFile(
                name=file.name,
                size=file.size,
                checksum=f"md5:{file.md5}" if file.md5 else None,
                url=f"{self.address}/file/download/{file.id}",
                key=str(file.id),  # another version of a file has another number
            )
            for file in files
        ]
        self.fetch_files(published, origin, unpacked / str(number))
        listed = [{"name": file.name, "size": file.size, "md5": file.md5} for file in files]
        return {"id": number, "version": article.version, "files": listed}

    def _list(self, path: str, model: type[AnswerT]) -> list[AnswerT]:
        entries: list[AnswerT] = []
        for page in range(1, 1000):
            page_entries = self.query(path, {"page": page, "page_size": _PAGE}, list[model])  # type: ignore[valid-type]
            entries += page_entries
            if len(page_entries) < _PAGE:
                break
        return entries
