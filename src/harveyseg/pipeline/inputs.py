"""The paths that DVC watches, ``data.path`` and ``data.inputs``: checked before DVC misses them, linked into copies."""

import logging
import os
from pathlib import Path

from harveyseg.config.settings import load, parse
from harveyseg.data.sources import DataParams
from harveyseg.data.sources.experiment_links import link_into_copy
from harveyseg.errors import HarveysegError
from harveyseg.project import git_output

logger = logging.getLogger(__name__)


def spelling_problem(key: str, path: str) -> tuple[str, str] | None:
    """The cause and the remedy if DVC would read a path in another way than its author.

    >>> spelling_problem("path", "../photos ")
    ("data.path = '../photos ': DVC takes it literally", 'Write data.path: ../photos')
    >>> spelling_problem("path", "../photos")
    """
    meant = os.path.expandvars(path.strip())
    if meant.startswith("~"):
        meant = str(Path(meant).expanduser())
    if meant == path:
        return None
    return f"data.{key} = {path!r}: DVC takes it literally", f"Write data.{key}: {meant}"


def missing_problem(key: str, path: str, project: Path) -> tuple[str, str] | None:
    """The cause and the remedy if a path is not on this machine, where DVC looks for it."""
    if path and (project / path).exists():
        return None
    return (
        f"data.{key} = {path!r}: not on this machine, and DVC stops without it",
        f"Bring it there, or correct data.{key}. Where `dvc pull` brought the results, `dvc repro --allow-missing` and "
        "`dvc exp run --allow-missing` do without it",
    )


def copying_problem(key: str, path: str, project: Path) -> tuple[str, str] | None:
    """The cause and the remedy if a path is in the project, but not in the copies that DVC makes for experiments.

    DVC copies what git or DVC tracks. Outside a git repository there are no experiments.
    """
    place = Path(os.path.normpath(project / path))
    if not path or not place.is_relative_to(project) or place == project or not place.exists():
        return None
    parents = [parent for parent in (place, *place.parents) if parent.is_relative_to(project) and parent != project]
    if not git_output(project, "ls-files", "--others", "--directory", "--no-empty-directory", "--", str(place)):
        return None
    if git_output(project, "ls-files", "--", *(f"{parent}.dvc" for parent in parents)):
        return None
    name = place.relative_to(project)
    return (
        f"data.{key} = {path!r}: neither git nor DVC tracks it, so a clone lacks it, and so may a queued or temporary "
        "experiment",
        f"Run `dvc add {name} && git add {name}.dvc`, and commit",
    )


def prepare_inputs(data: DataParams, root: Path, folder: Path) -> None:
    """Make sure that DVC finds what it watches, before it looks.

    In a copy of the project, in which an experiment runs, links lead to what git and DVC do not bring there.

    Args:
        data: the settings.
        root: the project.
        folder: the folder in which DVC runs: the project, or a copy of it.

    Raises:
        HarveysegError: when ``data.path`` would not be found. Nothing is wrong if ``data/raw`` was made with these very
            settings: DVC can then do without it (``--allow-missing``).
    """
    watched = (("path", data.path), ("inputs", data.inputs))
    for key, path in watched:
        if folder == root:
            if problem := copying_problem(key, path, root):
                logger.warning("%s. %s.", *problem)
        elif path and (root / path).exists():
            link_into_copy(path, root, folder, root / ".dvc" / "tmp")
    problem = spelling_problem("path", data.path)
    if problem is None and not _is_done(data, folder):
        problem = missing_problem("path", data.path, folder)
    if problem is not None:
        raise HarveysegError("{}. {}.".format(*problem))


def _is_done(data: DataParams, folder: Path) -> bool:
    """Whether the stage ``download`` ran with these settings, according to dvc.lock."""
    lock = folder / "dvc.lock"
    if not (lock.exists() and (folder / "data" / "raw").exists()):
        return False
    params = load(lock).get("stages", {}).get("download", {}).get("params", {}).get("params.yaml", {})
    try:
        return parse(DataParams, params.get("data", {}), "data") == data
    except HarveysegError:  # none, or of another version
        return False
