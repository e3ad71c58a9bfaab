"""Whether the oldest dependencies that pyproject.toml allows, or those of the lock, pass the fast tests on a Python.

    .venv/bin/python benchmarks/oldest.py --python 3.11 3.12 3.13 [--dependencies lowest-direct] [--tests FILE ...]
        [--work FOLDER]

Each combination gets an environment of its own (6 GB, mostly PyTorch), which is left in the folder. uv takes the Python
versions that are installed, and fetches others. The tests run in parts, and a call that was stopped goes on where it
was: parts that passed with the same code and the same installed versions are not run again. The outcome of each
combination is added to benchmarks/results/oldest.jsonl, and benchmarks/faults.py writes it into docs/reliability.md.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from harveyseg.files import digest, sha256

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "oldest.jsonl"
UV = [sys.executable, "-m", "uv"] if (Path(sys.prefix) / "bin" / "uv").exists() else ["uv"]
FILES_OF_A_PART = 20
_SHOWN = ("torch", "dvc", "mlflow", "numpy", "pandas", "pydantic")
"""The packages whose versions the page shows; the results have those of all direct dependencies."""


def try_out(python: str, dependencies: str, tests: Sequence[str], work: Path) -> dict[str, Any]:
    """Install and test one combination; what came of it.

    Args:
        python: its version, such as ``"3.12"``.
        dependencies: ``lowest-direct`` or ``lock``.
        tests: test files; all fast tests where there are none.
        work: where environments and reports are kept.
    """
    environment = work / f"{python}-{dependencies}"
    interpreter = environment / "bin" / "python"
    result = {"python": python, "dependencies": dependencies, "day": str(date.today())}
    made = _run([*UV, "venv", "--clear", "--python", python, str(environment)])
    if made.returncode:
        return {**result, "outcome": "no such Python here", "detail": made.stdout[-300:]}
    installed = _install(interpreter, dependencies)
    if installed.returncode:
        return {**result, "outcome": "does not install", "detail": installed.stdout[-600:]}
    versions = _versions(interpreter)
    tested = _test(interpreter, versions, tests, work / f"{python}-{dependencies}-reports")
    direct = {name: versions[name] for name in _direct_dependencies() if name in versions}
    return {**result, **tested, "versions": {"python": versions["python"], **direct}}


def _install(interpreter: Path, dependencies: str) -> "subprocess.CompletedProcess[str]":
    # Compiled at once: each process of a test would compile PyTorch, and some wait for processes with a limit.
    install = [*UV, "pip", "install", "--compile-bytecode", "--python", str(interpreter)]
    if dependencies != "lock":
        return _run([*install, "--resolution", dependencies, "--editable", f"{ROOT}[dev]"])
    installed = _run([*install, "--require-hashes", "-r", str(ROOT / "requirements.lock")])
    return installed if installed.returncode else _run([*install, "--no-deps", "--editable", str(ROOT)])


def _versions(interpreter: Path) -> dict[str, str]:
    """Of all that is installed, and of Python."""
    program = (
        "import json, platform; from importlib.metadata import distributions; "
        "print(json.dumps({d.name.lower().replace('_', '-').replace('.', '-'): d.version for d in distributions()} "
        "| {'python': platform.python_version()}))"
    )
    versions: dict[str, str] = json.loads(_run([str(interpreter), "-c", program]).stdout)
    return versions


def _direct_dependencies() -> list[str]:
    """The names of all packages that pyproject.toml lists, normalised."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    listed = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    names = {re.split(r"[^\w.-]", line, maxsplit=1)[0].lower().replace("_", "-").replace(".", "-") for line in listed}
    return sorted(names - {project["name"]})


def _test(interpreter: Path, versions: dict[str, str], tests: Sequence[str], reports: Path) -> dict[str, str]:
    """Run the fast tests, part by part; the outcome, and the names of the tests that failed."""
    reports.mkdir(parents=True, exist_ok=True)
    counts: Counter[str] = Counter()
    failed: list[str] = []
    for files in [list(tests)] if tests else _parts():
        report = reports / f"{_key(versions, files)}.xml"
        if not report.exists():
            _run_part(interpreter, files, report)
        part, failures = _read(report)
        counts += part
        failed += failures
        if failures:
            report.unlink()  # tried again by the next call
    passed = counts["tests"] - counts["failures"] - counts["errors"] - counts["skipped"]
    outcome = f"{passed} passed, {counts['failures'] + counts['errors']} failed, {counts['skipped']} skipped"
    if tests:
        outcome += f"; {len(tests)} test files only"
    return {"outcome": outcome, "detail": " ".join(failed)[:2000]}


