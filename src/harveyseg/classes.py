"""Lists of classes: what a mask may hold, what each class is called and drawn like, and which classes are scored.

Class maps, probabilities and confusions know classes by their *index*, the position in the list: classes that are not
scored come first, each kind sorted by id. Files of users and for users hold ids.
"""

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

IGNORED = 255
"""What a class map holds where there is no label, and where nothing was seen. It is no class."""

RARE = 0.01
"""A class is rare if it covers less than this share of the training pixels."""

MAX_CLASSES = 150

_COLOUR = "#[0-9a-fA-F]{6}"
_COLUMNS = ("image", "scale", "seen_percent", "seen_m2")
"""Of ``areas.csv``, next to a column for each class."""


class SegmentationClass(BaseModel):
    """One class of a list."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: int = Field(ge=0, lt=IGNORED)
    """The value of its pixels in masks and class maps."""
    name: str = Field(min_length=1, max_length=80)
    color: str
    """In masks with colours or a palette, and in figures: ``"#rrggbb"``."""
    scored: bool = True
    """Whether the score counts it. What nobody labelled (the background) usually is not."""

    @field_validator("id", mode="before")
    @classmethod
    def _check_id(cls, value: Any) -> Any:
        return _no_truth(value)

    @field_validator("name")
    @classmethod
    def _check_name(cls, value: str) -> str:
        if value != value.strip() or not value.isprintable():
            raise ValueError(f"{value!r} must be one line without blanks at its ends")
        if value.casefold() in _COLUMNS or value.casefold().endswith(" m2"):
            raise ValueError(f"{value!r} is a column of areas.csv; choose another name")
        return value

    @field_validator("color")
    @classmethod
    def _check_colour(cls, value: str) -> str:
        if not re.fullmatch(_COLOUR, value):
            raise ValueError(f'{value!r} is not a colour; write "#rrggbb", in quotes: a bare # begins a comment')
        return value.lower()


class ClassList(BaseModel):
    """The classes of a data set, in the order of their indices.

    >>> classes = ClassList(
    ...     name="water",
    ...     ignore=255,
    ...     classes=[
    ...         SegmentationClass(id=1, name="Water", color="#1e5ac8"),
    ...         SegmentationClass(id=7, name="Land", color="#505050", scored=False),
    ...     ],
    ... )
    >>> classes.names, classes.unscored, classes.slugs
    (('Land', 'Water'), 1, ('07_land', '01_water'))
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    ignore: int | str | None = None
    """Masks have this value, or this colour ``"#rrggbb"``, where there is no label."""
    classes: tuple[SegmentationClass, ...] = Field(min_length=2, max_length=MAX_CLASSES)

    @field_validator("ignore", mode="before")
    @classmethod
    def _check_ignore_kind(cls, value: Any) -> Any:
        return _no_truth(value)

    @field_validator("ignore")
    @classmethod
    def _check_ignore(cls, value: int | str | None) -> int | str | None:
        if isinstance(value, str):
            if not re.fullmatch(_COLOUR, value):
                raise ValueError(f'{value!r} is neither a value nor a colour "#rrggbb" in quotes')
            return value.lower()
        if value is not None and not 0 <= value <= IGNORED:
            raise ValueError(f"{value} is not in 0..{IGNORED}")
        return value

    @field_validator("classes")
    @classmethod
    def _sort(cls, value: tuple[SegmentationClass, ...]) -> tuple[SegmentationClass, ...]:
        return tuple(sorted(value, key=lambda entry: (entry.scored, entry.id)))

    @model_validator(mode="after")
    def _check_entries(self) -> "ClassList":
        problems = []
        for key, values in (
            ("id", [entry.id for entry in self.classes]),
            ("name", [entry.name.casefold() for entry in self.classes]),
            ("color", [entry.color for entry in self.classes]),
        ):
            repeated = [value for value, count in Counter(values).items() if count > 1]
            problems += [f"the {key} {value} belongs to several classes" for value in repeated]
        if self.ignore in {entry.id for entry in self.classes} | {entry.color for entry in self.classes}:
            problems.append(f"ignore: {self.ignore} belongs to a class")
        if not any(entry.scored for entry in self.classes):
            problems.append("no class is scored")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def __len__(self) -> int:
        """Number of classes, those that are not scored included."""
        return len(self.classes)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """By index."""
        return tuple(entry.name for entry in self.classes)

    @cached_property
    def ids(self) -> npt.NDArray[np.uint8]:
        """The value in files of each index, uint8 (256,); 255 for what is no index."""
        ids = np.full(256, IGNORED, np.uint8)
        ids[: len(self.classes)] = [entry.id for entry in self.classes]
        return ids

    @cached_property
    def indices(self) -> npt.NDArray[np.uint8]:
        """The index of each value in files, uint8 (256,); 255 for what is no class."""
        indices = np.full(256, IGNORED, np.uint8)
        for index, entry in enumerate(self.classes):
            indices[entry.id] = index
        return indices

    @property
    def ignored_value(self) -> int | None:
        """What masks of ids have where there is no label; None where all pixels must have a class."""
        if self.ignore is None:
            return None
        return self.ignore if isinstance(self.ignore, int) else IGNORED

    @property
    def unscored(self) -> int:
        """Number of classes that are not scored: the index of the first scored class."""
        return sum(not entry.scored for entry in self.classes)

    @property
    def scored(self) -> int:
        """Number of scored classes."""
        return len(self.classes) - self.unscored

    @cached_property
    def palette(self) -> npt.NDArray[np.uint8]:
        """RGB colour of each index, uint8 (classes, 3)."""
        return np.array([list(bytes.fromhex(entry.color[1:])) for entry in self.classes], np.uint8)

    @cached_property
    def slugs(self) -> tuple[str, ...]:
        """By index, the name as a key for files and metrics."""
        return tuple(slug(entry.id, entry.name) for entry in self.classes)

    @property
    def scored_slugs(self) -> tuple[str, ...]:
        """Of the scored classes."""
        return self.slugs[self.unscored :]

    def identity(self) -> dict[str, Any]:
        """What decides results: all but the colours in figures."""
        entries = [[entry.id, entry.name, entry.scored] for entry in self.classes]
        return {"classes": entries, "ignore": self.ignored_value}


