"""The workspace's trained networks, as ``harveyseg predict`` uses them: the ensemble or one of its models."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from harveyseg.classes import ClassList
from harveyseg.config.settings import listed_models, section
from harveyseg.data.cache import read_photos
from harveyseg.data.sources import SOURCE_GROUNDS, DataParams
from harveyseg.errors import HarveysegError, raise_problems
from harveyseg.files import digest, read_json, read_table, sha256
from harveyseg.geo.flight import photo_ground
from harveyseg.inference.network_file import TrainedNetwork, load_network
from harveyseg.inference.params import InferenceParams
from harveyseg.pipeline.recorded import require_recorded
from harveyseg.postprocess.files import FittedRule, read_rule
from harveyseg.prediction.scale import Training
from harveyseg.record import WEIGHTS_FILE, read_run

_SAMPLED_PHOTOS = 20
"""Training photos whose flight height is looked up."""

_ELSEWHERE = "If it was trained on another machine, run `dvc pull`. --model harvey25 predicts with the packaged model."


@dataclass(frozen=True)
class TrainedEnsemble:
    """Networks whose weighted mean predicts, and the rule that makes a class map from it."""

    networks: tuple[TrainedNetwork, ...]
    weights: tuple[float, ...]
    """One for each network, summing to 1."""
    rule: FittedRule | None = None
    """The post-processing of one photo; None for the argmax map."""
    name: str = "ensemble"
    """A model of params.yaml, or ``"ensemble"``."""
    identity: str = ""
    """SHA-256 of weights, their files and the rule."""
    training: Training = field(default_factory=Training)
    """The photos that the networks were trained on."""
    measured: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """By class, ``iou``, ``precision`` and ``recall`` of argmax maps of held-out photos; empty where unknown."""
    files: tuple[Path, ...] = ()
    """Where each network was read from."""
    inference: InferenceParams = field(default_factory=InferenceParams)
    """How it predicts."""

    @property
    def classes(self) -> ClassList:
        """What the class maps hold."""
        return self.networks[0].classes


def load_trained_ensemble(
    params: Path,
    data: Path,
    model: str | None,
    argmax: bool = False,
    ground: tuple[float, float] | None = None,
) -> TrainedEnsemble:
    """The workspace's ensemble, or one of its models as the mean of its folds.

    Args:
        params: params.yaml; its ``folds`` say which networks a model consists of.
        data: the folder of the stages' outs.
        model: key in ``models``; None for the ensemble.
        argmax: ignore ``postprocess/rules/<model>.json``, which is used if it exists.
        ground: (height, width) in metres of the ground that a training photo shows; None: :func:`training_ground`.

    Raises:
        HarveysegError: when the model is unknown or not trained yet, the rule was fitted on other runs, or a file that
            decides the maps is not what the pipeline wrote.
    """
    _, folds = listed_models(params)
    if model is None:
        path = data / "ensemble" / "weights.json"
        require_recorded([path], params.parent)
        weights = read_json(path, f"Run `dvc repro`, or name a trained model with --model. {_ELSEWHERE}")["weights"]
    else:
        if model not in (names := trained_models(params, data)):
            trained = ", ".join(names) or "none"
            raise HarveysegError(f"--model {model}: not trained here. Trained are: {trained}. {_ELSEWHERE}")
        weights = {model: 1.0}
    members = [
        (_run_folder(data, name, fold), weight / len(folds))
        for name, weight in weights.items()
        if weight > 0
        for fold in folds
    ]
    absent = [f"{folder / WEIGHTS_FILE}: no such file" for folder, _ in members if not (folder / WEIGHTS_FILE).exists()]
    raise_problems(absent, f"the networks of {model or 'the ensemble'}", f"Run `dvc repro`. {_ELSEWHERE}")
    require_recorded([folder / name for folder, _ in members for name in (WEIGHTS_FILE, "run.json")], params.parent)
    rule = None if argmax else _read_rule(params, data, model, folds)
    files = tuple(folder / WEIGHTS_FILE for folder, _ in members)
    remedy = "Run `dvc repro`, which trains them on one list of classes."
    networks = load_networks(files, "the networks of the ensemble", remedy)
    digests = {sha256(file): weight for file, (_, weight) in zip(files, members, strict=True)}
    evaluated = [data / "ensemble"] if model is None else [data / "predictions" / f"{model}-{fold}" for fold in folds]
    return TrainedEnsemble(
        networks=networks,
        weights=tuple(weight for _, weight in members),
        rule=rule,
        name=model or "ensemble",
        identity=identify_ensemble(digests, rule),
        training=Training(ground or training_ground(params, data), _photo_sizes(data)),
        measured=_measured(evaluated),
        files=files,
        inference=section(params, "inference", InferenceParams),
    )


def load_networks(files: Sequence[Path], heading: str, remedy: str) -> tuple[TrainedNetwork, ...]:
    """Load networks that predict together.

    Args:
        files: their weights.
        heading: what they are, for messages.
        remedy: what the user can do if they do not belong together.

    Raises:
        HarveysegError: when one cannot be loaded, or has other classes than the first.
    """
    networks = tuple(map(load_network, files))
    first = networks[0].classes
    others = [
        f"{file}: has other classes ({network.classes.name}) than {files[0]} ({first.name})"
        for file, network in zip(files, networks, strict=True)
        if network.classes.identity() != first.identity()
    ]
    raise_problems(others, heading, remedy)
    return networks


def identify_ensemble(weights: Mapping[str, float], rule: FittedRule | None) -> str:
    """The SHA-256 that identifies an ensemble, from each network's SHA-256 and weight and from the rule."""
    return digest({"files": dict(weights), "rule": None if rule is None else rule.model_dump(mode="json")})


