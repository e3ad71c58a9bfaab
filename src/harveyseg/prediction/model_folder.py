"""A trained ensemble as a folder of its own, to be used without the workspace that it was trained in.

The folder holds ``model.json``, one ``network-<n>.safetensors`` for each network, and a model card, ``README.md``.
Nothing in it is executed when it is read.
"""

import shutil
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from harveyseg.errors import HarveysegError, raise_problems
from harveyseg.files import read_json, replacing, sha256, write_json, write_text
from harveyseg.inference.network_file import TrainedNetwork, save_network
from harveyseg.inference.params import InferenceParams
from harveyseg.postprocess.files import FittedRule
from harveyseg.prediction.scale import Training
from harveyseg.prediction.trained_ensemble import TrainedEnsemble, identify_ensemble, load_networks

MODEL_FILE = "model.json"
CARD_FILE = "README.md"


class NetworkEntry(BaseModel):
    """One network of a model folder."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str
    """Its name in the folder."""
    sha256: str
    weight: float = Field(gt=0, le=1)
    """Its share of the mean of the probabilities."""

    @field_validator("file")
    @classmethod
    def _in_the_folder(cls, value: str) -> str:
        if Path(value).name != value or value in ("", ".", ".."):
            raise ValueError(f"{value!r} must be the name of a file in the folder")
        return value


class ModelDescription(BaseModel):
    """The content of ``model.json``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["harveyseg model"] = "harveyseg model"
    """Other programs write JSON files as well."""
    version: Literal[1] = 1
    name: str
    networks: tuple[NetworkEntry, ...] = Field(min_length=1)
    rule: FittedRule | None
    """The post-processing of one photo; None for the argmax map."""
    inference: InferenceParams
    """How the probabilities that the rule was fitted on were computed; what concerns the machine is not used."""
    ground: tuple[float, float] | None
    """(height, width) in metres of the ground that a training photo shows."""
    photo_sizes: tuple[tuple[int, int], ...]
    """(height, width) in pixels of the training photos before they were resized."""
    measured: dict[str, dict[str, float]]
    """By class, ``iou``, ``precision`` and ``recall`` of argmax maps of held-out photos."""
    notice: str
    """The licence and the attribution of the data, which whoever passes the model or its maps on should know."""


def write_model_folder(folder: Path, ensemble: TrainedEnsemble, notice: str, card: str, half: bool = False) -> None:
    """Write a model folder, atomically; an earlier one is replaced.

    Args:
        folder: the folder, e.g. ``exported``.
        ensemble: from :func:`harveyseg.prediction.trained_ensemble.load_trained_ensemble`.
        notice: the licence and the attribution of the training data.
        card: the model card, Markdown.
        half: whether convolution weights are stored as float16, in half the space. Without it the files of the networks
            are copied byte for byte.
    """
    with replacing(folder) as temporary:
        entries = []
        for number, (file, network, weight) in enumerate(
            zip(ensemble.files, ensemble.networks, ensemble.weights, strict=True)
        ):
            path = temporary / f"network-{number}.safetensors"
            if half:
                _save_in_half(path, network)
            else:
                shutil.copyfile(file, path)
            entries.append(NetworkEntry(file=path.name, sha256=sha256(path), weight=weight))
        description = ModelDescription(
            name=ensemble.name,
            networks=tuple(entries),
            rule=ensemble.rule,
            inference=ensemble.inference,
            ground=ensemble.training.ground,
            photo_sizes=tuple(sorted(ensemble.training.sizes)),
            measured={name: dict(values) for name, values in ensemble.measured.items()},
            notice=notice,
        )
        write_json(temporary / MODEL_FILE, description.model_dump(mode="json"))
        write_text(temporary / CARD_FILE, card)


def read_model_folder(folder: Path, argmax: bool = False, ground: tuple[float, float] | None = None) -> TrainedEnsemble:
    """Read what :func:`write_model_folder` wrote.

    Args:
        folder: the folder.
        argmax: leave the rule out.
        ground: instead of the ground that the folder names.

    Raises:
        HarveysegError: when a file is absent, damaged, of another version, or not the one that ``model.json`` names.
    """
    description = read_description(folder)
    remedy = "Copy the model's folder again, all of its files."
    problems = []
    for entry in description.networks:
        path = folder / entry.file
        if not path.is_file():
            problems.append(f"{path}: no such file")
        elif sha256(path) != entry.sha256:
            problems.append(f"{path}: is damaged or of another model (another SHA-256 than {MODEL_FILE} says)")
    raise_problems(problems, str(folder), remedy)
    files = tuple(folder / entry.file for entry in description.networks)
    networks = load_networks(files, str(folder), remedy)
    classes = networks[0].classes
    rule = description.rule
    if rule is not None and (rule.unscored, rule.scored_classes) != (classes.unscored, classes.scored_slugs):
        raise HarveysegError(f"{folder / MODEL_FILE}: its rule is for other classes than {files[0].name}. {remedy}")
    if argmax:
        rule = None
    weights = {entry.sha256: entry.weight for entry in description.networks}
    return TrainedEnsemble(
        networks=networks,
        weights=tuple(entry.weight for entry in description.networks),
        rule=rule,
        name=description.name,
        identity=identify_ensemble(weights, rule),
        training=Training(ground or description.ground, frozenset(description.photo_sizes)),
        measured=description.measured,
        files=files,
        inference=description.inference,
    )


def read_description(folder: Path) -> ModelDescription:
    """Read ``model.json``.

    Raises:
        HarveysegError: when it is absent, damaged or of another version.
    """
    path = folder / MODEL_FILE
    remedy = "Copy the model's folder again, or use the version of harveyseg that wrote it."
    try:
        return ModelDescription.model_validate(read_json(path, remedy))
    except ValidationError as error:
        keys = ", ".join(".".join(map(str, item["loc"])) or item["msg"] for item in error.errors())
        raise HarveysegError(f"{path}: not a model of this version (wrong or missing: {keys}). {remedy}") from None


def _save_in_half(path: Path, network: TrainedNetwork) -> None:
    """Store what has more than one dimension as float16; scales, biases and statistics would lose too much."""
    state = {
        name: value.half() if value.dim() > 1 and value.dtype == torch.float32 else value
        for name, value in network.network.state_dict().items()
    }
    save_network(path, state, network.spec, network.mean, network.std, network.size, network.classes)
