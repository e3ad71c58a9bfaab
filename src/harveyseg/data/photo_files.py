"""Photo files: JPEG, PNG or TIFF with 8 bits per channel, checked to be complete."""

import io
from dataclasses import dataclass

from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from harveyseg.data.masks import PNG_END, decoding_cause

PHOTO_KINDS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".tif": "TIFF", ".tiff": "TIFF"}
"""File endings of photos, in upper or lower case, and the format that each must hold."""
RAW_ENDINGS = {"JPEG": ".jpg", "PNG": ".png", "TIFF": ".tif"}
"""The ending that each format has in ``data/raw``."""

_BITS_PER_SAMPLE = 258  # TIFF's tag
_EXIF_ORIENTATION = 0x0112


@dataclass(frozen=True)
class PhotoFile:
    """A photo file that was decoded and checked."""

    size: tuple[int, int] | None
    """(width, height) in pixels; None when it cannot be decoded."""
    problems: tuple[str, ...] = ()
    """Why the photo cannot be used."""


def check_photo_file(data: bytes, kind: str) -> PhotoFile:
    """Decode a photo to its end.

    Args:
        data: the bytes of the file.
        kind: the format that its ending stands for, one of ``PHOTO_KINDS``.
    """
    if not data:
        return PhotoFile(None, ("the file is empty",))
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "TIFF")) as image:
            # Drones write JPEGs with a preview, which Pillow calls MPO.
            actual_kind = "JPEG" if image.format == "MPO" else str(image.format)
            if actual_kind != kind:
                return PhotoFile(None, (f"is {actual_kind} data; rename it to {RAW_ENDINGS[actual_kind]}",))
            size = image.size
            mode = image.mode
            orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
            depths = _bits_per_channel(image, data)
            # The scaled decode still reads every coefficient of the file, in a third of the time.
            image.draft("RGB", (max(1, size[0] // 8), max(1, size[1] // 8)))
            image.load()
            transparent = mode == "RGBA" and image.getchannel("A").getextrema() != (255, 255)
    except Exception as error:  # decoders raise many types on broken bytes; each means the same to the user
        return PhotoFile(None, (f"cannot be decoded as a {kind} photo ({decoding_cause(error)})",))
    if truncated := _truncation(data, kind):
        return PhotoFile(None, (truncated,))
    problems = []
    if mode != "RGB" and (mode != "RGBA" or kind == "JPEG"):
        problems.append(f"is a {kind} of mode {mode}; a colour photo (RGB) is needed")
    elif depths != {8}:
        problems.append(f"has {max(depths)} bits per channel; 8 are needed")
    if transparent:
        problems.append("is transparent in places; a photo without an alpha channel is needed")
    if orientation != 1:
        problems.append(
            f"its EXIF orientation tag ({orientation}) turns it against its mask; "
            "turn the pixels themselves and remove the tag"
        )
    return PhotoFile(size, tuple(problems))


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
