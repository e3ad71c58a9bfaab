"""``data.source: figshare``: the public copy of the data, or any article, record of Zenodo or archive in that layout.

The copy has photos in one article of figshare and their masks in another, and no test part; so a part of the photos,
with their masks, is held out as one. Articles are asked for as figshare's API v2 describes it (docs.figshare.com). Two
things there are easily got wrong: an article's own description lists ten of its files at most, so they are asked for
page by page; and ``download_url`` leads to a page that answers programs with nothing, so files come from
``/file/download``.
"""

import hashlib
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
from pydantic import BaseModel, Field, PositiveInt, field_validator

from harveyseg.config.settings import Section
from harveyseg.data.archives import unpack
from harveyseg.data.download import fetch, without_secrets
from harveyseg.data.manifest import MASK_ENDINGS, PHOTO_KINDS, layout_folders
from harveyseg.data.sources import zenodo
from harveyseg.data.sources.provided import Provided
from harveyseg.data.sources.published import AnswerT, PublishedFile, Service, is_file_name
from harveyseg.data.split import DISTANCE, neighbour_groups, without_number
from harveyseg.errors import HarveysegError, raise_problems
from harveyseg.files import sha256

API = "https://api.figshare.com/v2"
API_VARIABLE = "HARVEYSEG_FIGSHARE_API"
"""Environment variable with another address of the API, for tests."""

_PAGE = 1000  # the most that the API gives at once
_DOI = re.compile(r"(?:https?://(?:(?:dx|www)\.)?doi\.org/|doi:\s*)?(10\.\d{4,9}/\S+)", re.IGNORECASE)
_DOI_HERE = re.compile(r"10\..*figshare\.(c\.)?(\d+)(?:\.v(\d+))?", re.IGNORECASE)

_ADDRESS_HERE = re.compile(
    r"https?://(?:[\w-]+\.)*figshare\.com/(article|collection)s/(?:[^/?#]+/){0,2}(\d{4,})(?:/(\d{1,3}))?/?(?:[?#].*)?"
)

logger = logging.getLogger(__name__)


class FigshareParams(Section):
    """The section ``data.figshare``."""

    articles: tuple[PositiveInt, ...] = Field(default=(19961336, 19961426), min_length=1)
    """Numbers of the articles that hold the photos and the masks: the last part of their addresses."""
    test_share: float = Field(default=0.2, gt=0, lt=1)
    """About this share of the photos becomes the test part, if the data have none of their own."""
    seed: int = Field(default=0, ge=0, le=2**32 - 1)
    """Which photos those are."""

    @field_validator("articles")
    @classmethod
    def _once(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(value)) < len(value):
            raise ValueError("each article may be listed once")
        return value


class _Article(BaseModel):
    """What the API says of an article or a collection, as far as it is used."""

    id: int
    version: int


class _File(BaseModel):
    """The same of a file."""

    id: int
    name: str
    size: int
    is_link_only: bool = False
    computed_md5: str = ""
    supplied_md5: str | None = None

    @property
    def md5(self) -> str:
        """What figshare computed itself, else what the uploader stated; perhaps nothing."""
        return self.computed_md5 or self.supplied_md5 or ""


class _Found(BaseModel):
    """An article or a collection in a list."""

    id: int


def provide(params: FigshareParams, url: str, root: Path, scratch: Path) -> Provided:
    """Fetch photos and masks unless they are there, unpack them, and hold out a test part if they have none.

    Args:
        params: which articles, and what to hold out.
        url: ``data.url``: ``""`` for these articles, else the DOI (or the page's address) of an article or a collection
            on figshare or of a record of Zenodo, or the address of an archive.
        root: the project's root, below which the downloads stay, in ``.downloads``. One that broke off goes on there.
        scratch: an empty folder, which the files are put into.

    Raises:
        HarveysegError: when a file cannot be fetched or unpacked, or photos and masks cannot be told apart.
    """
    downloads = root / ".downloads"
    scratch = scratch.absolute()  # links are made to what lies in it
    unpacked = scratch / "unpacked"
    doi = _doi_of(url)
    if doi and (record := zenodo.DOI.fullmatch(doi)):
        detail: dict[str, Any] = {"record": zenodo.provide_record(int(record[1]), downloads, unpacked)}
        name = f"Zenodo: {detail['record']['id']}"
    elif doi or not url:
        service = _Figshare(downloads)
        articles = service.articles_of(doi) if doi else [(number, None) for number in params.articles]
        detail = {"articles": [service.provide_article(*article, unpacked) for article in articles]}
        name = "figshare: " + ", ".join(str(article["id"]) for article in detail["articles"])
    else:
        key = hashlib.sha256(url.encode()).hexdigest()[:16]
        stated = Path(unquote(urlsplit(url).path)).name
        archive = fetch(url, downloads / "archives" / key / (stated if is_file_name(stated) else "archive"))
        _refuse_page(archive, url)
        unpack(archive, unpacked)
        detail = {"url": without_secrets(url), "sha256": sha256(archive)}
        name = without_secrets(url)
    if layout_folders(unpacked)["test_images"]:
        return Provided(unpacked, detail, name)
    layout = scratch / "layout"
    _lay_out(unpacked, layout, name)
    _hold_out(layout, params, name)
    return Provided(layout, {**detail, "test_share": params.test_share, "seed": params.seed}, name)


