"""Class maps, and what a submission holds of them."""

import numpy as np

from harveyseg.arrays import BinaryMasks, ClassMap
from harveyseg.classes import HARVEY25


def blobs(seed: int, size: int = 1024) -> ClassMap:
    """Squares of the classes 0..8."""
    coarse = np.random.default_rng(seed).integers(0, 9, (8, 8)).astype(np.uint8)
    return np.kron(coarse, np.ones((size // 8, size // 8), np.uint8))


def masks_of(classes: ClassMap) -> BinaryMasks:
    """One mask for each class 1..24."""
    return np.stack([classes == class_id for class_id in range(1, len(HARVEY25))])
