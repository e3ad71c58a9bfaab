"""Settings, submissions, run lengths, masks, archives and names as nobody should write them, from seeded generators."""

import io
import itertools
import json
import random
import stat
import string
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from ruamel.yaml import YAML

from breaking.trials import Outcome, Trial
from harveyseg.classes import HARVEY25
from harveyseg.config.settings import load, section
from harveyseg.data.archives import unpack
from harveyseg.data.cache import ResizeParams
from harveyseg.data.masks import read_mask_file
from harveyseg.data.sources import DataParams
from harveyseg.data.split import SplitParams
from harveyseg.ensemble.weights import EnsembleParams
from harveyseg.errors import HarveysegError
from harveyseg.evaluation.submission import (
    SubmitParams,
    decode_mask,
    encode_mask,
    read_submission,
    write_submission,
)
from harveyseg.inference.params import InferenceParams
from harveyseg.pipeline.check import check_params
from harveyseg.postprocess.select import PostprocessParams
from harveyseg.tracking.client import TrackingParams
from harveyseg.tracking.query import TrackedRun, record_of
from helpers.paths import ROOT

Generator = Callable[[random.Random, Path], str]
"""Makes an input in a folder and uses it; what went wrong, or an empty text."""

PART = "Input that nobody should write"
_SECTIONS: dict[str, Any] = {
    "data": DataParams, "resize-cache": ResizeParams, "split": SplitParams, "inference": InferenceParams,
    "ensemble": EnsembleParams, "postprocess": PostprocessParams, "submit": SubmitParams, "tracking": TrackingParams,
}  # fmt: skip
_JUNK: tuple[Any, ...] = (
    None, True, -1, 0, 1, 10**30, -0.5, 1e308, float("nan"), float("inf"), "", " ", "null", "1e-3", "../../x", "\x07",
    "x" * 5000, "ä漢", [], [None], [[1]], {}, {"a": 1}, {1: 2}, [1, "x"],
)  # fmt: skip
_NAMES = ("../x", "../../x", "/x", "a/../../x", "./../x", "a//x", "..", ".", "", "a/b", "C:\\x", "..\\x", "x", "a\x00b")
_TAGS = (*_NAMES, "a b", "-rf", "unet/../../x", "$(x)", "a\nb", "x" * 300, "ensemble")


def settings(rng: random.Random, folder: Path) -> str:
    """A params.yaml with one to three values replaced, removed or added is refused in words, or read."""
    values = json.loads(_settings_as_json()) | {
        "models": {"unet": {"network": "unet", "width": 4, "train": {"lr": 0.1}}}
    }
    touched: list[Any] = ["data"]
    for _ in range(rng.randint(1, 3)):
        place = values
        while isinstance(inner := place[key := rng.choice(list(place))], dict) and inner and rng.random() < 0.9:
            if place is values:
                touched.append(key)
            place = inner
        change = rng.random()
        if change < 0.1:
            del place[key]
        elif change < 0.2:
            place[rng.choice(_TAGS)] = rng.choice(_JUNK)
        else:
            place[key] = rng.choice(_JUNK)
        if not values:
            break
    path = folder / "params.yaml"
    YAML(typ="safe", pure=True).dump(values, path)
    if rng.random() < 0.1:
        content = bytearray(path.read_bytes())
        content[rng.randrange(len(content))] = rng.randrange(256)
        path.write_bytes(content)
    for name in _SECTIONS.keys() & set(touched):
        _in_words(partial(section, path, name, _SECTIONS[name]))
    _in_words(lambda: check_params(path, ROOT / "stages"))
    return ""


