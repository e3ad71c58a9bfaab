"""`make demo` in a fresh clone: seconds of every stage, what DVC takes itself, then the table as the README shows it.

    .venv/bin/python benchmarks/demo.py [--keep FOLDER]

Run it on an idle machine. The environment is the one that runs this script, so that only the pipeline is timed. The
seconds of a stage last until DVC starts the next one, so DVC's own are among them; those of the processor tell them
apart.
"""

import argparse
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import pandas as pd
import psutil  # type: ignore[import-untyped]
import torch

from harveyseg.project import library_versions

ROOT = Path(__file__).resolve().parents[1]
SCORES = {
    "val_score": "score, held-out fold",
    "val_argmax_score": "argmax score, held-out fold",
    "test_score": "score, test",
    "test_argmax_score": "argmax score, test",
}
"""Columns of comparison.csv and of the table in the README."""


def _time_stages(folder: Path) -> tuple[dict[str, float], float, float]:
    """Seconds of each stage, then those of the processor: in DVC's own process, and in those of the stages."""
    environment = {**os.environ, "VIRTUAL_ENV": sys.prefix, "PATH": f"{sys.prefix}/bin{os.pathsep}{os.environ['PATH']}"}
    seconds: dict[str, float] = {}
    stage = "dvc starts"
    started = time.perf_counter()
    with subprocess.Popen(["dvc", "repro"], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", file=sys.stderr)
            if running := re.match(r"Running stage '(.+)':", line):
                seconds[stage] = time.perf_counter() - started
                stage = running[1]
                started = time.perf_counter()
        used = psutil.Process(process.pid).cpu_times()  # it has just ended, and nobody has waited for it yet
    seconds[stage] = time.perf_counter() - started
    if process.returncode:
        raise SystemExit(f"dvc repro ended with {process.returncode}")
    return seconds, used.user + used.system, used.children_user + used.children_system


def _readme_table(reports: Path) -> str:
    table = pd.read_csv(reports / "comparison.csv")
    table = table[table["fold"].isna() | (table["fold"] == "all")]
    all_empty = table["model"] == "all_empty"
    rows = pd.DataFrame({"model": table["model"].where(~all_empty, "all empty")})
    for name, title in SCORES.items():
        rows[title] = table[name].map("{:.3f}".format)
        if "argmax" in name:
            rows.loc[all_empty, title] = ""  # it equals the score
    rows["parameters"] = table["parameters"].map(lambda count: "" if pd.isna(count) else f"{count / 1e6:.1f} M")
    return str(rows.to_markdown(index=False, disable_numparse=True, colalign=["left", *["right"] * (len(SCORES) + 1)]))


def main() -> None:
    """Clone, run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", type=Path, help="clone to this folder and leave it there")
    keep = parser.parse_args().keep
    with tempfile.TemporaryDirectory() as temporary:
        folder = keep or Path(temporary) / "clone"
        subprocess.run(["git", "clone", "-q", str(ROOT), str(folder)], check=True)
        seconds, of_dvc, of_stages = _time_stages(folder)
        again = time.perf_counter()
        subprocess.run([f"{sys.prefix}/bin/dvc", "repro", "-q"], cwd=folder, check=True)
        again = time.perf_counter() - again
        versions = ", ".join(f"{name} {version}" for name, version in library_versions().items())
        print(f"{date.today()}, {platform.machine()}, {torch.get_num_threads()} threads, {versions}\n")
        print("| stage | seconds |\n|---|---:|")
        for stage, value in seconds.items():
            print(f"| {stage} | {value:.0f} |")
        print(f"| **all** | **{sum(seconds.values()):.0f}** |\n| a second `dvc repro` (nothing runs) | {again:.0f} |")
        print(f"| CPU seconds of DVC itself | {of_dvc:.0f} |\n| CPU seconds of the stages | {of_stages:.0f} |\n")
        print(_readme_table(folder / "data" / "reports"))


if __name__ == "__main__":
    main()
