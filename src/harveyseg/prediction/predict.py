"""``harveyseg predict``: photos and mosaics in, class maps and what follows from them out, each image once."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from harveyseg.classes import ClassList
from harveyseg.device import explain_out_of_memory
from harveyseg.errors import HarveysegError, first_names, raise_problems
from harveyseg.files import finished_by_last, require_writable, sha256
from harveyseg.geo.mosaic import MosaicOptions
from harveyseg.inference.params import InferenceParams
from harveyseg.prediction.claims import claiming, delete_products, refuse_foreign
from harveyseg.prediction.class_maps import EnsemblePredictor
from harveyseg.prediction.inputs import Input, check_inputs, find_inputs
from harveyseg.prediction.overlay import write_contact_sheets
from harveyseg.prediction.pictures import open_picture
from harveyseg.prediction.products import ProductOptions, product_names, write_maps, write_vectors
from harveyseg.prediction.record import (
    PredictionRecord,
    changed_settings,
    read_record,
    read_records,
    write_areas,
    write_record,
)
from harveyseg.prediction.scale import Scale, find_scale, warn_of_unknown_scales
from harveyseg.prediction.shard import Shard
from harveyseg.prediction.trained_ensemble import TrainedEnsemble
from harveyseg.progress import Progress
from harveyseg.project import library_versions

_IN_LEGEND = 0.05
"""Percent of an image from which a class is in the contact sheet's legend."""

LOCK = ".predicting.lock"
"""In the folder of the products, while a process predicts into it."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PredictionOptions:
    """What a user may say about the images and the products."""

    reading: MosaicOptions = field(default_factory=MosaicOptions)
    products: ProductOptions = field(default_factory=ProductOptions)
    gsd: float | None = None
    """Metres of a pixel; what the files say if None."""
    overwrite: bool = False
    """Predict images again that were predicted in another way, or whose products were changed."""
    shard: Shard | None = None
    """The images that this process predicts; all if None."""


class Outcome(NamedTuple):
    """What came of a call."""

    predicted: list[PredictionRecord]
    skipped: int
    """Images that had been predicted before in the same way."""
    errors: list[Exception]
    """One for each image that failed."""


def predict_images(
    arguments: Sequence[str], ensemble: TrainedEnsemble, params: InferenceParams, out: Path, options: PredictionOptions
) -> Outcome:
    """Predict what has not been predicted yet, and write ``areas.csv`` and a contact sheet of all that ``out`` holds.

    Everything that can be checked is checked before the first prediction. An image that fails later is reported, and
    the others go on. Where several processes predict into ``out`` at the same time, the last one writes the table and
    the sheet.

    Args:
        arguments: files, folders and patterns.
        ensemble: the networks.
        params: how to predict.
        out: the folder of the products.
        options: see :class:`PredictionOptions`.

    Raises:
        HarveysegError: when images cannot be read, have an impossible scale, were predicted in another way, or would
            replace a file of someone else, or ``out`` cannot be written to.
    """
    require_writable(out)
    candidates = find_inputs(arguments, out)
    if options.shard is not None:
        candidates = [candidate for candidate in candidates if options.shard.has(candidate.name)]
    inputs = check_inputs(candidates, options.reading)
    predictor = EnsemblePredictor(ensemble, params)
    scales = _find_scales(inputs, ensemble, predictor.network_size, options.gsd)
    warn_of_unknown_scales(inputs, scales, ensemble.training)
    jobs = [
        _Job(
            item,
            scale,
            sha256(item.path),
            _settings(item, scale, ensemble, params, options),
            product_names(item, ensemble.classes, options.products),
        )
        for item, scale in zip(inputs, scales, strict=True)
    ]
    planned = {job.item.name: [f"{job.item.name}.json", *job.products] for job in jobs}
    refuse_foreign(out, planned, ensemble.classes.names)
    todo = _not_done(jobs, out, options.overwrite)
    megapixels = sum(job.item.size[0] * job.item.size[1] for job in todo) / 1e6
    predicted: list[PredictionRecord] = []
    errors: list[Exception] = []
    with (
        finished_by_last(out / LOCK, lambda: summarise(out, ensemble.classes)),
        Progress("predicting", megapixels, "megapixels") as progress,
    ):
        for number, job in enumerate(todo):
            progress.add(0, f"{number} of {len(todo)} images done")
            try:
                with explain_out_of_memory(f"predicting {job.item.path}", "Cut it into smaller images."):
                    delete_products(out, job.item.name)
                    with claiming(out, job.item.name, job.products):
                        predicted.append(_predict(job, predictor, ensemble, out, options, progress))
            except HarveysegError as error:
                logger.error("%s", error)
                errors.append(error)
            except Exception as error:  # a fault of this program must not spoil the other images
                logger.exception("%s: failed", job.item.path)
                errors.append(error)
    return Outcome(predicted, len(jobs) - len(todo), errors)


class _Job(NamedTuple):
    item: Input
    scale: Scale
    digest: str
    """SHA-256 of the image's file."""
    settings: dict[str, Any]
    """All else that decides the result."""
    products: list[str]
    """The names of the files that it will have."""


