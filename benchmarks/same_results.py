"""Whether two finished projects hold the same results, e.g. one run serially and one on a cluster.

    .venv/bin/python benchmarks/same_results.py PROJECT OTHER

Both must have run every stage, and hold what `dvc.lock` records. Then the two `dvc.lock` must have the same stages in
the same order, with the same commands, settings and hashes, and all results the same bytes: weights, probabilities,
pictures, the table, submissions. Of a few files that hold ids or times (`OF_A_RUN`), the ids are replaced by names of
their runs and the times are left out before they are compared; hashes of these files, and of folders that hold them,
may differ. It exits with 1 and prints the first differences, or else counts what it has compared.
"""

import argparse
import csv
import fnmatch
import io
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any

from dvc.repo import Repo

from harveyseg.config.lock import dvc_md5, recorded_stages
from harveyseg.config.settings import load
from harveyseg.errors import HarveysegError, report_errors, shortened

_SECONDS = frozenset({"time_ms", "started_ms", "ended_ms", "seconds", "images_per_second"})
_EVALUATION = frozenset({"evaluation"})
"""A hash that covers the uid of the run."""
OF_A_RUN: Mapping[str, frozenset[str]] = {
    "data/models/*/history.csv": _SECONDS,
    "data/models/*/run.json": _SECONDS,
    "data/predictions/*/metrics.json": _EVALUATION,
    "data/ensemble/run.json": _SECONDS | {"stage_key"},  # a hash of its members' uids
    "data/ensemble/metrics.json": _EVALUATION,
    "data/postprocess/metrics/*.json": _EVALUATION,
    "data/postprocess/rules/*.json": frozenset(),
    "data/submission/submission.json": frozenset(),
}
"""Files that hold ids or times, and which of their fields are left out."""


@dataclass
class Project:
    """A project in which every stage has run."""

    folder: Path
    _md5: dict[str, str] = field(default_factory=dict)

    @cached_property
    def stages(self) -> dict[str, dict[str, Any]]:
        """What ``dvc.lock`` records, in its order.

        Raises:
            HarveysegError: when a stage of ``dvc.yaml`` has not run.
        """
        recorded = recorded_stages(self.folder / "dvc.lock")
        with Repo(str(self.folder)) as repo:
            missing = [stage.name for stage in repo.index.stages if stage.name not in recorded]
        if missing or not recorded:
            names = ", ".join(shortened(missing)) or "all stages"
            raise HarveysegError(f"{self.folder}: not finished; dvc.lock lacks {names}. Run `dvc repro` there.")
        stages: dict[str, dict[str, Any]] = load(self.folder / "dvc.lock")["stages"]
        return stages

    @cached_property
    def names(self) -> dict[str, str]:
        """The names of this project's ids: uid and MLflow run id of each run."""
        names: dict[str, str] = {}
        for path in sorted((self.folder / "data").glob("**/run.json")):
            record = json.loads(path.read_text(encoding="utf-8"))
            where = path.relative_to(self.folder).as_posix()
            names |= {record[kind]: f"{kind} of {where}" for kind in ("uid", "run_id")}
        return names

    def md5(self, path: str) -> str:
        """The MD5 of a result as it is on disk; empty where it is missing."""
        if path not in self._md5:
            found = self.folder / path
            self._md5[path] = dvc_md5(found) if found.exists() else ""
        return self._md5[path]

    def files(self, path: str) -> set[str]:
        """The files of a result, which is one itself or a folder; hidden ones are no results."""
        found = self.folder / path
        if not found.is_dir():
            return {path} if found.exists() else set()
        inside = {file.relative_to(found) for file in found.rglob("*") if file.is_file()}
        hidden = {name for name in inside if any(part.startswith(".") for part in name.parts)}  # .dvcignore
        return {f"{path}/{name.as_posix()}" for name in inside - hidden}

    def without_ids(self, path: str, fields: frozenset[str]) -> Any:
        """The content of a file with names for ids, without some fields."""
        text = (self.folder / path).read_text(encoding="utf-8")
        for number, name in self.names.items():
            text = text.replace(number, name)
        if path.endswith(".csv"):
            rows = csv.DictReader(io.StringIO(text))
            return [{name: cell for name, cell in row.items() if name not in fields} for row in rows]
        return _without(json.loads(text), fields)


