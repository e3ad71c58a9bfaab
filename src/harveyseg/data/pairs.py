"""Photos and their masks in a folder in the Kaggle layout, paired by their names without opening any file."""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harveyseg.data.folders import walk_visible
from harveyseg.data.masks import NOT_PNG
from harveyseg.data.naming import NamingRule, matching_rules, one_form, stem_of
from harveyseg.data.photo_files import PHOTO_KINDS
from harveyseg.data.sidecars import count_ignored, is_hidden_folder, is_sidecar

FOLDERS = ("train_images", "train_masks", "test_images", "test_masks")
"""Names of the folders of a data set, in upper or lower case."""
MASK_ENDINGS = (".png",)

_PARTS = ("train", "test")
_ENDINGS = {"images": tuple(PHOTO_KINDS), "masks": MASK_ENDINGS}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pair:
    """A photo and, if it is known, its mask."""

    part: str
    """``"train"`` or ``"test"``."""
    id: str
    """The stem of the photo's file name; after its folders' names where stems start again in other folders."""
    image: Path
    mask: Path | None


@dataclass(frozen=True)
class Problem:
    """What is wrong with a file or folder of a data set."""

    file: str
    """Relative to the data set's folder."""
    cause: str
    pair: tuple[str, str] | None = None
    """Part and id of the photo that cannot be used."""
    structural: bool = False
    """Whether the data set as a whole cannot be used, so that leaving this file out does not help."""

    def __str__(self) -> str:
        """One line for a list of problems."""
        return f"{self.file}: {self.cause}"


@dataclass(frozen=True)
class _Files:
    """The files in one of ``FOLDERS``."""

    name: str
    place: Path
    paths: tuple[Path, ...]

    @property
    def stems(self) -> list[str]:
        return [stem_of(path) for path in self.paths]

    def names(self, by_folder: bool) -> set[str]:
        return {self.named(path, stem_of(path), by_folder) for path in self.paths}

    def named(self, path: Path, stem: str, by_folder: bool) -> str:
        """A stem, after the names of the folders in which the file lies if ``by_folder``."""
        parts = path.parent.relative_to(self.place).parts if by_folder else ()
        name = "_".join([*(part for part in parts if part.lower() != self.name), stem])
        return one_form(name)


def find_pairs(folder: Path, needs_test: bool = True) -> tuple[list[Pair], list[Problem]]:
    """Pair photos with masks.

    A mask has its photo's name, or all have a name that follows from it by one rule (see
    :func:`harveyseg.data.naming.matching_rules`). Stems that start again in other folders, as those of drones do, get
    the folders' names, of photos and masks alike: ``101MEDIA/DJI_0001.JPG`` has the id ``101MEDIA_DJI_0001``.

    Args:
        folder: contains ``FOLDERS``.
        needs_test: whether a folder without ``test_images`` is a problem.

    Returns:
        The pairs, the training part first, by id; and what is wrong with the folder and the names in it.
    """
    places = layout_folders(folder)
    problems: list[Problem] = []
    ignored: list[str] = []
    wanted = {name for name in FOLDERS if name.startswith("train") or places[name]}
    if needs_test or places["test_masks"]:
        wanted.add("test_images")
    files = {
        name: _list_files(folder, name, places[name], problems, ignored) if name in wanted else None for name in FOLDERS
    }
    if said := count_ignored(ignored):
        logger.info("%s", said)
    rules = {part: _choose_rule(files[f"{part}_images"], files[f"{part}_masks"], problems) for part in _PARTS}
    by_folder = _starts_again(files, rules)
    pairs: list[Pair] = []
    for part in _PARTS:
        images = files[f"{part}_images"]
        if images is not None:
            pairs += _pair_part(folder, images, files[f"{part}_masks"], rules[part], by_folder, problems)
    tests = {_folded(pair.id): pair.image for pair in pairs if pair.part == "test"}
    for pair in pairs:
        if pair.part == "train" and (test := tests.get(_folded(pair.id))):
            problems.append(_same_id(folder, pair.image, test, pair.id, ("train", pair.id)))
    return pairs, problems


