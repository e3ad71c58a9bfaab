"""``harveyseg inspect``: what a folder of photos and masks holds, and the settings to start from."""

import hashlib
import itertools
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from harveyseg.arrays import IntArray
from harveyseg.classes import HARVEY25, IGNORED, MAX_CLASSES, ClassList, SegmentationClass
from harveyseg.data.class_lists import write_classes
from harveyseg.data.manifest import FOLDERS
from harveyseg.data.overlap import LEAST_MATCHES, count_matches, photo_features
from harveyseg.data.photo_files import PHOTO_KINDS
from harveyseg.errors import HarveysegError
from harveyseg.files import write_text
from harveyseg.geo.flight import photo_ground
from harveyseg.plots import precise_percent

SAMPLED_MASKS = 60
"""Masks that are decoded, evenly spread over the folder."""
SAMPLED_PHOTOS = 30
"""Photos whose flight height is read, and neighbours whose pictures are compared."""
_MOST_COLOURS = 256
"""An image with more colours is a photo."""
_SHOWN = 12
_MASK_WORDS = re.compile(r"mask|label|lab|annot|seg|gt|truth", re.IGNORECASE)


@dataclass
class Masks:
    """What the decoded masks hold."""

    kinds: Counter[str] = field(default_factory=Counter)
    """grey, palette, colours."""
    pixels: Counter[int] = field(default_factory=Counter)
    """By value, or by colour as 0xrrggbb."""
    files: Counter[int] = field(default_factory=Counter)
    """Masks that hold the value or colour."""
    decoded: int = 0

    @property
    def coloured(self) -> bool:
        """Whether colours stand for classes, not values."""
        return self.kinds["colours"] > 0


@dataclass(frozen=True)
class Inspection:
    """What was found, as lines to print, and what to start from."""

    lines: list[str]
    classes: ClassList | None
    """None where no masks were found, or they hold too many values."""


def inspect_folder(folder: Path) -> Inspection:
    """Look at the photos and masks of a folder, at any depth, without changing it.

    Args:
        folder: of photos and masks.

    Raises:
        HarveysegError: when it holds no image.
    """
    files = sorted(_images(folder))
    if not files:
        raise HarveysegError(f"{folder}: holds no images ({', '.join(PHOTO_KINDS)}). Name the folder of your photos.")
    groups: dict[tuple[Path, str], list[Path]] = defaultdict(list)
    for path in files:
        groups[path.parent, _ending(path)].append(path)
    mask_groups = {key: paths for key, paths in groups.items() if _are_masks(key, paths)}
    photos = [path for key, paths in groups.items() if key not in mask_groups for path in paths]
    masks = [path for paths in mask_groups.values() for path in paths]
    lines = [f"{folder}: {len(photos)} photos, {len(masks)} masks"]
    for (place, ending), paths in groups.items():
        kind = "masks" if (place, ending) in mask_groups else "photos"
        name = place.relative_to(folder).as_posix()
        lines.append(f"  {name}/*{ending}: {len(paths)} {kind}, e.g. {paths[0].name}")
    lines += _photo_lines(photos) if photos else []
    lines += _pair_lines(photos, masks) if masks else ["no masks: training needs a mask for each photo"]
    classes = None
    if masks:
        found = read_masks(_spread(masks, SAMPLED_MASKS))
        classes = propose_classes(found, re.sub(r"\W+", "_", folder.resolve().name) or "own")
        lines += _mask_lines(found, len(masks), classes)
    lines += _layout_lines(folder, groups, mask_groups)
    return Inspection(lines, classes)


