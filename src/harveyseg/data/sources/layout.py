"""Photos and masks that come without the Kaggle layout: they are told apart."""

import os
from collections.abc import Iterator
from pathlib import Path

from harveyseg.data.pairs import MASK_ENDINGS, layout_folders
from harveyseg.data.photo_files import PHOTO_KINDS
from harveyseg.data.sidecars import is_hidden_folder, is_sidecar
from harveyseg.errors import HarveysegError, raise_problems


def link_training_part(unpacked: Path, layout: Path, name: str) -> None:
    """Link photos and masks into ``layout/train_images`` and ``layout/train_masks``.

    Files in a folder of such a name belong there. Elsewhere a PNG is a mask, other images are photos, and all other
    files are ignored. Where names of photos and of masks start again in other folders, as those of drones do, the links
    are in these folders, too, so that :func:`harveyseg.data.pairs.find_pairs` can tell them apart.

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
    start_again = all(len({path.stem for path in paths}) < len(paths) for paths in (photos, masks))
    for kind, paths in (("train_images", photos), ("train_masks", masks)):
        above = os.path.commonpath([path.parent for path in paths])
        for path in paths:
            link = layout / kind / (path.relative_to(above) if start_again else path.name)
            link.parent.mkdir(parents=True, exist_ok=True)
            if link.is_symlink():
                both = " and ".join(str(file.relative_to(unpacked)) for file in (link.readlink(), path))
                problems.append(f"two files are called {path.name}: {both}")
            else:
                link.symlink_to(path)
    raise_problems(
        problems, name, "Which one is meant? Download the files, keep one of each name, and use data.source: directory."
    )


def _visible_files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        *folders, name = path.relative_to(folder).parts
        if path.is_file() and not is_sidecar(name) and not any(map(is_hidden_folder, folders)):
            yield path
