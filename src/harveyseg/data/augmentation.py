"""Online augmentation with Albumentations, seeded per sample, so that results do not depend on the workers."""

import hashlib
import math
import random

import cv2
import numpy as np
from pydantic import Field, ValidationInfo, field_validator

from harveyseg.arrays import SIDE_MULTIPLE, ClassMap, Photo
from harveyseg.config.settings import Section

# Albumentations runs inside worker processes and next to torch's own threads; more threads here only slow both down.
cv2.setNumThreads(1)


class AugmentationParams(Section):
    """Probability or strength of each transform (0 disables it). The report names four and gives no numbers."""

    flip: float = Field(default=0.5, ge=0, le=1)
    """Horizontal flip and, drawn independently, vertical flip."""
    rotate: float = Field(default=0.5, ge=0, le=1)
    """Rotation by any angle up to ``rotate_limit``; the empty corners are filled with the mirrored photo."""
    rotate_limit: float = Field(default=45.0, ge=0, le=180)
    """Degrees."""
    sharpen: float = Field(default=0.2, ge=0, le=1)
    """Sharpening of random strength."""
    brightness: float = Field(default=0.5, ge=0, le=1)
    """A change of brightness by up to ``brightness_limit``."""
    brightness_limit: float = Field(default=0.2, ge=0, le=1)
    """Largest change, as a share of the full range."""
    d4: float = Field(default=0.0, ge=0, le=1)
    """One of the eight symmetries of the square (quarter turns, mirrored or not), for samples that are square."""
    crop: int | None = Field(default=None, ge=SIDE_MULTIPLE, multiple_of=SIDE_MULTIPLE)
    """Side of a square sample in the cache's pixels, cut out at random; null takes whole photos."""
    zoom: float = Field(default=0.0, ge=0, le=2)
    """The side of what a crop shows is ``crop * exp(U(-zoom, zoom))`` pixels of the photo."""
    contrast: float = Field(default=0.0, ge=0, le=2)
    """Differences from mid-grey are multiplied by ``exp(U(-contrast, contrast))``."""
    colour: float = Field(default=0.0, ge=0, le=2)
    """The same for each channel separately, which is also shifted by up to ``64 * colour`` grey levels."""

    @field_validator("zoom")
    @classmethod
    def _crop_needed(cls, value: float, info: ValidationInfo) -> float:
        if value and info.data.get("crop", 0) is None:
            raise ValueError("only crops can be zoomed: set `crop`, or this to 0")
        return value


