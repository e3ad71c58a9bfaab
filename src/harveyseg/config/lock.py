"""What DVC recorded in ``dvc.lock``: the outputs of each stage when it last ran."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harveyseg.config.settings import flat_values, load
from harveyseg.record import format_value

_DIRECTORY = ".dir"
"""How the MD5 of an output that is a folder ends."""
_ADDRESSES = ("data.url",)
"""Settings that may hold a password."""


def recorded_outputs(lock: Path, folders: bool = False) -> dict[str, str]:
    """The MD5 of each file that is an output, by its path from the project's root; empty where DVC has no lock file.

    Args:
        lock: ``dvc.lock``.
        folders: whether outputs that are folders are returned as well.
    """
    if not lock.exists():
        return {}
    stages = load(lock).get("stages", {}).values()
    return {path: md5 for stage in stages for path, md5 in stage_outputs(stage, folders)}


def recorded_stages(lock: Path) -> list[str]:
    """Names of the stages that have run, e.g. ``train@unet-0``; empty where DVC has no lock file."""
    return list(load(lock).get("stages", {})) if lock.exists() else []


def recorded_params(lock: Path, stage: str) -> dict[str, Any]:
    """The settings of a stage when it last ran, as ``dvc.lock`` holds them; empty where it does not know the stage."""
    if not lock.exists():
        return {}
    params: dict[str, Any] = load(lock).get("stages", {}).get(stage, {}).get("params", {}).get("params.yaml", {})
    return params


def differing_settings(values: Mapping[str, Any], lock: Path, stage: str, run: str) -> dict[str, str]:
    """The settings of a stage that differ from those of its last run; DVC itself names the section only.

    Args:
        values: ``params.yaml``.
        lock: ``dvc.lock``.
        stage: the stage's name.
        run: what the last run is called, e.g. "the last run".

    Returns:
        By the setting's full name, a text with both values. That of an address, which may hold a password, has none.
    """
    watched = recorded_params(lock, stage)
    recorded = flat_values(watched)
    present = {
        name: value
        for name, value in flat_values(values).items()
        if any(name == key or name.startswith(f"{key}.") for key in watched)
    }
    found = {}
    for name in dict.fromkeys([*recorded, *present]):
        here, there = (format_value(side[name]) if name in side else "absent" for side in (present, recorded))
        if here != there:
            both = f"is {here} in params.yaml and {there} in {run}"
            found[name] = f"{name} {f'is another one in params.yaml than in {run}' if name in _ADDRESSES else both}"
    return found


def stage_outputs(stage: Mapping[str, Any], folders: bool = False) -> Iterator[tuple[str, str]]:
    """Path and MD5 of each output that is a file, of a stage in ``dvc.lock`` or in the run cache; or of all."""
    for out in stage.get("outs", []):
        if "md5" in out and (folders or not out["md5"].endswith(_DIRECTORY)):
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
    """The MD5 by which DVC knows a file, or a folder: that of the list of its files, without hidden ones."""
    if path.is_file():
        with path.open("rb") as opened:
            return hashlib.file_digest(opened, "md5").hexdigest()
    names = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
    listed = [
        {"md5": dvc_md5(path / name), "relpath": name}
        for name in names
        if not any(part.startswith(".") for part in Path(name).parts)  # .dvcignore
    ]
    return hashlib.md5(json.dumps(listed, sort_keys=True).encode()).hexdigest() + _DIRECTORY
