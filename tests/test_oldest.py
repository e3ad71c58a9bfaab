"""What benchmarks/oldest.py counts, against a real pytest."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import oldest

TESTS = """
import pytest

def test_right(): pass

@pytest.mark.parametrize("number", [1, 2, 3])
def test_wrong(number): assert number == 1

@pytest.fixture
def broken(): raise ValueError

def test_error(broken): pass

@pytest.mark.skip
def test_skipped(): pass

@pytest.mark.slow
def test_slow(): assert False
"""


def test_numbers_and_names_are_those_of_pytest_and_what_passed_is_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "src" / "harveyseg"
    package.mkdir(parents=True)
    (package / "test_example.py").write_text("def test_right(): pass\n")
    (tmp_path / "tests").mkdir()
    file = tmp_path / "tests" / "test_some.py"
    file.write_text(TESTS)
    for name in ("tests/conftest.py", "pytest.ini"):
        (tmp_path / name).write_text("[pytest]\nmarkers = slow: slow\n" if name == "pytest.ini" else "")
    monkeypatch.setattr(oldest, "ROOT", tmp_path)
    parts: list[str] = []
    run_part = oldest._run_part

    def note_and_run(interpreter: Path, files: Sequence[str], report: Path) -> None:
        parts.append(files[0])
        run_part(interpreter, files, report)

    monkeypatch.setattr(oldest, "_run_part", note_and_run)
    versions = {"python": "3.11.7"}

    def test(*tests: str) -> dict[str, str]:
        parts.clear()
        return oldest._test(Path(sys.executable), versions, tests, tmp_path / "reports")

    failed = "tests.test_some::test_wrong[2] tests.test_some::test_wrong[3] tests.test_some::test_error"
    assert test() == {"outcome": "3 passed, 3 failed, 1 skipped", "detail": failed}
    assert parts == ["tests/test_some.py", "src/harveyseg"]
    file.write_text(TESTS.replace("[1, 2, 3]", "[1]").replace("raise ValueError", "pass"))
    assert test() == {"outcome": "4 passed, 0 failed, 1 skipped", "detail": ""}
    assert parts == ["tests/test_some.py"]
    test()
    assert parts == []
    assert test("tests/test_some.py")["outcome"] == "3 passed, 0 failed, 1 skipped; 1 test files only"
    assert oldest._key(versions, parts) != oldest._key({**versions, "numpy": "2.1.0"}, parts)


def test_the_page_has_the_last_outcome_of_each_combination(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oldest, "RESULTS", tmp_path / "oldest.jsonl")
    assert oldest.table() == "Not tried yet.\n"
    row = {"python": "3.12", "dependencies": "lock", "day": "2026-01-02", "outcome": "1 passed, 1 failed, 0 skipped"}
    again = {**row, "day": "2026-01-03", "versions": {"python": "3.12.1", "numpy": "2.1.0", "torch": "2.11.0"}}
    (tmp_path / "oldest.jsonl").write_text("".join(json.dumps(values) + "\n" for values in (row, again)))
    expected = "| 3.12.1 | lock | torch 2.11.0, numpy 2.1.0 | 1 passed, 1 failed, 0 skipped | 2026-01-03 |"
    assert oldest.table().splitlines()[2:] == [expected]


def test_direct_dependencies_are_those_that_are_listed() -> None:
    names = oldest._direct_dependencies()
    assert {"numpy", "ruamel-yaml", "moto", "kaggle", "gcsfs"} <= set(names)
    assert "harveyseg" not in names
