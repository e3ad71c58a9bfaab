"""Checking ``params.yaml`` before any data is read, and one file of settings and code for each model.

DVC's matrix cannot look up a model's entry by its name. So the stage ``code`` writes all that a training depends on,
apart from data and folds, to ``data/code/train/<model>.json``, and the digests of these files to
``data/code/train.json``: each training depends on its model's digest, and on no other model's settings.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch

from harveyseg.arrays import SIDE_MULTIPLE
from harveyseg.classes import HARVEY25, ClassList
from harveyseg.config.settings import Section, load, merge, parse, section
from harveyseg.data.cache import ResizeParams
from harveyseg.data.class_lists import classes_file, load_classes
from harveyseg.data.split import SplitParams, files_of_split
from harveyseg.errors import HarveysegError, raise_problems
from harveyseg.files import read_json, sha256, write_json
from harveyseg.models import locate_encoder_weights
from harveyseg.models.initial_weights import load_initial_weights, locate_initial_weights
from harveyseg.models.network import build, encoder_weights_digest, takes_encoder_weights, validate
from harveyseg.models.packaged import packaged_models
from harveyseg.pipeline.code import changed_files, code_digests, stage_files
from harveyseg.project import input_path, project_root
from harveyseg.record import ALL_EMPTY, ENSEMBLE, MODEL_NAME
from harveyseg.training.own_loss import own_loss
from harveyseg.training.params import TrainParams, for_network, moved_keys

P = ParamSpec("P")
T = TypeVar("T")

_RESERVED = {ENSEMBLE, ALL_EMPTY, "mean", "submission", *packaged_models()}
"""Names of rows of tables, of files of submissions (a mean of models is called so in benchmarks), packaged models."""
_LOST_IN_RUN_CACHE = {"size", "nfiles"}
"""DVC leaves parameters of these names out of the key of its run cache, an open bug: it would restore a model
of that name as it was trained with other settings, and say nothing."""


@dataclass(frozen=True)
class ModelConfig:
    """The checked settings of one model."""

    model: str
    spec: dict[str, Any]
    """The network, as :func:`harveyseg.models.network.build` takes it."""
    train: TrainParams
    """Section ``train`` with the model's own overrides."""
    code: dict[str, str]
    """SHA-256 of each source file that decides the training, see :func:`harveyseg.pipeline.code.stage_files`."""
    files: dict[str, str]
    """SHA-256 of what the training starts from: the file of ``init``; of ``encoder_weights`` the file or, where a name
    such as ``imagenet`` stands for weights outside the project, the loaded tensors."""

    def require_unchanged(self, scripts: Path) -> None:
        """Make sure that the code and the files on disk are those that were digested.

        Args:
            scripts: the folder ``stages``.

        Raises:
            HarveysegError: naming each file that changed since the stage ``code`` ran.
        """
        code = code_digests(stage_files("train", scripts, [self.spec["network"]]))
        changed = changed_files(self.code, code)
        files = changed_files(self.files, _files_read(self.spec, self.train))
        changed += [f"train.{key} ({getattr(self.train, key)})" for key in files]
        if changed:
            raise HarveysegError(
                f"{', '.join(changed)}: changed since the stage `code` ran, so this training would be recorded as "
                "what it is not. Run `dvc repro -f code`, then `dvc repro` again."
            )


def check_params(
    params: Path, scripts: Path = Path("stages"), further: Mapping[str, type[Section]] | None = None
) -> list[ModelConfig]:
    """Check a params file's ``models``, ``train``, ``folds``, ``split`` and ``resize-cache``, all at once.

    Args:
        params: ``params.yaml``.
        scripts: the folder ``stages``.
        further: sections that only later stages read, which are checked as well.

    Raises:
        HarveysegError: with one line for each impossible setting, naming the allowed values.
    """
    values = load(params)
    for name in ("models", "train", "split", "resize-cache"):
        if not isinstance(values.get(name), dict) or not values[name]:
            raise HarveysegError(
                f"{params}: {name} must be a mapping that is not empty. `harveyseg preset demo` writes a complete file."
            )
    _refuse_moved_keys(values, params)
    problems: list[str] = []
    resize = _gather(problems, parse, ResizeParams, values["resize-cache"], "resize-cache")
    split = _gather(problems, parse, SplitParams, values["split"], "split")
    problems += _fold_problems(values.get("folds"), split)
    for key, file in (files_of_split(split) if split else {}).items():
        problems += _watch_problems(values, file, f"split.{key} = {getattr(split, key)}")
    for name, model in (further or {}).items():
        _gather(problems, section, params, name, model)
    classes = _gather(problems, _classes, values)
    train = _gather(problems, parse, TrainParams, values["train"], "train")
    if train is not None and resize is not None:
        problems += _sample_problems(train, resize.shape, "train")
    configs = []
    for name, entry in values["models"].items():
        model_problems: list[str] = []
        config = _gather(
            model_problems,
            _check_model,
            str(name),
            entry,
            values["train"],
            classes or HARVEY25,
            resize.shape if resize else None,
            scripts,
        )
        # A mistake in the defaults is in every model, but it is one mistake to the user.
        problems += [
            line for line in model_problems if line.replace(f"models.{name}.train.", "train.", 1) not in problems
        ]
        if config is not None:
            configs.append(config)
            for key in config.files:
                file = str(getattr(config.train, key))
                # Packaged models are part of the code, and names of published weights are no files of the project.
                if file not in packaged_models() if key == "init" else input_path(file, project_root()).is_file():
                    unwatched = _watch_problems(values, file, f"train.{key} = {file}")
                    problems += [problem for problem in unwatched if problem not in problems]
    raise_problems(problems, str(params), "Correct params.yaml, or the -S option that set it.")
    return configs


