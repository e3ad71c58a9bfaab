"""A checkpoint brings back everything, or nothing, or an error that says what to delete."""

import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harveyseg.errors import HarveysegError
from harveyseg.record import RunRecord
from harveyseg.training.checkpoint import Checkpoint
from helpers.records import make_record
from helpers.small_disk import small_disk

CPU = torch.device("cpu")


def draws() -> tuple[Any, ...]:
    """Draws that use every part of the generators' states, the normal number kept back included."""
    return (
        random.random(), random.gauss(0, 1), np.random.random(), np.random.normal(), torch.rand(3).tolist(),
        torch.randn(17).tolist(), torch.randperm(5).tolist(),
    )  # fmt: skip


def test_the_random_streams_go_on_exactly(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path, "key")
    random.gauss(0, 1)  # the second of a pair is kept back
    np.random.normal()
    checkpoint.save({"epoch": 4}, CPU)
    expected = [draws() for _ in range(3)]
    random.seed(99)
    np.random.seed(99)
    torch.manual_seed(99)
    assert Checkpoint(tmp_path, "key").load(CPU) == {"epoch": 4}
    assert [draws() for _ in range(3)] == expected


def test_network_and_optimiser_come_back(tmp_path: Path) -> None:
    network = torch.nn.Linear(3, 2)
    optimiser = torch.optim.AdamW(network.parameters())
    network(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    state = {
        "network": network.state_dict(),
        "optimiser": optimiser.state_dict(),
        "best": None,
        "history": [{"lr": 0.1}],
    }
    Checkpoint(tmp_path, "key").save(state, CPU)
    loaded = Checkpoint(tmp_path, "key").load(CPU)
    assert loaded is not None
    assert loaded["history"] == [{"lr": 0.1}]
    assert loaded["best"] is None
    assert all(torch.equal(loaded["network"][name], value) for name, value in network.state_dict().items())
    moments, expected = loaded["optimiser"]["state"], optimiser.state_dict()["state"]
    assert all(torch.equal(moments[i][name], expected[i][name]) for i in expected for name in expected[i])


def test_another_key_is_another_training(tmp_path: Path) -> None:
    Checkpoint(tmp_path, "one").save({"epoch": 4}, CPU)
    assert Checkpoint(tmp_path, "other").load(CPU) is None
    assert Checkpoint(tmp_path, "other").load_record() is None


def test_a_new_one_touches_neither_disk_nor_generators(tmp_path: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    assert Checkpoint(tmp_path / "all", "key").load(CPU) is None
    assert torch.equal(torch.rand(2), expected)
    assert not (tmp_path / "all").exists()


class Code:
    """Unpickled without care, this runs code."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("code from a checkpoint ran",)


@pytest.mark.parametrize("kind", ["half", "empty", "text", "no mapping", "no checkpoint", "no state", "code"])
def test_a_damaged_file_is_named_and_changes_no_generator(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = Checkpoint(tmp_path, "key")
    checkpoint.save({"epoch": 4}, CPU)
    (path,) = checkpoint.folder.iterdir()
    if kind == "half":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind in ("empty", "text"):
        path.write_bytes({"empty": b"", "text": b"some words"}[kind])
    else:
        content = torch.load(path, weights_only=True)
        content["training"] = {"no state": [1, 2], "code": Code()}.get(kind, {})
        torch.save({"no mapping": [1], "no checkpoint": {"epoch": 4}}.get(kind, content), path)
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    with pytest.raises(HarveysegError) as caught:
        checkpoint.load(CPU)
    assert str(path) in str(caught.value)
    assert "Delete the folder to train from the first epoch" in str(caught.value)
    assert torch.equal(torch.rand(2), expected)
    assert capsys.readouterr().out == ""


SLOW_SAVER = """
import sys, time
from pathlib import Path
import torch
from harveyseg.training.checkpoint import Checkpoint

CPU = torch.device("cpu")

class Slow:
    def __reduce__(self):  # torch.save is in the middle of its work
        print("saving", flush=True)
        time.sleep(60)

checkpoint = Checkpoint(Path(sys.argv[1]), "key")
checkpoint.save({"epoch": 0}, CPU)
checkpoint.save({"epoch": 1, "slow": Slow()}, CPU)
"""


def test_a_process_killed_while_it_saves_leaves_the_epoch_before(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SLOW_SAVER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as saver:
        assert saver.stdout is not None
        assert saver.stdout.readline() == "saving\n"
        saver.send_signal(signal.SIGKILL)
    checkpoint = Checkpoint(tmp_path, "key")
    assert checkpoint.load(CPU) == {"epoch": 0}
    checkpoint.remove_unused()
    assert not checkpoint.folder.exists()  # what the killed one left half-written goes, too


def test_the_run_record_is_kept(tmp_path: Path) -> None:
    record = make_record(parameters={"train.lr": 1e-05}, git_commit=None)
    Checkpoint(tmp_path, "k").save_record(record.model_dump())
    assert RunRecord.model_validate(Checkpoint(tmp_path, "k").load_record()) == record


@pytest.mark.parametrize("content", [b"", b'{"uid": ', b"[]", b"\xff\xfe"])
def test_a_damaged_record_counts_as_none(tmp_path: Path, content: bytes) -> None:
    checkpoint = Checkpoint(tmp_path, "key")
    checkpoint.save_record({})
    (path,) = checkpoint.folder.iterdir()
    path.write_bytes(content)
    assert checkpoint.load_record() is None


def test_removing_what_is_not_there_is_no_error(tmp_path: Path) -> None:
    Checkpoint(tmp_path, "key").remove_unused()


def test_a_second_process_waits_for_the_same_training_and_says_so_once(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / ".checkpoints", "key")
    script = (
        "import sys; from pathlib import Path; from harveyseg.logs import configure_logging; configure_logging()\n"
        "from harveyseg.training.checkpoint import Checkpoint\n"
        "checkpoint = Checkpoint(Path(sys.argv[1]), sys.argv[2])\n"
        "with checkpoint.owned(): print(checkpoint.load_record())"
    )

    def start(key: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", script, str(tmp_path / ".checkpoints"), key]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    with checkpoint.owned():
        assert start("another").communicate(timeout=600)[0] == "None\n"
        second = start("key")
        assert second.stderr is not None
        assert second.stderr.readline().startswith("Another process runs this very training.")
        checkpoint.finish({"uid": "1f", "ended_ms": 5})
    printed, warnings = second.communicate(timeout=600)
    assert printed == "{'ended_ms': 5, 'uid': '1f'}\n"  # the result of the first, not of the time before it
    assert warnings == ""


def test_a_finished_training_is_kept_until_it_is_evaluated_or_another_one_finishes_a_day_later(tmp_path: Path) -> None:
    names = ("a", "b", "c", "d")
    finished, killed, parallel, last = (Checkpoint(tmp_path / ".checkpoints", name) for name in names)
    finished.finish({"uid": "a", "ended_ms": 1})
    killed.save_record({"uid": "b", "ended_ms": None})
    (tmp_path / ".checkpoints" / ".DS_Store").touch()  # as file managers leave it
    finished.remove_unused("another uid")
    killed.remove_unused("b")  # the uid of a training that still runs
    assert finished.folder.exists()
    assert killed.folder.exists()
    parallel.finish({"uid": "c", "ended_ms": 3_600_000})  # an hour later, as another item of a cluster does
    assert finished.folder.exists()
    last.finish({"uid": "d", "ended_ms": 24 * 3_600_000 + 2})
    assert not finished.folder.exists()
    assert killed.folder.exists()
    assert parallel.folder.exists()
    last.remove_unused("d")
    assert not last.folder.exists()


def test_a_finished_training_that_another_process_takes_up_stays(tmp_path: Path) -> None:
    taken, last = Checkpoint(tmp_path / ".checkpoints", "a"), Checkpoint(tmp_path / ".checkpoints", "b")
    taken.finish({"uid": "a", "ended_ms": 1})
    with taken.owned():
        last.finish({"uid": "b", "ended_ms": 48 * 3_600_000})
        assert taken.folder.exists()


def test_a_full_disk_is_named_and_leaves_the_epoch_before(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        checkpoint = Checkpoint(disk / ".checkpoints", "key")
        checkpoint.save({"epoch": 0}, CPU)
        with pytest.raises(HarveysegError, match=r"state.pt: there is no room"):
            checkpoint.save({"epoch": 1, "network": torch.zeros(10**6)}, CPU)
        assert checkpoint.load(CPU) == {"epoch": 0}


def test_a_training_on_the_cpu_leaves_cuda_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine with GPUs, where the first call about a generator would start CUDA on each of them."""

    def start_cuda() -> None:
        pytest.fail("CUDA was started")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "_lazy_init", start_cuda)
    checkpoint = Checkpoint(tmp_path, "key")
    checkpoint.save({"epoch": 1}, CPU)
    assert checkpoint.load(CPU) == {"epoch": 1}


def test_only_the_generator_of_the_used_gpu_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Saved where two GPUs are visible, loaded where one is: states of all of them would be one too many."""
    gpu = torch.device("cuda")
    state = torch.arange(16, dtype=torch.uint8)
    restored: list[tuple[torch.Tensor, torch.device]] = []
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: state if device == gpu else None)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda *arguments: restored.append(arguments))
    Checkpoint(tmp_path, "key").save({"epoch": 1}, gpu)
    assert Checkpoint(tmp_path, "key").load(gpu) == {"epoch": 1}
    ((loaded, device),) = restored
    assert torch.equal(loaded, state)
    assert device == gpu