def run_lengths(rng: random.Random, folder: Path) -> str:
    """Masks come back from their rows, which are those of a slow loop."""
    size = rng.choice((1, 2, 7, 16))
    mask = _noise(rng, size) < rng.random()
    row = encode_mask(mask)
    if row != _slow_row(mask):
        return "a row differs from the slow loop's"
    if not np.array_equal(decode_mask(row, (size, size)), mask):
        return "a row does not come back"
    text = " ".join(str(rng.choice((rng.randint(-2, size * size + 2), "x", 10**25))) for _ in range(rng.randint(0, 5)))
    try:
        decoded = decode_mask(text, (size, size))
    except ValueError:
        return ""
    return "" if _slow_row(decoded) == _merged(text) else f"{text!r} is read as {_slow_row(decoded)!r}"


def submissions(rng: random.Random, folder: Path) -> str:
    """A submission comes back; one with a character changed is refused, or means what it says."""
    path = folder / "submission.csv"
    ids = [rng.choice(("1", "NA", "007", "a_1", "x.png")) + str(number) for number in range(2)]
    size = (1024, 1024)
    coarse = np.ones((256, 256), np.bool_)
    photos = [np.stack([np.kron(_noise(rng, 4) < rng.random(), coarse) for _ in range(HARVEY25.scored)]) for _ in ids]
    write_submission(path, ids, photos, HARVEY25, size, SubmitParams())
    content = bytearray(path.read_bytes())
    place = rng.randrange(len(content))
    content[place : place + rng.randint(0, 2)] = bytes(rng.choices(b'0123456789 ,_\n"x\xff', k=rng.randint(0, 2)))
    path.write_bytes(content)
    rows = _in_words(lambda: read_submission(path, ids, HARVEY25, size))
    if rows is not None:
        lines = dict(line.split(",") for line in content.decode().replace('"', "").split("\n")[1:] if line)
        said = {
            photo: [lines.get(f"{photo}.png_{c}", lines.get(f"{photo}_{c}")) for c in range(1, 25)] for photo in ids
        }
        return "" if rows == said else "a damaged submission is read as something else"
    return ""


def masks(rng: random.Random, folder: Path) -> str:
    """A mask is refused with its problem, or is stored with the class ids that Pillow reads from it."""
    mode = rng.choice(("L", "P", "RGB", "RGBA", "1", "I;16", "LA"))
    generator = np.random.default_rng(rng.randrange(2**32))
    top = rng.choice((2, len(HARVEY25), len(HARVEY25) + 1, 256))
    values = generator.integers(0, top, (rng.randint(1, 9), rng.randint(1, 9))).astype(np.uint8)
    if mode == "P":
        image = Image.fromarray(values).convert("P")
        image.putdata(values.ravel().tolist())
    elif mode == "I;16":
        image = Image.fromarray(values.astype(np.uint16) * rng.choice((1, 256)))
    else:
        image = Image.fromarray(values).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, rng.choice(("PNG", "PNG", "PNG", "TIFF")))
    content = bytearray(buffer.getvalue())
    damaged = rng.random() < 0.5
    if damaged:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    found = read_mask_file(bytes(content), HARVEY25)
    if found.problems:
        return ""
    stored = np.asarray(Image.open(io.BytesIO(found.stored)))
    if stored.max() >= len(HARVEY25):
        return "a value outside the classes is accepted"
    return "" if damaged or np.array_equal(stored, values) else f"a mask of mode {mode} is stored as another one"


def archives(rng: random.Random, folder: Path) -> str:
    """An archive is unpacked whole, or not at all; never outside its folder."""
    archive, target = folder / "archive", folder / "inside" / "target"
    members = {rng.choice(_NAMES) + rng.choice(("", "", "/y")): rng.randbytes(rng.randint(0, 50)) for _ in range(3)}
    links = rng.random() < 0.3
    if rng.random() < 0.5:
        with zipfile.ZipFile(archive, "w") as opened:
            for name, data in members.items():
                info = zipfile.ZipInfo(name or "empty")
                info.filename = name  # ZipInfo cuts at a zero byte
                if links:
                    info.external_attr = (stat.S_IFLNK | 0o777) << 16
                opened.writestr(info, data)
    else:
        with tarfile.open(archive, "w") as packed:
            for name, data in members.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                if links:
                    member.type, member.linkname, member.size = rng.choice((tarfile.SYMTYPE, tarfile.LNKTYPE)), "/x", 0
                packed.addfile(member, io.BytesIO(data))
    if rng.random() < 0.3:
        content = bytearray(archive.read_bytes())
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        archive.write_bytes(content)
    unpacked = _in_words(lambda: unpack(archive, target))
    found = [path for path in folder.rglob("*") if path not in (archive, folder / "inside")]
    outside = [str(path) for path in found if path != target and target not in path.parents]
    if outside:
        return f"written outside: {outside}"
    if any(path.is_symlink() for path in found):
        return "a link was made"
    return "something was left of a refused archive" if unpacked is None and found else ""


