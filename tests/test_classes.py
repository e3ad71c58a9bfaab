"""The classes against the competition's own list."""

import re

import numpy as np
import pytest

from harveyseg.classes import HARVEY25

# As the competition's page lists them, the background as 0.
COMPETITION = """
0 Background, 1 Property Roof, 2 Secondary Structure, 3 Swimming Pool, 4 Vehicle, 5 Grass, 6 Trees / Shrubs,
7 Solar Panels, 8 Chimney, 9 Street Light, 10 Window, 11 Satellite Antenna, 12 Garbage Bins, 13 Trampoline,
14 Road / Highway, 15 Under Construction, 16 Power Lines & Cables, 17 Water Tank / Oil Tank,
18 Parking Area - Commercial, 19 Sports Complex / Arena, 20 Industrial Site, 21 Dense Vegetation / Forest,
22 Water Body, 23 Flooded, 24 Boat
"""


def test_names_stand_at_their_pixel_values() -> None:
    listed = dict(re.findall(r"(\d+) ([^,]+?)(?:,|\s*$)", COMPETITION))
    assert {str(class_id): name for class_id, name in enumerate(HARVEY25.names)} == listed
    assert len(HARVEY25) == 25


def test_every_class_has_a_colour_of_its_own() -> None:
    assert HARVEY25.palette.shape == (25, 3)
    assert HARVEY25.palette.dtype == np.uint8
    distances = np.abs(HARVEY25.palette[:, None].astype(int) - HARVEY25.palette[None]).sum(axis=2)
    assert distances[~np.eye(25, dtype=bool)].min() >= 20  # told apart by eye, if side by side


@pytest.mark.parametrize(
    ("class_id", "name"),
    [(0, "00_background"), (6, "06_trees_shrubs"), (16, "16_power_lines_cables"), (18, "18_parking_area_commercial")],
)
def test_slug(class_id: int, name: str) -> None:
    assert HARVEY25.slugs[class_id] == name


def test_slugs_are_names_that_mlflow_and_every_file_system_take() -> None:
    slugs = list(HARVEY25.slugs)
    assert len(set(slugs)) == 25
    assert slugs == sorted(slugs)
    assert all(re.fullmatch(r"[a-z0-9_]+", name) for name in slugs)
