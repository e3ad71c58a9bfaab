"""Look at a folder of photos and masks, and write ``classes.yaml`` and the section ``data`` to start from."""

import hashlib
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import ExifTags, Image
from ruamel.yaml import YAML

from harveyseg.classes import ClassList
from harveyseg.data.class_lists import write_classes
from harveyseg.data.folders import walk_visible
from harveyseg.data.naming import NamingRule, find_rule, matching_rules
from harveyseg.data.overlap import find_overlaps
from harveyseg.data.photo_files import PHOTO_KINDS, DecodedFile
from harveyseg.data.tiff_files import TIFF_STARTS, describe_tiff
from harveyseg.errors import HarveysegError, counted, first_names, shortened
from harveyseg.files import atomic
from harveyseg.geo.flight import photo_ground
from harveyseg.geo.mosaic import MosaicOptions, open_mosaic
from harveyseg.inspection.folder import ImageFiles, find_images
from harveyseg.inspection.mask_values import MaskContent, read_mask_content
from harveyseg.inspection.suggestion import Suggestion, suggest_classes
from harveyseg.progress import track

MASKS = 100
"""Masks that are read, evenly spaced over all."""
PHOTOS = 500
"""Photos whose size and metadata are read, evenly spaced over all."""
COMPARED = 40
"""Photos that are compared for overlaps: the first ones by name, since neighbours overlap. Each takes a second."""

_THREADS = 2
_SHOWN = 20
_LARGEST_SCORE_SIZE = 1024
"""Larger masks of one size are scored at this size, as in the competition."""


@dataclass(frozen=True)
class _PhotoHeader:
    path: Path
    kind: str
    """Pillow's name of the format; empty when the file cannot be read."""
    problem: str
    """Why it is no photo to train on; empty if nothing is known against it."""
    size: tuple[int, int] = (0, 0)
    camera: str = ""
    ground: tuple[float, float] | None = None
    """(height, width) in metres of the ground that the photo shows; None where the file does not say it."""
    has_grid: bool = False
    """Whether a georeference says it, not the flight."""


@dataclass(frozen=True)
class Inspection:
    """What a folder holds."""

    lines: tuple[str, ...]
    """In words, for the user."""
    classes: ClassList | None
    """A list to start from; None where the masks fit none."""
    data: Mapping[str, object]
    """The settings of the section ``data`` that depend on the folder."""


def inspect_folder(folder: Path, every: bool = False) -> Inspection:
    """Look at photos and masks.

    Args:
        folder: is searched at any depth, and only read.
        every: read all masks and compare all photos, instead of ``MASKS`` and ``COMPARED``.

    Raises:
        HarveysegError: when the folder holds no image.
    """
    files = find_images(folder)
    masks = files.masks if every else _spread(files.masks, MASKS)
    photos = files.photos if every else _spread(files.photos, PHOTOS)
    with ThreadPoolExecutor(_THREADS) as pool:
        read = track(pool.map(read_mask_content, masks), "reading masks", len(masks), "masks")
        contents = dict(zip(masks, read, strict=True))
        headers = list(track(pool.map(_read_header, photos), "reading the photos' headers", len(photos)))
    suggestion = suggest_classes(list(contents.values()), folder.resolve().name) if masks else None
    rule, explained = find_rule([path.stem for path in files.photos], [path.stem for path in files.masks])
    lines = [
        *_describe_files(folder, files),
        *_describe_names(files, rule, explained),
        *_describe_photos(headers, len(files.photos)),
        *_describe_masks(folder, contents, len(files.masks), suggestion),
        *_describe_pairs(headers, contents, rule),
        *_describe_duplicates(folder, set(files.photos) - {header.path for header in headers if not header.kind}),
        *_describe_overlaps(files.photos if every else files.photos[:COMPARED], len(files.photos)),
        *_describe_layout(folder, files, rule),
    ]
    sizes = {content.size for content in contents.values()}
    whole = len(masks) == len(files.masks)
    return Inspection(
        tuple(lines),
        suggestion.classes if suggestion else None,
        {
            "source": "directory",
            "path": str(folder.resolve()),
            "inputs": "classes.yaml",
            "on_bad": "error",
            "classes": "classes.yaml",
            "score_size": None if whole and _is_small(sizes) else _LARGEST_SCORE_SIZE,
            "ground": _common_ground(headers),
        },
    )


def write_start(inspection: Inspection, out: Path) -> list[str]:
    """Write ``classes.yaml`` and ``data.yaml`` into a folder; files that exist stay as they are.

    Returns:
        What was done with each file.
    """
    out.mkdir(parents=True, exist_ok=True)
    writers: dict[str, Callable[[Path], None]] = {}
    if inspection.classes is not None:
        classes = inspection.classes
        writers["classes.yaml"] = lambda path: write_classes(path, classes)
    writers["data.yaml"] = lambda path: _write_data(path, inspection.data)
    done = []
    for name, write in writers.items():
        path = out / name
        if path.exists():
            done.append(f"{path}: exists already and was left as it is; remove it or use --out to get a new one")
        else:
            write(path)
            done.append(f"{path}: written")
    return done