def tags(rng: random.Random, folder: Path) -> str:
    """A run whose tags were written by somebody else is refused, or has a name that is one part of a path."""
    run_tags = {
        "harveyseg.model": rng.choice(_TAGS), "harveyseg.fold": rng.choice(("0", "1", "-1", "x", "../0", "")),
        "harveyseg.uid": rng.choice(("1f", "../1f")), "harveyseg.kind": "train", "harveyseg.stage_key": "a1" * 32,
        "harveyseg.data_source": "demo", "harveyseg.data_hash": "d" * 64, "harveyseg.split_hash": "e" * 64,
        "harveyseg.device": "cpu",
    }  # fmt: skip
    if rng.random() < 0.3:
        del run_tags[rng.choice(list(run_tags))]
    run = TrackedRun("0" * 32, "FINISHED", 0, {}, {}, run_tags)
    record = _in_words(lambda: record_of(run))
    if record is None:
        return ""
    name = f"{record.model}-{record.fold}"
    safe = set(name) <= set(string.ascii_letters + string.digits + "_-") and not name.startswith("-")
    return "" if safe else f"the name {name!r} is accepted"


GENERATORS: dict[str, Generator] = {
    "`params.yaml`": settings,
    "run lengths": run_lengths,
    "submissions": submissions,
    "masks": masks,
    "archives, also with names and links that reach outside": archives,
    "tags of runs in MLflow": tags,
}


def make(generators: Mapping[str, Generator] = GENERATORS, start: int = 0) -> Iterator[Trial]:
    """One trial of each generator after the other; the seed counts up from ``start``."""
    for seed in itertools.count(start):
        for fault, generate in generators.items():
            with tempfile.TemporaryDirectory() as folder:
                try:
                    problem = generate(random.Random(f"{fault} {seed}"), Path(folder))
                except Exception as error:  # whatever the input does to the product
                    yield Trial(PART, fault, Outcome.UNCLEAR, f"seed {seed}: {type(error).__name__}: {error}"[:400])
                    continue
            outcome = Outcome.WRONG if problem else Outcome.SURVIVED
            yield Trial(PART, fault, outcome, f"seed {seed}: {problem}" if problem else "")


@cache
def _settings_as_json() -> str:
    return json.dumps(load(ROOT / "params.yaml"))


def _in_words(call: Callable[[], Any]) -> Any:
    """What a call returns; None where it refuses in words."""
    try:
        return call()
    except HarveysegError:
        return None


def _noise(rng: random.Random, size: int) -> Any:
    return np.random.default_rng(rng.randrange(2**32)).random((size, size))


def _slow_row(mask: Any) -> str:
    """Pixel after pixel."""
    row: list[int] = []
    before = False
    for number, inside in enumerate(mask.reshape(-1).tolist(), start=1):
        if inside and not before:
            row += [number, 0]
        if inside:
            row[-1] += 1
        before = inside
    return " ".join(map(str, row))


def _merged(text: str) -> str:
    """The same runs, those that touch joined."""
    numbers = [int(number) for number in text.split()]
    runs: list[list[int]] = []
    for start, length in zip(numbers[::2], numbers[1::2], strict=True):
        if runs and sum(runs[-1]) == start:
            runs[-1][1] += length
        else:
            runs.append([start, length])
    return " ".join(f"{start} {length}" for start, length in runs)
