"""Networks for semantic segmentation, found by name in :mod:`harveyseg.models.networks` and built from their settings.

A network's module is imported only when the network is asked for, so a stage that trains one network does not depend on
the code of another. This module needs no torch, which takes seconds to import: commands that look at settings need the
names alone. :mod:`harveyseg.models.network` builds.

May import: config and the leaf modules.
"""

import ast
import importlib
import pkgutil
from pathlib import Path
from types import ModuleType

from harveyseg.errors import HarveysegError
from harveyseg.models import networks
from harveyseg.project import input_path, project_root


def available() -> list[str]:
    """Names of the networks, sorted; none of them is imported.

    >>> available()
    ['attention_unet', 'fcn', 'mask_rcnn', 'segnet', 'smp', 'unet', 'unetplusplus']
    """
    return sorted(module.name for module in pkgutil.iter_modules(networks.__path__))


def is_pretrainable(network: str, where: str) -> bool:
    """What :func:`harveyseg.models.network.takes_encoder_weights` answers, from the source of the network's module.

    It needs no settings, and is for commands that build no network: importing one of smp takes seconds.

    >>> is_pretrainable("unet", "models.unet"), is_pretrainable("smp", "models.mobilenet_v2")
    (False, True)

    Args:
        network: one of :func:`available`.
        where: the network's key in params.yaml, for messages.

    Raises:
        HarveysegError: when there is no such network.
    """
    source = Path(networks.__path__[0]) / f"{_known(network, where)}.py"
    for statement in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "TAKES_ENCODER_WEIGHTS":
            return bool(ast.literal_eval(statement.value))
    return bool(_import(network).TAKES_ENCODER_WEIGHTS)


def locate_encoder_weights(name: str | None) -> str | None:
    """``train.encoder_weights`` with a relative path made absolute; ``imagenet`` and other names as they are."""
    if name is None:
        return None
    path = input_path(name, project_root())
    return str(path) if path.is_file() else name


def network_module(name: str, where: str) -> ModuleType:
    """The module that defines a network.

    Args:
        name: one of :func:`available`.
        where: the network's key in params.yaml, for messages, e.g. ``"models.unet"``.

    Raises:
        HarveysegError: when there is no such network.
    """
    return _import(_known(name, where))


def _known(name: str, where: str) -> str:
    names = available()
    if name not in names:
        raise HarveysegError(f"{where}.network = {name!r}: allowed: {', '.join(names)}")
    return name


def _import(name: str) -> ModuleType:
    return importlib.import_module(f"{networks.__name__}.{name}")
