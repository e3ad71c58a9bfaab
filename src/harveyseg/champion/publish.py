"""Choose the champion, refuse what nobody could make again, and register it with its card."""

import tempfile
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pandas as pd

from harveyseg.champion.card import CardFacts, write_card
from harveyseg.config.preset import matches_preset
from harveyseg.config.settings import listed_models, section
from harveyseg.data.sources import DataParams
from harveyseg.ensemble.weights import read_weights
from harveyseg.errors import HarveysegError, raise_problems
from harveyseg.files import read_json
from harveyseg.pipeline.contradictions import find_contradictions
from harveyseg.pipeline.recorded import require_recorded
from harveyseg.prediction.model_folder import write_model_folder
from harveyseg.prediction.trained_ensemble import load_trained_ensemble
from harveyseg.project import LIBRARIES, git_output, git_state
from harveyseg.record import ENSEMBLE, RunRecord
from harveyseg.tracking.client import TrackingParams, open_tracker
from harveyseg.tracking.faults import public_address
from harveyseg.tracking.outputs import RunOutputs, list_workspace
from harveyseg.tracking.query import find_runs
from harveyseg.tracking.registry import CHAMPION, FOLDER, ModelContent, register_champion
from harveyseg.tracking.table import ALL_FOLDS, find_winner, read_comparison, score_of, verify_table

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

_CODE = Path(__file__).with_name("logged_model.py")
"""Not imported: it imports MLflow, which must be configured first, and takes 3 s."""
_DEMO = "demo"


def publish(
    params: Path,
    data: Path,
    model: str | None,
    licence: str | None,
    allow_dirty: bool,
    allow_demo: bool,
) -> list[str]:
    """Register the model with the best score, or the named one, as :data:`CHAMPION`.

    Args:
        params: params.yaml.
        data: the folder that stages write to.
        model: a model of params.yaml or ``"ensemble"``; the one with the highest score of the table if None.
        licence: of the training photos, with attribution; what is known of the source if None.
        allow_dirty: also where code or settings are in no commit.
        allow_demo: also a model of drawn photos or of the preset demo.

    Returns:
        What was done, for the user.

    Raises:
        HarveysegError: when something is not trained, not of params.yaml, in no commit or of the demo; or MLflow cannot
            be used.
    """
    outputs = list_workspace(params, data)
    table = _read_checked_table(params, data, outputs)
    sources = (*listed_models(params)[0], ENSEMBLE)
    name = model or find_winner(table, sources)
    if name not in sources:
        raise HarveysegError(f"--model {model}: not in the table. It holds: {', '.join(sources)}.")
    own = [output for output in outputs if output.record.model == name]
    involved = outputs if name == ENSEMBLE else own
    refuse_unfit(params, [output.record for output in involved], allow_dirty, allow_demo)
    tracker = open_tracker(section(params, "tracking", TrackingParams), required=True)
    ensemble = load_trained_ensemble(params, data, None if name == ENSEMBLE else name)
    notice = licence or _known_licence(section(params, "data", DataParams))
    facts = CardFacts(
        ensemble=ensemble,
        records=[output.record for output in own],
        members=_members(data, name),
        table=table,
        metrics=read_json(data / "postprocess" / "metrics" / f"{name}.json", "Run `dvc repro`."),
        notes=_notes(table, name),
        licence=notice,
    )
    runs = find_runs(tracker, own)
    # The registry shows one run for a version: the mean of several folds is of none of them.
    run_id = runs[0].run_id if len(runs) == 1 and runs[0] is not None else None
    card = write_card(facts)
    score = score_of(table, name)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / FOLDER
        write_model_folder(folder, ensemble, notice, card)
        content = ModelContent(
            folder=folder,
            code=_CODE,
            identity=ensemble.identity,
            card=card,
            requirements=_requirements(),
            signature=_signature(),
            example=_example(min(ensemble.training.sizes, default=(64, 96))),
            tags=_tags(name, score, facts.records),
        )
        registered = register_champion(tracker, content, run_id)
    scored = "" if score is None else f", score {score:.5f}"
    if not registered.is_new:
        first = f"{CHAMPION} is this model already: {name}{scored}, version {registered.version}. Its card was renewed."
    else:
        before = "" if registered.replaced is None else f"; version {registered.replaced} was the champion before"
        first = f"{CHAMPION}: {name}{scored}, version {registered.version} at {public_address(tracker.uri)}{before}"
    return [first, "Use it in any folder where MLFLOW_TRACKING_URI leads there:", f"  {_USE}"]


_USE = f"harveyseg predict PHOTO --out maps --model {CHAMPION}"


def _read_checked_table(params: Path, data: Path, outputs: Sequence[RunOutputs]) -> pd.DataFrame:
    """The comparison table, if it is of the files that are there, and these are of params.yaml.

    Raises:
        HarveysegError: otherwise.
    """
    path = data / "reports" / "comparison.csv"
    require_recorded([path, *(file for run in outputs for file in run.files())], params.parent)
    table = read_comparison(path)
    remedy = "Run `dvc repro`; `harveyseg check` shows whether they agree then."
    raise_problems(verify_table(path, outputs), "the table and the stages' files differ", remedy)
    runs = [(output.record, output.known_parameters) for output in outputs]
    names = {output.record.uid: output.record.name for output in outputs}
    found = find_contradictions(params, runs, data / "splits" / "folds.csv")
    stale = [f"{names[uid]}: {text}" for uid, text in found.items()]
    raise_problems(stale, "results that are not of the settings in params.yaml", "Run `dvc repro`.")
    return table


