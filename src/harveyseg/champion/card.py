"""The model card: what a registered model is, what it scores, what it finds, its limits, and how to use it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from harveyseg.classes import ClassList
from harveyseg.prediction.trained_ensemble import TrainedEnsemble
from harveyseg.record import ALL_EMPTY, ENSEMBLE, RunRecord
from harveyseg.tracking.registry import CHAMPION
from harveyseg.tracking.table import MEAN, SPREAD, score_of

FOUND = 0.3
"""Dice from which a class counts as found."""
_SHOWN = 25
"""Classes that a list names."""
_SHOWN_NETWORKS = 10


@dataclass(frozen=True)
class CardFacts:
    """What the card is made of, read from the files of the stages."""

    ensemble: TrainedEnsemble
    records: Sequence[RunRecord]
    """Of the model's runs."""
    members: Mapping[str, float]
    """The models that are averaged, and their weights."""
    table: pd.DataFrame
    """comparison.csv."""
    metrics: Mapping[str, Any]
    """Of the post-processing, with ``val/dice/<class>``."""
    notes: Sequence[str]
    """What the table notes about its scores."""
    licence: str


def write_card(facts: CardFacts) -> str:
    """The card, Markdown."""
    name = facts.ensemble.name
    first = facts.records[0]
    parts = [
        f"# {name}",
        f"Maps the {facts.ensemble.classes.scored} scored classes of the list `{facts.ensemble.classes.name}` in drone "
        f"photographs. {_networks(facts)}",
        f"## Use\n\n{_USE}",
        f"## Score\n\n{_scores(facts)}",
        f"## Classes\n\n{_classes(facts)}",
        f"## Limits\n\n{_limits(facts)}",
        f"## Data and licence\n\nTraining photos: source `{first.data_source}` (data `{first.data_hash[:12]}`, split "
        f"`{first.split_hash[:12]}`). {facts.licence}\n\nThe code is under the MIT licence.",
        f"## Origin\n\n{_origin(facts.records)}",
    ]
    return "\n\n".join(parts) + "\n"


_USE = f"""\
`MLFLOW_TRACKING_URI` says where this registry is. The three ways give the same class map, post-processing included.

```sh
harveyseg predict photo.jpg --out maps --model {CHAMPION}
mlflow models serve -m {CHAMPION} --env-manager local
```

```python
model = mlflow.pyfunc.load_model("{CHAMPION}")
png = model.predict({{"photo": [Path("photo.jpg").read_bytes()]}})["class_map"][0]
```"""


def _networks(facts: CardFacts) -> str:
    networks = facts.ensemble.networks
    millions = sum(value.numel() for network in networks for value in network.network.parameters()) / 1e6
    height, width = networks[0].size
    shares = [f"{model} {weight:.2f}" for model, weight in facts.members.items()]
    if len(shares) > _SHOWN_NETWORKS:
        shares = [*shares[:_SHOWN_NETWORKS], f"and {len(shares) - _SHOWN_NETWORKS} more"]
    count = "One network" if len(networks) == 1 else f"The weighted mean of {len(networks)} networks"
    of_models = f" of the models {', '.join(shares)}" if len(facts.members) > 1 else ""
    inference = facts.ensemble.inference
    rule = "the most probable class of each pixel" if facts.ensemble.rule is None else facts.ensemble.rule.rule.name
    return (
        f"{count}{of_models}, {millions:.1f} million parameters, trained on photos of {height} x {width} pixels. "
        f"Test-time augmentation: {inference.tta}. Post-processing: {rule}."
    )


def _scores(facts: CardFacts) -> str:
    name = facts.ensemble.name
    rows = {
        "score": (name, "{part}_score"),
        "score of submitting nothing": (ALL_EMPTY, "{part}_score"),
        "argmax score, without post-processing": (name, "{part}_argmax_score"),
        "macro Dice, argmax": (name, "{part}_argmax_macro_dice"),
        "mIoU, argmax": (name, "{part}_miou"),
    }
    lines = ["| | held-out photos | test photos |", "|---|---:|---:|"]
    for title, (source, column) in rows.items():
        values = [score_of(facts.table, source, column.format(part=part)) for part in ("val", "test")]
        cells = ["" if value is None else f"{value:.3f}" for value in values]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines) + f"\n\n{_spread(facts)} {_NESTED}"


