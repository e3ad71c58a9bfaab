"""Class maps as GeoTIFF files on a mosaic's own grid, written row by row."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import rasterio
import rasterio.shutil
from rasterio.enums import Resampling
from rasterio.windows import Window

from harveyseg.arrays import ByteArray, ClassMap
from harveyseg.classes import IGNORED, ClassList
from harveyseg.files import atomic, write_text
from harveyseg.geo.full_disk import noticing_full_disk
from harveyseg.geo.mosaic import ignoring_missing_places

_BLOCK = 512
"""Rows and columns of a block of the file."""


class RowWriter:
    """Collects rows until they fill whole rows of blocks: other writes would make the file twice as large.

    Args:
        file: a raster opened for writing, with blocks of 512 pixels.
    """

    def __init__(self, file: Any) -> None:
        self._file = file
        self._waiting: list[ByteArray] = []
        self._top = 0

    def write(self, rows: ByteArray) -> None:
        """Append rows: uint8 (bands, n, W)."""
        self._waiting.append(rows)
        count = sum(part.shape[1] for part in self._waiting)
        if count >= _BLOCK:
            self._flush(count - count % _BLOCK)

    def finish(self) -> None:
        """Write what is left."""
        self._flush(sum(part.shape[1] for part in self._waiting))

    def _flush(self, count: int) -> None:
        if not count:
            return
        rows = np.concatenate(self._waiting, axis=1)
        self._file.write(rows[:, :count], window=Window(0, self._top, rows.shape[2], count))
        self._top += count
        self._waiting = [rows[:, count:]]


@contextmanager
def writing_class_raster(
    path: Path,
    size: tuple[int, int],
    crs: str | None,
    transform: Any,
    classes: ClassList,
    tags: Mapping[str, str],
) -> Iterator[RowWriter]:
    """Write a class map as a cloud-optimised GeoTIFF with palette, overviews and, next to it, the classes' names.

    Overviews hold the most frequent class. The names are in ``<name>.tif.aux.xml``, where GDAL and QGIS look for them.

    Args:
        path: ends in ``.tif``; written when the block ends without an error.
        size: (height, width) in pixels.
        crs: coordinate reference system as WKT, or None.
        transform: the affine transform of the grid.
        classes: the list of classes.
        tags: what the file says about its origin.

    Yields:
        What takes the rows of class ids, uint8 (1, n, W), from top to bottom.
    """
    options = {"overview_resampling": "mode"}
    with _cloud_optimised(path, size, 1, crs, transform, tags, options) as (file, writer):
        file.write_colormap(1, _colour_table(classes))  # before any pixel, or GDAL refuses
        file.set_band_description(1, "class")
        yield writer
    write_text(path.with_name(f"{path.name}.aux.xml"), _class_names(classes))


def read_classes(path: Path, size: tuple[int, int]) -> ClassMap:
    """A class raster shrunk to ``size``: each pixel gets the most frequent id in it, or 255 if nothing was seen."""
    with ignoring_missing_places(), rasterio.open(path) as file:
        return np.asarray(file.read(1, out_shape=size, resampling=Resampling.mode), np.uint8)


@contextmanager
def writing_probabilities(
    path: Path, size: tuple[int, int], crs: str | None, transform: Any, names: list[str], tags: Mapping[str, str]
) -> Iterator[RowWriter]:
    """Write probabilities of some classes, a band each; see :func:`writing_class_raster`.

    Yields:
        What takes the rows, uint8 (classes, n, W): the probability in 255 levels, 255 times p, from top to bottom.
    """
    options = {"overview_resampling": "average"}
    with _cloud_optimised(path, size, len(names), crs, transform, tags, options) as (file, writer):
        for band, name in enumerate(names, 1):
            file.set_band_description(band, name)
        yield writer


@contextmanager
def _cloud_optimised(
    path: Path,
    size: tuple[int, int],
    bands: int,
    crs: str | None,
    transform: Any,
    tags: Mapping[str, str],
    options: Mapping[str, str],
) -> Iterator[tuple[Any, RowWriter]]:
    """A plain GeoTIFF to write to, which becomes a cloud-optimised one: GDAL makes those only as copies."""
    profile: dict[str, Any] = {
        "driver": "GTiff", "height": size[0], "width": size[1], "count": bands, "dtype": "uint8", "crs": crs,
        "transform": transform, "tiled": True, "blockxsize": _BLOCK, "blockysize": _BLOCK, "compress": "DEFLATE",
        "zlevel": 1, "bigtiff": "IF_SAFER",
    }  # fmt: skip
    if bands == 1:
        profile["nodata"] = IGNORED
    # Next to the result, whose disk has room for it; the next attempt replaces what a killed process left.
    rows_path = path.with_name(f".{path.stem}.rows.tif")
    try:
        with ignoring_missing_places(), atomic(path) as temporary, noticing_full_disk(path.parent):
            with (
                atomic(rows_path) as rows_file,
                noticing_full_disk(path.parent),
                rasterio.open(rows_file, "w", **profile) as file,
            ):
                file.update_tags(**tags)
                writer = RowWriter(file)
                yield file, writer
                writer.finish()
            copy_options = {"compress": "DEFLATE", "blocksize": _BLOCK, "bigtiff": "IF_SAFER", **options}
            rasterio.shutil.copy(rows_path, temporary, driver="COG", **copy_options)
    finally:
        rows_path.unlink(missing_ok=True)


def _colour_table(classes: ClassList) -> dict[int, tuple[int, int, int, int]]:
    table = {
        entry.id: (int(red), int(green), int(blue), 255)
        for entry, (red, green, blue) in zip(classes.classes, classes.palette, strict=True)
    }
    return {**table, IGNORED: (0, 0, 0, 0)}


def _class_names(classes: ClassList) -> str:
    """GDAL's sidecar: names of the values 0, 1, ..., and a table of values, names and colours."""
    dataset = ElementTree.Element("PAMDataset")
    band = ElementTree.SubElement(dataset, "PAMRasterBand", band="1")
    names = ElementTree.SubElement(band, "CategoryNames")
    table = ElementTree.SubElement(band, "GDALRasterAttributeTable", tableType="thematic")
    # Name, type (0 integer, 2 text) and usage (5 value, 2 name, 6 to 8 red, green, blue) of each column.
    columns = [("Value", 0, 5), ("Class", 2, 2), ("Red", 0, 6), ("Green", 0, 7), ("Blue", 0, 8)]
    for index, column in enumerate(columns):
        definition = ElementTree.SubElement(table, "FieldDefn", index=str(index))
        for tag, value in zip(("Name", "Type", "Usage"), column, strict=True):
            ElementTree.SubElement(definition, tag).text = str(value)
    name_of = {entry.id: entry.name for entry in classes.classes}
    for value in range(max(name_of) + 1):
        ElementTree.SubElement(names, "Category").text = name_of.get(value, "")
    colour_of = _colour_table(classes)
    for number, (class_id, name) in enumerate(sorted(name_of.items())):
        row = ElementTree.SubElement(table, "Row", index=str(number))
        for value in (class_id, name, *colour_of[class_id][:3]):
            ElementTree.SubElement(row, "F").text = str(value)
    ElementTree.indent(dataset)
    return ElementTree.tostring(dataset, encoding="unicode") + "\n"
