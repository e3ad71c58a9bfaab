"""The tests marked long, which CI leaves out: outcome and seconds of each, into benchmarks/results.

    .venv/bin/python benchmarks/long_tests.py [PYTEST OPTION ...]

The table goes to benchmarks/results/<date>-long-tests.md, and the exit code is pytest's.
"""

import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from xml.etree import ElementTree

from harveyseg.project import git_state, library_versions

ROOT = Path(__file__).resolve().parents[1]


def main(options: Sequence[str]) -> int:
    """Run the tests and write the table."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "junit.xml"
        parallel = ["--numprocesses", "logical", "--maxprocesses", "4", "--dist", "loadfile", "--no-loadscope-reorder"]
        command = [sys.executable, "-m", "pytest", "-m", "long", *parallel, f"--junitxml={report}", *options]
        code = subprocess.run(command, cwd=ROOT).returncode
        rows = list(_rows(report)) if report.exists() else []
    versions = ", ".join(f"{name} {version}" for name, version in library_versions().items())
    lines = [
        f"# benchmarks/long_tests.py, {date.today()}",
        "",
        f"Commit {git_state(ROOT).commit}, Python {platform.python_version()}, {versions}",
        "",
        "| test | outcome | seconds |",
        "|---|---|---:|",
        *rows,
    ]
    path = ROOT / "benchmarks" / "results" / f"{date.today()}-long-tests.md"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"outcomes of {len(rows)} tests in {path.relative_to(ROOT)}")
    return code


def _rows(report: Path) -> Iterator[str]:
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        failed = case.find("failure") is not None or case.find("error") is not None
        outcome = "failed" if failed else "skipped" if case.find("skipped") is not None else "passed"
        yield f"| {case.attrib['classname']}::{case.attrib['name']} | {outcome} | {float(case.attrib['time']):.0f} |"


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
