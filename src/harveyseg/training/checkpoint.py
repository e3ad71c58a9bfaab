"""Checkpoints for resuming. They are kept outside DVC's outs, which DVC deletes before a stage runs."""

import json
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import Timeout

from harveyseg.errors import HarveysegError
from harveyseg.files import atomic, locked, write_json

_KEPT_MS = 24 * 3600 * 1000
"""How long a finished training that nothing evaluates is kept."""


class Checkpoint:
    """The resumable state of one training, in a folder named by its stage key.

    Another parameter, split or line of code gives another key, so a training never resumes from a state that does not
    fit.

    Args:
        root: folder of all checkpoints, e.g. ``<project>/.checkpoints``.
        stage_key: the training's key.
    """

    def __init__(self, root: Path, stage_key: str) -> None:
        self.folder = root / stage_key
        self._state = self.folder / "state.pt"
        self._record = self.folder / "run.json"
        # Elsewhere: removing the folder must not remove the lock.
        self._lock = root.parent / ".locks" / f"training-{stage_key}.lock"

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Wait until no other process runs this training, then keep others from it; says so once if it has to wait."""
        with locked(self._lock, waiting="Another process runs this very training. Waiting for it, to take its result."):
            yield

    def save_record(self, record: dict[str, Any]) -> None:
        """Keep the run's record before the first epoch, so that a killed training resumes under the same identity."""
        write_json(self._record, record)

    def load_record(self) -> dict[str, Any] | None:
        """The record of :meth:`save_record`, or None when there is none to resume."""
        try:
            value = json.loads(self._record.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # no such file, a stray file in place of the folder, no JSON, no text
            return None
        return value if isinstance(value, dict) else None

    def other_records(self) -> list[str]:
        """The records of all other trainings that have a checkpoint, as JSON."""
        folders = [folder for folder in self.folder.parent.glob("*") if folder != self.folder]
        records = [Checkpoint(folder.parent, folder.name).load_record() for folder in folders]
        return [json.dumps(record) for record in records if record is not None]

    def save(self, state: dict[str, Any], device: torch.device) -> None:
        """Write the state after an epoch, with the states of the random generators, atomically.

        Args:
            state: what the training needs besides the generators.
            device: the one that computes. Only its generator is kept: another machine may show other GPUs.
        """
        generators = {
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
            # As plain lists, so that the file can be read back without unpickling arbitrary objects.
            "numpy": [value.tolist() if isinstance(value, np.ndarray) else value for value in np.random.get_state()],
            "python": random.getstate(),
        }
        # An opened file: given a path, torch hides a full disk behind an error of its own.
        with atomic(self._state) as temporary, temporary.open("wb") as opened:
            torch.save({"training": state, "generators": generators}, opened)

    def load(self, device: torch.device) -> dict[str, Any] | None:
        """Read the state back and set the random generators of the CPU and of ``device``; None when there is none.

        Raises:
            HarveysegError: when the file is damaged.
        """
        if not self._state.exists():
            return None
        try:
            # map_location: torch wants the generators' states as CPU tensors; load_state_dict moves the rest.
            loaded = torch.load(self._state, map_location="cpu", weights_only=True)
            training = dict(loaded["training"])
            generators = loaded["generators"]
        except Exception as error:  # torch raises whatever its unpickler met
            raise HarveysegError(
                f"{self._state}: cannot be read ({error}). Delete the folder to train from the first epoch."
            ) from None
        torch.set_rng_state(generators["torch"])
        if device.type == "cuda" and generators["cuda"] is not None:
            torch.cuda.set_rng_state(generators["cuda"], device)
        name, keys, position, has_gauss, cached = generators["numpy"]
        np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
        version, internal, gauss = generators["python"]
        random.setstate((version, tuple(internal), gauss))
        return training

    def finish(self, record: dict[str, Any]) -> None:
        """Keep the finished training until it is evaluated, since DVC may fail to commit it, and drop those of old.

        One that finished a short while ago may be another item's of the same pipeline, which runs at the same time and
        has yet to be committed.

        Args:
            record: the run's record, whose ``ended_ms`` says when it finished.
        """
        self.save_record(record)
        for folder in self.folder.parent.iterdir():
            earlier = Checkpoint(self.folder.parent, folder.name)
            ended = (earlier.load_record() or {}).get("ended_ms")
            if folder != self.folder and isinstance(ended, int) and record["ended_ms"] - ended > _KEPT_MS:
                earlier.remove_unused()

    def remove_unused(self, uid: str | None = None) -> None:
        """Delete the folder, unless another process uses it.

        Args:
            uid: delete it only if it is this run's, and the run is finished.
        """
        record = self.load_record() or {}
        if uid is not None and (record.get("uid") != uid or record.get("ended_ms") is None):
            return
        with suppress(Timeout), locked(self._lock, timeout=0):
            shutil.rmtree(self.folder, ignore_errors=True)
