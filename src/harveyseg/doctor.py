"""This machine and workspace in a few lines, and what of them will hurt, with its remedy: ``harveyseg doctor``.

Every check is a function that only looks, and returns what it found. The pipeline's own stages stop with the same
remedies; here they are known before hours have passed.
"""

import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import psutil  # type: ignore[import-untyped]

from harveyseg.config.preset import read_preset
from harveyseg.config.settings import listed_models, load
from harveyseg.data.demo import DemoParams
from harveyseg.data.manifest import read_manifest
from harveyseg.data.photo_files import PHOTO_KINDS
from harveyseg.device import compute_environment, resolve_device, resolve_precision
from harveyseg.device_names import PrecisionName
from harveyseg.errors import HarveysegError, counted
from harveyseg.pipeline.inputs import copying_problem, missing_problem, spelling_problem
from harveyseg.project import git_output, git_problem
from harveyseg.tracking.client import inspect_tracker, tracking_uri
from harveyseg.tracking.faults import public_address

SHARED_MEMORY = Path("/dev/shm")

_MIB = 2**20
_LITTLE_SPACE = 200 * _MIB
"""Below this the demo does not fit: 60 MB of data, the same again in DVC's cache, and MLflow's copies."""
_SOME_SPACE = 5 * 1024 * _MIB
_BATCHES_PER_WORKER = 2
"""torch's ``prefetch_factor``: batches that each worker keeps ready."""
_BYTES_PER_PIXEL = 3 + 1
"""A sample, see :data:`harveyseg.training.dataset.Batch`: three channels and class ids, in uint8."""
_BYTES_PER_UNLABELLED_PIXEL = 2 * 3
"""Two views of a sample for self-training, whose loader has workers of its own."""
_OLD_LOCK_SECONDS = 60
_GIB = 2**30
_LITTLE_MEMORY = 2 * _GIB
"""Below this it is a question of luck whether a training with large batches goes on."""
_LONG = 20
"""So many times the pixels of the demo's trainings, which take a few minutes on two cores, are long without a GPU."""
_DEMO_PHOTOS = DemoParams().train
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Finding:
    """Something that will hurt."""

    text: str
    """What it is and what it does, without a full stop."""
    remedy: str
    fails: bool = True
    """Whether something will fail; else it is slow, or misleading."""
    slow: bool = False

    def __str__(self) -> str:
        """One line."""
        return f"{'fails' if self.fails else 'slow' if self.slow else 'note'}: {self.text}. {self.remedy}."


def examine(root: Path) -> list[Finding]:
    """Make all checks.

    Args:
        root: the project's root.

    Raises:
        HarveysegError: when there is no params.yaml, or it is not YAML.
    """
    params = load(root / "params.yaml")
    return [
        *check_programs(root, os.environ),
        *check_git(root),
        *check_data_path(root, params),
        *check_leftovers(root),
        *check_disk(root),
        *check_memory(root),
        *check_shared_memory(params),
        *check_precision(params),
        *check_speed(root, params),
        *check_locks(root),
        *check_mlflow(root),
    ]


def describe(root: Path) -> list[str]:
    """Programs, machine and disk in one line each.

    Args:
        root: the project's root.
    """
    device = resolve_device("auto")
    gpu = "no GPU"
    if device.type == "cuda":
        gpu = compute_environment(device)["device_name"]
    precision = "computes in bf16" if resolve_precision("auto", device) == "bf16" else "no bf16"
    memory = f"{psutil.virtual_memory().total / _GIB:.1f} GiB of memory ({free_memory() / _GIB:.1f} free)"
    git = (git_output(root, "--version") or "no git").replace("git version", "git").strip()
    libraries = f"DVC {version('dvc')}, MLflow {version('mlflow')}, torch {version('torch')}"
    return [
        f"programs:  Python {platform.python_version()}, {git}, {libraries}",
        f"MLflow at: {public_address(tracking_uri(root))}",
        f"machine:   {_cores()} cores, {memory}, {gpu}, {precision}",
        f"disk:      {shutil.disk_usage(root).free / _GIB:.1f} GiB free at {root}",
    ]


