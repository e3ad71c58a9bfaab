"""Who is training: the stage key, and the run record made from it."""

import time
from contextlib import suppress
from pathlib import Path

import torch
from pydantic import ValidationError

from harveyseg.classes import ClassList
from harveyseg.data.cache import CachedPart
from harveyseg.device import compute_environment
from harveyseg.device_names import Precision
from harveyseg.files import digest, sha256
from harveyseg.pipeline.check import ModelConfig
from harveyseg.project import experiment_name, git_state, library_versions
from harveyseg.record import SKIPPED, RunRecord, Value, format_value
from harveyseg.training.checkpoint import Checkpoint
from harveyseg.training.params import flat_parameters

_ABSENT = "absent"
_SHORT = 8
"""Characters of a digest that people are shown."""


def stage_key(
    config: ModelConfig,
    cache: Path,
    classes: ClassList,
    split_hash: str,
    fold: int,
    test: Path,
    device: torch.device,
    precision: Precision,
) -> str:
    """SHA-256 of all that decides the weights of a training.

    That is photos and masks, class list, split and fold, settings, code, files read, device and precision. It includes
    the model's name: two models of the same settings must not resume from each other's checkpoints.

    Args:
        config: the model's checked settings; they hold the digests of code and of files that are read.
        cache: folder of the cached training part.
        classes: what its masks hold.
        split_hash: SHA-256 of the folds.
        fold: the fold that is held out.
        test: folder of the cached test part; its photos count for self-training only.
        device: ``train.device``, resolved on this machine.
        precision: ``train.precision``, resolved on this machine.
    """
    parameters = flat_parameters(config.spec, config.train)
    del parameters["train.workers"]  # the processes that augment do not change the result
    data = {name: sha256(cache / name) for name in ("images.npy", "masks.npy", "photos.csv")}
    if config.train.self_training is not None:
        data["test/images.npy"] = sha256(test / "images.npy")
    return digest(
        {
            "model": config.model,
            "data": data,
            "split": split_hash,
            "fold": fold,
            "parameters": parameters,
            "classes": classes.identity(),
            "code": config.code,
            "files": config.files,
            "device": device.type,
            "precision": precision,
        }
    )


def kept_record(checkpoint: Checkpoint) -> RunRecord | None:
    """The record of this very training, if it was killed, or finished without DVC committing it; else None.

    A killed training gets the name of the experiment that resumes it. A record that cannot be read, such as one of
    another version, counts as none: the weights can still be resumed.
    """
    try:
        record = RunRecord.model_validate(checkpoint.load_record())
    except ValidationError:
        return None
    return record if record.ended_ms is not None else record.model_copy(update={"experiment": experiment_name()})


def explain_restart(record: RunRecord, checkpoint: Checkpoint, written: str | None) -> str | None:
    """Why a training that starts now does not continue an earlier one of the same model and fold.

    Args:
        record: of the training that starts.
        checkpoint: its checkpoint; those of other trainings are next to it.
        written: the ``run.json`` of the last training whose results DVC has, if any.

    Returns:
        One line that names each setting that differs, as "old -> new"; None where nothing was trained before, or only
        this very training, which DVC was told to run again.
    """
    earlier = [*checkpoint.other_records(), *([] if written is None else [written])]
    records = []
    for text in earlier:
        with suppress(ValidationError):  # of another version
            records.append(RunRecord.model_validate_json(text))
    same = [other for other in records if (other.model, other.fold) == (record.model, record.fold)]
    if not same:
        return None
    last = max(same, key=lambda other: other.started_ms)
    if last.stage_key == record.stage_key:
        return None
    old, new = _deciding(last), _deciding(record)
    changes = [
        f"{name}: {format_value(old.get(name, _ABSENT))} -> {format_value(new.get(name, _ABSENT))}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name, _ABSENT) != new.get(name, _ABSENT)
    ]
    what = "training run" if last.ended_ms is not None else "unfinished training run"
    return (
        f"{record.model}-{record.fold} starts from the first epoch. The {what} before was another one: "
        f"{', '.join(changes) or 'its code or its encoder weights have changed'}. Only a training run in which nothing "
        "differs is continued."
    )


def _deciding(record: RunRecord) -> dict[str, Value]:
    """What a record holds of that which decides the stage key; of the code, it holds none."""
    shortened = {"photos": record.data_hash[:_SHORT], "split": record.split_hash[:_SHORT]}
    machine = {"device": record.device, "precision": record.environment.get("precision")}
    decided = {"train.device", "train.precision", "train.workers"}  # the former two by what they became
    parameters = {name: value for name, value in record.parameters.items() if name not in decided}
    return {**parameters, **shortened, **machine}


def new_record(
    config: ModelConfig,
    fold: int,
    part: CachedPart,
    split_hash: str,
    key: str,
    device: torch.device,
    precision: Precision,
    checkout: Path,
) -> RunRecord:
    """The record of a training that starts now."""
    git = git_state(checkout)
    height, width = part.size
    data: dict[str, Value] = {"resize-cache.size": f"{height}x{width}"}
    if part.skipped:
        data[SKIPPED] = part.skipped
    return RunRecord(
        kind="train",
        model=config.model,
        fold=fold,
        stage_key=key,
        experiment=experiment_name(),
        parameters={**flat_parameters(config.spec, config.train), **data},
        git_commit=git.commit,
        git_dirty=git.dirty,
        data_source=part.source,
        data_hash=part.data_hash,
        split_hash=split_hash,
        device=device.type,
        environment={
            **library_versions(),
            **compute_environment(device),
            "precision": precision,
        },  # torch.__version__ also names the build
        started_ms=round(time.time() * 1000),
    )
