"""MLflow's registry of models: a model folder is logged as an MLflow model with code, registered, and fetched again.

Whoever fetches a model folder reads its files; the code that is logged with it is not even downloaded.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from harveyseg.errors import HarveysegError
from harveyseg.tracking.client import Tracker, configure_mlflow, require_address, tracking_uri, unusable
from harveyseg.tracking.database import check_database, database_path
from harveyseg.tracking.faults import explain, public_address

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.models import ModelSignature
    from mlflow.models.model import ModelInfo
    from mlflow.tracking import MlflowClient

REGISTERED = "harveyseg"
"""The name of the registered model."""
ALIAS = "champion"
"""The alias of the version that is used."""
CHAMPION = f"models:/{REGISTERED}@{ALIAS}"
FOLDER = "harveyseg"
"""The name of the model folder among the artifacts of the MLflow model."""
SCHEME = "models:/"
"""How the address of a registered model begins."""

_ARTIFACTS = "artifacts"
"""Where MLflow keeps the artifacts of a model with code."""
_MAX_DESCRIPTION = 5000
"""Characters that the registry's database takes."""
_IDENTITY = "harveyseg.identity"
_ADDRESS = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))")
_ABSENT = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND"}


@dataclass(frozen=True)
class ModelContent:
    """What is logged."""

    folder: Path
    """A model folder (:mod:`harveyseg.prediction.model_folder`); its name is :data:`FOLDER`."""
    code: Path
    """A Python file that hands a model to ``mlflow.models.set_model``; it reads the artifact :data:`FOLDER`."""
    identity: str
    """SHA-256 of what decides the maps."""
    card: str
    """The model card, Markdown."""
    requirements: tuple[str, ...]
    """For pip."""
    signature: "ModelSignature"
    example: Any
    """An input."""
    tags: Mapping[str, str]
    """Of the registered version."""


class Registered(NamedTuple):
    """What came of a registration."""

    version: int
    replaced: int | None
    """The version that had the alias before; None if there was none, or it is the same."""
    is_new: bool
    """False if the champion was this model already."""


def register_champion(tracker: Tracker, content: ModelContent, run_id: str | None) -> Registered:
    """Log a model, register it, and give it the alias; a model that has the alias already is not logged again.

    The card becomes the description of the registered model and of the version.

    Args:
        tracker: where to.
        content: the model.
        run_id: MLflow's id of the run that made it; None where it was made by several.

    Raises:
        HarveysegError: when MLflow cannot be used.
    """
    return tracker.demand(lambda client: _register(tracker, client, content, run_id))


def _register(tracker: Tracker, client: "MlflowClient", content: ModelContent, run_id: str | None) -> Registered:
    from mlflow.exceptions import MlflowException

    before = _find_version(client, REGISTERED, ALIAS)
    if before is not None and before.tags.get(_IDENTITY) == content.identity:
        version = before
    else:
        logged = _log(tracker, content, run_id)
        try:
            client.create_registered_model(REGISTERED)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        tags = {**content.tags, _IDENTITY: content.identity}
        version = client.create_model_version(REGISTERED, logged.model_uri, run_id, tags=tags, model_id=logged.model_id)
    description = _shortened(content.card)
    client.update_model_version(REGISTERED, version.version, description)
    client.update_registered_model(REGISTERED, description)
    # Last, so that whoever follows the alias finds a version that is complete.
    client.set_registered_model_alias(REGISTERED, ALIAS, str(version.version))
    is_new = version is not before
    replaced = int(before.version) if before is not None and is_new else None
    return Registered(int(version.version), replaced, is_new)