def hold_out(ids: list[str], share: float, seed: int) -> set[str]:
    """Choose whole groups of neighbouring frames, in random order, as long as they fit into ``share`` of the photos.

    A test part that overlaps the training part would say nothing, so of photos that are all neighbours none is chosen;
    and if every group is larger than the share, the smallest is.

    Args:
        ids: of all photos.
        share: of them, between 0 and 1.
        seed: of the random order.

    Returns:
        The chosen ids; empty when there is only one group.
    """
    if odd := without_number(ids):
        logger.warning(
            "%d photos have no numeric id (%s, ...): nobody can tell which are neighbours, so each is taken by itself.",
            len(odd),
            odd[0],
        )
        labels = ids
    else:
        labels = neighbour_groups(ids, DISTANCE)
    groups: dict[str, list[str]] = {}
    for photo_id, label in sorted(zip(ids, labels, strict=True)):
        groups.setdefault(label, []).append(photo_id)
    if len(groups) < 2:
        return set()
    ordered = list(groups.values())
    chosen: set[str] = set()
    for index in np.random.default_rng(seed).permutation(len(ordered)):
        if len(chosen) + len(ordered[index]) <= round(share * len(ids)):
            chosen.update(ordered[index])
    return chosen or set(min((len(group), group) for group in ordered)[1])


def _doi_of(url: str) -> str | None:
    """The DOI that is named, or that belongs to the page of an article, collection or record; None for other places."""
    if doi := _DOI.fullmatch(url):
        return doi[1]
    if record := zenodo.PAGE.fullmatch(url):
        return f"10.5281/zenodo.{record[1]}"
    if page := _ADDRESS_HERE.fullmatch(url):
        return (
            f"10.6084/m9.figshare.{'c.' if page[1] == 'collection' else ''}{page[2]}{f'.v{page[3]}' if page[3] else ''}"
        )
    return None


def _refuse_page(archive: Path, url: str) -> None:
    """Of a web page that came instead of an archive nothing is kept, so that the next call asks again."""
    with archive.open("rb") as opened:
        start = opened.read(1000).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith(b"<") and (b"<html" in start or b"<!doctype html" in start):
        archive.unlink()
        raise HarveysegError(
            f"{without_secrets(url)}: it is a web page (HTML), not an archive. Set data.url to the address of the "
            "archive itself, as the page's download button has it; if that wants a log-in, download it with a browser "
            "and use data.source: directory."
        )


