"""A new pipeline repository from the installed package, so that nobody has to clone this one."""

import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

from harveyseg.errors import HarveysegError
from harveyseg.files import require_writable
from harveyseg.pipeline.code import PACKAGE
from harveyseg.pipeline.stage import REQUIREMENTS
from harveyseg.project import git_output

TEMPLATE = ("dvc.yaml", "params.yaml", "stages", "data/README.md", ".gitignore", ".dvcignore")
"""What a repository starts from: in a checkout at its root, in an installed package next to this module."""

PLOTS = ".dvc/plots"
"""Templates of DVC's charts and of their page, at the same place; DVC makes its folder first."""

_OWN_CODE = "      - src\n"
"""The dependency of the stage ``code`` on a checkout's package. Without one, code changes when the version does."""


def create_repository(folder: Path) -> None:
    """Write ``dvc.yaml``, ``params.yaml``, the stages and ``requirements.txt``, and initialise git and DVC.

    Inside another git repository, DVC is initialised for the sub-folder. Nothing is committed.

    Args:
        folder: absent or empty. It appears only when it is complete.

    Raises:
        HarveysegError: when it holds something or cannot be written to, or git or DVC cannot make it.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise HarveysegError(f"{folder}: is not an empty folder. Name another one, or empty it.")
    if shutil.which("git") is None:
        raise HarveysegError("git is not installed, and DVC's experiments need it. Install git.")
    require_writable(folder)
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        building = Path(scratch) / folder.name
        building.mkdir()
        _copy_template(building)
        inside = git_output(building, "rev-parse", "--show-toplevel") is not None
        if not inside:
            _run(building, "git", "init", "--quiet")
        dvc = (sys.executable, "-m", "dvc")
        _run(building, *dvc, "init", "--quiet", "--force", *(["--subdir"] if inside else []))
        settings = {"core.analytics": "false", "core.check_update": "false", "plots.html_template": "plots/page.html"}
        for name, value in settings.items():
            _run(building, *dvc, "config", name, value)
        _copy_folder(template_folder() / PLOTS, building / PLOTS)
        if folder.exists():
            folder.rmdir()
        building.rename(folder)


def template_folder() -> Path:
    """The folder that holds :data:`TEMPLATE`: the checkout, or a folder of the installed package."""
    installed = Path(__file__).with_name("template")
    return installed if installed.is_dir() else PACKAGE.parents[1]


def _copy_template(folder: Path) -> None:
    source = template_folder()
    for name in TEMPLATE:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (source / name).is_dir():
            _copy_folder(source / name, target)
        else:
            shutil.copyfile(source / name, target)
    with suppress(PermissionError):  # shares and SD cards have no modes of their own
        (folder / "stages" / "run").chmod(0o755)  # an installer does not keep it
    pipeline = (folder / "dvc.yaml").read_text(encoding="utf-8")
    if pipeline.count(_OWN_CODE) != 1:
        raise RuntimeError("dvc.yaml does not name the package once")
    own = pipeline.replace(
        _OWN_CODE, f"      - {REQUIREMENTS} # the package's version: its code decides every result\n"
    )
    (folder / "dvc.yaml").write_text(own, encoding="utf-8")
    (folder / REQUIREMENTS).write_text(f"harveyseg=={version('harveyseg')}\n", encoding="utf-8")


def _copy_folder(source: Path, target: Path) -> None:
    """Copy a folder's files without their modes, which some disks refuse."""
    for path in source.rglob("*"):
        if path.is_file() and path.parent.name != "__pycache__":
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)


def _run(folder: Path, *command: str) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        cause = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise HarveysegError(f"`{' '.join(command)}` failed: {''.join(cause)}. Nothing was made.")
