"""Predicting an archive on a cluster: which machines may take part, and what a signal leaves."""

import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harveyseg.errors import HarveysegError
from harveyseg.prediction.on_cluster import predict_on_cluster
from harveyseg.prediction.predict import PredictionOptions
from harveyseg.scaling.machines import Machine
from helpers.predicting import PARAMS
from helpers.processes import processes_in
from helpers.shard_processes import ENSEMBLE
from helpers.waiting import wait_until

BOX = Machine("1", "box", "box", 8, 2)


@pytest.mark.parametrize(
    ("machines", "found"),
    [
        ([(BOX, "cuda bf16"), (replace(BOX, name="old"), "cuda fp32")], "box has cuda bf16; old has cuda fp32"),
        ([(BOX, "cuda bf16, cuda fp32")], "box has cuda bf16, cuda fp32"),  # a machine with two kinds of GPUs
    ],
)
def test_machines_that_would_predict_differently_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machines: list[tuple[Machine, str]], found: str
) -> None:
    def resolved(_ray: Any, _machines: Any, settings: Iterable[tuple[str, str]]) -> list[Machine]:
        return [replace(machine, resolved=dict.fromkeys(settings, meaning)) for machine, meaning in machines]

    place = "harveyseg.prediction.on_cluster"
    monkeypatch.setattr(f"{place}.connected", lambda address: nullcontext())
    monkeypatch.setattr(f"{place}.list_machines", lambda ray: [machine for machine, _ in machines])
    monkeypatch.setattr(f"{place}.resolve_on", resolved)
    params = PARAMS.model_copy(update={"device": "cuda"})
    with pytest.raises(HarveysegError) as raised:
        predict_on_cluster(["archive"], ENSEMBLE, params, tmp_path / "maps", PredictionOptions(), "local")
    assert "maps would depend on where an image is predicted" in str(raised.value)
    assert found in str(raised.value)


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("ray") is None or (os.cpu_count() or 1) < 2, reason="needs the extra ray and two cores"
)
def test_a_signal_ends_it_in_one_sentence_and_leaves_nothing_running(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    noise = np.random.default_rng(0)
    for number in range(60):
        Image.fromarray(noise.integers(40, 200, (320, 320, 3), np.uint8)).save(photos / f"{number}.png")
    command = [sys.executable, "-c", "from harveyseg.cli import app; app()", "predict", "photos", "--out", "maps"]
    log = tmp_path / "log"
    with log.open("w") as opened:
        started = subprocess.Popen(
            [*command, "--model", "harvey25", "--on", "cluster"], cwd=tmp_path, stdout=opened, stderr=opened,
            env=os.environ | {"HOME": str(tmp_path)}, start_new_session=True,
        )  # fmt: skip
    try:
        wait_until(lambda: list((tmp_path / "maps").glob("*.json")) != [], started)
        started.send_signal(signal.SIGTERM)
        assert started.wait(120) == 130, log.read_text()
        assert "The same command continues with what is missing." in log.read_text()
        assert processes_in(tmp_path) == []
        assert not (tmp_path / "maps" / ".predicting.lock").exists()
    finally:
        if started.poll() is None:
            started.kill()
            started.wait()