def _no_truth(value: Any) -> Any:
    """Refuse what YAML reads as true or false, which Python takes for 1 and 0."""
    if isinstance(value, bool):
        raise ValueError(f"{str(value).lower()} is no value of a mask; write a number")
    return value


def describe_ids(ids: Sequence[int]) -> str:
    """Ids in words: as a range where they are one.

    >>> describe_ids([1, 2, 3]), describe_ids([3, 9])
    ('1..3', '3, 9')
    """
    ordered = sorted(ids)
    whole = ordered[-1] - ordered[0] == len(ordered) - 1
    return f"{ordered[0]}..{ordered[-1]}" if whole else ", ".join(map(str, ordered))


def slug(class_id: int, name: str) -> str:
    """A class as a key for files and metrics, in the characters that MLflow takes.

    >>> slug(3, "Swimming Pool"), slug(14, "Road / Highway")
    ('03_swimming_pool', '14_road_highway')
    """
    words = "".join(letter if letter.isascii() and letter.isalnum() else " " for letter in name.lower()).split()
    return "_".join([f"{class_id:02d}", *words])


def _built_in(name: str, entries: Sequence[tuple[str, tuple[int, int, int]]]) -> ClassList:
    """A list with the ids 0, 1, 2, ... whose first class, the background, is not scored."""
    return ClassList(
        name=name,
        classes=tuple(
            SegmentationClass(id=index, name=entry, color="#{:02x}{:02x}{:02x}".format(*colour), scored=index > 0)
            for index, (entry, colour) in enumerate(entries)
        ),
    )


_HARVEY25 = (
    ("Background", (40, 40, 40)),
    ("Property Roof", (200, 62, 62)),
    ("Secondary Structure", (232, 132, 84)),
    ("Swimming Pool", (0, 200, 240)),
    ("Vehicle", (255, 222, 0)),
    ("Grass", (152, 206, 96)),
    ("Trees / Shrubs", (34, 120, 52)),
    ("Solar Panels", (24, 40, 140)),
    ("Chimney", (120, 20, 20)),
    ("Street Light", (255, 250, 190)),
    ("Window", (110, 170, 220)),
    ("Satellite Antenna", (250, 120, 250)),
    ("Garbage Bins", (60, 60, 180)),
    ("Trampoline", (255, 100, 30)),
    ("Road / Highway", (128, 128, 136)),
    ("Under Construction", (190, 150, 110)),
    ("Power Lines & Cables", (245, 245, 245)),
    ("Water Tank / Oil Tank", (90, 90, 120)),
    ("Parking Area - Commercial", (178, 178, 200)),
    ("Sports Complex / Arena", (220, 90, 160)),
    ("Industrial Site", (140, 100, 160)),
    ("Dense Vegetation / Forest", (14, 70, 36)),
    ("Water Body", (30, 90, 200)),
    ("Flooded", (96, 130, 150)),
    ("Boat", (255, 255, 120)),
)

HARVEY25 = _built_in("harvey25", _HARVEY25)
"""The competition ``fdl21-fdl-dsba``: 24 scored classes and the background."""

