"""How a run looks in MLflow's UI: a description with its numbers and its picture."""

from collections.abc import Mapping
from hashlib import sha256
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from harveyseg.record import format_value
from harveyseg.tracking.outputs import RunState, gain_over_empty

if TYPE_CHECKING:
    from mlflow.entities import Run as MlflowRun

COLOUR = "mlflow.runColor"
"""Each model's own, see :mod:`harveyseg.palette`."""
NOTE = "mlflow.note.content"
_NOTE_DIGEST = "harveyseg.note"
"""The digest of the description that was written: one that somebody edited has another, and is left alone."""
_DIGEST_LENGTH = 16
_PICTURES = ("evaluation/sheet.png", "evaluation/overview.png")
_ROWS = {
    "score": "score",
    "argmax score": "argmax_score",
    "submitting nothing": "all_empty_score",
    "macro Dice": "macro_dice",
    "macro Dice of the argmax maps": "argmax_macro_dice",
    "mIoU of the argmax maps": "miou",
    "missed classes per photo": "missed_classes",
    "classes found that are not there, per photo": "false_positive_classes",
}
"""Line of the description -> metric of the held-out and of the test photos."""
_TRAINING = {"epochs", "images_per_second", "parameters", "seconds"} | {
    f"written/{name}" for name in ("epoch", "train_loss", "val_loss")
}
"""The results of a training that its description names."""


def describe_run(state: RunState, run_id: str) -> str | None:
    """The description of a run in Markdown.

    Args:
        state: the run, with the metrics of its evaluation.
        run_id: MLflow's, for the picture's address.

    Returns:
        None before the evaluation.
    """
    values = {**state.record.results, **state.metrics}
    if "val/argmax_score" not in values:
        return None
    picture = next((name for name in _PICTURES if any(artifact.name == name for artifact in state.artifacts)), None)
    lines = [_summary(values), _identity(state)]
    if picture is not None:
        # As the UI itself shows artifacts; relative, since a server may be below a path.
        address = f"get-artifact?{urlencode({'path': picture, 'run_uuid': run_id})}"
        lines.append(f"![Photos that it was not trained on, their masks and its predictions]({address})")
    lines.append(_table(values))
    lines += _training(state, values)
    return "\n\n".join(lines)


def description_tags(run: "MlflowRun", state: RunState) -> dict[str, str]:
    """The tags that describe a run in MLflow; none where somebody has edited its description.

    Args:
        run: as MLflow holds it.
        state: what it shall hold.
    """
    note = describe_run(state, run.info.run_id)
    present = run.data.tags.get(NOTE)
    edited = present is not None and _digest(present) != run.data.tags.get(_NOTE_DIGEST)
    if note is None or note == present or edited:
        return {}
    return {NOTE: note, _NOTE_DIGEST: _digest(note)}


def _summary(values: Mapping[str, float]) -> str:
    parts = []
    if "val/score" in values:
        gain = gain_over_empty(values)
        parts.append(f"Score **{values['val/score']:.5f}**")
        parts += [] if gain is None else [f"{gain:+.5f} over submitting nothing"]
    parts.append(f"argmax score {values['val/argmax_score']:.5f}")
    parts += [f"test score {values['test/score']:.5f}"] if "test/score" in values else []
    return ", ".join(parts)


def _identity(state: RunState) -> str:
    record = state.record
    parts = [f"`{record.model}`"]
    parts += [] if record.fold is None else [f"fold {record.fold} held out"]
    parts += [] if record.experiment is None else [f"experiment `{record.experiment}`"]
    parts += [f"`{name}` = {format_value(value)}" for name, value in record.changed.items()]
    return ", ".join([*parts, f"data {record.data_source}"])


def _table(values: Mapping[str, float]) -> str:
    lines = ["| | held-out photos | test photos |", "|---|---:|---:|"]
    for title, metric in _ROWS.items():
        cells = [values.get(f"{part}/{metric}") for part in ("val", "test")]
        if any(cell is not None for cell in cells):
            lines.append(f"| {title} | {' | '.join('' if cell is None else f'{cell:.5f}' for cell in cells)} |")
    return "\n".join(lines)


def _training(state: RunState, values: Mapping[str, float]) -> list[str]:
    if not values.keys() >= _TRAINING:
        return []
    return [
        f"Weights of epoch {values['written/epoch']:.0f} of {values['epochs']:.0f}: training loss "
        f"{values['written/train_loss']:.4f}, validation loss {values['written/val_loss']:.4f}. "
        f"{values['parameters']:.0f} parameters; {values['seconds']:.0f} s on {state.record.device}, "
        f"{values['images_per_second']:.1f} images/s."
    ]


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:_DIGEST_LENGTH]
