"""The stage key changes with everything that decides the weights, and with nothing else."""

import dataclasses
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harveyseg.classes import HARVEY25
from harveyseg.data.cache import CachedPart
from harveyseg.device import resolve_device, resolve_precision
from harveyseg.device_names import Precision
from harveyseg.pipeline.check import ModelConfig, write_config
from harveyseg.pipeline.identity import explain_restart, new_record, stage_key
from harveyseg.record import RunRecord
from harveyseg.training.checkpoint import Checkpoint
from helpers.configs import unet_config as config

SPLIT = "5" * 64
TEST = Path("absent")
"""The test part, which nothing but a self-training reads."""


def key(
    config: ModelConfig,
    cache: Path,
    split_hash: str = SPLIT,
    fold: int = 0,
    test: Path = TEST,
    device: str = "cpu",
    precision: Precision = "fp32",
) -> str:
    return stage_key(config, cache, HARVEY25, split_hash, fold, test, torch.device(device), precision)


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
    expected = key(config(), cache)
    assert len(bytes.fromhex(expected)) == 32
    assert key(config(), cache) == expected
    assert key(config(workers=3), cache) == expected
    for file in cache.iterdir():
        os.utime(file, (0, 0))
    moved = shutil.move(cache, cache.with_name("moved"))
    assert key(config(), Path(moved)) == expected


@pytest.mark.parametrize(
    "train",
    [
        {"lr": 0.0031}, {"epochs": 21}, {"seed": 1}, {"threads": 3}, {"encoder_weights": "imagenet"},
        {"init": "harvey25"}, {"precision": "bf16"}, {"optimiser": {"ema": 0.9}}, {"augmentation": {"flip": 0.4}},
        {"validation": {"keep": "best"}}, {"sampling": {"crops_per_photo": 2}}, {"loss": {"presence": 0.1}},
    ],
)  # fmt: skip
def test_every_other_setting_decides(cache: Path, train: dict[str, Any]) -> None:
    assert key(config(**train), cache) != key(config(), cache)


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
    assert key(other, cache) != key(config(), cache)


def test_split_and_fold_decide(cache: Path) -> None:
    keys = {key(config(), cache, split, fold) for split in (SPLIT, "6" * 64) for fold in (0, 1)}
    assert len(keys) == 4


@pytest.mark.parametrize("name", ["images.npy", "masks.npy", "photos.csv"])
def test_one_byte_of_the_data_decides(cache: Path, name: str) -> None:
    expected = key(config(), cache)
    content = bytearray((cache / name).read_bytes())
    content[-2] ^= 1
    (cache / name).write_bytes(content)
    assert key(config(), cache) != expected


def test_the_test_photos_decide_a_self_training(cache: Path, tmp_path: Path) -> None:
    settings = config(optimiser={"ema": 0.9}, self_training={"weight": 1, "start": 0.5, "confidence": 0.9})
    keys = set()
    for photo in (b"one", b"two"):
        (tmp_path / "images.npy").write_bytes(photo)
        keys.add(key(settings, cache, test=tmp_path))
        keys.add(key(config(optimiser={"ema": 0.9}), cache, test=tmp_path))
    assert len(keys) == 3


def test_device_and_precision_decide(cache: Path) -> None:
    keys = {key(config(), cache, device=device) for device in ("cpu", "cuda")}
    keys |= {key(config(), cache, precision=precision) for precision in ("tf32", "bf16")}
    assert len(keys) == 4


