"""``run.json``: what identifies a run. It travels with the model as a DVC out (run cache, pull, checkout, apply)."""

import uuid
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harveyseg.errors import HarveysegError
from harveyseg.files import read_json, write_json

Value = str | int | float | bool | None

SKIPPED = "data.skipped"
"""The parameter of a training that says how many bad files were left out of its data; absent where none were."""


class RunRecord(BaseModel):
    """One training of one model on one fold, or one ensemble.

    ``uid`` is made here and never changes; ``run_id`` is MLflow's. They differ in life: a tracker that was down gave
    no ``run_id``, and a run imported into another tracker gets a new one there but keeps its ``uid`` as a tag.
    """

    model_config = ConfigDict(extra="forbid")

    uid: str = Field(default_factory=lambda: uuid.uuid4().hex)
    run_id: str | None = None
    """MLflow's run id; None while the tracker could not be reached."""
    kind: Literal["train", "ensemble"]
    model: str
    """The key in ``models`` of params.yaml, or ``"ensemble"``."""
    fold: int | None
    """The fold that was held out; None for an ensemble."""
    stage_key: str
    """SHA-256 of all that decides the result: data, split, parameters and code."""
    experiment: str | None = None
    """The name that ``dvc exp show`` prints; None outside ``dvc exp run``."""
    parameters: dict[str, Value]
    """Flat, e.g. ``train.lr`` -> 0.001."""
    git_commit: str | None
    git_dirty: bool
    """Whether the checkout had changes other than in params.yaml and dvc.lock."""
    data_source: str
    data_hash: str
    split_hash: str
    device: str
    environment: dict[str, str]
    """Versions and hardware, e.g. ``torch`` -> "2.15.0", ``cuda`` -> "13.2"."""
    started_ms: int
    """Unix time in milliseconds."""
    ended_ms: int | None = None
    results: dict[str, float] = Field(default_factory=dict)
    """Named as in MLflow: ``best/val_argmax_score``, ``final/train_loss``, ``best/epoch``, ``images_per_second``, ..."""

    @property
    def name(self) -> str:
        """The run's name in MLflow: ``<model>[-f<fold>][@<experiment>]``."""
        fold = "" if self.fold is None else f"-f{self.fold}"
        experiment = "" if self.experiment is None else f"@{self.experiment}"
        return f"{self.model}{fold}{experiment}"


def write_run(path: Path, record: RunRecord) -> None:
    """Write ``run.json``, atomically."""
    write_json(path, record.model_dump())


def read_run(path: Path) -> RunRecord:
    """Read ``run.json``.

    Raises:
        HarveysegError: when it is absent, no JSON, or lacks what identifies a run.
    """
    stage = path.parent.name
    remedy = f"Make it anew: `dvc repro -f` on the stage that writes {stage}, or `dvc checkout {path} --force`."
    try:
        return RunRecord.model_validate(read_json(path, remedy))
    except ValidationError as error:
        keys = ", ".join(".".join(map(str, item["loc"])) for item in error.errors())
        raise HarveysegError(f"{path}: not a run record (wrong or missing: {keys}). {remedy}") from None
