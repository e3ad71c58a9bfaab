"""A submission is scored at the size for which its runs were written, or not at all."""

import json
from hashlib import sha256
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from harveyseg.classes import HARVEY25, ClassList
from harveyseg.cli import score
from harveyseg.errors import HarveysegError
from harveyseg.evaluation.score_file import parse_size, score_file

PHOTOS = ("20", "3", "x_7")
Maps = dict[str, npt.NDArray[np.uint8]]


def natural(seed: int, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Patches of the classes 0..4 with round borders, at sizes that differ."""
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=(5, *size)), (0, *(side / 16 for side in size)))
    patches: npt.NDArray[np.uint8] = noise.argmax(axis=0).astype(np.uint8)
    return patches


def resized(maps: Maps, size: tuple[int, int]) -> Maps:
    return {
        photo: np.asarray(Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST))
        for photo, mask in maps.items()
    }


def notebook_encode(mask: npt.NDArray[np.bool_]) -> str:
    """The code that the competitors' notebooks share."""
    pixels = np.concatenate([[0], mask.flatten().astype(int), [0]])
    runs = np.where(pixels[1:] != pixels[:-1])[0] + 1
    runs[1::2] -= runs[::2]
    return " ".join(str(value) for value in runs)


def write(path: Path, maps: Maps) -> Path:
    rows = [f"{photo}.png_{c},{notebook_encode(mask == c)}" for photo, mask in maps.items() for c in range(1, 25)]
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(["ImageClassId,rle_mask", *rows]) + "\n")
    return path


def record(path: Path, size: tuple[int, int], classes: ClassList = HARVEY25) -> None:
    """What the stage submit writes next to its files."""
    content = {
        "classes": classes.model_dump(),
        "score_size": list(size),
        "files": {path.name: {"sha256": sha256(path.read_bytes()).hexdigest()}},
    }
    (path.parent / "submission.json").write_text(json.dumps(content))


def dice_by_hand(truth: Maps, submitted: Maps) -> float:
    values = []
    for photo, mask in truth.items():
        for c in range(1, 25):
            first, second = mask == c, submitted[photo] == c
            pixels = first.sum() + second.sum()
            values.append(2 * (first & second).sum() / pixels if pixels else 1.0)
    return float(np.mean(values))


@pytest.fixture(scope="module")
def truth() -> Maps:
    return {photo: natural(seed, (192, 256)) for seed, photo in enumerate(PHOTOS)}


@pytest.fixture(scope="module")
def guesses() -> Maps:
    return {photo: natural(seed, (192, 256)) for seed, photo in enumerate(PHOTOS, start=10)}


@pytest.fixture
def masks_dir(tmp_path: Path, truth: Maps) -> Path:
    folder = tmp_path / "masks"
    folder.mkdir()
    for photo, mask in truth.items():
        Image.fromarray(mask).save(folder / f"{photo}.png")
    return folder


@pytest.mark.parametrize("size", [(64, 64), (192, 256), (96, 200), (300, 300)])
def test_the_recorded_size_decides(
    tmp_path: Path, masks_dir: Path, truth: Maps, guesses: Maps, size: tuple[int, int]
) -> None:
    submitted = resized(guesses, size)
    path = write(tmp_path / "out" / "submission.csv", submitted)
    record(path, size)
    scored = score_file(path, masks_dir, HARVEY25, (1024, 1024), "data.score_size")
    assert scored.size == size
    assert scored.metrics["score"] == pytest.approx(dice_by_hand(resized(truth, size), submitted))
    assert "submission.json says, not the 1024 x 1024 of data.score_size" in scored.known_by
    same = score_file(path, masks_dir, HARVEY25, size, "data.score_size")
    assert same.metrics == scored.metrics
    assert "not the" not in same.known_by
    with pytest.raises(HarveysegError, match=rf"written for masks of {size[0]} x {size[1]}.*not for 1024 x 1024"):
        score_file(path, masks_dir, HARVEY25, size, "data.score_size", "1024")


def test_the_recorded_classes_decide(tmp_path: Path, masks_dir: Path, truth: Maps, guesses: Maps) -> None:
    path = write(tmp_path / "out" / "submission.csv", guesses)
    record(path, (192, 256))
    entries = [entry.model_dump() for entry in HARVEY25.classes]
    swapped = {1: 2, 2: 1}  # the settings have since exchanged two ids
    others = ClassList.model_validate(
        {"name": "mine", "classes": [{**entry, "id": swapped.get(entry["id"], entry["id"])} for entry in entries]}
    )
    scored = score_file(path, masks_dir, others, (192, 256), "data.score_size")
    assert scored.metrics["score"] == pytest.approx(dice_by_hand(truth, guesses))
    assert "so are the classes, harvey25" in scored.known_by


