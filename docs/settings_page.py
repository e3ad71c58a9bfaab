"""Write ``docs/settings.md`` from the settings' own models: types, bounds, defaults and docstrings.

Run ``python docs/settings_page.py`` to write the page, and with ``--check`` to see whether it is up to date.
"""

import argparse
import importlib
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from harveyseg import models
from harveyseg.config.settings import Section
from harveyseg.data.cache import ResizeParams
from harveyseg.data.sources import DataParams
from harveyseg.data.split import SplitParams
from harveyseg.ensemble.weights import EnsembleParams
from harveyseg.evaluation.submission import SubmitParams
from harveyseg.inference.params import InferenceParams
from harveyseg.postprocess.select import PostprocessParams
from harveyseg.tracking.client import TrackingParams
from harveyseg.training.params import TrainParams

PAGE = Path(__file__).with_name("settings.md")

SECTIONS: dict[str, type[Section]] = {
    "data": DataParams,
    "resize-cache": ResizeParams,
    "split": SplitParams,
    "train": TrainParams,
    "ensemble": EnsembleParams,
    "postprocess": PostprocessParams,
    "submit": SubmitParams,
    "inference": InferenceParams,
    "tracking": TrackingParams,
}
"""By name, in the order of ``params.yaml``."""

INTRODUCTION = """\
# Settings

Every key of `params.yaml`: one section for each component, plus `folds` and `models`.
Presets write complete settings ([how it works](how-it-works.md#running-experiments)), and `-S` changes one key for one
experiment:

```sh
dvc exp run -S train.lr=0.001
```

The stage `code` checks all settings before any data is read and lists every mistake at once. Keys without a default
must be given. This page is generated from the code by `python docs/settings_page.py`.
"""

FOLDS_AND_MODELS = """\
## folds

A list of the folds that are held out in turn, out of 0 to `split.folds` - 1. Each model is trained once for each of
them.

## models

A mapping from a name of your choice to a network. `network` names a module of `harveyseg.models.networks`, and `train`
may override any key of the section `train` for this model. `network: smp` reaches every architecture and encoder of
segmentation-models-pytorch:

```yaml
models:
  deeplab:
    network: smp
    architecture: DeepLabV3Plus
    encoder: resnet101
    train:
      encoder_weights: imagenet      # or the path of a local weights file, or null
```

For several seeds of one model, give each its own entry with `train: {seed: ...}`.
"""

BOUNDS = {"ge": "at least {}", "gt": "above {}", "le": "at most {}", "lt": "below {}", "multiple_of": "multiple of {}"}
SIMPLE = {int: "integer", float: "number", str: "text", bool: "`true`, `false`", NoneType: "`null`"}


@dataclass(frozen=True)
class Key:
    """One row of the page."""

    name: str
    values: str
    default: str
    meaning: str


def page() -> str:
    """The whole page as Markdown."""
    parts = [INTRODUCTION]
    for name, model in SECTIONS.items():
        if name == "train":
            parts += [FOLDS_AND_MODELS, *networks()]
        parts.append(f"## {name}\n\n{table(keys(model, f'{name}.'))}")
    return "\n".join(parts)


def networks() -> Iterator[str]:
    """A table for each network that has settings of its own; networks that share them share a table."""
    names_of: dict[str, list[str]] = {}
    for name in models.available():
        model: type[Section] = importlib.import_module(f"harveyseg.models.networks.{name}").Params
        if model.model_fields:
            names_of.setdefault(table(keys(model)), []).append(name)
    for rows, names in names_of.items():
        yield f"### network: {', '.join(names)}\n\n{rows}"


def keys(model: type[BaseModel], prefix: str = "") -> Iterator[Key]:
    """The keys of a section, those of the sections inside it included."""
    for name, field in model.model_fields.items():
        inner = section_in(field.annotation)
        if inner is None or NoneType in get_args(field.annotation):
            yield Key(prefix + name, values(field), default(field), meaning(field))
        if inner is not None:
            yield from keys(inner, f"{prefix}{name}.")


def section_in(annotation: Any) -> type[BaseModel] | None:
    """The section that a key holds; None for a plain value."""
    candidates = (annotation, *get_args(annotation))
    return next((item for item in candidates if isinstance(item, type) and issubclass(item, BaseModel)), None)


def values(field: FieldInfo) -> str:
    """What a key takes, e.g. "integer, at least 1"."""
    bounds = [
        text.format(getattr(item, bound))
        for item in field.metadata
        for bound, text in BOUNDS.items()
        if getattr(item, bound, None) is not None
    ]
    return ", ".join([type_name(field.annotation), *bounds])


def type_name(annotation: Any) -> str:
    """A type in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation in SIMPLE:
        return SIMPLE[annotation]
    if origin is Literal:
        return ", ".join(f"`{argument}`" for argument in arguments)
    if origin in (Union, UnionType):
        return " or ".join(type_name(argument) for argument in arguments)
    if origin in (tuple, list):
        return "list"
    if section_in(annotation) is not None or origin is dict:
        return "mapping"
    return type_name(arguments[0]) if arguments else "text"


def default(field: FieldInfo) -> str:
    """A key's default as YAML; empty where the key must be given."""
    if field.is_required():
        return ""
    value = field.get_default(call_default_factory=True)
    if value is None or isinstance(value, bool):
        return f"`{str(value).lower().replace('none', 'null')}`"
    if isinstance(value, tuple):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{value}`" if value != "" else '`""`'


def meaning(field: FieldInfo) -> str:
    """A key's docstring, from reStructuredText to Markdown, on one line."""
    text = " ".join((field.description or "").split())
    text = re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"`\1`", text)
    return text.replace("``", "`").replace("|", "\\|")


def table(rows: Iterator[Key]) -> str:
    """A Markdown table."""
    lines = ["| key | values | default | meaning |", "|---|---|---|---|"]
    lines += [f"| `{row.name}` | {row.values} | {row.default} | {row.meaning} |" for row in rows]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the page, or check it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit with 1 if the page is out of date")
    if not parser.parse_args().check:
        PAGE.write_text(page(), encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != page():
        sys.exit(f"{PAGE}: out of date. Run `python docs/settings_page.py`.")


if __name__ == "__main__":
    main()
