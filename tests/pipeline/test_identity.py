"""The stage key changes with everything that decides the weights, and with nothing else."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harveyseg.data.cache import CachedPart
from harveyseg.pipeline.check import write_config
from harveyseg.pipeline.identity import new_record, stage_key
from helpers.configs import unet_config as config

ROOT = Path(__file__).resolve().parents[2]
SPLIT = "5" * 64
TEST = Path("absent")
"""The test part, which nothing but a self-training reads."""


@pytest.fixture
def cache(tiny_part: CachedPart, tmp_path: Path) -> Path:
    folder = tmp_path / "cache"
    folder.mkdir()
    assert tiny_part.masks is not None
    np.save(folder / "images.npy", tiny_part.images)
    np.save(folder / "masks.npy", tiny_part.masks)
    tiny_part.photos.to_csv(folder / "photos.csv", index=False)
    return folder


def test_what_does_not_decide_the_weights(cache: Path) -> None:
    key = stage_key(config(), cache, SPLIT, 0, TEST)
    assert len(bytes.fromhex(key)) == 32
    assert stage_key(config(), cache, SPLIT, 0, TEST) == key
    assert stage_key(config(workers=3), cache, SPLIT, 0, TEST) == key
    for file in cache.iterdir():
        os.utime(file, (0, 0))
    moved = shutil.move(cache, cache.with_name("moved"))
    assert stage_key(config(), Path(moved), SPLIT, 0, TEST) == key


@pytest.mark.parametrize(
    "train",
    [
        {"lr": 0.0031}, {"epochs": 21}, {"seed": 1}, {"threads": 3}, {"encoder_weights": "imagenet"},
        {"precision": "bf16"}, {"optimiser": {"ema": 0.9}}, {"augmentation": {"flip": 0.4}},
        {"validation": {"keep": "last"}}, {"sampling": {"crops_per_photo": 2}}, {"loss": {"presence": 0.1}},
    ],
)  # fmt: skip
def test_every_other_setting_decides(cache: Path, train: dict[str, Any]) -> None:
    assert stage_key(config(**train), cache, SPLIT, 0, TEST) != stage_key(config(), cache, SPLIT, 0, TEST)


@pytest.mark.parametrize(
    "changes",
    [
        {"spec": {"network": "unet", "width": 8}},
        {"code": {"models/unet.py": "ac" * 32}},
        {"code": {"models/unet.py": "ab" * 32, "encoder_weights": "ab" * 32}},
        {"model": "twin"},  # of the same settings: it must not go on from the other's checkpoint
    ],
)
def test_network_and_code_decide(cache: Path, changes: dict[str, Any]) -> None:
    other = dataclasses.replace(config(), **changes)
    assert stage_key(other, cache, SPLIT, 0, TEST) != stage_key(config(), cache, SPLIT, 0, TEST)


def test_split_and_fold_decide(cache: Path) -> None:
    keys = {stage_key(config(), cache, split, fold, TEST) for split in (SPLIT, "6" * 64) for fold in (0, 1)}
    assert len(keys) == 4


@pytest.mark.parametrize("name", ["images.npy", "masks.npy", "photos.csv"])
def test_one_byte_of_the_data_decides(cache: Path, name: str) -> None:
    key = stage_key(config(), cache, SPLIT, 0, TEST)
    content = bytearray((cache / name).read_bytes())
    content[-2] ^= 1
    (cache / name).write_bytes(content)
    assert stage_key(config(), cache, SPLIT, 0, TEST) != key


def test_the_test_photos_decide_a_self_training(cache: Path, tmp_path: Path) -> None:
    settings = config(optimiser={"ema": 0.9}, self_training={"weight": 1, "start": 0.5, "confidence": 0.9})
    keys = set()
    for photo in (b"one", b"two"):
        (tmp_path / "images.npy").write_bytes(photo)
        keys.add(stage_key(settings, cache, SPLIT, 0, tmp_path))
        keys.add(stage_key(config(optimiser={"ema": 0.9}), cache, SPLIT, 0, tmp_path))
    assert len(keys) == 3


IN_ANOTHER_CHECKOUT = """
import json, sys
from pathlib import Path
from harveyseg import imports
from harveyseg.pipeline.check import read_config
from harveyseg.pipeline.identity import stage_key

def key():
    return stage_key(read_config(Path(sys.argv[1])), Path(sys.argv[2]), sys.argv[3], 0, Path("absent"))

keys = [key()]
for name in ("figures.py", "losses.py"):
    with (imports.PACKAGE / name).open("a") as opened:
        opened.write("# edited\\n")
    keys.append(key())
print(json.dumps(keys))
"""


def test_another_process_in_another_checkout_finds_the_same_key(cache: Path, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    write_config(tmp_path, config())
    command = [sys.executable, "-c", IN_ANOTHER_CHECKOUT, str(tmp_path / "unet.json"), str(cache), SPLIT]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "src"), "PYTHONHASHSEED": "1"}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    same, figures_edited, losses_edited = json.loads(done.stdout)
    assert same == figures_edited == stage_key(config(), cache, SPLIT, 0, TEST)
    assert losses_edited != same


def test_a_record_says_who_is_training(tiny_part: CachedPart, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_EXP_NAME", "ocher-pope")
    record = new_record(config(lr=1e-5), 2, tiny_part, SPLIT, "key", torch.device("cpu"), tmp_path)
    assert record.name == "unet-f2@ocher-pope"
    assert (record.kind, record.stage_key, record.split_hash) == ("train", "key", SPLIT)
    assert (record.data_source, record.data_hash, record.device) == ("demo", "0", "cpu")
    assert record.parameters["train.lr"] == 1e-5
    assert record.parameters["model.width"] == 4
    assert record.parameters["resize-cache.size"] == "32x32"
    assert "data.skipped" not in record.parameters
    lacking = dataclasses.replace(tiny_part, skipped=3)
    assert new_record(config(), 2, lacking, SPLIT, "key", torch.device("cpu"), tmp_path).parameters["data.skipped"] == 3
    assert record.environment["torch"] == torch.__version__
    assert (record.git_commit, record.git_dirty) == (None, False)  # tmp_path is no repository
    assert (record.run_id, record.ended_ms, record.results) == (None, None, {})