def write_start(inspection: Inspection, folder: Path, out: Path) -> list[Path]:
    """Write ``classes.yaml`` and ``data.yaml``, the section ``data`` to start from.

    Args:
        inspection: of ``folder``.
        folder: the photos.
        out: where to write; files that exist are never replaced.

    Raises:
        HarveysegError: when one of the files exists, or there are no classes to write.
    """
    if inspection.classes is None:
        raise HarveysegError(f"{folder}: no list of classes can be written, see above.")
    paths = [out / "classes.yaml", out / "data.yaml"]
    for path in paths:
        if path.exists():
            raise HarveysegError(f"{path}: exists already and is not replaced. Name another folder with --out.")
    out.mkdir(parents=True, exist_ok=True)
    write_classes(paths[0], inspection.classes)
    data = (
        "# The section `data` of params.yaml to start from; the other keys stay as they are.\n"
        f"data:\n  source: directory\n  path: {os.path.relpath(folder, out)}\n  inputs: {paths[0].name}\n"
        f"  classes: {paths[0].name}\n"
    )
    write_text(paths[1], data)
    return paths


def read_masks(paths: Sequence[Path]) -> Masks:
    """Count the values of grey masks and of palettes, and the colours of others."""
    found = Masks()
    for path in paths:
        try:
            with Image.open(path) as image:
                kind = {"L": "grey", "P": "palette", "1": "grey"}.get(image.mode, "colours")
                pixels = np.asarray(image.convert("RGB") if kind == "colours" else image)
        except (OSError, SyntaxError, ValueError):
            found.kinds["damaged"] += 1
            continue
        if kind == "colours" and (pixels == pixels[..., :1]).all() and not found.coloured:
            kind, pixels = "ids in red, green and blue alike", pixels[..., 0]
        codes: IntArray = pixels.astype(np.int64)
        if codes.ndim == 3:
            codes = codes @ np.array([1 << 16, 1 << 8, 1])
        values, counts = np.unique(codes, return_counts=True)
        found.kinds[kind] += 1
        found.decoded += 1
        found.pixels.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
        found.files.update(values.tolist())
    return found


def propose_classes(found: Masks, name: str) -> ClassList | None:
    """A list of what the masks hold: names to be filled in, colours as they are or made up.

    In masks of values, 255 is taken for "no label" where other values are below 254.

    Returns:
        None where there are fewer than 2 or more than 150 values.
    """
    values = sorted(found.pixels)
    ignore = None
    if not found.coloured and IGNORED in values:
        if len(values) == 2:
            return None  # black and white: 255 cannot be an id
        values.remove(IGNORED)
        ignore = IGNORED
    if not 2 <= len(values) <= MAX_CLASSES:
        return None
    if found.coloured:
        by_size = sorted(values, key=lambda value: -found.pixels[value])
        entries = [(index, f"#{value:06x}") for index, value in enumerate(by_size)]
    else:
        entries = list(zip(values, _distinct_colours(len(values)), strict=True))
    return ClassList(
        name=name,
        ignore=ignore,
        classes=tuple(SegmentationClass(id=value, name=f"class {value}", color=colour) for value, colour in entries),
    )


def _images(folder: Path) -> Iterator[Path]:
    for top, names, files in os.walk(folder):
        names[:] = sorted(name for name in names if not name.startswith("."))
        for name in files:
            if not name.startswith(".") and Path(name).suffix.lower() in PHOTO_KINDS:
                yield Path(top) / name


def _ending(path: Path) -> str:
    """``_lab.png`` of ``10165_lab.png``, ``.jpg`` of ``DJI_0001.jpg``."""
    tail = re.search(r"[_-][A-Za-z]+$", path.stem)
    return (tail[0] if tail and _MASK_WORDS.search(tail[0]) else "") + path.suffix.lower()


def _are_masks(key: tuple[Path, str], paths: Sequence[Path]) -> bool:
    """Whether some of the files look like masks: PNG or TIFF of few colours, or a mask by their names."""
    place, ending = key
    if Path(ending).suffix in (".jpg", ".jpeg"):
        return False
    named = bool(_MASK_WORDS.search(place.name) or _MASK_WORDS.search(ending))
    for path in _spread(paths, 3):
        try:
            with Image.open(path) as image:
                if image.mode in ("L", "P", "1"):
                    continue
                few = image.convert("RGB").getcolors(_MOST_COLOURS)
        except (OSError, SyntaxError, ValueError, UnidentifiedImageError):
            return named
        if few is None:
            return False
    return True


