"""Which files of the workspace belong to a run, and what its copy in MLflow therefore has to hold."""

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from harveyseg.classes import slug
from harveyseg.config.settings import listed_models
from harveyseg.errors import HarveysegError, raise_problems
from harveyseg.files import read_json, read_table
from harveyseg.record import EVALUATION, INFERENCE, POOLED, WEIGHTS_FILE, RunRecord, Value, read_run
from harveyseg.tracking.values import DICE, MAX_CLASS_METRICS

MODEL_FOLDER = "model"
"""Where a training's weights are among its artifacts."""
SETTINGS = (INFERENCE, "postprocess.")
"""How the settings of an evaluation begin, in ``metrics.json`` and among a run's parameters in MLflow."""
SCORES = ("val/", "test/", POOLED)
"""How the metrics of an evaluation begin."""

MAX_NAME = 250
"""Characters of a metric's, parameter's or tag's name that MLflow takes."""
_METRIC_NAME = re.compile(r"[A-Za-z0-9_\-. :/]+")

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]


class Artifact(NamedTuple):
    """A file, and the folder among the run's artifacts that it belongs to."""

    path: Path
    folder: str

    @property
    def name(self) -> str:
        """The path among the artifacts."""
        return f"{self.folder}/{self.path.name}"


@dataclass(frozen=True)
class RunState:
    """The desired content of an MLflow run."""

    record: RunRecord
    status: Status = "FINISHED"
    history: Sequence[Mapping[str, float]] = ()
    """Rows as in ``history.csv``: ``epoch`` (from 1, the step), ``time_ms`` (the timestamp), ``train_loss``, ..."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Values of the whole run besides the record's results."""
    evaluation: str = ""
    """Which evaluation the metrics are of; empty before the first one."""
    settings: Mapping[str, Value] = field(default_factory=dict)
    """The evaluation's settings, e.g. ``inference.tta`` -> "flips"."""
    artifacts: Sequence[Artifact] = ()
    hidden: Collection[str] = ()
    """Metrics of classes that MLflow does not show, because there are too many."""


