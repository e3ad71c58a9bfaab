"""Which photos are neighbours: frames are numbered as they were taken, and close numbers show the same ground."""

import re

import numpy as np

DISTANCE = 10
"""Frames whose ids differ by at most this much are taken to overlap, unless a setting says otherwise."""


def without_number(ids: list[str]) -> list[str]:
    """The ids that are no numbers, so that nobody can tell their neighbours."""
    return [photo_id for photo_id in ids if not re.fullmatch("[0-9]+", photo_id)]


def neighbour_groups(ids: list[str], distance: int) -> list[str]:
    """Link ids that differ by at most ``distance``, and all that a chain of links joins.

    Args:
        ids: numbers, in any order.
        distance: the longest link.

    Returns:
        The group of each id: "0" holds the smallest, and so on.
    """
    numbers = np.array([int(photo_id) for photo_id in ids], dtype=object)
    order = np.argsort(numbers, kind="stable")
    group_of = np.zeros(len(ids), np.int64)
    group_of[order[1:]] = np.cumsum(np.diff(numbers[order]) > distance)
    return [str(group) for group in group_of]
