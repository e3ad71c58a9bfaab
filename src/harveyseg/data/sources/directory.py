"""``data.source: directory``: a folder of the user's own, on a disk or in cloud storage."""

from pathlib import Path

from harveyseg.data.download import without_secrets
from harveyseg.data.sources.cloud import mirror
from harveyseg.data.sources.provided import Provided
from harveyseg.errors import HarveysegError


def provide(path: str, url: str, root: Path, scratch: Path) -> Provided:
    """Find the folder, which is read where it lies, or fetch it.

    Args:
        path: ``data.path``. With ``url`` it must not name a folder: then there would be two.
        url: ``data.url``, or ``""``.
        root: the project's root, which a relative path is below; fetched files stay in its ``.downloads``.
        scratch: an empty folder, which fetched files are linked into.

    Raises:
        HarveysegError: when there is no such folder, or not one alone.
    """
    folder = root / path
    if url:
        shown = without_secrets(url)
        if path and not folder.is_file():
            raise HarveysegError(
                f"data.url = {shown} and data.path = {path}: two folders. Empty data.url, or set data.path back to a "
                "file of the project such as data/README.md."
            )
        mirror(url, root / ".downloads", scratch)
        return Provided(scratch, {"url": shown}, shown)
    if not path:
        raise HarveysegError(
            "data.path is empty: with data.source = directory it names the folder of photos and masks."
        )
    if not folder.is_dir():
        raise HarveysegError(f"data.path = {path}: {folder} is no folder. Correct data.path in params.yaml.")
    return Provided(folder, {"path": path}, str(folder))
