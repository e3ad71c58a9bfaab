"""An archive that several processes predict into one folder, as one process would."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from harveyseg.errors import HarveysegError
from harveyseg.prediction.shard import Shard, parse_shard
from helpers.commands import run_command
from helpers.rasters import red_half, write_tiff
from helpers.shard_processes import predict_archive


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Eleven photos in two folders, and a georeferenced mosaic."""
    folder = tmp_path / "archive"
    for number in range(11):
        path = folder / f"card{number % 2}" / f"{number // 2:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.zeros((64, 96, 3), np.uint8)
        pixels[:, : 8 * number, 0] = 250
        Image.fromarray(pixels).save(path)
    write_tiff(folder / "mosaic.tif", red_half(96, 160))
    return folder


@pytest.fixture
def shards(archive: Path, tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """Three processes that predict into ``shards``."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(
        [sys.executable, "-m", "helpers.shard_processes", str(archive), str(tmp_path / "shards")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
    ) as started:  # fmt: skip
        yield started
        started.kill()


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
def test_several_processes_one_of_them_killed_end_in_the_bytes_of_one_call(
    archive: Path, tmp_path: Path, shards: "subprocess.Popen[str]"
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "shards"
    names = predict_archive(archive, whole)
    assert len(names) == 12
    assert shards.stdout is not None
    predicted = [name for line in iter(shards.stdout.readline, "killed\n") for name in line.split()]
    before = {path: path.stat() for path in out.glob("*.json")}
    missing = set(names) - {path.stem for path in before}
    assert len(before) == len(predicted) + 1  # the killed process printed nothing of the image that it had finished
    assert len(pd.read_csv(out / "areas.csv")) >= len(predicted)
    printed, _ = shards.communicate("go on\n")
    assert shards.returncode == 0
    assert sorted(printed.split()) == sorted(missing)
    assert all(os.path.samestat(path.stat(), was) for path, was in before.items())  # none was written again
    assert files_in(out) == files_in(whole)


def test_every_image_is_in_one_shard_which_its_name_alone_decides() -> None:
    names = [f"DJI_{number:04}" for number in range(1000)]
    shards = [Shard(number, 4) for number in (1, 2, 3, 4)]
    assert all(sum(shard.has(name) for shard in shards) == 1 for name in names)
    assert all(200 < sum(map(shard.has, names)) < 300 for shard in shards)
    # coreutils: the first 16 digits of `printf DJI_0000 | sha256sum` end with bf, those of DJI_0001 with d8.
    assert shards[0xBF % 4].has("DJI_0000")
    assert shards[0xD8 % 4].has("DJI_0001")


def test_shards_one_after_the_other_end_in_the_bytes_of_one_call(archive: Path, tmp_path: Path) -> None:
    names = predict_archive(archive, tmp_path / "whole")
    shards = [predict_archive(archive, tmp_path / "shards", Shard(number, 3)) for number in (3, 1, 2)]
    assert sorted(name for shard in shards for name in shard) == sorted(names)
    assert files_in(tmp_path / "shards") == files_in(tmp_path / "whole")


def test_a_shard_reads_no_image_of_others(archive: Path, tmp_path: Path) -> None:
    """Its own bad files stop it before anything is predicted; those of others are theirs."""
    names = {number: predict_archive(archive, tmp_path / "maps", Shard(number, 3)) for number in (1, 2)}
    damaged = archive / f"{next(name for name in names[1] if name != 'mosaic').replace('_', '/')}.png"
    damaged.write_bytes(b"no photo")
    assert predict_archive(archive, tmp_path / "again", Shard(2, 3)) == names[2]
    with pytest.raises(HarveysegError, match=damaged.name):
        predict_archive(archive, tmp_path / "again", Shard(1, 3))


def test_a_shard_without_images_is_no_error(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((64, 96, 3), np.uint8)).save(tmp_path / "a.png")
    counts = [len(predict_archive(tmp_path, tmp_path / "maps", Shard(number, 2))) for number in (1, 2)]
    assert sorted(counts) == [0, 1]


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "1/0", "a/4", "1/4/2", "-1/4", ""])
def test_a_wrong_shard_says_the_form(text: str) -> None:
    with pytest.raises(HarveysegError, match=r"must be K/N, part K of N, from 1/N to N/N, e\.g\. 2/8\."):
        parse_shard(text)


@pytest.mark.skipif(
    importlib.util.find_spec("ray") is None or (os.cpu_count() or 1) < 2, reason="needs the extra ray and two cores"
)
@pytest.mark.slow
def test_on_ray_a_killed_actor_begins_again_and_the_bytes_are_those_of_one_call(archive: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "cluster"
    names = predict_archive(archive, whole)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        "HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }  # fmt: skip
    command = [sys.executable, "-m", "helpers.cluster_prediction", str(archive), str(out)]
    first, second = (
        subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
        for _ in range(2)
    )
    assert first.returncode == 0, first.stderr
    assert (tmp_path / "killed").exists()
    predicted, skipped = map(int, first.stdout.splitlines()[-1].split())  # Ray says before that an actor died
    assert predicted + skipped == len(names)  # what the killed actor had predicted of its part was skipped
    assert second.stdout.splitlines()[-1].split() == ["0", str(len(names))]
    assert files_in(out) == files_in(whole)


def test_on_a_cluster_says_what_does_not_go_together(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, message in (
        (["--on", "moon"], "--on moon: must be cluster."),
        (["--on", "cluster", "--shard", "1/2"], "--on cluster makes parts itself. Leave --shard out."),
    ):
        status, _, err = run_command(monkeypatch, capsys, "predict", "a.jpg", "--out", "maps", *arguments)
        assert (status, err) == (1, f"error: {message}\n")
