"""From ``data.source`` to ``data/raw``, and what is left behind when that fails."""

import json
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from harveyseg.config.settings import parse
from harveyseg.data.manifest import read_manifest
from harveyseg.data.sources import SOURCES, DataParams, download_source
from harveyseg.errors import HarveysegError
from harveyseg.files import sha256
from helpers.paths import ROOT, files_in
from helpers.waiting import wait_until

STAGE = ROOT / "stages/download.py"


def data_params(**values: Any) -> DataParams:
    return parse(DataParams, values, "data")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two training photos and a test photo without mask, nested as in Kaggle's archive and read-only."""
    folder, random = tmp_path / "photos", np.random.default_rng(0)
    for name in ("train_images/train_images/1.JPG", "train_images/train_images/2.jpeg", "test_images/3.jpg"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (32, 32, 3)).astype(np.uint8)).save(path, "JPEG")
    (folder / "train_masks").mkdir()
    for photo_id in ("1", "2"):
        Image.fromarray(np.zeros((32, 32), np.uint8)).save(folder / f"train_masks/{photo_id}.png")
        (folder / f"train_masks/{photo_id}.png").chmod(0o444)
    return folder


def test_directory_is_copied_flat(photos: Path, tmp_path: Path) -> None:
    raw = tmp_path / "data/raw"
    download_source(data_params(source="directory", path="photos"), tmp_path, raw)
    copied = files_in(raw)
    assert sorted(copied) == [
        "classes.json", "manifest.csv", "source.json", "test_images/3.jpg",
        "train_images/1.jpg", "train_images/2.jpg", "train_masks/1.png", "train_masks/2.png",
    ]  # fmt: skip
    assert copied["train_images/1.jpg"] == (photos / "train_images/train_images/1.JPG").read_bytes()
    manifest = read_manifest(raw / "manifest.csv")
    assert [sha256(raw / name) for name in manifest["image"]] == manifest["image_sha256"].tolist()
    assert json.loads(copied["source.json"]) == {
        "source": "directory",
        "detail": {"path": "photos"},
        "hash": sha256(raw / "manifest.csv"),
        "score_size": [1024, 1024],
    }
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["raw"]
    (raw / "train_masks/1.png").write_bytes(b"")  # the copy of a read-only file is an ordinary one


def test_again_replaces_and_gives_the_same_bytes(photos: Path, tmp_path: Path) -> None:
    raw, params = tmp_path / "raw", data_params(source="directory", path=str(photos))
    download_source(params, tmp_path, raw)
    first = files_in(raw)
    (raw / "manifest.csv").write_text("damaged")
    download_source(params, tmp_path, raw)
    assert files_in(raw) == first


@pytest.mark.parametrize("made", [True, False])
def test_a_users_files_in_raw_are_named_and_stay(photos: Path, tmp_path: Path, made: bool) -> None:
    raw, params = tmp_path / "data/raw", data_params(source="directory", path="photos")
    if made:
        download_source(params, tmp_path, raw)
        Image.fromarray(np.ones((32, 32), np.uint8)).save(raw / "train_masks/1.png")  # a corrected mask
    own = raw / "train_images/flight 2/7.jpg"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"a photo")
    (own.parent / ".DS_Store").write_bytes(b"a view")
    before = files_in(raw)
    files = "train_images/flight 2/7.jpg" + (", train_masks/1.png" if made else "")
    with pytest.raises(HarveysegError, match=rf"did not write and would replace: {files}\. Move it"):
        download_source(params, tmp_path, raw)
    assert files_in(raw) == before
    assert [path.name for path in raw.parent.iterdir()] == ["raw"]
    shutil.rmtree(raw / "train_masks", ignore_errors=True)
    own.rename(tmp_path / "7.jpg")
    download_source(params, tmp_path, raw)
    assert len(files_in(raw)) == 8


def test_another_sources_photos_are_replaced(photos: Path, tmp_path: Path) -> None:
    demo = {"train": 8, "test": 1, "seed": 0, "width": 96}
    download_source(data_params(source="demo", demo=demo), tmp_path, tmp_path / "raw")
    download_source(data_params(source="directory", path="photos"), tmp_path, tmp_path / "raw")
    assert (tmp_path / "raw/train_images/1.jpg").exists()


def test_failure_leaves_the_old_data_and_nothing_half_written(photos: Path, tmp_path: Path) -> None:
    raw, params = tmp_path / "data/raw", data_params(source="directory", path="photos")
    (photos / "train_masks/1.png").rename(tmp_path / "1.png")
    with pytest.raises(HarveysegError, match=r"train_images/train_images/1\.JPG: has no mask"):
        download_source(params, tmp_path, raw)
    assert not list((tmp_path / "data").iterdir())
    (tmp_path / "1.png").rename(photos / "train_masks/1.png")
    download_source(params, tmp_path, raw)
    before = files_in(raw)
    (photos / "test_images/3.jpg").write_bytes(b"")
    with pytest.raises(HarveysegError, match=r"test_images/3\.jpg"):
        download_source(params, tmp_path, raw)
    assert files_in(raw) == before
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["raw"]


