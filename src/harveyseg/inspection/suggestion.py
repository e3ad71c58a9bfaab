"""A list of classes that fits masks, from the values or colours that they hold."""

import colorsys
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np

from harveyseg.classes import BUILT_IN, IGNORED, MAX_CLASSES, ClassList, SegmentationClass, fitting_lists
from harveyseg.data.masks import looks_like_jpeg_of_two
from harveyseg.inspection.mask_values import Colour, MaskContent, looks_resampled

_Key = TypeVar("_Key", int, Colour)

_THRESHOLD = "threshold them at 128 and save them as 8-bit grey PNG with the values 0 and 1"


@dataclass(frozen=True)
class Suggestion:
    """What masks hold, in words, and a list of classes for them."""

    shares: tuple[tuple[str, float], ...]
    """The values or colours with their shares of all pixels, the most frequent first."""
    classes: ClassList | None
    """None where no list would fit; the notes say why."""
    notes: tuple[str, ...]
    """What the user should know or do."""
    readings: Mapping[str, str] = field(default_factory=dict)
    """What built-in lists that fit call a value or colour of ``shares``."""


def suggest_classes(masks: Sequence[MaskContent], name: str) -> Suggestion:
    """Make a list of classes with placeholder names.

    Grey masks give ids; colour masks give colours, which get ids in the order of their frequency. The indices of
    palettes are ids where every palette means the same by them; elsewhere the colours decide, and their ids are none
    of the indices, so that a palette file can be read in one way only.

    Args:
        masks: as :func:`harveyseg.inspection.mask_values.read_mask_content` reads them.
        name: of the list.
    """
    grey = [mask for mask in masks if mask.values and not mask.colours]
    coloured = [mask for mask in masks if mask.colours]
    values = _total(mask.values for mask in masks)
    colours = _total(mask.colours for mask in masks)
    if not grey and not coloured:
        return Suggestion((), None, ("no mask could be read, so there is no list of classes",))
    if grey and any(not mask.values for mask in coloured):
        note = (
            f"masks of mixed kinds: {len(grey)} are grey and hold values, {len(coloured)} hold colours, and no file "
            "says which value is which colour; export all in one way"
        )
        return Suggestion((*_shares(values), *_shares(colours)), None, (note,))
    two_colours = not grey and len(values) == 2 and IGNORED in values  # 255 cannot be an id, but white can be a colour
    if any(not mask.values for mask in coloured) or two_colours:
        return _from_colours(coloured, colours, name)
    return _from_values(values, name)


def _from_values(values: Counter[int], name: str) -> Suggestion:
    shares = _shares(values)
    if looks_like_jpeg_of_two(np.array([values[value] for value in range(256)])):
        note = (
            f"grey noise: {len(values)} values, nearly all close to black or white, as JPEG leaves it; the masks are "
            f"of two classes and were saved as JPEG once: {_THRESHOLD}. classes.yaml is for the masks after that"
        )
        return Suggestion(shares, _by_id([0, 1], None, name), (note,))
    if looks_resampled(values):
        note = (
            f"{len(values)} values, more than classes can be: the masks were resized smoothly or saved as JPEG; "
            "export them again, with exact values"
        )
        return Suggestion(shares, None, (note,))
    ids = sorted(value for value in values if value != IGNORED)
    if len(ids) < 2 and IGNORED in values:
        note = (
            f"black and white: 255 cannot be the id of a class; {_THRESHOLD}. classes.yaml is for the masks after that"
        )
        return Suggestion(shares, _by_id([0, 1], None, name), (note,))
    if len(ids) < 2:
        return Suggestion(shares, None, (f"all masks hold the value {ids[0]} only; two classes are needed",))
    notes = [_names_note("values"), _built_in_note(ids)]
    if IGNORED in values:
        notes.append('255 is taken for "no label here" (ignore: 255 in classes.yaml)')
    classes = _by_id(ids, IGNORED if IGNORED in values else None, name)
    return Suggestion(shares, classes, tuple(notes), {str(number): text for number, text in _readings(ids).items()})


