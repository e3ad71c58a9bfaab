"""The files to predict: found in folders and patterns, and checked before the first prediction."""

import glob
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from harveyseg.data.folders import walk_visible
from harveyseg.data.naming import one_form, stem_of
from harveyseg.data.photo_files import IMAGE_ENDINGS, TOO_LARGE, decode_photo_file
from harveyseg.data.sidecars import count_ignored, is_sidecar
from harveyseg.data.tiff_files import TIFF_STARTS
from harveyseg.errors import HarveysegError, first_names, raise_problems
from harveyseg.geo.flight import photo_ground
from harveyseg.geo.ground import Georeference, foreign_projection_data
from harveyseg.geo.mosaic import MosaicOptions, open_mosaic
from harveyseg.prediction.claims import is_product, read_claims

_THREADS = 4
_LONGEST_NAME = 200
"""Bytes; file systems allow 255, and products have longer names than their image."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Input:
    """A file that was checked."""

    path: Path
    name: str
    """How its products' names begin."""
    size: tuple[int, int]
    """(height, width) in pixels."""
    is_tiff: bool
    """Whether it is read in parts; otherwise it is decoded as a whole."""
    georeference: Georeference | None = None
    flight_ground: tuple[float, float] | None = None
    """(height, width) in metres of the ground that a photo shows, by its flight height."""
    turned: bool = False
    """Whether its EXIF orientation asks for turning it."""
    note: str | None = None
    """What the user should know about it."""


@dataclass(frozen=True)
class Candidate:
    """A file that may be a photo or mosaic."""

    path: Path
    name: str


def find_inputs(arguments: Sequence[str], out: Path) -> list[Candidate]:
    """Find the files that arguments name: files, folders with all that is in them, and patterns such as ``a/**/*.jpg``.

    A file that is named itself keeps its name. One found in a folder is named by its path from there, since cameras
    number photos from 1 again in every folder: ``101MEDIA/DJI_0001.JPG`` becomes ``101MEDIA_DJI_0001``.

    Args:
        arguments: as on the command line.
        out: the folder of the products, which is not searched.

    Raises:
        HarveysegError: lists arguments that name nothing, and files that would share a name or be overwritten.
    """
    problems: list[str] = []
    found: dict[Path, Candidate] = {}
    ignored: list[str] = []
    products = _Products()
    for argument in arguments:
        path = Path(argument)
        if path.is_file():
            if products.holds(path):
                problems.append(f"{path}: is not a photo but what was predicted from one")
                continue
            candidates = [Candidate(path, stem_of(path))]
        elif path.is_dir():
            candidates = list(_in_folder(path, products.left_out(sorted(_files_below(path, out))), ignored))
        elif glob.has_magic(argument):
            matches = sorted(Path(match) for match in glob.glob(argument, recursive=True))
            found_files = products.left_out(filter(Path.is_file, matches))
            candidates = list(_in_folder(_fixed_part(argument), found_files, ignored))
        else:
            problems.append(f"{path}: no such file")
            continue
        if not candidates:
            problems.append(f"{argument}: no photos; {', '.join(IMAGE_ENDINGS)} are looked for")
        for candidate in candidates:
            found.setdefault(candidate.path.resolve(), candidate)
    if said := count_ignored(ignored):
        logger.info("%s", said)
    if products.left:
        logger.info(
            "ignored: what was predicted before (%d: %s)", len(products.left), first_names(sorted(products.left))
        )
    candidates = list(found.values())
    problems += _clashes(candidates, out)
    raise_problems(
        problems, "files to predict", "Name existing files, or the folder that holds them, and another --out."
    )
    return candidates


def check_inputs(candidates: Sequence[Candidate], options: MosaicOptions) -> list[Input]:
    """Check every file to its end, so that the user learns at once of all that cannot be predicted.

    Raises:
        HarveysegError: listing them.
    """
    if variable := foreign_projection_data():
        raise HarveysegError(
            f"{variable}={os.environ[variable]}: leads to the projection data of another program, with which no "
            f"georeferenced file can be read. Unset it: `unset {variable}`."
        )
    with ThreadPoolExecutor(_THREADS) as pool:
        checked = list(pool.map(lambda candidate: _check(candidate, options), candidates))
    problems = [item for item in checked if isinstance(item, str)]
    raise_problems(problems, "files to predict", "Nothing was predicted yet. Leave these files out, or replace them.")
    inputs = [item for item in checked if isinstance(item, Input)]
    for item in inputs:
        if item.note:
            logger.warning("%s", item.note)
    if turned := sum(item.turned for item in inputs):
        logger.info(
            "%d photos have an EXIF orientation: their maps fit the pixels as they are stored, not as they are shown",
            turned,
        )
    return inputs


