"""Which values of a run MLflow shows as metrics, and how it keeps all of them.

MLflow's tables and charts are of use with few metrics, and show all digits; the comparison table needs many values,
and exact ones. So MLflow gets at most 25 metrics and one for each class, rounded to look at, and all values as JSON in
tags, from which they are read back exactly.
"""

import json
from collections.abc import Collection, Iterable, Mapping

DICE = "val/dice/"
"""How the metric of each class begins: its Dice in what is submitted of the held-out photos."""

MAX_CLASS_METRICS = 30
"""Metrics of more classes would hide all others."""

_METRICS = frozenset(
    {
        *(f"val/{name}" for name in ("score", "argmax_score", "gain_over_empty", "macro_dice", "miou")),
        *(f"val/{name}" for name in ("missed_classes", "false_positive_classes")),
        *(f"test/{name}" for name in ("score", "argmax_score")),
        *(f"written/{name}" for name in ("train_loss", "val_loss")),
        *(f"kaggle/{name}" for name in ("public_score", "private_score")),
        "epochs",
        "seconds",
        "images_per_second",
        "parameters",
        "peak_gpu_memory_mb",
    }
)
"""Those of a whole run; a training also has its curves."""
_TAG = "harveyseg.values"
_MAX_LENGTH = 5000
"""Characters of a tag's value that every supported MLflow keeps."""


_DECIMALS = 5
"""Of metrics, as in comparison.csv."""
_LARGE = 10
"""Metrics from here on, such as seconds, have one decimal."""


def shown_metrics(values: Mapping[str, float], hidden: Collection[str] = ()) -> dict[str, float]:
    """The values that are metrics, rounded to what a table shows.

    Args:
        values: of a run, by name.
        hidden: metrics of classes that are not shown.

    >>> shown_metrics({"val/score": 0.7123456, "val/dice/04_vehicle": 0.1, "seconds": 41.1647, "pooled/val/score": 0.7})
    {'val/score': 0.71235, 'val/dice/04_vehicle': 0.1, 'seconds': 41.2}
    """
    return {
        name: round(value, _DECIMALS if abs(value) < _LARGE else 1)
        for name, value in values.items()
        if (name in _METRICS or name.startswith(DICE)) and name not in hidden
    }


def pack_values(values: Mapping[str, float], present: Iterable[str] = ()) -> dict[str, str]:
    """The tags that hold these values.

    Args:
        values: by name.
        present: names of the tags that the run has. Those that are no longer needed are emptied: their values are old.

    >>> pack_values({"pooled/val/score": 0.1 + 0.2})
    {'harveyseg.values.0': '{"pooled/val/score":0.30000000000000004}'}
    >>> pack_values({"pooled/val/score": 0.5}, ["harveyseg.values.0", "harveyseg.values.1", "harveyseg.model"])
    {'harveyseg.values.1': '{}', 'harveyseg.values.0': '{"pooled/val/score":0.5}'}
    """
    tags: list[dict[str, float]] = [{}]
    length = 2
    for name, value in sorted(values.items()):
        length += len(json.dumps({name: value}))
        if length > _MAX_LENGTH:
            tags.append({})
            length = 2 + len(json.dumps({name: value}))
        tags[-1][name] = value
    packed = {f"{_TAG}.{number}": json.dumps(tag, separators=(",", ":")) for number, tag in enumerate(tags) if tag}
    return {name: "{}" for name in present if name.startswith(f"{_TAG}.") and name not in packed} | packed


def unpack_values(tags: Mapping[str, str]) -> dict[str, float]:
    """The values in a run's tags; a tag that was damaged holds none.

    >>> unpack_values({"harveyseg.values.0": '{"pooled/val/score":0.5}', "harveyseg.model": "unet"})
    {'pooled/val/score': 0.5}
    """
    values: dict[str, float] = {}
    for name, text in sorted(tags.items()):
        if name.startswith(f"{_TAG}."):
            try:
                values |= {key: float(value) for key, value in json.loads(text).items()}
            except (ValueError, TypeError, AttributeError):
                continue
    return values