def _write_data(path: Path, data: Mapping[str, object]) -> None:
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8") as opened:
        YAML().dump({"data": dict(data)}, opened)


def _spread(paths: Sequence[Path], most: int) -> Sequence[Path]:
    if len(paths) <= most:
        return paths
    return [paths[place * (len(paths) - 1) // (most - 1)] for place in range(most)]


def _read_header(path: Path) -> _PhotoHeader:
    try:
        with path.open("rb") as opened:
            start = opened.read(25)
        if not start:
            return _PhotoHeader(path, "", "is empty")
        if start.startswith(TIFF_STARTS):
            tiff = describe_tiff(path)
            return _header(path, "TIFF", tiff.size, tiff.problem)
        with Image.open(path) as image:
            kind = "JPEG" if image.format == "MPO" else str(image.format)
            depth = start[24] if kind == "PNG" else 8
            content = DecodedFile(kind, image.size, image.mode, frozenset({depth}), 1, transparent=False)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return _PhotoHeader(path, "", "cannot be read as an image")
    return _header(path, kind, content.size, content.colour_problem)


def _header(path: Path, kind: str, size: tuple[int, int], problem: str) -> _PhotoHeader:
    ground = _mosaic_ground(path) if kind == "TIFF" else None
    if kind != PHOTO_KINDS.get(path.suffix.lower()):
        problem = f"is {kind} data; a photo is JPEG, PNG or TIFF, named so"
    elif "its values are" in problem or "bits per channel" in problem:
        problem += "; see --range (docs/predict.md), and for training `gdal_translate -ot Byte -scale`"
    return _PhotoHeader(path, kind, problem, size, _camera(path), ground or photo_ground(path), ground is not None)


def _camera(path: Path) -> str:
    try:
        with Image.open(path) as image:
            exif = image.getexif()
    except (OSError, ValueError, SyntaxError):  # kinds of pixels that Pillow lacks
        return ""
    words = [str(exif.get(tag, "")).strip("\0 ") for tag in (ExifTags.Base.Make, ExifTags.Base.Model)]
    return " ".join(filter(None, words))


def _mosaic_ground(path: Path) -> tuple[float, float] | None:
    """(height, width) in metres by the georeference of a TIFF file, if it has a usable one."""
    try:
        with open_mosaic(path, MosaicOptions()) as mosaic:
            if mosaic.georeference is None:
                return None
            (height, width), (tall, wide) = mosaic.size, mosaic.georeference.pixel_size(mosaic.size)
            return height * tall, width * wide
    except HarveysegError:  # no colour photo, or no grid: `download` and `predict` say so
        return None


def _describe_files(folder: Path, files: ImageFiles) -> list[str]:
    lines = [f"{folder}: {counted(len(files.photos), 'photo')}, {counted(len(files.masks), 'mask')}"]
    if files.others:
        kinds = ", ".join(f"{count} {ending}" for ending, count in sorted(files.others.items()))
        lines.append(f"other files, which are no photos and no masks: {kinds}")
    return lines


def _describe_names(files: ImageFiles, rule: NamingRule, explained: int) -> list[str]:
    lines = []
    if files.masks:
        lines.append(f"names: {rule.describe()}, which explains {explained} of {len(files.masks)} masks")
        stems = {path.stem for path in files.masks}
        alone = [path for path in files.photos if rule.mask_stem(path.stem) not in stems]
        if alone:
            places = Counter(path.parent.name for path in alone)
            lines.append(f"photos without a mask: {_counts(places)} (by folder)")
    repeated = [stem for stem, count in Counter(path.stem for path in files.photos).items() if count > 1]
    if repeated:
        lines.append(
            f"names that occur in several folders: {len(repeated)} ({first_names(repeated)}); their ids get the "
            "folder's name, which needs masks in folders of the same names"
        )
    return lines


def _describe_photos(headers: Sequence[_PhotoHeader], number: int) -> list[str]:
    if not headers:
        return ["photos: none found"]
    lines = [f"photos read: {len(headers)} of {number}"] if len(headers) < number else []
    sizes = Counter(f"{header.size[0]}x{header.size[1]}" for header in headers if header.kind)
    lines.append(f"photo sizes: {_counts(sizes)}")
    names_of = defaultdict(list)
    for header in headers:
        names_of[header.problem].append(header.path.name)
    del names_of[""]
    for problem, names in names_of.items():
        others = f" and {len(names) - 1} more" if len(names) > 1 else ""
        lines.append(f"{names[0]}{others}: {problem}")
    cameras = Counter(header.camera for header in headers if header.camera)
    lines.append(f"cameras: {_counts(cameras)}" if cameras else "cameras: the files do not say")
    known = []
    for has_grid, origin in ((False, "flight height and lens"), (True, "the georeference")):
        own = [header for header in headers if header.has_grid == has_grid]
        pixels = [100 * header.ground[1] / header.size[0] for header in own if header.ground]
        if pixels:
            spread = f"{min(pixels):.2f} to {max(pixels):.2f}, median {statistics.median(pixels):.2f}"
            known.append(f"ground per pixel from {origin}: {spread} cm, of {counted(len(pixels), 'photo')}")
    return lines + (known or ["ground per pixel: the files do not say; set data.ground if you know it"])


def _describe_masks(
    folder: Path, contents: Mapping[Path, MaskContent], number: int, suggestion: Suggestion | None
) -> list[str]:
    if suggestion is None:
        return ["masks: none found, so there is no list of classes"]
    lines = []
    if len(contents) < number:
        lines.append(f"masks read: {len(contents)} of {number}; a class that only others hold is missing (--all)")
    lines.append(f"mask kinds: {_counts(Counter(mask.kind for mask in contents.values() if mask.kind))}")
    sizes = Counter(f"{mask.size[0]}x{mask.size[1]}" for mask in contents.values() if mask.size)
    lines.append(f"mask sizes: {_counts(sizes)}")
    lines += [
        f"  {key:>8}  {share:9.4%} of pixels  {suggestion.readings.get(key, '')}".rstrip()
        for key, share in suggestion.shares[: _most_shown(suggestion)]
    ]
    if (rest := len(suggestion.shares) - _most_shown(suggestion)) > 0:
        lines.append(f"  and {rest} more")
    lines += [f"note: {note}" for note in suggestion.notes]
    problems = [f"{path.relative_to(folder)}: {mask.problem}" for path, mask in contents.items() if mask.problem]
    return lines + shortened(problems)


def _most_shown(suggestion: Suggestion) -> int:
    return _SHOWN if suggestion.classes is None else max(_SHOWN, len(suggestion.classes) + 1)


def _describe_pairs(
    headers: Sequence[_PhotoHeader], contents: Mapping[Path, MaskContent], rule: NamingRule
) -> list[str]:
    size_of = {path.stem: mask.size for path, mask in contents.items() if mask.size}
    lines = []
    for header in headers:
        size = size_of.get(rule.mask_stem(header.path.stem) or "")
        if header.kind and size and size != header.size:
            lines.append(
                f"{header.path.name}: is {header.size[0]}x{header.size[1]} pixels, its mask {size[0]}x{size[1]}; both "
                "must have one size"
            )
    return shortened(lines)


def _describe_duplicates(folder: Path, photos: Iterable[Path]) -> list[str]:
    by_size = defaultdict(list)
    for path in sorted(photos):
        by_size[path.stat().st_size].append(path)
    by_hash = defaultdict(list)
    for paths in by_size.values():
        for path in paths if len(paths) > 1 else ():
            with path.open("rb") as opened:
                by_hash[hashlib.file_digest(opened, "sha256").digest()].append(str(path.relative_to(folder)))
    copies = [" = ".join(names) for names in by_hash.values() if len(names) > 1]
    return [f"the same photo: {line}" for line in shortened(copies)] or ["exact duplicates: none"]


def _describe_overlaps(photos: Sequence[Path], number: int) -> list[str]:
    pairs = find_overlaps(photos, [str(place) for place in range(len(photos))], _THREADS)
    compared = "all" if len(photos) == number else f"the first {len(photos)}"
    if not pairs:
        return [f"overlaps among {compared} photos: none"]
    names = [f"{photos[int(first)].stem} and {photos[int(second)].stem}" for first, second in pairs]
    shown = "1 pair shows" if len(pairs) == 1 else f"{len(pairs)} pairs show"
    return [
        f"overlaps among {compared} photos: {shown} the same ground ({first_names(names)}); "
        "`split.groups: overlap` keeps them in one fold"
    ]


def _describe_layout(folder: Path, files: ImageFiles, rule: NamingRule) -> list[str]:
    """What the source ``directory`` still needs."""
    names = {name.lower() for _, names, _ in walk_visible(folder) for name in names}
    missing = [name for name in ("train_images", "train_masks") if name not in names]
    lines = []
    if missing:
        lines.append(f"to do: data.source = directory needs folders named {', '.join(missing)}")
    if "test_images" not in names:
        lines.append(
            "no folder test_images: without test photos there is no submission and no test score; "
            "data.directory.test_share holds a part of the photos out"
        )
    rules = matching_rules([path.stem for path in files.photos], [path.stem for path in files.masks] or [""])
    if files.masks and rules != [rule]:
        lines.append("to do: rename the masks: a mask has its photo's name, or all follow from it by one rule")
    return lines


def _is_small(sizes: Iterable[tuple[int, int] | None]) -> bool:
    known = set(sizes)
    if len(known) != 1:
        return False
    size = known.pop()
    return size is not None and max(size) <= _LARGEST_SCORE_SIZE


def _common_ground(headers: Sequence[_PhotoHeader]) -> list[float] | None:
    """The median (height, width), if all photos say it and have one size."""
    grounds = [header.ground for header in headers if header.ground]
    if not grounds or len(grounds) < len(headers) or len({header.size for header in headers}) > 1:
        return None
    return [round(statistics.median(ground[side] for ground in grounds), 1) for side in (0, 1)]


def _counts(counter: Counter[str]) -> str:
    shown = ", ".join(f"{count} {key}" for key, count in counter.most_common(_SHOWN))
    return shown + (f" and {len(counter) - _SHOWN} more" if len(counter) > _SHOWN else "")