@dataclass(frozen=True)
class RunOutputs:
    """A finished run's files. A stage names only the folders that are up to date when it runs."""

    record: RunRecord
    folder: Path
    """Holds run.json, for a training also history.csv and weights.safetensors."""
    predictions: Path | None = None
    """Holds metrics.json, figures and tables of the evaluation; for the ensemble the same folder."""
    postprocess: Path | None = None
    """Holds ``metrics/<model>.json``, ``figures/<model>.png`` and ``rules/<model>.json``."""
    data_figures: Path | None = None
    """Holds figures and tables of the data that all training runs share; they are kept with the ensemble."""

    @property
    def metrics(self) -> Path:
        """The file of the evaluation's metrics."""
        return (self.predictions or self.folder) / "metrics.json"

    @property
    def evaluation(self) -> str:
        """The id of the evaluation and of its post-processing, if any; empty before the first evaluation.

        Raises:
            HarveysegError: see :meth:`scores`.
        """
        return _evaluation_of(self._entries())

    @property
    def parameters(self) -> dict[str, Value]:
        """The run's parameters and the settings of its evaluation.

        Raises:
            HarveysegError: see :meth:`scores`.
        """
        return self.record.parameters | _settings_of(self._entries())

    @property
    def known_parameters(self) -> dict[str, Value]:
        """:attr:`parameters`, or only the run's own where the files of its evaluation are damaged or not its own."""
        try:
            return self.parameters
        except HarveysegError:
            return self.record.parameters

    def scores(self) -> dict[str, float]:
        """The values of the evaluation and of its post-processing, where there are some, named as :data:`SCORES` says.

        Raises:
            HarveysegError: when a file is damaged, or belongs to another run or to another evaluation.
        """
        return self._scores_of(self._entries())

    def class_shares(self) -> dict[str, float]:
        """``data/pixel_share/<class>`` and ``data/photos/<class>`` of all training photos.

        Raises:
            HarveysegError: when the table of them is damaged.
        """
        if self.data_figures is None or not (path := self.data_figures / "class_shares.csv").exists():
            return {}
        remedy = f"`dvc checkout {path.parent} --force` restores it."
        columns = {"pixel_share": float, "photos": float}
        table = read_table(path, {"class_id": int, "name": str, **columns}, remedy)
        names = [slug(class_id, name) for class_id, name in zip(table["class_id"], table["name"], strict=True)]
        return {
            f"data/{column}/{name}": float(value)
            for column in columns
            for name, value in zip(names, table[column], strict=True)
        }

    def artifacts(self) -> list[Artifact]:
        """The weights, figures, tables and rules that exist."""
        weights = self.folder / WEIGHTS_FILE
        artifacts = [Artifact(weights, MODEL_FOLDER)] if weights.exists() else []
        if self.folder != self.predictions:
            artifacts += [Artifact(path, "training") for path in _documents(self.folder) if path.suffix == ".png"]
        if self.predictions is not None:
            artifacts += [Artifact(path, "evaluation") for path in _documents(self.predictions)]
        if self.postprocess is not None:
            model = self.record.model
            files = (self.postprocess / "figures" / f"{model}.png", self.postprocess / "rules" / f"{model}.json")
            artifacts += [Artifact(path, "postprocess") for path in files if path.exists()]
        if self.data_figures is not None:
            artifacts += [Artifact(path, "data") for path in _documents(self.data_figures)]
        return artifacts

    def files(self) -> list[Path]:
        """All that MLflow's copy of the run is made of; a file may be absent."""
        files = [self.folder / "run.json", self.folder / "history.csv", self.metrics]
        if self.postprocess is not None:
            files.append(self.postprocess / "metrics" / f"{self.record.model}.json")
        return files + [artifact.path for artifact in self.artifacts()]

    def state(self, further_metrics: Mapping[str, float] | None = None) -> RunState:
        """The run as the files describe it now.

        Args:
            further_metrics: values that no stage wrote, e.g. ``kaggle/public_score``.

        Raises:
            HarveysegError: when a file is damaged, or belongs to another run or to another evaluation.
        """
        history = self.folder / "history.csv"
        entries = self._entries()
        scores = self._scores_of(entries)
        return RunState(
            record=self.record,
            history=read_epochs(history) if history.exists() else (),
            metrics=_with_gain(scores) | self.class_shares() | dict(further_metrics or {}),
            evaluation=_evaluation_of(entries),
            settings=_settings_of(entries),
            artifacts=self.artifacts(),
            hidden=self._rare_classes([name for name in scores if name.startswith(DICE)]),
        )

    def _rare_classes(self, names: Sequence[str]) -> frozenset[str]:
        """Of metrics of classes, those of the classes that the fewest held-out photos show, if there are too many.

        Raises:
            HarveysegError: when the table of the classes is damaged.
        """
        if self.predictions is None or len(names) <= MAX_CLASS_METRICS:
            return frozenset()
        path = self.predictions / "per_class.csv"
        remedy = f"Run `dvc repro` to evaluate {self.record.model} again."
        table = read_table(path, {"part": str, "class": int, "name": str, "photos": int}, remedy)
        held_out = table[table["part"] == "val"]
        classes = zip(held_out["class"], held_out["name"], strict=True)
        photos = dict(zip([DICE + slug(*item) for item in classes], held_out["photos"], strict=True))
        return frozenset(sorted(names, key=lambda name: (-photos.get(name, 0), name))[MAX_CLASS_METRICS:])

    def _scores_of(self, entries: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        values = {
            name: value
            for entry in entries
            for name, value in entry.items()
            if name.startswith(SCORES) and value is not None
        }
        return check_metrics(values, f"the scores of {self.record.name} in {self.predictions}")

    def _entries(self) -> list[dict[str, Any]]:
        """The run's entry in metrics.json, then the one of its post-processing, as far as they exist."""
        if self.predictions is None or not self.metrics.exists():
            return []
        evaluation = _read_entry(self.metrics, self.record)
        path = Path() if self.postprocess is None else self.postprocess / "metrics" / f"{self.record.model}.json"
        if not path.is_file():
            return [evaluation]
        postprocessing = _read_entry(path, self.record)
        if not str(postprocessing.get(EVALUATION, "")).startswith(str(evaluation.get(EVALUATION, ""))):
            raise HarveysegError(
                f"{path}: post-processes another evaluation of {self.record.name} than {self.predictions} holds. "
                "Run `dvc repro`."
            )
        return [evaluation, postprocessing]


def gain_over_empty(scores: Mapping[str, float]) -> float | None:
    """How much higher the score of the held-out photos is than that of submitting nothing; None before there is one."""
    if {"val/score", "val/all_empty_score"} <= scores.keys():
        return scores["val/score"] - scores["val/all_empty_score"]
    return None


def list_workspace(params: Path, data: Path, *, finished: bool = False) -> list[RunOutputs]:
    """The runs that belong to ``params.yaml``: every listed model and fold, then the ensemble.

    A model that was removed from the list is not among them, although its folder stays until the stage `code` runs.

    Args:
        params: params.yaml, with the mapping ``models`` and the list ``folds``.
        data: the folder that stages write to.
        finished: leave out those that have no run.json.

    Raises:
        HarveysegError: listing every run.json that is absent, damaged or of another model.
    """
    outputs: list[RunOutputs] = []
    problems: list[str] = []
    for model, fold, folder in _listed_runs(params, data):
        if finished and not (folder / "run.json").exists():
            continue
        try:
            record = read_run(folder / "run.json")
        except HarveysegError as error:
            problems.append(str(error))
            continue
        if (record.model, record.fold) != (model, fold):
            problems.append(f"{folder / 'run.json'}: belongs to {record.name}")
        outputs.append(locate_outputs(record, data))
    raise_problems(
        problems,
        "the runs that params.yaml lists",
        "`dvc repro` makes what is missing, `dvc pull` fetches what others made.",
    )
    return outputs


def missing_runs(params: Path, data: Path) -> list[str]:
    """The folders of the runs that :func:`list_workspace` lists and that have no run.json."""
    return [str(folder) for _, _, folder in _listed_runs(params, data) if not (folder / "run.json").exists()]


def _listed_runs(params: Path, data: Path) -> Iterator[tuple[str, int | None, Path]]:
    """Model, fold and folder of each run that ``params.yaml`` lists."""
    models, folds = listed_models(params)
    for model in models:
        for fold in sorted(folds):
            yield model, fold, data / "models" / f"{model}-{fold}"
    yield "ensemble", None, data / "ensemble"


def locate_outputs(record: RunRecord, data: Path) -> RunOutputs:
    """Where the files of a run of the workspace are, below the folder that stages write to."""
    postprocess = data / "postprocess"
    if record.fold is None:
        return RunOutputs(record, data / "ensemble", data / "ensemble", postprocess, data / "figures")
    name = f"{record.model}-{record.fold}"
    return RunOutputs(record, data / "models" / name, data / "predictions" / name, postprocess)


def check_metrics(metrics: Mapping[str, float], where: str) -> dict[str, float]:
    """The metrics, if MLflow can store them as they are: it turns infinity into 1.8e308, and NaN compares as equal.

    Raises:
        HarveysegError: listing every value that is no finite number and every name that MLflow does not take.
    """
    problems = []
    for name, value in metrics.items():
        if not _METRIC_NAME.fullmatch(name) or len(name) > MAX_NAME:
            problems.append(f"{name!r}: not a metric name: letters, digits, `_-. :/`, at most {MAX_NAME} of them")
        if isinstance(value, bool) or not isinstance(value, int | float):
            problems.append(f"{name}: {value!r} is not a number")
        elif not math.isfinite(value):
            problems.append(f"{name} is {value}")
    raise_problems(problems, where, "Only finite numbers can be compared: find out where this one comes from.")
    return {name: float(value) for name, value in metrics.items()}


def read_epochs(path: Path) -> list[dict[str, float]]:
    """The rows of a ``history.csv``, bit for bit, each without what it leaves empty.

    Raises:
        HarveysegError: when the file is not a training history.
    """
    remedy = f"`dvc checkout {path} --force` restores it."
    required = {"epoch", "time_ms", "train_loss"}
    table = read_table(path, dict.fromkeys(required, str), remedy)  # as text: the training says which columns there are
    try:
        rows = [{str(name): float(cell) for name, cell in row.items() if cell} for row in table.to_dict("records")]
    except ValueError as error:
        raise HarveysegError(f"{path}: not a training history ({error}). {remedy}") from None
    if not all(required <= row.keys() for row in rows):
        raise HarveysegError(f"{path}: not a training history (a row lacks epoch, time_ms or train_loss). {remedy}")
    return rows


def _with_gain(scores: Mapping[str, float]) -> dict[str, float]:
    """The scores and, for MLflow's own tables and charts, what the score gains over submitting nothing."""
    gain = gain_over_empty(scores)
    return dict(scores) if gain is None else {**scores, "val/gain_over_empty": gain}


def _evaluation_of(entries: Sequence[Mapping[str, Any]]) -> str:
    return str(entries[-1].get(EVALUATION, "")) if entries else ""


def _settings_of(entries: Sequence[Mapping[str, Any]]) -> dict[str, Value]:
    return {name: value for entry in entries for name, value in entry.items() if name.startswith(SETTINGS)}


def _read_entry(path: Path, record: RunRecord) -> dict[str, Any]:
    """A run's entry in a file of metrics, which is about one run or lists ``runs``."""
    remedy = f"Run `dvc repro` to evaluate {record.model} again."
    content = read_json(path, remedy)
    entries = {run.get("uid"): run for run in content.get("runs", [content])}
    if record.uid not in entries:
        uids = ", ".join(map(str, entries))
        raise HarveysegError(f"{path}: evaluates another run (uid {uids}) than {record.name}. {remedy}")
    return dict(entries[record.uid])


def _documents(folder: Path) -> Iterator[Path]:
    """Figures and tables for people, in alphabetical order."""
    for path in sorted(folder.glob("*")):
        for_machines = path.name in ("run.json", "history.csv") or path.name.endswith("_ids.csv")
        hidden = path.name.startswith(".")  # left by a killed process
        if path.suffix in (".png", ".csv", ".json") and not for_machines and not hidden:
            yield path