def test_no_room(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage(NamedTuple):
        free: int

    needed = sum(path.stat().st_size for path in photos.rglob("*") if path.is_file())
    params, raw = data_params(source="directory", path="photos"), tmp_path / "data/raw"
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(needed - 1))
    with pytest.raises(HarveysegError, match=rf"raw: the photos .* {needed:,} bytes, and only {needed - 1:,} are free"):
        download_source(params, tmp_path, raw)
    assert not list((tmp_path / "data").iterdir())
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(needed))
    download_source(params, tmp_path, raw)


def test_a_file_system_that_takes_no_more(photos: Path, tmp_path: Path) -> None:
    """The kernel refuses a file beyond this size, as it refuses one on a full disk."""
    (photos / "test_images/3.jpg").write_bytes((photos / "test_images/3.jpg").read_bytes() + bytes(200_000))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(
            HarveysegError, match=r"written \(File too large; [0-9,]+ bytes are free .*Free some disk space"
        ):
            download_source(data_params(source="directory", path="photos"), tmp_path, tmp_path / "data/raw")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list((tmp_path / "data").iterdir())


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("data", {"source": "directory", "path": "photos"}),
        (".downloads", {"source": "figshare", "url": "http://127.0.0.1:9/a.zip"}),
        (".downloads", {"source": "directory", "url": "memory://bucket/photos"}),
    ],
)
def test_a_file_where_a_folder_has_to_be(photos: Path, tmp_path: Path, name: str, values: dict[str, Any]) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(HarveysegError, match=rf"{name}.*: a file is where a folder has to be .* Move that file away"):
        download_source(data_params(**values), tmp_path, tmp_path / "data/raw")
    assert (tmp_path / name).read_text() == "mine"


def test_killed_leaves_nothing_for_ever(photos: Path, tmp_path: Path) -> None:
    """What a process had built is removed by the next one, but not while the first one lives."""
    code = (
        "import sys, time; from pathlib import Path; from harveyseg.data import sources\n"
        "def copy(source, target):\n    Path(sys.argv[1], 'copying').touch()\n    time.sleep(60)\n"
        "sources._copy = copy\n"
        "params = sources.DataParams(source='directory', path='photos')\n"
        "sources.download_source(params, Path(sys.argv[1]), Path(sys.argv[1], 'data/raw'))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    wait_until((tmp_path / "copying").exists, process)
    params = data_params(source="directory", path="photos")
    second = threading.Thread(target=download_source, args=(params, tmp_path, tmp_path / "data/raw"))
    second.start()
    time.sleep(0.3)
    assert sorted(path.name[:5] for path in (tmp_path / "data").iterdir()) == [".raw-", ".sour"]  # it waits
    process.kill()
    assert process.wait() == -signal.SIGKILL
    second.join()
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["raw"]


def test_demo_is_drawn_with_test_masks(tmp_path: Path) -> None:
    demo = {"train": 8, "test": 1, "seed": 3, "width": 96}
    download_source(data_params(source="demo", demo=demo), tmp_path, tmp_path / "raw")
    manifest = read_manifest(tmp_path / "raw/manifest.csv")
    assert manifest["part"].tolist() == ["train"] * 8 + ["test"]
    assert (manifest["mask"] != "").all()
    source = json.loads((tmp_path / "raw/source.json").read_text())
    assert (source["source"], source["detail"]) == ("demo", demo)


def test_every_allowed_source_has_its_function() -> None:
    assert set(SOURCES) == set(DataParams.model_json_schema()["properties"]["source"]["enum"])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"source": "folder"}, r"data\.source = 'folder': Input should be 'demo', 'directory', 'kaggle' or 'figshare'"),
        ({"path": "photos"}, r"data\.source: missing"),
        (
            {"source": "figshare", "url": "http://[::1/a.zip"},
            r"data\.url = .*: not a valid address \(Invalid IPv6 URL\)",
        ),
        ({"source": "directory"}, r"data\.path is empty"),
        ({"source": "directory", "path": "absent"}, r"data\.path = absent: .* is not a folder. Correct data\.path"),
        ({"source": "directory", "path": "file"}, r"data\.path = file: .* is not a folder"),
        ({"source": "directory", "path": "."}, r"2 problems\n  - train_images: the folder is missing\n"),
    ],
)
def test_wrong_settings(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HarveysegError, match=message):
        download_source(data_params(**values), tmp_path, tmp_path / "raw")


def test_stage_prints_the_problems_and_exits_with_1(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("data: {source: directory, path: photos}\n")
    shutil.rmtree(photos / "train_masks")
    command = [sys.executable, str(STAGE)]
    failed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert "error: the photos in " in failed.stderr
    assert "train_masks: the folder is missing" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert not (tmp_path / "data/raw").exists()
