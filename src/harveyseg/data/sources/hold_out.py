"""A test part for data that have none: whole groups of photos, chosen at random by a seed."""

import logging
from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np

from harveyseg.data.manifest import VerifiedPhotos
from harveyseg.data.overlap import find_overlaps
from harveyseg.data.split import DISTANCE, linked_groups, neighbour_groups, without_number
from harveyseg.errors import HarveysegError

logger = logging.getLogger(__name__)

_THREADS = 4
"""Photos that are compared in parallel."""


@dataclass(frozen=True)
class HoldOut:
    """Which photos become the test part."""

    share: float
    """About this share of all photos, between 0 and 1."""
    seed: int
    """Decides which ones."""
    setting: str
    """The section that says so, for messages."""


def choose_test_ids(ids: list[str], share: float, seed: int, overlaps: Collection[tuple[str, str]] = ()) -> set[str]:
    """Choose whole groups of photos, in random order, as long as they fit into ``share`` of the photos.

    A group is what neighbouring ids and overlaps link.

    A test part that overlaps the training part would say nothing. So of photos that are all neighbours none is chosen,
    and if every group is larger than the share, the smallest one is.

    Args:
        ids: of all photos.
        share: between 0 and 1.
        seed: of the random order.
        overlaps: pairs of ids that show the same ground.

    Returns:
        The chosen ids; empty when there is only one group.

    Example:
        >>> sorted(choose_test_ids(["6411", "6412", "7000", "7001", "8000", "8001"], share=0.4, seed=0))
        ['8000', '8001']
    """
    if unnumbered := without_number(ids):
        logger.warning(
            "%d photos have no numeric id (%s, ...), so their neighbours are unknown: each is a group of its own.",
            len(unnumbered),
            unnumbered[0],
        )
        labels = ids
    else:
        labels = neighbour_groups(ids, DISTANCE)
    first_of = dict(zip(reversed(labels), reversed(ids), strict=True))
    neighbours = [(first_of[label], photo_id) for photo_id, label in zip(ids, labels, strict=True)]
    groups: dict[str, list[str]] = {}
    for photo_id, label in sorted(zip(ids, linked_groups(ids, [*neighbours, *overlaps]), strict=True)):
        groups.setdefault(label, []).append(photo_id)
    if len(groups) < 2:
        return set()
    ordered = list(groups.values())
    chosen: set[str] = set()
    for index in np.random.default_rng(seed).permutation(len(ordered)):
        if len(chosen) + len(ordered[index]) <= round(share * len(ids)):
            chosen.update(ordered[index])
    return chosen or set(min((len(group), group) for group in ordered)[1])


def hold_out_test_part(
    verified: VerifiedPhotos, hold_out: HoldOut, name: str
) -> tuple[VerifiedPhotos, list[tuple[str, str]]]:
    """Move some photos and their masks from the training part to the test part.

    Photos that show the same ground, found by their pictures, stay in one part, and so do copies of a photo.

    Args:
        verified: photos of the training part only.
        hold_out: which become the test part.
        name: of the data, for messages.

    Returns:
        The photos in their parts, and the pairs of ids that show the same ground.

    Raises:
        HarveysegError: when one of the two parts would be empty.
    """
    pairs, manifest = verified.pairs, verified.manifest
    ids = [pair.id for pair in pairs]
    logger.info("comparing %d photos, so that no test photo shows ground of a training photo", len(pairs))
    overlaps = find_overlaps([pair.image for pair in pairs], ids, _THREADS)
    copies = [tuple(group) for _, group in manifest.groupby("image_sha256")["id"] if len(group) > 1]
    linked = {*overlaps, *((group[0], other) for group in copies for other in group[1:])}
    chosen = choose_test_ids(ids, hold_out.share, hold_out.seed, linked)
    if not chosen:
        raise HarveysegError(
            f"{name}: all {len(ids)} photos have neighbouring ids or show the same ground, so any test part would "
            "overlap the training part. Add a folder test_images by hand, and use data.source: directory."
        )
    if len(chosen) == len(ids):
        raise HarveysegError(
            f"{name}: {hold_out.setting}.test_share = {hold_out.share} leaves none of {len(ids)} photos to train on. "
            "Lower it in params.yaml."
        )
    moved = [replace(pair, part="test") if pair.id in chosen else pair for pair in pairs]
    order = sorted(range(len(ids)), key=lambda index: moved[index].part == "test")
    rows = manifest.copy()
    held = rows["id"].isin(chosen)
    rows.loc[held, "part"] = "test"
    for column in ("image", "mask"):
        rows.loc[held, column] = rows.loc[held, column].str.replace("train_", "test_", n=1)
    return replace(
        verified, pairs=[moved[index] for index in order], manifest=rows.iloc[order].reset_index(drop=True)
    ), sorted(linked)