def refuse_unfit(params: Path, records: Sequence[RunRecord], allow_dirty: bool, allow_demo: bool) -> None:
    """Refuse a model that no commit describes, of drawn photos, or of a preset that trains for minutes.

    Args:
        params: params.yaml.
        records: of the model's trainings.
        allow_dirty: take what is in no commit, or of which git could not tell.
        allow_demo: take what is of the demo.

    Raises:
        HarveysegError: listing everything that speaks against the model.
    """
    uncommitted, demo = [], []
    remedies = []
    if not allow_dirty:
        uncommitted = [*_uncommitted(params.absolute().parent)]
        codes = [(record.name, record.git_dirty) for record in records if record.git_dirty is not False]
        uncommitted += [f"{name}: {_CODE_OF[dirty]}" for name, dirty in codes]
    if uncommitted:
        remedies.append(
            "Commit first (`git add -A && git commit`), and let `dvc repro -f` train again what was trained before; or "
            "say --allow-dirty."
        )
    if not allow_demo:
        demo = [*_of_demo(params, records)]
    if demo:
        remedies.append("Train on real photos with another preset, or say --allow-demo.")
    raise_problems([*uncommitted, *demo], "the model is not fit to be the champion", " ".join(remedies))


_CODE_OF = {
    True: "was trained from code that is in no commit",
    None: "git could not tell whether the code that trained it is in a commit",
}


def _uncommitted(root: Path) -> Iterator[str]:
    state = git_state(root)
    if state.commit is None:
        yield f"{root}: no commit of git"
        return
    if state.dirty is None:
        yield f"{root}: git could not tell whether its code is in a commit"
    listed = git_output(root, "status", "--porcelain", "--untracked-files=no", "--", ".") or ""
    yield from (f"{line[3:]}: has changes that are in no commit" for line in listed.splitlines())
    if state.dirty and not listed:
        yield "src, stages: hold code that is in no commit"
    if (root / "dvc.lock").exists() and not git_output(root, "ls-files", "dvc.lock"):
        yield "dvc.lock: is in no commit, so no clone can fetch these results"


def _of_demo(params: Path, records: Sequence[RunRecord]) -> Iterator[str]:
    if any(record.data_source == _DEMO for record in records):
        yield "data.source is demo: the model was trained on drawn photos, and says nothing about real ones"
    elif matches_preset(_DEMO, params):
        yield "params.yaml is the preset demo, whose networks are barely trained"


def _known_licence(params: DataParams) -> str:
    """What is known of the rights in a source's photos."""
    if params.source == "demo":
        return "The training photos are drawn by this package (MIT licence)."
    if params.source == "kaggle":
        return f"The rules of the Kaggle competition `{params.kaggle.competition}` say how its photos may be used."
    if params.source == "figshare" and not params.url:
        articles = ", ".join(f"https://figshare.com/articles/dataset/_/{number}" for number in params.figshare.articles)
        return f"The licence of the photos, and whom to credit, stand at {articles}."
    where = f"`{params.url}`" if params.source == "figshare" else "a folder"
    return f"The photos are from {where}; their licence was not stated (`harveyseg champion --licence`)."


def _members(data: Path, name: str) -> dict[str, float]:
    if name != ENSEMBLE:
        return {name: 1.0}
    weights = read_weights(data / "ensemble" / "weights.json").chosen
    return {model: weight for model, weight in weights.items() if weight > 0}


def _notes(table: pd.DataFrame, name: str) -> list[str]:
    fold = "" if name == ENSEMBLE else ALL_FOLDS
    notes = table.loc[(table["model"] == name) & (table["fold"] == fold), "note"]
    return [note for note in notes.iloc[0].split("; ") if note]


def _tags(name: str, score: float | None, records: Sequence[RunRecord]) -> dict[str, str]:
    first = records[0]
    tags = {
        "model": name,
        "score": "" if score is None else f"{score:.5f}",
        "uids": ",".join(record.uid for record in records),
        "git_commit": first.git_commit or "",
        "data_source": first.data_source,
        "data_hash": first.data_hash,
    }
    return {f"harveyseg.{key}": value for key, value in tags.items() if value}


def _requirements() -> tuple[str, ...]:
    """What decides a map, with the versions that are installed; a build such as +cpu is in no index of packages."""
    return tuple(f"{name}=={version(name).partition('+')[0]}" for name in LIBRARIES if name not in _TRAINING_ONLY)


_TRAINING_ONLY = ("albumentations", "dvc")
"""Of the libraries that can change a result, those that a prediction does not use."""


def _signature() -> "ModelSignature":
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    inputs = Schema([ColSpec(DataType.binary, "photo"), ColSpec(DataType.double, "gsd", required=False)])
    return ModelSignature(inputs, Schema([ColSpec(DataType.binary, "class_map")]))


def _example(size: tuple[int, int]) -> pd.DataFrame:
    """A photo of nothing, of a training photo's size, as a PNG; without black or white, which could be a frame.

    In a data frame, since only there MLflow decodes the base64 of requests.
    """
    gradient = np.linspace(40, 215, size[1], dtype=np.uint8)
    photo = np.broadcast_to(gradient[None, :, None], (*size, 3))
    return pd.DataFrame({"photo": [cv2.imencode(".png", np.ascontiguousarray(photo))[1].tobytes()]})
