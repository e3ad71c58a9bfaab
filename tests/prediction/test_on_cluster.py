"""Which clusters predict an archive: only those on which a map does not depend on where it is predicted."""

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harveyseg.errors import HarveysegError
from harveyseg.prediction.on_cluster import predict_on_cluster
from harveyseg.prediction.predict import PredictionOptions
from harveyseg.scaling.machines import Machine
from helpers.predicting import PARAMS
from helpers.shard_processes import ENSEMBLE

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