_BRIDGE = 17
"""The id that the edition of 2022-23 gives to bridges: the classes from there on moved up by one."""

HARVEY26 = _built_in(
    "harvey26",
    (
        *_HARVEY25[:_BRIDGE],
        ("Bridge", (150, 60, 30)),
        *_HARVEY25[_BRIDGE:],
        ("Parking Area", (206, 206, 170)),
    ),
)
"""The edition of 2022-23 of the same photos: 26 labels and the background. The colours of both are this package's."""

FLOODNET10 = _built_in(
    "floodnet10",
    (
        ("Background", (40, 40, 40)),
        ("Building Flooded", (230, 60, 40)),
        ("Building Non-Flooded", (180, 120, 120)),
        ("Road Flooded", (160, 150, 20)),
        ("Road Non-Flooded", (140, 140, 140)),
        ("Water", (30, 90, 200)),
        ("Tree", (34, 120, 52)),
        ("Vehicle", (255, 0, 220)),
        ("Pool", (0, 200, 240)),
        ("Grass", (152, 206, 96)),
    ),
)
"""FloodNet (Rahnemoonfar et al. 2021, "FloodNet: A High Resolution Aerial Imagery Dataset for Post Flood Scene
Understanding"); the colours are this package's."""

RESCUENET = _built_in(
    "rescuenet",
    (
        ("Background", (40, 40, 40)),
        ("Water", (30, 90, 200)),
        ("Building No Damage", (180, 120, 120)),
        ("Building Minor Damage", (235, 255, 7)),
        ("Building Major Damage", (255, 184, 6)),
        ("Building Total Destruction", (255, 0, 0)),
        ("Vehicle", (255, 0, 220)),
        ("Road Clear", (140, 140, 140)),
        ("Road Blocked", (160, 150, 20)),
        ("Tree", (34, 120, 52)),
        ("Pool", (0, 200, 240)),
    ),
)
"""RescueNet as published (Rahnemoonfar, Chowdhury and Murphy 2023, Scientific Data 10); the colours are this
package's."""

RESCUENET12 = _built_in(
    "rescuenet12",
    (
        ("Background", (40, 40, 40)),
        ("Debris", (112, 9, 255)),
        ("Water", (30, 90, 200)),
        ("Building No Damage", (180, 120, 120)),
        ("Building Minor Damage", (235, 255, 7)),
        ("Building Major Damage", (255, 184, 6)),
        ("Building Total Destruction", (255, 0, 0)),
        ("Vehicle", (255, 0, 220)),
        ("Road", (140, 140, 140)),
        ("Tree", (34, 120, 52)),
        ("Pool", (0, 200, 240)),
        ("Sand", (160, 150, 20)),
    ),
)
"""The earlier edition, RescueNet_v1.0, by its authors' data loader (``rescuenetv1.py``); the colours are this
package's."""

_EDITIONS = ((HARVEY25, HARVEY26), (RESCUENET, RESCUENET12))

BUILT_IN: Mapping[str, ClassList] = {
    classes.name: classes for classes in (HARVEY25, HARVEY26, FLOODNET10, RESCUENET, RESCUENET12)
}
"""By the name that ``data.classes`` has for it."""


def fitting_lists(ids: Collection[int]) -> list[ClassList]:
    """The built-in lists that have all of these ids, and of whose ids at least two thirds occur.

    >>> [classes.name for classes in fitting_lists(range(11))]
    ['rescuenet', 'rescuenet12']

    Args:
        ids: values in masks, without those that stand for no label.
    """
    return [
        classes
        for classes in BUILT_IN.values()
        if {entry.id for entry in classes.classes}.issuperset(ids) and 3 * len(ids) >= 2 * len(classes)
    ]


def other_edition(classes: ClassList, ids: Collection[int]) -> str:
    """Say so where masks of a built-in list may be of another edition of the same data; empty if they cannot be.

    >>> other_edition(RESCUENET, [0, 1, 2])
    'rescuenet12 fits the masks, too, and calls 1, 2 Debris, Water instead of Water, Building No Damage'

    Args:
        classes: what the masks are taken for.
        ids: the values that they hold.
    """
    ours = {entry.id: entry.name for entry in classes.classes}
    for other in next((editions for editions in _EDITIONS if classes in editions), ()):
        theirs = {entry.id: entry.name for entry in other.classes}
        differ = [number for number in sorted(ids) if number not in theirs or theirs[number] != ours[number]]
        if differ and theirs.keys() >= set(differ):
            return (
                f"{other.name} fits the masks, too, and calls {', '.join(map(str, differ))} "
                f"{', '.join(theirs[number] for number in differ)} instead of "
                f"{', '.join(ours[number] for number in differ)}"
            )
    return ""
