"""Where the data come from: ``data.source`` names a function that provides a folder in the Kaggle layout."""

import logging
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import pandas as pd
from pydantic import Field, PositiveFloat, ValidationInfo, field_validator

from harveyseg.classes import HARVEY25, other_edition
from harveyseg.config.settings import Section
from harveyseg.data.class_lists import CLASSES_FILE, load_classes, store_classes
from harveyseg.data.demo import DemoParams
from harveyseg.data.manifest import read_manifest, read_mask_of, verify_photos, write_manifest, write_skipped
from harveyseg.data.pairs import Pair, Problem
from harveyseg.data.sources.demo import provide_demo
from harveyseg.data.sources.directory import DirectoryParams, provide_directory
from harveyseg.data.sources.figshare import FigshareParams, provide_figshare
from harveyseg.data.sources.hold_out import hold_out_test_part
from harveyseg.data.sources.kaggle import KaggleParams, provide_kaggle
from harveyseg.data.sources.source_data import SourceData
from harveyseg.data.split import OVERLAPS_FILE, write_overlaps
from harveyseg.errors import HarveysegError, shortened
from harveyseg.files import locked, replacing, sha256, write_json
from harveyseg.progress import track

logger = logging.getLogger(__name__)


class DataParams(Section):
    """The section ``data``."""

    source: Literal["demo", "directory", "kaggle", "figshare"]
    """Where the photos come from. Always explicit: no source ever replaces another."""
    path: str = ""
    """For ``directory``: a folder in the Kaggle layout; relative paths start at the project's root. DVC watches it
    whatever the source is, and takes it literally, without ``~`` or variables."""
    inputs: str = "data/README.md"
    """A file or folder that DVC watches and that must exist. The CSV file of ``split.groups`` and local weights files
    of ``train.encoder_weights`` must be it or be inside it; relative paths start at the project's root."""
    url: str = ""
    """For ``directory``: a folder in cloud storage instead, e.g. ``s3://bucket/folder``. For ``figshare``: the DOI of
    another article or of a record of Zenodo (or its page's address), or the address of an archive."""
    on_bad: Literal["error", "skip"] = "error"
    """What to do with photos and masks that cannot be used: stop and list them, or leave them out."""
    classes: str = HARVEY25.name
    """What the masks hold: ``harvey25``, ``harvey26``, ``floodnet10``, ``rescuenet``, ``rescuenet12``, or the path of a
    YAML file with ids, names and colours (docs/classes.md); a relative path starts at the project's root."""
    score_size: int | None = Field(default=1024, ge=16, le=8192)
    """Height and width in pixels at which masks are scored and submitted; null: the masks' own size, which must be one
    for all."""
    ground: tuple[PositiveFloat, PositiveFloat] | None = None
    """Height and width in metres of the ground that one photo shows, for the scale of `harveyseg predict`; null: from
    the flight heights in the photos, or what is known of the source."""
    directory: DirectoryParams = Field(default_factory=DirectoryParams)
    """For ``directory``: which photos are held out as the test part where the folder has none."""
    kaggle: KaggleParams = Field(default_factory=KaggleParams)
    """For ``kaggle``: which competition. `harveyseg upload` submits to the same one."""
    figshare: FigshareParams = Field(default_factory=FigshareParams)
    """For ``figshare``: which articles, and which photos are held out as the test part."""
    demo: DemoParams = Field(default_factory=DemoParams)
    """For ``demo``: number and size of the photos."""

    @field_validator("url")
    @classmethod
    def _check_url(cls, value: str) -> str:
        try:
            urlsplit(value)
        except ValueError as error:
            raise ValueError(f"not a valid address ({error})") from None
        return value.strip()

    @field_validator("classes", mode="plain")
    @classmethod
    def _check_classes(cls, value: Any, info: ValidationInfo) -> str:
        if not isinstance(value, str):
            raise ValueError(
                "must be the name of a list of classes, or a YAML file of one. Where it was null, write "
                f"{HARVEY25.name}; colours of masks now stand in the file (docs/classes.md)"
            )
        if info.data.get("source") == "demo" and value != HARVEY25.name:
            raise ValueError(f"the source demo draws the classes of {HARVEY25.name}; set it to that")
        return value


