"""Which stages would run again, and why, without running any.

DVC alone cannot tell: settings of trainings and code reach the other stages through the files that the stage ``code``
writes when it runs.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harveyseg.config.lock import differing_settings
from harveyseg.config.settings import listed_models, load
from harveyseg.data.class_lists import CLASSES_FILE, classes_file, load_classes, stored_classes
from harveyseg.errors import counted
from harveyseg.files import read_json
from harveyseg.models import available
from harveyseg.pipeline.code import PER_MODEL, changed_files, code_digests, parse_digests, stage_files
from harveyseg.pipeline.contradictions import training_differences
from harveyseg.record import RunRecord

if TYPE_CHECKING:
    from dvc.repo.index import Index

_SHOWN = 3
_CODE = "code"
_Status = Mapping[str, Sequence[str | Mapping[str, Mapping[str, Any]]]]
"""What ``dvc status --json`` prints."""


@dataclass(frozen=True)
class StaleStages:
    """Stages that would run again."""

    reasons: dict[str, list[str]]
    """By the stage's name in DVC, e.g. ``train@unet-0``, what has changed since it ran; in the pipeline's order."""
    following: list[str]
    """Those that run because another one does, if that changes its results."""

    def includes(self, stage: str) -> bool:
        """Whether a stage would run, or may."""
        return stage in self.reasons or stage in self.following

    def lines(self) -> list[str]:
        """Stages with the same reasons in one line each."""
        stages: dict[tuple[str, str], list[str]] = {}
        for stage, reasons in self.reasons.items():
            name, _, item = stage.partition("@")
            more = f" and {len(reasons) - _SHOWN} more" if len(reasons) > _SHOWN else ""
            stages.setdefault((name, "; ".join(reasons[:_SHOWN]) + more), []).append(item)
        return [
            f"{name} {', '.join(items)}: {reason}" if items[0] else f"{name}: {reason}"
            for (name, reason), items in stages.items()
        ]


def find_stale(root: Path, records: Sequence[RunRecord]) -> StaleStages:
    """Compare settings, code, data and results with those of the last run.

    Args:
        root: the project's root.
        records: the training runs of the workspace that ``params.yaml`` lists.

    Raises:
        HarveysegError: when ``params.yaml`` or a file of digests is damaged.
        dvc.exceptions.DvcException: when DVC cannot read the project, or another command of DVC runs in it.
    """
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        index = repo.index  # kept: DVC reads dvc.yaml and dvc.lock again for every command, each a third of a second
        status = repo.status()
    stages = [stage.addressing for stage in index.stages]
    reasons = _dvc_reasons(status, index, root)
    following = _graph(index)
    for stage, files in changed_code(root).items():
        more = f" and {counted(len(files) - _SHOWN, 'more file')}" if len(files) > _SHOWN else ""
        reasons.setdefault(stage, []).append(f"{', '.join(files[:_SHOWN])}{more} edited")
    if text := _edited_classes(root):
        reasons.setdefault("download", []).append(text)
    changed = training_differences(root / "params.yaml", records)
    for record in records:
        if texts := changed.get(record.uid):
            reasons.setdefault(f"train@{record.model}-{record.fold}", []).extend(texts)
    reasons = {stage: reasons[stage] for stage in stages if reasons.get(stage)}
    after: set[str] = set()
    queue = list(reasons)
    while queue:
        for stage in following[queue.pop()]:
            if stage not in after:
                after.add(stage)
                queue.append(stage)
    return StaleStages(reasons, [stage for stage in stages if stage in after and stage not in reasons])


def changed_code(root: Path) -> dict[str, list[str]]:
    """The source files of each stage that differ from those that the stage ``code`` digested, by the stage's name.

    Args:
        root: the project's root. Stages whose digests are absent are left out: they have never run.

    Raises:
        HarveysegError: when ``params.yaml`` or a file of digests is damaged.
    """
    scripts, digests = root / "stages", root / "data" / "code"
    models, folds = listed_models(root / "params.yaml")
    values = load(root / "params.yaml")
    external = available() if (values.get("ensemble") or {}).get("runs") else []
    found: dict[str, list[str]] = {}
    for script in sorted(scripts.glob("*.py")):
        stage = script.stem.replace("_", "-")
        if stage in PER_MODEL:
            for model in models:
                path = digests / stage / (f"{model}.json" if stage == "train" else f"{model}.txt")
                if files := _changed_files(path, stage, scripts, [values["models"][model]["network"]]):
                    found |= {f"{stage}@{model}-{fold}": files for fold in folds}
        elif stage != _CODE:
            networks = external if stage == "ensemble" else []
            if files := _changed_files(digests / f"{stage}.txt", stage, scripts, networks):
                found[stage] = files
    return found


def _edited_classes(root: Path) -> str | None:
    """A line if the user's list of classes is not the one that the stage ``code`` has seen."""
    setting = str((load(root / "params.yaml").get("data") or {}).get("classes"))
    seen = root / "data" / "code"
    if classes_file(setting) is None or not (seen / CLASSES_FILE).exists():
        return None
    return None if load_classes(setting, root) == stored_classes(seen) else f"{setting} edited"


def _changed_files(path: Path, stage: str, scripts: Path, networks: Sequence[str]) -> list[str]:
    if not path.exists():
        return []
    if path.suffix == ".json":
        before: Mapping[str, Any] = read_json(path, "Run `dvc repro code`.").get("code", {})
    else:
        before = parse_digests(path.read_text(encoding="utf-8"))
    return changed_files(before, code_digests(stage_files(stage, scripts, networks)))


def _dvc_reasons(status: _Status, index: "Index", root: Path) -> dict[str, list[str]]:
    """What ``dvc status`` says of each stage, without what follows from another stage's results being outdated.

    Of the stage ``code`` nothing is said: it always runs, and :func:`changed_code` says what comes of it.
    """
    values = load(root / "params.yaml")
    makers = {out.def_path: stage.addressing for stage in index.stages for out in stage.outs}
    reasons: dict[str, list[str]] = {}
    for stage, entries in status.items():
        if stage == _CODE:
            continue
        texts: list[str] = []
        for entry in entries:
            texts += [entry] if isinstance(entry, str) else _changes(entry, stage, makers, status.keys())
        reasons[stage] = [*differing_settings(values, root / "dvc.lock", stage, "the last run").values(), *texts]
    return reasons


def _changes(
    entry: Mapping[str, Mapping[str, str | Mapping[str, str]]],
    stage: str,
    makers: Mapping[str, str],
    listed: "set[str] | Any",
) -> Iterator[str]:
    for paths in entry.values():
        for path, change in paths.items():
            if path == "params.yaml":  # see differing_settings
                continue
            made_by = {maker for out, maker in makers.items() if _overlap(path, out)} - {stage}
            if made_by.isdisjoint(listed):
                # Of a parameter in another file, DVC says so by its name: the digest of a training's settings and code.
                yield f"{path} {' '.join(change.values()) if isinstance(change, Mapping) else change}"


def _overlap(one: str, other: str) -> bool:
    first, second = Path(one), Path(other)
    return first == second or first in second.parents or second in first.parents


def _graph(index: "Index") -> dict[str, list[str]]:
    """The stages that depend on each stage's results; the digests of code do not count."""
    graph: dict[str, list[str]] = {stage.addressing: [] for stage in index.stages}
    for stage, needed in index.graph.edges():
        if needed.addressing != _CODE:
            graph[needed.addressing].append(stage.addressing)
    return graph
