"""Trained models that come with this package, each a model folder (:mod:`harveyseg.prediction.model_folder`)."""

from pathlib import Path

_FOLDER = Path(__file__).parent


def packaged_models() -> dict[str, Path]:
    """The folder of each packaged model, by name.

    >>> list(packaged_models())
    ['harvey25']
    """
    return {path.parent.name: path.parent for path in sorted(_FOLDER.glob("*/model.json"))}
