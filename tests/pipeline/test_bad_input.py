"""Every error message that a user can meet: each bad input is made for real and its message compared.

The messages are in ``tests/snapshots/error-messages.md``. After a change of some, run
``PYTHONPATH=src:tests python tests/pipeline/test_bad_input.py``, which writes that file again, and read the difference.
"""

import contextlib
import html
import importlib.util
import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from ruamel.yaml import YAML
from safetensors.numpy import save_file

from harveyseg import cli
from harveyseg.classes import HARVEY25
from harveyseg.config.settings import load
from harveyseg.data.archives import unpack
from harveyseg.data.sources import DataParams, download_source, zenodo
from harveyseg.data.sources.kaggle import KaggleParams
from harveyseg.errors import HarveysegError
from harveyseg.files import write_json
from harveyseg.training.checkpoint import Checkpoint
from helpers.damage import cut, damaged, write, zeroed
from helpers.file_server import serving
from helpers.kaggle_server import COMPETITION, running
from helpers.paths import ROOT
from helpers.photos import encoded, huge, mask, palette, photo, see_through, turned, with_value

SNAPSHOT = ROOT / "tests" / "snapshots" / "error-messages.md"

Action = Callable[[Path], object]
"""Makes the bad input in a project's folder, which is the working directory, and meets it."""


@dataclass(frozen=True)
class Case:
    """A row of the snapshot."""

    what: str
    command: str
    act: Action


@dataclass(frozen=True)
class Part:
    """A table of the snapshot."""

    title: str
    cases: list[Case]
    start: str = ""
    """How all messages of the table begin; the rows show the rest."""
    ends: tuple[str, ...] = ("",)
    """How they may end."""


def stage(name: str, **options: Any) -> None:
    """Run a stage's command in this process; `stages/run` would print the error and exit with 1."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "stages" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(**options)


def harveyseg(*arguments: str) -> None:
    """Run the command line in this process; it would print the error and exit with 1."""
    cli._commands(arguments, standalone_mode=False)


def change(folder: Path, keys: str, value: object) -> None:
    """Set ``a.b.c`` in params.yaml."""
    values = load(folder / "params.yaml")
    *path, last = keys.split(".")
    section = values
    for key in path:
        section = section[key]
    section[last] = value
    YAML().dump(values, folder / "params.yaml")


def settings(changes: dict[str, object], name: str) -> Action:
    """Change params.yaml and run a stage."""

    def act(folder: Path) -> None:
        (folder / "data").mkdir()
        (folder / "data" / "README.md").touch()  # the committed data.path
        for keys, value in changes.items():
            change(folder, keys, value)
        stage(name)

    return act


def steps(*actions: Action) -> Action:
    """One after the other."""

    def act(folder: Path) -> None:
        for action in actions:
            action(folder)

    return act


def removed(name: str) -> Action:
    def act(folder: Path) -> None:
        values = load(folder / "params.yaml")
        del values[name]
        YAML().dump(values, folder / "params.yaml")
        stage("download")

    return act


def wrong_file(name: str, text: str, command: Callable[[], object]) -> Action:
    """Write a file, then run a command."""

    def act(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
        command()

    return act


def directory(**data: Any) -> Action:
    return lambda folder: download_source(DataParams(source="directory", **data), folder, folder / "data/raw")


CLASSES = b"""classes:
  - {id: 0, name: Land, color: "#000000", scored: false}
  - {id: 23, name: Flooded, color: "#ff0000"}
"""

WRONG_CLASSES = b"""ignore: 0
classes:
  - {id: 0, name: Land}
  - {id: 1, name: Water, color: "#ff0000", score: false}
  - {id: 300, name: Roof, color: red}
