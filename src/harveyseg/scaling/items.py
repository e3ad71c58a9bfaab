"""The items of the pipeline's matrix as stages of DVC, and what has to run before them.

Importing DVC takes a second, so it is imported only in functions.
"""

import difflib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harveyseg.config.lock import recorded_stages, stage_outputs
from harveyseg.config.settings import load
from harveyseg.errors import HarveysegError, shortened
from harveyseg.project import git_output
from harveyseg.scaling.copies import stage_environment

MATRIX = ("train", "evaluate")
"""The stages that have a matrix; one item of it runs all."""
PIPELINE = "HARVEYSEG_PIPELINE"
"""The environment variable that names the pipeline to which runs belong."""
_NOT_STORED = "not in cache"
_NOT_HERE = "deleted"
"""What ``dvc status`` says of a file that is not in the cache, and of one that is not in the project either."""


@dataclass(frozen=True)
class Plan:
    """Items in the order in which they run, and the stages before them, which are no items."""

    items: tuple[str, ...]
    inputs: tuple[str, ...]
    """Stages whose results the items read."""
    upstream: tuple[str, ...]
    """All stages before the items, in the order of ``dvc.yaml``."""


def plan_items(root: Path, items: Sequence[str]) -> Plan:
    """Look items up in ``dvc.yaml``.

    Args:
        root: the project.
        items: names of stages, e.g. ``train@unet-0``, in any order.

    Raises:
        HarveysegError: when a name is no stage, or the stage's results cannot be taken over through DVC's cache.
    """
    stages, needed = _open_repo(root)
    if unknown := [item for item in items if item not in stages]:
        near = [name for item in unknown for name in difflib.get_close_matches(item, stages)]
        hint = f" Was {' or '.join(near)} meant?" if near else ""
        raise HarveysegError(
            f"{', '.join(unknown)}: no stage of {root / 'dvc.yaml'}.{hint} `dvc stage list --name-only` prints all."
        )
    for item in items:
        if stages[item].always_changed or any(out.persist for out in stages[item].outs):
            raise HarveysegError(
                f"{item}: DVC keeps no results of this stage for others to take over. Run it in the project: "
                f"`dvc repro {item}`."
            )
    upstream = {item: _all_needed(needed, item) for item in items}
    inputs = set().union(*(needed[item] for item in items)) - set(items)
    before_any = set().union(*upstream.values()) - set(items)
    return Plan(
        tuple(sorted(dict.fromkeys(items), key=lambda item: len(upstream[item]))),
        tuple(name for name in stages if name in inputs),
        tuple(name for name in stages if name in before_any),
    )


def _open_repo(root: Path) -> tuple[dict[str, Any], dict[str, set[str]]]:
    """DVC's stages by name, and the names of the stages that each one needs."""
    from dvc.exceptions import NotDvcRepoError
    from dvc.repo import Repo

    try:
        repo = Repo(str(root))
    except NotDvcRepoError:
        raise HarveysegError(f"{root}: no DVC project. Run the command in the folder of dvc.yaml.") from None
    with repo:
        stages = {_stage_name(stage, repo.root_dir): stage for stage in repo.index.stages}
        needed: dict[str, set[str]] = {name: set() for name in stages}
        for stage, before in repo.index.graph.edges():  # edges lead to what a stage needs
            needed[_stage_name(stage, repo.root_dir)].add(_stage_name(before, repo.root_dir))
    return stages, needed


def _stage_name(stage: Any, root: str) -> str:
    """What DVC calls a stage in the project's folder; its own ``addressing`` goes by the working directory."""
    is_in_root = os.path.dirname(stage.path) == root
    return str(stage.name if is_in_root and getattr(stage, "name", None) else stage.addressing)