def _files_below(folder: Path, out: Path) -> Iterator[Path]:
    """All files in a folder at any depth, without hidden folders, those of network drives, and ``out``."""
    for directory, folders, names in walk_visible(folder):
        folders[:] = [name for name in folders if (directory / name).resolve() != out.resolve()]
        yield from (directory / name for name in names)


class _Products:
    """What earlier predictions wrote: overlays are photos as well, but none to predict.

    Attributes:
        left: the names of those that were left out.
    """

    def __init__(self) -> None:
        self.left: list[str] = []
        self._claims: dict[Path, dict[str, str]] = {}

    def holds(self, path: Path) -> bool:
        if path.parent not in self._claims:
            self._claims[path.parent] = read_claims(path.parent)
        return is_product(path, self._claims[path.parent])

    def left_out(self, paths: Iterable[Path]) -> Iterator[Path]:
        """The other files."""
        for path in paths:
            if self.holds(path):
                self.left.append(path.name)
            else:
                yield path


def _in_folder(base: Path, paths: Iterable[Path], ignored: list[str]) -> Iterator[Candidate]:
    """The photos among files, named by their path from ``base``; the others' names are added to ``ignored``."""
    for path in paths:
        if is_sidecar(path.name) or path.suffix.lower() not in IMAGE_ENDINGS:
            ignored.append(path.name)
        else:
            folders = "_".join(path.relative_to(base).with_suffix("").parts)
            yield Candidate(path, one_form(folders))


def _fixed_part(pattern: str) -> Path:
    """The folder before the first wildcard of a pattern."""
    parts = Path(pattern).parts
    wild = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    return Path(*parts[:wild])


def _clashes(candidates: Sequence[Candidate], out: Path) -> Iterator[str]:
    by_name: dict[str, list[Path]] = {}
    for candidate in candidates:
        by_name.setdefault(candidate.name, []).append(candidate.path)
    for name, paths in by_name.items():
        if len(paths) > 1:
            yield f"{name}: {', '.join(map(str, paths))} have this name; rename one, or name the folder above them"
    for candidate in candidates:
        if len(os.fsencode(candidate.name)) > _LONGEST_NAME:
            yield (
                f"{candidate.path}: the names of its products would be too long; rename it, or name a folder that is "
                "nearer to it"
            )
        products = {(out / f"{candidate.name}{ending}").resolve() for ending in (".png", ".tif", "_overlay.jpg")}
        if candidate.path.resolve() in products:
            yield f"{candidate.path}: would be overwritten in {out}"


def _check(candidate: Candidate, options: MosaicOptions) -> Input | str:
    """The input, or what is wrong with it."""
    try:
        with candidate.path.open("rb") as opened:
            is_tiff = opened.read(4) in TIFF_STARTS
        return _check_tiff(candidate, options) if is_tiff else _check_photo(candidate, options)
    except HarveysegError as error:
        return str(error)
    except OSError as error:
        return f"{candidate.path}: cannot be read ({error.strerror})"


def _check_tiff(candidate: Candidate, options: MosaicOptions) -> Input:
    with open_mosaic(candidate.path, options) as mosaic:
        return Input(
            candidate.path,
            candidate.name,
            mosaic.size,
            is_tiff=True,
            georeference=mosaic.georeference,
            note=mosaic.place_warning(),
        )


def _check_photo(candidate: Candidate, options: MosaicOptions) -> Input:
    path = candidate.path
    try:
        decoded = decode_photo_file(path.read_bytes())
    except ValueError as error:
        remedy = "; save it as TIFF, which is read in parts" if TOO_LARGE in str(error) else ""
        raise HarveysegError(f"{path}: {error}{remedy}") from None
    if cause := decoded.colour_problem:
        scaled = "Save it as TIFF and say which values are black and white with --range"
        raise HarveysegError(f"{path}: {cause}. {scaled if 'bits' in cause else 'Save it as one'}.")
    if options.value_range is not None or options.bands is not None or options.crs is not None:
        raise HarveysegError(f"{path}: --range, --bands and --crs are for TIFF files; this is {decoded.kind}.")
    width, height = decoded.size
    return Input(
        path,
        candidate.name,
        (height, width),
        is_tiff=False,
        flight_ground=photo_ground(path),
        turned=decoded.orientation != 1,
    )
