"""Files that cameras, programs and file systems leave next to photos: they are no photos and are left out."""

from collections.abc import Sequence

from harveyseg.errors import first_names

_ENDINGS = (
    ".aux.xml", ".tfw", ".jgw", ".pgw", ".wld", ".prj", ".ovr", ".msk", ".xmp", "thumbs.db", "desktop.ini",
)  # fmt: skip
"""Statistics, positions, overviews and masks of GIS programs, edits of photo programs, and what Windows leaves."""


def is_sidecar(name: str) -> bool:
    """Whether a file is one that belongs to other files, or is hidden.

    >>> [is_sidecar(name) for name in ("DJI_0001.JPG.aux.xml", "Thumbs.db", "._DJI_0001.JPG", "DJI_0001.JPG")]
    [True, True, True, False]

    Args:
        name: without folders.
    """
    return name.startswith(".") or name.lower().endswith(_ENDINGS)


def is_hidden_folder(name: str) -> bool:
    """Whether a folder is hidden, or one of network drives (``@eaDir``) or of macOS's archives.

    Args:
        name: without the folders above it.
    """
    return name.startswith((".", "@", "__MACOSX"))


def count_ignored(names: Sequence[str]) -> str:
    """Say how many files were left out, and name the first ones; empty if none was.

    >>> count_ignored([".DS_Store", "a.tfw", "notes.txt"])
    'ignored: sidecars (2: .DS_Store, a.tfw), files of other kinds (1: notes.txt)'
    """
    sidecars = [name for name in names if is_sidecar(name)]
    others = [name for name in names if not is_sidecar(name)]
    kinds = (("sidecars", sidecars), ("files of other kinds", others))
    counts = ", ".join(f"{kind} ({len(found)}: {first_names(sorted(set(found)))})" for kind, found in kinds if found)
    return f"ignored: {counts}" if counts else ""