def matrix_items(root: Path) -> dict[str, list[str]]:
    """The items of the matrix, e.g. ``unet-0``, in the order of ``dvc.yaml``, and their stages.

    Raises:
        HarveysegError: when the pipeline has none.
    """
    items: dict[str, list[str]] = {}
    for name in _open_repo(root)[0]:
        stage, _, item = name.partition("@")
        if stage in MATRIX and item:
            items.setdefault(item, []).append(name)
    if not items:
        raise HarveysegError(
            f"{root / 'dvc.yaml'}: neither {' nor '.join(MATRIX)} has a matrix, so there are no items."
        )
    return items


def shared_stages(root: Path, targets: Sequence[str] = ()) -> tuple[str, ...]:
    """The stages whose results the matrix reads, in the order of ``dvc.yaml``.

    Args:
        root: the project.
        targets: stages, or ``train`` for all of ``train@...``. Only what DVC runs for these is named; all if empty.
    """
    stages, needed = _open_repo(root)
    matrix = {name for name in stages if name.partition("@")[0] in MATRIX}
    inputs = set().union(*(needed[name] for name in matrix)) - matrix
    if targets:
        named = {name for name in stages if name in targets or name.partition("@")[0] in targets}
        inputs &= named.union(*(_all_needed(needed, name) for name in named))
    return tuple(name for name in stages if name in inputs)


def _all_needed(needed: Mapping[str, set[str]], stage: str) -> set[str]:
    """The stages before a stage, however far."""
    return set().union(needed[stage], *(_all_needed(needed, before) for before in needed[stage]))


def require_upstream(root: Path, plan: Plan, absent: bool = False) -> None:
    """Refuse to work on results of stages that have not run, or not with the settings, code and photos of now.

    Args:
        root: the project.
        plan: what is going to run.
        absent: whether the stages' files may be absent here, since a remote has them.

    Raises:
        HarveysegError: when one of the stages before the items has to run first.
    """
    if not plan.upstream:
        return
    recorded = set(recorded_stages(root / "dvc.lock"))
    outdated = [name for name in plan.upstream if name not in recorded]
    if not outdated:
        status = _status(root, plan.upstream)
        outdated = [name for name in plan.upstream if _is_changed(status.get(name, ()), absent)]
    if outdated:
        raise HarveysegError(
            f"{root}: {', '.join(shortened(outdated))} must run before {plan.items[0]}, with the settings and the code "
            f"of now. Run `dvc repro {' '.join(plan.inputs)}` there, then the same command again."
        )


def _status(root: Path, stages: Sequence[str]) -> Mapping[str, Sequence[Any]]:
    """What ``dvc status`` says of stages; it waits while another command of DVC has the project's lock."""
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "status", "--json", *stages]
    done = subprocess.run(command, cwd=root, env=stage_environment(root), capture_output=True, text=True, check=False)
    try:
        status: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        raise HarveysegError(f"{root}: `dvc status` failed: {done.stderr.strip()}") from None
    return status


def unfinished_stages(root: Path, stages: Sequence[str]) -> set[str]:
    """Those of the stages whose results the project lacks, or has of other settings, code or data."""
    recorded = set(recorded_stages(root / "dvc.lock"))
    status = _status(root, [stage for stage in stages if stage in recorded]) if recorded else {}
    return {stage for stage in stages if stage not in recorded or status.get(stage)}


def pipeline_name(root: Path) -> str:
    """Runs of one commit with the same settings and code belong together, whichever process and machine makes them."""
    code = load(root / "dvc.lock").get("stages", {}).get("code", {})
    digest = next((md5 for _, md5 in stage_outputs(code, folders=True)), "")
    return f"work {(git_output(root, 'rev-parse', 'HEAD') or '')[:7]} {digest[:7]}"


def _is_changed(entries: Sequence[Any], absent: bool) -> bool:
    """Whether a stage would run again, by its entries in ``dvc status``."""
    accepted = {_NOT_STORED, _NOT_HERE} if absent else {_NOT_STORED}
    changes = [
        change
        for entry in entries
        for paths in (entry.values() if isinstance(entry, dict) else [{"": entry}])
        for change in paths.values()
    ]
    return any(not isinstance(change, str) or change not in accepted for change in changes)
