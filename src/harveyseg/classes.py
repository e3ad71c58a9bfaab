"""The competition ``fdl21-fdl-dsba``: its 25 classes and the constants of its score.

The value of a mask's pixel is the class id.
"""

import numpy as np
import numpy.typing as npt

CLASS_NAMES: tuple[str, ...] = (
    "Background",
    "Property Roof",
    "Secondary Structure",
    "Swimming Pool",
    "Vehicle",
    "Grass",
    "Trees / Shrubs",
    "Solar Panels",
    "Chimney",
    "Street Light",
    "Window",
    "Satellite Antenna",
    "Garbage Bins",
    "Trampoline",
    "Road / Highway",
    "Under Construction",
    "Power Lines & Cables",
    "Water Tank / Oil Tank",
    "Parking Area - Commercial",
    "Sports Complex / Arena",
    "Industrial Site",
    "Dense Vegetation / Forest",
    "Water Body",
    "Flooded",
    "Boat",
)

N_CLASSES = len(CLASS_NAMES)
"""25, the background included."""

SCORE_SIZE = 1024
"""Height and width in pixels at which masks are submitted and scored: the competition's own script encodes them so."""

N_SCORED = N_CLASSES - 1
"""24: the competition scores the classes 1..24 and not the background."""

CLASS_LIST = {"names": CLASS_NAMES, "scored": N_SCORED, "score_size": SCORE_SIZE}
"""What identifies this list of classes and its score, in stage keys and in the ids of evaluations."""

RARE = 0.01
"""A class is rare if it covers less than this share of the training pixels."""

PALETTE: npt.NDArray[np.uint8] = np.array(
    [
        (40, 40, 40), (200, 62, 62), (232, 132, 84), (0, 200, 240), (255, 222, 0),
        (152, 206, 96), (34, 120, 52), (24, 40, 140), (120, 20, 20), (255, 250, 190),
        (110, 170, 220), (250, 120, 250), (60, 60, 180), (255, 100, 30), (128, 128, 136),
        (190, 150, 110), (245, 245, 245), (90, 90, 120), (178, 178, 200), (220, 90, 160),
        (140, 100, 160), (14, 70, 36), (30, 90, 200), (96, 130, 150), (255, 255, 120),
    ],
    dtype=np.uint8,
)  # fmt: skip
"""RGB colour of each class, shape (25, 3)."""


def slug(class_id: int) -> str:
    """A class's name as a key for files and metrics, e.g. ``3`` -> ``"03_swimming_pool"``."""
    words = "".join(letter if letter.isalnum() else " " for letter in CLASS_NAMES[class_id].lower()).split()
    return f"{class_id:02d}_{'_'.join(words)}"