SOURCES: Mapping[str, Callable[[DataParams, Path, Path], SourceData]] = {
    "demo": lambda params, root, scratch: provide_demo(params.demo, scratch),
    "directory": lambda params, root, scratch: provide_directory(
        params.directory, params.path, params.url, root, scratch
    ),
    "kaggle": lambda params, root, scratch: provide_kaggle(params.kaggle, root, scratch),
    "figshare": lambda params, root, scratch: provide_figshare(params.figshare, params.url, root, scratch),
}
"""By the value of ``data.source``; each gets the settings, the project's root and an empty folder to fill."""

SOURCE_GROUNDS: Mapping[str, tuple[float, float]] = {
    "demo": (85.0, 64.0),
    "figshare": (80.0, 60.0),
    "kaggle": (80.0, 60.0),
}
"""(height, width) in metres of the ground that a photo shows; all are upright. The real ones are estimated: FloodNet's
camera, with a lens equivalent to 26 mm, flew at about 60 m."""


_OWN_FILES = ("manifest.csv", OVERLAPS_FILE, "skipped.csv", "source.json", CLASSES_FILE)
_SHOWN_FILES = 5


def download_source(params: DataParams, root: Path, raw: Path) -> None:
    """Verify the data of a source and put them into ``data/raw``: flat folders, and what is known of them.

    That is ``manifest.csv``, ``classes.json`` and ``source.json``. A source that knows which photos show the same
    ground adds ``overlaps.csv``.

    Files keep their bytes, and photos their format (as .jpg, .png or .tif); only masks that are not an 8-bit grey PNG
    of class ids are rewritten as one. Files that ``data.on_bad: skip`` leaves out are logged and listed in
    ``skipped.csv``.

    ``raw`` is replaced only when everything is complete, and never while a user's own files are in it. Two processes
    that fill it wait for each other.

    Args:
        params: the section ``data``.
        root: the project's root, at which a relative ``data.path`` starts.
        raw: the folder to make.

    Raises:
        HarveysegError: lists everything that is wrong with the photos and masks; or when there is not enough disk
            space, a folder cannot be written, or ``raw`` holds files of the user's.
    """
    with (
        _explain_os_errors(raw),
        _exclusive(root, raw),
        tempfile.TemporaryDirectory(dir=raw.parent, prefix=".source-") as scratch,
    ):
        classes = load_classes(params.classes, root)
        data = SOURCES[params.source](params, root, Path(scratch))
        name = data.name or f"data.source = {params.source}"
        skip = params.on_bad == "skip"
        verified = verify_photos(data.folder, classes, skip=skip, name=name, needs_test=data.needs_test)
        if params.source == "directory" and (said := other_edition(classes, verified.ids)):
            logger.info("data.classes = %s: %s; docs/classes.md says how to tell", params.classes, said)
        overlaps = data.overlaps
        if data.hold_out is not None:
            verified, overlaps = hold_out_test_part(verified, data.hold_out, name)
        if all(pair.part == "train" for pair in verified.pairs):
            logger.warning(
                "%s has no folder test_images, so there will be no submission and no test score; "
                "data.directory.test_share = 0.2 would hold out a fifth of the photos as the test part",
                name,
            )
        _check_room(verified.pairs, raw)
        with replacing(raw) as building:
            files = zip(verified.pairs, verified.manifest.to_dict("records"), strict=True)
            for pair, row in track(files, "copying photos", len(verified.pairs)):
                _copy(pair.image, building / row["image"])
                if pair.mask is not None:
                    _copy(pair.mask, building / row["mask"])
                    if sha256(pair.mask) != row["mask_sha256"]:  # not a grey PNG of class ids, or turned
                        mask = read_mask_of(pair.image, pair.mask, classes, (row["width"], row["height"]))
                        (building / row["mask"]).write_bytes(mask.stored)
            write_manifest(building / "manifest.csv", verified.manifest)
            store_classes(building, classes)
            if overlaps is not None:
                write_overlaps(building / OVERLAPS_FILE, overlaps)
            source: dict[str, Any] = {
                "source": params.source,
                "detail": dict(data.detail),
                "hash": sha256(building / "manifest.csv"),
                "score_size": _score_size(verified.manifest, params.score_size),
            }
            if verified.skipped:
                source["skipped"] = _log_skipped(verified.skipped)
                write_skipped(building / "skipped.csv", verified.skipped)
            write_json(building / "source.json", source)
            _refuse_users_files(raw, building)


