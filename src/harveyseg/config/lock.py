"""What DVC recorded in ``dvc.lock``: the outputs of each stage when it last ran."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harveyseg.config.settings import load


def recorded_outputs(lock: Path) -> dict[str, str]:
    """The MD5 of each file that is an output, by its path from the project's root; empty where DVC has no lock file."""
    if not lock.exists():
        return {}
    return {path: md5 for stage in load(lock).get("stages", {}).values() for path, md5 in stage_outputs(stage)}


def stage_outputs(stage: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Path and MD5 of each output that is a file, of a stage in ``dvc.lock`` or in the run cache."""
    for out in stage.get("outs", []):
        if "md5" in out and not out["md5"].endswith(".dir"):
            yield out["path"], out["md5"]


def read_recorded(path: Path) -> str | None:
    """The text of an output as it was when its stage last ran, from DVC's cache.

    While a stage runs, DVC has deleted its outputs, but ``dvc.lock`` still tells of them.

    Args:
        path: from the project's root, which is the working directory.

    Returns:
        None where ``dvc.lock`` does not record the file, or the cache does not hold it as text.
    """
    md5 = recorded_outputs(Path("dvc.lock")).get(path.as_posix())
    if md5 is None:
        return None
    from dvc.exceptions import NotDvcRepoError  # it takes a second
    from dvc.repo import Repo

    try:
        with Repo() as repo:
            return Path(repo.cache.local.oid_to_path(md5)).read_text(encoding="utf-8")
    except (NotDvcRepoError, OSError, UnicodeDecodeError):
        return None


def dvc_md5(path: Path) -> str:
    """The MD5 by which DVC knows a file."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "md5").hexdigest()