def _from_colours(masks: Sequence[MaskContent], colours: Counter[Colour], name: str) -> Suggestion:
    indices = _total(mask.indices for mask in masks)
    shares = _shares(colours)
    entries = frozenset[tuple[int, Colour]]().union(*(mask.palette for mask in masks))
    only_palettes = all(mask.palette for mask in masks)
    consistent = len(entries) == len(dict(entries)) == len({colour for _, colour in entries})
    if only_palettes and len(entries) == len(dict(entries)) > len(colours):
        note = "palettes in which several indices have one colour: the indices are taken for the ids"
        values = _from_values(indices, name)
        return replace(values, notes=(note, *values.notes))
    if looks_resampled(colours):
        note = (
            f"{len(colours)} colours, more than classes can be: the masks were resized smoothly or saved as JPEG; "
            "export them again, with exact colours"
        )
        return Suggestion(shares[: 2 * MAX_CLASSES], None, (note,))
    if len(colours) < 2:
        return Suggestion(shares, None, ("all masks hold one colour only; two classes are needed",))
    entries_of = dict(entries)
    index_of = {colour: index for index, colour in entries}
    if not consistent or IGNORED in entries_of:
        index_of = {}
    free = (number for number in range(IGNORED) if number not in indices)
    ids = {colour: index_of[colour] if colour in index_of else next(free) for colour, _ in colours.most_common()}
    notes = [_names_note("colours")]
    if indices and not index_of:
        notes.append(
            "the indices of the palette files are no ids: their colours decide, and no id is one of the indices"
        )
    readings = {}
    if only_palettes and index_of:
        notes.append(_built_in_note(indices))
        readings = {hexadecimal(entries_of[number]): text for number, text in _readings(indices).items()}
    return Suggestion(
        shares,
        ClassList(
            name=name,
            classes=tuple(
                SegmentationClass(id=number, name=f"class {number}", color=hexadecimal(colour))
                for colour, number in ids.items()
            ),
        ),
        tuple(notes),
        readings,
    )


def _built_in_note(ids: Collection[int]) -> str:
    fitting = [classes.name for classes in fitting_lists(ids)]
    if not fitting:
        return f"if the data are of a built-in list ({', '.join(BUILT_IN)}), name it in data.classes instead"
    if len(fitting) == 1:
        return (
            f"the values could be those of the built-in list {fitting[0]}: if its names fit the shares and the photos, "
            f"set data.classes to {fitting[0]} instead"
        )
    return (
        f"the values could be those of the built-in lists {', '.join(fitting)}, or of none: values alone cannot tell. "
        "If the names of one fit the shares and the photos, set data.classes to that one instead (docs/classes.md)"
    )


def _readings(ids: Iterable[int]) -> dict[int, str]:
    """What the built-in lists that fit call each id; those that agree are named together."""
    ordered = sorted(ids)
    readings = {}
    fitting = fitting_lists(ordered)
    for number in ordered:
        lists_of: dict[str, list[str]] = {}
        for classes in fitting:
            lists_of.setdefault(classes.names[int(classes.indices[number])], []).append(classes.name)
        readings[number] = "; ".join(f"{', '.join(lists)}: {name}" for name, lists in lists_of.items())
    return readings


def _by_id(ids: Sequence[int], ignore: int | None, name: str) -> ClassList:
    entries = [
        SegmentationClass(id=number, name=f"class {number}", color=hexadecimal(_distinct(place)))
        for place, number in enumerate(ids)
    ]
    return ClassList(name=name, ignore=ignore, classes=tuple(entries))


def _names_note(what: str) -> str:
    return (
        f"give the classes their names in classes.yaml, and `scored: false` to what nobody labelled on purpose; the "
        f"files hold only {what}"
    )


def _distinct(place: int) -> Colour:
    """A colour for figures, never grey: the golden ratio spreads hues evenly, and three tones keep 150 apart."""
    saturation, brightness = ((0.75, 0.9), (0.5, 0.95), (0.9, 0.6))[place % 3]
    red, green, blue = colorsys.hsv_to_rgb(place * 0.618034 % 1, saturation, brightness)
    return round(255 * red), round(255 * green), round(255 * blue)


def hexadecimal(colour: Colour) -> str:
    """A colour as classes.yaml writes it.

    >>> hexadecimal((30, 90, 200))
    '#1e5ac8'
    """
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _total(counters: Iterable[Counter[_Key]]) -> Counter[_Key]:
    total: Counter[_Key] = Counter()
    for counter in counters:
        total.update(counter)
    return total


def _shares(counts: Counter[int] | Counter[Colour]) -> tuple[tuple[str, float], ...]:
    pixels = counts.total()
    return tuple(
        (str(key) if isinstance(key, int) else hexadecimal(key), count / pixels) for key, count in counts.most_common()
    )