class Augmentation:
    """Transform photo and class map of a sample together, class maps by nearest neighbour.

    Args:
        params: which transforms.
        seed: the training's seed.
    """

    def __init__(self, params: AugmentationParams, seed: int) -> None:
        import albumentations as A  # a second, which commands that only read the settings need not wait

        self._seed = seed
        self._params = params
        geometric = [
            A.HorizontalFlip(p=params.flip),
            A.VerticalFlip(p=params.flip),
            A.Rotate(
                limit=(-params.rotate_limit, params.rotate_limit),
                interpolation=cv2.INTER_LINEAR,
                mask_interpolation=cv2.INTER_NEAREST,
                border_mode=cv2.BORDER_REFLECT_101,
                p=params.rotate,
            ),
        ]
        photometric = [
            A.Sharpen(p=params.sharpen),
            A.RandomBrightnessContrast(
                brightness_limit=(-params.brightness_limit, params.brightness_limit),
                contrast_limit=(0, 0),
                p=params.brightness,
            ),
        ]
        # Even at probability 0 a transform takes a random draw, which would change the other transforms.
        symmetries = [A.D4(p=params.d4)] if params.d4 else []
        self._compose = A.Compose([*geometric, *photometric, *symmetries])
        self._photometric = A.Compose(photometric)

    def __call__(
        self,
        image: Photo,
        mask: ClassMap,
        epoch: int,
        index: int,
        repetition: int = 0,
        target_class: int | None = None,
    ) -> tuple[Photo, ClassMap]:
        """Transform one sample; the draws depend on seed, epoch, index and repetition alone.

        Without a seed for each sample, Albumentations 2.0.8 repeats the same draws in every epoch and in every worker.
        Its ``set_random_seed`` would give each transform the same seed, so that both flips would always come together;
        one random state for all of them keeps the draws independent.

        Args:
            image: (H, W, 3) uint8.
            mask: (H, W) uint8.
            epoch: number of the pass, from 0.
            index: the photo's row in the training cache.
            repetition: which of a photo's samples in the epoch, from 0.
            target_class: a class that the mask holds: the crop is cut around one of its pixels, drawn evenly.

        Returns:
            (H, W, 3) and (H, W), or (crop, crop, 3) and (crop, crop).
        """
        generator = np.random.default_rng(sample_seed("crop", self._seed, epoch, index, repetition))
        if self._params.crop is not None:
            image, mask = _crop(image, mask, self._params.crop, self._params.zoom, target_class, generator)
        seed = sample_seed("", self._seed, epoch, index, repetition)
        self._compose.set_random_state(np.random.default_rng(seed), random.Random(seed))
        result = self._compose(image=image, mask=mask)
        return self._recolour(result["image"], generator), result["mask"]

    def views(self, image: Photo, epoch: int, index: int, repetition: int) -> tuple[Photo, Photo]:
        """Two views of the same pixels of an unlabelled photo: as it is, and in other colours.

        Both are cropped and zoomed, and the second is sharpened, brightened and recoloured, as a sample is.

        Args:
            image: (H, W, 3) uint8.
            epoch: number of the pass, from 0.
            index: the photo's row in its cache.
            repetition: which of a photo's samples in the epoch, from 0.

        Returns:
            Two of (H, W, 3), or of (crop, crop, 3).
        """
        seed = sample_seed("views", self._seed, epoch, index, repetition)
        generator = np.random.default_rng(seed)
        if self._params.crop is not None:
            mask = np.zeros(image.shape[:2], np.uint8)
            image, _ = _crop(image, mask, self._params.crop, self._params.zoom, None, generator)
        self._photometric.set_random_state(np.random.default_rng(seed), random.Random(seed))
        return image, self._recolour(self._photometric(image=image)["image"], generator)

    def _recolour(self, image: Photo, generator: np.random.Generator) -> Photo:
        """Change the contrast, and the gain and offset of each channel, by a look-up table."""
        contrast = self._params.contrast
        colour = self._params.colour
        if not (contrast or colour):
            return image
        gains = np.exp(generator.uniform(-contrast, contrast) + generator.uniform(-colour, colour, size=3))
        shifts = 64 * generator.uniform(-colour, colour, size=3)
        levels = (np.arange(256)[:, None] - 127.5) * gains + 127.5 + shifts  # (256, 3)
        table = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
        return np.asarray(cv2.LUT(np.ascontiguousarray(image), table[None]), np.uint8)


def sample_seed(purpose: str, seed: int, epoch: int, index: int, repetition: int) -> int:
    """A 32-bit seed, different for each sample of a photo and for each purpose."""
    key = f"{seed}/{epoch}/{index}" + (f"/{repetition}" if repetition else "") + (f"/{purpose}" if purpose else "")
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=4).digest(), "little")


def _crop(
    image: Photo,
    mask: ClassMap,
    side: int,
    zoom: float,
    target_class: int | None,
    generator: np.random.Generator,
) -> tuple[Photo, ClassMap]:
    """Cut out a square and resize it to ``side`` pixels, the photo by area or linearly, the mask by nearest neighbour.

    A square larger than the photo is completed with the mirrored photo.
    """
    span = max(1, round(side * math.exp(generator.uniform(-zoom, zoom))))
    missing = [max(0, span - length) for length in mask.shape]
    if any(missing):
        top, left = (length // 2 for length in missing)
        borders = (top, missing[0] - top, left, missing[1] - left, cv2.BORDER_REFLECT_101)
        image, mask = (np.asarray(cv2.copyMakeBorder(array, *borders), np.uint8) for array in (image, mask))
    if target_class is None:
        top, left = (int(generator.integers(length - span + 1)) for length in mask.shape)
    else:
        pixels = np.flatnonzero(mask == target_class)
        pixel = divmod(int(pixels[generator.integers(len(pixels))]), mask.shape[1])
        # Up to a third off the centre, so that the network does not learn that a class is in the middle.
        jitter = generator.uniform(-span / 3, span / 3, size=2)
        top, left = (
            min(max(0, round(centre + shift - span / 2)), length - span)
            for centre, shift, length in zip(pixel, jitter, mask.shape, strict=True)
        )
    square = np.s_[top : top + span, left : left + span]
    image = image[square]
    mask = mask[square]
    if span != side:
        interpolation = cv2.INTER_AREA if span > side else cv2.INTER_LINEAR
        image = np.asarray(cv2.resize(image, (side, side), interpolation=interpolation), np.uint8)
        nearest = (2 * np.arange(side) + 1) * span // (2 * side)  # the source pixel at each target pixel's centre
        mask = mask[np.ix_(nearest, nearest)]
    return image, mask
