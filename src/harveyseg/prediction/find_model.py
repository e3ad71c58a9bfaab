"""Which trained model ``harveyseg predict`` uses: of the workspace, in a folder, a packaged or a registered one."""

import logging
import math
import tempfile
from dataclasses import replace
from pathlib import Path

from harveyseg.config.lock import recorded_stages
from harveyseg.config.settings import listed_models, load, section
from harveyseg.errors import HarveysegError
from harveyseg.inference.params import InferenceParams
from harveyseg.models.packaged import packaged_models
from harveyseg.prediction.model_folder import MODEL_FILE, read_description, read_model_folder
from harveyseg.prediction.scale import warn_of_odd_ground
from harveyseg.prediction.trained_ensemble import TrainedEnsemble, load_trained_ensemble, trained_models
from harveyseg.tracking.registry import CHAMPION, SCHEME, fetch_model_folder

DEFAULT = "harvey25"
"""The packaged model that predicts where nothing was ever trained."""

logger = logging.getLogger(__name__)


def find_model(
    params: Path,
    data: Path,
    model: str | None = None,
    argmax: bool = False,
    ground: tuple[float, float] | None = None,
) -> TrainedEnsemble:
    """Load the model that a user means.

    Args:
        params: params.yaml, which may be absent.
        data: the folder of the stages' outs, which may be absent.
        model: a model of the workspace; or a model folder; or a packaged model; or a registered model,
            ``models:/<name>@<alias>``; or None for the workspace's ensemble, and :data:`DEFAULT` where nothing was ever
            trained.
        argmax: leave the rule of post-processing out.
        ground: (height, width) in metres of the ground that a training photo shows, instead of what the model says.

    Raises:
        HarveysegError: when there is no such model, a file of it is absent or damaged, or the call comes from a
            sub-folder of a project and names no model.
    """
    if ground is not None and not all(0 < side < math.inf for side in ground):
        raise HarveysegError(f"ground = {ground}: height and width must be metres above 0.")
    found = _find(params, data, model, argmax, ground)
    warn_of_odd_ground(found.training)
    return found


def _find(
    params: Path, data: Path, model: str | None, argmax: bool, ground: tuple[float, float] | None
) -> TrainedEnsemble:
    if model is not None and model.startswith(SCHEME):
        return _read_registered(model, params.absolute().parent, argmax, ground)
    # A packaged model needs no project: its name is none that a model of a project may have.
    own = [] if model in packaged_models() else _own_models(params, data)
    if own and (model is None or model in own):
        return load_trained_ensemble(params, data, model, argmax, ground)
    folder = _find_folder(model or DEFAULT)
    if folder is None:
        known = [*own, *packaged_models()]
        raise HarveysegError(
            f"--model {model}: no model that was trained here, no packaged one, no folder with a {MODEL_FILE}, and no "
            f"address like {CHAMPION}. Known are: {', '.join(known)}."
        )
    if model is None:
        _refuse_sub_folder(params)
        logger.info("nothing was trained here, so the packaged model %s predicts", DEFAULT)
    logger.info("%s: %s", folder.name, read_description(folder).notice)
    found = read_model_folder(folder, argmax, ground)
    # Another program's params.yaml has no such section.
    ours = params.exists() and "inference" in load(params)
    machine = section(params, "inference", InferenceParams) if ours else InferenceParams()
    return replace(found, inference=found.inference.on_machine(machine))


def _read_registered(address: str, root: Path, argmax: bool, ground: tuple[float, float] | None) -> TrainedEnsemble:
    """The model that MLflow's registry knows by this address; none of the code that is logged with it is run.

    It predicts the same everywhere, so no params.yaml changes how.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = fetch_model_folder(address, root, Path(temporary))
        logger.info("%s: %s", address, read_description(folder).notice)
        found = read_model_folder(folder, argmax, ground)
    return replace(found, inference=found.inference.on_machine(InferenceParams()), files=())


def _own_models(params: Path, data: Path) -> list[str]:
    """The models of the pipeline; empty where none was ever trained, here or, as ``dvc.lock`` says, elsewhere."""
    if not params.exists():
        return []
    recorded = recorded_stages(params.parent / "dvc.lock")
    trained_here = any(path.is_dir() for path in (data / "models").glob("*"))
    if not trained_here and not any(name.startswith("train@") for name in recorded):
        return []
    listed, _ = listed_models(params)
    return list(dict.fromkeys([*listed, *trained_models(params, data)]))


def _refuse_sub_folder(params: Path) -> None:
    """The packaged model must not stand in for a project's own networks, called from one of its folders."""
    here = params.absolute().parent
    for folder in here.parents if not params.exists() else ():
        if (folder / "dvc.yaml").exists() and (folder / params.name).exists():
            raise HarveysegError(
                f"{params}: no such file, but {folder} is a project. Run this there, or name a model: --model "
                f"{DEFAULT} is the packaged one."
            )


def _find_folder(model: str) -> Path | None:
    packaged = packaged_models()
    if model in packaged:
        return packaged[model]
    folder = Path(model)
    return folder if (folder / MODEL_FILE).is_file() else None
