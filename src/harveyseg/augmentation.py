"""Online augmentation with Albumentations, seeded for each sample: results don't depend on the number of workers."""

import hashlib
import random

import albumentations as A
import cv2
import numpy as np
import numpy.typing as npt
from pydantic import Field

from harveyseg.settings import Section

# Albumentations runs inside worker processes and beside torch's own threads; more threads here only stall both.
cv2.setNumThreads(1)


class AugmentationParams(Section):
    """Probability of each transform (0 leaves it out). The report names all four and gives no numbers."""

    flip: float = Field(default=0.5, ge=0, le=1)
    """Horizontal flip and, drawn apart, vertical flip."""
    rotate: float = Field(default=0.5, ge=0, le=1)
    """Rotation by any angle up to ``rotate_limit``; the corners that it lays bare are mirrored."""
    rotate_limit: float = Field(default=45.0, ge=0, le=180)
    """Degrees."""
    sharpen: float = Field(default=0.2, ge=0, le=1)
    brightness: float = Field(default=0.5, ge=0, le=1)
    brightness_limit: float = Field(default=0.2, ge=0, le=1)
    """Largest change, as a share of the full range."""


class Augmentation:
    """Photo and mask of one sample, transformed together; masks by nearest neighbour.

    Args:
        params: which transforms.
        seed: the training's seed.
    """

    def __init__(self, params: AugmentationParams, seed: int) -> None:
        self._seed = seed
        self._compose = A.Compose(
            [
                A.HorizontalFlip(p=params.flip),
                A.VerticalFlip(p=params.flip),
                A.Rotate(
                    limit=(-params.rotate_limit, params.rotate_limit),
                    interpolation=cv2.INTER_LINEAR,
                    mask_interpolation=cv2.INTER_NEAREST,
                    border_mode=cv2.BORDER_REFLECT_101,
                    p=params.rotate,
                ),
                A.Sharpen(p=params.sharpen),
                A.RandomBrightnessContrast(
                    brightness_limit=(-params.brightness_limit, params.brightness_limit),
                    contrast_limit=(0, 0),
                    p=params.brightness,
                ),
            ]
        )

    def __call__(
        self, image: npt.NDArray[np.uint8], mask: npt.NDArray[np.uint8], epoch: int, index: int
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        """Transform one sample as (seed, epoch, index) says.

        Without a seed for each sample, Albumentations 2.0.8 repeats the same draws in every epoch and in every worker.
        Its ``set_random_seed`` would give each transform the same seed, so that both flips always come together; one
        random state for all of them keeps the draws independent.

        Args:
            image: (H, W, 3) uint8.
            mask: (H, W) uint8.
            epoch: number of the pass, from 0.
            index: the photo's row in the training cache.
        """
        key = hashlib.blake2b(f"{self._seed}/{epoch}/{index}".encode(), digest_size=4).digest()
        seed = int.from_bytes(key, "little")
        self._compose.set_random_state(np.random.default_rng(seed), random.Random(seed))
        result = self._compose(image=image, mask=mask)
        return result["image"], result["mask"]
