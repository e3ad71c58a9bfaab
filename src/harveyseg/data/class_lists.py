"""``data.classes``: a list of classes by name, or from a YAML file."""

import re
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML

from harveyseg.classes import BUILT_IN, ClassList
from harveyseg.config.settings import load
from harveyseg.errors import HarveysegError, raise_problems
from harveyseg.files import atomic, read_json, write_json
from harveyseg.project import input_path

CLASSES_FILE = "classes.json"
"""The list of classes, next to the photos in ``data/raw``, and in ``data/code`` for DVC to see a change."""


def classes_file(setting: str) -> str | None:
    """The YAML file that the setting names, if it names one.

    >>> classes_file("harvey25"), classes_file("photos/classes.yaml")
    (None, 'photos/classes.yaml')
    """
    return setting if Path(setting).suffix.lower() in (".yaml", ".yml") else None


def load_classes(setting: str, root: Path) -> ClassList:
    """The list that ``data.classes`` names.

    Args:
        setting: a name of :data:`harveyseg.classes.BUILT_IN`, or the path of a YAML file.
        root: the project's root, at which a relative path starts.

    Raises:
        HarveysegError: when there is no such list, or listing all that is wrong with the file.
    """
    file = classes_file(setting)
    if file is not None:
        return read_classes(input_path(file, root))
    if setting not in BUILT_IN:
        raise HarveysegError(
            f"data.classes = {setting}: no such list of classes. Allowed are {', '.join(BUILT_IN)} and the path of a "
            "file that ends in .yaml; `harveyseg inspect` writes one from your masks."
        )
    return BUILT_IN[setting]


def read_classes(path: Path) -> ClassList:
    """Read a YAML file of classes: ``name``, ``ignore`` and ``classes`` with ``id``, ``name``, ``color``, ``scored``.

    Raises:
        HarveysegError: when it is absent, or listing all that is wrong with it.
    """
    if not path.is_file():
        raise HarveysegError(f"{path}: no such file. Correct data.classes.")
    bare = [
        f"line {number}: a bare # begins a comment; write the colour in quotes"
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1)
        if re.search(r"\b(color|ignore):\s*#[0-9a-fA-F]{6}\b", line)
    ]
    raise_problems(bare, str(path), "Correct the file; docs/classes.md shows one.")
    values = load(path)
    return parse_classes({"name": path.stem, **values}, path, "Correct the file; docs/classes.md shows one.")


def write_classes(path: Path, classes: ClassList) -> None:
    """Write a YAML file that :func:`read_classes` reads, atomically."""
    yaml = YAML()
    yaml.width = 120
    entries = []
    for entry in sorted(classes.classes, key=lambda entry: entry.id):
        row = yaml.map(**entry.model_dump())
        row.fa.set_flow_style()
        entries.append(row)
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8") as opened:
        yaml.dump({"name": classes.name, "ignore": classes.ignore, "classes": entries}, opened)


def store_classes(folder: Path, classes: ClassList) -> None:
    """Write ``classes.json``."""
    write_json(folder / CLASSES_FILE, classes.model_dump())


def stored_classes(folder: Path) -> ClassList:
    """Read ``classes.json``.

    Raises:
        HarveysegError: when it is absent or damaged.
    """
    path = folder / CLASSES_FILE
    remedy = "Run `dvc repro download` to write it again."
    return parse_classes(read_json(path, remedy), path, remedy)


def parse_classes(values: Any, path: Path, remedy: str) -> ClassList:
    """The list that a file holds.

    Args:
        values: as read from it.
        path: the file, for messages.
        remedy: what the user can do if it is damaged.

    Raises:
        HarveysegError: listing all that is wrong.
    """
    problems = []
    try:
        return ClassList.model_validate(values)
    except ValidationError as error:
        for item in error.errors():
            problems.append(_describe(values, item["loc"], item["msg"].removeprefix("Value error, ")))
    raise_problems(problems, str(path), remedy)
    raise AssertionError("a validation error has problems")


def _describe(values: Any, place: tuple[int | str, ...], message: str) -> str:
    """One line that names the entry by its id or name."""
    match place:
        case ("classes",) if "valid tuple" in message:
            return 'classes: must be a list of entries such as `- {id: 1, name: Water, color: "#1e5ac8"}`'
        case ("classes", int(index), *rest):
            entry = values["classes"][index]
            label = entry.get("name", entry.get("id")) if isinstance(entry, dict) else None
            where = f"classes[{index}]" + (f" ({label})" if label is not None else "")
            return f"{where}{''.join(f', {part}' for part in rest)}: {message}"
        case _:
            return f"{'.'.join(map(str, place)) or 'the list'}: {message}"
