"""``harveyseg assess``: what stands in water on maps that ``harveyseg predict`` wrote."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from harveyseg.errors import HarveysegError, raise_problems
from harveyseg.files import require_writable
from harveyseg.geo.assessment import FLOODED, ROOF, assess, can_assess, first_known
from harveyseg.geo.own_layers import LayerKind, OwnLayer, read_layer
from harveyseg.geo.vector_files import read_geopackage_layer
from harveyseg.prediction.products import write_assessment
from harveyseg.prediction.record import PredictionRecord, read_record

ENDING = "_assessment.gpkg"


class AssessedMap(NamedTuple):
    """The assessment of one map."""

    file: Path
    """``<name>_assessment.gpkg``, next to the map."""
    text: str
    """The counts, and how far to trust them."""


def assess_maps(
    paths: Sequence[Path], buildings: Path | None, roads: Path | None, overwrite: bool = False
) -> list[AssessedMap]:
    """Assess maps, with someone's buildings and roads where there are any.

    Args:
        paths: GeoPackages of predictions, or folders of them.
        buildings: footprints in any vector format; the map's own roofs if None.
        roads: lines in any vector format.
        overwrite: replace files of this name that exist, whoever wrote them.

    Raises:
        HarveysegError: when there is no map, a file cannot be read, a layer lies on none of the maps, or an assessment
            exists already.
    """
    files = [file for path in paths for file in _maps(path)]
    for folder in {file.parent for file in files}:
        require_writable(folder)
    if not overwrite:
        existing = [target for file in files if os.path.lexists(target := _target(file))]
        raise_problems(
            [f"{target}: exists already" for target in existing],
            "assessments",
            "Nothing was assessed yet. Move or rename these files to keep them, or replace them with --overwrite.",
        )
    if buildings is not None:
        _check_place(files, buildings, "buildings")
    if roads is not None:
        _check_place(files, roads, "roads")
    return [_assess_map(file, buildings, roads) for file in files]


def _maps(path: Path) -> list[Path]:
    if path.is_dir():
        files = [file for file in sorted(path.glob("*.gpkg")) if not file.name.endswith(ENDING)]
        if not files:
            raise HarveysegError(
                f"{path}: holds no maps of georeferenced images (*.gpkg). `harveyseg predict` writes them from GeoTIFF."
            )
        return files
    if not path.is_file():
        raise HarveysegError(f"{path}: no such file. Name a .gpkg that `harveyseg predict` wrote, or its folder.")
    return [path]


def _target(file: Path) -> Path:
    return file.with_name(f"{file.stem}{ENDING}")


def _check_place(files: Sequence[Path], path: Path, kind: LayerKind) -> None:
    """A layer that lies on no map at all is empty or lies elsewhere: "0 in water" would be wrong."""
    total = 0
    for file in files:
        polygons = read_geopackage_layer(file, "classes")
        layer = read_layer(path, kind, polygons) if len(polygons) else None
        if layer is None or len(layer.features):
            return
        total = layer.total
    maps = f"the map {files[0]}" if len(files) == 1 else f"the {len(files)} maps"
    cause = f"none of its {total} features lies on {maps}" if total else "is empty"
    raise HarveysegError(
        f"{path}: {cause}. Give --{kind} a layer of this place, with the right coordinate reference system."
    )


def _assess_map(file: Path, buildings: Path | None, roads: Path | None) -> AssessedMap:
    record = read_record(file.with_suffix(".json"))
    if record is None:
        raise HarveysegError(f"{file.with_suffix('.json')}: no record of this version. Run `harveyseg predict` again.")
    if not can_assess(list(record.areas.percent)):
        raise HarveysegError(
            f"{file}: its classes ({', '.join(record.areas.percent)}) are none of buildings and of water that `assess` "
            f"knows: {', '.join(ROOF[:1])} and {FLOODED[0]} or Water Body. Name them so in your list of classes."
        )
    polygons = read_geopackage_layer(file, "classes")
    if not len(polygons):
        raise HarveysegError(f"{file}: nothing was seen on this map.")
    footprints = None if buildings is None else read_layer(buildings, "buildings", polygons)
    lines = None if roads is None else read_layer(roads, "roads", polygons)
    assessment = assess(
        polygons, None if footprints is None else footprints.features, None if lines is None else lines.features
    )
    notes = []
    if footprints is not None:
        notes += _coverage(buildings, footprints, "footprints", len(assessment.buildings))
    if lines is not None:
        notes += _coverage(roads, lines, "lines", len(lines.features))
    notes += assessment.notes
    target = _target(file)
    model = str(record.settings.get("model"))
    write_assessment(target, polygons, assessment, record.measured, record.pixel_m, model, with_classes=False)
    return AssessedMap(target, "\n".join([describe(record, assessment.summary), *(f"  {note}" for note in notes)]))


def _coverage(path: Path | None, layer: OwnLayer, name: str, on_map: int) -> list[str]:
    """How much of someone's layer the counts speak of."""
    if not on_map:
        return [f"none of the {layer.total} {name} of {path} lies on this map: the counts say nothing"]
    notes = [f"{on_map} of {layer.total} {name} of {path} lie on this map; the rest is not counted"]
    if on_map == layer.total:
        notes = []
    if layer.other_kinds:
        notes.append(f"{layer.other_kinds} features of {path} near the map are no {name} and are left out")
    return notes


def describe(record: PredictionRecord, summary: Mapping[str, float]) -> str:
    """The counts of an assessment in words, with the error rates of the networks behind them."""
    counts = ", ".join(
        f"{summary[f'buildings_{key}']:.0f} {state}"
        for key, state in (("in_water", "in water"), ("touched", "touched"), ("dry", "dry"), ("unknown", "unknown"))
    )
    lines = [f"{record.name}: buildings: {counts}"]
    if "road_cuts" in summary:
        lines.append(
            f"  roads: cut {summary['road_cuts']:.0f} times on {summary['road_cut_m']:.1f} m; "
            f"{summary['road_water_m']:.1f} m in water, {summary['road_dry_m']:.1f} m dry, "
            f"{summary['road_unseen_m']:.1f} m not seen"
        )
    else:
        lines.append(f"  roads: flood meets road at {summary['flood_meets_road']:.0f} places; --roads finds the cuts")
    named = [first_known(role, record.measured) for role in (FLOODED, ROOF)]
    rates = [_rates(name, record.measured[name]) for name in named if name and record.measured[name]]
    trust = "; ".join(rates) if rates else "not known for these networks"
    lines.append(f"  error rates on held-out photos, before post-processing: {trust}")
    lines.append("  the depth of water cannot be had from a photo")
    return "\n".join(lines)


def _rates(name: str, measures: Mapping[str, float]) -> str:
    if "recall" not in measures:  # a precision of 0 would say that the networks are always wrong
        return f"{name}: not known, no held-out photo shows it"
    parts = [f"{label} {measures[key]:.2f}" for key, label in _MEASURES if key in measures]
    return f"{name}: {', '.join(parts)}"


_MEASURES = (("precision", "precision"), ("recall", "recall"), ("iou", "IoU"))