def _classes(values: Mapping[str, Any]) -> ClassList:
    """The list that ``data.classes`` names; its file must be one that DVC watches."""
    data = values.get("data")
    setting = data.get("classes", HARVEY25.name) if isinstance(data, dict) else HARVEY25.name
    if not isinstance(setting, str):  # said by the section's own check
        return HARVEY25
    if (file := classes_file(setting)) and (problems := _watch_problems(values, file, f"data.classes = {setting}")):
        raise HarveysegError("\n".join(problems), problems)
    return load_classes(setting, project_root())


def _refuse_moved_keys(values: Mapping[str, Any], params: Path) -> None:
    """Show each key of a flat section ``train``, as it was before it had groups, next to its present name."""
    sections = {"train": values["train"]}
    for name, entry in values["models"].items():
        if isinstance(entry, dict) and isinstance(entry.get("train"), dict):
            sections[f"models.{name}.train"] = entry["train"]
    moved = [
        f"{section}.{old}  ->  {section}.{new}" for section, train in sections.items() for old, new in moved_keys(train)
    ]
    raise_problems(
        moved,
        str(params),
        "The section `train` has groups now: rename these keys, or write a new file with `harveyseg preset NAME`.",
    )


def _gather(problems: list[str], check: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
    """The result of a check; None if it fails, its problems appended."""
    try:
        return check(*args, **kwargs)
    except HarveysegError as error:
        problems += error.problems
        return None


def _watch_problems(values: Mapping[str, Any], file: str, where: str) -> list[str]:
    """A file that decides a result, but is absent, or that DVC does not watch: it would not notice other content."""
    data = values.get("data")
    inputs = data.get("inputs") if isinstance(data, dict) else None
    root = project_root()
    path = input_path(file, root).resolve()
    if not path.exists():
        return [f"{where}: no such file. Correct the path, which starts at the project's folder"]
    if inputs and path.is_relative_to(input_path(str(inputs), root).resolve()):
        return []
    return [
        f"{where}: DVC does not watch this file, so a change of it would go unnoticed. Set data.inputs to {file}, or "
        "to a folder that holds all such files"
    ]


def _fold_problems(folds: object, split: SplitParams | None) -> list[str]:
    if not isinstance(folds, list) or not folds or not all(type(fold) is int for fold in folds):
        return [f"folds = {folds!r}: must be a list of fold numbers, e.g. `- 0`"]
    problems = [f"folds: {fold} is listed twice" for fold in sorted({f for f in folds if folds.count(f) > 1})]
    if split is not None:
        outside = [fold for fold in folds if not 0 <= fold < split.folds]
        problems += [
            f"folds: {fold} is not in 0..{split.folds - 1} (split.folds = {split.folds})"
            for fold in dict.fromkeys(outside)
        ]
        if split.held_out is not None and 1 in folds:
            problems.append("folds: with split.held_out only fold 0 is held out; set `folds` to [0]")
    return problems


def _sample_problems(train: TrainParams, size: tuple[int, int], where: str) -> list[str]:
    """Samples that photos of this size (height, width) cannot give."""
    augmentation = train.augmentation
    shape = f"{size[0]}x{size[1]}"
    key = f"{where}.augmentation"
    problems = []
    if augmentation.crop is not None and augmentation.crop > min(size):
        problems.append(
            f"{key}.crop = {augmentation.crop}: larger than the photos, {shape} pixels (resize-cache.size); take at "
            f"most {min(size) // SIDE_MULTIPLE * SIDE_MULTIPLE}, or null"
        )
    if augmentation.d4 and augmentation.crop is None and size[0] != size[1]:
        problems.append(
            f"{key}.d4 = {augmentation.d4}: samples of {shape} pixels (resize-cache.size) cannot be turned by 90 "
            "degrees; set `crop`, which is square, or d4 to 0"
        )
    return problems


def _check_model(
    name: str, entry: object, train: Mapping[str, Any], classes: ClassList, size: tuple[int, int] | None, scripts: Path
) -> ModelConfig:
    where = f"models.{name}"
    if not MODEL_NAME.fullmatch(name) or name in _RESERVED:
        raise HarveysegError(
            f"{where}: not a usable name: letters, digits and underscores, a letter first, and none of "
            f"{', '.join(sorted(_RESERVED))}"
        )
    if name in _LOST_IN_RUN_CACHE:
        raise HarveysegError(
            f"{where}: DVC's run cache ignores parameters of this name, so it would restore trainings with other "
            "settings. Give the model another name"
        )
    if not isinstance(entry, dict) or not isinstance(entry.get("train", {}), dict):
        raise HarveysegError(f"{where}: must be a mapping like `network: unet`, and so must its `train`")
    spec = {key: value for key, value in entry.items() if key != "train"}
    overrides = entry.get("train", {})
    problems: list[str] = []
    merged = _gather(problems, parse, TrainParams, merge(train, overrides), f"{where}.train")
    pretrainable = _gather(problems, takes_encoder_weights, spec, where)
    if merged is None or pretrainable is None:
        raise HarveysegError("\n".join(problems), problems)
    merged = for_network(merged, overrides, pretrainable)
    weights = locate_encoder_weights(merged.encoder_weights)
    if size is not None and (problems := _sample_problems(merged, size, f"{where}.train")):
        raise HarveysegError("\n".join(problems), problems)
    samples = merged.batch_size // merged.accumulate
    validate(spec, len(classes), weights, where, size, merged.augmentation.crop, samples)
    _check_trainable(spec, classes, merged, where)
    code = code_digests(stage_files("train", scripts, [spec["network"]]))
    return ModelConfig(name, spec, merged, code, _files_read(spec, merged))


def _check_trainable(spec: Mapping[str, Any], classes: ClassList, train: TrainParams, where: str) -> None:
    """A network's own loss, and the weights that it starts from."""
    with torch.random.fork_rng(devices=[]):
        network = build(spec, len(classes), encoder_weights=None)
    try:
        own_loss(network, classes, train)
        if train.init is not None:
            load_initial_weights(network, spec, classes, train.init)
    except HarveysegError as error:
        raise HarveysegError(f"{where}: {error}") from error


def _files_read(spec: Mapping[str, Any], train: TrainParams) -> dict[str, str]:
    """Digests of what a training starts from: other content under the same name is another training."""
    files = {}
    weights = locate_encoder_weights(train.encoder_weights)
    if weights is not None:
        is_file = Path(weights).is_file()
        files["encoder_weights"] = sha256(Path(weights)) if is_file else encoder_weights_digest(spec, weights)
    if train.init is not None:
        files["init"] = sha256(locate_initial_weights(train.init))
    return files


def write_config_digests(folder: Path, models: Iterable[str]) -> None:
    """Write the SHA-256 of ``folder/train/<model>.json`` of each model to ``folder/train.json``.

    A digest is a key without a value, as in ``{"unet": {"5a0f...": {}}}``: the training has it as a parameter of DVC,
    and ``dvc exp show`` has a column for every value of a parameter, as for every dependency.
    """
    write_json(folder / "train.json", {model: {sha256(folder / "train" / f"{model}.json"): {}} for model in models})


def write_config(folder: Path, config: ModelConfig) -> None:
    """Write ``<model>.json``, atomically."""
    content = {
        "model": config.model,
        "spec": config.spec,
        "train": config.train.model_dump(),
        "code": config.code,
        "files": config.files,
    }
    write_json(folder / f"{config.model}.json", content)


def read_config(path: Path) -> ModelConfig:
    """Read ``<model>.json``.

    Raises:
        HarveysegError: when it is absent, damaged, or from another version.
    """
    remedy = "Run `dvc repro code` to write it again."
    content = read_json(path, remedy)
    try:
        model, spec, train, code, files = (content[key] for key in ("model", "spec", "train", "code", "files"))
    except KeyError as error:
        raise HarveysegError(f"{path}: lacks {error}. {remedy}") from None
    try:
        return ModelConfig(model, spec, parse(TrainParams, train, "train"), code, files)
    except HarveysegError as error:
        raise HarveysegError(f"{path}: {'; '.join(error.problems)}. {remedy}") from None
