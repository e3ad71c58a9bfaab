"""The source files that each stage runs, and their digests.

A stage runs its script and every module of this package that the script imports, directly or not. The stage ``code``
writes the SHA-256 of those files to one file per stage, ``data/code/<stage>.txt``, which is that stage's only code
dependency in ``dvc.yaml``. An edit thus reruns exactly the stages that import the edited file, and new imports never
change ``dvc.yaml``. The digests are of the package that Python imports, whether from a checkout or installed.

Only ``import`` statements are followed. Networks, which are imported by name, are given; no stage may import another
module by name, read a file of the package, or import another script (``stages/run`` does not let it).
"""

import ast
import hashlib
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path

from harveyseg.errors import HarveysegError

PACKAGE = Path(__file__).resolve().parents[1]

UNHASHED_PACKAGES = frozenset({"harveyseg.tracking"})
"""Packages that only observe: editing them reruns no stage except :data:`STAGES_THAT_READ_MLFLOW`."""

STAGES_THAT_READ_MLFLOW = frozenset({"compare"})
"""Stages whose files are made from what MLflow holds."""

PER_MODEL = frozenset({"train", "evaluate"})
"""Stages that build a network, which they import by name: they have one file of digests per model."""


def closure(source: Path, without: Collection[str] = ()) -> list[Path]:
    """All files of this package that ``source`` imports, directly or not, in alphabetical order.

    Args:
        source: a stage script or a module. It is part of the result only if it belongs to the package.
        without: modules and packages that are skipped, along with all that only they import.
    """
    files: set[Path] = set()
    if source.is_relative_to(PACKAGE):
        above = [folder / "__init__.py" for folder in source.parents if folder.is_relative_to(PACKAGE)]
        files = {source, *above}  # importing a module runs its packages first
    queue = [source, *files]
    seen: set[str] = set()
    while queue:
        importing = queue.pop()
        for module in _imported_names(importing.read_text(encoding="utf-8"), importing) - seen:
            seen.add(module)
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


def stage_files(stage: str, scripts: Path, networks: Collection[str] = ()) -> list[Path]:
    """The files that decide what a stage writes.

    Args:
        stage: its name in ``dvc.yaml``.
        scripts: the folder ``stages``.
        networks: the modules of :mod:`harveyseg.models.networks` that it builds.

    Returns:
        The stage's script, then the package's files in alphabetical order.

    Raises:
        ModuleNotFoundError: when there is no such network.
    """
    script = scripts / f"{stage.replace('-', '_')}.py"
    without = frozenset() if stage in STAGES_THAT_READ_MLFLOW else UNHASHED_PACKAGES
    files = set(closure(script, without))
    for network in networks:
        files |= set(module_closure(f"harveyseg.models.networks.{network}"))
    return [script, *sorted(files)]


def code_digests(files: Collection[Path]) -> dict[str, str]:
    """SHA-256 of each file, by a name that is the same in every checkout, e.g. ``harveyseg/score.py``."""
    return {_portable_name(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def changed_files(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """The names whose digests differ, sorted; a file that only one side has differs.

    >>> changed_files({"a.py": "1f", "b.py": "2e"}, {"a.py": "1f", "b.py": "2d", "c.py": "3c"})
    ['b.py', 'c.py']
    """
    return sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))


def _portable_name(path: Path) -> str:
    folder = PACKAGE.parent if path.is_relative_to(PACKAGE) else path.parent.parent
    return path.relative_to(folder).as_posix()


def format_digests(digests: Mapping[str, str]) -> str:
    """Digests as ``sha256sum`` prints them: one line per file, the digest first."""
    return "".join(f"{digest}  {name}\n" for name, digest in digests.items())


def parse_digests(text: str) -> dict[str, str]:
    """What :func:`format_digests` was given.

    >>> parse_digests(format_digests({"stages/submit.py": "1f0c"}))
    {'stages/submit.py': '1f0c'}
    """
    return {name: digest for digest, _, name in (line.partition("  ") for line in text.splitlines())}


def require_digested(path: Path, stage: str, scripts: Path, networks: Collection[str] = ()) -> str:
    """Make sure that a stage runs the code that was digested; what it makes is identified by it.

    Args:
        path: the digests that the stage ``code`` wrote, e.g. ``data/code/evaluate/unet.txt``.
        stage: see :func:`stage_files`.
        scripts: see there.
        networks: see there.

    Returns:
        SHA-256 of the digests.

    Raises:
        HarveysegError: naming each file that changed since the stage ``code`` ran; or when ``path`` is absent.
    """
    remedy = "Run `dvc repro -f code`, then `dvc repro` again."
    if not path.is_file():
        raise HarveysegError(f"{path}: no such file. {remedy}")
    text = path.read_text(encoding="utf-8")
    if changed := changed_files(parse_digests(text), code_digests(stage_files(stage, scripts, networks))):
        raise HarveysegError(
            f"{', '.join(changed)}: changed since the stage `code` ran, so these results would be recorded as those of "
            f"other code. {remedy}"
        )
    return hashlib.sha256(text.encode()).hexdigest()


def _file_of(module: str) -> Path | None:
    """The file of ``harveyseg.a.b``, or None when there is no such module."""
    base = PACKAGE.joinpath(*module.split(".")[1:])
    if (package := base / "__init__.py").is_file():
        return package
    return base.with_suffix(".py") if base.with_suffix(".py").is_file() else None


@cache
def _imported_names(text: str, source: Path) -> frozenset[str]:
    """What a file of this text imports of this package, also inside functions, and the packages above; not all modules.

    Each text is parsed once: most closures hold the same files.
    """
    names: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = _absolute_name(node, source)
            names.add(module)
            # The imported name may be a module itself: `from harveyseg.models import unet`.
            names.update(f"{module}.{alias.name}" for alias in node.names)
    modules: set[str] = set()
    for name in names:
        parts = name.split(".")
        if parts[0] == PACKAGE.name:
            # Importing a.b.c also runs a/__init__ and a.b/__init__.
            modules.update(".".join(parts[:length]) for length in range(1, len(parts) + 1))
    return frozenset(modules)


def _absolute_name(node: ast.ImportFrom, source: Path) -> str:
    """The module after ``from``: ``harveyseg.models`` for ``from .models import unet`` in ``harveyseg/cli.py``."""
    if not node.level:
        return node.module or ""
    package = source.parents[node.level - 1].relative_to(PACKAGE.parent)
    return ".".join([*package.parts, *filter(None, [node.module])])
