"""``data.source: directory``: a folder of the user's own, on a disk or in cloud storage."""

from pathlib import Path

from harveyseg.data.download import without_secrets
from harveyseg.data.sources.cloud import mirror_folder
from harveyseg.data.sources.source_data import SourceData
from harveyseg.errors import HarveysegError


def provide_directory(path: str, url: str, root: Path, scratch: Path) -> SourceData:
    """Find a local folder, which is read in place, or fetch one from cloud storage.

    Args:
        path: ``data.path``. If ``url`` is set, it must not be a folder, since there would be two.
        url: ``data.url``, or ``""``.
        root: the project's root. A relative path starts there, and fetched files are kept in its ``.downloads``.
        scratch: an empty folder for links to fetched files.

    Raises:
        HarveysegError: when there is no such folder, or two.
    """
    folder = root / path
    if url:
        public_url = without_secrets(url)
        if path and not folder.is_file():
            raise HarveysegError(
                f"data.url = {public_url} and data.path = {path}: set only one of the two. Empty data.url, or set "
                "data.path back to a file of the project such as data/README.md."
            )
        mirror_folder(url, root / ".downloads", scratch)
        return SourceData(scratch, {"url": public_url}, public_url)
    if not path:
        raise HarveysegError(
            "data.path is empty: with data.source = directory it names the folder of photos and masks."
        )
    if not folder.is_dir():
        raise HarveysegError(f"data.path = {path}: {folder} is not a folder. Correct data.path in params.yaml.")
    return SourceData(folder, {"path": path}, str(folder))