def _find_scales(
    inputs: Sequence[Input], ensemble: TrainedEnsemble, network_size: tuple[int, int], gsd: float | None
) -> list[Scale]:
    scales: list[Scale] = []
    problems: list[str] = []
    for item in inputs:
        try:
            scales.append(find_scale(item, ensemble.training, network_size, gsd))
        except HarveysegError as error:
            problems.append(str(error))
    raise_problems(
        list(dict.fromkeys(problems)),
        "scale of the images",
        "Nothing was predicted yet. Correct it, or leave these out.",
    )
    return scales


def _settings(
    item: Input, scale: Scale, ensemble: TrainedEnsemble, params: InferenceParams, options: PredictionOptions
) -> dict[str, Any]:
    settings = {
        "model": ensemble.name,
        "networks": ensemble.identity,
        "version": library_versions()["harveyseg"],
        "photo_size": scale.photo_size,
        "probabilities": options.products.probabilities,
        "frame": options.reading.frame,
        **params.deciding(),
    }
    if item.is_tiff:
        settings |= {**asdict(options.reading), "geojson": options.products.geojson}
    # As JSON holds it, so that it can be compared with a record.
    return {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}


def _not_done(jobs: Sequence[_Job], out: Path, overwrite: bool) -> list[_Job]:
    """The images to predict. One whose products were changed, by someone's edits say, is left as it is.

    Raises:
        HarveysegError: when some were predicted in another way, and may not be overwritten.
    """
    todo: list[_Job] = []
    problems: list[str] = []
    for job in jobs:
        path = out / f"{job.item.name}.json"
        record = read_record(path)
        if record is None:
            if path.exists():
                problems.append(f"{path}: is not a record of this version")
            todo.append(job)
            continue
        changes = changed_settings(record, job.settings)
        if record.sha256 != job.digest:
            changes.append("another file")
        if changes:
            problems.append(f"{path}: was predicted in another way ({', '.join(changes)})")
            todo.append(job)
        elif (edited := record.changed(out)) and not overwrite:
            logger.warning(
                "%s: changed since it was predicted, and left as it is: %s. --overwrite predicts it again.",
                job.item.path, first_names(edited),
            )  # fmt: skip
        elif edited or record.missing(out):
            todo.append(job)
    if not overwrite:
        raise_problems(problems, f"predictions in {out}", "Replace them with --overwrite, or choose another --out.")
    return todo


def _predict(
    job: _Job,
    predictor: EnsemblePredictor,
    ensemble: TrainedEnsemble,
    out: Path,
    options: PredictionOptions,
    progress: Progress,
) -> PredictionRecord:
    item, scale = job.item, job.scale
    tags = {
        "SOURCE": item.path.name,
        "MODEL": ensemble.name,
        "NETWORKS": ensemble.identity,
        "SCALE": scale.origin,
        "TIFFTAG_SOFTWARE": f"harveyseg {job.settings['version']}",
    }
    with open_picture(item, options.reading) as picture:
        stripes = predictor.stripes(picture, scale.photo_size, options.products.probabilities)
        files, areas = write_maps(
            item, picture, stripes, ensemble.classes, scale, out, options.products, tags, progress
        )
    if item.georeference is not None:
        grid = predictor.resized_size(item.size, scale.photo_size)
        files += write_vectors(item, files[0], grid, scale, out, options.products, ensemble)
    record = PredictionRecord(
        name=item.name,
        path=str(item.path),
        sha256=job.digest,
        settings=job.settings,
        scale_origin=scale.origin,
        pixel_m=scale.pixel,
        areas=areas,
        measured={name: dict(values) for name, values in ensemble.measured.items()},
        outputs={path.name: sha256(path) for path in files},
    )
    write_record(out, record)
    return record


def summarise(out: Path, classes: ClassList) -> None:
    """Write what concerns all images in ``out``, whenever they were predicted."""
    records = list(read_records(out))
    if not records:
        return
    write_areas(out, records, classes.names)
    if len(records) > 1:
        shown = [
            index
            for index, name in enumerate(classes.names)
            if any(record.areas.percent.get(name, 0) >= _IN_LEGEND for record in records)
        ]
        write_contact_sheets(out, [record.name for record in records], classes, shown)
