"""Where the data come from: ``data.source`` names a function that provides a folder in the Kaggle layout."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from pydantic import Field

from harveyseg.files import sha256, write_json
from harveyseg.manifest import verify, write_manifest
from harveyseg.scenes import DemoParams
from harveyseg.settings import Section
from harveyseg.sources import demo, directory, kaggle
from harveyseg.sources.kaggle import KaggleParams
from harveyseg.sources.provided import Provided


class DataParams(Section):
    """The section ``data``."""

    source: Literal["demo", "directory", "kaggle"]
    """Always explicit: no source ever stands in for another."""
    path: str = ""
    """For ``directory``: a folder in the Kaggle layout; relative paths are below the project's root."""
    kaggle: KaggleParams = Field(default_factory=KaggleParams)
    """For ``kaggle``: which competition; `harveyseg upload` hands in to the same."""
    demo: DemoParams = Field(default_factory=DemoParams)
    """For ``demo``: what is drawn."""


SOURCES: Mapping[str, Callable[[DataParams, Path, Path], Provided]] = {
    "demo": lambda params, root, scratch: demo.provide(params.demo, scratch),
    "directory": lambda params, root, scratch: directory.provide(params.path, root),
    "kaggle": lambda params, root, scratch: kaggle.provide(params.kaggle, root, scratch),
}
"""By the value of ``data.source``; each is called with the settings, the project's root and an empty folder to fill."""


def gather(params: DataParams, root: Path, raw: Path) -> None:
    """Verify the data of a source and put them into ``data/raw``: flat folders, ``manifest.csv`` and ``source.json``.

    ``raw`` appears only when all is there; an older one is replaced, and stays as it is when anything fails.

    Args:
        params: the section ``data``.
        root: the project's root, which a relative ``data.path`` is below.
        raw: the folder to make.

    Raises:
        HarveysegError: lists everything that is wrong with the photos and masks.
    """
    with _replacing(raw) as building, tempfile.TemporaryDirectory(dir=raw.parent, prefix=".source-") as scratch:
        provided = SOURCES[params.source](params, root, Path(scratch))
        pairs, manifest = verify(provided.folder)
        for pair, image, mask in zip(pairs, manifest["image"], manifest["mask"], strict=True):
            _copy(pair.image, building / image)
            if pair.mask is not None:
                _copy(pair.mask, building / mask)
        write_manifest(building / "manifest.csv", manifest)
        source = {
            "source": params.source,
            "detail": dict(provided.detail),
            "hash": sha256(building / "manifest.csv"),
        }
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


def _copy(source: Path, target: Path) -> None:
    """Copy a file's bytes alone: the mode of a read-only original would make ``data/raw`` hard to replace."""
    target.parent.mkdir(exist_ok=True)
    shutil.copyfile(source, target)


@contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """Yield a new folder beside ``folder`` that takes its place on success and vanishes on failure."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        building = Path(temporary) / "new"
        building.mkdir()
        yield building
        if folder.exists():
            folder.rename(Path(temporary) / "old")
        building.rename(folder)