def check_programs(root: Path, environment: Mapping[str, str]) -> list[Finding]:
    """Whether ``dvc`` and the Python of the stages belong to the environment that runs this."""
    here = Path(sys.executable).parent
    findings = []
    dvc = shutil.which("dvc", path=environment.get("PATH", ""))
    if dvc is None:
        remedy = f"Activate the environment, or call {here / 'dvc'}"
        findings.append(Finding("`dvc` is not on the PATH", remedy, fails=not (here / "dvc").exists()))
    elif Path(dvc).parent.resolve() != here.resolve():
        findings.append(
            Finding(f"`dvc` is {dvc}, of another environment than this one", f"Activate {here.parent}", fails=False)
        )
    python = _stage_python(root, environment, here if dvc is None else Path(dvc).parent)
    if python is None:
        findings.append(Finding("no Python for the stages is on the PATH", f"Activate {here.parent}"))
    elif python.parent.resolve() != here.resolve():
        code = "import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, ('torch', 'mlflow', 'dvc'))))"
        complete = subprocess.run([python, "-c", code], capture_output=True, check=False).returncode == 0
        lacks = "another environment than this one" if complete else "which lacks the project's packages"
        findings.append(Finding(f"stages run with {python}, {lacks}", f"Activate {here.parent}", fails=not complete))
    return findings


def check_git(root: Path) -> list[Finding]:
    """Whether DVC finds its own folder and a git repository that git lets it read."""
    findings = []
    if not (root / ".dvc" / "config").exists():
        findings.append(Finding(f"{root} is not a DVC project", "Run `dvc init` there"))
    settings = [path.read_text(encoding="utf-8") for path in (root / ".dvc").glob("config*") if path.is_file()]
    without_git = any("no_scm = true" in text.lower() for text in settings)
    top = git_output(root, "rev-parse", "--show-toplevel")
    if (problem := git_problem(root)) and not without_git:
        cause, remedy = problem
        findings.append(Finding(cause, f"{remedy}. `dvc repro` alone also works after `dvc config core.no_scm true`"))
    elif top is not None and without_git:
        remedy = "Remove no_scm from .dvc/config and .dvc/config.local"
        findings.append(Finding("DVC is told to do without git, and `dvc exp` needs it", remedy, fails=False))
    elif top is not None and Path(top.strip()).resolve() != root.resolve():
        findings.append(
            Finding(
                f"the git repository begins above this project, at {top.strip()}",
                "Commits and experiments there hold more than this project; a repository of its own avoids that",
                fails=False,
            )
        )
    return findings


def check_data_path(root: Path, params: Mapping[str, Any]) -> list[Finding]:
    """Whether what DVC watches, ``data.path`` and ``data.inputs``, is there, and holds photos where it has to."""
    data = params.get("data")
    if not isinstance(data, dict):
        return []
    findings = [
        *_check_watched(root, "path", data.get("path")),
        *_check_watched(root, "inputs", data.get("inputs")),
    ]
    if any(finding.fails for finding in findings) or data.get("source") != "directory" or data.get("url"):
        return findings
    path = str(data["path"])
    photos = (file for file in (root / path).rglob("*") if file.suffix.lower() in PHOTO_KINDS)
    if next(photos, None) is None:
        findings.append(Finding(f"data.path = {path!r}: holds no photos", "Correct data.path in params.yaml"))
    return findings


def check_leftovers(root: Path) -> list[Finding]:
    """What killed processes and models that are no longer listed have left."""
    findings = []
    hidden = sorted(path for path in (root / "data").rglob(".*") if path.name not in (".gitignore", ".gitkeep"))
    if hidden:
        findings.append(_leftover(f"{len(hidden)} hidden files or folders in data/", hidden))
    try:
        models, folds = listed_models(root / "params.yaml")
    except HarveysegError:
        return findings
    listed = {f"{model}-{fold}" for model in models for fold in folds}
    for folder in (root / "data" / "models", root / "data" / "predictions"):
        unlisted = sorted(path for path in _folders(folder) if path.name not in listed)
        if unlisted:
            what = (
                f"data/{folder.name} holds {', '.join(path.name for path in unlisted)}, which params.yaml does not list"
            )
            findings.append(_leftover(what, unlisted))
    cache = root / ".dvc" / "cache"
    if copies := [path for path in cache.rglob(".*.tmp") if path.is_file()]:
        size = sum(path.stat().st_size for path in copies)
        what = f"DVC left {len(copies)} unfinished copies in its cache, {size / _MIB:,.0f} MiB, and never deletes them"
        remedy = f"If no dvc runs: `find {shlex.quote(str(cache))} -name '.*.tmp' -delete`"
        findings.append(Finding(what, remedy, fails=False))
    checkpoints = sorted(_folders(root / ".checkpoints"))
    if checkpoints:
        size = sum(file.stat().st_size for folder in checkpoints for file in folder.rglob("*") if file.is_file())
        runs = f"{counted(len(checkpoints), 'training run')}, unfinished or not evaluated yet"
        what = f"checkpoints of {runs}, take {size / _MIB:,.0f} MiB"
        findings.append(Finding(what, "If no stage runs and none is needed: `rm -r .checkpoints`", fails=False))
    return findings


