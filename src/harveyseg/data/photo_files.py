"""Photo files: JPEG, PNG or TIFF with 8 bits per channel, checked to be complete."""

import io
import warnings
from dataclasses import dataclass

from PIL import Image

from harveyseg.data.masks import PNG_END, decoding_cause
from harveyseg.data.tiff_files import TIFF_STARTS, examine_tiff

PHOTO_KINDS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".tif": "TIFF", ".tiff": "TIFF"}
"""File endings of photos, in upper or lower case, and the format that each must hold."""
IMAGE_ENDINGS = (*PHOTO_KINDS, ".webp")
"""Of all images that are looked at; WebP is predicted, but no training photo."""
RAW_ENDINGS = {"JPEG": ".jpg", "PNG": ".png", "TIFF": ".tif"}
"""The ending that each format has in ``data/raw``."""

TOO_LARGE = "has too many pixels to be decoded as a whole"
"""Why a photo cannot be decoded, for callers that know a remedy."""

_TRANSPARENT = "is transparent in places; a photo without an alpha channel is needed"
_EXIF_ORIENTATION = 0x0112
EXCHANGE_SIDES = 5
"""From this EXIF orientation on, what is shown is as wide as what is stored is high."""
_ORIENTATIONS = range(1, 9)
"""The orientations that EXIF defines; 0, 9 and 65535 occur, and mean nothing."""


@dataclass(frozen=True)
class PhotoFile:
    """A photo file that was decoded and checked."""

    size: tuple[int, int] | None
    """(width, height) in pixels; None when it cannot be decoded."""
    problems: tuple[str, ...] = ()
    """Why the photo cannot be used."""
    orientation: int = 1
    """See :attr:`DecodedFile.orientation`."""


@dataclass(frozen=True)
class DecodedFile:
    """What a photo file holds, found by decoding it to its end."""

    kind: str
    """JPEG, PNG or WEBP, whatever the file's name says."""
    size: tuple[int, int]
    """(width, height) in pixels."""
    mode: str
    """Pillow's name of the pixels' kind, such as RGB."""
    depths: frozenset[int]
    """Bits per channel."""
    orientation: int
    """How the pixels are to be turned for viewing: EXIF's 1 (not at all) to 8; undefined values count as 1."""
    transparent: bool
    """Whether there are pixels that are not opaque."""

    @property
    def colour_problem(self) -> str:
        """Why the pixels are no colours of 8 bits, in words that training and prediction share; empty if they are."""
        if self.mode == "P":
            return "is a palette image, as masks and class maps are; a colour photo (RGB) is needed"
        if self.mode in ("1", "L", "LA", "F") or self.mode.startswith("I"):
            return "is grey; a colour photo (RGB) is needed"
        if self.depths != {8}:
            return f"has {max(self.depths)} bits per channel; 8 are needed"
        return "" if self.mode in ("RGB", "RGBA") else f"is {self.mode}; a colour photo (RGB) is needed"


def decode_photo_file(data: bytes) -> DecodedFile:
    """Decode a JPEG, PNG or WebP file to its end.

    Raises:
        ValueError: saying why it cannot be decoded.
    """
    if not data:
        raise ValueError("the file is empty")
    try:
        with (
            warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning),
            Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP")) as image,
        ):
            # Drones write JPEGs with a preview, which Pillow calls MPO.
            kind = "JPEG" if image.format == "MPO" else str(image.format)
            size = image.size
            mode = image.mode
            orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
            # From the file, since Pillow's mode hides it: it reads 16 bits of colour as 8.
            depths = {data[24]} if kind == "PNG" else {8}  # of the header (PNG specification, 11.2.2)
            # The scaled decode still reads every coefficient of the file, in a third of the time.
            image.draft("RGB", (max(1, size[0] // 8), max(1, size[1] // 8)))
            image.load()
            transparent = mode == "RGBA" and image.getchannel("A").getextrema() != (255, 255)
    except Image.DecompressionBombError:
        raise ValueError(TOO_LARGE) from None
    except Exception as error:  # decoders raise many types on broken bytes; each means the same to the user
        raise ValueError(f"cannot be decoded ({decoding_cause(error)})") from None
    if truncated := _truncation(data, kind):
        raise ValueError(truncated)
    return DecodedFile(
        kind,
        size,
        mode,
        frozenset(depths),
        orientation if orientation in _ORIENTATIONS else 1,
        transparent,
    )


def check_photo_file(data: bytes, kind: str) -> PhotoFile:
    """Decode a photo to its end.

    Args:
        data: the bytes of the file.
        kind: the format that its ending stands for, one of ``PHOTO_KINDS``.
    """
    is_tiff = data.startswith(TIFF_STARTS)
    if is_tiff and kind != "TIFF":
        return _of_other_kind("TIFF")
    try:
        if is_tiff:
            return _check_tiff(data)
        decoded = decode_photo_file(data)
    except ValueError as error:
        cause = str(error).replace("cannot be decoded (", f"cannot be decoded as a {kind} photo (", 1)
        return PhotoFile(
            None, (f"{cause}; cut photo and mask into parts, or shrink both" if TOO_LARGE in cause else cause,)
        )
    if decoded.kind != kind:
        return _of_other_kind(decoded.kind)
    problems = []
    if cause := decoded.colour_problem:
        scaled = "say which values become black and white with `gdal_translate -ot Byte -scale LOW HIGH 0 255`"
        problems.append(f"{cause}; {scaled if 'bits' in cause else 'save it as one'}")
    if decoded.transparent:
        problems.append(_TRANSPARENT)
    return PhotoFile(decoded.size, tuple(problems), decoded.orientation)


def read_orientation(data: bytes) -> int:
    """How the pixels of a JPEG, PNG or TIFF file are to be turned for viewing, without decoding them: EXIF's 1 to 8."""
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "TIFF")) as image:
            orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    except (OSError, ValueError, SyntaxError):  # kinds of pixels that Pillow lacks
        return 1
    return orientation if orientation in _ORIENTATIONS else 1


def _check_tiff(data: bytes) -> PhotoFile:
    try:
        content = examine_tiff(data, most_pixels=2 * (Image.MAX_IMAGE_PIXELS or 1 << 30))
    except ValueError as error:
        raise ValueError(f"cannot be decoded ({error})") from None
    if content is None:
        raise ValueError(TOO_LARGE)
    problems = [content.problem] if content.problem else []
    if content.transparent:
        problems.append(_TRANSPARENT)
    return PhotoFile(content.size, tuple(problems), read_orientation(data))


def _of_other_kind(kind: str) -> PhotoFile:
    remedy = f"rename it to {RAW_ENDINGS[kind]}" if kind in RAW_ENDINGS else "save it as PNG"
    return PhotoFile(None, (f"is {kind} data; {remedy}",))


def _truncation(data: bytes, kind: str) -> str:
    """Whether the end of the file is missing; empty if it is not.

    An interrupted download into a preallocated file ends in zeros, which libjpeg decodes to grey without an error. The
    end marker cannot occur inside a scan, so it must follow the last start of one.
    """
    if kind == "JPEG" and data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):
        return "is truncated (a JPEG without its end marker)"
    if kind == "PNG" and PNG_END not in data:
        return "is truncated (a PNG without its end chunk)"
    return ""
