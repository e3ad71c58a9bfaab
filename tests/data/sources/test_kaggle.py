"""``data.source: kaggle`` against a local Kaggle: one download, however often it breaks off, then none."""

import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harveyseg.config.settings import parse
from harveyseg.data.manifest import read_manifest
from harveyseg.data.sources import DataParams, download_source
from harveyseg.errors import HarveysegError
from harveyseg.files import sha256
from helpers.kaggle_server import COMPETITION, KEY, SIGNATURE, TOKEN, Answer, Kaggle
from helpers.paths import ROOT

STAGE = ROOT / "stages/download.py"
PARAMS = parse(DataParams, {"source": "kaggle", "kaggle": {"competition": COMPETITION}}, "data")
WHOLE = 10**9
"""Does not break off: for the client's own request, whose body it leaves unread."""


def photo(seed: int) -> bytes:
    random, buffer = np.random.default_rng(seed), io.BytesIO()
    Image.fromarray(random.integers(0, 256, (64, 48, 3)).astype(np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def mask() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((64, 48), 5, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


MEMBERS = {
    "prepare_submission.py": b"print()\n",
    "sample_submission.csv": b"ImageClassId,rle_mask\n3.png_1,\n",
    "test_images/test_images/3.jpg": photo(3),
    "train_images/train_images/1.jpg": photo(1),
    "train_images/train_images/2.jpg": photo(2),
    "train_masks/train_masks/1.png": mask(),
    "train_masks/train_masks/2.png": mask(),
}
"""As the competition's archive is laid out."""


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@pytest.fixture
def service(kaggle: Kaggle, monkeypatch: pytest.MonkeyPatch) -> Kaggle:
    monkeypatch.setattr("harveyseg.data.download.BACKOFF", 0.01)
    kaggle.archive = zipped(MEMBERS)
    return kaggle


def test_the_competition_is_fetched_once(service: Kaggle, tmp_path: Path) -> None:
    raw = tmp_path / "data" / "raw"
    download_source(PARAMS, tmp_path, raw)
    manifest = read_manifest(raw / "manifest.csv")
    assert manifest["image"].tolist() == ["train_images/1.jpg", "train_images/2.jpg", "test_images/3.jpg"]
    for name, content in MEMBERS.items():
        if "/" in name:
            folder, _, file = name.split("/")
            assert (raw / folder / file).read_bytes() == content
    source = json.loads((raw / "source.json").read_text())
    assert (source["source"], source["detail"]) == ("kaggle", {"competition": COMPETITION})
    assert source["hash"] == sha256(raw / "manifest.csv")
    archive = tmp_path / ".downloads" / "kaggle" / COMPETITION / f"{COMPETITION}.zip"
    assert archive.read_bytes() == service.archive
    asked = len(service.requests)
    download_source(PARAMS, tmp_path, raw)
    assert len(service.requests) == asked


def test_a_download_that_breaks_off_goes_on(service: Kaggle, tmp_path: Path) -> None:
    service.broken_after = [WHOLE, 3000, 6000]
    download_source(PARAMS, tmp_path, tmp_path / "raw")
    assert [wanted for name, wanted in service.requests if name == "GET"] == ["", "", "bytes=3000-", "bytes=6000-"]


def test_a_later_run_goes_on_at_another_signed_address(
    service: Kaggle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harveyseg.data.download.TRIES", 1)
    service.broken_after = [WHOLE, 5000, 5000]
    with pytest.raises(HarveysegError, match=r"5,000 bytes are kept in .*run the command again") as caught:
        download_source(PARAMS, tmp_path, tmp_path / "raw")
    assert SIGNATURE not in str(caught.value)
    assert not (tmp_path / "raw").exists()
    assert service.count("DownloadDataFiles") == 1
    download_source(PARAMS, tmp_path, tmp_path / "raw")
    assert service.count("DownloadDataFiles") == 2  # signed again
    assert service.requests[-1] == ("GET", "bytes=5000-")
    assert (tmp_path / "raw" / "manifest.csv").exists()


def test_an_archive_that_changed_meanwhile_is_fetched_anew(
    service: Kaggle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harveyseg.data.download.TRIES", 1)
    service.broken_after = [WHOLE, 5000, 5000]
    with pytest.raises(HarveysegError, match="broke off"):
        download_source(PARAMS, tmp_path, tmp_path / "raw")
    service.archive = zipped(MEMBERS | {"test_images/test_images/3.jpg": photo(4)})
    download_source(PARAMS, tmp_path, tmp_path / "raw")
    assert (tmp_path / "raw" / "test_images" / "3.jpg").read_bytes() == photo(4)


def test_a_refusal_leaves_the_old_data(service: Kaggle, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "manifest.csv").write_text("old")
    service.rules_accepted = False
    with pytest.raises(HarveysegError, match=r"accept this competition's rules"):
        download_source(PARAMS, tmp_path, tmp_path / "raw")
    assert (tmp_path / "raw" / "manifest.csv").read_text() == "old"
    assert not (tmp_path / ".downloads").exists()


def test_an_archive_without_photos_says_what_is_missing(service: Kaggle, tmp_path: Path) -> None:
    service.archive = zipped({"train.csv": b"a,b\n"})
    with pytest.raises(HarveysegError, match=r"train_images: the folder is missing"):
        download_source(PARAMS, tmp_path, tmp_path / "raw")


def test_a_damaged_archive_is_named(service: Kaggle, tmp_path: Path) -> None:
    damaged = bytearray(service.archive)
    damaged[damaged.index(MEMBERS["train_images/train_images/2.jpg"]) + 100] ^= 1
    service.archive = bytes(damaged)
    with pytest.raises(HarveysegError, match=rf"{COMPETITION}\.zip: .*damaged.*2\.jpg.*download it again"):
        download_source(PARAMS, tmp_path, tmp_path / "raw")


@pytest.mark.parametrize("name", ["https://www.kaggle.com/competitions/flood-maps", "../x", ""])
def test_a_name_that_is_no_name(name: str) -> None:
    with pytest.raises(HarveysegError, match=r"data\.kaggle\.competition = .*the last part of"):
        parse(DataParams, {"source": "kaggle", "kaggle": {"competition": name}}, "data")


def test_the_stage(service: Kaggle, tmp_path: Path) -> None:
    """From an empty folder to data/raw, then once more when Kaggle is gone; nothing secret is printed."""
    (tmp_path / "params.yaml").write_text(
        f"data: {{source: kaggle, path: params.yaml, kaggle: {{competition: {COMPETITION}}}}}\n"
    )
    service.answers["DownloadDataFiles"] = [Answer(429, "Too many requests", {"Retry-After": "1"})]
    service.answers["GET"] = [None, Answer(0)]
    service.broken_after = [WHOLE, 5000]
    environment = {name: value for name, value in os.environ.items() if name != "KAGGLE_API_TOKEN"}
    environment |= {"KAGGLE_USERNAME": "ana", "KAGGLE_KEY": KEY, "VERBOSE": "1"}

    def run(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(STAGE)]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=600
        )

    first = run(environment)
    shown = first.stdout + first.stderr
    assert first.returncode == 0, shown
    assert "Too many requests (429). Next try in 1 s." in shown
    assert "broke off" in shown
    for secret in (KEY, TOKEN, SIGNATURE, "Basic"):
        assert secret not in shown
    assert len(read_manifest(tmp_path / "data" / "raw" / "manifest.csv")) == 3
    before = (tmp_path / "data" / "raw" / "source.json").read_bytes()
    again = run({**environment, "http_proxy": "http://127.0.0.1:9"})
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "data" / "raw" / "source.json").read_bytes() == before


def test_the_stage_without_credentials(service: Kaggle, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("data: {source: kaggle}\n")
    environment = {name: value for name, value in os.environ.items() if name != "KAGGLE_API_TOKEN"}
    command = [sys.executable, str(STAGE)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: No credentials for Kaggle")
    assert "Traceback" not in done.stderr