"""

BARE_COLOURS = b"""ignore: #ffffff
classes:
  - {id: 0, name: Land, color: #000000}
"""

REPEATED_CLASSES = b"""ignore: 0
classes:
  - {id: 0, name: Land, color: "#000000"}
  - {id: 0, name: land, color: "#000000", scored: false}
"""


def own_classes(text: bytes) -> Action:
    return steps(write("classes.yaml", text), directory(path="photos", classes="classes.yaml"))


def without_gcsfs(folder: Path) -> None:
    with mock.patch.dict(sys.modules, {"gcsfs": None}):  # what `import` finds where a package is not installed
        directory(url="gs://bucket/photos")(folder)


def doi(url: str) -> Action:
    """Ask for a DOI where Zenodo has one record, which shows no files."""

    def act(folder: Path) -> None:
        with serving() as server, mock.patch.dict(os.environ, {zenodo.ZENODO_API_VARIABLE: server.address}):
            for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
                os.environ.pop(name, None)
            server.files["/records/12"] = b'{"id": 12}'
            download_source(DataParams(source="figshare", url=url), folder, folder / "data/raw")

    return act


def kaggle(competition: str = COMPETITION, rules_accepted: bool = True, **environment: str) -> Action:
    """Ask a local Kaggle for a competition, signed in by these variables if there are any."""

    def act(folder: Path) -> None:
        with running() as service, pytest.MonkeyPatch.context() as patch:
            service.use(patch, folder / "home")
            service.rules_accepted = rules_accepted
            if environment:
                patch.delenv("KAGGLE_API_TOKEN")
            for name, value in environment.items():
                patch.setenv(name, value)
            params = DataParams(source="kaggle", kaggle=KaggleParams(competition=competition))
            download_source(params, folder, folder / "data/raw")

    return act


def photos(damage: Action, **data: Any) -> Action:
    """Damage a good folder of photos and verify it."""

    def act(folder: Path) -> None:
        for photo_id, seed in {"10": 0, "9": 1, "20": 2}.items():
            part = "test" if photo_id == "20" else "train"
            for kind, image, ending in (("images", photo(seed), "jpg"), ("masks", mask(), "png")):
                path = folder / "photos" / f"{part}_{kind}" / f"{photo_id}.{ending}"
                path.parent.mkdir(parents=True, exist_ok=True)
                image.save(path)
        damage(folder / "photos")
        directory(path="photos", **data)(folder)

    return act


def replaced(old: str, new: str, data: bytes) -> Action:
    def damage(folder: Path) -> None:
        (folder / old).unlink()
        (folder / new).write_bytes(data)

    return damage


def emptied(folder: Path) -> None:
    for file in (folder / "test_images").iterdir():
        file.unlink()
    shutil.rmtree(folder / "test_masks")


def in_both_parts(folder: Path) -> None:
    shutil.copy(folder / "train_images/9.jpg", folder / "test_images/21.jpg")
    shutil.copy(folder / "train_masks/9.png", folder / "test_masks/21.png")


def several(folder: Path) -> None:
    (folder / "train_images/NA.jpg").write_bytes(encoded(photo(7)))
    (folder / "train_masks/NA.png").write_bytes(encoded(mask(), "PNG"))
    damaged(folder)


def by_two_rules(folder: Path) -> None:
    (folder / "train_images/10.jpg").rename(folder / "train_images/9_x.jpg")
    (folder / "train_masks/10.png").unlink()
    (folder / "train_masks/9.png").rename(folder / "train_masks/9_x_x.png")


def rgb(first: tuple[int, int, int]) -> bytes:
    """A mask in black with a corner of another colour."""
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:2, :3] = first
    return encoded(Image.fromarray(pixels), "PNG")


def grey16() -> bytes:
    return encoded(Image.fromarray(np.zeros((48, 64), np.uint16)), "PNG")


def cached(ids: list[str], groups: str, folds: int = 2) -> Action:
    """The stage split for cached photos of these ids."""

    def act(folder: Path) -> None:
        cache = folder / "data/cache/train"
        cache.mkdir(parents=True)
        pd.DataFrame({"id": ids, "width": 64, "height": 48}).to_csv(cache / "photos.csv", index=False)
        info = {
            "size": [64, 64],
            "source": "demo",
            "hash": "0",
            "classes": HARVEY25.model_dump(),
            "score_size": [64, 64],
        }
        write_json(cache / "info.json", {**info, "classes": HARVEY25.model_dump()})
        (folder / "groups.csv").write_text("id,group\n10,a\n")
        change(folder, "split.groups", groups)
        change(folder, "split.folds", folds)
        stage("split")

    return act


def lost_after_verification(folder: Path) -> None:
    photos(lambda _: None)(folder)
    (folder / "data/raw/train_images/9.jpg").write_bytes(b"")
    stage("resize_cache")


def weights(content: bytes | None) -> Action:
    """Predict with a model whose weights are this file; None: one that holds tensors and nothing else."""

    def act(folder: Path) -> None:
        path = folder / "data/models/unet-0/weights.safetensors"
        path.parent.mkdir(parents=True)
        if content is None:
            save_file({"a": np.zeros(1, np.float32)}, path)
        else:
            path.write_bytes(content)
        harveyseg("predict", "photo.jpg", "--out", "maps", "--model", "unet")

    return act


def checkpoint(folder: Path) -> None:
    (folder / ".checkpoints/key").mkdir(parents=True)
    (folder / ".checkpoints/key/state.pt").write_bytes(b"")
    Checkpoint(folder / ".checkpoints", "key").load(torch.device("cpu"))


def submission(change_lines: Callable[[list[str]], object], name: str = "submission.csv") -> Action:
    """Score a submission for one photo after a change of its lines."""

    def act(folder: Path) -> None:
        (folder / "masks").mkdir()
        mask().save(folder / "masks/10170.png")
        lines = ["ImageClassId,rle_mask", *(f"10170.png_{class_id}," for class_id in range(1, 25))]
        change_lines(lines)
        (folder / "submission.csv").write_text("\n".join(lines) + "\n")
        harveyseg("score", name, "--masks", "masks")

    return act


def line(number: int, text: str) -> Callable[[list[str]], object]:
    return lambda lines: lines.__setitem__(number, text)


def predicted(folder: Path) -> None:
    from harveyseg.geo.mosaic import MosaicOptions
    from harveyseg.prediction.inputs import check_inputs, find_inputs

    (folder / "photo.jpg").write_text("no photo")
    (folder / "empty.tif").write_text("II*\0")
    check_inputs(find_inputs([str(folder / "photo.jpg"), str(folder / "empty.tif")], folder / "maps"), MosaicOptions())


def archive(content: dict[str, str], keep: int | None = None) -> Action:
    """Unpack an archive of these members, of which only the first bytes are there."""

    def act(folder: Path) -> None:
        path = folder / "photos.zip"
        with zipfile.ZipFile(path, "w") as opened:
            for name, text in content.items():
                opened.writestr(name, text)
        path.write_bytes(path.read_bytes()[:keep])
        unpack(path, folder / "unpacked")

    return act


REMEDY = "\nFix or remove these files (or fetch them again), then run `dvc repro download`."
DOWNLOAD = "dvc repro download"
CODE = "dvc repro code"
SPLIT = "dvc repro split"

PARTS = [
    Part(
        "Settings",
        [
            Case(
                "no params.yaml here",
                CODE,
                steps(lambda folder: (folder / "params.yaml").unlink(), lambda _: stage("code")),
            ),
            Case("params.yaml is no YAML", CODE, wrong_file("params.yaml", "a: [1\n", lambda: stage("code"))),
            Case("a section is missing", DOWNLOAD, removed("data")),
            Case("a key that does not exist", CODE, settings({"train.learning_rate": 0.1}, "code")),
            Case(
                "keys of `train` from before it had groups",
                CODE,
                settings({"train.dice": 0.5, "train.schedule": "cosine", "models.unet.train": {"ema": 0.99}}, "code"),
            ),
            Case(
                "several values out of range",
                CODE,
                settings({"train.batch_size": 0, "train.lr": -1, "resize-cache.size": 250}, "code"),
            ),
            Case("a network that does not exist", CODE, settings({"models.unet": {"network": "unets"}}, "code")),
            Case(
                "a model's name that cannot be a folder's",
                CODE,
                settings({"models": {"my/unet": {"network": "unet"}}}, "code"),
            ),
            Case(
                "weights that are neither published nor a file",
                CODE,
                settings(
                    {
                        "models": {"m": {"network": "smp", "architecture": "Unet", "encoder": "mobilenet_v2"}},
                        "train.encoder_weights": "absent.pth",
                    },
                    "code",
                ),
            ),
            Case("data.path ends in a blank", CODE, settings({"data.path": "../photos "}, "code")),
            Case("data.path is not on this machine", CODE, settings({"data.path": "photos"}, "code")),
            Case("a setting of a later stage", CODE, settings({"inference.tta": "all"}, "code")),
            Case("a data source that does not exist", DOWNLOAD, settings({"data.source": "folder"}, "download")),
            Case("on_bad is neither error nor skip", DOWNLOAD, settings({"data.on_bad": "ignore"}, "download")),
            Case(
                "classes as an earlier version had them",
                DOWNLOAD,
                settings({"data.classes": {0: "#000000", 23: "#ff0000"}}, "download"),
            ),
            Case("a list of classes that does not exist", CODE, settings({"data.classes": "harvey24"}, "code")),
            Case("a file of classes that does not exist", CODE, settings({"data.classes": "own.yaml"}, "code")),
            Case("other classes than the demo draws", CODE, settings({"data.classes": "floodnet10"}, "code")),
            Case("a list of classes with mistakes", DOWNLOAD, own_classes(WRONG_CLASSES)),
            Case("a list of classes with colours without quotes", DOWNLOAD, own_classes(BARE_COLOURS)),
            Case("a list of classes with entries twice", DOWNLOAD, own_classes(REPEATED_CLASSES)),
            Case("directory: no path", DOWNLOAD, directory(path="")),
            Case("directory: the path does not exist", DOWNLOAD, directory(path="absent")),
            Case("directory: path and url", DOWNLOAD, directory(path="photos", url="s3://bucket/photos")),
            Case("directory: the url is none", DOWNLOAD, directory(url="bucket/photos")),
            Case(
                "directory: a test part to hold out, and one is there",
                DOWNLOAD,
                photos(lambda _: None, directory={"test_share": 0.2}),
            ),
            Case("directory: an unknown protocol", DOWNLOAD, directory(url="s4://bucket/photos")),
            Case("directory: the storage's package is not installed", DOWNLOAD, without_gcsfs),
            Case("directory: nothing is there", DOWNLOAD, directory(url="memory://absent/photos")),
            Case("directory: the server is down", DOWNLOAD, directory(url="http://127.0.0.1:9/photos")),
            Case("the url is no address", DOWNLOAD, settings({"data.url": "http://[::1/photos"}, "download")),
            Case("figshare: an article twice", DOWNLOAD, settings({"data.figshare.articles": [7, 7]}, "download")),
            Case(
                "a file is called data",
                DOWNLOAD,
                wrong_file("data", "", lambda: download_source(DataParams(source="demo"), Path(), Path("data/raw"))),
            ),
            Case("an unknown preset", "harveyseg preset fast", lambda folder: harveyseg("preset", "fast")),
            Case(
                "photos without a number, grouped by numbers",
                SPLIT,
                cached(["a", "b", "10"], "ids"),
            ),
            Case("the file of groups is missing", SPLIT, cached(["9", "10"], "absent.csv")),
            Case("the file of groups lacks photos", SPLIT, cached(["9", "10"], "groups.csv")),
            Case("more folds than groups of photos", SPLIT, cached(["9", "10"], "ids")),
        ],
    ),
    Part(
        "Photos and masks",
        [
            Case("a folder is missing", DOWNLOAD, photos(lambda folder: shutil.rmtree(folder / "train_masks"))),
            Case(
                "two folders have the name",
                DOWNLOAD,
                photos(lambda folder: shutil.copytree(folder / "train_images", folder / "old/Train_Images")),
            ),
            Case("a folder is empty", DOWNLOAD, photos(emptied)),
            Case(
                "a folder lies in another one of them",
                DOWNLOAD,
                photos(lambda folder: (folder / "test_masks").rename(folder / "test_images/test_masks")),
            ),
            Case("a photo has no mask", DOWNLOAD, photos(lambda folder: (folder / "train_masks/9.png").unlink())),
            Case("masks' names follow two rules", DOWNLOAD, photos(by_two_rules)),
            Case("a mask has no photo", DOWNLOAD, photos(lambda folder: (folder / "train_images/9.jpg").unlink())),
            Case("a file is no photo", DOWNLOAD, photos(write("train_images/notes.txt", b""))),
            Case("two photos have one id", DOWNLOAD, photos(write("train_images/9.png", encoded(photo(5), "PNG")))),
            Case(
                "two photos in folders inside have one id",
                DOWNLOAD,
                photos(
                    steps(
                        lambda folder: (folder / "train_images/flight2").mkdir(),
                        write("train_images/flight2/9.jpg", encoded(photo(5))),
                    )
                ),
            ),
            Case(
                "two ids differ only in case",
                DOWNLOAD,
                photos(
                    steps(
                        write("train_images/a.jpg", encoded(photo(5))),
                        write("train_images/A.png", encoded(photo(6), "PNG")),
                        write("train_masks/a.png", encoded(mask(), "PNG")),
                        write("train_masks/A.png", encoded(mask(), "PNG")),
                    )
                ),
            ),
            Case(
                "an id is in both parts",
                DOWNLOAD,
                photos(
                    steps(
                        write("train_images/20.jpg", encoded(photo(5))),
                        write("train_masks/20.png", encoded(mask(), "PNG")),
                    )
                ),
            ),
            Case("a photo is in both parts", DOWNLOAD, photos(in_both_parts)),
            Case("a photo is cut off", DOWNLOAD, photos(cut("train_images/9.jpg", 1500))),
            Case("a photo's download broke off, the rest are zeros", DOWNLOAD, photos(zeroed)),
            Case("a photo is empty", DOWNLOAD, photos(write("train_images/9.jpg", b""))),
            Case("a PNG is named .jpg", DOWNLOAD, photos(write("train_images/9.jpg", encoded(photo(1), "PNG")))),
            Case(
                "a photo is grey",
                DOWNLOAD,
                photos(replaced("train_images/9.jpg", "train_images/9.png", encoded(photo(1).convert("L"), "PNG"))),
            ),
            Case(
                "a photo is transparent",
                DOWNLOAD,
                photos(replaced("train_images/9.jpg", "train_images/9.png", encoded(see_through(), "PNG"))),
            ),
            Case(
                "a photo has too many pixels",
                DOWNLOAD,
                photos(replaced("train_images/9.jpg", "train_images/9.png", huge(2))),
            ),
            Case("a photo is turned by its EXIF data", DOWNLOAD, photos(write("train_images/9.jpg", turned()))),
            Case(
                "a mask has another size",
                DOWNLOAD,
                photos(write("train_masks/9.png", encoded(mask((64, 48)), "PNG"))),
            ),
            Case(
                "a mask holds another value",
                DOWNLOAD,
                photos(write("train_masks/9.png", encoded(with_value(25, 7), "PNG"))),
            ),
            Case(
                "a palette mask holds another index",
                DOWNLOAD,
                photos(write("train_masks/9.png", encoded(palette(with_value(31, 5)), "PNG"))),
            ),
            Case("a mask has colours", DOWNLOAD, photos(write("train_masks/9.png", rgb((255, 0, 0))))),
            Case(
                "a mask has a colour that is not in the list",
                DOWNLOAD,
                photos(
                    steps(
                        write("classes.yaml", CLASSES),
                        write("train_masks/9.png", rgb((255, 0, 0))),
                        write("train_masks/10.png", rgb((250, 5, 5))),
                    ),
                    classes="photos/classes.yaml",
                ),
            ),
            Case(
                "a mask is transparent",
                DOWNLOAD,
                photos(write("train_masks/9.png", encoded(Image.new("RGBA", (64, 48), (0, 0, 0, 0)), "PNG"))),
            ),
            Case("a mask has 255", DOWNLOAD, photos(write("train_masks/9.png", encoded(with_value(255, 7), "PNG")))),
            Case("a mask has 16 bits", DOWNLOAD, photos(write("train_masks/9.png", grey16()))),
            Case("a mask is a JPEG", DOWNLOAD, photos(write("train_masks/9.png", encoded(photo(1))))),
            Case("a mask is cut off", DOWNLOAD, photos(cut("train_masks/9.png", -1))),
            Case("many of them", DOWNLOAD, photos(several)),
            Case("nothing is left", DOWNLOAD, photos(write("test_images/20.jpg", b""), on_bad="skip")),
        ],
        start="the photos in PROJECT/photos: ",
        ends=(f"{REMEDY} To continue without them: data.on_bad = skip.", REMEDY),
    ),
    Part(
        "Kaggle, figshare and Zenodo",
        [
            Case("Kaggle: no credentials, or an old token", DOWNLOAD, kaggle(KAGGLE_API_TOKEN="old")),
            Case("Kaggle: an old key (401)", DOWNLOAD, kaggle(KAGGLE_USERNAME="ana", KAGGLE_KEY="old")),
            Case("Kaggle: its rules are not accepted (403)", DOWNLOAD, kaggle(rules_accepted=False)),
            Case("Kaggle: no such competition (404)", DOWNLOAD, kaggle("flood-map")),
            Case("a DOI of another service", DOWNLOAD, doi("10.7910/DVN/1234")),
            Case("a record that is not open", DOWNLOAD, doi("10.5281/zenodo.12")),
        ],
    ),
    Part(
        "Archives",
        [
            Case("cut off", DOWNLOAD, archive({"train_images/1.jpg": "x" * 1000}, 600)),
            Case("a path out of the folder", DOWNLOAD, archive({"../1.jpg": "x"})),
            Case("no archive", DOWNLOAD, wrong_file("a.zip", "<html>", lambda: unpack(Path("a.zip"), Path("a")))),
        ],
    ),
    Part(
        "What stages have written",
        [
            Case(
                "the manifest",
                "dvc repro resize-cache",
                wrong_file("data/raw/manifest.csv", "part,id\n", lambda: stage("resize_cache")),
            ),
            Case("a photo", "dvc repro resize-cache", lost_after_verification),
            Case("the cache", SPLIT, lambda folder: stage("split")),
            Case(
                "weights: no such file",
                "harveyseg predict",
                steps(
                    lambda folder: (folder / "dvc.lock").write_text("stages: {train@unet-0: {cmd: stages/run train}}"),
                    lambda folder: harveyseg("predict", "photo.jpg", "--out", "maps"),
                ),
            ),
            Case("weights: damaged", "harveyseg predict", weights(b"<html>")),
            Case("weights: of another program", "harveyseg predict", weights(None)),
            Case(
                "runs",
                "harveyseg check",
                steps(
                    lambda folder: change(folder, "models", {"unet": {"network": "unet"}}),
                    wrong_file("data/models/unet-0/run.json", "{", lambda: harveyseg("check")),
                ),
            ),
            Case("the checkpoint of a killed training", "dvc repro train", checkpoint),
        ],
    ),
    Part(
        "Submissions",
        [
            Case("no such file", "harveyseg score", submission(lambda lines: lines.clear(), "absent.csv")),
            Case("no masks", "harveyseg score", lambda folder: harveyseg("score", "a.csv", "--masks", "absent")),
            Case("another header", "harveyseg score", submission(line(0, "id,rle"))),
            Case("a row is missing", "harveyseg score", submission(lambda lines: lines.pop(3))),
            Case("a row is there twice", "harveyseg score", submission(lambda lines: lines.append(lines[1]))),
            Case(
                "an unknown photo, a class 0",
                "harveyseg score",
                submission(lambda lines: lines.extend(["99999.png_1,", "10170.png_0,"])),
            ),
            Case("runs beyond the photo", "harveyseg score", submission(line(1, "10170.png_1,1048576 2"))),
            Case("runs that overlap", "harveyseg score", submission(line(1, "10170.png_1,5 10 8 3"))),
            Case("nothing to submit", "harveyseg upload", lambda folder: harveyseg("upload", "--dry-run")),
        ],
    ),
    Part(
        "New photos",
        [
            Case(
                "a model that is not there",
                "harveyseg predict",
                lambda folder: harveyseg("predict", "photo.jpg", "--out", "maps", "--model", "unet"),
            ),
            Case("no photo", "harveyseg predict", predicted),
            Case(
                "a ground that is none",
                "harveyseg predict",
                lambda folder: harveyseg("predict", "photo.jpg", "--out", "maps", "--ground", "3000"),
            ),
        ],
    ),
]

CASES = [(part, case) for part in PARTS for case in part.cases]


@contextlib.contextmanager
def project(folder: Path) -> Iterator[None]:
    """Work in a folder with the committed params.yaml and stages."""
    shutil.copy(ROOT / "params.yaml", folder)
    (folder / "stages").symlink_to(ROOT / "stages")
    with contextlib.chdir(folder), mock.patch.dict(os.environ):
        os.environ.pop("DVC_ROOT", None)
        yield


def message(case: Case, folder: Path) -> str:
    """The error's message, with PROJECT for the project's folder."""
    with project(folder), pytest.raises(HarveysegError) as caught:
        case.act(folder)
    text = str(caught.value).replace(str(folder), "PROJECT")
    return text.replace("HeaderTooSmall", "header too small")  # as safetensors before 0.6 calls it


def row(part: Part, case: Case, text: str) -> str:
    """The line of the table."""
    assert text.startswith(part.start), text
    end = next(end for end in part.ends if text.endswith(end))
    shown = text.removeprefix(part.start).removesuffix(end)
    cell = "<br>".join(html.escape(line, quote=False) for line in shown.splitlines()).replace("|", "\\|")
    return f"| {case.what} | `{case.command}` | {cell} |"


@pytest.mark.parametrize(("part", "case"), CASES, ids=[case.what for _, case in CASES])
def test_the_message_is_that_of_the_snapshot(part: Part, case: Case, tmp_path: Path) -> None:
    assert row(part, case, message(case, tmp_path)) in SNAPSHOT.read_text(encoding="utf-8").splitlines()


def test_the_snapshot_has_no_other_rows() -> None:
    lines = SNAPSHOT.read_text(encoding="utf-8").splitlines()
    rows = [line for line in lines if line.startswith("|") and not line.startswith(("|---", "| input |"))]
    assert [cells.split(" | ")[0] for cells in rows] == [f"| {case.what}" for _, case in CASES]


def snapshot() -> str:
    """The whole file."""
    text = (
        "# Error messages\n\n"
        "Written and compared by `tests/pipeline/test_bad_input.py`. A command prints `error: ` and the message,\n"
        "without a traceback, and exits with 1. `PROJECT` stands for the project's folder.\n"
    )
    for part in PARTS:
        text += f"\n## {part.title}\n\n"
        if part.start:
            text += f"All begin with `{part.start}`.\n\n"
        text += "| input | command | message |\n|---|---|---|\n"
        for case in part.cases:
            with tempfile.TemporaryDirectory() as folder:
                text += row(part, case, message(case, Path(folder).resolve())) + "\n"
    return text


if __name__ == "__main__":
    SNAPSHOT.write_text(snapshot(), encoding="utf-8")
