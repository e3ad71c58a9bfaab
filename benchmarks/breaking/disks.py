"""A disk that fills up in every stage, and folders that cannot be written."""

import os
import random
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from breaking.trials import Outcome, Trial, judge
from breaking.workspace import RUNNING, Reference, leftovers, repair_dvc, tracking_problems, untidy
from harveyseg.config.settings import load
from harveyseg.doctor import check_leftovers
from helpers.project import Project
from helpers.small_disk import small_disk

FULL_PART = "Full disk"
FULL_STAGE_PART = "Disk that is full when a stage begins"
READ_ONLY_PART = "Folder that cannot be written"
MAX_STEP = 5_000_000
"""Bytes by which a full disk grows at most."""
_FREE = {"no byte": 0, "one page": os.sysconf("SC_PAGE_SIZE")}
"""What is free when a stage begins: nothing, or room for the first bytes of one small file."""
_WRITABLE = 99
_NOBODY = 65534


def fill(reference: Reference, work: Path) -> Iterator[Trial]:
    """Run the pipeline on a disk that is full again and again, and grows each time by a random step."""
    disk = work / "disk"
    _remove(disk)
    with small_disk(disk, "128m"):
        project = reference.start(disk / "harveyseg")
        failures: list[tuple[str, list[str]]] = []
        size = shutil.disk_usage(disk).used
        while True:
            size += random.randrange(8192, MAX_STEP)
            _resize(disk, size)
            done = _run(project, ["dvc", "repro"])
            if done.returncode == 0:
                break
            stages = [match[1] for line in done.stdout.splitlines() if (match := RUNNING.match(line))]
            problems = untidy(done.stdout) + reference.differences(project.folder, partial=True)
            problems += repair_dvc(project)
            if not _says_full(done.stdout):
                problems.append(f"nobody says that the disk is full: {done.stdout[-300:]}")
            failures.append((stages[-1].partition("@")[0] if stages else "", problems))
            for finding in check_leftovers(project.folder):  # as a user is told: what DVC leaves would fill the disk
                if "unfinished copies" in finding.text:
                    subprocess.run(finding.remedy.split("`")[1], shell=True, check=True)
        _resize(disk, 128 * 2**20)
        project.run("dvc", "repro")
        end = reference.differences(project.folder) + leftovers(project.folder) + tracking_problems(project)
        for stage, problems in failures:
            fault = f"in the stage `{stage}`" if stage else "before the first stage"
            if end:
                yield Trial(FULL_PART, fault, *judge(end))
            else:
                yield Trial(FULL_PART, fault, *judge(problems, Outcome.UNCLEAR))
    _remove(disk)


def fill_each_stage(reference: Reference, work: Path) -> Iterator[Trial]:
    """Run each stage of the finished project on a disk that is full, those that write little as well."""
    disk = work / "disk"
    _remove(disk)
    with small_disk(disk, "128m"):
        project = reference.copy(disk / "harveyseg")
        failures: list[tuple[str, list[str]]] = []
        for stage, description in load(project.folder / "dvc.yaml")["stages"].items():
            command = shlex.split(_stage_command(description))
            for name, free in _FREE.items():
                _resize(disk, 128 * 2**20)
                project.run("dvc", "checkout")  # what a stage before this one removed when it began
                _resize(disk, shutil.disk_usage(disk).used + free)
                done = _run(project, command)
                failed = bool(done.returncode)  # a page is room enough for a stage that writes little
                problems = untidy(done.stdout) + reference.differences(project.folder, partial=failed)
                if failed and not _says_full(done.stdout):
                    problems.append(f"nobody says that the disk is full: {done.stdout[-300:]}")
                failures.append((f"{name} is free, stage `{stage}`", problems))
        _resize(disk, 128 * 2**20)
        project.run("dvc", "repro")
        end = reference.differences(project.folder) + leftovers(project.folder) + tracking_problems(project)
        for fault, problems in failures:
            yield Trial(FULL_STAGE_PART, fault, *(judge(end) if end else judge(problems, Outcome.UNCLEAR)))
    _remove(disk)


def forbid(reference: Reference, work: Path, stage: str | None = None) -> Iterator[Trial]:
    """Run each stage where ``data``, and then the whole project, is mounted read-only or belongs to another user.

    Args:
        reference: the undisturbed run.
        work: a folder for the project.
        stage: the only one to run; all if None.
    """
    project = reference.copy(work / "readonly")
    home = work / "home"
    home.mkdir(exist_ok=True)
    os.chown(home, _NOBODY, _NOBODY)
    stages = load(project.folder / "dvc.yaml")["stages"]
    names = list(stages) if stage is None else [stage]
    for way, (prefix, prepare) in _WAYS.items():
        for what in ("data", "."):
            for name in names:
                command = _stage_command(stages[name])
                # Root may write anywhere, whatever the modes say, so a plain write is tried first.
                script = f"touch {what}/probe 2>/dev/null && exit {_WRITABLE}; exec {command}"
                shell = [*prefix, "sh", "-c", f"{prepare(project.folder, what)}{script}"]
                done = _run(project, shell, {"HOME": str(home)})
                if done.returncode == _WRITABLE:
                    raise SystemExit(f"{project.folder / what}, {way}: can be written on this machine")
                problems = untidy(done.stdout)
                if done.returncode == 0:
                    problems.append("ended as if all were well")
                elif "error: " not in done.stdout:
                    problems.append(f"no sentence: {done.stdout[-300:]}")
                changed = reference.differences(project.folder)
                outcome = judge(changed) if changed else judge(problems, Outcome.UNCLEAR)
                where = "`data`" if what == "data" else "the whole project"
                yield Trial(READ_ONLY_PART, f"{where}, {way}, stage `{name}`", *outcome)


def _stage_command(description: Mapping[str, str]) -> str:
    """The command of a stage of ``dvc.yaml``, for the only model and fold."""
    return description["cmd"].replace("${item.model}", "unet").replace("${item.fold}", "0")


def _run(
    project: Project, command: Sequence[str], environment: Mapping[str, str] = MappingProxyType({})
) -> "subprocess.CompletedProcess[str]":
    """Run a command in the project; all that it prints is in ``stdout``."""
    return subprocess.run(
        command, cwd=project.folder, env={**project.environment, **environment}, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, check=False, timeout=600,
    )  # fmt: skip


def _says_full(printed: str) -> bool:
    return any(words in printed for words in ("there is no room for it", "No space left", "disk is full"))


def _mount(project: Path, what: str) -> str:
    folder = shlex.quote(str((project / what).resolve()))
    here = shlex.quote(str(project))  # entered again, to be inside the mount
    return f"mount --bind {folder} {folder} && mount -o remount,bind,ro {folder} && cd {here} && "


def _give_away(project: Path, what: str) -> str:
    """Make ``what`` root's and the rest the other user's."""
    subprocess.run(["chown", "-R", str(_NOBODY), str(project)], check=True)
    subprocess.run(["chown", "-R", "0", str(project / what)], check=True)
    return ""


_WAYS: dict[str, tuple[Sequence[str], Callable[[Path, str], str]]] = {
    "read-only": (("unshare", "--mount"), _mount),
    "of another user": (
        # Programs may lie below root's home, so this user reads everything, and writes what is its own.
        (
            "setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups",
            "--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search",
        ),
        _give_away,
    ),
}  # fmt: skip
"""How a folder is forbidden: with which programs the stage is started, and what is done before."""


def _resize(disk: Path, size: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
