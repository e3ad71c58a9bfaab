"""Whether results are those that DVC recorded: for what uses them outside the pipeline."""

from collections.abc import Iterable
from pathlib import Path

from harveyseg.config.lock import dvc_md5, recorded_outputs
from harveyseg.errors import raise_problems


def require_recorded(files: Iterable[Path], root: Path) -> None:
    """Refuse files that are not what their stage wrote: changed by hand, damaged, or of another branch.

    Args:
        files: results, below ``root``. One that is no stage's out, or absent, is left to its reader.
        root: the project's root; without a dvc.lock there, nothing is compared.

    Raises:
        HarveysegError: listing the files, and the folders of files, that differ from dvc.lock.
    """
    lock = root / "dvc.lock"
    recorded = {root / path: md5 for path, md5 in recorded_outputs(lock, folders=True).items()}
    outs = dict.fromkeys(out for file in files for out in (file, *file.parents) if out in recorded and file.exists())
    problems = [f"{out}: is not what the pipeline wrote" for out in outs if dvc_md5(out) != recorded[out]]
    raise_problems(problems, str(lock), "Run `dvc repro`, or `dvc checkout --force` to restore what it wrote.")
