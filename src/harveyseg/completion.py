"""What the shell completes on TAB besides commands and options: names of models, presets, studies and experiments.

Each function is called while a user types, in the project's root. So it reads a file or asks git, imports nothing that
takes long, and finds no values where it cannot read any.
"""

import subprocess
from collections.abc import Iterable
from pathlib import Path

_PACKAGE = Path(__file__).parent


def complete_model(incomplete: str) -> list[str]:
    """Models of params.yaml, and the packaged one."""
    return _starting(incomplete, [*_keys(Path("params.yaml"), "models"), "harvey25"])


def complete_submission(incomplete: str) -> list[str]:
    """Models of params.yaml, and the ensemble."""
    return _starting(incomplete, [*_keys(Path("params.yaml"), "models"), "ensemble"])


def complete_preset(incomplete: str) -> list[str]:
    """Presets."""
    return _starting(incomplete, (path.stem for path in (_PACKAGE / "config" / "presets").glob("*.yaml")))


def complete_study(incomplete: str) -> list[str]:
    """Studies of the report."""
    return _starting(incomplete, _keys(_PACKAGE / "reproduction" / "studies.yaml"))


def complete_experiment(incomplete: str) -> list[str]:
    """DVC's experiments, branches and tags."""
    command = ["git", "for-each-ref", "--format=%(refname)", "refs/exps", "refs/heads", "refs/tags"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    except (OSError, subprocess.CalledProcessError):
        return []
    own = ("refs/exps/exec/", "refs/exps/stash", "refs/exps/failed", "refs/exps/celery/")  # DVC's, not experiments
    names = (name.rpartition("/")[2] if name.startswith("refs/exps/") else name.split("/", 2)[2] for name in listed
             if not name.startswith(own))  # fmt: skip
    return _starting(incomplete, names)


def complete_tta(incomplete: str) -> list[str]:
    """Ways of test-time augmentation."""
    return _starting(incomplete, ("none", "flips", "d4"))


def _starting(incomplete: str, names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if name.startswith(incomplete))


def _keys(path: Path, section: str | None = None) -> list[str]:
    """The keys of a YAML file, or of one of its sections."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        values = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, YAMLError):
        return []
    if section is not None and isinstance(values, dict):
        values = values.get(section)
    return [str(key) for key in values] if isinstance(values, dict) else []
