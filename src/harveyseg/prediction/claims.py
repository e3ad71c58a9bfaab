"""Which files in the folder of products ``harveyseg predict`` wrote, and which are someone else's.

A record claims the files of its image. An image that is being predicted has no record yet, so its files are claimed by
a hidden one, which a killed process leaves behind. A file that nothing claims is never replaced.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from harveyseg.errors import raise_problems
from harveyseg.files import write_json
from harveyseg.prediction.overlay import CONTACT_SHEET, is_contact_sheet
from harveyseg.prediction.record import AREAS, KIND, is_areas_table

_UNFINISHED = ".unfinished"


def read_claims(folder: Path) -> dict[str, str]:
    """The image of each file in a folder that a record claims, whatever the version that wrote the record."""
    claims: dict[str, str] = {}
    for path in sorted(folder.glob("*.json")):
        if (products := _claimed(path)) is not None:
            claims |= dict.fromkeys([path.name, *products], path.stem)
    for path in sorted(folder.glob(f".*{_UNFINISHED}")):
        image = path.name[1:].removesuffix(_UNFINISHED)
        claims |= dict.fromkeys(_claimed(path) or (), image)
    return claims


def is_product(path: Path, claims: Mapping[str, str]) -> bool:
    """Whether a photo's file is one that a prediction wrote; ``claims`` are those of its folder."""
    return path.name in claims or (CONTACT_SHEET.fullmatch(path.name) is not None and is_contact_sheet(path))


def refuse_foreign(out: Path, planned: Mapping[str, Sequence[str]], classes: Sequence[str]) -> None:
    """Refuse to replace files that were not written for the same image, or by someone else.

    Args:
        out: the folder of the products; it may be absent.
        planned: the names of the files that each image will have there.
        classes: the names of the classes.

    Raises:
        HarveysegError: naming them.
    """
    claims = read_claims(out)
    problems: list[str] = []
    images: dict[str, str] = {}
    for image, names in planned.items():
        for name in names:
            path = out / name
            if (other := images.setdefault(name, image)) != image:
                problems.append(f"{path}: would be a file of {other} as well as of {image}; rename one of these images")
            elif (owner := claims.get(name)) is not None and owner != image:
                problems.append(f"{path}: is a file of {owner}, and would be one of {image}; rename this image")
            elif owner is None and os.path.lexists(path):
                problems.append(f"{path}: exists already, and `harveyseg predict` did not write it")
    for path in sorted(out.glob("*")):
        if (path.name == AREAS and not is_areas_table(path, classes)) or (
            CONTACT_SHEET.fullmatch(path.name) and not is_contact_sheet(path)
        ):
            problems.append(f"{path}: exists already, and `harveyseg predict` did not write it")
    raise_problems(problems, f"files in {out}", "Nothing was predicted yet. Move these files, or choose another --out.")


def delete_products(out: Path, image: str) -> None:
    """Delete an earlier prediction, its record first, or what a killed process left of one."""
    record, unfinished = out / f"{image}.json", out / f".{image}{_UNFINISHED}"
    products = [*(_claimed(record) or ()), *(_claimed(unfinished) or ())]
    record.unlink(missing_ok=True)
    for name in products:
        (out / name).unlink(missing_ok=True)


@contextmanager
def claiming(out: Path, image: str, names: Sequence[str]) -> Iterator[None]:
    """Claim the files of an image while they are written; delete them if that fails."""
    claim = out / f".{image}{_UNFINISHED}"
    write_json(claim, {"kind": KIND, "outputs": list(names)})
    try:
        yield
    except Exception:
        for name in names:
            (out / name).unlink(missing_ok=True)
        claim.unlink()
        raise
    claim.unlink()


def _claimed(path: Path) -> list[str] | None:
    """The names of the files that a record claims; None where it is no record of any version."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(record, dict) or record.get("kind") != KIND:
        return None
    outputs = record.get("outputs")
    return [Path(str(name)).name for name in outputs] if isinstance(outputs, list | dict) else None
