"""Links that let queued and temporary experiments find photos outside the project."""

import os
from pathlib import Path


def link_for_experiments(path: str, root: Path) -> None:
    """Make a relative ``data.path`` outside the project, such as ``../photos``, valid in DVC's experiments.

    ``data.path`` is a dependency of the stage ``download``. A queued or temporary experiment runs in a copy of the
    project, ``.dvc/tmp/exps/<name>`` or ``.dvc/tmp/exps/standalone/<name>``, and DVC resolves the path there, before
    any code of this package runs. So a symbolic link is put where that path leads to. Only places inside ``.dvc/tmp``
    are linked; a path that climbs higher has to be absolute.

    Args:
        path: the value of ``data.path``.
        root: the project's root.
    """
    private = root / ".dvc" / "tmp"
    target = Path(os.path.normpath(root / path))
    if Path(path).is_absolute() or target.is_relative_to(root) or not (root / ".dvc").is_dir():
        return
    for folder in (private / "exps", private / "exps" / "standalone"):
        link = Path(os.path.normpath(folder / "experiment" / path))
        if link.is_relative_to(private) and not link.exists():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)  # a link that leads nowhere
            link.symlink_to(target, target_is_directory=True)