def _log(tracker: Tracker, content: ModelContent, run_id: str | None) -> "ModelInfo":
    """Log the MLflow model."""
    import mlflow.pyfunc
    from mlflow.models import Model

    # MLflow would otherwise take the requirements from a uv.lock in the working directory.
    os.environ.setdefault("MLFLOW_UV_AUTO_DETECT", "false")
    mlflow.set_tracking_uri(tracker.uri)
    mlflow.set_experiment(experiment_id=tracker.experiment_id)
    # As mlflow.pyfunc.log_model does, which cannot name a finished run without changing when it ended.
    logged: ModelInfo = Model.log(
        artifact_path=None,
        name=REGISTERED,
        flavor=mlflow.pyfunc,
        run_id=run_id,
        python_model=str(content.code),
        artifacts={FOLDER: str(content.folder)},
        signature=content.signature,
        input_example=content.example,
        pip_requirements=list(content.requirements),
    )
    return logged


def _shortened(card: str) -> str:
    if len(card) <= _MAX_DESCRIPTION:
        return card
    rest = f"\n\n(... The whole card is `{_ARTIFACTS}/{FOLDER}/README.md` of this model.)\n"
    return card[: _MAX_DESCRIPTION - len(rest)] + rest


def fetch_model_folder(address: str, root: Path, folder: Path) -> Path:
    """Download the model folder of a registered model.

    Args:
        address: ``models:/<name>@<alias>`` or ``models:/<name>/<version>``.
        root: where the project's database is, if ``MLFLOW_TRACKING_URI`` names no other place.
        folder: where to; an empty folder.

    Returns:
        The model folder, below ``folder``.

    Raises:
        HarveysegError: when MLflow cannot be used, there is no such model, or it is not one of harveyseg.
    """
    parsed = _ADDRESS.fullmatch(address)
    if parsed is None:
        raise HarveysegError(f"{address}: must be models:/NAME@ALIAS or models:/NAME/VERSION, e.g. {CHAMPION}.")
    configure_mlflow()
    uri = tracking_uri(root)
    try:
        client = _connect(uri, address)
        version = _find_version(client, parsed["name"], parsed["alias"], parsed["version"])
        if version is None:
            raise HarveysegError(
                f"{address}: MLflow at {public_address(uri)} has no such model, alias or version. `harveyseg "
                f"champion`, in a project with trained networks, registers {CHAMPION}."
            )
        return _download(client, version, uri, address, folder)
    except HarveysegError:
        raise
    except Exception as error:
        raise HarveysegError(f"{address}: {unusable(uri, explain(error, uri))}") from error


def _connect(uri: str, address: str) -> "MlflowClient":
    """A client of a registry that exists: nothing is created by looking for a model."""
    require_address(uri)
    database = database_path(uri)
    if database is not None:
        if not database.exists():
            raise HarveysegError(
                f"{address}: {database}: no such file. Set MLFLOW_TRACKING_URI to the MLflow server or database that "
                "holds the model, or run this in the project's folder."
            )
        check_database(database, uri)

    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=uri)


def _find_version(
    client: "MlflowClient", name: str, alias: str | None, number: str | None = None
) -> "ModelVersion | None":
    from mlflow.exceptions import MlflowException

    try:
        if alias is not None:
            return client.get_model_version_by_alias(name, alias)
        return client.get_model_version(name, str(number))
    except MlflowException as error:
        if error.error_code not in _ABSENT:
            raise
        return None


def _download(client: "MlflowClient", version: "ModelVersion", uri: str, address: str, folder: Path) -> Path:
    from mlflow.artifacts import download_artifacts, list_artifacts

    source = client.get_model_version_download_uri(version.name, version.version)
    found = [Path(item.path).name for item in list_artifacts(f"{source}/{_ARTIFACTS}", tracking_uri=uri)]
    if FOLDER not in found:
        raise HarveysegError(
            f"{address}: is no model of harveyseg: it has no folder {_ARTIFACTS}/{FOLDER}. `harveyseg champion` "
            "registers one."
        )
    return Path(download_artifacts(f"{source}/{_ARTIFACTS}/{FOLDER}", dst_path=str(folder), tracking_uri=uri))
