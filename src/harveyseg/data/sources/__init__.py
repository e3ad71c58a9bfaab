"""Where the data come from: ``data.source`` names a function that provides a folder in the Kaggle layout."""

import fcntl
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from harveyseg.config.settings import Section
from harveyseg.data.demo import DemoParams
from harveyseg.data.manifest import Pair, Problem, verify, write_manifest, write_skipped
from harveyseg.data.masks import parse_colours, read_mask
from harveyseg.data.sources import demo, directory, figshare, kaggle
from harveyseg.data.sources.figshare import FigshareParams
from harveyseg.data.sources.kaggle import KaggleParams
from harveyseg.data.sources.provided import Provided
from harveyseg.errors import HarveysegError
from harveyseg.files import sha256, write_json


class DataParams(Section):
    """The section ``data``."""

    source: Literal["demo", "directory", "kaggle", "figshare"]
    """Always explicit: no source ever stands in for another."""
    path: str = ""
    """For ``directory``: a folder in the Kaggle layout; relative paths are below the project's root."""
    url: str = ""
    """For ``directory``: a folder in cloud storage instead, e.g. ``s3://bucket/folder``. For ``figshare``: the DOI of
    another article or of a record of Zenodo (or its page's address), or the address of an archive."""
    on_bad: Literal["error", "skip"] = "error"
    """What to do with photos and masks that cannot be used: stop and list them, or leave them out."""
    classes: dict[int, str] | None = None
    """Class id -> colour in the masks, ``"#rrggbb"``; null: values and palette indices are class ids."""
    kaggle: KaggleParams = Field(default_factory=KaggleParams)
    """For ``kaggle``: which competition; `harveyseg upload` hands in to the same."""
    figshare: FigshareParams = Field(default_factory=FigshareParams)
    """For ``figshare``: which articles, and what is held out as the test part."""
    demo: DemoParams = Field(default_factory=DemoParams)
    """For ``demo``: what is drawn."""

    @field_validator("url")
    @classmethod
    def _check_url(cls, value: str) -> str:
        try:
            urlsplit(value)
        except ValueError as error:
            raise ValueError(f"no valid address ({error})") from None
        return value.strip()

    @field_validator("classes", mode="plain")
    @classmethod
    def _check_classes(cls, value: Any) -> dict[int, str] | None:
        return None if value is None else parse_colours(value)


SOURCES: Mapping[str, Callable[[DataParams, Path, Path], Provided]] = {
    "demo": lambda params, root, scratch: demo.provide(params.demo, scratch),
    "directory": lambda params, root, scratch: directory.provide(params.path, params.url, root, scratch),
    "kaggle": lambda params, root, scratch: kaggle.provide(params.kaggle, root, scratch),
    "figshare": lambda params, root, scratch: figshare.provide(params.figshare, params.url, root, scratch),
}
"""By the value of ``data.source``; each is called with the settings, the project's root and an empty folder to fill."""


def gather(params: DataParams, root: Path, raw: Path) -> None:
    """Verify the data of a source and put them into ``data/raw``: flat folders, ``manifest.csv`` and ``source.json``.

    Files keep their bytes, photos also their format (as .jpg, .png or .tif); only masks that are no 8-bit grey PNG of
    class ids are written anew as one. What ``data.on_bad: skip`` leaves out is told on stderr and in ``skipped.csv``.

    ``raw`` appears only when all is there; an older one is replaced, and stays as it is when anything fails. Two
    processes that fill one folder wait for each other.

    Args:
        params: the section ``data``.
        root: the project's root, which a relative ``data.path`` is below.
        raw: the folder to make.

    Raises:
        HarveysegError: lists everything that is wrong with the photos and masks; or when there is no room for them, or
            a folder cannot be written.
    """
    with (
        _clear_errors(raw),
        _alone(raw.parent, (f".{raw.name}-*", ".source-*")),
        _replacing(raw) as building,
        tempfile.TemporaryDirectory(dir=raw.parent, prefix=".source-") as scratch,
    ):
        provided = SOURCES[params.source](params, root, Path(scratch))
        name = provided.name or f"data.source = {params.source}"
        verified = verify(provided.folder, colours=params.classes, skip=params.on_bad == "skip", name=name)
        manifest = verified.manifest
        _check_room(verified.pairs, raw)
        for pair, row in zip(verified.pairs, manifest.to_dict("records"), strict=True):
            _copy(pair.image, building / row["image"])
            if pair.mask is not None:
                _copy(pair.mask, building / row["mask"])
                if sha256(pair.mask) != row["mask_sha256"]:  # its class ids were found otherwise than in grey values
                    (building / row["mask"]).write_bytes(read_mask(pair.mask.read_bytes(), params.classes).stored)
        write_manifest(building / "manifest.csv", manifest)
        source: dict[str, Any] = {
            "source": params.source,
            "detail": dict(provided.detail),
            "hash": sha256(building / "manifest.csv"),
        }
        if verified.skipped:
            source["skipped"] = _report(verified.skipped)
            write_skipped(building / "skipped.csv", verified.skipped)
        write_json(building / "source.json", source)


