"""``data.source: directory``: a folder of the user's own."""

from pathlib import Path

from harveyseg.errors import HarveysegError
from harveyseg.sources.provided import Provided


def provide(path: str, root: Path) -> Provided:
    """Find the folder; it is read where it lies.

    Args:
        path: ``data.path``.
        root: the project's root, which a relative path is below.

    Raises:
        HarveysegError: when there is no such folder.
    """
    if not path:
        raise HarveysegError(
            "data.path is empty: with data.source = directory it names the folder of photos and masks."
        )
    folder = root / path
    if not folder.is_dir():
        raise HarveysegError(f"data.path = {path}: {folder} is no folder. Correct data.path in params.yaml.")
    return Provided(folder, {"path": path})