def layout_folders(folder: Path) -> dict[str, list[Path]]:
    """For each of ``FOLDERS``, the folders of that name at any depth, in upper or lower case.

    Folders inside one of them are not listed, and hidden folders are not searched.
    """
    places: dict[str, list[Path]] = {name: [] for name in FOLDERS}
    for top, names, _ in walk_visible(folder):
        for name in names:
            if name.lower() in places:
                places[name.lower()].append(top / name)
        names[:] = [name for name in names if name.lower() not in places]
    return places


def _list_files(
    folder: Path, name: str, places: Sequence[Path], problems: list[Problem], ignored: list[str]
) -> _Files | None:
    """The photos or masks in the folder ``name``; None when there is no such folder or several."""
    if len(places) != 1:
        several = ", ".join(str(place.relative_to(folder)) for place in places)
        cause = f"{len(places)} folders have this name: {several}; keep one" if places else "the folder is missing"
        problems.append(Problem(name, cause, structural=True))
        return None
    endings = _ENDINGS[name.partition("_")[2]]
    paths = []
    for path, cause in _walk_folder(places[0], name, ignored):
        relative = str(path.relative_to(folder))
        if cause:
            problems.append(Problem(relative, cause, structural=True))
        elif path.suffix.lower() not in endings:
            reason = f"; {NOT_PNG}" if endings == MASK_ENDINGS else ""
            problems.append(Problem(relative, f"must end in {' or '.join(endings)}{reason}"))
        elif path.exists() and not path.is_file():  # reading a pipe would block
            problems.append(Problem(relative, "is not a regular file (a pipe, a socket or a device); remove it"))
        elif not path.name.isprintable():  # such an id would break the lines of CSV files
            cause = "its name has control characters or is not UTF-8; rename it"
            problems.append(Problem(ascii(relative)[1:-1], cause))
        else:
            paths.append(path)
    if endings == _ENDINGS["images"] and not paths:
        problems.append(Problem(name, f"holds no photo ({' or '.join(endings)})", structural=True))
    return _Files(name, places[0], tuple(paths))


