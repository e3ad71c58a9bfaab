"""What identifies a run and an evaluation of it.

``run.json`` is a DVC out next to the weights, so the identity travels with the model through run cache, pull, checkout
and apply. ``metrics.json`` names the evaluation: the same weights may be evaluated with different settings.
"""

import re
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harveyseg.errors import HarveysegError
from harveyseg.files import digest, read_json, write_json

Value = str | int | float | bool | None

MODEL_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
"""What a key of ``models`` may look like: it becomes part of file names."""

INFERENCE = "inference."
"""How the settings of a prediction begin, in ``metrics.json`` and among a run's parameters in MLflow."""
EVALUATION = "evaluation"
"""The key of ``metrics.json`` that holds the evaluation's id."""

ENSEMBLE = "ensemble"
"""What the ensemble is called where models are named."""

ALL_EMPTY = "all_empty"
"""What a submission without a single pixel is called there."""

POOLED = "pooled/"
"""How the metrics of a model over the photos of all its folds begin; each of its runs holds them."""

_ID_LENGTH = 16
_TITLE_SETTINGS = 3
_TITLE_LENGTH = 40

WEIGHTS_FILE = "weights.safetensors"
"""A trained network, next to its ``run.json``; see :mod:`harveyseg.inference.network_file`."""

SKIPPED = "data.skipped"
"""The parameter of a training that says how many bad files were left out of its data; absent where none were."""


class RunRecord(BaseModel):
    """One training of one model with one fold held out, or one ensemble.

    ``uid`` is made here and never changes; ``run_id`` is MLflow's. A tracker that was down gave no ``run_id``, and a
    run that is imported into another tracker gets a new one there but keeps its ``uid`` as a tag.
    """

    model_config = ConfigDict(extra="forbid")

    uid: str = Field(default_factory=lambda: uuid.uuid4().hex)
    run_id: str | None = None
    """MLflow's run id; None while the tracker could not be reached."""
    kind: Literal["train", "ensemble", "baseline"]
    """The last is that of submitting nothing, which no stage writes: it is only in MLflow."""
    model: str
    """The key in ``models`` of params.yaml, or ``"ensemble"``."""
    fold: int | None
    """The fold that was held out; None for an ensemble."""
    stage_key: str
    """SHA-256 of all that decides the result, see :func:`harveyseg.pipeline.identity.stage_key`."""
    experiment: str | None = None
    """The name that ``dvc exp show`` prints; None outside ``dvc exp run``."""
    parameters: dict[str, Value]
    """Flat, e.g. ``train.lr`` -> 0.001."""
    changed: dict[str, Value] = Field(default_factory=dict)
    """The settings that differ from those of the commit, e.g. ``train.lr`` -> 0.001; None for one that is removed."""
    git_commit: str | None
    git_dirty: bool | None
    """Whether the project held code that is in no commit; None where git could not tell."""
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
    """Named as in MLflow: ``best/val_argmax_score``, ``written/train_loss``, ``images_per_second``, ..."""

    @property
    def name(self) -> str:
        """What the run is called: ``<model>[-f<fold>][@<experiment>]``."""
        fold = "" if self.fold is None else f"-f{self.fold}"
        experiment = "" if self.experiment is None else f"@{self.experiment}"
        return f"{self.model}{fold}{experiment}"

    def title(self, evaluation: Mapping[str, Value] | None = None) -> str:
        """The run's name in MLflow: :attr:`name` and what was changed, the first settings in full.

        Args:
            evaluation: settings in which this evaluation differs from an earlier one of the same run.
        """
        changes = {**self.changed, **(evaluation or {})}
        shown = [f"{name.rpartition('.')[2]}={format_value(value)}" for name, value in changes.items()]
        more = [f"+{len(shown) - _TITLE_SETTINGS}"] if len(shown) > _TITLE_SETTINGS else []
        return " ".join([self.name, *(text[:_TITLE_LENGTH] for text in shown[:_TITLE_SETTINGS]), *more])


def write_run(path: Path, record: RunRecord) -> None:
    """Write ``run.json``, atomically."""
    write_json(path, record.model_dump())


def read_run(path: Path) -> RunRecord:
    """Read ``run.json``.

    Raises:
        HarveysegError: when it is absent, no JSON, or lacks what identifies a run.
    """
    folder = path.parent
    stage = f"train@{folder.name}" if folder.parent.name == "models" else "ensemble"
    remedy = f"Run `dvc repro -f {stage}`, or `dvc checkout {path} --force`."
    try:
        return RunRecord.model_validate(read_json(path, remedy))
    except ValidationError as error:
        keys = ", ".join(".".join(map(str, item["loc"])) for item in error.errors())
        raise HarveysegError(f"{path}: not a run record (wrong or missing: {keys}). {remedy}") from None


def identify_evaluation(uid: str, settings: Mapping[str, Value], data_hash: str, code: str) -> dict[str, Value]:
    """The entries of ``metrics.json`` that tell one evaluation of a run from another.

    Args:
        uid: the run that is evaluated.
        settings: all that decides the predictions, e.g. ``inference.tta`` -> "flips".
        data_hash: SHA-256 of the photos' manifest, the classes and the score's size.
        code: SHA-256 of the digests of the code that evaluates.

    Returns:
        ``evaluation``, a digest of the arguments, and the settings.

    >>> plain = identify_evaluation("1f", {"inference.tta": "none"}, "d0", "c0")
    >>> plain == identify_evaluation("1f", {"inference.tta": "none"}, "d0", "c0")
    True
    >>> plain["evaluation"] == identify_evaluation("1f", {"inference.tta": "flips"}, "d0", "c0")["evaluation"]
    False
    """
    identity = digest({"uid": uid, "settings": dict(settings), "data": data_hash, "code": code})
    return {EVALUATION: identity[:_ID_LENGTH], **settings}


def identify_postprocessing(
    evaluations: Mapping[int | None, str], settings: Mapping[str, Value], code: str
) -> dict[int | None, dict[str, Value]]:
    """The entries that tell the post-processing of evaluations from others.

    Args:
        evaluations: by fold, the ids of the evaluations that are post-processed; the rule is fitted on all of them.
        settings: of the post-processing, e.g. ``postprocess.method`` -> "auto".
        code: SHA-256 of the digests of the code that post-processes.

    Returns:
        By fold, ``evaluation``, which is the id of before, a hyphen and a digest of the arguments, and the settings.
    """
    identity = digest({"settings": dict(settings), "fitted_on": sorted(evaluations.values()), "code": code})
    return {
        fold: {EVALUATION: f"{evaluation}-{identity[:_ID_LENGTH]}", **settings}
        for fold, evaluation in evaluations.items()
    }


def read_evaluation_id(path: Path) -> str:
    """The evaluation's id in a ``metrics.json``.

    Raises:
        HarveysegError: when the file is absent, damaged or names no evaluation.
    """
    remedy = f"Run `dvc repro` to evaluate {path.parent.name} again."
    identity = read_json(path, remedy).get(EVALUATION)
    if not isinstance(identity, str):
        raise HarveysegError(f"{path}: names no evaluation. {remedy}")
    return identity


def format_value(value: Value) -> str:
    """A parameter as MLflow holds it, spelt as in YAML.

    >>> format_value(None), format_value(True), format_value(1e-05)
    ('null', 'true', '1e-05')
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)
