"""The files that a prediction writes for one image."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
import shapely
from affine import Affine

from harveyseg.arrays import ByteArray, ClassMap
from harveyseg.classes import IGNORED, ClassList
from harveyseg.geo.assessment import FLOODED, ROOF, Assessment, assess, can_assess, first_known
from harveyseg.geo.class_raster import RowWriter, read_classes, writing_class_raster, writing_probabilities
from harveyseg.geo.ground import Georeference
from harveyseg.geo.mosaic import Mosaic
from harveyseg.geo.polygons import class_polygons
from harveyseg.geo.vector_files import write_geojson, write_geopackage
from harveyseg.prediction.areas import AreaCounter
from harveyseg.prediction.class_maps import Stripe
from harveyseg.prediction.inputs import Input
from harveyseg.prediction.overlay import draw_overlay, overlay_size, write_image
from harveyseg.prediction.pictures import Picture
from harveyseg.prediction.record import Areas
from harveyseg.prediction.scale import Scale
from harveyseg.prediction.trained_ensemble import TrainedEnsemble
from harveyseg.progress import Progress

_POLYGON_PIXELS = 2**24
"""The polygons of a larger map are made at a coarser scale, to bound their memory."""


@dataclass(frozen=True)
class ProductOptions:
    """Which products are written besides class map, overlay, areas and GeoPackage."""

    probabilities: tuple[int, ...] = ()
    """Indices of the classes whose probabilities are written."""
    geojson: bool = False


def product_names(item: Input, classes: ClassList, options: ProductOptions) -> list[str]:
    """The names of the files that a prediction of an image writes."""
    overlay = f"{item.name}_overlay.jpg"
    if not item.is_tiff:
        ids = [classes.classes[index].id for index in options.probabilities]
        return [f"{item.name}.png", *(f"{item.name}_probability_{number:02d}.png" for number in ids), overlay]
    names = [f"{item.name}.tif", f"{item.name}.tif.aux.xml", overlay]
    if options.probabilities:
        names.append(f"{item.name}_probabilities.tif")
    if item.georeference is not None:
        names += [f"{item.name}.gpkg", *([f"{item.name}.geojson"] if options.geojson else [])]
    return names


def write_maps(
    item: Input,
    picture: Picture,
    stripes: Iterator[Stripe],
    classes: ClassList,
    scale: Scale,
    out: Path,
    options: ProductOptions,
    tags: Mapping[str, str],
    progress: Progress,
) -> tuple[list[Path], Areas]:
    """Write class map, probabilities and overlay while they are predicted.

    Args:
        item: the image.
        picture: its pixels.
        stripes: the prediction, from top to bottom.
        classes: the list of classes.
        scale: for areas where there is no georeference.
        out: the folder.
        options: what else to write.
        tags: what a GeoTIFF says about its origin.
        progress: told of every stripe.

    Returns:
        The files, and what the class map shows.
    """
    counter = AreaCounter(classes, item.size[1], item.georeference, scale.pixel)
    if item.is_tiff:
        assert isinstance(picture, Mosaic)
        files = _write_rasters(item, picture, _counted(stripes, counter, progress), classes, out, options, tags)
        size = overlay_size(item.size)
        small = classes.indices[read_classes(files[0], size)]
    else:
        files, class_map = _write_pngs(item, _counted(stripes, counter, progress), classes, out, options)
        size = item.size
        small = class_map
    overlay = picture.colours(slice(0, size[0]), size)
    draw_overlay(overlay, small, classes)
    path = out / f"{item.name}_overlay.jpg"
    write_image(path, overlay)
    return [*files, path], counter.areas()


def write_vectors(
    item: Input,
    class_raster: Path,
    grid: tuple[int, int],
    scale: Scale,
    out: Path,
    options: ProductOptions,
    ensemble: TrainedEnsemble,
) -> list[Path]:
    """Write polygons and an assessment of a georeferenced class map.

    Without classes of buildings and of water, there is nothing to assess.

    Args:
        item: the image; it has a georeference.
        class_raster: its class map.
        grid: (height, width) in pixels of the networks' scale, at which borders are drawn.
        scale: of the image.
        out: the folder.
        options: what else to write.
        ensemble: the networks.

    Returns:
        The files.
    """
    assert item.georeference is not None
    size = _bounded(grid, item.size)
    polygons = _polygons(class_raster, item.size, size, item.georeference, ensemble.classes)
    path = out / f"{item.name}.gpkg"
    if len(polygons) and can_assess(ensemble.classes.names):
        assessment = assess(polygons)
        write_assessment(path, polygons, assessment, ensemble.measured, scale.pixel, ensemble.name, with_classes=True)
    else:
        write_geopackage(path, {"classes": polygons})
    if not options.geojson:
        return [path]
    geojson = out / f"{item.name}.geojson"
    write_geojson(geojson, polygons)
    return [path, geojson]


def write_assessment(
    path: Path,
    polygons: geopandas.GeoDataFrame,
    assessment: Assessment,
    measured: Mapping[str, Mapping[str, float]],
    pixel: tuple[float, float] | None,
    model: str,
    with_classes: bool,
) -> None:
    """Write buildings, roads, what was seen and a summary; with the classes' polygons if wanted."""
    # Polygons that were just made share their borders exactly; those of a file may have been edited.
    union = shapely.coverage_union_all if with_classes else shapely.union_all
    seen = geopandas.GeoDataFrame(geometry=[union(polygons.geometry.to_numpy())], crs=polygons.crs)
    summary = {
        **assessment.summary,
        "pixel_cm": None if pixel is None else 100 * max(pixel),
        "model": model,
        **error_rates(measured),
    }
    layers = {
        "buildings": assessment.buildings,
        "roads": assessment.roads,
        "seen": seen,
        "summary": pd.DataFrame([summary]),
    }
    write_geopackage(path, {"classes": polygons, **layers} if with_classes else layers)


