"""Whether the oldest dependencies that pyproject.toml allows, or those of the lock, pass the fast tests on a Python.

    .venv/bin/python benchmarks/oldest.py --python 3.11 3.12 3.13 [--dependencies lowest-direct] [--work FOLDER]

Each combination gets an environment of its own (6 GB, mostly PyTorch), which is left in the folder. uv takes the Python
versions that are installed, and fetches others. The outcome of each is added to benchmarks/results/oldest.jsonl, and
benchmarks/faults.py writes it into docs/reliability.md.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "oldest.jsonl"
UV = [sys.executable, "-m", "uv"] if (Path(sys.prefix) / "bin" / "uv").exists() else ["uv"]


def try_out(python: str, dependencies: str, work: Path) -> dict[str, str]:
    """Install and test one combination; what came of it."""
    environment = work / f"{python}-{dependencies}"
    result = {"python": python, "dependencies": dependencies, "day": str(date.today())}
    made = _run([*UV, "venv", "--clear", "--python", python, str(environment)])
    if made.returncode:
        return {**result, "outcome": "no such Python here", "detail": made.stdout[-300:]}
    install = [*UV, "pip", "install", "--python", str(environment / "bin" / "python")]
    if dependencies == "lock":
        installed = _run([*install, "--require-hashes", "-r", str(ROOT / "requirements.lock")])
        if installed.returncode == 0:
            installed = _run([*install, "--no-deps", "--editable", str(ROOT)])
    else:
        installed = _run([*install, "--resolution", dependencies, "--editable", f"{ROOT}[dev]"])
    if installed.returncode:
        return {**result, "outcome": "does not install", "detail": installed.stdout[-600:]}
    tests = ["-m", "pytest", "-q", "-m", "not slow", "--numprocesses", "2", "--dist", "loadfile"]
    tested = _run([str(environment / "bin" / "python"), *tests], cwd=ROOT)
    (work / f"{python}-{dependencies}.log").write_text(tested.stdout, encoding="utf-8")
    summary = re.findall(r"^=* ?(\d+ (?:passed|failed).*?)(?: in [\d.]+.*)?$", tested.stdout, re.MULTILINE)
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", tested.stdout, re.MULTILINE)
    return {**result, "outcome": summary[-1] if summary else "tests do not start", "detail": " ".join(failed)[:2000]}


def table() -> str:
    """All outcomes as a Markdown table, the last of each combination."""
    lines = RESULTS.read_text(encoding="utf-8").splitlines() if RESULTS.exists() else []
    rows = {(values["python"], values["dependencies"]): values for values in map(json.loads, lines)}
    cells = [
        f"| {python} | {way} | {values['outcome']} | {values['day']} |"
        for (python, way), values in sorted(rows.items())
    ]
    if not cells:
        return "Not tried yet.\n"
    return "\n".join(["| Python | dependencies | fast tests | day |", "|:---|:---|:---|:---|", *cells]) + "\n"


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
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "harveyseg-oldest")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    for python in arguments.python:
        result = try_out(python, arguments.dependencies, arguments.work)
        print(json.dumps(result), flush=True)
        with RESULTS.open("a", encoding="utf-8") as opened:
            opened.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