def _parts() -> Iterator[list[str]]:
    """Test files, then the package for the examples in its docstrings."""
    files = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("test_*.py"))
    for start in range(0, len(files), FILES_OF_A_PART):
        yield files[start : start + FILES_OF_A_PART]
    yield ["src/harveyseg"]


def _key(versions: dict[str, str], files: Sequence[str]) -> str:
    """Of what decides how a part ends: installed versions, the code and the part's tests."""
    folders = [ROOT / name for name in ("src", "stages", "tests/helpers", "tests/snapshots")]
    code = [path for folder in folders for path in folder.rglob("*") if path.suffix != ".pyc"]
    code += [ROOT / name for name in ("dvc.yaml", "params.yaml", "tests/conftest.py", *files)]
    digests = {str(path.relative_to(ROOT)): sha256(path) for path in code if path.is_file()}
    return digest({"versions": versions, "files": digests, "part": list(files)})[:16]


def _run_part(interpreter: Path, files: Sequence[str], report: Path) -> None:
    """Run test files; the report appears when they have run to their end."""
    print(f"{interpreter.parents[1].name}: {files[0]} to {files[-1]}", file=sys.stderr, flush=True)
    unfinished = report.with_suffix(".unfinished")
    options = ["-q", "-m", "not slow", "--numprocesses", "2", "--dist", "loadfile", f"--junitxml={unfinished}"]
    tested = _run([str(interpreter), "-m", "pytest", *options, *files], cwd=ROOT)
    report.with_suffix(".log").write_text(tested.stdout, encoding="utf-8")
    if tested.returncode not in (0, 1):  # no tests, or stopped
        raise SystemExit(f"{files[0]} to {files[-1]}: pytest ended with {tested.returncode}\n{tested.stdout[-3000:]}")
    unfinished.replace(report)


def _read(report: Path) -> tuple["Counter[str]", list[str]]:
    """The numbers of a JUnit report, and the names of the tests that failed."""
    counts: Counter[str] = Counter()
    failed = []
    for suite in ElementTree.parse(report).getroot().iter("testsuite"):
        counts.update({name: int(suite.attrib[name]) for name in ("tests", "failures", "errors", "skipped")})
        for case in suite.iter("testcase"):
            if case.find("failure") is not None or case.find("error") is not None:
                failed.append(f"{case.attrib['classname']}::{case.attrib['name']}")
    return counts, failed


def table() -> str:
    """All outcomes as a Markdown table, the last of each combination."""
    lines = RESULTS.read_text(encoding="utf-8").splitlines() if RESULTS.exists() else []
    rows = {(values["python"], values["dependencies"]): values for values in map(json.loads, lines)}
    cells = [
        f"| {values.get('versions', {}).get('python', python)} | {way} | {_shown_versions(values)} | "
        f"{values['outcome']} | {values['day']} |"
        for (python, way), values in sorted(rows.items())
    ]
    if not cells:
        return "Not tried yet.\n"
    head = ["| Python | dependencies | among them | fast tests | day |", "|:---|:---|:---|:---|:---|"]
    return "\n".join([*head, *cells]) + "\n"


def _shown_versions(values: dict[str, Any]) -> str:
    versions = values.get("versions", {})
    return ", ".join(f"{name} {versions[name]}" for name in _SHOWN if name in versions)


def _run(command: list[str], cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return subprocess.run(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )


def main() -> None:
    """Try out each combination that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", nargs="+", default=["3.11", "3.12", "3.13"], help="Python versions")
    parser.add_argument("--dependencies", default="lowest-direct", choices=("lowest-direct", "lock"))
    parser.add_argument("--tests", nargs="+", default=[], help="test files, if not all fast tests")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "harveyseg-oldest")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    for python in arguments.python:
        result = try_out(python, arguments.dependencies, arguments.tests, arguments.work)
        print(json.dumps(result), flush=True)
        with RESULTS.open("a", encoding="utf-8") as opened:
            opened.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
