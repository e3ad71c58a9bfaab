"""Online augmentation with Albumentations, seeded for each sample: results don't depend on the number of workers."""

import hashlib
import math
import random

import albumentations as A
import cv2
import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationInfo, field_validator

from harveyseg.config.settings import Section

# Albumentations runs inside worker processes and beside torch's own threads; more threads here only stall both.
cv2.setNumThreads(1)


class AugmentationParams(Section):
    """Probability or strength of each transform (0 leaves it out). The report names four and gives no numbers."""

    flip: float = Field(default=0.5, ge=0, le=1)
    """Horizontal flip and, drawn apart, vertical flip."""
    rotate: float = Field(default=0.5, ge=0, le=1)
    """Rotation by any angle up to ``rotate_limit``; the corners that it lays bare are mirrored."""
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
    crop: int | None = Field(default=None, ge=32, multiple_of=32)
    """Side in the cache's pixels of a square sample, cut out at random; null takes whole photos."""
    zoom: float = Field(default=0.0, ge=0, le=2)
    """The side of what a crop shows is ``crop * exp(U(-zoom, zoom))`` pixels of the photo."""
    contrast: float = Field(default=0.0, ge=0, le=2)
    """Differences from mid-grey are multiplied by ``exp(U(-contrast, contrast))``."""
    colour: float = Field(default=0.0, ge=0, le=2)
    """The same for each channel by itself, which is also shifted by up to ``64 * colour`` grey levels."""

    @field_validator("zoom")
    @classmethod
    def _crop_needed(cls, value: float, info: ValidationInfo) -> float:
        if value and info.data.get("crop", 0) is None:
            raise ValueError("says how crops are cut out: set `crop`, or this to 0")
        return value


class Augmentation:
    """Photo and mask of one sample, transformed together; masks by nearest neighbour.

    Args:
        params: which transforms.
        seed: the training's seed.
    """

    def __init__(self, params: AugmentationParams, seed: int) -> None:
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
        # Even at probability 0 a transform takes a draw: those above must stay what they are without it.
        symmetries = [A.D4(p=params.d4)] if params.d4 else []
        self._compose = A.Compose([*geometric, *photometric, *symmetries])
        self._photometric = A.Compose(photometric)

    def __call__(
        self,
        image: npt.NDArray[np.uint8],
        mask: npt.NDArray[np.uint8],
        epoch: int,
        index: int,
        repetition: int = 0,
        target_class: int | None = None,
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        """Transform one sample as (seed, epoch, index, repetition) says.

        Without a seed for each sample, Albumentations 2.0.8 repeats the same draws in every epoch and in every worker.
        Its ``set_random_seed`` would give each transform the same seed, so that both flips always come together; one
        random state for all of them keeps the draws independent.

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

    def views(
        self, image: npt.NDArray[np.uint8], epoch: int, index: int, repetition: int
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        """Two views of the same pixels of a photo without a mask: as it is, and in other colours.

        It is cropped and zoomed, and its second view sharpened, brightened and recoloured, as a sample is.

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

    def _recolour(self, image: npt.NDArray[np.uint8], generator: np.random.Generator) -> npt.NDArray[np.uint8]:
        """Another contrast, and another gain and offset of each channel, by a look-up table."""
        contrast, colour = self._params.contrast, self._params.colour
        if not (contrast or colour):
            return image
        gains = np.exp(generator.uniform(-contrast, contrast) + generator.uniform(-colour, colour, size=3))
        shifts = 64 * generator.uniform(-colour, colour, size=3)
        levels = (np.arange(256)[:, None] - 127.5) * gains + 127.5 + shifts  # (256, 3)
        table = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
        return np.asarray(cv2.LUT(np.ascontiguousarray(image), table[None]), np.uint8)


def sample_seed(purpose: str, seed: int, epoch: int, index: int, repetition: int) -> int:
    """A seed of 32 bits; a photo's first sample and its further ones, and each purpose, draw apart."""
    key = f"{seed}/{epoch}/{index}" + (f"/{repetition}" if repetition else "") + (f"/{purpose}" if purpose else "")
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=4).digest(), "little")


def _crop(
    image: npt.NDArray[np.uint8],
    mask: npt.NDArray[np.uint8],
    side: int,
    zoom: float,
    target_class: int | None,
    generator: np.random.Generator,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Cut a square out and bring it to ``side`` pixels, the photo by area or linearly, the mask by nearest neighbour.

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
        # Up to a third off the centre, so that a class is not learnt to be in the middle.
        jitter = generator.uniform(-span / 3, span / 3, size=2)
        top, left = (
            min(max(0, round(centre + shift - span / 2)), length - span)
            for centre, shift, length in zip(pixel, jitter, mask.shape, strict=True)
        )
    image, mask = image[top : top + span, left : left + span], mask[top : top + span, left : left + span]
    if span != side:
        interpolation = cv2.INTER_AREA if span > side else cv2.INTER_LINEAR
        image = np.asarray(cv2.resize(image, (side, side), interpolation=interpolation), np.uint8)
        nearest = (2 * np.arange(side) + 1) * span // (2 * side)  # the pixel at the centre of each one wanted
        mask = mask[np.ix_(nearest, nearest)]
    return image, mask