def test_auto_decides_by_what_it_becomes(
    cache: Path, tiny_part: CachedPart, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One params.yaml on a CPU and on two GPUs: three trainings, none of which continues another, and three records."""
    settings = config(device="auto", precision="auto")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91000)
    found = []
    for gpu, bf16 in ((False, False), (True, False), (True, True)):
        monkeypatch.setattr(torch.cuda, "is_available", lambda gpu=gpu: gpu)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, bf16=bf16: bf16)
        device = resolve_device(settings.train.device)
        precision: Precision = resolve_precision(settings.train.precision, device) if gpu else "fp32"
        stage = stage_key(settings, cache, HARVEY25, SPLIT, 0, TEST, device, precision)
        record = new_record(settings, 0, tiny_part, SPLIT, stage, device, precision, tmp_path)
        found.append((record.device, record.environment["precision"], record.stage_key))
        assert (record.environment["device_name"] == "a GPU") is gpu
    assert [machine for *machine, _ in found] == [["cpu", "fp32"], ["cuda", "fp32"], ["cuda", "bf16"]]
    assert len({stage for *_, stage in found}) == 3


IN_ANOTHER_PROCESS = """
import sys
from pathlib import Path
import torch
from harveyseg.classes import HARVEY25
from harveyseg.pipeline.check import read_config
from harveyseg.pipeline.identity import stage_key

config, cache, split_hash = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
print(stage_key(read_config(config), cache, HARVEY25, split_hash, 0, Path("absent"), torch.device("cpu"), "fp32"))
"""


def test_another_process_finds_the_same_key(cache: Path, tmp_path: Path) -> None:
    write_config(tmp_path, config())
    command = [sys.executable, "-c", IN_ANOTHER_PROCESS, str(tmp_path / "unet.json"), str(cache), SPLIT]
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    done = subprocess.run(command, env=environment, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == key(config(), cache)


def test_a_record_says_who_is_training(tiny_part: CachedPart, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def make(config: ModelConfig, part: CachedPart) -> RunRecord:
        return new_record(config, 2, part, SPLIT, "key", torch.device("cpu"), "bf16", tmp_path)

    monkeypatch.setenv("DVC_EXP_NAME", "ocher-pope")
    record = make(config(lr=1e-5), tiny_part)
    assert record.name == "unet-f2@ocher-pope"
    assert (record.kind, record.stage_key, record.split_hash) == ("train", "key", SPLIT)
    assert (record.data_source, record.data_hash, record.device) == ("demo", "0", "cpu")
    assert record.parameters["train.lr"] == 1e-5
    assert record.parameters["model.width"] == 4
    assert record.parameters["resize-cache.size"] == "32x32"
    assert "data.skipped" not in record.parameters
    assert make(config(), dataclasses.replace(tiny_part, skipped=3)).parameters["data.skipped"] == 3
    assert record.environment["torch"] == torch.__version__
    assert record.environment["precision"] == "bf16"
    assert (record.git_commit, record.git_dirty) == (None, None)  # tmp_path is no repository
    assert (record.run_id, record.ended_ms, record.results) == (None, None, {})


@pytest.fixture
def start(tiny_part: CachedPart, tmp_path: Path) -> Callable[..., tuple[RunRecord, Checkpoint]]:
    """Start a training of these settings, whose record and checkpoint are kept."""

    def start(
        key: str, finished: bool = False, data: str = "0", precision: Precision = "bf16", fold: int = 0, **train: Any
    ) -> tuple[RunRecord, Checkpoint]:
        part = dataclasses.replace(tiny_part, data_hash=data)
        record = new_record(config(**train), fold, part, SPLIT, key, torch.device("cpu"), precision, tmp_path)
        record.ended_ms = record.started_ms if finished else None
        checkpoint = Checkpoint(tmp_path / ".checkpoints", key)
        checkpoint.save_record(record.model_dump())
        return record, checkpoint

    return start


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"epochs": 30}, "train.epochs: 20 -> 30"),
        ({"epochs": 30, "lr": 1e-5}, "train.epochs: 20 -> 30, train.lr: 0.003 -> 1e-05"),
        ({"optimiser": {"ema": 0.9}}, "train.optimiser.ema: null -> 0.9"),
        ({"data": "a" * 64}, "photos: 0 -> aaaaaaaa"),
        ({"precision": "fp32"}, "precision: bf16 -> fp32"),
        ({}, "its code or its encoder weights have changed"),
    ],
)
def test_a_training_that_starts_over_says_why(
    start: Callable[..., tuple[RunRecord, Checkpoint]], changes: dict[str, Any], named: str, finished: bool
) -> None:
    start("earlier", finished)
    record, checkpoint = start("now", **changes)
    line = explain_restart(record, checkpoint, None)
    assert line is not None
    what = "training run" if finished else "unfinished training run"
    assert line.startswith(f"unet-0 starts from the first epoch. The {what} before was another one: {named}. Only")


def test_the_last_of_earlier_trainings_counts(start: Callable[..., tuple[RunRecord, Checkpoint]]) -> None:
    oldest, _ = start("oldest", finished=True, lr=0.5)
    start("newer", lr=0.25)
    start("another fold", lr=0.125, fold=1)
    record, checkpoint = start("now")
    (checkpoint.folder.parent / "stray.txt").touch()
    line = explain_restart(record, checkpoint, oldest.model_dump_json())
    assert line is not None
    assert "train.lr: 0.25 -> 0.003" in line


def test_a_first_training_and_a_forced_one_explain_nothing(
    start: Callable[..., tuple[RunRecord, Checkpoint]],
) -> None:
    record, checkpoint = start("now")
    assert explain_restart(record, checkpoint, None) is None
    assert explain_restart(record, checkpoint, record.model_dump_json()) is None
    assert explain_restart(record, checkpoint, '{"of": "another version"}') is None
