"""What a drone wrote into a photo: the ground that it shows, from the height above take-off and the lens."""

import re
from collections.abc import Mapping
from pathlib import Path

from PIL import ExifTags, Image

_HEIGHTS = ("RelativeAltitude", "AboveGroundAltitude")
"""DJI: metres above take-off; Parrot: above the ground. Altitudes above sea level say nothing about the scale."""
_PITCHES = ("GimbalPitchDegree", "CameraPitchDegree")
_STRAIGHT_DOWN = -80.0
"""Degrees; a camera that looks further up shows ground of different scales in one photo."""
_FILM_WIDTH = 36.0
"""Millimetres, the long side to which focal lengths "equivalent to 35 mm film" refer."""


def photo_ground(path: Path) -> tuple[float, float] | None:
    """(height, width) in metres of the ground that a photo shows; None unless the file says so.

    That needs a height above the ground, a camera that looked straight down, and the lens.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            focal_length = image.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.FocalLengthIn35mmFilm)
            metadata = image.info.get("xmp", b"")
    except (OSError, ValueError, SyntaxError):  # a file that Pillow cannot read says nothing about the ground
        return None
    values = read_attributes(metadata if isinstance(metadata, bytes) else str(metadata).encode())
    above_ground = next((values[name] for name in _HEIGHTS if name in values), None)
    pitch = next((values[name] for name in _PITCHES if name in values), None)
    if not focal_length or above_ground is None or above_ground <= 0 or pitch is None or pitch > _STRAIGHT_DOWN:
        return None
    pixel = above_ground * _FILM_WIDTH / float(focal_length) / max(width, height)
    return height * pixel, width * pixel


def read_attributes(xmp: bytes) -> Mapping[str, float]:
    """The numbers in an XMP packet by name, whether they are attributes or elements.

    >>> read_attributes(b'<d drone-dji:RelativeAltitude="+60.10" drone-dji:GimbalPitchDegree="-90.00">')
    {'RelativeAltitude': 60.1, 'GimbalPitchDegree': -90.0}
    >>> read_attributes(b"<Camera:AboveGroundAltitude>48.5</Camera:AboveGroundAltitude>")
    {'AboveGroundAltitude': 48.5}
    """
    found = re.findall(rb'[\w-]+:(\w+)(?:="|>)\s*([+-]?\d+(?:\.\d+)?)\s*(?:"|<)', xmp)
    return {name.decode(): float(number) for name, number in found}