def _score_size(manifest: pd.DataFrame, setting: int | None) -> list[int]:
    """[height, width] at which masks are scored."""
    if setting is not None:
        return [setting, setting]
    sizes = Counter(zip(manifest["height"].tolist(), manifest["width"].tolist(), strict=True))
    if len(sizes) > 1:
        found = ", ".join(f"{width}x{height} ({count} photos)" for (height, width), count in sorted(sizes.items()))
        raise HarveysegError(
            f"data.score_size: null stands for the masks' own size, but there are {len(sizes)}: {found}. Set it to a "
            "number of pixels, such as 1024."
        )
    ((height, width),) = sizes
    return [height, width]


def _refuse_users_files(raw: Path, new: Path) -> None:
    """Stop if ``raw`` holds files that this package did not write, or that were edited, and that ``new`` lacks."""
    try:
        manifest = read_manifest(raw / "manifest.csv")
    except HarveysegError:  # none, or damaged
        written = {}
    else:
        written = dict(zip(manifest["image"], manifest["image_sha256"], strict=True))
        written |= dict(zip(manifest["mask"], manifest["mask_sha256"], strict=True))
    lost = []
    for path in sorted(raw.rglob("*")):
        name = path.relative_to(raw)
        if not path.is_file() or str(name) in _OWN_FILES or any(part.startswith(".") for part in name.parts):
            continue
        known = {written.get(name.as_posix()), sha256(new / name) if (new / name).is_file() else None}
        if sha256(path) not in known:
            lost.append(str(name))
    if lost:
        shown = ", ".join(lost[:_SHOWN_FILES]) + (f", ... ({len(lost)} files)" if len(lost) > _SHOWN_FILES else "")
        raise HarveysegError(
            f"{raw} holds what its stage, `download`, did not write and would replace: {shown}. Move it to a folder of "
            "yours, e.g. photos/train_images, and set data.source to directory and data.path to photos; then run `dvc "
            "repro` again."
        )


def _log_skipped(skipped: Sequence[Problem]) -> int:
    """Log what was left out; returns the number of bad files."""
    bad = len({problem.file for problem in skipped})
    for line in shortened([str(problem) for problem in skipped]):
        logger.warning("left out: %s", line)
    logger.warning("%d bad files left out (data.on_bad = skip), see skipped.csv in data/raw", bad)
    tests = {problem.pair for problem in skipped if problem.pair is not None and problem.pair[0] == "test"}
    if tests:
        logger.warning("of them %d test photos, so the submission lacks their rows", len(tests))
    return bad


def _check_room(pairs: Sequence[Pair], raw: Path) -> None:
    needed = sum(path.stat().st_size for pair in pairs for path in (pair.image, pair.mask) if path is not None)
    free = shutil.disk_usage(raw.parent).free
    if needed > free:
        raise HarveysegError(
            f"{raw}: the photos and masks take {needed:,} bytes, and only {free:,} are free there. Free some disk "
            "space, then run `dvc repro download` again."
        )


@contextmanager
def _explain_os_errors(raw: Path) -> Iterator[None]:
    """Translate errors of the file system, wherever they occur: any writer can meet a full disk."""
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
            f"are free next to {raw}). Free some disk space or fix the folder's permissions, then run `dvc repro "
            "download` again."
        ) from None


@contextmanager
def _exclusive(root: Path, raw: Path) -> Iterator[None]:
    """Wait until no other process downloads, and delete what killed ones have left."""
    raw.parent.mkdir(parents=True, exist_ok=True)
    with locked(root / ".locks" / "download.lock"):
        for pattern in (f".{raw.name}-*", ".source-*"):
            for leftover in raw.parent.glob(pattern):
                shutil.rmtree(leftover, ignore_errors=True)
        yield


def _copy(source: Path, target: Path) -> None:
    """Copy the bytes without the mode: read-only files would make ``data/raw`` hard to replace."""
    target.parent.mkdir(exist_ok=True)
    shutil.copyfile(source, target)