_NESTED = (
    "The score is the mean over every photo and scored class of Dice of what is submitted, 1 where both are empty. The "
    "post-processing of each held-out photo was fitted without it (nested)."
)


def _spread(facts: CardFacts) -> str:
    """How much the score varies between folds; the table knows it for models, not for the ensemble."""
    spreads = []
    for model in facts.members:
        mean, spread = (score_of(facts.table, model, fold=fold) for fold in (MEAN, SPREAD))
        if mean is not None and spread is not None:
            spreads.append(f"{model} {mean:.3f} ± {spread:.3f}")
    if not spreads:
        return "Spread: not known, since one fold was trained."
    folds = len({record.fold for record in facts.records}) if facts.ensemble.name != ENSEMBLE else None
    what = f"its {folds} folds" if folds else "the folds of its models"
    return f"Spread (mean ± standard deviation) over {what}: {', '.join(spreads)}."


def _classes(facts: CardFacts) -> str:
    classes: ClassList = facts.ensemble.classes
    names = dict(zip(classes.slugs, classes.names, strict=True))
    dice = {names[slug]: facts.metrics.get(f"val/dice/{slug}") for slug in classes.scored_slugs}
    seen = sorted(((float(value), name) for name, value in dice.items() if value is not None), reverse=True)
    lists = {
        f"found (Dice from {FOUND})": [f"{name} {value:.2f}" for value, name in seen if value >= FOUND],
        "hardly found": [f"{name} {value:.2f}" for value, name in seen if 0 < value < FOUND],
        "never found": [name for value, name in seen if value == 0],
        "in no held-out photo, so unknown": [name for name, value in dice.items() if value is None],
    }
    lines = [f"- {title}: {_listed(entries)}" for title, entries in lists.items()]
    return "Mean Dice over the held-out photos that show a class:\n\n" + "\n".join(lines)


def _listed(entries: Sequence[str]) -> str:
    more = len(entries) - _SHOWN
    return ", ".join([*entries[:_SHOWN], *([f"and {more} more"] if more > 0 else [])]) or "none"


def _limits(facts: CardFacts) -> str:
    training = facts.ensemble.training
    lines = []
    if facts.records[0].data_source == "demo":
        lines.append("It was trained on drawn photos: its scores say nothing about real ones.")
    lines.append(
        "The scores are of photos of the same data set. They also chose which model is the champion, so they are "
        "optimistic."
    )
    if facts.ensemble.name == ENSEMBLE and score_of(facts.table, ENSEMBLE, "val_nested_argmax_score") is None:
        lines.append("The weights of the models were chosen on the held-out photos that score them.")
    lines += [f"{note[:1].upper()}{note[1:]}." for note in facts.notes]
    if training.ground is not None:
        lines.append(
            f"A training photo shows about {training.ground[0]:g} x {training.ground[1]:g} m of ground. Other towns, "
            "heights, seasons and cameras will be worse."
        )
    else:
        lines.append("Other towns, heights, seasons and cameras than those of the training photos will be worse.")
    lines.append("The depth of water cannot be seen. Do not decide on anyone's safety or property by its maps alone.")
    return "\n".join(f"- {line}" for line in lines)


def _origin(records: Sequence[RunRecord]) -> str:
    first = records[0]
    commits = ", ".join(dict.fromkeys(f"`{(record.git_commit or 'none')[:12]}`" for record in records))
    dirty = ""
    if any(record.git_dirty is None for record in records):
        dirty = " as far as git could tell"
    if any(record.git_dirty for record in records):
        dirty = " with changes that are in no commit"
    runs = ", ".join(f"{record.name} `{record.run_id or record.uid}`" for record in records)
    versions = ", ".join(f"{name} {version}" for name, version in first.environment.items() if name in _SHOWN_VERSIONS)
    return f"Commit {commits}{dirty}. Runs: {runs}. Device {first.device}. Versions: {versions}."


_SHOWN_VERSIONS = ("harveyseg", "mlflow", "numpy", "segmentation-models-pytorch", "torch")
