"""`harveyseg inspect` on made folders; what it writes is read by the readers that the pipeline uses."""

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from harveyseg.config.settings import section
from harveyseg.data.class_lists import read_classes
from harveyseg.data.masks import read_mask_file
from harveyseg.data.sources import DataParams
from helpers.commands import run_command
from helpers.rasters import grid, red_half, write_dji, write_tiff

SHAPE = (60, 80)
SIX = np.array([(128, 0, 0), (0, 0, 255), (0, 128, 0), (128, 128, 128), (255, 255, 0), (0, 0, 0)], np.uint8)


def _class_map(seed: int, classes: int) -> npt.NDArray[np.uint8]:
    """Blocks of all classes."""
    rng = np.random.default_rng(seed)
    cells = rng.permutation(np.arange(12 * 16) % classes).reshape(12, 16).astype(np.uint8)
    return cells.repeat(5, axis=0).repeat(5, axis=1)


def _photo(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*SHAPE, 3), np.uint8)).save(path)


def _mask(path: Path, pixels: npt.NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def _inspect(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *options: str
) -> tuple[str, Path]:
    """What it prints, and the folder that it wrote into."""
    out = folder.parent / "start"
    status, printed, err = run_command(monkeypatch, capsys, "inspect", str(folder), "--out", str(out), *options)
    assert status == 0, err
    return printed, out


def _read_all(classes_file: Path, masks: Path, truth: list[npt.NDArray[np.uint8]]) -> None:
    """The pipeline's reader takes every mask, and one id stands for one class of the truth in all of them."""
    classes = read_classes(classes_file)
    pairs = set()
    for path, expected in zip(sorted(masks.rglob("*.png")), truth, strict=True):
        read = read_mask_file(path.read_bytes(), classes)
        assert read.problems == (), path
        ids = np.asarray(Image.open(io.BytesIO(read.stored)))
        pairs |= {tuple(pair) for pair in np.unique(np.stack([ids, expected], axis=-1).reshape(-1, 2), axis=0).tolist()}
    assert len(pairs) == len({first for first, _ in pairs}) == len({second for _, second in pairs})


def test_masks_that_were_jpeg_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two classes, black and white with grey noise: said, with the remedy, after which the list fits."""
    truth = [_class_map(seed, 2) for seed in range(3)]
    noisy = tmp_path / "data" / "masks"
    for seed, class_map in enumerate(truth):
        _photo(tmp_path / "data" / "images" / f"{seed}.jpg", seed)
        buffer = io.BytesIO()
        Image.fromarray(class_map * 255).save(buffer, "JPEG", quality=92)
        _mask(noisy / f"{seed}.png", np.asarray(Image.open(buffer)))
    printed, out = _inspect(tmp_path / "data", monkeypatch, capsys)
    assert "saved as JPEG once: threshold them at 128" in printed
    for path in sorted(noisy.iterdir()):
        _mask(path, (np.asarray(Image.open(path)) >= 128).astype(np.uint8))
    _read_all(out / "classes.yaml", noisy, truth)


@pytest.mark.parametrize("same_palette", [True, False])
def test_colour_masks_of_which_a_third_are_palettes(
    same_palette: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whether palettes agree on their indices or not, each file is read by its colours."""
    truth = [_class_map(seed, 6) for seed in range(6)]
    for seed, class_map in enumerate(truth):
        _photo(tmp_path / "data" / "images" / f"{seed}.jpg", seed)
        path = tmp_path / "data" / "masks" / f"{seed}.png"
        _mask(path, SIX[class_map])
        if seed % 3 == 0:
            order = np.random.default_rng(0 if same_palette else seed).permutation(6)
            indexed = Image.fromarray(np.argsort(order).astype(np.uint8)[class_map])
            indexed.putpalette(SIX[order].tobytes())
            indexed.save(path)
    printed, out = _inspect(tmp_path / "data", monkeypatch, capsys)
    assert "mask kinds: 4 colour, 2 palette" in printed
    colours = {entry.color for entry in read_classes(out / "classes.yaml").classes}
    assert colours == {"#" + bytes(colour).hex() for colour in SIX}
    _read_all(out / "classes.yaml", tmp_path / "data" / "masks", truth)


@pytest.mark.parametrize("palette", [False, True])
def test_values_that_fit_several_built_in_lists(
    palette: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All are named, with what each calls a value; lists of which little occurs are not."""
    for seed, classes in ((0, 10), (1, 11), (2, 12), (3, 25), (4, 5)):
        folder = tmp_path / str(classes) / "masks"
        folder.mkdir(parents=True)
        image = Image.fromarray(_class_map(seed, classes))
        if palette:
            image.putpalette(np.random.default_rng(0).permutation(3 * 256).astype(np.uint8).tobytes())
        image.save(folder / "1.png")

    def said(classes: int) -> tuple[str, list[str]]:
        printed, _ = _inspect(tmp_path / str(classes), monkeypatch, capsys)
        (note,) = [line for line in printed.splitlines() if "built-in list" in line]
        return note, [line for line in printed.splitlines() if "% of pixels" in line]

    note, shares = said(11)
    assert "the built-in lists rescuenet, rescuenet12, or of none: values alone cannot tell" in note
    assert sum("rescuenet: Vehicle; rescuenet12: Building Total Destruction" in line for line in shares) == 1
    assert sum(line.endswith("  rescuenet, rescuenet12: Pool") for line in shares) == 1
    note, shares = said(10)
    assert "floodnet10, rescuenet, rescuenet12" in note
    assert sum("floodnet10, rescuenet12: Vehicle; rescuenet: Road Clear" in line for line in shares) == 1
    note, shares = said(12)
    assert "could be those of the built-in list rescuenet12: if its names fit" in note
    assert sum(line.endswith("rescuenet12: Sand") for line in shares) == 1
    note, shares = said(25)
    assert "harvey25, harvey26, or of none" in note
    assert sum("harvey25: Flooded; harvey26: Water Body" in line for line in shares) == 1
    note, shares = said(5)
    assert "if the data are of a built-in list (harvey25, " in note
    assert all(line.endswith("% of pixels") for line in shares)


def test_eleven_classes_with_255_and_a_suffix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = [_class_map(seed, 11) for seed in range(4)]
    for seed, class_map in enumerate(truth):
        class_map[:6, :8] = 255  # 48 of 4800 pixels
        _photo(tmp_path / "data" / "org" / f"{seed + 1}.jpg", seed)
        _mask(tmp_path / "data" / "org" / f"{seed + 1}_lab.png", class_map)
    (tmp_path / "data" / "org" / "1.tfw").write_text("1")
    printed, out = _inspect(tmp_path / "data", monkeypatch, capsys)
    assert "photo <id>, mask <id>_lab, which explains 4 of 4 masks" in printed
    assert "needs folders named train_images, train_masks" in printed
    assert "no folder test_images: without test photos there is no submission" in printed
    assert "to do: rename" not in printed  # the source `directory` follows the rule
    assert "no masks: 1 .tfw" in printed
    assert "   255    1.0000% of pixels" in printed
    classes = read_classes(out / "classes.yaml")
    assert (len(classes), classes.ignore) == (11, 255)
    _read_all(out / "classes.yaml", tmp_path / "data" / "org", truth)


def test_photos_of_a_drone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """60 m above ground, 26 mm lens, 80 pixels wide: 60 * 36 / 26 / 80 m per pixel. Frames start again by folder."""
    for flight in ("a", "b"):
        for number in (1, 2):
            path = tmp_path / "data" / "images" / flight / f"DJI_{number:04}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_dji(path, np.full((*SHAPE, 3), 40 * number + ord(flight), np.uint8))
    copied = tmp_path / "data" / "images" / "b" / "DJI_0009.jpg"
    copied.write_bytes((tmp_path / "data" / "images" / "a" / "DJI_0001.jpg").read_bytes())
    Image.new("RGB", (80, 60)).save(tmp_path / "data" / "images" / "b" / "DJI_0010.jpg", "WEBP")
    printed, out = _inspect(tmp_path / "data", monkeypatch, capsys)
    pixel = f"{100 * 60 * 36 / 26 / 80:.2f}"
    assert f"flight height and lens: {pixel} to {pixel}, median {pixel} cm, of 5 photos" in printed
    assert "cameras: 5 DJI FC6310" in printed
    assert "the same photo: images/a/DJI_0001.jpg = images/b/DJI_0009.jpg" in printed
    assert "names that occur in several folders: 2 (DJI_0001, DJI_0002); their ids get the folder's name" in printed
    assert "DJI_0010.jpg: is WEBP data" in printed
    assert "masks: none found" in printed
    assert [path.name for path in out.iterdir()] == ["data.yaml"]


def test_georeferenced_photos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """160 x 96 pixels of 50 cm, where UTM stretches by 1.0003. No grid, or a band of heights, says nothing."""
    folder = tmp_path / "data" / "images"
    folder.mkdir(parents=True)
    for number in (1, 2):
        write_tiff(folder / f"{number}.tif", red_half(), transform=grid(0.5))
    printed, out = _inspect(tmp_path / "data", monkeypatch, capsys)
    assert "ground per pixel from the georeference: 49.99 to 49.99, median 49.99 cm, of 2 photos" in printed
    ground = section(out / "data.yaml", "data", DataParams).ground
    assert ground == pytest.approx((48, 80), rel=1e-3)
    write_tiff(folder / "3.tif", red_half(), None)
    write_tiff(folder / "4.tif", red_half()[:1].astype(np.float32))
    (out / "data.yaml").unlink()
    printed, out = _inspect(tmp_path / "data", monkeypatch, capsys)
    assert "median 49.99 cm, of 2 photos" in printed
    assert section(out / "data.yaml", "data", DataParams).ground is None


def test_photos_of_other_kinds_and_broken_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What they are is said in a line for each kind; broken files are no duplicates, whatever their bytes."""
    folder = tmp_path / "data" / "images"
    folder.mkdir(parents=True)
    for number in (1, 2):
        write_tiff(folder / f"{number}.tif", red_half().astype(np.uint16) * 16)
        (folder / f"empty{number}.jpg").write_bytes(b"")
        (folder / f"broken{number}.jpg").write_bytes(b"no photo")
        _photo(folder / f"same{number}.png", 0)
    write_tiff(folder / "3.tif", red_half().astype(np.float32))
    write_tiff(folder / "4.tif", red_half())
    Image.fromarray(np.zeros(SHAPE, np.uint16)).save(folder / "5.png")
    _mask(tmp_path / "data" / "masks" / "1.png", _class_map(0, 3))  # so that PNG files among the images are photos
    printed, _ = _inspect(tmp_path / "data", monkeypatch, capsys)
    lines = printed.splitlines()
    sixteen = [line for line in lines if line.startswith("1.tif and 1 more: its values are uint16; 8 bits are needed")]
    assert len(sixteen) == 1
    assert "--range" in sixteen[0]
    assert any(line.startswith("3.tif: its values are float32") for line in lines)
    assert any(line.startswith("5.png: is grey; a colour photo (RGB) is needed") for line in lines)
    assert "empty1.jpg and 1 more: is empty" in lines
    assert "broken1.jpg and 1 more: cannot be read as an image" in lines
    assert not any(line.startswith("4.tif") for line in lines)
    assert [line for line in lines if "the same photo" in line] == [
        "the same photo: images/1.tif = images/2.tif", "the same photo: images/same1.png = images/same2.png"
    ]  # fmt: skip
    assert "photo sizes: 4 160x96, 3 80x60" in printed


def test_linked_folders_are_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for place in ("images", "masks"):
        (tmp_path / "card" / place).mkdir(parents=True)
    _photo(tmp_path / "card" / "images" / "1.jpg", 1)
    _mask(tmp_path / "card" / "masks" / "1.png", _class_map(0, 3))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "flight").symlink_to(tmp_path / "card")
    (tmp_path / "card" / "back").symlink_to(tmp_path / "data")  # round and round
    printed, _ = _inspect(tmp_path / "data", monkeypatch, capsys)
    assert "1 photo, 1 mask" in printed


def test_overlapping_photos_and_masks_of_other_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two photos are cut from one picture, the third is not."""
    rng = np.random.default_rng(0)
    scene = np.asarray(Image.fromarray(rng.integers(0, 256, (60, 100), np.uint8)).resize((1000, 600)))
    other = np.asarray(Image.fromarray(rng.integers(0, 256, (60, 60), np.uint8)).resize((600, 600)))
    (tmp_path / "data" / "images").mkdir(parents=True)
    for name, pixels in (("first", scene[:, :600]), ("second", scene[:, 300:900]), ("third", other)):
        Image.fromarray(pixels).convert("RGB").save(tmp_path / "data" / "images" / f"{name}.png")
        _mask(tmp_path / "data" / "masks" / f"{name}.png", _class_map(0, 3))
    printed, _ = _inspect(tmp_path / "data", monkeypatch, capsys)
    assert "overlaps among all photos: 1 pair shows the same ground (first and second)" in printed
    assert "first.png: is 600x600 pixels, its mask 80x60" in printed


def test_files_are_never_overwritten_and_the_settings_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _photo(tmp_path / "data" / "images" / "1.jpg", 1)
    _mask(tmp_path / "data" / "masks" / "1.png", _class_map(0, 3))
    _, out = _inspect(tmp_path / "data", monkeypatch, capsys)
    params = section(out / "data.yaml", "data", DataParams)
    assert (params.source, params.path, params.score_size) == ("directory", str(tmp_path / "data"), None)
    (out / "classes.yaml").write_text("mine")
    printed, _ = _inspect(tmp_path / "data", monkeypatch, capsys)
    assert (out / "classes.yaml").read_text() == "mine"
    assert "classes.yaml: exists already and was left as it is" in printed


def test_masks_without_photos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = [_class_map(0, 27)]
    _mask(tmp_path / "more_masks" / "1.png", truth[0])
    printed, out = _inspect(tmp_path / "more_masks", monkeypatch, capsys)
    assert "0 photos, 1 mask" in printed
    _read_all(out / "classes.yaml", tmp_path / "more_masks", truth)


def test_grey_and_colour_masks_fit_no_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A black grey mask is the id 0, a black colour mask whatever black is: nobody can say whether they agree."""
    for seed in range(2):
        _photo(tmp_path / "data" / "images" / f"{seed}.jpg", seed)
    _mask(tmp_path / "data" / "masks" / "0.png", np.zeros(SHAPE, np.uint8))
    _mask(tmp_path / "data" / "masks" / "1.png", SIX[_class_map(1, 6)])
    Image.fromarray(np.zeros((*SHAPE, 2), np.uint8), "LA").save(tmp_path / "data" / "masks" / "2.png")
    Image.new("RGBA", SHAPE[::-1], (255, 0, 0, 0)).save(tmp_path / "data" / "masks" / "3.png")
    printed, out = _inspect(tmp_path / "data", monkeypatch, capsys)
    assert "2.png: is 8-bit grey with alpha; a mask must be 8-bit grey" in printed
    assert f"3.png: is transparent in {SHAPE[0] * SHAPE[1]} pixels, whose class nobody can see" in printed
    assert "masks of mixed kinds: 1 are grey and hold values, 1 hold colours" in printed
    assert not (out / "classes.yaml").exists()


def test_no_folder_and_no_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("")
    for folder, cause in ((tmp_path, "holds no image"), (tmp_path / "absent", "is not a folder")):
        status, _, err = run_command(monkeypatch, capsys, "inspect", str(folder))
        assert (status, cause in err) == (1, True)
