"""The record of one prediction, written last: what was predicted, how, and what came out.

An image whose record says that the same file was predicted in the same way, and whose products are still as they were
written, is not predicted again.
"""

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError

from harveyseg.errors import HarveysegError
from harveyseg.files import read_json, sha256, write_json, write_table

_IMAGE_COLUMNS = ("image", "scale", "seen_percent", "seen_m2")

AREAS = "areas.csv"
KIND: Literal["harveyseg prediction"] = "harveyseg prediction"
"""What a record says of itself: other programs write JSON files as well."""


class Areas(BaseModel):
    """What a class map shows."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pixels: int
    """Of the map, whether or not something was seen there."""
    seen_pixels: int
    seen_m2: float | None
    """None where the scale is not known."""
    percent: dict[str, float]
    """By class, of what was seen."""
    m2: dict[str, float] | None
    """By class."""


class PredictionRecord(BaseModel):
    """One image, how it was predicted, and its products."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["harveyseg prediction"] = KIND

    name: str
    path: str
    sha256: str
    """Of the image's file."""
    settings: dict[str, Any]
    """All that decides the result besides the file: networks, rule, settings, scale, options, version."""
    scale_origin: str
    pixel_m: tuple[float, float] | None
    """(height, width) of a pixel in metres, at the centre."""
    areas: Areas
    measured: dict[str, dict[str, float]]
    """By class, iou, precision and recall of the networks' argmax maps of held-out photos."""
    outputs: dict[str, str]
    """SHA-256 of each product, by file name."""

    @property
    def image(self) -> str:
        """Its file's name, with the folders' names where its products have them: drones number photos from 1 again."""
        return f"{self.name}{Path(self.path).suffix}"

    def describe(self) -> str:
        """The image's name and the classes that cover at least 0.1% of what was seen, the largest first."""
        classes = sorted(((percent, name) for name, percent in self.areas.percent.items()), reverse=True)
        shown = [f"{name} {percent:.1f}%" for percent, name in classes if percent >= 0.1]
        unseen = 100 * (1 - self.areas.seen_pixels / self.areas.pixels)
        note = f" (of what was seen; {unseen:.1f}% was not)" if unseen >= 0.05 else ""
        return f"{self.image}: {', '.join(shown) or 'nothing was seen'}{note}"

    def missing(self, folder: Path) -> list[str]:
        """The products that are not in ``folder``."""
        return [name for name in self.outputs if not (folder / name).exists()]

    def changed(self, folder: Path) -> list[str]:
        """The products in ``folder`` that are not as they were written."""
        return [
            name
            for name, digest in self.outputs.items()
            if (folder / name).exists() and not ((folder / name).is_file() and sha256(folder / name) == digest)
        ]


def write_record(folder: Path, record: PredictionRecord) -> None:
    """Write ``<name>.json``."""
    write_json(folder / f"{record.name}.json", record.model_dump(mode="json"))


def read_record(path: Path) -> PredictionRecord | None:
    """The record in a file; None where there is none, or none of this version.

    Raises:
        HarveysegError: when the file is no JSON object.
    """
    if not path.exists():
        return None
    try:
        return PredictionRecord.model_validate(read_json(path, "Delete it."))
    except ValidationError:
        return None


def read_records(folder: Path) -> Iterator[PredictionRecord]:
    """All records in a folder, by name; other JSON files are skipped."""
    for path in sorted(folder.glob("*.json")):
        try:
            record = read_record(path)
        except HarveysegError:  # someone else's file
            continue
        if record is not None:
            yield record


def changed_settings(record: PredictionRecord, settings: Mapping[str, Any]) -> list[str]:
    """The names of the settings that differ."""
    names = record.settings.keys() | settings.keys()
    return sorted(name for name in names if record.settings.get(name) != settings.get(name))


def write_areas(folder: Path, records: Sequence[PredictionRecord], classes: Sequence[str]) -> pd.DataFrame:
    """Write ``areas.csv``: a row for each record.

    Args:
        folder: where to write.
        records: of images; some may have been predicted with other classes.
        classes: the names of the classes, in the order of their columns.

    Returns:
        The columns image, scale (what it was taken from), seen_percent, seen_m2, then for each class its percentage of
        what was seen, and ``<class> m2``; these are empty where the scale is not known.
    """
    names = _class_names(records, classes)
    rows = []
    for record in records:
        areas = record.areas
        rows.append(
            {
                "image": record.image,
                "scale": record.scale_origin,
                "seen_percent": 100 * areas.seen_pixels / areas.pixels,
                "seen_m2": areas.seen_m2,
                **{name: areas.percent.get(name) for name in names},
                **{f"{name} m2": None if areas.m2 is None else areas.m2.get(name) for name in names},
            }
        )
    table = pd.DataFrame(rows)
    write_table(folder / AREAS, table, float_format="%.3f")
    return table


def is_areas_table(path: Path, classes: Sequence[str]) -> bool:
    """Whether a file has the columns of :func:`write_areas`, for the records of its folder and these classes."""
    names = _class_names(list(read_records(path.parent)), classes)
    try:
        with path.open(encoding="utf-8", newline="") as opened:
            columns = next(csv.reader(opened), [])
    except (OSError, UnicodeDecodeError):
        return False
    own = {*_IMAGE_COLUMNS, *names, *(f"{name} m2" for name in names)}
    return tuple(columns[: len(_IMAGE_COLUMNS)]) == _IMAGE_COLUMNS and own.issuperset(columns)


def _class_names(records: Sequence[PredictionRecord], classes: Sequence[str]) -> list[str]:
    return list(dict.fromkeys([*classes, *(name for record in records for name in record.areas.percent)]))