def _walk_folder(
    folder: Path, name: str, ignored: list[str], above: tuple[Path, ...] = ()
) -> Iterator[tuple[Path, str]]:
    """All files in the folder ``name`` at any depth and problems with its subfolders; sidecars go to ``ignored``."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        yield folder, f"cannot be listed ({error.strerror})"
        return
    above = (*above, folder.resolve())
    for path in entries:
        lower = path.name.lower()
        if not path.is_dir():
            if is_sidecar(path.name):
                ignored.append(path.name)
            else:
                yield path, ""
        elif is_hidden_folder(path.name):
            continue
        elif lower in FOLDERS and lower != name:
            yield path, f"a folder inside {name}; move it next to {name}, or rename it if it belongs there"
        elif path.resolve() in above:
            yield path, "a link to a folder that contains it; remove it"
        else:
            yield from _walk_folder(path, name, ignored, above)


def _choose_rule(images: _Files | None, masks: _Files | None, problems: list[Problem]) -> NamingRule:
    """The rule by which masks are matched; equal names if there is none, or a problem if there are several."""
    if images is None or masks is None:
        return NamingRule()
    if images.names(by_folder=True) & masks.names(by_folder=True):
        return NamingRule()
    rules = matching_rules(images.stems, masks.stems)
    if len(rules) > 1:
        several = " or ".join(f"'{rule.describe()}'" for rule in rules)
        cause = f"the names could follow {several}; give each mask the name of its photo"
        problems.append(Problem(masks.name, cause, structural=True))
        return NamingRule()
    if rules[0] != NamingRule():
        logger.info("%s: matched by their names: %s", masks.name, rules[0].describe())
    return rules[0]


def _starts_again(files: Mapping[str, _Files | None], rules: Mapping[str, NamingRule]) -> bool:
    """Whether stems occur in several folders, and the folders' names tell most of those photos apart.

    Where masks lie in no such folders, nobody knows whose they are, so that such photos keep one id: an error.
    """
    photos = [(part, listed, path) for part in _PARTS if (listed := files[f"{part}_images"]) for path in listed.paths]
    stems = Counter(_folded(stem_of(path)) for _, _, path in photos)
    repeated = [photo for photo in photos if stems[_folded(stem_of(photo[2]))] > 1]
    names = Counter(_folded(listed.named(path, stem_of(path), True)) for _, listed, path in photos)
    masks_of = {part: masks.names(by_folder=True) for part in _PARTS if (masks := files[f"{part}_masks"])}
    resolved = []
    for part, listed, path in repeated:
        stem = rules[part].mask_stem(stem_of(path))
        known = part not in masks_of or (stem is not None and listed.named(path, stem, True) in masks_of[part])
        if known and names[_folded(listed.named(path, stem_of(path), True))] == 1:
            resolved.append(path)
    if 2 * len(resolved) <= len(repeated):
        return False
    first = resolved[0].relative_to(resolved[0].parents[1])
    logger.info("names start again in other folders, so photos are called by folder and name: %s", first)
    return True


def _pair_part(
    folder: Path,
    images: _Files,
    masks: _Files | None,
    rule: NamingRule,
    by_folder: bool,
    problems: list[Problem],
) -> list[Pair]:
    """The pairs of one part, sorted by id; appends to ``problems``."""
    part = images.name.partition("_")[0]
    photo_of = _by_name(folder, images, by_folder, {}, problems)
    id_of: dict[str, str] = {}  # by the name of its mask
    for photo_id, photo in photo_of.items():
        if (stem := rule.mask_stem(stem_of(photo))) is not None:
            id_of[images.named(photo, stem, by_folder)] = photo_id
    mask_name_of = {photo_id: name for name, photo_id in id_of.items()}
    mask_of = {} if masks is None else _by_name(folder, masks, by_folder, id_of, problems)
    pairs = []
    for photo_id, photo in sorted(photo_of.items()):
        mask = mask_of.get(mask_name_of.get(photo_id, ""))
        if mask is None and masks is not None:
            stem = f"{rule.mask_stem(stem_of(photo)) or '<id>'}.png"
            expected = photo.parent.relative_to(images.place) / stem if by_folder else stem
            problems.append(
                Problem(str(photo.relative_to(folder)), f"has no mask {part}_masks/{expected}", (part, photo_id))
            )
        pairs.append(Pair(part, photo_id, photo, mask))
    for name, mask in sorted(mask_of.items()):
        if name not in id_of:
            called = name if rule == NamingRule() else f"of its name ({rule.describe()})"
            problems.append(Problem(str(mask.relative_to(folder)), f"has no photo {called} in {images.name}"))
    return pairs


def _by_name(
    folder: Path, files: _Files, by_folder: bool, id_of: Mapping[str, str], problems: list[Problem]
) -> dict[str, Path]:
    """The files by their names; those whose names are not unique are problems of the ids that ``id_of`` gives."""
    part = files.name.partition("_")[0]
    file_of: dict[str, Path] = {}
    first_of: dict[str, tuple[str, Path]] = {}
    for path in files.paths:
        name = files.named(path, stem_of(path), by_folder)
        first_name, first = first_of.setdefault(_folded(name), (name, path))
        if first != path:
            problems.append(_same_id(folder, first, path, first_name, (part, id_of.get(first_name, first_name))))
            problems.append(_same_id(folder, path, first, name, (part, id_of.get(name, name))))
        file_of.setdefault(name, path)
    return file_of


def _folded(photo_id: str) -> str:
    """An id as file systems compare names that ignore case and the encoding of accents, such as macOS's."""
    return one_form(photo_id).casefold()


def _same_id(folder: Path, path: Path, twin: Path, name: str, pair: tuple[str, str]) -> Problem:
    """Two files cannot have one id, nor ids that some file systems do not distinguish."""
    other = twin.relative_to(folder)
    if stem_of(path) == stem_of(twin):
        cause = f"has the same id {name!r} as {other}; ids must be unique"
    else:
        cause = f"its id {name!r} differs from {other} only in case or accents; some file systems keep only one"
    return Problem(str(path.relative_to(folder)), cause, pair)
