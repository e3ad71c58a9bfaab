"""Photo files: JPEG, PNG or TIFF with 8 bits per channel, checked to be complete."""

import io
import warnings
from dataclasses import dataclass

from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from harveyseg.data.masks import PNG_END, decoding_cause

PHOTO_KINDS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".tif": "TIFF", ".tiff": "TIFF"}
"""File endings of photos, in upper or lower case, and the format that each must hold."""
IMAGE_ENDINGS = (*PHOTO_KINDS, ".webp")
"""Of all images that are looked at; WebP is predicted, but no training photo."""
RAW_ENDINGS = {"JPEG": ".jpg", "PNG": ".png", "TIFF": ".tif"}
"""The ending that each format has in ``data/raw``."""

TOO_LARGE = "has too many pixels to be decoded as a whole"
"""Why a photo cannot be decoded, for callers that know a remedy."""

_BITS_PER_SAMPLE = 258  # TIFF's tag
_EXIF_ORIENTATION = 0x0112
_ORIENTATIONS = range(1, 9)
"""The orientations that EXIF defines; 0, 9 and 65535 occur, and mean nothing."""
_UNREAD_COMPRESSIONS = {"zstd", "lzma"}
"""Of TIFF files, by Pillow's names: OpenCV, which decodes photos for the cache, has no decoder for them."""


@dataclass(frozen=True)
class PhotoFile:
    """A photo file that was decoded and checked."""

    size: tuple[int, int] | None
    """(width, height) in pixels; None when it cannot be decoded."""
    problems: tuple[str, ...] = ()
    """Why the photo cannot be used."""


@dataclass(frozen=True)
class DecodedFile:
    """What a photo file holds, found by decoding it to its end."""

    kind: str
    """JPEG, PNG, TIFF or WEBP, whatever the file's name says."""
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
    compression: str
    """Of a TIFF, as Pillow calls it; empty for others."""


def decode_photo_file(data: bytes) -> DecodedFile:
    """Decode a file to its end.

    Raises:
        ValueError: saying why it cannot be decoded.
    """
    if not data:
        raise ValueError("the file is empty")
    compression = ""
    try:
        with (
            warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning),
            Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "TIFF", "WEBP")) as image,
        ):
            # Drones write JPEGs with a preview, which Pillow calls MPO.
            kind = "JPEG" if image.format == "MPO" else str(image.format)
            size = image.size
            mode = image.mode
            orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
            depths = _bits_per_channel(image, data)
            compression = str(image.info.get("compression", "")) if kind == "TIFF" else ""
            # The scaled decode still reads every coefficient of the file, in a third of the time.
            image.draft("RGB", (max(1, size[0] // 8), max(1, size[1] // 8)))
            image.load()
            transparent = mode == "RGBA" and image.getchannel("A").getextrema() != (255, 255)
    except Image.DecompressionBombError:
        raise ValueError(TOO_LARGE) from None
    except Exception as error:  # decoders raise many types on broken bytes; each means the same to the user
        if compression in _UNREAD_COMPRESSIONS:  # Pillow's wheels before version 12 have no decoder for ZSTD
            raise ValueError(_describe_compression(compression)) from None
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
        compression,
    )


def check_photo_file(data: bytes, kind: str) -> PhotoFile:
    """Decode a photo to its end.

    Args:
        data: the bytes of the file.
        kind: the format that its ending stands for, one of ``PHOTO_KINDS``.
    """
    try:
        decoded = decode_photo_file(data)
    except ValueError as error:
        cause = str(error).replace("cannot be decoded (", f"cannot be decoded as a {kind} photo (", 1)
        return PhotoFile(
            None, (f"{cause}; cut photo and mask into parts, or shrink both" if TOO_LARGE in cause else cause,)
        )
    if decoded.kind != kind:
        remedy = f"rename it to {RAW_ENDINGS[decoded.kind]}" if decoded.kind in RAW_ENDINGS else "save it as PNG"
        return PhotoFile(None, (f"is {decoded.kind} data; {remedy}",))
    problems = []
    if decoded.mode != "RGB" and (decoded.mode != "RGBA" or kind == "JPEG"):
        problems.append(f"is a {kind} of mode {decoded.mode}; a colour photo (RGB) is needed")
    elif decoded.depths != {8}:
        problems.append(f"has {max(decoded.depths)} bits per channel; 8 are needed")
    if decoded.compression in _UNREAD_COMPRESSIONS:
        problems.append(_describe_compression(decoded.compression))
    if decoded.transparent:
        problems.append("is transparent in places; a photo without an alpha channel is needed")
    if decoded.orientation != 1:
        problems.append(
            f"its EXIF orientation tag ({decoded.orientation}) turns it against its mask; "
            "turn the pixels themselves and remove the tag"
        )
    return PhotoFile(decoded.size, tuple(problems))


def _describe_compression(compression: str) -> str:
    return f"is compressed with {compression.upper()}; save it with DEFLATE or LZW"


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


def _bits_per_channel(image: Image.Image, data: bytes) -> set[int]:
    """From the file, since Pillow's mode hides it: it reads 16 bits of colour as 8."""
    if image.format == "PNG":
        return {data[24]}  # of the header (PNG specification, 11.2.2)
    if isinstance(image, TiffImageFile):
        return set(image.tag_v2.get(_BITS_PER_SAMPLE, (1,)))
    return {8}
