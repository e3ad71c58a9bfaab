"""Files of models and folds that ``params.yaml`` no longer lists.

DVC leaves the outputs of a removed item of a matrix where they are. The stages after the matrix depend on the whole
folders ``data/models`` and ``data/predictions``, so what is left there would run them again, here and in each clone.
"""

import shlex
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from harveyseg.config.lock import dvc_md5, recorded_outputs, stage_outputs
from harveyseg.config.settings import load
from harveyseg.errors import raise_problems

if TYPE_CHECKING:
    from dvc.repo import Repo


def delete_unlisted(folders: Sequence[Path]) -> list[Path]:
    """Delete the files in these folders that no stage writes any more, where DVC can restore each of them.

    It can if ``dvc.lock`` or the run cache records the file with this content, and the cache holds that.

    Args:
        folders: e.g. ``data/models`` and ``data/predictions``, in a DVC project.

    Returns:
        What was deleted, sorted: a folder directly below ``folders`` if nothing is left of it, else the files.

    Raises:
        HarveysegError: naming the files that DVC could not restore; then nothing is deleted.
    """
    if not any(path for folder in folders for path in folder.glob("*")):
        return []
    from dvc.repo import Repo  # it takes a second

    with Repo() as repo:
        unlisted = [path for folder in folders for path in _unlisted(folder, repo)]
        if not unlisted:
            return []
        tops = sorted({_top(path, folders) for path in unlisted})
        recorded = _recorded(repo, tops)
        lost = [path for path in unlisted if not _can_be_restored(path, recorded, repo)]
    raise_problems(
        list(map(str, lost)),
        "files that would be inputs of the ensemble, though no model and fold in params.yaml writes them, and that DVC "
        "could not restore if they were deleted",
        f"Move them out of {' and '.join(map(str, folders))}, or delete them: `{shlex.join(['rm', *map(str, lost)])}`.",
    )
    for path in unlisted:
        path.unlink()
        for parent in path.parents:
            if parent in folders:
                break
            with suppress(OSError):  # not empty
                parent.rmdir()
    return sorted({path if (top := _top(path, folders)).exists() else top for path in unlisted})


def _unlisted(folder: Path, repo: "Repo") -> Iterator[Path]:
    """The files that DVC sees in a folder and that are no outputs of the stages as they are now."""
    outs = {Path(out.fs_path) for out in repo.index.outs}
    for path in sorted(folder.rglob("*")):
        absolute = path.absolute()
        if path.is_dir() and not path.is_symlink():
            continue
        if outs.isdisjoint((absolute, *absolute.parents)) and not repo.dvcignore.is_ignored_file(str(absolute)):
            yield path


def _recorded(repo: "Repo", tops: Sequence[Path]) -> set[tuple[Path, str]]:
    """The outputs below ``tops`` in ``dvc.lock`` and in the run cache: path and MD5."""
    root = Path(repo.root_dir)
    recorded = set(recorded_outputs(root / "dvc.lock").items())
    below = [path.absolute().relative_to(root).as_posix() for path in tops]
    for entry in (Path(repo.cache.legacy.path) / "runs").glob("*/*/*"):
        text = entry.read_text(encoding="utf-8")
        if any(path in text for path in below):  # parsing all of them would take seconds
            recorded.update(stage_outputs(load(entry)))
    return {(root / path, md5) for path, md5 in recorded}


def _can_be_restored(path: Path, recorded: set[tuple[Path, str]], repo: "Repo") -> bool:
    if not path.is_file():
        return False
    md5 = dvc_md5(path)
    return (path.absolute(), md5) in recorded and bool(repo.cache.local.exists(md5))


def _top(path: Path, folders: Sequence[Path]) -> Path:
    """The folder or file directly below one of ``folders`` that ``path`` is, or is in."""
    return next(top for top in (path, *path.parents) if top.parent in folders)
