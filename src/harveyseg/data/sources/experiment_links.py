"""Links that let copies of the project find photos and other inputs by a relative path that leads out of it."""

import os
from contextlib import suppress
from pathlib import Path


def link_for_experiments(path: str, root: Path) -> None:
    """Make a relative ``data.path`` or ``data.inputs`` outside the project, e.g. ``../photos``, valid in experiments.

    Stages depend on these paths. A queued or temporary experiment runs in a copy of the project, in
    ``.dvc/tmp/exps/<name>`` or ``.dvc/tmp/exps/standalone/<name>``, and DVC resolves the paths there, before any code
    of this package runs. So a symbolic link is put where the path leads to. Only places inside ``.dvc/tmp`` are linked;
    a path that climbs higher has to be absolute.

    Args:
        path: the value of the setting.
        root: the project's root.
    """
    private = root / ".dvc" / "tmp"
    target = Path(os.path.normpath(root / path))
    if Path(path).is_absolute() or target.is_relative_to(root) or not (root / ".dvc").is_dir():
        return
    for folder in (private / "exps", private / "exps" / "standalone"):
        link_into_copy(path, root, folder / "experiment", private)


def link_into_copy(path: str, root: Path, copy: Path, limit: Path) -> bool:
    """Put a link where a path, read from a copy of the project, leads to, unless something is there.

    Args:
        path: relative to the project.
        root: the project, in which the path leads to the link's target.
        copy: the copy of the project.
        limit: the folder out of which no link is put.

    Returns:
        Whether there is something now; False where the path leads out of ``limit``.
    """
    link = Path(os.path.normpath(copy / path))
    if link.exists():
        return True
    if not link.is_relative_to(limit):
        return False
    link.parent.mkdir(parents=True, exist_ok=True)
    if link.is_symlink():  # one that leads nowhere
        link.unlink(missing_ok=True)
    with suppress(FileExistsError):  # another process has just made it
        link.symlink_to(os.path.normpath(root / path))
    return True
