"""Which source files a module is made of: its imports inside this package, transitively.

A stage depends on exactly these files, so that an edit reruns what it can change and nothing else.
"""

import ast
import hashlib
from collections.abc import Collection
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


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
            # `from harveyseg.models import unet` imports a module, `from harveyseg.cache import load_part` does not.
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
        without: modules that are not followed, e.g. ``{"harveyseg.tracking"}`` for a stage whose result they cannot
            change.
    """
    files: set[Path] = set()
    if source.is_relative_to(PACKAGE):
        above = [folder / "__init__.py" for folder in source.parents if folder.is_relative_to(PACKAGE)]
        files = {source, *above}  # importing a module runs its packages first
    queue = [source, *files]
    while queue:
        for module in _imported_modules(queue.pop()):
            if module in without:
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


def code_digests(files: Collection[Path]) -> dict[str, str]:
    """SHA-256 of each file, by its path below the package: the same in every checkout."""
    return {
        path.relative_to(PACKAGE).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(files)
    }
