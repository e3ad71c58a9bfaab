"""How every command looks through a folder of photos."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

from harveyseg.data.sidecars import is_hidden_folder

logger = logging.getLogger(__name__)


def walk_visible(folder: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Walk through a folder as ``os.walk`` does, in the order of the names, without hidden folders.

    Links to folders are followed, except to a folder that contains them. A folder that cannot be listed is named in a
    warning.

    Yields:
        A folder, the names of its folders, from which the caller may remove some, and the names of its other files.
    """
    above: dict[Path, frozenset[Path]] = {}  # where each folder to come really lies, and those above it
    for top, folders, names in os.walk(folder, followlinks=True, onerror=_warn):
        here = Path(top)
        containing = above.pop(here, frozenset()) | {here.resolve()}
        visible = sorted(name for name in folders if not is_hidden_folder(name))
        folders[:] = [name for name in visible if (here / name).resolve() not in containing]
        above |= {here / name: containing for name in folders}
        yield here, folders, sorted(names)


def _warn(error: OSError) -> None:
    logger.warning("%s: cannot be listed (%s), so what is in it is left out", error.filename, error.strerror)
