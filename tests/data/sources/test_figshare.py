"""The source figshare, against a server on this machine that answers as figshare's API v2 does."""

import hashlib
import json
import logging
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any
from urllib.parse import quote

import cv2
import numpy as np
import pytest

from harveyseg.data.sources import figshare
from harveyseg.data.sources.hold_out import choose_test_ids
from harveyseg.data.split import read_overlaps
from harveyseg.errors import HarveysegError
from helpers.figshare import (
    IDS,
    IMAGES_ARTICLE,
    MASKS,
    MASKS_ARTICLE,
    PHOTOS,
    Figshare,
    download_files,
    ids_of_parts,
    in_folder,
    mask,
    photo,
    zipped,
)
from helpers.file_server import FileServer, serving
from helpers.paths import ROOT, files_in
from helpers.photos import made_ground
from helpers.terminal import run_in_terminal, screen
from helpers.waiting import wait_until


@pytest.fixture
def service(local_service: FileServer, monkeypatch: pytest.MonkeyPatch) -> Figshare:
    published = Figshare(local_service)
    monkeypatch.setenv(figshare.FIGSHARE_API_VARIABLE, published.api)
    published.publish(IMAGES_ARTICLE, {"train_images.zip": zipped(in_folder("train_images", PHOTOS))})
    published.publish(
        MASKS_ARTICLE, {"train_masks.zip": zipped({**in_folder("train_masks", MASKS), "__MACOSX/._1.png": b"x"})}
    )
    return published


def wait_for_part(folder: Path, process: subprocess.Popen[str]) -> None:
    wait_until(lambda: any(path.stat().st_size > 50_000 for path in folder.rglob("*.part")), process)


