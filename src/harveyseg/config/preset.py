"""Writing settings into ``params.yaml`` with its comments kept: single ones, or a preset, complete under a name."""

from collections.abc import Mapping, MutableMapping
from importlib.resources import files
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.representer import RepresenterError
from ruamel.yaml.tokens import CommentToken

from harveyseg.config.settings import load
from harveyseg.errors import HarveysegError
from harveyseg.files import atomic

_FOLDER = files("harveyseg.config") / "presets"


def preset_names() -> list[str]:
    """Names of the presets, sorted."""
    return sorted(Path(entry.name).stem for entry in _FOLDER.iterdir() if entry.name.endswith(".yaml"))


def read_preset(name: str) -> dict[str, Any]:
    """The settings of a preset: every section except ``data`` and ``tracking``."""
    content: dict[str, Any] = YAML(typ="safe", pure=True).load((_FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    return content


def apply_preset(name: str, params: Path) -> None:
    """Write a preset into a params file: every section except ``data`` and ``tracking``.

    Comments of keys that stay are kept; a model that the preset lacks is removed.

    Raises:
        HarveysegError: for an unknown preset, or a params file that is absent or damaged, which stays as it is.
    """
    if name not in preset_names():
        raise HarveysegError(f"preset {name!r}: unknown. Known are: {', '.join(preset_names())}")
    load(params)  # says what is wrong with a file that is no mapping, or no YAML
    yaml = _round_trip()
    target = yaml.load(params.read_text(encoding="utf-8"))
    preset = yaml.load((_FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    for section, values in preset.items():
        comment = _take_comment(target, section) if section in target else None
        _overwrite(target, {section: values})
        if comment is not None:
            _attach_comment(target, section, comment)
    with atomic(params) as temporary, temporary.open("w", encoding="utf-8") as opened:
        yaml.dump(target, opened)


def matches_preset(name: str, params: Path) -> bool:
    """Whether a params file has all settings of a preset, as after :func:`apply_preset`.

    Raises:
        HarveysegError: when the params file is absent or not a mapping.
    """
    preset = YAML(typ="safe", pure=True).load((_FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    values = load(params)
    return all(values.get(section) == settings for section, settings in preset.items())


def change_settings(text: str, changes: Mapping[str, Any]) -> str:
    """Change single settings in the text of a ``params.yaml``, as ``dvc exp run -S`` does; comments stay.

    Args:
        text: the file's content.
        changes: by full name, e.g. ``train.lr`` -> 0.001. A mapping replaces a whole section, such as ``models``.

    Raises:
        HarveysegError: when there is no section of that name, or YAML cannot hold a value, e.g. one of NumPy.
    """
    yaml = _round_trip()
    target = yaml.load(text)
    for name, value in changes.items():
        *sections, key = name.split(".")
        holder = target
        for section in sections:
            holder = holder.get(section)
            if not isinstance(holder, MutableMapping):
                raise HarveysegError(
                    f"{name}: params.yaml has no section {section!r} there. Its sections: {', '.join(target)}."
                )
        try:
            yaml.dump(value, StringIO())
        except RepresenterError:
            raise HarveysegError(
                f"{name} = {value!r}: params.yaml cannot hold a {type(value).__name__}. Give a plain number, text, "
                "list or mapping, e.g. float(value) or str(value)."
            ) from None
        holder[key] = value
    changed = StringIO()
    yaml.dump(target, changed)
    return changed.getvalue()


def _round_trip() -> YAML:
    """A reader and writer that keeps comments, quotes and the form of lists."""
    yaml = YAML()
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.preserve_quotes = True
    yaml.width = 120
    # Without this ruamel writes an empty value for null.
    yaml.representer.add_representer(
        type(None), lambda representer, _: representer.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    return yaml


def _overwrite(target: MutableMapping[str, Any], values: Mapping[str, Any]) -> None:
    """Write ``values`` into ``target``; equal values stay untouched, because ruamel attaches comments to them."""
    for key, value in values.items():
        present = target.get(key)
        if isinstance(value, Mapping) and isinstance(present, MutableMapping):
            for removed in [inner for inner in present if inner not in value]:
                del present[removed]
            _overwrite(present, value)
        elif key not in target or present != value or type(present) is not type(value):
            target[key] = value


# ruamel attaches the comment above a section to the last value of the section before; it would vanish with that value.


def _last_value(holder: CommentedMap, section: str) -> tuple[CommentedMap | CommentedSeq, Any, int]:
    """Container and key of a section's last value, and the index at which ruamel keeps the comment after it."""
    inner: CommentedMap | CommentedSeq = holder
    key: Any = section
    while isinstance(value := inner[key], CommentedMap | CommentedSeq) and value and not value.fa.flow_style():
        inner = value
        key = list(value)[-1] if isinstance(value, CommentedMap) else len(value) - 1
    return inner, key, 2 if isinstance(inner, CommentedMap) else 0


def _take_comment(holder: CommentedMap, section: str) -> CommentToken | None:
    inner, key, place = _last_value(holder, section)
    comments = inner.ca.items.get(key)
    if not comments:
        return None
    comment: CommentToken | None = comments[place]
    comments[place] = None
    return comment


def _attach_comment(holder: CommentedMap, section: str, comment: CommentToken) -> None:
    inner, key, place = _last_value(holder, section)
    inner.ca.items.setdefault(key, [None, None, None, None])[place] = comment