def error_rates(measured: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Precision, recall and IoU of the classes on which an assessment rests, e.g. ``flooded_recall``.

    A class that no held-out photo shows has none: its precision of 0 would say that the networks are always wrong.
    """
    return {
        f"{short}_{measure}": value
        for short, role in (("flooded", FLOODED), ("roof", ROOF))
        if (name := first_known(role, measured)) and "recall" in measured[name]
        for measure, value in measured[name].items()
    }


def _counted(stripes: Iterator[Stripe], counter: AreaCounter, progress: Progress) -> Iterator[Stripe]:
    for stripe in stripes:
        counter.add(stripe.classes)
        yield stripe
        progress.add(stripe.classes.size / 1e6)


def _write_rasters(
    item: Input,
    mosaic: Mosaic,
    stripes: Iterator[Stripe],
    classes: ClassList,
    out: Path,
    options: ProductOptions,
    tags: Mapping[str, str],
) -> list[Path]:
    crs = None if item.georeference is None else item.georeference.crs
    path = out / f"{item.name}.tif"
    files = [path, path.with_name(f"{path.name}.aux.xml")]
    probabilities_path = out / f"{item.name}_probabilities.tif"
    with ExitStack() as stack:
        writer = stack.enter_context(writing_class_raster(path, item.size, crs, mosaic.transform, classes, tags))
        probabilities: RowWriter | None = None
        if options.probabilities:
            names = [classes.names[index] for index in options.probabilities]
            probabilities = stack.enter_context(
                writing_probabilities(probabilities_path, item.size, crs, mosaic.transform, names, tags)
            )
            files.append(probabilities_path)
        for stripe in stripes:
            writer.write(classes.ids[stripe.classes][None])
            if probabilities is not None:
                probabilities.write(stripe.probabilities)
    return files


def _write_pngs(
    item: Input, stripes: Iterator[Stripe], classes: ClassList, out: Path, options: ProductOptions
) -> tuple[list[Path], ClassMap]:
    """Write the class map and a grey PNG for each class whose probabilities are wanted; returns the class map, too."""
    class_map = np.empty(item.size, np.uint8)
    probabilities: ByteArray = np.empty((len(options.probabilities), *item.size), np.uint8)
    top = 0
    for stripe in stripes:
        rows = slice(top, top + len(stripe.classes))
        class_map[rows] = stripe.classes
        probabilities[:, rows] = stripe.probabilities
        top = rows.stop
    path = out / f"{item.name}.png"
    write_image(path, classes.ids[class_map])
    files = [path]
    for index, channel in zip(options.probabilities, probabilities, strict=True):
        files.append(out / f"{item.name}_probability_{classes.classes[index].id:02d}.png")
        write_image(files[-1], channel)
    return files, class_map


def _polygons(
    class_raster: Path, size: tuple[int, int], grid: tuple[int, int], georeference: Georeference, classes: ClassList
) -> geopandas.GeoDataFrame:
    class_map = classes.indices[read_classes(class_raster, grid)]
    steps = (size[0] / grid[0], size[1] / grid[1])
    height, width = georeference.pixel_size(size)
    pixel_area = height * width * steps[0] * steps[1]
    transform = georeference.transform @ Affine.scale(steps[1], steps[0])
    return class_polygons(class_map, class_map != IGNORED, classes, transform, georeference.crs, pixel_area)


def _bounded(grid: Sequence[int], size: Sequence[int]) -> tuple[int, int]:
    """The grid of the polygons: that of the networks, but no finer than the map, and of bounded size."""
    height, width = (min(side, own) for side, own in zip(grid, size, strict=True))
    shrink = max(1.0, (height * width / _POLYGON_PIXELS) ** 0.5)
    return max(1, round(height / shrink)), max(1, round(width / shrink))