def _photo_lines(photos: Sequence[Path]) -> list[str]:
    sizes: Counter[tuple[int, int]] = Counter()
    cameras: Counter[str] = Counter()
    damaged = []
    for path in photos:
        try:
            with Image.open(path) as image:
                sizes[image.size] += 1
                camera = image.getexif().get(ExifTags.Base.Model)
        except (OSError, SyntaxError, ValueError):
            damaged.append(path.name)
            continue
        if camera:
            cameras[str(camera).strip("\x00 ")] += 1
    lines = ["photos:", f"  sizes: {_counted({f'{w}x{h}': count for (w, h), count in sizes.items()})}"]
    if damaged:
        lines.append(f"  {len(damaged)} cannot be read: {', '.join(damaged[:_SHOWN])}")
    lines.append(f"  cameras: {_counted(cameras) if cameras else 'the files name none'}")
    sample = _spread(photos, SAMPLED_PHOTOS)
    grounds = [(path, ground) for path in sample if (ground := photo_ground(path)) is not None]
    if grounds:
        heights, widths = np.median([ground for _, ground in grounds], axis=0).tolist()
        with Image.open(grounds[0][0]) as image:
            gsd = 100 * heights / image.size[1]
        lines.append(f"  ground: {heights:.0f} x {widths:.0f} m by the flight height, about {gsd:.1f} cm for a pixel")
    else:
        lines.append("  ground: no flight height in the files; set data.ground if you know it")
    lines += _duplicate_lines(photos)
    pairs = list(itertools.pairwise(photos))[:SAMPLED_PHOTOS]
    if pairs:
        features = {path: photo_features(path) for path in dict.fromkeys(itertools.chain(*pairs)) if _readable(path)}
        compared = [pair for pair in pairs if set(pair) <= features.keys()]
        overlapping = sum(count_matches(features[a], features[b]) >= LEAST_MATCHES for a, b in compared)
        advice = "; keep them in one fold: split.groups: overlap" if overlapping else ""
        lines.append(f"  {overlapping} of {len(compared)} neighbours in the folder show the same ground{advice}")
    return lines


def _readable(path: Path) -> bool:
    try:
        photo_features(path)
    except HarveysegError:
        return False
    return True


def _duplicate_lines(photos: Sequence[Path]) -> list[str]:
    by_size: dict[int, list[Path]] = defaultdict(list)
    for path in photos:
        by_size[path.stat().st_size].append(path)
    copies: dict[str, list[str]] = defaultdict(list)
    for same in by_size.values():
        if len(same) > 1:
            for path in same:
                copies[hashlib.sha256(path.read_bytes()).hexdigest()].append(path.name)
    twice = [" = ".join(names) for names in copies.values() if len(names) > 1]
    return [f"  the same file twice: {'; '.join(twice[:_SHOWN])}"] if twice else []


def _pair_lines(photos: Sequence[Path], masks: Sequence[Path]) -> list[str]:
    endings = {_ending(path).removesuffix(path.suffix.lower()) for path in masks}
    mask_of = {path.stem.removesuffix(ending): path for path in masks for ending in [_stem_ending(path)]}
    stems = {path.stem for path in photos}
    lines = [f"pairs: {len(stems & mask_of.keys())} photos have a mask named <photo>{' or '.join(sorted(endings))}.png"]
    alone = {"photos without a mask": stems - mask_of.keys(), "masks without a photo": mask_of.keys() - stems}
    for what, names in alone.items():
        if names:
            lines.append(f"  {len(names)} {what}: {', '.join(sorted(names)[:_SHOWN])}")
    photo_of = {path.stem: path for path in photos}
    differing = []
    for stem in sorted(stems & mask_of.keys())[:SAMPLED_MASKS]:
        try:
            with Image.open(photo_of[stem]) as photo, Image.open(mask_of[stem]) as mask:
                if photo.size != mask.size:
                    differing.append(f"{stem} ({photo.size[0]}x{photo.size[1]}, mask {mask.size[0]}x{mask.size[1]})")
        except (OSError, SyntaxError, ValueError):
            continue
    if differing:
        lines.append(f"  {len(differing)} masks of another size than their photo: {', '.join(differing[:_SHOWN])}")
    return lines


