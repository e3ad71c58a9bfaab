"""Which source files a stage runs, and their digests: what DVC reruns a stage for when code changes.

A stage runs its script and every module of this package that the script imports, directly or not. The stage ``code``
writes the SHA-256 of those files to one file for each stage, ``data/code/<stage>.txt``, and every other stage depends
on its one file. So an edit reruns exactly the stages that import it, and no import ever edits ``dvc.yaml``. The digests
are of the package that Python really imports, in a checkout or installed.
"""

import ast
import hashlib
from collections.abc import Collection
from pathlib import Path

from harveyseg.files import write_text

PACKAGE = Path(__file__).resolve().parents[1]

OBSERVERS = frozenset({"harveyseg.tracking"})
"""What only watches: an edit of it reruns no stage but those of :data:`RESULTS_OF_OBSERVERS`."""

RESULTS_OF_OBSERVERS = frozenset({"compare"})
"""Stages whose files are made from what MLflow holds."""

PER_MODEL = frozenset({"train", "evaluate"})
"""Stages that build a network, which they find by its name: they have a file for each model."""


def _file_of(module: str) -> Path | None:
    """The file of ``harveyseg.a.b``, or None when there is no such module."""
    base = PACKAGE.joinpath(*module.split(".")[1:])
    if (package := base / "__init__.py").is_file():
        return package
    return base.with_suffix(".py") if base.with_suffix(".py").is_file() else None


def _imported_modules(source: Path) -> set[str]:
    """Names of this package's modules that a file imports, also inside functions and one level up (packages)."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
            # `from harveyseg.models import unet` imports a module, `from harveyseg.data.cache import load_part` does not.
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    found: set[str] = set()
    for name in names:
        parts = name.split(".")
        if parts[0] == PACKAGE.name:
            # Importing a.b.c runs a/__init__ and a.b/__init__, too.
            found.update(".".join(parts[:length]) for length in range(1, len(parts) + 1))
    return {name for name in found if _file_of(name) is not None}


def closure(source: Path, without: Collection[str] = ()) -> list[Path]:
    """All files of this package that ``source`` imports, directly or not, in alphabetical order.

    Args:
        source: a Python file: a stage script or a module. It is part of the answer only if it lies in the package.
        without: modules that are not followed, e.g. ``{"harveyseg.tracking.client"}`` for a stage whose result they cannot
            change.
    """
    files: set[Path] = set()
    if source.is_relative_to(PACKAGE):
        above = [folder / "__init__.py" for folder in source.parents if folder.is_relative_to(PACKAGE)]
        files = {source, *above}  # importing a module runs its packages first
    queue = [source, *files]
    while queue:
        for module in _imported_modules(queue.pop()):
            if any(module == left_out or module.startswith(f"{left_out}.") for left_out in without):
                continue
            path = _file_of(module)
            if path is not None and path not in files:
                files.add(path)
                queue.append(path)
    return sorted(files)


def module_closure(module: str) -> list[Path]:
    """:func:`closure` of a module given by its name.

    Raises:
        ModuleNotFoundError: when the package has no such module.
    """
    path = _file_of(module)
    if path is None:
        raise ModuleNotFoundError(module)
    return closure(path)


def stage_files(stage: str, scripts: Path, network: str | None = None) -> list[Path]:
    """The files that decide what a stage writes.

    Args:
        stage: its name in ``dvc.yaml``.
        scripts: the folder ``stages``.
        network: for a stage of :data:`PER_MODEL`, the module of :mod:`harveyseg.models` that it builds.

    Returns:
        The stage's script, then the package's files in alphabetical order.

    Raises:
        ModuleNotFoundError: when there is no such network.
    """
    script = scripts / f"{stage.replace('-', '_')}.py"
    without = frozenset() if stage in RESULTS_OF_OBSERVERS else OBSERVERS
    files = set(closure(script, without))
    if network is not None:
        files |= set(module_closure(f"harveyseg.models.{network}"))
    return [script, *sorted(files)]


def code_digests(files: Collection[Path]) -> dict[str, str]:
    """SHA-256 of each file, by names that are the same in every checkout: ``harveyseg/score.py``, ``stages/train.py``."""
    return {_portable_name(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _portable_name(path: Path) -> str:
    folder = PACKAGE.parent if path.is_relative_to(PACKAGE) else path.parent.parent
    return path.relative_to(folder).as_posix()


def write_digests(path: Path, digests: dict[str, str]) -> None:
    """Write digests as ``sha256sum`` prints them: one line for each file, its digest first."""
    write_text(path, "".join(f"{digest}  {name}\n" for name, digest in digests.items()))
