"""Pictures for people: a photo blended with the colours of its classes, and a sheet of many with a legend."""

import math
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from harveyseg.arrays import ByteArray, ClassMap, Photo
from harveyseg.classes import IGNORED, ClassList
from harveyseg.data.cache import read_resized_photo
from harveyseg.errors import HarveysegError
from harveyseg.files import atomic
from harveyseg.inference.probabilities import STRIPE
from harveyseg.plots import colourise

LONGEST_SIDE = 4096
"""Pixels; larger mosaics are shrunk for the overlay, which is for looking at, and is made as a whole."""

_SHEET_COLUMNS = 4
_SHEET_CELL = (240, 320)
_SHEET_THREADS = 4
_SHEET_IMAGES = 40
"""On one sheet; more are spread over several."""
_LINE = 22
"""Pixels of a line of text."""

CONTACT_SHEET = re.compile(r"contact_sheet(_\d+)?\.jpg")
_SIGNATURE = b"harveyseg contact sheet"
_START_OF_JPEG, _COMMENT = b"\xff\xd8", b"\xff\xfe"


def overlay_size(size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of the overlay of a mosaic.

    >>> overlay_size((3000, 4000)), overlay_size((30000, 15000))
    ((3000, 4000), (4096, 2048))
    """
    shrink = max(1.0, max(size) / LONGEST_SIDE)
    return max(1, round(size[0] / shrink)), max(1, round(size[1] / shrink))


def draw_overlay(photo: Photo, class_map: ClassMap, classes: ClassList) -> None:
    """Blend a photo, RGB, with the colours of its classes, half and half, in place.

    What is not scored, such as the background, is left clear, and what was not seen becomes white.
    """
    for top in range(0, len(class_map), STRIPE):
        own = class_map[top : top + STRIPE]
        stripe = photo[top : top + STRIPE]
        blended = cv2.addWeighted(stripe, 0.5, colourise(own, classes), 0.5, 0)
        np.copyto(stripe, blended, where=(own >= classes.unscored)[..., None])
        stripe[own == IGNORED] = 255


def write_image(path: Path, pixels: ByteArray, comment: bytes = b"") -> None:
    """Write a grey (H, W) or RGB (H, W, 3) image in the format of the path's ending, atomically.

    A comment is for JPEG only.

    Raises:
        HarveysegError: when the format cannot hold so many pixels.
    """
    stored = pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    encoded, content = cv2.imencode(path.suffix, stored)
    if not encoded:
        raise HarveysegError(f"{path}: {pixels.shape[0]}x{pixels.shape[1]} pixels are more than this format holds.")
    stored_bytes = content.tobytes()
    if comment:
        stored_bytes = _commented(comment) + stored_bytes.removeprefix(_START_OF_JPEG)
    with atomic(path) as temporary:
        temporary.write_bytes(stored_bytes)  # OpenCV would not tell a full disk from a format that is too small


def write_contact_sheets(folder: Path, names: Sequence[str], classes: ClassList, shown: Sequence[int]) -> list[Path]:
    """Put the overlays of many images on sheets, with their names and a legend.

    Args:
        folder: holds ``<name>_overlay.jpg`` of each.
        names: of the images.
        classes: the list of classes.
        shown: the indices of those in the legend.

    Returns:
        The files ``contact_sheet.jpg``, or ``contact_sheet_1.jpg``, ... where one is too small; old ones are deleted.
    """
    for path in folder.glob("contact_sheet*.jpg"):
        if CONTACT_SHEET.fullmatch(path.name):
            path.unlink()
    chunks = [names[start : start + _SHEET_IMAGES] for start in range(0, len(names), _SHEET_IMAGES)]
    written = []
    for number, chunk in enumerate(chunks, 1):
        path = folder / ("contact_sheet.jpg" if len(chunks) == 1 else f"contact_sheet_{number}.jpg")
        write_image(path, _sheet(folder, chunk, classes, shown), _SIGNATURE)
        written.append(path)
    return written


def is_contact_sheet(path: Path) -> bool:
    """Whether :func:`write_contact_sheets` wrote a file: other programs make sheets of this name as well."""
    try:
        with path.open("rb") as opened:
            return opened.read(len(_commented(_SIGNATURE))) == _commented(_SIGNATURE)
    except FileNotFoundError:  # another process at work in the folder replaces its sheets
        return True
    except OSError:
        return False


def _commented(comment: bytes) -> bytes:
    """The first bytes of a JPEG with a comment, which readers skip."""
    return _START_OF_JPEG + _COMMENT + (len(comment) + 2).to_bytes(2, "big") + comment


def _sheet(folder: Path, names: Sequence[str], classes: ClassList, shown: Sequence[int]) -> Photo:
    height, width = _SHEET_CELL
    columns = min(_SHEET_COLUMNS, max(2, len(names)))
    rows = math.ceil(len(names) / columns)
    legend_lines = math.ceil(len(shown) / columns)
    sheet = np.full((rows * (height + _LINE) + legend_lines * _LINE + 8, columns * width, 3), 255, np.uint8)
    with ThreadPoolExecutor(_SHEET_THREADS) as pool:
        pictures = pool.map(_thumbnail, (folder / f"{name}_overlay.jpg" for name in names))
        for index, (name, picture) in enumerate(zip(names, pictures, strict=True)):
            top, left = index // columns * (height + _LINE), index % columns * width
            if picture is not None:
                sheet[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
            _write(sheet, name, left + 4, top + height + _LINE - 7)
    for place, index in enumerate(shown):
        top = rows * (height + _LINE) + 4 + place // columns * _LINE
        left = place % columns * width
        sheet[top + 3 : top + _LINE - 3, left + 4 : left + 24] = classes.palette[index]
        _write(sheet, classes.names[index], left + 30, top + _LINE - 7)
    return sheet


def _thumbnail(path: Path) -> Photo | None:
    """An overlay, RGB, as large as fits into a cell; None where there is none that can be read."""
    try:
        with Image.open(path) as opened:
            width, height = opened.size
        scale = min(_SHEET_CELL[0] / height, _SHEET_CELL[1] / width)
        return read_resized_photo(path, (height, width), (max(1, int(height * scale)), max(1, int(width * scale))))
    except (OSError, HarveysegError):
        return None


def _write(sheet: Photo, text: str, left: int, baseline: int) -> None:
    plain = text.encode("ascii", "replace").decode()
    cv2.putText(sheet, plain, (left, baseline), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (30, 30, 30), 1, cv2.LINE_AA)
