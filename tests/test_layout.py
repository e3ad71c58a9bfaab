"""The layout of the tests: what two modules share is in `helpers`, and its fixtures in a `conftest.py`."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.paths import ROOT

TESTS = ROOT / "tests"
FILES = sorted(TESTS.rglob("*.py"))


def imported_modules(path: Path) -> Iterator[str]:
    """The modules that a file imports, also in code that it gives to another Python."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from re.findall(r"^(?:import|from) ([\w.]+)", node.value, re.MULTILINE)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(TESTS).as_posix())
def test_no_test_module_is_imported(path: Path) -> None:
    modules = {part for name in imported_modules(path) for part in name.split(".")}
    assert not {name for name in modules if name.startswith("test_") or name == "conftest"}


def test_every_module_has_a_name_of_its_own() -> None:
    names = [path.name for path in FILES if path.name != "conftest.py"]
    assert len(names) == len(set(names))