def link_for_experiments(path: str, root: Path) -> None:
    """Let queued and temporary experiments find a ``data.path`` such as ``../photos``, which leads out of the project.

    It is a dep of the stage, and DVC looks for it from the folder in which the experiment runs before any code of ours
    runs: ``.dvc/tmp/exps/<name>`` or ``.dvc/tmp/exps/standalone/<name>``. Links where those paths end lead to the real
    folder. Only places inside ``.dvc/tmp`` are linked; a path that climbs higher has to be absolute.

    Args:
        path: the value of ``data.path``.
        root: the project's root.
    """
    private = root / ".dvc" / "tmp"
    target = Path(os.path.normpath(root / path))
    if Path(path).is_absolute() or target.is_relative_to(root) or not (root / ".dvc").is_dir():
        return
    for folder in (private / "exps", private / "exps" / "standalone"):
        link = Path(os.path.normpath(folder / "experiment" / path))
        if link.is_relative_to(private) and not link.exists():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)  # a link that leads nowhere
            link.symlink_to(target, target_is_directory=True)


def _report(skipped: Sequence[Problem]) -> int:
    """Tell on stderr what was left out; returns how many files were bad."""
    bad = len({problem.file for problem in skipped})
    for problem in skipped:
        print(f"warning: left out: {problem}", file=sys.stderr)
    print(f"warning: {bad} bad files left out (data.on_bad = skip), see skipped.csv in data/raw", file=sys.stderr)
    tests = {problem.pair for problem in skipped if problem.pair is not None and problem.pair[0] == "test"}
    if tests:
        print(f"warning: of them {len(tests)} test photos, so the submission lacks their rows", file=sys.stderr)
    return bad


def _check_room(pairs: Sequence[Pair], raw: Path) -> None:
    needed = sum(path.stat().st_size for pair in pairs for path in (pair.image, pair.mask) if path is not None)
    free = shutil.disk_usage(raw.parent).free
    if needed > free:
        raise HarveysegError(
            f"{raw}: the photos and masks take {needed:,} bytes, and only {free:,} are free there. Make room, then run "
            "`dvc repro download` again."
        )


@contextmanager
def _clear_errors(raw: Path) -> Iterator[None]:
    """Say what the file system's exceptions mean, wherever they come from: a full disk is met by any writer."""
    try:
        yield
    except (FileExistsError, NotADirectoryError) as error:
        raise HarveysegError(
            f"{error.filename}: a file is where a folder has to be ({error.strerror}). Move that file away, then run "
            "`dvc repro download` again."
        ) from None
    except OSError as error:
        if error.errno is None:  # not of the file system
            raise
        free = shutil.disk_usage(raw.parent if raw.parent.exists() else Path.cwd()).free
        raise HarveysegError(
            f"{error.filename2 or error.filename or raw}: cannot be read or written ({error.strerror}; {free:,} bytes "
            f"are free beside {raw}). Make room, or mend the folder's permissions, then run `dvc repro download` again."
        ) from None


@contextmanager
def _alone(folder: Path, leftovers: Sequence[str]) -> Iterator[None]:
    """Wait until no other process fills this folder, and remove what one that was killed has left there.

    The lock is on the folder itself, so no file of it lies beside the data. Where a network's file system knows no such
    lock, nothing is removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
            for path in [path for pattern in leftovers for path in folder.glob(pattern)]:
                shutil.rmtree(path, ignore_errors=True)
        yield
    finally:
        os.close(handle)


def _copy(source: Path, target: Path) -> None:
    """Copy a file's bytes alone: the mode of a read-only original would make ``data/raw`` hard to replace."""
    target.parent.mkdir(exist_ok=True)
    shutil.copyfile(source, target)


@contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """Yield a new folder beside ``folder`` that takes its place on success and vanishes on failure."""
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        building = Path(temporary) / "new"
        building.mkdir()
        yield building
        if folder.exists():
            folder.rename(Path(temporary) / "old")
        building.rename(folder)