def _stem_ending(path: Path) -> str:
    return _ending(path).removesuffix(path.suffix.lower())


def _mask_lines(found: Masks, total: int, classes: ClassList | None) -> list[str]:
    pixels = max(1, sum(found.pixels.values()))
    lines = [f"masks: {found.decoded} of {total} decoded: {_counted(found.kinds)}"]
    if len([kind for kind in found.kinds if kind != "damaged"]) > 1:
        lines.append("  kinds are mixed: see docs/classes.md for how each is read")
    what = "colour" if found.coloured else "value"
    for value, count in found.pixels.most_common(_SHOWN if len(found.pixels) > MAX_CLASSES else None):
        shown = f"#{value:06x}" if found.coloured else f"{value}"
        lines.append(
            f"  {what} {shown}: {precise_percent(count / pixels)} of the pixels, in {found.files[value]} masks"
        )
    ends = [count for value, count in found.pixels.items() if not found.coloured and not 16 <= value < 240]
    if classes is not None:
        values = {entry.id for entry in classes.classes}
        if not found.coloured and len(values) > 8 and values <= {entry.id for entry in HARVEY25.classes}:
            lines.append("  these ids fit the built-in list harvey25; if they mean that, set data.classes: harvey25")
    elif sorted(found.pixels) == [0, IGNORED]:
        lines.append("  black and white: ids must be below 255, so save white as 1")
    elif len(found.pixels) > 8 and sum(ends) > 0.9 * pixels:
        lines.append("  black and white that was saved as JPEG once: threshold it at 128, and save 0 and 1 as PNG")
    else:
        lines.append(f"  2 to {MAX_CLASSES} different {what}s can be classes: masks must be exact, not resized or JPEG")
    return lines


def _layout_lines(
    folder: Path, groups: Mapping[tuple[Path, str], Sequence[Path]], mask_groups: Mapping[tuple[Path, str], object]
) -> list[str]:
    """How the folders must be called for ``data.source: directory``, if they are not."""
    known = {part.lower() for place, _ in groups for part in place.relative_to(folder).parts}
    if {"train_images", "train_masks"} <= known & set(FOLDERS):
        return []
    lines = ["to use the folder, give the pipeline one with these names (links do):"]
    for place, ending in groups:
        target = "train_masks" if (place, ending) in mask_groups else "train_images (and test_images)"
        lines.append(f"  {place.relative_to(folder).as_posix()}/*{ending} -> {target}")
    return lines


def _spread(paths: Sequence[Path], count: int) -> list[Path]:
    """At most ``count`` of the paths, evenly spread."""
    positions = np.unique(np.linspace(0, len(paths) - 1, min(count, len(paths))).round().astype(int))
    return [paths[position] for position in positions]


def _counted(counts: Mapping[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    more = f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    return ", ".join(f"{name} ({count})" for name, count in ordered[:_SHOWN]) + more


def _distinct_colours(count: int) -> list[str]:
    """Colours that differ, by steps of the golden angle around the circle of hues."""
    colours = []
    for index in range(count):
        hue = index * 0.61803398875 % 1
        value = (0.95, 0.75, 0.55)[index % 3]
        rgb = [value * (1 - 0.7 * min(max(abs((hue * 6 + shift) % 6 - 3) - 1, 0), 1)) for shift in (0, 4, 2)]
        colours.append("#{:02x}{:02x}{:02x}".format(*(round(255 * channel) for channel in rgb)))
    return colours
