"""The options of ``harveyseg predict``, from the command line's text."""

import re
from typing import Literal, cast, get_args

from harveyseg.classes import ClassList
from harveyseg.errors import HarveysegError
from harveyseg.geo.frame import FrameColour
from harveyseg.geo.ground import parse_crs
from harveyseg.geo.mosaic import MosaicOptions
from harveyseg.inference.params import TtaName
from harveyseg.prediction.predict import PredictionOptions
from harveyseg.prediction.products import ProductOptions
from harveyseg.prediction.shard import Shard

_NUMBER = r"([+-]?\d+(?:\.\d+)?)"


def parse_reading(bands: str | None, value_range: str | None, nodata: str | None, crs: str | None) -> MosaicOptions:
    """Check the options that say how files are read; all but ``nodata`` are for TIFF.

    >>> parse_reading("3,2,1", "0,4095", None, None).bands
    (3, 2, 1)

    Raises:
        HarveysegError: when one is not of its form.
    """
    if nodata not in (None, "0", "255", "none"):
        raise HarveysegError(f"--nodata {nodata}: must be 0, 255 or none.")
    if crs is not None:
        parse_crs(crs)
    return MosaicOptions(
        bands=None if bands is None else _parse_bands(bands),
        value_range=None if value_range is None else _parse_range(value_range),
        frame=cast(FrameColour | None, nodata),
        crs=crs,
    )


def parse_options(
    classes: ClassList,
    reading: MosaicOptions,
    probabilities: str | None,
    geojson: bool,
    gsd: float | None,
    overwrite: bool,
    shard: Shard | None = None,
) -> PredictionOptions:
    """Check the other options; ``classes`` are those of the networks, ``gsd`` is in centimetres.

    Raises:
        HarveysegError: when ``probabilities`` names classes that the networks do not know.
    """
    products = ProductOptions(() if probabilities is None else _parse_classes(probabilities, classes), geojson)
    return PredictionOptions(reading, products, None if gsd is None else gsd / 100, overwrite, shard)


def parse_tta(text: str) -> TtaName:
    """Check the option ``--tta``.

    >>> parse_tta("d4")
    'd4'

    Raises:
        HarveysegError: when it names no kind of test-time augmentation.
    """
    if text not in get_args(TtaName):
        raise HarveysegError(f"--tta {text}: must be {', '.join(get_args(TtaName))}.")
    return cast(TtaName, text)


def parse_training_ground(text: str) -> tuple[float, float]:
    """Parse the option ``--ground``.

    >>> parse_training_ground("60x80.5")
    (60.0, 80.5)

    Returns:
        (height, width) in metres.

    Raises:
        HarveysegError: when it is not of that form.
    """
    match = re.fullmatch(rf"{_NUMBER}x{_NUMBER}", text)
    if match is None or min(float(match[1]), float(match[2])) <= 0:
        raise HarveysegError(f"--ground {text}: must be HEIGHTxWIDTH in metres, e.g. 60x80.")
    return float(match[1]), float(match[2])


def _parse_bands(text: str) -> tuple[int, int, int]:
    match = re.fullmatch(r"([1-9]\d*),([1-9]\d*),([1-9]\d*)", text)
    if match is None:
        raise HarveysegError(f"--bands {text}: must be three numbers from 1, e.g. 3,2,1.")
    return int(match[1]), int(match[2]), int(match[3])


def _parse_range(text: str) -> tuple[float, float] | Literal["auto"]:
    if text == "auto":
        return "auto"
    match = re.fullmatch(rf"{_NUMBER},{_NUMBER}", text)
    if match is None or float(match[1]) >= float(match[2]):
        raise HarveysegError(f"--range {text}: must be LOW,HIGH, e.g. 0,4095, or auto.")
    return float(match[1]), float(match[2])


def _parse_classes(text: str, classes: ClassList) -> tuple[int, ...]:
    """From ids or names, separated by commas, to indices; names may be in lower case."""
    index_of = {str(entry.id): index for index, entry in enumerate(classes.classes)}
    index_of |= {name.lower(): index for index, name in enumerate(classes.names)}
    wanted = [part.strip().lower() for part in text.split(",")]
    unknown = [part for part in wanted if part not in index_of]
    if unknown:
        raise HarveysegError(
            f"--probabilities {text}: no class {', '.join(map(repr, unknown))}. Known are "
            f"{', '.join(f'{entry.id} {entry.name}' for entry in classes.classes)}."
        )
    return tuple(dict.fromkeys(index_of[part] for part in wanted))