@pytest.mark.parametrize(
    ("written", "assumed", "cause"),
    [
        ((64, 64), (1024, 1024), "masks that are 64 pixels wide"),
        ((128, 128), (256, 256), "masks that are 128 pixels wide"),  # a multiple: two rows in one
        ((250, 250), (256, 256), "masks that are 250 pixels wide"),
        ((192, 256), (256, 192), "masks that are 256 pixels wide"),  # as many pixels
        ((256, 256), (128, 128), r"rows go beyond the last pixel, 16384; row '.*' goes to 6\d{4}"),
        ((1, 4096), (1024, 1024), r"no run goes beyond pixel \d+ of 1048576"),
    ],
)
def test_another_size_is_refused(
    tmp_path: Path, masks_dir: Path, guesses: Maps, written: tuple[int, int], assumed: tuple[int, int], cause: str
) -> None:
    path = write(tmp_path / "out" / "submission.csv", resized(guesses, written))
    with pytest.raises(HarveysegError, match=rf"{assumed[0]} x {assumed[1]} \(data.score_size\).*{cause}.*--size"):
        score_file(path, masks_dir, HARVEY25, assumed, "data.score_size")
    # A record of other content says nothing about this file.
    record(path, assumed)
    path.write_text(path.read_text() + "\n")
    with pytest.raises(HarveysegError, match=cause):
        score_file(path, masks_dir, HARVEY25, assumed, "data.score_size")


@pytest.mark.parametrize("size", [(64, 64), (192, 256), (256, 256)])
def test_a_size_that_suits_is_called_assumed(
    tmp_path: Path, masks_dir: Path, truth: Maps, guesses: Maps, size: tuple[int, int]
) -> None:
    submitted = resized(guesses, size)
    path = write(tmp_path / "out" / "submission.csv", submitted)
    expected = dice_by_hand(resized(truth, size), submitted)
    scored = score_file(path, masks_dir, HARVEY25, size, "data.score_size")
    assert scored.metrics["score"] == pytest.approx(expected)
    assert scored.known_by == "assumed from data.score_size, since the file does not say it"
    stated = score_file(path, masks_dir, HARVEY25, (1024, 1024), "data.score_size", f"{size[0]}x{size[1]}")
    assert (stated.metrics, stated.known_by) == (scored.metrics, "as --size says")


def test_the_size_of_the_masks(tmp_path: Path, masks_dir: Path, truth: Maps, guesses: Maps) -> None:
    path = write(tmp_path / "out" / "submission.csv", guesses)
    for setting, stated in ((None, None), ((1024, 1024), "masks")):
        scored = score_file(path, masks_dir, HARVEY25, setting, "data.score_size", stated)
        assert scored.size == (192, 256)
        assert scored.metrics["score"] == pytest.approx(dice_by_hand(truth, guesses))
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(masks_dir / "20.png")
    with pytest.raises(HarveysegError, match=r"the masks must have one size"):
        score_file(path, masks_dir, HARVEY25, None, "data.score_size")


def test_submissions_without_shapes(tmp_path: Path, masks_dir: Path) -> None:
    """Nothing tells their size, and nothing contradicts it."""
    empty = {photo: np.zeros((64, 64), np.uint8) for photo in PHOTOS}
    lower = {photo: np.repeat(np.arange(64) // 32, 64).reshape(64, 64).astype(np.uint8) for photo in PHOTOS}
    noise = {photo: np.random.default_rng(3).integers(0, 25, (64, 64)).astype(np.uint8) for photo in PHOTOS}
    for maps in (empty, lower, noise):
        path = write(tmp_path / "out" / "submission.csv", maps)
        assert "assumed" in score_file(path, masks_dir, HARVEY25, (64, 64), "data.score_size").known_by


def test_sizes_that_are_none() -> None:
    assert [parse_size(text) for text in ("masks", "1024", "720x960")] == [None, (1024, 1024), (720, 960)]
    for text in ("", "0", "-4", "4x", "1e3", "1024 x 1024", "own"):
        with pytest.raises(HarveysegError, match=r"--size .*HEIGHTxWIDTH"):
            parse_size(text)


def test_the_command_says_the_size(
    tmp_path: Path,
    masks_dir: Path,
    truth: Maps,
    guesses: Maps,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)  # without params.yaml
    submitted = resized(guesses, (64, 64))
    path = write(tmp_path / "out" / "mine.csv", submitted)
    with pytest.raises(HarveysegError, match=r"1024 x 1024 \(the competition's own script\)"):
        score(path, masks_dir)
    with pytest.raises(HarveysegError, match=r"is a folder\. Name the submission in it"):
        score(path.parent, masks_dir)
    score(path, masks_dir, "64")
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first == f"score: {dice_by_hand(resized(truth, (64, 64)), submitted):.5f}"
    assert last == "size of its masks: 64 x 64, as --size says"
