"""``data.source: directory``: a folder of the user's own, on a disk or in cloud storage."""

from pathlib import Path

from pydantic import Field

from harveyseg.config.settings import Section
from harveyseg.data.download import without_secrets
from harveyseg.data.pairs import layout_folders
from harveyseg.data.sources.cloud import mirror_folder
from harveyseg.data.sources.hold_out import HoldOut
from harveyseg.data.sources.source_data import SourceData
from harveyseg.errors import HarveysegError
from harveyseg.project import input_path


class DirectoryParams(Section):
    """The section ``data.directory``."""

    test_share: float | None = Field(default=None, gt=0, lt=1)
    """For a folder without ``test_images``: about this share of the photos becomes the test part, in whole groups of
    photos that show the same ground; null: there is no test part, so no submission and no test score."""
    seed: int = Field(default=0, ge=0, le=2**32 - 1)
    """Decides which photos those are."""


def provide_directory(params: DirectoryParams, path: str, url: str, root: Path, scratch: Path) -> SourceData:
    """Find a local folder, which is read in place, or fetch one from cloud storage.

    Args:
        params: what to hold out.
        path: ``data.path``. If ``url`` is set, it must not be a folder, since there would be two.
        url: ``data.url``, or ``""``.
        root: the project's root. A relative path starts there, and fetched files are kept in its ``.downloads``.
        scratch: an empty folder for links to fetched files.

    Raises:
        HarveysegError: when there is no such folder, or two, or it has a test part and one is to be held out.
    """
    folder = input_path(path, root)
    detail: dict[str, str | float]
    if url:
        name = without_secrets(url)
        if path and not folder.is_file():
            raise HarveysegError(
                f"data.url = {name} and data.path = {path}: set only one of the two. Empty data.url, or set "
                "data.path back to a file of the project such as data/README.md."
            )
        mirror_folder(url, root / ".downloads", scratch)
        folder, detail = scratch, {"url": name}
    elif not path:
        raise HarveysegError(
            "data.path is empty: with data.source = directory it names the folder of photos and masks."
        )
    elif not folder.is_dir():
        raise HarveysegError(f"data.path = {path}: {folder} is not a folder. Correct data.path in params.yaml.")
    else:
        name, detail = str(folder), {"path": path}
    if params.test_share is None:
        return SourceData(folder, detail, name, needs_test=False)
    if layout_folders(folder)["test_images"]:
        raise HarveysegError(
            f"data.directory.test_share = {params.test_share}: {name} has a folder test_images, which is the test "
            "part. Set data.directory.test_share to null, or move that folder away."
        )
    detail |= {"test_share": params.test_share, "seed": params.seed}
    hold_out = HoldOut(params.test_share, params.seed, "data.directory")
    return SourceData(folder, detail, name, hold_out=hold_out, needs_test=False)