class _Figshare(Service):
    """Figshare's API."""

    def __init__(self, downloads: Path) -> None:
        super().__init__("figshare", os.environ.get(API_VARIABLE, API), downloads / "figshare")

    def articles_of(self, doi: str) -> list[tuple[int, int | None]]:
        """Number and version (None: the latest) of the articles behind the DOI of an article or of a collection."""
        if not (parsed := _DOI_HERE.fullmatch(doi)):
            raise HarveysegError(
                f"data.url = {doi}: a DOI of neither figshare (10.6084/m9.figshare.1234) nor Zenodo "
                "(10.5281/zenodo.1234), and no others are understood. Set data.url to the address of the archive "
                "itself, or download the files and use data.source: directory. (On a university's own figshare: set "
                "data.figshare.articles to the number at the end of the page's address.)"
            )
        number, version = int(parsed[2]), int(parsed[3]) if parsed[3] else None
        if not parsed[1]:
            return [(number, version)]
        if version is not None:
            latest = self.ask(f"collections/{number}", {}, _Article).version
            if version != latest:
                raise HarveysegError(
                    f"data.url = {doi}: of this collection figshare lists the articles of the latest version alone, "
                    f"which is {latest}. Leave .v{version} out, or list the articles in data.figshare.articles."
                )
        return [(found.id, None) for found in self._list(f"collections/{number}/articles", _Found)]

    def provide_article(self, number: int, version: int | None, unpacked: Path) -> dict[str, Any]:
        """Fetch an article's files into a folder of its own; what identifies it."""
        of_version = "" if version is None else f"/versions/{version}"
        article = self.ask(f"articles/{number}{of_version}", {}, _Article)
        found = self._list(f"articles/{number}/versions/{article.version}/files", _File)
        where = f"figshare article {number}"
        if links := [file.name for file in found if file.is_link_only]:
            raise HarveysegError(
                f"{where}: {links[0]} is only a link to another place. Set data.url to the archive's address there."
            )
        files = [
            PublishedFile(
                name=file.name,
                size=file.size,
                checksum=f"md5:{file.md5}" if file.md5 else None,
                url=f"{self.address}/file/download/{file.id}",
                key=str(file.id),  # another version of a file has another number
            )
            for file in found
        ]
        self.provide(files, where, unpacked / str(number))
        stated = [{"name": file.name, "size": file.size, "md5": file.md5} for file in found]
        return {"id": number, "version": article.version, "files": stated}

    def _list(self, path: str, model: type[AnswerT]) -> list[AnswerT]:
        found: list[AnswerT] = []
        for page in range(1, 1000):
            new = self.ask(path, {"page": page, "page_size": _PAGE}, list[model])  # type: ignore[valid-type]
            found += new
            if len(new) < _PAGE:
                break
        return found


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.startswith("."):  # such as macOS leaves in archives
            yield path


def _lay_out(unpacked: Path, layout: Path, name: str) -> None:
    """Link photos and masks into ``train_images`` and ``train_masks``.

    What lies in a folder of such a name belongs there; elsewhere a PNG is a mask, other images are photos, and anything
    else is none of ours.
    """
    named = layout_folders(unpacked)
    kinds: dict[str, list[Path]] = {"train_images": [], "train_masks": []}
    for path in _files(unpacked):
        inside = [kind for kind in kinds if any(path.is_relative_to(place) for place in named[kind])]
        ending = path.suffix.lower()
        if inside:
            kinds[inside[0]].append(path)
        elif ending in MASK_ENDINGS:
            kinds["train_masks"].append(path)
        elif ending in PHOTO_KINDS:
            kinds["train_images"].append(path)
    photos, masks = kinds.values()
    if not photos or not masks:
        seen = sorted({path.name for path in _files(unpacked)})
        raise HarveysegError(
            f"{name}: photos and masks were expected, there are {len(photos)} and {len(masks)}, in {len(seen)} files"
            f"{' such as ' if seen else ''}{', '.join(seen[:5])}. Photos are .jpg, masks .png, or they lie in folders "
            "named train_images and train_masks."
        )
    problems = []
    for kind, paths in kinds.items():
        (layout / kind).mkdir(parents=True)
        for path in paths:
            link = layout / kind / path.name
            if link.is_symlink():
                both = " and ".join(str(other.relative_to(unpacked)) for other in (link.readlink(), path))
                problems.append(f"two files are called {path.name}: {both}")
            else:
                link.symlink_to(path)
    raise_problems(
        problems, name, "Which one is meant? Download the files, keep one of each name, and use data.source: directory."
    )


def _hold_out(layout: Path, params: FigshareParams, name: str) -> None:
    """Move the links of the held-out photos and their masks to the test part."""
    photos, masks = ({path.stem: path for path in _files(layout / f"train_{kind}")} for kind in ("images", "masks"))
    pairs = sorted(photos.keys() & masks.keys())
    chosen = hold_out(pairs, params.test_share, params.seed)
    if pairs and not chosen:
        raise HarveysegError(
            f"{name}: the ids of all {len(pairs)} photos are neighbours, so any test part would overlap the training. "
            "Add a folder test_images by hand, and use data.source: directory."
        )
    if pairs and len(chosen) == len(pairs):
        raise HarveysegError(
            f"{name}: data.figshare.test_share = {params.test_share} leaves none of {len(pairs)} photos to train on. "
            "Lower it in params.yaml."
        )
    for kind, paths in (("images", photos), ("masks", masks)):
        (layout / f"test_{kind}").mkdir()
        for photo_id in chosen:
            paths[photo_id].rename(layout / f"test_{kind}" / paths[photo_id].name)
