"""Ways to damage a folder in the Kaggle layout that holds the training photos 10, 9 and NA and the test photo 20."""

import shutil
from collections.abc import Callable
from pathlib import Path

from helpers.photos import encoded, mask, photo, with_value

Damage = Callable[[Path], object]
"""Damages the folder that it gets."""


def cut(name: str, end: int) -> Damage:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:end])


def zeroed(folder: Path) -> None:
    """Zeros at a photo's end, as after a broken download into a preallocated file; a decoder accepts the file."""
    path = folder / "train_images/9.jpg"
    data = path.read_bytes()
    path.write_bytes(data[:-2] + bytes(200))


def write(name: str, data: bytes) -> Damage:
    return lambda folder: (folder / name).write_bytes(data)


def remove(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def copy(source: str, target: str) -> Damage:
    return lambda folder: shutil.copy(folder / source, folder / target)


def empty(name: str) -> Damage:
    def damage(folder: Path) -> None:
        shutil.rmtree(folder / name)
        (folder / name).mkdir()

    return damage


def damaged(folder: Path) -> None:
    """Of six training photos and two test photos only training photo 10 and test photo 20 stay good."""
    for number in (1, 2, 3):
        write(f"train_images/{number}.jpg", encoded(photo(30 + number)))(folder)
    write("train_masks/1.png", encoded(with_value(25, 7), "PNG"))(folder)
    write("train_masks/2.png", encoded(mask((64, 48)), "PNG"))(folder)  # 3 has none
    write("train_masks/4.png", encoded(mask(), "PNG"))(folder)  # no photo
    cut("train_images/9.jpg", 1500)(folder)
    copy("train_images/NA.jpg", "test_images/21.jpg")(folder)
    copy("test_masks/20.png", "test_masks/21.png")(folder)
    write("test_images/22.jpg", b"")(folder)
    write("test_images/notes.txt", b"")(folder)
