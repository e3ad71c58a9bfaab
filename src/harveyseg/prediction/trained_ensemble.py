"""The workspace's trained networks, as ``harveyseg predict`` uses them: the ensemble or one of its models."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harveyseg.config.settings import listed_models
from harveyseg.errors import HarveysegError
from harveyseg.files import read_json
from harveyseg.inference.network_file import TrainedNetwork, load_network
from harveyseg.postprocess.files import FittedRule, read_rule
from harveyseg.record import WEIGHTS_FILE, read_run


@dataclass(frozen=True)
class TrainedEnsemble:
    """Networks whose weighted mean predicts, and the rule that makes a class map from it."""

    networks: tuple[TrainedNetwork, ...]
    weights: tuple[float, ...]
    """One for each network, summing to 1."""
    rule: FittedRule | None = None
    """The post-processing of one photo; None for the argmax map."""


def load_trained_ensemble(params: Path, data: Path, model: str | None, argmax: bool = False) -> TrainedEnsemble:
    """The workspace's ensemble, or one of its models as the mean of its folds.

    Args:
        params: params.yaml; its ``folds`` say which networks a model consists of.
        data: the folder of the stages' outs.
        model: key in ``models``; None for the ensemble.
        argmax: ignore ``postprocess/rules/<model>.json``, which is used if it exists.

    Raises:
        HarveysegError: when the model is unknown or not trained yet, or the rule was fitted on other runs.
    """
    _, folds = listed_models(params)
    if model is None:
        path = data / "ensemble" / "weights.json"
        weights = read_json(path, "Run `dvc repro`, or name a trained model with --model.")["weights"]
    else:
        trained = sorted(path.parent.name for path in (data / "models").glob(f"*-{folds[0]}/{WEIGHTS_FILE}"))
        names = [name.rpartition("-")[0] for name in trained]
        if model not in names:
            raise HarveysegError(f"--model {model}: not trained here. Trained are: {', '.join(names) or 'none'}")
        weights = {model: 1.0}
    members = [
        (_run_folder(data, name, fold), weight / len(folds))
        for name, weight in weights.items()
        if weight > 0
        for fold in folds
    ]
    return TrainedEnsemble(
        networks=tuple(load_network(folder / WEIGHTS_FILE) for folder, _ in members),
        weights=tuple(weight for _, weight in members),
        rule=None if argmax else _read_rule(data, model, folds),
    )


def _run_folder(data: Path, model: str, fold: int) -> Path:
    """The folder of a fold model; only the names of runs from other experiments (``ensemble.runs``) have an @."""
    return (data / "ensemble" / "added" if "@" in model else data / "models") / f"{model}-{fold}"


def _read_rule(data: Path, model: str | None, folds: Sequence[int]) -> FittedRule | None:
    path = data / "postprocess" / "rules" / f"{model or 'ensemble'}.json"
    if not path.exists():
        return None
    runs = [data / "ensemble"] if model is None else [_run_folder(data, model, fold) for fold in folds]
    return read_rule(path, [read_run(run / "run.json") for run in runs])