def test_a_terminal_shows_one_step_after_the_other(service: Figshare, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("data: {source: figshare, figshare: {test_share: 0.25, seed: 1}}\n")
    status, written = run_in_terminal([sys.executable, ROOT / "stages/download.py"], folder=tmp_path)
    assert status == 0
    bars = re.findall(r"([^\r\n]+): +\d+%\|[^|]*\| ([^\r]+?) left", written)
    assert list(dict.fromkeys(title for title, _ in bars)) == [
        "downloading train_images.zip",
        "unpacking train_images.zip",
        "downloading train_masks.zip",
        "unpacking train_masks.zip",
        "verifying photos",
        "finding features",
        "comparing photos",
        "copying photos",
    ]
    for title, figures in bars:
        unit = "B" if title.startswith("downloading") else "(files|photos|pairs)"
        assert re.search(rf"{unit}/s, (\d\d:\d\d|\?)$", figures), (title, figures)
    begun, made = screen(written)  # all bars are gone
    assert begun.startswith("comparing 32 photos")
    assert re.fullmatch(
        r"download: 24 training and 8 test photos, verified, of the source figshare in data/raw \([\d.]+ s\)", made
    )


def test_two_clones_by_the_real_stage(service: Figshare, tmp_path: Path) -> None:
    """In one the download breaks off five times, in the other the stage is killed: the same bytes in the end."""
    server, command = service.server, [sys.executable, str(ROOT / "stages/download.py")]
    archives = [data for path, data in server.files.items() if path.startswith("/store/")]
    environment = {name: value for name, value in os.environ.items() if name != "DVC_ROOT"}
    raws = []
    for clone in ("broken off", "killed"):
        project = tmp_path / clone
        project.mkdir()
        (project / "params.yaml").write_text("data: {source: figshare, figshare: {test_share: 0.25, seed: 1}}\n")
        server.requests.clear()
        server.sent = 0
        if clone == "killed":
            server.stall, server.stall_from = threading.Event(), 100_000
            process = subprocess.Popen(command, cwd=project, env=environment, stderr=subprocess.PIPE, text=True)
            wait_for_part(project / ".downloads", process)
            process.kill()
            process.communicate()
            assert not (project / "data/raw").exists()
            server.stall.set()
            server.stall = None
        else:  # the first answer of the API and the first archive
            server.cuts = [40, 10**9, 10**9, 1, 100_000, 3, 50_000, 20_000]
        for _ in range(2):
            done = subprocess.run(
                command, cwd=project, env=environment, capture_output=True, text=True, timeout=600, check=False
            )
            assert done.returncode == 0, done.stderr
            assert "secret" not in done.stderr
            raws.append(files_in(project / "data/raw"))
        assert len(service.stored()) == (7 if clone == "broken off" else 3)
        again = sum("Range" in headers for path, headers in server.requests if path.startswith("/store/"))
        assert again == (5 if clone == "broken off" else 1)
        if clone == "broken off":
            assert 0 <= server.sent - sum(map(len, archives)) < 5_000, "of the archives not one byte twice"
    assert raws[0] == raws[1] == raws[2] == raws[3]

    test, train = ids_of_parts(project)["test"], ids_of_parts(project)["train"]
    assert len(test) == 8
    assert sorted(test + train) == sorted(IDS)
    expected = {
        **{
            f"{part}_images/{photo_id}.jpg": PHOTOS[f"{photo_id}.jpg"]
            for part, ids in ids_of_parts(project).items()
            for photo_id in ids
        },
        **{
            f"{part}_masks/{photo_id}.png": MASKS[f"{photo_id}.png"]
            for part, ids in ids_of_parts(project).items()
            for photo_id in ids
        },
    }
    assert {name: data for name, data in raws[0].items() if "/" in name} == expected
    source = json.loads(raws[0]["source.json"])
    md5s = [hashlib.md5(data).hexdigest() for data in archives]
    names = ["train_images.zip", "train_masks.zip"]
    assert source["source"] == "figshare"
    assert source["detail"] == {
        "articles": [
            {"id": article, "version": 1, "files": [{"name": name, "size": len(data), "md5": md5}]}
            for article, name, data, md5 in zip((IMAGES_ARTICLE, MASKS_ARTICLE), names, archives, md5s, strict=True)
        ],
        "test_share": 0.25,
        "seed": 1,
    }


def test_photos_of_two_flight_lines_over_the_same_ground_stay_together(service: Figshare, tmp_path: Path) -> None:
    """Ids far apart, the same ground: found by the pictures, and listed in data/raw."""
    first, second = IDS[0], IDS[4]  # of two flights
    ground = made_ground(0)
    pictures = {first: ground[0:480, 0:640], second: ground[100:580, 200:840]}
    shared = {f"{photo_id}.jpg": cv2.imencode(".jpg", picture)[1].tobytes() for photo_id, picture in pictures.items()}
    sized = {
        f"{photo_id}.png": cv2.imencode(".png", np.zeros((480, 640), np.uint8))[1].tobytes() for photo_id in pictures
    }
    service.publish(IMAGES_ARTICLE, {"i.zip": zipped(in_folder("train_images", PHOTOS | shared))}, version=2)
    service.publish(MASKS_ARTICLE, {"m.zip": zipped(in_folder("train_masks", MASKS | sized))}, version=2)
    for seed in range(6):
        download_files(tmp_path, figshare={"seed": seed, "test_share": 0.3})
        assert sum(bool({first, second} & set(ids)) for ids in ids_of_parts(tmp_path).values()) == 1
        assert read_overlaps(tmp_path / "data" / "raw" / "overlaps.csv") == [(first, second)]


def test_no_test_photo_is_a_neighbour_of_a_training_photo(service: Figshare, tmp_path: Path) -> None:
    divisions = set()
    for seed in range(6):
        download_files(tmp_path, figshare={"seed": seed})
        division = ids_of_parts(tmp_path)
        assert len(division["test"]) == 4  # 20% of 32 photos, in whole flights of four
        for test_id in division["test"]:
            assert min(abs(int(test_id) - int(train_id)) for train_id in division["train"]) > 10
        divisions.add(tuple(division["test"]))
    assert len(divisions) > 1
    assert len(service.stored()) == 2


def test_loose_files_page_by_page(service: Figshare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Photos that were uploaded one by one: more than the ten that the article's description lists."""
    monkeypatch.setattr(figshare, "_PAGE", 7)
    service.publish(IMAGES_ARTICLE, {**PHOTOS, "readme.txt": b"Photos"}, version=3)
    raw = download_files(tmp_path)
    assert {Path(name).name for name in raw if name.endswith(".jpg")} == set(PHOTOS)
    assert json.loads(raw["source.json"])["detail"]["articles"][0]["version"] == 3
    assert len(service.stored()) == 34


def test_offline_after_the_first_time(
    service: Figshare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with serving() as second_server:
        service.server.address, service.api = second_server.address, f"{second_server.address}/v2"
        second_server.files.update(service.server.files)
        second_server.redirections.update(service.server.redirections)
        monkeypatch.setenv(figshare.FIGSHARE_API_VARIABLE, service.api)
        first = download_files(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert download_files(tmp_path) == first
    assert "cannot be reached" in caplog.text
    assert "Its last answer is used" in caplog.text
    with pytest.raises(HarveysegError, match=r"articles/19961336: cannot be reached .* Check the network"):
        download_files(tmp_path / "clone")


def test_a_new_version_is_fetched(service: Figshare, tmp_path: Path) -> None:
    download_files(tmp_path)
    service.publish(MASKS_ARTICLE, {"train_masks.zip": zipped({name: mask("0") for name in MASKS})}, version=2)
    raw = download_files(tmp_path)
    assert raw[f"train_masks/{ids_of_parts(tmp_path)['train'][0]}.png"] == mask("0")
    assert [article["version"] for article in json.loads(raw["source.json"])["detail"]["articles"]] == [1, 2]
    assert len(service.stored()) == 3


@pytest.mark.parametrize(
    ("url", "versions"),
    [
        ("10.6084/m9.figshare.77", [2]),
        ("10.6084/m9.figshare.77.v1", [1]),
        ("https://doi.org/10.6084/m9.figshare.77.v2", [2]),
        ("doi:10.6084/M9.FIGSHARE.77", [2]),
        (" DOI: 10.6084/m9.figshare.77\n", [2]),
        ("https://figshare.com/articles/dataset/Flood_photos/77777", [2]),
        ("https://uni.figshare.com/articles/dataset/Flood_photos/77777/1?file=3", [1]),
        ("https://figshare.com/articles/Flood_photos/77777/1", [1]),
        ("10.6084/m9.figshare.c.6026765", [1, 1]),
        ("10.6084/m9.figshare.c.6026765.v3", [1, 1]),
        ("https://figshare.com/collections/Flood_photos/6026765/3", [1, 1]),
    ],
)
def test_dois(service: Figshare, tmp_path: Path, url: str, versions: list[int]) -> None:
    both = zipped({**in_folder("data/train_images", PHOTOS), **in_folder("data/train_masks", MASKS)})
    for version in (1, 2):
        service.publish(77, {"all.zip": both}, version=version)
        service.publish(77777, {"all.zip": both}, version=version)
    service.answer("collections/6026765", {"id": 6026765, "version": 3})
    service.pages("collections/6026765/articles", [{"id": MASKS_ARTICLE}, {"id": IMAGES_ARTICLE}])
    raw = download_files(tmp_path, url=url)
    assert [article["version"] for article in json.loads(raw["source.json"])["detail"]["articles"]] == versions
    assert len(ids_of_parts(tmp_path)["test"]) == 4


@pytest.mark.parametrize("own_test", [True, False])
def test_the_address_of_an_archive(service: Figshare, tmp_path: Path, own_test: bool) -> None:
    members = {**in_folder("flood/train_images/train_images", PHOTOS), **in_folder("flood/train_masks", MASKS)}
    if own_test:
        members["flood/test_images/9999.jpg"] = photo("9999")
    service.server.files["/flood%20maps.zip?token=secret"] = zipped({**members, "flood/prepare.py": b"print()"})
    url = f"{service.server.address}/flood%20maps.zip?token=secret"
    service.server.cuts = [1000]
    for _ in range(2):
        raw = download_files(tmp_path, url=url)
    assert len(service.server.requests) == 2  # broken off once, and never asked for again
    detail = json.loads(raw["source.json"])["detail"]
    archive = service.server.files["/flood%20maps.zip?token=secret"]
    assert detail["url"] == f"{service.server.address}/flood%20maps.zip"
    assert detail["sha256"] == hashlib.sha256(archive).hexdigest()
    assert (ids_of_parts(tmp_path)["test"] == ["9999"]) == own_test
    assert ("test_share" in detail) != own_test


@pytest.mark.parametrize("page", [b"\xef\xbb\xbf\n<!DOCTYPE html><p>Log in", b"<!-- 1 --><HTML>", b"<html lang='en'>"])
def test_a_web_page_is_no_archive(service: Figshare, tmp_path: Path, page: bytes) -> None:
    url = f"{service.server.address}/photos.zip?token=secret"
    service.server.files["/photos.zip?token=secret"] = page
    with pytest.raises(
        HarveysegError, match=r"/photos\.zip: it is a web page \(HTML\), not an archive\. Set data\.url"
    ):
        download_files(tmp_path, url=url)
    both = {**in_folder("train_images", PHOTOS), **in_folder("train_masks", MASKS), "page.html": page}
    service.server.files["/photos.zip?token=secret"] = zipped({"a.html": page, **both})
    assert "source.json" in download_files(tmp_path, url=url)


@pytest.mark.parametrize("name", ["n" * 252 + ".zip", "é" * 150 + ".zip", "a%00.zip"])
def test_an_archive_keeps_only_a_usable_name(service: Figshare, tmp_path: Path, name: str) -> None:
    data = zipped({**in_folder("train_images", PHOTOS), **in_folder("train_masks", MASKS)})
    address = quote(name, safe="%")
    service.server.files[f"/{address}"] = data
    download_files(tmp_path, url=f"{service.server.address}/{name}")
    archives = [path for path in (tmp_path / ".downloads/archives").glob("*/*") if not path.name.startswith(".")]
    assert [(path.name, path.read_bytes() == data) for path in archives] == [("archive", True)]


def test_names_that_start_again_get_the_names_of_their_folders(service: Figshare, tmp_path: Path) -> None:
    """Two folders of a drone's card, in one archive of photos and one of masks."""
    half = len(IDS) // 2
    photos: dict[str, bytes] = {}
    masks: dict[str, bytes] = {}
    for folder, ids in (("100MEDIA", IDS[:half]), ("101MEDIA", IDS[half : 2 * half])):
        for photo_id, name in zip(ids, IDS[:half], strict=True):
            photos[f"flight/{folder}/{name}.jpg"] = PHOTOS[f"{photo_id}.jpg"]
            masks[f"labels/{folder}/{name}.png"] = MASKS[f"{photo_id}.png"]
    service.publish(IMAGES_ARTICLE, {"flight.zip": zipped(photos)})
    service.publish(MASKS_ARTICLE, {"labels.zip": zipped(masks)})
    raw = download_files(tmp_path)
    for kind, published in (("images", photos), ("masks", masks)):
        stored = {Path(name).name: data for name, data in raw.items() if f"_{kind}/" in name}
        assert stored == {"_".join(Path(name).parts[1:]): data for name, data in published.items()}


def test_all_files_of_one_name_are_listed(service: Figshare, tmp_path: Path) -> None:
    first, second = list(MASKS)[:2]
    twice = {"a.zip": zipped(MASKS), "b.zip": zipped({first: MASKS[first], second: MASKS[second]})}
    service.publish(MASKS_ARTICLE, twice)
    with pytest.raises(HarveysegError) as raised:
        download_files(tmp_path)
    assert str(raised.value).splitlines() == [
        f"figshare: {IMAGES_ARTICLE}, {MASKS_ARTICLE}: 2 problems",
        *(
            f"  - two files are called {name}: {MASKS_ARTICLE}/file 0/{name} and {MASKS_ARTICLE}/file 1/{name}"
            for name in (first, second)
        ),
        "Which one is meant? Download the files, keep one of each name, and use data.source: directory.",
    ]


def test_what_is_wrong_is_said(service: Figshare, tmp_path: Path) -> None:
    def fails(message: str, **values: Any) -> None:
        with pytest.raises(HarveysegError, match=message):
            download_files(tmp_path, **values)
        assert not (tmp_path / "data/raw").exists()

    fails(
        r"articles/5: the server answered with status 404 Not Found\. Check the address, or the number or DOI",
        figshare={"articles": [5]},
    )
    fails(r"data\.figshare\.articles", figshare={"articles": []})
    fails(r"data\.figshare\.test_share", figshare={"test_share": 1.0})
    fails(
        r"data\.figshare\.articles = .*: each article may be listed once",
        figshare={"articles": [IMAGES_ARTICLE, MASKS_ARTICLE, IMAGES_ARTICLE]},
    )
    fails(
        r"data\.figshare\.test_share = 0\.99 leaves none of 32 photos to train on\. Lower it",
        figshare={"test_share": 0.99},
    )
    service.answer("collections/6026765", {"id": 6026765, "version": 3})
    fails(
        r"6026765\.v7: figshare lists .* this collection's latest version only, which is 3\. Leave \.v7 out",
        url="10.6084/m9.figshare.c.6026765.v7",
    )
    asked = len(service.server.requests)
    for doi in ("10.7910/DVN/TJCLKP", "https://doi.org/10.26188/abc", "10.5281/abc", "10.5281/zenodo.1.v2"):
        fails(r"data\.url = 10\.\S+: a DOI of neither .* to the address of the archive .* directory", url=doi)
    assert len(service.server.requests) == asked
    service.publish(82, {"n" * 200 + ".zip": b""})
    fails(r"figshare article 82: 'n+\.zip' is not a file name", figshare={"articles": [82]})
    fails(r"not a valid http or https address", url="ftp://server/archive.zip")

    service.server.answers = [(403, {})]
    fails(r"articles/19961336: the server answered with status 403")
    service.server.answers = [(202, {})]
    fails(r"status 202 .* download it with a browser and use data\.source: directory")

    service.answer(f"articles/{MASKS_ARTICLE}", {"error": "moved"})
    fails(r"articles/19961426: unexpected answer of figshare's API \(Field required at \('id',\)\)")
    service.publish(MASKS_ARTICLE, {"train_masks.zip": zipped(MASKS)}, is_link_only=True)
    fails(r"figshare article 19961426: train_masks\.zip is only a link to another place")
    service.publish(MASKS_ARTICLE, {"../../outside.zip": zipped(MASKS)})
    fails(r"'\.\./\.\./outside\.zip' is not a file name")
    service.publish(MASKS_ARTICLE, {"train_masks.zip": zipped(MASKS)}, computed_md5="0" * 32)
    fails(r"/file/download/\d+: the file's md5 is [0-9a-f]{32}, 0{32} was expected\. It was removed")
    service.publish(MASKS_ARTICLE, {"train_masks.zip": zipped(MASKS)}, size=5)
    fails(r"the file has [0-9,]+ bytes, 5 were expected")
    service.publish(MASKS_ARTICLE, {"train_masks.zip": zipped(MASKS)[:-100]})
    fails(r"train_masks\.zip: the archive is damaged, cut off.* download it again")
    service.publish(MASKS_ARTICLE, {"notes.zip": zipped({"notes.txt": b"", "more.csv": b""})})
    fails(r"photos and masks were expected, there are 32 and 0, in 34 files such as 6411\.jpg.*train_masks\.")
    service.publish(MASKS_ARTICLE, {"a.zip": zipped(MASKS), "b.zip": zipped(MASKS)})
    fails(r"two files are called 6411\.png: .*file 0/6411\.png and .*file 1/6411\.png")
    service.publish(MASKS_ARTICLE, {"train_masks.zip": zipped({name: MASKS[name] for name in list(MASKS)[1:]})})
    fails(r"train_images/6411\.jpg: has no mask train_masks/6411\.png")
    service.publish(MASKS_ARTICLE, {"train_masks.zip": zipped(MASKS)}, version=9)
    download_files(tmp_path)


def test_photos_that_are_all_neighbours(service: Figshare, tmp_path: Path) -> None:
    few = IDS[:4]
    service.publish(IMAGES_ARTICLE, {f"{photo_id}.jpg": PHOTOS[f"{photo_id}.jpg"] for photo_id in few}, version=2)
    service.publish(MASKS_ARTICLE, {f"{photo_id}.png": MASKS[f"{photo_id}.png"] for photo_id in few}, version=2)
    with pytest.raises(
        HarveysegError,
        match=r"all 4 photos have neighbouring ids or show the same ground, so any test part would overlap",
    ):
        download_files(tmp_path)


def test_hold_out_takes_whole_groups(caplog: pytest.LogCaptureFixture) -> None:
    assert choose_test_ids([], 0.2, 0) == choose_test_ids(["1"], 0.2, 0) == choose_test_ids(["1", "5"], 0.5, 0) == set()
    # No group fits into the share: the smallest.
    assert choose_test_ids(["1", "2", "3", "100", "101"], 0.1, 0) == {"100", "101"}
    ids = [str(100 * group + step) for group in range(40) for step in range(1 + group % 5)]
    for share in (0.1, 0.2, 0.5, 0.9):
        chosen = choose_test_ids(ids, share, 3)
        assert chosen == choose_test_ids(ids[::-1], share, 3)
        assert share * len(ids) - 1 <= len(chosen) <= round(share * len(ids))
        for group in range(40):
            members = {photo_id for photo_id in ids if int(photo_id) // 100 == group}
            assert members <= chosen or not members & chosen
    # Two groups of ids that overlap are one.
    for seed in range(5):
        chosen = choose_test_ids(["1", "2", "100", "101", "200", "201"], 0.4, seed, [("2", "101")])
        assert chosen == {"200", "201"}
    assert choose_test_ids(["1", "100"], 0.5, 0, [("1", "100")]) == set()
    assert not caplog.records
    assert len(choose_test_ids([*"abcdefghij"], 0.3, 0)) == 3
    assert "10 photos have no numeric id (a, ...)" in caplog.text