def trained_models(params: Path, data: Path) -> list[str]:
    """Names of the models whose first fold was trained and is on this machine, sorted."""
    _, folds = listed_models(params)
    trained = sorted(path.parent.name for path in (data / "models").glob(f"*-{folds[0]}/{WEIGHTS_FILE}"))
    return [name.rpartition("-")[0] for name in trained]


def training_ground(params: Path, data: Path) -> tuple[float, float] | None:
    """(height, width) in metres of the ground that a training photo shows; None if nothing says so.

    In this order: the setting ``data.ground``; the flight heights that cameras wrote into the training photos; what is
    known of the source.
    """
    settings = section(params, "data", DataParams)
    if settings.ground is not None:
        return settings.ground
    photos = sorted((data / "raw" / "train_images").glob("*"))[:_SAMPLED_PHOTOS]
    measured = [ground for ground in map(photo_ground, photos) if ground is not None]
    if measured:
        height, width = np.median(measured, axis=0).tolist()
        return height, width
    return SOURCE_GROUNDS.get(settings.source)


def _photo_sizes(data: Path) -> frozenset[tuple[int, int]]:
    """(height, width) in pixels of the training photos before they were resized; empty where the cache is absent."""
    folder = data / "cache" / "train"
    if not folder.exists():
        return frozenset()
    photos = read_photos(folder)
    return frozenset(zip(photos["height"].tolist(), photos["width"].tolist(), strict=True))


def _measured(folders: Sequence[Path]) -> dict[str, dict[str, float]]:
    """The mean over evaluations of each class's measures on the held-out photos."""
    columns = {"part": str, "name": str, "iou": float, "precision": float, "recall": float}
    paths = [folder / "per_class.csv" for folder in folders]
    tables = [read_table(path, columns, "Run `dvc repro`.") for path in paths if path.exists()]
    if not tables:
        return {}
    rows = pd.concat(tables)
    means = rows[rows["part"] == "val"].groupby("name")[["iou", "precision", "recall"]].mean()
    return {
        str(name): {str(measure): float(value) for measure, value in row.items() if not math.isnan(value)}
        for name, row in means.to_dict("index").items()
    }


def _run_folder(data: Path, model: str, fold: int) -> Path:
    """The folder of a fold model; only the names of runs from other experiments (``ensemble.runs``) have an @."""
    return (data / "ensemble" / "added" if "@" in model else data / "models") / f"{model}-{fold}"


def _read_rule(params: Path, data: Path, model: str | None, folds: Sequence[int]) -> FittedRule | None:
    path = data / "postprocess" / "rules" / f"{model or 'ensemble'}.json"
    if not path.exists():
        return None
    runs = [data / "ensemble"] if model is None else [_run_folder(data, model, fold) for fold in folds]
    records = [run / "run.json" for run in runs]
    require_recorded([path, *records], params.parent)
    return read_rule(path, [read_run(record) for record in records])