def check_disk(root: Path) -> list[Finding]:
    """Free space on the project's disk, where data, cache, checkpoints and MLflow's files are unless set elsewhere."""
    free = shutil.disk_usage(root).free
    if free >= _SOME_SPACE:
        return []
    remedy = "Make room: `dvc gc --workspace` deletes cached results that the workspace does not use"
    return [Finding(f"{free / _MIB:,.0f} MiB are free on the disk of {root}", remedy, fails=free < _LITTLE_SPACE)]


def check_memory(root: Path) -> list[Finding]:
    """Whether there is memory for a training, and for the cached photos, which are read in every epoch."""
    free = free_memory()
    cached = sum(path.stat().st_size for path in (root / "data" / "cache").glob("*/*.npy"))
    if free < _LITTLE_MEMORY:
        what = f"{free / _MIB:,.0f} MiB of memory are free, and the system may end a training that needs more"
        return [Finding(what, "End other programs, raise train.accumulate, or lower train.batch_size", fails=False)]
    if cached > free:
        what = f"data/cache has {cached / _MIB:,.0f} MiB and {free / _MIB:,.0f} MiB of memory are free"
        what += ", so each epoch reads the photos from the disk"
        return [Finding(what, "Use a machine with more memory, or lower resize-cache.size", fails=False, slow=True)]
    return []


def free_memory() -> int:
    """Bytes that this process and its children may still take, also in a container."""
    free = int(psutil.virtual_memory().available)
    try:
        limit, used = ((_CGROUP / f"memory.{name}").read_text().strip() for name in ("max", "current"))
        return min(free, int(limit) - int(used))
    except (OSError, ValueError):  # no container, or "max": no limit
        return free


def check_speed(root: Path, params: Mapping[str, Any]) -> list[Finding]:
    """Whether the trainings are long without a GPU, and use the cores that there are."""
    train = params.get("train")
    if not isinstance(train, dict):
        return []
    findings = []
    threads, cores = train.get("threads"), _cores()
    uses_gpu = train.get("device") != "cpu" and resolve_device("auto").type == "cuda"
    if isinstance(threads, int) and not uses_gpu and (threads > cores or 2 * threads <= cores):
        remedy = f"Set train.threads to {cores}; another number of threads gives other weights"
        findings.append(Finding(f"train.threads = {threads} on {cores} cores", remedy, fails=False, slow=True))
    photos = _training_photos(root, params)
    if uses_gpu or photos is None:
        return findings
    demo = read_preset("demo")
    try:
        ratio = training_pixels(params, photos) / training_pixels(demo, _DEMO_PHOTOS)
    except (AttributeError, KeyError, TypeError, ZeroDivisionError):
        return findings  # the stage `code` says what is wrong with the settings
    if ratio > _LONG:
        what = f"without a GPU: the trainings in params.yaml go through {ratio:.0f} times as many pixels as the demo's"
        remedy = "Use a machine with CUDA, or lower train.epochs, resize-cache.size, or the number of models and folds"
        findings.append(Finding(what, remedy, fails=False, slow=True))
    return findings


def training_pixels(params: Mapping[str, Any], photos: int) -> float:
    """How many pixels all trainings of these settings go through, in all epochs.

    Args:
        params: the content of params.yaml or of a preset.
        photos: training photos, of which each training leaves out a fold.
    """
    size = params["resize-cache"]["size"]
    height, width = size if isinstance(size, list) else (size, size)
    samples = photos * (1 - 1 / params["split"]["folds"]) * len(params["folds"])
    total = 0.0
    for model in params["models"].values():
        own = model.get("train") or {}
        train = {**params["train"], **own}
        crop = {**params["train"]["augmentation"], **(own.get("augmentation") or {})}["crop"]
        crops = {**params["train"]["sampling"], **(own.get("sampling") or {})}["crops_per_photo"]
        total += samples * train["epochs"] * crops * (crop**2 if crop else height * width)
    return total


