"""Whether results are those that DVC recorded: for what uses them outside the pipeline."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from harveyseg.config.settings import load
from harveyseg.errors import raise_problems

_DIRECTORY = ".dir"
"""How the digest of an out that is a folder ends."""


def require_recorded(files: Iterable[Path], root: Path) -> None:
    """Refuse files that are not what their stage wrote: changed by hand, damaged, or of another branch.

    Args:
        files: results, below ``root``. One that is no stage's out, or absent, is left to its reader.
        root: the project's root; without a dvc.lock there, nothing is compared.

    Raises:
        HarveysegError: listing the files, and the folders of files, that differ from dvc.lock.
    """
    lock = root / "dvc.lock"
    if not lock.exists():
        return
    digests = {
        root / out["path"]: str(out.get("md5"))
        for stage in load(lock).get("stages", {}).values()
        for out in stage.get("outs", ())
    }
    outs = dict.fromkeys(out for file in files for out in (file, *file.parents) if out in digests and file.exists())
    problems = [f"{out}: is not what the pipeline wrote" for out in outs if _md5(out) != digests[out]]
    raise_problems(problems, str(lock), "Run `dvc repro`, or `dvc checkout --force` to restore what it wrote.")


def _md5(out: Path) -> str:
    """The digest that DVC gives to a file, or to a folder: that of the list of its files."""
    if out.is_file():
        with out.open("rb") as opened:
            return hashlib.file_digest(opened, "md5").hexdigest()
    names = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    listed = [
        {"md5": _md5(out / name), "relpath": name}
        for name in names
        if not any(part.startswith(".") for part in Path(name).parts)  # .dvcignore
    ]
    return hashlib.md5(json.dumps(listed, sort_keys=True).encode()).hexdigest() + _DIRECTORY