def _without(value: Any, fields: frozenset[str]) -> Any:
    """A JSON value without these keys, at any depth; the order of keys counts."""
    if isinstance(value, dict):
        return [(key, _without(item, fields)) for key, item in value.items() if key not in fields]
    return [_without(item, fields) for item in value] if isinstance(value, list) else value


class Comparison:
    """The differences between two projects, and how many files were compared.

    Args:
        first: a project's folder.
        second: another one's.
    """

    def __init__(self, first: Path, second: Path) -> None:
        self.first, self.second = Project(first), Project(second)
        self.stages = 0
        self.equal: set[str] = set()
        """Files with the same bytes."""
        self.equal_but_ids: set[str] = set()
        """Files that differ in ids and times only."""
        self._different: dict[str, list[str]] = {}
        self.differences = list(dict.fromkeys(self._find()))

    def _find(self) -> Iterator[str]:
        pairs = list(zip_longest(self.first.stages, self.second.stages))
        for position, (name, other) in enumerate(pairs, start=1):
            if name != other:
                yield f"dvc.lock: stage {position} is {name} in {self.first.folder}, {other} in {self.second.folder}"
                return  # all after it are shifted
        self.stages = len(pairs)
        made = {out["path"] for stage in self.first.stages.values() for out in stage.get("outs", [])}
        for name, stage in self.first.stages.items():
            other = self.second.stages[name]
            for part in sorted((stage.keys() | other.keys()) - {"deps", "outs"}):
                if stage.get(part) != other.get(part):
                    yield f"{name}: other {part} in dvc.lock"
            for part in ("deps", "outs"):
                yield from self._compare_paths(f"{name}, {part}", stage.get(part, []), other.get(part, []), made)

    def _compare_paths(
        self, where: str, entries: list[dict[str, Any]], others: list[dict[str, Any]], made: set[str]
    ) -> Iterator[str]:
        """Compare what a stage read or made, as recorded, and results also as they are on disk."""
        if [entry["path"] for entry in entries] != [other["path"] for other in others]:
            yield f"{where}: other paths in dvc.lock"
            return
        for entry, other in zip(entries, others, strict=True):
            path = entry["path"]
            if not any(_holds(path, out) or _holds(out, path) for out in made):  # code and the user's files
                if entry != other:
                    yield f"{path}: other hash in dvc.lock"
                continue
            for project, recorded in ((self.first, entry), (self.second, other)):
                if project.md5(path) != recorded.get("md5"):
                    yield f"{project.folder / path}: not what dvc.lock records"
            yield from self._compare_files(path)

    def _compare_files(self, path: str) -> list[str]:
        """Compare a result, file by file."""
        if path not in self._different:
            files, others = self.first.files(path), self.second.files(path)
            found = [f"{file}: in one of the projects only" for file in sorted(files ^ others)]
            self._different[path] = found + [
                f"{file}: other content" for file in sorted(files & others) if not self._is_same(file)
            ]
        return self._different[path]

    def _is_same(self, file: str) -> bool:
        if file in self.equal or file in self.equal_but_ids:
            return True
        if self.first.md5(file) == self.second.md5(file):
            self.equal.add(file)
            return True
        fields = next((fields for pattern, fields in OF_A_RUN.items() if _matches(file, pattern)), None)
        if fields is None or self.first.without_ids(file, fields) != self.second.without_ids(file, fields):
            return False
        self.equal_but_ids.add(file)
        return True


def _matches(file: str, pattern: str) -> bool:
    """Whether a pattern means a file; a star stands for one part of the path."""
    return file.count("/") == pattern.count("/") and fnmatch.fnmatchcase(file, pattern)


def _holds(folder: str, path: str) -> bool:
    """Whether a path is a folder or in it."""
    return Path(path).is_relative_to(folder)


def main() -> None:
    """Compare the two projects of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("projects", nargs=2, type=Path, metavar="PROJECT")
    first, second = parser.parse_args().projects
    with report_errors():
        if first.resolve() == second.resolve():
            raise HarveysegError(f"{first}: both projects are this one. Name two.")
        compared = Comparison(first, second)
    if compared.differences:
        sys.exit("\n".join(["the results differ:", *(f"  {line}" for line in shortened(compared.differences))]))
    print(
        f"the same results: {compared.stages} stages, {len(compared.equal)} files with the same bytes, "
        f"{len(compared.equal_but_ids)} that differ in ids and times only"
    )


if __name__ == "__main__":
    main()