def _training_photos(root: Path, params: Mapping[str, Any]) -> int | None:
    """How many training photos there are; None where that is not known yet."""
    try:
        return int((read_manifest(root / "data" / "raw" / "manifest.csv")["part"] == "train").sum())
    except HarveysegError:
        data = params.get("data")
        demo = isinstance(data, dict) and data.get("source") == "demo" and data.get("demo")
        photos = demo.get("train") if isinstance(demo, dict) else None
        return photos if isinstance(photos, int) else None


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_shared_memory(params: Mapping[str, Any]) -> list[Finding]:
    """Whether the batches that ``train.workers`` keep ready fit into shared memory."""
    train = params.get("train")
    if not isinstance(train, dict) or not SHARED_MEMORY.is_dir():
        return []
    augmentation = train.get("augmentation")
    crop = augmentation.get("crop") if isinstance(augmentation, dict) else None
    size = crop or (params.get("resize-cache") or {}).get("size")
    height, width = size if isinstance(size, list) else (size, size)
    values = (train.get("workers"), train.get("batch_size"), height, width)
    numbers = [value for value in values if isinstance(value, int)]
    if len(numbers) < len(values):
        return []  # the stage `code` says what is wrong with them
    workers, batch_size, height, width = numbers
    bytes_per_pixel = _BYTES_PER_PIXEL + (_BYTES_PER_UNLABELLED_PIXEL if train.get("self_training") else 0)
    needed = workers * _BATCHES_PER_WORKER * batch_size * height * width * bytes_per_pixel
    free = shutil.disk_usage(SHARED_MEMORY).free
    if needed <= free:
        return []
    return [
        Finding(
            f"{SHARED_MEMORY} has {free / _MIB:,.0f} MiB, and the batches of {workers} workers take "
            f"{needed / _MIB:,.0f} MiB: they would die of a bus error",
            "Set train.workers to 0, or start the container with a larger --shm-size",
        )
    ]


def check_precision(params: Mapping[str, Any]) -> list[Finding]:
    """Whether this machine has the device and the precision of the training, and computes with bfloat16."""
    train = params.get("train")
    if not isinstance(train, dict) or train.get("precision") not in get_args(PrecisionName):
        return []  # the stage `code` says what is wrong with them
    name: PrecisionName = train["precision"]
    try:
        device = resolve_device(train.get("device", "auto"))
        resolve_precision(name, device)
    except HarveysegError as error:
        cause, _, remedy = str(error).rstrip(".").rpartition(". ")
        return [Finding(f"train.{cause}", remedy)]
    if device.type != "cpu" or name not in ("auto", "bf16") or resolve_precision("auto", device) == "bf16":
        return []
    if name == "bf16":
        remedy = "Set train.precision to auto or fp32"
        return [Finding("this CPU emulates bf16, which is slow", remedy, fails=False, slow=True)]
    return [
        Finding(
            "this CPU has no bf16, so weights differ from those of machines that have it",
            "Set train.precision to fp32 on all of them if that matters",
            fails=False,
        )
    ]


def check_locks(root: Path) -> list[Finding]:
    """Locks of git and DVC that a killed process has left. This project's own end with their process."""
    findings = []
    index = root / ".git" / "index.lock"
    if index.exists() and time.time() - index.stat().st_mtime > _OLD_LOCK_SECONDS:
        findings.append(Finding(f"{index} is left by a killed git", f"If no git runs: `rm {shlex.quote(str(index))}`"))
    readers = root / ".dvc" / "tmp" / "rwlock"
    if readers.exists():
        try:
            json.loads(readers.read_text(encoding="utf-8"))
        except ValueError:
            remedy = f"If no dvc runs: `rm {shlex.quote(str(readers))}`"
            findings.append(Finding(f"{readers} is damaged, and DVC stops at it", remedy))
    return findings


def check_mlflow(root: Path) -> list[Finding]:
    """Whether a server of MLflow answers, or an SQLite database is of this MLflow's version."""
    fault = inspect_tracker(root)
    return [] if fault is None else [Finding(*fault)]


def _check_watched(root: Path, key: str, value: object) -> list[Finding]:
    """Whether a path that DVC watches exists, as DVC reads it, also in a copy of the project."""
    path = str(value or "")
    if problem := spelling_problem(key, path) or missing_problem(key, path, root):
        return [Finding(*problem)]
    problem = copying_problem(key, path, root)
    return [] if problem is None else [Finding(*problem, fails=False)]


def _stage_python(root: Path, environment: Mapping[str, str], programs: Path) -> Path | None:
    """The Python that ``stages/run`` chooses if ``programs`` holds the dvc that runs."""
    for name in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        if (active := environment.get(name)) and os.access(Path(active) / "bin" / "harveyseg", os.X_OK):
            return Path(active) / "bin" / "python"
    if os.access(own := root / ".venv" / "bin" / "python", os.X_OK):
        return own
    if os.access(programs / "harveyseg", os.X_OK):
        return programs / "python"
    found = shutil.which("python", path=environment.get("PATH", ""))
    return None if found is None else Path(found)


def _leftover(what: str, paths: list[Path]) -> Finding:
    command = shlex.join(["rm", "-r", *map(str, paths[:5])])
    more = "" if len(paths) <= 5 else f" and {len(paths) - 5} more"
    return Finding(what, f"If no stage runs: `{command}`{more}", fails=False)


def _folders(parent: Path) -> Iterator[Path]:
    return (path for path in parent.glob("*") if path.is_dir() and not path.name.startswith("."))
