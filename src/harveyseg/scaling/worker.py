"""The process that works on items: ``python -m harveyseg.scaling.worker PROJECT pull|share ITEM...``.

It runs DVC itself, in a clone of the project, while it holds a lock for each item. So a lock lives as long as its DVC
does, also where the command that started this process was killed, and the next command waits for the results. A
training that outlives its DVC has a lock of its own (:meth:`harveyseg.training.checkpoint.Checkpoint.owned`).
"""

import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ruamel.yaml import YAML

from harveyseg.config.lock import stage_outputs
from harveyseg.config.settings import load
from harveyseg.errors import HarveysegError, report_errors
from harveyseg.files import copy_file, locked
from harveyseg.logs import configure_logging
from harveyseg.scaling.copies import (
    UNTRACKED,
    adding_to_cache,
    clone_project,
    copy_prefix,
    processes_in,
    renew_clone,
    worker_copies,
)
from harveyseg.scaling.items import PIPELINE, Plan, pipeline_name, plan_items, require_upstream

if TYPE_CHECKING:
    from dvc.repo import Repo

logger = logging.getLogger("harveyseg.scaling.worker")  # this module's name is __main__

_CLONE = "project"


def run_items(root: Path, items: Sequence[str], pull: bool) -> None:
    """Run stages in a clone, one after the other; see :func:`harveyseg.scaling.work.work`."""
    plan = plan_items(root, items)
    with ExitStack() as held:
        for item in sorted(plan.items):  # in one order, so that two processes never wait for each other
            waiting = f"Another process works on {item}. Waiting for it, to take its result."
            held.enter_context(locked(root / ".locks" / f"work-{item}.lock", waiting=waiting))
        require_upstream(root, plan, absent=pull)
        os.environ.setdefault(PIPELINE, pipeline_name(root))
        copies = worker_copies(root) / "_".join(sorted(plan.items))
        copies.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=copies, prefix=copy_prefix(os.getpid())))
        try:
            project = _take_over(root, copies, folder / _CLONE) or clone_project(root, folder / _CLONE)
            for name in UNTRACKED:
                with suppress(FileNotFoundError):
                    copy_file(root / name, project / name)
            os.chdir(project)
            _run_in_copy(root, plan, pull)
        finally:
            os.chdir(root)
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):  # copies of killed processes, in which a training may still run
                copies.rmdir()
        # Nothing works any more in what killed processes left there: each training had its lock until it ended.
        shutil.rmtree(copies, ignore_errors=True)
    logger.info("%s: done. `dvc repro%s` takes the results over.", ", ".join(plan.items), " --pull" if pull else "")


def _take_over(root: Path, copies: Path, clone: Path) -> Path | None:
    """Move here what a killed process of this machine left, with the photos and results that it had brought there.

    A training that outlived it keeps its copy.
    """
    for left in copies.glob(f"{copy_prefix()}*/{_CLONE}"):
        if not processes_in(left):
            left.rename(clone)
            try:
                return renew_clone(root, clone)
            except HarveysegError as error:
                logger.info("%s is not used again: %s", left, error)
                shutil.rmtree(clone)
    return None


def _run_in_copy(root: Path, plan: Plan, pull: bool) -> None:
    """Run the items in the copy, which is the working directory."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    logging.getLogger("dvc.repo.scm_context").setLevel(logging.WARNING)  # it advises to commit the copy's dvc.lock
    inputs = " ".join(plan.inputs)
    with Repo() as repo:
        try:
            if inputs:
                (repo.pull if pull else repo.checkout)(targets=list(plan.inputs))
        except DvcException as error:
            remedy = f"`dvc push {inputs}` where they ran" if pull else f"`dvc commit --force {inputs}` there"
            raise HarveysegError(
                f"{root}: results that the items read are not stored ({error}). Run {remedy}."
            ) from None
        for item in plan.items:
            try:
                repo.reproduce([item], single_item=True, no_commit=True, pull=pull)
                with adding_to_cache(root):  # items share files: the lists of their photos
                    repo.commit(item, force=True)
            except DvcException as error:
                raise HarveysegError(f"{item}: {error.__cause__ or error}") from None
        if pull:
            try:
                repo.push(targets=list(plan.items))
                for item in plan.items:
                    push_run(repo, item)
            except DvcException as error:
                raise HarveysegError(
                    f"{', '.join(plan.items)}: done, but not pushed ({error}). Correct the remote, then run the same "
                    "command again; nothing is trained again."
                ) from None


def push_run(repo: "Repo", item: str) -> None:
    """Copy DVC's record of an item's run to the remote, after its results.

    ``dvc push --run-cache`` would copy the records of all runs that the cache knows, each time.

    Args:
        repo: a project whose ``dvc.lock`` has the item.
        item: the stage's name.
    """
    from dvc_objects.fs import generic

    stage = load(Path(repo.root_dir) / "dvc.lock")["stages"][item]
    made = sorted(stage_outputs(stage, folders=True))
    yaml = YAML(typ="safe", pure=True)
    cache, remote = repo.cache.legacy, repo.cloud.get_remote_odb(None, "push", hash_name="md5-dos2unix")
    for entry in (Path(cache.path) / "runs").glob("*/*/*"):
        text = entry.read_text(encoding="utf-8")
        if made[0][1] in text and sorted(stage_outputs(yaml.load(text), folders=True)) == made:
            place = remote.fs.join(remote.path, *entry.relative_to(cache.path).parts)
            generic.copy(cache.fs, str(entry), remote.fs, place)


if __name__ == "__main__":
    configure_logging()
    with report_errors():
        run_items(Path(sys.argv[1]), sys.argv[3:], sys.argv[2] == "pull")
