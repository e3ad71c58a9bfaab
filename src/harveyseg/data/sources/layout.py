"""Photos and masks that come without the Kaggle layout: they are told apart, and a test part is held out."""

import logging
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np

from harveyseg.data.overlap import find_overlaps
from harveyseg.data.pairs import MASK_ENDINGS, layout_folders
from harveyseg.data.photo_files import PHOTO_KINDS
from harveyseg.data.sidecars import is_hidden_folder, is_sidecar
from harveyseg.data.split import DISTANCE, linked_groups, neighbour_groups, without_number
from harveyseg.errors import HarveysegError, raise_problems

logger = logging.getLogger(__name__)

_THREADS = 4
"""Photos that are compared in parallel."""


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


def link_training_part(unpacked: Path, layout: Path, name: str) -> None:
    """Link photos and masks into ``layout/train_images`` and ``layout/train_masks``.

    Files in a folder of such a name belong there. Elsewhere a PNG is a mask, other images are photos, and all other
    files are ignored.

    Args:
        unpacked: the folder with the files, at any depth.
        layout: the folder to make.
        name: of the data, for messages.

    Raises:
        HarveysegError: when there are no photos or no masks, or two files of one name.
    """
    named = layout_folders(unpacked)
    photos: list[Path] = []
    masks: list[Path] = []
    for path in _visible_files(unpacked):
        ending = path.suffix.lower()
        if any(path.is_relative_to(folder) for folder in named["train_images"]):
            photos.append(path)
        elif ending in MASK_ENDINGS or any(path.is_relative_to(folder) for folder in named["train_masks"]):
            masks.append(path)
        elif ending in PHOTO_KINDS:
            photos.append(path)
    if not photos or not masks:
        files = sorted({path.name for path in _visible_files(unpacked)})
        raise HarveysegError(
            f"{name}: photos and masks were expected, there are {len(photos)} and {len(masks)}, in {len(files)} files"
            f"{' such as ' if files else ''}{', '.join(files[:5])}. Photos are .jpg, masks .png, or they are in "
            "folders named train_images and train_masks."
        )
    problems = []
    for kind, paths in (("train_images", photos), ("train_masks", masks)):
        (layout / kind).mkdir(parents=True)
        for path in paths:
            link = layout / kind / path.name
            if link.is_symlink():
                both = " and ".join(str(file.relative_to(unpacked)) for file in (link.readlink(), path))
                problems.append(f"two files are called {path.name}: {both}")
            else:
                link.symlink_to(path)
    raise_problems(
        problems, name, "Which one is meant? Download the files, keep one of each name, and use data.source: directory."
    )


def hold_out_test_part(layout: Path, share: float, seed: int, name: str) -> list[tuple[str, str]]:
    """Move the links of some photos and their masks from the training part to the test part.

    Photos that show the same ground, found by their pictures, stay in one part.

    Args:
        layout: as from :func:`link_training_part`.
        share: see :func:`choose_test_ids`.
        seed: likewise.
        name: of the data, for messages.

    Returns:
        The pairs of ids that show the same ground.

    Raises:
        HarveysegError: when one of the two parts would be empty.
    """
    photos = {path.stem: path for path in _visible_files(layout / "train_images")}
    masks = {path.stem: path for path in _visible_files(layout / "train_masks")}
    pairs = sorted(photos.keys() & masks.keys())
    logger.info("comparing %d photos, so that no test photo shows ground of a training photo", len(pairs))
    overlaps = find_overlaps([photos[photo_id] for photo_id in pairs], pairs, _THREADS)
    chosen = choose_test_ids(pairs, share, seed, overlaps)
    if pairs and not chosen:
        raise HarveysegError(
            f"{name}: all {len(pairs)} photos have neighbouring ids or show the same ground, so any test part would "
            "overlap the training part. Add a folder test_images by hand, and use data.source: directory."
        )
    if pairs and len(chosen) == len(pairs):
        raise HarveysegError(
            f"{name}: data.figshare.test_share = {share} leaves none of {len(pairs)} photos to train on. Lower it in "
            "params.yaml."
        )
    for kind, paths in (("images", photos), ("masks", masks)):
        (layout / f"test_{kind}").mkdir()
        for photo_id in chosen:
            paths[photo_id].rename(layout / f"test_{kind}" / paths[photo_id].name)
    return overlaps


def _visible_files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        *folders, name = path.relative_to(folder).parts
        if path.is_file() and not is_sidecar(name) and not any(map(is_hidden_folder, folders)):
            yield path
